//! What a refusal takes back: the wish, what it had changed, and nothing that was asked for besides.

use molecule_domain::Timestamp;
use molecule_domain::id::{Generation, IntentNumber};
use molecule_domain::lifecycle::{Desired, Readiness};
use molecule_domain::spec::WorkspaceSpec;
use serde::{Deserialize, Serialize};

use crate::aggregate::{Asked, Change, Refusal, SideEffects, Workspace};
use crate::private::SealedParts;
use crate::record::WorkspaceRecord;
use crate::wish::{Entry, Wish};

/// The state before a wish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undo {
    /// The spec.
    pub spec: WorkspaceSpec,
    /// What made it ready.
    pub readiness: Readiness,
    /// What was wanted of the workspace before.
    pub desired: Desired,
    /// The generation.
    pub generation: Generation,
    /// The private parts, sealed, where the wish changed them.
    #[serde(skip)]
    pub private: Option<SealedParts>,
    /// The numbers of the stops that the wish was composed of: those stand, whatever becomes of it.
    pub stops: Vec<IntentNumber>,
    /// The request ids that asked for those stops.
    pub stop_requests: Vec<String>,
}

impl Undo {
    pub(crate) fn of(record: &WorkspaceRecord, private: Option<SealedParts>) -> Self {
        Self {
            spec: record.spec.clone(),
            readiness: record.readiness,
            desired: record.desired,
            generation: record.generation,
            private,
            stops: Vec::new(),
            stop_requests: Vec::new(),
        }
    }
}

impl Workspace {
    pub(crate) fn refused(
        &mut self,
        place: usize,
        refusal: &Refusal,
        now: Timestamp,
        effects: &mut SideEffects,
    ) {
        let entry = self.outbox.remove(place);
        effects.visible = true;
        effects.forget_requests.clone_from(&entry.requests);
        if matches!(entry.wish, Wish::Provision { .. }) {
            // never admitted, so there is nothing that later wishes could be about; the record stays, should an earlier
            // call of it be heard late
            self.record.refused = true;
            for later in self.outbox.drain(..) {
                effects.forget_requests.extend(later.requests);
            }
            self.deleted(&format!("it was refused: {}", refusal.message), now, effects);
            return;
        }
        effects.forget_requests.retain(|request| !entry.undo.stop_requests.contains(request));
        let stands = if entry.undo.stops.is_empty() { "" } else { "; the stop that came with it stands" };
        let message =
            format!("the {} was refused, and is taken back{stands}: {}", entry.wish.name(), refusal.message);
        effects.events.push(self.event("taken_back", message));
        self.revert(place, &entry);
        if !entry.undo.stops.is_empty() {
            self.stop_stands(place, entry, now, effects);
        }
    }

    /// The workspace as an instance of this generation is to find it: without what waits for the provider's answer and brings a
    /// later one.
    #[must_use]
    pub fn as_of(self, generation: Generation) -> Self {
        self.without(|entry| entry.wish.launches() && entry.generation > generation)
    }

    /// The workspace as it is once all is refused that may be.
    #[must_use]
    pub fn if_refused(self) -> Self {
        self.without(Entry::may_be_refused)
    }

    fn without(mut self, is_one: impl Fn(&Entry) -> bool) -> Self {
        while let Some(place) = self.outbox.iter().rposition(&is_one) {
            let entry = self.outbox.remove(place);
            self.revert(place, &entry);
        }
        self
    }

    /// Keeps the stops that a refused wish was composed of: they are told now, or held by the wish that follows.
    fn stop_stands(&mut self, place: usize, refused: Entry, now: Timestamp, effects: &mut SideEffects) {
        if let Some(next) = self.outbox.get_mut(place) {
            next.undo.desired = Desired::Stopped;
            next.undo.stops.extend(refused.undo.stops);
            next.undo.stop_requests.extend(refused.undo.stop_requests.iter().cloned());
            next.requests.extend(refused.undo.stop_requests);
            return;
        }
        let undo = Undo::of(&self.record, None);
        self.record.intent = self.record.intent.next();
        let change = Change { trace: refused.trace, ..Change::default() };
        let asked = Asked { key: None, now, own: refused.asked_in };
        self.follow(Wish::Stop(None), change, undo, asked, effects);
        if let Some(stop) = self.outbox.last_mut() {
            stop.requests = refused.undo.stop_requests;
        }
    }

    /// Goes back to what was before an entry, but for what was asked for after it.
    pub(crate) fn revert(&mut self, place: usize, entry: &Entry) {
        let undo = &entry.undo;
        if let Some(before) = &undo.private {
            let mut later: Vec<_> =
                self.outbox[place..].iter_mut().filter_map(|later| later.undo.private.as_mut()).collect();
            later.push(&mut self.private);
            // as the next wish that changed any of them found them
            let applied = later[0].clone();
            for parts in later {
                parts.take_back(&applied, before);
            }
        }
        for later in &mut self.outbox[place..] {
            take_back(&mut later.undo.spec, &entry.spec, &undo.spec);
            take_back(&mut later.spec, &entry.spec, &undo.spec);
            if later.undo.generation == entry.generation {
                later.undo.generation = undo.generation;
            }
        }
        if let Some(next) = self.outbox.get_mut(place) {
            next.undo.desired = undo.desired;
        } else {
            self.record.desired = undo.desired;
        }
        take_back(&mut self.record.spec, &entry.spec, &undo.spec);
        if self.record.readiness != undo.readiness && self.outbox[place..].iter().all(|e| !e.wish.launches())
        {
            self.record.readiness = undo.readiness;
        }
        if self.record.generation == entry.generation {
            self.record.generation = undo.generation;
            for later in &mut self.outbox[place..] {
                later.generation = undo.generation;
            }
        }
    }
}

/// Sets every field of a spec that still is as `applied` made it back to what it was `before`.
fn take_back(spec: &mut WorkspaceSpec, applied: &WorkspaceSpec, before: &WorkspaceSpec) {
    macro_rules! fields {
        ($($field:ident),*) => {
            $(if spec.$field == applied.$field { spec.$field.clone_from(&before.$field); })*
        };
    }
    fields!(name, runtime, tier, labels, parent, role, env, mount, readiness);
}

/// Sets in a spec what one has set since the other.
pub(crate) fn carry_over(spec: &mut WorkspaceSpec, before: &WorkspaceSpec, since: &WorkspaceSpec) {
    macro_rules! fields {
        ($($field:ident),*) => {
            $(if since.$field != before.$field { spec.$field.clone_from(&since.$field); })*
        };
    }
    fields!(name, runtime, tier, labels, parent, role, env, mount, readiness);
}
