//! How a tenant and its provider agree again after either was put back to an earlier state, or after a wish was told
//! whose answer was lost. Of two wishes for one workspace the one with the higher number wins, whichever side holds it.
//! What either side knows as deleted is never launched again by the other. What the provider has and the tenant doesn't
//! know is taken back as it is, and nothing touches it until a person says so.

use std::collections::BTreeMap;

use molecule_domain::Timestamp;
use molecule_domain::event::{Actor, EventDetail};
use molecule_domain::id::{Generation, IncarnationId, IntentNumber, Revision, WorkspaceId};
use molecule_domain::incarnation::{Incarnation, Standpoint, is_behind};
use molecule_domain::instance::InstanceView;
use molecule_domain::lifecycle::{Desired, Phase, Readiness, Reason};
use molecule_domain::spec::WorkspaceSpec;

use crate::aggregate::{NewWorkspace, SealedToken, SideEffects, Workspace};
use crate::record::WorkspaceRecord;
use crate::wish::{Entry, Undo, Wish};

/// What a provider says when a process of a tenant's meets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Met {
    /// Where the provider's database stands.
    pub provider: Standpoint,
    /// What the provider had seen of this tenant before, newest first.
    pub seen: Vec<Standpoint>,
}

/// What a tenant's database holds of its own starts, and of its meetings with the provider.
#[derive(Clone, Debug, Default)]
pub struct Meetings {
    /// Its starts, in the order in which they began; the last one is the one that speaks.
    pub held: Vec<Incarnation>,
    /// What the provider had seen of this tenant when they last agreed: no reason any more to think of a restore.
    pub acknowledged: BTreeMap<IncarnationId, Revision>,
    /// The start in which they last agreed.
    pub agreed_in: Option<IncarnationId>,
    /// The provider's start with which they agreed.
    pub provider: Option<IncarnationId>,
}

impl Meetings {
    /// Whether this database, whose highest revision is `current`, is behind what the provider has seen of it.
    pub fn is_set_back(&self, current: Revision, seen: &[Standpoint]) -> bool {
        let is_known = |one: &Standpoint| {
            self.acknowledged.get(&one.incarnation).is_some_and(|revision| *revision >= one.revision)
        };
        seen.iter().any(|one| !is_known(one) && is_behind(&self.held, current, one))
    }

    /// Whether no wish of a start was ever told: it began after the one in which the two last agreed. One that met the
    /// provider, and ended before they had agreed, told none.
    pub fn has_told_nothing(&self, start: IncarnationId) -> bool {
        let place = |id| self.held.iter().position(|held| held.id == id);
        let agreed = self.agreed_in.and_then(place);
        place(start).is_some_and(|place| agreed.is_none_or(|agreed| place > agreed))
    }

    /// Whether the two have to agree before anything is told.
    pub fn must_agree(&self, current: Revision, met: &Met) -> bool {
        self.agreed_in != self.held.last().map(|own| own.id)
            || self.provider != Some(met.provider.incarnation)
            || self.is_set_back(current, &met.seen)
    }
}

/// What came of an agreement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agreed {
    /// Whether the tenant's database was put back to an earlier state.
    pub set_back: bool,
    /// Workspaces of which the provider is told again what it had lost.
    pub told_again: Vec<WorkspaceId>,
    /// Workspaces whose later wishes the provider knew.
    pub adopted: Vec<WorkspaceId>,
    /// Workspaces that the tenant didn't know, or of whose agents it doesn't.
    pub recovered: Vec<WorkspaceId>,
    /// Wishes that give way to later ones of which the provider had heard.
    pub taken_back: Vec<(WorkspaceId, IntentNumber)>,
}

impl Agreed {
    /// Counts what was agreed about a workspace.
    pub fn add(&mut self, record: &WorkspaceRecord, verdict: Verdict, effects: &SideEffects) {
        self.taken_back.extend(effects.taken_back.iter().map(|number| (record.workspace, *number)));
        match verdict {
            Verdict::TellAgain | Verdict::DeleteAgain => self.told_again.push(record.workspace),
            Verdict::Adopt | Verdict::Deleted => self.adopted.push(record.workspace),
            Verdict::Same | Verdict::TakeBack => {}
        }
        if record.is_recovered() {
            self.recovered.push(record.workspace);
        }
    }
}

