//! Compares everything the provider has with everything the store expects: wakes what differs, and takes
//! away what nobody expects.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use molecule_domain::Timestamp;
use molecule_domain::id::{Generation, LaunchSeq, LeaseOwner, OrganizationId, WorkspaceId};
use molecule_domain::lifecycle::Phase;
use molecule_telemetry::metrics;
use tracing::{error, info, warn};

use super::execute::Executor;
use crate::backend::OwnedResource;
use crate::model::InstanceRef;
use crate::observation::{InstanceState, OwnedInstance, Sighting, Snapshot};
use crate::policy::Policy;
use crate::store::{Alarm, Expectations, Expected, Store, StoreError};

/// A launch that something at the provider carries by its labels, and the workspace that it is of.
pub type Launched = (LaunchSeq, WorkspaceId);

/// What a comparison found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Records whose instance is not as they last knew it.
    pub wake: Vec<WorkspaceId>,
    /// Instances that no record explains, past their grace, as many as one pass may destroy.
    pub instances: Vec<(InstanceRef, LaunchSeq)>,
    /// Workspaces of which other resources are left that no record explains, likewise.
    pub resources: Vec<(OrganizationId, WorkspaceId)>,
    /// How many things no record explains, whether they may be destroyed yet or not.
    pub unexplained: usize,
    /// How many of these this store has not launched. Where there are any, nothing may be destroyed.
    pub unknown: usize,
}

/// Everything at the provider that no record explains.
#[derive(Clone, Debug, Default)]
struct Unexplained {
    instances: Vec<OwnedInstance>,
    resources: Vec<OwnedResource>,
    /// The workspaces of these that have no record.
    unrecorded: BTreeSet<(OrganizationId, WorkspaceId)>,
}

impl Unexplained {
    fn of(sightings: &[Sighting], resources: &[OwnedResource], expected: &Expectations) -> Self {
        let records: HashMap<WorkspaceId, &Expected> =
            expected.instances.iter().map(|record| (record.workspace, record)).collect();
        let explains = |found: &OwnedInstance| {
            let record = records.get(&found.instance.workspace);
            record.is_some_and(|record| {
                record.generation == found.instance.generation && record.seq == Some(found.seq)
            })
        };
        let instances = sightings.iter().map(Sighting::found).filter(|found| !explains(found));
        let instances: Vec<_> = instances.cloned().collect();
        let resources = resources.iter().filter(|resource| !records.contains_key(&resource.workspace));
        let resources: Vec<_> = resources.cloned().collect();
        let of_instances = instances.iter().map(|one| (one.instance.organization, one.instance.workspace));
        let of_resources = resources.iter().map(|one| (one.organization, one.workspace));
        let all = of_instances.chain(of_resources);
        let unrecorded = all.filter(|(_, workspace)| !records.contains_key(workspace)).collect();
        Self { instances, resources, unrecorded }
    }

