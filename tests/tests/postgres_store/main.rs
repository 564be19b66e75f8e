//! The PostgreSQL store keeps the contract that every store keeps, and what only it has to keep.

mod agreements;
mod newer;
mod organizations;
mod prunes;
mod support;

use std::sync::Arc;
use std::time::Duration;

use molecule_contracts::engine_store;
use molecule_contracts::engine_store::Numbers;
use molecule_domain::clock::{Clock, SystemClock};
use molecule_domain::error::ErrorReason;
use molecule_domain::id::{LeaseOwner, OrganizationId, Revision};
use molecule_domain::limits::Limits;
use molecule_provisioner::admission::{Account, ProvisionRequest};
use molecule_provisioner::store::{Room, Store, StoreError};
use molecule_store_postgres::Database;
use molecule_store_postgres::accounts::Accounts;
use molecule_store_postgres::engine::EngineStore;
use molecule_tests::postgres::{Scratch, execute};
use sqlx::Connection;
use tokio_util::sync::CancellationToken;

use crate::support::{at, operator, organization, request};

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_store_keeps_the_contract() {
    let (scratches, cancel) = (tokio::sync::Mutex::new(Vec::new()), CancellationToken::new());
    engine_store::run(Numbers::NeverBehindTheClock, || async {
        let scratch = Scratch::new().await.unwrap();
        let database = Database::open(&scratch.url(), 10, cancel.clone()).await.unwrap();
        scratches.lock().await.push(scratch);
        Arc::new(EngineStore::new(database)) as Arc<dyn Store>
    })
    .await;
    cancel.cancel();
}

