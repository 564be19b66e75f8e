//! What every step is made of: calls to the provider that are bounded in time and by the lease, and writes of
//! what came of them.

use std::future::Future;
use std::time::{Duration, Instant};

use molecule_domain::lifecycle::{Phase, Reason};
use molecule_telemetry::{metrics, trace};
use tracing::{debug_span, info};

use super::execute::Executor;
use super::plan::{give_up, starts_without_room, why_it_stops};
use crate::backend::{CallError, Progress, Refusal};
use crate::model::{InstanceRecord, Lease};
use crate::outcome::Outcome;
use crate::store::StoreError;

impl Executor {
    /// Says what is about to happen, before a call that may take long. Whether it is still wanted.
    pub(super) async fn announce(
        &self,
        lease: &Lease,
        record: &InstanceRecord,
        message: &str,
    ) -> Result<bool, StoreError> {
        if record.phase == Phase::Stopping || record.phase == Phase::Failed {
            // it was said before an earlier call, and something else may have been asked for during the look
            let stored = self.store.get(record.organization, record.workspace).await?;
            return Ok(stored.is_some_and(|stored| stored.wanted() == record.wanted()));
        }
        let outcome = Outcome {
            phase: Some(Phase::Stopping),
            reason: record.reason,
            message: Some(message.to_owned()),
            ..outcome_of(record)
        };
        self.commit_and_keep("commit.stopping", lease, outcome).await
    }

    /// Looks again at what a call was to bring about: at once, or once the provider may have come to its end.
    pub(super) async fn look_again(
        &self,
        lease: &Lease,
        record: &InstanceRecord,
        result: Result<Progress, CallError>,
    ) -> Result<(), StoreError> {
        let pause = match result {
            Ok(Progress::Done) => Duration::ZERO,
            Ok(Progress::InProgress) => self.policy.pause(0),
            Err(error) => return self.retry_later(lease, record, &error.to_string(), false).await,
        };
        let outcome = Outcome { due_at: Some(self.clock.now() + pause), ..outcome_of(record) };
        self.commit("commit.look_again", lease, outcome).await
    }

    pub(super) async fn refused(
        &self,
        lease: &Lease,
        record: &InstanceRecord,
        refusal: Refusal,
        known: Outcome,
    ) -> Result<(), StoreError> {
        info!(reason = %refusal.reason, message = refusal.message, "refused by the provider");
        let outcome = give_up(record, refusal.reason, refusal.message, known, self.clock.now());
        self.commit("commit.refused", lease, outcome).await
    }

    /// Nothing is known: the same again later, and a word about it to whoever waits.
    pub(super) async fn retry_later(
        &self,
        lease: &Lease,
        record: &InstanceRecord,
        cause: &str,
        unreachable: bool,
    ) -> Result<(), StoreError> {
        self.retry_knowing(lease, record, cause, unreachable, outcome_of(record)).await
    }

    /// The same, with what is known all the same.
    pub(super) async fn retry_knowing(
        &self,
        lease: &Lease,
        record: &InstanceRecord,
        cause: &str,
        unreachable: bool,
        known: Outcome,
    ) -> Result<(), StoreError> {
        let failures = record.failures.saturating_add(1);
        let due = self.clock.now() + self.policy.backoff(failures, record.seed());
        // One hiccup is no news.
        let is_to_end = record.phase == Phase::Up && record.is_to_end();
        let worth_telling = failures > 1 && (record.phase.is_transient() || is_to_end);
        let reason = if unreachable { Some(Reason::BackendUnreachable) } else { record.reason };
        let outcome = Outcome {
            reason: why_it_stops(record).or_else(|| starts_without_room(record)).or(reason),
            message: worth_telling.then(|| format!("waiting for the provider: {cause}")),
            failures,
            due_at: Some(due),
            ..known
        };
        self.commit("commit.retry_later", lease, outcome).await
    }

    pub(super) async fn commit(
        &self,
        step: &'static str,
        lease: &Lease,
        outcome: Outcome,
    ) -> Result<(), StoreError> {
        self.write(step, lease, outcome, true).await.map(drop)
    }

    /// Writes what a call is about to do, and keeps the lease. Whether that is still what is wanted: nothing else was written
    /// but facts where it is not.
    pub(super) async fn commit_and_keep(
        &self,
        step: &'static str,
        lease: &Lease,
        outcome: Outcome,
    ) -> Result<bool, StoreError> {
        let planned_for = outcome.planned_for;
        Ok(self.write(step, lease, outcome, false).await?.wanted() == planned_for)
    }

    async fn write(
        &self,
        step: &'static str,
        lease: &Lease,
        outcome: Outcome,
        release: bool,
    ) -> Result<InstanceRecord, StoreError> {
        let write = || self.store.commit(lease, self.clock.now(), &outcome, release);
        match self.steps.run(step, write).await {
            Ok(result) => result,
            Err(injected) => Err(StoreError::Unavailable(injected.to_string().into())),
        }
    }

    /// A call that changes something: only where the lease outlives it.
    pub(super) async fn guarded<T, F>(
        &self,
        lease: &Lease,
        step: &'static str,
        limit: Duration,
        call: impl Fn() -> F,
    ) -> Result<T, CallError>
    where
        F: Future<Output = Result<T, CallError>>,
    {
        if self.clock.now() + limit >= lease.until {
            return Err(CallError::Unknown(
                "too little of the lease was left to call the provider".to_owned(),
            ));
        }
        self.call(step, limit, call).await
    }

    /// Any call to the provider: bounded in time, and a place for faults.
    pub(super) async fn call<T, F>(
        &self,
        step: &'static str,
        limit: Duration,
        call: impl Fn() -> F,
    ) -> Result<T, CallError>
    where
        F: Future<Output = Result<T, CallError>>,
    {
        let timed = || async { tokio::time::timeout(limit, call()).await };
        let span = debug_span!("provider", otel.name = step, otel.kind = "client", call = step);

        let began = Instant::now();
        let (result, timed_out) = match trace::within(span, self.steps.run(step, timed)).await {
            Ok(Ok(result)) => (result, false),
            Ok(Err(_)) => {
                (Err(CallError::Unknown(format!("the provider did not answer within {limit:?}"))), true)
            }
            Err(injected) => (Err(CallError::Unknown(injected.to_string())), false),
        };
        let class = match &result {
            Ok(_) => None,
            Err(_) if timed_out => Some("timeout"),
            Err(CallError::Refused(_)) => Some("refused"),
            Err(CallError::NoRoom(_)) => Some("no_room"),
            Err(CallError::Unknown(_)) => Some("unknown"),
        };
        metrics::provider_call(self.backend.kind(), step, began.elapsed(), class);
        result
    }
}

pub(super) fn outcome_of(record: &InstanceRecord) -> Outcome {
    Outcome { planned_for: record.wanted(), ..Outcome::default() }
}