    fn launches(&self) -> Vec<Launched> {
        let instances = self.instances.iter().map(|found| (found.seq, found.instance.workspace));
        let resources = self.resources.iter().map(|resource| (resource.seq, resource.workspace));
        let mut all: Vec<_> = instances.chain(resources).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    fn len(&self) -> usize {
        self.instances.len() + self.resources.len()
    }

    /// All of it, without grace or bound, and which launches of it the store does not know.
    async fn orphans(&self, store: &dyn Store) -> Result<Orphans, StoreError> {
        let mut instances: Vec<_> = self.instances.iter().map(|found| (found.instance, found.seq)).collect();
        instances.sort_unstable();
        // a disk that is attached to an instance may be listed only once that is gone
        let workspaces: Vec<_> = self.unrecorded.iter().copied().collect();
        let launches = self.launches();
        let whole = workspaces.iter().map(|(_, workspace)| (WHOLE, *workspace));
        let known = store.launched(&launches.iter().copied().chain(whole).collect::<Vec<_>>()).await?;
        let is_known = |launch: &Launched| known.contains(launch) || known.contains(&(WHOLE, launch.1));
        let unknown = launches.into_iter().filter(|launch| !is_known(launch)).collect();
        Ok(Orphans { instances, workspaces, unknown })
    }
}

/// Stands for all launches of a workspace that has no record: no launch has this number.
const WHOLE: LaunchSeq = LaunchSeq(0);

/// Instances by their launches, and workspaces of which other resources are left.
type Removable = (Vec<(InstanceRef, LaunchSeq)>, Vec<(OrganizationId, WorkspaceId)>);

/// What of these may be destroyed in one pass of a provider that has `owned` things. `seen_since` says since when a
/// resource has been unexplained: resources don't tell their age.
fn destroyable(
    unexplained: &Unexplained,
    owned: usize,
    seen_since: impl Fn(&OwnedResource) -> Timestamp,
    refused: impl Fn(&WorkspaceId) -> u32,
    policy: &Policy,
    now: Timestamp,
) -> Removable {
    let budget = (owned / 10).max(1);
    let old = unexplained.instances.iter().filter(|one| now.since(one.created_at) >= policy.orphan_grace);
    // what is being removed already needs no other word
    let old = old.filter(|one| one.state != InstanceState::Removing);
    let mut instances: Vec<_> = old.map(|found| (found.instance, found.seq)).collect();
    instances.sort_unstable_by_key(|(instance, seq)| (refused(&instance.workspace), *instance, *seq));
    instances.truncate(budget);
    let old = unexplained.resources.iter().filter(|one| now.since(seen_since(one)) >= policy.orphan_grace);
    let mut workspaces: Vec<_> = old.map(|left| (left.organization, left.workspace)).collect();
    workspaces.sort_unstable();
    workspaces.dedup();
    workspaces.sort_by_key(|(_, workspace)| refused(workspace));
    workspaces.truncate(budget - instances.len());
    (instances, workspaces)
}

/// Everything that no record explains, without grace or bound: for an operator to decide about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orphans {
    /// Instances.
    pub instances: Vec<(InstanceRef, LaunchSeq)>,
    /// Workspaces of which other resources are left.
    pub workspaces: Vec<(OrganizationId, WorkspaceId)>,
    /// The launches among these that this store does not know.
    pub unknown: Vec<Launched>,
}

impl Orphans {
    /// What the store answers for once the alarm is ended: the launches, and whatever else comes to light of the workspaces
    /// that have no record, as a disk does when its instance is gone.
    pub fn answered_for(&self) -> Vec<Launched> {
        let whole = self.workspaces.iter().map(|(_, workspace)| (WHOLE, *workspace));
        self.unknown.iter().copied().chain(whole).collect()
    }
}

/// Lists orphans; `None` where the provider does not answer.
pub async fn list(executor: &Executor) -> Result<Option<Orphans>, StoreError> {
    let snapshot = executor.look().await;
    let Some((sightings, resources)) = everything(executor, &snapshot).await else { return Ok(None) };
    let expected = executor.store.expectations(executor.backend.kind()).await?;
    Ok(Some(Unexplained::of(&sightings, &resources, &expected).orphans(&*executor.store).await?))
}

/// Removes orphans. What the provider does not remove now is listed again.
pub async fn remove(executor: &Executor, orphans: &Orphans) {
    destroy(executor, &orphans.instances, &orphans.workspaces).await;
}

/// The alarm that stands for this executor's backend.
pub async fn alarm(executor: &Executor) -> Result<Option<Alarm>, StoreError> {
    let kind = executor.backend.kind();
    Ok(executor.store.alarms().await?.into_iter().find(|alarm| alarm.backend == kind))
}

/// Records whose instance does not run as they last knew it, or has come to the end that they wait for, of whose launch there
/// are two, or of whose workspace a later one is there.
fn differing(expected: &Expectations, sightings: &[Sighting]) -> Vec<WorkspaceId> {
    let mut seen: HashMap<_, (usize, bool, bool)> = HashMap::new();
    let mut latest: HashMap<WorkspaceId, (Generation, LaunchSeq)> = HashMap::new();
    for found in sightings.iter().map(Sighting::found) {
        let last = latest.entry(found.instance.workspace).or_default();
        *last = (found.instance.generation, found.seq).max(*last);
        let (count, runs, lives) = seen.entry((found.instance, Some(found.seq))).or_default();
        *count += 1;
        *runs |= found.state == InstanceState::Running;
        *lives |= !found.state.is_down();
    }
    let differs = expected.instances.iter().filter(|record| {
        let instance = InstanceRef {
            organization: record.organization,
            workspace: record.workspace,
            generation: record.generation,
        };
        let (count, runs, lives) = seen.get(&(instance, record.seq)).copied().unwrap_or_default();
        if !record.settled {
            let ends = matches!(record.phase, Some(Phase::Booting | Phase::Stopping | Phase::Failed));
            return ends && record.seq.is_some() && !lives;
        }
        let is_later = latest.get(&record.workspace).is_some_and(|(generation, seq)| {
            *generation > record.generation
                || *generation == record.generation && record.seq.is_some_and(|own| *seq > own)
        });
        count > 1 || runs != record.up || is_later
    });
    differs.map(|record| record.workspace).collect()
}

