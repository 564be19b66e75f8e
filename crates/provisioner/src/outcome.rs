//! Results become stored state. Pure: a store applies an [`Outcome`] inside its own transaction.

use std::time::Duration;

use molecule_domain::Timestamp;
use molecule_domain::id::{AttemptNumber, LaunchSeq};
pub use molecule_domain::lifecycle::IllegalTransition;
use molecule_domain::lifecycle::{Desired, Phase, Reason};
use molecule_domain::limits::Amounts;
use molecule_domain::store::StoreError;

use crate::admission::counted;
use crate::model::{Attempt, AttemptState, Endpoint, EventDetail, InstanceRecord, Lease, Wanted};

/// What a step found or brought about.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What was wanted when the step was planned. Where that has changed since, only facts are written.
    pub planned_for: Wanted,
    /// The new phase; `None` stays.
    pub phase: Option<Phase>,
    /// Why.
    pub reason: Option<Reason>,
    /// For people; `None` stays, with the reason.
    pub message: Option<String>,
    /// Give up: what is wanted becomes Stopped.
    pub give_up: bool,
    /// Go over to the wanted generation: the old one is confirmed gone.
    pub adopt_wanted: bool,
    /// What is now known of the last launch.
    pub attempt: Option<AttemptState>,
    /// The launch call has come back: it takes no effect after this moment.
    pub call_ended: Option<Timestamp>,
    /// What the provider said of the instance, and when it was asked: where segments begin and end.
    pub fact: Option<Fact>,
    /// Where the instance is reached, while its phase is UP.
    pub endpoint: Option<Endpoint>,
    /// The new count of restarts.
    pub restarts: Option<u32>,
    /// Steps in a row that did not succeed.
    pub failures: u32,
    /// When to look again; `None` waits for a change.
    pub due_at: Option<Timestamp>,
    /// What to tell of it.
    pub event: Option<EventDetail>,
}

/// The provider's word on whether an instance is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    /// It was up at this moment.
    Up(Timestamp),
    /// It was down or absent at this moment.
    Down(Timestamp),
}

/// What a store writes beside the record.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    /// Open a usage segment at this moment.
    pub open_segment: Option<Timestamp>,
    /// Close the open one at this moment.
    pub close_segment: Option<Timestamp>,
    /// Give so much back to the organisation.
    pub released: Amounts,
    /// What to tell.
    pub event: Option<EventDetail>,
    /// Whether watchers see a difference.
    pub visible: bool,
    /// The decision that was not written, because it does not follow from the phase: a bug. The facts are.
    pub illegal: Option<IllegalTransition>,
}

/// How long a record rests after a decision that was illegal: the next one may be the same.
const ILLEGAL_PAUSE: Duration = Duration::from_secs(30);

