//! What any store must do. Every implementation runs this suite against its real database.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use molecule_domain::error::ErrorReason;
use molecule_domain::id::{
    Generation, IntentNumber, LaunchSeq, LeaseOwner, OrganizationId, Revision, WorkspaceId,
};
use molecule_domain::launch::{LaunchSpec, Mount};
use molecule_domain::lifecycle::{Desired, Phase, Reason};
use molecule_domain::limits::{Amounts, Limits, Permits, Standing};
use molecule_domain::tier::{Resources, Tier};
use molecule_domain::{Error, Timestamp};

use super::{Alarm, Store, StoreError};
use crate::admission::{Account, Change, ChangeRequest, ProvisionRequest};
use crate::model::{AttemptState, Claimed, Endpoint, InstanceRecord};
use crate::outcome::{Fact, Outcome};

const ORG: OrganizationId = OrganizationId::SELF_HOSTED;
const OTHER: OrganizationId = OrganizationId::from_uuid(uuid::Uuid::from_u128(7));
const BACKEND: &str = "memory";
const LEASE: Duration = Duration::from_secs(60);

/// Runs every case on a store of its own; panics at the first that fails.
pub async fn run<F>(make: impl Fn() -> F)
where
    F: Future<Output = Arc<dyn Store>>,
{
    a_replayed_provision_is_one_record(fresh(&make).await).await;
    a_replayed_change_changes_nothing(fresh(&make).await).await;
    a_record_comes_back_as_it_went_in(fresh(&make).await).await;
    limits_hold_under_racers(fresh(&make).await).await;
    a_refused_admission_writes_nothing(fresh(&make).await).await;
    what_is_counted_follows_the_life(fresh(&make).await).await;
    one_holder_at_a_time(fresh(&make).await).await;
    a_lost_lease_writes_nothing(fresh(&make).await).await;
    a_stale_plan_writes_only_facts(fresh(&make).await).await;
    a_wake_during_a_lease_is_not_lost(fresh(&make).await).await;
    a_launch_that_was_overtaken_is_not_begun(fresh(&make).await).await;
    of_an_illegal_decision_the_facts_are_written(fresh(&make).await).await;
    launch_numbers_rise_and_attempts_are_reused(fresh(&make).await).await;
    an_alarm_stands_until_it_is_ended(fresh(&make).await).await;
    segments_open_and_close_with_facts(fresh(&make).await).await;
    what_is_gone_is_dropped_and_its_segments_stay(fresh(&make).await).await;
    revisions_rise_with_what_is_visible(fresh(&make).await).await;
    events_are_told_in_order_and_pruned(fresh(&make).await).await;
    organizations_are_apart(fresh(&make).await).await;
    a_generation_that_is_ahead_is_accepted(fresh(&make).await).await;
    commits_wake(fresh(&make).await).await;
    launches_within_the_hour_are_counted(fresh(&make).await).await;
    a_plan_is_kept(fresh(&make).await).await;
    backends_are_apart(fresh(&make).await).await;
    one_process_has_a_role(fresh(&make).await).await;
}

/// A store that knows the organisations.
async fn fresh<F>(make: impl Fn() -> F) -> Arc<dyn Store>
where
    F: Future<Output = Arc<dyn Store>>,
{
    let store = make().await;
    for organization in [ORG, OTHER] {
        store.set_account(organization, Account::default()).await.expect("knows the organisation");
    }
    store
}

/// A launch of some kind.
pub fn spec() -> LaunchSpec {
    LaunchSpec {
        runtime: "demo".to_owned(),
        image: "demo:1".to_owned(),
        command: Some(vec!["/agent".to_owned()]),
        agent_port: 8000,
        tier: Tier::T2,
        resources: Resources { memory_mib: Some(512), cpu_shares: Some(1024) },
        disk_gib: 10,
        writable_paths: vec!["/tmp".to_owned()],
        rootless: false,
        volumes: vec![],
        mount: Mount::None,
        agents_url: "http://10.0.0.1:7071".to_owned(),
        agents_ca: None,
        reset_session: false,
    }
}

