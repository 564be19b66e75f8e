//! The sum of what was found of all mutants, and what is not as it must be.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, bail, ensure};

use super::list::List;
use super::planted::{self, Planted};
use super::results::{Known, Results, Word};
use super::state;

/// Where the sum is kept, for people.
const SUMMARY: &str = "tests/mutants/results.txt";
/// Why survivors may survive: in each line a name, the mutant's key, and a reason, with tabs between them.
const SURVIVORS: &str = "tests/mutants/survivors.txt";
/// The least share of all mutants that must be caught, in percent, and the least one of a file's.
const LEAST: (f64, f64) = (95.0, 90.0);

/// Writes and shows the sum of all mutants of a list: the counts of each file, then every mutant that no test caught.
pub(super) fn write(list: &List, results: &Results) -> anyhow::Result<()> {
    let summary = Summary::of(list, results.known(), &planted::found()?);
    fs::write(SUMMARY, summary.text()).context(SUMMARY)?;
    summary.show();
    Ok(())
}

/// Caught, missed, out of time, unviable, and not yet judged.
type Counts = [u32; 5];
const OPEN: usize = 4;

/// What a run has found in all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Summary {
    files: BTreeMap<String, Counts>,
    /// The mutants that no test caught, by name, each with its key.
    survivors: BTreeMap<String, (Word, String)>,
    /// What became of those that a reader has thought of, by name. They are not counted.
    suspects: BTreeMap<String, String>,
    /// How many were caught by a program that ended and named no test.
    no_test: u32,
}

impl Summary {
    /// Of a list, and of the suspects that were planted one by one.
    fn of(list: &List, known: &Known, planted: &Planted) -> Self {
        let mut summary = Self::default();
        for (name, word) in planted {
            summary.suspects.insert(name.clone(), word.map_or("open", Word::as_str).to_owned());
        }
        for mutant in &list.mutants {
            let found = known.get(&mutant.key);
            if mutant.is_suspect {
                let word = found.map_or("open", |found| found.word.as_str());
                summary.suspects.insert(mutant.name.clone(), word.to_owned());
                continue;
            }
            let counts = summary.files.entry(mutant.file.clone()).or_default();
            let Some(found) = found else {
                counts[OPEN] += 1;
                continue;
            };
            counts[found.word as usize] += 1;
            summary.no_test += u32::from(found.names_no_test());
            if found.word.survives() {
                summary.survivors.insert(mutant.name.clone(), (found.word, mutant.key.clone()));
            }
        }
        summary
    }

    fn text(&self) -> String {
        let mut lines = vec![
            "# caught, missed, timeout (or out of memory or stack), unviable, open; written by `cargo xtask mutants`"
                .to_owned(),
        ];
        for (file, counts) in &self.files {
            let counts: Vec<_> = counts.iter().map(ToString::to_string).collect();
            lines.push(format!("file\t{file}\t{}", counts.join("\t")));
        }
        lines.extend(self.survivors.iter().map(|(name, (word, key))| format!("{word}\t{name}\t{key}")));
        lines.extend(self.suspects.iter().map(|(name, word)| format!("suspect\t{word}\t{name}")));
        lines.join("\n") + "\n"
    }

    fn show(&self) {
        println!(
            "{:<58} {:>6} {:>6} {:>7} {:>8} {:>5} {:>6}",
            "file", "caught", "missed", "timeout", "unviable", "open", "share"
        );
        for (file, counts) in &self.files {
            show(file, *counts);
        }
        show("all", self.all());
        println!("{} of those that are caught end a program that names no test", self.no_test);
    }

    /// What is not as it must be.
    fn problems(&self, reasons: &BTreeMap<String, Reason>) -> Vec<String> {
        let mut problems = Vec::new();
        let all = self.all();
        if all[OPEN] > 0 {
            problems.push(format!("{} mutants are not judged yet", all[OPEN]));
        }
        if share(all) < LEAST.0 {
            problems.push(format!("{:.1}% of all are caught, not {}%", share(all), LEAST.0));
        }
        for (file, counts) in &self.files {
            if share(*counts) < LEAST.1 {
                problems.push(format!("{:.1}% of {file} are caught, not {}%", share(*counts), LEAST.1));
            }
        }
        for (name, word) in self.suspects.iter().filter(|(_, word)| *word != Word::Caught.as_str()) {
            problems.push(format!("{word}, and must be caught: {name}"));
        }
        for (name, (_, key)) in &self.survivors {
            match reasons.get(name) {
                None => problems.push(format!("no reason in {SURVIVORS}: {name}, {key}")),
                // a reason is for the function as it was, and for that one of several mutants that are named alike
                Some(reason) if reason.key != *key => {
                    problems.push(format!(
                        "its function has changed, so its reason is to be read again: {name}, {key}"
                    ));
                }
                Some(_) => {}
            }
        }
        for name in reasons.keys().filter(|name| !self.survivors.contains_key(*name)) {
            problems.push(format!("a reason in {SURVIVORS} for what does not survive: {name}"));
        }
        problems
    }

    fn all(&self) -> Counts {
        let mut all = Counts::default();
        for (sum, count) in self.files.values().flat_map(|counts| counts.iter().enumerate()) {
            all[sum] += count;
        }
        all
    }
}

/// The share of the mutants that compile which tests catch, in percent.
fn share([caught, missed, timeout, ..]: Counts) -> f64 {
    let all = caught + missed + timeout;
    if all == 0 { 100.0 } else { f64::from(caught) * 100.0 / f64::from(all) }
}

/// Why a survivor may survive, as long as its key is this one.
#[derive(Debug)]
struct Reason {
    key: String,
}

