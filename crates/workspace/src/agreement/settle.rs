//! What an agreement makes of one workspace.

use molecule_domain::Timestamp;
use molecule_domain::event::{Actor, EventDetail};
use molecule_domain::id::{Generation, IncarnationId, IntentNumber, Revision};
use molecule_domain::instance::InstanceView;
use molecule_domain::lifecycle::{Desired, Phase, Readiness, Reason};
use molecule_domain::spec::WorkspaceSpec;

use super::verdict::{Has, Held, Verdict, verdict};
use super::{KnownAgents, Terms};
use crate::aggregate::{NewWorkspace, SideEffects, Workspace};
use crate::record::{ToldAgain, WorkspaceRecord};
use crate::undo::Undo;
use crate::wish::{Entry, Wish};

impl Workspace {
    /// Agrees with the provider about this workspace; `instance` is all that the provider has of it, and `agents` what
    /// this database holds of its agents.
    pub fn agree(
        &mut self,
        instance: Option<&InstanceView>,
        agents: KnownAgents,
        terms: &Terms<'_>,
        now: Timestamp,
    ) -> (Verdict, SideEffects) {
        let before = self.record.clone();
        let mut effects = SideEffects::default();
        let mut overtaken = false;
        if let Some(instance) = instance {
            self.number_anew(instance, terms, &mut effects);
            let is_overtaken = |entry: &Entry| entry.number < instance.intent;
            overtaken = self.outbox.iter().any(is_overtaken);
            if overtaken {
                // under such a number the provider takes it for one that it was told before
                self.follow_provider(instance, is_overtaken, terms, &mut effects);
            }
        }
        let mut verdict = verdict(Some(self.held()), instance.map(Has::of));
        let is_moot = |has: &InstanceView| self.starts_what_has_failed(has) || self.brings_what_is_there(has);
        // what is told before a deletion gives way to it
        if verdict == Verdict::Same && !self.record.is_deleting() && instance.is_some_and(is_moot) {
            verdict = Verdict::TellAgain;
        }
        match verdict {
            Verdict::Same => {}
            Verdict::TakeBack => {
                if let Some(instance) = instance {
                    (*self, effects) = Self::take_back(instance, terms, now);
                    self.record.created_at = before.created_at;
                }
            }
            Verdict::Adopt => self.adopt(instance, terms, &mut effects),
            Verdict::TellAgain => self.tell_again(instance, terms, now, &mut effects),
            Verdict::Deleted if instance.is_none() => {
                self.deleted("deleted; the provider has nothing of it", now, &mut effects);
            }
            Verdict::Deleted => {
                if let Some(instance) = instance {
                    let dropped = std::mem::take(&mut self.outbox);
                    let _ = self.give_way(dropped, instance, &mut effects);
                }
                self.record.desired = Desired::Deleted;
                self.record.answered = self.record.intent;
            }
            Verdict::DeleteAgain => self.delete_again(instance, terms.own, now, &mut effects),
        }
        if let Some(instance) = instance
            && !matches!(verdict, Verdict::DeleteAgain | Verdict::TakeBack)
        {
            self.record.instance_revision = Revision(0);
            self.take_over(instance, now, terms.own, &mut effects);
            // a generation that the provider alone has heard of is of a time that this database does not hold
            if (terms.set_back || verdict == Verdict::Adopt) && !self.record.is_deleting() {
                self.record.recovered = agents.lost(instance).or(self.record.recovered);
            }
        }
        let verdict = if overtaken && verdict == Verdict::Same { Verdict::Adopt } else { verdict };
        self.refresh_pending();
        effects.visible = effects.visible
            && self.record
                != WorkspaceRecord {
                    instance_revision: self.record.instance_revision,
                    answered: self.record.answered,
                    told_again: self.record.told_again,
                    ..before
                };
        (verdict, effects)
    }

