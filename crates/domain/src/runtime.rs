//! The registry of agent runtimes: what each is started from and what it needs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::lifecycle::Readiness;

/// The runtimes that every service knows.
const BUILT_IN: &str = include_str!("../runtimes.toml");

/// An agent runtime that a workspace can run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Runtime {
    /// Image reference; a digest pin is welcome.
    pub image: String,
    /// Replaces the image's entrypoint and command.
    #[serde(default)]
    pub command: Option<Vec<String>>,
    /// The TCP port that the agent serves A2A on.
    #[serde(default = "default_port")]
    pub agent_port: u16,
    /// What makes a workspace of this runtime ready.
    #[serde(default)]
    pub readiness: Readiness,
    /// Names that must be among the workspace's secrets or its environment.
    #[serde(default)]
    pub required_secrets: Vec<String>,
    /// Paths that the runtime writes; mounted where the root is read-only.
    #[serde(default)]
    pub writable_paths: Vec<String>,
    /// The image runs as a user that needs no capability at all.
    #[serde(default)]
    pub rootless: bool,
    /// Volumes beyond `/configs` and `/workspace`.
    #[serde(default)]
    pub volumes: Vec<ExtraVolume>,
    /// The `config.yaml` of a workspace that brings none. See [`fill_template`] for what it may hold.
    #[serde(default)]
    pub default_config: Option<String>,
    /// Files written before the runtime starts, beside the configuration.
    #[serde(default)]
    pub seeds: Vec<Seed>,
}

const fn default_port() -> u16 {
    8000
}

/// A volume that a runtime keeps over restarts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExtraVolume {
    /// The last part of the volume's name: `ws-<workspace>-<name>`.
    pub name: String,
    /// Where it is mounted.
    pub path: String,
    /// Whether resetting the session discards it.
    #[serde(default)]
    pub session: bool,
}

/// A file that stands in the workspace before its runtime starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seed {
    /// Absolute, or below the runtime user's home with a leading `~/`, or relative to `/configs`.
    pub path: String,
    /// A copy of this configuration file, where there is one.
    #[serde(default)]
    pub copy_of: Option<String>,
    /// What to write otherwise; a template like the default configuration.
    #[serde(default)]
    pub content: Option<String>,
}

/// Fills `{{name}}` marks with what `value` has for them; unknown marks stay as they are.
pub fn fill_template(template: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        out.push_str(before);
        let Some((name, tail)) = after.split_once("}}") else {
            rest = &rest[before.len()..];
            break;
        };
        if let Some(value) = value(name.trim()) {
            out.push_str(&value);
        } else {
            out.push_str("{{");
            out.push_str(name);
            out.push_str("}}");
        }
        rest = tail;
    }
    out.push_str(rest);
    out
}

/// All runtimes by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeRegistry(BTreeMap<String, Runtime>);

