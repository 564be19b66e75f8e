//! What the provider has and no record explains.

use std::collections::{BTreeSet, HashMap, HashSet};

use molecule_domain::id::{LaunchSeq, OrganizationId, WorkspaceId};
use molecule_domain::lifecycle::Phase;
use tracing::warn;

use super::execute::Executor;
use crate::backend::OwnedResource;
use crate::model::InstanceRef;
use crate::observation::{OwnedInstance, Sighting};
use crate::store::{Alarm, Awaited, Expectations, Expected, Store, StoreError, WHOLE};

/// A launch that something at the provider carries by its labels, and the workspace that it is of.
pub type Launched = (LaunchSeq, WorkspaceId);

/// Everything at the provider that no record explains.
#[derive(Clone, Debug, Default)]
pub(super) struct Unexplained {
    pub(super) instances: Vec<OwnedInstance>,
    pub(super) resources: Vec<OwnedResource>,
    /// The workspaces of these that have no record.
    unrecorded: BTreeSet<(OrganizationId, WorkspaceId)>,
    /// What no record explains either, and its tenant has still to be heard about.
    awaited: Left,
}

/// What is left as it is.
#[derive(Clone, Debug, Default)]
struct Left {
    launches: Vec<Launched>,
    workspaces: BTreeSet<(OrganizationId, WorkspaceId)>,
}

impl Unexplained {
    pub(super) fn of(sightings: &[Sighting], resources: &[OwnedResource], expected: &Expectations) -> Self {
        let records: HashMap<WorkspaceId, &Expected> =
            expected.instances.iter().map(|record| (record.workspace, record)).collect();
        let explains = |found: &OwnedInstance| {
            let record = records.get(&found.instance.workspace);
            record.is_some_and(|record| {
                record.generation == found.instance.generation && record.seq == Some(found.seq)
            })
        };
        let instances = sightings.iter().map(Sighting::found).filter(|found| !explains(found));
        let awaits = |organization, workspace| expected.awaited.get(&(organization, workspace)).copied();
        let (awaited_instances, instances): (Vec<_>, Vec<_>) = instances.cloned().partition(|one| {
            awaits(one.instance.organization, one.instance.workspace) == Some(Awaited::Whole)
        });
        let resources = resources.iter().filter(|resource| !records.contains_key(&resource.workspace));
        let (awaited_resources, resources): (Vec<_>, Vec<_>) =
            resources.cloned().partition(|one| awaits(one.organization, one.workspace).is_some());
        let awaited = Left {
            launches: launches(&awaited_instances, &awaited_resources),
            workspaces: workspaces(&awaited_instances, &awaited_resources).collect(),
        };
        // of one whose data is awaited nothing but the instance goes
        let is_orphan = |(organization, workspace): &(OrganizationId, WorkspaceId)| {
            !records.contains_key(workspace) && awaits(*organization, *workspace).is_none()
        };
        let unrecorded = workspaces(&instances, &resources).filter(is_orphan).collect();
        Self { instances, resources, unrecorded, awaited }
    }

    fn launches(&self) -> Vec<Launched> {
        launches(&self.instances, &self.resources)
    }

    pub(super) fn workspaces(&self) -> HashSet<WorkspaceId> {
        self.launches().into_iter().map(|(_, workspace)| workspace).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.instances.len() + self.resources.len()
    }

    /// How many workspaces are awaited.
    pub(super) fn awaited(&self) -> usize {
        self.awaited.workspaces.len()
    }

    /// All of it, without grace or bound, and which launches of it the store does not know.
    pub(super) async fn orphans(&self, store: &dyn Store) -> Result<Orphans, StoreError> {
        let mut instances: Vec<_> = self.instances.iter().map(|found| (found.instance, found.seq)).collect();
        instances.sort_unstable();
        // a disk that is attached to an instance may be listed only once that is gone
        let workspaces: Vec<_> = self.unrecorded.iter().copied().collect();
        // an operator's word is for these as well: once their records are there, they go like any other earlier launch
        let mut launches = [self.launches(), self.awaited.launches.clone()].concat();
        launches.sort_unstable();
        let known = store.launched(&launches).await?;
        let unknown = launches.into_iter().filter(|launch| !known.contains(launch)).collect();
        let awaited = self.awaited.workspaces.iter().copied().collect();
        Ok(Orphans { instances, workspaces, awaited, unknown })
    }
}

fn workspaces(
    instances: &[OwnedInstance],
    resources: &[OwnedResource],
) -> impl Iterator<Item = (OrganizationId, WorkspaceId)> {
    let of_instances = instances.iter().map(|one| (one.instance.organization, one.instance.workspace));
    of_instances.chain(resources.iter().map(|one| (one.organization, one.workspace)))
}

