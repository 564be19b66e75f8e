//! A file that holds all of its mutants at once: the body of each function becomes a choice between its mutants, by a number
//! that is read when the program starts.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};

use super::list::Mutant;

/// The environment variable that holds the number of the mutant to run.
pub(super) const CHOICE: &str = "MOLECULE_MUTANT";

/// Goes in front of a crate's first line. The compiler takes it only from the crates that `RUSTC_BOOTSTRAP` names.
const FEATURES: &str =
    "#![feature(core_intrinsics, const_eval_select, const_precise_live_drops)] #![allow(internal_features)] ";

/// Goes behind a crate's last line. A `const fn` asks for the number too: where the compiler runs it, no mutant is chosen.
const CHOSEN: &str = r#"
#[allow(missing_docs, unreachable_pub)]
mod chosen_mutant {
    static NUMBER: std::sync::LazyLock<u32> = std::sync::LazyLock::new(|| {
        std::env::var("MOLECULE_MUTANT").ok().and_then(|text| text.parse().ok()).unwrap_or(0)
    });

    #[inline]
    fn chosen() -> u32 {
        *NUMBER
    }

    #[inline]
    const fn none() -> u32 {
        0
    }

    #[inline]
    pub const fn number() -> u32 {
        std::intrinsics::const_eval_select((), none, chosen)
    }
}
"#;

/// A function that has mutants. Functions within it belong to it.
#[derive(Debug)]
pub(super) struct Function<'a> {
    /// The body, with its braces.
    pub(super) body: Range<usize>,
    pub(super) is_const: bool,
    pub(super) mutants: Vec<&'a Mutant>,
}

/// A file with all of its mutants.
#[derive(Debug, Default)]
pub(super) struct Switched {
    pub(super) text: String,
    pub(super) arms: Vec<Arm>,
    /// The lines of each switched function, and the numbers of its mutants.
    pub(super) functions: Vec<(RangeInclusive<usize>, Vec<u32>)>,
}

/// The lines of a switched file that are one mutant's, from 1 on.
#[derive(Debug)]
pub(super) struct Arm {
    pub(super) number: u32,
    pub(super) lines: RangeInclusive<usize>,
    /// The lines among them that the mutant changed.
    pub(super) changed: RangeInclusive<usize>,
}

/// The outermost functions of a file that have mutants, in order, and the mutants that are in no function's body.
pub(super) fn functions<'a>(source: &str, mutants: &[&'a Mutant]) -> (Vec<Function<'a>>, Vec<&'a Mutant>) {
    let mut spans: Vec<_> = mutants.iter().filter_map(|one| one.function.clone()).collect();
    spans.sort_by_key(|span| (span.start, usize::MAX - span.end));
    spans.dedup();
    let mut outermost: Vec<Range<usize>> = Vec::new();
    for span in spans {
        if outermost.last().is_none_or(|last| last.end <= span.start) {
            outermost.push(span);
        }
    }
    let mut found = BTreeMap::new();
    for span in outermost {
        if let Some(body) = body(&source[span.clone()]) {
            let body = span.start + body.start..span.start + body.end;
            let is_const = is_const(&source[span.start..body.start]);
            found.insert(span.start, Function { body, is_const, mutants: Vec::new() });
        }
    }
    let mut outside = Vec::new();
    for mutant in mutants {
        let function = mutant.function.as_ref();
        let function = function
            .and_then(|span| found.range_mut(..=span.start).next_back())
            .map(|(_, function)| function);
        match function {
            Some(function)
                if function.body.start < mutant.span.start && mutant.span.end < function.body.end =>
            {
                function.mutants.push(mutant);
            }
            _ => outside.push(*mutant),
        }
    }
    (found.into_values().filter(|function| !function.mutants.is_empty()).collect(), outside)
}

