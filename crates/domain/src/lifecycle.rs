//! The life of an instance and of a workspace: states, the one transition table, and how what a client sees
//! derives from what the engine and the agent know.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What was last asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Desired {
    Running,
    Stopped,
    Deleted,
}

/// Where an instance is, from the provider's word alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Phase {
    /// Admitted; nothing has been asked of the provider since.
    Admitted,
    /// Being launched or started.
    Launching,
    /// The provider has it; it is not up yet.
    Booting,
    /// The provider says it is up.
    Up,
    /// Being stopped or removed.
    Stopping,
    /// The provider says it is stopped, or that it is absent while that is what is wanted.
    Stopped,
    /// Given up; what was left has been or is being stopped.
    Failed,
    /// Confirmed absent with all its resources, for good.
    Gone,
}

impl Phase {
    /// All phases.
    pub const ALL: [Self; 8] = [
        Self::Admitted,
        Self::Launching,
        Self::Booting,
        Self::Up,
        Self::Stopping,
        Self::Stopped,
        Self::Failed,
        Self::Gone,
    ];

    /// The transition table: whether a record may go from this phase to `to`. Staying is always allowed but
    /// in GONE, which nothing leaves and nothing repeats.
    pub const fn may_become(self, to: Self) -> bool {
        use Phase::{Admitted, Booting, Failed, Gone, Launching, Stopped, Stopping, Up};
        match (self, to) {
            // terminal
            (Gone, _) => false,
            // deletion is legal everywhere, and a new generation starts where the old one ended
            (_, Gone | Admitted) => true,
            // to BOOTING or UP: what was stopped, and is to start again, runs already
            (Admitted, Launching | Booting | Up | Stopping | Stopped | Failed) => true,
            (Launching, Launching | Booting | Up | Stopping | Stopped | Failed) => true,
            // back to LAUNCHING: it ended and is started again
            (Booting, Launching | Booting | Up | Stopping | Stopped | Failed) => true,
            (Up, Launching | Booting | Up | Stopping | Stopped | Failed) => true,
            // to UP or LAUNCHING: asked to run again before it had stopped
            (Stopping, Launching | Up | Stopping | Stopped | Failed) => true,
            // to STOPPING: it is replaced, or a stale start made it run, and the level corrects that
            (Stopped, Stopping | Stopped | Failed) => true,
            // what is left of a failed one is stopped without leaving FAILED; a replacement takes it away
            (Failed, Failed | Stopping) => true,
            _ => false,
        }
    }

    /// Whether the engine is waiting for something to come to an end.
    pub const fn is_transient(self) -> bool {
        matches!(self, Self::Admitted | Self::Launching | Self::Booting | Self::Stopping)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Admitted => "ADMITTED",
            Self::Launching => "LAUNCHING",
            Self::Booting => "BOOTING",
            Self::Up => "UP",
            Self::Stopping => "STOPPING",
            Self::Stopped => "STOPPED",
            Self::Failed => "FAILED",
            Self::Gone => "GONE",
        })
    }
}