/// Makes what a key is needed for.
pub trait Minter: Send + Sync {
    /// A new bootstrap token for a generation.
    fn mint(&self, workspace: WorkspaceId, generation: Generation) -> SealedToken;
    /// No config files and no secrets, sealed.
    fn no_private_parts(&self, workspace: WorkspaceId) -> Vec<u8>;
}

/// What is known beside a workspace and its instance when the two sides agree.
#[derive(Clone, Copy)]
pub struct Terms<'a> {
    /// What this database holds of its own starts.
    pub meetings: &'a Meetings,
    /// Whether this tenant's database was put back to an earlier state.
    pub set_back: bool,
    /// The start that speaks.
    pub own: IncarnationId,
    /// Makes tokens.
    pub minter: &'a dyn Minter,
}

/// What a tenant's database holds of the agents of a workspace that the provider has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KnownAgents {
    /// Whether it made the credential of the generation that runs, or that may still ask for one.
    pub running: bool,
    /// Whether it made the bootstrap token of the generation that is wanted.
    pub wanted: bool,
}

impl KnownAgents {
    /// By the generations of which the database has a bootstrap token, each with whether it has made a credential for it.
    /// A token that seems unused may have been redeemed in the time that is lost, but where nothing was launched yet.
    pub fn of(instance: &InstanceView, held: &[(Generation, bool)]) -> Self {
        let launched = instance.phase != Phase::Admitted;
        Self {
            running: held
                .iter()
                .any(|(known, redeemed)| *known == instance.generation && (*redeemed || !launched)),
            wanted: held.iter().any(|(known, _)| *known == instance.wanted_generation),
        }
    }

    /// The generation of whose agent nothing is known.
    const fn lost(self, instance: &InstanceView) -> Option<Generation> {
        if !self.wanted {
            Some(instance.wanted_generation)
        } else if !self.running {
            Some(instance.generation)
        } else {
            None
        }
    }
}

/// What is to be done about one workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: both know the same, or what waits in the outbox brings it about.
    Same,
    /// The provider has done later wishes, which win.
    Adopt,
    /// The provider has lost wishes that it had granted: it is told what they came to.
    TellAgain,
    /// The provider knows it as deleted, or has nothing of one that was being deleted.
    Deleted,
    /// The tenant knows it as deleted, and the provider doesn't.
    DeleteAgain,
    /// The tenant doesn't know it.
    TakeBack,
}

/// The state of a workspace at its tenant, as far as it matters here.
#[derive(Clone, Copy, Debug)]
struct Held {
    intent: IntentNumber,
    answered: IntentNumber,
    generation: Generation,
    /// The number of the last wish that waits and brings this generation.
    brought_by: Option<IntentNumber>,
    deleting: bool,
    gone: bool,
}

/// The same at the provider.
#[derive(Clone, Copy, Debug)]
struct Has {
    intent: IntentNumber,
    generation: Generation,
    deleting: bool,
}

/// The rule. `deleting` includes what is gone.
fn verdict(held: Option<Held>, has: Option<Has>) -> Verdict {
    match (held, has) {
        (None, Some(has)) if !has.deleting => Verdict::TakeBack,
        (None, _) => Verdict::Same,
        (Some(held), Some(has)) if held.deleting && !has.deleting => {
            // a deletion that waits and is newer than what the provider did is told anyway
            if held.gone || held.answered == held.intent || has.intent >= held.intent {
                Verdict::DeleteAgain
            } else {
                Verdict::Same
            }
        }
        (Some(held), None) if held.deleting => {
            if held.gone || held.answered < held.intent {
                Verdict::Same
            } else {
                Verdict::Deleted
            }
        }
        (Some(held), Some(_)) if held.deleting => Verdict::Same,
        (Some(_), Some(has)) if has.deleting => Verdict::Deleted,
        (Some(held), None) if held.answered == IntentNumber(0) => Verdict::Same,
        (Some(_), None) => Verdict::TellAgain,
        (Some(held), Some(has)) if has.intent > held.intent || has.generation > held.generation => {
            Verdict::Adopt
        }
        (Some(held), Some(has)) if has.intent < held.answered => Verdict::TellAgain,
        // a generation that it has lost, or that a wish brings whose number it has given to another
        (Some(held), Some(has))
            if has.generation < held.generation
                && held.brought_by.is_none_or(|number| number <= has.intent) =>
        {
            Verdict::TellAgain
        }
        (Some(_), Some(_)) => Verdict::Same,
    }
}

