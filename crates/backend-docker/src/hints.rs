//! Which workspaces the daemon's events say something of.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bollard::Docker;
use bollard::models::EventMessage;
use bollard::query_parameters::{EventsOptionsBuilder, InspectContainerOptions};
use futures::StreamExt;
use futures::future::ready;
use futures::stream::{self, BoxStream};
use molecule_domain::id::{InstallationId, WorkspaceId};
use tracing::debug;

use crate::names;

/// How long an ended container is waited for, before its workspace is looked at all the same.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many ended containers are waited for at once.
const AT_ONCE: usize = 64;
const NANOS: i64 = 1_000_000_000;

/// The daemon's time of the last event that was read, in nanoseconds since the epoch; 0 before the first. A stream that
/// follows a broken one begins there: the daemon keeps its last 256 events.
#[derive(Debug, Default)]
pub(crate) struct LastEvent(AtomicI64);

impl LastEvent {
    fn heard(&self, event: &EventMessage) {
        self.0.fetch_max(event.time_nano.unwrap_or_default(), Ordering::Relaxed);
    }

    /// As the daemon's `since` wants it.
    fn since(&self) -> Option<String> {
        let nanos = self.0.load(Ordering::Relaxed);
        (nanos > 0).then(|| format!("{}.{:09}", nanos / NANOS, nanos % NANOS))
    }
}

/// The workspaces whose containers end or are removed, until the daemon's events end.
pub(crate) fn hints(
    docker: Docker,
    installation: InstallationId,
    last: Arc<LastEvent>,
) -> BoxStream<'static, WorkspaceId> {
    let mut filters = names::ours_filter(installation);
    filters.insert("type".to_owned(), vec!["container".to_owned()]);
    filters.insert("event".to_owned(), ["die", "destroy"].map(str::to_owned).to_vec());
    let mut options = EventsOptionsBuilder::default().filters(&filters);
    if let Some(since) = last.since() {
        options = options.since(&since);
    }
    let events = docker.events(Some(options.build())).scan((), move |(), event| {
        let event = event.inspect(|event| last.heard(event));
        ready(event.inspect_err(|error| debug!(%error, "the daemon's events end")).ok())
    });
    events.flat_map_unordered(AT_ONCE, move |event| hints_of(docker.clone(), event)).boxed()
}

/// What one event says.
fn hints_of(docker: Docker, event: EventMessage) -> BoxStream<'static, WorkspaceId> {
    let Some(actor) = event.actor else { return stream::empty().boxed() };
    let named = actor.attributes.as_ref().and_then(|labels| labels.get(names::WORKSPACE)?.parse().ok());
    let Some(workspace) = named else { return stream::empty().boxed() };
    match (event.action.as_deref(), actor.id) {
        (Some("die"), Some(id)) => ended(docker, id, workspace).boxed(),
        _ => stream::once(ready(workspace)).boxed(),
    }
}

/// At a `die` event the daemon still lists the container as running. It holds the container's lock until it does not, and
/// answers an inspection only then. While it doesn't answer, the workspace is named now and then.
fn ended(docker: Docker, id: String, workspace: WorkspaceId) -> impl futures::Stream<Item = WorkspaceId> {
    stream::unfold(Some((docker, id)), move |waiting| async move {
        let (docker, id) = waiting?;
        let inspected = docker.inspect_container(&id, None::<InspectContainerOptions>);
        let is_answered = tokio::time::timeout(PATIENCE, inspected).await.is_ok();
        Some((workspace, (!is_answered).then_some((docker, id))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_stream_begins_where_the_broken_one_ended() {
        let last = LastEvent::default();
        assert_eq!(last.since(), None);
        for nanos in [1_795_769_617_000_000_042, 1_795_769_616_000_000_000] {
            last.heard(&EventMessage { time_nano: Some(nanos), ..EventMessage::default() });
        }
        assert_eq!(last.since().as_deref(), Some("1795769617.000000042"));
    }
}
