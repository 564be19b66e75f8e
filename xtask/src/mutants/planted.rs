//! The suspects of the crates that are not mutated, planted one by one.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::list::hash;
use super::results::{Known, Subject, Word};
use super::suites::{self, Outcome, Part, Until};
use super::suspects::{self, Judge, Suspect};
use super::{INTERRUPTED, JUDGES, determined, judge, state};
use crate::postgres::Postgres;
use crate::shell::{cargo, say};

/// Where what was found is kept, in lines as those of the shards.
const KEPT: &str = "tests/mutants/suspects.tsv";

/// What became of each, by name; nothing where it was not judged in this state of the code and the tests.
pub(super) type Planted = BTreeMap<String, Option<Word>>;

/// What is known of each.
pub(super) fn found() -> anyhow::Result<Planted> {
    let known = known()?;
    let places = places()?;
    Ok(places.into_iter().map(|one| (one.name, known.get(&one.key).map(|found| found.word))).collect())
}

fn known() -> anyhow::Result<Known> {
    let mut known = Known::of(&state::of_all()?);
    known.read(&fs::read_to_string(KEPT).unwrap_or_default());
    Ok(known)
}

/// A suspect that is planted alone.
#[derive(Debug)]
struct Place {
    suspect: &'static Suspect,
    name: String,
    /// What is the same as long as the mutated file is.
    key: String,
}

impl Place {
    fn of(suspect: &'static Suspect, source: &str) -> anyhow::Result<Self> {
        let key = hash(&[suspect.file, suspect.name, &suspect.applied(source)?]);
        Ok(Self { suspect, name: suspect.full_name(), key })
    }
}

fn places() -> anyhow::Result<Vec<Place>> {
    let alone = suspects::ALL.iter().filter(|one| one.is_alone());
    alone
        .map(|suspect| Place::of(suspect, &fs::read_to_string(suspect.file).context(suspect.file)?))
        .collect()
}

/// Plants each whose name holds a text, or any; each must be caught. What was found in this state of the code and the tests
/// stands, but where a mutant ran out of time, or where what no test has caught is to be judged again. The other suspects are
/// judged with all mutants.
pub(crate) fn run(only: Option<&str>, again: bool) -> anyhow::Result<()> {
    unchanged()?;
    let places = places()?;
    let mut known = known()?;
    let mut chosen: Vec<&Place> =
        places.iter().filter(|one| only.is_none_or(|only| one.name.contains(only))).collect();
    // the tests on PostgreSQL need all of the workspace, which takes minutes to build
    chosen.sort_by_key(|one| one.suspect.judge);
    ensure!(!chosen.is_empty(), "no suspect that is planted alone has that in its name");
    let open: Vec<&Place> = chosen.iter().copied().filter(|one| known.is_open(&one.key, again)).collect();
    say(&format!(
        "{} suspects, each of which a test must catch, of which {} are to be judged",
        chosen.len(),
        open.len()
    ));
    if !open.is_empty() {
        judge(&open, &mut known, &places)?;
    }
    let survived: Vec<_> = chosen
        .iter()
        .filter(|one| known.get(&one.key).is_none_or(|found| found.word != Word::Caught))
        .map(|one| one.name.as_str())
        .collect();
    ensure!(survived.is_empty(), "no test notices: {}", survived.join("; "));
    Ok(())
}

fn judge(open: &[&Place], known: &mut Known, all: &[Place]) -> anyhow::Result<()> {
    let postgres = Postgres::ensure("mutants")?;
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::SeqCst))?;
    let mut tests: Option<Tests<'_>> = None;
    for place in open {
        let judge = place.suspect.judge;
        let tests = match &tests {
            Some(passed) if passed.judge == judge => passed,
            _ => tests.insert(Tests::unchanged(judge, &postgres)?),
        };
        let began = Instant::now();
        let (word, how) = {
            let _mutation = Mutation::new(place.suspect)?;
            tests.build().with_context(|| place.name.clone())?;
            judge::searched(&place.name, |part| tests.run(part, tests.limit))?
        };
        let by = if how.is_empty() { how } else { format!("{}: {how}", judge.name()) };
        println!("{word:<8} {:>4.0} s  {} {by}", began.elapsed().as_secs_f64(), place.name);
        known.set(&place.key, word, &by);
        fs::create_dir_all("tests/mutants")?;
        let subjects = all.iter().map(|one| Subject { name: &one.name, key: &one.key });
        fs::write(KEPT, known.lines(subjects)).context(KEPT)?;
    }
    Ok(())
}

