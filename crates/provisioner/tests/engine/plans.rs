//! What is planned, case by case, where a deadline or what is wanted makes the difference.

use std::time::Duration;

use molecule_domain::Timestamp;
use molecule_domain::id::{AttemptNumber, Generation, LaunchSeq, WorkspaceId};
use molecule_domain::lifecycle::{Desired, Phase};
use molecule_provisioner::model::{Attempt, AttemptState, InstanceRecord, InstanceRef};
use molecule_provisioner::observation::{InstanceState, OwnedInstance, Snapshot};
use molecule_provisioner::policy::Policy;
use molecule_provisioner::reconciler::plan::{Action, plan};
use molecule_provisioner::samples::provision;
use molecule_provisioner::store::Store;
use molecule_provisioner::store::memory::MemoryStore;

const NOW: Timestamp = Timestamp::from_micros(100_000_000_000);
/// Longer than every deadline.
const LONG: Duration = Duration::from_secs(90_000);
const SHORT: Duration = Duration::from_secs(1);

/// What the provider shows: the number of each launch of the record's own generation, all running.
type Shown = &'static [i64];
const DOUBLED: Shown = &[5, 5];
const EARLIER: Shown = &[4];
const PRESENT: Shown = &[5];

/// In a phase for a while, by launch 5 of generation 1.
async fn record(phase: Phase, desired: Desired, age: Duration) -> InstanceRecord {
    let store = MemoryStore::default();
    let admitted = store.provision(&provision(WorkspaceId::generate()), NOW - LONG).await.unwrap();
    let attempt = Attempt {
        number: AttemptNumber(1),
        seq: LaunchSeq(5),
        token: String::new(),
        placement: String::new(),
        state: AttemptState::Confirmed,
        call_until: NOW - age,
        unsure_until: NOW - age,
        created_at: NOW - age,
    };
    InstanceRecord { phase, desired, phase_since: NOW - age, attempt: Some(attempt), ..admitted }
}

fn planned(record: &InstanceRecord, shown: Shown) -> String {
    let found = shown.iter().map(|seq| OwnedInstance {
        instance: InstanceRef { generation: Generation(1), ..record.instance() },
        seq: LaunchSeq(*seq),
        state: InstanceState::Running,
        endpoint: None,
        created_at: NOW,
    });
    let seen = Snapshot::new(NOW, Ok(found.collect())).observe(record);
    match plan(record, &seen, &Policy::default(), Duration::ZERO, NOW) {
        Action::Settle(outcome) if outcome.give_up => format!("give up, {}", outcome.reason.unwrap()),
        Action::Settle(outcome) => match (outcome.phase, outcome.reason) {
            (Some(phase), _) => phase.to_string(),
            (None, Some(reason)) => format!("tell, {reason}"),
            (None, None) => "settle".to_owned(),
        },
        other => other.name().to_owned(),
    }
}

#[tokio::test]
async fn deadlines_are_of_what_is_to_run() {
    use Desired::{Running, Stopped};
    use Phase::{Launching, Stopping, Up};
    for (what, phase, desired, age, shown, expected) in [
        ("two that do not go", Stopping, Running, LONG, DOUBLED, "give up, STOP_TIMEOUT"),
        ("two that have time to go", Stopping, Running, SHORT, DOUBLED, "remove"),
        ("two of what is UP", Up, Running, LONG, DOUBLED, "remove"),
        ("two that need not run", Stopping, Stopped, LONG, DOUBLED, "remove"),
        ("an earlier one that stays", Launching, Running, LONG, EARLIER, "give up, NAME_TAKEN"),
        ("an earlier one that has time to go", Launching, Running, SHORT, EARLIER, "tell, NAME_TAKEN"),
        ("an earlier one of what need not run", Stopping, Stopped, LONG, EARLIER, "tell, NAME_TAKEN"),
        ("an earlier one of what is UP", Up, Running, LONG, EARLIER, "tell, NAME_TAKEN"),
    ] {
        let record = record(phase, desired, age).await;
        assert_eq!(planned(&record, shown), expected, "{what}");
    }
}

#[tokio::test]
async fn a_replacement_has_its_time_where_it_is_to_run() {
    use Desired::{Deleted, Running, Stopped};
    use Phase::{Stopping, Up};
    for (what, phase, desired, age, expected) in [
        ("the one before does not end", Stopping, Running, LONG, "give up, STOP_TIMEOUT"),
        ("it has just been told to", Stopping, Running, SHORT, "stop"),
        ("it is to run, and is UP for long", Up, Running, LONG, "stop"),
        ("nothing waits for its end", Stopping, Stopped, LONG, "remove"),
        ("it goes with all it holds", Stopping, Deleted, LONG, "remove"),
    ] {
        let record = record(phase, desired, age).await;
        let record = InstanceRecord { wanted_generation: Generation(2), ..record };
        assert_eq!(planned(&record, PRESENT), expected, "{what}");
    }
}

/// Else all that waits for one provider would ask it at one moment.
#[tokio::test]
async fn pauses_are_spread_by_workspace() {
    let mut seeds = std::collections::HashSet::new();
    for _ in 0..20 {
        seeds.insert(record(Phase::Up, Desired::Running, SHORT).await.seed());
    }
    assert_eq!(seeds.len(), 20);
}
