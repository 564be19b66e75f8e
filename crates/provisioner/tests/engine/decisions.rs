//! What the plan decides about a record is allowed by the table of transitions, whatever is stored and whatever is seen.

use std::time::Duration;

use molecule_domain::id::{AttemptNumber, Generation, LaunchSeq, LeaseOwner, WorkspaceId};
use molecule_domain::lifecycle::{Desired, Phase, Reason};
use molecule_domain::{Clock, Timestamp};
use molecule_provisioner::backend::memory::Trouble;
use molecule_provisioner::model::{Attempt, AttemptState, InstanceRecord, Lease};
use molecule_provisioner::observation::{InstanceState, Observation, OwnedInstance, Snapshot};
use molecule_provisioner::outcome::{self, Fact};
use molecule_provisioner::policy::Policy;
use molecule_provisioner::reconciler::plan::{Action, held, plan};
use molecule_provisioner::samples::provision;
use molecule_provisioner::store::memory::MemoryStore;
use molecule_provisioner::store::{Hold, Store};

use crate::world::{Op, World};

/// The moment of the plan. Every deadline of the policy is shorter.
const NOW: Timestamp = Timestamp::from_micros(100_000_000_000);

async fn admitted() -> InstanceRecord {
    let store = MemoryStore::default();
    store.provision(&provision(WorkspaceId::generate()), Timestamp::from_micros(0)).await.unwrap()
}

fn attempt(record: &InstanceRecord, state: AttemptState, at: Timestamp) -> Attempt {
    let number = AttemptNumber(1);
    Attempt {
        number,
        seq: LaunchSeq(1),
        token: Attempt::token_of(record.workspace, record.generation, LaunchSeq(1)),
        placement: String::new(),
        state,
        call_until: at,
        unsure_until: at,
        created_at: at,
    }
}

/// Every record that there can be: what has FAILED or is STOPPED is not wanted running, and what is ADMITTED has no launch
/// under way.
fn records(admitted: &InstanceRecord) -> Vec<InstanceRecord> {
    let mut all = Vec::new();
    let states =
        [None, Some(AttemptState::Intended), Some(AttemptState::Confirmed), Some(AttemptState::Resolved)];
    for phase in Phase::ALL.into_iter().filter(|phase| *phase != Phase::Gone) {
        for desired in [Desired::Running, Desired::Stopped, Desired::Deleted] {
            if matches!(phase, Phase::Failed | Phase::Stopped) && desired == Desired::Running {
                continue;
            }
            for wanted in [Generation(1), Generation(2)] {
                let launching = |state| phase == Phase::Admitted && state == Some(AttemptState::Intended);
                for state in states.into_iter().filter(|state| !launching(*state)) {
                    for age in [Duration::from_secs(1), Duration::from_secs(90_000)] {
                        let since = NOW - age;
                        let up_since = (phase == Phase::Up).then_some(since);
                        all.push(InstanceRecord {
                            phase,
                            desired,
                            wanted_generation: wanted,
                            attempt: state.map(|state| attempt(admitted, state, since)),
                            phase_since: since,
                            up_since,
                            restarts: if age.as_secs() > 1 { 100 } else { 0 },
                            ..admitted.clone()
                        });
                    }
                }
            }
        }
    }
    all
}

fn sights(record: &InstanceRecord) -> Vec<Observation> {
    use InstanceState::{Created, Exited, Removing, Running, Starting, Stopping, Unattached};
    let mut all =
        vec![Observation::Unknown("silence".to_owned()), Snapshot::new(NOW, Ok(Vec::new())).observe(record)];
    for seq in [LaunchSeq(1), LaunchSeq(2)] {
        for state in [Created, Starting, Unattached, Running, Stopping, Removing, Exited(Some(0))] {
            let found = OwnedInstance {
                instance: record.instance(),
                seq,
                state,
                endpoint: None,
                created_at: record.phase_since,
            };
            all.push(Snapshot::new(NOW, Ok(vec![found])).observe(record));
        }
    }
    all
}

