//! What is planned, in all its parts, and from which moment on.

use std::time::Duration;

use molecule_domain::Timestamp;
use molecule_domain::id::{AttemptNumber, Generation, LaunchSeq, WorkspaceId};
use molecule_domain::lifecycle::{Desired, Phase, Reason};
use molecule_provisioner::model::{Attempt, AttemptState, Endpoint, InstanceRecord};
use molecule_provisioner::observation::{InstanceState, OwnedInstance, Snapshot};
use molecule_provisioner::outcome::{Fact, Outcome};
use molecule_provisioner::policy::Policy;
use molecule_provisioner::reconciler::plan::{Action, held, plan};
use molecule_provisioner::samples::provision;
use molecule_provisioner::store::Store;
use molecule_provisioner::store::memory::MemoryStore;

const NOW: Timestamp = Timestamp::from_micros(100_000_000_000);
/// When the provider was asked.
const LOOKED: Timestamp = Timestamp::from_micros(99_999_000_000);
const MILLISECOND: Duration = Duration::from_millis(1);

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// UP for a while, and wanted so, by launch 5 of generation 1, which is confirmed.
async fn up(age: Duration) -> InstanceRecord {
    let store = MemoryStore::default();
    let admitted = store.provision(&provision(WorkspaceId::generate()), NOW - seconds(90_000)).await.unwrap();
    let since = NOW - age;
    let attempt = Attempt {
        number: AttemptNumber(1),
        seq: LaunchSeq(5),
        token: String::new(),
        placement: String::new(),
        state: AttemptState::Confirmed,
        call_until: since,
        unsure_until: since,
        created_at: since,
    };
    let up_since = Some(since);
    InstanceRecord { phase: Phase::Up, phase_since: since, up_since, attempt: Some(attempt), ..admitted }
}

/// In another phase.
async fn is(phase: Phase, age: Duration) -> InstanceRecord {
    InstanceRecord { phase, up_since: None, ..up(age).await }
}

fn to_stop(record: InstanceRecord) -> InstanceRecord {
    InstanceRecord { desired: Desired::Stopped, ..record }
}

fn to_be_replaced(record: InstanceRecord) -> InstanceRecord {
    InstanceRecord { wanted_generation: Generation(2), ..record }
}

fn unconfirmed(record: InstanceRecord) -> InstanceRecord {
    let attempt = record.attempt.map(|attempt| Attempt { state: AttemptState::Intended, ..attempt });
    InstanceRecord { attempt, ..record }
}

fn found(record: &InstanceRecord, seq: i64, state: InstanceState) -> OwnedInstance {
    let endpoint = Some(Endpoint { host: "h".to_owned(), port: 80 });
    OwnedInstance { instance: record.instance(), seq: LaunchSeq(seq), state, endpoint, created_at: LOOKED }
}

/// What is planned where the provider shows these launches in these states.
fn planned(record: &InstanceRecord, shown: &[(i64, InstanceState)]) -> Action {
    let shown = shown.iter().map(|(seq, state)| found(record, *seq, *state)).collect();
    let seen = Snapshot::new(LOOKED, Ok(shown)).observe(record);
    plan(record, &seen, &Policy::default(), Duration::ZERO, NOW)
}

/// What is planned where the provider shows its launch in a state, in words.
fn shown(record: &InstanceRecord, state: InstanceState) -> String {
    words(record, &planned(record, &[(5, state)]))
}

/// A moment, by how far it is from now.
fn from_now(at: Timestamp) -> String {
    format!("{:?}", at.since(NOW))
}

fn words(record: &InstanceRecord, action: &Action) -> String {
    match action {
        Action::Settle(outcome) => of_outcome(record, outcome),
        Action::Wait(at) | Action::AwaitEnd(at) => format!("{} {}", action.name(), from_now(*at)),
        action => action.name().to_owned(),
    }
}

