//! Wakes what is not as it was last known, and takes away what nobody expects.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use molecule_domain::Timestamp;
use molecule_domain::id::{LaunchSeq, LeaseOwner, OrganizationId, WorkspaceId};
use molecule_domain::lifecycle::Phase;
use molecule_telemetry::metrics;
use tracing::{error, info};

use super::comparison::{Comparison, destroyable, differing};
use super::execute::Executor;
use super::orphans::{Unexplained, alarm, destroy, resources};
use crate::backend::OwnedResource;
use crate::model::InstanceRef;
use crate::observation::{OwnedInstance, Sighting};
use crate::store::{Alarm, StoreError};

/// Sweeps again and again; remembers what it could not explain. One engine of many sweeps; another takes over soon after it was
/// last heard.
#[derive(Debug)]
pub struct Sweeper {
    owner: LeaseOwner,
    unexplained_since: HashMap<String, Timestamp>,
    /// Since when instances have been unexplained, by our own clock.
    seen_since: HashMap<(InstanceRef, LaunchSeq), Timestamp>,
    /// How often what is left of a workspace could not be removed: the others come first.
    refused: HashMap<WorkspaceId, u32>,
    /// The alarm that it has told of.
    told: Option<Timestamp>,
    /// Whether the last pass has compared what there is.
    has_compared: bool,
}

impl Default for Sweeper {
    fn default() -> Self {
        let owner = LeaseOwner::generate();
        let (unexplained_since, seen_since, refused) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { owner, unexplained_since, seen_since, refused, told: None, has_compared: false }
    }
}

impl Sweeper {
    /// Takes or keeps the role, for long enough to make one call and to come back.
    async fn leads(&self, executor: &Executor) -> Result<bool, StoreError> {
        let now = executor.clock.now();
        let until = now + executor.policy.sweep_every * 2 + executor.policy.other_call;
        executor.store.lead(&role(executor), self.owner, now, until).await
    }

    /// Gives the role back, if this engine has it: who comes next need not wait until it is forgotten.
    pub async fn end(self, executor: &Executor) -> Result<(), StoreError> {
        let now = executor.clock.now();
        executor.store.lead(&role(executor), self.owner, now, now).await.map(|_| ())
    }

    /// Whether the last pass has compared everything with the provider: not where that gave no list, or another engine sweeps.
    pub const fn has_compared(&self) -> bool {
        self.has_compared
    }

    /// One pass, unless another engine sweeps: the provider's lists first, then the store's, so that whatever is listed was
    /// stored before.
    #[tracing::instrument(skip_all)]
    pub async fn pass(&mut self, executor: &Executor) -> Result<Comparison, StoreError> {
        let kind = executor.backend.kind();
        self.has_compared = false;
        // by every engine, so that it is told at each start; and before it is asked what is known: who ends it meanwhile makes
        // more known, never less
        let mut alarm = alarm(executor).await?;
        self.tell(kind, alarm.as_ref());
        if !self.leads(executor).await? {
            *self = Self { owner: self.owner, told: self.told, ..Self::default() };
            // whoever sweeps says what there is
            metrics::orphans(kind, 0, Duration::ZERO);
            metrics::awaited(kind, 0);
            for phase in Phase::ALL {
                metrics::instances(kind, &phase.to_string(), 0);
            }
            return Ok(Comparison::default());
        }
        let snapshot = executor.look().await;
        let Ok(sightings) = snapshot.sightings() else { return Ok(Comparison::default()) };
        let sightings: Vec<Sighting> = sightings.collect();
        let resources = resources(executor).await;
        let expected = executor.store.expectations(kind).await?;
        let now = executor.clock.now();
        let wake = differing(&expected, &sightings);
        if !wake.is_empty() {
            info!(count = wake.len(), "instances are not as they were last known; looking at them");
            executor.store.wake(&wake, now).await?;
        }
        self.has_compared = true;
        let listed = resources.as_deref().unwrap_or_default();
        let unexplained = Unexplained::of(&sightings, listed, &expected);
        let unknown = unexplained.orphans(&*executor.store).await?.unknown.len();
        if unknown > 0 && alarm.is_none() {
            let message = format!(
                "launches at the provider are not known to this database ({unknown} of them): it was put back to an earlier \
                 state, or it is another installation's"
            );
            let raised = Alarm { backend: kind.to_owned(), raised_at: now, message };
            executor.store.raise_alarm(&raised).await?;
            self.tell(kind, Some(&raised));
            alarm = Some(raised);
        }
        let Some(resources) = resources else {
            return Ok(Comparison { wake, unknown, ..Comparison::default() });
        };

        let names: HashSet<&str> = unexplained.resources.iter().map(|r| r.name.as_str()).collect();
        self.unexplained_since.retain(|name, _| names.contains(name.as_str()));
        let unexplained_of = unexplained.workspaces();
        self.refused.retain(|workspace, _| unexplained_of.contains(workspace));
        for resource in &unexplained.resources {
            self.unexplained_since.entry(resource.name.clone()).or_insert(now);
        }
        let seen: HashSet<_> = unexplained.instances.iter().map(|one| (one.instance, one.seq)).collect();
        self.seen_since.retain(|launch, _| seen.contains(launch));
        for launch in seen {
            self.seen_since.entry(launch).or_insert(now);
        }
        let mut found = Comparison { wake, unexplained: unexplained.len(), unknown, ..Comparison::default() };
        let created = unexplained.instances.iter().map(|one| one.created_at);
        let oldest = created.chain(self.unexplained_since.values().copied()).min();
        metrics::orphans(kind, found.unexplained, oldest.map_or(Duration::ZERO, |since| now.since(since)));
        metrics::awaited(kind, unexplained.awaited());
        for phase in Phase::ALL {
            let count = expected.instances.iter().filter(|record| record.phase == Some(phase)).count();
            metrics::instances(kind, &phase.to_string(), count);
        }
        if alarm.is_none() {
            let owned = sightings.len() + resources.len();
            let since =
                |resource: &OwnedResource| self.unexplained_since.get(&resource.name).copied().unwrap_or(now);
            let made = |one: &OwnedInstance| {
                let seen = self.seen_since.get(&(one.instance, one.seq)).copied();
                seen.map_or(one.created_at, |seen| one.created_at.min(seen))
            };
            let refused = |workspace: &WorkspaceId| self.refused.get(workspace).copied().unwrap_or(0);
            (found.instances, found.resources) =
                destroyable(&unexplained, owned, made, since, refused, &executor.policy, now);
            self.destroy(executor, &found.instances, &found.resources).await?;
        } else {
            // what stands under the alarm has its grace once that has ended
            self.unexplained_since.clear();
            self.seen_since.clear();
        }
        Ok(found)
    }

