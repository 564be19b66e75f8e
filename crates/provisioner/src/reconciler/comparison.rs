//! Compares everything the provider has with everything the store expects: what differs is to be woken, and of what nobody
//! expects some is to be taken away.

use std::collections::HashMap;

use molecule_domain::Timestamp;
use molecule_domain::id::{Generation, LaunchSeq, OrganizationId, WorkspaceId};
use molecule_domain::lifecycle::Phase;

use super::orphans::Unexplained;
use crate::backend::OwnedResource;
use crate::model::InstanceRef;
use crate::observation::{InstanceState, OwnedInstance, Sighting};
use crate::policy::Policy;
use crate::store::Expectations;

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

/// Instances by their launches, and workspaces of which other resources are left.
pub(super) type Removable = (Vec<(InstanceRef, LaunchSeq)>, Vec<(OrganizationId, WorkspaceId)>);

/// What of these may be destroyed in one pass of a provider that has `owned` things. `made_at` says when an instance was made,
/// or was seen first, if that is earlier: the provider's clock may be ahead of ours. `seen_since` says since when a
/// resource has been unexplained: resources don't tell their age.
pub(super) fn destroyable(
    unexplained: &Unexplained,
    owned: usize,
    made_at: impl Fn(&OwnedInstance) -> Timestamp,
    seen_since: impl Fn(&OwnedResource) -> Timestamp,
    refused: impl Fn(&WorkspaceId) -> u32,
    policy: &Policy,
    now: Timestamp,
) -> Removable {
    let budget = (owned / 10).max(1);
    let old = unexplained.instances.iter().filter(|one| now.since(made_at(one)) >= policy.orphan_grace);
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

/// Records whose instance does not run as they last knew it, or has come to the end that they wait for, of whose launch there
/// are two, or of whose workspace a later one is there.
pub(super) fn differing(expected: &Expectations, sightings: &[Sighting]) -> Vec<WorkspaceId> {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::orphans::tests::{NOW, expect, instance, seen, volume};
    use super::*;

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
        destroyable(
            &unexplained,
            sightings.len() + volumes.len(),
            |one| one.created_at,
            |_| since,
            |_| 0,
            &policy,
            NOW,
        )
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

    #[test]
    fn a_later_generation_of_its_workspace_wakes_a_record_and_an_earlier_one_does_not() {
        let beside = |generation, seq| {
            let mut found: Vec<_> = seen(&[(1, 5, 0)]).iter().map(|one| one.found().clone()).collect();
            let mut other = found[0].clone();
            (other.instance.generation, other.seq) = (Generation(generation), LaunchSeq(seq));
            found.push(other);
            let snapshot = crate::observation::Snapshot::new(NOW, Ok(found));
            snapshot.sightings().unwrap().collect::<Vec<_>>()
        };
        let mut expected = expect(&[(1, 5)]);
        expected.instances[0].generation = Generation(1);
        assert_eq!(differing(&expected, &beside(2, 9)), [instance(1).workspace]);
        assert_eq!(differing(&expected, &beside(2, 3)), [instance(1).workspace], "whatever its launch");
        assert_eq!(differing(&expected, &beside(0, 9)), []);
        assert_eq!(differing(&expected, &beside(1, 4)), []);
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
}
