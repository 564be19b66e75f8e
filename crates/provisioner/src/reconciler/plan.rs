//! What to do next about one instance: a pure function of what is stored and what is seen.

use std::time::Duration;

use molecule_domain::Timestamp;
use molecule_domain::lifecycle::{Desired, Phase, Reason};

use crate::model::{Actor, AttemptState, EventDetail, InstanceRecord};
use crate::observation::{Absence, InstanceState, Observation, Sighting};
use crate::outcome::{Fact, Outcome};
use crate::policy::Policy;

/// The next step. Whatever starts, stops or takes away something carries the proof that it may.
#[derive(Clone, Debug)]
pub enum Action {
    /// Nothing to do, and nothing new to say.
    Rest,
    /// Write what was learnt.
    Settle(Box<Outcome>),
    /// Write that it ended by itself, with what a post-mortem tells, and what follows from that.
    Crashed(Sighting),
    /// Launch it, or finish its launch.
    Launch,
    /// Attach what it could not have while it came up.
    Attach(Sighting),
    /// Start it again.
    Start(Sighting),
    /// Stop it.
    Stop(Sighting),
    /// Take the instance away; the workspace's data stays.
    Remove(Sighting),
    /// Take away all the rest: the instance is confirmed absent.
    Purge(Absence),
    /// The provider gives no answer: wait, and say so.
    AwaitProvider(String),
    /// Wait until this moment.
    Wait(Timestamp),
    /// The provider is stopping or removing it: look again at this moment.
    AwaitEnd(Timestamp),
}

impl Action {
    /// Its name, for traces and simulations.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Rest => "rest",
            Self::Settle(_) => "settle",
            Self::Crashed(_) => "crashed",
            Self::Launch => "launch",
            Self::Attach(_) => "attach",
            Self::Start(_) => "start",
            Self::Stop(_) => "stop",
            Self::Remove(_) => "remove",
            Self::Purge(_) => "purge",
            Self::AwaitProvider(_) => "await_provider",
            Self::Wait(_) => "wait",
            Self::AwaitEnd(_) => "await_end",
        }
    }
}

/// Decides about the next step.
pub fn plan(
    record: &InstanceRecord,
    seen: &Observation,
    policy: &Policy,
    visibility_lag: Duration,
    now: Timestamp,
) -> Action {
    if record.phase == Phase::Gone {
        return Action::Rest;
    }
    let planner = Planner { record, policy, visibility_lag, now };
    match seen {
        Observation::Unknown(cause) => planner.on_unknown(cause),
        Observation::Later { later, own } => planner.on_later(later, own.as_ref()),
        _ if planner.is_left_alone() && record.phase.is_transient() => planner.go_on(),
        Observation::Present(sighting) => planner.on_present(sighting),
        Observation::Doubled(sighting) => planner.on_doubled(sighting),
        Observation::Earlier(sighting) => planner.on_earlier(sighting),
        Observation::Absent(absence) => planner.on_absent(*absence),
    }
}

struct Planner<'a> {
    record: &'a InstanceRecord,
    policy: &'a Policy,
    visibility_lag: Duration,
    now: Timestamp,
}

