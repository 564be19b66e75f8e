//! The commands of `deploy/RUNBOOK.md`, for tests that execute them as they stand there.

use std::collections::VecDeque;
use std::path::Path;

use anyhow::{Context, bail, ensure};

/// The commands of a chapter that were not taken yet: the lines of its fenced blocks.
#[derive(Debug)]
pub struct Chapter(VecDeque<String>);

impl Chapter {
    /// Reads the chapter of this title.
    pub fn read(title: &str) -> anyhow::Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/RUNBOOK.md");
        Self::of(&std::fs::read_to_string(path)?, title)
    }

    fn of(text: &str, title: &str) -> anyhow::Result<Self> {
        let mut lines = text.lines().map(str::trim);
        let heading = format!("## {title}");
        lines.find(|line| *line == heading).with_context(|| format!("there is no chapter {title:?}"))?;
        let (mut commands, mut fenced) = (VecDeque::new(), false);
        for line in lines {
            if line.starts_with("```") {
                fenced = !fenced;
            } else if fenced {
                let command = line.split_once(" #").map_or(line, |(command, _)| command.trim_end());
                commands.push_back(command.to_owned());
            } else if line.starts_with("## ") {
                break;
            }
        }
        ensure!(!commands.is_empty(), "the chapter {title:?} has no commands");
        Ok(Self(commands))
    }

    /// Takes the next command, which must begin in this way: its words, with each placeholder of `filled` replaced by
    /// what stands for it.
    pub fn take(&mut self, beginning: &str, filled: &[(&str, &str)]) -> anyhow::Result<Vec<String>> {
        let command = self.0.pop_front().with_context(|| format!("{beginning:?} is not in the chapter"))?;
        ensure!(command.starts_with(beginning), "the chapter goes on with {command:?}, not {beginning:?}");
        let mut words = words(&command);
        for (placeholder, value) in filled {
            let holds = |word: &String| word.contains(placeholder);
            ensure!(words.iter().any(holds), "{command:?} has no {placeholder}");
            words = words.into_iter().map(|word| word.replace(placeholder, value)).collect();
        }
        Ok(words)
    }

    /// Fails if a command was not taken.
    pub fn finish(self) -> anyhow::Result<()> {
        match self.0.front() {
            None => Ok(()),
            Some(command) => bail!("nothing has executed {command:?}"),
        }
    }
}

/// Executes a command of the runbook: what it prints. It must succeed.
pub async fn execute(command: &mut tokio::process::Command) -> anyhow::Result<Printed> {
    let output = command.output().await?;
    let printed = Printed { out: String::from_utf8(output.stdout)?, err: String::from_utf8(output.stderr)? };
    ensure!(output.status.success(), "{command:?} ended with {}: {}", output.status, printed.err);
    Ok(printed)
}

/// What a command printed.
#[derive(Debug)]
pub struct Printed {
    /// Its standard output: the result, which programs read.
    pub out: String,
    /// Its standard error: what is said to people beside the result.
    pub err: String,
}

impl Printed {
    /// The etag of what a command has shown and would do.
    pub fn etag(&self) -> anyhow::Result<&str> {
        let (_, after) = self.err.split_once("--confirm ").context("nothing to confirm is printed")?;
        after.split_whitespace().next().context("no etag is printed")
    }
}

/// The words of a command, of which double quotes keep some together.
fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (place, part) in command.split('"').enumerate() {
        if place % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chapter_is_executed_whole_and_in_its_order() {
        let text = "## One\n```sh\nfirst\n```\n## Two\nProse.\n1. A step:\n   ```sh\n   go \"a b\" ID   # why\n   end\n   ```\n\
                    ## Three\n```sh\nlast\n```\n";
        let mut two = Chapter::of(text, "Two").unwrap();
        assert_eq!(two.take("go", &[("ID", "7")]).unwrap(), ["go", "a b", "7"]);
        assert!(two.take("other", &[]).is_err());
        assert!(two.finish().is_ok());
        let mut two = Chapter::of(text, "Two").unwrap();
        assert!(two.take("go", &[("NAME", "7")]).is_err());
        assert!(two.finish().unwrap_err().to_string().contains("end"));
        assert!(Chapter::of(text, "Four").is_err());
    }
}
