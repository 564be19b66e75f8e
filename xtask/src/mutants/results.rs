//! What was found of each mutant: kept as it comes, and by shard in the repository.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;

use super::list::Mutant;
use super::suites::NO_TEST;
use super::tree::FOLDER;

/// Where what was found is kept, a file for each shard, so that those of several machines are summed up together.
const SHARDS: &str = "tests/mutants/shards";

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

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Caught => "caught",
            Self::Missed => "missed",
            Self::Timeout => "timeout",
            Self::Unviable => "unviable",
        }
    }

    /// Whether no test has caught the mutant, which compiles.
    pub(super) const fn survives(self) -> bool {
        matches!(self, Self::Missed | Self::Timeout)
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

/// What was found of a mutant, and which test said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) word: Word,
    pub(super) by: String,
}

impl Found {
    /// Whether a program ended that named no failed test.
    pub(super) fn names_no_test(&self) -> bool {
        self.word == Word::Caught
            && self.by.split_once(": ").is_some_and(|(_, test)| test.starts_with(NO_TEST))
    }
}

/// What a result is of: a name for people, and a key that is the same as long as the mutation is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject<'a> {
    pub(super) name: &'a str,
    pub(super) key: &'a str,
}

impl<'a> From<&'a Mutant> for Subject<'a> {
    fn from(mutant: &'a Mutant) -> Self {
        Self { name: &mutant.name, key: &mutant.key }
    }
}

/// What was found up to now, by key. Each line of a file is a word, a name, what caught the mutant, the key, and the state of
/// the code and the tests. Of other states only what caught a mutant is remembered: that is tried first.
#[derive(Debug, Default)]
pub(super) struct Known {
    state: String,
    found: HashMap<String, Found>,
    before: HashMap<String, String>,
}

impl Known {
    pub(super) fn of(state: &str) -> Self {
        Self { state: state.to_owned(), ..Self::default() }
    }

    /// Adds the lines of a file. Where two are of one mutant, the later one counts.
    pub(super) fn read(&mut self, text: &str) {
        for line in text.lines() {
            let parts: Vec<_> = line.split('\t').collect();
            // a line that a run was ended in says nothing
            let [word, _, by, key, state] = parts[..] else { continue };
            let Some(word) = Word::parse(word) else { continue };
            if state == self.state {
                self.found.insert(key.to_owned(), Found { word, by: by.to_owned() });
            } else if word == Word::Caught {
                self.before.insert(key.to_owned(), by.to_owned());
            }
        }
    }

    /// Adds what another shard has found. Where two differ about a mutant, chance has a part in it, and it survives.
    fn add(&mut self, shard: Self) {
        self.before.extend(shard.before);
        for (key, found) in shard.found {
            if !self.found.get(&key).is_some_and(|known| known.word.survives()) {
                self.found.insert(key, found);
            }
        }
    }

    /// What was found under a key.
    pub(super) fn get(&self, key: &str) -> Option<&Found> {
        self.found.get(key)
    }

    /// Takes what was found down.
    pub(super) fn set(&mut self, key: &str, word: Word, by: &str) {
        let by = by.replace(['\t', '\n'], " ");
        self.found.insert(key.to_owned(), Found { word, by });
    }

    /// Whether the mutant of a key is to be judged in this state. What a test notices by chance alone would be caught one day if what
    /// survived were tried again each time, so that is done only where it is asked for.
    pub(super) fn is_open(&self, key: &str, again: bool) -> bool {
        match self.get(key).map(|found| found.word) {
            None | Some(Word::Timeout) => true,
            Some(Word::Missed) => again,
            Some(Word::Caught | Word::Unviable) => false,
        }
    }

    /// The line of a subject, where something was found of it.
    fn line(&self, Subject { name, key }: Subject<'_>) -> Option<String> {
        let Found { word, by } = self.get(key)?;
        Some(format!("{word}\t{name}\t{by}\t{key}\t{}\n", self.state))
    }

    /// The lines of these, in the order of their names.
    pub(super) fn lines<'a>(&self, subjects: impl IntoIterator<Item = Subject<'a>>) -> String {
        let mut subjects: Vec<_> = subjects.into_iter().collect();
        subjects.sort_unstable_by_key(|one| one.name);
        subjects.into_iter().filter_map(|one| self.line(one)).collect()
    }
}

/// The same, with a file that keeps what comes.
#[derive(Debug)]
pub(super) struct Results {
    known: Known,
    file: File,
}

