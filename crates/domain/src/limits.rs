//! What an organisation may use, and what it uses: admission's arithmetic.

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorReason, LimitViolation, Result};
use crate::tier::{Resources, Tier};

/// An amount of each thing that is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amounts {
    /// Workspaces, from admission to confirmed absence.
    pub workspaces: i64,
    /// Disk in GiB, from admission to confirmed absence.
    pub disk_gib: i64,
    /// Workspaces from desired Running to confirmed stopped or absent.
    pub running_workspaces: i64,
    /// Thousandths of a CPU, counted like running workspaces.
    pub milli_cpus: i64,
    /// Memory in MiB, counted like running workspaces.
    pub memory_mib: i64,
}

impl Amounts {
    /// What one workspace with these resources holds while it exists and runs.
    pub fn of_workspace(resources: &Resources, disk_gib: i64) -> Self {
        Self {
            workspaces: 1,
            disk_gib,
            running_workspaces: 1,
            milli_cpus: resources.nano_cpus().unwrap_or(0) / 1_000_000,
            memory_mib: resources.memory_mib.map_or(0, i64::from),
        }
    }

    /// The part that is held from admission to confirmed absence.
    #[must_use]
    pub const fn allocated_part(self) -> Self {
        Self { running_workspaces: 0, milli_cpus: 0, memory_mib: 0, ..self }
    }

    /// The part that is held while running.
    #[must_use]
    pub const fn running_part(self) -> Self {
        Self { workspaces: 0, disk_gib: 0, ..self }
    }

    /// The sum.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            workspaces: self.workspaces + other.workspaces,
            disk_gib: self.disk_gib + other.disk_gib,
            running_workspaces: self.running_workspaces + other.running_workspaces,
            milli_cpus: self.milli_cpus + other.milli_cpus,
            memory_mib: self.memory_mib + other.memory_mib,
        }
    }

    /// The difference.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        self.plus(Self {
            workspaces: -other.workspaces,
            disk_gib: -other.disk_gib,
            running_workspaces: -other.running_workspaces,
            milli_cpus: -other.milli_cpus,
            memory_mib: -other.memory_mib,
        })
    }

    /// So many times as much.
    #[must_use]
    pub const fn times(self, count: i64) -> Self {
        Self {
            workspaces: self.workspaces * count,
            disk_gib: self.disk_gib * count,
            running_workspaces: self.running_workspaces * count,
            milli_cpus: self.milli_cpus * count,
            memory_mib: self.memory_mib * count,
        }
    }
}

/// What is counted against the limits: amounts that are held, and launches within the last hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// What is held.
    pub amounts: Amounts,
    /// Launches that were admitted within the last hour.
    pub launches: i64,
}

impl Counted {
    const fn named(&self) -> [(&'static str, i64); 6] {
        [
            ("workspaces", self.amounts.workspaces),
            ("disk_gib", self.amounts.disk_gib),
            ("running_workspaces", self.amounts.running_workspaces),
            ("milli_cpus", self.amounts.milli_cpus),
            ("memory_mib", self.amounts.memory_mib),
            ("launches_per_hour", self.launches),
        ]
    }
}

/// Whether an organisation may launch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// All is well.
    #[default]
    Good,
    /// What runs goes on; nothing new starts.
    Grace,
    /// Everything is stopped; data is kept.
    Suspended,
}

/// The caps of an organisation; `None` is no cap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // as in Amounts
pub struct Limits {
    pub workspaces: Option<i64>,
    pub disk_gib: Option<i64>,
    pub running_workspaces: Option<i64>,
    pub milli_cpus: Option<i64>,
    pub memory_mib: Option<i64>,
    pub launches_per_hour: Option<i64>,
}

/// A limit beside what is used and asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitCheck {
    /// The limit's name.
    pub limit: &'static str,
    /// The highest allowed value.
    pub cap: i64,
    /// What is used.
    pub used: i64,
    /// What would come on top.
    pub asked: i64,
}

impl LimitCheck {
    /// Only what is asked for can be refused: lowering a limit below what is used stops nothing by itself.
    pub const fn exceeded(&self) -> bool {
        self.asked > 0 && self.used + self.asked > self.cap
    }
}

impl Limits {
    /// Every limit that is set, beside what is used and asked for.
    pub fn checks(&self, used: &Counted, asked: &Counted) -> Vec<LimitCheck> {
        let caps = [
            self.workspaces,
            self.disk_gib,
            self.running_workspaces,
            self.milli_cpus,
            self.memory_mib,
            self.launches_per_hour,
        ];
        caps.into_iter()
            .zip(used.named())
            .zip(asked.named())
            .filter_map(|((cap, (limit, used)), (_, asked))| {
                Some(LimitCheck { limit, cap: cap?, used, asked })
            })
            .collect()
    }

    /// Decides whether `asked` may come on top of `used`.
    pub fn admit(&self, standing: Standing, used: &Counted, asked: &Counted) -> Result<()> {
        if standing != Standing::Good {
            return Err(Error::new(
                ErrorReason::NotInGoodStanding,
                "the organisation is not in good standing, so nothing new can start; settle its account first",
            ));
        }
        let exceeded: Vec<LimitCheck> =
            self.checks(used, asked).into_iter().filter(LimitCheck::exceeded).collect();
        if exceeded.is_empty() {
            return Ok(());
        }
        let said: Vec<String> = exceeded
            .iter()
            .map(|c| {
                format!("{}: {} used + {} asked is over the limit of {}", c.limit, c.used, c.asked, c.cap)
            })
            .collect();
        let remedy = if exceeded.iter().all(|check| check.limit == "launches_per_hour") {
            "Wait until the launches of the last hour are fewer, or have the limit raised"
        } else {
            "Stop or delete a workspace, or have the limit raised"
        };
        let mut error = Error::new(ErrorReason::QuotaExceeded, format!("{}. {remedy}", said.join("; ")));
        error.limits = exceeded
            .into_iter()
            .map(|LimitCheck { limit, cap, used, asked }| LimitViolation {
                limit: limit.into(),
                cap,
                used,
                asked,
            })
            .collect();
        Err(error)
    }
}

