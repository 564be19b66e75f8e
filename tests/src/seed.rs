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
        let seed = std::env::var("MOLECULE_SEED").ok().and_then(|text| text.parse().ok());
        let seed = seed.unwrap_or_else(|| u64::from(uuid::Uuid::new_v4().as_fields().0));
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

#[cfg(test)]
mod tests {
    use super::*;

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
