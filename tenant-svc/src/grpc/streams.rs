//! The answers that go on: watches and output.

use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use futures::stream::BoxStream;
use molecule_domain::error::Error;
use molecule_domain::filter::Filter;
use molecule_domain::id::{OrganizationId, Revision};
use molecule_proto::tenant::v1::watch_workspaces_response::Event;
use molecule_proto::tenant::v1::{Bookmark, LogStream, StreamWorkspaceLogsResponse, WatchWorkspacesResponse};
use molecule_provisioner::backend::{CallError, LogChunk};
use molecule_service_kit::streams::{Answers, answers, items};
use molecule_workspace::WorkspaceRecord;
use molecule_workspace::store::TenantStore;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::convert;

/// How often a quiet watch says how far it is.
const BOOKMARK_EVERY: Duration = Duration::from_secs(30);
const BATCH: u32 = 200;

/// Snapshots, a bookmark, then changes in order of revision, without gap or duplicate.
pub(crate) fn watch(
    store: Arc<dyn TenantStore>,
    organization: OrganizationId,
    after: Revision,
    filter: Filter,
    drain: CancellationToken,
) -> impl Stream<Item = Result<WatchWorkspacesResponse, Status>> + Send + 'static {
    answers(
        drain,
        move |sender| async move { Watching { store, organization, filter, sender }.run(after).await },
    )
}

struct Watching {
    store: Arc<dyn TenantStore>,
    organization: OrganizationId,
    filter: Filter,
    sender: Answers<WatchWorkspacesResponse>,
}

impl Watching {
    async fn run(&self, after: Revision) -> Result<(), Error> {
        let mut commits = self.store.commits();
        let mut at = after;
        if after == Revision(0) {
            let (records, revision) = self.store.snapshot(self.organization).await?;
            for record in records.iter().filter(|record| self.matches(record)) {
                self.send(Event::Snapshot(convert::workspace(record))).await;
            }
            at = revision;
        }
        self.bookmark(at).await;
        loop {
            commits.borrow_and_update();
            loop {
                let changes = self.store.changes_after(self.organization, at, BATCH).await?;
                let Some(last) = changes.last() else { break };
                at = last.revision;
                for change in changes.iter().filter(|change| self.matches(change)) {
                    self.send(Event::Change(convert::workspace(change))).await;
                }
            }
            tokio::select! {
                _ = commits.changed() => {}
                () = tokio::time::sleep(BOOKMARK_EVERY) => self.bookmark(at).await,
            }
        }
    }

    fn matches(&self, record: &WorkspaceRecord) -> bool {
        self.filter.matches(|field| convert::filter_field(record, field))
    }

    async fn bookmark(&self, at: Revision) {
        self.send(Event::Bookmark(Bookmark { revision: u64::try_from(at.0).unwrap_or(0) })).await;
    }

    async fn send(&self, event: Event) {
        self.sender.send(WatchWorkspacesResponse { event: Some(event) }).await;
    }
}

/// The output of an instance.
pub(crate) fn logs(
    chunks: BoxStream<'static, Result<LogChunk, CallError>>,
    drain: CancellationToken,
) -> impl Stream<Item = Result<StreamWorkspaceLogsResponse, Status>> + Send + 'static {
    items(drain, chunks, |chunk| {
        let stream = if chunk.stderr { LogStream::Stderr } else { LogStream::Stdout };
        StreamWorkspaceLogsResponse { data: chunk.data, stream: stream.into() }
    })
}
