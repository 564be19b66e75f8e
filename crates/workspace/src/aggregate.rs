//! A workspace with all that changes together with it, and what clients and the provider do to it.

use molecule_domain::Timestamp;
use molecule_domain::error::{Error, ErrorReason};
use molecule_domain::event::{Actor, EventDetail};
use molecule_domain::id::{Generation, IncarnationId, IntentNumber, OrganizationId, Revision, WorkspaceId};
use molecule_domain::instance::InstanceView;
use molecule_domain::lifecycle::{Desired, Phase, Readiness};
use molecule_domain::spec::WorkspaceSpec;

use crate::outbox::{Composition, compose};
use crate::private::SealedParts;
use crate::record::{AgentRecord, Pending, RequestKey, WorkspaceRecord};
use crate::undo::{Undo, carry_over};
use crate::wish::{Entry, Wish};

/// A workspace as a transaction sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Workspace {
    /// What is known of it.
    pub record: WorkspaceRecord,
    /// Config files and secrets, sealed.
    pub private: SealedParts,
    /// What the provider has still to be told, in order.
    pub outbox: Vec<Entry>,
}

/// A workspace to be created.
#[derive(Clone, Debug)]
pub struct NewWorkspace {
    /// Its id.
    pub workspace: WorkspaceId,
    /// Whose it is.
    pub organization: OrganizationId,
    /// What was asked for.
    pub spec: WorkspaceSpec,
    /// What makes it ready.
    pub readiness: Readiness,
    /// Config files and secrets, sealed.
    pub private: SealedParts,
    /// The first generation's bootstrap token.
    pub token: SealedToken,
    /// The trace that this belongs to.
    pub trace: String,
}

/// A bootstrap token as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedToken {
    /// The token, sealed for the provider.
    pub sealed: Vec<u8>,
    /// Its hash, by which it is known when it is redeemed.
    pub hash: Vec<u8>,
}

/// A change that a client asks for.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// What the provider is to be told; `None` where it need not know.
    pub wish: Option<Wish>,
    /// The new spec and what makes it ready, where that changes.
    pub spec: Option<(WorkspaceSpec, Readiness)>,
    /// New config files and secrets, sealed.
    pub private: Option<SealedParts>,
    /// For a replacement: the bootstrap token of [`Workspace::next_generation`].
    pub token: Option<SealedToken>,
    /// The trace that this belongs to.
    pub trace: String,
}

/// Who asked, when, and in which start of the tenant.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) key: Option<&'a RequestKey>,
    pub(crate) now: Timestamp,
    pub(crate) own: IncarnationId,
}

/// What a store writes beside the workspace, in the same transaction.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SideEffects {
    /// Whether watchers see a difference.
    pub visible: bool,
    /// What happened.
    pub events: Vec<EventDetail>,
    /// Generations' bootstrap tokens, by their hashes, beside those that it has.
    pub add_tokens: Vec<(Generation, Vec<u8>)>,
    /// Whose credentials and tokens are worth nothing from now on.
    pub revoke: Revoke,
    /// Request ids that are free again.
    pub forget_requests: Vec<String>,
    /// The numbers of wishes that gave way to others when the two sides agreed; their clients may wait for word of them.
    pub taken_back: Vec<IntentNumber>,
}

/// Generations whose credentials end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Revoke {
    /// None.
    #[default]
    None,
    /// All before this one.
    Before(Generation),
    /// All.
    All,
}

/// How the provider answered a wish.
#[derive(Clone, Debug)]
pub enum Answer {
    /// It is granted, or was before.
    Granted(InstanceView),
    /// It is refused for good.
    Refused(Refusal),
    /// There is no such workspace at the provider: a deletion is done, and nothing before it needs to be.
    NotFound,
}

/// Why the provider refused a wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The error's reason.
    pub reason: ErrorReason,
    /// The error's message.
    pub message: String,
}

impl Workspace {
    /// A new workspace, with the wish to provision it. `refused` is the record of an earlier one of this id whose creation
    /// was refused.
    pub fn create(
        new: &NewWorkspace,
        key: Option<&RequestKey>,
        now: Timestamp,
        own: IncarnationId,
        refused: Option<&WorkspaceRecord>,
    ) -> (Self, SideEffects) {
        let number = refused.map_or(IntentNumber(1), |refused| refused.intent.next());
        let generation = Generation(1);
        let record = WorkspaceRecord {
            workspace: new.workspace,
            organization: new.organization,
            spec: new.spec.clone(),
            readiness: new.readiness,
            intent: number,
            answered: IntentNumber(0),
            generation,
            highest: generation,
            desired: Desired::Running,
            wanted_is_unknown: false,
            phase: Phase::Admitted,
            phase_since: now,
            reason: None,
            message: "admitted".to_owned(),
            in_unknown_state: false,
            instance_generation: generation,
            instance_revision: Revision(0),
            endpoint: None,
            agent: AgentRecord::default(),
            recovered: None,
            told_again: None,
            refused: false,
            pending: None,
            trace: new.trace.clone(),
            created_at: now,
            updated_at: now,
            deleted_at: None,
            revision: Revision(0),
        };
        let undo = Undo::of(&record, None);
        let mut workspace = Self { record, private: new.private.clone(), outbox: Vec::new() };
        let change = Change { token: Some(new.token.clone()), trace: new.trace.clone(), ..Change::default() };
        let mut effects = SideEffects { visible: true, ..SideEffects::default() };
        let asked = Asked { key, now, own };
        workspace.follow(Wish::Provision { run: true }, change, undo, asked, &mut effects);
        workspace.refresh_pending();
        (workspace, effects)
    }

