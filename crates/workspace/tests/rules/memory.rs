//! The store in memory: what clients ask for, and what the provider answers and tells.

use std::time::Duration;

use molecule_domain::error::ErrorReason;
use molecule_domain::id::{Generation, IntentNumber, OrganizationId, Revision};
use molecule_domain::instance::{Event, InstanceView};
use molecule_domain::lifecycle::{AgentHealth, Desired, Readiness};
use molecule_domain::spec::WorkspaceSpec;
use molecule_domain::{Error, Timestamp};
use molecule_workspace::agent::{Patience, Verdict};
use molecule_workspace::aggregate::{Answer, Change, NewWorkspace, Refusal, SealedToken};
use molecule_workspace::record::{AgentRecord, RequestKey, StoredEvent};
use molecule_workspace::store::memory::{Data, MemoryStore};
use molecule_workspace::store::{Conditions, Cursors, StoreError, Stored, TenantStore};
use molecule_workspace::{Entry, Wish, Workspace, WorkspaceRecord};

use crate::world::{event, key, own, pending, sealed, second, spec, start_id, view, workspace_id};

pub(crate) const MINE: OrganizationId = OrganizationId::SELF_HOSTED;

pub(crate) fn another_organization() -> OrganizationId {
    "00000000-0000-7000-8000-000000000201".parse().unwrap()
}

pub(crate) fn opened() -> MemoryStore {
    MemoryStore::open(Data::default(), own(), second(0))
}

pub(crate) fn new(number: u8) -> NewWorkspace {
    NewWorkspace {
        workspace: workspace_id(number),
        organization: MINE,
        spec: spec(),
        readiness: Readiness::Agent,
        private: sealed("private"),
        token: SealedToken { sealed: b"sealed".to_vec(), hash: format!("hash {number}").into_bytes() },
        trace: "of the creation".to_owned(),
    }
}

/// A store's revision where nothing came before at that moment.
pub(crate) const fn at(now: Timestamp) -> Revision {
    Revision(now.micros())
}

pub(crate) fn instance(number: u8, revision: i64) -> InstanceView {
    InstanceView {
        workspace: workspace_id(number),
        intent: IntentNumber(1),
        generation: Generation(1),
        wanted_generation: Generation(1),
        revision: Revision(revision),
        ..view()
    }
}

pub(crate) async fn create(store: &MemoryStore, number: u8, now: Timestamp) -> WorkspaceRecord {
    store.create(&new(number), None, now).await.unwrap().record
}

/// One that the provider has granted, and that is up.
pub(crate) async fn running(store: &MemoryStore, number: u8, now: Timestamp) -> WorkspaceRecord {
    create(store, number, now).await;
    answer(store, number, 1, Answer::Granted(instance(number, 50)), now).await.unwrap()
}

pub(crate) async fn answer(
    store: &MemoryStore,
    number: u8,
    wish: i64,
    answer: Answer,
    now: Timestamp,
) -> Option<WorkspaceRecord> {
    store.answered(workspace_id(number), IntentNumber(wish), &answer, now).await.unwrap()
}

pub(crate) async fn change(
    store: &MemoryStore,
    number: u8,
    on: &Conditions,
    now: Timestamp,
    change: Change,
) -> Result<Stored, StoreError> {
    store.change(MINE, workspace_id(number), on, now, Box::new(|_| Ok(change))).await
}

pub(crate) fn wish(wish: Wish) -> Change {
    Change { wish: Some(wish), ..Change::default() }
}

pub(crate) fn keyed(id: &str) -> Conditions {
    Conditions { key: Some(key(id)), etag: None }
}

pub(crate) fn reason<T: std::fmt::Debug>(result: Result<T, StoreError>) -> ErrorReason {
    match result {
        Err(StoreError::Refused(error)) => error.reason,
        other => panic!("{other:?}"),
    }
}

async fn loaded(store: &MemoryStore, number: u8) -> Option<Workspace> {
    store.load(MINE, workspace_id(number)).await.unwrap()
}

#[tokio::test]
async fn what_is_created_is_there_for_its_organisation() {
    let store = opened();
    let stored = store.create(&new(1), None, second(10)).await.unwrap();
    let expected = Workspace::create(&new(1), None, second(10), own(), None).0;
    let record = WorkspaceRecord { revision: at(second(10)), ..expected.record.clone() };
    let expected = Workspace { record: record.clone(), ..expected };
    assert_eq!(stored, Stored { record: record.clone(), number: Some(IntentNumber(1)) });
    assert_eq!(loaded(&store, 1).await, Some(expected));
    assert_eq!(store.get(MINE, workspace_id(1)).await.unwrap(), Some(record));
    assert_eq!(store.get(MINE, workspace_id(2)).await.unwrap(), None);
    let other = another_organization();
    assert_eq!(store.get(other, workspace_id(1)).await.unwrap(), None);
    let change = Box::new(|_: &Workspace| Ok(wish(Wish::Delete)));
    let refused = store.change(other, workspace_id(1), &Conditions::default(), second(11), change).await;
    assert_eq!(reason(refused), ErrorReason::WorkspaceNotFound);
}

