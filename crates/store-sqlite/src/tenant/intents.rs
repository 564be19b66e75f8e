//! What clients ask for, stored before the engine is told.

use molecule_domain::Timestamp;
use molecule_domain::error::{Error, ErrorReason};
use molecule_domain::id::{Generation, IntentNumber, OrganizationId, Revision, WorkspaceId};
use molecule_domain::lifecycle::{Desired, Phase, Readiness};
use molecule_domain::spec::WorkspaceSpec;
use molecule_provisioner::store::StoreError;
use sqlx::SqliteConnection;

use super::model::{AgentRecord, Intent, RequestKey, WorkspaceRecord};
use super::requests::{add_token, check_parent, remember, replay};
use super::{TenantStore, load_existing, save};
use crate::codec::{from_json, json, unavailable};
use crate::commit;

/// A workspace to be created.
#[derive(Clone, Debug)]
pub struct NewWorkspace {
    /// Its id.
    pub workspace: WorkspaceId,
    /// Whose it is.
    pub organization: OrganizationId,
    /// What was asked for.
    pub spec: WorkspaceSpec,
    /// What makes it ready.
    pub readiness: Readiness,
    /// Config files and secrets, sealed.
    pub private: Vec<u8>,
    /// The bootstrap token of the first generation, sealed.
    pub sealed_token: Vec<u8>,
    /// The hash of that token.
    pub token_hash: Vec<u8>,
    /// The trace that this belongs to.
    pub trace: String,
}

/// A change to be stored.
#[derive(Clone, Debug)]
pub struct ChangeIntent {
    /// What the engine is to be told; `None` where it need not know.
    pub intent: Option<Intent>,
    /// The new spec and what makes it ready, where that changes.
    pub spec: Option<(WorkspaceSpec, Readiness)>,
    /// New config files and secrets, sealed.
    pub private: Option<Vec<u8>>,
    /// For a replacement: the new generation's bootstrap token, sealed, and its hash.
    pub token: Option<(Vec<u8>, Vec<u8>)>,
    /// The trace that this belongs to.
    pub trace: String,
}

impl TenantStore {
    /// Stores a new workspace with its request key, or returns the workspace that the key made before.
    pub async fn create(
        &self,
        new: &NewWorkspace,
        key: Option<&RequestKey>,
        now: Timestamp,
    ) -> Result<(WorkspaceRecord, bool), StoreError> {
        let mut tx = self.0.begin().await?;
        if let Some(replayed) = replay(&mut tx, new.organization, key).await? {
            return Ok((replayed, false));
        }
        let id = new.workspace.to_string();
        let taken = sqlx::query_scalar!("SELECT COUNT(*) FROM workspaces WHERE workspace_id = ?", id)
            .fetch_one(&mut *tx)
            .await
            .map_err(unavailable)?;
        if taken > 0 {
            return Err(Error::new(
                ErrorReason::WorkspaceExists,
                format!("there is a workspace {id} already; choose another id, or leave it out"),
            )
            .into());
        }
        check_parent(&mut tx, new.organization, new.workspace, &new.spec).await?;
        let mut record = WorkspaceRecord {
            workspace: new.workspace,
            organization: new.organization,
            spec: new.spec.clone(),
            readiness: new.readiness,
            intent: IntentNumber(1),
            generation: Generation(1),
            desired: Desired::Running,
            phase: Phase::Admitted,
            phase_since: now,
            reason: None,
            message: "admitted".to_owned(),
            instance_generation: Generation(1),
            instance_revision: Revision(0),
            endpoint: None,
            agent: AgentRecord::default(),
            trace: new.trace.clone(),
            created_at: now,
            updated_at: now,
            deleted_at: None,
            revision: Revision(0),
        };
        let (organization, created_at) = (new.organization.to_string(), now.micros());
        let pending = json(&Intent::Provision)?;
        sqlx::query!(
            "INSERT INTO workspaces (workspace_id, organization_id, revision, created_at, record, private, intent,
                 forwarded, pending, pending_token)
             VALUES (?, ?, 0, ?, '{}', ?, 1, 0, ?, ?)",
            id,
            organization,
            created_at,
            new.private,
            pending,
            new.sealed_token,
        )
        .execute(&mut *tx)
        .await
        .map_err(unavailable)?;
        add_token(&mut tx, new.workspace, Generation(1), &new.token_hash).await?;
        save(&mut tx, &mut record, now).await?;
        remember(&mut tx, new.organization, key, new.workspace, now).await?;
        commit(tx, &self.0.tenant_commits).await?;
        Ok((record, true))
    }

    /// Forgets a workspace that was never admitted, and its request key: a failure isn't bound.
    pub async fn discard(&self, workspace: WorkspaceId) -> Result<(), StoreError> {
        let id = workspace.to_string();
        let mut tx = self.0.begin().await?;
        for query in [
            sqlx::query!("DELETE FROM request_keys WHERE workspace_id = ?", id),
            sqlx::query!("DELETE FROM credentials WHERE workspace_id = ?", id),
            sqlx::query!("DELETE FROM workspaces WHERE workspace_id = ?", id),
        ] {
            query.execute(&mut *tx).await.map_err(unavailable)?;
        }
        commit(tx, &self.0.tenant_commits).await
    }

    /// Stores a change that `decide` makes of the workspace as it is, or returns what the request's key made
    /// before. `decide` sees the workspace inside the transaction.
    pub async fn change(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
        etag: Option<IntentNumber>,
        key: Option<&RequestKey>,
        now: Timestamp,
        decide: impl FnOnce(&WorkspaceRecord) -> Result<ChangeIntent, Error> + Send,
    ) -> Result<WorkspaceRecord, StoreError> {
        let mut tx = self.0.begin().await?;
        if let Some(replayed) = replay(&mut tx, organization, key).await? {
            return Ok(replayed);
        }
        let mut record = load_existing(&mut tx, organization, workspace).await?;
        if etag.is_some_and(|etag| etag != record.intent) {
            return Err(Error::new(
                ErrorReason::StaleEtag,
                "the workspace has changed since that etag; get it again and decide anew",
            )
            .into());
        }
        let change = decide(&record)?;
        if let Some((spec, _)) = &change.spec {
            check_parent(&mut tx, organization, workspace, spec).await?;
        }
        remember(&mut tx, organization, key, workspace, now).await?;
        apply(&mut tx, &mut record, change, key, now).await?;
        commit(tx, &self.0.tenant_commits).await?;
        Ok(record)
    }

    /// Goes back to what was before an intent that the engine has refused, and forgets its request key: a
    /// failure isn't bound.
    pub async fn withdraw(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
        intent: IntentNumber,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut tx = self.0.begin().await?;
        let mut record = load_existing(&mut tx, organization, workspace).await?;
        if record.intent != intent {
            return Ok(()); // something else was asked for since; that is told next
        }
        let (id, owner) = (workspace.to_string(), organization.to_string());
        let row =
            sqlx::query!("SELECT record_before, pending_request FROM workspaces WHERE workspace_id = ?", id)
                .fetch_one(&mut *tx)
                .await
                .map_err(unavailable)?;
        if let Some(before) = row.record_before {
            let before: WorkspaceRecord = from_json(&before, "a workspace")?;
            (record.spec, record.readiness) = (before.spec, before.readiness);
            (record.desired, record.generation) = (before.desired, before.generation);
        }
        for query in [
            sqlx::query!(
                "UPDATE workspaces SET private = COALESCE(private_before, private), forwarded = ?, pending = NULL,
                     pending_token = NULL, record_before = NULL, private_before = NULL
                 WHERE workspace_id = ?",
                intent.0,
                id,
            ),
            sqlx::query!(
                "DELETE FROM credentials WHERE workspace_id = ? AND generation > ?",
                id,
                record.generation.0,
            ),
            sqlx::query!(
                "DELETE FROM request_keys WHERE organization_id = ? AND request_id = ?",
                owner,
                row.pending_request,
            ),
        ] {
            query.execute(&mut *tx).await.map_err(unavailable)?;
        }
        save(&mut tx, &mut record, now).await?;
        commit(tx, &self.0.tenant_commits).await
    }
}

