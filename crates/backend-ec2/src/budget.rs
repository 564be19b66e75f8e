//! The calls that may be made to one account and region: a bucket of tokens, handed to organisations in turn, so that
//! one that asks for much does not keep others waiting
//! (<https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html>).

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use molecule_domain::id::OrganizationId;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// How long calls are made more slowly after EC2 has said that they are too many.
const SLOW_FOR: Duration = Duration::from_secs(30);

/// Whose call it is; `None` is the installation's own.
type Caller = Option<OrganizationId>;

/// The bucket, and who waits for its tokens.
#[derive(Debug)]
pub(crate) struct Budget {
    per_second: f64,
    burst: f64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    tokens: f64,
    filled: Instant,
    slow_until: Option<Instant>,
    /// A queue for each that waits; the first is served next, and then goes to the end.
    queues: VecDeque<(Caller, VecDeque<oneshot::Sender<()>>)>,
}

impl Budget {
    /// So many calls a second, and so many at once after a quiet time.
    pub(crate) fn new(per_second: f64, burst: f64) -> Self {
        let state =
            State { tokens: burst, filled: Instant::now(), slow_until: None, queues: VecDeque::new() };
        Self { per_second, burst: burst.max(1.0), state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the caller may make a call. Whoever stops waiting takes nothing.
    pub(crate) async fn turn(&self, caller: Caller) {
        let mut mine = {
            let (sender, receiver) = oneshot::channel();
            let mut state = self.lock();
            match state.queues.iter_mut().find(|(queued, _)| *queued == caller) {
                Some((_, queue)) => queue.push_back(sender),
                None => state.queues.push_back((caller, VecDeque::from([sender]))),
            }
            receiver
        };
        // nobody stands at the counter: whoever waits hands out what has come in
        loop {
            let next = self.hand_out();
            tokio::select! {
                biased;
                _ = &mut mine => return,
                () = tokio::time::sleep(next) => {}
            }
        }
    }

    /// EC2 has said that there are too many calls: for a while there are half as many.
    pub(crate) fn throttled(&self) {
        let mut state = self.lock();
        state.tokens = 0.0;
        state.slow_until = Some(Instant::now() + SLOW_FOR);
    }

    /// Hands out the tokens that there are; how long until the next.
    fn hand_out(&self) -> Duration {
        let mut state = self.lock();
        let now = Instant::now();
        let slow = state.slow_until.is_some_and(|until| now < until);
        let per_second = if slow { self.per_second / 2.0 } else { self.per_second };
        let since = now.duration_since(state.filled).as_secs_f64();
        state.tokens = (state.tokens + since * per_second).min(self.burst);
        state.filled = now;
        while state.tokens >= 1.0 {
            let Some((caller, mut queue)) = state.queues.pop_front() else { break };
            // the first that still waits
            let served = std::iter::from_fn(|| queue.pop_front()).any(|waiting| waiting.send(()).is_ok());
            if served {
                state.tokens -= 1.0;
            }
            if !queue.is_empty() {
                state.queues.push_back((caller, queue));
            }
        }
        Duration::from_secs_f64(((1.0 - state.tokens).max(0.0) / per_second).max(0.001))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn organization(n: u128) -> OrganizationId {
        OrganizationId::from_uuid(uuid::Uuid::from_u128(n))
    }

    #[tokio::test(start_paused = true)]
    async fn calls_are_bounded() {
        let budget = Budget::new(10.0, 5.0);
        let began = Instant::now();
        for _ in 0..25 {
            budget.turn(Some(organization(1))).await;
        }
        let took = began.elapsed().as_secs_f64();
        assert!((1.95..2.2).contains(&took), "5 at once and 20 at 10 a second took {took} s");
        budget.throttled();
        let began = Instant::now();
        for _ in 0..5 {
            budget.turn(None).await;
        }
        assert!(began.elapsed().as_secs_f64() > 0.9, "slower after a throttle");
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_organisation_does_not_wait_behind_a_loud_one() {
        let budget = Arc::new(Budget::new(10.0, 1.0));
        for _ in 0..200 {
            let budget = Arc::clone(&budget);
            tokio::spawn(async move { budget.turn(Some(organization(1))).await });
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let began = Instant::now();
        budget.turn(Some(organization(2))).await;
        assert!(began.elapsed() < Duration::from_millis(300), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn who_stops_waiting_takes_nothing() {
        let budget = Arc::new(Budget::new(1.0, 1.0));
        budget.turn(None).await;
        for _ in 0..5 {
            let gone =
                tokio::time::timeout(Duration::from_millis(10), budget.turn(Some(organization(1)))).await;
            assert!(gone.is_err());
        }
        let began = Instant::now();
        budget.turn(Some(organization(2))).await;
        assert!(began.elapsed() < Duration::from_millis(1100), "{:?}", began.elapsed());
    }
}