/// What an organisation's plan lets it launch; empty lists allow everything. What a newer version has stored besides is no less a
/// restriction: such a text is not read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Permits {
    /// The highest tier; `None` is no bound.
    pub highest_tier: Option<Tier>,
    /// The runtimes, by name.
    pub runtimes: Vec<String>,
    /// The backends, by kind.
    pub backends: Vec<String>,
}

impl Permits {
    /// Whether this may be launched there.
    pub fn check(&self, runtime: &str, tier: Tier, backend: &str) -> Result<()> {
        if let Some(highest) = self.highest_tier
            && tier > highest
        {
            let (cap, asked) = (i64::from(highest.number()), i64::from(tier.number()));
            let mut error = Error::new(
                ErrorReason::QuotaExceeded,
                format!("highest_tier: T{asked} is above T{cap}. Ask for T{cap}, or have the limit raised"),
            );
            error.limits = vec![LimitViolation { limit: "highest_tier".into(), cap, used: 0, asked }];
            return Err(error);
        }
        for (what, list, asked) in
            [("runtime", &self.runtimes, runtime), ("backend", &self.backends, backend)]
        {
            if !list.is_empty() && !list.iter().any(|allowed| allowed == asked) {
                return Err(Error::new(
                    ErrorReason::NotInPlan,
                    format!(
                        "the organisation's plan does not include the {what} {asked:?}; it includes: {}",
                        list.join(", ")
                    ),
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(workspaces: i64) -> Counted {
        Counted { amounts: Amounts { workspaces, ..Amounts::default() }, launches: 0 }
    }

    #[test]
    fn the_last_place_is_given_and_no_more() {
        let limits = Limits { workspaces: Some(3), ..Limits::default() };
        assert!(limits.admit(Standing::Good, &counted(2), &counted(1)).is_ok());
        let error = limits.admit(Standing::Good, &counted(3), &counted(1)).unwrap_err();
        assert_eq!(
            error.limits,
            vec![LimitViolation { limit: "workspaces".into(), cap: 3, used: 3, asked: 1 }]
        );
    }

    #[test]
    fn a_lowered_limit_refuses_only_what_is_asked_of_it() {
        let limits = Limits { workspaces: Some(1), ..Limits::default() };
        let amounts = Amounts { running_workspaces: 1, ..Amounts::default() };
        let asked = Counted { amounts, launches: 1 };
        assert!(limits.admit(Standing::Good, &counted(5), &asked).is_ok());
    }

    #[test]
    fn no_cap_admits_and_bad_standing_does_not() {
        assert!(Limits::default().admit(Standing::Good, &counted(1_000_000), &counted(1)).is_ok());
        for standing in [Standing::Grace, Standing::Suspended] {
            let error = Limits::default().admit(standing, &counted(0), &counted(1)).unwrap_err();
            assert_eq!(error.reason, ErrorReason::NotInGoodStanding);
        }
    }

    #[test]
    fn launches_of_the_last_hour_are_bounded() {
        let limits = Limits { launches_per_hour: Some(2), ..Limits::default() };
        let launched = |launches| Counted { launches, ..Counted::default() };
        assert!(limits.admit(Standing::Good, &launched(1), &launched(1)).is_ok());
        let error = limits.admit(Standing::Good, &launched(2), &launched(1)).unwrap_err();
        assert!(error.message.contains("Wait"), "{}", error.message);
    }

    #[test]
    fn a_plan_bounds_tier_runtime_and_backend() {
        let permits = Permits {
            highest_tier: Some(Tier::T2),
            runtimes: vec!["demo".into()],
            backends: vec!["docker".into()],
        };
        assert!(permits.check("demo", Tier::T2, "docker").is_ok());
        let reason = |runtime, tier, backend| permits.check(runtime, tier, backend).unwrap_err().reason;
        assert_eq!(reason("demo", Tier::T3, "docker"), ErrorReason::QuotaExceeded);
        assert_eq!(reason("other", Tier::T1, "docker"), ErrorReason::NotInPlan);
        assert_eq!(reason("demo", Tier::T1, "ec2"), ErrorReason::NotInPlan);
        assert!(Permits::default().check("any", Tier::T4, "ec2").is_ok());
    }

    #[test]
    fn the_two_parts_make_the_whole() {
        let whole =
            Amounts { workspaces: 1, disk_gib: 2, running_workspaces: 1, milli_cpus: 500, memory_mib: 256 };
        assert_eq!(whole.allocated_part().plus(whole.running_part()), whole);
        assert_eq!(whole.minus(whole), Amounts::default());
    }

    #[test]
    fn a_workspace_counts_by_its_resources() {
        let resources = Resources { memory_mib: Some(512), cpu_shares: Some(1536) };
        let one = Amounts::of_workspace(&resources, 10);
        let amounts = |workspaces, disk_gib, running_workspaces, milli_cpus, memory_mib| Amounts {
            workspaces,
            disk_gib,
            running_workspaces,
            milli_cpus,
            memory_mib,
        };
        assert_eq!(one, amounts(1, 10, 1, 1500, 512));
        assert_eq!(one.times(3), amounts(3, 30, 3, 4500, 1536));
        assert_eq!(
            Amounts::of_workspace(&Resources { memory_mib: None, cpu_shares: None }, 0),
            amounts(1, 0, 1, 0, 0)
        );
    }
}
