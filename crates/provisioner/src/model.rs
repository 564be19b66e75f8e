//! The records that the engine keeps.

use molecule_domain::Timestamp;
pub use molecule_domain::event::{Actor, EventDetail};
use molecule_domain::id::{
    AttemptNumber, ChargeId, Generation, IntentNumber, LaunchSeq, LeaseOwner, OrganizationId, Revision,
    WorkspaceId,
};
pub use molecule_domain::instance::{Endpoint, Event, InstanceView};
use molecule_domain::launch::LaunchSpec;
use molecule_domain::lifecycle::{Desired, Phase, Reason};
use serde::{Deserialize, Serialize};

use crate::store::Hold;

/// The instance of a workspace, in whichever generation it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceRecord {
    /// Whose instance it is.
    pub workspace: WorkspaceId,
    /// Whose workspace that is.
    pub organization: OrganizationId,
    /// The kind of the backend that it is on.
    pub backend: String,
    /// What was last asked for.
    pub desired: Desired,
    /// The number of the request that asked for it.
    pub intent: IntentNumber,
    /// The generation that runs, or that is being taken away for the wanted one.
    pub generation: Generation,
    /// The generation that is wanted.
    pub wanted_generation: Generation,
    /// What the wanted generation is launched from.
    pub spec: LaunchSpec,
    /// The wanted generation's bootstrap token, sealed: what was lost on its way up is launched again with it. Once its agent
    /// has connected it is worth nothing. Erased with the workspace.
    pub sealed_token: Option<Vec<u8>>,
    /// Where the instance is.
    pub phase: Phase,
    /// Since when.
    pub phase_since: Timestamp,
    /// Why it is there, where there is something to say.
    pub reason: Option<Reason>,
    /// The same for people.
    pub message: String,
    /// Where the provider says the instance is reached, while it is up.
    pub endpoint: Option<Endpoint>,
    /// How often it ended by itself since it last ran stably.
    pub restarts: u32,
    /// When it came up, while the provider says that it is: the start of the open usage segment.
    pub up_since: Option<Timestamp>,
    /// Steps in a row that did not succeed: what the back-off grows with.
    pub failures: u32,
    /// What it is charged as.
    pub charge: ChargeId,
    /// Whether its running part is counted against the limits.
    pub running_counted: bool,
    /// The organisation's revision at the last change.
    pub revision: Revision,
    /// When the engine looks at it next; `None` while nothing is to be done until something changes.
    pub due_at: Option<Timestamp>,
    /// The last launch of the current generation.
    pub attempt: Option<Attempt>,
    /// The trace of what was last asked for; what follows from it goes on with that.
    pub trace: String,
    /// When it was admitted.
    pub created_at: Timestamp,
}

impl InstanceRecord {
    /// What is wanted of it.
    pub const fn wanted(&self) -> Wanted {
        Wanted { intent: self.intent, desired: self.desired }
    }

    /// Spreads what would happen to many of them at once.
    pub fn seed(&self) -> u64 {
        self.workspace.as_uuid().as_u64_pair().1
    }

    /// The name of the current generation's instance.
    pub const fn instance(&self) -> InstanceRef {
        InstanceRef {
            organization: self.organization,
            workspace: self.workspace,
            generation: self.generation,
        }
    }

    /// Whether another generation is to take this one's place.
    pub fn is_being_replaced(&self) -> bool {
        self.generation < self.wanted_generation
    }

    /// Whether the next step is to launch or start it.
    pub fn is_launching(&self) -> bool {
        self.desired == Desired::Running
            && !self.is_being_replaced()
            && matches!(self.phase, Phase::Admitted | Phase::Launching)
    }

    /// Whether it is to stop, to go, or to give way to another generation.
    pub fn is_to_end(&self) -> bool {
        self.desired != Desired::Running || self.is_being_replaced()
    }

    /// The last launch, where it may have left something at the provider.
    pub fn live_attempt(&self) -> Option<&Attempt> {
        self.attempt.as_ref().filter(|attempt| attempt.state != AttemptState::Resolved)
    }
}

/// What is wanted of an instance, and the number of the last request. A suspension and a failure change what is wanted, and no
/// number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // as in the record
pub struct Wanted {
    pub intent: IntentNumber,
    pub desired: Desired,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { intent: IntentNumber(0), desired: Desired::Running }
    }
}

impl From<InstanceRecord> for InstanceView {
    fn from(record: InstanceRecord) -> Self {
        Self {
            workspace: record.workspace,
            organization: record.organization,
            desired: Some(record.desired),
            intent: record.intent,
            generation: record.generation,
            wanted_generation: record.wanted_generation,
            runtime: record.spec.runtime,
            tier: record.spec.tier,
            phase: record.phase,
            phase_since: record.phase_since,
            reason: record.reason,
            message: record.message,
            endpoint: record.endpoint,
            launched: record.attempt.is_some(),
            in_unknown_state: false,
            revision: record.revision,
        }
    }
}

/// What names one instance on every provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceRef {
    /// The organisation.
    pub organization: OrganizationId,
    /// The workspace.
    pub workspace: WorkspaceId,
    /// Its generation.
    pub generation: Generation,
}

/// One launch of one generation. It is stored before the provider is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Which launch of its generation it is.
    pub number: AttemptNumber,
    /// Which launch of the whole store it is.
    pub seq: LaunchSeq,
    /// What makes the provider call idempotent.
    pub token: String,
    /// Where the backend chose to launch it, in the backend's own words; empty where there is no choice.
    pub placement: String,
    /// What is known of it.
    pub state: AttemptState,
    /// Until when a call may still take effect: an absence observed before that proves nothing.
    pub call_until: Timestamp,
    /// The same of earlier calls whose answer never came: the last call's answer says nothing about them.
    pub unsure_until: Timestamp,
    /// When it began.
    pub created_at: Timestamp,
}

impl Attempt {
    /// Whether no call but the last can still take effect.
    pub fn is_sure(&self, now: Timestamp) -> bool {
        // a first call has none before it
        self.unsure_until <= self.created_at || self.unsure_until < now
    }

    /// The provider's idempotency token of a launch: the same for each retry, never the same for two launches, and at
    /// most 64 characters (EC2's limit for a `ClientToken`).
    pub fn token_of(workspace: WorkspaceId, generation: Generation, launch: LaunchSeq) -> String {
        format!("{}-{generation}-{launch}", workspace.as_uuid().simple())
    }
}

/// What is known of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttemptState {
    /// Intended; the provider may or may not have acted.
    Intended,
    /// The provider has it.
    Confirmed,
    /// Nothing of it is left, or nothing ever was: a new launch may begin.
    Resolved,
}

/// The right to work on one record for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The record.
    pub workspace: WorkspaceId,
    /// Who holds it.
    pub owner: LeaseOwner,
    /// Rises with every claim, so that a holder that slept through its lease is told apart from itself.
    pub epoch: i64,
    /// When it ends.
    pub until: Timestamp,
}

/// A record with the right to work on it.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// The right.
    pub lease: Lease,
    /// The record as it was when claimed.
    pub record: InstanceRecord,
    /// Whether what is wanted of it may be launched.
    pub hold: Hold,
}

/// Time that the provider confirmed an instance up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The generation that was up.
    pub generation: Generation,
    /// From when.
    pub from: Timestamp,
    /// Until when; `None` while it is up.
    pub until: Option<Timestamp>,
}
