//! Requests and steps that meet in the database: each limit holds, and none loses what another has stored.

use std::time::Duration;

use molecule_domain::error::ErrorReason;
use molecule_domain::id::{IntentNumber, LeaseOwner, Revision};
use molecule_domain::lifecycle::{Desired, Phase};
use molecule_domain::limits::Limits;
use molecule_provisioner::admission::{Change, ChangeRequest, ProvisionRequest};
use molecule_provisioner::outcome::Outcome;
use molecule_provisioner::store::{Room, Store, StoreError};
use molecule_store_postgres::Database;
use molecule_store_postgres::accounts::Accounts;
use molecule_store_postgres::engine::EngineStore;
use molecule_tests::postgres::{Scratch, execute};
use sqlx::Connection;
use tokio_util::sync::CancellationToken;

use crate::support::{
    Opened, assert_no_retries, at, created, operator, organization, request, until_locks_are_waited_for,
};

const LOCK_ORGANIZATION: &str = "SELECT 1 FROM organizations WHERE organization_id = $1 FOR UPDATE";

fn ask(of: &ProvisionRequest, change: Change) -> ChangeRequest {
    ChangeRequest {
        organization: of.organization,
        workspace: of.workspace,
        intent: IntentNumber(1),
        change,
        refusal_is_final: false,
        process: None,
        trace: String::new(),
    }
}

/// A launch of one organisation's waits for its lock, as behind a burst of requests; another's does not wait for that.
#[tokio::test(flavor = "multi_thread")]
async fn launches_do_not_wait_for_another_organizations() {
    let Opened { scratch, database: _, accounts, store, .. } = Opened::new().await;
    let mut claimed = Vec::new();
    for _ in 0..2 {
        let id = created(&accounts).await;
        store.provision(&request(id), at(1)).await.unwrap();
        let owner = LeaseOwner::generate();
        let mine = store.claim("memory", owner, at(2), Duration::from_secs(60), Room::of_each(10)).await;
        claimed.push((id, mine.unwrap().pop().unwrap()));
    }
    let begin = |place: usize| {
        let (store, one) = (store.clone(), claimed[place].1.clone());
        let wanted = one.record.wanted();
        tokio::spawn(async move { store.begin_launch(&one.lease, wanted, "", at(3), at(4)).await })
    };
    let mut busy = sqlx::PgConnection::connect(&scratch.url()).await.unwrap();
    let mut busy = busy.begin().await.unwrap();
    sqlx::query(LOCK_ORGANIZATION).bind(claimed[0].0.as_uuid()).execute(&mut *busy).await.unwrap();
    let waits = begin(0);
    tokio::time::sleep(Duration::from_millis(300)).await;
    // the lock is kept until it has begun
    begin(1).await.unwrap().unwrap();
    assert!(!waits.is_finished(), "it waits for its own organisation");
    busy.rollback().await.unwrap();
    waits.await.unwrap().unwrap();
}

