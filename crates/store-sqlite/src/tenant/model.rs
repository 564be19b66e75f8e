//! What tenant-svc knows of a workspace.

use molecule_domain::Timestamp;
use molecule_domain::id::{Generation, IntentNumber, OrganizationId, Revision, WorkspaceId};
use molecule_domain::lifecycle::{
    AgentHealth, Desired, Phase, Readiness, Reason, WorkspaceState, derive_state,
};
use molecule_domain::spec::WorkspaceSpec;
use molecule_provisioner::model::{Endpoint, EventDetail};
use serde::{Deserialize, Serialize};

/// A workspace: what was asked for, what the engine last said, what the agent last told.
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
    /// Counts what was asked for; the etag.
    pub intent: IntentNumber,
    /// The generation that was last asked for.
    pub generation: Generation,
    /// What was last asked for, or what the engine made of it.
    pub desired: Desired,
    /// The engine's phase.
    pub phase: Phase,
    /// Since when.
    pub phase_since: Timestamp,
    /// Why.
    pub reason: Option<Reason>,
    /// The same for people.
    pub message: String,
    /// The generation that the engine's phase is of.
    pub instance_generation: Generation,
    /// The engine's revision that this was taken from.
    pub instance_revision: Revision,
    /// Where the platform reaches the agent.
    pub endpoint: Option<Endpoint>,
    /// What the agent told.
    pub agent: AgentRecord,
    /// The trace of what was last asked for; empty where nothing is traced.
    #[serde(default)]
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
        derive_state(self.desired, phase, self.agent.health, self.readiness)
    }

    /// Whether deletion was asked for.
    pub fn is_deleting(&self) -> bool {
        self.desired == Desired::Deleted || self.phase == Phase::Gone
    }
}

/// What the agent of the current generation told.
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

/// What the engine is to be told. It is stored before it is told, so that it is told even after a crash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Intent {
    /// A first instance.
    Provision,
    /// Let it run.
    Start,
    /// Stop it; with a cause it has failed for that.
    Stop(Option<(Reason, String)>),
    /// A new generation.
    Replace {
        /// Whether it is also to run.
        run: bool,
        /// Whether its session is discarded.
        reset_session: bool,
    },
    /// Take it away.
    Delete,
}

/// An intent that the engine has not been told of yet.
#[derive(Clone, Debug)]
pub struct Pending {
    /// The workspace as it is wanted.
    pub record: WorkspaceRecord,
    /// What to tell.
    pub intent: Intent,
    /// The bootstrap token of the generation that it asks for, sealed.
    pub sealed_token: Option<Vec<u8>>,
}

/// The key that makes a request repeatable.
#[derive(Clone, Debug)]
pub struct RequestKey {
    /// The client's own.
    pub id: String,
    /// A hash of the method and everything that was asked for.
    pub fingerprint: Vec<u8>,
}

/// Something that happened, with its id.
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