/// A request for a first instance.
pub fn provision(workspace: WorkspaceId) -> ProvisionRequest {
    ProvisionRequest {
        organization: ORG,
        workspace,
        intent: IntentNumber(0),
        generation: Generation(1),
        run: true,
        backend: BACKEND.to_owned(),
        spec: spec(),
        sealed_token: b"sealed".to_vec(),
        trace: "of the request".to_owned(),
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_micros(1_700_000_000_000_000 + second * 1_000_000)
}

fn ask(record: &InstanceRecord, change: Change) -> ChangeRequest {
    ChangeRequest {
        organization: record.organization,
        workspace: record.workspace,
        intent: record.intent.next(),
        change,
        trace: "of the change".to_owned(),
    }
}

async fn created(store: &dyn Store) -> InstanceRecord {
    store.provision(&provision(WorkspaceId::generate()), at(0)).await.expect("admitted")
}

async fn claim(store: &dyn Store, now: Timestamp) -> Vec<Claimed> {
    store.claim(BACKEND, LeaseOwner::generate(), now, LEASE, 100).await.expect("claims")
}

async fn claim_one(store: &dyn Store, now: Timestamp) -> Claimed {
    let mut claimed = claim(store, now).await;
    assert_eq!(claimed.len(), 1);
    claimed.remove(0)
}

fn outcome(record: &InstanceRecord) -> Outcome {
    Outcome { planned_for: record.intent, ..Outcome::default() }
}

async fn commit(store: &dyn Store, claimed: &Claimed, now: Timestamp, outcome: Outcome) -> InstanceRecord {
    store.commit(&claimed.lease, now, &outcome, true).await.expect("commits")
}

fn reason(result: Result<InstanceRecord, StoreError>) -> ErrorReason {
    Error::from(result.expect_err("is refused")).reason
}

/// Brings a new record up.
async fn up(store: &dyn Store) -> InstanceRecord {
    let record = created(store).await;
    let claimed = claim_one(store, at(1)).await;
    store.begin_launch(&claimed.lease, record.intent, "", at(1), at(31)).await.expect("begins");
    let outcome = Outcome {
        phase: Some(Phase::Up),
        attempt: Some(AttemptState::Confirmed),
        call_ended: Some(at(2)),
        fact: Some(Fact::Up(at(2))),
        endpoint: Some(Endpoint { host: "10.0.0.2".to_owned(), port: 8000 }),
        message: Some("up".to_owned()),
        ..outcome(&record)
    };
    commit(store, &claimed, at(2), outcome).await
}

async fn a_replayed_provision_is_one_record(store: Arc<dyn Store>) {
    let request = provision(WorkspaceId::generate());
    let first = store.provision(&request, at(0)).await.unwrap();
    let second = store.provision(&request, at(5)).await.unwrap();
    assert_eq!(first, second);
    assert_eq!(store.account(ORG, at(0)).await.unwrap().used.workspaces, 1);
    assert_eq!(store.events_after(ORG, 0, 10).await.unwrap().len(), 1);
}

async fn a_replayed_change_changes_nothing(store: Arc<dyn Store>) {
    let record = created(&*store).await;
    let stop = ask(&record, Change::Stop(None));
    let first = store.change(&stop, at(1)).await.unwrap();
    assert_eq!((first.desired, first.intent), (Desired::Stopped, IntentNumber(1)));
    assert_eq!(store.change(&stop, at(9)).await.unwrap(), first);
    let unknown = ChangeRequest { workspace: WorkspaceId::generate(), ..stop };
    assert_eq!(reason(store.change(&unknown, at(9)).await), ErrorReason::WorkspaceNotFound);
}

async fn a_record_comes_back_as_it_went_in(store: Arc<dyn Store>) {
    let record = up(&*store).await;
    assert_eq!(record.phase, Phase::Up);
    assert!(record.sealed_token.is_some(), "what is lost on its way up is launched again with its token");
    assert_eq!(record.endpoint.as_ref().map(|e| e.port), Some(8000));
    assert_eq!(store.get(ORG, record.workspace).await.unwrap(), Some(record.clone()));
    assert_eq!(store.changed_after(ORG, Revision(0), 10).await.unwrap(), vec![record]);
}

async fn limits_hold_under_racers(store: Arc<dyn Store>) {
    let limits = Limits { workspaces: Some(7), ..Limits::default() };
    store.set_account(ORG, Account { limits, ..Account::default() }).await.unwrap();
    let racers = (0..40).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.provision(&provision(WorkspaceId::generate()), at(0)).await })
    });
    let mut admitted = 0;
    for racer in racers.collect::<Vec<_>>() {
        match racer.await.unwrap() {
            Ok(_) => admitted += 1,
            Err(StoreError::Refused(error)) => assert_eq!(error.reason, ErrorReason::QuotaExceeded),
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(admitted, 7);
    assert_eq!(store.account(ORG, at(0)).await.unwrap().used.workspaces, 7);
}

async fn a_refused_admission_writes_nothing(store: Arc<dyn Store>) {
    store.set_account(ORG, Account { standing: Standing::Suspended, ..Account::default() }).await.unwrap();
    let request = provision(WorkspaceId::generate());
    assert_eq!(reason(store.provision(&request, at(0)).await), ErrorReason::NotInGoodStanding);
    assert_eq!(store.get(ORG, request.workspace).await.unwrap(), None);
    assert_eq!(store.account(ORG, at(0)).await.unwrap().used, Amounts::default());
    assert!(store.events_after(ORG, 0, 10).await.unwrap().is_empty());
    assert!(claim(&*store, at(1)).await.is_empty());
}

async fn what_is_counted_follows_the_life(store: Arc<dyn Store>) {
    let whole = spec().amounts();
    let used = || async { store.account(ORG, at(0)).await.unwrap().used };
    let record = up(&*store).await;
    assert_eq!(used().await, whole);

    // stopping counts until the provider confirms it
    let record = store.change(&ask(&record, Change::Stop(None)), at(3)).await.unwrap();
    assert_eq!(used().await, whole);
    let claimed = claim_one(&*store, at(4)).await;
    let down = Outcome { phase: Some(Phase::Stopped), fact: Some(Fact::Down(at(4))), ..outcome(&record) };
    let record = commit(&*store, &claimed, at(4), down).await;
    assert_eq!(used().await, whole.allocated_part());

    // starting again asks again
    let limits = Limits { running_workspaces: Some(0), ..Limits::default() };
    store.set_account(ORG, Account { limits, ..Account::default() }).await.unwrap();
    let start = ask(&record, Change::Start);
    assert_eq!(reason(store.change(&start, at(5)).await), ErrorReason::QuotaExceeded);
    store.set_account(ORG, Account::default()).await.unwrap();
    let record = store.change(&start, at(5)).await.unwrap();
    assert_eq!(used().await, whole);

    // deletion gives back all of it, once, when it is confirmed
    let record = store.change(&ask(&record, Change::Delete), at(6)).await.unwrap();
    assert_eq!(used().await, whole);
    let claimed = claim_one(&*store, at(7)).await;
    let gone = Outcome { phase: Some(Phase::Gone), fact: Some(Fact::Down(at(7))), ..outcome(&record) };
    commit(&*store, &claimed, at(7), gone).await;
    assert_eq!(used().await, Amounts::default());
    let deleted = store.change(&ask(&record, Change::Start), at(8)).await;
    assert_eq!(reason(deleted), ErrorReason::WorkspaceDeleted);
    assert!(store.expectations(BACKEND).await.unwrap().instances.is_empty());
}

async fn one_holder_at_a_time(store: Arc<dyn Store>) {
    for _ in 0..20 {
        created(&*store).await;
    }
    let claims = (0..8).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(
            async move { store.claim(BACKEND, LeaseOwner::generate(), at(1), LEASE, 5).await.unwrap() },
        )
    });
    let mut held = std::collections::HashSet::new();
    for claim in claims.collect::<Vec<_>>() {
        for claimed in claim.await.unwrap() {
            assert!(held.insert(claimed.record.workspace), "claimed twice");
        }
    }
    held.extend(claim(&*store, at(1)).await.into_iter().map(|claimed| claimed.record.workspace));
    assert_eq!(held.len(), 20);
    assert!(claim(&*store, at(30)).await.is_empty());
    assert_eq!(store.next_due(BACKEND, at(30)).await.unwrap(), Some(at(61)));
    assert_eq!(claim(&*store, at(61)).await.len(), 20, "leases end");
}