/// Reads why survivors may survive, by the mutants' names.
fn reasons(text: &str) -> anyhow::Result<BTreeMap<String, Reason>> {
    let mut reasons = BTreeMap::new();
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        let parts: Vec<_> = line.split('\t').map(str::trim).collect();
        let [name, key, reason] = parts[..] else {
            bail!("{SURVIVORS}: not a name, a key and a reason with tabs between them: {line:?}")
        };
        ensure!(![name, key, reason].contains(&""), "{SURVIVORS}: something is empty: {line:?}");
        let earlier = reasons.insert(name.to_owned(), Reason { key: key.to_owned() });
        ensure!(earlier.is_none(), "{SURVIVORS}: {name} is there twice");
    }
    Ok(reasons)
}

/// Sums up what all shards have found in this state of the code and the tests, and fails where too little is caught or a
/// survivor has no reason.
pub(crate) fn report() -> anyhow::Result<()> {
    let (list, results) = (List::new()?, Results::load(&state::now()?)?);
    write(&list, &results)?;
    let reasons = reasons(&fs::read_to_string(SURVIVORS).unwrap_or_default())?;
    let problems = Summary::of(&list, results.known(), &planted::found()?).problems(&reasons);
    ensure!(problems.is_empty(), "{}", problems.join("\n"));
    Ok(())
}

fn show(name: &str, counts: Counts) {
    let [caught, missed, timeout, unviable, open] = counts;
    let share = share(counts);
    println!("{name:<58} {caught:>6} {missed:>6} {timeout:>7} {unviable:>8} {open:>5} {share:>5.1}%");
}

#[cfg(test)]
mod tests {
    use super::super::list::tests::two;
    use super::*;

    fn summary(files: &[(&str, Counts)], survivors: &[(&str, Word)]) -> Summary {
        let survivor = |(name, word): &(&str, Word)| ((*name).to_owned(), (*word, "key".to_owned()));
        Summary {
            files: files.iter().map(|(file, counts)| ((*file).to_owned(), *counts)).collect(),
            survivors: survivors.iter().map(survivor).collect(),
            ..Summary::default()
        }
    }

    #[test]
    fn the_sum_tells_of_each_mutant() {
        let list = two();
        let [one, other] = &list.mutants[..] else { panic!() };
        let mut known = Known::of("now");
        assert_eq!(Summary::of(&list, &known, &Planted::new()).files["a.rs"], [0, 0, 0, 0, 2]);
        known.read(&format!("caught\t{}\ta: the program: signal 6\t{}\tnow\n", one.name, one.key));
        known.read(&format!("timeout\t{}\ta: out of memory\t{}\tnow\n", other.name, other.key));
        let found = Summary::of(&list, &known, &Planted::new());
        assert_eq!((found.files["a.rs"], found.no_test), ([1, 0, 1, 0, 0], 1));
        let text = found.text();
        assert!(text.contains("file\ta.rs\t1\t0\t1\t0\t0\n"), "{text}");
        assert!(text.contains(&format!("timeout\t{}\t{}\n", other.name, other.key)), "{text}");
    }

    #[test]
    fn a_suspect_must_be_caught() {
        let suspects = [("a.rs: it is forgotten", "caught"), ("a.rs: it is lost", "missed")];
        let suspects = suspects.map(|(name, word)| (name.to_owned(), word.to_owned())).into();
        let found = Summary { suspects, ..Summary::default() };
        assert_eq!(found.problems(&BTreeMap::new()), ["missed, and must be caught: a.rs: it is lost"]);
    }

    #[test]
    fn what_is_planted_alone_must_be_caught_too() {
        let planted =
            [("pg.rs: a", None), ("pg.rs: b", Some(Word::Missed)), ("pg.rs: c", Some(Word::Caught))];
        let planted = planted.map(|(name, word)| (name.to_owned(), word)).into();
        let mut known = Known::of("now");
        let list = two();
        for mutant in &list.mutants {
            known.set(&mutant.key, Word::Caught, "a: t");
        }
        let expected = ["open, and must be caught: pg.rs: a", "missed, and must be caught: pg.rs: b"];
        assert_eq!(Summary::of(&list, &known, &planted).problems(&BTreeMap::new()), expected);
    }

    #[test]
    fn what_compiles_and_is_not_caught_lowers_the_share() {
        let found = summary(&[("a.rs", [90, 10, 0, 50, 0]), ("b.rs", [100, 0, 0, 0, 0])], &[]);
        assert!(found.problems(&BTreeMap::new()).is_empty());
        let found = summary(&[("a.rs", [89, 5, 6, 50, 0]), ("b.rs", [100, 0, 0, 0, 1])], &[]);
        let expected = [
            "1 mutants are not judged yet",
            "94.5% of all are caught, not 95%",
            "89.0% of a.rs are caught, not 90%",
        ];
        assert_eq!(found.problems(&BTreeMap::new()), expected);
    }

    #[test]
    fn survivors_and_reasons_belong_together() {
        let found = summary(&[("a.rs", [99, 1, 0, 0, 0])], &[("a.rs: delete ! in f", Word::Missed)]);
        let with = |text: &str| found.problems(&reasons(text).unwrap()).len();
        let reason = "a.rs: delete ! in f\tkey\tBoth are equal.\n";
        assert_eq!(with(&format!("# why\n\n{reason}")), 0);
        assert_eq!(with(""), 1);
        assert_eq!(with("a.rs: delete ! in f\tanother\tBoth are equal.\n"), 1, "the function has changed");
        assert_eq!(with(&format!("{reason}b.rs: gone\tkey\tIt was so.\n")), 1);
        for wrong in ["a.rs: delete ! in f", "a.rs: delete ! in f\tkey\t ", "a\tk\tb\na\tk\tc", "a\tb"] {
            assert!(reasons(wrong).is_err(), "{wrong}");
        }
    }
}
