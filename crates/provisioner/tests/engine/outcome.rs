//! What becomes of a record when a step's outcome is applied to it, by example.

use molecule_domain::Timestamp;
use molecule_domain::event::{Actor, EventDetail};
use molecule_domain::id::{AttemptNumber, Generation, IntentNumber, LaunchSeq, LeaseOwner, WorkspaceId};
use molecule_domain::instance::Endpoint;
use molecule_domain::lifecycle::{Desired, Phase, Reason};
use molecule_provisioner::admission::{self, Account};
use molecule_provisioner::model::{Attempt, AttemptState, InstanceRecord, Lease, Wanted};
use molecule_provisioner::outcome::{self, Effects, Fact, Outcome};
use molecule_provisioner::samples;
use molecule_provisioner::store::StoreError;

const fn second(second: i64) -> Timestamp {
    Timestamp::from_micros(second * 1_000_000)
}

const NOW: Timestamp = second(100);

fn event() -> EventDetail {
    EventDetail {
        kind: "ended".into(),
        actor: Actor::Engine,
        generation: Generation(1),
        reason: None,
        message: "it ended".to_owned(),
        exit_code: Some(3),
        log_tail: String::new(),
    }
}

fn attempt(record: &InstanceRecord, state: AttemptState) -> Attempt {
    Attempt {
        number: AttemptNumber(1),
        seq: LaunchSeq(5),
        token: Attempt::token_of(record.workspace, record.generation, LaunchSeq(5)),
        placement: "zone a".to_owned(),
        state,
        call_until: second(50),
        unsure_until: second(20),
        created_at: second(10),
    }
}

/// One that is up, and was last looked at at second 90.
fn up() -> InstanceRecord {
    let request = samples::provision(WorkspaceId::generate());
    let admitted = admission::provision(&Account::default(), &request, second(1)).unwrap().record;
    let attempt = Some(attempt(&admitted, AttemptState::Confirmed));
    InstanceRecord {
        phase: Phase::Up,
        phase_since: second(30),
        up_since: Some(second(30)),
        endpoint: Some(Endpoint { host: "10.0.0.2".to_owned(), port: 8000 }),
        message: "up".to_owned(),
        due_at: Some(second(200)),
        attempt,
        restarts: 1,
        ..admitted
    }
}

/// Of that record's wish: nothing is new.
fn same(record: &InstanceRecord) -> Outcome {
    Outcome {
        planned_for: record.wanted(),
        phase: Some(record.phase),
        endpoint: record.endpoint.clone(),
        due_at: Some(second(300)),
        ..Outcome::default()
    }
}

fn apply(before: &InstanceRecord, outcome: &Outcome, release: bool) -> (InstanceRecord, Effects) {
    let lease =
        Lease { workspace: before.workspace, owner: LeaseOwner::generate(), epoch: 1, until: second(160) };
    let mut record = before.clone();
    let effects = outcome::apply(&mut record, outcome, &lease, release, NOW);
    (record, effects)
}

#[test]
fn watchers_see_each_difference_and_nothing_else() {
    let before = up();
    let (after, effects) = apply(&before, &same(&before), true);
    assert!(!effects.visible);
    assert_eq!(after, InstanceRecord { due_at: Some(second(300)), ..before.clone() });
    let message = |text: &str| Some(text.to_owned());
    let elsewhere = Some(Endpoint { host: "10.0.0.3".to_owned(), port: 8000 });
    let replaced = InstanceRecord { wanted_generation: Generation(2), ..before.clone() };
    for (what, before, outcome) in [
        ("phase", &before, Outcome { phase: Some(Phase::Booting), endpoint: None, ..same(&before) }),
        ("message", &before, Outcome { message: message("up again"), ..same(&before) }),
        (
            "reason",
            &before,
            Outcome { message: message("up"), reason: Some(Reason::CrashLoop), ..same(&before) },
        ),
        ("desired", &before, Outcome { give_up: true, ..same(&before) }),
        ("endpoint", &before, Outcome { endpoint: elsewhere, ..same(&before) }),
        ("generation", &replaced, Outcome { adopt_wanted: true, ..same(&replaced) }),
    ] {
        assert!(apply(before, &outcome, true).1.visible, "{what}");
    }
}

