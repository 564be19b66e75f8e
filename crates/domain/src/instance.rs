//! Instances as the services tell each other of them.

use serde::{Deserialize, Serialize};

use crate::Timestamp;
use crate::event::EventDetail;
use crate::id::{Generation, IntentNumber, OrganizationId, Revision, WorkspaceId};
use crate::lifecycle::{Desired, Phase, Reason};
use crate::tier::Tier;

/// An instance as its tenant sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // as in the engine's record
pub struct InstanceView {
    pub workspace: WorkspaceId,
    pub organization: OrganizationId,
    /// `None` where the provider wants something that this version does not know.
    pub desired: Option<Desired>,
    pub intent: IntentNumber,
    pub generation: Generation,
    pub wanted_generation: Generation,
    pub runtime: String,
    pub tier: Tier,
    /// [`Phase::Booting`] where the provider names one that this version does not know.
    pub phase: Phase,
    pub phase_since: Timestamp,
    pub reason: Option<Reason>,
    pub message: String,
    pub endpoint: Option<Endpoint>,
    /// Whether this generation was ever launched.
    pub launched: bool,
    /// Whether its phase, or what is wanted, is one that this version does not know, and is left open.
    pub in_unknown_state: bool,
    pub revision: Revision,
}

impl InstanceView {
    /// Whether it is deleted, or being deleted.
    pub fn is_ending(&self) -> bool {
        self.desired == Some(Desired::Deleted) || self.phase == Phase::Gone
    }
}

/// Where an instance's agent is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// Something that happened to an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Ascending within the store.
    pub id: i64,
    /// The workspace.
    pub workspace: WorkspaceId,
    /// When.
    pub at: Timestamp,
    /// What.
    pub detail: EventDetail,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_being_deleted_or_gone_is_ending() {
        let view = |desired, phase| InstanceView {
            workspace: WorkspaceId::from_uuid(uuid::Uuid::nil()),
            organization: OrganizationId::SELF_HOSTED,
            desired,
            intent: IntentNumber(1),
            generation: Generation(1),
            wanted_generation: Generation(1),
            runtime: "demo".to_owned(),
            tier: Tier::T2,
            phase,
            phase_since: Timestamp::default(),
            reason: None,
            message: String::new(),
            endpoint: None,
            launched: true,
            in_unknown_state: false,
            revision: Revision(1),
        };
        assert!(view(Some(Desired::Deleted), Phase::Up).is_ending());
        assert!(view(Some(Desired::Running), Phase::Gone).is_ending());
        assert!(!view(Some(Desired::Stopped), Phase::Stopping).is_ending());
        assert!(!view(None, Phase::Up).is_ending());
    }
}