/// Applies an outcome to the record as it is now, under a lease that is given back or kept.
pub fn apply(
    record: &mut InstanceRecord,
    outcome: &Outcome,
    lease: &Lease,
    release: bool,
    now: Timestamp,
) -> Effects {
    let before = record.clone();
    let to = outcome.phase.filter(|phase| !before.phase.may_become(*phase));
    let illegal = to.filter(|_| outcome.planned_for == before.wanted());
    let illegal = illegal.map(|to| IllegalTransition { from: before.phase, to });
    let event = outcome.event.clone().filter(|_| illegal.is_none());
    let mut effects = Effects { event, illegal, ..Effects::default() };
    if let Some(attempt) = &mut record.attempt {
        if let Some(state) = outcome.attempt {
            attempt.state = state;
            // done by that launch: what is launched again in its generation keeps its session
            if state == AttemptState::Confirmed && !before.is_being_replaced() {
                record.spec.reset_session = false;
            }
        }
        if let Some(ended) = outcome.call_ended {
            attempt.call_until = ended.max(attempt.unsure_until);
        }
    }
    record.failures = outcome.failures;

    match (outcome.fact, before.up_since) {
        (Some(Fact::Up(at)), None) => {
            effects.open_segment = Some(at);
            record.up_since = Some(at);
        }
        (Some(Fact::Down(at)), Some(since)) => {
            // a later look can be older than an earlier one only by the clock's fault
            effects.close_segment = Some(at.max(since));
            record.up_since = None;
        }
        _ => {}
    }

    if outcome.planned_for == before.wanted() && effects.illegal.is_none() {
        if let Some(message) = &outcome.message {
            record.reason = outcome.reason;
            record.message.clone_from(message);
        }
        if outcome.give_up && record.desired == Desired::Running {
            record.desired = Desired::Stopped;
        }
        if outcome.adopt_wanted {
            record.generation = record.wanted_generation;
            record.attempt = None;
            record.restarts = 0;
            // its deadlines begin anew; what has FAILED has since it did
            if before.phase != Phase::Failed {
                record.phase_since = now;
            }
        }
        if let Some(restarts) = outcome.restarts {
            record.restarts = restarts;
        }
        if let Some(phase) = outcome.phase {
            if phase != before.phase {
                record.phase = phase;
                record.phase_since = now;
            }
            record.endpoint = if phase == Phase::Up { outcome.endpoint.clone() } else { None };
        }
        let was_left_alone = before.reason == Some(Reason::UnknownLaunch) && record.reason != before.reason;
        if was_left_alone && record.phase.is_transient() {
            // the time in which nothing was done about it does not count
            record.phase_since = now;
        }
    }
    record.due_at = if !release {
        before.due_at
    } else if outcome.planned_for != before.wanted() || before.due_at.is_some_and(|due| due < lease.until) {
        // Something else is wanted, or a wake-up came in between: what was learnt is kept, and it is planned anew.
        Some(now)
    } else if effects.illegal.is_some() {
        Some(now + ILLEGAL_PAUSE)
    } else {
        outcome.due_at
    };

    let down = matches!(outcome.fact, Some(Fact::Down(_))) && record.desired != Desired::Running;
    if down || record.phase == Phase::Gone {
        record.running_counted = false;
    }
    if record.phase == Phase::Gone {
        record.sealed_token = None;
    }
    effects.released = counted(&before).minus(counted(record));
    effects.visible = record.phase != before.phase
        || record.reason != before.reason
        || record.message != before.message
        || record.desired != before.desired
        || record.generation != before.generation
        || record.endpoint != before.endpoint;
    effects
}

/// The number of the next launch, after the highest that was given out. Never behind the clock: what a store that was put
/// back gives out is above all that it had given out before.
pub fn next_launch(highest: LaunchSeq, now: Timestamp) -> LaunchSeq {
    LaunchSeq(highest.next().0.max(now.micros()))
}

/// What [`begin_launch`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchBegun {
    /// A new attempt took the launch number it was offered.
    pub new_attempt: bool,
    /// Watchers see a difference.
    pub visible: bool,
}

/// Notes in the record that a launch call is about to be made: a retry of the live attempt, or the first
/// call of a new one, which takes `next_seq` and `placement`: a retry keeps both, so that it asks for the same. A launch
/// that was planned for something else than is wanted now is not begun: the record may hold another generation's spec and token.
pub fn begin_launch(
    record: &mut InstanceRecord,
    planned_for: Wanted,
    next_seq: LaunchSeq,
    placement: &str,
    now: Timestamp,
    call_until: Timestamp,
) -> Result<LaunchBegun, StoreError> {
    if planned_for != record.wanted() {
        return Err(StoreError::Overtaken(record.workspace));
    }
    if !record.phase.may_become(Phase::Launching) {
        return Err(IllegalTransition { from: record.phase, to: Phase::Launching }.into());
    }
    let new_attempt = record.live_attempt().is_none();
    if new_attempt {
        let number = record.attempt.as_ref().map_or(AttemptNumber(1), |last| last.number.next());
        record.attempt = Some(Attempt {
            number,
            seq: next_seq,
            token: Attempt::token_of(record.workspace, record.generation, next_seq),
            placement: placement.to_owned(),
            state: AttemptState::Intended,
            call_until,
            unsure_until: now,
            created_at: now,
        });
    } else if let Some(attempt) = &mut record.attempt {
        attempt.unsure_until = attempt.unsure_until.max(attempt.call_until);
        attempt.call_until = call_until;
    }
    let visible = record.phase != Phase::Launching || record.reason == Some(Reason::UnknownLaunch);
    if visible {
        record.phase = Phase::Launching;
        record.phase_since = now;
        record.reason = None;
        "launching".clone_into(&mut record.message);
    }
    Ok(LaunchBegun { new_attempt, visible })
}
