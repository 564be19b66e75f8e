//! All of controlplane-svc's tables, in PostgreSQL: the engine's [store](engine::EngineStore) and the
//! [accounts](accounts::Accounts).
//!
//! One method is one transaction. Each has a name, by which it is counted, and is tried again where it only
//! lost a race against another. Locks are taken in one order: the instance's row, then the organisation's.

pub mod accounts;
mod boots;
mod codec;
pub mod engine;
mod identity;
mod membership;
pub mod networks;
mod notify;
mod pruning;
mod sessions;
mod sqlstate;
mod tenants;
mod transactions;

use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use molecule_domain::Timestamp;
use molecule_domain::id::OrganizationId;
use molecule_provisioner::store::StoreError;
use molecule_provisioner::store::codec::corrupt;
use molecule_provisioner::wakes::Wakes;
use sqlx::migrate::MigrateError;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgPool, Postgres, Transaction};
use tokio_util::sync::CancellationToken;

pub use self::boots::BootReport;
pub use self::identity::{DatabaseIdentity, Identities};
pub use self::membership::{Membership, Place};
use self::notify::Notifier;
pub use self::sessions::{Meeting, Process, Recovered, SESSION, Seen};
use self::sqlstate::store_error;
pub use self::tenants::{Agreement, Missing};
pub use self::transactions::Counts;
use self::transactions::Transactions;

type Tx = Transaction<'static, Postgres>;

/// How long a connection counts as tested after the pool has tested it, which it does with each that is given back. A test is
/// one round trip to the server.
const TESTED_FOR: Duration = Duration::from_secs(1);

/// An open database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Database {
    pool: PgPool,
    transactions: Arc<Transactions>,
    wakes: Arc<Wakes>,
    notifier: Notifier,
    options: Arc<PgConnectOptions>,
    /// The database that new connections must lead to.
    expected: Arc<Mutex<Option<DatabaseIdentity>>>,
}

impl Database {
    /// Connects and brings the tables up to date. Several replicas may do so at once, and an older version may
    /// still be running. Listens for other replicas' commits until cancelled.
    pub async fn open(url: &str, connections: u32, cancel: CancellationToken) -> Result<Self, StoreError> {
        let options = PgConnectOptions::from_str(url).map_err(store_error)?;
        let options = options.application_name("controlplane-svc").options([
            // an abandoned transaction must not keep an organisation locked
            ("idle_in_transaction_session_timeout", "30s"),
            ("lock_timeout", "20s"),
            ("statement_timeout", "60s"),
            // statements are few, and each reads by keys: planning them anew costs as much as running them
            ("plan_cache_mode", "force_generic_plan"),
        ]);
        // `enabled!`, which it asks for every statement, leaves the state of per-layer filters behind for the next span
        let options = options.disable_statement_logging();
        let expected: Arc<Mutex<Option<DatabaseIdentity>>> = Arc::default();
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(Duration::from_secs(10))
            .test_before_acquire(false)
            .before_acquire(|db, meta| {
                Box::pin(async move {
                    if meta.idle_for >= TESTED_FOR {
                        db.ping().await?;
                    }
                    Ok(true)
                })
            })
            .after_connect({
                let expected = Arc::clone(&expected);
                move |db, _| Box::pin(membership::expect(db, Arc::clone(&expected)))
            })
            .connect_with(options.clone())
            .await
            .map_err(store_error)?;
        let mut migrations = sqlx::migrate!();
        // a newer version may have brought the tables further: they only grow, so this one may start over them again
        migrations.set_ignore_missing(true);
        migrations.run(&pool).await.map_err(|error| match error {
            MigrateError::VersionMismatch(migration) => StoreError::OtherTables { migration },
            error => StoreError::Unavailable(Box::new(error)),
        })?;
        let wakes = Arc::new(Wakes::default());
        let notifier = Notifier::start(pool.clone(), Arc::clone(&wakes), cancel);
        Ok(Self { pool, transactions: Arc::default(), wakes, notifier, options: Arc::new(options), expected })
    }

    /// Closes all connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// What the database's clock says: the one clock that all replicas share.
    pub async fn now(&self) -> Result<Timestamp, StoreError> {
        let now = sqlx::query_scalar!(r#"SELECT clock_timestamp() AS "now!""#)
            .fetch_one(&self.pool)
            .await
            .map_err(store_error)?;
        Ok(codec::moment(now))
    }

    /// How often each transaction ran, was tried again, and failed.
    pub fn counts(&self) -> Vec<(&'static str, Counts)> {
        self.transactions.counts()
    }

    /// A value that was stored once under this name; stores `default` where there is none.
    pub async fn setting<T>(&self, name: &str, default: impl Fn() -> T + Send + Sync) -> Result<T, StoreError>
    where
        T: FromStr + ToString + Send,
    {
        let once = || async {
            let mut tx = self.begin().await?;
            let value = default().to_string();
            let stored = sqlx::query_scalar!(
                "INSERT INTO settings (name, value) VALUES ($1, $2)
                 ON CONFLICT (name) DO UPDATE SET value = settings.value RETURNING value",
                name,
                value,
            )
            .fetch_one(&mut *tx)
            .await
            .map_err(store_error)?;
            tx.commit().await.map_err(store_error)?;
            stored.parse().map_err(|_| corrupt(format!("the setting {name}")))
        };
        self.transactions.run("setting", once).await
    }

    async fn begin(&self) -> Result<Tx, StoreError> {
        self.pool.begin().await.map_err(store_error)
    }

    /// Commits what changed of an organisation's, then wakes whoever waits for it, here and in other replicas.
    async fn commit(&self, tx: Tx, organization: OrganizationId) -> Result<(), StoreError> {
        tx.commit().await.map_err(store_error)?;
        self.wakes.committed(organization);
        self.notifier.tell(organization);
        Ok(())
    }
}