#[tokio::test]
async fn no_decision_is_illegal() {
    let (admitted, policy) = (admitted().await, Policy::default());
    let lease = Lease {
        workspace: admitted.workspace,
        owner: LeaseOwner::generate(),
        epoch: 1,
        until: NOW + policy.lease,
    };
    let (mut decided, mut illegal) = (0, std::collections::BTreeSet::new());
    for record in records(&admitted) {
        for seen in sights(&record) {
            let lag = Duration::from_secs(1);
            let action = plan(&record, &seen, &policy, lag, NOW);
            let to = match &action {
                Action::Launch | Action::Start(_) if !record.phase.may_become(Phase::Launching) => {
                    Some(Phase::Launching)
                }
                Action::Settle(outcome) => {
                    decided += 1;
                    let effects = outcome::apply(&mut record.clone(), outcome, &lease, true, NOW);
                    effects.illegal.map(|illegal| illegal.to)
                }
                _ => None,
            };
            if let Some(to) = to {
                let replaced = record.is_being_replaced();
                let (desired, attempt) = (record.desired, record.attempt.as_ref().map(|one| one.state));
                illegal.insert(format!(
                    "{} to {to}: {desired:?}, being replaced {replaced}, {attempt:?}, {seen:?}",
                    record.phase
                ));
            }
        }
    }
    assert!(illegal.is_empty(), "{illegal:#?}");
    assert!(decided > 1000, "{decided} decisions were looked at");
}

/// The provider's word on whether it is up, in a step.
fn fact_of(action: &Action) -> Option<Fact> {
    match action {
        Action::Settle(outcome) => outcome.fact,
        Action::Crashed(sighting) => Some(Fact::Down(sighting.at())),
        _ => None,
    }
}

/// The steps that a start of the control plane takes before a tenant has agreed with it.
#[tokio::test]
async fn what_is_held_is_neither_launched_nor_ended_and_what_is_seen_is_written() {
    let (admitted, policy, lag) = (admitted().await, Policy::default(), Duration::from_secs(1));
    let (mut waits, mut learnt) = (0, 0);
    let suspended = Some(Reason::OrganizationSuspended);
    for record in records(&admitted) {
        for seen in sights(&record) {
            let planned = plan(&record, &seen, &policy, lag, NOW);
            let name = planned.name();
            let step = held(planned.clone(), &record, NOW, &policy, NOW);
            let what = format!("{} {:?} {seen:?}: {name} became {step:?}", record.phase, record.desired);
            assert_eq!(fact_of(&step), fact_of(&planned), "{what}");
            if record.desired == Desired::Deleted {
                assert_eq!(format!("{step:?}"), format!("{planned:?}"), "{what}");
                continue;
            }
            let acts = ["launch", "start", "stop", "remove", "crashed", "purge"];
            assert!(!acts.contains(&step.name()), "{what}");
            if let Action::Settle(outcome) = &step {
                let fails = outcome.phase == Some(Phase::Failed) && record.phase != Phase::Failed;
                assert!(!outcome.give_up && !fails, "{what}");
                assert!(outcome.phase.is_none() || outcome.restarts.is_none(), "{what}");
                learnt += usize::from(outcome.fact.is_some());
            }
            waits += usize::from(name != step.name());
            if record.desired == Desired::Stopped {
                // not for good: what was stopped costs somebody money
                let later = NOW + policy.agreement_patience + Duration::from_micros(1);
                let late = held(planned.clone(), &record, NOW, &policy, later);
                assert_eq!(late.name(), name, "{what}");
                let operators = InstanceRecord { reason: suspended, ..record.clone() };
                assert_eq!(held(planned, &operators, NOW, &policy, NOW).name(), name, "{what}");
            }
        }
    }
    assert!(waits > 100 && learnt > 100, "{waits} steps waited, {learnt} facts were learnt");
}

/// A deadline that has passed in a time that the database has lost has not passed.
#[tokio::test]
async fn deadlines_count_from_the_agreement() {
    let (admitted, policy) = (admitted().await, Policy::default());
    let long_ago = NOW - Duration::from_secs(90_000);
    let record = InstanceRecord { phase_since: long_ago, ..admitted };
    for (hold, since) in [
        (Hold::None, long_ago),
        (Hold::Held(NOW), long_ago),
        (Hold::Released(NOW), NOW),
        (Hold::Released(long_ago - Duration::from_secs(1)), long_ago),
    ] {
        let counted = hold.count_from_agreement(record.clone(), policy.agreement_patience);
        assert_eq!(counted, InstanceRecord { phase_since: since, ..record.clone() }, "{hold:?}");
    }
    // a stop has its time from when it is held no longer, for it was not tried before
    let stopping = InstanceRecord { desired: Desired::Stopped, phase: Phase::Stopping, ..record.clone() };
    let counted = Hold::Held(NOW).count_from_agreement(stopping, policy.agreement_patience);
    assert_eq!(counted.phase_since, NOW + policy.agreement_patience);
    let absent = Snapshot::new(NOW, Ok(Vec::new())).observe(&record);
    let action = plan(&record, &absent, &policy, Duration::ZERO, NOW);
    assert!(matches!(action, Action::Settle(_)), "it is given up: {action:?}");
    let counted = Hold::Released(NOW).count_from_agreement(record, policy.agreement_patience);
    let action = plan(&counted, &absent, &policy, Duration::ZERO, NOW);
    assert!(matches!(action, Action::Launch), "{action:?}");
}

