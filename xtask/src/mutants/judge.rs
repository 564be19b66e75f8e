//! What tests say of each mutant.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};

use super::INTERRUPTED;
use super::list::{List, Mutant};
use super::results::{Results, Word};
use super::suites::{self, NO_TEST, Outcome, Part, Suite};
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
            let run = |worker| suite.run(0, Part::Without(&[]), Duration::from_secs(1800), &scratch(worker));
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

/// What was found of a mutant.
pub(super) type Verdict<'a> = (&'a Mutant, Word, String);

/// Judges mutants that are all in one build, as many at once as there are processors. Gives back what was found of those that
/// survive though they need not do so elsewhere; of the others it is kept.
pub(super) fn all<'a>(
    mutants: &[&'a Mutant],
    elsewhere: &BTreeSet<u32>,
    suites: &[Suite],
    results: &Mutex<Results>,
) -> anyhow::Result<Vec<Verdict<'a>>> {
    if mutants.is_empty() {
        return Ok(Vec::new());
    }
    say(&format!("judging {} mutants in one build", mutants.len()));
    let progress = Progress::new(mutants.len());
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    let unsettled = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for worker in 0..workers() {
            let (progress, next, failure, unsettled) = (&progress, &next, &failure, &unsettled);
            scope.spawn(move || {
                while let Some(mutant) = mutants.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let began = Instant::now();
                    let before = caught_before(mutant, results);
                    let run = |suite: &Suite, part: Part<'_>| {
                        suite.run(mutant.number, part, suite.limit(), &scratch(worker))
                    };
                    let judged = verdict(mutant, suites, &before, run).and_then(|(word, by)| {
                        progress.tell(mutant, word, &by, began.elapsed());
                        if word.survives() && elsewhere.contains(&mutant.number) {
                            let found = (*mutant, word, by);
                            unsettled.lock().unwrap_or_else(PoisonError::into_inner).push(found);
                            return Ok(());
                        }
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
    let unsettled = unsettled.into_inner().unwrap_or_else(PoisonError::into_inner);
    failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(unsettled), Err)
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
                verdict(mutant, &suites, &caught_before(mutant, results), |suite, part| {
                    suite.run(0, part, suite.limit(), &scratch(0))
                })?
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

/// Runs the programs one after another, those of the mutant's own package first, up to one in which a test fails. One that runs
/// out of time, memory or stack does not end the search, since a later one may fail. The test that caught the mutant before
/// comes first: it mostly does so again, in much less time.
fn verdict(
    mutant: &Mutant,
    suites: &[Suite],
    before: &str,
    run: impl Fn(&Suite, Part<'_>) -> anyhow::Result<Outcome>,
) -> anyhow::Result<(Word, String)> {
    let before = before.split_once(": ").filter(|(_, test)| !test.starts_with(NO_TEST));
    if let Some((name, test)) = before
        && let Some(suite) = suites.iter().find(|one| one.name == name)
    {
        let failed = Outcome::Failed(test.to_owned());
        if run(suite, Part::One(test))? == failed && run(suite, Part::One(test))? == failed {
            return Ok((Word::Caught, format!("{name}: {test}")));
        }
    }
    let (own, others): (Vec<&Suite>, Vec<&Suite>) =
        suites.iter().partition(|suite| suite.name == mutant.package);
    let mut found = (Word::Missed, String::new());
    for suite in own.into_iter().chain(others) {
        let (word, how) = searched(&mutant.name, |part| run(suite, part))?;
        if word == Word::Caught {
            return Ok((word, format!("{}: {how}", suite.name)));
        }
        if word == Word::Timeout && found.0 == Word::Missed {
            found = (word, format!("{}: {how}", suite.name));
        }
    }
    Ok(found)
}

/// Runs a program up to a test that fails twice: in all of the program, and once more alone. A test that did so once only is left
/// out of what is run of the program then. Where the program names no test, all of it must fail in the same way twice.
pub(super) fn searched(
    mutant: &str,
    run: impl Fn(Part<'_>) -> anyhow::Result<Outcome>,
) -> anyhow::Result<(Word, String)> {
    let mut once = Vec::new();
    loop {
        let mut outcome = run(Part::Without(&once))?;
        if let Outcome::Failed(failed) = &outcome {
            let names_test = !failed.starts_with(NO_TEST);
            let again = run(if names_test { Part::One(failed) } else { Part::Without(&once) })?;
            if again == outcome {
                return Ok((Word::Caught, failed.clone()));
            }
            println!("failed once only: {failed}, then {again:?}, {mutant}");
            if names_test {
                once.push(failed.clone());
                continue;
            }
            outcome = again;
        }
        let how = match outcome {
            Outcome::Passed | Outcome::Failed(_) => return Ok((Word::Missed, String::new())),
            Outcome::TimedOut => "out of time",
            Outcome::OutOfMemory => "out of memory",
            Outcome::OutOfStack => "out of stack",
        };
        return Ok((Word::Timeout, how.to_owned()));
    }
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::super::list::tests::two;
    use super::*;

    /// The verdict on a mutant where the programs have these outcomes one after another, and what was run.
    fn judged(before: &str, outcomes: Vec<Outcome>) -> (Word, String, Vec<String>) {
        let list = two();
        let suites = ["a", "b"].map(Suite::named);
        let outcomes = RefCell::new(outcomes.into_iter());
        let ran = RefCell::new(Vec::new());
        let run = |suite: &Suite, part: Part<'_>| {
            ran.borrow_mut().push([&[&*suite.name], &part.arguments()[..]].concat().join(" "));
            Ok(outcomes.borrow_mut().next().unwrap_or(Outcome::Passed))
        };
        let (word, by) = verdict(&list.mutants[0], &suites, before, run).unwrap();
        (word, by, ran.into_inner())
    }

    fn failed(test: &str) -> Outcome {
        Outcome::Failed(test.to_owned())
    }

    #[test]
    fn a_test_that_fails_twice_has_caught_the_mutant() {
        let (word, by, ran) = judged("", vec![failed("t"), failed("t")]);
        assert_eq!((word, &*by), (Word::Caught, "a: t"));
        assert_eq!(ran, ["a", "a --exact t"]);
        let (word, by, ran) = judged("b: t", vec![failed("t"), failed("t")]);
        assert_eq!((word, &*by), (Word::Caught, "b: t"));
        assert_eq!(ran, ["b --exact t", "b --exact t"]);
        let ended = failed("the program: signal 11");
        assert_eq!(judged("", vec![ended.clone(), ended]).0, Word::Caught);
    }

    #[test]
    fn a_test_that_fails_once_only_has_caught_nothing() {
        let (word, by, ran) = judged("", vec![failed("t"), Outcome::Passed, failed("u"), failed("u")]);
        assert_eq!((word, &*by), (Word::Caught, "a: u"), "another test of the program has");
        assert_eq!(ran, ["a", "a --exact t", "a --exact --skip t", "a --exact u"]);
        let (word, _, ran) = judged("", vec![failed("t")]);
        assert_eq!(word, Word::Missed);
        assert_eq!(ran, ["a", "a --exact t", "a --exact --skip t", "b"]);
        assert_eq!(judged("b: t", vec![failed("t")]).0, Word::Missed);
        assert_eq!(judged("", vec![failed("the program: signal 11")]).0, Word::Missed);
    }

    #[test]
    fn a_program_that_hangs_does_not_end_the_search() {
        assert_eq!(judged("", vec![Outcome::TimedOut, failed("t"), failed("t")]).1, "b: t");
        assert_eq!(judged("", vec![Outcome::TimedOut]).0, Word::Timeout);
        assert_eq!(judged("", vec![Outcome::OutOfMemory]).0, Word::Timeout);
        assert_eq!(judged("", vec![Outcome::OutOfStack]).0, Word::Timeout);
    }
}
