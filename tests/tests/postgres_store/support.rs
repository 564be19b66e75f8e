//! Organisations and requests of some kind, and waiting for locks.

use std::sync::Arc;
use std::time::Duration;

use molecule_domain::Timestamp;
use molecule_domain::id::{OrganizationId, WorkspaceId};
use molecule_domain::limits::Limits;
use molecule_provisioner::admission::{Account, ProvisionRequest};
use molecule_provisioner::samples;
use molecule_store_postgres::Database;
use molecule_store_postgres::accounts::{Accounts, Audit, Organization};
use molecule_store_postgres::engine::EngineStore;
use molecule_tests::postgres::Scratch;
use tokio_util::sync::CancellationToken;

/// A database of a test's own, which is there for as long as `scratch` is, and what is kept in it.
pub(crate) struct Opened {
    pub(crate) scratch: Arc<Scratch>,
    pub(crate) database: Database,
    pub(crate) accounts: Accounts,
    pub(crate) store: EngineStore,
}

impl Opened {
    pub(crate) async fn new() -> Self {
        let scratch = Arc::new(Scratch::new().await.unwrap());
        let database = Database::open(&scratch.url(), 10, CancellationToken::new()).await.unwrap();
        let (accounts, store) = (Accounts::new(database.clone()), EngineStore::new(database.clone()));
        Self { scratch, database, accounts, store }
    }
}

/// No transaction has met another so that it had to be run again.
pub(crate) fn assert_no_retries(database: &Database) {
    let retries: u64 = database.counts().iter().map(|(_, counts)| counts.retries).sum();
    assert_eq!(retries, 0, "nothing lost a race: {:?}", database.counts());
}

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_micros(1_700_000_000_000_000 + second * 1_000_000)
}

pub(crate) fn operator(action: &'static str) -> Audit {
    Audit { actor: "test".to_owned(), action, message: String::new() }
}

pub(crate) fn organization(limits: Limits) -> Organization {
    Organization {
        id: OrganizationId::generate(),
        name: "acme".to_owned(),
        plan: String::new(),
        backend: String::new(),
        allowed_agent_hosts: vec!["10.0.0.1".to_owned()],
        account: Account { limits, ..Account::default() },
        created_at: at(0),
    }
}

/// An organisation without limits.
pub(crate) async fn created(accounts: &Accounts) -> OrganizationId {
    let made = organization(Limits::default());
    accounts.create(&made, &operator("create"), at(0)).await.unwrap().id
}

pub(crate) fn request(organization: OrganizationId) -> ProvisionRequest {
    ProvisionRequest { organization, ..samples::provision(WorkspaceId::generate()) }
}

/// Until so many wait for a lock in the database.
pub(crate) async fn until_locks_are_waited_for(scratch: &Scratch, many: i64) {
    let waiting = "SELECT COUNT(*) FROM pg_stat_activity
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
    while scratch.number(waiting).await.unwrap() < many {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