impl Planner<'_> {
    /// Only waiting and giving up a wait are possible here: there is no proof to build anything else from.
    fn on_unknown(&self, cause: &str) -> Action {
        if self.record.desired == Desired::Running && self.start_is_overdue() {
            return self.give_up(
                Reason::BackendUnreachable,
                format!("the provider did not answer in time: {cause}. Restart the workspace once it does"),
            );
        }
        Action::AwaitProvider(cause.to_owned())
    }

    /// Two instances on one disk: both are taken away, and another is launched where it is to run.
    fn on_doubled(&self, sighting: &Sighting) -> Action {
        let runs = self.record.desired == Desired::Running && !self.record.is_being_replaced();
        if runs && self.record.phase == Phase::Stopping && self.start_is_overdue() {
            return self.stop_timeout("the provider made two instances of it, and does not remove them");
        }
        let is_replaced = self.record.is_being_replaced();
        if is_replaced { self.on_present(sighting) } else { self.remove(sighting) }
    }

    /// A late one of an earlier launch of ours. The orphan sweep, which has a grace and a budget, decides about it; under an alarm
    /// it removes nothing, also nothing that this store knows: a store that was put back may know too little of the workspace.
    fn on_earlier(&self, sighting: &Sighting) -> Action {
        let message = format!(
            "an instance of an earlier launch ({}) is in the way. It is removed within a few minutes; while an alarm stands, nothing \
             is removed, and this waits for an operator to end the alarm (self-hosted: you, with `molecule alarms`)",
            sighting.found().seq
        );
        // longer than a sweep leaves it alone
        let deadline = self.policy.launch_deadline + self.policy.orphan_grace * 2;
        let starts = self.record.phase.is_transient();
        if self.record.desired == Desired::Running && starts && self.overdue(deadline) {
            return self.give_up(Reason::NameTaken, message);
        }
        // its own launch is not there, and won't be
        let fact = self.proves_down(sighting.at()).then_some(Fact::Down(sighting.at()));
        self.tell(Reason::NameTaken, message, fact, self.policy.look_every * 5)
    }

    /// What was launched and is not known here may be all that holds the workspace's data, or write to its disk: nothing
    /// is launched beside it, and nothing of the workspace is touched.
    fn on_later(&self, later: &Sighting, own: Option<&Sighting>) -> Action {
        let found = later.found();
        let is_down = own.map_or_else(|| self.proves_down(later.at()), |own| own.found().state.is_down());
        self.tell(
            Reason::UnknownLaunch,
            format!(
                "the provider shows launch {} of generation {}, which the database does not know: it was put back to an \
                 earlier state. Nothing of this workspace is launched, stopped or removed until an operator has ended \
                 the alarm (self-hosted: you, with `molecule alarms`)",
                found.seq, found.instance.generation
            ),
            is_down.then_some(Fact::Down(later.at())),
            self.policy.sweep_every * 2,
        )
    }

    fn on_present(&self, sighting: &Sighting) -> Action {
        let found = sighting.found();
        if self.record.desired == Desired::Deleted {
            return self.remove(sighting);
        }
        if self.record.is_being_replaced() {
            if self.record.desired == Desired::Running && self.start_is_overdue() {
                return self
                    .stop_timeout("the instance before it did not end in time; it is still being stopped");
            }
            let patience = self.policy.stop_deadline / 2;
            let patient = self.record.phase != Phase::Stopping || !self.overdue(patience);
            return match found.state {
                state if state.is_down() || !patient => self.remove(sighting),
                state if state.is_ending() && self.is_told() => self.await_end(patience),
                _ => Action::Stop(sighting.clone()),
            };
        }
        match self.record.desired {
            Desired::Stopped => self.stop_present(sighting),
            _ => self.run_present(sighting),
        }
    }

    fn stop_present(&self, sighting: &Sighting) -> Action {
        if sighting.found().state.is_down() {
            let phase = if self.record.phase == Phase::Failed { Phase::Failed } else { Phase::Stopped };
            return self.settle_down(phase, sighting.at(), Some(AttemptState::Confirmed));
        }
        if self.record.phase == Phase::Stopping && self.overdue(self.policy.stop_deadline) {
            return self.stop_timeout("it did not stop in time; stopping goes on");
        }
        if sighting.found().state.is_ending() && self.is_told() {
            return self.await_end(self.policy.stop_deadline);
        }
        Action::Stop(sighting.clone())
    }

    /// Takes it away, where the provider is not at it already.
    fn remove(&self, sighting: &Sighting) -> Action {
        if sighting.found().state == InstanceState::Removing && self.is_told() {
            return self.await_end(self.policy.stop_deadline);
        }
        Action::Remove(sighting.clone())
    }

    /// Whether watchers know that it is on its way down.
    fn is_told(&self) -> bool {
        matches!(self.record.phase, Phase::Stopping | Phase::Failed)
    }

    /// Leaves it to the provider, which is stopping or removing it: each look comes later than the one before, and one comes
    /// right after the deadline.
    fn await_end(&self, deadline: Duration) -> Action {
        let due = self.now + self.policy.pause(self.record.failures.saturating_add(1));
        let ends = self.record.phase_since + deadline + Duration::from_millis(1);
        Action::AwaitEnd(if ends > self.now { due.min(ends) } else { due })
    }

    fn stop_timeout(&self, message: &str) -> Action {
        self.give_up(Reason::StopTimeout, message.to_owned())
    }

    fn run_present(&self, sighting: &Sighting) -> Action {
        let found = sighting.found();
        let confirmed = self.record.live_attempt().is_some_and(|a| a.state == AttemptState::Confirmed);
        match found.state {
            InstanceState::Running => {
                let outcome = Outcome {
                    phase: Some(Phase::Up),
                    message: Some("up".to_owned()),
                    attempt: Some(AttemptState::Confirmed),
                    fact: Some(Fact::Up(sighting.at())),
                    endpoint: found.endpoint.clone(),
                    event: (self.record.phase != Phase::Up).then(|| self.event("up", None, "up")),
                    ..self.outcome()
                };
                Action::Settle(Box::new(outcome))
            }
            InstanceState::Stopping | InstanceState::Removing
                if matches!(self.record.phase, Phase::Booting | Phase::Stopping) =>
            {
                if self.start_is_overdue() {
                    return self.stop_timeout("it was to start again, and had not stopped in time");
                }
                self.await_end(self.policy.boot_deadline)
            }
            InstanceState::Starting
            | InstanceState::Stopping
            | InstanceState::Removing
            | InstanceState::Unattached => {
                if matches!(self.record.phase, Phase::Booting | Phase::Stopping) && self.start_is_overdue() {
                    let message = "the instance did not come up in time".to_owned();
                    return self.give_up(Reason::BootTimeout, message);
                }
                // from STOPPING as well, which may not become BOOTING: else it would wait there for good
                if found.state == InstanceState::Unattached
                    && matches!(self.record.phase, Phase::Booting | Phase::Stopping)
                    && confirmed
                {
                    return Action::Attach(sighting.clone());
                }
                let phase = if self.record.phase.may_become(Phase::Booting) {
                    Phase::Booting
                } else {
                    self.record.phase
                };
                let outcome = Outcome {
                    phase: Some(phase),
                    message: Some("booting".to_owned()),
                    attempt: Some(AttemptState::Confirmed),
                    due_at: Some(match found.state {
                        InstanceState::Unattached => self.now,
                        _ => self.now + self.policy.look_every,
                    }),
                    ..self.outcome()
                };
                Action::Settle(Box::new(outcome))
            }
            // its launch made it, but has not started it
            InstanceState::Created if !confirmed => self.launch_or_give_up(),
            InstanceState::Created => self.start(sighting),
            InstanceState::Exited(_)
                if matches!(self.record.phase, Phase::Up | Phase::Booting) || !confirmed =>
            {
                Action::Crashed(sighting.clone())
            }
            InstanceState::Exited(_) => self.start(sighting),
        }
    }

    fn start(&self, sighting: &Sighting) -> Action {
        if self.start_is_overdue() {
            return self.give_up_start("started");
        }
        if self.record.phase.may_become(Phase::Launching) {
            Action::Start(sighting.clone())
        } else {
            Action::Rest
        }
    }

    fn on_absent(&self, absence: Absence) -> Action {
        let running = self.record.desired == Desired::Running && !self.record.is_being_replaced();
        let unconfirmed = self.record.live_attempt().is_none_or(|a| a.state == AttemptState::Intended);
        if running && unconfirmed {
            return self.launch_or_give_up();
        }
        if let Some(from) = self.proves_from().filter(|from| absence.at() <= *from) {
            // what the provider does not show yet may be shown at any moment
            let soon = self.now + self.policy.look_every;
            return Action::Wait(soon.min(from + Duration::from_millis(1)));
        }
        if self.record.desired == Desired::Deleted {
            return Action::Purge(absence);
        }
        let down = Outcome {
            attempt: Some(AttemptState::Resolved),
            fact: Some(Fact::Down(absence.at())),
            ..self.outcome()
        };
        if self.record.is_being_replaced() {
            let run = self.record.desired == Desired::Running;
            // given up since it was to be replaced: it stays FAILED, for the reason that it has
            let failed = !run && self.record.phase == Phase::Failed;
            let message = if run { "admitted" } else { "stopped" };
            let outcome = Outcome {
                adopt_wanted: true,
                phase: Some(match (run, failed) {
                    (true, _) => Phase::Admitted,
                    (_, true) => Phase::Failed,
                    _ => Phase::Stopped,
                }),
                reason: why_it_stops(self.record),
                message: (!failed).then(|| message.to_owned()),
                due_at: run.then_some(self.now),
                event: Some(self.event("replaced", None, "the old generation is gone")),
                ..down
            };
            return Action::Settle(Box::new(outcome));
        }
        if self.record.desired == Desired::Stopped {
            let phase = if self.record.phase == Phase::Failed { Phase::Failed } else { Phase::Stopped };
            return self.settle_down(phase, absence.at(), Some(AttemptState::Resolved));
        }
        // It was there and is gone: somebody else took it away.
        let restarts = self.restarts_so_far() + 1;
        let outcome = Outcome {
            phase: Some(Phase::Launching),
            reason: Some(Reason::Restarting),
            message: Some("its instance is gone; launching another".to_owned()),
            restarts: Some(restarts),
            due_at: Some(self.now + self.policy.backoff(restarts, self.record.seed())),
            event: Some(self.event(
                "vanished",
                Some(Reason::Restarting),
                "the provider no longer has its instance",
            )),
            ..down
        };
        if restarts > self.policy.restart_budget {
            let message = "its instance was taken away again and again".to_owned();
            return self.give_up_with(Reason::CrashLoop, message, outcome);
        }
        Action::Settle(Box::new(outcome))
    }

    /// Until when the live launch may still come to be shown: that it is not shown proves something after that.
    fn proves_from(&self) -> Option<Timestamp> {
        self.record.live_attempt().map(|attempt| attempt.call_until + self.visibility_lag)
    }

    /// Whether it proves that the live launch is down, if any, that another one was shown and it was not.
    fn proves_down(&self, at: Timestamp) -> bool {
        self.proves_from().is_none_or(|from| at > from)
    }

    fn launch_or_give_up(&self) -> Action {
        if self.start_is_overdue() { self.give_up_start("launched") } else { Action::Launch }
    }

    /// For the reason that it waited for, where it did.
    fn give_up_start(&self, what: &str) -> Action {
        let said = if self.record.message.is_empty() { "no answer" } else { &self.record.message };
        self.give_up(
            waits_for_room(self.record).unwrap_or(Reason::LaunchTimeout),
            format!("it could not be {what} in time; last: {said}"),
        )
    }

    /// Down as it was wanted.
    fn settle_down(&self, phase: Phase, at: Timestamp, attempt: Option<AttemptState>) -> Action {
        let first = self.record.phase != phase;
        let outcome = Outcome {
            phase: Some(phase),
            // what hindered it on its way is over
            reason: why_it_stops(self.record),
            message: (phase == Phase::Stopped).then(|| "stopped".to_owned()),
            attempt: attempt.filter(|_| self.record.live_attempt().is_some()),
            fact: Some(Fact::Down(at)),
            event: (first && phase == Phase::Stopped).then(|| self.event("stopped", None, "stopped")),
            ..self.outcome()
        };
        Action::Settle(Box::new(outcome))
    }

    fn give_up(&self, reason: Reason, message: String) -> Action {
        self.give_up_with(reason, message, self.outcome())
    }

    fn give_up_with(&self, reason: Reason, message: String, outcome: Outcome) -> Action {
        Action::Settle(Box::new(give_up(self.record, reason, message, outcome, self.now)))
    }

    fn tell(&self, reason: Reason, message: String, fact: Option<Fact>, look_again: Duration) -> Action {
        let due = self.now + look_again;
        let fact = fact.filter(|_| self.record.up_since.is_some());
        // why it has FAILED is told for as long as it has
        let is_news = self.record.message != message && self.record.phase != Phase::Failed;
        if !is_news && fact.is_none() {
            return Action::Wait(due);
        }
        let message = is_news.then_some(message);
        let reason = why_it_stops(self.record).or(Some(reason));
        let outcome = Outcome { reason, message, fact, due_at: Some(due), ..self.outcome() };
        Action::Settle(Box::new(outcome))
    }

    fn outcome(&self) -> Outcome {
        Outcome { planned_for: self.record.wanted(), ..Outcome::default() }
    }

    fn event(&self, kind: &'static str, reason: Option<Reason>, message: &str) -> EventDetail {
        engine_event(self.record, kind, reason, message)
    }

    fn restarts_so_far(&self) -> u32 {
        restarts_so_far(self.record, self.policy, self.now)
    }

    fn overdue(&self, deadline: Duration) -> bool {
        self.now.since(self.record.phase_since) > deadline
    }

    /// Whether what is to come up has taken too long over the stage it is in.
    fn start_is_overdue(&self) -> bool {
        if self.is_left_alone() {
            return false;
        }
        let (since, deadline) = match (self.record.phase, self.record.live_attempt()) {
            (Phase::Booting, _) => (self.record.phase_since, self.policy.boot_deadline),
            // it is launched, and finds no room to start again
            (Phase::Launching, Some(_)) if starts_without_room(self.record).is_some() => {
                (self.record.phase_since, self.policy.prepare_deadline)
            }
            (Phase::Launching, Some(attempt)) => {
                (self.record.phase_since.max(attempt.created_at), self.policy.launch_deadline)
            }
            // STOPPING: what is there first has to end
            (Phase::Admitted | Phase::Launching | Phase::Stopping, _) => {
                (self.record.phase_since, self.policy.prepare_deadline)
            }
            _ => return false,
        };
        self.now.since(since) > deadline
    }

    /// Whether the last that was seen of it is a launch that is not known.
    fn is_left_alone(&self) -> bool {
        self.record.reason == Some(Reason::UnknownLaunch)
    }

    /// The launch that was not known is there no more: all deadlines count from now.
    fn go_on(&self) -> Action {
        let message = Some("the launch that was not known is gone; going on".to_owned());
        Action::Settle(Box::new(Outcome { message, due_at: Some(self.now), ..self.outcome() }))
    }
}

