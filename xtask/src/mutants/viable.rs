//! Which mutants compile: the compiler's errors are attributed to the mutants in whose lines they are.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::list::{List, Mutant};
use super::switch::{self, Switched};
use super::tree::Tree;

/// How a mutant is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// With all others in one build.
    Switch,
    /// In a build of its own.
    Single,
    /// Not at all: the mutant does not compile.
    Unviable,
}

/// The route of each mutant, by number.
pub(super) type Routes<'a> = BTreeMap<u32, (Route, &'a Mutant)>;

/// Builds until nothing is left that does not compile. Mutants of the same function as an error that is in no mutant's lines
/// go to builds of their own, as does a mutant that fails in lines it has not changed: the fault may be the switch's.
pub(super) fn sort<'a>(list: &List, chosen: &[&'a Mutant]) -> anyhow::Result<(Tree, Routes<'a>)> {
    let mut routes: Routes<'_> = chosen
        .iter()
        .map(|one| {
            let alone = one.is_opaque || one.function.is_none();
            (one.number, (if alone { Route::Single } else { Route::Switch }, *one))
        })
        .collect();
    for round in 1.. {
        let switched = switch_all(list, &mut routes);
        let tree = planted(&switched)?;
        let errors = errors(&tree)?;
        let count = |route| routes.values().filter(|(of, _)| *of == route).count();
        println!(
            "round {round}: {} mutants in one build, {} alone, {} unviable; {} errors",
            count(Route::Switch),
            count(Route::Single),
            count(Route::Unviable),
            errors.len()
        );
        if errors.is_empty() {
            return Ok((tree, routes));
        }
        reroute(&mut routes, &errors, &switched)?;
    }
    unreachable!("rounds have no end but a build or an error")
}

/// Takes what does not compile out of the one build.
fn reroute(
    routes: &mut Routes<'_>,
    errors: &[Fault],
    switched: &BTreeMap<String, Switched>,
) -> anyhow::Result<()> {
    let mut unviable = BTreeMap::<u32, bool>::new();
    let mut alone = BTreeSet::new();
    for error in errors {
        match attributed(error, switched) {
            Blame::Mutant(number, sure) => *unviable.entry(number).or_default() |= sure,
            Blame::Function(numbers) => {
                println!("no mutant of its own:\n{}", error.text);
                alone.extend(numbers);
            }
            Blame::Nobody => bail!("no mutant causes this error:\n{}", error.text),
        }
    }
    for number in alone {
        routes.entry(number).and_modify(|(route, _)| *route = Route::Single);
    }
    // what leaves the denominator must be sure not to compile
    for (number, sure) in unviable {
        let to = if sure { Route::Unviable } else { Route::Single };
        routes.entry(number).and_modify(|(route, _)| *route = to);
    }
    Ok(())
}

/// The switched files, by name. Mutants that are in no function's body go to builds of their own.
fn switch_all(list: &List, routes: &mut Routes<'_>) -> BTreeMap<String, Switched> {
    let mut files = BTreeMap::<&str, Vec<&Mutant>>::new();
    for (route, mutant) in routes.values() {
        if *route == Route::Switch {
            files.entry(&mutant.file).or_default().push(mutant);
        }
    }
    let mut all = BTreeMap::new();
    for (file, mutants) in files {
        let source = &list.sources[file];
        let (functions, outside) = switch::functions(source, &mutants);
        for mutant in outside {
            routes.insert(mutant.number, (Route::Single, mutant));
        }
        all.insert(file.to_owned(), switch::switched(source, &functions));
    }
    all
}

fn planted(switched: &BTreeMap<String, Switched>) -> anyhow::Result<Tree> {
    let roots = super::PACKAGES.map(|package| {
        let name = package.trim_start_matches("molecule-");
        format!("crates/{name}/src/lib.rs")
    });
    for root in &roots {
        ensure!(Path::new(root).is_file(), "there is no {root}");
    }
    Tree::copied("tree", |file| {
        let text = switched.get(file).map(|switched| switched.text.clone());
        if roots.iter().any(|root| root == file) {
            let text = text.or_else(|| std::fs::read_to_string(file).ok());
            return text.map(|text| switch::rooted(&text));
        }
        text
    })
}

/// An error of the compiler.
#[derive(Debug)]
pub(super) struct Fault {
    /// What the compiler says.
    pub(super) text: String,
    /// The places that the error is about, and after them those that it only mentions.
    places: Vec<(String, RangeInclusive<usize>)>,
}

/// The errors of one build, of all crates that can be built up to one.
pub(super) fn errors(tree: &Tree) -> anyhow::Result<Vec<Fault>> {
    let mut check = tree.cargo(&["check", "--keep-going"]);
    let output = check.env("CARGO_INCREMENTAL", "1").output().context("cargo can't be run")?;
    let mut all = Vec::new();
    for line in output.stdout.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"{")) {
        let line: Value = serde_json::from_slice(line)?;
        let message = &line["message"];
        if line["reason"] == "compiler-message" && message["level"] == "error" {
            let places = places(message);
            if !places.is_empty() {
                let text = message["rendered"].as_str().unwrap_or_default().to_owned();
                all.push(Fault { text, places });
            }
        }
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() || !all.is_empty(), "cargo check:\n{stderr}");
    Ok(all)
}