async fn a_lost_lease_writes_nothing(store: Arc<dyn Store>) {
    let record = created(&*store).await;
    let slept = claim_one(&*store, at(1)).await;
    let next = claim_one(&*store, at(100)).await;
    let write = Outcome { phase: Some(Phase::Failed), ..outcome(&record) };
    for lease in [slept.lease, crate::model::Lease { epoch: next.lease.epoch, ..slept.lease }] {
        let result = store.commit(&lease, at(101), &write, true).await;
        assert!(matches!(result, Err(StoreError::LeaseLost(_))), "{result:?}");
        let result = store.begin_launch(&lease, record.intent, "", at(101), at(110)).await;
        assert!(matches!(result, Err(StoreError::LeaseLost(_))), "{result:?}");
    }
    let late = store.commit(&next.lease, at(160), &write, true).await;
    assert!(matches!(late, Err(StoreError::LeaseLost(_))), "a lease that has run out still wrote");
    assert_eq!(store.get(ORG, record.workspace).await.unwrap(), Some(next.record));
}

async fn a_stale_plan_writes_only_facts(store: Arc<dyn Store>) {
    let record = created(&*store).await;
    let claimed = claim_one(&*store, at(1)).await;
    store.begin_launch(&claimed.lease, record.intent, "", at(1), at(31)).await.unwrap();
    store.change(&ask(&record, Change::Delete), at(2)).await.unwrap();
    let planned_before = Outcome {
        phase: Some(Phase::Up),
        attempt: Some(AttemptState::Confirmed),
        call_ended: Some(at(3)),
        fact: Some(Fact::Up(at(3))),
        ..outcome(&record)
    };
    let after = commit(&*store, &claimed, at(3), planned_before).await;
    assert_eq!((after.phase, after.desired), (Phase::Launching, Desired::Deleted));
    assert_eq!(
        after.attempt.as_ref().map(|a| (a.state, a.call_until)),
        Some((AttemptState::Confirmed, at(3)))
    );
    assert_eq!(after.up_since, Some(at(3)));
    assert_eq!(after.due_at, Some(at(3)), "it is planned again at once");
}

