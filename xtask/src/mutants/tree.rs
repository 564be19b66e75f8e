//! Copies of the repository, in which mutants are compiled.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use super::{JUDGES, PACKAGES};
use crate::shell::cargo;

/// Where the copies, what is built of them and the results are kept.
pub(super) const FOLDER: &str = "target/mutants";

/// A copy of the repository's tracked files.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) root: PathBuf,
    /// The folder that is built into, which all copies share: what comes from a registry is built once.
    build: PathBuf,
}

impl Tree {
    /// A copy in which the files that `change` gives a text for have that text. Files that are as they were are not
    /// written, so that cargo builds only what has changed.
    pub(super) fn copied(name: &str, change: impl Fn(&str) -> Option<String>) -> anyhow::Result<Self> {
        let here = std::env::current_dir()?;
        let tree = Self { root: here.join(FOLDER).join(name), build: here.join(FOLDER).join("build") };
        let listed = Command::new("git").args(["ls-files", "-z"]).output().context("git can't be run")?;
        ensure!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
        let listed = String::from_utf8(listed.stdout)?;
        let files: BTreeSet<&str> =
            listed.split('\0').filter(|file| !file.is_empty() && Path::new(file).is_file()).collect();
        for file in &files {
            let content = match change(file) {
                Some(text) => text.into_bytes(),
                None => fs::read(file).with_context(|| (*file).to_owned())?,
            };
            tree.write(file, &content)?;
        }
        remove_others(&tree.root, &tree.root, &files)?;
        Ok(tree)
    }

    /// Writes a file unless the file is as it should be.
    pub(super) fn write(&self, file: &str, content: &[u8]) -> anyhow::Result<()> {
        let path = self.root.join(file);
        if fs::read(&path).is_ok_and(|old| old == content) {
            return Ok(());
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&path, content).with_context(|| path.display().to_string())
    }

    /// A cargo command for the tests of the crates that judge, which tells what it does as JSON.
    pub(super) fn cargo(&self, arguments: &[&str]) -> Command {
        let mut cargo = cargo(arguments);
        cargo.args(["--locked", "--tests", "--message-format=json"]).current_dir(&self.root);
        for package in JUDGES.split(',') {
            cargo.args(["--package", package]);
        }
        let crates = PACKAGES.map(|package| package.replace('-', "_")).join(",");
        cargo.env("CARGO_TARGET_DIR", &self.build).env("RUSTC_BOOTSTRAP", crates);
        cargo.env("RUSTFLAGS", "--cap-lints=warn").env("CARGO_PROFILE_DEV_DEBUG", "false");
        cargo
    }
}

/// Removes the files of a copy that are not among those listed.
fn remove_others(root: &Path, folder: &Path, files: &BTreeSet<&str>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_others(root, &path, files)?;
        } else if path.strip_prefix(root)?.to_str().is_none_or(|file| !files.contains(file)) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}
