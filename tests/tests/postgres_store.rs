//! The PostgreSQL store keeps the contract that every store keeps, and what only it has to keep.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use molecule_contracts::engine_store::Numbers;
use molecule_contracts::{engine_store, tenants};
use molecule_domain::Timestamp;
use molecule_domain::clock::{Clock, SystemClock};
use molecule_domain::error::{Error, ErrorReason};
use molecule_domain::id::{IncarnationId, IntentNumber, LeaseOwner, OrganizationId, Revision, WorkspaceId};
use molecule_domain::incarnation::Standpoint;
use molecule_domain::lifecycle::{Desired, Phase, Reason};
use molecule_domain::limits::{Limits, Standing};
use molecule_provisioner::admission::{Account, Change, ChangeRequest, ProvisionRequest};
use molecule_provisioner::outcome::Outcome;
use molecule_provisioner::samples;
use molecule_provisioner::shown::Shown;
use molecule_provisioner::store::{Room, Store, StoreError};
use molecule_store_postgres::accounts::{Accounts, Audit, Changes, Organization};
use molecule_store_postgres::engine::EngineStore;
use molecule_store_postgres::{Agreement, Database, Missing, Process};
use molecule_tests::postgres::{Scratch, execute};
use sqlx::Connection;
use tokio_util::sync::CancellationToken;

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

/// The control plane over a database.
struct Service {
    database: Database,
    scratch: Arc<Scratch>,
}