#[test]
fn what_happened_is_told_but_not_what_was_illegal() {
    let before = up();
    let told = Outcome { event: Some(event()), ..same(&before) };
    assert_eq!(apply(&before, &told, true).1.event, Some(event()));
    let stopped = InstanceRecord { phase: Phase::Stopped, desired: Desired::Stopped, ..before };
    let fact = Some(Fact::Down(second(95)));
    let illegal = Outcome { phase: Some(Phase::Up), event: Some(event()), fact, ..same(&stopped) };
    let (after, effects) = apply(&stopped, &illegal, true);
    assert!(effects.illegal.is_some_and(|illegal| (illegal.from, illegal.to) == (Phase::Stopped, Phase::Up)));
    assert_eq!((effects.event, after.phase), (None, Phase::Stopped));
    assert_eq!(
        (effects.close_segment, after.due_at),
        (Some(second(95)), Some(second(130))),
        "facts are kept"
    );
}

#[test]
fn of_a_plan_for_another_wish_only_facts_are_kept() {
    let before = up();
    let stale = Outcome {
        planned_for: Wanted { intent: IntentNumber(9), desired: Desired::Stopped },
        phase: Some(Phase::Stopping),
        message: Some("stopping".to_owned()),
        give_up: true,
        restarts: Some(0),
        fact: Some(Fact::Down(second(95))),
        failures: 2,
        ..same(&before)
    };
    let (after, effects) = apply(&before, &stale, true);
    assert_eq!((after.phase, after.message.as_str(), after.desired), (Phase::Up, "up", Desired::Running));
    assert_eq!((after.restarts, after.failures, after.up_since), (1, 2, None));
    assert_eq!((effects.close_segment, after.due_at), (Some(second(95)), Some(NOW)), "it is planned anew");
    // a phase that does not follow is nobody's fault where something else was wanted
    let stale = Outcome { phase: Some(Phase::Admitted), ..stale };
    let gone = InstanceRecord { phase: Phase::Gone, ..before };
    assert!(apply(&gone, &stale, true).1.illegal.is_none());
}

#[test]
fn a_segment_is_opened_and_closed_once() {
    let before = up();
    let with = |fact| Outcome { fact: Some(fact), ..same(&before) };
    let (_, effects) = apply(&before, &with(Fact::Up(second(95))), true);
    assert_eq!((effects.open_segment, effects.close_segment), (None, None), "it is open already");
    let (after, effects) = apply(&before, &with(Fact::Down(second(95))), true);
    assert_eq!((effects.open_segment, effects.close_segment), (None, Some(second(95))));
    let (again, effects) = apply(&after, &with(Fact::Down(second(96))), true);
    assert_eq!((effects.close_segment, again.up_since), (None, None));
    let (after, effects) = apply(&again, &with(Fact::Up(second(97))), true);
    assert_eq!((effects.open_segment, after.up_since), (Some(second(97)), Some(second(97))));
    // a look that seems older than the segment ends it where it began
    let (_, effects) = apply(&before, &with(Fact::Down(second(5))), true);
    assert_eq!(effects.close_segment, Some(second(30)));
}

#[test]
fn the_last_launch_is_noted() {
    let mut before = up();
    before.spec.reset_session = true;
    let confirmed =
        Outcome { attempt: Some(AttemptState::Confirmed), call_ended: Some(second(40)), ..same(&before) };
    let (after, _) = apply(&before, &confirmed, true);
    let attempt = after.attempt.unwrap();
    assert_eq!((attempt.state, attempt.call_until), (AttemptState::Confirmed, second(40)));
    assert!(!after.spec.reset_session, "it was reset by that launch");
    // earlier calls may still take effect
    let early = Outcome { call_ended: Some(second(15)), ..confirmed.clone() };
    assert_eq!(apply(&before, &early, true).0.attempt.unwrap().call_until, second(20));
    let resolved = Outcome { attempt: Some(AttemptState::Resolved), ..confirmed.clone() };
    assert!(apply(&before, &resolved, true).0.spec.reset_session, "nothing was launched");
    let replaced = InstanceRecord { wanted_generation: Generation(2), ..before };
    assert!(apply(&replaced, &confirmed, true).0.spec.reset_session, "that is the next generation's");
}