fn places(message: &Value) -> Vec<(String, RangeInclusive<usize>)> {
    let spans = message["spans"].as_array().map(Vec::as_slice).unwrap_or_default();
    let (primary, other): (Vec<_>, Vec<_>) = spans.iter().partition(|span| span["is_primary"] == true);
    let mut all = Vec::new();
    for span in primary.into_iter().chain(other) {
        // what a macro makes is where the macro is called
        let mut span = span;
        while span["expansion"]["span"].is_object() {
            span = &span["expansion"]["span"];
        }
        let line = |name: &str| span[name].as_u64().and_then(|line| usize::try_from(line).ok());
        if let (Some(file), Some(first), Some(last)) =
            (span["file_name"].as_str(), line("line_start"), line("line_end"))
        {
            all.push((file.to_owned(), first..=last));
        }
    }
    for child in message["children"].as_array().map(Vec::as_slice).unwrap_or_default() {
        all.extend(places(child));
    }
    all
}

/// Who is to blame for an error.
#[derive(Debug, PartialEq, Eq)]
enum Blame {
    /// One mutant, and whether the error is in the lines that the mutant changed.
    Mutant(u32, bool),
    /// A function whose mutants these are.
    Function(Vec<u32>),
    Nobody,
}

fn attributed(fault: &Fault, switched: &BTreeMap<String, Switched>) -> Blame {
    for (file, lines) in &fault.places {
        let arms = switched.get(file).map(|switched| switched.arms.as_slice()).unwrap_or_default();
        let arm =
            arms.iter().find(|arm| arm.lines.contains(lines.start()) && arm.lines.contains(lines.end()));
        if let Some(arm) = arm {
            let changed = fault.places.iter().any(|(of, lines)| {
                of == file && lines.start() <= arm.changed.end() && arm.changed.start() <= lines.end()
            });
            return Blame::Mutant(arm.number, changed);
        }
    }
    for (file, lines) in &fault.places {
        let functions = switched.get(file).map(|switched| switched.functions.as_slice()).unwrap_or_default();
        // the lines of a signature are before those of its body
        let function = functions.iter().find(|(within, _)| within.end() >= lines.start());
        if let Some((_, numbers)) = function {
            return Blame::Function(numbers.clone());
        }
    }
    Blame::Nobody
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutants::list::tests::two;
    use crate::mutants::switch::Arm;

    #[test]
    fn an_error_is_the_fault_of_the_mutant_in_whose_lines_it_is() {
        let arm = |number, lines, changed| Arm { number, lines, changed };
        let arms = vec![arm(7, 3..=6, 5..=5), arm(8, 7..=10, 9..=9)];
        let switched = Switched { arms, functions: vec![(2..=15, vec![7, 8])], ..Switched::default() };
        let switched = BTreeMap::from([("a.rs".to_owned(), switched)]);
        let blame = |places: &[(&str, RangeInclusive<usize>)]| {
            let places = places.iter().map(|(file, lines)| ((*file).to_owned(), lines.clone())).collect();
            attributed(&Fault { text: String::new(), places }, &switched)
        };
        assert_eq!(blame(&[("a.rs", 9..=9)]), Blame::Mutant(8, true));
        assert_eq!(blame(&[("b.rs", 5..=5), ("a.rs", 4..=4)]), Blame::Mutant(7, false));
        assert_eq!(blame(&[("a.rs", 4..=4), ("a.rs", 5..=5)]), Blame::Mutant(7, true));
        assert_eq!(blame(&[("a.rs", 3..=12)]), Blame::Function(vec![7, 8]));
        assert_eq!(blame(&[("b.rs", 5..=5)]), Blame::Nobody);
    }

    #[test]
    fn what_may_be_the_switch_s_fault_gets_a_build_of_its_own() {
        let list = two();
        let mut routes: Routes<'_> =
            list.mutants.iter().map(|one| (one.number, (Route::Switch, one))).collect();
        let arm = |number, lines, changed| Arm { number, lines, changed };
        let arms = vec![arm(1, 3..=6, 5..=5), arm(2, 7..=10, 9..=9)];
        let switched = Switched { arms, ..Switched::default() };
        let fault = |line| Fault { text: String::new(), places: vec![("a.rs".to_owned(), line..=line)] };
        reroute(&mut routes, &[fault(5), fault(7)], &[("a.rs".to_owned(), switched)].into()).unwrap();
        assert_eq!(routes[&1].0, Route::Unviable, "the error is in the line that the mutant changed");
        assert_eq!(routes[&2].0, Route::Single, "it is in another of the mutant's lines");
    }
}
