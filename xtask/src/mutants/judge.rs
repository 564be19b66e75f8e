//! What tests say of each mutant.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};

use super::INTERRUPTED;
use super::list::{List, Mutant};
use super::results::{Results, Word};
use super::suites::{self, NO_TEST, Outcome, Suite};
use super::tree::{FOLDER, Tree};
use crate::shell::say;

/// How often the number of judged mutants is told.
const TOLD_EVERY: Duration = Duration::from_secs(30);

/// Runs every program without any mutant, notes how long each takes, and puts the quick ones first. Each runs as many times at
/// once as mutants are judged: a test that fails only under that load must not count as a catch.
pub(super) fn baseline(suites: &mut [Suite]) -> anyhow::Result<()> {
    for suite in suites.iter_mut() {
        let began = Instant::now();
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let run = |worker| suite.run(0, None, Duration::from_secs(1800), &scratch(worker));
            let running: Vec<_> = (0..workers()).map(|worker| scope.spawn(move || run(worker))).collect();
            running.into_iter().map(|one| one.join().unwrap_or_else(|_| bail!("a thread ended"))).collect()
        });
        suite.usual = began.elapsed();
        println!("{:>7.2} s  {}", suite.usual.as_secs_f64(), suite.name);
        for outcome in outcomes {
            let outcome = outcome?;
            ensure!(outcome == Outcome::Passed, "{} without any mutant: {outcome:?}", suite.name);
        }
    }
    suites.sort_by_key(|suite| suite.usual);
    Ok(())
}

/// How many mutants are judged at once.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(2, NonZero::get)
}

/// Judges mutants that are all in one build, as many at once as there are processors.
pub(super) fn all(mutants: &[&Mutant], suites: &[Suite], results: &Mutex<Results>) -> anyhow::Result<()> {
    if mutants.is_empty() {
        return Ok(());
    }
    say(&format!("judging {} mutants in one build", mutants.len()));
    let progress = Progress::new(mutants.len());
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    std::thread::scope(|scope| {
        for worker in 0..workers() {
            let (progress, next, failure) = (&progress, &next, &failure);
            scope.spawn(move || {
                while let Some(mutant) = mutants.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let began = Instant::now();
                    let before = caught_before(mutant, results);
                    let judged =
                        verdict(mutant, mutant.number, suites, &before, worker).and_then(|(word, by)| {
                            progress.tell(mutant, word, &by, began.elapsed());
                            results.lock().unwrap_or_else(PoisonError::into_inner).add(mutant, word, &by)
                        });
                    if let Err(error) = judged {
                        next.store(usize::MAX / 2, Ordering::Relaxed);
                        failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    }
                }
            });
        }
    });
    failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

/// Judges mutants that have a build each. A mutant that does not compile here is none.
pub(super) fn alone(
    list: &List,
    mutants: &[&Mutant],
    judges: &[Suite],
    results: &Mutex<Results>,
) -> anyhow::Result<()> {
    say(&format!("judging {} mutants that need a build each", mutants.len()));
    let tree = Tree::copied("single", |_| None)?;
    if let Err(errors) = suites::build(&tree)? {
        bail!("it does not compile without any mutant:\n{errors}");
    }
    let progress = Progress::new(mutants.len());
    let usual: BTreeMap<_, _> = judges.iter().map(|suite| (suite.name.as_str(), suite.usual)).collect();
    for mutant in mutants {
        let began = Instant::now();
        let source = &list.sources[&mutant.file];
        tree.write(&mutant.file, mutant.applied(source, 0..source.len()).as_bytes())?;
        let built = suites::build(&tree);
        tree.write(&mutant.file, source.as_bytes())?;
        ensure!(!INTERRUPTED.load(Ordering::SeqCst), "interrupted; what was found is kept");
        let (word, by) = match built? {
            Err(_) => (Word::Unviable, String::new()),
            Ok(mut suites) => {
                for suite in &mut suites {
                    suite.usual = usual.get(suite.name.as_str()).copied().unwrap_or_default();
                }
                suites.sort_by_key(|suite| suite.usual);
                verdict(mutant, 0, &suites, &caught_before(mutant, results), 0)?
            }
        };
        progress.tell(mutant, word, &by, began.elapsed());
        results.lock().unwrap_or_else(PoisonError::into_inner).add(mutant, word, &by)?;
    }
    Ok(())
}

