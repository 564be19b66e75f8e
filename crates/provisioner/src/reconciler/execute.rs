//! Takes the planned step: every effect of the engine's happens here, one named step at a time.

use std::sync::Arc;

use molecule_domain::Clock;
use molecule_domain::lifecycle::{Phase, Reason};
use molecule_telemetry::trace;
use tracing::{debug, info, info_span, warn};

use super::effects::outcome_of;
use super::plan::{Action, engine_event, give_up, held, plan, restarts_so_far};
use crate::backend::{Backend, CallError, PostMortem, Progress};
use crate::faults::Steps;
use crate::model::{AttemptState, Claimed, EventDetail, InstanceRecord, InstanceRef, Lease};
use crate::observation::{InstanceState, Observation, OwnedInstance, Sighting, Snapshot};
use crate::outcome::{Fact, Outcome};
use crate::policy::Policy;
use crate::store::{Hold, Store, StoreError};
use molecule_domain::seal::Sealer;

/// What the executor works with.
pub struct Executor {
    /// The provider.
    pub backend: Arc<dyn Backend>,
    /// The records.
    pub store: Arc<dyn Store>,
    /// Opens sealed tokens.
    pub sealer: Arc<dyn Sealer>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// How patient to be.
    pub policy: Policy,
    /// Where tests inject faults.
    pub steps: Steps,
}