async fn a_launch_that_was_overtaken_is_not_begun(store: Arc<dyn Store>) {
    let record = created(&*store).await;
    let claimed = claim_one(&*store, at(1)).await;
    store.change(&ask(&record, Change::Delete), at(2)).await.unwrap();
    let result = store.begin_launch(&claimed.lease, record.intent, "", at(3), at(31)).await;
    assert!(matches!(result, Err(StoreError::Overtaken(_))), "{result:?}");
    let now = store.get(ORG, record.workspace).await.unwrap().unwrap();
    assert_eq!((now.phase, now.attempt), (claimed.record.phase, None), "nothing was begun");
}

async fn a_wake_during_a_lease_is_not_lost(store: Arc<dyn Store>) {
    let record = created(&*store).await;
    let claimed = claim_one(&*store, at(1)).await;
    store.wake(&[record.workspace], at(2)).await.unwrap();
    assert!(claim(&*store, at(2)).await.is_empty(), "it is held");
    let after = commit(&*store, &claimed, at(3), outcome(&record)).await;
    assert_eq!(after.due_at, Some(at(3)));
    let claimed = claim_one(&*store, at(4)).await;
    let after = commit(&*store, &claimed, at(5), outcome(&record)).await;
    assert_eq!(after.due_at, None);
}

