//! What must become of a workspace whose tenant's database was put back, by the stated rule: of two wishes the one with the
//! higher number wins, whichever side holds it; what either side knows as deleted stays deleted; and what the tenant does not
//! know any more goes on as it is. All of it follows from what the two sides hold in the moment of the restore, but for calls
//! that are on their way then: the engine says so when it grants one.

use std::collections::BTreeMap;

use molecule_domain::Timestamp;
use molecule_domain::id::{IntentNumber, WorkspaceId};
use molecule_domain::lifecycle::{Desired, Phase, Reason};
use molecule_provisioner::model::InstanceRecord;
use molecule_workspace::{Entry, Wish, Workspace};

use crate::suspension::is_suspended;
use crate::wished::{Fields, SeenWish, Wished};

/// What holds of a workspace from before its tenant's database was put back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Base {
    /// What is wanted; `None` where neither side has anything of it.
    pub(crate) desired: Option<Desired>,
    /// The number under which that was asked for.
    pub(crate) intent: IntentNumber,
    /// Why its tenant had given it up, where it had.
    pub(crate) failed_for: Option<Reason>,
    /// When it was asked for, as far as that is known.
    pub(crate) since: Timestamp,
    /// Whether the two sides have agreed since.
    pub(crate) has_agreed: bool,
}

impl Base {
    /// This is wanted, and nothing more is known.
    fn new(desired: Option<Desired>, intent: IntentNumber, since: Timestamp) -> Self {
        Self { desired, intent, failed_for: None, since, has_agreed: false }
    }

    /// Whether something is to be there.
    pub(crate) fn is_live(&self) -> bool {
        self.desired.is_some_and(|desired| desired != Desired::Deleted)
    }

    /// The engine has granted a call that was on its way when the database was put back. Whether that is news.
    pub(crate) fn hears(&mut self, number: IntentNumber, desired: Desired) -> bool {
        if self.desired == Some(Desired::Deleted) || number <= self.intent {
            return false;
        }
        (self.intent, self.desired, self.failed_for) = (number, Some(desired), None);
        true
    }
}

/// All that the two sides hold of an organisation.
#[derive(Debug, Default)]
pub(crate) struct Sides {
    pub(crate) engine: BTreeMap<WorkspaceId, InstanceRecord>,
    pub(crate) tenant: BTreeMap<WorkspaceId, Workspace>,
}

impl Sides {
    /// Every workspace that either side has.
    pub(crate) fn workspaces(&self) -> impl Iterator<Item = WorkspaceId> {
        self.engine.keys().chain(self.tenant.keys()).copied()
    }

    /// Whether a tenant has a workspace, and knows of all that the engine has granted. It may not where both were put back, and
    /// now the engine is to a time in between; of a deletion neither, whatever number another wish was told by since.
    pub(crate) fn tenant_knows_all(&self, workspace: WorkspaceId) -> bool {
        let engine = self.engine.get(&workspace);
        let granted = engine.map(|engine| engine.intent);
        self.tenant.get(&workspace).is_some_and(|tenant| {
            !tenant.record.wanted_is_unknown
                && granted <= Some(tenant.record.intent)
                && (tenant.record.is_deleting() || !engine.is_some_and(is_ending))
        })
    }

    /// What holds of a workspace, and the wishes of its tenant's that are newer than that. `wished` is what was wished before.
    pub(crate) fn of(&self, id: WorkspaceId, wished: &Wished, now: Timestamp) -> (Base, Vec<SeenWish>) {
        let (engine, tenant) = (self.engine.get(&id), self.tenant.get(&id));
        let base = |desired, intent| Base::new(desired, intent, now);
        // of an earlier one of its id, whose creation was refused, nothing is left
        let is_of_now = |tenant: &&Workspace| {
            !tenant.record.refused || engine.is_none_or(|engine| engine.intent <= tenant.record.intent)
        };
        let is_deleted = engine.is_some_and(is_ending)
            || tenant.filter(is_of_now).is_some_and(|tenant| tenant.record.is_deleting());
        if is_deleted {
            return (base(Some(Desired::Deleted), IntentNumber(0)), Vec::new());
        }
        let waiting = |after: IntentNumber| {
            let waits = tenant.iter().flat_map(|tenant| &tenant.outbox);
            let waits = waits.filter(move |entry| entry.number > after);
            waits.map(|entry| as_wish(entry, now)).collect()
        };
        match (engine, tenant) {
            (None, None) => (base(None, IntentNumber(0)), Vec::new()),
            // nobody was ever told of it
            (None, Some(tenant)) if tenant.record.answered == IntentNumber(0) => {
                (base(None, IntentNumber(0)), waiting(IntentNumber(0)))
            }
            // the engine has lost what it had granted, and is told what all of it came to
            (None, Some(tenant)) => (base(Some(tenant.record.desired), tenant.record.intent), Vec::new()),
            (Some(engine), Some(tenant)) if engine.intent < tenant.record.answered => {
                // what was adopted in words that the tenant does not know is told as the engine had it last
                let is_unknown = tenant.record.wanted_is_unknown;
                let desired = if is_unknown { engine.desired } else { tenant.record.desired };
                (base(Some(desired), tenant.record.intent), Vec::new())
            }
            (Some(engine), _) => (wished.base_of(engine, now), waiting(engine.intent)),
        }
    }
}

impl Wished {
    /// What the engine wants. It wants what has failed to be stopped, whatever was wished.
    fn base_of(&self, engine: &InstanceRecord, now: Timestamp) -> Base {
        let intent = engine.intent;
        let as_it_says = Base::new(Some(engine.desired), intent, now);
        if is_suspended(engine.desired, engine.reason) {
            // it was to run, and its suspension is known besides
            return Base { desired: Some(Desired::Running), ..as_it_says };
        }
        if engine.phase != Phase::Failed {
            return as_it_says;
        }
        if let Some(before) = self.base.filter(|before| before.intent == intent) {
            return Base { has_agreed: false, ..before };
        }
        let asked = self.wishes.iter().rev().find(|wish| wish.number == intent);
        let Some((asked, wish)) = asked.and_then(|asked| Some((asked, asked.wish.as_ref()?))) else {
            return as_it_says;
        };
        let failed_for = match wish {
            Wish::Stop(Some((reason, _))) => Some(*reason),
            _ => None,
        };
        Base { desired: Some(wish.desired()), failed_for, since: asked.at, ..as_it_says }
    }
}

/// Whether nothing but its end can come of an instance.
fn is_ending(engine: &InstanceRecord) -> bool {
    engine.desired == Desired::Deleted || engine.phase == Phase::Gone
}

/// A wish that waits in the backup's outbox. What it sets may be set already.
fn as_wish(entry: &Entry, at: Timestamp) -> SeenWish {
    SeenWish {
        number: entry.number,
        wish: Some(entry.wish.clone()),
        sets: Fields::new(),
        request: None,
        at,
        refused: false,
    }
}
