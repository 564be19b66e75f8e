//! What the PostgreSQL store keeps of tenants: the contract, and whom it names.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use molecule_contracts::tenants;
use molecule_domain::Timestamp;
use molecule_domain::id::{IncarnationId, IntentNumber, OrganizationId, Revision, WorkspaceId};
use molecule_domain::incarnation::Standpoint;
use molecule_provisioner::store::{Awaited, Store};
use molecule_store_postgres::engine::EngineStore;
use molecule_store_postgres::{Agreement, Database, Missing, Process};
use molecule_tests::postgres::{Scratch, execute};
use sqlx::Connection;
use tokio_util::sync::CancellationToken;

use crate::support::{Opened, assert_no_retries, at, created, operator, request, until_locks_are_waited_for};

/// The control plane over a database.
pub(crate) struct Service {
    database: Database,
    scratch: Arc<Scratch>,
}

impl Service {
    pub(crate) fn process(organization: OrganizationId, incarnation: IncarnationId) -> Process {
        let standpoint = Standpoint { incarnation, revision: Revision(1) };
        Process { organization, standpoint, predecessors: Vec::new(), address: "10.0.0.1:7070".to_owned() }
    }
}

#[async_trait]
impl tenants::Service for Service {
    async fn begins(&self, _now: Timestamp) {
        let begin = format!(
            "INSERT INTO control_plane_incarnations (incarnation, begins_at) VALUES ('{}', 0)",
            IncarnationId::generate()
        );
        execute(&self.scratch.url(), begin).await.unwrap();
    }

    async fn meets(&self, organization: OrganizationId, process: IncarnationId) -> bool {
        // the process before is over
        let end = "UPDATE tenant_sessions SET until = '1970-01-01 00:00:00Z', stream = NULL".to_owned();
        execute(&self.scratch.url(), end).await.unwrap();
        self.database.meet(&Self::process(organization, process), None, &[]).await.unwrap().agreed
    }

    async fn agrees(
        &self,
        organization: OrganizationId,
        (process, number): (IncarnationId, i64),
        waiting: &[(WorkspaceId, IntentNumber)],
        now: Timestamp,
    ) {
        let newest = "SELECT incarnation::text FROM control_plane_incarnations ORDER BY number DESC LIMIT 1";
        let with = self.scratch.text(newest).await.unwrap().parse().unwrap();
        let process = Self::process(organization, process);
        // in three parts, as many are; the first is heard once more
        let (first, others) = waiting.split_at(waiting.len().div_ceil(3));
        let (second, last) = others.split_at(others.len() / 2);
        for (part, begins, ends) in
            [(first, true, false), (second, false, false), (first, true, false), (last, false, true)]
        {
            let agreement = Agreement { with, number, waiting: part.to_vec(), begins, ends };
            self.database.agree(&process, &agreement, now).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_store_keeps_the_contract_with_tenants() {
    let cancel = CancellationToken::new();
    tenants::run(|| async {
        let scratch = Arc::new(Scratch::new().await.unwrap());
        let database = Database::open(&scratch.url(), 10, cancel.clone()).await.unwrap();
        let store = Arc::new(EngineStore::new(database.clone()));
        tenants::Subject {
            store: Arc::clone(&store) as Arc<dyn Store>,
            tenants: store,
            service: Arc::new(Service { database, scratch }),
        }
    })
    .await;
    cancel.cancel();
}

/// A tenant that is started over and over before it has agreed: each of its standpoints may be all that shows a restore.
#[tokio::test(flavor = "multi_thread")]
async fn a_standpoint_is_kept_until_it_is_acknowledged() {
    let Opened { scratch, database, accounts, .. } = Opened::new().await;
    let service = Service { database: database.clone(), scratch: Arc::clone(&scratch) };
    let org = created(&accounts).await;
    tenants::Service::begins(&service, at(0)).await;
    let starts: Vec<_> = (0..60).map(|_| IncarnationId::generate()).collect();
    for start in &starts {
        tenants::Service::meets(&service, org, *start).await;
    }
    let kept = "SELECT COUNT(*) FROM tenant_standpoints";
    assert_eq!(scratch.number(kept).await.unwrap(), 60);
    let last = starts[59];
    let met = database.meet(&Service::process(org, last), None, &[]).await.unwrap();
    assert!(met.seen.iter().any(|seen| seen.standpoint.incarnation == starts[0]), "the first is told");
    tenants::Service::agrees(&service, org, (last, 1), &[], at(1)).await;
    assert_eq!(scratch.number(kept).await.unwrap(), 40, "they are acknowledged");
}

/// Who is missing before an alarm is ended: whoever was met and has not agreed, and whoever owns something of what is listed, as
/// where its tenant came only after the backup, or where it is not in the database at all.
#[tokio::test(flavor = "multi_thread")]
async fn whose_tenant_may_know_more_is_named() {
    let Opened { scratch, database, accounts, .. } = Opened::new().await;
    let service = Service { database: database.clone(), scratch: Arc::clone(&scratch) };
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(created(&accounts).await);
    }
    let [met, agreed, never_met, deleted, _owns_nothing] = made[..] else { panic!("five") };
    tenants::Service::begins(&service, at(0)).await;
    for org in [met, agreed] {
        let process = IncarnationId::generate();
        tenants::Service::meets(&service, org, process).await;
        if org == agreed {
            tenants::Service::agrees(&service, org, (process, 1), &[], at(1)).await;
        }
    }
    accounts.delete(deleted, &operator("delete"), at(2)).await.unwrap();
    let lost = OrganizationId::generate();
    let missing = database.without_agreement(&[agreed, never_met, never_met, deleted, lost]).await.unwrap();
    let mut named = vec![met, never_met];
    named.sort_unstable();
    assert_eq!(missing, Missing { without_agreement: named, unknown: vec![lost] });
}

/// What a tenant has still to tell of what this database lacks is nobody's to remove, for as long as anybody can tell it.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_awaited_for_an_organisation_that_is_deleted() {
    let Opened { scratch, database, accounts, store, .. } = Opened::new().await;
    let org = created(&accounts).await;
    let service = Service { database, scratch: Arc::clone(&scratch) };
    let (process, lost) = (IncarnationId::generate(), WorkspaceId::generate());
    tenants::Service::begins(&service, at(0)).await;
    tenants::Service::meets(&service, org, process).await;
    tenants::Service::agrees(&service, org, (process, 1), &[(lost, IntentNumber(7))], at(1)).await;
    let awaited = async || store.expectations("memory").await.unwrap().awaited;
    assert_eq!(awaited().await, [((org, lost), Awaited::Whole)].into());
    accounts.suspend(org, &operator("suspend"), at(2)).await.unwrap();
    assert_eq!(awaited().await, [((org, lost), Awaited::Data)].into());
    accounts.delete(org, &operator("delete"), at(3)).await.unwrap();
    assert_eq!(awaited().await, HashMap::new());
    assert_eq!(scratch.number("SELECT COUNT(*) FROM tenant_waiting").await.unwrap(), 0);
    // as an agreement leaves it that began before the deletion
    let late = format!(
        "INSERT INTO tenant_waiting (organization_id, workspace_id, intent) VALUES ('{org}', '{lost}', 7)"
    );
    execute(&scratch.url(), late).await.unwrap();
    assert_eq!(awaited().await, HashMap::new());
}

/// An agreement with many parts: what waits is protected while it is told once more.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_awaited_while_an_agreement_is_told() {
    let Opened { scratch, database, accounts, store, .. } = Opened::new().await;
    let org = created(&accounts).await;
    let service = Service { database: database.clone(), scratch };
    let (process, with) = (IncarnationId::generate(), IncarnationId::generate());
    let [one, two] = [(); 2].map(|()| (WorkspaceId::generate(), IntentNumber(7)));
    tenants::Service::begins(&service, at(0)).await;
    tenants::Service::meets(&service, org, process).await;
    let process = Service::process(org, process);
    let tell = async |number, waiting: &[_], begins, ends| {
        let agreement = Agreement { with, number, waiting: waiting.to_vec(), begins, ends };
        database.agree(&process, &agreement, at(1)).await
    };
    let awaited = async || {
        let awaited = store.expectations("memory").await.unwrap().awaited;
        [one, two].map(|(workspace, _)| awaited.contains_key(&(org, workspace)))
    };
    tell(1, &[one, two], true, true).await.unwrap();
    tell(2, &[two], true, false).await.unwrap();
    assert_eq!(awaited().await, [true, true], "it is not told whole yet");
    tell(1, &[one], true, true).await.unwrap();
    tell(2, &[], false, true).await.unwrap();
    assert_eq!(awaited().await, [false, true]);
    let unheard = tell(3, &[], false, true).await.unwrap_err();
    assert!(unheard.to_string().contains("agree anew"), "{unheard}");
}