/// Sweeps again and again; remembers what it could not explain. One engine of many sweeps; another takes over soon after it was
/// last heard.
#[derive(Debug)]
pub struct Sweeper {
    owner: LeaseOwner,
    unexplained_since: HashMap<String, Timestamp>,
    /// How often what is left of a workspace could not be removed: the others come first.
    refused: HashMap<WorkspaceId, u32>,
    /// The alarm that it has told of.
    told: Option<Timestamp>,
}

impl Default for Sweeper {
    fn default() -> Self {
        let owner = LeaseOwner::generate();
        Self { owner, unexplained_since: HashMap::new(), refused: HashMap::new(), told: None }
    }
}

impl Sweeper {
    /// Takes or keeps the role, for long enough to make one call and to come back.
    async fn leads(&self, executor: &Executor) -> Result<bool, StoreError> {
        let role = format!("sweep/{}", executor.backend.kind());
        let now = executor.clock.now();
        let until = now + executor.policy.sweep_every * 2 + executor.policy.other_call;
        executor.store.lead(&role, self.owner, now, until).await
    }

    /// One pass, unless another engine sweeps: the provider's lists first, then the store's, so that whatever is listed was
    /// stored before.
    #[tracing::instrument(skip_all)]
    pub async fn pass(&mut self, executor: &Executor) -> Result<Comparison, StoreError> {
        let kind = executor.backend.kind();
        if !self.leads(executor).await? {
            *self = Self { owner: self.owner, ..Self::default() };
            // whoever sweeps says what there is
            metrics::alarm(kind, false);
            metrics::orphans(kind, 0, Duration::ZERO);
            for phase in Phase::ALL {
                metrics::instances(kind, &phase.to_string(), 0);
            }
            return Ok(Comparison::default());
        }
        // before it is asked what is known: who ends it meanwhile makes more known, never less
        let mut alarm = alarm(executor).await?;
        self.tell(kind, alarm.as_ref());
        let snapshot = executor.look().await;
        let Some((sightings, resources)) = everything(executor, &snapshot).await else {
            return Ok(Comparison::default());
        };
        let expected = executor.store.expectations(kind).await?;
        let now = executor.clock.now();
        let unexplained = Unexplained::of(&sightings, &resources, &expected);
        let unknown = unexplained.orphans(&*executor.store).await?.unknown.len();

        let names: HashSet<&str> = unexplained.resources.iter().map(|r| r.name.as_str()).collect();
        self.unexplained_since.retain(|name, _| names.contains(name.as_str()));
        for resource in &unexplained.resources {
            self.unexplained_since.entry(resource.name.clone()).or_insert(now);
        }
        let mut found = Comparison {
            wake: differing(&expected, &sightings),
            unexplained: unexplained.len(),
            unknown,
            ..Comparison::default()
        };
        let created = unexplained.instances.iter().map(|one| one.created_at);
        let oldest = created.chain(self.unexplained_since.values().copied()).min();
        metrics::orphans(kind, found.unexplained, oldest.map_or(Duration::ZERO, |since| now.since(since)));
        for phase in Phase::ALL {
            let count = expected.instances.iter().filter(|record| record.phase == Some(phase)).count();
            metrics::instances(kind, &phase.to_string(), count);
        }
        if !found.wake.is_empty() {
            info!(count = found.wake.len(), "instances are not as they were last known; looking at them");
            executor.store.wake(&found.wake, now).await?;
        }
        if found.unknown > 0 && alarm.is_none() {
            let message = format!(
                "{} launches at the provider are not known to this database: it was put back to an earlier state, or it is \
                 another installation's",
                found.unknown
            );
            let raised = Alarm { backend: kind.to_owned(), raised_at: now, message };
            executor.store.raise_alarm(&raised).await?;
            self.tell(kind, Some(&raised));
            alarm = Some(raised);
        }
        if alarm.is_none() {
            let owned = sightings.len() + resources.len();
            let since =
                |resource: &OwnedResource| self.unexplained_since.get(&resource.name).copied().unwrap_or(now);
            let refused = |workspace: &WorkspaceId| self.refused.get(workspace).copied().unwrap_or(0);
            (found.instances, found.resources) =
                destroyable(&unexplained, owned, since, refused, &executor.policy, now);
            self.destroy(executor, &found.instances, &found.resources).await?;
        } else {
            // what stands under the alarm has its grace once that has ended
            self.unexplained_since.clear();
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
            let of_instance =
                instance.first().map(|(instance, _)| (instance.organization, instance.workspace));
            let Some((organization, of)) = of_instance.or(workspace.first().copied()) else { continue };
            // one of that id may have been created since the lists were read
            let record = executor.store.get(organization, of).await?;
            if let Some(record) = record.filter(|record| record.phase != Phase::Gone)
                && instance
                    .first()
                    .is_none_or(|(_, seq)| record.live_attempt().is_some_and(|own| own.seq == *seq))
            {
                info!(workspace = %of, "it is a record's by now, and is left alone");
                continue;
            }
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

async fn destroy(
    executor: &Executor,
    instances: &[(InstanceRef, LaunchSeq)],
    workspaces: &[(OrganizationId, WorkspaceId)],
) -> bool {
    let limit = executor.policy.other_call;
    let mut all = true;
    for (instance, seq) in instances {
        warn!(workspace = %instance.workspace, generation = %instance.generation, launch = %seq, "removing an orphan");
        let remove = || executor.backend.remove(instance, *seq);
        if let Err(error) = executor.call("sweep.remove", limit, remove).await {
            warn!(%error, "the orphan is still there; a later sweep tries again");
            all = false;
        }
    }
    for (organization, workspace) in workspaces {
        warn!(%workspace, "removing an orphan's volumes");
        let purge = || executor.backend.purge(*organization, *workspace);
        if let Err(error) = executor.call("sweep.purge", limit, purge).await {
            warn!(%error, "some are still there; a later sweep tries again");
            all = false;
        }
    }
    all
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

    use super::*;
    use crate::store::memory::MemoryStore;

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

    fn expect(records: &[(u128, i64)]) -> Expectations {
        let instances = records
            .iter()
            .map(|(n, seq)| Expected {
                organization: OrganizationId::SELF_HOSTED,
                workspace: instance(*n).workspace,
                generation: Generation(1),
                seq: Some(LaunchSeq(*seq)),
                phase: Some(Phase::Up),
                up: true,
                settled: true,
            })
            .collect();
        Expectations { instances }
    }

    fn volume(n: u128) -> OwnedResource {
        OwnedResource {
            organization: OrganizationId::SELF_HOSTED,
            workspace: instance(n).workspace,
            name: format!("volume of {n}"),
            seq: LaunchSeq(1),
        }
    }

    const NOW: Timestamp = Timestamp::from_micros(1_000_000_000);

    /// What of all this one pass may destroy, where volumes have been unexplained for so many seconds.
    fn destroyed(
        sightings: &[Sighting],
        volumes: &[OwnedResource],
        seconds: u64,
        expected: &Expectations,
    ) -> Removable {
        let policy = Policy { orphan_grace: Duration::from_secs(60), ..Policy::default() };
        let unexplained = Unexplained::of(sightings, volumes, expected);
        let since = NOW - Duration::from_secs(seconds);
        destroyable(&unexplained, sightings.len() + volumes.len(), |_| since, |_| 0, &policy, NOW)
    }

    #[test]
    fn what_a_record_explains_stays() {
        let all = Unexplained::of(&seen(&[(1, 1, 0)]), &[volume(1)], &expect(&[(1, 1)]));
        assert_eq!((all.len(), all.launches().len()), (0, 0));
    }

    #[test]
    fn an_orphan_goes_after_its_grace() {
        let one = (vec![(instance(1), LaunchSeq(1))], Vec::new());
        assert_eq!(destroyed(&seen(&[(1, 1, 950)]), &[], 0, &expect(&[])), Removable::default());
        assert_eq!(destroyed(&seen(&[(1, 1, 930)]), &[], 0, &expect(&[])), one);
        let of = (Vec::new(), vec![(OrganizationId::SELF_HOSTED, instance(1).workspace)]);
        assert_eq!(destroyed(&[], &[volume(1)], 59, &expect(&[])), Removable::default());
        assert_eq!(destroyed(&[], &[volume(1)], 60, &expect(&[])), of);
    }

    #[test]
    fn an_instance_of_an_older_launch_is_an_orphan() {
        assert_eq!(destroyed(&seen(&[(1, 1, 0)]), &[], 0, &expect(&[(1, 2)])).0.len(), 1);
    }

    #[test]
    fn one_pass_destroys_a_tenth_at_most() {
        let orphans: Vec<_> = (0..50).map(|n| (n, 1, 0)).collect();
        assert_eq!(destroyed(&seen(&orphans), &[], 0, &expect(&[])).0.len(), 5);
        assert_eq!(destroyed(&seen(&orphans[..3]), &[], 0, &expect(&[])).0.len(), 1);
        // instances and volumes share it
        let volumes: Vec<_> = (100..150).map(volume).collect();
        let (instances, workspaces) = destroyed(&seen(&orphans), &volumes, 60, &expect(&[]));
        assert_eq!((instances.len(), workspaces.len()), (10, 0));
        let (instances, workspaces) = destroyed(&seen(&orphans[..3]), &volumes, 60, &expect(&[]));
        assert_eq!((instances.len(), workspaces.len()), (3, 2));
    }

    #[test]
    fn what_differs_is_woken() {
        let expected = expect(&[(1, 1), (2, 2), (3, 3)]);
        // of the third one an earlier launch runs
        let sightings = seen(&[(1, 1, 0), (3, 1, 0)]);
        assert_eq!(differing(&expected, &sightings), [instance(2).workspace, instance(3).workspace]);
        // and of the first one's launch there are two
        let sightings = seen(&[(1, 1, 0), (1, 1, 0), (2, 2, 0), (3, 3, 0)]);
        assert_eq!(differing(&expected, &sightings), [instance(1).workspace]);
        // and of the third one a later launch is there, beside its own
        let sightings = seen(&[(1, 1, 0), (2, 2, 0), (3, 3, 0), (3, 9, 0)]);
        assert_eq!(differing(&expected, &sightings), [instance(3).workspace]);
    }

    /// What waits for the provider to stop or remove it is woken once it is down or gone, and not before.
    #[test]
    fn what_has_come_to_its_end_is_woken() {
        let mut expected = expect(&[(1, 1), (2, 2), (3, 3)]);
        for (record, phase) in
            expected.instances.iter_mut().zip([Phase::Stopping, Phase::Booting, Phase::Launching])
        {
            (record.settled, record.phase) = (false, Some(phase));
        }
        let alive = seen(&[(1, 1, 0), (2, 2, 0)]);
        assert_eq!(differing(&expected, &alive), []);
        let ends = [instance(1).workspace, instance(2).workspace];
        assert_eq!(differing(&expected, &[]), ends);
        expected.instances[0].seq = None;
        assert_eq!(differing(&expected, &[]), ends[1..], "its absence is known");
    }

    #[tokio::test]
    async fn a_launch_is_known_by_its_number_and_its_workspace() {
        let store = MemoryStore::default();
        let known = [(LaunchSeq(1), instance(1).workspace), (LaunchSeq(2), instance(9).workspace)];
        store.end_alarm("memory", &known, NOW).await.unwrap();
        let all = Unexplained::of(&seen(&[(1, 1, 0), (2, 2, 0)]), &[volume(3)], &expect(&[]));
        let orphans = all.orphans(&store).await.unwrap();
        let unknown = [(LaunchSeq(1), instance(3).workspace), (LaunchSeq(2), instance(2).workspace)];
        assert_eq!(orphans.unknown, unknown);
        assert_eq!(orphans.workspaces.len(), 3, "what is attached to an instance is shown as well");
        // once somebody has said so, whatever comes to light of these workspaces may go
        store.end_alarm("memory", &orphans.answered_for(), NOW).await.unwrap();
        let disk = OwnedResource { seq: LaunchSeq(77), ..volume(2) };
        let later = Unexplained::of(&[], std::slice::from_ref(&disk), &expect(&[]));
        assert_eq!(later.orphans(&store).await.unwrap().unknown, []);
        let another = OwnedResource { workspace: instance(5).workspace, ..disk };
        let another = Unexplained::of(&[], &[another], &expect(&[]));
        assert_eq!(another.orphans(&store).await.unwrap().unknown.len(), 1);
    }
}
