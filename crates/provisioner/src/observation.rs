//! What the provider says, in types that keep "unknown" from passing for "absent".
//!
//! A [`Sighting`] and an [`Absence`] can only be had from a [`Snapshot`], and a snapshot only from a whole
//! answer of the provider's. The planner's actions that start, stop or take away something carry one of the
//! two, so none of them can be planned on no answer.

use std::collections::{BTreeMap, HashSet};

use molecule_domain::Timestamp;
use molecule_domain::id::{LaunchSeq, WorkspaceId};

use crate::model::{Endpoint, InstanceRecord, InstanceRef};

/// An instance of this installation's, as the provider lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedInstance {
    /// What it is an instance of, by its labels.
    pub instance: InstanceRef,
    /// The launch that made it, by its labels.
    pub seq: LaunchSeq,
    /// Its state.
    pub state: InstanceState,
    /// Where it is reached, while it runs.
    pub endpoint: Option<Endpoint>,
    /// When the provider made it.
    pub created_at: Timestamp,
}

/// The state of an instance at its provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstanceState {
    /// Made, never started.
    Created,
    /// On its way up.
    Starting,
    /// On, but without what is only attached once it is: it can run nothing yet.
    Unattached,
    /// Up.
    Running,
    /// On its way down; it can be started again.
    Stopping,
    /// On its way out: it is being removed, and can't be started again.
    Removing,
    /// Down, with its exit code where the provider tells it.
    Exited(Option<i32>),
}

impl InstanceState {
    /// Whether it can run nothing as it is.
    pub const fn is_down(self) -> bool {
        matches!(self, Self::Created | Self::Exited(_))
    }

    /// Whether it is on its way down or out.
    pub const fn is_ending(self) -> bool {
        matches!(self, Self::Stopping | Self::Removing)
    }
}

/// One look at all that this installation owns.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When the provider was asked: nothing here is older.
    taken_at: Timestamp,
    /// The workspaces that were asked for; `None` is all.
    wanted: Option<HashSet<WorkspaceId>>,
    /// By workspace, in the order in which the provider tells: there may be several of one, and of one generation.
    answer: Result<BTreeMap<WorkspaceId, Vec<OwnedInstance>>, String>,
}

impl Snapshot {
    /// The provider's whole answer to a question asked at `asked_at`, or why there is none.
    pub fn new(asked_at: Timestamp, answer: Result<Vec<OwnedInstance>, String>) -> Self {
        let answer = answer.map(|owned| {
            let mut all: BTreeMap<WorkspaceId, Vec<OwnedInstance>> = BTreeMap::new();
            for one in owned {
                all.entry(one.instance.workspace).or_default().push(one);
            }
            all
        });
        Self { taken_at: asked_at, wanted: None, answer }
    }

    /// The same of an answer to a question for some workspaces only: of others it says nothing.
    pub fn of(
        wanted: &[InstanceRef],
        asked_at: Timestamp,
        answer: Result<Vec<OwnedInstance>, String>,
    ) -> Self {
        let wanted = wanted.iter().map(|instance| instance.workspace).collect();
        Self { wanted: Some(wanted), ..Self::new(asked_at, answer) }
    }

    /// What it says of the instance of a record.
    pub fn observe(&self, record: &InstanceRecord) -> Observation {
        let instance = record.instance();
        if self.wanted.as_ref().is_some_and(|wanted| !wanted.contains(&instance.workspace)) {
            return Observation::Unknown("the provider was not asked for it".to_owned());
        }
        let owned = match &self.answer {
            Err(cause) => return Observation::Unknown(cause.clone()),
            Ok(owned) => owned.get(&instance.workspace).map_or(&[][..], Vec::as_slice),
        };
        let last = record.attempt.as_ref().map(|attempt| attempt.seq);
        let live = record.live_attempt().map(|attempt| attempt.seq);
        let sighting = |found: &OwnedInstance| Sighting { found: found.clone(), at: self.taken_at };
        let of_this = |found: &&OwnedInstance| found.instance.generation == instance.generation;
        let of_live = owned.iter().filter(of_this).filter(|found| Some(found.seq) == live);
        // where a provider made two of one launch, what is done to one is done to both: what runs counts
        let own = of_live.clone().min_by_key(|found| (found.state.is_down(), found.state.is_ending()));
        let is_doubled = of_live.count() > 1;
        let place = |found: &OwnedInstance| (found.instance.generation, Some(found.seq));
        let later = owned.iter().filter(|found| place(found) > (instance.generation, last));
        if let Some(later) = later.max_by_key(|found| place(found)) {
            return Observation::Later { later: sighting(later), own: own.map(sighting) };
        }
        match (own, owned.iter().max_by_key(|found| place(found))) {
            (Some(own), _) if is_doubled => Observation::Doubled(sighting(own)),
            (Some(own), _) => Observation::Present(sighting(own)),
            (None, Some(earlier)) => Observation::Earlier(sighting(earlier)),
            (None, None) => Observation::Absent(Absence { at: self.taken_at }),
        }
    }

