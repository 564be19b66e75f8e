//! Reading: one workspace, pages, history, events.

use molecule_domain::Timestamp;
use molecule_domain::id::{OrganizationId, Revision, WorkspaceId};
use molecule_domain::store::StoreError;
use molecule_workspace::Workspace;
use molecule_workspace::record::{StoredEvent, WorkspaceRecord};
use molecule_workspace::store::{Place, check_revision, is_of_lost_time};

use super::SqliteStore;
use super::rows::load_record;
use crate::codec::{from_json, readable, unavailable};

impl SqliteStore {
    pub(super) async fn read(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
    ) -> Result<Option<WorkspaceRecord>, StoreError> {
        let mut db = self.database.reader.acquire().await.map_err(unavailable)?;
        load_record(&mut db, organization, workspace).await
    }

    pub(super) async fn read_whole(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
    ) -> Result<Option<Workspace>, StoreError> {
        let mut tx = self.database.reader.begin().await.map_err(unavailable)?;
        let found = self.load_workspace(&mut tx, workspace, true).await?;
        Ok(found.filter(|found| found.record.organization == organization))
    }

    pub(super) async fn read_page(
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
        .fetch_all(&self.database.reader)
        .await
        .map_err(unavailable)?;
        rows.iter().filter_map(|row| readable(from_json(row, "a workspace"))).collect()
    }

    pub(super) async fn read_snapshot(
        &self,
        organization: OrganizationId,
    ) -> Result<(Vec<WorkspaceRecord>, Revision), StoreError> {
        let organization = organization.to_string();
        let mut tx = self.database.reader.begin().await.map_err(unavailable)?;
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
        let records = rows.iter().filter_map(|row| readable(from_json(row, "a workspace")));
        let records = records.collect::<Result<_, _>>()?;
        Ok((records, Revision(revision.unwrap_or(0))))
    }

    pub(super) async fn read_changes(
        &self,
        organization: OrganizationId,
        after: Revision,
        limit: u32,
    ) -> Result<Vec<WorkspaceRecord>, StoreError> {
        let organization = organization.to_string();
        let mut tx = self.database.reader.begin().await.map_err(unavailable)?;
        let bounds = sqlx::query!(
            "SELECT revision, forgotten FROM tenant_state WHERE organization_id = ?",
            organization,
        )
        .fetch_optional(&mut *tx)
        .await
        .map_err(unavailable)?;
        let (newest, forgotten) = bounds.map_or((0, 0), |row| (row.revision, row.forgotten));
        let started_at = sqlx::query_scalar!(
            "SELECT started_at FROM incarnations WHERE begins_at < ? ORDER BY place DESC LIMIT 1",
            after.0,
        )
        .fetch_optional(&mut *tx)
        .await
        .map_err(unavailable)?;
        let of_lost_time = is_of_lost_time(after, started_at.map(Timestamp::from_micros));
        check_revision(after, Revision(newest), Revision(forgotten), of_lost_time)?;
        let rows = sqlx::query_scalar!(
            "SELECT record FROM changes WHERE organization_id = ? AND revision > ? ORDER BY revision LIMIT ?",
            organization,
            after.0,
            limit,
        )
        .fetch_all(&mut *tx)
        .await
        .map_err(unavailable)?;
        rows.iter().filter_map(|row| readable(from_json(row, "a change"))).collect()
    }

    pub(super) async fn read_events(
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
        .fetch_all(&self.database.reader)
        .await
        .map_err(unavailable)?;
        let events = rows.into_iter().filter_map(|row| {
            let (id, at) = (row.event_id, Timestamp::from_micros(row.at));
            let detail = readable(from_json(&row.detail, "an event"))?;
            Some(detail.map(|detail| StoredEvent { id, workspace, at, detail }))
        });
        events.collect()
    }
}
