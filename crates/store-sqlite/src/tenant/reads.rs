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
        let (mut created_at, mut id) = after.unwrap_or((i64::MIN, String::new()));
        let mut found = Page::of(limit);
        while found.left() > 0 {
            let left = found.left();
            let rows = sqlx::query!(
                "SELECT created_at, workspace_id, record FROM workspaces
                 WHERE organization_id = ? AND (created_at, workspace_id) > (?, ?) AND (? OR deleted_at IS NULL)
                 ORDER BY created_at, workspace_id LIMIT ?",
                organization,
                created_at,
                id,
                show_deleted,
                left,
            )
            .fetch_all(&self.database.reader)
            .await
            .map_err(unavailable)?;
            let Some(last) = rows.last() else { break };
            (created_at, id) = (last.created_at, last.workspace_id.clone());
            found.add(rows.iter().map(|row| from_json(&row.record, "a workspace")))?;
        }
        Ok(found.all)
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
        let (mut at, mut found) = (after.0, Page::of(limit));
        while found.left() > 0 {
            let left = found.left();
            let rows = sqlx::query!(
                "SELECT revision, record FROM changes WHERE organization_id = ? AND revision > ?
                 ORDER BY revision LIMIT ?",
                organization,
                at,
                left,
            )
            .fetch_all(&mut *tx)
            .await
            .map_err(unavailable)?;
            let Some(last) = rows.last() else { break };
            at = last.revision;
            found.add(rows.iter().map(|row| from_json(&row.record, "a change")))?;
        }
        Ok(found.all)
    }

    pub(super) async fn read_events(
        &self,
        workspace: WorkspaceId,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let (id, mut before) = (workspace.to_string(), before.unwrap_or(i64::MAX));
        let mut found = Page::of(limit);
        while found.left() > 0 {
            let left = found.left();
            let rows = sqlx::query!(
                "SELECT event_id, at, detail FROM events WHERE workspace_id = ? AND event_id < ?
                 ORDER BY event_id DESC LIMIT ?",
                id,
                before,
                left,
            )
            .fetch_all(&self.database.reader)
            .await
            .map_err(unavailable)?;
            let Some(last) = rows.last() else { break };
            before = last.event_id;
            found.add(rows.iter().map(|row| {
                let (id, at) = (row.event_id, Timestamp::from_micros(row.at));
                let detail = from_json(&row.detail, "an event");
                detail.map(|detail| StoredEvent { id, workspace, at, detail })
            }))?;
        }
        Ok(found.all)
    }
}

/// What can be read of a page: what can't leaves room for what comes behind it, so that a page that is not full is the last.
struct Page<T> {
    all: Vec<T>,
    limit: u32,
}

impl<T> Page<T> {
    const fn of(limit: u32) -> Self {
        Self { all: Vec::new(), limit }
    }

    fn left(&self) -> u32 {
        self.limit.saturating_sub(u32::try_from(self.all.len()).unwrap_or(u32::MAX))
    }

    fn add(&mut self, rows: impl Iterator<Item = Result<T, StoreError>>) -> Result<(), StoreError> {
        for row in rows {
            self.all.extend(readable(row).transpose()?);
        }
        Ok(())
    }
}
