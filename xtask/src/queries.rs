//! The queries' offline data: what sqlx found out about each query from a database with all migrations, committed so that
//! nobody needs a database to build. It is checked, or written anew, by a build that asks real databases.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::postgres::{Postgres, psql};
use crate::shell::{cargo, run, say};

const SQLITE: &str = "crates/store-sqlite";
const POSTGRES: &str = "crates/store-postgres";
const DATABASE: &str = "molecule_prepare";

/// Builds everything. Where queries or migrations have changed since that was last done, the build asks real databases, and
/// what they say must be what is committed; with `write` it is written.
pub(crate) fn build(write: bool, postgres: &Postgres, python: &Path) -> anyhow::Result<()> {
    let folder = std::env::current_dir()?.join("target/queries");
    let (stamp, now) = (folder.join("checked"), fingerprint()?);
    let mut build = cargo(&["build", "--locked", "--workspace", "--all-targets"]);
    if !write && std::fs::read_to_string(&stamp).is_ok_and(|before| before == now) {
        say("building");
        return run(&mut build);
    }
    say("building, with every query asked of a database");
    let found = folder.join("found");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&found)?;
    let sqlite = sqlite(&folder, python)?;
    build.env("MOLECULE_SQLITE_URL", sqlite).env("MOLECULE_POSTGRES_URL", migrated(postgres)?);
    build.env("SQLX_OFFLINE", "false").env("SQLX_OFFLINE_DIR", &found);
    for store in [SQLITE, POSTGRES] {
        // sqlx's macros do not tell cargo that they read the environment: a file that is written anew does
        let library = Path::new(store).join("src/lib.rs");
        std::fs::write(&library, std::fs::read(&library)?)?;
    }
    run(&mut build)?;
    let (found, committed) = (files(&[found])?, files(&offline_data())?);
    if write {
        for folder in offline_data() {
            std::fs::remove_dir_all(&folder)?;
            std::fs::create_dir_all(&folder)?;
        }
        for (name, text) in &found {
            let store = if text.contains("\"db_name\": \"SQLite\"") { SQLITE } else { POSTGRES };
            std::fs::write(Path::new(store).join(".sqlx").join(name), text)?;
        }
    } else {
        let differs: BTreeSet<_> = found
            .iter()
            .filter(|(name, text)| committed.get(*name) != Some(text))
            .map(|(name, _)| name)
            .collect();
        let unused: Vec<_> = committed.keys().filter(|name| !found.contains_key(*name)).collect();
        ensure!(
            differs.is_empty() && unused.is_empty(),
            "the queries' offline data is not what the databases say (differs: {differs:?}, not used: {unused:?}). \
             Run `cargo xtask prepare` and commit what it writes"
        );
    }
    std::fs::write(stamp, now)?;
    Ok(())
}

fn offline_data() -> [PathBuf; 2] {
    [SQLITE, POSTGRES].map(|store| Path::new(store).join(".sqlx"))
}

/// Files by name.
fn files(folders: &[PathBuf]) -> anyhow::Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for folder in folders {
        for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
            let entry = entry?;
            all.insert(
                entry.file_name().to_string_lossy().into_owned(),
                std::fs::read_to_string(entry.path())?,
            );
        }
    }
    Ok(all)
}

/// Changes with every file of the stores.
fn fingerprint() -> anyhow::Result<String> {
    let mut hasher = DefaultHasher::new();
    let mut folders = vec![PathBuf::from(SQLITE), PathBuf::from(POSTGRES)];
    while let Some(folder) = folders.pop() {
        let mut entries = std::fs::read_dir(&folder)?.collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(std::fs::DirEntry::path);
        for entry in entries {
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                (entry.path(), std::fs::read(entry.path())?).hash(&mut hasher);
            }
        }
    }
    Ok(format!("{:016x}", hasher.finish()))
}

/// The migrations of a store, in order.
fn migrations(store: &str) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(Path::new(store).join("migrations"))?;
    let mut all = entries.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<Vec<_>>>()?;
    all.sort();
    Ok(all)
}

/// An SQLite database with all migrations.
fn sqlite(folder: &Path, python: &Path) -> anyhow::Result<String> {
    let file = folder.join("tenant.db");
    let script = "import sqlite3, sys
database = sqlite3.connect(sys.argv[1])
for migration in sys.argv[2:]:
    database.executescript(open(migration).read())";
    run(Command::new(python.join("python")).args(["-c", script]).arg(&file).args(migrations(SQLITE)?))?;
    Ok(format!("sqlite://{}", file.display()))
}

/// A PostgreSQL database with all migrations.
fn migrated(postgres: &Postgres) -> anyhow::Result<String> {
    let url = postgres.emptied(DATABASE)?;
    for migration in migrations(POSTGRES)? {
        psql(&url, &["--single-transaction", "--file", &migration.display().to_string()])?;
    }
    Ok(url)
}
