//! What was found of each mutant: kept as it comes, and summed up for the repository.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::Write;

use anyhow::{Context, ensure};

use super::list::{List, Mutant};
use super::tree::FOLDER;

/// Where the sum is kept.
const SUMMARY: &str = "tests/mutants/results.txt";
/// Why survivors may survive: a name, a tab and a reason in each line.
const SURVIVORS: &str = "tests/mutants/survivors.txt";
/// The least share of all mutants that must be caught, in percent, and the least one of a file's.
const LEAST: (f64, f64) = (95.0, 90.0);

/// What became of a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Word {
    Caught,
    Missed,
    Timeout,
    /// The mutant does not compile.
    Unviable,
}

impl Word {
    const ALL: [Self; 4] = [Self::Caught, Self::Missed, Self::Timeout, Self::Unviable];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Caught => "caught",
            Self::Missed => "missed",
            Self::Timeout => "timeout",
            Self::Unviable => "unviable",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|word| word.as_str() == text)
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What was found up to now, by key. Each line of the file is a word, a name, what caught the mutant, and the key.
#[derive(Debug)]
pub(super) struct Results {
    words: HashMap<String, Word>,
    file: File,
}

impl Results {
    /// What earlier runs have found.
    pub(super) fn load() -> anyhow::Result<Self> {
        fs::create_dir_all(FOLDER)?;
        let path = format!("{FOLDER}/results.tsv");
        let mut words = HashMap::new();
        for line in fs::read_to_string(&path).unwrap_or_default().lines() {
            let parts: Vec<_> = line.split('\t').collect();
            // a line that a run was ended in says nothing
            if let [word, _, _, key] = parts[..]
                && let Some(word) = Word::parse(word)
            {
                words.insert(key.to_owned(), word);
            }
        }
        let file = OpenOptions::new().create(true).append(true).open(&path).context(path)?;
        Ok(Self { words, file })
    }

    /// Whether the mutant needs no other try as long as its function stays as it is.
    pub(super) fn is_settled(&self, mutant: &Mutant) -> bool {
        matches!(self.words.get(&mutant.key), Some(Word::Caught | Word::Unviable))
    }

    /// What was found of a mutant.
    pub(super) fn of(&self, mutant: &Mutant) -> Option<Word> {
        self.words.get(&mutant.key).copied()
    }

    /// Keeps what was found of a mutant.
    pub(super) fn add(&mut self, mutant: &Mutant, word: Word, by: &str) -> anyhow::Result<()> {
        let by = by.replace(['\t', '\n'], " ");
        self.file.write_all(format!("{word}\t{}\t{by}\t{}\n", mutant.name, mutant.key).as_bytes())?;
        self.words.insert(mutant.key.clone(), word);
        Ok(())
    }

    /// Writes and shows the sum of all mutants of a list: the counts of each file, then every mutant that no test caught.
    pub(super) fn write_summary(&self, list: &List) -> anyhow::Result<()> {
        let mut summary = Summary::default();
        for mutant in &list.mutants {
            if mutant.is_suspect {
                let word = self.of(mutant).map_or("open", Word::as_str);
                summary.suspects.insert(mutant.name.clone(), word.to_owned());
                continue;
            }
            let counts = summary.files.entry(mutant.file.clone()).or_default();
            match self.of(mutant) {
                Some(word) => {
                    counts[word as usize] += 1;
                    if matches!(word, Word::Missed | Word::Timeout) {
                        summary.survivors.insert(mutant.name.clone(), word);
                    }
                }
                None => counts[OPEN] += 1,
            }
        }
        fs::create_dir_all("tests/mutants")?;
        fs::write(SUMMARY, summary.text()).context(SUMMARY)?;
        summary.show();
        Ok(())
    }
}

/// Caught, missed, out of time, unviable, and not yet judged.
type Counts = [u32; 5];
const OPEN: usize = 4;

/// What a run has found in all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Summary {
    files: BTreeMap<String, Counts>,
    /// The mutants that no test caught, by name.
    survivors: BTreeMap<String, Word>,
    /// What became of those that a reader has thought of, by name. They are not counted.
    suspects: BTreeMap<String, String>,
}

