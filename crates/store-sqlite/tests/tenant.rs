//! The tenant's store keeps the contract, and what an earlier process left counts as begun.

use std::collections::BTreeSet;
use std::sync::Arc;

use molecule_contracts::tenant_store::{self, PlainMinter, at, instance, new_workspace};
use molecule_domain::Timestamp;
use molecule_domain::error::{Error, ErrorReason};
use molecule_domain::event::{Actor, EventDetail};
use molecule_domain::id::{Generation, IncarnationId, IntentNumber, OrganizationId, Revision, WorkspaceId};
use molecule_domain::incarnation::Standpoint;
use molecule_domain::instance::Event;
use molecule_domain::lifecycle::Phase;
use molecule_store_sqlite::Database;
use molecule_store_sqlite::tenant::SqliteStore;
use molecule_workspace::agreement::Met;
use molecule_workspace::record::WorkspaceRecord;
use molecule_workspace::store::TenantStore;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};

const ORG: OrganizationId = OrganizationId::SELF_HOSTED;

async fn open(folder: &tempfile::TempDir) -> (Database, SqliteStore) {
    open_at(folder, at(0)).await
}

async fn open_at(folder: &tempfile::TempDir, now: Timestamp) -> (Database, SqliteStore) {
    let database = Database::open(&folder.path().join("t.db")).await.unwrap();
    let store = SqliteStore::open(database.clone(), now).await.unwrap();
    (database, store)
}

#[tokio::test]
async fn the_sqlite_store_keeps_the_contract() {
    let folders = std::sync::Mutex::new(Vec::new());
    tenant_store::run(|| async {
        let folder = tempfile::tempdir().unwrap();
        let (_, store) = open(&folder).await;
        folders.lock().unwrap().push(folder);
        Arc::new(store) as Arc<dyn TenantStore>
    })
    .await;
}

#[tokio::test]
async fn what_an_earlier_process_left_counts_as_begun() {
    let folder = tempfile::tempdir().unwrap();
    let workspace = WorkspaceId::generate();
    let (database, store) = open(&folder).await;
    let first = store.incarnation();
    store.create(&new_workspace(workspace), None, at(1)).await.unwrap();
    let begun =
        async |store: &SqliteStore| store.load(ORG, workspace).await.unwrap().unwrap().outbox[0].begun;
    assert!(!begun(&store).await);
    let (before, _) = store.meetings(ORG).await.unwrap();
    database.close().await;

    let (_database, store) = open(&folder).await;
    assert!(begun(&store).await);
    let (after, revision) = store.meetings(ORG).await.unwrap();
    assert_eq!(after.held[..1], before.held[..]);
    assert_eq!((after.held[0].id, after.held[1].id), (first, store.incarnation()));
    assert_eq!((after.held[0].begins_at.0, after.held[1].begins_at), (0, revision));
    assert!(revision.0 >= at(1).micros(), "a revision is never behind the clock");
}

/// A newer version has brought the tables further, and this one is started again.
#[tokio::test]
async fn an_older_version_starts_again_over_newer_tables() {
    let folder = tempfile::tempdir().unwrap();
    let workspace = WorkspaceId::generate();
    let (database, store) = open(&folder).await;
    store.create(&new_workspace(workspace), None, at(1)).await.unwrap();
    database.close().await;
    let file = SqliteConnectOptions::new().filename(folder.path().join("t.db"));
    let mut newer = file.connect().await.unwrap();
    let migration = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9999, 'of the next version', 1, x'', 0)";
    sqlx::raw_sql(migration).execute(&mut newer).await.unwrap();
    newer.close().await.unwrap();
    let (database, store) = open(&folder).await;
    assert!(store.get(ORG, workspace).await.unwrap().is_some());
    database.close().await;

    // tables that were made in another way are refused, with a word
    let mut other = file.connect().await.unwrap();
    sqlx::raw_sql("UPDATE _sqlx_migrations SET checksum = x'00' WHERE version = 1")
        .execute(&mut other)
        .await
        .unwrap();
    other.close().await.unwrap();
    let refused = Database::open(&folder.path().join("t.db")).await.unwrap_err().to_string();
    assert!(refused.contains("migration 1") && refused.contains("empty data directory"), "{refused}");
}

