//! What a run has met: each count is a cell, and a cell that stays empty fails the run.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};

use molecule_domain::lifecycle::{Phase, Reason};

use crate::faults::Fault;

/// Of what kind a wish is, for the table of pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // as in `Wish`
pub enum WishKind {
    Provision,
    Start,
    Stop,
    StopWithCause,
    Replace,
    Delete,
}

impl WishKind {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Provision, Self::Start, Self::Stop, Self::StopWithCause, Self::Replace, Self::Delete];
}

/// How far the last entry is when the next wish comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Told {
    /// No call was begun.
    Untold,
    /// A call is under way.
    Begun,
    /// A call was begun, and is over without an answer.
    AnswerLost,
}

impl Told {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Untold, Self::Begun, Self::AnswerLost];
}

/// A restored database, by whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Restored {
    /// A tenant's.
    Tenant,
    /// The control plane's.
    ControlPlane,
}

/// How often each step was taken. Thousands are in a life: a name is found by where it stands.
#[derive(Clone, Default)]
pub struct Steps(HashMap<usize, (&'static str, u64), BuildHasherDefault<ByAddress>>);

impl Steps {
    fn add(&mut self, step: &'static str, count: u64) {
        self.0.entry(step.as_ptr().addr()).or_insert((step, 0)).1 += count;
    }

    /// How often a step was taken.
    pub fn of(&self, step: &str) -> u64 {
        self.0.values().filter(|(name, _)| *name == step).map(|(_, count)| count).sum()
    }

    /// The counts by name. One name may stand in several places.
    pub fn by_name(&self) -> BTreeMap<&'static str, u64> {
        let mut all = BTreeMap::new();
        for (step, count) in self.0.values() {
            *all.entry(*step).or_default() += count;
        }
        all
    }
}

impl fmt::Debug for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.by_name().fmt(f)
    }
}

/// Tells addresses of names apart.
#[derive(Clone, Copy, Debug, Default)]
struct ByAddress(u64);

impl Hasher for ByAddress {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_usize(usize::from(*byte));
        }
    }

    fn write_usize(&mut self, address: usize) {
        self.0 = (self.0 ^ address as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 ^= self.0 >> 32;
    }
}

/// Counts of what was met.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    /// How often each fault met each step.
    pub faults: BTreeMap<(Fault, &'static str), u64>,
    /// How often each step was taken.
    pub steps: Steps,
    /// How often each kind of trouble came over the world.
    pub troubles: BTreeMap<&'static str, u64>,
    /// How often a wish of one kind met a last entry of another.
    pub pairs: BTreeMap<(WishKind, WishKind, Told), u64>,
    /// How often an instance went from one phase to another.
    pub transitions: BTreeMap<(Phase, Phase), u64>,
    /// How often an instance FAILED for a reason.
    pub failed: BTreeMap<Reason0, u64>,
    /// How often a suspension met what was to run, by the phase that it was in.
    pub suspended: BTreeMap<Phase, u64>,
    /// How often a database was restored.
    pub restored: BTreeMap<Restored, u64>,
    /// What the workspaces were at the end of their lives.
    pub ends: BTreeMap<&'static str, u64>,
    /// Wishes that were stored, faults that happened, refusals that clients heard, and other figures.
    pub figures: BTreeMap<&'static str, u64>,
}

/// A reason, in the order of its name.
pub type Reason0 = &'static str;

impl Coverage {
    /// A fault met a step.
    pub fn fault(&mut self, fault: Fault, step: &'static str) {
        *self.faults.entry((fault, step)).or_default() += 1;
        self.figure("faults");
    }

    /// A step was taken.
    pub fn step(&mut self, step: &'static str) {
        self.steps.add(step, 1);
    }

    /// Trouble came over the world.
    pub fn trouble(&mut self, kind: &'static str) {
        *self.troubles.entry(kind).or_default() += 1;
        self.figure("faults");
    }

    /// An instance changed its phase.
    pub fn transition(&mut self, from: Phase, to: Phase, reason: Option<Reason>) {
        if from != to {
            *self.transitions.entry((from, to)).or_default() += 1;
            if let (Phase::Failed, Some(reason)) = (to, reason) {
                *self.failed.entry(reason.as_str()).or_default() += 1;
            }
        }
    }

    /// Counts one more of something.
    pub fn figure(&mut self, name: &'static str) {
        *self.figures.entry(name).or_default() += 1;
    }

    /// A figure.
    pub fn figure_of(&self, name: &str) -> u64 {
        self.figures.get(name).copied().unwrap_or(0)
    }

    /// Adds another run's counts.
    pub fn add(&mut self, other: &Self) {
        fn add<K: Ord + Copy>(to: &mut BTreeMap<K, u64>, from: &BTreeMap<K, u64>) {
            for (key, count) in from {
                *to.entry(*key).or_default() += count;
            }
        }
        add(&mut self.faults, &other.faults);
        other.steps.0.values().for_each(|(step, count)| self.steps.add(step, *count));
        add(&mut self.troubles, &other.troubles);
        add(&mut self.pairs, &other.pairs);
        add(&mut self.transitions, &other.transitions);
        add(&mut self.failed, &other.failed);
        add(&mut self.suspended, &other.suspended);
        add(&mut self.restored, &other.restored);
        add(&mut self.ends, &other.ends);
        add(&mut self.figures, &other.figures);
    }
}
