//! The mutants that cargo-mutants finds, each with its place in its file as bytes.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::ops::Range;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::PACKAGES;
use super::suspects::{self, Suspect};
use crate::shell::command;
use crate::tools::cargo_tool;

/// One change of one place.
#[derive(Clone, Debug)]
pub(super) struct Mutant {
    /// The number that chooses this mutant at run time, from 1 on.
    pub(super) number: u32,
    /// The name that cargo-mutants gives, without the line and the column, which shift. Where several mutants of a file
    /// would have one name, each has its place among them behind it.
    pub(super) name: String,
    pub(super) file: String,
    pub(super) package: String,
    /// The function that the mutant is in, attributes included. A constant's mutants have none.
    pub(super) function: Option<Range<usize>>,
    pub(super) function_name: String,
    /// Whether the function returns a type that only the compiler knows, which the bodies of two mutants can't share.
    pub(super) is_opaque: bool,
    /// The text that `replacement` stands for.
    pub(super) span: Range<usize>,
    pub(super) replacement: String,
    /// What is the same as long as the mutated function is: results are kept under the key, each with the state that it is of.
    pub(super) key: String,
    /// Whether a reader has thought of it, and cargo-mutants has not.
    pub(super) is_suspect: bool,
}

/// Every mutant, and the text of every file that has one.
#[derive(Debug)]
pub(super) struct List {
    pub(super) mutants: Vec<Mutant>,
    pub(super) sources: BTreeMap<String, String>,
}

impl List {
    /// Lists the mutants that cargo-mutants finds, and the listed bugs of the mutated crates behind them.
    pub(super) fn new() -> anyhow::Result<Self> {
        let tool = cargo_tool("cargo-mutants", &["cargo-mutants"])?;
        nothing_is_skipped()?;
        // a person's or the repository's configuration may leave mutants out, as may what the tool does by itself
        let mut list = command(tool, &["mutants", "--list", "--json", "--no-config"]);
        list.arg("--skip-calls-defaults=false");
        for package in PACKAGES {
            list.args(["--package", package]);
        }
        let output = list.output().context("cargo-mutants can't be run")?;
        ensure!(output.status.success(), "cargo-mutants: {}", String::from_utf8_lossy(&output.stderr));
        let found: Vec<Value> = serde_json::from_slice(&output.stdout)?;
        let mut sources = BTreeMap::new();
        for one in &found {
            let file = text(one, "file")?;
            if !sources.contains_key(file) {
                sources.insert(file.to_owned(), fs::read_to_string(file).with_context(|| file.to_owned())?);
            }
        }
        let mut list = Self::of(&found, sources)?;
        for suspect in suspects::ALL.iter().filter(|one| !one.is_alone()) {
            list.add(suspect)?;
        }
        Ok(list)
    }

    /// Adds a suspect of the mutated crates. Those of other crates are planted one by one.
    fn add(&mut self, suspect: &Suspect) -> anyhow::Result<()> {
        let Some(package) = suspect.package() else { return Ok(()) };
        let source =
            self.sources.get(suspect.file).with_context(|| format!("{} has no mutants", suspect.file))?;
        let start = suspect.place(source)?;
        let span = start..start + suspect.text.len();
        let holds = |one: &&Mutant| {
            let function = one.function.as_ref();
            one.file == suspect.file
                && function.is_some_and(|function| function.start <= span.start && span.end <= function.end)
        };
        let around = self.mutants.iter().find(holds);
        let mut mutant = Mutant {
            number: u32::try_from(self.mutants.len())? + 1,
            name: suspect.full_name(),
            file: suspect.file.to_owned(),
            package,
            function: around.and_then(|one| one.function.clone()),
            function_name: around.map(|one| one.function_name.clone()).unwrap_or_default(),
            is_opaque: around.is_some_and(|one| one.is_opaque),
            span,
            replacement: suspect.with.to_owned(),
            key: String::new(),
            is_suspect: true,
        };
        let within = mutant.function.clone().unwrap_or(0..source.len());
        mutant.key = hash(&[suspect.file, suspect.name, &mutant.applied(source, within)]);
        self.mutants.push(mutant);
        Ok(())
    }