async fn of_an_illegal_decision_the_facts_are_written(store: Arc<dyn Store>) {
    let record = created(&*store).await;
    let claimed = claim_one(&*store, at(1)).await;
    let illegal = Outcome { phase: Some(Phase::Up), fact: Some(Fact::Up(at(1))), ..outcome(&record) };
    let result = store.commit(&claimed.lease, at(1), &illegal, true).await;
    assert!(matches!(result, Err(StoreError::Illegal(_))), "{result:?}");
    let after = store.get(ORG, record.workspace).await.unwrap().unwrap();
    assert_eq!((after.phase, after.message), (Phase::Admitted, claimed.record.message));
    assert_eq!(after.up_since, Some(at(1)));
    assert_eq!(store.segments(record.workspace).await.unwrap().len(), 1, "it is up, whatever was decided");
    // the lease is given back, and the same decision is not made again at once
    assert!(claim(&*store, at(2)).await.is_empty());
    assert_eq!(claim(&*store, at(60)).await.len(), 1);
}

async fn launch_numbers_rise_and_attempts_are_reused(store: Arc<dyn Store>) {
    let first = created(&*store).await;
    let claimed = claim_one(&*store, at(1)).await;
    let begun =
        store.begin_launch(&claimed.lease, claimed.record.intent, "here", at(1), at(11)).await.unwrap();
    let again =
        store.begin_launch(&claimed.lease, claimed.record.intent, "there", at(2), at(12)).await.unwrap();
    let (begun, again) = (begun.attempt.unwrap(), again.attempt.unwrap());
    assert_eq!((&begun.token, begun.seq), (&again.token, again.seq), "a retry is the same attempt");
    assert_eq!(
        (begun.placement.as_str(), again.placement.as_str()),
        ("here", "here"),
        "and stays where it was placed"
    );
    assert_eq!(again.call_until, at(12));
    assert!(begun.token.len() <= 64);

    let resolved = Outcome { attempt: Some(AttemptState::Resolved), ..outcome(&first) };
    let kept = Outcome { due_at: Some(at(2)), ..resolved };
    commit(&*store, &claimed, at(2), kept).await;
    let claimed = claim_one(&*store, at(3)).await;
    let other = store
        .begin_launch(&claimed.lease, claimed.record.intent, "there", at(3), at(13))
        .await
        .unwrap()
        .attempt
        .unwrap();
    assert_eq!(other.placement, "there");
    assert_ne!(other.token, begun.token);
    assert!(other.seq > begun.seq);
    // after a restore from a backup it is above all that was given out before
    assert!(begun.seq.0 >= at(1).micros(), "a launch's number is never behind the clock");
    let known = [begun.seq, other.seq].map(|seq| (seq, first.workspace));
    let asked =
        [known[0], known[1], (other.seq, WorkspaceId::generate()), (other.seq.next(), first.workspace)];
    assert_eq!(store.launched(&asked).await.unwrap(), known.into(), "it knows what it has launched");
    assert_eq!(store.launched(&[]).await.unwrap().len(), 0);
}

