//! How the process of an instance is confined and what it finds, whichever backend starts it.

use crate::launch::{LaunchSpec, Mount};

/// Where workspace-init stands, in every workspace.
pub const INIT_FOLDER: &str = "/.molecule";
/// The program in it, which is what is started.
pub const INIT: &str = "/.molecule/workspace-init";
/// Where the configuration is; workspace-init writes it.
pub const CONFIGS: &str = "/configs";
/// Where the agent works.
pub const WORKSPACE: &str = "/workspace";
/// The bootstrap token, in [`CONFIGS`].
pub const TOKEN_FILE: &str = ".bootstrap";
/// The pinned authority, in [`CONFIGS`].
pub const CA_FILE: &str = ".ca.pem";
/// Processes and threads, at most.
pub const PIDS_LIMIT: i64 = 512;
/// The size of one file of output, and how many are kept.
pub const LOG_ROTATION: [(&str, &str); 2] = [("max-size", "10m"), ("max-file", "3")];
/// How what is kept in memory is mounted.
pub const TMPFS: &str = "rw,nosuid,nodev,exec,mode=1777";

/// What a root process needs to chown its configuration and drop to a user of its own.
const CAPABILITIES: [&str; 5] = ["CHOWN", "SETUID", "SETGID", "DAC_OVERRIDE", "FOWNER"];

/// A volume of a workspace and where it is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its name among the workspace's.
    pub name: String,
    /// Where it is mounted.
    pub path: String,
    /// Whether resetting the session discards it.
    pub session: bool,
}

/// The capabilities that are left; all others are dropped.
pub const fn capabilities(spec: &LaunchSpec) -> &'static [&'static str] {
    if spec.rootless { &[] } else { &CAPABILITIES }
}

/// The workspace's volumes.
pub fn volumes(spec: &LaunchSpec) -> Vec<Volume> {
    let named =
        |name: &str, path: &str, session| Volume { name: name.to_owned(), path: path.to_owned(), session };
    let mut volumes = vec![named("configs", CONFIGS, false)];
    if spec.mount == Mount::None {
        volumes.push(named("workspace", WORKSPACE, false));
    }
    volumes.extend(spec.volumes.iter().map(|extra| named(&extra.name, &extra.path, extra.session)));
    volumes
}

/// What is kept in memory where the root can't be written: `/tmp` and the runtime's writable paths.
pub fn in_memory(spec: &LaunchSpec) -> Vec<&str> {
    if !spec.tier.read_only_root() {
        return Vec::new();
    }
    let volumes = volumes(spec);
    let declared = spec.writable_paths.iter().map(String::as_str);
    let paths = std::iter::once("/tmp").chain(declared);
    paths.filter(|path| !volumes.iter().any(|volume| volume.path == *path)).collect()
}

/// The variables that workspace-init is started with, and nothing secret.
pub fn environment(workspace: crate::id::WorkspaceId, spec: &LaunchSpec) -> Vec<(&'static str, String)> {
    let mut environment =
        vec![("WORKSPACE_ID", workspace.to_string()), ("MOLECULE_AGENTS_URL", spec.agents_url.clone())];
    if spec.agents_ca.is_some() {
        environment.push(("MOLECULE_CA_FILE", format!("{CONFIGS}/{CA_FILE}")));
    }
    environment
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{ExtraVolume, RuntimeRegistry};
    use crate::tier::{Tier, TierTable};

    fn spec() -> LaunchSpec {
        let registry = RuntimeRegistry::built_in().unwrap();
        let runtime = registry.get("codex").unwrap();
        let volume =
            |name: &str, path: &str, session| ExtraVolume { name: name.into(), path: path.into(), session };
        LaunchSpec {
            tier: Tier::T1,
            writable_paths: vec!["/var/run".to_owned(), "/state".to_owned()],
            volumes: vec![volume("state", "/state", true)],
            ..LaunchSpec::of("codex", runtime, Tier::T1, &TierTable::default(), 10)
        }
    }

    #[test]
    fn a_workspace_has_its_own_volumes_and_the_runtimes() {
        let told = |spec: &LaunchSpec| {
            volumes(spec).into_iter().map(|one| (one.name, one.path, one.session)).collect::<Vec<_>>()
        };
        let volume = |name: &str, path: &str, session| (name.to_owned(), path.to_owned(), session);
        let [configs, workspace, state] = [
            volume("configs", "/configs", false),
            volume("workspace", "/workspace", false),
            volume("state", "/state", true),
        ];
        assert_eq!(told(&spec()), [configs.clone(), workspace, state.clone()]);
        let mounted = LaunchSpec { mount: Mount::ReadOnly("/srv".to_owned()), ..spec() };
        assert_eq!(told(&mounted), [configs, state], "a directory of the host stands there");
    }

    #[test]
    fn where_the_root_is_read_only_what_is_no_volume_is_in_memory() {
        assert_eq!(in_memory(&spec()), ["/tmp", "/var/run"]);
        assert_eq!(in_memory(&LaunchSpec { tier: Tier::T2, ..spec() }), [""; 0]);
    }

    #[test]
    fn init_is_told_whose_it_is_and_where_to_ask() {
        let workspace = "01a20500-0000-7000-8000-00000000abcd".parse().unwrap();
        let spec = LaunchSpec { agents_url: "http://10.0.0.1:7071".to_owned(), ..spec() };
        let told = environment(workspace, &spec);
        let whose = ("WORKSPACE_ID", "01a20500-0000-7000-8000-00000000abcd".to_owned());
        let asks = ("MOLECULE_AGENTS_URL", "http://10.0.0.1:7071".to_owned());
        assert_eq!(told, [whose.clone(), asks.clone()]);
        let pinned = LaunchSpec { agents_ca: Some("PEM".to_owned()), ..spec };
        let authority = ("MOLECULE_CA_FILE", "/configs/.ca.pem".to_owned());
        assert_eq!(environment(workspace, &pinned), [whose, asks, authority]);
        assert_eq!(capabilities(&pinned), CAPABILITIES);
        assert_eq!(capabilities(&LaunchSpec { rootless: true, ..pinned }), [""; 0]);
    }
}