/// A tenant comes back while what runs of its organisation's is changed: in the one order of all locks, so that neither waits for
/// the other.
#[tokio::test(flavor = "multi_thread")]
async fn an_agreement_keeps_the_order_of_locks() {
    let Opened { scratch, database, accounts, store, .. } = Opened::new().await;
    let org = created(&accounts).await;
    let running = request(org);
    store.provision(&running, at(100)).await.unwrap();
    let service = Service { database: database.clone(), scratch: Arc::clone(&scratch) };
    let process = IncarnationId::generate();
    tenants::Service::begins(&service, at(0)).await;
    tenants::Service::meets(&service, org, process).await;
    let mut changing = sqlx::PgConnection::connect(&scratch.url()).await.unwrap();
    let mut changing = changing.begin().await.unwrap();
    let lock = "SELECT 1 FROM instances WHERE workspace_id = $1 FOR UPDATE";
    sqlx::query(lock).bind(running.workspace.as_uuid()).execute(&mut *changing).await.unwrap();
    let agreeing = tokio::spawn({
        let (database, process) = (database.clone(), Service::process(org, process));
        let waiting = vec![(running.workspace, IntentNumber(9))];
        let agreement =
            Agreement { with: IncarnationId::generate(), number: 1, waiting, begins: true, ends: true };
        async move { database.agree(&process, &agreement, at(1)).await }
    });
    until_locks_are_waited_for(&scratch, 1).await;
    // what is granted, refused or suspended: the organisation after the instance, and then what waits
    for then in [
        "SELECT 1 FROM organizations WHERE organization_id = $1 FOR NO KEY UPDATE",
        "DELETE FROM tenant_waiting WHERE organization_id = $1",
    ] {
        sqlx::query(then).bind(org.as_uuid()).execute(&mut *changing).await.unwrap();
    }
    changing.commit().await.unwrap();
    agreeing.await.unwrap().unwrap();
    assert_no_retries(&database);
}
