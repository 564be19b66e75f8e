//! The `SQLite` store keeps the contract that every store keeps.

use std::sync::Arc;
use std::time::Duration;

use molecule_contracts::engine_store::{self, Numbers};
use molecule_domain::Timestamp;
use molecule_domain::clock::{Clock, SystemClock};
use molecule_domain::id::{LeaseOwner, OrganizationId, Revision, WorkspaceId};
use molecule_domain::lifecycle::Desired;
use molecule_provisioner::outcome::Outcome;
use molecule_provisioner::samples;
use molecule_provisioner::shown::Shown;
use molecule_provisioner::store::{Room, Store, UNREADABLE_PAUSE};
use molecule_store_sqlite::Database;
use molecule_store_sqlite::engine::EngineStore;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_store_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    engine_store::run(Numbers::FromOne, || async move {
        let name = format!("{}.db", uuid::Uuid::new_v4());
        let database = Database::open(&path.join(name)).await.expect("opens");
        Arc::new(EngineStore::new(database)) as Arc<dyn Store>
    })
    .await;
}

/// The machine's clock was an hour ahead, and was set right while nothing ran: what was stored is not of the future.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_was_set_back_holds_nothing_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tenant.db");
    let ahead = SystemClock.now() + Duration::from_secs(3600);
    let database = Database::open(&path).await.unwrap();
    let store = EngineStore::new(database.clone());
    store.provision(&samples::provision(WorkspaceId::generate()), ahead).await.unwrap();
    let lease = Duration::from_secs(120);
    let claimed =
        store.claim("memory", LeaseOwner::generate(), ahead, lease, Room::of_each(1)).await.unwrap();
    let one = claimed.into_iter().next().unwrap();
    let call_until = ahead + Duration::from_secs(60);
    store.begin_launch(&one.lease, one.record.wanted(), "", ahead, call_until).await.unwrap();
    database.close().await;

    let store = EngineStore::new(Database::open(&path).await.unwrap());
    let now = SystemClock.now();
    let record = store.get(one.record.organization, one.record.workspace).await.unwrap().unwrap();
    assert!(record.phase_since <= now && record.due_at.is_some_and(|due| due <= now), "{record:?}");
    let attempt = record.attempt.unwrap();
    assert!(attempt.created_at <= now && attempt.call_until < now + Duration::from_secs(300), "{attempt:?}");
}

/// A process that ended while it worked on something: the next one goes on with it at once, and not when the lease ends.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_process_held_is_due_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tenant.db");
    let now = Timestamp::from_micros(1_700_000_000_000_000);
    let lease = Duration::from_secs(3600);
    let claim = async |store: &EngineStore| {
        store.claim("memory", LeaseOwner::generate(), now, lease, Room::of_each(10)).await.unwrap().len()
    };
    let database = Database::open(&path).await.unwrap();
    let store = EngineStore::new(database.clone());
    store.provision(&samples::provision(WorkspaceId::generate()), now).await.unwrap();
    assert_eq!((claim(&store).await, claim(&store).await), (1, 0));
    let leads = async |store: &EngineStore| {
        store.lead("sweeper", LeaseOwner::generate(), now, now + lease).await.unwrap()
    };
    assert_eq!((leads(&store).await, leads(&store).await), (true, false));
    database.close().await;
    let store = EngineStore::new(Database::open(&path).await.unwrap());
    assert_eq!(claim(&store).await, 1);
    assert!(leads(&store).await, "its roles are free");
}

/// A newer version ran on these tables and was taken back: what it stored that this one can't read is left alone, shown as far as
/// it can be read, and harms nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_a_newer_version_harms_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tenant.db");
    let now = Timestamp::from_micros(1_700_000_000_000_000);
    let (newer, known) = (WorkspaceId::generate(), WorkspaceId::generate());
    let database = Database::open(&path).await.unwrap();
    let store = EngineStore::new(database.clone());
    for workspace in [newer, known] {
        store.provision(&samples::provision(workspace), now).await.unwrap();
    }
    database.close().await;
    let write = async |what: String| {
        let mut file = SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(what)).execute(&mut file).await.unwrap();
        file.close().await.unwrap();
    };
    let set_phase = |phase| format!("UPDATE instances SET phase = '{phase}' WHERE workspace_id = '{newer}'");
    write("ALTER TABLE instances ADD COLUMN hibernates INTEGER NOT NULL DEFAULT 0".to_owned()).await;
    write(set_phase("Hibernating")).await;
    write(format!("UPDATE instance_events SET actor = 'Robot' WHERE workspace_id = '{newer}'")).await;

    let database = Database::open(&path).await.unwrap();
    let store = EngineStore::new(database.clone());
    let claim = async |store: &EngineStore, now| {
        let (owner, lease) = (LeaseOwner::generate(), Duration::from_secs(3600));
        let claimed = store.claim("memory", owner, now, lease, Room::of_each(10)).await.unwrap();
        claimed.into_iter().map(|one| one.record.workspace).collect::<Vec<_>>()
    };
    assert_eq!(claim(&store, now).await, [known]);
    let shown = store.changed_after(OrganizationId::SELF_HOSTED, Revision(0), 10).await.unwrap();
    let of = |one: &Shown| (one.view.workspace, one.view.in_unknown_state, one.view.desired);
    let running = Some(Desired::Running);
    assert_eq!(shown.iter().map(of).collect::<Vec<_>>(), [(newer, true, running), (known, false, running)]);
    assert_eq!(store.events_after(OrganizationId::SELF_HOSTED, 0, 10).await.unwrap().len(), 2);
    let expected = store.expectations("memory").await.unwrap().instances;
    let phase = expected.iter().find(|one| one.workspace == newer).map(|one| one.phase);
    assert_eq!((expected.len(), phase), (2, Some(None)), "its instance is no orphan");
    database.close().await;

    write(set_phase("Admitted")).await;
    let store = EngineStore::new(Database::open(&path).await.unwrap());
    let mut claimed = claim(&store, now + UNREADABLE_PAUSE).await;
    claimed.sort_unstable();
    let mut both = [newer, known];
    both.sort_unstable();
    assert_eq!(claimed, both, "whoever can read it goes on with it");
}