fn launches(instances: &[OwnedInstance], resources: &[OwnedResource]) -> Vec<Launched> {
    let instances = instances.iter().map(|found| (found.seq, found.instance.workspace));
    let resources = resources.iter().map(|resource| (resource.seq, resource.workspace));
    let mut all: Vec<_> = instances.chain(resources).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Everything that no record explains, without grace or bound: for an operator to decide about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orphans {
    /// Instances.
    pub instances: Vec<(InstanceRef, LaunchSeq)>,
    /// Workspaces of which other resources are left.
    pub workspaces: Vec<(OrganizationId, WorkspaceId)>,
    /// Workspaces without a record of which something is left as it is: their tenants have still to be heard. A wish of each
    /// waits, as one that was refused for now.
    pub awaited: Vec<(OrganizationId, WorkspaceId)>,
    /// The launches that this store does not know, of all of these.
    pub unknown: Vec<Launched>,
}

impl Orphans {
    /// What the store answers for once the alarm is ended: the launches, and whatever else of before comes to light of the
    /// workspaces that have no record, as a disk does when its instance is gone. That takes nothing away by itself.
    pub fn answered_for(&self) -> Vec<Launched> {
        let whole = self.workspaces.iter().chain(&self.awaited).map(|(_, workspace)| (WHOLE, *workspace));
        self.unknown.iter().copied().chain(whole).collect()
    }
}

/// Lists orphans; `None` where the provider does not answer. What has ended while the store was read is none: only what the
/// provider still shows after that is listed, so that what a person is shown is there when they confirm it.
pub async fn list(executor: &Executor) -> Result<Option<Orphans>, StoreError> {
    let Some((mut sightings, mut owned)) = shown(executor).await else { return Ok(None) };
    let expected = executor.store.expectations(executor.backend.kind()).await?;
    let Some((again, owned_again)) = shown(executor).await else { return Ok(None) };
    let there: HashSet<_> = again.iter().map(|one| (one.found().instance, one.found().seq)).collect();
    sightings.retain(|one| there.contains(&(one.found().instance, one.found().seq)));
    owned.retain(|one| owned_again.contains(one));
    Ok(Some(Unexplained::of(&sightings, &owned, &expected).orphans(&*executor.store).await?))
}

/// What the provider has now; `None` where it does not answer.
async fn shown(executor: &Executor) -> Option<(Vec<Sighting>, Vec<OwnedResource>)> {
    let snapshot = executor.look().await;
    let sightings = snapshot.sightings().ok()?.collect();
    Some((sightings, resources(executor).await?))
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

/// Whether a record explains something by now: one of that id may have been created since the lists were read. `seq` is the
/// launch of an instance; of other resources any record of their workspace counts. Where the store does not say, it does.
async fn is_recorded(
    executor: &Executor,
    organization: OrganizationId,
    workspace: WorkspaceId,
    seq: Option<LaunchSeq>,
) -> bool {
    match executor.store.get(organization, workspace).await {
        Ok(record) => record.filter(|record| record.phase != Phase::Gone).is_some_and(|record| {
            seq.is_none_or(|seq| record.live_attempt().is_some_and(|own| own.seq == seq))
        }),
        Err(error) => {
            warn!(%error, "the store does not say whether it has a record by now; a later sweep tries again");
            true
        }
    }
}

/// Removes these, but what a record explains by now. Whether all that is to be removed is gone.
pub(super) async fn destroy(
    executor: &Executor,
    instances: &[(InstanceRef, LaunchSeq)],
    workspaces: &[(OrganizationId, WorkspaceId)],
) -> bool {
    let limit = executor.policy.other_call;
    let mut all = true;
    for (instance, seq) in instances {
        if is_recorded(executor, instance.organization, instance.workspace, Some(*seq)).await {
            continue;
        }
        warn!(workspace = %instance.workspace, generation = %instance.generation, launch = %seq, "removing an orphan");
        let remove = || executor.backend.remove(instance, *seq);
        if let Err(error) = executor.call("sweep.remove", limit, remove).await {
            warn!(%error, "the orphan is still there; a later sweep tries again");
            all = false;
        }
    }
    for (organization, workspace) in workspaces {
        if is_recorded(executor, *organization, *workspace, None).await {
            continue;
        }
        warn!(%workspace, "removing an orphan's volumes");
        let purge = || executor.backend.purge(*organization, *workspace);
        if let Err(error) = executor.call("sweep.purge", limit, purge).await {
            warn!(%error, "some are still there; a later sweep tries again");
            all = false;
        }
    }
    all
}

/// The provider's list of other resources than instances, where it gives one.
pub(super) async fn resources(executor: &Executor) -> Option<Vec<OwnedResource>> {
    let list = || executor.backend.list_resources();
    match executor.call("backend.list_resources", executor.policy.other_call, list).await {
        Ok(resources) => Some(resources),
        Err(error) => {
            warn!(%error, "the provider does not list its resources, so nothing is removed");
            None
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use molecule_domain::Timestamp;
    use molecule_domain::id::Generation;

    use super::*;
    use crate::observation::{InstanceState, Snapshot};
    use crate::store::memory::MemoryStore;

    pub(in crate::reconciler) fn instance(n: u128) -> InstanceRef {
        InstanceRef {
            organization: OrganizationId::SELF_HOSTED,
            workspace: WorkspaceId::from_uuid(uuid::Uuid::from_u128(n)),
            generation: Generation(1),
        }
    }

    pub(in crate::reconciler) fn seen(found: &[(u128, i64, i64)]) -> Vec<Sighting> {
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

    pub(in crate::reconciler) fn expect(records: &[(u128, i64)]) -> Expectations {
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
        Expectations { instances, ..Expectations::default() }
    }

    pub(in crate::reconciler) fn volume(n: u128) -> OwnedResource {
        OwnedResource {
            organization: OrganizationId::SELF_HOSTED,
            workspace: instance(n).workspace,
            name: format!("volume of {n}"),
            seq: LaunchSeq(1),
        }
    }

    pub(in crate::reconciler) const NOW: Timestamp = Timestamp::from_micros(1_000_000_000);

    #[test]
    fn what_a_record_explains_stays() {
        let all = Unexplained::of(&seen(&[(1, 1, 0)]), &[volume(1)], &expect(&[(1, 1)]));
        assert_eq!((all.len(), all.launches().len()), (0, 0));
    }

    /// A tenant has told it again, and was refused for now: it is nobody's to remove, and its launches are answered for with the
    /// alarm's end like any other's.
    #[tokio::test]
    async fn what_is_awaited_stays() {
        let one = (OrganizationId::SELF_HOSTED, instance(1).workspace);
        let awaited = |owner, what| Expectations { awaited: [((owner, one.1), what)].into(), ..expect(&[]) };
        let expected = awaited(one.0, Awaited::Whole);
        let all = Unexplained::of(&seen(&[(1, 1, 0), (2, 2, 0)]), &[volume(1), volume(2)], &expected);
        assert_eq!((all.len(), all.workspaces()), (2, HashSet::from([instance(2).workspace])));
        let store = MemoryStore::default();
        let orphans = all.orphans(&store).await.unwrap();
        assert_eq!(orphans.workspaces, [(OrganizationId::SELF_HOSTED, instance(2).workspace)]);
        assert_eq!(orphans.awaited, [one]);
        assert_eq!(orphans.unknown.len(), 3, "{orphans:?}");
        store.end_alarm("memory", &orphans.answered_for(), NOW).await.unwrap();
        assert_eq!(all.orphans(&store).await.unwrap().unknown, []);
        // another organisation's of that id is not meant
        let others = awaited(OrganizationId::generate(), Awaited::Whole);
        assert_eq!(Unexplained::of(&seen(&[(1, 1, 0)]), &[volume(1)], &others).len(), 2);
    }

    /// Nothing of a suspended organisation's runs, and its data stays.
    #[tokio::test]
    async fn of_what_a_suspended_organisation_awaits_the_instance_goes() {
        let one = (OrganizationId::SELF_HOSTED, instance(1).workspace);
        let expected = Expectations { awaited: [(one, Awaited::Data)].into(), ..expect(&[]) };
        let all = Unexplained::of(&seen(&[(1, 1, 0)]), &[volume(1)], &expected);
        let store = MemoryStore::default();
        let orphans = all.orphans(&store).await.unwrap();
        assert_eq!(orphans.instances, [(instance(1), LaunchSeq(1))]);
        assert_eq!((&orphans.workspaces, &orphans.awaited), (&vec![], &vec![one]));
        // its disk, which an earlier launch made, comes to light once the instance is gone, and is no news
        store.end_alarm("memory", &orphans.answered_for(), NOW).await.unwrap();
        let disk = OwnedResource { seq: LaunchSeq(77), ..volume(1) };
        let later = Unexplained::of(&[], &[disk], &expected).orphans(&store).await.unwrap();
        assert_eq!((later.unknown, later.awaited), (vec![], vec![one]));
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