/// What caught the mutant in another state of the code and the tests; empty where nothing did.
fn caught_before(mutant: &Mutant, results: &Mutex<Results>) -> String {
    let results = results.lock().unwrap_or_else(PoisonError::into_inner);
    results.caught_before(mutant).unwrap_or_default().to_owned()
}

/// Runs the programs one after another, those of the mutant's own package first, up to one that fails. One that runs out of
/// time or memory does not end the search, since a later one may fail. The test that caught the mutant before comes first: it
/// mostly does so again, in much less time.
fn verdict(
    mutant: &Mutant,
    number: u32,
    suites: &[Suite],
    before: &str,
    worker: usize,
) -> anyhow::Result<(Word, String)> {
    let before = before.split_once(": ").filter(|(_, test)| !test.starts_with(NO_TEST));
    if let Some((suite, test)) = before
        && let Some(suite) = suites.iter().find(|one| one.name == suite)
        && suite.run(number, Some(test), suite.limit(), &scratch(worker))? == Outcome::Failed(test.to_owned())
    {
        return Ok((Word::Caught, format!("{}: {test}", suite.name)));
    }
    let (own, others): (Vec<&Suite>, Vec<&Suite>) =
        suites.iter().partition(|suite| suite.name == mutant.package);
    let mut hung = None;
    for suite in own.into_iter().chain(others) {
        match suite.run(number, None, suite.limit(), &scratch(worker))? {
            Outcome::Passed => {}
            Outcome::Failed(test) => return Ok((Word::Caught, format!("{}: {test}", suite.name))),
            Outcome::TimedOut => {
                hung.get_or_insert_with(|| suite.name.clone());
            }
            Outcome::OutOfMemory => {
                hung.get_or_insert_with(|| format!("{}: out of memory", suite.name));
            }
        }
    }
    Ok(match hung {
        Some(suite) => (Word::Timeout, suite),
        None => (Word::Missed, String::new()),
    })
}

/// Where the programs of one worker put temporary files.
fn scratch(worker: usize) -> PathBuf {
    std::env::current_dir().unwrap_or_default().join(FOLDER).join(format!("scratch-{worker}"))
}

/// How far the judging is.
#[derive(Debug)]
struct Progress {
    all: usize,
    began: Instant,
    counted: Mutex<(BTreeMap<Word, usize>, Instant)>,
}

impl Progress {
    fn new(all: usize) -> Self {
        Self { all, began: Instant::now(), counted: Mutex::new((BTreeMap::new(), Instant::now())) }
    }

    fn tell(&self, mutant: &Mutant, word: Word, by: &str, took: Duration) {
        if word != Word::Caught {
            println!("{word:<8} {:>4.0} s  {} {by}", took.as_secs_f64(), mutant.name);
        }
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        *counted.0.entry(word).or_default() += 1;
        let done: usize = counted.0.values().sum();
        if counted.1.elapsed() >= TOLD_EVERY || done == self.all {
            counted.1 = Instant::now();
            let each = self.began.elapsed() / u32::try_from(done).unwrap_or(u32::MAX);
            let left = each * u32::try_from(self.all - done).unwrap_or(u32::MAX);
            let words: Vec<_> = counted.0.iter().map(|(word, count)| format!("{count} {word}")).collect();
            println!(
                "{done} of {}: {}; {:.2} s each, {} minutes left",
                self.all,
                words.join(", "),
                each.as_secs_f64(),
                left.as_secs() / 60
            );
        }
    }
}