/// One of two machines of a launch was taken away, and the other, which has no disk yet, showed up only then.
#[tokio::test]
async fn what_is_to_run_is_attached_while_it_is_stopping_too() {
    let admitted = admitted().await;
    let record = InstanceRecord {
        phase: Phase::Stopping,
        phase_since: NOW,
        attempt: Some(attempt(&admitted, AttemptState::Confirmed, NOW)),
        ..admitted
    };
    let found = OwnedInstance {
        instance: record.instance(),
        seq: LaunchSeq(1),
        state: InstanceState::Unattached,
        endpoint: None,
        created_at: NOW,
    };
    let seen = Snapshot::new(NOW, Ok(vec![found])).observe(&record);
    let action = plan(&record, &seen, &Policy::default(), Duration::ZERO, NOW);
    assert!(matches!(action, Action::Attach(_)), "{action:?}");
}

/// It was given up after it was to be replaced: the old generation goes, and nothing of it is counted any more.
#[tokio::test]
async fn what_has_failed_while_it_is_replaced_ends() {
    let (admitted, policy) = (admitted().await, Policy::default());
    let before = InstanceRecord {
        phase: Phase::Failed,
        desired: Desired::Stopped,
        wanted_generation: Generation(2),
        attempt: Some(attempt(&admitted, AttemptState::Confirmed, NOW - Duration::from_secs(90_000))),
        phase_since: NOW - Duration::from_secs(60),
        up_since: Some(NOW - Duration::from_secs(600)),
        reason: Some(Reason::BackendUnreachable),
        message: "the provider did not answer in time".to_owned(),
        ..admitted
    };
    let absent = Snapshot::new(NOW, Ok(Vec::new())).observe(&before);
    let Action::Settle(outcome) = plan(&before, &absent, &policy, Duration::ZERO, NOW) else { panic!() };
    let lease = Lease {
        workspace: before.workspace,
        owner: LeaseOwner::generate(),
        epoch: 1,
        until: NOW + policy.lease,
    };
    let mut after = before.clone();
    let effects = outcome::apply(&mut after, &outcome, &lease, true, NOW);
    assert_eq!((after.phase, after.generation), (Phase::Failed, Generation(2)));
    assert_eq!((after.reason, &after.message), (before.reason, &before.message), "why it failed stays");
    assert_eq!(after.phase_since, before.phase_since, "and when");
    assert_eq!((effects.close_segment, after.running_counted), (Some(NOW), false));
}

/// Whatever is to run and gets no answer from its provider comes to an end, and says why.
#[tokio::test]
async fn what_is_to_run_has_a_deadline_in_every_phase() {
    for (first, then) in [
        (&[Op::Stop][..], Op::Start),
        (&[Op::Stop], Op::Restart),
        (&[], Op::Restart),
        (&[Op::Restart], Op::Restart),
    ] {
        let mut world = World::new();
        let workspace = WorkspaceId::generate();
        world.ask(workspace, Op::Create).await;
        world.settle().await;
        for op in first {
            world.ask(workspace, *op).await;
            world.settle().await;
        }
        let was_up = world.record(workspace).await.unwrap().up_since;
        world.ask(workspace, Op::ProviderAway).await;
        world.ask(workspace, then).await;
        let longest = Policy::default().prepare_deadline.as_secs() + 120;
        let mut took = None;
        for second in 0..longest {
            world.tick().await;
            if world.record(workspace).await.unwrap().phase == Phase::Failed {
                took = Some(second);
                break;
            }
        }
        let record = world.record(workspace).await.unwrap();
        let phase = record.phase;
        assert!(took.is_some_and(|took| took > 240), "{first:?} {then:?}: {phase} after {took:?} s");
        assert_eq!(record.reason, Some(Reason::BackendUnreachable), "{first:?} {then:?}");
        // silence is no word of its end: it is billed and counted until the provider says so
        assert_eq!((record.up_since, record.running_counted), (was_up, true), "{first:?} {then:?}");
    }
}