    /// The generation that a replacement asked for now would bring: that of an entry that the provider was never told,
    /// else the next one.
    pub fn next_generation(&self) -> Generation {
        match self.outbox.last() {
            Some(last) if !last.begun && last.wish.launches() => last.generation,
            _ => self.record.highest.next(),
        }
    }

    /// Refuses what a workspace that is deleted, or is being deleted, can't do any more.
    pub fn refuse_deleting(&self) -> Result<(), Error> {
        if self.record.is_deleting() {
            let id = self.record.workspace;
            return Err(Error::new(
                ErrorReason::WorkspaceDeleted,
                format!("workspace {id} is deleted or being deleted; create another"),
            ));
        }
        Ok(())
    }

    /// Whether it has failed, or is about to: a start can't help then.
    pub fn has_failed(&self) -> bool {
        let told_why = |entry: &Entry| matches!(entry.wish, Wish::Stop(Some(_)));
        self.record.phase == Phase::Failed && !self.outbox.iter().any(|entry| entry.wish.launches())
            || self.outbox.last().is_some_and(told_why)
    }

    /// The number of the last waiting wish, where a change asks for nothing that is not so already, and needs no wish: what becomes
    /// of the one becomes of the other. Where several wait, the caller has to know that it is the last one that asks for it.
    pub fn shares_answer_of(&self, change: &Change) -> Option<IntentNumber> {
        let asks_for_more = change.wish.is_some()
            || change.private.is_some()
            || change.spec.as_ref().is_some_and(|(spec, _)| *spec != self.record.spec);
        let waits = self.outbox.iter().rfind(|entry| entry.wish.launches() && entry.may_be_refused());
        waits.filter(|_| !asks_for_more).map(|entry| entry.number)
    }

    /// Stores what a client asks for.
    pub fn change(
        &mut self,
        change: Change,
        key: Option<&RequestKey>,
        now: Timestamp,
        own: IncarnationId,
    ) -> SideEffects {
        let mut effects = SideEffects { visible: true, ..SideEffects::default() };
        let shared = self.shares_answer_of(&change);
        if let Some(shared) = self.outbox.iter_mut().find(|entry| Some(entry.number) == shared) {
            shared.requests.extend(key.map(|key| key.id.clone()));
        }
        let private_before = change.private.clone().map(|new| std::mem::replace(&mut self.private, new));
        let undo = Undo::of(&self.record, private_before);
        self.record.intent = self.record.intent.next();
        self.record.trace.clone_from(&change.trace);
        if let Some((spec, readiness)) = &change.spec {
            self.record.spec.clone_from(spec);
            self.record.readiness = *readiness;
        }
        if let Some(wish) = change.wish.clone() {
            self.record.wanted_is_unknown = false;
            self.wish(wish, change, undo, Asked { key, now, own }, &mut effects);
        }
        self.refresh_pending();
        effects
    }

    fn wish(&mut self, wish: Wish, change: Change, undo: Undo, asked: Asked<'_>, effects: &mut SideEffects) {
        let composition = match self.outbox.last() {
            Some(last) => compose(&last.wish, last.begun, &wish),
            None => Composition::Followed,
        };
        match (composition, self.outbox.last_mut()) {
            (Composition::Composed(composed), Some(last)) => {
                if matches!(last.wish, Wish::Stop(_)) {
                    last.undo.stops.push(last.number);
                    last.undo.stop_requests.extend(last.requests.clone());
                }
                if matches!(wish, Wish::Stop(_)) {
                    last.undo.stops.push(self.record.intent);
                    last.undo.stop_requests.extend(asked.key.map(|key| key.id.clone()));
                }
                let brings = wish.launches();
                if brings && !last.wish.launches() {
                    last.generation = self.record.highest.next();
                }
                if brings {
                    // what was set meanwhile without a wish is not this entry's to take back
                    carry_over(&mut last.undo.spec, &last.spec, &undo.spec);
                    last.spec.clone_from(&self.record.spec);
                }
                if let Some(token) = change.token {
                    last.sealed_token = token.sealed;
                    effects.add_tokens.push((last.generation, token.hash));
                }
                if last.undo.private.is_none() {
                    last.undo.private = undo.private;
                }
                last.number = self.record.intent;
                last.trace = change.trace;
                last.requests.extend(asked.key.map(|key| key.id.clone()));
                self.record.desired = composed.desired();
                self.record.generation = self.record.generation.max(last.generation);
                self.record.highest = self.record.highest.max(last.generation);
                last.wish = composed;
            }
            (Composition::Nothing, Some(_)) => {
                self.outbox.pop();
                self.deleted("it was deleted before the provider was asked for it", asked.now, effects);
            }
            _ => self.follow(wish, change, undo, asked, effects),
        }
    }

