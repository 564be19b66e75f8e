//! Tests are tested: bugs are planted, and tests must catch them.

mod suspects;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, bail, ensure};

use self::suspects::{Judge, Suspect};
use crate::postgres::Postgres;
use crate::shell::{cargo, command, say, succeeds};
use crate::tools::cargo_tool;

/// The crates whose every operator is mutated.
const PACKAGES: [&str; 3] = ["molecule-domain", "molecule-workspace", "molecule-provisioner"];
/// The crates whose tests judge.
const JUDGES: &str =
    "molecule-domain,molecule-workspace,molecule-provisioner,molecule-tenant,molecule-contracts,molecule-sim";
/// Simulated lives for each mutant, from the first seed on: half a minute on two cores.
const LIVES: &str = "400";
/// Where what a shard found is kept.
const RESULTS: &str = "tests/mutants";

/// Whether Ctrl-C was pressed: tests that it has ended have caught nothing.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Plants the suspects one by one; each must be caught.
pub(crate) fn suspects(only: Option<&str>) -> anyhow::Result<()> {
    unchanged()?;
    let mut chosen: Vec<&Suspect> =
        suspects::ALL.iter().filter(|one| only.is_none_or(|only| one.name.contains(only))).collect();
    // the tests on PostgreSQL need all of the workspace, which takes minutes to build
    chosen.sort_by_key(|one| one.judge == Judge::Postgres);
    ensure!(!chosen.is_empty(), "no suspect has that in its name");
    for suspect in &chosen {
        let source = fs::read_to_string(suspect.file).with_context(|| suspect.file.to_owned())?;
        let count = source.matches(suspect.text).count();
        ensure!(
            count == 1,
            "{:?} is {count} times in {}, not once: {}",
            suspect.text,
            suspect.file,
            suspect.name
        );
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

/// Mutates one shard of all operators, in place, and keeps what came of it. What was caught before is not tried again.
pub(crate) fn shard(shard: &str) -> anyhow::Result<()> {
    let (k, n) = shard.split_once('/').context("a shard is K/N: the K-th of N, from 0 on")?;
    let (k, n): (u32, u32) = (k.parse()?, n.parse()?);
    ensure!(k < n, "there is no shard {k} of {n}: they begin with 0");
    unchanged()?;
    let tool = cargo_tool("cargo-mutants", &["cargo-mutants"])?;
    let output = PathBuf::from(format!("target/mutants-{k}-of-{n}"));
    let mut mutants = command(tool, &["mutants", "--in-place", "--iterate", "--baseline=skip", "--no-times"]);
    mutants.args(["--timeout", "240", "--build-timeout", "240", "--test-package", JUDGES, "--shard", shard]);
    mutants.arg("--output").arg(&output);
    for package in PACKAGES {
        mutants.args(["--package", package]);
    }
    mutants.env("MOLECULE_SIM_LIVES", LIVES).env("CARGO_TARGET_DIR", "target/mutants");
    // 2 says that some were missed and 3 that some ran out of time: both are in the results
    let status = mutants.status().context("cargo-mutants can't be run")?;
    ensure!(matches!(status.code(), Some(0 | 2 | 3)), "cargo-mutants ended with {status}");
    let read = |name: &str| {
        let text = fs::read_to_string(output.join("mutants.out").join(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let mut lines: Vec<String> = Vec::new();
    for (word, name) in [("caught", "caught.txt"), ("missed", "missed.txt"), ("timeout", "timeout.txt")] {
        let earlier = if word == "caught" { read("previously_caught.txt") } else { Vec::new() };
        lines.extend(read(name).into_iter().chain(earlier).map(|mutant| format!("{word}\t{mutant}")));
    }
    lines.sort();
    lines.dedup();
    fs::create_dir_all(RESULTS)?;
    fs::write(format!("{RESULTS}/{k}-of-{n}.txt"), lines.join("\n") + "\n")?;
    report()
}

/// Adds the kept results up, by file.
pub(crate) fn report() -> anyhow::Result<()> {
    let mut files = std::collections::BTreeMap::<String, [u32; 3]>::new();
    for entry in fs::read_dir(RESULTS).with_context(|| format!("no shard has been run yet: {RESULTS}"))? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "txt") {
            continue;
        }
        for line in fs::read_to_string(&path)?.lines() {
            let Some((word, mutant)) = line.split_once('\t') else { bail!("{}: {line:?}", path.display()) };
            let file = mutant.split(':').next().unwrap_or_default();
            let column = ["caught", "missed", "timeout"].iter().position(|known| *known == word);
            let column = column.with_context(|| format!("{}: {line:?}", path.display()))?;
            files.entry(file.to_owned()).or_default()[column] += 1;
        }
    }
    println!("{:<58} {:>6} {:>6} {:>7} {:>6}", "file", "caught", "missed", "timeout", "share");
    let mut all = [0; 3];
    for (file, counts) in &files {
        show(file, *counts);
        for (sum, count) in all.iter_mut().zip(counts) {
            *sum += count;
        }
    }
    show("all", all);
    Ok(())
}

fn show(name: &str, [caught, missed, timeout]: [u32; 3]) {
    let share = f64::from(caught) * 100.0 / f64::from((caught + missed + timeout).max(1));
    println!("{name:<58} {caught:>6} {missed:>6} {timeout:>7} {share:>5.1}%");
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
                test.env("CARGO_TARGET_DIR", "target/mutants").env("MOLECULE_SIM_LIVES", LIVES);
                for package in JUDGES.split(',') {
                    test.args(["-p", package]);
                }
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