/// All parts of an outcome that say something.
fn of_outcome(record: &InstanceRecord, outcome: &Outcome) -> String {
    let fact = outcome.fact.map(|fact| match fact {
        Fact::Up(LOOKED) => "up as looked".to_owned(),
        Fact::Down(LOOKED) => "down as looked".to_owned(),
        fact => format!("{fact:?}"),
    });
    let parts = [
        (outcome.planned_for != record.wanted()).then(|| "for another wish".to_owned()),
        outcome.phase.map(|phase| phase.to_string()),
        outcome.reason.map(|reason| reason.to_string()),
        outcome.message.as_ref().map(|message| format!("{message:?}")),
        outcome.give_up.then(|| "gives up".to_owned()),
        outcome.adopt_wanted.then(|| "adopts".to_owned()),
        outcome.attempt.map(|state| format!("{state:?}")),
        fact,
        outcome.endpoint.as_ref().map(|endpoint| format!("at {}:{}", endpoint.host, endpoint.port)),
        outcome.restarts.map(|restarts| format!("restarts {restarts}")),
        (outcome.failures > 0).then(|| format!("failures {}", outcome.failures)),
        outcome.due_at.map(|at| format!("due {}", from_now(at))),
        outcome.event.as_ref().map(|event| format!("event {}", event.kind)),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

#[tokio::test]
async fn what_runs_is_up() {
    use InstanceState::Running;
    let expected = r#"UP, "up", Confirmed, up as looked, at h:80"#;
    assert_eq!(shown(&up(seconds(60)).await, Running), expected);
    let booting = unconfirmed(is(Phase::Booting, seconds(60)).await);
    assert_eq!(shown(&booting, Running), format!("{expected}, event up"));
}

#[tokio::test]
async fn what_comes_up_is_booting_and_has_its_time() {
    use InstanceState::{Removing, Starting, Stopping, Unattached};
    use Phase::{Booting, Launching};
    let boots = |due: &str| format!(r#"BOOTING, "booting", Confirmed, due {due}"#);
    for (what, record, state, expected) in [
        ("started", is(Launching, seconds(9)).await, Starting, boots("1s")),
        (
            "stopping, as the launch before it was told",
            is(Launching, seconds(9)).await,
            Stopping,
            boots("1s"),
        ),
        ("without its disk, and not said to boot", is(Launching, seconds(9)).await, Unattached, boots("0ns")),
        ("without its disk", is(Booting, seconds(9)).await, Unattached, "attach".to_owned()),
        ("not confirmed", unconfirmed(is(Booting, seconds(9)).await), Unattached, boots("0ns")),
        ("on its way", is(Booting, seconds(9)).await, Starting, boots("1s")),
        ("has all its time", is(Booting, seconds(600)).await, Starting, boots("1s")),
        ("goes down first", is(Booting, seconds(9)).await, Removing, "await_end 15s".to_owned()),
    ] {
        assert_eq!(shown(&record, state), expected, "{what}");
    }
    let late = is(Booting, seconds(600) + MILLISECOND).await;
    let message = "the instance did not come up in time";
    let expected = format!(r#"FAILED, BOOT_TIMEOUT, "{message}", gives up, due 0ns, event failed"#);
    assert_eq!(shown(&late, Starting), expected);
}

/// Only what is there waits for room as long as a launch is prepared: a launch that is not confirmed has its own time.
#[tokio::test]
async fn a_launch_that_found_no_room_is_given_up_in_its_own_time() {
    let waits = async |age| {
        let record = unconfirmed(is(Phase::Launching, age).await);
        InstanceRecord { reason: Some(Reason::NoCapacity), message: "full".to_owned(), ..record }
    };
    let record = waits(seconds(300)).await;
    assert_eq!(words(&record, &planned(&record, &[])), "launch");
    let record = waits(seconds(300) + MILLISECOND).await;
    let message = "it could not be launched in time; last: full";
    let expected = format!(r#"FAILED, NO_CAPACITY, "{message}", gives up, due 0ns, event failed"#);
    assert_eq!(words(&record, &planned(&record, &[])), expected);
}

#[tokio::test]
async fn what_was_made_is_started_once_its_launch_is_confirmed() {
    let record = is(Phase::Launching, seconds(9)).await;
    assert_eq!(shown(&record, InstanceState::Created), "start");
    assert_eq!(shown(&unconfirmed(record), InstanceState::Created), "launch");
}

#[tokio::test]
async fn what_stops_is_looked_at_and_has_its_time() {
    use InstanceState::{Exited, Removing, Running, Stopping};
    let stopping = async |age| to_stop(is(Phase::Stopping, age).await);
    assert_eq!(shown(&to_stop(up(seconds(9)).await), Stopping), "stop", "watchers were not told yet");
    assert_eq!(shown(&stopping(seconds(9)).await, Stopping), "await_end 15s");
    assert_eq!(
        shown(&stopping(seconds(170)).await, Stopping),
        "await_end 10.001s",
        "right after the deadline"
    );
    assert_eq!(shown(&stopping(seconds(180)).await, Running), "stop");
    let expected = r#"FAILED, STOP_TIMEOUT, "it did not stop in time; stopping goes on", gives up, due 0ns, event failed"#;
    assert_eq!(shown(&stopping(seconds(180) + MILLISECOND).await, Running), expected);
    // nothing ends the wait for what is deleted; at the deadline itself there is no earlier moment left
    let deleted =
        InstanceRecord { desired: Desired::Deleted, ..is(Phase::Stopping, seconds(180) + MILLISECOND).await };
    assert_eq!(shown(&deleted, Removing), "await_end 15s");
    let stopped = r#"STOPPED, "stopped", Confirmed, down as looked"#;
    assert_eq!(shown(&stopping(seconds(9)).await, Exited(None)), format!("{stopped}, event stopped"));
    assert_eq!(shown(&to_stop(is(Phase::Stopped, seconds(9)).await), Exited(None)), stopped, "it was told");
    assert_eq!(
        shown(&to_stop(is(Phase::Failed, seconds(9)).await), Exited(None)),
        "FAILED, Confirmed, down as looked"
    );
}

#[tokio::test]
async fn what_is_replaced_is_stopped_for_half_of_the_time_and_removed_then() {
    use InstanceState::{Running, Stopping};
    let stopping = async |age| to_be_replaced(is(Phase::Stopping, age).await);
    assert_eq!(shown(&stopping(seconds(90)).await, Running), "stop");
    assert_eq!(shown(&stopping(seconds(80)).await, Stopping), "await_end 10.001s");
    assert_eq!(shown(&stopping(seconds(90) + MILLISECOND).await, Running), "remove");
    assert_eq!(shown(&to_be_replaced(up(seconds(9)).await), Stopping), "stop", "watchers were not told yet");
}

#[tokio::test]
async fn what_is_gone_is_launched_again_until_the_budget_is_spent() {
    let gone = async |restarts| {
        let record = InstanceRecord { restarts, ..up(seconds(60)).await };
        let words = words(&record, &planned(&record, &[]));
        let pause = from_now(NOW + Policy::default().backoff(restarts + 1, record.seed()));
        (words, pause)
    };
    for restarts in [0, 4] {
        let (words, pause) = gone(restarts).await;
        let expected = format!(
            r#"LAUNCHING, RESTARTING, "its instance is gone; launching another", Resolved, down as looked, restarts {}, due {pause}, event vanished"#,
            restarts + 1
        );
        assert_eq!(words, expected);
    }
    for restarts in [5, 6] {
        let expected = format!(
            r#"FAILED, CRASH_LOOP, "its instance was taken away again and again", gives up, Resolved, down as looked, restarts {}, due 0ns, event failed"#,
            restarts + 1
        );
        assert_eq!(gone(restarts).await.0, expected);
    }
}

#[tokio::test]
async fn an_absence_proves_nothing_before_the_launch_is_over() {
    let since = |age| async move { to_stop(is(Phase::Stopping, age).await) };
    let record = since(Duration::ZERO).await;
    assert_eq!(words(&record, &planned(&record, &[])), "wait 1ms", "the call may have ended now");
    let late = Timestamp::from_micros(NOW.micros() + 500_000_000);
    let attempt = record.attempt.clone().map(|attempt| Attempt { call_until: late, ..attempt });
    let record = InstanceRecord { attempt, ..record };
    assert_eq!(words(&record, &planned(&record, &[])), "wait 1s");
    let record = since(seconds(1)).await;
    assert_eq!(words(&record, &planned(&record, &[])), "wait 0ns", "it ended as the provider was asked");
    let record = since(seconds(1) + MILLISECOND).await;
    assert_eq!(
        words(&record, &planned(&record, &[])),
        r#"STOPPED, "stopped", Resolved, down as looked, event stopped"#
    );
}

#[tokio::test]
async fn what_is_in_the_way_is_told_and_waited_for() {
    let earlier = [(4, InstanceState::Running)];
    let words_of = |record: &InstanceRecord, shown: &[(i64, InstanceState)]| {
        let action = planned(record, shown);
        let Action::Settle(outcome) = &action else { return words(record, &action) };
        words(record, &Action::Settle(Box::new(Outcome { message: None, ..*outcome.clone() })))
    };
    let record = is(Phase::Launching, seconds(900)).await;
    assert_eq!(words_of(&record, &earlier), "NAME_TAKEN, due 5s");
    let record = is(Phase::Launching, seconds(900) + MILLISECOND).await;
    assert_eq!(words_of(&record, &earlier), "FAILED, NAME_TAKEN, gives up, due 0ns, event failed");
    assert_eq!(words_of(&up(seconds(60)).await, &earlier), "NAME_TAKEN, down as looked, due 5s");
    assert_eq!(
        words_of(&up(seconds(60)).await, &[(6, InstanceState::Running)]),
        "UNKNOWN_LAUNCH, down as looked, due 30s"
    );
    let own_too = [(5, InstanceState::Running), (6, InstanceState::Running)];
    assert_eq!(words_of(&up(seconds(60)).await, &own_too), "UNKNOWN_LAUNCH, due 30s");
    // said once, and told to nobody again
    let Action::Settle(outcome) = planned(&up(seconds(60)).await, &own_too) else { panic!("it is told") };
    let told = InstanceRecord { message: outcome.message.unwrap(), ..up(seconds(60)).await };
    assert_eq!(words_of(&told, &own_too), "wait 30s");
}

#[tokio::test]
async fn what_is_held_is_stopped_after_a_while_and_waits_until_the_next_sweep() {
    let policy = Policy::default();
    let hold = |record: &InstanceRecord, action: Action, since: Duration| {
        words(record, &held(action, record, NOW - since, &policy, NOW))
    };
    let stopping = to_stop(up(seconds(60)).await);
    let stop = || planned(&stopping, &[(5, InstanceState::Running)]);
    assert_eq!(hold(&stopping, stop(), policy.agreement_patience), "wait 15s");
    assert_eq!(hold(&stopping, stop(), policy.agreement_patience + MILLISECOND), "stop");
    // how often it ended by itself is kept, and what failed
    let record = InstanceRecord { restarts: 3, failures: 2, ..up(seconds(60)).await };
    let record = InstanceRecord { intent: molecule_domain::id::IntentNumber(7), ..record };
    let facts = "down as looked, restarts 3, failures 2, due 15s";
    assert_eq!(
        hold(&record, planned(&record, &[(5, InstanceState::Exited(Some(1)))]), Duration::ZERO),
        facts
    );
    assert_eq!(hold(&record, planned(&record, &[]), Duration::ZERO), facts);
    let reason = Some(Reason::OrganizationSuspended);
    let suspended = InstanceRecord { reason, ..stopping.clone() };
    assert_eq!(hold(&suspended, stop(), Duration::ZERO), "stop", "it need not wait");
}
