//! The tenant's store, method by method: each is one transaction.

use async_trait::async_trait;
use molecule_domain::Timestamp;
use molecule_domain::id::{Generation, IntentNumber, OrganizationId, Revision, WorkspaceId};
use molecule_domain::instance::{Event, InstanceView};
use molecule_domain::store::StoreError;
use molecule_workspace::agent::{Patience, Verdict};
use molecule_workspace::aggregate::{Answer, NewWorkspace};
use molecule_workspace::agreement::{Agreed, Meetings, Met, Minter};
use molecule_workspace::record::{RequestKey, StoredEvent, WorkspaceRecord};
use molecule_workspace::store::{
    Conditions, CredentialHash, Cursors, Decide, Mirrored, Place, Redeemed, Redemption, Report, Stored,
    TenantStore,
};
use molecule_workspace::{Entry, Workspace};
use tokio::sync::watch;

use super::SqliteStore;

#[async_trait]
impl TenantStore for SqliteStore {
    async fn create(
        &self,
        new: &NewWorkspace,
        key: Option<&RequestKey>,
        now: Timestamp,
    ) -> Result<Stored, StoreError> {
        self.create_workspace(new, key, now).await
    }

    async fn change(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
        on: &Conditions,
        now: Timestamp,
        decide: Decide<'_>,
    ) -> Result<Stored, StoreError> {
        self.change_workspace(organization, workspace, on, now, decide).await
    }

    async fn replayed(
        &self,
        organization: OrganizationId,
        key: &RequestKey,
    ) -> Result<Option<Stored>, StoreError> {
        self.read_replayed(organization, key).await
    }

    async fn waiting(&self) -> Result<Vec<WorkspaceId>, StoreError> {
        self.waiting_workspaces().await
    }

    async fn begin_call(
        &self,
        workspace: WorkspaceId,
    ) -> Result<Option<(WorkspaceRecord, Entry)>, StoreError> {
        self.begin_first_call(workspace).await
    }

    async fn answered(
        &self,
        workspace: WorkspaceId,
        number: IntentNumber,
        answer: &Answer,
        now: Timestamp,
    ) -> Result<Option<WorkspaceRecord>, StoreError> {
        self.take_answer(workspace, number, answer, now).await
    }

    async fn call_failed(
        &self,
        workspace: WorkspaceId,
        number: IntentNumber,
        cause: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.note_failure(workspace, number, cause, now).await
    }

    async fn cursors(&self, organization: OrganizationId) -> Result<Cursors, StoreError> {
        self.read_cursors(organization).await
    }

    async fn mirror(
        &self,
        organization: OrganizationId,
        instances: &[InstanceView],
        events: &[Event],
        now: Timestamp,
    ) -> Result<Mirrored, StoreError> {
        self.take_over(organization, instances, events, now).await
    }

    async fn meetings(&self, organization: OrganizationId) -> Result<(Meetings, Revision), StoreError> {
        self.read_meetings(organization).await
    }

    async fn agree(
        &self,
        organization: OrganizationId,
        met: &Met,
        inventory: &[InstanceView],
        minter: &dyn Minter,
        now: Timestamp,
    ) -> Result<Agreed, StoreError> {
        self.agree_on_all(organization, met, inventory, minter, now).await
    }

    async fn restart_mirror(&self, organization: OrganizationId, event: i64) -> Result<(), StoreError> {
        self.follow_anew(organization, event).await
    }

    async fn get(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
    ) -> Result<Option<WorkspaceRecord>, StoreError> {
        self.read(organization, workspace).await
    }

    async fn load(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
    ) -> Result<Option<Workspace>, StoreError> {
        self.read_whole(organization, workspace).await
    }

    async fn list(
        &self,
        organization: OrganizationId,
        show_deleted: bool,
        after: Option<Place>,
        limit: u32,
    ) -> Result<Vec<WorkspaceRecord>, StoreError> {
        self.read_page(organization, show_deleted, after, limit).await
    }

    async fn snapshot(
        &self,
        organization: OrganizationId,
    ) -> Result<(Vec<WorkspaceRecord>, Revision), StoreError> {
        self.read_snapshot(organization).await
    }

    async fn changes_after(
        &self,
        organization: OrganizationId,
        after: Revision,
        limit: u32,
    ) -> Result<Vec<WorkspaceRecord>, StoreError> {
        self.read_changes(organization, after, limit).await
    }

    async fn events(
        &self,
        workspace: WorkspaceId,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        self.read_events(workspace, before, limit).await
    }

    async fn redeem(
        &self,
        redemption: &Redemption,
        credential_hash: CredentialHash<'_>,
    ) -> Result<Redeemed, StoreError> {
        self.redeem_token(redemption, credential_hash).await
    }

    async fn authenticate(
        &self,
        credential_hash: &[u8],
        now: Timestamp,
    ) -> Result<Option<(WorkspaceId, Generation)>, StoreError> {
        self.whose_credential(credential_hash, now).await
    }

    async fn agent_reported(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
        generation: Generation,
        now: Timestamp,
        report: Report<'_>,
    ) -> Result<Option<WorkspaceRecord>, StoreError> {
        self.take_report(organization, workspace, generation, now, report).await
    }

    async fn judge_agent(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
        patience: &Patience,
        now: Timestamp,
    ) -> Result<Verdict, StoreError> {
        self.judge(organization, workspace, patience, now).await
    }

    async fn prune(&self, day_ago: Timestamp, month_ago: Timestamp) -> Result<(), StoreError> {
        self.prune_old(day_ago, month_ago).await
    }

    fn commits(&self) -> watch::Receiver<u64> {
        self.database.tenant_commits.subscribe()
    }
}
