//! What a tenant knows of a workspace.

use molecule_domain::Timestamp;
use molecule_domain::event::EventDetail;
use molecule_domain::id::{Generation, IntentNumber, OrganizationId, Revision, WorkspaceId};
use molecule_domain::instance::Endpoint;
use molecule_domain::lifecycle::{
    AgentHealth, Desired, Phase, Readiness, Reason, WorkspaceState, derive_state,
};
use molecule_domain::newer;
use molecule_domain::spec::WorkspaceSpec;
use serde::{Deserialize, Serialize};

/// A workspace: what was asked for, what the provider last said, what the agent last reported.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkspaceRecord {
    /// Its id.
    pub workspace: WorkspaceId,
    /// Whose it is.
    pub organization: OrganizationId,
    /// What was asked for.
    pub spec: WorkspaceSpec,
    /// What makes it ready.
    pub readiness: Readiness,
    /// The number of the last change that a client asked for; the etag.
    pub intent: IntentNumber,
    /// The number of the last wish that the provider has answered definitely.
    pub answered: IntentNumber,
    /// The generation that was last asked for.
    pub generation: Generation,
    /// The highest generation that was ever asked for. One that was refused is not asked for again: an earlier call of it
    /// may be heard late.
    pub highest: Generation,
    /// What was last asked for, or what the provider made of it.
    pub desired: Desired,
    /// Whether the provider has done a later wish than this database knows, and says in words of a newer version what that was.
    pub wanted_is_unknown: bool,
    /// The instance's phase.
    pub phase: Phase,
    /// Since when.
    pub phase_since: Timestamp,
    /// Why; none, where only a newer version knows the word.
    #[serde(deserialize_with = "newer::known")]
    pub reason: Option<Reason>,
    /// The same for people.
    pub message: String,
    /// Whether the provider names a phase, or something wanted, that this version does not know, and the phase stands for it.
    pub in_unknown_state: bool,
    /// The generation that the phase is of.
    pub instance_generation: Generation,
    /// The provider's revision that this was taken from.
    pub instance_revision: Revision,
    /// Where the platform reaches the agent.
    pub endpoint: Option<Endpoint>,
    /// What the agent reported.
    pub agent: AgentRecord,
    /// The generation that was found running after a restore, of which neither configuration nor credentials are known.
    pub recovered: Option<Generation>,
    /// What the provider had lost and was told again by a later generation, until that one is launched.
    pub told_again: Option<ToldAgain>,
    /// Whether its creation was refused: its id may be used again.
    pub refused: bool,
    /// What the provider has still to be told; `None` where it knows all.
    pub pending: Option<Pending>,
    /// The trace of what was last asked for; empty where nothing is traced.
    pub trace: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When it was confirmed deleted.
    pub deleted_at: Option<Timestamp>,
    /// The organisation's revision of its last change.
    pub revision: Revision,
}

impl WorkspaceRecord {
    /// What a client sees.
    pub fn state(&self) -> WorkspaceState {
        // Until the wanted generation has taken the old one's place, the old one's phase is on its way out.
        let replaced = self.generation > self.instance_generation && self.phase != Phase::Gone;
        let phase = if replaced { Phase::Stopping } else { self.phase };
        // nothing is known of its agent that could be judged
        let health = if self.is_recovered() { AgentHealth::Healthy } else { self.agent.health };
        derive_state(self.desired, phase, health, self.readiness)
    }

    /// Whether its instance is one that was found running after a restore.
    pub fn is_recovered(&self) -> bool {
        self.recovered == Some(self.instance_generation) && matches!(self.phase, Phase::Booting | Phase::Up)
    }

    /// Whether what it was configured with may be lost, as of an instance that was found after a restore: it runs, or has
    /// stopped or failed since.
    pub fn has_lost_config(&self) -> bool {
        self.recovered == Some(self.instance_generation)
            && matches!(self.phase, Phase::Booting | Phase::Up | Phase::Stopped | Phase::Failed)
    }

    /// The oldest generation of which an instance may run.
    pub(crate) fn oldest_that_runs(&self) -> Generation {
        self.told_again.map_or(self.instance_generation, |told| told.runs.min(self.instance_generation))
    }

    /// Whether deletion was asked for.
    pub fn is_deleting(&self) -> bool {
        self.desired == Desired::Deleted || self.phase == Phase::Gone
    }
}

/// A generation that was told again by a later one: a generation has one token, and what is left of the lost one's instance has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToldAgain {
    /// The generation that was last asked for, and that the provider had lost.
    pub lost: Generation,
    /// The generation by which it was told again.
    pub by: Generation,
    /// The oldest of which an instance may run on for as long as an operator has not decided what becomes of it.
    pub runs: Generation,
}

impl ToldAgain {
    /// Whether an instance of this generation may run on.
    pub(crate) fn may_run(&self, generation: Generation) -> bool {
        (self.runs..self.by).contains(&generation)
    }
}

/// A wish that waits for the provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// When the oldest wish that waits was asked for.
    pub since: Timestamp,
    /// Why the last call for it did not succeed; empty before the first.
    pub cause: String,
}

/// What the agent of the current generation reported.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AgentRecord {
    /// The generation that it is of.
    pub generation: Generation,
    /// How it is.
    pub health: AgentHealth,
    /// When it was last heard.
    pub last_seen: Option<Timestamp>,
    /// Share of failed work, 0 to 1.
    pub error_rate: f64,
    /// One of its errors.
    pub sample_error: String,
    /// Tasks at work.
    pub active_tasks: u32,
    /// The one it names.
    pub current_task: String,
    /// Seconds since it began.
    pub uptime_seconds: u64,
    /// Its card, JSON.
    pub card: Option<String>,
}

/// The key that makes a request repeatable.
#[derive(Clone, Debug)]
pub struct RequestKey {
    /// The client's own.
    pub id: String,
    /// A hash of the method and everything that was asked for.
    pub fingerprint: Vec<u8>,
}

/// An event with its id.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredEvent {
    /// Ascending.
    pub id: i64,
    /// The workspace.
    pub workspace: WorkspaceId,
    /// When.
    pub at: Timestamp,
    /// What.
    pub detail: EventDetail,
}