    fn of(found: &[Value], sources: BTreeMap<String, String>) -> anyhow::Result<Self> {
        let names = found.iter().map(name_of).collect::<anyhow::Result<Vec<_>>>()?;
        let mut times = HashMap::<&str, u32>::new();
        for name in &names {
            *times.entry(name).or_default() += 1;
        }
        let mut met = HashMap::<&str, u32>::new();
        let mut mutants = Vec::new();
        for ((one, name), number) in found.iter().zip(&names).zip(1..) {
            let file = text(one, "file")?;
            let source = &sources[file];
            let met = met.entry(name).or_default();
            *met += 1;
            let function = &one["function"];
            let function_name = function["function_name"].as_str().unwrap_or_default();
            let mut mutant = Mutant {
                number,
                name: if times[name.as_str()] > 1 { format!("{name} #{met}") } else { name.clone() },
                file: file.to_owned(),
                package: text(one, "package")?.to_owned(),
                function: if function.is_null() { None } else { Some(range(source, &function["span"])?) },
                function_name: function_name.to_owned(),
                is_opaque: function["return_type"].as_str().is_some_and(|shown| shown.contains("impl ")),
                span: range(source, &one["span"])?,
                replacement: text(one, "replacement")?.to_owned(),
                key: String::new(),
                is_suspect: false,
            };
            let within = mutant.function.clone().unwrap_or(0..source.len());
            mutant.key = hash(&[file, function_name, &mutant.applied(source, within)]);
            mutants.push(mutant);
        }
        Ok(Self { mutants, sources })
    }
}

impl Mutant {
    /// Which of so many shards it is in: the same wherever it stands in the list.
    pub(super) fn shard(&self, of: u32) -> u32 {
        u32::try_from(number_of(&[&self.name]) % u64::from(of.max(1))).unwrap_or_default()
    }

    /// A part of the file, which holds the mutated place, as the mutant changes it.
    pub(super) fn applied(&self, source: &str, part: Range<usize>) -> String {
        let (before, after) = (&source[part.start..self.span.start], &source[self.span.end..part.end]);
        [before, &self.replacement, after].concat()
    }
}

/// Fails where the sources of a mutated crate leave mutants out by an attribute.
fn nothing_is_skipped() -> anyhow::Result<()> {
    let sources = PACKAGES.map(|package| format!("crates/{}/*.rs", package.trim_start_matches("molecule-")));
    let listed =
        command("git", &["ls-files", "-z", "--"]).args(&sources).output().context("git can't be run")?;
    ensure!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
    for file in String::from_utf8(listed.stdout)?.split_terminator('\0') {
        // what was removed and is listed still is no part of it
        let Ok(source) = fs::read_to_string(file) else { continue };
        ensure!(!skips(&source), "{file}: `mutants::skip` leaves mutants out; each that compiles must count");
    }
    Ok(())
}

/// Whether a source names `mutants::skip`, in whichever attribute.
fn skips(source: &str) -> bool {
    let spaceless: String = source.split_whitespace().collect();
    spaceless.contains("mutants::skip")
}

/// `file:line:column: what is changed` without the line and the column.
fn name_of(one: &Value) -> anyhow::Result<String> {
    let (file, name) = (text(one, "file")?, text(one, "name")?);
    let what =
        name.strip_prefix(file).and_then(|rest| rest.split_once(": ")).with_context(|| name.to_owned())?.1;
    Ok(format!("{file}: {what}"))
}

fn text<'a>(one: &'a Value, field: &str) -> anyhow::Result<&'a str> {
    one[field].as_str().with_context(|| format!("cargo-mutants tells no {field}: {one}"))
}

