//! Tests are tested: bugs are planted, and tests must catch them.

mod all;
mod constant;
mod judge;
mod list;
mod results;
mod state;
mod suites;
mod summary;
mod suspects;
mod switch;
mod tree;
mod viable;

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, ensure};

pub(crate) use self::all::run as all;
pub(crate) use self::summary::report;
use self::suspects::{Judge, Suspect};
use crate::postgres::Postgres;
use crate::shell::{cargo, say, succeeds};

/// The crates whose every operator is mutated.
const PACKAGES: [&str; 3] = ["molecule-domain", "molecule-workspace", "molecule-provisioner"];
/// The crates whose tests judge.
const JUDGES: &str =
    "molecule-domain,molecule-workspace,molecule-provisioner,molecule-tenant,molecule-contracts,molecule-sim";
/// Simulated lives for each mutant, from the first seed on: half a minute on two cores.
const LIVES: &str = "400";

/// Whether Ctrl-C was pressed: tests that it has ended have caught nothing.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Plants the suspects of the crates that are not mutated one by one; each must be caught. The others are judged with all
/// mutants.
pub(crate) fn suspects(only: Option<&str>) -> anyhow::Result<()> {
    unchanged()?;
    let mut chosen: Vec<&Suspect> =
        suspects::ALL.iter().filter(|one| one.judge != Judge::Pure || one.package().is_none()).collect();
    chosen.retain(|one| only.is_none_or(|only| one.name.contains(only)));
    // the tests on PostgreSQL need all of the workspace, which takes minutes to build
    chosen.sort_by_key(|one| one.judge);
    ensure!(!chosen.is_empty(), "no suspect has that in its name");
    for suspect in &chosen {
        suspect.place(&fs::read_to_string(suspect.file).with_context(|| suspect.file.to_owned())?)?;
    }
    say(&format!("{} suspects, each of which a test must catch", chosen.len()));
    let postgres = Postgres::ensure("mutants")?;
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::SeqCst))?;
    let mut survived = Vec::new();
    let mut passed = None;
    for suspect in chosen {
        if passed != Some(suspect.judge) {
            ensure!(passes(suspect.judge, &postgres)?, "the tests fail without any mutation");
            passed = Some(suspect.judge);
        }
        let began = Instant::now();
        let caught = {
            let _planted = Planted::new(suspect)?;
            !passes(suspect.judge, &postgres).with_context(|| suspect.name)?
        };
        ensure!(!INTERRUPTED.load(Ordering::SeqCst), "interrupted; the mutation was taken out again");
        let word = if caught { "caught" } else { "SURVIVED" };
        println!("{word:<9} {:>4.0} s  {}", began.elapsed().as_secs_f64(), suspect.name);
        if !caught {
            survived.push(suspect.name);
        }
    }
    ensure!(survived.is_empty(), "no test notices: {}", survived.join("; "));
    Ok(())
}

/// A file with a mutation in it, which is taken out again at the end.
struct Planted {
    file: &'static str,
    source: String,
}

impl Planted {
    fn new(suspect: &Suspect) -> anyhow::Result<Self> {
        let source = fs::read_to_string(suspect.file)?;
        fs::write(suspect.file, source.replacen(suspect.text, suspect.with, 1))?;
        Ok(Self { file: suspect.file, source })
    }
}

impl Drop for Planted {
    fn drop(&mut self) {
        if let Err(error) = fs::write(self.file, &self.source) {
            eprintln!("{} still holds a mutation: git checkout -- {0} ({error})", self.file);
        }
    }
}

/// Whether the tests that judge succeed. What does not compile is no mutation, and an error of its own.
fn passes(judge: Judge, postgres: &Postgres) -> anyhow::Result<bool> {
    let test = |what: &[&str]| {
        let mut test = cargo(&["test", "--locked", "--quiet"]);
        match judge {
            Judge::Pure => {
                determined(&mut test).env("CARGO_TARGET_DIR", "target/mutants/suspects");
                for package in JUDGES.split(',') {
                    test.args(["-p", package]);
                }
            }
            Judge::Sqlite => {
                test.env("CARGO_TARGET_DIR", "target/mutants/suspects").args(["-p", "molecule-store-sqlite"]);
            }
            Judge::Postgres => {
                test.args(["--workspace", "--test", "postgres_store", "--test", "counting"]);
                test.env("MOLECULE_TEST_POSTGRES", &postgres.url);
            }
        }
        test.args(what);
        test
    };
    let built = test(&["--no-run"]).output()?;
    ensure!(built.status.success(), "it does not compile:\n{}", String::from_utf8_lossy(&built.stderr));
    Ok(succeeds(&mut test(&[])))
}

/// Takes chance out of the tests that judge: the random lives of properties and of the simulation are the same each time,
/// whatever the environment of a person says.
fn determined(command: &mut Command) -> &mut Command {
    for name in ["MOLECULE_SIM_SEED", "PROPTEST_CASES", "PROPTEST_RNG_ALGORITHM", "SOAK_CASES"] {
        command.env_remove(name);
    }
    command.env("MOLECULE_SIM_LIVES", LIVES).env("PROPTEST_RNG_SEED", "1")
}

/// Mutations are made in place, so nothing of a person's may stand there.
fn unchanged() -> anyhow::Result<()> {
    let status = Command::new("git").args(["status", "--porcelain", "--untracked-files=no"]).output()?;
    ensure!(
        status.status.success() && status.stdout.is_empty(),
        "mutations are made in place: commit or stash what has changed first\n{}",
        String::from_utf8_lossy(&status.stdout)
    );
    Ok(())
}