/// A phase that does not follow from the one before: a bug, refused before it is stored.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("{from} may not become {to}")]
pub struct IllegalTransition {
    /// The phase that is.
    pub from: Phase,
    /// The phase that was to be.
    pub to: Phase,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $text:literal,)*) => {
        /// Why a workspace is in its state.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            /// All reasons.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// In upper snake case.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

reasons! {
    /// The image is not on the host and cannot be pulled.
    ImageUnavailable = "IMAGE_UNAVAILABLE",
    /// Something of a stranger's has the instance's name.
    NameTaken = "NAME_TAKEN",
    /// The provider refused the launch.
    LaunchRefused = "LAUNCH_REFUSED",
    /// The launch did not come to an end in time.
    LaunchTimeout = "LAUNCH_TIMEOUT",
    /// The instance did not come up in time.
    BootTimeout = "BOOT_TIMEOUT",
    /// The runtime ended again and again.
    CrashLoop = "CRASH_LOOP",
    /// The agent did not connect in time.
    AgentNotConnected = "AGENT_NOT_CONNECTED",
    /// The agent has been silent for too long.
    AgentSilent = "AGENT_SILENT",
    /// The agent reports too many errors.
    AgentErrors = "AGENT_ERRORS",
    /// The provider does not answer; what it runs goes on.
    BackendUnreachable = "BACKEND_UNREACHABLE",
    /// The instance did not stop in time.
    StopTimeout = "STOP_TIMEOUT",
    /// workspace-init could not start the runtime.
    InitFailed = "INIT_FAILED",
    /// The workspaces' network could not be made.
    NetworkUnavailable = "NETWORK_UNAVAILABLE",
    /// The runtime ended and is being started again.
    Restarting = "RESTARTING",
    /// The organisation is suspended: everything of it is stopped.
    OrganizationSuspended = "ORGANIZATION_SUSPENDED",
    /// The provider has no room for it anywhere that it may go.
    NoCapacity = "NO_CAPACITY",
    /// The operator's own account at the provider has reached a limit.
    ProviderQuota = "PROVIDER_QUOTA",
    /// It was found running after a restore of the database that knew its configuration and credentials.
    Recovered = "RECOVERED",
    /// The provider shows a launch of it that the engine's database does not know: that was put back.
    UnknownLaunch = "UNKNOWN_LAUNCH",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What must be true before a workspace counts as running.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Readiness {
    /// The agent of the current generation has connected.
    #[default]
    Agent,
    /// The instance is up.
    Process,
}

/// What is known of the current generation's agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AgentHealth {
    /// Not heard since the instance came up.
    #[default]
    NotConnected,
    /// Heard lately, with few errors.
    Healthy,
    /// Heard before, but not lately.
    Silent,
    /// Heard lately, with too many errors.
    Errors,
}

/// A heartbeat's error rate from which a workspace is degraded.
pub const DEGRADED_FROM_ERROR_RATE: f64 = 0.5;
/// A heartbeat's error rate below which it is well again.
pub const HEALTHY_BELOW_ERROR_RATE: f64 = 0.1;

impl AgentHealth {
    /// The health after a heartbeat with this error rate. Between the two bounds it stays as it was.
    #[must_use]
    pub fn after_heartbeat(self, error_rate: f64) -> Self {
        if error_rate >= DEGRADED_FROM_ERROR_RATE {
            Self::Errors
        } else if error_rate < HEALTHY_BELOW_ERROR_RATE || self != Self::Errors {
            Self::Healthy
        } else {
            Self::Errors
        }
    }
}

/// What is being done while [`WorkspaceState::Provisioning`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum ProvisioningPhase {
    Admitted,
    Launching,
    Booting,
    Connecting,
}

/// Where a workspace is in its life, as a client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum WorkspaceState {
    Provisioning(ProvisioningPhase),
    Running,
    Degraded,
    Stopping,
    Stopped,
    Deleting,
    Deleted,
    Failed,
}

impl WorkspaceState {
    /// The state's name in the API, without the provisioning phase.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Provisioning(_) => "PROVISIONING",
            Self::Running => "RUNNING",
            Self::Degraded => "DEGRADED",
            Self::Stopping => "STOPPING",
            Self::Stopped => "STOPPED",
            Self::Deleting => "DELETING",
            Self::Deleted => "DELETED",
            Self::Failed => "FAILED",
        }
    }
}