/// The bytes between two places that are told by line and column, both from 1 on, the column in characters.
fn range(source: &str, span: &Value) -> anyhow::Result<Range<usize>> {
    let place = |end: &str| {
        let number = |name: &str| {
            let number = span[end][name].as_u64().and_then(|number| usize::try_from(number).ok());
            number
                .filter(|number| *number > 0)
                .with_context(|| format!("cargo-mutants tells no place: {span}"))
        };
        let (line, column) = (number("line")?, number("column")?);
        let start: usize = source.split_inclusive('\n').take(line - 1).map(str::len).sum();
        let rest = &source[start..];
        let within = rest.char_indices().map(|(at, _)| at).chain([rest.len()]).nth(column - 1);
        within.map(|within| start + within).with_context(|| format!("the file has no such place: {span}"))
    };
    Ok(place("start")?..place("end")?)
}

/// FNV-1a of some texts, which is the same with every compiler.
fn number_of(texts: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in texts.iter().flat_map(|text| text.bytes().chain([0])) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash
}

/// The same as text.
pub(super) fn hash(texts: &[&str]) -> String {
    format!("{:016x}", number_of(texts))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::json;

    const SOURCE: &str = "// ä\nfn f() -> bool { \"ä\" < \"ö\" }\n";

    fn found(column: u32, with: &str) -> Value {
        let end = json!({ "line": 2, "column": 29 });
        json!({
            "name": format!("a.rs:2:{column}: replace < with {with} in f"), "file": "a.rs", "package": "a",
            "genre": "BinaryOperator", "replacement": with,
            "function": { "function_name": "f", "return_type": "-> bool",
                          "span": { "start": { "line": 2, "column": 1 }, "end": end } },
            "span": { "start": { "line": 2, "column": column }, "end": { "line": 2, "column": column + 1 } },
        })
    }

    fn list(source: &str, found: &[Value]) -> List {
        List::of(found, BTreeMap::from([("a.rs".to_owned(), source.to_owned())])).unwrap()
    }

    /// Two mutants of one function.
    pub(in crate::mutants) fn two() -> List {
        list(SOURCE, &[found(22, "<="), found(22, ">")])
    }

    #[test]
    fn a_mutant_stays_in_its_shard() {
        let (before, after) = (two(), list(SOURCE, &[found(22, ">")]));
        assert_eq!(before.mutants[1].name, after.mutants[0].name);
        assert_eq!(before.mutants[1].shard(7), after.mutants[0].shard(7));
        assert!(before.mutants.iter().all(|one| one.shard(1) == 0 && one.shard(7) < 7));
    }

    #[test]
    fn columns_count_characters() {
        let list = list(SOURCE, &[found(22, "<="), found(22, ">")]);
        let function = list.mutants[0].function.clone().unwrap();
        assert_eq!(&SOURCE[function.clone()], "fn f() -> bool { \"ä\" < \"ö\" }");
        assert_eq!(list.mutants[0].applied(SOURCE, function), "fn f() -> bool { \"ä\" <= \"ö\" }");
        assert_eq!(list.mutants[1].name, "a.rs: replace < with > in f");
        assert_ne!(list.mutants[0].key, list.mutants[1].key);
    }

    #[test]
    fn a_key_stays_where_the_function_only_moves() {
        let moved = format!("// more\n{SOURCE}");
        let mut shifted = found(22, "<=");
        for place in ["/function/span/start", "/function/span/end", "/span/start", "/span/end"] {
            shifted.pointer_mut(place).unwrap()["line"] = json!(3);
        }
        let (before, after) = (list(SOURCE, &[found(22, "<=")]), list(&moved, &[shifted]));
        assert_eq!(before.mutants[0].key, after.mutants[0].key);
    }

    #[test]
    fn an_attribute_that_leaves_mutants_out_is_found() {
        assert!(skips("#[mutants::skip]\nfn f() {}"));
        assert!(skips("#[cfg_attr(test, mutants :: skip)]\nfn f() {}"));
        assert!(!skips("fn mutants() { items.iter().skip(1) }"));
    }

    #[test]
    fn equal_names_are_numbered() {
        let list = list(SOURCE, &[found(22, "<="), found(22, "<=")]);
        let names: Vec<_> = list.mutants.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["a.rs: replace < with <= in f #1", "a.rs: replace < with <= in f #2"]);
    }
}