/// What is stopped has its instance, and yet may find no room when it is started again: it says so, and waits for as long as a
/// launch, also where the provider is away for a moment meanwhile.
#[tokio::test]
async fn a_start_without_room_waits_as_a_launch_does() {
    for is_away_meanwhile in [false, true] {
        for room_comes in [false, true] {
            let what = format!("away meanwhile: {is_away_meanwhile}, room comes: {room_comes}");
            let mut world = World::new();
            let workspace = WorkspaceId::generate();
            world.ask(workspace, Op::Create).await;
            world.settle().await;
            world.ask(workspace, Op::Stop).await;
            world.settle().await;
            world.ask(workspace, Op::NoRoom).await;
            world.ask(workspace, Op::Start).await;
            let tick = async |world: &mut World, seconds| {
                for _ in 0..seconds {
                    world.tick().await;
                }
                let record = world.record(workspace).await.unwrap();
                (record.phase, record.reason)
            };
            let waits = (Phase::Launching, Some(Reason::NoCapacity));
            assert_eq!(tick(&mut world, 1).await, waits, "{what}");
            assert_eq!(tick(&mut world, 10 * 60).await, waits, "{what}");
            if is_away_meanwhile {
                world.ask(workspace, Op::ProviderAway).await;
                assert_eq!(tick(&mut world, 3 * 60).await, waits, "{what}");
                world.host.set(Trouble::Away, false);
            }
            assert_eq!(tick(&mut world, 12 * 60).await, waits, "{what}");
            if room_comes {
                world.ask(workspace, Op::ProviderBack).await;
                assert_eq!(tick(&mut world, 2 * 60).await, (Phase::Up, None), "{what}");
                continue;
            }
            assert_eq!(tick(&mut world, 10 * 60).await, (Phase::Failed, Some(Reason::NoCapacity)), "{what}");
            let record = world.record(workspace).await.unwrap();
            assert!(record.message.contains("no room"), "{what}: {}", record.message);
            let events = world.store.events_after(record.organization, 0, 100).await.unwrap();
            let told = events.iter().filter(|event| event.detail.kind == "no_room").count();
            assert_eq!(told, 1, "{what}");
        }
    }
}

/// A start has the deadline of an attempt, and of a launch where it waits for room.
#[tokio::test]
async fn a_start_is_given_up_by_what_it_waits_for() {
    let (admitted, policy) = (admitted().await, Policy::default());
    let (attempts, rooms) = (policy.launch_deadline, policy.prepare_deadline);
    for (reason, deadline, ends_in) in [
        (None, attempts, Reason::LaunchTimeout),
        (Some(Reason::Restarting), attempts, Reason::LaunchTimeout),
        (Some(Reason::BackendUnreachable), attempts, Reason::LaunchTimeout),
        (Some(Reason::NoCapacity), rooms, Reason::NoCapacity),
        (Some(Reason::ProviderQuota), rooms, Reason::ProviderQuota),
    ] {
        let second = Duration::from_secs(1);
        for (age, is_over) in [(deadline.checked_sub(second).unwrap(), false), (deadline + second, true)] {
            let record = InstanceRecord {
                phase: Phase::Launching,
                phase_since: NOW - age,
                attempt: Some(attempt(&admitted, AttemptState::Confirmed, NOW - age)),
                reason,
                ..admitted.clone()
            };
            let found = OwnedInstance {
                instance: record.instance(),
                seq: LaunchSeq(1),
                state: InstanceState::Exited(Some(0)),
                endpoint: None,
                created_at: NOW - age,
            };
            let seen = Snapshot::new(NOW, Ok(vec![found])).observe(&record);
            let action = plan(&record, &seen, &policy, Duration::ZERO, NOW);
            match action {
                Action::Start(_) => assert!(!is_over, "{reason:?} after {age:?}"),
                Action::Settle(outcome) => {
                    assert!(is_over && outcome.give_up, "{reason:?} after {age:?}");
                    assert_eq!(outcome.reason, Some(ends_in), "{reason:?}");
                }
                action => panic!("{reason:?} after {age:?}: {action:?}"),
            }
        }
    }
}