/// What of a step may be taken while a record is [held](crate::store::Hold::Held) since a moment: what is to run is not launched,
/// started, replaced or given up, and what was stopped is not stopped again for a while, since it may have been started in a
/// time that the database has lost. What the provider says is written all the same. A deletion is final.
pub fn held(
    action: Action,
    record: &InstanceRecord,
    since: Timestamp,
    policy: &Policy,
    now: Timestamp,
) -> Action {
    let is_suspended = why_it_stops(record).is_some();
    match record.desired {
        Desired::Deleted => return action,
        Desired::Stopped if is_suspended || now.since(since) > policy.agreement_patience => return action,
        Desired::Stopped | Desired::Running => {}
    }
    let until = now + policy.sweep_every;
    let facts = |fact| {
        Action::Settle(Box::new(Outcome {
            planned_for: record.wanted(),
            fact,
            // how long it was up is known now only
            restarts: Some(restarts_so_far(record, policy, now)),
            failures: record.failures,
            due_at: Some(until),
            ..Outcome::default()
        }))
    };
    match action {
        Action::Launch | Action::Start(_) | Action::Stop(_) | Action::Remove(_) => Action::Wait(until),
        Action::Crashed(sighting) => facts(Some(Fact::Down(sighting.at()))),
        // what goes down by itself, or has, is launched again later
        Action::Settle(outcome) if outcome.give_up || outcome.restarts.is_some() => facts(outcome.fact),
        other => other,
    }
}