    /// Takes back a workspace that only the provider knows, whatever this database holds under its id. It runs on untouched.
    pub fn take_back(instance: &InstanceView, terms: &Terms<'_>, now: Timestamp) -> (Self, SideEffects) {
        let id = instance.workspace.to_string();
        let spec = WorkspaceSpec {
            name: format!("recovered-{}", id.rsplit('-').next().unwrap_or_default()),
            runtime: instance.runtime.clone(),
            tier: instance.tier,
            ..WorkspaceSpec::default()
        };
        let new = NewWorkspace {
            workspace: instance.workspace,
            organization: instance.organization,
            spec,
            readiness: Readiness::Agent,
            private: terms.minter.no_private_parts(instance.workspace),
            token: terms.minter.mint(instance.workspace, instance.generation),
            trace: String::new(),
        };
        let (mut workspace, mut effects) = Self::create(&new, None, now, terms.own, None);
        workspace.outbox.clear();
        workspace.record.intent = instance.intent;
        workspace.record.answered = instance.intent;
        workspace.record.generation = instance.wanted_generation;
        workspace.record.highest = instance.wanted_generation;
        workspace.take_over(instance, now, terms.own, &mut effects);
        // of the token that a replacement under way brings nothing is known either
        workspace.record.recovered = Some(instance.wanted_generation);
        workspace.refresh_pending();
        // its token is nobody's: the instance has one of which nothing is known any more
        effects.add_tokens.clear();
        effects.visible = true;
        effects.events.push(EventDetail {
            kind: "recovered".into(),
            actor: Actor::Engine,
            generation: instance.generation,
            reason: Some(Reason::Recovered),
            message: "found at the provider after a restore, and taken back as it runs".to_owned(),
            exit_code: None,
            log_tail: String::new(),
        });
        (workspace, effects)
    }

    fn held(&self) -> Held {
        Held {
            intent: self.record.intent,
            answered: self.record.answered,
            generation: self.record.generation,
            brought_by: self
                .outbox
                .iter()
                .rfind(|entry| entry.wish.launches() && entry.generation == self.record.generation)
                .map(|entry| entry.number),
            deleting: self.record.is_deleting(),
            gone: self.record.phase == Phase::Gone,
            refused: self.record.refused,
        }
    }

    /// Wishes that were never told, and whose numbers the provider has given to others before the restore, get numbers
    /// and generations above those. What stands before them was done by then. So does a stop whose number another
    /// was told by, or a replacement that another one follows.
    fn number_anew(&mut self, instance: &InstanceView, terms: &Terms<'_>, effects: &mut SideEffects) {
        let done = instance.intent;
        let is_new =
            |entry: &Entry| terms.meetings.has_told_nothing(entry.asked_in, terms.revision, terms.seen);
        let never_told = self.outbox.iter().position(is_new);
        let never_told = never_told.filter(|place| terms.set_back && self.outbox[*place].number <= done);
        // a deletion is told again by the verdict, and so is a last generation of which the provider has not heard, unless the
        // workspace is being deleted
        let last = self.outbox.iter().rposition(|entry| entry.wish.launches());
        let is_another = |(place, entry): (usize, &Entry)| {
            let is_told_again = Some(place) == last && !self.record.is_deleting();
            (matches!(entry.wish, Wish::Stop(_)) || entry.wish.launches() && !is_told_again)
                && entry.is_contradicted_by(instance)
        };
        let another = self.outbox.iter().enumerate().position(is_another);
        let Some(first) = never_told.or(another) else { return };
        let dropped = self.outbox.drain(..first).collect();
        // the last one first: each goes back to what the one before has made
        for entry in self.give_way(dropped, instance, effects).into_iter().rev() {
            self.revert(0, &entry);
        }
        for (entry, number) in self.outbox.iter_mut().zip(done.0 + 1..) {
            entry.number = IntentNumber(number);
        }
        self.record.intent = self.outbox.last().map_or(done, |last| last.number);
        self.record.answered = done;
        self.raise_generations(instance, terms, effects);
    }

    /// Gives the generations that wait numbers above that which the provider has.
    fn raise_generations(&mut self, instance: &InstanceView, terms: &Terms<'_>, effects: &mut SideEffects) {
        self.record.highest = self.record.highest.max(instance.wanted_generation);
        let mut generation = instance.wanted_generation;
        for entry in &mut self.outbox {
            if entry.wish.launches() && entry.generation <= instance.wanted_generation {
                (generation, entry.sealed_token) = next_generation(&mut self.record, terms, effects);
            }
            entry.generation = entry.generation.max(generation);
        }
        self.record.generation = self.record.generation.max(generation);
    }

    /// The provider has done later wishes than this tenant knows of.
    fn adopt(&mut self, instance: Option<&InstanceView>, terms: &Terms<'_>, effects: &mut SideEffects) {
        let Some(instance) = instance else { return };
        self.follow_provider(instance, |entry| entry.number <= instance.intent, terms, effects);
    }

