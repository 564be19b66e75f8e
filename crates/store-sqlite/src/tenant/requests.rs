//! What the transactions that store intents share: request keys, the family tree, bootstrap tokens.

use molecule_domain::Timestamp;
use molecule_domain::error::{Error, ErrorReason};
use molecule_domain::id::{Generation, OrganizationId, WorkspaceId};
use molecule_domain::spec::WorkspaceSpec;
use molecule_provisioner::store::StoreError;
use sqlx::SqliteConnection;

use super::load;
use super::model::{RequestKey, WorkspaceRecord};
use crate::codec::{id, unavailable};

pub(super) async fn replay(
    db: &mut SqliteConnection,
    organization: OrganizationId,
    key: Option<&RequestKey>,
) -> Result<Option<WorkspaceRecord>, StoreError> {
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
        return Err(Error::new(
            ErrorReason::RequestIdReused,
            format!("the request_id {:?} was used for another request; use a new one", key.id),
        )
        .into());
    }
    load(db, organization, id(&row.workspace_id)?).await
}

pub(super) async fn remember(
    db: &mut SqliteConnection,
    organization: OrganizationId,
    key: Option<&RequestKey>,
    workspace: WorkspaceId,
    now: Timestamp,
) -> Result<(), StoreError> {
    let Some(key) = key else { return Ok(()) };
    let (organization, workspace, at) = (organization.to_string(), workspace.to_string(), now.micros());
    sqlx::query!(
        "INSERT OR REPLACE INTO request_keys (organization_id, request_id, fingerprint, workspace_id, at)
         VALUES (?, ?, ?, ?, ?)",
        organization,
        key.id,
        key.fingerprint,
        workspace,
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
    spec: &WorkspaceSpec,
) -> Result<(), StoreError> {
    let mut above = spec.parent;
    let mut first = true;
    while let Some(parent) = above {
        if parent == workspace {
            return Err(Error::field("spec.parent_workspace_id", "a workspace can't be above itself").into());
        }
        let found = load(&mut *db, organization, parent).await?.filter(|found| !found.is_deleting());
        match found {
            Some(found) => above = found.spec.parent,
            None if first => {
                let description = format!("there is no workspace {parent}");
                return Err(Error::field("spec.parent_workspace_id", description).into());
            }
            None => return Ok(()),
        }
        first = false;
    }
    Ok(())
}

pub(super) async fn add_token(
    db: &mut SqliteConnection,
    workspace: WorkspaceId,
    generation: Generation,
    hash: &[u8],
) -> Result<(), StoreError> {
    let workspace = workspace.to_string();
    sqlx::query!(
        "INSERT INTO credentials (workspace_id, generation, token_hash) VALUES (?, ?, ?)",
        workspace,
        generation.0,
        hash,
    )
    .execute(db)
    .await
    .map_err(unavailable)?;
    Ok(())
}
