//! Named transactions: counted, and tried again where they only lost a race.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use molecule_provisioner::store::StoreError;
use tracing::{Instrument, debug, debug_span};

/// How often a transaction that loses races is tried in all.
const TRIES: u32 = 8;
const PAUSE: Duration = Duration::from_millis(2);

/// What became of a transaction's runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Runs, whether tried once or more often.
    pub runs: u64,
    /// Tries that lost a race and were followed by another.
    pub retries: u64,
    /// Runs that ended in an error other than a refusal by the rules.
    pub failures: u64,
}

/// Counts by name.
#[derive(Debug, Default)]
pub(crate) struct Transactions(Mutex<BTreeMap<&'static str, Counts>>);

impl Transactions {
    /// Runs a transaction that `once` makes from its beginning to its commit. A commit whose answer is lost is
    /// not tried again here: its caller repeats the request, which is made for that.
    pub(crate) async fn run<T, F>(&self, name: &'static str, once: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let span = debug_span!("transaction", name);
        let mut tries = 1;
        let result = loop {
            match once().instrument(span.clone()).await {
                Err(StoreError::LostRace(error)) if tries < TRIES => {
                    debug!(name, %error, tries, "lost a race; once more");
                    tokio::time::sleep(PAUSE * tries * tries).await;
                    tries += 1;
                }
                result => break result,
            }
        };
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = counts.entry(name).or_default();
        counts.runs += 1;
        counts.retries += u64::from(tries - 1);
        let failed = matches!(
            result,
            Err(StoreError::Unavailable(_) | StoreError::LostRace(_) | StoreError::Corrupt { .. })
        );
        counts.failures += u64::from(failed);
        result
    }

    pub(crate) fn counts(&self) -> Vec<(&'static str, Counts)> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|(name, counts)| (*name, *counts)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_lost_race_is_run_again_and_trouble_is_not() {
        let transactions = Transactions::default();
        let tries = AtomicU32::new(0);
        let once = || async {
            match tries.fetch_add(1, Ordering::Relaxed) {
                0 | 1 => Err(StoreError::LostRace("deadlock".into())),
                _ => Ok(7),
            }
        };
        assert_eq!(transactions.run("race", once).await.unwrap(), 7);
        let fails = || async { Err::<(), _>(StoreError::Unavailable("gone".into())) };
        assert!(transactions.run("trouble", fails).await.is_err());
        let loses = || async { Err::<(), _>(StoreError::LostRace("again".into())) };
        assert!(matches!(transactions.run("loses", loses).await, Err(StoreError::LostRace(_))));
        let counts = transactions.counts();
        assert_eq!(counts[0], ("loses", Counts { runs: 1, retries: 7, failures: 1 }));
        assert_eq!(counts[1], ("race", Counts { runs: 1, retries: 2, failures: 0 }));
        assert_eq!(counts[2], ("trouble", Counts { runs: 1, retries: 0, failures: 1 }));
    }
}