#[tokio::test]
async fn watchers_hear_of_every_commit() {
    let store = opened();
    let commits = store.commits();
    assert_eq!(*commits.borrow(), 0);
    create(&store, 1, second(10)).await;
    create(&store, 2, second(10)).await;
    assert_eq!(*commits.borrow(), 2);
    change(&store, 1, &Conditions::default(), second(11), wish(Wish::Delete)).await.unwrap();
    assert_eq!(*store.commits().borrow(), 3);
}

#[tokio::test]
async fn a_request_with_a_key_is_done_once() {
    let store = opened();
    let first = store.create(&new(1), Some(&key("creates")), second(10)).await.unwrap();
    assert_eq!(store.create(&new(1), Some(&key("creates")), second(11)).await.unwrap(), first);
    assert_eq!(store.replayed(MINE, &key("creates")).await.unwrap(), Some(first));
    assert_eq!(store.replayed(MINE, &key("stops")).await.unwrap(), None);
    assert_eq!(store.replayed(another_organization(), &key("creates")).await.unwrap(), None);
    store.begin_call(workspace_id(1)).await.unwrap();
    let stop = || wish(Wish::Stop(None));
    let stopped = change(&store, 1, &keyed("stops"), second(12), stop()).await.unwrap();
    assert_eq!(stopped.number, Some(IntentNumber(2)));
    assert_eq!(change(&store, 1, &keyed("stops"), second(13), stop()).await.unwrap(), stopped);
    let again = store.replayed(MINE, &key("creates")).await.unwrap().unwrap();
    assert_eq!(again, Stored { number: Some(IntentNumber(1)), ..stopped });
    // another request must not have it, and none needs to wait any more
    let other = RequestKey { fingerprint: b"other".to_vec(), ..key("creates") };
    let reused = store.create(&new(2), Some(&other), second(14)).await;
    assert_eq!(reason(reused), ErrorReason::RequestIdReused);
    answer(&store, 1, 1, Answer::Granted(instance(1, 50)), second(15)).await.unwrap();
    let granted = store.replayed(MINE, &key("creates")).await.unwrap().unwrap();
    assert_eq!(granted.number, None);
}

#[tokio::test]
async fn an_id_is_free_again_once_its_creation_was_refused() {
    let store = opened();
    store.create(&new(1), Some(&key("creates")), second(10)).await.unwrap();
    assert_eq!(reason(store.create(&new(1), None, second(11)).await), ErrorReason::WorkspaceExists);
    let refusal = Refusal { reason: ErrorReason::QuotaExceeded, message: "no".to_owned() };
    answer(&store, 1, 1, Answer::Refused(refusal), second(12)).await.unwrap();
    assert_eq!(store.replayed(MINE, &key("creates")).await.unwrap(), None);
    let again = store.create(&new(1), None, second(13)).await.unwrap();
    assert_eq!(again.number, Some(IntentNumber(2)));
}

#[tokio::test]
async fn workspaces_stand_below_each_other_but_not_in_a_ring() {
    let store = opened();
    let below = |parent| WorkspaceSpec { parent: Some(workspace_id(parent)), ..spec() };
    let child = |number, parent| NewWorkspace { spec: below(parent), ..new(number) };
    assert_eq!(reason(store.create(&child(2, 1), None, second(10)).await), ErrorReason::InvalidField);
    create(&store, 1, second(11)).await;
    store.create(&child(2, 1), None, second(12)).await.unwrap();
    store.create(&child(3, 2), None, second(13)).await.unwrap();
    let moved = Change { spec: Some((below(3), Readiness::Agent)), ..Change::default() };
    let ring = change(&store, 1, &Conditions::default(), second(14), moved).await;
    assert_eq!(reason(ring), ErrorReason::InvalidField);
}

