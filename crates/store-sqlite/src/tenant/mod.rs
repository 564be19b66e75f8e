//! The tenant's own store: intent, mirror, agents, credentials, networks.

mod agents;
mod intents;
mod mirror;
pub mod model;
pub mod networks;
mod pending;
mod reads;
mod requests;

use std::fmt;

use molecule_domain::id::{OrganizationId, Revision, WorkspaceId};
use molecule_domain::{Error, Timestamp};
use molecule_provisioner::model::EventDetail;
use molecule_provisioner::store::StoreError;
use sqlx::SqliteConnection;
use tokio::sync::watch;

pub use self::agents::{Redeemed, Redemption};
pub use self::intents::{ChangeIntent, NewWorkspace};
use self::model::WorkspaceRecord;
pub use self::reads::Place;
use crate::Database;
use crate::codec::{from_json, json, unavailable};

/// The tenant's store over an open database.
#[derive(Clone)]
pub struct TenantStore(Database);

impl fmt::Debug for TenantStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TenantStore")
    }
}

impl TenantStore {
    /// The tenant's store in this database.
    pub const fn new(database: Database) -> Self {
        Self(database)
    }

    /// Rises after every commit that a watcher may see.
    pub fn commits(&self) -> watch::Receiver<u64> {
        self.0.tenant_commits.subscribe()
    }

    /// Drops what is kept no longer: changes and free request keys after a day, events and deleted
    /// workspaces after thirty.
    pub async fn prune(&self, day_ago: Timestamp, month_ago: Timestamp) -> Result<(), StoreError> {
        let (day_ago, month_ago) = (day_ago.micros(), month_ago.micros());
        let mut tx = self.0.begin().await?;
        sqlx::query!(
            "UPDATE tenant_state SET forgotten = MAX(forgotten, COALESCE((
                 SELECT MAX(revision) FROM changes
                 WHERE changes.organization_id = tenant_state.organization_id AND at < ?), 0))",
            day_ago,
        )
        .execute(&mut *tx)
        .await
        .map_err(unavailable)?;
        sqlx::query!("DELETE FROM changes WHERE at < ?", day_ago)
            .execute(&mut *tx)
            .await
            .map_err(unavailable)?;
        sqlx::query!("DELETE FROM events WHERE at < ?", month_ago)
            .execute(&mut *tx)
            .await
            .map_err(unavailable)?;
        sqlx::query!("DELETE FROM workspaces WHERE deleted_at < ?", month_ago)
            .execute(&mut *tx)
            .await
            .map_err(unavailable)?;
        sqlx::query!(
            "DELETE FROM request_keys WHERE at < ? AND workspace_id NOT IN (
                 SELECT workspace_id FROM workspaces WHERE deleted_at IS NULL)",
            day_ago,
        )
        .execute(&mut *tx)
        .await
        .map_err(unavailable)?;
        tx.commit().await.map_err(unavailable)
    }
}

/// The workspace of an organisation, inside a transaction.
async fn load(
    db: &mut SqliteConnection,
    organization: OrganizationId,
    workspace: WorkspaceId,
) -> Result<Option<WorkspaceRecord>, StoreError> {
    let (organization, workspace) = (organization.to_string(), workspace.to_string());
    let record = sqlx::query_scalar!(
        "SELECT record FROM workspaces WHERE workspace_id = ? AND organization_id = ?",
        workspace,
        organization,
    )
    .fetch_optional(db)
    .await
    .map_err(unavailable)?;
    record.map(|record| from_json(&record, "a workspace")).transpose()
}

async fn load_existing(
    db: &mut SqliteConnection,
    organization: OrganizationId,
    workspace: WorkspaceId,
) -> Result<WorkspaceRecord, StoreError> {
    let found = load(db, organization, workspace).await?;
    found.ok_or_else(|| Error::workspace_not_found(workspace).into())
}

/// Writes a workspace that a watcher sees changed: under the next revision, and into the history.
async fn save(
    db: &mut SqliteConnection,
    record: &mut WorkspaceRecord,
    now: Timestamp,
) -> Result<(), StoreError> {
    let organization = record.organization.to_string();
    let revision = sqlx::query_scalar!(
        "INSERT INTO tenant_state (organization_id, revision) VALUES (?, 1)
         ON CONFLICT (organization_id) DO UPDATE SET revision = revision + 1
         RETURNING revision",
        organization,
    )
    .fetch_one(&mut *db)
    .await
    .map_err(unavailable)?;
    record.revision = Revision(revision);
    record.updated_at = now;
    save_quietly(db, record).await?;
    let (text, at) = (json(record)?, now.micros());
    sqlx::query!(
        "INSERT INTO changes (organization_id, revision, at, record) VALUES (?, ?, ?, ?)",
        organization,
        revision,
        at,
        text,
    )
    .execute(db)
    .await
    .map_err(unavailable)?;
    Ok(())
}

/// Writes a workspace without telling watchers.
async fn save_quietly(db: &mut SqliteConnection, record: &WorkspaceRecord) -> Result<(), StoreError> {
    let workspace = record.workspace.to_string();
    let (text, deleted_at) = (json(record)?, record.deleted_at.map(Timestamp::micros));
    sqlx::query!(
        "UPDATE workspaces SET record = ?, revision = ?, deleted_at = ?, intent = ? WHERE workspace_id = ?",
        text,
        record.revision.0,
        deleted_at,
        record.intent.0,
        workspace,
    )
    .execute(db)
    .await
    .map_err(unavailable)?;
    Ok(())
}

async fn tell(
    db: &mut SqliteConnection,
    organization: OrganizationId,
    workspace: WorkspaceId,
    at: Timestamp,
    detail: &EventDetail,
) -> Result<(), StoreError> {
    let (organization, workspace, at, detail) =
        (organization.to_string(), workspace.to_string(), at.micros(), json(detail)?);
    sqlx::query!(
        "INSERT INTO events (organization_id, workspace_id, at, detail) VALUES (?, ?, ?, ?)",
        organization,
        workspace,
        at,
        detail,
    )
    .execute(db)
    .await
    .map_err(unavailable)?;
    Ok(())
}