/// The reason that outlasts whatever hinders it on its way down: why it is to stop, where that is not a wish.
pub(super) fn why_it_stops(record: &InstanceRecord) -> Option<Reason> {
    record.reason.filter(|reason| *reason == Reason::OrganizationSuspended)
}

/// What it lacks, where that is room for it at the provider.
fn waits_for_room(record: &InstanceRecord) -> Option<Reason> {
    record.reason.filter(|reason| matches!(reason, Reason::NoCapacity | Reason::ProviderQuota))
}

/// What an instance that is there lacks to start again, where that is room. It outlasts what the provider does not answer
/// meanwhile: the deadline goes by it.
pub(super) fn starts_without_room(record: &InstanceRecord) -> Option<Reason> {
    let is_there = record.live_attempt().is_some_and(|attempt| attempt.state == AttemptState::Confirmed);
    waits_for_room(record).filter(|_| is_there && record.phase == Phase::Launching)
}

/// The restarts that count: none after a long enough life.
pub fn restarts_so_far(record: &InstanceRecord, policy: &Policy, now: Timestamp) -> u32 {
    match record.up_since {
        Some(up) if now.since(up) >= policy.stable_after => 0,
        _ => record.restarts,
    }
}

/// An event of the engine's own.
pub fn engine_event(
    record: &InstanceRecord,
    kind: &'static str,
    reason: Option<Reason>,
    message: &str,
) -> EventDetail {
    EventDetail {
        kind: kind.into(),
        actor: Actor::Engine,
        generation: record.generation,
        reason,
        message: message.to_owned(),
        exit_code: None,
        log_tail: String::new(),
    }
}

/// FAILED, with what else is known: what is left is stopped next.
pub fn give_up(
    record: &InstanceRecord,
    reason: Reason,
    message: String,
    outcome: Outcome,
    now: Timestamp,
) -> Outcome {
    let event =
        outcome.event.clone().unwrap_or_else(|| engine_event(record, "failed", Some(reason), &message));
    Outcome {
        give_up: true,
        phase: Some(Phase::Failed),
        reason: Some(reason),
        due_at: Some(now),
        event: Some(EventDetail {
            kind: "failed".into(),
            reason: Some(reason),
            message: message.clone(),
            ..event
        }),
        message: Some(message),
        ..outcome
    }
}
