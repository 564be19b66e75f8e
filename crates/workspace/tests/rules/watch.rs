//! The store in memory: what is listed and watched, and what is dropped in time.

use molecule_domain::error::ErrorReason;
use molecule_domain::id::{IntentNumber, Revision};
use molecule_domain::instance::{Event, InstanceView};
use molecule_workspace::aggregate::{Answer, NewWorkspace};
use molecule_workspace::store::memory::MemoryStore;
use molecule_workspace::store::{Conditions, Place, StoreError, TenantStore};
use molecule_workspace::{Wish, WorkspaceRecord};

use crate::memory::{
    MINE, another_organization, answer, at, change, create, instance, keyed, new, opened, reason, running,
    wish,
};
use crate::world::{event, key, second, workspace_id};

fn ids(records: &[WorkspaceRecord]) -> Vec<u8> {
    (1..=9)
        .flat_map(|number| records.iter().map(move |record| (number, record.workspace)))
        .filter(|(number, id)| workspace_id(*number) == *id)
        .map(|(number, _)| number)
        .collect()
}

async fn listed(
    store: &MemoryStore,
    show_deleted: bool,
    after: Option<Place>,
    limit: u32,
) -> Vec<WorkspaceRecord> {
    store.list(MINE, show_deleted, after, limit).await.unwrap()
}

/// Deletes one of which the provider has nothing.
async fn delete(store: &MemoryStore, number: u8, now: i64) {
    change(store, number, &Conditions::default(), second(now), wish(Wish::Delete)).await.unwrap();
}

#[tokio::test]
async fn workspaces_are_listed_in_order_of_creation_page_by_page() {
    let store = opened();
    let third = create(&store, 3, second(10)).await;
    let first = create(&store, 1, second(20)).await;
    let second_one = create(&store, 2, second(20)).await;
    create(&store, 4, second(30)).await;
    let elsewhere = NewWorkspace { organization: another_organization(), ..new(5) };
    store.create(&elsewhere, None, second(40)).await.unwrap();
    delete(&store, 4, 50).await;
    let deleted = store.get(MINE, workspace_id(4)).await.unwrap().unwrap();
    let living = vec![third.clone(), first.clone(), second_one.clone()];
    assert_eq!(listed(&store, false, None, 9).await, living);
    assert_eq!(listed(&store, true, None, 9).await, [living.clone(), vec![deleted.clone()]].concat());
    assert_eq!(listed(&store, true, None, 2).await, [third, first]);
    let place = Some((second(20).micros(), workspace_id(1).to_string()));
    assert_eq!(listed(&store, true, place, 9).await, [second_one, deleted]);
    let snapshot = store.snapshot(MINE).await.unwrap();
    assert_eq!(snapshot, (living, at(second(50))));
}

#[tokio::test]
async fn changes_are_watched_in_their_order() {
    let store = opened();
    let first = create(&store, 1, second(10)).await;
    let next = create(&store, 2, second(10)).await;
    let after = |revision, limit| store.changes_after(MINE, Revision(revision), limit);
    let begin = at(second(10)).0;
    assert_eq!((first.revision, next.revision), (Revision(begin), Revision(begin + 1)));
    assert_eq!(after(0, 9).await.unwrap(), [first.clone(), next.clone()]);
    assert_eq!(after(0, 1).await.unwrap(), [first]);
    assert_eq!(after(begin, 9).await.unwrap(), [next]);
    assert_eq!(after(begin + 1, 9).await.unwrap(), []);
    assert_eq!(reason(after(begin + 2, 9).await), ErrorReason::RevisionTooOld);
}

#[tokio::test]
async fn what_nobody_sees_is_no_change() {
    let store = opened();
    let record = running(&store, 1, second(10)).await;
    let same = answer(&store, 1, 1, Answer::Granted(instance(1, 50)), second(20)).await;
    assert_eq!(same, Some(record.clone()));
    assert_eq!(store.changes_after(MINE, record.revision, 9).await.unwrap(), []);
}

async fn told(store: &MemoryStore, number: u8, before: Option<i64>, limit: u32) -> Vec<i64> {
    let found = store.events(workspace_id(number), before, limit).await.unwrap();
    found.iter().map(|event| event.id).collect()
}

