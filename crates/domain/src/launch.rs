//! Exactly what a provider is asked to run.

use serde::{Deserialize, Serialize};

use crate::limits::Amounts;
use crate::runtime::{ExtraVolume, Runtime};
use crate::tier::{Resources, Tier, TierTable};

/// Everything about a launch that is not a secret. It is stored before the provider is called, and a retry
/// sends the same; so it is complete: no default is looked up later. What a newer version has added to it can't be read: whoever
/// writes the record writes all of this, and would lose it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchSpec {
    /// The runtime's name, for labels and messages.
    pub runtime: String,
    /// Image reference.
    pub image: String,
    /// Replaces the image's entrypoint and command.
    pub command: Option<Vec<String>>,
    /// The port that the agent serves.
    pub agent_port: u16,
    /// The tier, for labels and the read-only root.
    pub tier: Tier,
    /// The tier's resources when this was asked for.
    pub resources: Resources,
    /// Disk that is counted for the workspace, in GiB.
    pub disk_gib: i64,
    /// Paths that must be writable.
    pub writable_paths: Vec<String>,
    /// No capability at all.
    pub rootless: bool,
    /// Volumes beyond `/configs` and `/workspace`.
    pub volumes: Vec<ExtraVolume>,
    /// What stands at `/workspace`.
    pub mount: Mount,
    /// Where workspace-init and the agent reach tenant-svc.
    pub agents_url: String,
    /// The only authority that workspace-init trusts there, as PEM; `None` is the public ones.
    #[serde(default)]
    pub agents_ca: Option<String>,
    /// Discard the session volumes before the launch.
    pub reset_session: bool,
}

impl LaunchSpec {
    /// A launch of a runtime as the installation has it; where tenant-svc is, is still to be filled in.
    pub fn of(name: &str, runtime: &Runtime, tier: Tier, tiers: &TierTable, disk_gib: i64) -> Self {
        Self {
            runtime: name.to_owned(),
            image: runtime.image.clone(),
            command: runtime.command.clone(),
            agent_port: runtime.agent_port,
            tier,
            resources: tiers.resources(tier),
            disk_gib,
            writable_paths: runtime.writable_paths.clone(),
            rootless: runtime.rootless,
            volumes: runtime.volumes.clone(),
            mount: Mount::None,
            agents_url: String::new(),
            agents_ca: None,
            reset_session: false,
        }
    }

    /// What this counts against the organisation's limits.
    pub fn amounts(&self) -> Amounts {
        Amounts::of_workspace(&self.resources, self.disk_gib)
    }
}

/// What stands at `/workspace` inside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mount {
    /// A volume of the workspace's own.
    #[default]
    None,
    /// A directory of the host that can't be written.
    ReadOnly(String),
    /// A directory of the host.
    ReadWrite(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_newer_version_has_added_can_not_be_read() {
        let runtime = crate::runtime::RuntimeRegistry::built_in().unwrap().get("codex").cloned().unwrap();
        let spec = LaunchSpec::of("codex", &runtime, Tier::T1, &TierTable::default(), 10);
        let stored = serde_json::to_value(&spec).unwrap();
        assert_eq!(serde_json::from_value::<LaunchSpec>(stored.clone()).unwrap(), spec);
        for place in ["", "/resources"] {
            let mut newer = stored.clone();
            newer.pointer_mut(place).unwrap()["gpus"] = 2.into();
            assert!(serde_json::from_value::<LaunchSpec>(newer).is_err(), "in {place:?}");
        }
    }
}