/// What a newer version has stored in a row is there when that runs again, whatever this one has written meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_newer_version_has_stored_is_not_lost() {
    use sqlx::{Connection, Executor};

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tenant.db");
    let now = Timestamp::from_micros(1_700_000_000_000_000);
    let store = EngineStore::new(Database::open(&path).await.unwrap());
    let (grown, told) = (WorkspaceId::generate(), WorkspaceId::generate());
    for workspace in [grown, told] {
        store.provision(&samples::provision(workspace), now).await.unwrap();
    }
    let mut db = sqlx::SqliteConnection::connect(&format!("sqlite:{}", path.display())).await.unwrap();
    for (set, workspace) in [("spec = json_set(spec, '$.gpus', 2)", grown), ("reason = 'TooCold'", told)] {
        let set = format!("UPDATE instances SET {set} WHERE workspace_id = '{workspace}'");
        db.execute(sqlx::query(sqlx::AssertSqlSafe(set))).await.unwrap();
    }
    let (owner, lease) = (LeaseOwner::generate(), Duration::from_secs(60));
    let claimed = store.claim("memory", owner, now, lease, Room::of_each(10)).await.unwrap();
    assert_eq!(claimed.iter().map(|one| one.record.workspace).collect::<Vec<_>>(), [told]);
    for (message, expected) in [(None, Some("TooCold")), (Some("something else".to_owned()), None)] {
        let outcome = Outcome { planned_for: claimed[0].record.wanted(), message, ..Outcome::default() };
        store.commit(&claimed[0].lease, now, &outcome, false).await.unwrap();
        let reason: Option<String> =
            sqlx::query_scalar("SELECT MAX(reason) FROM instances").fetch_one(&mut db).await.unwrap();
        assert_eq!(reason.as_deref(), expected);
    }
    let gpus = "SELECT COUNT(*) FROM instances WHERE json_extract(spec, '$.gpus') = 2";
    assert_eq!(sqlx::query_scalar::<_, i64>(gpus).fetch_one(&mut db).await.unwrap(), 1);
}

/// Much that is old, as after a month without a prune: it goes in parts, between which others write.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_old_is_dropped_in_parts() {
    use sqlx::{Connection, Executor};

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tenant.db");
    let database = Database::open(&path).await.unwrap();
    let store = EngineStore::new(database.clone());
    let now = Timestamp::from_micros(1_700_000_000_000_000);
    store.provision(&samples::provision(WorkspaceId::generate()), now).await.unwrap();
    let mut db = sqlx::SqliteConnection::connect(&format!("sqlite:{}", path.display())).await.unwrap();
    let old = "WITH RECURSIVE numbers (number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < 9000)";
    for insert in [
        "INSERT INTO instance_events (organization_id, workspace_id, at, kind, actor, generation, message, log_tail)
         SELECT '', '', number, 'old', 'Provider', 1, '', '' FROM numbers",
        "INSERT INTO launches (organization_id, at) SELECT '', number FROM numbers",
        "INSERT INTO launched (launch, workspace_id, at) SELECT number, '', number FROM numbers",
    ] {
        db.execute(sqlx::query(sqlx::AssertSqlSafe(format!("{old} {insert}")))).await.unwrap();
    }
    // as where the process ends in the middle of it
    db.execute(
        "CREATE TRIGGER ends BEFORE DELETE ON instance_events WHEN OLD.at = 8500
         BEGIN SELECT RAISE(ABORT, 'ended'); END",
    )
    .await
    .unwrap();
    let counted =
        "SELECT (SELECT COUNT(*) FROM instance_events) || ' ' || (SELECT COUNT(*) FROM launches) || ' '
         || (SELECT COUNT(*) FROM launched)";
    store.prune(now).await.unwrap_err();
    let left: String = sqlx::query_scalar(counted).fetch_one(&mut db).await.unwrap();
    assert_eq!(left, "1001 9001 9000");
    db.execute("DROP TRIGGER ends").await.unwrap();
    store.prune(now).await.unwrap();
    let left: String = sqlx::query_scalar(counted).fetch_one(&mut db).await.unwrap();
    assert_eq!(left, "1 1 0");
}

/// A sweep reads what should be at its backend, every few seconds, and not what is gone.
#[tokio::test]
async fn what_is_gone_is_not_read_by_each_sweep() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.db");
    let _database = Database::open(&path).await.unwrap();
    let mut connection = SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
    let plan = "EXPLAIN QUERY PLAN SELECT * FROM instances WHERE phase <> 'Gone' AND backend = 'memory'";
    let plan: (i64, i64, i64, String) = sqlx::query_as(plan).fetch_one(&mut connection).await.unwrap();
    assert_eq!(plan.3, "SEARCH instances USING INDEX instances_by_backend (backend=?)");
}
