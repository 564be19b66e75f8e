//! Starts of what was stopped, or has ended by itself.

use molecule_domain::lifecycle::{Desired, Phase, Reason};
use molecule_provisioner::backend::CallError;
use molecule_provisioner::model::InstanceRecord;

use super::{Stage, event, no_room, refusal, unknown};
use crate::world::Op;

/// It has ended by itself, and is started again next.
async fn crashed() -> Stage {
    let mut stage = Stage::up().await;
    stage.ask(Op::Crash).await;
    let after = stage.step().await.after;
    assert_eq!((after.phase, after.reason), (Phase::Launching, Some(Reason::Restarting)));
    stage
}

#[tokio::test]
async fn what_was_stopped_is_started_and_boots() {
    let stage = Stage::to_start().await;
    let step = stage.step().await;
    let expected = InstanceRecord {
        phase: Phase::Booting,
        phase_since: step.now,
        message: "booting".to_owned(),
        due_at: Some(step.now),
        ..step.before.clone()
    };
    step.is(expected, Some(event("started", None, "started")));
}

#[tokio::test]
async fn what_is_started_after_it_ended_says_that_it_restarts() {
    let stage = crashed().await;
    let step = stage.step().await;
    let expected = InstanceRecord {
        phase: Phase::Booting,
        phase_since: step.now,
        reason: Some(Reason::Restarting),
        message: "booting".to_owned(),
        due_at: Some(step.now),
        ..step.before.clone()
    };
    step.is(expected, Some(event("started", None, "started")));
}

#[tokio::test]
async fn a_start_that_is_refused_has_failed() {
    for stage in [Stage::to_start().await, crashed().await] {
        stage.fails(CallError::Refused(refusal()));
        let step = stage.step().await;
        let expected = InstanceRecord {
            desired: Desired::Stopped,
            phase: Phase::Failed,
            phase_since: step.now,
            reason: Some(Reason::LaunchRefused),
            message: "not like this".to_owned(),
            due_at: Some(step.now),
            ..step.before.clone()
        };
        step.is(expected, Some(event("failed", Some(Reason::LaunchRefused), "not like this")));
    }
}

#[tokio::test]
async fn a_start_without_an_answer_is_made_again() {
    let stage = Stage::to_start().await;
    stage.fails(unknown());
    let step = stage.step().await;
    let expected = InstanceRecord {
        phase: Phase::Launching,
        phase_since: step.now,
        message: "starting".to_owned(),
        failures: 1,
        due_at: Some(step.now + stage.backoff(1)),
        ..step.before.clone()
    };
    step.is(expected, None);

    let stage = crashed().await;
    stage.fails(unknown());
    let step = stage.step().await;
    let due_at = Some(step.now + stage.backoff(1));
    step.is(InstanceRecord { failures: 1, due_at, ..step.before.clone() }, None);
}

#[tokio::test]
async fn a_start_without_room_is_made_again_and_told_of_once() {
    for stage in [Stage::to_start().await, crashed().await] {
        for failures in [1, 2] {
            stage.fails(CallError::NoRoom(no_room()));
            let step = stage.step().await;
            let was_launching = step.before.phase == Phase::Launching;
            let expected = InstanceRecord {
                phase: Phase::Launching,
                phase_since: if was_launching { step.before.phase_since } else { step.now },
                reason: Some(Reason::NoCapacity),
                message: "all is taken".to_owned(),
                failures,
                due_at: Some(step.now + stage.backoff(failures)),
                ..step.before.clone()
            };
            let told = (failures == 1).then(|| event("no_room", Some(Reason::NoCapacity), "all is taken"));
            step.is(expected, told);
        }
        // once there is, nothing is said of it any more
        let step = stage.step().await;
        let expected = InstanceRecord {
            phase: Phase::Booting,
            phase_since: step.now,
            reason: None,
            message: "booting".to_owned(),
            failures: 0,
            due_at: Some(step.now),
            ..step.before.clone()
        };
        step.is(expected, Some(event("started", None, "started")));
    }
}
