//! What the provider says, in types that keep "unknown" from passing for "absent".
//!
//! A [`Sighting`] and an [`Absence`] can only be had from a [`Snapshot`], and a snapshot only from a whole
//! answer of the provider's. The planner's actions that start, stop or take away something carry one of the
//! two, so none of them can be planned on no answer.

use std::collections::{HashMap, HashSet};

use molecule_domain::Timestamp;
use molecule_domain::id::LaunchSeq;

use crate::model::{Endpoint, InstanceRef};

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
    /// On its way down.
    Stopping,
    /// Down, with its exit code where the provider tells it.
    Exited(Option<i32>),
}

impl InstanceState {
    /// Whether it can run nothing as it is.
    pub const fn is_down(self) -> bool {
        matches!(self, Self::Created | Self::Exited(_))
    }
}

/// One look at all that this installation owns.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When the provider was asked: nothing here is older.
    taken_at: Timestamp,
    /// What was asked for; `None` is everything.
    wanted: Option<HashSet<InstanceRef>>,
    answer: Result<HashMap<InstanceRef, OwnedInstance>, String>,
}

impl Snapshot {
    /// The provider's whole answer to a question asked at `asked_at`, or why there is none.
    pub fn new(asked_at: Timestamp, answer: Result<Vec<OwnedInstance>, String>) -> Self {
        let answer = answer.map(|owned| owned.into_iter().map(|one| (one.instance, one)).collect());
        Self { taken_at: asked_at, wanted: None, answer }
    }

    /// The same of an answer to a question for some instances only: of others it says nothing.
    pub fn of(
        wanted: &[InstanceRef],
        asked_at: Timestamp,
        answer: Result<Vec<OwnedInstance>, String>,
    ) -> Self {
        Self { wanted: Some(wanted.iter().copied().collect()), ..Self::new(asked_at, answer) }
    }

    /// What it says of one instance.
    pub fn observe(&self, instance: &InstanceRef) -> Observation {
        if self.wanted.as_ref().is_some_and(|wanted| !wanted.contains(instance)) {
            return Observation::Unknown("the provider was not asked for it".to_owned());
        }
        match &self.answer {
            Err(cause) => Observation::Unknown(cause.clone()),
            Ok(owned) => match owned.get(instance) {
                Some(found) => Observation::Present(Sighting { found: found.clone(), at: self.taken_at }),
                None => Observation::Absent(Absence { at: self.taken_at }),
            },
        }
    }

    /// All sightings, where there was an answer.
    pub fn sightings(&self) -> Result<impl Iterator<Item = Sighting> + '_, &str> {
        match &self.answer {
            Err(cause) => Err(cause),
            Ok(owned) => Ok(owned.values().map(|found| Sighting { found: found.clone(), at: self.taken_at })),
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
