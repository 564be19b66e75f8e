//! The answers that go on: changes and output. Both end with UNAVAILABLE when this replica drains, so that their
//! clients go to another and resume.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use molecule_domain::error::Error;
use molecule_domain::id::{OrganizationId, Revision};
use molecule_proto::controlplane::v1::{StreamInstanceLogsResponse, WatchInstancesResponse};
use molecule_provisioner::backend::{CallError, LogChunk};
use molecule_provisioner::watch::{Batch, Cursors, Feed};
use molecule_service_kit::status::to_status;
use molecule_service_kit::wire::event_to_wire;
use molecule_store_postgres::engine::EngineStore;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::warn;

use super::{convert, draining};

/// How often a quiet stream says that it lives: its reader tells by that how old its mirror is.
const ALIVE_EVERY: Duration = Duration::from_secs(5);
/// How many answers may wait for a slow client; then reading waits too.
const BUFFER: usize = 16;

/// Everything after the cursors, then what comes.
pub(super) fn instances(
    feed: Arc<Feed>,
    store: EngineStore,
    organization: OrganizationId,
    after: Cursors,
    drain: CancellationToken,
) -> impl Stream<Item = Result<WatchInstancesResponse, Status>> + Send + 'static {
    let (sender, receiver) = mpsc::channel(BUFFER);
    tokio::spawn(async move {
        let ended = tokio::select! {
            ended = follow(&feed, &store, organization, after, &sender) => ended,
            () = drain.cancelled() => Err(draining()),
            () = sender.closed() => return,
        };
        if let Err(error) = ended {
            let _ = sender.send(Err(to_status(&error))).await;
        }
    });
    ReceiverStream::new(receiver)
}

async fn follow(
    feed: &Arc<Feed>,
    store: &EngineStore,
    organization: OrganizationId,
    mut after: Cursors,
    sender: &mpsc::Sender<Result<WatchInstancesResponse, Status>>,
) -> Result<(), Error> {
    // one that is gone ends the task elsewhere, so what can't be sent doesn't matter
    let (revision, event) = store.counters(organization).await?;
    if after.revision > revision || after.event > event {
        warn!(%organization, asked = ?after, %revision, event, "a mirror is ahead of this database, as after a restore");
        after = Cursors { revision: Revision(0), event };
        let restarted_after_event = Some(convert::unsigned(event));
        let response = WatchInstancesResponse { restarted_after_event, ..WatchInstancesResponse::default() };
        let _ = sender.send(Ok(response)).await;
    }
    let mut follower = feed.follow(organization, after);
    let mut alive = tokio::time::interval(ALIVE_EVERY);
    loop {
        let response = tokio::select! {
            batch = follower.next() => response(batch?),
            _ = alive.tick() => WatchInstancesResponse::default(),
        };
        let _ = sender.send(Ok(response)).await;
    }
}

fn response(batch: Batch) -> WatchInstancesResponse {
    let events = batch.events.into_iter();
    WatchInstancesResponse {
        instances: batch.records.iter().map(convert::instance).collect(),
        events: events
            .map(|event| event_to_wire(event.id, event.workspace, event.at, event.detail))
            .collect(),
        restarted_after_event: None,
    }
}

/// The output of an instance.
pub(super) fn logs(
    mut chunks: BoxStream<'static, Result<LogChunk, CallError>>,
    drain: CancellationToken,
) -> impl Stream<Item = Result<StreamInstanceLogsResponse, Status>> + Send + 'static {
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
                Some(Ok(LogChunk { stderr, data })) => Ok(StreamInstanceLogsResponse { data, stderr }),
                Some(Err(error)) => Err(to_status(&error.into())),
            };
            if sender.send(answer).await.is_err() {
                return;
            }
        }
    });
    ReceiverStream::new(receiver)
}