/// A registry file that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It isn't TOML of the right shape.
    #[error("the runtimes file is not valid: {0}")]
    Malformed(String),
    /// A runtime in it is wrong.
    #[error("runtime {runtime:?}: {problem}")]
    Invalid {
        /// The runtime's name.
        runtime: String,
        /// What is wrong with it.
        problem: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RegistryFile {
    #[serde(default)]
    runtimes: BTreeMap<String, Runtime>,
}

impl RuntimeRegistry {
    /// The built-in runtimes.
    pub fn built_in() -> Result<Self, RegistryError> {
        parse(BUILT_IN).map(Self)
    }

    /// The same with an operator's TOML file over it: its entries are added, or replace those of their name.
    pub fn with_overrides(mut self, toml: &str) -> Result<Self, RegistryError> {
        self.0.extend(parse(toml)?);
        Ok(self)
    }

    /// The runtime of this name.
    pub fn get(&self, name: &str) -> Option<&Runtime> {
        self.0.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Runtime)> {
        self.0.iter().map(|(name, runtime)| (name.as_str(), runtime))
    }

    /// The known names, for messages.
    pub fn names(&self) -> String {
        self.0.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
    }
}

fn parse(toml: &str) -> Result<BTreeMap<String, Runtime>, RegistryError> {
    let file: RegistryFile = toml::from_str(toml).map_err(|e| RegistryError::Malformed(e.to_string()))?;
    for (name, runtime) in &file.runtimes {
        check(name, runtime).map_err(|problem| RegistryError::Invalid { runtime: name.clone(), problem })?;
    }
    Ok(file.runtimes)
}

fn check(name: &str, runtime: &Runtime) -> Result<(), String> {
    let word = |text: &str| {
        !text.is_empty()
            && text.len() <= 40
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    let absolute = |path: &str| path.starts_with('/') && !path.split('/').any(|part| part == "..");
    if !word(name) {
        return Err("a runtime's name is 1 to 40 of a-z, 0-9 and '-'".to_owned());
    }
    if runtime.image.is_empty() {
        return Err("image is empty".to_owned());
    }
    if runtime.agent_port == 0 {
        return Err("agent_port must not be 0".to_owned());
    }
    for path in &runtime.writable_paths {
        if !absolute(path) {
            return Err(format!("writable_paths: {path:?} is not an absolute path"));
        }
    }
    for volume in &runtime.volumes {
        if !word(&volume.name) || ["configs", "workspace"].contains(&volume.name.as_str()) {
            return Err(format!(
                "volumes: the name {:?} is reserved or not made of a-z, 0-9, '-'",
                volume.name
            ));
        }
        if !absolute(&volume.path) {
            return Err(format!("volumes: {:?} is not an absolute path", volume.path));
        }
    }
    for seed in &runtime.seeds {
        if seed.path.split('/').any(|part| part == "..") || seed.path.is_empty() {
            return Err(format!("seeds: {:?} is not a usable path", seed.path));
        }
        if seed.copy_of.is_none() == seed.content.is_none() {
            return Err(format!("seeds: {:?} needs exactly one of copy_of and content", seed.path));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_runtimes_are_there() {
        let registry = RuntimeRegistry::built_in().unwrap();
        let names: Vec<&str> = registry.iter().map(|(name, _)| name).collect();
        assert_eq!(
            names,
            [
                "autogen",
                "claude-code",
                "codex",
                "crewai",
                "deepagents",
                "gemini-cli",
                "hermes",
                "langgraph",
                "openclaw"
            ]
        );
        for (name, runtime) in registry.iter() {
            assert_eq!(runtime.image, format!("ghcr.io/molecule-ai/workspace-template-{name}:latest"));
        }
        let gemini = registry.get("gemini-cli").unwrap();
        assert_eq!(gemini.required_secrets, ["GEMINI_API_KEY"]);
        assert_eq!(gemini.seeds.len(), 2);
        let claude = registry.get("claude-code").unwrap();
        assert_eq!(claude.volumes[0].path, "/root/.claude/sessions");
        assert!(claude.volumes[0].session);
    }

    #[test]
    fn an_operator_adds_and_overrides() {
        let registry = RuntimeRegistry::built_in()
            .unwrap()
            .with_overrides("[runtimes.langgraph]\nimage = 'mine@sha256:00'\n[runtimes.own]\nimage = 'own'")
            .unwrap();
        assert_eq!(registry.get("langgraph").unwrap().image, "mine@sha256:00");
        assert_eq!(registry.get("own").unwrap().agent_port, 8000);
        assert!(registry.get("codex").is_some());
    }

    #[test]
    fn mistakes_are_told_by_name() {
        let registry = || RuntimeRegistry::built_in().unwrap();
        for (toml, part) in [
            ("[runtimes.a]\nimage = 'x'\nprot = 3", "prot"),
            ("[runtimes.A]\nimage = 'x'", "name"),
            ("[runtimes.a]\nimage = ''", "image"),
            ("[runtimes.a]\nimage = 'x'\nwritable_paths = ['tmp']", "writable_paths"),
            ("[runtimes.a]\nimage = 'x'\nvolumes = [{ name = 'configs', path = '/x' }]", "volumes"),
            ("[runtimes.a]\nimage = 'x'\nseeds = [{ path = 'x' }]", "copy_of"),
            ("[runtimes.a]\nimage = 'x'\nseeds = [{ path = '../x', content = '' }]", "usable path"),
            ("[runtimes.a]\nimage = 'x'\nseeds = [{ path = '', content = '' }]", "usable path"),
        ] {
            let error = registry().with_overrides(toml).unwrap_err().to_string();
            assert!(error.contains(part), "{toml}: {error}");
        }
    }

    #[test]
    fn templates_fill_known_marks_and_keep_the_rest() {
        let fill = |text: &str| fill_template(text, |name| (name == "a").then(|| "1".to_owned()));
        assert_eq!(fill("x {{a}} y {{ a }} {{b}} {{"), "x 1 y 1 {{b}} {{");
        assert_eq!(fill("{{a"), "{{a");
    }
}
