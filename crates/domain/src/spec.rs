//! What a customer asks for, and what makes it acceptable.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Result, Violations};
use crate::id::WorkspaceId;
use crate::launch::{LaunchSpec, Mount};
use crate::lifecycle::Readiness;
use crate::runtime::{Runtime, RuntimeRegistry};
use crate::tier::{Tier, TierTable};

/// The file that every workspace must have.
pub const CONFIG_FILE: &str = "config.yaml";
/// Asks for a new session with every generation, where it is `1` in a workspace's environment.
pub const RESET_SESSION_VARIABLE: &str = "WORKSPACE_RESET_SESSION";

const MAX_CONFIG_FILES: usize = 256;
const MAX_CONFIG_BYTES: usize = 1 << 20;
const MAX_ENV_BYTES: usize = 64 << 10;
const MAX_LABELS: usize = 64;
/// Files in `/configs` that are the platform's own.
const RESERVED_FILES: [&str; 3] = [".auth_token", ".bootstrap", ".ca.pem"];
const RESERVED_VARIABLES: [&str; 5] =
    ["WORKSPACE_ID", "WORKSPACE_CONFIG_PATH", "PLATFORM_URL", "MOLECULE_URL", "TIER"];

/// The readable part of what a customer asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspaceSpec {
    /// A name for people.
    pub name: String,
    /// A name in the runtime registry.
    pub runtime: String,
    /// Resources.
    pub tier: Tier,
    /// Labels, for filters.
    pub labels: BTreeMap<String, String>,
    /// The workspace above this one.
    pub parent: Option<WorkspaceId>,
    /// What the agent does, for its peers.
    pub role: String,
    /// The runtime's environment, but for secrets.
    pub env: BTreeMap<String, String>,
    /// What stands at `/workspace`.
    pub mount: Mount,
    /// What makes it ready; `None` takes the runtime's.
    pub readiness: Option<Readiness>,
}

/// The part that is sealed at rest and never returned.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrivateParts {
    /// Files for `/configs`, by relative path.
    pub config_files: BTreeMap<String, Vec<u8>>,
    /// The secret part of the runtime's environment.
    pub secrets: BTreeMap<String, String>,
}

impl fmt::Debug for PrivateParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateParts")
            .field("config_files", &self.config_files.keys())
            .field("secrets", &self.secrets.keys())
            .finish()
    }
}

/// What an installation allows and gives: the rules that specs are checked against.
#[derive(Clone, Debug)]
pub struct SpecRules {
    /// The known runtimes.
    pub runtimes: RuntimeRegistry,
    /// What each tier gives.
    pub tiers: TierTable,
    /// Disk counted per workspace, in GiB.
    pub disk_gib: i64,
    /// Where agents reach tenant-svc.
    pub agents_url: String,
    /// The only authority that workspaces trust there, as PEM.
    pub agents_ca: Option<String>,
}

impl SpecRules {
    /// Checks everything that needs no I/O and tells all that is wrong at once, by the fields' paths in the
    /// API.
    pub fn check(&self, spec: &WorkspaceSpec, private: &PrivateParts) -> Result<()> {
        let mut v = Violations::default();
        let name_length = spec.name.chars().count();
        v.require((1..=80).contains(&name_length), "spec.name", "must have 1 to 80 characters");
        v.require(!spec.name.chars().any(char::is_control), "spec.name", "must not hold control characters");
        v.require(spec.role.chars().count() <= 200, "spec.role", "must have at most 200 characters");
        check_labels(spec, &mut v);
        check_variables(spec, private, &mut v);
        check_files(private, &mut v);
        match self.runtimes.get(&spec.runtime) {
            None => v.add(
                "spec.runtime",
                format!("there is no runtime {:?}; known are: {}", spec.runtime, self.runtimes.names()),
            ),
            Some(runtime) => check_runtime(spec, private, runtime, &mut v),
        }
        v.into_result()
    }

    /// The launch of a checked spec. `None` where the runtime is unknown.
    pub fn launch_spec(&self, spec: &WorkspaceSpec, reset_session: bool) -> Option<LaunchSpec> {
        let runtime = self.runtimes.get(&spec.runtime)?;
        let always = spec.env.get(RESET_SESSION_VARIABLE).is_some_and(|value| value == "1");
        Some(LaunchSpec {
            mount: spec.mount.clone(),
            agents_url: self.agents_url.clone(),
            agents_ca: self.agents_ca.clone(),
            reset_session: reset_session || always,
            ..LaunchSpec::of(&spec.runtime, runtime, spec.tier, &self.tiers, self.disk_gib)
        })
    }

    /// What makes this workspace ready.
    pub fn readiness(&self, spec: &WorkspaceSpec) -> Readiness {
        let declared = || self.runtimes.get(&spec.runtime).map(|runtime| runtime.readiness);
        spec.readiness.or_else(declared).unwrap_or_default()
    }
}

