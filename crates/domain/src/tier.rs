//! What each tier gives a workspace, and how an operator changes it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The size of a workspace. T1 also has a read-only root. No tier is privileged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(missing_docs)] // TierTable tells what each gives
pub enum Tier {
    T1,
    #[default]
    T2,
    T3,
    T4,
}

impl Tier {
    /// All tiers, smallest first.
    pub const ALL: [Self; 4] = [Self::T1, Self::T2, Self::T3, Self::T4];

    /// 1 to 4.
    pub const fn number(self) -> u8 {
        self as u8 + 1
    }

    /// Whether the root file system can't be written.
    pub const fn read_only_root(self) -> bool {
        matches!(self, Self::T1)
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "T{}", self.number())
    }
}

impl FromStr for Tier {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|tier| text.eq_ignore_ascii_case(&tier.to_string()) || text == tier.number().to_string())
            .ok_or_else(|| format!("there is no tier {text:?}; use T1, T2, T3 or T4"))
    }
}

/// CPU shares that make one CPU.
pub const SHARES_PER_CPU: u32 = 1024;

/// The most that a workspace may use. `None` is no cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Memory in MiB.
    pub memory_mib: Option<u32>,
    /// CPU in shares; 1024 are one CPU.
    pub cpu_shares: Option<u32>,
}

impl Resources {
    /// Memory in bytes.
    pub fn memory_bytes(&self) -> Option<i64> {
        self.memory_mib.map(|mib| i64::from(mib) * 1024 * 1024)
    }

    /// CPU in billionths of a CPU, as the Engine API's `NanoCpus`.
    pub fn nano_cpus(&self) -> Option<i64> {
        self.cpu_shares.map(|shares| i64::from(shares) * 1_000_000_000 / i64::from(SHARES_PER_CPU))
    }
}

/// The resources of every tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierTable([Resources; 4]);

impl Default for TierTable {
    fn default() -> Self {
        let of =
            |memory_mib, cpu_shares| Resources { memory_mib: Some(memory_mib), cpu_shares: Some(cpu_shares) };
        Self([of(256, 512), of(512, 1024), of(2048, 2048), of(4096, 4096)])
    }
}

impl TierTable {
    /// The defaults with an operator's overrides: `TIER{1..4}_MEMORY_MB` and `TIER{1..4}_CPU_SHARES`, looked
    /// up with `setting`. `unlimited` lifts the cap; what is malformed or not positive leaves the default and
    /// is told in the warnings.
    pub fn with_overrides(setting: impl Fn(&str) -> Option<String>) -> (Self, Vec<String>) {
        let mut table = Self::default();
        let mut warnings = Vec::new();
        for tier in Tier::ALL {
            let resources = &mut table.0[usize::from(tier.number() - 1)];
            let mut apply = |suffix: &str, cap: &mut Option<u32>| {
                let key = format!("TIER{}_{suffix}", tier.number());
                let Some(text) = setting(&key) else { return };
                match text.trim() {
                    "unlimited" => *cap = None,
                    number => match number.parse::<u32>() {
                        Ok(number) if number > 0 => *cap = Some(number),
                        _ => warnings.push(format!(
                            "{key}={text:?} is neither a positive whole number nor \"unlimited\"; keeping {}",
                            cap.map_or_else(|| "unlimited".to_owned(), |cap| cap.to_string())
                        )),
                    },
                }
            };
            apply("MEMORY_MB", &mut resources.memory_mib);
            apply("CPU_SHARES", &mut resources.cpu_shares);
        }
        (table, warnings)
    }

    /// What `tier` gives.
    pub fn resources(&self, tier: Tier) -> Resources {
        self.0[usize::from(tier.number() - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_cpus() {
        let table = TierTable::default();
        assert_eq!(table.resources(Tier::T1).nano_cpus(), Some(500_000_000));
        assert_eq!(table.resources(Tier::T4).nano_cpus(), Some(4_000_000_000));
        assert_eq!(table.resources(Tier::T2).memory_bytes(), Some(512 * 1024 * 1024));
    }

    #[test]
    fn overrides_apply_and_bad_ones_fall_back_with_a_warning() {
        let settings = [
            ("TIER1_MEMORY_MB", "300"),
            ("TIER2_MEMORY_MB", "-5"),
            ("TIER3_CPU_SHARES", "unlimited"),
            ("TIER4_CPU_SHARES", "0"),
        ];
        let (table, warnings) = TierTable::with_overrides(|key| {
            settings.iter().find(|(name, _)| *name == key).map(|(_, value)| (*value).to_owned())
        });
        assert_eq!(table.resources(Tier::T1).memory_mib, Some(300));
        assert_eq!(table.resources(Tier::T2).memory_mib, Some(512));
        assert_eq!(table.resources(Tier::T3).cpu_shares, None);
        assert_eq!(table.resources(Tier::T4).cpu_shares, Some(4096));
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].contains("TIER2_MEMORY_MB"), "{warnings:?}");
    }

    #[test]
    fn a_tier_is_read_as_people_write_it() {
        for (text, tier) in [("T1", Tier::T1), ("t3", Tier::T3), ("4", Tier::T4)] {
            assert_eq!(text.parse(), Ok(tier));
        }
        assert_eq!(Tier::T2.to_string(), "T2");
        for text in ["T5", "", "T", "two"] {
            assert!(text.parse::<Tier>().unwrap_err().contains(&format!("{text:?}")), "{text}");
        }
    }
}
