//! What any store of the engine must do.

mod admissions;
mod history;
mod leases;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use molecule_domain::error::ErrorReason;
use molecule_domain::id::{LeaseOwner, OrganizationId, WorkspaceId};
use molecule_domain::lifecycle::Phase;
use molecule_domain::{Error, Timestamp};

use molecule_provisioner::admission::{Account, Change, ChangeRequest};
use molecule_provisioner::model::{AttemptState, Claimed, Endpoint, InstanceRecord};
use molecule_provisioner::outcome::{Fact, Outcome};
use molecule_provisioner::samples::provision;
use molecule_provisioner::store::{Room, Store, StoreError};

pub(crate) const ORG: OrganizationId = OrganizationId::SELF_HOSTED;
const OTHER: OrganizationId = OrganizationId::from_uuid(uuid::Uuid::from_u128(7));
pub(crate) const BACKEND: &str = "memory";
pub(crate) const LEASE: Duration = Duration::from_secs(60);

/// How a store counts revisions and events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// No number is behind the clock: after a restore from a backup, nothing new is below a cursor that is kept elsewhere.
    NeverBehindTheClock,
    /// From one on: every cursor is in the same database, and is put back with it.
    FromOne,
}

/// Runs every case on a store of its own; panics at the first that fails.
pub async fn run<F>(numbers: Numbers, make: impl Fn() -> F)
where
    F: Future<Output = Arc<dyn Store>>,
{
    admissions::run(&make).await;
    leases::run(&make).await;
    history::run(numbers, &make).await;
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

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_micros(1_700_000_000_000_000 + second * 1_000_000)
}

fn ask(record: &InstanceRecord, change: Change) -> ChangeRequest {
    ChangeRequest {
        organization: record.organization,
        workspace: record.workspace,
        intent: record.intent.next(),
        change,
        refusal_is_final: false,
        process: None,
        trace: "of the change".to_owned(),
    }
}

async fn created(store: &dyn Store) -> InstanceRecord {
    store.provision(&provision(WorkspaceId::generate()), at(0)).await.expect("admitted")
}

async fn claim(store: &dyn Store, now: Timestamp) -> Vec<Claimed> {
    store.claim(BACKEND, LeaseOwner::generate(), now, LEASE, Room::of_each(100)).await.expect("claims")
}

async fn claim_one(store: &dyn Store, now: Timestamp) -> Claimed {
    let mut claimed = claim(store, now).await;
    assert_eq!(claimed.len(), 1);
    claimed.remove(0)
}

fn outcome(record: &InstanceRecord) -> Outcome {
    Outcome { planned_for: record.wanted(), ..Outcome::default() }
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
    store.begin_launch(&claimed.lease, record.wanted(), "", at(1), at(31)).await.expect("begins");
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