/// Writes a change into the workspace's row.
async fn apply(
    db: &mut SqliteConnection,
    record: &mut WorkspaceRecord,
    change: ChangeIntent,
    key: Option<&RequestKey>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let before = json(record)?;
    record.intent = record.intent.next();
    record.trace.clone_from(&change.trace);
    if let Some((spec, readiness)) = change.spec {
        record.spec = spec;
        record.readiness = readiness;
    }
    let id = record.workspace.to_string();
    match &change.intent {
        Some(Intent::Start | Intent::Provision) => record.desired = Desired::Running,
        Some(Intent::Stop(_)) => record.desired = Desired::Stopped,
        Some(Intent::Delete) => record.desired = Desired::Deleted,
        Some(Intent::Replace { run, .. }) => {
            record.desired = if *run { Desired::Running } else { Desired::Stopped };
            record.generation = record.generation.next();
        }
        None => {}
    }
    if let Some((_, token_hash)) = &change.token {
        add_token(&mut *db, record.workspace, record.generation, token_hash).await?;
    }
    sqlx::query!(
        "UPDATE workspaces SET private_before = private, private = COALESCE(?, private) WHERE workspace_id = ?",
        change.private,
        id,
    )
    .execute(&mut *db)
    .await
    .map_err(unavailable)?;
    save(&mut *db, record, now).await?;
    match change.intent {
        Some(intent) => {
            let (pending, token) = (json(&intent)?, change.token.map(|(sealed, _)| sealed));
            let request = key.map(|key| key.id.clone());
            sqlx::query!(
                "UPDATE workspaces SET pending = ?, pending_token = ?, record_before = ?, pending_request = ?
                 WHERE workspace_id = ?",
                pending,
                token,
                before,
                request,
                id,
            )
        }
        // nothing to tell: this number counts as told, unless an earlier one still waits
        None => sqlx::query!(
            "UPDATE workspaces SET forwarded = CASE WHEN pending IS NULL THEN intent ELSE forwarded END
             WHERE workspace_id = ?",
            id,
        ),
    }
    .execute(db)
    .await
    .map_err(unavailable)?;
    Ok(())
}
