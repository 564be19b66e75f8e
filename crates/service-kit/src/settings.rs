//! Settings: from flags, the environment and a file, in this order of precedence; each known by one name.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Arg, ArgAction, Command};

use molecule_domain::runtime::RuntimeRegistry;
use molecule_domain::tier::TierTable;

use crate::telemetry::{LogFormat, Observed};

/// A setting: its name in the environment; in the file it is the same in lower case, and as a flag in kebab
/// case without the program's prefix.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    name: &'static str,
    default: Option<&'static str>,
    help: &'static str,
    secret: bool,
}

/// A setting with its default.
pub const fn setting(name: &'static str, default: Option<&'static str>, help: &'static str) -> Setting {
    Setting { name, default, help, secret: false }
}

/// A setting whose value is never printed. It has no flag: other users of the machine see those.
pub const fn secret(name: &'static str, help: &'static str) -> Setting {
    Setting { name, default: None, help, secret: true }
}

/// What every service that launches knows: the runtimes, the Docker daemon, the tiers.
pub const LAUNCHING: [Setting; 10] = [
    setting("RUNTIMES_FILE", None, "TOML file that adds or replaces runtimes"),
    setting("DOCKER_HOST", None, "unix://… or tcp://… of the Docker daemon; default: the local socket"),
    setting("TIER1_MEMORY_MB", None, "memory of tier 1 in MiB, or unlimited"),
    setting("TIER2_MEMORY_MB", None, "memory of tier 2"),
    setting("TIER3_MEMORY_MB", None, "memory of tier 3"),
    setting("TIER4_MEMORY_MB", None, "memory of tier 4"),
    setting("TIER1_CPU_SHARES", None, "CPU of tier 1 in shares of 1024 per CPU, or unlimited"),
    setting("TIER2_CPU_SHARES", None, "CPU of tier 2"),
    setting("TIER3_CPU_SHARES", None, "CPU of tier 3"),
    setting("TIER4_CPU_SHARES", None, "CPU of tier 4"),
];

/// A program and the settings that it knows.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Its name.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// How the names of its own settings begin: an unknown variable that begins so is a mistake.
    pub prefix: &'static str,
    /// The variable that names the file of settings.
    pub file: &'static str,
    /// All that it knows, by the subjects that they are about.
    pub settings: &'static [&'static [Setting]],
}

/// Settings that can't be started with: each problem names its setting.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n            "))]
pub struct ConfigError(pub Vec<String>);