/// A start that comes while the provider is still stopping it counts its patience from then.
#[tokio::test]
async fn a_start_that_waits_for_a_stop_comes_up_or_says_why() {
    for (slow, expected) in [(600, Phase::Up), (3_600, Phase::Failed)] {
        let mut world = World::new();
        let workspace = WorkspaceId::generate();
        world.ask(workspace, Op::Create).await;
        world.settle().await;
        // stopping is given up only after its own deadline
        world.executor.policy.stop_deadline = Duration::from_secs(7_200);
        world.host.set_slow(Some(Duration::from_secs(slow)));
        world.ask(workspace, Op::Stop).await;
        for _ in 0..60 {
            world.tick().await;
        }
        world.ask(workspace, Op::Start).await;
        for second in 0..2_400 {
            world.tick().await;
            if second % 15 == 0 {
                world.sweep().await;
            }
        }
        let record = world.record(workspace).await.unwrap();
        assert_eq!(record.phase, expected, "{slow}: {record:?}");
        if expected == Phase::Failed {
            assert_eq!(record.reason, Some(Reason::StopTimeout));
        }
    }
}

/// A workspace that can't be purged is confirmed absent all the same: nothing of it is billed meanwhile.
#[tokio::test]
async fn an_absence_counts_before_the_rest_is_gone() {
    let mut world = World::new();
    let workspace = WorkspaceId::generate();
    world.ask(workspace, Op::Create).await;
    world.settle().await;
    world.host.set(Trouble::Unpurgeable, true);
    world.ask(workspace, Op::Delete).await;
    for _ in 0..30 {
        world.tick().await;
    }
    let record = world.record(workspace).await.unwrap();
    assert!(record.phase == Phase::Stopping && record.up_since.is_none(), "{record:?}");
    let segments = world.store.segments(workspace).await.unwrap();
    assert!(segments.iter().all(|segment| segment.until.is_some()), "{segments:?}");
    world.settle().await;
    assert_eq!(world.record(workspace).await.unwrap().phase, Phase::Gone);
}

/// The time in which a runtime that has ended was not up is not billed.
#[tokio::test]
async fn a_crash_ends_a_segment_when_it_was_seen() {
    let mut world = World::new();
    let workspace = WorkspaceId::generate();
    world.ask(workspace, Op::Create).await;
    world.settle().await;
    world.ask(workspace, Op::Crash).await;
    world.store.wake(&[workspace], world.clock.now()).await.unwrap();
    world.tick().await;
    let seen = world.clock.now();
    world.settle().await;
    let segments = world.store.segments(workspace).await.unwrap();
    assert_eq!(segments.len(), 2, "{segments:?}");
    assert_eq!(segments[0].until, Some(seen));
    assert!(segments[1].from > seen && segments[1].until.is_none(), "{segments:?}");
}

/// What was on its way for long before it was asked for again has all of its time anew.
#[tokio::test]
async fn a_wish_to_run_is_not_given_up_for_the_time_before_it() {
    for then in [&[Op::Stop, Op::Start][..], &[Op::Restart]] {
        let mut world = World::new();
        let workspace = WorkspaceId::generate();
        world.ask(workspace, Op::Create).await;
        world.ask(workspace, Op::ProviderAway).await;
        // longer than a boot may take, and nearly as long as anything may
        for _ in 0..29 * 60 {
            world.tick().await;
        }
        for op in then {
            world.ask(workspace, *op).await;
        }
        for _ in 0..5 * 60 {
            world.tick().await;
        }
        let record = world.record(workspace).await.unwrap();
        assert_ne!(record.phase, Phase::Failed, "{then:?}: {}", record.message);
        world.settle().await;
        assert_eq!(world.record(workspace).await.unwrap().phase, Phase::Up, "{then:?}");
    }
}

/// Of a workspace that is not to run as well: one of the two would stay at the provider for good.
#[tokio::test]
async fn two_of_one_launch_are_taken_away_whatever_is_wanted() {
    let admitted = admitted().await;
    for (desired, phase) in [
        (Desired::Running, Phase::Up),
        (Desired::Stopped, Phase::Stopped),
        (Desired::Stopped, Phase::Failed),
        (Desired::Deleted, Phase::Stopping),
    ] {
        let attempt = Some(attempt(&admitted, AttemptState::Confirmed, NOW));
        let record = InstanceRecord { desired, phase, attempt, ..admitted.clone() };
        let found = |created| OwnedInstance {
            instance: record.instance(),
            seq: LaunchSeq(1),
            state: InstanceState::Exited(Some(0)),
            endpoint: None,
            created_at: created,
        };
        let seen = Snapshot::new(NOW, Ok(vec![found(NOW), found(NOW)])).observe(&record);
        assert!(matches!(seen, Observation::Doubled(_)), "{seen:?}");
        let action = plan(&record, &seen, &Policy::default(), Duration::ZERO, NOW);
        assert!(matches!(action, Action::Remove(_)), "{desired:?} {phase}: {action:?}");
    }
}