impl std::fmt::Debug for Executor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Executor").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl Executor {
    /// Looks at everything this installation owns, with one call.
    pub async fn look(&self) -> Snapshot {
        let asked_at = self.clock.now();
        let list = || self.backend.list_instances();
        Snapshot::new(asked_at, told(self.call("backend.list", self.policy.other_call, list).await))
    }

    /// Looks at some instances, with as few calls as the provider allows.
    pub async fn look_at(&self, wanted: &[InstanceRef]) -> Snapshot {
        let asked_at = self.clock.now();
        let find = || self.backend.find_instances(wanted);
        Snapshot::of(wanted, asked_at, told(self.call("backend.find", self.policy.other_call, find).await))
    }

    /// Takes one step for a claimed record and gives its lease back, in the trace of what was asked for.
    pub async fn work(&self, claimed: &Claimed, snapshot: &Snapshot) {
        let record = &claimed.record;
        let span = info_span!(
            "reconcile",
            workspace = %record.workspace,
            generation = %record.generation,
            action = tracing::field::Empty
        );
        trace::continue_from(&span, &record.trace);
        trace::within(span, self.step(claimed, snapshot)).await;
    }

    async fn step(&self, claimed: &Claimed, snapshot: &Snapshot) {
        let record =
            &claimed.hold.count_from_agreement(claimed.record.clone(), self.policy.agreement_patience);
        let seen = match self.judged(snapshot.observe(record)).await {
            Ok(seen) => seen,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                return warn!(error, "what was launched can't be read; it will be looked at again");
            }
        };
        let now = self.clock.now();
        let mut action = plan(record, &seen, &self.policy, self.backend.visibility_lag(), now);
        if let Hold::Held(since) = claimed.hold {
            action = held(action, record, since, &self.policy, now);
        }
        tracing::Span::current().record("action", action.name());
        debug!(phase = %record.phase, desired = ?record.desired, "planned");
        match self.execute(&claimed.lease, record, action).await {
            Ok(()) => {}
            // Another holder or the next claim goes on from what is stored.
            Err(StoreError::LeaseLost(_)) => {
                info!("the lease was lost; leaving the record to its next holder");
            }
            Err(error) => {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "the result could not be stored; it will be found again"
                );
            }
        }
    }

    /// An instance of an earlier generation may be of a launch that this store does not know: one that was put back, and told of
    /// the workspace anew.
    async fn judged(&self, seen: Observation) -> Result<Observation, StoreError> {
        let Observation::Earlier(earlier) = seen else { return Ok(seen) };
        let launch = (earlier.found().seq, earlier.found().instance.workspace);
        let is_known = self.store.launched(&[launch]).await?.contains(&launch);
        Ok(if is_known {
            Observation::Earlier(earlier)
        } else {
            Observation::Later { later: earlier, own: None }
        })
    }

    async fn execute(
        &self,
        lease: &Lease,
        record: &InstanceRecord,
        action: Action,
    ) -> Result<(), StoreError> {
        match action {
            Action::Rest => self.commit("commit.rest", lease, outcome_of(record)).await,
            Action::Settle(outcome) => self.commit("commit.settle", lease, *outcome).await,
            Action::Wait(until) => {
                let outcome =
                    Outcome { due_at: Some(until), failures: record.failures, ..outcome_of(record) };
                self.commit("commit.wait", lease, outcome).await
            }
            Action::AwaitEnd(until) => {
                let failures = record.failures.saturating_add(1);
                let outcome = Outcome { due_at: Some(until), failures, ..outcome_of(record) };
                self.commit("commit.await_end", lease, outcome).await
            }
            Action::AwaitProvider(cause) => self.retry_later(lease, record, &cause, true).await,
            Action::Launch => self.launch(lease, record).await,
            Action::Crashed(sighting) => self.crashed(lease, record, &sighting).await,
            Action::Attach(sighting) => {
                let limit = self.policy.other_call;
                let attach = || self.backend.attach(sighting.found(), &record.spec);
                match self.guarded(lease, "backend.attach", limit, attach).await {
                    Ok(()) => {
                        // the provider may not show it at once
                        let due_at = Some(self.clock.now() + self.policy.look_every);
                        self.commit("commit.attached", lease, Outcome { due_at, ..outcome_of(record) }).await
                    }
                    Err(CallError::Refused(refusal) | CallError::NoRoom(refusal)) => {
                        self.refused(lease, record, refusal, outcome_of(record)).await
                    }
                    Err(CallError::Unknown(cause)) => self.retry_later(lease, record, &cause, false).await,
                }
            }
            Action::Start(sighting) => self.start(lease, record, &sighting).await,
            Action::Stop(sighting) => {
                if !self.announce(lease, record, "being stopped").await? {
                    return self.look_again(lease, record, Ok(Progress::Done)).await;
                }
                let grace = self.policy.stop_grace;
                let found = sighting.found();
                let limit = grace + self.policy.other_call;
                let stop = || self.backend.stop(&found.instance, found.seq, grace);
                let result = self.guarded(lease, "backend.stop", limit, stop).await;
                self.look_again(lease, record, result).await
            }
            Action::Remove(sighting) => {
                if !self.announce(lease, record, "being taken away").await? {
                    return self.look_again(lease, record, Ok(Progress::Done)).await;
                }
                let found = sighting.found();
                let limit = self.policy.other_call;
                let remove = || self.backend.remove(&found.instance, found.seq);
                let result = self.guarded(lease, "backend.remove", limit, remove).await;
                self.look_again(lease, record, result).await
            }
            Action::Purge(absence) => {
                let limit = self.policy.other_call;
                let (organization, workspace) = (record.organization, record.workspace);
                let purge = || self.backend.purge(organization, workspace);
                match self.guarded(lease, "backend.purge", limit, purge).await {
                    Ok(()) => {
                        let outcome = Outcome {
                            phase: Some(Phase::Gone),
                            message: Some("deleted".to_owned()),
                            attempt: record.attempt.is_some().then_some(AttemptState::Resolved),
                            fact: Some(Fact::Down(absence.at())),
                            event: Some(engine_event(record, "deleted", None, "everything of it is gone")),
                            ..outcome_of(record)
                        };
                        self.commit("commit.gone", lease, outcome).await
                    }
                    Err(error) => {
                        // its instance is gone for good, whatever else is left
                        let known = Outcome {
                            attempt: record.attempt.is_some().then_some(AttemptState::Resolved),
                            fact: Some(Fact::Down(absence.at())),
                            ..outcome_of(record)
                        };
                        self.retry_knowing(lease, record, &error.to_string(), false, known).await
                    }
                }
            }
        }
    }

    async fn start(
        &self,
        lease: &Lease,
        record: &InstanceRecord,
        sighting: &Sighting,
    ) -> Result<(), StoreError> {
        if record.phase != Phase::Launching {
            let outcome = Outcome {
                phase: Some(Phase::Launching),
                message: Some("starting".to_owned()),
                fact: down_fact(sighting),
                ..outcome_of(record)
            };
            if !self.commit_and_keep("commit.starting", lease, outcome).await? {
                return self.look_again(lease, record, Ok(Progress::Done)).await;
            }
        }
        let found = sighting.found();
        let limit = self.policy.other_call;
        let start = || self.backend.start(&found.instance, found.seq);
        match self.guarded(lease, "backend.start", limit, start).await {
            Ok(()) => {
                let outcome = Outcome {
                    phase: Some(Phase::Booting),
                    reason: record.reason.filter(|reason| *reason == Reason::Restarting),
                    message: Some("booting".to_owned()),
                    due_at: Some(self.clock.now()),
                    event: Some(engine_event(record, "started", None, "started")),
                    ..outcome_of(record)
                };
                self.commit("commit.started", lease, outcome).await
            }
            Err(CallError::Refused(refusal)) => {
                self.refused(lease, record, refusal, outcome_of(record)).await
            }
            Err(CallError::NoRoom(refusal)) => self.no_room_to_start(lease, record, refusal).await,
            Err(CallError::Unknown(cause)) => self.retry_later(lease, record, &cause, true).await,
        }
    }

    async fn crashed(
        &self,
        lease: &Lease,
        record: &InstanceRecord,
        sighting: &Sighting,
    ) -> Result<(), StoreError> {
        let found = sighting.found();
        let ask = || self.backend.post_mortem(&found.instance, found.seq);
        // Without an answer the end is counted all the same; only its description is poorer.
        let told = self.call("backend.post_mortem", self.policy.other_call, ask).await.unwrap_or_default();
        let exit_code = told.exit_code.or(match found.state {
            InstanceState::Exited(code) => code,
            _ => None,
        });
        let now = self.clock.now();
        let restarts = restarts_so_far(record, &self.policy, now) + 1;
        let spent = restarts > self.policy.restart_budget || told.is_final;
        let message = describe_end(&told, exit_code);
        let outcome = Outcome {
            phase: Some(Phase::Launching),
            reason: Some(Reason::Restarting),
            message: Some(format!(
                "{message}; starting it again ({restarts} of {})",
                self.policy.restart_budget
            )),
            attempt: Some(AttemptState::Confirmed),
            fact: Some(Fact::Down(sighting.at())),
            restarts: Some(restarts),
            due_at: Some(now + self.policy.backoff(restarts, record.seed())),
            event: Some(EventDetail {
                exit_code,
                log_tail: told.log_tail.clone(),
                ..engine_event(record, "exited", Some(Reason::Restarting), &message)
            }),
            ..outcome_of(record)
        };
        // A failure of workspace-init is tried again like any other: tenant-svc may only have been away.
        if !spent {
            return self.commit("commit.crashed", lease, outcome).await;
        }
        let reason = if told.init_failure.is_some() { Reason::InitFailed } else { Reason::CrashLoop };
        let times = if told.is_final { String::new() } else { format!(", {restarts} times in a row") };
        let message = format!("{message}{times}; its last output is in the events");
        let outcome = give_up(record, reason, message, outcome, now);
        self.commit("commit.crash_loop", lease, outcome).await
    }
}

/// A list of the provider's, or why there is none.
fn told(answer: Result<Vec<OwnedInstance>, CallError>) -> Result<Vec<OwnedInstance>, String> {
    answer.map_err(|error| {
        warn!(%error, "the provider does not tell what it runs");
        error.to_string()
    })
}

fn down_fact(sighting: &Sighting) -> Option<Fact> {
    sighting.found().state.is_down().then(|| Fact::Down(sighting.at()))
}

fn describe_end(told: &PostMortem, exit_code: Option<i32>) -> String {
    if let Some(failure) = &told.init_failure {
        return format!("the workspace could not be prepared: {failure}");
    }
    let code = exit_code.map_or_else(String::new, |code| format!(" with exit code {code}"));
    let detail = told.detail.as_ref().map_or_else(String::new, |detail| format!(" ({detail})"));
    format!("the runtime ended{code}{detail}")
}