/// Events with the numbers 1 to 5, at the seconds that are as many tens: the fourth is of another workspace.
async fn with_events(store: &MemoryStore) {
    for id in 1..=5 {
        let workspace = workspace_id(if id == 4 { 2 } else { 1 });
        let happened = Event { id, workspace, at: second(id * 10), detail: event("ended", 1, "it ended") };
        store.mirror(MINE, &[], &[happened], second(60)).await.unwrap();
    }
}

#[tokio::test]
async fn events_are_read_from_the_newest_back() {
    let store = opened();
    with_events(&store).await;
    assert_eq!(told(&store, 1, None, 9).await, [5, 3, 2, 1]);
    assert_eq!(told(&store, 1, None, 2).await, [5, 3]);
    assert_eq!(told(&store, 1, Some(3), 9).await, [2, 1]);
    assert_eq!(told(&store, 2, None, 9).await, [4]);
}

#[tokio::test]
async fn events_are_dropped_after_a_month() {
    let store = opened();
    with_events(&store).await;
    store.prune(second(100), second(30)).await.unwrap();
    assert_eq!(told(&store, 1, None, 9).await, [5, 3]);
    assert_eq!(told(&store, 2, None, 9).await, [4]);
}

#[tokio::test]
async fn changes_are_dropped_after_a_day() {
    let store = opened();
    for (number, now) in [(1, 10), (2, 20), (3, 30)] {
        create(&store, number, second(now)).await;
    }
    let after = async |now| -> Result<Vec<u8>, StoreError> {
        Ok(ids(&store.changes_after(MINE, at(second(now)), 9).await?))
    };
    store.prune(second(20), second(0)).await.unwrap();
    assert_eq!(reason(after(9).await), ErrorReason::RevisionTooOld);
    assert_eq!(after(10).await.unwrap(), [2, 3]);
    // what was forgotten stays so, though nothing is there any more that could be
    store.prune(second(20), second(0)).await.unwrap();
    assert_eq!(reason(after(9).await), ErrorReason::RevisionTooOld);
    store.prune(second(31), second(0)).await.unwrap();
    assert_eq!(reason(after(29).await), ErrorReason::RevisionTooOld);
    assert_eq!(after(30).await.unwrap(), []);
}

#[tokio::test]
async fn deleted_workspaces_are_dropped_after_a_month() {
    let store = opened();
    for (number, deleted) in [(1, Some(29)), (2, Some(30)), (3, None)] {
        create(&store, number, second(10)).await;
        if let Some(now) = deleted {
            delete(&store, number, now).await;
        }
    }
    store.prune(second(0), second(30)).await.unwrap();
    assert_eq!(ids(&listed(&store, true, None, 9).await), [2, 3]);
}

#[tokio::test]
async fn request_ids_are_dropped_after_a_day_unless_something_hangs_on_them() {
    let store = opened();
    let creates = async |number: u8, id: &str| {
        store.create(&new(number), Some(&key(id)), second(10)).await.unwrap();
    };
    let granted = async |number: u8, wish: i64| {
        let instance = instance(number, 50);
        let instance = InstanceView { intent: IntentNumber(wish), ..instance };
        answer(&store, number, wish, Answer::Granted(instance), second(12)).await.unwrap();
    };
    creates(1, "of one that lives").await;
    granted(1, 1).await;
    change(&store, 1, &keyed("old"), second(19), wish(Wish::Stop(None))).await.unwrap();
    change(&store, 1, &keyed("of today"), second(20), wish(Wish::Stop(None))).await.unwrap();
    granted(1, 3).await;
    creates(2, "of one that is deleted").await;
    delete(&store, 2, 15).await;
    creates(3, "of another").await;
    granted(3, 1).await;
    change(&store, 3, &keyed("of one that waits"), second(15), wish(Wish::Start)).await.unwrap();
    let known = async || {
        let mut known = vec![];
        for id in [
            "of one that lives",
            "old",
            "of today",
            "of one that is deleted",
            "of another",
            "of one that waits",
        ] {
            known.extend(store.replayed(MINE, &key(id)).await.unwrap().map(|_| id));
        }
        known
    };
    assert_eq!(known().await.len(), 6);
    store.prune(second(20), second(0)).await.unwrap();
    assert_eq!(known().await, ["of one that lives", "of today", "of another", "of one that waits"]);
}