impl Summary {
    fn text(&self) -> String {
        let mut lines = vec![
            "# caught, missed, timeout, unviable, open; written by `cargo xtask mutants all`".to_owned(),
        ];
        for (file, counts) in &self.files {
            let counts: Vec<_> = counts.iter().map(ToString::to_string).collect();
            lines.push(format!("file\t{file}\t{}", counts.join("\t")));
        }
        lines.extend(self.survivors.iter().map(|(name, word)| format!("{word}\t{name}")));
        lines.extend(self.suspects.iter().map(|(name, word)| format!("suspect\t{word}\t{name}")));
        lines.join("\n") + "\n"
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut summary = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let wrong = || format!("{SUMMARY}: {line:?}");
            let (word, rest) = line.split_once('\t').with_context(wrong)?;
            if word == "file" {
                let mut parts = rest.split('\t');
                let file = parts.next().with_context(wrong)?;
                let counts = parts.map(str::parse).collect::<Result<Vec<u32>, _>>().with_context(wrong)?;
                summary.files.insert(file.to_owned(), counts.try_into().ok().with_context(wrong)?);
            } else if word == "suspect" {
                let (word, name) = rest.split_once('\t').with_context(wrong)?;
                summary.suspects.insert(name.to_owned(), word.to_owned());
            } else {
                summary.survivors.insert(rest.to_owned(), Word::parse(word).with_context(wrong)?);
            }
        }
        Ok(summary)
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
    }

    /// What is not as it must be.
    fn problems(&self, reasons: &BTreeMap<String, String>) -> Vec<String> {
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
        for name in self.survivors.keys().filter(|name| !reasons.contains_key(*name)) {
            problems.push(format!("no reason in {SURVIVORS}: {name}"));
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

/// Reads why survivors may survive, by the mutants' names.
fn reasons(text: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let mut reasons = BTreeMap::new();
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        let reason =
            line.split_once('\t').filter(|(name, reason)| !name.is_empty() && !reason.trim().is_empty());
        let (name, reason) =
            reason.with_context(|| format!("{SURVIVORS}: not a name, a tab and a reason: {line:?}"))?;
        let earlier = reasons.insert(name.to_owned(), reason.trim().to_owned());
        ensure!(earlier.is_none(), "{SURVIVORS}: {name} is there twice");
    }
    Ok(reasons)
}

/// Shows the sum by file, and fails where too little is caught or a survivor has no reason.
pub(crate) fn report() -> anyhow::Result<()> {
    let text = fs::read_to_string(SUMMARY).with_context(|| format!("nothing has been run yet: {SUMMARY}"))?;
    let summary = Summary::parse(&text)?;
    let reasons = reasons(&fs::read_to_string(SURVIVORS).unwrap_or_default())?;
    summary.show();
    let problems = summary.problems(&reasons);
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
    use super::*;

    fn summary(files: &[(&str, Counts)], survivors: &[(&str, Word)]) -> Summary {
        Summary {
            files: files.iter().map(|(file, counts)| ((*file).to_owned(), *counts)).collect(),
            survivors: survivors.iter().map(|(name, word)| ((*name).to_owned(), *word)).collect(),
            suspects: BTreeMap::new(),
        }
    }

    #[test]
    fn a_summary_is_read_as_it_was_written() {
        let summary = summary(
            &[("a.rs", [1, 2, 3, 4, 5]), ("b.rs", [9, 0, 1, 0, 0])],
            &[("a.rs: replace < with > in f #2", Word::Missed), ("b.rs: delete ! in g", Word::Timeout)],
        );
        assert_eq!(Summary::parse(&summary.text()).unwrap(), summary);
        let suspects = [("a.rs: it is forgotten", "caught"), ("a.rs: it is lost", "missed")];
        let suspects = suspects.map(|(name, word)| (name.to_owned(), word.to_owned())).into();
        let with = Summary { suspects, ..summary.clone() };
        assert_eq!(Summary::parse(&with.text()).unwrap(), with);
        let more: Vec<_> = with.problems(&BTreeMap::new()).into_iter().collect();
        assert!(more.contains(&"missed, and must be caught: a.rs: it is lost".to_owned()), "{more:?}");
        assert_eq!(more.len(), summary.problems(&BTreeMap::new()).len() + 1);
        assert!(Summary::parse("file\ta.rs\t1\t2").is_err());
        assert!(Summary::parse("lost\ta.rs: delete !").is_err());
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
        assert_eq!(with("# why\n\na.rs: delete ! in f\tBoth are equal.\n"), 0);
        assert_eq!(with(""), 1);
        assert_eq!(with("a.rs: delete ! in f\tBoth are equal.\nb.rs: gone\tIt was so.\n"), 1);
        for wrong in ["a.rs: delete ! in f", "a.rs: delete ! in f\t ", "a\tb\na\tc"] {
            assert!(reasons(wrong).is_err(), "{wrong}");
        }
    }
}
