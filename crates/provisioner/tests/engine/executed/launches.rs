//! Launches.

use std::sync::Arc;

use molecule_domain::Clock;
use molecule_domain::id::{Generation, LaunchSeq, WorkspaceId};
use molecule_domain::lifecycle::{Desired, Phase, Reason};
use molecule_provisioner::admission::ProvisionRequest;
use molecule_provisioner::backend::{CallError, Prepared};
use molecule_provisioner::faults::Fault;
use molecule_provisioner::model::{Attempt, AttemptState, EventDetail, InstanceRecord};
use molecule_provisioner::observation::InstanceState;
use molecule_provisioner::samples;
use molecule_provisioner::store::Store;

use super::{SECOND, Stage, event, no_room, refusal, unknown};
use crate::answers::Answers;
use crate::world::{Op, World};

#[tokio::test]
async fn what_is_being_prepared_is_launching_and_looked_at_soon() {
    let stage = Stage::admitted().await;
    stage.prepares(Prepared::Unknown("no answer".to_owned()));
    assert_eq!(stage.step().await.after.failures, 1);
    stage.prepares(Prepared::InProgress("the image is being pulled".to_owned()));
    let step = stage.step().await;
    let expected = InstanceRecord {
        phase: Phase::Launching,
        phase_since: step.now,
        message: "the image is being pulled".to_owned(),
        failures: 0,
        due_at: Some(step.now + stage.world.executor.policy.look_every),
        ..step.before.clone()
    };
    step.is(expected, None);
}

#[tokio::test]
async fn what_no_place_has_room_for_is_launching_and_asked_for_again() {
    let stage = Stage::admitted().await;
    for failures in [1, 2] {
        stage.prepares(Prepared::NoRoom(no_room()));
        let step = stage.step().await;
        let expected = InstanceRecord {
            phase: Phase::Launching,
            phase_since: if failures == 1 { step.now } else { step.before.phase_since },
            reason: Some(Reason::NoCapacity),
            message: "all is taken".to_owned(),
            failures,
            due_at: Some(step.now + stage.backoff(failures)),
            ..step.before.clone()
        };
        step.is(expected, None);
    }
}