/// The effective values by name.
#[derive(Clone, Debug, Default)]
pub struct Values(BTreeMap<&'static str, String>);

impl Program {
    fn settings(&self) -> impl Iterator<Item = &'static Setting> {
        self.settings.iter().copied().flatten()
    }

    /// Reads flags, environment and file; tells whether the values are only to be shown.
    pub fn from_process(&self) -> Result<(Values, bool), ConfigError> {
        let matches = self.command().get_matches();
        let flag = |name: &str| matches.try_get_one::<String>(name).ok().flatten().cloned();
        let environment: BTreeMap<String, String> = std::env::vars().collect();
        let file = flag(self.file).or_else(|| environment.get(self.file).cloned());
        let values = self.gather(flag, &environment, file.as_deref().map(Path::new))?;
        Ok((values, matches.get_flag("check-config")))
    }

    /// From a plain list of settings, as tests have it; all else is default.
    pub fn from_list(&self, settings: &[(&str, &str)]) -> Result<Values, ConfigError> {
        let environment =
            settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.gather(|_| None, &environment, None)
    }

    /// The values in effect, one a line, without what is secret.
    pub fn describe(&self, values: &Values) -> String {
        let mut text = String::new();
        for setting in self.settings() {
            let Some(value) = values.get(setting.name) else { continue };
            let shown = if setting.secret { "(hidden)" } else { value };
            let _ = writeln!(text, "{}={shown}", setting.name);
        }
        text
    }

    fn command(&self) -> Command {
        let settings = self.settings().filter(|setting| !setting.secret).map(|setting| {
            let help = match setting.default {
                Some(default) => format!("{} [env: {}; default: {default}]", setting.help, setting.name),
                None => format!("{} [env: {}]", setting.help, setting.name),
            };
            Arg::new(setting.name).long(self.flag_of(setting.name)).value_name("VALUE").help(help)
        });
        let hidden = self.settings().filter(|setting| setting.secret);
        let hidden: Vec<String> = hidden.map(|s| format!("  {}: {}", s.name, s.help)).collect();
        let command = Command::new(self.name)
            .version(env!("CARGO_PKG_VERSION"))
            .about(self.about)
            .args(settings)
            .arg(
                Arg::new(self.file)
                    .long("config-file")
                    .value_name("FILE")
                    .help(format!("TOML file of settings, their names in lower case [env: {}]", self.file)),
            )
            .arg(
                Arg::new("check-config")
                    .long("check-config")
                    .action(ArgAction::SetTrue)
                    .help("Check the settings, print what is in effect, and end"),
            );
        if hidden.is_empty() {
            return command;
        }
        command.after_help(format!("Secrets, from the environment or the file only:\n{}", hidden.join("\n")))
    }

    fn flag_of(&self, name: &str) -> String {
        name.trim_start_matches(self.prefix).to_ascii_lowercase().replace('_', "-")
    }

    /// Merges the three sources. A key that nobody knows is a mistake somebody should hear of.
    fn gather(
        &self,
        flag: impl Fn(&str) -> Option<String>,
        environment: &BTreeMap<String, String>,
        file: Option<&Path>,
    ) -> Result<Values, ConfigError> {
        let mut problems = Vec::new();
        let known = |name: &str| self.settings().any(|setting| setting.name == name);
        let ours = |name: &str| name.starts_with(self.prefix) && name != self.file;
        for name in environment.keys().filter(|name| ours(name) && !known(name)) {
            problems.push(format!("{name}: there is no such setting; see {} --help", self.name));
        }
        let mut in_file = BTreeMap::new();
        if let Some(path) = file {
            match self.read_file(path) {
                Ok(values) => in_file = values,
                Err(problem) => problems.push(problem),
            }
            for name in in_file.keys().filter(|name| !known(name)) {
                let (path, key) = (path.display(), name.to_ascii_lowercase());
                problems.push(format!("{path}: there is no setting {key:?}; see {} --help", self.name));
            }
        }
        if !problems.is_empty() {
            return Err(ConfigError(problems));
        }
        let mut values = BTreeMap::new();
        for &Setting { name, default, .. } in self.settings() {
            let value =
                flag(name).or_else(|| environment.get(name).cloned()).or_else(|| in_file.get(name).cloned());
            if let Some(value) = value.or_else(|| default.map(str::to_owned)) {
                values.insert(name, value);
            }
        }
        Ok(Values(values))
    }

    fn read_file(&self, path: &Path) -> Result<BTreeMap<String, String>, String> {
        let named = |problem: String| format!("{}: {}: {problem}", self.file, path.display());
        let text = std::fs::read_to_string(path).map_err(|error| named(error.to_string()))?;
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| named(error.to_string()))?;
        table
            .into_iter()
            .map(|(key, value)| {
                let value = match value {
                    toml::Value::String(text) => text,
                    toml::Value::Integer(number) => number.to_string(),
                    other => {
                        return Err(named(format!(
                            "{key} must be text or a whole number, not {}",
                            other.type_str()
                        )));
                    }
                };
                Ok((key.to_ascii_uppercase(), value))
            })
            .collect()
    }
}

impl Values {
    /// A value that is set and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// A value, or nothing with a problem noted.
    pub fn parse<T: std::str::FromStr>(&self, name: &str, problems: &mut Vec<String>) -> Option<T>
    where
        T::Err: std::fmt::Display,
    {
        let text = self.get(name)?;
        text.parse().map_err(|error| problems.push(format!("{name}: {text:?}: {error}"))).ok()
    }

    /// A duration in seconds.
    pub fn seconds(&self, name: &str, problems: &mut Vec<String>) -> Duration {
        Duration::from_secs(self.parse(name, problems).unwrap_or_default())
    }