/// The file with every function as a choice.
pub(super) fn switched(source: &str, functions: &[Function<'_>]) -> Switched {
    let mut out = Switched::default();
    let mut line = 1;
    let mut at = 0;
    for function in functions {
        push(&mut out.text, &mut line, &source[at..function.body.start]);
        let first = line;
        push(&mut out.text, &mut line, "{ match crate::chosen_mutant::number() {\n");
        for mutant in &function.mutants {
            let body = mutant.applied(source, function.body.clone());
            let before = source[function.body.start..mutant.span.start].matches('\n').count();
            let changed = line + before..=line + before + mutant.replacement.matches('\n').count();
            let start = line;
            push(&mut out.text, &mut line, &format!("{} => {body}\n", mutant.number));
            out.arms.push(Arm { number: mutant.number, lines: start..=line - 1, changed });
        }
        push(&mut out.text, &mut line, &format!("_ => {}\n}} }}", &source[function.body.clone()]));
        out.functions.push((first..=line, function.mutants.iter().map(|one| one.number).collect()));
        at = function.body.end;
    }
    push(&mut out.text, &mut line, &source[at..]);
    out
}

/// A crate's root with the number in it. No line of it moves.
pub(super) fn rooted(source: &str) -> String {
    [FEATURES, source, CHOSEN].concat()
}

fn push(text: &mut String, line: &mut usize, more: &str) {
    *line += more.matches('\n').count();
    text.push_str(more);
}

/// The body of a function, with its braces: the first brace that no bracket, text or comment holds begins it.
fn body(function: &str) -> Option<Range<usize>> {
    let mut depth = 0_u32;
    let mut at = 0;
    while at < function.len() {
        match function.as_bytes()[at] {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.saturating_sub(1),
            b'{' if depth == 0 => return function.ends_with('}').then_some(at..function.len()),
            _ => {}
        }
        at += skipped(&function[at..]);
    }
    None
}

/// Whether a signature is that of a `const fn`.
fn is_const(signature: &str) -> bool {
    let mut code = String::new();
    let mut at = 0;
    while at < signature.len() {
        let length = skipped(&signature[at..]);
        code.push_str(if length > 1 { " " } else { &signature[at..=at] });
        at += length;
    }
    let words: Vec<_> =
        code.split_whitespace().take_while(|word| !word.contains('(') || word.starts_with("pub(")).collect();
    words.windows(2).any(|two| two[0] == "const" && matches!(two[1], "fn" | "unsafe"))
}

/// How many bytes the comment or the text has that begins here, or else the character.
fn skipped(rest: &str) -> usize {
    let until =
        |from: usize, end: &str| rest[from..].find(end).map_or(rest.len(), |at| from + at + end.len());
    if rest.starts_with("//") {
        return until(2, "\n");
    }
    if rest.starts_with("/*") {
        return block_comment(rest);
    }
    if rest.starts_with("r\"") || rest.starts_with("r#") {
        let hashes = rest[1..].bytes().take_while(|byte| *byte == b'#').count();
        if rest[1 + hashes..].starts_with('"') {
            return until(hashes + 2, &format!("\"{}", "#".repeat(hashes)));
        }
        // a name such as r#type
        return 1;
    }
    if rest.starts_with('"') {
        return quoted(rest, '"');
    }
    if let Some(after) = rest.strip_prefix('\'') {
        let mut characters = after.chars();
        let (first, second) = (characters.next(), characters.next());
        // what no second quote follows at once is a lifetime
        return if first == Some('\\') || second == Some('\'') { quoted(rest, '\'') } else { 1 };
    }
    rest.chars().next().map_or(1, char::len_utf8)
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, character) in rest.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if character == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Comments of this kind hold others.
fn block_comment(rest: &str) -> usize {
    let mut depth = 0_u32;
    let mut at = 0;
    while at < rest.len() {
        let two = rest.as_bytes().get(at..at + 2);
        match two {
            Some(b"/*") => depth += 1,
            Some(b"*/") => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

#[cfg(test)]
#[path = "switch_tests.rs"]
mod tests;