    /// Tells some entries no more, and takes the number that the provider has, and the generation unless another one waits.
    fn follow_provider(
        &mut self,
        instance: &InstanceView,
        is_over: impl Fn(&Entry) -> bool,
        terms: &Terms<'_>,
        effects: &mut SideEffects,
    ) {
        let (dropped, left) = std::mem::take(&mut self.outbox).into_iter().partition(is_over);
        self.outbox = left;
        // the last one first: each goes back to what the one before has made
        for entry in self.give_way(dropped, instance, effects).into_iter().rev() {
            self.revert(0, &entry);
        }
        self.raise_generations(instance, terms, effects);
        let record = &mut self.record;
        record.wanted_is_unknown = self.outbox.is_empty() && instance.desired.is_none();
        record.answered = record.answered.max(instance.intent);
        record.intent = record.intent.max(instance.intent);
        if !self.outbox.iter().any(|entry| entry.wish.launches()) {
            record.generation = instance.wanted_generation;
            record.spec.runtime.clone_from(&instance.runtime);
            record.spec.tier = instance.tier;
        }
    }

    /// Notes which of these entries, which are told no more, come to nothing: the provider had heard of later wishes.
    /// Returns those that the provider never granted: what they set is to be taken back.
    fn give_way(
        &self,
        dropped: Vec<Entry>,
        instance: &InstanceView,
        effects: &mut SideEffects,
    ) -> Vec<Entry> {
        let mut never_granted = Vec::new();
        for entry in dropped {
            let is_done = Some(entry.wish.desired()) == instance.desired
                && (!entry.wish.launches() || entry.generation <= instance.wanted_generation);
            if !is_done {
                let message = format!(
                    "the {} is not carried out: after a restore it turned out that something else was asked for later",
                    entry.wish.name()
                );
                effects.events.push(self.event("taken_back", message));
                effects.forget_requests.extend(entry.requests.clone());
                effects.taken_back.push(entry.number);
            }
            if entry.wish.launches() && entry.generation > instance.wanted_generation {
                never_granted.push(entry);
            }
        }
        never_granted
    }

    /// Whether a start is told again of what has failed since, for which it is refused.
    fn starts_what_has_failed(&self, has: &InstanceView) -> bool {
        let starts = |entry: &Entry| entry.retold && entry.wish == Wish::Start && entry.number > has.intent;
        has.phase == Phase::Failed && self.outbox.first().is_some_and(starts)
    }

    /// Whether something is told again that the provider has after all: it was put back once more, to a later state. What has the
    /// generation is not replaced, unless it has failed; and what is there at all is not created.
    fn brings_what_is_there(&self, has: &InstanceView) -> bool {
        let is_there = |entry: &Entry| match entry.wish {
            Wish::Provision { .. } => true,
            Wish::Replace { run, .. } => {
                entry.undo.generation <= has.wanted_generation && !(run && has.phase == Phase::Failed)
            }
            _ => false,
        };
        self.outbox.iter().any(|entry| entry.retold && entry.number > has.intent && is_there(entry))
    }

    /// One wish tells what all that was granted and all that waits came to.
    fn tell_again(
        &mut self,
        instance: Option<&InstanceView>,
        terms: &Terms<'_>,
        now: Timestamp,
        effects: &mut SideEffects,
    ) {
        let runs = self.record.oldest_that_runs();
        self.forget_unlaunched_generation(instance);
        if let Some(desired) = instance.and_then(|has| has.desired)
            && self.record.wanted_is_unknown
        {
            // what the provider had done before is nearer to that than what this database knew even earlier
            self.record.desired = desired;
        }
        let run = self.record.desired == Desired::Running;
        let lost = self.record.generation;
        let cause = self.outbox.iter().rev().find_map(|entry| match &entry.wish {
            Wish::Stop(cause) => cause.clone(),
            _ => None,
        });
        if instance.is_some_and(|has| self.is_suspended_there(has)) && cause.is_none() {
            self.outbox.clear();
            return;
        }
        let reset_session =
            self.outbox.iter().any(|one| matches!(one.wish, Wish::Replace { reset_session: true, .. }));
        let wish = match instance {
            None => Wish::Provision { run },
            Some(has) if has.wanted_generation < lost => Wish::Replace { run, reset_session },
            // what has failed there can't be started
            Some(has) if run && has.phase == Phase::Failed => Wish::Replace { run, reset_session },
            Some(_) if run => Wish::Start,
            Some(has) => {
                let failed = self.record.reason.filter(|_| self.record.phase == Phase::Failed);
                let failed = failed.map(|reason| (reason, self.record.message.clone()));
                Wish::Stop(cause.or(failed).filter(|_| has.phase != Phase::Failed))
            }
        };
        // under a number that nothing else was told by: an earlier call may still be heard
        let done = instance.map_or(self.record.intent, |has| has.intent.max(self.record.intent));
        self.record.intent = done.next();
        if !wish.launches() {
            self.retell(wish, lost, Vec::new(), terms.own, now, effects);
            return;
        }
        let runs_there = instance.filter(|has| !run && has.desired == Some(Desired::Running));
        let stop = runs_there.map(|_| self.retold(Wish::Stop(None), lost, terms.own, now));
        // a generation of its own: what is left of the lost one's instance has another token, and what that gave
        let (generation, sealed_token) = next_generation(&mut self.record, terms, effects);
        self.record.generation = generation;
        self.record.told_again = Some(ToldAgain { lost, by: generation, runs });
        if stop.is_some() {
            self.record.intent = self.record.intent.next();
        }
        self.retell(wish, lost, sealed_token, terms.own, now, effects);
        if let Some(stop) = stop {
            // what is still counted as running there may leave no room for what replaces it
            self.outbox.insert(0, stop);
        }
    }