fn check_labels(spec: &WorkspaceSpec, v: &mut Violations) {
    v.require(spec.labels.len() <= MAX_LABELS, "spec.labels", "must have at most 64 entries");
    for (key, value) in &spec.labels {
        let good_key = (1..=63).contains(&key.len())
            && key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b));
        if !good_key {
            v.add(format!("spec.labels[{key:?}]"), "a key is 1 to 63 of a-z, 0-9, '-', '_' and '.'");
        }
        if value.chars().count() > 63 {
            v.add(format!("spec.labels[{key:?}]"), "a value has at most 63 characters");
        }
    }
}

fn check_variables(spec: &WorkspaceSpec, private: &PrivateParts, v: &mut Violations) {
    for (field, variables) in [("spec.env", &spec.env), ("spec.secrets", &private.secrets)] {
        let bytes: usize = variables.iter().map(|(name, value)| name.len() + value.len()).sum();
        v.require(bytes <= MAX_ENV_BYTES, field, "must have at most 64 KiB");
        for (name, value) in variables {
            let mut characters = name.bytes();
            let good_name = characters.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
                && characters.all(|b| b.is_ascii_alphanumeric() || b == b'_');
            if !good_name {
                v.add(
                    format!("{field}[{name:?}]"),
                    "a name is made of A-Z, a-z, 0-9 and '_' and does not start with a digit",
                );
            }
            if RESERVED_VARIABLES.contains(&name.as_str()) || name.starts_with("MOLECULE_") {
                v.add(format!("{field}[{name:?}]"), "this name is the platform's own; choose another");
            }
            if value.contains('\0') {
                v.add(format!("{field}[{name:?}]"), "a value must not hold a NUL character");
            }
        }
    }
}

fn check_files(private: &PrivateParts, v: &mut Violations) {
    let files = &private.config_files;
    let bytes: usize = files.values().map(Vec::len).sum();
    v.require(files.len() <= MAX_CONFIG_FILES, "spec.config_files", "must have at most 256 files");
    v.require(bytes <= MAX_CONFIG_BYTES, "spec.config_files", "must have at most 1 MiB in all");
    for path in files.keys() {
        let usable = !path.is_empty()
            && path.len() <= 255
            && !path.contains(['\0', '\\'])
            && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
        if !usable {
            v.add(
                format!("spec.config_files[{path:?}]"),
                "a path is relative to /configs, has at most 255 bytes and no empty, '.' or '..' part",
            );
        }
        if RESERVED_FILES.contains(&path.as_str()) {
            v.add(format!("spec.config_files[{path:?}]"), "this file is the platform's own");
        }
    }
}