/// A launch of one organisation's waits for its lock, as behind a burst of requests; another's does not wait for that.
#[tokio::test(flavor = "multi_thread")]
async fn launches_do_not_wait_for_another_organizations() {
    let (scratch, cancel) = (Scratch::new().await.unwrap(), CancellationToken::new());
    let database = Database::open(&scratch.url(), 10, cancel.clone()).await.unwrap();
    let (accounts, store) = (Accounts::new(database.clone()), EngineStore::new(database));
    let mut claimed = Vec::new();
    for _ in 0..2 {
        let made = organization(Limits::default());
        let id = accounts.create(&made, &operator("create"), at(0)).await.unwrap().id;
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
    let lock = "SELECT 1 FROM organizations WHERE organization_id = $1 FOR UPDATE";
    sqlx::query(lock).bind(claimed[0].0.as_uuid()).execute(&mut *busy).await.unwrap();
    let waits = begin(0);
    tokio::time::sleep(Duration::from_millis(300)).await;
    // the lock is kept until it has begun
    begin(1).await.unwrap().unwrap();
    assert!(!waits.is_finished(), "it waits for its own organisation");
    busy.rollback().await.unwrap();
    waits.await.unwrap().unwrap();
    cancel.cancel();
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

#[tokio::test(flavor = "multi_thread")]
async fn commits_of_one_replica_wake_another() {
    let (scratch, cancel) = (Scratch::new().await.unwrap(), CancellationToken::new());
    let one = Database::open(&scratch.url(), 5, cancel.clone()).await.unwrap();
    let other = Database::open(&scratch.url(), 5, cancel.clone()).await.unwrap();
    let accounts = Accounts::new(one.clone());
    let org = accounts.create(&organization(Limits::default()), &operator("create"), at(0)).await.unwrap().id;
    let watching = EngineStore::new(other);
    let mut news = watching.wakes().of(org);
    // as often as it takes until the other listens
    let store = EngineStore::new(one);
    let heard = async {
        loop {
            store.provision(&request(org), at(1)).await.unwrap();
            if tokio::time::timeout(Duration::from_millis(200), news.changed()).await.is_ok() {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), heard).await.unwrap();
    cancel.cancel();
}

/// All launches take their numbers from one row: a retry of one that is live leaves it alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_of_a_launch_takes_no_number() {
    let (scratch, cancel) = (Scratch::new().await.unwrap(), CancellationToken::new());
    let database = Database::open(&scratch.url(), 5, cancel.clone()).await.unwrap();
    let (accounts, store) = (Accounts::new(database.clone()), EngineStore::new(database));
    let org = accounts.create(&organization(Limits::default()), &operator("create"), at(0)).await.unwrap().id;
    store.provision(&request(org), at(1)).await.unwrap();
    let (owner, lease) = (LeaseOwner::generate(), Duration::from_secs(60));
    let one = store.claim("memory", owner, at(2), lease, Room::of_each(1)).await.unwrap().remove(0);
    let begin = async || {
        let record = store.begin_launch(&one.lease, one.record.wanted(), "", at(3), at(4)).await.unwrap();
        let highest = scratch.number("SELECT highest FROM launch_numbers").await.unwrap();
        (record.live_attempt().map(|live| live.seq.0), highest)
    };
    let first = begin().await;
    assert_eq!(first.0, Some(first.1));
    assert_eq!(begin().await, first);
    cancel.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_connection_costs_time_only() {
    let (scratch, cancel) = (Scratch::new().await.unwrap(), CancellationToken::new());
    let database = Database::open(&scratch.url(), 5, cancel.clone()).await.unwrap();
    let (accounts, store) = (Accounts::new(database.clone()), EngineStore::new(database));
    let org = accounts.create(&organization(Limits::default()), &operator("create"), at(0)).await.unwrap().id;
    let mut news = store.wakes().of(org);
    // it may have begun to listen already
    let _ = tokio::time::timeout(Duration::from_secs(1), news.changed()).await;
    news.borrow_and_update();
    execute(
        &scratch.url(),
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid()"
            .to_owned(),
    )
    .await
    .unwrap();
    // the listener comes back, and says that something may have been missed
    tokio::time::timeout(Duration::from_secs(10), news.changed()).await.unwrap().unwrap();
    let request = request(org);
    let mut tries = 0;
    while store.provision(&request, at(1)).await.is_err() {
        tries += 1;
        assert!(tries < 10);
    }
    cancel.cancel();
}

/// The next version adds columns while this one runs: what is prepared on open connections goes on.
#[tokio::test(flavor = "multi_thread")]
async fn tables_that_grow_do_not_disturb_a_running_version() {
    let database = Scratch::new().await.unwrap();
    let cancel = CancellationToken::new();
    // one that listens and one for all else, so that each statement is prepared on the one that it is run on later
    let opened = Database::open(&database.url(), 2, cancel.clone()).await.unwrap();
    let store = EngineStore::new(opened.clone());
    store.set_account(OrganizationId::SELF_HOSTED, Account::default()).await.unwrap();
    let clock = SystemClock;
    let first = request(OrganizationId::SELF_HOSTED);
    let life = async |request: &ProvisionRequest| {
        store.provision(request, clock.now()).await.unwrap();
        store.get(request.organization, request.workspace).await.unwrap().unwrap();
        let (owner, lease) = (LeaseOwner::generate(), Duration::from_secs(60));
        let claimed =
            store.claim(&request.backend, owner, clock.now(), lease, Room::of_each(10)).await.unwrap();
        assert_eq!(claimed.len(), 1);
        store.changed_after(request.organization, Revision(0), 10).await.unwrap();
        store.events_after(request.organization, 0, 10).await.unwrap();
        store.account(request.organization, clock.now()).await.unwrap();
    };
    life(&first).await;
    for table in ["instances", "instance_events", "organizations", "segments", "launches"] {
        let grow = format!("ALTER TABLE {table} ADD COLUMN of_the_next_version text NOT NULL DEFAULT ''");
        execute(&database.url(), grow).await.unwrap();
    }
    life(&request(OrganizationId::SELF_HOSTED)).await;
    // and this version starts again over what the next one has made
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                 VALUES (9999, 'of the next version', true, '', 0)";
    execute(&database.url(), newer.to_owned()).await.unwrap();
    let again = Database::open(&database.url(), 2, cancel.clone()).await.unwrap();
    let store_again = EngineStore::new(again.clone());
    let records = store_again.changed_after(OrganizationId::SELF_HOSTED, Revision(0), 10).await.unwrap();
    assert_eq!(records.len(), 2);
    again.close().await;
    opened.close().await;
    cancel.cancel();
}