/// A copied file that is put back is known by what the provider had seen since the copy was made.
#[tokio::test]
async fn a_file_that_was_put_back_shows_itself() {
    let folder = tempfile::tempdir().unwrap();
    let (file, backup) = (folder.path().join("t.db"), folder.path().join("backup"));
    let (database, store) = open(&folder).await;
    store.create(&new_workspace(WorkspaceId::generate()), None, at(1)).await.unwrap();
    database.close().await;
    std::fs::copy(&file, &backup).unwrap();

    let (database, store) = open(&folder).await;
    store.create(&new_workspace(WorkspaceId::generate()), None, at(2)).await.unwrap();
    let (meetings, revision) = store.meetings(ORG).await.unwrap();
    let seen = [Standpoint { incarnation: store.incarnation(), revision }];
    assert!(!meetings.is_set_back(revision, &seen));
    database.close().await;
    assert!(!folder.path().join("t.db-wal").exists(), "all of it is in the file");

    std::fs::copy(&backup, &file).unwrap();
    let (_database, store) = open(&folder).await;
    let (meetings, revision) = store.meetings(ORG).await.unwrap();
    assert!(meetings.is_set_back(revision, &seen));
    assert!(meetings.has_told_nothing(store.incarnation(), revision, &[]));
}

/// Nobody has seen that the file was put back but whoever watched in the time that is lost.
#[tokio::test]
async fn a_watch_does_not_go_on_from_a_time_that_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let (file, backup) = (folder.path().join("t.db"), folder.path().join("backup"));
    let create = async |store: &SqliteStore, second| {
        store.create(&new_workspace(WorkspaceId::generate()), None, at(second)).await.unwrap();
        store.snapshot(ORG).await.unwrap().1
    };
    let (database, store) = open_at(&folder, at(5)).await;
    let kept = create(&store, 10).await;
    database.close().await;
    std::fs::copy(&file, &backup).unwrap();
    let (database, store) = open_at(&folder, at(15)).await;
    let lost = create(&store, 20).await;
    database.close().await;

    std::fs::copy(&backup, &file).unwrap();
    // one whose clock was ahead, and that stored nothing before that was set right
    let (database, _) = open_at(&folder, at(4000)).await;
    database.close().await;
    let (_database, store) = open_at(&folder, at(30)).await;
    let newest = create(&store, 40).await;
    let refused = store.changes_after(ORG, lost, 10).await.unwrap_err();
    assert_eq!(Error::from(refused).reason, ErrorReason::RevisionTooOld);
    assert_eq!(store.changes_after(ORG, kept, 10).await.unwrap().len(), 1);
    assert_eq!(store.changes_after(ORG, newest, 10).await.unwrap().len(), 0);
}