/// Derives what a client sees from what was asked for, the engine's phase, and the agent's health.
pub const fn derive_state(
    desired: Desired,
    phase: Phase,
    health: AgentHealth,
    readiness: Readiness,
) -> WorkspaceState {
    match (desired, phase) {
        (_, Phase::Gone) => WorkspaceState::Deleted,
        (Desired::Deleted, _) => WorkspaceState::Deleting,
        (_, Phase::Failed) => WorkspaceState::Failed,
        (Desired::Stopped, Phase::Stopped) => WorkspaceState::Stopped,
        (Desired::Stopped, _) => WorkspaceState::Stopping,
        // the old generation is on its way out, or a start waits for the engine
        (Desired::Running, Phase::Admitted | Phase::Stopping | Phase::Stopped) => {
            WorkspaceState::Provisioning(ProvisioningPhase::Admitted)
        }
        (Desired::Running, Phase::Launching) => WorkspaceState::Provisioning(ProvisioningPhase::Launching),
        (Desired::Running, Phase::Booting) => WorkspaceState::Provisioning(ProvisioningPhase::Booting),
        (Desired::Running, Phase::Up) => match (health, readiness) {
            (AgentHealth::Errors | AgentHealth::Silent, _) => WorkspaceState::Degraded,
            (AgentHealth::NotConnected, Readiness::Agent) => {
                WorkspaceState::Provisioning(ProvisioningPhase::Connecting)
            }
            (AgentHealth::Healthy, _) | (AgentHealth::NotConnected, Readiness::Process) => {
                WorkspaceState::Running
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_the_one_written_down() {
        // One row per phase, in the order of Phase::ALL; x = legal.
        let expected = [
            // from       Ad  La  Bo  Up  Sg  Sd  Fa  Go
            ("ADMITTED", "x   x   x   x   x   x   x   x"),
            ("LAUNCHING", "x   x   x   x   x   x   x   x"),
            ("BOOTING", "x   x   x   x   x   x   x   x"),
            ("UP", "x   x   x   x   x   x   x   x"),
            ("STOPPING", "x   x   .   x   x   x   x   x"),
            ("STOPPED", "x   .   .   .   x   x   x   x"),
            ("FAILED", "x   .   .   .   x   .   x   x"),
            ("GONE", ".   .   .   .   .   .   .   ."),
        ];
        for (from, (name, row)) in Phase::ALL.into_iter().zip(expected) {
            assert_eq!(from.to_string(), name);
            for (to, mark) in Phase::ALL.into_iter().zip(row.split_whitespace()) {
                assert_eq!(from.may_become(to), mark == "x", "{from} -> {to}");
            }
        }
    }

    #[test]
    fn deletion_is_legal_in_every_phase_but_the_last() {
        for phase in Phase::ALL {
            assert_eq!(phase.may_become(Phase::Gone), phase != Phase::Gone);
        }
    }

    #[test]
    fn delete_wins_over_everything() {
        for phase in Phase::ALL {
            let state = derive_state(Desired::Deleted, phase, AgentHealth::Healthy, Readiness::Agent);
            let expected =
                if phase == Phase::Gone { WorkspaceState::Deleted } else { WorkspaceState::Deleting };
            assert_eq!(state, expected);
        }
    }

    #[test]
    fn readiness_decides_whether_an_agent_is_waited_for() {
        let state = |health, readiness| derive_state(Desired::Running, Phase::Up, health, readiness);
        let connecting = WorkspaceState::Provisioning(ProvisioningPhase::Connecting);
        assert_eq!(state(AgentHealth::NotConnected, Readiness::Agent), connecting);
        assert_eq!(state(AgentHealth::NotConnected, Readiness::Process), WorkspaceState::Running);
        assert_eq!(state(AgentHealth::Healthy, Readiness::Agent), WorkspaceState::Running);
        assert_eq!(state(AgentHealth::Silent, Readiness::Process), WorkspaceState::Degraded);
    }

    #[test]
    fn error_rates_have_hysteresis() {
        let mut health = AgentHealth::NotConnected;
        for (rate, expected) in [
            (0.3, AgentHealth::Healthy),
            (0.5, AgentHealth::Errors),
            (0.3, AgentHealth::Errors),
            (0.1, AgentHealth::Errors),
            (0.09, AgentHealth::Healthy),
            (0.49, AgentHealth::Healthy),
        ] {
            health = health.after_heartbeat(rate);
            assert_eq!(health, expected, "after {rate}");
        }
    }

    #[test]
    fn states_and_reasons_have_the_apis_names() {
        use WorkspaceState::{Degraded, Deleted, Deleting, Failed, Provisioning, Running, Stopped, Stopping};
        let states = [
            Provisioning(ProvisioningPhase::Booting),
            Running,
            Degraded,
            Stopping,
            Stopped,
            Deleting,
            Deleted,
            Failed,
        ];
        let names = "PROVISIONING RUNNING DEGRADED STOPPING STOPPED DELETING DELETED FAILED";
        assert_eq!(states.map(WorkspaceState::name).join(" "), names);
        assert_eq!(Reason::OrganizationSuspended.to_string(), "ORGANIZATION_SUSPENDED");
    }
}
