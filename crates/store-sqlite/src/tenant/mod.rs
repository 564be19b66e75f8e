//! The tenant's own store: workspaces with their outboxes, what watchers are told, credentials, networks.

mod agents;
mod agreement;
mod changes;
mod mirror;
pub mod networks;
mod outbox;
mod reads;
mod requests;
mod rows;
mod store;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use molecule_domain::Timestamp;
use molecule_domain::id::{IncarnationId, IntentNumber, WorkspaceId};
use molecule_domain::store::StoreError;
use sqlx::SqliteConnection;

use crate::codec::unavailable;
use crate::{Database, commit};

/// The tenant's store over an open database.
#[derive(Clone)]
pub struct SqliteStore {
    database: Database,
    /// This start.
    own: IncarnationId,
    /// Entries of outboxes that this process has stored and of which it has begun no call.
    untold: Arc<Mutex<BTreeSet<(WorkspaceId, IntentNumber)>>>,
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SqliteStore")
    }
}

impl SqliteStore {
    /// The tenant's store in this database, as a new start over it. Calls of all that is in its outboxes now count as
    /// begun. `now` is by the clock that it is asked with later, which never steps back.
    pub async fn open(database: Database, now: Timestamp) -> Result<Self, StoreError> {
        let own = IncarnationId::generate();
        agreement::begin(&database, own, now).await?;
        Ok(Self { database, own, untold: Arc::default() })
    }

    /// The start that this is.
    pub const fn incarnation(&self) -> IncarnationId {
        self.own
    }

    fn untold(&self) -> MutexGuard<'_, BTreeSet<(WorkspaceId, IntentNumber)>> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn commit(&self, tx: crate::Tx) -> Result<(), StoreError> {
        commit(tx, &self.database.tenant_commits).await
    }

    async fn prune_old(&self, day_ago: Timestamp, month_ago: Timestamp) -> Result<(), StoreError> {
        let (day_ago, month_ago) = (day_ago.micros(), month_ago.micros());
        let mut tx = self.database.begin().await?;
        prune_changes(&mut tx, day_ago).await?;
        for query in [
            sqlx::query!("DELETE FROM events WHERE at < ?", month_ago),
            sqlx::query!("DELETE FROM workspaces WHERE deleted_at < ?", month_ago),
            sqlx::query!(
                "DELETE FROM request_keys WHERE at < ?
                     AND NOT (creates AND workspace_id IN (
                         SELECT workspace_id FROM workspaces WHERE deleted_at IS NULL))
                     AND workspace_id NOT IN (SELECT workspace_id FROM outbox)",
                day_ago,
            ),
        ] {
            query.execute(&mut *tx).await.map_err(unavailable)?;
        }
        tx.commit().await.map_err(unavailable)
    }
}

async fn prune_changes(db: &mut SqliteConnection, day_ago: i64) -> Result<(), StoreError> {
    // a change's revision is never behind the clock, so what is below the day's is older than a day
    for query in [
        sqlx::query!(
            "UPDATE tenant_state SET forgotten = MAX(forgotten, COALESCE((
                 SELECT MAX(revision) FROM changes
                 WHERE changes.organization_id = tenant_state.organization_id AND revision < ?), 0))",
            day_ago,
        ),
        sqlx::query!(
            "DELETE FROM changes
             WHERE organization_id IN (SELECT organization_id FROM tenant_state) AND revision < ?",
            day_ago,
        ),
    ] {
        query.execute(&mut *db).await.map_err(unavailable)?;
    }
    Ok(())
}