/// Three replicas, a thousand racers, a limit of a hundred: the database itself refuses any commit beyond it, so
/// every prefix of commits is within.
#[tokio::test(flavor = "multi_thread")]
async fn racers_on_three_replicas_get_exactly_the_limit() {
    let (scratch, cancel) = (Scratch::new().await.unwrap(), CancellationToken::new());
    let mut replicas = Vec::new();
    for _ in 0..3 {
        replicas.push(Database::open(&scratch.url(), 20, cancel.clone()).await.unwrap());
    }
    execute(
        &scratch.url(),
        "ALTER TABLE organizations ADD CHECK (used_workspaces <= max_workspaces),
             ADD CHECK (used_memory_mib <= max_memory_mib)"
            .to_owned(),
    )
    .await
    .unwrap();
    let limits = Limits { workspaces: Some(100), memory_mib: Some(100 * 512), ..Limits::default() };
    let accounts = Accounts::new(replicas[0].clone());
    let limited = accounts.create(&organization(limits), &operator("create"), at(0)).await.unwrap().id;
    let other =
        accounts.create(&organization(Limits::default()), &operator("create"), at(0)).await.unwrap().id;
    let racers: Vec<_> = (0..1000)
        .map(|racer| {
            let store = EngineStore::new(replicas[racer % 3].clone());
            tokio::spawn(async move { store.provision(&request(limited), at(1)).await })
        })
        .collect();
    // another organisation does not wait for this one's
    EngineStore::new(replicas[1].clone()).provision(&request(other), at(1)).await.unwrap();
    let mut admitted = 0;
    for racer in racers {
        match racer.await.unwrap() {
            Ok(_) => admitted += 1,
            Err(StoreError::Refused(error)) => {
                assert_eq!(error.reason, ErrorReason::QuotaExceeded);
                assert_eq!(error.limits[0].cap, 100);
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    assert_eq!(admitted, 100);
    let store = EngineStore::new(replicas[2].clone());
    assert_eq!(store.account(limited, at(2)).await.unwrap().used.workspaces, 100);
    // what was refused left nothing behind
    assert_eq!(store.events_after(limited, 0, 1000).await.unwrap().len(), 100);
    assert_eq!(store.changed_after(limited, Revision(0), 1000).await.unwrap().len(), 100);
    assert_eq!(accounts.recount().await.unwrap(), []);
    cancel.cancel();
}

/// Starts of what is stopped, all of which wait for their organisation's lock: no more than the limit allows, and the others are
/// told which limit it is.
#[tokio::test(flavor = "multi_thread")]
async fn starts_at_once_get_exactly_the_limit() {
    let Opened { scratch, database, accounts, store } = Opened::new().await;
    let limits = Limits { running_workspaces: Some(2), ..Limits::default() };
    let org = accounts.create(&organization(limits), &operator("create"), at(0)).await.unwrap().id;
    // fewer at once than there are connections for, even if each took two
    let mut stopped = Vec::new();
    for _ in 0..4 {
        let one = ProvisionRequest { run: false, ..request(org) };
        store.provision(&one, at(1)).await.unwrap();
        stopped.push(one);
    }
    let mut busy = sqlx::PgConnection::connect(&scratch.url()).await.unwrap();
    let mut busy = busy.begin().await.unwrap();
    sqlx::query(LOCK_ORGANIZATION).bind(org.as_uuid()).execute(&mut *busy).await.unwrap();
    let starts: Vec<_> = stopped
        .iter()
        .map(|one| {
            let (store, start) = (store.clone(), ask(one, Change::Start));
            tokio::spawn(async move { store.change(&start, at(2)).await })
        })
        .collect();
    until_locks_are_waited_for(&scratch, 4).await;
    busy.rollback().await.unwrap();
    let mut started = 0;
    for start in starts {
        match start.await.unwrap() {
            Ok(_) => started += 1,
            Err(StoreError::Refused(error)) => {
                assert_eq!(error.reason, ErrorReason::QuotaExceeded);
                assert_eq!(error.limits[0].cap, 2);
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    assert_eq!(started, 2);
    assert_eq!(store.account(org, at(3)).await.unwrap().used.running_workspaces, 2);
    assert_eq!(accounts.recount().await.unwrap(), []);
    assert_no_retries(&database);
}

/// A step comes to its end while a request changes the same record: it waits, and stores its facts over what was asked for.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_keeps_what_was_asked_for_meanwhile() {
    let Opened { scratch, database, accounts, store } = Opened::new().await;
    let org = created(&accounts).await;
    let asked = request(org);
    store.provision(&asked, at(1)).await.unwrap();
    let (owner, lease) = (LeaseOwner::generate(), Duration::from_secs(60));
    let planned = store.claim("memory", owner, at(2), lease, Room::of_each(1)).await.unwrap().remove(0);
    let mut busy = sqlx::PgConnection::connect(&scratch.url()).await.unwrap();
    let mut busy = busy.begin().await.unwrap();
    sqlx::query(LOCK_ORGANIZATION).bind(org.as_uuid()).execute(&mut *busy).await.unwrap();
    // the stop has the record's lock, and waits for its organisation's
    let stop = tokio::spawn({
        let (store, stop) = (store.clone(), ask(&asked, Change::Stop(None)));
        async move { store.change(&stop, at(3)).await }
    });
    until_locks_are_waited_for(&scratch, 1).await;
    let outcome = Outcome {
        planned_for: planned.record.wanted(),
        phase: Some(Phase::Launching),
        message: Some("launching".to_owned()),
        ..Outcome::default()
    };
    let commit = tokio::spawn({
        let (store, lease) = (store.clone(), planned.lease);
        async move { store.commit(&lease, at(4), &outcome, true).await }
    });
    until_locks_are_waited_for(&scratch, 2).await;
    busy.rollback().await.unwrap();
    stop.await.unwrap().unwrap();
    commit.await.unwrap().unwrap();
    let stored = store.get(org, asked.workspace).await.unwrap().unwrap();
    assert_eq!((stored.desired, stored.intent), (Desired::Stopped, IntentNumber(1)));
    assert_no_retries(&database);
}
