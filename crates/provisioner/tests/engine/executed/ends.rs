//! What ends by itself, is stopped, is removed, and is gone.

use molecule_domain::lifecycle::{Phase, Reason};
use molecule_provisioner::backend::PostMortem;
use molecule_provisioner::model::{AttemptState, EventDetail, InstanceRecord};

use super::{SECOND, Stage, Step, event, unknown};
use crate::world::Op;

/// It has ended by itself, which this message says, and is started again.
fn is_restarted(stage: &Stage, step: &Step, message: &str, exit_code: Option<i32>, log_tail: &str) {
    let expected = InstanceRecord {
        phase: Phase::Launching,
        phase_since: step.now,
        reason: Some(Reason::Restarting),
        message: format!("{message}; starting it again (1 of 5)"),
        endpoint: None,
        restarts: 1,
        up_since: None,
        due_at: Some(step.now + stage.backoff(1)),
        ..step.before.clone()
    };
    let exited = event("exited", Some(Reason::Restarting), message);
    step.is(expected, Some(EventDetail { exit_code, log_tail: log_tail.to_owned(), ..exited }));
}

#[tokio::test]
async fn an_end_is_described_by_the_post_mortem() {
    let mut stage = Stage::up().await;
    stage.ask(Op::Crash).await;
    stage.tells(PostMortem {
        exit_code: Some(137),
        log_tail: "more and more".to_owned(),
        detail: Some("memory ran out".to_owned()),
        ..PostMortem::default()
    });
    let step = stage.step().await;
    let message = "the runtime ended with exit code 137 (memory ran out)";
    is_restarted(&stage, &step, message, Some(137), "more and more");
}

#[tokio::test]
async fn without_a_post_mortem_the_exit_code_is_the_one_that_was_seen() {
    let mut stage = Stage::up().await;
    stage.ask(Op::Crash).await;
    stage.fails(unknown());
    let step = stage.step().await;
    is_restarted(&stage, &step, "the runtime ended with exit code 1", Some(1), "");
}

#[tokio::test]
async fn what_is_stopped_is_looked_at_at_once_or_soon() {
    let stopping = |step: &Step| InstanceRecord {
        phase: Phase::Stopping,
        phase_since: step.now,
        message: "being stopped".to_owned(),
        endpoint: None,
        ..step.before.clone()
    };
    let to_stop = async || {
        let mut stage = Stage::up().await;
        stage.ask(Op::Stop).await;
        stage
    };
    let stage = to_stop().await;
    let step = stage.step().await;
    step.is(InstanceRecord { due_at: Some(step.now), ..stopping(&step) }, None);

    let stage = to_stop().await;
    stage.world.host.set_slow(Some(SECOND * 60));
    let step = stage.step().await;
    step.is(InstanceRecord { due_at: Some(step.now + SECOND * 3), ..stopping(&step) }, None);
    // each further look comes later
    for (failures, pause) in [(1, 15), (2, 75)] {
        let step = stage.step().await;
        let due_at = Some(step.now + SECOND * pause);
        step.is(InstanceRecord { failures, due_at, ..step.before.clone() }, None);
    }

    let stage = to_stop().await;
    stage.fails(unknown());
    let step = stage.step().await;
    let due_at = Some(step.now + stage.backoff(1));
    step.is(InstanceRecord { failures: 1, due_at, ..stopping(&step) }, None);
}

#[tokio::test]
async fn what_is_removed_is_looked_at_at_once_or_soon() {
    let removing = |step: &Step| InstanceRecord {
        phase: Phase::Stopping,
        phase_since: step.now,
        message: "being taken away".to_owned(),
        endpoint: None,
        ..step.before.clone()
    };
    let to_delete = async || {
        let mut stage = Stage::up().await;
        stage.ask(Op::Delete).await;
        stage
    };
    let stage = to_delete().await;
    let step = stage.step().await;
    step.is(InstanceRecord { due_at: Some(step.now), ..removing(&step) }, None);

    let stage = to_delete().await;
    stage.world.host.set_slow(Some(SECOND * 60));
    let step = stage.step().await;
    step.is(InstanceRecord { due_at: Some(step.now + SECOND * 3), ..removing(&step) }, None);

    let stage = to_delete().await;
    stage.fails(unknown());
    let step = stage.step().await;
    let due_at = Some(step.now + stage.backoff(1));
    step.is(InstanceRecord { failures: 1, due_at, ..removing(&step) }, None);
}

/// Gone with all that it had, as its record says.
fn is_gone(step: &Step, attempt: Option<AttemptState>) {
    let expected = InstanceRecord {
        sealed_token: None,
        phase: Phase::Gone,
        phase_since: step.now,
        reason: None,
        message: "deleted".to_owned(),
        up_since: None,
        failures: 0,
        running_counted: false,
        due_at: None,
        attempt: attempt.and_then(|state| step.known(state)),
        ..step.before.clone()
    };
    step.is(expected, Some(event("deleted", None, "everything of it is gone")));
}

#[tokio::test]
async fn what_is_purged_is_gone() {
    let mut launched = Stage::up().await;
    launched.ask(Op::Delete).await;
    launched.step().await;
    let mut admitted = Stage::admitted().await;
    admitted.ask(Op::Delete).await;
    for (stage, attempt) in [(launched, Some(AttemptState::Resolved)), (admitted, None)] {
        is_gone(&stage.step().await, attempt);
    }
}

#[tokio::test]
async fn of_what_cannot_be_purged_it_is_known_that_its_instance_is_gone() {
    let mut launched = Stage::up().await;
    launched.ask(Op::Delete).await;
    launched.step().await;
    let mut admitted = Stage::admitted().await;
    admitted.ask(Op::Delete).await;
    for (stage, attempt) in [(launched, Some(AttemptState::Resolved)), (admitted, None)] {
        stage.fails(unknown());
        let step = stage.step().await;
        let expected = InstanceRecord {
            up_since: None,
            failures: 1,
            running_counted: false,
            due_at: Some(step.now + stage.backoff(1)),
            attempt: attempt.and_then(|state| step.known(state)),
            ..step.before.clone()
        };
        step.is(expected, None);
        is_gone(&stage.step().await, attempt);
    }
}

#[tokio::test]
async fn a_wait_forgets_no_failure() {
    let mut stage = Stage::admitted().await;
    stage.fails(unknown());
    stage.step().await;
    stage.ask(Op::Stop).await;
    stage.ask(Op::ProviderAway).await;
    stage.step().await;
    stage.ask(Op::ProviderBack).await;
    // the launch may have an effect yet
    let step = stage.step().await;
    assert_eq!(step.before.failures, 1);
    step.is(InstanceRecord { due_at: Some(step.now + SECOND), ..step.before.clone() }, None);
}

#[tokio::test]
async fn what_is_as_it_is_to_be_rests() {
    let stage = Stage::up().await;
    let step = stage.step().await;
    step.is(InstanceRecord { due_at: None, ..step.before.clone() }, None);
}
