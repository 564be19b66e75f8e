//! Compares everything the provider has with everything the store expects: wakes what differs, and takes
//! away what nobody expects.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use molecule_domain::Timestamp;
use molecule_domain::id::{LaunchSeq, OrganizationId, WorkspaceId};
use molecule_domain::lifecycle::Phase;
use molecule_telemetry::metrics;
use tracing::{error, info, warn};

use super::execute::Executor;
use crate::backend::OwnedResource;
use crate::model::InstanceRef;
use crate::observation::{InstanceState, OwnedInstance, Sighting, Snapshot};
use crate::policy::Policy;
use crate::store::{Expectations, Expected, StoreError};

/// What a comparison found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Records whose instance is not as they last knew it.
    pub wake: Vec<WorkspaceId>,
    /// Instances that no record explains, past their grace, as many as one pass may destroy.
    pub instances: Vec<(InstanceRef, LaunchSeq)>,
    /// Workspaces of which other resources are left that no record explains, likewise.
    pub resources: Vec<(OrganizationId, WorkspaceId)>,
    /// All that no record explains, whether it may be destroyed yet or not.
    pub unexplained: usize,
    /// Something carries a launch number that this store has not given out: nothing may be destroyed.
    pub beyond: Option<LaunchSeq>,
}

/// Compares. `seen_since` says since when a resource has been unexplained: resources don't tell their age.
pub fn compare(
    sightings: &[Sighting],
    resources: &[OwnedResource],
    expected: &Expectations,
    seen_since: impl Fn(&OwnedResource) -> Timestamp,
    policy: &Policy,
    now: Timestamp,
) -> Comparison {
    let records: HashMap<WorkspaceId, &Expected> =
        expected.instances.iter().map(|record| (record.workspace, record)).collect();
    let by_instance: HashMap<InstanceRef, &Sighting> =
        sightings.iter().map(|sighting| (sighting.found().instance, sighting)).collect();

    let mut comparison = Comparison { wake: differing(expected, &by_instance), ..Comparison::default() };

    let highest = sightings.iter().map(|s| s.found().seq).chain(resources.iter().map(|r| r.seq)).max();
    comparison.beyond = highest.filter(|seq| *seq > expected.max_seq);

    let mut instances = Vec::new();
    for found in sightings.iter().map(Sighting::found).filter(|found| !explains(&records, found)) {
        comparison.unexplained += 1;
        if now.since(found.created_at) >= policy.orphan_grace {
            instances.push((found.instance, found.seq));
        }
    }
    let mut of_workspaces = HashSet::new();
    for resource in resources.iter().filter(|resource| !records.contains_key(&resource.workspace)) {
        comparison.unexplained += 1;
        if now.since(seen_since(resource)) >= policy.orphan_grace {
            of_workspaces.insert((resource.organization, resource.workspace));
        }
    }
    if comparison.beyond.is_some() {
        return comparison;
    }
    let budget = ((sightings.len() + resources.len()) / 10).max(1);
    instances.sort_unstable();
    instances.truncate(budget);
    let mut of_workspaces: Vec<_> = of_workspaces.into_iter().collect();
    of_workspaces.sort_unstable();
    of_workspaces.truncate(budget - instances.len());
    comparison.instances = instances;
    comparison.resources = of_workspaces;
    comparison
}

fn explains(records: &HashMap<WorkspaceId, &Expected>, found: &OwnedInstance) -> bool {
    records
        .get(&found.instance.workspace)
        .is_some_and(|record| record.generation == found.instance.generation && record.seq == Some(found.seq))
}

/// Everything that no record explains, without grace or bound: for an operator to decide about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orphans {
    /// Instances.
    pub instances: Vec<(InstanceRef, LaunchSeq)>,
    /// Workspaces of which other resources are left.
    pub workspaces: Vec<(OrganizationId, WorkspaceId)>,
    /// Something carries a launch number that this store has not given out.
    pub beyond: Option<LaunchSeq>,
}