/// The time in which nothing was done about it counts against nothing, a stop's deadline neither.
#[tokio::test]
async fn what_had_to_wait_for_an_operator_is_not_overdue() {
    let (admitted, policy) = (admitted().await, Policy::default());
    let long_ago = NOW - policy.stop_deadline * 2;
    let record = InstanceRecord {
        desired: Desired::Stopped,
        phase: Phase::Stopping,
        phase_since: long_ago,
        attempt: Some(attempt(&admitted, AttemptState::Confirmed, long_ago)),
        ..admitted
    };
    let found = OwnedInstance {
        instance: record.instance(),
        seq: LaunchSeq(1),
        state: InstanceState::Running,
        endpoint: None,
        created_at: long_ago,
    };
    let seen = Snapshot::new(NOW, Ok(vec![found])).observe(&record);
    let planned = |record: &InstanceRecord| plan(record, &seen, &policy, Duration::ZERO, NOW);
    assert!(matches!(planned(&record), Action::Settle(outcome) if outcome.phase == Some(Phase::Failed)));
    let mut left_alone = InstanceRecord { reason: Some(Reason::UnknownLaunch), ..record };
    let Action::Settle(outcome) = planned(&left_alone) else { panic!() };
    let owner = LeaseOwner::generate();
    let lease = Lease { workspace: left_alone.workspace, owner, epoch: 1, until: NOW + policy.lease };
    outcome::apply(&mut left_alone, &outcome, &lease, true, NOW);
    assert_eq!((left_alone.phase, left_alone.reason), (Phase::Stopping, None));
    assert_eq!((left_alone.phase_since, left_alone.due_at), (NOW, Some(NOW)));
    assert!(matches!(planned(&left_alone), Action::Stop(_)));
}

/// What is down is billed no longer, whatever else of its workspace is in the way.
#[tokio::test]
async fn what_is_gone_beside_another_launch_is_down_in_every_phase() {
    let admitted = admitted().await;
    let lag = Duration::from_secs(5);
    for (phase, desired) in [
        (Phase::Up, Desired::Running),
        (Phase::Booting, Desired::Running),
        (Phase::Stopping, Desired::Running),
        (Phase::Stopping, Desired::Stopped),
        (Phase::Stopping, Desired::Deleted),
        (Phase::Failed, Desired::Stopped),
    ] {
        // of an earlier launch, and of one that is not known
        let others = [LaunchSeq(1), LaunchSeq(3)];
        for (other, (call, expected)) in others
            .into_iter()
            .flat_map(|other| [(lag + Duration::from_micros(1), true), (lag, false)].map(|it| (other, it)))
        {
            let live =
                Attempt { seq: LaunchSeq(2), ..attempt(&admitted, AttemptState::Confirmed, NOW - call) };
            let since = NOW - Duration::from_secs(60);
            let record = InstanceRecord {
                phase,
                desired,
                phase_since: since,
                up_since: Some(since),
                attempt: Some(live),
                ..admitted.clone()
            };
            let shown = OwnedInstance {
                instance: record.instance(),
                seq: other,
                state: InstanceState::Running,
                endpoint: None,
                created_at: since,
            };
            let seen = Snapshot::new(NOW, Ok(vec![shown])).observe(&record);
            let is_as_meant = match seen {
                Observation::Earlier(_) => other == LaunchSeq(1),
                Observation::Later { own: None, .. } => other == LaunchSeq(3),
                _ => false,
            };
            assert!(is_as_meant, "{seen:?}");
            let fact = match plan(&record, &seen, &Policy::default(), lag, NOW) {
                Action::Settle(outcome) => outcome.fact,
                _ => None,
            };
            assert_eq!(fact, expected.then_some(Fact::Down(NOW)), "{phase}, {desired:?}, {other}, {call:?}");
        }
    }
}