#[tokio::test]
async fn a_change_is_decided_about_what_is_there() {
    let store = opened();
    create(&store, 1, second(10)).await;
    let renamed = WorkspaceSpec { name: "baker".to_owned(), ..spec() };
    let rename = || Change { spec: Some((renamed.clone(), Readiness::Agent)), ..Change::default() };
    let etag = |number| Conditions { key: None, etag: Some(IntentNumber(number)) };
    let stale = change(&store, 1, &etag(2), second(11), rename()).await;
    assert_eq!(reason(stale), ErrorReason::StaleEtag);
    let changed = change(&store, 1, &etag(1), second(12), rename()).await.unwrap();
    assert_eq!(changed.number, None, "the provider has nothing to hear");
    let found = loaded(&store, 1).await.unwrap();
    assert_eq!((&changed.record, &found.record.spec), (&found.record, &renamed));
    assert_eq!((changed.record.intent, changed.record.updated_at), (IntentNumber(2), second(12)));
    let refuse = Box::new(|found: &Workspace| {
        assert_eq!(found.record.spec.name, "baker");
        Err(Error::new(ErrorReason::WrongState, "no"))
    });
    let refused = store.change(MINE, workspace_id(1), &Conditions::default(), second(13), refuse).await;
    assert_eq!(reason(refused), ErrorReason::WrongState);
    assert_eq!(loaded(&store, 1).await, Some(found));
}

#[tokio::test]
async fn the_longest_waiting_are_told_first() {
    let store = opened();
    for (number, now) in [(1, 30), (2, 20), (3, 10)] {
        create(&store, number, second(now)).await;
    }
    assert_eq!(store.waiting().await.unwrap(), [3, 2, 1].map(workspace_id));
    answer(&store, 2, 1, Answer::Granted(instance(2, 50)), second(31)).await.unwrap();
    assert_eq!(store.waiting().await.unwrap(), [3, 1].map(workspace_id));
    assert_eq!(store.begin_call(workspace_id(2)).await.unwrap(), None);
    assert_eq!(store.begin_call(workspace_id(9)).await.unwrap(), None);
}

#[tokio::test]
async fn a_call_that_was_begun_and_any_of_a_process_before_may_be_known() {
    let store = opened();
    let record = create(&store, 1, second(10)).await;
    let entry = loaded(&store, 1).await.unwrap().outbox.remove(0);
    assert!(!entry.begun);
    let begun = Entry { begun: true, ..entry };
    assert_eq!(store.begin_call(workspace_id(1)).await.unwrap(), Some((record, begun.clone())));
    assert_eq!(loaded(&store, 1).await.unwrap().outbox, [begun]);
    create(&store, 2, second(11)).await;
    let again = MemoryStore::open(store.data(), start_id(2), second(12));
    assert!(loaded(&again, 2).await.unwrap().outbox[0].begun);
    let starts: Vec<_> = again.meetings(MINE).await.unwrap().0.held;
    let starts: Vec<_> = starts.iter().map(|held| (held.id, held.begins_at)).collect();
    assert_eq!(starts, [(own(), Revision(0)), (start_id(2), at(second(11)))]);
}

/// Nobody has seen that the database was put back but whoever watched in the time that is lost.
#[tokio::test]
async fn a_watch_does_not_go_on_from_a_time_that_is_lost() {
    let store = opened();
    create(&store, 1, second(10)).await;
    let backup = store.data();
    create(&store, 2, second(20)).await;
    let (_, lost) = store.snapshot(MINE).await.unwrap();
    let store = MemoryStore::open(backup, start_id(2), second(30));
    let (_, kept) = store.snapshot(MINE).await.unwrap();
    create(&store, 3, second(40)).await;
    let refused = store.changes_after(MINE, lost, 10).await.unwrap_err();
    assert_eq!(Error::from(refused).reason, ErrorReason::RevisionTooOld);
    assert_eq!(store.changes_after(MINE, kept, 10).await.unwrap().len(), 1);
    let (_, newest) = store.snapshot(MINE).await.unwrap();
    let again = MemoryStore::open(store.data(), start_id(3), second(50));
    create(&again, 4, second(60)).await;
    assert_eq!(again.changes_after(MINE, newest, 10).await.unwrap().len(), 1, "a start loses nothing");
}

/// A start whose clock was ahead stored nothing before the clock was set right.
#[tokio::test]
async fn a_watch_goes_on_although_a_clock_was_ahead() {
    let store = opened();
    create(&store, 1, second(10)).await;
    let ahead = MemoryStore::open(store.data(), start_id(2), second(4000));
    let again = MemoryStore::open(ahead.data(), start_id(3), second(30));
    create(&again, 2, second(40)).await;
    let (_, newest) = again.snapshot(MINE).await.unwrap();
    assert_eq!(again.changes_after(MINE, newest, 10).await.unwrap(), []);
}

