//! Which code and which tests a result is of.

use std::fs;
use std::process::Command;

use anyhow::{Context, ensure};

use super::LIVES;
use super::list::hash;

/// The crates that judge, and all of ours that they are built from.
const FOLDERS: [&str; 8] = [
    "Cargo.toml",
    "crates/domain",
    "crates/provisioner",
    "crates/telemetry",
    "crates/tenant",
    "crates/workspace",
    "tests/contracts",
    "tests/sim",
];

/// All that judges what is planted one by one, with the services and whatever these are built from.
const ALL: [&str; 9] = [
    "Cargo.toml",
    "cli",
    "controlplane-svc",
    "crates",
    "proto",
    "tenant-svc",
    "tests",
    "workspace-init",
    // what was found decides nothing
    ":(exclude)tests/mutants",
];

/// Stands for the text of all that decides what becomes of a mutant, as it is now: whatever changes in the code, or in a test,
/// may change that. The versions of dependencies are left out.
pub(super) fn now() -> anyhow::Result<String> {
    of(&FOLDERS)
}

/// The same for what is planted one by one.
pub(super) fn of_all() -> anyhow::Result<String> {
    of(&ALL)
}

fn of(folders: &[&str]) -> anyhow::Result<String> {
    let listed = Command::new("git").args(["ls-files", "-z", "--"]).args(folders).output();
    let listed = listed.context("git can't be run")?;
    ensure!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
    let listed = String::from_utf8(listed.stdout)?;
    let mut texts = vec![LIVES.to_owned()];
    // what was removed and is listed still is no part of it
    for (file, text) in listed.split('\0').filter_map(|file| Some((file, fs::read_to_string(file).ok()?))) {
        texts.extend([file.to_owned(), text]);
    }
    Ok(hash(&texts.iter().map(String::as_str).collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;
    use crate::mutants::JUDGES;

    #[test]
    fn all_of_the_workspace_judges_what_is_planted_alone() {
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
        let manifest = fs::read_to_string(manifest).unwrap();
        let (members, _) = manifest.split_once("members = [").unwrap().1.split_once(']').unwrap();
        let members: Vec<_> = members.split('"').skip(1).step_by(2).filter(|one| *one != "xtask").collect();
        assert!(members.len() > 10, "{members:?}");
        for member in members {
            assert!(ALL.contains(&member.split('/').next().unwrap()), "{member}");
        }
    }

    #[test]
    fn all_that_judges_is_part_of_the_state() {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let (mut named, mut told) = (BTreeSet::new(), BTreeSet::new());
        for folder in FOLDERS.iter().filter(|folder| folder.contains('/')) {
            let manifest = fs::read_to_string(repository.join(folder).join("Cargo.toml")).unwrap();
            for line in manifest.lines() {
                if let Some(name) = line.strip_prefix("name = \"molecule-") {
                    told.insert(name.trim_end_matches('"').to_owned());
                } else if let Some((name, _)) =
                    line.strip_prefix("molecule-").and_then(|line| line.split_once(' '))
                {
                    named.insert(name.to_owned());
                }
            }
        }
        named.extend(JUDGES.split(',').map(|judge| judge.trim_start_matches("molecule-").to_owned()));
        assert_eq!(named, told);
    }
}
