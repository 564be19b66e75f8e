//! Changes of an organisation's instances, as they come.

use std::convert::Infallible;
use std::time::Duration;

use futures::Stream;
use molecule_domain::error::Result;
use molecule_domain::id::{OrganizationId, Revision};
use molecule_proto::controlplane::v1::WatchInstancesResponse;
use molecule_provisioner::watch::{Batch, Cursors};
use molecule_service_kit::streams::{Answers, answers};
use molecule_service_kit::wire::event_to_wire;
use tonic::Status;
use tracing::warn;

use super::peers::meet_again;
use super::{Parts, convert};
use crate::membership::Standing;
use crate::sessions::OpenSession;

/// How often a quiet stream says that it lives: its reader tells by that how old its mirror is.
const ALIVE_EVERY: Duration = Duration::from_secs(5);

/// Everything after the cursors, then what comes. The session of the process that asks ends where that goes away.
pub(super) fn instances(
    parts: Parts,
    organization: OrganizationId,
    after: Cursors,
    session: Option<OpenSession>,
) -> impl Stream<Item = Result<WatchInstancesResponse, Status>> + Send + 'static {
    let drain = parts.drain.clone();
    let begun = parts.places.now();
    answers(drain, move |sender| async move {
        let ended = tokio::select! {
            ended = follow(&parts, organization, after, &sender) => ended,
            ended = keep(session.as_ref()) => ended.map(|never| match never {}),
            ended = joined_anew(&parts, &begun) => ended.map(|never| match never {}),
        };
        if let Some(session) = &session {
            session.leave_open();
        }
        ended
    })
}

async fn keep(session: Option<&OpenSession>) -> Result<Infallible> {
    match session {
        Some(session) => session.keep().await,
        None => std::future::pending().await,
    }
}

/// Ends with an error once tenants must meet the control plane again.
async fn joined_anew(parts: &Parts, begun: &Standing) -> Result<Infallible> {
    parts.places.differ_from(begun).await;
    Err(meet_again())
}

async fn follow(
    parts: &Parts,
    organization: OrganizationId,
    mut after: Cursors,
    sender: &Answers<WatchInstancesResponse>,
) -> Result<()> {
    let (mut revision, event) = parts.store.counters(organization).await?;
    if after.revision > revision || after.event > event {
        warn!(%organization, asked = ?after, %revision, event, "a mirror is ahead of this database, as after a restore");
        after = Cursors { revision: Revision(0), event };
        let response = WatchInstancesResponse {
            restarted_after_event: Some(convert::unsigned(event)),
            control_plane: parts.control_plane(revision),
            ..WatchInstancesResponse::default()
        };
        sender.send(response).await;
    }
    let mut follower = parts.feed.follow(organization, after);
    let mut alive = tokio::time::interval(ALIVE_EVERY);
    loop {
        let mut response = tokio::select! {
            batch = follower.next() => {
                let batch = batch?;
                revision = batch.instances.iter().map(|one| one.view.revision).fold(revision, Revision::max);
                response(batch)
            }
            _ = alive.tick() => WatchInstancesResponse::default(),
        };
        response.control_plane = parts.control_plane(revision);
        sender.send(response).await;
    }
}

fn response(batch: Batch) -> WatchInstancesResponse {
    let events = batch.events.into_iter();
    WatchInstancesResponse {
        instances: batch.instances.into_iter().map(convert::instance).collect(),
        events: events
            .map(|event| event_to_wire(event.id, event.workspace, event.at, event.detail))
            .collect(),
        ..WatchInstancesResponse::default()
    }
}