    /// Removes these one by one, for as long as this engine has the role, and no longer than until the next pass is due: a
    /// provider that is slow at it keeps nobody from learning what has changed.
    async fn destroy(
        &mut self,
        executor: &Executor,
        instances: &[(InstanceRef, LaunchSeq)],
        workspaces: &[(OrganizationId, WorkspaceId)],
    ) -> Result<(), StoreError> {
        let ends = executor.clock.now() + executor.policy.sweep_every;
        let instances = instances.iter().map(|instance| (std::slice::from_ref(instance), &[][..]));
        let workspaces = workspaces.iter().map(|workspace| (&[][..], std::slice::from_ref(workspace)));
        for (instance, workspace) in instances.chain(workspaces) {
            if executor.clock.now() > ends || !self.leads(executor).await? {
                info!("the next sweep goes on removing orphans");
                return Ok(());
            }
            let of_instance = instance.first().map(|(instance, _)| instance.workspace);
            let Some(of) = of_instance.or(workspace.first().map(|(_, workspace)| *workspace)) else {
                continue;
            };
            if destroy(executor, instance, workspace).await {
                self.refused.remove(&of);
            } else {
                *self.refused.entry(of).or_default() += 1;
            }
        }
        Ok(())
    }

    /// Tells of an alarm once: when it is raised, and after each start.
    fn tell(&mut self, kind: &'static str, alarm: Option<&Alarm>) {
        metrics::alarm(kind, alarm.is_some());
        let now = alarm.map(|alarm| alarm.raised_at);
        match alarm {
            Some(alarm) if self.told != now => error!(
                backend = alarm.backend, raised_at = %alarm.raised_at,
                "ALARM: {}. Nothing is removed until an operator has looked and ended it: see `molecule admin alarms`, or \
                 `molecule alarms` of a self-hosted tenant",
                alarm.message
            ),
            None if self.told.is_some() => info!("the alarm has been ended"),
            _ => {}
        }
        self.told = now;
    }
}

