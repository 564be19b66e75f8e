//! The steps of a launch.

use molecule_domain::Timestamp;
use molecule_domain::lifecycle::{Phase, Reason};
use molecule_domain::seal::token_context;
use tracing::info;

use super::effects::outcome_of;
use super::execute::Executor;
use super::plan::engine_event;
use crate::backend::{BootstrapToken, CallError, LaunchRequest, PrepareRequest, Prepared, Progress, Refusal};
use crate::model::{Attempt, AttemptState, InstanceRecord, Lease};
use crate::outcome::Outcome;
use crate::store::StoreError;

impl Executor {
    /// Launches, or finishes a launch: places it, stores the attempt, calls, and writes what came of it.
    pub(super) async fn launch(&self, lease: &Lease, record: &InstanceRecord) -> Result<(), StoreError> {
        let placement = match self.prepare(record).await {
            Prepared::Ready(placement) => placement,
            Prepared::InProgress(message) => {
                let phase = Phase::Launching;
                let outcome = Outcome {
                    phase: Some(phase),
                    message: Some(message),
                    due_at: Some(self.clock.now() + self.policy.look_every),
                    ..outcome_of(record)
                };
                return self.commit("commit.preparing", lease, outcome).await;
            }
            Prepared::NoRoom(refusal) => {
                let failures = record.failures.saturating_add(1);
                let outcome = Outcome {
                    phase: Some(Phase::Launching),
                    reason: Some(refusal.reason),
                    message: Some(refusal.message),
                    failures,
                    due_at: Some(self.clock.now() + self.policy.backoff(failures, record.seed())),
                    ..outcome_of(record)
                };
                return self.commit("commit.no_room", lease, outcome).await;
            }
            Prepared::Refused(refusal) => {
                return self.refused(lease, record, refusal, outcome_of(record)).await;
            }
            Prepared::Unknown(cause) => return self.retry_later(lease, record, &cause, true).await,
        };
        let now = self.clock.now();
        if let Some(until) = self.asked_there_until(record, &placement)
            && now < until
        {
            let failures = record.failures;
            let outcome = Outcome { due_at: Some(until), failures, ..outcome_of(record) };
            return self.commit("commit.wait", lease, outcome).await;
        }
        let call_until = now + self.policy.launch_call;
        if call_until >= lease.until {
            // preparing took long: its deadline begins with its attempt, so it is claimed anew before that
            return self.look_again(lease, record, Ok(Progress::Done)).await;
        }
        let begin = || self.store.begin_launch(lease, record.wanted(), &placement, now, call_until);
        let record = match self.steps.run("store.begin_launch", begin).await {
            // it is planned anew at once
            Ok(Err(StoreError::Overtaken(_))) => {
                return self.look_again(lease, record, Ok(Progress::Done)).await;
            }
            Ok(begun) => begun?,
            Err(_) => return Ok(()), // nothing was called; the next holder of the lease goes on
        };
        let Some(attempt) = record.live_attempt() else { return Ok(()) };
        let context = token_context(record.workspace, record.generation);
        let token = record.sealed_token.as_deref().and_then(|sealed| self.sealer.open(sealed, &context));
        // what replaces an instance of its generation may find the credential on its disk
        if record.sealed_token.is_some() && token.is_none() && attempt.number.0 == 1 {
            let refusal = Refusal {
                reason: Reason::LaunchRefused,
                message: "its bootstrap token can't be unsealed: the key is not the one it was sealed with. \
                          Restore the key file, or restart the workspace"
                    .to_owned(),
            };
            // nothing was called
            let ended = Outcome { call_ended: Some(self.clock.now()), ..outcome_of(&record) };
            return self.refused(lease, &record, refusal, ended).await;
        }
        let request = LaunchRequest {
            instance: record.instance(),
            attempt: attempt.number,
            seq: attempt.seq,
            token: attempt.token.clone(),
            placement: attempt.placement.clone(),
            spec: record.spec.clone(),
            bootstrap_token: token.and_then(|bytes| String::from_utf8(bytes).ok()).map(BootstrapToken::new),
        };
        // storing it may have taken long, and what is stored is when the call has ended at the latest
        let limit = call_until.since(self.clock.now());
        match self.guarded(lease, "backend.launch", limit, || self.backend.launch(&request)).await {
            Ok(()) => {
                let now = self.clock.now();
                let outcome = Outcome {
                    phase: Some(Phase::Booting),
                    message: Some("booting".to_owned()),
                    attempt: Some(AttemptState::Confirmed),
                    call_ended: Some(now),
                    due_at: Some(now),
                    event: Some(engine_event(&record, "launched", None, "launched")),
                    ..outcome_of(&record)
                };
                self.commit("commit.launched", lease, outcome).await
            }
            Err(CallError::Refused(refusal)) => {
                let ended = Outcome { call_ended: Some(self.clock.now()), ..outcome_of(&record) };
                self.refused(lease, &record, refusal, ended).await
            }
            Err(CallError::NoRoom(refusal)) => self.no_room(lease, &record, refusal).await,
            Err(CallError::Unknown(cause)) => self.retry_later(lease, &record, &cause, true).await,
        }
    }