    /// A generation that was to bring again what was lost, was not launched, and is not known to the provider, was none.
    fn forget_unlaunched_generation(&mut self, instance: Option<&InstanceView>) {
        let current = self.record.generation;
        let known = instance.map_or(Generation(0), |has| has.wanted_generation);
        if let Some(told) = self.record.told_again.filter(|told| told.by == current) {
            self.record.generation = told.lost.max(known);
            let by_what_is_known = ToldAgain { by: self.record.generation, ..told };
            self.record.told_again = Some(by_what_is_known).filter(|told| told.runs < told.by);
        }
    }

    /// Whether the provider has stopped it for the suspension of its organisation, and nobody else has: it goes on saying so.
    fn is_suspended_there(&self, has: &InstanceView) -> bool {
        has.reason == Some(Reason::OrganizationSuspended)
            && has.desired == Some(self.record.desired)
            && has.wanted_generation >= self.record.generation
            && !self.outbox.iter().any(|entry| matches!(entry.wish, Wish::Stop(_)))
    }

    /// Deletes what the provider has of a workspace that is deleted here.
    pub(crate) fn delete_again(
        &mut self,
        instance: Option<&InstanceView>,
        own: IncarnationId,
        now: Timestamp,
        effects: &mut SideEffects,
    ) {
        let done = instance.map_or(IntentNumber(0), |has| has.intent);
        if self.record.intent <= done {
            self.record.intent = done.next();
        }
        if self.record.phase == Phase::Gone {
            self.record.phase = Phase::Stopping;
            self.record.deleted_at = None;
            self.record.refused = false;
            "being deleted again: the provider had it still".clone_into(&mut self.record.message);
        }
        let generation = self.record.generation;
        self.retell(Wish::Delete, generation, Vec::new(), own, now, effects);
    }

    /// One wish stands for all that waits; `before` is the generation that it tells of, or replaces.
    fn retell(
        &mut self,
        wish: Wish,
        before: Generation,
        sealed_token: Vec<u8>,
        own: IncarnationId,
        now: Timestamp,
        effects: &mut SideEffects,
    ) {
        let requests = self.outbox.iter().flat_map(|one| one.requests.clone()).collect();
        let entry = self.retold(wish, before, own, now);
        self.outbox = vec![Entry { sealed_token, requests, ..entry }];
        effects.visible = true;
    }

    fn retold(&self, wish: Wish, before: Generation, own: IncarnationId, now: Timestamp) -> Entry {
        let record = &self.record;
        Entry {
            number: record.intent,
            wish,
            generation: record.generation,
            spec: record.spec.clone(),
            sealed_token: Vec::new(),
            group: None,
            asked_at: self.outbox.first().map_or(now, |first| first.asked_at),
            asked_in: own,
            trace: record.trace.clone(),
            requests: Vec::new(),
            undo: Undo { generation: before, ..Undo::of(record, None) },
            retold: true,
            begun: true,
        }
    }
}

/// The next generation that was never asked for, and its token, sealed.
fn next_generation(
    record: &mut WorkspaceRecord,
    terms: &Terms<'_>,
    effects: &mut SideEffects,
) -> (Generation, Vec<u8>) {
    record.highest = record.highest.next();
    let token = terms.minter.mint(record.workspace, record.highest);
    effects.add_tokens.push((record.highest, token.hash));
    (record.highest, token.sealed)
}