async fn an_alarm_stands_until_it_is_ended(store: Arc<dyn Store>) {
    let alarm = |second, message: &str| Alarm {
        backend: BACKEND.to_owned(),
        raised_at: at(second),
        message: message.to_owned(),
    };
    let elsewhere = Alarm { backend: "zzz".to_owned(), ..alarm(1, "elsewhere") };
    store.raise_alarm(&alarm(1, "first")).await.unwrap();
    store.raise_alarm(&alarm(2, "again")).await.unwrap();
    store.raise_alarm(&elsewhere).await.unwrap();
    assert_eq!(store.alarms().await.unwrap(), [alarm(1, "first"), elsewhere.clone()]);
    // whatever is launched meanwhile
    up(&*store).await;
    assert_eq!(store.alarms().await.unwrap().len(), 2);

    let launches = [(LaunchSeq(7), WorkspaceId::generate()), (LaunchSeq(7), WorkspaceId::generate())];
    assert_eq!(store.launched(&launches).await.unwrap().len(), 0);
    store.end_alarm(BACKEND, &launches, at(3)).await.unwrap();
    store.end_alarm(BACKEND, &launches, at(4)).await.unwrap();
    assert_eq!(store.alarms().await.unwrap(), [elsewhere]);
    assert_eq!(store.launched(&launches).await.unwrap(), launches.into(), "it answers for them now");
    store.raise_alarm(&alarm(5, "once more")).await.unwrap();
    assert_eq!(store.alarms().await.unwrap().len(), 2);
}

async fn segments_open_and_close_with_facts(store: Arc<dyn Store>) {
    let record = up(&*store).await;
    let segments = || async {
        let segments = store.segments(record.workspace).await.unwrap();
        segments.into_iter().map(|s| (s.from, s.until)).collect::<Vec<_>>()
    };
    assert_eq!(segments().await, [(at(2), None)]);
    for (second, fact, expected) in [
        (10, Fact::Up(at(10)), vec![(at(2), None)]),
        (20, Fact::Down(at(20)), vec![(at(2), Some(at(20)))]),
        (30, Fact::Down(at(30)), vec![(at(2), Some(at(20)))]),
        (40, Fact::Up(at(40)), vec![(at(2), Some(at(20))), (at(40), None)]),
        (50, Fact::Down(at(50)), vec![(at(2), Some(at(20))), (at(40), Some(at(50)))]),
        // the clock stepped back: nothing is billed twice
        (60, Fact::Up(at(45)), vec![(at(2), Some(at(20))), (at(40), Some(at(50))), (at(50), None)]),
        (70, Fact::Down(at(46)), vec![(at(2), Some(at(20))), (at(40), Some(at(50))), (at(50), Some(at(50)))]),
    ] {
        store.wake(&[record.workspace], at(second)).await.unwrap();
        let claimed = claim_one(&*store, at(second)).await;
        commit(&*store, &claimed, at(second), Outcome { fact: Some(fact), ..outcome(&record) }).await;
        assert_eq!(segments().await, expected, "after {fact:?}");
    }
}

/// A month after it is gone a record is dropped, but what it used is billed.
async fn what_is_gone_is_dropped_and_its_segments_stay(store: Arc<dyn Store>) {
    let (kept, gone) = (up(&*store).await, up(&*store).await);
    store.wake(&[gone.workspace], at(10)).await.unwrap();
    let claimed = claim_one(&*store, at(10)).await;
    let last = Outcome {
        phase: Some(Phase::Gone),
        fact: Some(Fact::Down(at(10))),
        attempt: Some(AttemptState::Resolved),
        ..outcome(&gone)
    };
    commit(&*store, &claimed, at(10), last).await;
    let launches = [&kept, &gone].map(|record| (record.attempt.as_ref().unwrap().seq, record.workspace));
    let left = || async {
        let records = store.changed_after(ORG, Revision(0), 10).await.unwrap();
        (records.len(), store.launched(&launches).await.unwrap().len())
    };
    store.prune(at(10)).await.unwrap();
    assert_eq!(left().await, (2, 2));
    store.prune(at(11)).await.unwrap();
    assert_eq!(left().await, (1, 1), "what is not gone stays, however old it is");
    assert_eq!(store.segments(gone.workspace).await.unwrap().len(), 1);
}

