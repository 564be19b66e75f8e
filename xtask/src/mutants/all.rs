//! Every mutant that cargo-mutants finds, compiled into one build and judged one by one.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, bail, ensure};

use super::list::{List, Mutant};
use super::results::{Results, Word};
use super::viable::{self, Route};
use super::{INTERRUPTED, constant, judge, state, suites, summary, switch};
use crate::shell::say;

/// Judges the mutants of one shard, or all, whose name holds a text, or any. What was found in this state of the code and the
/// tests stands, but where a mutant ran out of time, or where what no test has caught is to be judged again.
pub(crate) fn run(shard: Option<&str>, only: Option<&str>, again: bool) -> anyhow::Result<()> {
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::SeqCst))?;
    let list = List::new()?;
    let (k, n) = shard.map_or(Ok((0, 1)), parse)?;
    let chosen = list.mutants.iter().filter(|one| one.shard(n) == k);
    let chosen: Vec<&Mutant> = chosen.filter(|one| only.is_none_or(|only| one.name.contains(only))).collect();
    let results = Results::load(&state::now()?)?;
    let open: Vec<&Mutant> =
        chosen.iter().copied().filter(|one| results.known().is_open(&one.key, again)).collect();
    say(&format!("{} mutants, of which {} are to be judged", chosen.len(), open.len()));
    let results = Mutex::new(results);
    let judged = if open.is_empty() { Ok(()) } else { judge(&list, &open, &results) };
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    if only.is_none() {
        results.keep(&chosen, k, n)?;
    }
    summary::write(&list, &results)?;
    judged
}

fn judge(list: &List, open: &[&Mutant], results: &Mutex<Results>) -> anyhow::Result<()> {
    say("finding the mutants that compile");
    let began = Instant::now();
    let (tree, routes) = viable::sort(list, open)?;
    let of = |wanted: Route| -> Vec<&Mutant> {
        routes.values().filter(|(route, _)| *route == wanted).map(|(_, mutant)| *mutant).collect()
    };
    for mutant in of(Route::Unviable) {
        results.lock().unwrap_or_else(PoisonError::into_inner).add(mutant, Word::Unviable, "")?;
    }
    say(&format!("building the tests ({:.0} s up to now)", began.elapsed().as_secs_f64()));
    let built = Instant::now();
    let mut suites = match suites::build(&tree)? {
        Ok(suites) => suites,
        Err(errors) => bail!("what was checked does not compile:\n{errors}"),
    };
    say(&format!("without any mutant, after {:.0} s of building", built.elapsed().as_secs_f64()));
    judge::baseline(&mut suites)?;
    let together = of(Route::Switch);
    // one that survives where the compiler runs it for a constant may do so only in this build
    let survivors = judge::all(&together, &constant(list, &together), &suites, results)?;
    let mut alone = of(Route::Single);
    if !survivors.is_empty() {
        say(&format!("finding out which of {} survivors the compiler runs itself", survivors.len()));
        let names = constant::functions()?;
        for (mutant, word, by) in survivors {
            if constant::holds(&names, mutant) {
                alone.push(mutant);
            } else {
                results.lock().unwrap_or_else(PoisonError::into_inner).add(mutant, word, &by)?;
            }
        }
    }
    if alone.is_empty() { Ok(()) } else { judge::alone(list, &alone, &suites, results) }
}

/// The mutants in functions that are `const`, by number.
fn constant(list: &List, mutants: &[&Mutant]) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    for (file, source) in &list.sources {
        let of_file: Vec<_> = mutants.iter().copied().filter(|one| one.file == *file).collect();
        let (functions, _) = switch::functions(source, &of_file);
        let functions = functions.into_iter().filter(|function| function.is_const);
        found.extend(functions.flat_map(|function| function.mutants).map(|mutant| mutant.number));
    }
    found
}

/// Reads a shard, `K/N`: the K-th of N, from 0 on.
fn parse(shard: &str) -> anyhow::Result<(u32, u32)> {
    let (k, n) = shard.split_once('/').context("a shard is K/N: the K-th of N, from 0 on")?;
    let (k, n): (u32, u32) = (k.parse()?, n.parse()?);
    ensure!(k < n, "there is no shard {k} of {n}: they begin with 0");
    Ok((k, n))
}