impl Results {
    /// What all shards have found, and earlier runs on this machine.
    pub(super) fn load(state: &str) -> anyhow::Result<Self> {
        fs::create_dir_all(FOLDER)?;
        fs::create_dir_all(SHARDS)?;
        let mut known = Known::of(state);
        let paths = fs::read_dir(SHARDS)?.map(|entry| Ok(entry?.path()));
        let mut paths = paths.collect::<anyhow::Result<Vec<PathBuf>>>()?;
        paths.sort_unstable();
        for path in paths {
            let mut shard = Known::of(state);
            shard.read(&fs::read_to_string(&path).with_context(|| path.display().to_string())?);
            known.add(shard);
        }
        let path = format!("{FOLDER}/results.tsv");
        known.read(&fs::read_to_string(&path).unwrap_or_default());
        let file = OpenOptions::new().create(true).append(true).open(&path).context(path)?;
        Ok(Self { known, file })
    }

    /// All that is known.
    pub(super) const fn known(&self) -> &Known {
        &self.known
    }

    /// What caught a mutant in another state.
    pub(super) fn caught_before(&self, mutant: &Mutant) -> Option<&str> {
        self.known.before.get(&mutant.key).map(String::as_str)
    }

    /// Keeps what was found of a mutant.
    pub(super) fn add(&mut self, mutant: &Mutant, word: Word, by: &str) -> anyhow::Result<()> {
        self.known.set(&mutant.key, word, by);
        let line = self.known.line(mutant.into()).unwrap_or_default();
        Ok(self.file.write_all(line.as_bytes())?)
    }

    /// Writes what is known of a shard to its file in the repository.
    pub(super) fn keep(&self, mutants: &[&Mutant], shard: u32, of: u32) -> anyhow::Result<()> {
        let path = format!("{SHARDS}/{shard}-of-{of}.tsv");
        fs::write(&path, self.known.lines(mutants.iter().map(|one| (*one).into()))).context(path)
    }
}

#[cfg(test)]
mod tests {
    use super::super::list::tests::two;
    use super::*;

    #[test]
    fn what_shards_of_one_state_have_found_adds_up() {
        let list = two();
        let [one, other] = &list.mutants[..] else { panic!() };
        let mut here = Known::of("now");
        here.found.insert(one.key.clone(), Found { word: Word::Caught, by: "a: t".to_owned() });
        let mut there = Known::of("now");
        there.found.insert(other.key.clone(), Found { word: Word::Missed, by: String::new() });
        let mut sum = Known::of("now");
        for shard in [here, there] {
            let mut read = Known::of("now");
            read.read(&shard.lines([other.into(), one.into()]));
            sum.add(read);
        }
        assert_eq!(sum.get(&one.key).unwrap().word, Word::Caught);
        assert_eq!(sum.get(&other.key).unwrap().word, Word::Missed);
        assert_eq!(sum.lines([other.into(), one.into()]).lines().count(), 2);
    }

    #[test]
    fn what_one_of_two_shards_has_caught_survives() {
        let list = two();
        let one = &list.mutants[0];
        let shard = |word| {
            let mut known = Known::of("now");
            known.found.insert(one.key.clone(), Found { word, by: String::new() });
            known
        };
        for (first, second) in [(Word::Caught, Word::Missed), (Word::Missed, Word::Caught)] {
            let mut sum = shard(first);
            sum.add(shard(second));
            assert_eq!(sum.get(&one.key).unwrap().word, Word::Missed);
        }
    }

    #[test]
    fn what_another_state_has_found_is_tried_first_and_does_not_count() {
        let list = two();
        let one = &list.mutants[0];
        let mut then = Known::of("then");
        then.found.insert(one.key.clone(), Found { word: Word::Caught, by: "a: t".to_owned() });
        let mut now = Known::of("now");
        now.read(&then.lines([one.into()]));
        assert_eq!((now.get(&one.key), now.before.get(&one.key).map(String::as_str)), (None, Some("a: t")));
        now.read("caught\tends in the middle of a li");
        assert!(now.found.is_empty());
    }

    #[test]
    fn what_survives_is_judged_anew_only_where_that_is_asked_for() {
        let list = two();
        let one = &list.mutants[0];
        let mut known = Known::of("now");
        assert!(known.is_open(&one.key, false), "nothing is known of it");
        for (word, open, again) in [
            (Word::Caught, false, false),
            (Word::Missed, false, true),
            (Word::Timeout, true, true),
            (Word::Unviable, false, false),
        ] {
            known.found.insert(one.key.clone(), Found { word, by: String::new() });
            let found = [false, true].map(|again| known.is_open(&one.key, again));
            assert_eq!(found, [open, again], "{word}");
        }
    }

    #[test]
    fn a_program_that_ends_names_no_test() {
        let found = |word, by: &str| Found { word, by: by.to_owned() };
        assert!(found(Word::Caught, "a: the program: signal 6").names_no_test());
        assert!(!found(Word::Caught, "a: b::the_program").names_no_test());
        assert!(!found(Word::Timeout, "a: out of memory").names_no_test());
    }
}
