//! Changes of an organisation's instances, as they come.

use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use molecule_domain::error::Error;
use molecule_domain::id::{OrganizationId, Revision};
use molecule_proto::controlplane::v1::WatchInstancesResponse;
use molecule_provisioner::watch::{Batch, Cursors, Feed};
use molecule_service_kit::streams::{Answers, answers};
use molecule_service_kit::wire::event_to_wire;
use molecule_store_postgres::engine::EngineStore;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::warn;

use super::convert;

/// How often a quiet stream says that it lives: its reader tells by that how old its mirror is.
const ALIVE_EVERY: Duration = Duration::from_secs(5);

/// Everything after the cursors, then what comes.
pub(super) fn instances(
    feed: Arc<Feed>,
    store: EngineStore,
    organization: OrganizationId,
    after: Cursors,
    drain: CancellationToken,
) -> impl Stream<Item = Result<WatchInstancesResponse, Status>> + Send + 'static {
    answers(drain, move |sender| async move { follow(&feed, &store, organization, after, &sender).await })
}

async fn follow(
    feed: &Arc<Feed>,
    store: &EngineStore,
    organization: OrganizationId,
    mut after: Cursors,
    sender: &Answers<WatchInstancesResponse>,
) -> Result<(), Error> {
    let (revision, event) = store.counters(organization).await?;
    if after.revision > revision || after.event > event {
        warn!(%organization, asked = ?after, %revision, event, "a mirror is ahead of this database, as after a restore");
        after = Cursors { revision: Revision(0), event };
        let restarted_after_event = Some(convert::unsigned(event));
        let response = WatchInstancesResponse { restarted_after_event, ..WatchInstancesResponse::default() };
        sender.send(response).await;
    }
    let mut follower = feed.follow(organization, after);
    let mut alive = tokio::time::interval(ALIVE_EVERY);
    loop {
        let response = tokio::select! {
            batch = follower.next() => response(batch?),
            _ = alive.tick() => WatchInstancesResponse::default(),
        };
        sender.send(response).await;
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