/// A file with a mutation in it, which is taken out again at the end.
struct Mutation {
    file: &'static str,
    source: String,
}

impl Mutation {
    fn new(suspect: &Suspect) -> anyhow::Result<Self> {
        let source = fs::read_to_string(suspect.file)?;
        fs::write(suspect.file, suspect.applied(&source)?)?;
        Ok(Self { file: suspect.file, source })
    }
}

impl Drop for Mutation {
    fn drop(&mut self) {
        if let Err(error) = fs::write(self.file, &self.source) {
            eprintln!("{} still holds a mutation: git checkout -- {0} ({error})", self.file);
        }
    }
}

/// The tests that judge.
struct Tests<'a> {
    judge: Judge,
    postgres: &'a Postgres,
    /// How long they may take with a mutation.
    limit: Duration,
}

impl<'a> Tests<'a> {
    /// Builds and runs them without any mutation.
    fn unchanged(judge: Judge, postgres: &'a Postgres) -> anyhow::Result<Self> {
        let mut tests = Self { judge, postgres, limit: Duration::from_secs(1800) };
        tests.build()?;
        let began = Instant::now();
        let outcome = tests.run(Part::Without(&[]), tests.limit)?;
        ensure!(outcome == Outcome::Passed, "the tests fail without any mutation: {outcome:?}");
        tests.limit = suites::limit(began.elapsed());
        Ok(tests)
    }

    fn command(&self) -> Command {
        let mut test = cargo(&["test", "--locked"]);
        match self.judge {
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
                test.env("MOLECULE_TEST_POSTGRES", &self.postgres.url);
            }
        }
        test
    }

    /// What does not compile is no mutation, and an error of its own.
    fn build(&self) -> anyhow::Result<()> {
        let built = self.command().args(["--no-run", "--quiet"]).output()?;
        ensure!(!INTERRUPTED.load(Ordering::SeqCst), "interrupted; what was found is kept");
        ensure!(built.status.success(), "it does not compile:\n{}", String::from_utf8_lossy(&built.stderr));
        Ok(())
    }

    /// To their end: those on PostgreSQL drop the databases then that they have made.
    fn run(&self, part: Part<'_>, limit: Duration) -> anyhow::Result<Outcome> {
        let mut command = self.command();
        command.arg("--").args(part.arguments());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        suites::watch(command.spawn().context("cargo can't be run")?, limit, Until::End)
    }
}

/// Mutations are made in place, so nothing of a person's may stand there.
fn unchanged() -> anyhow::Result<()> {
    let status = Command::new("git")
        .args(["status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)tests/mutants"])
        .output()?;
    ensure!(
        status.status.success() && status.stdout.is_empty(),
        "mutations are made in place: commit or stash what has changed first\n{}",
        String::from_utf8_lossy(&status.stdout)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A suspect is judged with all mutants, or its result is kept here.
    #[test]
    fn what_the_stores_suspects_became_is_kept() {
        let alone: Vec<_> = suspects::ALL.iter().filter(|one| one.is_alone()).collect();
        assert!(alone.iter().any(|one| one.judge == Judge::Sqlite));
        assert!(alone.iter().any(|one| one.judge == Judge::Postgres));
        let suspect = alone[0];
        let place = Place::of(suspect, suspect.text).unwrap();
        let mut known = Known::of("now");
        known.set(&place.key, Word::Caught, "postgres: t");
        let line = known.lines([Subject { name: &place.name, key: &place.key }]);
        let mut read = Known::of("now");
        read.read(&line);
        assert_eq!(read.get(&place.key).map(|found| found.word), Some(Word::Caught));
        let changed = Place::of(suspect, &format!("{}\n", suspect.text)).unwrap();
        assert_eq!((read.get(&changed.key), &changed.name), (None, &place.name), "the file has changed");
        let mut later = Known::of("later");
        later.read(&line);
        assert_eq!(later.get(&place.key), None, "the tests have changed");
    }

    #[test]
    fn a_mutation_is_taken_out_again() {
        let suspect = &suspects::ALL[0];
        assert_eq!(suspect.applied(&format!("a{}b", suspect.text)).unwrap(), format!("a{}b", suspect.with));
        assert!(suspect.applied(&suspect.text.repeat(2)).is_err());
    }
}
