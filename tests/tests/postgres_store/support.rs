//! Organisations and requests of some kind, and waiting for locks.

use std::time::Duration;

use molecule_domain::Timestamp;
use molecule_domain::id::{OrganizationId, WorkspaceId};
use molecule_domain::limits::Limits;
use molecule_provisioner::admission::{Account, ProvisionRequest};
use molecule_provisioner::samples;
use molecule_store_postgres::accounts::{Audit, Organization};
use molecule_tests::postgres::Scratch;

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