impl Service {
    fn process(organization: OrganizationId, incarnation: IncarnationId) -> Process {
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
        process: IncarnationId,
        waiting: &[(WorkspaceId, IntentNumber)],
        now: Timestamp,
    ) {
        let newest = "SELECT incarnation::text FROM control_plane_incarnations ORDER BY number DESC LIMIT 1";
        let with = self.scratch.text(newest).await.unwrap().parse().unwrap();
        let process = Self::process(organization, process);
        // in two parts, as many are
        let (first, last) = waiting.split_at(waiting.len() / 2);
        for (part, begins, ends) in [(first, true, false), (last, false, true)] {
            let agreement = Agreement { with, waiting: part.to_vec(), begins, ends };
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
    let (scratch, cancel) = (Arc::new(Scratch::new().await.unwrap()), CancellationToken::new());
    let database = Database::open(&scratch.url(), 5, cancel.clone()).await.unwrap();
    let service = Service { database: database.clone(), scratch: Arc::clone(&scratch) };
    let account = Accounts::new(database.clone());
    let org = account.create(&organization(Limits::default()), &operator("create"), at(0)).await.unwrap().id;
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
    tenants::Service::agrees(&service, org, last, &[], at(1)).await;
    assert_eq!(scratch.number(kept).await.unwrap(), 40, "they are acknowledged");
    cancel.cancel();
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_micros(1_700_000_000_000_000 + second * 1_000_000)
}

fn operator(action: &'static str) -> Audit {
    Audit { actor: "test".to_owned(), action, message: String::new() }
}

fn organization(limits: Limits) -> Organization {
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

fn request(organization: OrganizationId) -> ProvisionRequest {
    ProvisionRequest { organization, ..samples::provision(WorkspaceId::generate()) }
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

async fn holder(accounts: &Accounts, hash: &[u8]) -> Option<OrganizationId> {
    accounts.holder(hash).await.unwrap().map(|holder| holder.organization)
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_live_side_by_side_and_die_one_by_one() {
    let (scratch, cancel) = (Scratch::new().await.unwrap(), CancellationToken::new());
    let database = Database::open(&scratch.url(), 5, cancel.clone()).await.unwrap();
    let accounts = Accounts::new(database);
    let org = accounts.create(&organization(Limits::default()), &operator("create"), at(0)).await.unwrap().id;
    let old = accounts.issue_token(org, "old", b"old", &operator("issue"), at(1)).await.unwrap();
    accounts.issue_token(org, "new", b"new", &operator("issue"), at(2)).await.unwrap();
    assert_eq!(holder(&accounts, b"old").await, Some(org));
    assert_eq!(holder(&accounts, b"new").await, Some(org));
    assert_eq!(holder(&accounts, b"wrong").await, None);
    let foreign = accounts.revoke_token(OrganizationId::generate(), old.id, &operator("revoke"), at(3)).await;
    assert_eq!(Error::from(foreign.unwrap_err()).reason, ErrorReason::TokenNotFound);
    let revoked = accounts.revoke_token(org, old.id, &operator("revoke"), at(3)).await.unwrap();
    assert_eq!(revoked.revoked_at, Some(at(3)));
    assert_eq!(holder(&accounts, b"old").await, None);
    assert_eq!(holder(&accounts, b"new").await, Some(org));
    assert_eq!(accounts.tokens(org, at(4)).await.unwrap().len(), 2);
    let told = accounts.audit_events(Some(org), None, 10).await.unwrap();
    let actions: Vec<_> = told.iter().map(|event| event.action.as_str()).collect();
    assert_eq!(actions, ["revoke", "issue", "issue", "create"]);
    cancel.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_organisation_is_stopped_and_one_in_use_stays() {
    let (scratch, cancel) = (Scratch::new().await.unwrap(), CancellationToken::new());
    let database = Database::open(&scratch.url(), 5, cancel.clone()).await.unwrap();
    let (accounts, store) = (Accounts::new(database.clone()), EngineStore::new(database));
    let org = accounts.create(&organization(Limits::default()), &operator("create"), at(0)).await.unwrap().id;
    for _ in 0..3 {
        store.provision(&request(org), at(1)).await.unwrap();
    }
    // a step that was planned before, and comes to its end after it
    let owner = LeaseOwner::generate();
    let lease = Duration::from_secs(60);
    let planned = store.claim("memory", owner, at(1), lease, Room::of_each(1)).await.unwrap().remove(0);
    let before = store.changed_after(org, Revision(0), 10).await.unwrap();
    let suspended = accounts.suspend(org, &operator("suspend"), at(2)).await.unwrap();
    assert_eq!(suspended.account.standing, Standing::Suspended);
    let after = store.changed_after(org, before[2].view.revision, 10).await.unwrap();
    assert_eq!(after.len(), 3, "each has a revision of its own behind the last");
    let stale = Outcome {
        planned_for: planned.record.wanted(),
        phase: Some(Phase::Launching),
        message: Some("launching".to_owned()),
        ..Outcome::default()
    };
    store.commit(&planned.lease, at(3), &stale, true).await.unwrap();
    let after = [after, store.changed_after(org, Revision(0), 10).await.unwrap()].concat();
    for shown in &after {
        let record = store.get(org, shown.view.workspace).await.unwrap().unwrap();
        assert_eq!((record.desired, record.reason), (Desired::Stopped, Some(Reason::OrganizationSuspended)));
        assert_eq!((record.phase, record.message.contains("suspended")), (Phase::Admitted, true));
        assert!(record.due_at.is_some_and(|due| due <= at(3)));
    }
    let revisions: std::collections::HashSet<_> = after.iter().map(|shown| shown.view.revision).collect();
    assert_eq!(revisions.len(), 3);
    let told = store.events_after(org, 0, 10).await.unwrap();
    let kinds: Vec<_> = told.iter().map(|event| event.detail.kind.as_ref()).collect();
    assert_eq!(kinds, ["admitted", "admitted", "admitted", "suspended", "suspended", "suspended"]);
    let refused = store.provision(&request(org), at(3)).await.unwrap_err();
    assert_eq!(Error::from(refused).reason, ErrorReason::NotInGoodStanding);
    let in_use = accounts.delete(org, &operator("delete"), at(4)).await.unwrap_err();
    assert_eq!(Error::from(in_use).reason, ErrorReason::OrganizationInUse);
    assert_eq!(accounts.get(org, at(5)).await.unwrap().account.used.workspaces, 3);
    cancel.cancel();
}

/// Until so many wait for a lock in the database.
async fn until_locks_are_waited_for(scratch: &Scratch, many: i64) {
    let waiting = "SELECT COUNT(*) FROM pg_stat_activity
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
    while scratch.number(waiting).await.unwrap() < many {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What is started while its organisation is being suspended holds its instance's lock and waits for the organisation's: in the
/// order of all locks, so that neither waits for the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspension_keeps_the_order_of_locks() {
    let (scratch, cancel) = (Arc::new(Scratch::new().await.unwrap()), CancellationToken::new());
    let database = Database::open(&scratch.url(), 5, cancel.clone()).await.unwrap();
    let (accounts, store) = (Accounts::new(database.clone()), EngineStore::new(database.clone()));
    let org = accounts.create(&organization(Limits::default()), &operator("create"), at(0)).await.unwrap().id;
    let started = request(org);
    store.provision(&started, at(1)).await.unwrap();
    let connect = async || sqlx::PgConnection::connect(&scratch.url()).await.unwrap();
    let lock_organization = "SELECT 1 FROM organizations WHERE organization_id = $1 FOR UPDATE";
    let desire = "UPDATE instances SET desired = $2 WHERE workspace_id = $1";
    sqlx::query(desire)
        .bind(started.workspace.as_uuid())
        .bind("Stopped")
        .execute(&mut connect().await)
        .await
        .unwrap();

    // one that starts it has the organisation's lock, which the suspension waits for
    let (mut starting, mut stepping) = (connect().await, connect().await);
    let mut starting = starting.begin().await.unwrap();
    sqlx::query(desire)
        .bind(started.workspace.as_uuid())
        .bind("Running")
        .execute(&mut *starting)
        .await
        .unwrap();
    sqlx::query(lock_organization).bind(org.as_uuid()).execute(&mut *starting).await.unwrap();
    let suspending = tokio::spawn({
        let accounts = accounts.clone();
        async move { accounts.suspend(org, &operator("suspend"), at(2)).await }
    });
    until_locks_are_waited_for(&scratch, 1).await;
    // a step of the engine's waits for the instance, and then for the organisation
    let step = tokio::spawn({
        let scratch = Arc::clone(&scratch);
        async move {
            let mut step = stepping.begin().await?;
            let lock = "SELECT 1 FROM instances WHERE workspace_id = $1 FOR UPDATE";
            sqlx::query(lock).bind(started.workspace.as_uuid()).execute(&mut *step).await?;
            until_locks_are_waited_for(&scratch, 1).await;
            sqlx::query(lock_organization).bind(org.as_uuid()).execute(&mut *step).await?;
            step.commit().await
        }
    });
    until_locks_are_waited_for(&scratch, 2).await;
    starting.commit().await.unwrap();

    step.await.unwrap().unwrap();
    assert_eq!(suspending.await.unwrap().unwrap().account.standing, Standing::Suspended);
    let stopped = store.get(org, started.workspace).await.unwrap().unwrap();
    assert_eq!((stopped.desired, stopped.reason), (Desired::Stopped, Some(Reason::OrganizationSuspended)));
    let lost: u64 = database.counts().iter().map(|(_, counts)| counts.retries).sum();
    assert_eq!(lost, 0, "nothing lost a race: {:?}", database.counts());
    cancel.cancel();
}

/// A replica dies between the two parts of a suspension: a later look stops what was left to run, and only that.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspension_that_was_cut_short_is_finished() {
    let (scratch, cancel) = (Scratch::new().await.unwrap(), CancellationToken::new());
    let database = Database::open(&scratch.url(), 5, cancel.clone()).await.unwrap();
    let (accounts, store) = (Accounts::new(database.clone()), EngineStore::new(database));
    let mut made = Vec::new();
    for _ in 0..2 {
        let org = organization(Limits::default());
        made.push(accounts.create(&org, &operator("create"), at(0)).await.unwrap().id);
    }
    let (cut, other) = (made[0], made[1]);
    // more than one batch
    for _ in 0..120 {
        store.provision(&request(cut), at(1)).await.unwrap();
    }
    store.provision(&request(other), at(1)).await.unwrap();
    let unread = store.provision(&request(cut), at(1)).await.unwrap().workspace;
    for written in [
        format!("UPDATE organizations SET standing = 'Suspended' WHERE organization_id = '{cut}'"),
        format!("UPDATE instances SET phase = 'Hibernating' WHERE workspace_id = '{unread}'"),
    ] {
        execute(&scratch.url(), written).await.unwrap();
    }
    let running = async || {
        let count = "SELECT COUNT(*)::text FROM instances WHERE desired = 'Running'";
        scratch.text(count).await.unwrap()
    };
    assert_eq!(running().await, "122");
    accounts.finish_suspensions(at(2)).await.unwrap();
    assert_eq!(running().await, "2", "the other organisation's, and what this version can't read");
    assert_eq!(store.account(other, at(3)).await.unwrap().standing, Standing::Good);
    let told = store.events_after(cut, 0, 1000).await.unwrap();
    let suspended = || told.iter().filter(|event| event.detail.kind == "suspended").count();
    assert_eq!(suspended(), 120);
    // once more finds nothing to do, and so does another suspension
    accounts.finish_suspensions(at(3)).await.unwrap();
    accounts.suspend(cut, &operator("suspend"), at(3)).await.unwrap();
    assert_eq!(store.events_after(cut, 0, 1000).await.unwrap().len(), told.len());
    cancel.cancel();
}

/// A newer version has written what this one can't read: only that record is left to others, and its instance is no orphan.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_a_newer_version_harms_nobody() {
    let (scratch, cancel) = (Scratch::new().await.unwrap(), CancellationToken::new());
    let database = Database::open(&scratch.url(), 5, cancel.clone()).await.unwrap();
    let (accounts, store) = (Accounts::new(database.clone()), EngineStore::new(database));
    store.set_account(OrganizationId::SELF_HOSTED, Account::default()).await.unwrap();
    let request = || request(OrganizationId::SELF_HOSTED);
    let (newer, known) = (request(), request());
    let before = store.provision(&newer, at(1)).await.unwrap().revision;
    store.provision(&known, at(1)).await.unwrap();
    let newer = newer.workspace;
    let write = async |what: String| execute(&scratch.url(), what).await.unwrap();
    let set_phase = |phase| format!("UPDATE instances SET phase = '{phase}' WHERE workspace_id = '{newer}'");
    write(set_phase("Hibernating")).await;
    write(format!("UPDATE instances SET reason = 'TooCold' WHERE workspace_id = '{}'", known.workspace))
        .await;
    let claim = async |second| {
        let (owner, lease) = (LeaseOwner::generate(), Duration::from_secs(60));
        let claimed = store.claim("memory", owner, at(second), lease, Room::of_each(10)).await.unwrap();
        claimed.into_iter().map(|one| (one.record.workspace, one.record.reason)).collect::<Vec<_>>()
    };
    assert_eq!(claim(2).await, [(known.workspace, None)]);
    // whoever lists or watches is shown what can be read of it: left out, it would pass for absent
    let shown = store.changed_after(OrganizationId::SELF_HOSTED, Revision(0), 10).await.unwrap();
    let known_of = |one: &Shown| (one.view.workspace, one.view.in_unknown_state, one.view.desired);
    let expected = [(newer, true, Some(Desired::Running)), (known.workspace, false, Some(Desired::Running))];
    assert_eq!(
        (shown[0].view.revision, shown.iter().map(known_of).collect::<Vec<_>>()),
        (before, expected.to_vec())
    );
    assert_eq!(shown[0].view.runtime, "demo");
    assert_eq!(accounts.recount().await.unwrap(), []);
    write(format!("UPDATE instances SET spec = '[]' WHERE workspace_id = '{newer}'")).await;
    write(format!("UPDATE instance_events SET actor = 'Robot' WHERE workspace_id = '{newer}'")).await;
    assert_eq!(accounts.recount().await.unwrap(), [], "what can't be counted is not compared");
    let spec = format!("(SELECT spec FROM instances WHERE workspace_id = '{}')", known.workspace);
    write(format!("UPDATE instances SET spec = {spec} WHERE workspace_id = '{newer}'")).await;
    let events = store.events_after(OrganizationId::SELF_HOSTED, 0, 10).await.unwrap();
    assert_eq!(events.len(), 2, "an unknown actor keeps nothing from being told");
    let expected = store.expectations("memory").await.unwrap().instances;
    let phase = expected.iter().find(|one| one.workspace == newer).map(|one| one.phase);
    assert_eq!((expected.len(), phase), (2, Some(None)));
    // it keeps nobody else from being stopped with the organisation
    let suspended = accounts.suspend(OrganizationId::SELF_HOSTED, &operator("suspend"), at(2)).await.unwrap();
    assert_eq!(suspended.account.standing, Standing::Suspended);
    let stopped = store.get(OrganizationId::SELF_HOSTED, known.workspace).await.unwrap().unwrap();
    assert_eq!((stopped.desired, stopped.reason), (Desired::Stopped, Some(Reason::OrganizationSuspended)));
    // its lease was given back, and whoever can read it claims it
    write(set_phase("Admitted")).await;
    assert_eq!(claim(3).await, [], "it is left to others for a while");
    assert_eq!(claim(8).await, [(newer, None)]);
    cancel.cancel();
}

/// Terms of an organisation's that only a newer version can read: nothing is launched by them, which is no refusal; all else goes
/// on, and so does every other organisation.
#[tokio::test(flavor = "multi_thread")]
async fn an_organisation_of_a_newer_version_harms_nobody() {
    let (scratch, cancel) = (Scratch::new().await.unwrap(), CancellationToken::new());
    let database = Database::open(&scratch.url(), 5, cancel.clone()).await.unwrap();
    let (accounts, store) = (Accounts::new(database.clone()), EngineStore::new(database));
    let mut made = Vec::new();
    for _ in 0..2 {
        let org = organization(Limits::default());
        made.push(accounts.create(&org, &operator("create"), at(0)).await.unwrap().id);
    }
    let newer = made[0];
    let unread = [
        "standing = 'Frozen'".to_owned(),
        r#"standing = 'Good', permits = '{"highest_tier":"T9","runtimes":[],"backends":[]}'"#.to_owned(),
    ];
    for unread in unread {
        let (one, other) = (request(newer), request(newer));
        let known = "standing = 'Good', permits = '{\"highest_tier\":null,\"runtimes\":[],\"backends\":[]}'";
        let set = async |terms: &str| {
            let set = format!("UPDATE organizations SET {terms} WHERE organization_id = '{newer}'");
            execute(&scratch.url(), set).await.unwrap();
        };
        set(known).await;
        for request in [&one, &other] {
            store.provision(request, at(1)).await.unwrap();
        }
        set(&unread).await;
        let change = async |workspace, intent, change| {
            let (intent, trace) = (IntentNumber(intent), String::new());
            let organization = newer;
            let request = ChangeRequest {
                organization,
                workspace,
                intent,
                change,
                refusal_is_final: true,
                process: None,
                trace,
            };
            store.change(&request, at(2)).await
        };
        let stopped = change(one.workspace, 2, Change::Stop(None)).await.unwrap();
        assert_eq!(stopped.desired, Desired::Stopped);
        let deleted = change(other.workspace, 2, Change::Delete).await.unwrap();
        assert_eq!(deleted.desired, Desired::Deleted);
        // what is told again is answered
        change(one.workspace, 2, Change::Start).await.unwrap();
        let launches =
            [change(one.workspace, 3, Change::Start).await, store.provision(&request(newer), at(2)).await];
        for launch in launches {
            let error = Error::from(launch.unwrap_err());
            assert!(!error.reason.is_refusal(), "who can read it may grant it: {error:?}");
        }
        assert_ne!(store.account(newer, at(2)).await.unwrap(), Account::default());
        let listed = accounts.list(None, 10, at(2)).await.unwrap();
        assert_eq!(listed.len(), 2);
        let named = Changes { name: Some("another".to_owned()), ..Changes::default() };
        accounts.update(newer, &named, &operator("update"), at(2)).await.unwrap();
    }
    let suspended = accounts.suspend(newer, &operator("suspend"), at(3)).await.unwrap();
    assert_eq!(suspended.account.standing, Standing::Suspended);
    store.provision(&request(made[1]), at(3)).await.unwrap();
    cancel.cancel();
}

/// What a newer version has stored in a row is there when that goes on with it, whatever this one has written meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_newer_version_has_stored_is_not_lost() {
    let (scratch, cancel) = (Scratch::new().await.unwrap(), CancellationToken::new());
    let database = Database::open(&scratch.url(), 5, cancel.clone()).await.unwrap();
    let (accounts, store) = (Accounts::new(database.clone()), EngineStore::new(database));
    let org = accounts.create(&organization(Limits::default()), &operator("create"), at(0)).await.unwrap().id;
    let (grown, told) = (request(org), request(org));
    for request in [&grown, &told] {
        store.provision(request, at(1)).await.unwrap();
    }
    for (set, request) in
        [("spec = jsonb_set(spec::jsonb, '{gpus}', '2')::text", &grown), ("reason = 'TooCold'", &told)]
    {
        let set = format!("UPDATE instances SET {set} WHERE workspace_id = '{}'", request.workspace);
        execute(&scratch.url(), set).await.unwrap();
    }
    let (owner, lease) = (LeaseOwner::generate(), Duration::from_secs(60));
    let claimed = store.claim("memory", owner, at(2), lease, Room::of_each(10)).await.unwrap();
    let claimed: Vec<_> = claimed.into_iter().map(|one| (one.record.workspace, one)).collect();
    assert_eq!(claimed.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [told.workspace]);
    let commit = async |message: Option<String>| {
        let planned_for = claimed[0].1.record.wanted();
        let outcome = Outcome { planned_for, message, ..Outcome::default() };
        store.commit(&claimed[0].1.lease, at(3), &outcome, false).await.unwrap();
        let reason = "SELECT COALESCE(MAX(reason), 'none') FROM instances";
        scratch.text(reason).await.unwrap()
    };
    assert_eq!(commit(None).await, "TooCold");
    assert_eq!(commit(Some("something else".to_owned())).await, "none", "something was said anew");
    let gpus = "SELECT COUNT(*) FROM instances WHERE spec::jsonb ->> 'gpus' = '2'";
    assert_eq!(scratch.number(gpus).await.unwrap(), 1);
    cancel.cancel();
}

/// Who is missing before an alarm is ended: whoever was met and has not agreed, and whoever owns something of what is listed, as
/// where its tenant came only after the backup, or where it is not in the database at all.
#[tokio::test(flavor = "multi_thread")]
async fn whose_tenant_may_know_more_is_named() {
    let (scratch, cancel) = (Arc::new(Scratch::new().await.unwrap()), CancellationToken::new());
    let database = Database::open(&scratch.url(), 5, cancel.clone()).await.unwrap();
    let service = Service { database: database.clone(), scratch: Arc::clone(&scratch) };
    let accounts = Accounts::new(database.clone());
    let mut made = Vec::new();
    for _ in 0..5 {
        let org = organization(Limits::default());
        made.push(accounts.create(&org, &operator("create"), at(0)).await.unwrap().id);
    }
    let [met, agreed, never_met, deleted, _owns_nothing] = made[..] else { panic!("five") };
    tenants::Service::begins(&service, at(0)).await;
    for org in [met, agreed] {
        let process = IncarnationId::generate();
        tenants::Service::meets(&service, org, process).await;
        if org == agreed {
            tenants::Service::agrees(&service, org, process, &[], at(1)).await;
        }
    }
    accounts.delete(deleted, &operator("delete"), at(2)).await.unwrap();
    let lost = OrganizationId::generate();
    let missing = database.without_agreement(&[agreed, never_met, never_met, deleted, lost]).await.unwrap();
    let mut named = vec![met, never_met];
    named.sort_unstable();
    assert_eq!(missing, Missing { without_agreement: named, unknown: vec![lost] });
    cancel.cancel();
}

/// One that can't be stopped keeps no other suspended organisation running.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspension_that_fails_keeps_no_other_from_being_finished() {
    let (scratch, cancel) = (Scratch::new().await.unwrap(), CancellationToken::new());
    let database = Database::open(&scratch.url(), 5, cancel.clone()).await.unwrap();
    let (accounts, store) = (Accounts::new(database.clone()), EngineStore::new(database));
    let mut made = Vec::new();
    for _ in 0..2 {
        let org = organization(Limits::default());
        made.push(accounts.create(&org, &operator("create"), at(0)).await.unwrap().id);
        store.provision(&request(made[made.len() - 1]), at(1)).await.unwrap();
    }
    let write = async |what: String| execute(&scratch.url(), what).await.unwrap();
    write(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$".to_owned(),
    )
    .await;
    // whichever comes first
    for fails in &made {
        write("UPDATE organizations SET standing = 'Suspended'".to_owned()).await;
        write("UPDATE instances SET desired = 'Running'".to_owned()).await;
        write(format!(
            "CREATE TRIGGER refuses BEFORE UPDATE ON instances FOR EACH ROW WHEN (OLD.organization_id = '{fails}')
                 EXECUTE FUNCTION refuse()"
        ))
        .await;
        accounts.finish_suspensions(at(2)).await.unwrap_err();
        let running =
            "SELECT string_agg(organization_id::text, ' ') FROM instances WHERE desired = 'Running'";
        assert_eq!(scratch.text(running).await.unwrap(), fails.to_string());
        write("DROP TRIGGER refuses ON instances".to_owned()).await;
    }
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

/// Much that is old: a prune that can't come to its end gets on all the same, and the next one goes on from there.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_old_is_dropped_in_parts() {
    let (scratch, cancel) = (Scratch::new().await.unwrap(), CancellationToken::new());
    let database = Database::open(&scratch.url(), 5, cancel.clone()).await.unwrap();
    let (accounts, store) = (Accounts::new(database.clone()), EngineStore::new(database));
    let org = accounts.create(&organization(Limits::default()), &operator("create"), at(0)).await.unwrap().id;
    for old in [
        format!(
            "INSERT INTO instance_events (organization_id, event_id, workspace_id, at, kind, actor, generation, message,
                 log_tail)
             SELECT '{org}', number, '{org}', to_timestamp(number), 'old', 'Provider', 1, '', ''
             FROM generate_series(1, 25000) number"
        ),
        format!(
            "INSERT INTO launches (organization_id, at, workspace_id)
             SELECT '{org}', to_timestamp(number), '{org}' FROM generate_series(1, 25000) number"
        ),
        format!(
            "INSERT INTO launched (launch, workspace_id, at)
             SELECT number, '{org}', to_timestamp(number) FROM generate_series(1, 25000) number"
        ),
        "INSERT INTO audit_events (at, actor, action, message)
         SELECT to_timestamp(number), '', 'old', '' FROM generate_series(1, 25000) number"
            .to_owned(),
        // as where the time does not suffice
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'slow'; END $$".to_owned(),
        "CREATE TRIGGER slow BEFORE DELETE ON instance_events FOR EACH ROW WHEN (OLD.event_id = 20500)
             EXECUTE FUNCTION refuse()"
            .to_owned(),
    ] {
        execute(&scratch.url(), old).await.unwrap();
    }
    store.provision(&request(org), at(1)).await.unwrap();
    let left = async |table| scratch.text(table).await.unwrap();
    store.prune(at(0)).await.unwrap_err();
    assert_eq!(left("SELECT COUNT(*)::text FROM instance_events").await, "5001");
    execute(&scratch.url(), "DROP TRIGGER slow ON instance_events".to_owned()).await.unwrap();
    store.prune(at(0)).await.unwrap();
    let counted =
        "SELECT (SELECT COUNT(*) FROM instance_events) || ' ' || (SELECT COUNT(*) FROM launches) || ' '
         || (SELECT COUNT(*) FROM launched)";
    assert_eq!(left(counted).await, "1 1 0");
    accounts.prune(at(0)).await.unwrap();
    let told = accounts.audit_events(None, None, 10).await.unwrap();
    assert_eq!(told.iter().map(|event| event.action.as_str()).collect::<Vec<_>>(), ["create"]);
    cancel.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_that_drift_are_found() {
    let (scratch, cancel) = (Scratch::new().await.unwrap(), CancellationToken::new());
    let database = Database::open(&scratch.url(), 5, cancel.clone()).await.unwrap();
    let (accounts, store) = (Accounts::new(database.clone()), EngineStore::new(database));
    let org = accounts.create(&organization(Limits::default()), &operator("create"), at(0)).await.unwrap().id;
    store.provision(&request(org), at(1)).await.unwrap();
    store.provision(&request(org), at(1)).await.unwrap();
    assert_eq!(accounts.recount().await.unwrap(), []);
    execute(&scratch.url(), "UPDATE organizations SET used_disk_gib = used_disk_gib + 1".to_owned())
        .await
        .unwrap();
    let drifts = accounts.recount().await.unwrap();
    assert_eq!(
        (drifts[0].organization, drifts[0].counted.disk_gib, drifts[0].actual.disk_gib),
        (org, 21, 20)
    );
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
