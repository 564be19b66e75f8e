//! All of tenant-svc's tables, in one `SQLite` file: the engine's [store](engine::EngineStore) and the
//! [tenant's own](tenant::SqliteStore).
//!
//! One method is one transaction. Every write begins IMMEDIATE on the one writer connection, because a
//! deferred upgrade fails at once, busy timeout or not; reads go through connections of their own and never
//! wait for it.

mod codec;
pub mod engine;
pub mod tenant;

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use molecule_domain::Clock;
use molecule_domain::clock::SystemClock;
use molecule_domain::id::OrganizationId;
use molecule_provisioner::store::StoreError;
use molecule_provisioner::wakes::Wakes;
use sqlx::migrate::MigrateError;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Sqlite, Transaction};
use tokio::sync::watch;

pub(crate) type Tx = Transaction<'static, Sqlite>;

/// Longer than any call to a provider takes.
const LONGEST_CALL: Duration = Duration::from_secs(120);

/// An open database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Database {
    writer: SqlitePool,
    reader: SqlitePool,
    /// Wakes after commits of the engine's tables.
    engine_wakes: Arc<Wakes>,
    /// Rises after commits of the tenant's tables.
    tenant_commits: watch::Sender<u64>,
}

impl Database {
    /// Opens the file, makes it where there is none, and brings its tables up to date. The caller must be the
    /// only process that uses it: leases that an earlier process left are ended here.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // what was answered must outlive a power cut
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(10))
            .optimize_on_close(true, None)
            .foreign_keys(true)
            // `enabled!`, which it asks for every statement, leaves the state of per-layer filters behind for the next span
            .disable_statement_logging();
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            // nothing hangs up on a file
            .test_before_acquire(false)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options.clone())
            .await
            .map_err(codec::unavailable)?;
        let mut migrations = sqlx::migrate!();
        // a newer version may have brought the tables further: they only grow, so this one may start over them again
        migrations.set_ignore_missing(true);
        migrations.run(&writer).await.map_err(|error| match error {
            MigrateError::VersionMismatch(migration) => StoreError::OtherTables { migration },
            error => StoreError::Unavailable(Box::new(error)),
        })?;
        let now = SystemClock.now();
        let (call_ends, now) = ((now + LONGEST_CALL).micros(), now.micros());
        // what an earlier process held is due at once, and its roles are free
        for query in [
            sqlx::query!(
                "UPDATE instances SET lease_owner = NULL, lease_until = 0, due_at = 0 WHERE lease_owner IS NOT NULL",
            ),
            sqlx::query!("DELETE FROM roles"),
            // nothing is later than now: the clock was set back meanwhile
            sqlx::query!(
                "UPDATE instances SET due_at = MIN(due_at, ?1), phase_since = MIN(phase_since, ?1),
                     up_since = MIN(up_since, ?1), attempt_created_at = MIN(attempt_created_at, ?1),
                     attempt_call_until = MIN(attempt_call_until, ?2),
                     attempt_unsure_until = MIN(attempt_unsure_until, ?2)
                 WHERE due_at > ?1 OR phase_since > ?1 OR up_since > ?1 OR attempt_created_at > ?1
                     OR attempt_call_until > ?2 OR attempt_unsure_until > ?2",
                now,
                call_ends,
            ),
        ] {
            query.execute(&writer).await.map_err(codec::unavailable)?;
        }
        let reader = SqlitePoolOptions::new()
            .max_connections(4)
            .test_before_acquire(false)
            // what a reader can't do would leave its connection to end by itself, after the writer's, which then does not take the
            // write-ahead log into the file
            .connect_with(options.read_only(true).optimize_on_close(false, None))
            .await
            .map_err(codec::unavailable)?;
        Ok(Self { writer, reader, engine_wakes: Arc::default(), tenant_commits: watch::Sender::new(0) })
    }

    /// Waits for what is under way and closes the file.
    pub async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }

    /// A value that was stored once under this name; stores `default` where there is none.
    pub async fn setting<T>(&self, name: &str, default: impl FnOnce() -> T + Send) -> Result<T, StoreError>
    where
        T: FromStr + ToString + Send,
    {
        let mut tx = self.begin().await?;
        let stored = sqlx::query_scalar!("SELECT value FROM settings WHERE name = ?", name)
            .fetch_optional(&mut *tx)
            .await
            .map_err(codec::unavailable)?;
        let value = if let Some(text) = stored {
            text.parse().map_err(|_| codec::corrupt(format!("the setting {name}")))?
        } else {
            let value = default();
            let text = value.to_string();
            sqlx::query!("INSERT INTO settings (name, value) VALUES (?, ?)", name, text)
                .execute(&mut *tx)
                .await
                .map_err(codec::unavailable)?;
            value
        };
        tx.commit().await.map_err(codec::unavailable)?;
        Ok(value)
    }

    /// Commits what changed of an organisation's instances, then wakes whoever waits for that.
    pub(crate) async fn commit_engine(&self, tx: Tx, organization: OrganizationId) -> Result<(), StoreError> {
        tx.commit().await.map_err(codec::unavailable)?;
        self.engine_wakes.committed(organization);
        Ok(())
    }

    pub(crate) async fn begin(&self) -> Result<Tx, StoreError> {
        self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(codec::unavailable)
    }
}

/// Commits, then wakes whoever waits for commits.
pub(crate) async fn commit(tx: Tx, commits: &watch::Sender<u64>) -> Result<(), StoreError> {
    tx.commit().await.map_err(codec::unavailable)?;
    commits.send_modify(|count| *count += 1);
    Ok(())
}