/// Lists orphans; `None` where the provider does not answer.
pub async fn list(executor: &Executor) -> Result<Option<Orphans>, StoreError> {
    let snapshot = executor.look().await;
    let Some((sightings, resources)) = everything(executor, &snapshot).await else { return Ok(None) };
    let expected = executor.store.expectations(executor.backend.kind()).await?;
    let records: HashMap<WorkspaceId, &Expected> =
        expected.instances.iter().map(|record| (record.workspace, record)).collect();
    let highest = sightings.iter().map(|s| s.found().seq).chain(resources.iter().map(|r| r.seq)).max();
    let unexplained = sightings.iter().map(Sighting::found).filter(|found| !explains(&records, found));
    let mut instances: Vec<_> = unexplained.map(|found| (found.instance, found.seq)).collect();
    instances.sort_unstable();
    let left = resources.iter().filter(|resource| !records.contains_key(&resource.workspace));
    let mut workspaces: Vec<_> = left.map(|left| (left.organization, left.workspace)).collect();
    workspaces.sort_unstable();
    workspaces.dedup();
    Ok(Some(Orphans { instances, workspaces, beyond: highest.filter(|seq| *seq > expected.max_seq) }))
}

/// Removes orphans. What the provider does not remove now is listed again.
pub async fn remove(executor: &Executor, orphans: &Orphans) {
    destroy(executor, &orphans.instances, &orphans.workspaces).await;
}

fn differing(expected: &Expectations, seen: &HashMap<InstanceRef, &Sighting>) -> Vec<WorkspaceId> {
    let settled = expected.instances.iter().filter(|record| record.settled);
    let differs = settled.filter(|record| {
        let instance = InstanceRef {
            organization: record.organization,
            workspace: record.workspace,
            generation: record.generation,
        };
        let running = seen.get(&instance).is_some_and(|s| s.found().state == InstanceState::Running);
        running != record.up
    });
    differs.map(|record| record.workspace).collect()
}

/// Sweeps again and again; remembers what it could not explain.
#[derive(Debug, Default)]
pub struct Sweeper {
    unexplained_since: HashMap<String, Timestamp>,
}

impl Sweeper {
    /// One pass: the provider's lists first, then the store's, so that whatever is listed was stored before.
    #[tracing::instrument(skip_all)]
    pub async fn pass(&mut self, executor: &Executor) -> Result<Comparison, StoreError> {
        let snapshot = executor.look().await;
        let Some((sightings, resources)) = everything(executor, &snapshot).await else {
            return Ok(Comparison::default());
        };
        let expected = executor.store.expectations(executor.backend.kind()).await?;
        let now = executor.clock.now();

        let known: HashSet<WorkspaceId> = expected.instances.iter().map(|record| record.workspace).collect();
        let unexplained: Vec<_> = resources.iter().filter(|r| !known.contains(&r.workspace)).collect();
        let names: HashSet<&str> = unexplained.iter().map(|r| r.name.as_str()).collect();
        self.unexplained_since.retain(|name, _| names.contains(name.as_str()));
        for resource in unexplained {
            self.unexplained_since.entry(resource.name.clone()).or_insert(now);
        }
        let since =
            |resource: &OwnedResource| self.unexplained_since.get(&resource.name).copied().unwrap_or(now);

        let found = compare(&sightings, &resources, &expected, since, &executor.policy, now);
        let kind = executor.backend.kind();
        let records: HashMap<WorkspaceId, &Expected> =
            expected.instances.iter().map(|record| (record.workspace, record)).collect();
        let strays = sightings.iter().map(Sighting::found).filter(|one| !explains(&records, one));
        let since = strays.map(|one| one.created_at).chain(self.unexplained_since.values().copied());
        let oldest = since.min().map_or(Duration::ZERO, |since| now.since(since));
        metrics::orphans(kind, found.unexplained, oldest);
        for phase in Phase::ALL {
            let count = expected.instances.iter().filter(|record| record.phase == phase).count();
            metrics::instances(kind, &phase.to_string(), count);
        }
        if let Some(seq) = found.beyond {
            error!(
                launch = %seq, highest_known = %expected.max_seq, unexplained = found.unexplained,
                "resources carry launch numbers that this database has not given out: it is an old backup or \
                 another installation's. No orphan is removed until an operator has looked"
            );
        }
        if !found.wake.is_empty() {
            info!(count = found.wake.len(), "instances are not as they were last known; looking at them");
            executor.store.wake(&found.wake, now).await?;
        }
        destroy(executor, &found.instances, &found.resources).await;
        Ok(found)
    }
}

async fn destroy(
    executor: &Executor,
    instances: &[(InstanceRef, LaunchSeq)],
    workspaces: &[(OrganizationId, WorkspaceId)],
) {
    let limit = executor.policy.other_call;
    for (instance, seq) in instances {
        warn!(workspace = %instance.workspace, generation = %instance.generation, launch = %seq, "removing an orphan");
        let remove = || executor.backend.remove(instance, *seq);
        if let Err(error) = executor.call("sweep.remove", limit, remove).await {
            warn!(%error, "the orphan is still there; the next sweep tries again");
        }
    }
    for (organization, workspace) in workspaces {
        warn!(%workspace, "removing an orphan's volumes");
        let purge = || executor.backend.purge(*organization, *workspace);
        if let Err(error) = executor.call("sweep.purge", limit, purge).await {
            warn!(%error, "some are still there; the next sweep tries again");
        }
    }
}

