//! How patient the engine is.

use std::time::Duration;

/// Deadlines, budgets and rhythms of the engine. The defaults are for production; tests shorten them.
#[derive(Clone, Debug)]
pub struct Policy {
    /// How long a claim on a record lasts. Longer than any one provider call.
    pub lease: Duration,
    /// How long one launch call may take.
    pub launch_call: Duration,
    /// How long any other provider call may take, beyond a stop's grace.
    pub other_call: Duration,
    /// How long it may take until an attempt begins: until the image is there, or what is in its place has ended.
    pub prepare_deadline: Duration,
    /// How long an attempt may take until the provider confirms it.
    pub launch_deadline: Duration,
    /// How long an instance may take to come up.
    pub boot_deadline: Duration,
    /// How long a process has to end by itself when it is told to.
    pub stop_grace: Duration,
    /// How long stopping may take before the workspace is FAILED (and stopping goes on).
    pub stop_deadline: Duration,
    /// How often an instance may end by itself before it is given up.
    pub restart_budget: u32,
    /// How long it must run for the budget to start anew.
    pub stable_after: Duration,
    /// The first delay before trying again; doubles with every failure.
    pub backoff_base: Duration,
    /// The longest delay before trying again.
    pub backoff_max: Duration,
    /// How long until what is on its way is looked at again: an image that is being prepared, an instance that boots. What
    /// is stopped or removed is looked at after three times as long, and then ever less often: a sweep sees its end.
    pub look_every: Duration,
    /// The longest sleep where nothing is due: what a lost wake-up costs.
    pub longest_sleep: Duration,
    /// How often everything is compared with the provider, and orphans are looked for.
    pub sweep_every: Duration,
    /// How long something that no record explains is left alone.
    pub orphan_grace: Duration,
    /// How long what was stopped is left as it is while its tenant has not agreed with this start of the service.
    pub agreement_patience: Duration,
    /// How many records are worked on at once, besides those that are launched.
    pub concurrency: usize,
    /// How many instances are launched or started at once.
    pub launch_concurrency: usize,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(120),
            launch_call: Duration::from_secs(60),
            other_call: Duration::from_secs(30),
            prepare_deadline: Duration::from_secs(30 * 60),
            launch_deadline: Duration::from_secs(5 * 60),
            boot_deadline: Duration::from_secs(10 * 60),
            stop_grace: Duration::from_secs(10),
            stop_deadline: Duration::from_secs(3 * 60),
            restart_budget: 5,
            stable_after: Duration::from_secs(10 * 60),
            backoff_base: Duration::from_millis(500),
            backoff_max: Duration::from_secs(60),
            look_every: Duration::from_secs(1),
            longest_sleep: Duration::from_secs(5),
            sweep_every: Duration::from_secs(15),
            orphan_grace: Duration::from_secs(5 * 60),
            agreement_patience: Duration::from_secs(10 * 60),
            concurrency: 24,
            launch_concurrency: 8,
        }
    }
}

impl Policy {
    /// The delay after so many failures in a row, spread by up to a quarter so that what failed together does
    /// not come back together. `seed` picks the place within the spread.
    pub fn backoff(&self, failures: u32, seed: u64) -> Duration {
        let doubled = self.backoff_base.saturating_mul(1_u32 << failures.saturating_sub(1).min(16));
        let delay = doubled.min(self.backoff_max);
        delay + delay.mul_f64(spread(seed ^ u64::from(failures)) / 4.0)
    }
}

impl Policy {
    /// How long until an instance that is stopped or removed is looked at again, after so many looks that found it still on
    /// its way: 3, 15, then 75 times [`look_every`](Self::look_every).
    pub fn pause(&self, looks: u32) -> Duration {
        self.look_every * 3 * 5_u32.pow(looks.min(2))
    }
}

/// Maps a number to 0..1, evenly enough (`SplitMix64`'s finaliser): where within a spread something is.
pub fn spread(seed: u64) -> f64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    f64::from(u32::try_from((z ^ (z >> 31)) >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_to_its_bound_and_spreads() {
        let policy = Policy::default();
        for seed in 0..100 {
            for failures in 1..40 {
                let delay = policy.backoff(failures, seed);
                let plain = policy.backoff_base.mul_f64(2f64.powi(i32::try_from(failures).unwrap() - 1));
                let plain = plain.min(policy.backoff_max);
                assert!(delay >= plain && delay <= plain.mul_f64(1.26), "{failures}: {delay:?}");
            }
        }
        assert_ne!(policy.backoff(3, 1), policy.backoff(3, 2));
        assert_ne!(policy.backoff(3, 16), policy.backoff(3, 32));
    }

    /// The first numbers of `SplitMix64` from 0 on, as its author's programs print them: their upper halves.
    #[test]
    fn numbers_are_spread_as_published() {
        let step = 0x9e37_79b9_7f4a_7c15_u64;
        let published = [0xe220_a839_u32, 0x6e78_9e6a, 0x06c4_5d18, 0xf88b_b8a8, 0x1b39_896a];
        for (place, upper) in (0..).zip(published) {
            let seed = step.wrapping_mul(place);
            let spread = spread(seed);
            assert!((spread - f64::from(upper) / f64::from(u32::MAX)).abs() < 1e-12, "{seed}: {spread}");
        }
    }

    #[test]
    fn every_call_fits_into_a_lease() {
        let policy = Policy::default();
        assert!(policy.launch_call < policy.lease);
        assert!(policy.stop_grace + policy.other_call < policy.lease);
    }

    #[test]
    fn a_quarter_of_the_slots_is_for_launches() {
        let policy = Policy::default();
        assert!(policy.launch_concurrency * 4 >= policy.launch_concurrency + policy.concurrency);
    }

    #[test]
    fn what_is_under_way_is_looked_at_less_and_less_often() {
        let policy = Policy::default();
        assert_eq!([0, 1, 2, 9].map(|looks| policy.pause(looks).as_secs()), [3, 15, 75, 75]);
    }
}