fn check_runtime(spec: &WorkspaceSpec, private: &PrivateParts, runtime: &Runtime, v: &mut Violations) {
    if !private.config_files.contains_key(CONFIG_FILE) && runtime.default_config.is_none() {
        v.add(
            format!("spec.config_files[{CONFIG_FILE:?}]"),
            format!("runtime {:?} has no default configuration, so the request must bring one", spec.runtime),
        );
    }
    for name in &runtime.required_secrets {
        if !private.secrets.contains_key(name) && !spec.env.contains_key(name) {
            v.add(format!("spec.secrets[{name:?}]"), format!("runtime {:?} needs it", spec.runtime));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> SpecRules {
        let runtimes =
            RuntimeRegistry::built_in().unwrap().with_overrides("[runtimes.bare]\nimage='b'").unwrap();
        SpecRules {
            runtimes,
            tiers: TierTable::default(),
            disk_gib: 10,
            agents_url: "http://10.0.0.1:7071".into(),
            agents_ca: None,
        }
    }

    fn spec(runtime: &str) -> WorkspaceSpec {
        WorkspaceSpec { name: "one".into(), runtime: runtime.into(), ..WorkspaceSpec::default() }
    }

    fn problems(spec: &WorkspaceSpec, private: &PrivateParts) -> Vec<String> {
        match rules().check(spec, private) {
            Ok(()) => Vec::new(),
            Err(error) => error.fields.into_iter().map(|field| field.field).collect(),
        }
    }

    #[test]
    fn a_plain_spec_is_fine() {
        assert!(problems(&spec("langgraph"), &PrivateParts::default()).is_empty());
    }

    #[test]
    fn an_unknown_runtime_lists_the_known_ones() {
        let error = rules().check(&spec("langraph"), &PrivateParts::default()).unwrap_err();
        assert!(error.message.contains("langgraph") && error.message.contains("codex"), "{error}");
    }

    #[test]
    fn a_missing_config_or_secret_is_named() {
        assert_eq!(
            problems(&spec("bare"), &PrivateParts::default()),
            [r#"spec.config_files["config.yaml"]"#]
        );
        assert_eq!(
            problems(&spec("gemini-cli"), &PrivateParts::default()),
            [r#"spec.secrets["GEMINI_API_KEY"]"#]
        );
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        let mut bad = spec("codex");
        bad.name.clear();
        bad.labels.insert("Bad Key".into(), String::new());
        bad.env.insert("TIER".into(), "9".into());
        bad.env.insert("MOLECULE_X".into(), "9".into());
        bad.env.insert("1A".into(), "9".into());
        let mut private = PrivateParts::default();
        private.config_files.insert("../etc/passwd".into(), vec![]);
        private.config_files.insert(".auth_token".into(), vec![]);
        private.config_files.insert("/abs".into(), vec![]);
        assert_eq!(problems(&bad, &private).len(), 8);
    }

    #[test]
    fn pythonpath_is_the_operators_to_set() {
        let mut ours = spec("codex");
        ours.env.insert("PYTHONPATH".into(), "/mine".into());
        assert!(problems(&ours, &PrivateParts::default()).is_empty());
    }

    #[test]
    fn a_session_is_reset_once_or_always() {
        let mut always = spec("claude-code");
        assert!(!rules().launch_spec(&always, false).unwrap().reset_session);
        assert!(rules().launch_spec(&always, true).unwrap().reset_session);
        always.env.insert(RESET_SESSION_VARIABLE.into(), "1".into());
        assert!(rules().launch_spec(&always, false).unwrap().reset_session);
    }

    #[test]
    fn secrets_do_not_reach_debug_output() {
        let mut private = PrivateParts::default();
        private.secrets.insert("KEY".into(), "hunter2".into());
        private.config_files.insert("config.yaml".into(), b"hunter2".to_vec());
        let text = format!("{private:?}");
        assert!(text.contains("KEY") && !text.contains("hunter2") && !text.contains("104"), "{text}");
    }

    #[test]
    fn a_launch_is_complete() {
        let rules = SpecRules { agents_ca: Some("PEM".into()), ..rules() };
        let mounted =
            WorkspaceSpec { mount: Mount::ReadOnly("/srv".into()), tier: Tier::T3, ..spec("codex") };
        let launch = rules.launch_spec(&mounted, false).unwrap();
        assert_eq!((launch.mount, launch.tier, launch.disk_gib), (mounted.mount, Tier::T3, 10));
        assert_eq!(
            (launch.agents_url.as_str(), launch.agents_ca.as_deref()),
            ("http://10.0.0.1:7071", Some("PEM"))
        );
        assert_eq!((launch.runtime.as_str(), launch.resources), ("codex", rules.tiers.resources(Tier::T3)));
        assert!(rules.launch_spec(&spec("unknown"), false).is_none());
    }

    #[test]
    fn who_asks_for_nothing_gets_the_runtimes_readiness() {
        let runtimes = "[runtimes.slow]\nimage='s'\nreadiness='process'";
        let runtimes = RuntimeRegistry::built_in().unwrap().with_overrides(runtimes).unwrap();
        let rules = SpecRules { runtimes, ..rules() };
        let asked = |runtime: &str, readiness| WorkspaceSpec { readiness, ..spec(runtime) };
        assert_eq!(rules.readiness(&asked("slow", None)), Readiness::Process);
        assert_eq!(rules.readiness(&asked("slow", Some(Readiness::Agent))), Readiness::Agent);
        assert_eq!(rules.readiness(&asked("codex", None)), Readiness::Agent);
    }

    #[test]
    fn labels_and_variables_have_their_bounds() {
        let labelled = |key: &str, value: String| {
            let labels = [(key.to_owned(), value)].into();
            problems(&WorkspaceSpec { labels, ..spec("codex") }, &PrivateParts::default())
        };
        for key in ["team", "a-b", "a_b", "a.b", "9"] {
            assert_eq!(labelled(key, "x".repeat(63)), [""; 0], "{key}");
        }
        for (key, value) in
            [("team", "x".repeat(64)), ("team", "x".repeat(65)), ("Team", String::new()), ("", String::new())]
        {
            assert_eq!(labelled(key, value), [format!("spec.labels[{key:?}]")]);
        }
        // names count beside values
        let with = |length| {
            let env = [("A".repeat(1000), "x".repeat(length))].into();
            problems(&WorkspaceSpec { env, ..spec("codex") }, &PrivateParts::default())
        };
        assert_eq!(with(MAX_ENV_BYTES - 1000), [""; 0]);
        assert_eq!(with(MAX_ENV_BYTES - 999), ["spec.env"]);
    }

    #[test]
    fn a_needed_secret_may_be_in_the_environment() {
        let runtimes = "[runtimes.keyed]\nimage='k'\ndefault_config=''\nrequired_secrets=['KEY']";
        let runtimes = RuntimeRegistry::built_in().unwrap().with_overrides(runtimes).unwrap();
        let rules = SpecRules { runtimes, ..rules() };
        let key = || [("KEY".to_owned(), "1".to_owned())].into();
        let private = PrivateParts { secrets: key(), ..PrivateParts::default() };
        assert!(rules.check(&spec("keyed"), &private).is_ok());
        assert!(
            rules.check(&WorkspaceSpec { env: key(), ..spec("keyed") }, &PrivateParts::default()).is_ok()
        );
        assert!(rules.check(&spec("keyed"), &PrivateParts::default()).is_err());
    }
}