async fn revisions_rise_with_what_is_visible(store: Arc<dyn Store>) {
    let (first, second) = (created(&*store).await, created(&*store).await);
    assert!(Revision(0) < first.revision && first.revision < second.revision);
    let claimed = claim(&*store, at(1)).await;
    for one in &claimed {
        let silent = Outcome { due_at: Some(at(2)), failures: 1, ..outcome(&one.record) };
        commit(&*store, one, at(1), silent).await;
    }
    let revisions = |records: Vec<InstanceRecord>| records.iter().map(|r| r.revision).collect::<Vec<_>>();
    let all = store.changed_after(ORG, Revision(0), 10).await.unwrap();
    assert_eq!(revisions(all), [first.revision, second.revision], "what nobody sees is no revision");
    let stopped = store.change(&ask(&first, Change::Stop(None)), at(3)).await.unwrap();
    assert!(stopped.revision > second.revision);
    let all = store.changed_after(ORG, Revision(0), 10).await.unwrap();
    assert_eq!(revisions(all), [second.revision, stopped.revision]);
    let later = store.changed_after(ORG, second.revision, 10).await.unwrap();
    assert_eq!(later.iter().map(|r| r.workspace).collect::<Vec<_>>(), [first.workspace]);
}

async fn events_are_told_in_order_and_pruned(store: Arc<dyn Store>) {
    let record = created(&*store).await;
    let failed = Change::Stop(Some((Reason::AgentNotConnected, "no agent".to_owned())));
    let failed = store.change(&ask(&record, failed), at(50)).await.unwrap();
    assert_eq!((failed.phase, failed.reason), (Phase::Failed, Some(Reason::AgentNotConnected)));
    let events = store.events_after(ORG, 0, 10).await.unwrap();
    let kinds: Vec<_> = events.iter().map(|event| event.detail.kind.as_ref()).collect();
    assert_eq!(kinds, ["admitted", "failed"]);
    assert_eq!(store.events_after(ORG, events[0].id, 10).await.unwrap().len(), 1);
    store.prune(at(10)).await.unwrap();
    assert_eq!(store.events_after(ORG, 0, 10).await.unwrap(), events[1..]);
}

async fn organizations_are_apart(store: Arc<dyn Store>) {
    let record = created(&*store).await;
    let other = OTHER;
    assert_eq!(store.get(other, record.workspace).await.unwrap(), None);
    assert!(store.changed_after(other, Revision(0), 10).await.unwrap().is_empty());
    assert!(store.events_after(other, 0, 10).await.unwrap().is_empty());
    let theirs = ChangeRequest { organization: other, ..ask(&record, Change::Delete) };
    assert_eq!(reason(store.change(&theirs, at(1)).await), ErrorReason::WorkspaceNotFound);
    let taken = ProvisionRequest { organization: other, ..provision(record.workspace) };
    assert_eq!(reason(store.provision(&taken, at(1)).await), ErrorReason::WorkspaceExists);
}

/// One that this side was never told of, or has lost, may lie between.
async fn a_generation_that_is_ahead_is_accepted(store: Arc<dyn Store>) {
    let record = created(&*store).await;
    let replaced = |generation| Change::Replace {
        generation: Generation(generation),
        spec: Box::new(spec()),
        sealed_token: vec![],
        run: true,
    };
    assert_eq!(reason(store.change(&ask(&record, replaced(1)), at(1)).await), ErrorReason::WrongState);
    let ahead = store.change(&ask(&record, replaced(7)), at(1)).await.unwrap();
    assert_eq!((ahead.generation, ahead.wanted_generation), (Generation(1), Generation(7)));
    let lost = ProvisionRequest { generation: Generation(5), ..provision(WorkspaceId::generate()) };
    let lost = store.provision(&lost, at(1)).await.unwrap();
    assert_eq!((lost.generation, lost.wanted_generation), (Generation(5), Generation(5)));
}