    /// The content of a file that a setting names.
    pub fn read(&self, name: &str, problems: &mut Vec<String>) -> Option<String> {
        let path = self.get(name)?;
        std::fs::read_to_string(path).map_err(|error| problems.push(format!("{name}: {path}: {error}"))).ok()
    }

    /// What the service tells of itself, by the settings of these names.
    pub fn observed(&self, log: &str, format: &str, metrics: &str, problems: &mut Vec<String>) -> Observed {
        let looks = match self.get(format) {
            Some("json") => LogFormat::Json,
            Some("human") | None => LogFormat::Human,
            Some(other) => {
                problems.push(format!("{format}: {other:?} is neither human nor json"));
                LogFormat::Human
            }
        };
        Observed {
            format: looks,
            filter: self.get(log).unwrap_or("info").to_owned(),
            metrics: self.parse(metrics, problems),
        }
    }

    /// The runtimes: the built-in ones, with those of the file that a setting names.
    pub fn runtimes(&self, name: &str, problems: &mut Vec<String>) -> RuntimeRegistry {
        let built_in = match RuntimeRegistry::built_in() {
            Ok(registry) => registry,
            Err(error) => unreachable!("the built-in runtimes are tested: {error}"),
        };
        let Some(text) = self.read(name, problems) else { return built_in };
        built_in.clone().with_overrides(&text).unwrap_or_else(|problem| {
            problems.push(format!("{name}: {problem}"));
            built_in
        })
    }

    /// What each tier gives, by `TIERn_MEMORY_MB` and `TIERn_CPU_SHARES`, and warnings about those.
    pub fn tiers(&self) -> (TierTable, Vec<String>) {
        TierTable::with_overrides(|name| self.get(name).map(str::to_owned))
    }

    /// A file that stands beside the program unless a setting names another.
    pub fn beside_program(&self, name: &str, file: &str) -> PathBuf {
        let beside = || std::env::current_exe().unwrap_or_default().with_file_name(file);
        self.get(name).map_or_else(beside, PathBuf::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: Program = Program {
        name: "some-svc",
        about: "For tests",
        prefix: "SOME_",
        file: "SOME_CONFIG_FILE",
        settings: &[
            &[
                setting("SOME_LISTEN", Some("127.0.0.1:7"), "where"),
                setting("SOME_CALLS", Some("5"), "how many"),
            ],
            &[setting("OTHER", None, "another's name"), secret("SOME_TOKEN", "a secret")],
        ],
    };

    #[test]
    fn a_file_is_read_below_the_environment_and_its_unknown_keys_are_refused() {
        let path = std::env::temp_dir().join(format!("settings-{}.toml", uuid::Uuid::new_v4()));
        std::fs::write(&path, "some_listen = '127.0.0.1:1'\nsome_calls = 7\nother = 'x'").unwrap();
        let environment = BTreeMap::from([("SOME_LISTEN".to_owned(), "127.0.0.1:2".to_owned())]);
        let values = PROGRAM.gather(|_| None, &environment, Some(&path)).unwrap();
        assert_eq!((values.get("SOME_LISTEN"), values.get("SOME_CALLS")), (Some("127.0.0.1:2"), Some("7")));
        std::fs::write(&path, "some_listne = 'x'").unwrap();
        let error = PROGRAM.gather(|_| None, &environment, Some(&path)).unwrap_err();
        assert!(error.to_string().contains("some_listne"), "{error}");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn unknown_variables_are_refused_and_secrets_are_hidden() {
        let error = PROGRAM.from_list(&[("SOME_LISTN", "x")]).unwrap_err();
        assert!(error.to_string().contains("SOME_LISTN"), "{error}");
        let values = PROGRAM.from_list(&[("SOME_TOKEN", "hush")]).unwrap();
        assert!(!PROGRAM.describe(&values).contains("hush"));
        assert!(PROGRAM.describe(&values).contains("SOME_TOKEN=(hidden)"));
        assert!(PROGRAM.command().try_get_matches_from(["some-svc", "--token", "x"]).is_err());
    }
}