#[tokio::test]
async fn answers_and_failed_calls_are_kept() {
    let store = opened();
    assert!(!store.data().is_waiting());
    create(&store, 1, second(10)).await;
    assert!(store.data().is_waiting());
    store.call_failed(workspace_id(9), IntentNumber(1), "busy", second(11)).await.unwrap();
    store.call_failed(workspace_id(1), IntentNumber(1), "busy", second(12)).await.unwrap();
    let failed = loaded(&store, 1).await.unwrap().record;
    assert_eq!((&failed.pending, failed.revision), (&Some(pending(10, "busy")), at(second(12))));
    assert_eq!(answer(&store, 9, 1, Answer::NotFound, second(13)).await, None);
    let granted = answer(&store, 1, 1, Answer::Granted(instance(1, 50)), second(14)).await;
    assert_eq!(granted, loaded(&store, 1).await.map(|found| found.record));
    let granted = granted.unwrap();
    assert_eq!((granted.answered, granted.revision), (IntentNumber(1), at(second(14))));
}

#[tokio::test]
async fn the_providers_records_and_events_are_taken_over_with_the_cursors() {
    let store = opened();
    create(&store, 1, second(10)).await;
    running(&store, 2, second(11)).await;
    running(&store, 3, second(12)).await;
    change(&store, 3, &Conditions::default(), second(14), wish(Wish::Delete)).await.unwrap();
    answer(&store, 3, 2, Answer::NotFound, second(15)).await.unwrap();
    assert_eq!(store.cursors(MINE).await.unwrap(), Cursors::default());
    let records = [instance(9, 60), instance(1, 61), instance(2, 62), instance(3, 63), instance(2, 49)];
    let happened =
        |id| Event { id, workspace: workspace_id(2), at: second(16), detail: event("ended", 1, "it ended") };
    let mirrored = store.mirror(MINE, &records, &[happened(8), happened(7)], second(17)).await.unwrap();
    assert_eq!(mirrored.wishes, [workspace_id(3)], "it is deleted again; the first waited before");
    assert!(mirrored.unknown, "of the ninth nothing is known here");
    assert_eq!(store.cursors(MINE).await.unwrap(), Cursors { revision: Revision(63), event: 8 });
    let taken = loaded(&store, 2).await.unwrap().record;
    assert_eq!((taken.instance_revision, taken.updated_at), (Revision(62), second(17)));
    let told = store.events(workspace_id(2), None, 9).await.unwrap();
    let stored = |id| StoredEvent {
        id,
        workspace: workspace_id(2),
        at: second(16),
        detail: event("ended", 1, "it ended"),
    };
    assert_eq!(told, [stored(3), stored(2)], "the first event was the deletion");
    assert_eq!(loaded(&store, 9).await, None);
    store.restart_mirror(MINE, 5).await.unwrap();
    assert_eq!(store.cursors(MINE).await.unwrap(), Cursors { revision: Revision(0), event: 5 });
    for number in 1..=3 {
        assert_eq!(loaded(&store, number).await.unwrap().record.instance_revision, Revision(0));
    }
}

#[tokio::test]
async fn what_an_agent_reports_and_what_is_thought_of_it_are_kept() {
    let store = opened();
    running(&store, 1, second(10)).await;
    let report = |generation, now| {
        let heard = Box::new(|agent: &mut AgentRecord| {
            agent.health = AgentHealth::Healthy;
        });
        store.agent_reported(MINE, workspace_id(1), Generation(generation), now, heard)
    };
    assert_eq!(report(2, second(20)).await.unwrap(), None);
    let reported = report(1, second(21)).await.unwrap();
    assert_eq!(reported, loaded(&store, 1).await.map(|found| found.record));
    let reported = reported.unwrap();
    assert_eq!((reported.agent.last_seen, reported.updated_at), (Some(second(21)), second(21)));
    let before = *store.commits().borrow();
    let patience =
        Patience { connect: Duration::from_secs(9), silence: Duration::from_secs(9), since: second(0) };
    let judge = |now| store.judge_agent(MINE, workspace_id(1), &patience, now);
    assert_eq!(judge(second(30)).await.unwrap(), Verdict::Fine);
    assert_eq!(*store.commits().borrow(), before);
    assert_eq!(judge(second(31)).await.unwrap(), Verdict::Silent);
    assert_eq!(*store.commits().borrow(), before + 1);
    let found = loaded(&store, 1).await.unwrap().record;
    assert_eq!((found.agent.health, found.updated_at), (AgentHealth::Silent, second(31)));
    assert_eq!(found.desired, Desired::Running);
}
