//! One machine of the provider's.

use std::sync::Arc;

use molecule_domain::Timestamp;
use molecule_domain::id::LaunchSeq;
use molecule_domain::launch::LaunchSpec;
use molecule_provisioner::model::{Endpoint, InstanceRef};
use molecule_provisioner::observation::{InstanceState, OwnedInstance};

/// Where a machine is, in truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Created,
    Starting { until: Timestamp },
    Unattached,
    Running { ends: Option<Timestamp> },
    Stopping { until: Timestamp },
    Exited { code: i32 },
    Leaving { until: Timestamp },
}

/// One machine.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The provider's own number of it.
    pub id: u64,
    /// What it is an instance of, by its labels.
    pub instance: InstanceRef,
    /// The launch that made it.
    pub seq: LaunchSeq,
    /// What it was launched from.
    pub spec: Arc<LaunchSpec>,
    /// The bootstrap token that it was given.
    pub bootstrap: Option<String>,
    pub(crate) state: State,
    pub(crate) created_at: Timestamp,
    pub(crate) shown_from: Timestamp,
    pub(crate) init_failed: bool,
    pub(crate) attached: bool,
}

impl Machine {
    /// Whether it is of this launch of this instance.
    pub(crate) fn is(&self, instance: &InstanceRef, seq: LaunchSeq) -> bool {
        self.instance == *instance && self.seq == seq
    }

    /// Whether it runs.
    pub const fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    /// Whether it is on its way from one state to another.
    pub const fn is_moving(&self) -> bool {
        matches!(self.state, State::Starting { .. } | State::Stopping { .. } | State::Leaving { .. })
    }

    pub(crate) fn as_listed(&self) -> OwnedInstance {
        let state = match self.state {
            State::Created => InstanceState::Created,
            State::Starting { .. } => InstanceState::Starting,
            State::Unattached => InstanceState::Unattached,
            State::Running { .. } => InstanceState::Running,
            State::Stopping { .. } => InstanceState::Stopping,
            State::Leaving { .. } => InstanceState::Removing,
            State::Exited { code } => InstanceState::Exited(Some(code)),
        };
        let running = self.is_running();
        let host = || format!("10.1.{}.{}", self.id / 250, self.id % 250);
        OwnedInstance {
            instance: self.instance,
            seq: self.seq,
            state,
            endpoint: running.then(|| Endpoint { host: host(), port: 8000 }),
            created_at: self.created_at,
        }
    }
}
