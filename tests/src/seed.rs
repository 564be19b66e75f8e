//! A seeded choice of cases, for sweeps whose long form takes longer than a test run should.

use std::hash::{DefaultHasher, Hash, Hasher};

/// Which cases of a long sweep are run.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    seed: u64,
    one_in: u64,
}

impl Choice {
    /// One case in so many, chosen by `MOLECULE_SEED` or by chance; all of them where `SOAK` is set. Says the
    /// seed, which the test runner shows if the test fails.
    pub fn one_in(one_in: u64) -> Self {
        let seed = seed();
        let one_in = if std::env::var_os("SOAK").is_some() { 1 } else { one_in };
        println!("MOLECULE_SEED={seed}; one case in {one_in} is run");
        Self { seed, one_in }
    }

    /// The chosen ones of these, at least one. `sweep` makes sweeps choose independently.
    pub fn of<T: Hash>(self, sweep: &str, mut cases: Vec<T>) -> Vec<T> {
        let rank = |case: &T| {
            let mut hasher = DefaultHasher::new();
            (self.seed, sweep, case).hash(&mut hasher);
            hasher.finish()
        };
        cases.sort_by_cached_key(rank);
        let keep = cases.len().div_ceil(usize::try_from(self.one_in).unwrap_or(usize::MAX));
        cases.truncate(keep);
        cases
    }
}

fn seed() -> u64 {
    let seed = std::env::var("MOLECULE_SEED").ok().and_then(|text| text.parse().ok());
    seed.unwrap_or_else(|| u64::from(uuid::Uuid::new_v4().as_fields().0))
}

/// Seeded chance, by `MOLECULE_SEED` or by chance.
#[derive(Clone, Copy, Debug)]
pub struct Dice {
    seed: u64,
    thrown: u64,
}

impl Dice {
    /// New dice; says the seed, which the test runner shows if the test fails.
    #[allow(clippy::new_without_default)] // two of them differ
    pub fn new() -> Self {
        let seed = seed();
        println!("MOLECULE_SEED={seed}");
        Self { seed, thrown: 0 }
    }

    /// A number below `bound`, which is above 0.
    pub fn below(&mut self, bound: usize) -> usize {
        self.thrown += 1;
        let mut hasher = DefaultHasher::new();
        (self.seed, self.thrown).hash(&mut hasher);
        let bound = u64::try_from(bound).unwrap_or(u64::MAX);
        usize::try_from(hasher.finish() % bound).unwrap_or(0)
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dice_fall_the_same_again() {
        let throw = |seed| {
            let mut dice = Dice { seed, thrown: 0 };
            (0..20).map(|_| dice.below(6)).collect::<Vec<_>>()
        };
        assert_eq!(throw(1), throw(1));
        assert_ne!(throw(1), throw(2));
        assert!(throw(3).iter().all(|face| *face < 6));
    }

    #[test]
    fn a_seed_chooses_the_same_again_and_another_chooses_otherwise() {
        let cases: Vec<u32> = (0..100).collect();
        let choose = |seed| Choice { seed, one_in: 10 }.of("sweep", cases.clone());
        assert_eq!(choose(1).len(), 10);
        assert_eq!(choose(1), choose(1));
        assert_ne!(choose(1), choose(2));
        assert_eq!(Choice { seed: 1, one_in: 10 }.of("sweep", vec![7]), [7]);
        assert_eq!(Choice { seed: 1, one_in: 1 }.of("sweep", cases).len(), 100);
    }
}