fn role(executor: &Executor) -> String {
    format!("sweep/{}", executor.backend.kind())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use molecule_domain::Clock;
    use molecule_domain::clock::ManualClock;
    use molecule_domain::id::InstallationId;
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Level, Metadata, Subscriber};

    use super::*;
    use crate::backend::memory::{Host, MemoryBackend};
    use crate::faults::Steps;
    use crate::policy::Policy;
    use crate::samples;
    use crate::store::Store;
    use crate::store::memory::MemoryStore;

    #[tokio::test]
    async fn what_somebody_else_removes_is_forgotten() {
        let clock = Arc::new(ManualClock::starting_at(Timestamp::from_micros(100_000_000)));
        let (host, store) = (Arc::new(Host::default()), Arc::new(MemoryStore::default()));
        let dyn_clock: Arc<dyn Clock> = clock.clone();
        let backend =
            MemoryBackend::new(Arc::clone(&host), InstallationId::generate(), Arc::clone(&dyn_clock));
        let executor = Executor {
            backend: Arc::new(backend),
            store: store.clone(),
            sealer: Arc::new(samples::Unsealed),
            clock: dyn_clock,
            policy: Policy::default(),
            steps: Steps::default(),
        };
        let launch = samples::launch(WorkspaceId::generate(), LaunchSeq(1));
        let InstanceRef { organization, workspace, .. } = launch.instance;
        executor.backend.launch(&launch).await.unwrap();
        store.end_alarm("memory", &[(launch.seq, workspace)], clock.now()).await.unwrap();
        host.stick(launch.instance);
        clock.advance(Duration::from_secs(3_600));
        let mut sweeper = Sweeper::default();
        sweeper.pass(&executor).await.unwrap();
        assert_eq!(sweeper.refused, HashMap::from([(workspace, 1)]));
        host.vanish(&launch.instance);
        executor.backend.purge(organization, workspace).await.unwrap();
        sweeper.pass(&executor).await.unwrap();
        assert_eq!(sweeper.refused, HashMap::new());
    }

    /// Nothing that a clock does keeps an orphan for longer than its grace.
    #[tokio::test]
    async fn an_orphan_of_a_clock_that_was_ahead_goes_after_its_grace() {
        let clock = Arc::new(ManualClock::starting_at(Timestamp::from_micros(100_000_000_000)));
        let (host, store) = (Arc::new(Host::default()), Arc::new(MemoryStore::default()));
        let ahead: Arc<dyn Clock> =
            Arc::new(ManualClock::starting_at(clock.now() + Duration::from_secs(3_600)));
        let backend = MemoryBackend::new(Arc::clone(&host), InstallationId::generate(), ahead);
        let executor = Executor {
            backend: Arc::new(backend),
            store: store.clone(),
            sealer: Arc::new(samples::Unsealed),
            clock: clock.clone(),
            policy: Policy::default(),
            steps: Steps::default(),
        };
        let launch = samples::launch(WorkspaceId::generate(), LaunchSeq(1));
        executor.backend.launch(&launch).await.unwrap();
        store.end_alarm("memory", &[(launch.seq, launch.instance.workspace)], clock.now()).await.unwrap();
        let mut sweeper = Sweeper::default();
        for (waits, left) in [(Duration::ZERO, 1), (executor.policy.orphan_grace, 0)] {
            clock.advance(waits);
            sweeper.pass(&executor).await.unwrap();
            assert_eq!(host.instances().len(), left, "after {waits:?}");
        }
    }

    /// As right after a restart: the role is the process's that was there before.
    #[tokio::test]
    async fn an_alarm_is_told_at_a_start_by_who_does_not_sweep_as_well() {
        let now = Timestamp::from_micros(100_000_000);
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::starting_at(now));
        let (host, store) = (Arc::new(Host::default()), Arc::new(MemoryStore::default()));
        let executor = Executor {
            backend: Arc::new(MemoryBackend::new(host, InstallationId::generate(), Arc::clone(&clock))),
            store: store.clone(),
            sealer: Arc::new(samples::Unsealed),
            clock,
            policy: Policy::default(),
            steps: Steps::default(),
        };
        let (mut before, mut after) = (Sweeper::default(), Sweeper::default());
        let owner = after.owner;
        before.pass(&executor).await.unwrap();
        let (backend, message) = ("memory".to_owned(), "a launch is not known".to_owned());
        store.raise_alarm(&Alarm { backend, raised_at: now, message }).await.unwrap();
        for _ in 0..2 {
            after.pass(&executor).await.unwrap();
            assert!(!after.leads(&executor).await.unwrap());
            assert_eq!((after.told, after.owner), (Some(now), owner));
        }
        store.end_alarm("memory", &[], now).await.unwrap();
        after.pass(&executor).await.unwrap();
        assert_eq!(after.told, None);
    }

    /// The levels of what a sweeper logs.
    #[derive(Clone, Default)]
    struct Logged(Arc<Mutex<Vec<Level>>>);

    impl Subscriber for Logged {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.target().ends_with("::sweeper")
        }
        fn new_span(&self, _span: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }
        fn record(&self, _span: &Id, _values: &Record<'_>) {}
        fn record_follows_from(&self, _span: &Id, _follows: &Id) {}
        fn event(&self, event: &Event<'_>) {
            self.0.lock().unwrap().push(*event.metadata().level());
        }
        fn enter(&self, _span: &Id) {}
        fn exit(&self, _span: &Id) {}
    }

    #[test]
    fn each_alarm_is_told_once_and_its_end_once() {
        let alarm = |second: i64| Alarm {
            backend: "memory".to_owned(),
            raised_at: Timestamp::from_micros(second * 1_000_000),
            message: "a launch is not known".to_owned(),
        };
        let mut sweeper = Sweeper::default();
        let logged = Logged::default();
        for (stands, told) in [
            (None, vec![]),
            (Some(alarm(1)), vec![Level::ERROR]),
            (Some(alarm(1)), vec![]),
            (Some(alarm(2)), vec![Level::ERROR]),
            (None, vec![Level::INFO]),
            (None, vec![]),
        ] {
            tracing::subscriber::with_default(logged.clone(), || sweeper.tell("memory", stands.as_ref()));
            assert_eq!(std::mem::take(&mut *logged.0.lock().unwrap()), told, "{stands:?}");
        }
    }
}
