//! What the transactions that store wishes share: request keys and the tree of workspaces.

use molecule_domain::Timestamp;
use molecule_domain::id::{OrganizationId, WorkspaceId};
use molecule_domain::store::StoreError;
use molecule_workspace::kinship;
use molecule_workspace::record::RequestKey;
use molecule_workspace::store::{Stored, request_id_reused};
use sqlx::SqliteConnection;

use super::SqliteStore;
use super::rows::load_record;
use crate::codec::{id, unavailable};

impl SqliteStore {
    pub(super) async fn read_replayed(
        &self,
        organization: OrganizationId,
        key: &RequestKey,
    ) -> Result<Option<Stored>, StoreError> {
        let mut db = self.database.reader.acquire().await.map_err(unavailable)?;
        self.load_replayed(&mut db, organization, Some(key)).await
    }

    /// What a request's key made before.
    pub(super) async fn load_replayed(
        &self,
        db: &mut SqliteConnection,
        organization: OrganizationId,
        key: Option<&RequestKey>,
    ) -> Result<Option<Stored>, StoreError> {
        let Some(key) = key else { return Ok(None) };
        let owner = organization.to_string();
        let row = sqlx::query!(
            "SELECT fingerprint, workspace_id FROM request_keys WHERE organization_id = ? AND request_id = ?",
            owner,
            key.id,
        )
        .fetch_optional(&mut *db)
        .await
        .map_err(unavailable)?;
        let Some(row) = row else { return Ok(None) };
        if row.fingerprint != key.fingerprint {
            return Err(request_id_reused(key).into());
        }
        let found = self.load_workspace(db, id(&row.workspace_id)?, false).await?;
        Ok(found.map(|found| {
            let number = found.outbox.iter().find_map(|entry| entry.awaited_by(&key.id));
            Stored { number, record: found.record }
        }))
    }
}

pub(super) async fn remember(
    db: &mut SqliteConnection,
    organization: OrganizationId,
    key: Option<&RequestKey>,
    workspace: WorkspaceId,
    creates: bool,
    now: Timestamp,
) -> Result<(), StoreError> {
    let Some(key) = key else { return Ok(()) };
    let (organization, workspace, at) = (organization.to_string(), workspace.to_string(), now.micros());
    sqlx::query!(
        "INSERT OR REPLACE INTO request_keys (organization_id, request_id, fingerprint, workspace_id, creates, at)
         VALUES (?, ?, ?, ?, ?, ?)",
        organization,
        key.id,
        key.fingerprint,
        workspace,
        creates,
        at,
    )
    .execute(db)
    .await
    .map_err(unavailable)?;
    Ok(())
}

/// A parent must be a workspace that lives, and no descendant.
pub(super) async fn check_parent(
    db: &mut SqliteConnection,
    organization: OrganizationId,
    workspace: WorkspaceId,
    parent: Option<WorkspaceId>,
) -> Result<(), StoreError> {
    let Some(parent) = parent else { return Ok(()) };
    let (mut above, mut next) = (Vec::new(), Some(parent));
    while let Some(id) = next {
        let seen = above.iter().any(|found: &molecule_workspace::WorkspaceRecord| found.workspace == id);
        let Some(found) = load_record(&mut *db, organization, id).await?.filter(|_| !seen) else { break };
        next = found.spec.parent;
        above.push(found);
    }
    Ok(kinship::check_parent(workspace, parent, &above)?)
}
