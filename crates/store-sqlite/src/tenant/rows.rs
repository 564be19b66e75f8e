//! A workspace between its rows and the aggregate.

use molecule_domain::Timestamp;
use molecule_domain::event::EventDetail;
use molecule_domain::id::{OrganizationId, Revision, WorkspaceId};
use molecule_domain::store::StoreError;
use molecule_workspace::aggregate::{Revoke, SideEffects};
use molecule_workspace::private::SealedParts;
use molecule_workspace::record::WorkspaceRecord;
use molecule_workspace::store::next_revision;
use molecule_workspace::{Entry, Workspace};
use sqlx::SqliteConnection;

use super::SqliteStore;
use crate::codec::{from_json, json, unavailable};

pub(super) async fn load_record(
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

impl SqliteStore {
    /// A workspace with its outbox, and with its private parts where `private` says so: they may be large.
    pub(super) async fn load_workspace(
        &self,
        db: &mut SqliteConnection,
        workspace: WorkspaceId,
        private: bool,
    ) -> Result<Option<Workspace>, StoreError> {
        let id = workspace.to_string();
        let row = sqlx::query!(
            r#"SELECT record, CASE WHEN ? THEN config_files ELSE x'' END AS "config_files!: Vec<u8>",
                   CASE WHEN ? THEN secrets ELSE x'' END AS "secrets!: Vec<u8>"
               FROM workspaces WHERE workspace_id = ?"#,
            private,
            private,
            id,
        )
        .fetch_optional(&mut *db)
        .await
        .map_err(unavailable)?;
        let Some(row) = row else { return Ok(None) };
        let record = from_json(&row.record, "a workspace")?;
        let outbox = self.load_outbox(db, workspace).await?;
        let private = SealedParts { config_files: row.config_files, secrets: row.secrets };
        Ok(Some(Workspace { record, private, outbox }))
    }

    pub(super) async fn load_outbox(
        &self,
        db: &mut SqliteConnection,
        workspace: WorkspaceId,
    ) -> Result<Vec<Entry>, StoreError> {
        let id = workspace.to_string();
        let rows = sqlx::query!(
            "SELECT entry, sealed_token, config_files_before, secrets_before FROM outbox
             WHERE workspace_id = ? ORDER BY number",
            id,
        )
        .fetch_all(&mut *db)
        .await
        .map_err(unavailable)?;
        let untold = self.untold();
        let entries = rows.into_iter().map(|row| {
            let mut entry: Entry = from_json(&row.entry, "an entry of an outbox")?;
            entry.sealed_token = row.sealed_token;
            let before = row.config_files_before.zip(row.secrets_before);
            entry.undo.private = before.map(|(config_files, secrets)| SealedParts { config_files, secrets });
            entry.begun = !untold.contains(&(workspace, entry.number));
            Ok(entry)
        });
        entries.collect()
    }

    /// Writes what a workspace became, and what goes with it. Returns it as it is stored.
    pub(super) async fn save(
        &self,
        db: &mut SqliteConnection,
        before: &Workspace,
        mut after: Workspace,
        effects: SideEffects,
        now: Timestamp,
    ) -> Result<WorkspaceRecord, StoreError> {
        let id = after.record.workspace.to_string();
        if effects.visible {
            add_change(&mut *db, &mut after.record, now).await?;
        }
        for (generation, hash) in &effects.add_tokens {
            sqlx::query!(
                "INSERT OR REPLACE INTO credentials (workspace_id, generation, token_hash) VALUES (?, ?, ?)",
                id,
                generation.0,
                hash,
            )
            .execute(&mut *db)
            .await
            .map_err(unavailable)?;
        }
        revoke(&mut *db, &id, effects.revoke).await?;
        for detail in &effects.events {
            add_event(&mut *db, after.record.organization, after.record.workspace, now, detail).await?;
        }
        let owner = after.record.organization.to_string();
        for request in &effects.forget_requests {
            sqlx::query!(
                "DELETE FROM request_keys WHERE organization_id = ? AND request_id = ?",
                owner,
                request,
            )
            .execute(&mut *db)
            .await
            .map_err(unavailable)?;
        }
        self.save_outbox(&mut *db, after.record.workspace, &before.outbox, &after.outbox).await?;
        if after.private != before.private {
            sqlx::query!(
                "UPDATE workspaces SET config_files = ?, secrets = ? WHERE workspace_id = ?",
                after.private.config_files,
                after.private.secrets,
                id,
            )
            .execute(&mut *db)
            .await
            .map_err(unavailable)?;
        }
        let (text, deleted_at) = (json(&after.record)?, after.record.deleted_at.map(Timestamp::micros));
        sqlx::query!(
            "UPDATE workspaces SET record = ?, revision = ?, deleted_at = ? WHERE workspace_id = ?",
            text,
            after.record.revision.0,
            deleted_at,
            id,
        )
        .execute(db)
        .await
        .map_err(unavailable)?;
        Ok(after.record)
    }

    async fn save_outbox(
        &self,
        db: &mut SqliteConnection,
        workspace: WorkspaceId,
        before: &[Entry],
        after: &[Entry],
    ) -> Result<(), StoreError> {
        let id = workspace.to_string();
        for gone in before.iter().filter(|entry| after.iter().all(|other| other.number != entry.number)) {
            sqlx::query!("DELETE FROM outbox WHERE workspace_id = ? AND number = ?", id, gone.number.0)
                .execute(&mut *db)
                .await
                .map_err(unavailable)?;
            self.untold().remove(&(workspace, gone.number));
        }
        for entry in after.iter().filter(|entry| !before.contains(entry)) {
            let (text, asked_at) = (json(entry)?, entry.asked_at.micros());
            let before = entry.undo.private.as_ref();
            let config_files = before.map(|before| &before.config_files);
            let secrets = before.map(|before| &before.secrets);
            sqlx::query!(
                "INSERT OR REPLACE INTO outbox
                     (workspace_id, number, asked_at, entry, sealed_token, config_files_before, secrets_before)
                 VALUES (?, ?, ?, ?, ?, ?, ?)",
                id,
                entry.number.0,
                asked_at,
                text,
                entry.sealed_token,
                config_files,
                secrets,
            )
            .execute(&mut *db)
            .await
            .map_err(unavailable)?;
            if !entry.begun {
                // noted before the commit: nobody can begin a call of it until the writer's connection is free
                self.untold().insert((workspace, entry.number));
            }
        }
        Ok(())
    }
}

/// The row of a new workspace, in place of one whose creation was refused, to be filled by [`SqliteStore::save`].
pub(super) async fn add_row(
    db: &mut SqliteConnection,
    organization: OrganizationId,
    workspace: WorkspaceId,
    private: &SealedParts,
    now: Timestamp,
) -> Result<(), StoreError> {
    let (organization, workspace, created_at) =
        (organization.to_string(), workspace.to_string(), now.micros());
    sqlx::query!(
        "INSERT OR REPLACE INTO workspaces
             (workspace_id, organization_id, revision, created_at, record, config_files, secrets)
         VALUES (?, ?, 0, ?, '{}', ?, ?)",
        workspace,
        organization,
        created_at,
        private.config_files,
        private.secrets,
    )
    .execute(db)
    .await
    .map_err(unavailable)?;
    Ok(())
}

/// Puts a workspace under the next revision, and into the history that watchers read.
async fn add_change(
    db: &mut SqliteConnection,
    record: &mut WorkspaceRecord,
    now: Timestamp,
) -> Result<(), StoreError> {
    let organization = record.organization.to_string();
    let last =
        sqlx::query_scalar!("SELECT revision FROM tenant_state WHERE organization_id = ?", organization)
            .fetch_optional(&mut *db)
            .await
            .map_err(unavailable)?;
    record.revision = next_revision(Revision(last.unwrap_or(0)), now);
    record.updated_at = now;
    let (text, at) = (json(record)?, now.micros());
    for query in [
        sqlx::query!(
            "INSERT INTO tenant_state (organization_id, revision) VALUES (?, ?)
             ON CONFLICT (organization_id) DO UPDATE SET revision = excluded.revision",
            organization,
            record.revision.0,
        ),
        sqlx::query!(
            "INSERT INTO changes (organization_id, revision, at, record) VALUES (?, ?, ?, ?)",
            organization,
            record.revision.0,
            at,
            text,
        ),
    ] {
        query.execute(&mut *db).await.map_err(unavailable)?;
    }
    Ok(())
}

async fn revoke(db: &mut SqliteConnection, workspace: &str, revoke: Revoke) -> Result<(), StoreError> {
    let (from, until) = match revoke {
        Revoke::None => return Ok(()),
        Revoke::Before(generation) => (0, generation.0.saturating_sub(1)),
        Revoke::All => (0, u32::MAX),
    };
    sqlx::query!(
        "DELETE FROM credentials WHERE workspace_id = ? AND generation BETWEEN ? AND ?",
        workspace,
        from,
        until,
    )
    .execute(db)
    .await
    .map_err(unavailable)?;
    Ok(())
}

pub(super) async fn add_event(
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
