//! Limits as they are typed: NAME=VALUE.

use molecule_proto::controlplane::v1::Limits;
use molecule_proto::workspace::v1::Tier;

use crate::failure::Failure;

const NAMES: &str = "workspaces, disk_gib, running_workspaces, milli_cpus, memory_mib, launches_per_hour, \
                     highest_tier, runtimes, backends";

/// The limits with these changes; `none` lifts one.
pub(super) fn apply(mut limits: Limits, typed: &[String]) -> Result<Limits, Failure> {
    for one in typed {
        let bad = |problem: &str| Failure::Usage(format!("--limit {one}: {problem}"));
        let (name, value) = one.split_once('=').ok_or_else(|| bad("must be NAME=VALUE"))?;
        let lifted = value == "none";
        let list = || {
            if lifted { Vec::new() } else { value.split(',').map(|item| item.trim().to_owned()).collect() }
        };
        let slot = match name {
            "workspaces" => &mut limits.workspaces,
            "disk_gib" => &mut limits.disk_gib,
            "running_workspaces" => &mut limits.running_workspaces,
            "milli_cpus" => &mut limits.milli_cpus,
            "memory_mib" => &mut limits.memory_mib,
            "launches_per_hour" => &mut limits.launches_per_hour,
            "runtimes" => {
                limits.runtimes = list();
                continue;
            }
            "backends" => {
                limits.backends = list();
                continue;
            }
            "highest_tier" => {
                let tier = if lifted {
                    Tier::Unspecified
                } else {
                    let name = format!("TIER_{}", value.to_uppercase());
                    Tier::from_str_name(&name).ok_or_else(|| bad("use T1 to T4, or none"))?
                };
                limits.highest_tier = tier.into();
                continue;
            }
            _ => return Err(bad(&format!("there is no such limit; known are: {NAMES}"))),
        };
        *slot = if lifted {
            None
        } else {
            Some(value.parse().map_err(|_| bad("must be a whole number, or none"))?)
        };
    }
    Ok(limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(all: &[&str]) -> Vec<String> {
        all.iter().map(|&one| one.to_owned()).collect()
    }

    #[test]
    fn what_is_typed_changes_and_the_rest_stays() {
        let before = Limits { workspaces: Some(1), disk_gib: Some(2), ..Limits::default() };
        let typed = typed(&["workspaces=5", "disk_gib=none", "highest_tier=t3", "runtimes=a, b"]);
        let after = apply(before, &typed).unwrap();
        assert_eq!((after.workspaces, after.disk_gib), (Some(5), None));
        assert_eq!((after.highest_tier(), after.runtimes), (Tier::T3, vec!["a".to_owned(), "b".to_owned()]));
    }

    #[test]
    fn mistakes_are_named() {
        for wrong in ["workspaces", "workspaces=many", "wrkspaces=1", "highest_tier=T9"] {
            let failure = apply(Limits::default(), &typed(&[wrong])).unwrap_err();
            assert!(failure.to_string().contains(wrong), "{failure}");
        }
    }
}
