//! What clients ask for, stored before the provider is told.

use molecule_domain::Timestamp;
use molecule_domain::error::Error;
use molecule_domain::id::{OrganizationId, WorkspaceId};
use molecule_domain::store::StoreError;
use molecule_workspace::Workspace;
use molecule_workspace::aggregate::NewWorkspace;
use molecule_workspace::record::RequestKey;
use molecule_workspace::store::{Conditions, Decide, Stored, check_etag, check_id_is_free};

use super::SqliteStore;
use super::requests::{check_parent, remember};
use super::rows::add_row;

impl SqliteStore {
    pub(super) async fn create_workspace(
        &self,
        new: &NewWorkspace,
        key: Option<&RequestKey>,
        now: Timestamp,
    ) -> Result<Stored, StoreError> {
        let mut tx = self.database.begin().await?;
        if let Some(replayed) = self.load_replayed(&mut tx, new.organization, key).await? {
            return Ok(replayed);
        }
        let earlier = self.load_workspace(&mut tx, new.workspace, false).await?.map(|found| found.record);
        check_id_is_free(new.workspace, earlier.as_ref())?;
        check_parent(&mut tx, new.organization, new.workspace, new.spec.parent).await?;
        add_row(&mut tx, new.organization, new.workspace, &new.private, now).await?;
        let (workspace, effects) = Workspace::create(new, key, now, self.own, earlier.as_ref());
        let number = workspace.outbox.last().map(|entry| entry.number);
        let before = Workspace { outbox: Vec::new(), ..workspace.clone() };
        let saved = self.save(&mut tx, &before, workspace, effects, now).await?;
        remember(&mut tx, new.organization, key, new.workspace, true, now).await?;
        self.commit(tx).await?;
        Ok(Stored { record: saved, number })
    }

    pub(super) async fn change_workspace(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
        on: &Conditions,
        now: Timestamp,
        decide: Decide<'_>,
    ) -> Result<Stored, StoreError> {
        let mut tx = self.database.begin().await?;
        if let Some(replayed) = self.load_replayed(&mut tx, organization, on.key.as_ref()).await? {
            return Ok(replayed);
        }
        let before = self.load_workspace(&mut tx, workspace, true).await?;
        let before = before.filter(|found| found.record.organization == organization);
        let before = before.ok_or_else(|| Error::workspace_not_found(workspace))?;
        check_etag(&before.record, on.etag)?;
        let change = decide(&before)?;
        if let Some((spec, _)) = &change.spec {
            check_parent(&mut tx, organization, workspace, spec.parent).await?;
        }
        let (wishes, shared) = (change.wish.is_some(), before.shares_answer_of(&change));
        let mut after = before.clone();
        let effects = after.change(change, on.key.as_ref(), now, self.own);
        let number = if wishes { after.outbox.last().map(|entry| entry.number) } else { shared };
        remember(&mut tx, organization, on.key.as_ref(), workspace, false, now).await?;
        let saved = self.save(&mut tx, &before, after, effects, now).await?;
        self.commit(tx).await?;
        Ok(Stored { record: saved, number })
    }
}
