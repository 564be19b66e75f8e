//! The answers that go on: watches and output. Both end with UNAVAILABLE when the server drains, so that
//! their clients go elsewhere and resume.

use std::time::Duration;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use molecule_domain::error::{Error, ErrorReason};
use molecule_domain::filter::Filter;
use molecule_domain::id::{OrganizationId, Revision};
use molecule_proto::tenant::v1::watch_workspaces_response::Event;
use molecule_proto::tenant::v1::{Bookmark, LogStream, StreamWorkspaceLogsResponse, WatchWorkspacesResponse};
use molecule_provisioner::backend::{CallError, LogChunk};
use molecule_service_kit::status::to_status;
use molecule_store_sqlite::tenant::TenantStore;
use molecule_store_sqlite::tenant::model::WorkspaceRecord;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::convert;

/// How often a quiet watch says how far it is.
const BOOKMARK_EVERY: Duration = Duration::from_secs(30);
/// How many answers may wait for a slow client; then reading waits too.
const BUFFER: usize = 64;
const BATCH: u32 = 200;

type Sender<T> = mpsc::Sender<Result<T, Status>>;

fn draining() -> Error {
    Error::new(ErrorReason::Draining, "this server is going away; connect again and resume")
        .with_retry_after(Duration::from_secs(1))
}

/// Snapshots, a bookmark, then changes in order of revision, without gap or duplicate.
pub(crate) fn watch(
    store: TenantStore,
    organization: OrganizationId,
    after: Revision,
    filter: Filter,
    drain: CancellationToken,
) -> impl Stream<Item = Result<WatchWorkspacesResponse, Status>> + Send + 'static {
    let (sender, receiver) = mpsc::channel(BUFFER);
    tokio::spawn(async move {
        let watching = Watching { store, organization, filter, sender: sender.clone() };
        let ended = tokio::select! {
            ended = watching.run(after) => ended,
            () = drain.cancelled() => Err(draining()),
            () = sender.closed() => return,
        };
        if let Err(error) = ended {
            let _ = sender.send(Err(to_status(&error))).await;
        }
    });
    ReceiverStream::new(receiver)
}

struct Watching {
    store: TenantStore,
    organization: OrganizationId,
    filter: Filter,
    sender: Sender<WatchWorkspacesResponse>,
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

    /// Waits for a slow client; one that is gone ends the task elsewhere.
    async fn send(&self, event: Event) {
        let _ = self.sender.send(Ok(WatchWorkspacesResponse { event: Some(event) })).await;
    }
}

/// The output of an instance.
pub(crate) fn logs(
    mut chunks: BoxStream<'static, Result<LogChunk, CallError>>,
    drain: CancellationToken,
) -> impl Stream<Item = Result<StreamWorkspaceLogsResponse, Status>> + Send + 'static {
    let (sender, receiver) = mpsc::channel(BUFFER);
    tokio::spawn(async move {
        loop {
            let next = tokio::select! {
                next = chunks.next() => next,
                () = sender.closed() => return,
                () = drain.cancelled() => {
                    let _ = sender.send(Err(to_status(&draining()))).await;
                    return;
                }
            };
            let answer = match next {
                None => return,
                Some(Ok(chunk)) => {
                    let stream = if chunk.stderr { LogStream::Stderr } else { LogStream::Stdout };
                    Ok(StreamWorkspaceLogsResponse { data: chunk.data, stream: stream.into() })
                }
                Some(Err(error)) => {
                    Err(to_status(&Error::new(ErrorReason::BackendUnavailable, error.to_string())))
                }
            };
            let ended = answer.is_err();
            if sender.send(answer).await.is_err() || ended {
                return;
            }
        }
    });
    ReceiverStream::new(receiver)
}
