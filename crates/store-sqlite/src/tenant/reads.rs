//! Reading: one workspace, pages, history, events.

use molecule_domain::Timestamp;
use molecule_domain::error::{Error, ErrorReason};
use molecule_domain::id::{OrganizationId, Revision, WorkspaceId};
use molecule_provisioner::store::StoreError;

use super::model::{StoredEvent, WorkspaceRecord};
use super::{TenantStore, load};
use crate::codec::{from_json, unavailable};

/// Where a page of workspaces begins: behind the last one of the page before.
pub type Place = (i64, String);

impl TenantStore {
    /// One workspace.
    pub async fn get(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
    ) -> Result<Option<WorkspaceRecord>, StoreError> {
        let mut db = self.0.reader.acquire().await.map_err(unavailable)?;
        load(&mut db, organization, workspace).await
    }

    /// The sealed config files and secrets of a workspace.
    pub async fn private(&self, workspace: WorkspaceId) -> Result<Option<Vec<u8>>, StoreError> {
        let workspace = workspace.to_string();
        sqlx::query_scalar!("SELECT private FROM workspaces WHERE workspace_id = ?", workspace)
            .fetch_optional(&self.0.reader)
            .await
            .map_err(unavailable)
    }

    /// Workspaces in order of creation, behind `after`, at most so many.
    pub async fn list(
        &self,
        organization: OrganizationId,
        show_deleted: bool,
        after: Option<Place>,
        limit: u32,
    ) -> Result<Vec<WorkspaceRecord>, StoreError> {
        let organization = organization.to_string();
        let (created_at, id) = after.unwrap_or((i64::MIN, String::new()));
        let rows = sqlx::query_scalar!(
            "SELECT record FROM workspaces
             WHERE organization_id = ? AND (created_at, workspace_id) > (?, ?) AND (? OR deleted_at IS NULL)
             ORDER BY created_at, workspace_id LIMIT ?",
            organization,
            created_at,
            id,
            show_deleted,
            limit,
        )
        .fetch_all(&self.0.reader)
        .await
        .map_err(unavailable)?;
        rows.iter().map(|row| from_json(row, "a workspace")).collect()
    }

    /// Everything that is, and the revision at which it is so.
    pub async fn snapshot(
        &self,
        organization: OrganizationId,
    ) -> Result<(Vec<WorkspaceRecord>, Revision), StoreError> {
        let organization = organization.to_string();
        let mut tx = self.0.reader.begin().await.map_err(unavailable)?;
        let rows = sqlx::query_scalar!(
            "SELECT record FROM workspaces WHERE organization_id = ? AND deleted_at IS NULL
             ORDER BY created_at, workspace_id",
            organization,
        )
        .fetch_all(&mut *tx)
        .await
        .map_err(unavailable)?;
        let revision =
            sqlx::query_scalar!("SELECT revision FROM tenant_state WHERE organization_id = ?", organization)
                .fetch_optional(&mut *tx)
                .await
                .map_err(unavailable)?;
        let records = rows.iter().map(|row| from_json(row, "a workspace")).collect::<Result<_, _>>()?;
        Ok((records, Revision(revision.unwrap_or(0))))
    }

    /// The changes after a revision, in order, at most so many. Too old a revision, and one that is yet to
    /// come, are out of range.
    pub async fn changes_after(
        &self,
        organization: OrganizationId,
        after: Revision,
        limit: u32,
    ) -> Result<Vec<WorkspaceRecord>, StoreError> {
        let organization = organization.to_string();
        let mut tx = self.0.reader.begin().await.map_err(unavailable)?;
        let bounds = sqlx::query!(
            "SELECT revision, forgotten FROM tenant_state WHERE organization_id = ?",
            organization,
        )
        .fetch_optional(&mut *tx)
        .await
        .map_err(unavailable)?;
        let (newest, forgotten) = bounds.map_or((0, 0), |row| (row.revision, row.forgotten));
        if after.0 < forgotten || after.0 > newest {
            let problem =
                if after.0 < forgotten { "is older than the history kept" } else { "has not come yet" };
            return Err(Error::new(
                ErrorReason::RevisionTooOld,
                format!("revision {after} {problem}; start the watch over with 0"),
            )
            .into());
        }
        let rows = sqlx::query_scalar!(
            "SELECT record FROM changes WHERE organization_id = ? AND revision > ? ORDER BY revision LIMIT ?",
            organization,
            after.0,
            limit,
        )
        .fetch_all(&mut *tx)
        .await
        .map_err(unavailable)?;
        rows.iter().map(|row| from_json(row, "a change")).collect()
    }

    /// The events of a workspace, newest first, before an id, at most so many.
    pub async fn events(
        &self,
        workspace: WorkspaceId,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let (id, before) = (workspace.to_string(), before.unwrap_or(i64::MAX));
        let rows = sqlx::query!(
            "SELECT event_id, at, detail FROM events WHERE workspace_id = ? AND event_id < ?
             ORDER BY event_id DESC LIMIT ?",
            id,
            before,
            limit,
        )
        .fetch_all(&self.0.reader)
        .await
        .map_err(unavailable)?;
        rows.into_iter()
            .map(|row| {
                Ok(StoredEvent {
                    id: row.event_id,
                    workspace,
                    at: Timestamp::from_micros(row.at),
                    detail: from_json(&row.detail, "an event")?,
                })
            })
            .collect()
    }
}