#[tokio::test]
async fn what_cannot_be_prepared_has_failed() {
    let stage = Stage::admitted().await;
    stage.prepares(Prepared::Refused(refusal()));
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

#[tokio::test]
async fn who_does_not_say_what_is_prepared_is_asked_again() {
    let stage = Stage::admitted().await;
    stage.prepares(Prepared::Unknown("no answer".to_owned()));
    let step = stage.step().await;
    let due_at = Some(step.now + stage.backoff(1));
    step.is(InstanceRecord { failures: 1, due_at, ..step.before.clone() }, None);
    // one hiccup is no news, and two are
    stage.prepares(Prepared::Unknown("no answer".to_owned()));
    let step = stage.step().await;
    let expected = InstanceRecord {
        reason: Some(Reason::BackendUnreachable),
        message: "waiting for the provider: no answer".to_owned(),
        failures: 2,
        due_at: Some(step.now + stage.backoff(2)),
        ..step.before.clone()
    };
    step.is(expected, None);
}

#[tokio::test]
async fn what_is_launched_boots() {
    let stage = Stage::admitted().await;
    let step = stage.step().await;
    let expected = InstanceRecord {
        phase: Phase::Booting,
        phase_since: step.now,
        message: "booting".to_owned(),
        due_at: Some(step.now),
        attempt: Some(step.attempt(AttemptState::Confirmed, step.now)),
        ..step.before.clone()
    };
    step.is(expected, Some(event("launched", None, "launched")));
}

#[tokio::test]
async fn a_launch_that_is_refused_has_failed() {
    let stage = Stage::admitted().await;
    stage.fails(CallError::Refused(refusal()));
    let step = stage.step().await;
    let expected = InstanceRecord {
        desired: Desired::Stopped,
        phase: Phase::Failed,
        phase_since: step.now,
        reason: Some(Reason::LaunchRefused),
        message: "not like this".to_owned(),
        due_at: Some(step.now),
        attempt: Some(step.attempt(AttemptState::Intended, step.now)),
        ..step.before.clone()
    };
    step.is(expected, Some(event("failed", Some(Reason::LaunchRefused), "not like this")));
}

#[tokio::test]
async fn a_launch_without_an_answer_may_still_take_effect() {
    let stage = Stage::admitted().await;
    stage.fails(unknown());
    let step = stage.step().await;
    let until = step.now + stage.world.executor.policy.launch_call;
    let expected = InstanceRecord {
        phase: Phase::Launching,
        phase_since: step.now,
        message: "launching".to_owned(),
        failures: 1,
        due_at: Some(step.now + stage.backoff(1)),
        attempt: Some(step.attempt(AttemptState::Intended, until)),
        ..step.before.clone()
    };
    step.is(expected, None);
}

#[tokio::test]
async fn a_launch_without_room_is_over_and_placed_anew_at_once() {
    let stage = Stage::admitted().await;
    stage.fails(CallError::NoRoom(no_room()));
    let step = stage.step().await;
    let expected = InstanceRecord {
        phase: Phase::Launching,
        phase_since: step.now,
        reason: Some(Reason::NoCapacity),
        message: "all is taken".to_owned(),
        failures: 1,
        due_at: Some(step.now),
        attempt: Some(step.attempt(AttemptState::Resolved, step.now)),
        ..step.before.clone()
    };
    step.is(expected, Some(event("no_room", Some(Reason::NoCapacity), "all is taken")));
}

/// The call before it may have an effect yet.
#[tokio::test]
async fn a_launch_without_room_is_asked_for_again_where_the_answer_before_was_lost() {
    let stage = Stage::admitted().await;
    stage.fails(unknown());
    stage.step().await;
    stage.fails(CallError::NoRoom(no_room()));
    let step = stage.step().await;
    let unsure_until = step.before.attempt.as_ref().unwrap().call_until;
    let attempt =
        step.before.attempt.clone().map(|live| Attempt { unsure_until, call_until: unsure_until, ..live });
    let expected = InstanceRecord {
        reason: Some(Reason::NoCapacity),
        message: "all is taken".to_owned(),
        failures: 2,
        due_at: Some(step.now + stage.backoff(2)),
        attempt,
        ..step.before.clone()
    };
    step.is(expected, None);
}

#[tokio::test]
async fn a_place_without_room_is_asked_again_at_the_end_of_its_back_off() {
    let stage = Stage::admitted().await;
    stage.fails(CallError::NoRoom(no_room()));
    let full = stage.step().await;
    let until = full.now + stage.backoff(1);
    let step = stage.step_now().await;
    step.is(InstanceRecord { due_at: Some(until), ..full.after.clone() }, None);
    stage.world.clock.advance(until.since(full.now));
    assert_eq!(stage.world.clock.now(), until);
    assert_eq!(stage.step_now().await.after.phase, Phase::Booting);

    // another place is asked at once
    let stage = Stage::admitted().await;
    stage.fails(CallError::NoRoom(no_room()));
    stage.step().await;
    stage.prepares(Prepared::Ready("elsewhere".to_owned()));
    assert_eq!(stage.step_now().await.after.phase, Phase::Booting);
}

#[tokio::test]
async fn a_place_is_asked_at_once_after_a_step_that_has_succeeded() {
    let stage = Stage::admitted().await;
    stage.fails(CallError::NoRoom(no_room()));
    stage.step().await;
    stage.prepares(Prepared::InProgress("a machine is being added".to_owned()));
    assert_eq!(stage.step_now().await.after.failures, 0);
    assert_eq!(stage.step_now().await.after.phase, Phase::Booting);
}

/// The look finds what the lost answer was about.
#[tokio::test]
async fn what_has_ended_before_its_launch_was_confirmed_is_confirmed() {
    let mut stage = Stage::admitted().await;
    // after the look, what is prepared, and what is stored
    stage.world.faults.arm(Some((3, Fault::LoseReply)));
    let lost = stage.step().await.after;
    assert_eq!(stage.world.faults.taken()[3], "backend.launch");
    assert_eq!(lost.attempt.map(|attempt| attempt.state), Some(AttemptState::Intended));
    stage.world.faults.arm(None);
    stage.ask(Op::Crash).await;
    let step = stage.step().await;
    let message = "the runtime ended with exit code 1";
    let expected = InstanceRecord {
        reason: Some(Reason::Restarting),
        message: format!("{message}; starting it again (1 of 5)"),
        restarts: 1,
        failures: 0,
        due_at: Some(step.now + stage.backoff(1)),
        attempt: step.known(AttemptState::Confirmed),
        ..step.before.clone()
    };
    let exited = event("exited", Some(Reason::Restarting), message);
    let (exit_code, log_tail) = (Some(1), "the last line\n".to_owned());
    step.is(expected, Some(EventDetail { exit_code, log_tail, ..exited }));
}

#[tokio::test]
async fn what_is_attached_is_looked_at_soon() {
    let unattached = async || {
        let mut stage = Stage::up().await;
        stage.ask(Op::Restart).await;
        for _ in 0..8 {
            stage.step().await;
            let states = stage.world.host.instances().iter().map(|one| one.state).collect::<Vec<_>>();
            let phase = stage.world.record(stage.workspace).await.unwrap().phase;
            if (phase, states) == (Phase::Booting, vec![InstanceState::Unattached]) {
                return stage;
            }
        }
        panic!("its disk is attached after its launch");
    };
    let stage = unattached().await;
    let step = stage.step().await;
    step.is(InstanceRecord { due_at: Some(step.now + SECOND), ..step.before.clone() }, None);

    let stage = unattached().await;
    stage.fails(unknown());
    let step = stage.step().await;
    let due_at = Some(step.now + stage.backoff(1));
    step.is(InstanceRecord { failures: 1, due_at, ..step.before.clone() }, None);

    for error in [CallError::Refused(refusal()), CallError::NoRoom(refusal())] {
        let stage = unattached().await;
        stage.fails(error);
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
        let generation = step.before.generation;
        let failed = event("failed", Some(Reason::LaunchRefused), "not like this");
        step.is(expected, Some(EventDetail { generation, ..failed }));
    }
}

/// A store that was put back is told of a workspace anew, by a later generation than the one that it has lost.
#[tokio::test]
async fn nothing_is_launched_beside_what_this_store_has_not_launched() {
    let (world, workspace, launch) = (World::new(), WorkspaceId::generate(), LaunchSeq(7));
    let (store, now) = (Arc::clone(&world.store), world.clock.now());
    let request = ProvisionRequest { generation: Generation(2), ..samples::provision(workspace) };
    store.provision(&request, now).await.unwrap();
    world.executor.backend.launch(&samples::launch(workspace, launch)).await.unwrap();
    let answers = Arc::new(Answers::of(Arc::clone(&world.executor.backend)));
    let stage = Stage { world, answers, workspace };
    let left_alone = stage.step().await.after;
    assert_eq!((left_alone.phase, left_alone.reason), (Phase::Admitted, Some(Reason::UnknownLaunch)));
    // however long that takes, it has its whole time once an operator has said what becomes of that launch
    stage.world.clock.advance(stage.world.executor.policy.prepare_deadline * 2);
    assert_eq!(stage.step().await.after.phase, Phase::Admitted);
    store.end_alarm("memory", &[(launch, workspace)], stage.world.clock.now()).await.unwrap();
    stage.step().await;
    let waits = stage.step().await.after;
    assert_eq!((waits.phase, waits.reason), (Phase::Admitted, Some(Reason::NameTaken)));
    assert_eq!(stage.world.host.instances().len(), 1, "nothing was launched beside it");
}
