//! What the provider has still to be told, and what it answered.

use molecule_domain::Timestamp;
use molecule_domain::id::{IntentNumber, WorkspaceId};
use molecule_domain::store::StoreError;
use molecule_workspace::aggregate::{Answer, SideEffects};
use molecule_workspace::record::WorkspaceRecord;
use molecule_workspace::{Entry, Workspace};

use super::SqliteStore;
use crate::codec::{id, unavailable};

impl SqliteStore {
    pub(super) async fn waiting_workspaces(&self) -> Result<Vec<WorkspaceId>, StoreError> {
        let rows = sqlx::query_scalar!(
            r#"SELECT workspace_id AS "workspace_id!" FROM outbox GROUP BY workspace_id ORDER BY MIN(asked_at), workspace_id"#,
        )
        .fetch_all(&self.database.reader)
        .await
        .map_err(unavailable)?;
        rows.iter().map(|row| id(row)).collect()
    }

    pub(super) async fn begin_first_call(
        &self,
        workspace: WorkspaceId,
    ) -> Result<Option<(WorkspaceRecord, Entry)>, StoreError> {
        // the writer's connection, so that no change composes the entry away meanwhile; nothing is written
        let mut tx = self.database.begin().await?;
        let Some(found) = self.load_workspace(&mut tx, workspace, false).await? else { return Ok(None) };
        let Some(mut first) = found.outbox.into_iter().next() else { return Ok(None) };
        self.untold().remove(&(workspace, first.number));
        first.begun = true;
        Ok(Some((found.record, first)))
    }

    pub(super) async fn take_answer(
        &self,
        workspace: WorkspaceId,
        number: IntentNumber,
        answer: &Answer,
        now: Timestamp,
    ) -> Result<Option<WorkspaceRecord>, StoreError> {
        let refused = matches!(answer, Answer::Refused(_));
        self.update(workspace, refused, now, |found| found.answered(number, answer, now, self.own)).await
    }

    pub(super) async fn note_failure(
        &self,
        workspace: WorkspaceId,
        number: IntentNumber,
        cause: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.update(workspace, false, now, |found| found.call_failed(number, cause)).await.map(drop)
    }

    /// One transaction that changes a workspace by a rule. A rule that changes nothing writes nothing.
    async fn update(
        &self,
        workspace: WorkspaceId,
        private: bool,
        now: Timestamp,
        rule: impl FnOnce(&mut Workspace) -> SideEffects + Send,
    ) -> Result<Option<WorkspaceRecord>, StoreError> {
        let mut tx = self.database.begin().await?;
        let Some(before) = self.load_workspace(&mut tx, workspace, private).await? else { return Ok(None) };
        let mut after = before.clone();
        let effects = rule(&mut after);
        if after == before && effects == SideEffects::default() {
            return Ok(Some(before.record));
        }
        let saved = self.save(&mut tx, &before, after, effects, now).await?;
        self.commit(tx).await?;
        Ok(Some(saved))
    }
}
