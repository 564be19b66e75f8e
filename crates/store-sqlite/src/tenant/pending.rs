//! What the engine has not been told of.

use molecule_domain::id::{IntentNumber, WorkspaceId};
use molecule_provisioner::store::StoreError;

use super::TenantStore;
use super::model::Pending;
use crate::codec::{from_json, unavailable};

struct PendingRow {
    record: String,
    pending: Option<String>,
    pending_token: Option<Vec<u8>>,
}

impl TryFrom<PendingRow> for Pending {
    type Error = StoreError;

    fn try_from(row: PendingRow) -> Result<Self, StoreError> {
        Ok(Self {
            record: from_json(&row.record, "a workspace")?,
            intent: from_json(&row.pending.unwrap_or_default(), "an intent")?,
            sealed_token: row.pending_token,
        })
    }
}

impl TenantStore {
    /// The engine has been told of everything up to this intent.
    pub async fn forwarded(&self, workspace: WorkspaceId, intent: IntentNumber) -> Result<(), StoreError> {
        let id = workspace.to_string();
        let mut tx = self.0.begin().await?;
        sqlx::query!(
            "UPDATE workspaces SET forwarded = MAX(forwarded, ?),
                 pending = CASE WHEN intent = ? THEN NULL ELSE pending END,
                 pending_token = CASE WHEN intent = ? THEN NULL ELSE pending_token END,
                 record_before = CASE WHEN intent = ? THEN NULL ELSE record_before END,
                 private_before = CASE WHEN intent = ? THEN NULL ELSE private_before END
             WHERE workspace_id = ?",
            intent.0,
            intent.0,
            intent.0,
            intent.0,
            intent.0,
            id,
        )
        .execute(&mut *tx)
        .await
        .map_err(unavailable)?;
        tx.commit().await.map_err(unavailable)
    }

    /// What the engine has not been told of.
    pub async fn pending(&self) -> Result<Vec<Pending>, StoreError> {
        let rows = sqlx::query_as!(
            PendingRow,
            "SELECT record, pending, pending_token FROM workspaces WHERE intent > forwarded AND pending IS NOT NULL",
        )
        .fetch_all(&self.0.reader)
        .await
        .map_err(unavailable)?;
        rows.into_iter().map(Pending::try_from).collect()
    }

    /// One workspace's intent that the engine has not been told of.
    pub async fn pending_of(&self, workspace: WorkspaceId) -> Result<Option<Pending>, StoreError> {
        let id = workspace.to_string();
        let row = sqlx::query_as!(
            PendingRow,
            "SELECT record, pending, pending_token FROM workspaces
             WHERE workspace_id = ? AND intent > forwarded AND pending IS NOT NULL",
            id,
        )
        .fetch_optional(&self.0.reader)
        .await
        .map_err(unavailable)?;
        row.map(Pending::try_from).transpose()
    }
}