    /// Until when a place that was found to have no room is not asked again. Another one is asked at once.
    fn asked_there_until(&self, record: &InstanceRecord, placement: &str) -> Option<Timestamp> {
        let had_no_room =
            |last: &&Attempt| last.state == AttemptState::Resolved && last.placement == placement;
        let last = record.attempt.as_ref().filter(had_no_room).filter(|_| record.failures > 0)?;
        Some(last.call_until + self.policy.backoff(record.failures, record.seed()))
    }

    /// The place has no room: another attempt is made, placed anew, once no earlier call can take effect any more.
    async fn no_room(
        &self,
        lease: &Lease,
        record: &InstanceRecord,
        refusal: Refusal,
    ) -> Result<(), StoreError> {
        info!(reason = %refusal.reason, message = refusal.message, "no room there");
        let now = self.clock.now();
        // an earlier call whose answer was lost may still have had an effect: this attempt is asked for again then
        let sure = record.attempt.as_ref().is_none_or(|attempt| attempt.is_sure(now));
        let failures = record.failures.saturating_add(1);
        let outcome = Outcome {
            reason: Some(refusal.reason),
            message: Some(refusal.message.clone()),
            attempt: sure.then_some(AttemptState::Resolved),
            call_ended: Some(now),
            due_at: Some(if sure { now } else { now + self.policy.backoff(failures, record.seed()) }),
            failures,
            event: sure.then(|| engine_event(record, "no_room", Some(refusal.reason), &refusal.message)),
            ..outcome_of(record)
        };
        self.commit("commit.no_room", lease, outcome).await
    }

    /// What was stopped has no place to start in: it is the same instance, which is started again later.
    pub(super) async fn no_room_to_start(
        &self,
        lease: &Lease,
        record: &InstanceRecord,
        refusal: Refusal,
    ) -> Result<(), StoreError> {
        info!(reason = %refusal.reason, message = refusal.message, "no room to start it");
        let failures = record.failures.saturating_add(1);
        let is_news = record.reason != Some(refusal.reason);
        let outcome = Outcome {
            reason: Some(refusal.reason),
            message: Some(refusal.message.clone()),
            failures,
            due_at: Some(self.clock.now() + self.policy.backoff(failures, record.seed())),
            event: is_news.then(|| engine_event(record, "no_room", Some(refusal.reason), &refusal.message)),
            ..outcome_of(record)
        };
        self.commit("commit.no_room", lease, outcome).await
    }

    async fn prepare(&self, record: &InstanceRecord) -> Prepared {
        let request = PrepareRequest {
            instance: record.instance(),
            spec: &record.spec,
            attempt: record.attempt.as_ref(),
        };
        let prepare =
            || async { tokio::time::timeout(self.policy.other_call, self.backend.prepare(&request)).await };
        match self.steps.run("backend.prepare", prepare).await {
            Ok(Ok(prepared)) => prepared,
            Ok(Err(_)) => Prepared::Unknown("the provider did not answer in time".to_owned()),
            Err(injected) => Prepared::Unknown(injected.to_string()),
        }
    }
}