#[test]
fn an_attempt_is_sure_once_earlier_calls_are_over() {
    let sure = |created, unsure, now| {
        let (created_at, unsure_until) = (second(created), second(unsure));
        let attempt = Attempt { created_at, unsure_until, ..attempt(&up(), AttemptState::Intended) };
        attempt.is_sure(second(now))
    };
    assert!(sure(10, 10, 1) && sure(10, 9, 1), "a first call has none before it");
    assert!(!sure(10, 20, 19) && !sure(10, 20, 20));
    assert!(sure(10, 20, 21));
}

#[test]
fn a_record_rests_until_there_is_something_to_do() {
    let before = up();
    let due = |before: &InstanceRecord, release| apply(before, &same(before), release).0.due_at;
    assert_eq!(due(&before, true), Some(second(300)), "as the plan says");
    assert_eq!(
        due(&before, false),
        Some(second(200)),
        "the lease is kept, and what follows is not asked yet"
    );
    // the claim set it to the lease's end: what is earlier came from somebody who woke it
    let woken = InstanceRecord { due_at: Some(second(120)), ..before.clone() };
    assert_eq!(due(&woken, true), Some(NOW));
    let claimed = InstanceRecord { due_at: Some(second(160)), ..before.clone() };
    assert_eq!(due(&claimed, true), Some(second(300)));
    assert_eq!(due(&InstanceRecord { due_at: None, ..before }, true), Some(second(300)));
}

#[test]
fn who_goes_over_to_the_wanted_generation_begins_anew() {
    let before = InstanceRecord {
        wanted_generation: Generation(2),
        phase: Phase::Stopping,
        phase_since: second(60),
        ..up()
    };
    let adopted =
        Outcome { adopt_wanted: true, phase: Some(Phase::Admitted), restarts: None, ..same(&before) };
    let (after, _) = apply(&before, &adopted, true);
    assert_eq!((after.generation, after.restarts, after.attempt), (Generation(2), 0, None));
    assert_eq!((after.phase, after.phase_since, after.endpoint), (Phase::Admitted, NOW, None));
    // also where its phase stays
    let stays = Outcome { phase: Some(Phase::Stopping), ..adopted };
    assert_eq!(apply(&before, &stays, true).0.phase_since, NOW);
    let counted = Outcome { restarts: Some(4), ..same(&up()) };
    let (after, _) = apply(&up(), &counted, true);
    assert_eq!((after.restarts, after.phase_since), (4, second(30)));
}

#[test]
fn what_was_left_alone_for_an_unknown_launch_has_its_time_anew() {
    for (phase, reason, since) in [
        (Phase::Admitted, Some(Reason::BackendUnreachable), NOW),
        (Phase::Launching, None, NOW),
        (Phase::Booting, None, NOW),
        (Phase::Stopping, None, NOW),
        // it is still left alone
        (Phase::Admitted, Some(Reason::UnknownLaunch), second(30)),
        // nothing of it is on its way
        (Phase::Up, None, second(30)),
        (Phase::Failed, None, second(30)),
    ] {
        let before = InstanceRecord { phase, reason: Some(Reason::UnknownLaunch), ..up() };
        let told = Outcome { reason, message: Some("something else".to_owned()), ..same(&before) };
        assert_eq!(apply(&before, &told, true).0.phase_since, since, "{phase} {reason:?}");
        let before = InstanceRecord { reason: None, ..before };
        assert_eq!(apply(&before, &told, true).0.phase_since, second(30), "{phase}: no time was lost");
    }
}

#[test]
fn what_is_given_up_is_to_stop() {
    let running = up();
    let given_up = Outcome { give_up: true, phase: Some(Phase::Failed), ..same(&running) };
    assert_eq!(apply(&running, &given_up, true).0.desired, Desired::Stopped);
    let deleted = InstanceRecord { desired: Desired::Deleted, ..running };
    let given_up = Outcome { planned_for: deleted.wanted(), ..given_up };
    assert_eq!(apply(&deleted, &given_up, true).0.desired, Desired::Deleted, "it is to go all the same");
}

