//! Plans: named limits that an operator gives to organisations, from a TOML file.

use std::collections::BTreeMap;

use molecule_domain::limits::{Limits, Permits};
use molecule_domain::tier::Tier;
use serde::Deserialize;

/// A plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) limits: Limits,
    pub(crate) permits: Permits,
    /// Which backend new workspaces go to; empty is the service's default.
    pub(crate) backend: String,
}

/// The plans by name.
#[derive(Clone, Debug, Default)]
pub struct Plans(BTreeMap<String, Plan>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    plans: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    workspaces: Option<i64>,
    disk_gib: Option<i64>,
    running_workspaces: Option<i64>,
    milli_cpus: Option<i64>,
    memory_mib: Option<i64>,
    launches_per_hour: Option<i64>,
    highest_tier: Option<String>,
    #[serde(default)]
    runtimes: Vec<String>,
    #[serde(default)]
    backends: Vec<String>,
    #[serde(default)]
    backend: String,
}

impl Plans {
    /// Reads the file's text.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        let plans = file.plans.into_iter().map(|(name, entry)| {
            let highest_tier = entry.highest_tier.map(|tier| tier.parse::<Tier>()).transpose();
            let plan = Plan {
                limits: Limits {
                    workspaces: entry.workspaces,
                    disk_gib: entry.disk_gib,
                    running_workspaces: entry.running_workspaces,
                    milli_cpus: entry.milli_cpus,
                    memory_mib: entry.memory_mib,
                    launches_per_hour: entry.launches_per_hour,
                },
                permits: Permits {
                    highest_tier: highest_tier.map_err(|problem| format!("plan {name}: {problem}"))?,
                    runtimes: entry.runtimes,
                    backends: entry.backends,
                },
                backend: entry.backend,
            };
            Ok((name, plan))
        });
        plans.collect::<Result<_, String>>().map(Self)
    }

    /// A plan by name.
    pub(crate) fn get(&self, name: &str) -> Option<&Plan> {
        self.0.get(name)
    }

    /// Refuses a plan that sends workspaces to a backend that isn't there.
    pub(crate) fn check(&self, is_backend: impl Fn(&str) -> bool) -> Result<(), String> {
        let wrong = self.0.iter().find(|(_, plan)| !plan.backend.is_empty() && !is_backend(&plan.backend));
        wrong.map_or(Ok(()), |(name, plan)| {
            Err(format!("CONTROLPLANE_PLANS_FILE: plan {name}: there is no backend {:?} here", plan.backend))
        })
    }

    /// All names, for messages.
    pub(crate) fn names(&self) -> String {
        if self.0.is_empty() {
            return "none; CONTROLPLANE_PLANS_FILE names no file with plans".to_owned();
        }
        self.0.keys().cloned().collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_read_whole_and_a_wrong_key_is_refused() {
        let plans = Plans::parse(
            "[plans.small]\nworkspaces = 3\nhighest_tier = 'T2'\nruntimes = ['demo']\nbackend = 'docker'",
        )
        .unwrap();
        let small = plans.get("small").unwrap();
        assert_eq!((small.limits.workspaces, small.limits.disk_gib), (Some(3), None));
        assert_eq!((small.permits.highest_tier, small.backend.as_str()), (Some(Tier::T2), "docker"));
        assert!(plans.check(|backend| backend == "docker").is_ok());
        let error = plans.check(|backend| backend == "ec2").unwrap_err();
        assert!(error.contains("small") && error.contains("docker"), "{error}");
        assert!(Plans::parse("[plans.small]\nworkspace = 3").is_err());
        let error = Plans::parse("[plans.small]\nhighest_tier = 'T9'").unwrap_err();
        assert!(error.contains("small") && error.contains("T9"), "{error}");
    }
}