/// Both lists, or nothing: half an answer proves nothing.
async fn everything(executor: &Executor, snapshot: &Snapshot) -> Option<(Vec<Sighting>, Vec<OwnedResource>)> {
    let sightings: Vec<Sighting> = snapshot.sightings().ok()?.collect();
    let list = || executor.backend.list_resources();
    match executor.call("backend.list_resources", executor.policy.other_call, list).await {
        Ok(resources) => Some((sightings, resources)),
        Err(error) => {
            warn!(%error, "the provider does not list its resources; nothing is compared");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use molecule_domain::id::Generation;
    use molecule_domain::lifecycle::Desired;

    use super::*;

    fn instance(n: u128) -> InstanceRef {
        InstanceRef {
            organization: OrganizationId::SELF_HOSTED,
            workspace: WorkspaceId::from_uuid(uuid::Uuid::from_u128(n)),
            generation: Generation(1),
        }
    }

    fn seen(found: &[(u128, i64, i64)]) -> Vec<Sighting> {
        let owned = found
            .iter()
            .map(|(n, seq, created)| OwnedInstance {
                instance: instance(*n),
                seq: LaunchSeq(*seq),
                state: InstanceState::Running,
                endpoint: None,
                created_at: Timestamp::from_micros(*created * 1_000_000),
            })
            .collect();
        let snapshot = Snapshot::new(NOW, Ok(owned));
        snapshot.sightings().unwrap().collect()
    }

    fn expect(records: &[(u128, i64)], max_seq: i64) -> Expectations {
        let instances = records
            .iter()
            .map(|(n, seq)| Expected {
                organization: OrganizationId::SELF_HOSTED,
                workspace: instance(*n).workspace,
                generation: Generation(1),
                seq: Some(LaunchSeq(*seq)),
                desired: Desired::Running,
                phase: Phase::Up,
                up: true,
                settled: true,
            })
            .collect();
        Expectations { instances, max_seq: LaunchSeq(max_seq) }
    }

    const NOW: Timestamp = Timestamp::from_micros(1_000_000_000);

    fn run(sightings: &[Sighting], expected: &Expectations) -> Comparison {
        let policy = Policy { orphan_grace: Duration::from_secs(60), ..Policy::default() };
        compare(sightings, &[], expected, |_| NOW, &policy, NOW)
    }

    #[test]
    fn what_a_record_explains_stays() {
        let found = run(&seen(&[(1, 1, 0)]), &expect(&[(1, 1)], 1));
        assert_eq!(found, Comparison::default());
    }

    #[test]
    fn an_orphan_goes_after_its_grace() {
        assert_eq!(run(&seen(&[(1, 1, 950)]), &expect(&[], 1)).instances, []);
        assert_eq!(run(&seen(&[(1, 1, 930)]), &expect(&[], 1)).instances, [(instance(1), LaunchSeq(1))]);
    }

    #[test]
    fn an_instance_of_an_older_launch_is_an_orphan() {
        assert_eq!(run(&seen(&[(1, 1, 0)]), &expect(&[(1, 2)], 2)).instances.len(), 1);
    }

    #[test]
    fn one_pass_destroys_a_tenth_at_most() {
        let orphans: Vec<_> = (0..50).map(|n| (n, 1, 0)).collect();
        assert_eq!(run(&seen(&orphans), &expect(&[], 1)).instances.len(), 5);
        assert_eq!(run(&seen(&orphans[..3]), &expect(&[], 1)).instances.len(), 1);
    }

    #[test]
    fn a_restored_store_destroys_nothing() {
        let found = run(&seen(&[(1, 1, 0), (2, 7, 0)]), &expect(&[], 6));
        assert_eq!(found.beyond, Some(LaunchSeq(7)));
        assert_eq!((found.instances.len(), found.unexplained), (0, 2));
    }

    #[test]
    fn what_differs_is_woken() {
        let found = run(&seen(&[(1, 1, 0)]), &expect(&[(1, 1), (2, 2)], 2));
        assert_eq!(found.wake, [instance(2).workspace]);
    }
}