#[test]
fn limits_are_given_back_once_it_is_down_or_gone() {
    let running = up();
    let down = Some(Fact::Down(second(95)));
    let (after, effects) = apply(&running, &Outcome { fact: down, ..same(&running) }, true);
    assert!(after.running_counted, "it is to run, and is launched again");
    assert_eq!(effects.released, effects.released.times(0));
    let stopping = InstanceRecord { desired: Desired::Stopped, phase: Phase::Stopping, ..running.clone() };
    let (after, effects) = apply(&stopping, &same(&stopping), true);
    assert!(after.running_counted, "nobody has seen it down");
    assert_eq!(effects.released, effects.released.times(0));
    let (after, effects) = apply(&stopping, &Outcome { fact: down, ..same(&stopping) }, true);
    assert!(!after.running_counted && after.sealed_token.is_some());
    assert_eq!(effects.released, running.spec.amounts().running_part());
    let deleted = InstanceRecord { desired: Desired::Deleted, ..stopping };
    let (after, effects) = apply(&deleted, &Outcome { phase: Some(Phase::Gone), ..same(&deleted) }, true);
    assert!(!after.running_counted && after.sealed_token.is_none());
    assert_eq!(effects.released, running.spec.amounts());
}

#[test]
fn launch_numbers_rise_and_are_never_behind_the_clock() {
    let next = |highest| outcome::next_launch(LaunchSeq(highest), second(100));
    assert_eq!(next(7), LaunchSeq(100_000_000));
    assert_eq!(next(100_000_000), LaunchSeq(100_000_001));
    assert_eq!(next(200_000_000), LaunchSeq(200_000_001));
}

#[test]
fn a_launch_that_is_called_again_stays_the_same() {
    let mut record = InstanceRecord { phase: Phase::Admitted, reason: None, attempt: None, ..up() };
    let wanted = record.wanted();
    let begin = |record: &mut InstanceRecord, seq, place, now, until| {
        outcome::begin_launch(record, wanted, LaunchSeq(seq), place, second(now), second(until))
    };
    let begun = begin(&mut record, 7, "zone a", 100, 110).unwrap();
    assert_eq!((begun.new_attempt, begun.visible, record.phase), (true, true, Phase::Launching));
    assert_eq!((record.phase_since, record.message.as_str()), (second(100), "launching"));
    let first = record.attempt.clone().unwrap();
    assert_eq!(
        (first.number, first.seq, first.placement.as_str()),
        (AttemptNumber(1), LaunchSeq(7), "zone a")
    );
    assert_eq!(
        (first.call_until, first.unsure_until, first.created_at),
        (second(110), second(100), second(100))
    );
    assert_eq!(first.token, Attempt::token_of(record.workspace, Generation(1), LaunchSeq(7)));

    let begun = begin(&mut record, 8, "zone b", 120, 130).unwrap();
    assert_eq!((begun.new_attempt, begun.visible, record.phase_since), (false, false, second(100)));
    let again = Attempt { call_until: second(130), unsure_until: second(110), ..first };
    assert_eq!(record.attempt, Some(again.clone()), "the first call may take effect until it is over");

    record.attempt = Some(Attempt { state: AttemptState::Resolved, ..again });
    record.reason = Some(Reason::UnknownLaunch);
    let begun = begin(&mut record, 9, "zone b", 140, 150).unwrap();
    assert_eq!((begun.new_attempt, begun.visible, record.reason), (true, true, None));
    let second_attempt = record.attempt.clone().unwrap();
    assert_eq!((second_attempt.number, second_attempt.seq), (AttemptNumber(2), LaunchSeq(9)));

    // a later wish, or a suspension, which has no number
    let stopped = InstanceRecord { desired: Desired::Stopped, ..record.clone() };
    let asked = InstanceRecord { intent: IntentNumber(9), ..record };
    for mut record in [stopped, asked] {
        let before = record.clone();
        assert!(matches!(begin(&mut record, 10, "", 160, 170), Err(StoreError::Overtaken(_))));
        assert_eq!(record, before);
    }
    let mut failed = InstanceRecord { phase: Phase::Failed, ..up() };
    assert!(matches!(begin(&mut failed, 10, "", 160, 170), Err(StoreError::Illegal(_))));
}
