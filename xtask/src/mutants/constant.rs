//! Which functions the compiler itself runs, for the value of a constant. There no mutant is ever chosen.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};

use super::list::Mutant;
use super::tree::Tree;
use super::viable;

/// The names of those functions, and of what they call. All others compile without being `const`, in every crate that judges.
pub(super) fn functions() -> anyhow::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    loop {
        let tree = Tree::copied("single", |file| {
            let is_source = Path::new(file).extension().is_some_and(|extension| extension == "rs");
            let text = if is_source { fs::read_to_string(file).ok() } else { None };
            text.map(|text| without_const(&text, &names))
        })?;
        let errors = viable::errors(&tree)?;
        if errors.is_empty() {
            return Ok(names);
        }
        let known = names.len();
        for error in &errors {
            names.insert(called(&error.text).with_context(|| error.text.clone())?.to_owned());
        }
        ensure!(names.len() > known, "not because of a constant:\n{}", errors[0].text);
    }
}

/// Whether the compiler may run the function of a mutant.
pub(super) fn holds(names: &BTreeSet<String>, mutant: &Mutant) -> bool {
    names.contains(mutant.function_name.rsplit("::").next().unwrap_or_default())
}

/// A text in which only functions of these names are `const`.
fn without_const(text: &str, but: &BTreeSet<String>) -> String {
    let mut parts = text.split("const fn ");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let name =
            part.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next().unwrap_or_default();
        out.push_str(if but.contains(name) { "const fn " } else { "fn " });
        out.push_str(part);
    }
    out
}

/// The name of the function that an error says can't be called.
fn called(error: &str) -> Option<&str> {
    let (_, path) = error.split_once("cannot call non-const ")?.1.split_once('`')?;
    let path = path.split_once('`')?.0;
    let path = if path.ends_with('>') { path.split("::<").next()? } else { path };
    path.rsplit("::").next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_constant_needs_stays_const() {
        let text = "pub const fn one() -> u8 { 1 }\nconst fn two<const N: u8>() {}\nconst A: u8 = one();\n";
        let expected = "pub const fn one() -> u8 { 1 }\nfn two<const N: u8>() {}\nconst A: u8 = one();\n";
        assert_eq!(without_const(text, &BTreeSet::from(["one".to_owned()])), expected);
    }

    #[test]
    fn an_error_names_the_function() {
        let of = |path: &str| {
            format!("error[E0015]: cannot call non-const associated function `{path}` in constants\n")
        };
        for path in
            ["a::clock::Timestamp::from_micros", "from_micros", "A::<u8>::from_micros", "a::from_micros::<B>"]
        {
            assert_eq!(called(&of(path)), Some("from_micros"), "{path}");
        }
        assert_eq!(called("error[E0308]: mismatched types"), None);
    }
}
