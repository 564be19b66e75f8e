//! The time that all replicas share: the database's. A replica whose own clock is wrong would otherwise end others'
//! leases early, or its own late.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use molecule_domain::clock::Steady;
use molecule_domain::{Clock, Timestamp};
use molecule_provisioner::store::StoreError;
use molecule_store_postgres::Database;
use tokio_util::sync::CancellationToken;
use tracing::debug;

const EVERY: Duration = Duration::from_secs(60);
/// How long a question may take for its answer to count. What waits for a connection may take much longer than its way.
const TRUSTED: Duration = Duration::from_millis(200);
/// How many answers may take longer before the quickest of them counts.
const TRIES: u32 = 5;

/// The database's clock, read now and then and carried on by this machine's monotonic one. It never steps back: where the
/// database's does, it goes at half its speed until that has caught up.
#[derive(Debug)]
pub(crate) struct DatabaseClock(Mutex<State>);

/// One reading: when the database was asked, how long that took, and what it said.
#[derive(Clone, Copy, Debug)]
struct Reading {
    asked: Instant,
    took: Duration,
    told: Timestamp,
}

#[derive(Debug)]
struct State {
    reading: Reading,
    /// The quickest answer so far.
    quickest: Duration,
    /// The quickest of the answers that did not count since one did, and how many there were.
    slow: Option<(Reading, u32)>,
    shown: Steady,
}

impl State {
    fn of(reading: Reading) -> Self {
        Self { reading, quickest: reading.took, slow: None, shown: Steady::default() }
    }

    /// Takes a reading, if it took no longer than is usual here. After several that took longer the quickest of them counts: the
    /// way may have become longer for good.
    fn take(&mut self, reading: Reading) {
        self.quickest = self.quickest.min(reading.took);
        if reading.took <= TRUSTED.max(self.quickest * 2) {
            (self.reading, self.slow) = (reading, None);
            return;
        }
        debug!(took = ?reading.took, "the database took too long to tell the time; carrying on");
        let (best, count) = match self.slow {
            Some((best, count)) if best.took <= reading.took => (best, count + 1),
            Some((_, count)) => (reading, count + 1),
            None => (reading, 1),
        };
        self.slow = Some((best, count));
        if count >= TRIES {
            (self.reading, self.quickest, self.slow) = (best, best.took, None);
        }
    }

    /// The time at a moment of the machine's clock. Half the round trip is taken for the answer's way back.
    fn at(&mut self, now: Instant) -> Timestamp {
        let Reading { asked, took, told } = self.reading;
        let read = told + now.saturating_duration_since(asked + took / 2);
        self.shown.show(read, now)
    }
}

impl DatabaseClock {
    /// Reads it for the first time.
    pub(crate) async fn read(database: &Database) -> Result<Self, StoreError> {
        let mut best = measure(database).await?;
        for _ in 1..TRIES {
            if best.took <= TRUSTED {
                break;
            }
            let next = measure(database).await?;
            best = if next.took < best.took { next } else { best };
        }
        Ok(Self(Mutex::new(State::of(best))))
    }

    /// Reads it again and again, until cancelled.
    pub(crate) async fn keep(&self, database: Database, cancel: CancellationToken) {
        while cancel.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
            match measure(&database).await {
                Ok(reading) => self.state().take(reading),
                Err(error) => debug!(%error, "the database does not tell the time; carrying on"),
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn measure(database: &Database) -> Result<Reading, StoreError> {
    let asked = Instant::now();
    let told = database.now().await?;
    Ok(Reading { asked, took: asked.elapsed(), told })
}

impl Clock for DatabaseClock {
    fn now(&self) -> Timestamp {
        self.state().at(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_slow_answer_changes_nothing() {
        let start = Instant::now();
        let told = Timestamp::from_micros(1_000_000_000);
        let mut state = State::of(Reading { asked: start, took: millis(2), told });
        let before = state.at(start + millis(1));
        assert_eq!(before, told);
        // it waited ten seconds for a connection: half of that is no way back
        let asked = start + millis(60_000);
        state.take(Reading { asked, took: millis(10_000), told: told + millis(70_000) });
        assert_eq!(state.at(start + millis(70_001)), told + millis(70_000));
        // a quick one counts
        let asked = start + millis(120_000);
        state.take(Reading { asked, took: millis(2), told: told + millis(121_000) });
        assert_eq!(state.at(asked + millis(1)), told + millis(121_000));
    }

    #[test]
    fn it_never_steps_back() {
        let start = Instant::now();
        let told = Timestamp::from_micros(1_000_000_000);
        let mut state = State::of(Reading { asked: start, took: millis(0), told });
        let before = state.at(start + millis(60_000));
        state.take(Reading { asked: start + millis(60_000), took: millis(0), told: told + millis(50_000) });
        assert_eq!(state.at(start + millis(60_000)), before);
        assert_eq!(state.at(start + millis(60_002)), before + millis(1), "and does not stand still");
        assert_eq!(
            state.at(start + millis(90_000)),
            told + millis(80_000),
            "it goes on as usual once it has caught up"
        );
    }

    #[test]
    fn an_hour_that_the_database_is_set_back_is_caught_up_with() {
        let start = Instant::now();
        let told = Timestamp::from_micros(10_000_000_000);
        let mut state = State::of(Reading { asked: start, took: millis(0), told });
        let before = state.at(start);
        let hour = millis(3_600_000);
        state.take(Reading {
            asked: start,
            took: millis(0),
            told: Timestamp::from_micros(10_000_000_000 - 3_600_000_000),
        });
        let mut last = before;
        for minute in 1..=119 {
            let now = state.at(start + millis(60_000) * minute);
            assert_eq!(now.since(last), millis(30_000), "minute {minute}");
            last = now;
        }
        assert_eq!(state.at(start + hour * 3), told + hour * 2);
        // asked again and again, it goes on all the same
        state.take(Reading { asked: start, took: millis(0), told });
        let (before, from) = (state.at(start + hour * 3), start + hour * 3);
        state.take(Reading { asked: from, took: millis(0), told });
        let asked = (1..=10_000).map(|nanos| state.at(from + Duration::from_nanos(nanos * 100))).last();
        assert_eq!(asked, Some(before + Duration::from_micros(500)));
    }

    #[test]
    fn after_some_slow_answers_the_quickest_counts() {
        let start = Instant::now();
        let told = Timestamp::from_micros(1_000_000_000);
        let mut state = State::of(Reading { asked: start, took: millis(2), told });
        for (n, took) in [900, 700, 800, 600, 950].into_iter().enumerate() {
            let minute = millis(60_000 * (n as u64 + 1));
            let reading =
                Reading { asked: start + minute, took: millis(took), told: told + minute + millis(5_000) };
            assert_eq!(state.at(start + minute), told + minute - millis(1), "not yet");
            state.take(reading);
        }
        // the fourth was the quickest: a minute after the last one it is what counts
        let later = millis(360_000);
        assert_eq!(state.at(start + later), told + later + millis(5_000) - millis(300));
    }

    /// Far from its database every answer is slow.
    #[test]
    fn where_every_answer_is_slow_they_count() {
        let start = Instant::now();
        let told = Timestamp::from_micros(1_000_000_000);
        let mut state = State::of(Reading { asked: start, took: millis(400), told });
        let asked = start + millis(60_000);
        state.take(Reading { asked, took: millis(500), told: told + millis(65_000) });
        assert_eq!(state.at(asked + millis(250)), told + millis(65_000));
    }
}
