//! The tree of workspaces.

use molecule_domain::error::{Error, Result};
use molecule_domain::id::WorkspaceId;

use crate::record::WorkspaceRecord;

/// Whether a workspace may stand below `parent`, as far as `above`, the parent and its ancestors in order, tell: the
/// parent must be there and not be deleted, and no workspace stands above itself.
pub fn check_parent(workspace: WorkspaceId, parent: WorkspaceId, above: &[WorkspaceRecord]) -> Result<()> {
    let field = "spec.parent_workspace_id";
    if parent == workspace || above.iter().any(|ancestor| ancestor.workspace == workspace) {
        return Err(Error::field(field, "a workspace can't be above itself"));
    }
    match above.first() {
        Some(found) if !found.is_deleting() => Ok(()),
        _ => Err(Error::field(field, format!("there is no workspace {parent}"))),
    }
}
