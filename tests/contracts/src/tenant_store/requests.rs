//! What every store does with requests: they may be repeated, what waits can be seen, and history is kept a while.

use molecule_domain::error::{Error, ErrorReason};
use molecule_domain::id::{IntentNumber, WorkspaceId};
use molecule_domain::lifecycle::{Phase, Readiness};
use molecule_domain::spec::WorkspaceSpec;

use super::{ORG, Subject, at, instance, key, new_workspace, sealed, spec};
use molecule_workspace::aggregate::{Answer, Change, NewWorkspace};
use molecule_workspace::private::SealedParts;
use molecule_workspace::record::RequestKey;
use molecule_workspace::store::{Conditions, StoreError};
use molecule_workspace::wish::Wish;

pub(super) async fn run<F: Future<Output = Subject>>(store: impl Fn() -> F) {
    private_parts_are_decided_on_inside_the_transaction(store().await).await;
    what_waits_can_be_seen(store().await).await;
    requests_are_repeatable(store().await).await;
    history_is_kept_for_a_day(store().await).await;
    keys_are_kept_as_long_as_they_may_be_needed(store().await).await;
}

async fn private_parts_are_decided_on_inside_the_transaction(store: Subject) {
    let workspace = store.up().await.workspace;
    for n in 0..3 {
        let decide = move |found: &molecule_workspace::Workspace| {
            let mut private = found.private.clone();
            private.secrets.extend(format!(" {n}").bytes());
            Ok(Change { private: Some(private), ..Change::default() })
        };
        store.0.change(ORG, workspace, &Conditions::default(), at(3), Box::new(decide)).await.unwrap();
    }
    let now = store.0.load(ORG, workspace).await.unwrap().unwrap();
    assert_eq!(
        now.private,
        SealedParts { secrets: b"private first 0 1 2".to_vec(), ..sealed("private first") }
    );
}

async fn what_waits_can_be_seen(store: Subject) {
    let first = store.created().await;
    assert_eq!(
        first.pending.as_ref().map(|pending| (pending.since, pending.cause.as_str())),
        Some((at(1), ""))
    );
    let second = store.up().await.workspace;
    store.asks(second, Wish::Stop(None)).await;
    assert_eq!(store.0.waiting().await.unwrap(), [first.workspace, second]);
    store.begins(first.workspace).await.unwrap();
    let revision = store.0.snapshot(ORG).await.unwrap().1;
    for _ in 0..2 {
        store.0.call_failed(first.workspace, IntentNumber(1), "no answer", at(4)).await.unwrap();
    }
    let now = store.0.get(ORG, first.workspace).await.unwrap().unwrap();
    assert_eq!(now.pending.map(|pending| pending.cause).as_deref(), Some("no answer"));
    assert_eq!(store.0.changes_after(ORG, revision, 10).await.unwrap().len(), 1, "a cause is told once");
}

async fn requests_are_repeatable(store: Subject) {
    let new = new_workspace(WorkspaceId::generate());
    let on = key("one");
    let created = store.0.create(&new, on.key.as_ref(), at(1)).await.unwrap();
    let again = store.0.create(&new, on.key.as_ref(), at(2)).await.unwrap();
    assert_eq!(created, again, "the wish still waits, under the same number");
    let other = RequestKey { id: "one".to_owned(), fingerprint: b"other".to_vec() };
    let reason = |error: StoreError| Error::from(error).reason;
    let refused = store.0.create(&new, Some(&other), at(2)).await.unwrap_err();
    assert_eq!(reason(refused), ErrorReason::RequestIdReused);
    let taken = store.0.create(&new, None, at(2)).await.unwrap_err();
    assert_eq!(reason(taken), ErrorReason::WorkspaceExists);
    let stale = Conditions { key: None, etag: Some(IntentNumber(7)) };
    let refused = store.asks_on(new.workspace, &stale, Wish::Stop(None)).await.unwrap_err();
    assert_eq!(reason(refused), ErrorReason::StaleEtag);
    let (parent, child) = (new.workspace, WorkspaceId::generate());
    let below = NewWorkspace {
        spec: WorkspaceSpec { parent: Some(parent), ..spec("child") },
        ..new_workspace(child)
    };
    store.0.create(&below, None, at(3)).await.unwrap();
    let decide = move |found: &molecule_workspace::Workspace| {
        let spec = WorkspaceSpec { parent: Some(child), ..found.record.spec.clone() };
        Ok(Change { spec: Some((spec, Readiness::Agent)), ..Change::default() })
    };
    let circle =
        store.0.change(ORG, parent, &Conditions::default(), at(4), Box::new(decide)).await.unwrap_err();
    assert_eq!(reason(circle), ErrorReason::InvalidField);
}

async fn keys_are_kept_as_long_as_they_may_be_needed(store: Subject) {
    let up = store.up().await;
    let workspace = up.workspace;
    let created = new_workspace(WorkspaceId::generate());
    let creation = RequestKey { id: "creation".to_owned(), fingerprint: b"f".to_vec() };
    store.0.create(&created, Some(&creation), at(2)).await.unwrap();
    store.asks_on(workspace, &key("start"), Wish::Start).await.unwrap();
    let is_known = async |id: &str| {
        let key = RequestKey { id: id.to_owned(), fingerprint: b"f".to_vec() };
        store.0.replayed(ORG, &key).await.unwrap().is_some()
    };
    store.0.prune(at(100), at(0)).await.unwrap();
    assert!(is_known("start").await, "its wish waits");
    let number = store.begins(workspace).await.unwrap().number;
    store
        .0
        .answered(workspace, number, &Answer::Granted(instance(&up, number, Phase::Up, 5)), at(5))
        .await
        .unwrap();
    store.0.prune(at(3), at(0)).await.unwrap();
    assert!(is_known("start").await, "it is not a day old");
    store.0.prune(at(100), at(0)).await.unwrap();
    assert!(!is_known("start").await, "a living workspace does not collect keys");
    let first = store.begins(created.workspace).await.unwrap();
    let record = store.0.get(ORG, created.workspace).await.unwrap().unwrap();
    let answer = Answer::Granted(instance(&record, first.number, Phase::Up, 6));
    store.0.answered(created.workspace, first.number, &answer, at(6)).await.unwrap();
    store.0.prune(at(100), at(0)).await.unwrap();
    assert!(is_known("creation").await, "what it created is there");
}

async fn history_is_kept_for_a_day(store: Subject) {
    let mut revisions = Vec::new();
    for second in 1..=3 {
        let new = new_workspace(WorkspaceId::generate());
        revisions.push(store.0.create(&new, None, at(second)).await.unwrap().record.revision);
    }
    assert!(
        revisions.is_sorted() && revisions[0].0 >= at(1).micros(),
        "revisions are never behind the clock"
    );
    assert_eq!(store.0.changes_after(ORG, revisions[0], 10).await.unwrap().len(), 2);
    store.0.prune(at(3), at(0)).await.unwrap();
    assert!(store.0.changes_after(ORG, revisions[0], 10).await.is_err(), "the second change is forgotten");
    assert_eq!(store.0.changes_after(ORG, revisions[1], 10).await.unwrap().len(), 1);
    assert!(store.0.changes_after(ORG, revisions[2].next(), 10).await.is_err(), "it has not come");
    assert_eq!(store.0.snapshot(ORG).await.unwrap().0.len(), 3, "what is there stays");
}