    pub(crate) fn follow(
        &mut self,
        wish: Wish,
        change: Change,
        undo: Undo,
        asked: Asked<'_>,
        effects: &mut SideEffects,
    ) {
        if matches!(wish, Wish::Replace { .. }) {
            self.record.generation = self.record.highest.next();
            self.record.highest = self.record.generation;
        }
        self.record.desired = wish.desired();
        let sealed_token = change.token.map_or_else(Vec::new, |token| {
            effects.add_tokens.push((self.record.generation, token.hash));
            token.sealed
        });
        self.outbox.push(Entry {
            number: self.record.intent,
            wish,
            generation: self.record.generation,
            spec: self.record.spec.clone(),
            sealed_token,
            group: None,
            asked_at: asked.now,
            asked_in: asked.own,
            trace: change.trace,
            requests: asked.key.map(|key| key.id.clone()).into_iter().collect(),
            undo,
            retold: false,
            begun: false,
        });
    }

    /// Takes the provider's answer to an entry. An answer to an entry that is no longer there changes nothing but what
    /// the mirror learns from it.
    pub fn answered(
        &mut self,
        number: IntentNumber,
        answer: &Answer,
        now: Timestamp,
        own: IncarnationId,
    ) -> SideEffects {
        let mut effects = SideEffects::default();
        let place = self.outbox.iter().position(|entry| entry.number == number);
        match (answer, place) {
            (Answer::Granted(instance), place) => {
                if let Some(place) = place {
                    // what comes before it is older, and cannot be wanted any more
                    self.outbox.drain(..=place);
                    self.record.answered = self.record.answered.max(number);
                    effects.visible = true;
                }
                self.take_over(instance, now, own, &mut effects);
            }
            (Answer::NotFound, Some(place)) if self.outbox[place].wish == Wish::Delete => {
                self.outbox.clear();
                self.record.answered = number;
                self.deleted("deleted; the provider has nothing of it", now, &mut effects);
            }
            (Answer::Refused(refusal), Some(place)) if self.outbox[place].may_be_refused() => {
                self.refused(place, refusal, now, &mut effects);
            }
            (Answer::NotFound, Some(place)) => {
                // of what the provider doesn't have nothing but its deletion can be told
                if let Some(delete) = self.outbox.iter().position(|entry| entry.wish == Wish::Delete) {
                    self.outbox.drain(place.min(delete)..delete);
                    effects.visible = true;
                }
            }
            (Answer::Refused(_), Some(place)) if self.is_outdated(place) => {
                // the higher number wins: what waits behind it need not wait for it
                self.outbox.remove(place);
                effects.visible = true;
            }
            _ => {}
        }
        self.refresh_pending();
        effects
    }

    /// Whether what tells again an earlier state makes no difference to the wishes behind it.
    fn is_outdated(&self, place: usize) -> bool {
        let (entry, later) = (&self.outbox[place], &self.outbox[place + 1..]);
        let launched = !matches!(entry.wish, Wish::Provision { .. });
        let is_stop = |next: &Entry| launched && matches!(next.wish, Wish::Stop(_));
        let is_deleted = later.iter().any(|later| later.wish == Wish::Delete);
        entry.retold && (is_deleted || later.first().is_some_and(is_stop))
    }

    /// Notes why a call for the first entry did not succeed. Watchers see the first cause, and each that differs.
    pub fn call_failed(&mut self, number: IntentNumber, cause: &str) -> SideEffects {
        let mut effects = SideEffects::default();
        let waits = self.outbox.iter().any(|entry| entry.number == number);
        if let Some(pending) = self.record.pending.as_mut().filter(|pending| waits && pending.cause != cause)
        {
            cause.clone_into(&mut pending.cause);
            effects.visible = true;
        }
        effects
    }

    /// Nothing of it is left anywhere.
    pub(crate) fn deleted(&mut self, message: &str, now: Timestamp, effects: &mut SideEffects) {
        let record = &mut self.record;
        (record.desired, record.phase, record.phase_since) = (Desired::Deleted, Phase::Gone, now);
        (record.reason, record.endpoint, record.in_unknown_state) = (None, None, false);
        message.clone_into(&mut record.message);
        record.deleted_at = record.deleted_at.or(Some(now));
        effects.visible = true;
        effects.revoke = Revoke::All;
        effects.events.push(self.event("deleted", message.to_owned()));
    }

    pub(crate) fn event(&self, kind: &'static str, message: String) -> EventDetail {
        EventDetail {
            kind: kind.into(),
            actor: Actor::Engine,
            generation: self.record.generation,
            reason: None,
            message,
            exit_code: None,
            log_tail: String::new(),
        }
    }

    pub(crate) fn refresh_pending(&mut self) {
        let before = self.record.pending.take();
        self.record.pending = self.outbox.first().map(|first| Pending {
            since: first.asked_at,
            cause: before
                .filter(|before| before.since == first.asked_at)
                .map_or_else(String::new, |b| b.cause),
        });
    }
}