/// A newer version has stored what this one can't read, and this one is started again: a word that it does not know says nothing,
/// and what it can't understand at all keeps nobody from the rest.
#[tokio::test]
async fn a_document_of_a_newer_version_harms_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let [unread, known, worded] = [(); 3].map(|()| WorkspaceId::generate());
    let (database, store) = open(&folder).await;
    let mut made = Vec::new();
    for workspace in [unread, known, worded] {
        made.push(store.create(&new_workspace(workspace), None, at(1)).await.unwrap().record);
    }
    database.close().await;
    let mut newer = SqliteConnectOptions::new().filename(folder.path().join("t.db")).connect().await.unwrap();
    for table in ["workspaces", "changes"] {
        for (workspace, set) in
            [(worded, "'$.reason', 'TooCold', '$.temperature', 3"), (unread, "'$.phase', 'Hibernating'")]
        {
            let set = format!(
                "UPDATE {table} SET record = json_set(record, {set})
                 WHERE json_extract(record, '$.workspace') = '{workspace}'"
            );
            let changed = sqlx::query(sqlx::AssertSqlSafe(set)).execute(&mut newer).await.unwrap();
            assert_eq!(changed.rows_affected(), 1, "{table}");
        }
    }
    newer.close().await.unwrap();
    let (database, store) = open(&folder).await;
    let of = |records: Vec<WorkspaceRecord>| {
        records.iter().map(|record| record.workspace).collect::<BTreeSet<_>>()
    };
    let readable = BTreeSet::from([known, worded]);
    assert_eq!(of(store.snapshot(ORG).await.unwrap().0), readable);
    assert_eq!(of(store.changes_after(ORG, Revision(0), 10).await.unwrap()), readable);
    assert_eq!(store.get(ORG, worded).await.unwrap().unwrap().reason, None);
    assert!(store.get(ORG, unread).await.is_err(), "whoever asks for that one hears so");
    // what is left out ends no page and no watch
    let page = of(store.list(ORG, false, None, 2).await.unwrap());
    assert_eq!(page, readable);
    let mut seen = Revision(0);
    for workspace in [known, worded] {
        let told = store.changes_after(ORG, seen, 1).await.unwrap();
        assert_eq!(told.iter().map(|told| told.workspace).collect::<Vec<_>>(), [workspace]);
        seen = told[0].revision;
    }
    // the provider's news of the others are taken over, and the two agree
    let news =
        [0, 1].map(|n| instance(&made[n], IntentNumber(1), Phase::Booting, 5 + i64::try_from(n).unwrap()));
    store.mirror(ORG, &news, &[], at(2)).await.unwrap();
    assert_eq!(store.get(ORG, known).await.unwrap().unwrap().phase, Phase::Booting);
    let provider = Standpoint { incarnation: IncarnationId::generate(), revision: Revision(6) };
    let met = Met { provider, seen: vec![], agreed: false };
    let agreed = store.agree(ORG, &met, &news, &PlainMinter, at(3)).await.unwrap();
    assert_eq!(agreed.recovered, [], "what can't be read is no stranger's");
    let held = agreed.waiting.iter().find(|(workspace, _)| *workspace == unread);
    assert_eq!(held, Some(&(unread, IntentNumber(i64::MAX))), "and nobody launches it or takes it away");
    // an event that can't be read leaves room for the next one on its page
    let detail = EventDetail {
        kind: "up".into(),
        actor: Actor::Engine,
        generation: Generation(1),
        reason: None,
        message: "up".to_owned(),
        exit_code: None,
        log_tail: String::new(),
    };
    let told = Event { id: 1, workspace: known, at: at(4), detail };
    store.mirror(ORG, &[], &[told], at(4)).await.unwrap();
    let events = store.events(known, None, 10).await.unwrap();
    assert_eq!(events.len(), 1);
    let mut newer = SqliteConnectOptions::new().filename(folder.path().join("t.db")).connect().await.unwrap();
    let add = format!(
        "INSERT INTO events (organization_id, workspace_id, at, detail) VALUES ('{ORG}', '{known}', 4, '[]')"
    );
    sqlx::query(sqlx::AssertSqlSafe(add)).execute(&mut newer).await.unwrap();
    assert_eq!(store.events(known, None, 1).await.unwrap(), events);
    // once it can be read, what was passed over of it is taken over
    assert_eq!(store.cursors(ORG).await.unwrap().revision, Revision(6));
    database.close().await;
    let set = format!(
        "UPDATE workspaces SET record = json_set(record, '$.phase', 'Admitted') WHERE workspace_id = '{unread}'"
    );
    assert_eq!(sqlx::query(sqlx::AssertSqlSafe(set)).execute(&mut newer).await.unwrap().rows_affected(), 1);
    newer.close().await.unwrap();
    let (database, store) = open(&folder).await;
    assert_eq!(store.cursors(ORG).await.unwrap().revision, Revision(0));
    store.mirror(ORG, &news, &[], at(5)).await.unwrap();
    assert_eq!(store.get(ORG, unread).await.unwrap().unwrap().phase, Phase::Booting);
    database.close().await;
    let (_database, store) = open(&folder).await;
    assert_eq!(store.cursors(ORG).await.unwrap().revision, Revision(6), "and only once");
}
