//! A workspace's config files and secrets between what they are and what is stored.

use std::collections::BTreeMap;

use molecule_domain::error::{Error, Result};
use molecule_domain::id::WorkspaceId;
use molecule_domain::seal::Sealer;
use molecule_domain::spec::PrivateParts;
use molecule_workspace::private::SealedParts;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// No config files and no secrets.
pub fn nothing(sealer: &(impl Sealer + ?Sized), workspace: WorkspaceId) -> SealedParts {
    // an empty map has nothing in it that JSON could not write
    let none = serde_json::to_vec(&BTreeMap::<String, String>::new()).unwrap_or_default();
    SealedParts {
        config_files: sealer.seal(&none, &config_context(workspace)),
        secrets: sealer.seal(&none, &secrets_context(workspace)),
    }
}

/// Seals both parts.
pub(crate) fn seal(
    sealer: &(impl Sealer + ?Sized),
    workspace: WorkspaceId,
    parts: &PrivateParts,
) -> Result<SealedParts> {
    Ok(SealedParts {
        config_files: seal_one(sealer, &parts.config_files, &config_context(workspace))?,
        secrets: seal_one(sealer, &parts.secrets, &secrets_context(workspace))?,
    })
}

/// Seals the parts that differ from what they were, and keeps the others as they are stored; `None` where both are the same.
pub(crate) fn seal_changed(
    sealer: &(impl Sealer + ?Sized),
    workspace: WorkspaceId,
    (stored, before): (&SealedParts, &PrivateParts),
    after: &PrivateParts,
) -> Result<Option<SealedParts>> {
    if after == before {
        return Ok(None);
    }
    let mut sealed = stored.clone();
    if after.config_files != before.config_files {
        sealed.config_files = seal_one(sealer, &after.config_files, &config_context(workspace))?;
    }
    if after.secrets != before.secrets {
        sealed.secrets = seal_one(sealer, &after.secrets, &secrets_context(workspace))?;
    }
    Ok(Some(sealed))
}

/// Opens both parts.
pub fn open(
    sealer: &(impl Sealer + ?Sized),
    workspace: WorkspaceId,
    sealed: &SealedParts,
) -> Result<PrivateParts> {
    Ok(PrivateParts {
        config_files: open_one(sealer, &sealed.config_files, &config_context(workspace))?,
        secrets: open_one(sealer, &sealed.secrets, &secrets_context(workspace))?,
    })
}

fn config_context(workspace: WorkspaceId) -> String {
    format!("config-files/{workspace}")
}

fn secrets_context(workspace: WorkspaceId) -> String {
    format!("secrets/{workspace}")
}

fn seal_one(sealer: &(impl Sealer + ?Sized), part: &impl Serialize, context: &str) -> Result<Vec<u8>> {
    Ok(sealer.seal(&serde_json::to_vec(part).map_err(Error::internal)?, context))
}

fn open_one<T: DeserializeOwned>(sealer: &(impl Sealer + ?Sized), sealed: &[u8], context: &str) -> Result<T> {
    let plain = sealer.open(sealed, context);
    let plain =
        plain.ok_or_else(|| Error::internal("secrets can't be unsealed: seal.key is not their key"))?;
    serde_json::from_slice(&plain).map_err(Error::internal)
}
