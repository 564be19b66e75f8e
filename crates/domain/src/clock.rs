//! Time as the engine sees it: a plain number that a test can set.

use std::fmt;
use std::ops::{Add, Sub};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A moment: microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The moment so many microseconds after the epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since the epoch.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// How long after `earlier` this is; zero where it is before.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0 - earlier.0).unwrap_or(0))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, after: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(after.as_micros()).unwrap_or(i64::MAX)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;

    fn sub(self, before: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(before.as_micros()).unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339, in UTC.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1000)
            .ok()
            .and_then(|t| t.format(&time::format_description::well_known::Rfc3339).ok());
        match text {
            Some(text) => f.write_str(&text),
            None => write!(f, "{}µs", self.0),
        }
    }
}

/// Where a component takes the time from.
pub trait Clock: Send + Sync + 'static {
    /// This moment.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)] // this is the one place
    fn now(&self) -> Timestamp {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::default() + since_epoch
    }
}

/// Time that never steps back: where what is read does, it goes at half its speed until that has caught up. Whoever waits for a
/// moment comes to it.
#[derive(Debug, Default)]
pub struct Steady {
    /// The last moment that was shown, and what the monotonic clock showed then.
    last: Option<(Timestamp, Instant)>,
}

impl Steady {
    /// The time to go by, where a clock was read at a moment of the monotonic one.
    pub fn show(&mut self, read: Timestamp, now: Instant) -> Timestamp {
        let least = self.last.map_or(read, |(last, at)| last + now.saturating_duration_since(at) / 2);
        let shown = read.max(least);
        // a step that is too small to be shown is not lost
        if self.last.is_none_or(|(last, _)| shown > last) {
            self.last = Some((shown, now));
        }
        shown
    }
}

/// The machine's clock, for as long as this lives without its steps back.
#[derive(Debug, Default)]
pub struct SteadyClock(Mutex<Steady>);

impl Clock for SteadyClock {
    fn now(&self) -> Timestamp {
        let mut steady = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        steady.show(SystemClock.now(), Instant::now())
    }
}

/// A clock that a test moves by hand.
#[derive(Debug)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock that stands at `start`.
    pub const fn starting_at(start: Timestamp) -> Self {
        Self(AtomicI64::new(start.0))
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(i64::try_from(by.as_micros()).unwrap_or(i64::MAX), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_read_in_utc() {
        assert_eq!(Timestamp::from_micros(1_500_000).to_string(), "1970-01-01T00:00:01.5Z");
        assert_eq!(Timestamp::from_micros(i64::MAX).to_string(), format!("{}µs", i64::MAX));
    }

    #[test]
    fn an_hour_that_a_clock_is_set_back_is_caught_up_with() {
        let (start, hour) = (Instant::now(), Duration::from_secs(3600));
        let told = Timestamp::from_micros(10_000_000_000);
        let mut steady = Steady::default();
        assert_eq!(steady.show(told, start), told);
        for minute in 1..=119 {
            let passed = Duration::from_secs(60) * minute;
            let shown = steady.show(told - hour + passed, start + passed);
            assert_eq!(shown, told + passed / 2, "minute {minute}");
        }
        assert_eq!(steady.show(told + hour * 2, start + hour * 3), told + hour * 2);
        // asked again and again, it goes on all the same
        let asked = (1..=10_000).map(|n| steady.show(told, start + hour * 3 + Duration::from_nanos(n * 100)));
        assert_eq!(asked.last(), Some(told + hour * 2 + Duration::from_micros(500)));
    }

    #[test]
    fn the_machines_clock_goes() {
        let of_2020 = Timestamp::from_micros(1_577_836_800_000_000);
        assert!(SystemClock.now() > of_2020, "{}", SystemClock.now());
        let before = SystemClock.now();
        assert!(SteadyClock::default().now() >= before);
    }
}