    /// All sightings, where there was an answer.
    pub fn sightings(&self) -> Result<impl Iterator<Item = Sighting> + '_, &str> {
        match &self.answer {
            Err(cause) => Err(cause),
            Ok(owned) => {
                let all = owned.values().flatten();
                Ok(all.map(|found| Sighting { found: found.clone(), at: self.taken_at }))
            }
        }
    }

    /// When the provider was asked.
    pub const fn taken_at(&self) -> Timestamp {
        self.taken_at
    }
}

/// What is known of one instance.
#[derive(Clone, Debug)]
pub enum Observation {
    /// The provider has it.
    Present(Sighting),
    /// The provider has made more than one of the launch; this is one of them.
    Doubled(Sighting),
    /// The provider has one of an earlier launch or generation of the workspace, and not this one: nothing is launched beside
    /// it.
    Earlier(Sighting),
    /// The provider has one of a later generation, or of a later launch of the same generation, than is stored, or one that the
    /// store has never launched: it was put back to an earlier state.
    Later {
        /// The latest one.
        later: Sighting,
        /// The one that is stored, where that is there as well.
        own: Option<Sighting>,
    },
    /// The provider says it has it not.
    Absent(Absence),
    /// The provider gave no answer, and why.
    Unknown(String),
}

/// Proof that an instance is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    found: OwnedInstance,
    at: Timestamp,
}

impl Sighting {
    /// What was seen.
    pub const fn found(&self) -> &OwnedInstance {
        &self.found
    }

    /// When the provider was asked.
    pub const fn at(&self) -> Timestamp {
        self.at
    }
}

/// Proof that an instance was not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Absence {
    at: Timestamp,
}

impl Absence {
    /// When the provider was asked.
    pub const fn at(&self) -> Timestamp {
        self.at
    }
}

#[cfg(test)]
mod tests {
    use molecule_domain::id::{AttemptNumber, Generation};

    use super::*;
    use crate::model::{Attempt, AttemptState};
    use crate::samples::provision;
    use crate::store::Store;
    use crate::store::memory::MemoryStore;

    const NOW: Timestamp = Timestamp::from_micros(1_000_000);

    /// What is observed of a record of generation 2 whose last launch was the fifth, where these are there, by generation and
    /// launch.
    async fn observed(state: AttemptState, there: &[(u32, i64)]) -> &'static str {
        let store = MemoryStore::default();
        let mut record = store.provision(&provision(WorkspaceId::generate()), NOW).await.unwrap();
        (record.generation, record.wanted_generation) = (Generation(2), Generation(2));
        record.attempt = Some(Attempt {
            number: AttemptNumber(1),
            seq: LaunchSeq(5),
            token: String::new(),
            placement: String::new(),
            state,
            call_until: NOW,
            unsure_until: NOW,
            created_at: NOW,
        });
        let owned = there.iter().map(|(generation, seq)| OwnedInstance {
            instance: InstanceRef { generation: Generation(*generation), ..record.instance() },
            seq: LaunchSeq(*seq),
            state: InstanceState::Running,
            endpoint: None,
            created_at: NOW,
        });
        match Snapshot::new(NOW, Ok(owned.collect())).observe(&record) {
            Observation::Present(found) => {
                assert_eq!(found.found().seq, LaunchSeq(5));
                "present"
            }
            Observation::Doubled(_) => "doubled",
            Observation::Earlier(_) => "earlier",
            Observation::Later { own: None, .. } => "later",
            Observation::Later { own: Some(_), .. } => "later, beside it",
            Observation::Absent(_) => "absent",
            Observation::Unknown(_) => "unknown",
        }
    }

    #[tokio::test]
    async fn what_is_observed_is_this_table() {
        use AttemptState::{Confirmed, Resolved};
        for (state, there, expected) in [
            (Confirmed, &[][..], "absent"),
            (Confirmed, &[(2, 5)], "present"),
            (Confirmed, &[(2, 4), (2, 5), (1, 3)], "present"),
            (Confirmed, &[(2, 5), (2, 5)], "doubled"),
            (Confirmed, &[(2, 4)], "earlier"),
            // nothing is launched beside another generation
            (Confirmed, &[(1, 3)], "earlier"),
            (Confirmed, &[(2, 6)], "later"),
            (Confirmed, &[(3, 4)], "later"),
            (Confirmed, &[(2, 5), (2, 6)], "later, beside it"),
            (Confirmed, &[(2, 5), (3, 9)], "later, beside it"),
            // the last launch was resolved: what shows up of it is late, and no launch that is not known
            (Resolved, &[(2, 5)], "earlier"),
            (Resolved, &[(2, 6)], "later"),
        ] {
            assert_eq!(observed(state, there).await, expected, "{state:?} {there:?}");
        }
    }
}
