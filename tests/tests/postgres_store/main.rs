//! The PostgreSQL store keeps the contract that every store keeps, and what only it has to keep.

mod agreements;
mod newer;
mod organizations;
mod prunes;
mod races;
mod support;

use std::sync::Arc;
use std::time::Duration;

use molecule_contracts::engine_store;
use molecule_contracts::engine_store::Numbers;
use molecule_domain::clock::{Clock, SystemClock};
use molecule_domain::id::{LeaseOwner, OrganizationId, Revision};
use molecule_domain::limits::Limits;
use molecule_provisioner::admission::{Account, ProvisionRequest};
use molecule_provisioner::store::{Room, Store};
use molecule_store_postgres::Database;
use molecule_store_postgres::accounts::Accounts;
use molecule_store_postgres::engine::EngineStore;
use molecule_tests::postgres::{Scratch, execute};
use tokio_util::sync::CancellationToken;

use crate::support::{Opened, at, created, operator, organization, request};

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
    let Opened { scratch, accounts, store, .. } = Opened::new().await;
    let org = created(&accounts).await;
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
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_connection_costs_time_only() {
    let Opened { scratch, accounts, store, .. } = Opened::new().await;
    let org = created(&accounts).await;
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
