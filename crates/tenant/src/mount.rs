//! Folders of the host that workspaces bind.

use std::path::PathBuf;

use molecule_domain::error::{Error, Result};
use molecule_domain::launch::Mount;
use tracing::warn;

/// A bound folder must be below an allowed root once every link in it is resolved.
pub(crate) fn check_mount(mount: &Mount, roots: &[PathBuf]) -> Result<()> {
    let (Mount::ReadOnly(path) | Mount::ReadWrite(path)) = mount else { return Ok(()) };
    let refuse = |why: String| Err(Error::field("spec.mount.host_path", why));
    if roots.is_empty() {
        return refuse(
            "this server allows no folders of the host; its operator sets WORKSPACE_ROOTS".to_owned(),
        );
    }
    let canonical = match std::path::Path::new(path).canonicalize() {
        Ok(canonical) => canonical,
        Err(error) => return refuse(format!("{path}: {error}")),
    };
    if canonical != std::path::Path::new(path) {
        return refuse(format!("{path} is a link, or leads over one; use {}", canonical.display()));
    }
    if !canonical.is_dir() {
        return refuse(format!("{path} is not a folder"));
    }
    if !roots.iter().any(|root| canonical.starts_with(root)) {
        warn!(path, "a folder outside the allowed roots was asked for");
        return refuse(format!("{path} is not below one of the allowed roots"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_folder_is_real_and_below_a_root() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap().join("root");
        let inside = root.join("inside");
        std::fs::create_dir_all(&inside).unwrap();
        let outside = folder.path().canonicalize().unwrap().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, root.join("escape")).unwrap();
        let check = |path: &std::path::Path| {
            check_mount(&Mount::ReadWrite(path.display().to_string()), std::slice::from_ref(&root)).is_ok()
        };
        assert!(check(&inside));
        assert!(check(&root));
        assert!(!check(&outside));
        assert!(!check(&root.join("escape")));
        assert!(!check(&root.join("../outside")));
        assert!(!check(&root.join("missing")));
        assert!(check_mount(&Mount::ReadOnly(inside.display().to_string()), &[]).is_err());
    }
}
