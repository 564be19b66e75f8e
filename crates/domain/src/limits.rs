//! What an organisation may use, and what it uses: admission's arithmetic.

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorReason, LimitViolation, Result};
use crate::tier::Resources;

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

    fn named(&self) -> [(&'static str, i64); 5] {
        [
            ("workspaces", self.workspaces),
            ("disk_gib", self.disk_gib),
            ("running_workspaces", self.running_workspaces),
            ("milli_cpus", self.milli_cpus),
            ("memory_mib", self.memory_mib),
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
}

impl Limits {
    /// Decides whether `asked` may come on top of `used`. Only what is asked for can be refused: lowering a
    /// limit below what is used stops nothing by itself.
    pub fn admit(&self, standing: Standing, used: &Amounts, asked: &Amounts) -> Result<()> {
        if standing != Standing::Good {
            return Err(Error::new(
                ErrorReason::NotInGoodStanding,
                "the organisation is not in good standing, so nothing new can start; settle its account first",
            ));
        }
        let caps =
            [self.workspaces, self.disk_gib, self.running_workspaces, self.milli_cpus, self.memory_mib];
        let violations: Vec<LimitViolation> = caps
            .into_iter()
            .zip(used.named())
            .zip(asked.named())
            .filter_map(|((cap, (limit, used)), (_, asked))| {
                let cap = cap?;
                (asked > 0 && used + asked > cap).then_some(LimitViolation { limit, cap, used, asked })
            })
            .collect();
        if violations.is_empty() {
            return Ok(());
        }
        let message = violations
            .iter()
            .map(|v| {
                format!("{}: {} used + {} asked is over the limit of {}", v.limit, v.used, v.asked, v.cap)
            })
            .collect::<Vec<_>>()
            .join("; ");
        let mut error = Error::new(
            ErrorReason::QuotaExceeded,
            format!("{message}. Stop or delete a workspace, or have the limit raised"),
        );
        error.limits = violations;
        Err(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amounts(workspaces: i64) -> Amounts {
        Amounts { workspaces, ..Amounts::default() }
    }

    #[test]
    fn the_last_place_is_given_and_no_more() {
        let limits = Limits { workspaces: Some(3), ..Limits::default() };
        assert!(limits.admit(Standing::Good, &amounts(2), &amounts(1)).is_ok());
        let error = limits.admit(Standing::Good, &amounts(3), &amounts(1)).unwrap_err();
        assert_eq!(error.limits, vec![LimitViolation { limit: "workspaces", cap: 3, used: 3, asked: 1 }]);
    }

    #[test]
    fn a_lowered_limit_refuses_only_what_is_asked_of_it() {
        let limits = Limits { workspaces: Some(1), ..Limits::default() };
        let asked = Amounts { running_workspaces: 1, ..Amounts::default() };
        assert!(limits.admit(Standing::Good, &amounts(5), &asked).is_ok());
    }

    #[test]
    fn no_cap_admits_and_bad_standing_does_not() {
        assert!(Limits::default().admit(Standing::Good, &amounts(1_000_000), &amounts(1)).is_ok());
        for standing in [Standing::Grace, Standing::Suspended] {
            let error = Limits::default().admit(standing, &amounts(0), &amounts(1)).unwrap_err();
            assert_eq!(error.reason, ErrorReason::NotInGoodStanding);
        }
    }

    #[test]
    fn the_two_parts_make_the_whole() {
        let whole =
            Amounts { workspaces: 1, disk_gib: 2, running_workspaces: 1, milli_cpus: 500, memory_mib: 256 };
        assert_eq!(whole.allocated_part().plus(whole.running_part()), whole);
        assert_eq!(whole.minus(whole), Amounts::default());
    }
}
