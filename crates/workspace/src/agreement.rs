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

    /// The newest start of which the provider may have heard wishes. One that met the provider, and ended before they
    /// had agreed, told none.
    pub fn last_met(&self, seen: &[Standpoint]) -> Option<IncarnationId> {
        let is_held = |id| self.held.iter().any(|held| held.id == id);
        let seen = seen.iter().map(|one| one.incarnation);
        seen.filter(|id| !is_held(*id) || self.agreed_in.is_some_and(|agreed| *id <= agreed)).max()
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
}

impl Agreed {
    /// Counts what was agreed about a workspace.
    pub fn add(&mut self, record: &WorkspaceRecord, verdict: Verdict) {
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
    /// The newest start of this tenant that has agreed with the provider, or of which the provider knows and this
    /// database doesn't. Wishes of later starts were never told.
    pub last_met: Option<IncarnationId>,
    /// Whether this tenant's database was put back to an earlier state.
    pub set_back: bool,
    /// The start that speaks.
    pub own: IncarnationId,
    /// Makes tokens.
    pub minter: &'a dyn Minter,
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
    /// Whether a wish waits that brings this generation.
    brings: bool,
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
        (Some(held), Some(has))
            if has.intent < held.answered || has.generation < held.generation && !held.brings =>
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
    /// Agrees with the provider about this workspace; `instance` is all that the provider has of it, and
    /// `knows_agent` says whether this database made the credential of the generation that runs.
    pub fn agree(
        &mut self,
        instance: Option<&InstanceView>,
        knows_agent: bool,
        terms: &Terms<'_>,
        now: Timestamp,
    ) -> (Verdict, SideEffects) {
        let before = self.record.clone();
        let mut effects = SideEffects::default();
        if let Some(instance) = instance {
            self.number_anew(instance.intent, terms);
        }
        let verdict = verdict(Some(self.held()), instance.map(Has::of));
        match verdict {
            Verdict::Same | Verdict::TakeBack => {}
            Verdict::Adopt => self.adopt(instance),
            Verdict::TellAgain => self.tell_again(instance, terms, now, &mut effects),
            Verdict::Deleted if instance.is_none() => {
                self.deleted("deleted; the provider has nothing of it", now, &mut effects);
            }
            Verdict::Deleted => {
                self.outbox.clear();
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
            let unknown = self.record.phase == Phase::Up || self.record.phase == Phase::Booting;
            if terms.set_back && unknown && !knows_agent {
                // of the generation that replaces it no more may be known
                self.record.recovered = self.record.recovered.max(Some(instance.generation));
            }
        }
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
        effects.add_token = None;
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
            brings: self
                .outbox
                .iter()
                .any(|entry| entry.wish.launches() && entry.generation == self.record.generation),
            deleting: self.record.is_deleting(),
            gone: self.record.phase == Phase::Gone,
        }
    }

    /// Wishes that were never told, and whose numbers the provider has given to others before the restore, get numbers
    /// above those. What stands before them was done by then.
    fn number_anew(&mut self, done: IntentNumber, terms: &Terms<'_>) {
        let is_new = |entry: &Entry| terms.last_met.is_none_or(|met| entry.asked_in > met);
        let Some(first) = self.outbox.iter().position(is_new) else { return };
        if !terms.set_back || self.outbox[first].number > done {
            return;
        }
        self.outbox.drain(..first);
        for (entry, number) in self.outbox.iter_mut().zip(done.0 + 1..) {
            entry.number = IntentNumber(number);
        }
        self.record.intent = self.outbox.last().map_or(done, |last| last.number);
        self.record.answered = done;
    }

    fn adopt(&mut self, instance: Option<&InstanceView>) {
        let Some(instance) = instance else { return };
        self.outbox.retain(|entry| entry.number > instance.intent);
        self.record.answered = self.record.answered.max(instance.intent);
        self.record.intent = self.record.intent.max(instance.intent);
        if instance.wanted_generation > self.record.generation {
            self.record.generation = instance.wanted_generation;
            self.record.highest = self.record.highest.max(instance.wanted_generation);
            self.record.recovered = Some(instance.wanted_generation);
        }
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
        if let Some(has) = instance.filter(|has| launched(has) && has.desired == self.record.desired) {
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
            Some(has) => match self.record.reason.filter(|_| self.record.phase == Phase::Failed) {
                Some(reason) if has.phase != Phase::Failed => {
                    Wish::Stop(Some((reason, self.record.message.clone())))
                }
                _ => Wish::Stop(None),
            },
        };
        let sealed_token = if wish.launches() {
            let token = terms.minter.mint(self.record.workspace, self.record.generation);
            effects.add_token = Some((self.record.generation, token.hash));
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
        Held { intent, answered, generation: Generation(generation), brings: false, deleting, gone }
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
            (alive(7, 7), runs(7, 1), TellAgain),
            (alive(7, 5), runs(7, 1), TellAgain),
            (alive(7, 5).map(|held| Held { brings: true, ..held }), runs(5, 1), Same),
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
        assert_eq!(meetings.last_met(&seen), Some(id(2)));
        // start 3 met the provider and ended before they agreed: its wishes are still to be told
        meetings.held = held(&[(1, 0), (3, 10), (4, 12)]);
        let seen = [standpoint(3, 12), standpoint(2, 30), standpoint(1, 20)];
        assert_eq!(meetings.last_met(&seen), Some(id(2)));
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