async fn commits_wake(store: Arc<dyn Store>) {
    let mut commits = store.wakes().of(ORG);
    commits.borrow_and_update();
    created(&*store).await;
    tokio::time::timeout(Duration::from_secs(5), commits.changed()).await.expect("woken").expect("open");
}

async fn launches_within_the_hour_are_counted(store: Arc<dyn Store>) {
    let limits = Limits { launches_per_hour: Some(2), ..Limits::default() };
    store.set_account(ORG, Account { limits, ..Account::default() }).await.unwrap();
    let first = created(&*store).await;
    store.provision(&provision(WorkspaceId::generate()), at(1)).await.unwrap();
    let third = provision(WorkspaceId::generate());
    assert_eq!(reason(store.provision(&third, at(2)).await), ErrorReason::QuotaExceeded);
    let replace = Change::Replace {
        generation: Generation(2),
        spec: Box::new(spec()),
        sealed_token: b"sealed".to_vec(),
        run: true,
    };
    let restart = ask(&first, replace);
    assert_eq!(reason(store.change(&restart, at(2)).await), ErrorReason::QuotaExceeded);
    store.change(&ask(&first, Change::Stop(None)), at(3)).await.expect("a stop is no launch");
    assert_eq!(store.account(ORG, at(3)).await.unwrap().launches, 2);
    assert_eq!(store.account(ORG, at(3600)).await.unwrap().launches, 1);
    store.provision(&third, at(3600)).await.expect("the first was an hour ago");
}

async fn a_plan_is_kept(store: Arc<dyn Store>) {
    let permits = Permits {
        highest_tier: Some(Tier::T2),
        runtimes: vec!["demo".to_owned()],
        backends: vec![BACKEND.to_owned()],
    };
    let account = Account { permits: permits.clone(), ..Account::default() };
    store.set_account(ORG, account).await.unwrap();
    assert_eq!(store.account(ORG, at(0)).await.unwrap().permits, permits);
    let record = created(&*store).await;
    let elsewhere = ProvisionRequest { backend: "other".to_owned(), ..provision(WorkspaceId::generate()) };
    assert_eq!(reason(store.provision(&elsewhere, at(1)).await), ErrorReason::NotInPlan);
    let larger = Change::Replace {
        generation: Generation(2),
        spec: Box::new(LaunchSpec { tier: Tier::T3, ..spec() }),
        sealed_token: vec![],
        run: false,
    };
    assert_eq!(reason(store.change(&ask(&record, larger), at(1)).await), ErrorReason::QuotaExceeded);
}

async fn backends_are_apart(store: Arc<dyn Store>) {
    let record = created(&*store).await;
    let elsewhere = ProvisionRequest { backend: "other".to_owned(), ..provision(WorkspaceId::generate()) };
    let other = store.provision(&elsewhere, at(5)).await.unwrap();
    assert_eq!(store.next_due("other", at(1)).await.unwrap(), Some(at(5)));
    let claimed = claim(&*store, at(9)).await;
    assert_eq!(claimed.iter().map(|c| c.record.workspace).collect::<Vec<_>>(), [record.workspace]);
    let expected = store.expectations("other").await.unwrap();
    assert_eq!(expected.instances.iter().map(|e| e.workspace).collect::<Vec<_>>(), [other.workspace]);
    assert_eq!(store.next_due("third", at(1)).await.unwrap(), None);
}

async fn one_process_has_a_role(store: Arc<dyn Store>) {
    let (one, other) = (LeaseOwner::generate(), LeaseOwner::generate());
    assert!(store.lead("sweep", one, at(0), at(10)).await.unwrap());
    assert!(!store.lead("sweep", other, at(5), at(15)).await.unwrap());
    assert!(store.lead("another", other, at(5), at(15)).await.unwrap());
    assert!(store.lead("sweep", one, at(6), at(16)).await.unwrap());
    assert!(!store.lead("sweep", other, at(12), at(22)).await.unwrap(), "it was prolonged");
    assert!(store.lead("sweep", other, at(16), at(26)).await.unwrap());
}