impl Has {
    fn of(instance: &InstanceView) -> Self {
        Self {
            intent: instance.intent,
            generation: instance.wanted_generation,
            deleting: instance.is_ending(),
        }
    }
}

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
                self.record.answered = self.record.answered.max(instance.intent);
                self.record.intent = self.record.intent.max(instance.intent);
            }
        }
        let verdict = verdict(Some(self.held()), instance.map(Has::of));
        match verdict {
            Verdict::Same | Verdict::TakeBack => {}
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
            && verdict != Verdict::DeleteAgain
        {
            self.record.instance_revision = Revision(0);
            self.take_over(instance, now, terms.own, &mut effects);
            if terms.set_back && !self.record.is_deleting() {
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
                    ..before
                };
        (verdict, effects)
    }

    /// Takes back a workspace that only the provider knows. It runs on untouched.
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
        workspace.record.recovered = Some(instance.generation);
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
        }
    }

    /// Wishes that were never told, and whose numbers the provider has given to others before the restore, get numbers
    /// and generations above those. What stands before them was done by then.
    fn number_anew(&mut self, instance: &InstanceView, terms: &Terms<'_>, effects: &mut SideEffects) {
        let done = instance.intent;
        let is_new = |entry: &Entry| terms.meetings.has_told_nothing(entry.asked_in);
        let Some(first) = self.outbox.iter().position(is_new) else { return };
        if !terms.set_back || self.outbox[first].number > done {
            return;
        }
        let dropped = self.outbox.drain(..first).collect();
        for entry in self.give_way(dropped, instance, effects) {
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
                self.record.highest = self.record.highest.next();
                generation = self.record.highest;
                let token = terms.minter.mint(self.record.workspace, generation);
                entry.sealed_token = token.sealed;
                effects.add_tokens.push((generation, token.hash));
            }
            entry.generation = entry.generation.max(generation);
        }
        self.record.generation = self.record.generation.max(generation);
    }

    /// The provider has done later wishes than this tenant knows of.
    fn adopt(&mut self, instance: Option<&InstanceView>, terms: &Terms<'_>, effects: &mut SideEffects) {
        let Some(instance) = instance else { return };
        self.follow_provider(instance, |entry| entry.number <= instance.intent, terms, effects);
        let record = &mut self.record;
        record.answered = record.answered.max(instance.intent);
        record.intent = record.intent.max(instance.intent);
    }

    /// Tells some entries no more, and takes the generation that the provider has unless another one waits.
    fn follow_provider(
        &mut self,
        instance: &InstanceView,
        is_over: impl Fn(&Entry) -> bool,
        terms: &Terms<'_>,
        effects: &mut SideEffects,
    ) {
        let (dropped, left) = std::mem::take(&mut self.outbox).into_iter().partition(is_over);
        self.outbox = left;
        for entry in self.give_way(dropped, instance, effects) {
            let place = self.outbox.iter().position(|left| left.number > entry.number);
            self.revert(place.unwrap_or(self.outbox.len()), &entry);
        }
        self.raise_generations(instance, terms, effects);
        let record = &mut self.record;
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
            let is_done = entry.wish.desired() == instance.desired
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

    /// One entry tells what all that was granted and all that waits came to.
    fn tell_again(
        &mut self,
        instance: Option<&InstanceView>,
        terms: &Terms<'_>,
        now: Timestamp,
        effects: &mut SideEffects,
    ) {
        let run = self.record.desired == Desired::Running;
        let launched = |has: &InstanceView| has.wanted_generation >= self.record.generation;
        let cause = self.outbox.iter().rev().find_map(|entry| match &entry.wish {
            Wish::Stop(cause) => cause.clone(),
            _ => None,
        });
        let is_so = |has: &&InstanceView| launched(has) && has.desired == self.record.desired;
        if let Some(has) = instance.filter(is_so).filter(|_| cause.is_none()) {
            // it wants the same all the same
            self.outbox.clear();
            self.record.answered = has.intent;
            return;
        }
        let reset_session =
            self.outbox.iter().any(|one| matches!(one.wish, Wish::Replace { reset_session: true, .. }));
        let wish = match instance {
            None => Wish::Provision { run },
            Some(has) if has.wanted_generation < self.record.generation => {
                Wish::Replace { run, reset_session }
            }
            Some(has) if run && has.phase == Phase::Failed => {
                // what has failed there can't be started
                self.record.generation = self.record.highest.next();
                self.record.highest = self.record.generation;
                Wish::Replace { run, reset_session }
            }
            Some(_) if run => Wish::Start,
            Some(has) => {
                let failed = self.record.reason.filter(|_| self.record.phase == Phase::Failed);
                let failed = failed.map(|reason| (reason, self.record.message.clone()));
                Wish::Stop(cause.or(failed).filter(|_| has.phase != Phase::Failed))
            }
        };
        let sealed_token = if wish.launches() {
            let token = terms.minter.mint(self.record.workspace, self.record.generation);
            effects.add_tokens.push((self.record.generation, token.hash));
            token.sealed
        } else {
            Vec::new()
        };
        // under a number that nothing else was told by: an earlier call may still be heard
        let done = instance.map_or(self.record.intent, |has| has.intent.max(self.record.intent));
        self.record.intent = done.next();
        self.retell(wish, sealed_token, terms.own, now, effects);
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
        self.retell(Wish::Delete, Vec::new(), own, now, effects);
    }

    fn retell(
        &mut self,
        wish: Wish,
        sealed_token: Vec<u8>,
        own: IncarnationId,
        now: Timestamp,
        effects: &mut SideEffects,
    ) {
        let record = &self.record;
        let entry = Entry {
            number: record.intent,
            wish,
            generation: record.generation,
            spec: record.spec.clone(),
            sealed_token,
            group: None,
            asked_at: self.outbox.first().map_or(now, |first| first.asked_at),
            asked_in: own,
            trace: record.trace.clone(),
            requests: self.outbox.iter().flat_map(|one| one.requests.clone()).collect(),
            undo: Undo::of(record, None),
            retold: true,
            begun: true,
        };
        self.outbox = vec![entry];
        effects.visible = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(intent: i64, answered: i64, generation: u32, deleting: bool, gone: bool) -> Held {
        let (intent, answered) = (IntentNumber(intent), IntentNumber(answered));
        Held { intent, answered, generation: Generation(generation), brought_by: None, deleting, gone }
    }

    fn has(intent: i64, generation: u32, deleting: bool) -> Has {
        Has { intent: IntentNumber(intent), generation: Generation(generation), deleting }
    }

    #[test]
    fn the_two_sides_agree_by_this_table() {
        use Verdict::{Adopt, DeleteAgain, Deleted, Same, TakeBack, TellAgain};
        let (alive, deleting, gone) = (
            |intent, answered| Some(held(intent, answered, 2, false, false)),
            |intent, answered| Some(held(intent, answered, 2, true, false)),
            Some(held(5, 5, 2, true, true)),
        );
        let brings = |number, intent, answered| {
            let brought_by = Some(IntentNumber(number));
            Some(Held { brought_by, ..held(intent, answered, 2, false, false) })
        };
        let runs = |intent, generation| Some(has(intent, generation, false));
        let ends = |intent| Some(has(intent, 2, true));
        let table = [
            // only one side knows it
            (None, None, Same),
            (None, runs(5, 2), TakeBack),
            (None, ends(5), Same),
            (alive(5, 5), None, TellAgain),
            (alive(6, 5), None, TellAgain),
            (alive(1, 0), None, Same),
            (deleting(5, 5), None, Deleted),
            (deleting(6, 5), None, Same),
            (gone, None, Same),
            // both know it, and want it
            (alive(5, 5), runs(5, 2), Same),
            (alive(7, 5), runs(5, 2), Same),
            (alive(7, 5), runs(6, 2), Same),
            (alive(7, 5), runs(7, 2), Same),
            (alive(7, 5), runs(8, 2), Adopt),
            (alive(5, 5), runs(5, 3), Adopt),
            (alive(5, 5), runs(4, 2), TellAgain),
            (alive(7, 5), runs(4, 1), TellAgain),
            // the last generation waits to be told, or was lost, or its wish's number is another's there
            (brings(6, 7, 5), runs(5, 1), Same),
            (alive(5, 5), runs(5, 1), TellAgain),
            (alive(7, 5), runs(6, 1), TellAgain),
            (brings(6, 7, 5), runs(6, 1), TellAgain),
            (brings(6, 7, 5), runs(8, 1), Adopt),
            // one side knows it as deleted
            (alive(5, 5), ends(6), Deleted),
            (alive(7, 5), ends(3), Deleted),
            (deleting(5, 5), runs(4, 2), DeleteAgain),
            (deleting(5, 5), runs(9, 2), DeleteAgain),
            (deleting(6, 5), runs(5, 2), Same),
            (deleting(6, 5), runs(6, 2), DeleteAgain),
            (gone, runs(4, 2), DeleteAgain),
            (gone, runs(9, 3), DeleteAgain),
            // both do
            (deleting(5, 5), ends(5), Same),
            (gone, ends(5), Same),
        ];
        for (held, has, expected) in table {
            assert_eq!(verdict(held, has), expected, "{held:?}, {has:?}");
        }
    }

    #[test]
    fn a_restore_is_told_by_what_the_provider_has_seen() {
        let id = |milli: u64| {
            let uuid = format!("{:08x}-{:04x}-7000-8000-000000000000", milli >> 16, milli & 0xffff);
            uuid.parse::<IncarnationId>().unwrap()
        };
        let standpoint =
            |milli, revision| Standpoint { incarnation: id(milli), revision: Revision(revision) };
        let held = |begins: &[(u64, i64)]| {
            let one = |(milli, begins_at): &(u64, i64)| Incarnation {
                id: id(*milli),
                begins_at: Revision(*begins_at),
            };
            begins.iter().map(one).collect::<Vec<_>>()
        };
        // start 1 agreed; a backup was taken at revision 10; start 1 went on to 20, start 2 to 30; then start 3 began
        let mut meetings = Meetings {
            held: held(&[(1, 0), (3, 10)]),
            agreed_in: Some(id(1)),
            provider: Some(id(100)),
            ..Meetings::default()
        };
        let seen = [standpoint(2, 30), standpoint(1, 20)];
        assert!(meetings.is_set_back(Revision(12), &seen));
        let told_nothing =
            |meetings: &Meetings| [1, 2, 3, 4].map(|start| meetings.has_told_nothing(id(start)));
        assert_eq!(told_nothing(&meetings), [false, false, true, false]);
        // start 3 met the provider and ended before they agreed: its wishes are still to be told
        meetings.held = held(&[(1, 0), (3, 10), (4, 12)]);
        let seen = [standpoint(3, 12), standpoint(2, 30), standpoint(1, 20)];
        assert_eq!(told_nothing(&meetings), [false, false, true, true]);
        // a clock that went back says nothing: the order in which they began does
        meetings.held = held(&[(9, 0), (3, 10), (4, 12)]);
        meetings.agreed_in = Some(id(9));
        assert_eq!(told_nothing(&meetings), [false, false, true, true]);
        meetings.held = held(&[(1, 0), (3, 10), (4, 12)]);
        meetings.agreed_in = Some(id(1));
        assert!(meetings.is_set_back(Revision(12), &seen));
        // once they have agreed it is no news any more
        meetings.acknowledged = seen.iter().map(|one| (one.incarnation, one.revision)).collect();
        meetings.agreed_in = Some(id(4));
        let met = Met { provider: standpoint(100, 50), seen: seen.to_vec() };
        assert!(!meetings.must_agree(Revision(12), &met));
        let other = Met { provider: standpoint(101, 50), ..met.clone() };
        assert!(meetings.must_agree(Revision(12), &other), "another start of the provider");
        let further = Met { seen: vec![standpoint(1, 21)], ..met };
        assert!(meetings.must_agree(Revision(12), &further), "it went on after all");
    }
}
