//! Whether this start of the tenant and the provider have agreed on what there is. Nothing is told before, nor after the
//! provider was lost from sight, and the two do not agree anew while a call is out.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use molecule_domain::error::{Error, ErrorReason, Result};
use molecule_domain::id::Revision;
use molecule_domain::incarnation::Standpoint;
use molecule_domain::{Clock, Timestamp};
use tokio::sync::{Notify, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::time::Instant;

use super::{Outbox, within};

/// How long a request waits for the two sides to agree, as they do when either of them begins.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// They have not agreed since the provider was last lost from sight.
    #[default]
    Missing,
    /// With the provider as it was last seen; `None` where it shares this tenant's database.
    With(Option<Standpoint>),
}

/// The agreement of this start of the tenant with its provider.
#[derive(Debug, Default)]
pub(crate) struct Agreement {
    state: Mutex<State>,
    /// Wakes whoever waits for another state, in the order in which they began to wait: a `watch` wakes them in no order, and
    /// simulated lives could not be led twice.
    changed: Notify,
    /// When they last agreed on all that there is, by this tenant's clock, in microseconds; 0 where they never did.
    reached_at: AtomicI64,
    /// How often this process has agreed with its provider.
    number: AtomicI64,
    /// Held by every call that is out.
    calls: RwLock<()>,
    /// Rung where an answer shows that the provider knows more than this tenant.
    doubted: Notify,
}

impl Agreement {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, state: State) {
        *self.state() = state;
        self.changed.notify_waiters();
    }

    /// Waits until the agreement is missing, or is not.
    async fn until(&self, is_missing: bool) {
        loop {
            let changed = self.changed.notified();
            if self.is_missing() == is_missing {
                return;
            }
            changed.await;
        }
    }

    pub(crate) fn is_missing(&self) -> bool {
        *self.state() == State::Missing
    }

    /// When this start and the provider last agreed, where they did: nothing of what the provider says now was known here
    /// before.
    pub(crate) fn reached_at(&self) -> Option<Timestamp> {
        let micros = self.reached_at.load(Ordering::Relaxed);
        (micros != 0).then(|| Timestamp::from_micros(micros))
    }

    /// They agree now on all that there is.
    pub(crate) fn note_reached(&self, now: Timestamp) {
        self.reached_at.store(now.micros(), Ordering::Relaxed);
    }

    /// Wishes are told from now on, to the provider as it was seen here.
    pub(crate) fn set(&self, provider: Option<Standpoint>, clock: &dyn Clock) {
        if self.reached_at().is_none() {
            self.note_reached(clock.now());
        }
        self.change(State::With(provider));
    }

    /// Nothing is told from now on, until the two have agreed again.
    pub(crate) fn lose_sight(&self) {
        self.change(State::Missing);
    }

    /// Has the two agree again, whatever either says of itself.
    pub(crate) fn doubt(&self) {
        self.lose_sight();
        self.doubted.notify_one();
    }

    /// Waits until [`doubt`](Self::doubt) is called.
    pub(crate) async fn is_doubted(&self) {
        self.doubted.notified().await;
    }

    /// Keeps how far the provider was seen to be.
    pub(crate) fn note_seen(&self, revision: Revision) {
        if let State::With(Some(seen)) = &mut *self.state() {
            seen.revision = seen.revision.max(revision);
        }
    }

    /// The number of another agreement.
    pub(crate) fn next_number(&self) -> i64 {
        self.number.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Waits until no call is out, and lets none out for as long as the answer is kept.
    pub(crate) async fn quiet(&self) -> RwLockWriteGuard<'_, ()> {
        self.calls.write().await
    }
}

impl Outbox {
    /// Whether a wish that is stored now would be told at once.
    pub fn is_ready(&self) -> bool {
        self.provider.ready().is_ok() && !self.agreement.is_missing()
    }

    /// Waits a while, and until `by` at most, for the moment from which on a wish would be told at once; why it would not,
    /// where it would not. Before the first agreement it waits for a provider that can't be asked as well: the process
    /// before this one may count as served for a moment.
    pub async fn ready(&self, by: Option<Instant>) -> Result<()> {
        let agreed = async {
            loop {
                let changed = self.agreement.changed.notified();
                let asked = self.provider.ready();
                if self.agreement.reached_at().is_some() {
                    asked?;
                }
                if !self.agreement.is_missing() {
                    return Ok(());
                }
                changed.await;
            }
        };
        tokio::time::timeout_at(within(PATIENCE, by), agreed)
            .await
            .unwrap_or_else(|_| Err(self.why_missing()))
    }

    /// Waits until the provider has been out of sight for a while; why a wish would not be told now.
    pub(super) async fn is_away(&self) -> Error {
        loop {
            self.agreement.until(true).await;
            if tokio::time::timeout(PATIENCE, self.agreement.until(false)).await.is_err() {
                return self.why_missing();
            }
        }
    }

    pub(super) fn why_missing(&self) -> Error {
        let Err(error) = self.provider.ready() else {
            let message =
                "this tenant-svc and the control plane have not yet agreed on what there is; ask again";
            return Error::new(ErrorReason::ControlPlaneUnavailable, message)
                .with_retry_after(Duration::from_secs(1));
        };
        error
    }

    /// Waits until calls may be made, which say what was last seen of the provider. While the answer is kept the two do
    /// not agree anew.
    pub(super) async fn may_tell(&self) -> Result<(RwLockReadGuard<'_, ()>, Option<Standpoint>)> {
        loop {
            self.ready(None).await?;
            let out = self.agreement.calls.read().await;
            if let State::With(seen) = *self.agreement.state() {
                return Ok((out, seen));
            }
        }
    }
}
