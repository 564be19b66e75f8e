//! Runs all suites, two at a time: one that waits for containers beside one that calculates. Each says its minutes.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::shell::{cargo, command, is_there, run, say};

/// Suites of the services that use no container: they calculate.
const CALCULATING: [&str; 3] = ["ec2_backend", "ec2_chaos", "postgres_store"];

/// Suites whose tests print what they have met, which is shown although they succeed.
const SHOWN: [&str; 1] = ["lives"];

/// An executable with tests.
#[derive(Debug)]
struct Suite {
    name: String,
    executable: PathBuf,
    /// The folder of its package, in which it is run.
    folder: PathBuf,
    waits: bool,
}

impl Suite {
    fn command(&self) -> Command {
        // what waits comes first where both want the processor
        let mut test = if self.waits || !is_there("nice") {
            Command::new(&self.executable)
        } else {
            let mut nice = command("nice", &["-n", "5"]);
            nice.arg(&self.executable);
            nice
        };
        if SHOWN.contains(&&*self.name) {
            test.arg("--show-output");
        }
        test
    }
}

/// What became of a suite.
struct Ended {
    name: String,
    took: Duration,
    succeeded: bool,
    /// The runner's own closing lines.
    closing: Vec<String>,
    /// What the runner says of the first failed tests.
    failures: Vec<String>,
}

/// How many lines of a suite's failures are said once more at the end, where a reader of a long output looks first.
const FAILURE_LINES: usize = 12;

/// The beginning of what a test runner says of failed tests, without the backtrace.
fn failures(said: &str) -> Vec<String> {
    let after = said.lines().skip_while(|line| *line != "failures:").skip(1);
    let without_trace = after.filter(|line| {
        let line = line.trim_start();
        let is_frame = line.split_once(": ").is_some_and(|(number, _)| number.parse::<u32>().is_ok());
        !(line.is_empty() || is_frame || line.starts_with("at ") || line.starts_with("stack backtrace"))
    });
    without_trace.take(FAILURE_LINES).map(str::to_owned).collect()
}

/// Builds and runs every suite; `prepare` gives a command what tests need to find.
pub(crate) fn run_all(prepare: impl Fn(&mut Command) + Sync) -> anyhow::Result<()> {
    let (waiting, calculating): (Vec<_>, Vec<_>) = built()?.into_iter().partition(|suite| suite.waits);
    say(&format!("testing: {} suites that wait beside {} that calculate", waiting.len(), calculating.len()));
    let ended = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let lanes = [waiting, calculating].map(|lane| {
            let (prepare, ended) = (&prepare, &ended);
            scope.spawn(move || lane.iter().try_for_each(|suite| run_one(suite, prepare, ended)))
        });
        lanes.into_iter().try_for_each(|lane| lane.join().expect("a lane does not panic"))
    })?;
    let ended = ended.into_inner().unwrap_or_default();
    say("all suites");
    for suite in &ended {
        println!("{:<28} {:>5.1} min  {}", suite.name, minutes(suite.took), suite.closing.join(" "));
    }
    for suite in ended.iter().filter(|suite| !suite.succeeded) {
        println!("\n{} failed:\n{}", suite.name, suite.failures.join("\n"));
    }
    let failed: Vec<_> = ended.iter().filter(|suite| !suite.succeeded).map(|suite| &*suite.name).collect();
    ensure!(failed.is_empty(), "suites that failed: {}", failed.join(", "));
    say("examples in the documentation");
    run(&mut cargo(&["test", "--locked", "--workspace", "--doc", "--quiet"]))
}

fn minutes(took: Duration) -> f64 {
    took.as_secs_f64() / 60.0
}

/// Every executable with tests, as cargo builds them.
fn built() -> anyhow::Result<Vec<Suite>> {
    let mut build = cargo(&["test", "--locked", "--workspace", "--no-run"]);
    build.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    let output = build.output().context("cargo can't be run")?;
    ensure!(output.status.success(), "the tests can't be built");
    let mut suites = Vec::new();
    for line in output.stdout.split(|byte| *byte == b'\n') {
        let Ok(message) = serde_json::from_slice::<serde_json::Value>(line) else { continue };
        let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
        let (Some(executable), Some(manifest)) =
            (text(&message["executable"]), text(&message["manifest_path"]))
        else {
            continue;
        };
        if message["profile"]["test"] != true {
            continue;
        }
        let folder = Path::new(&manifest).parent().context("a manifest in a folder")?.to_owned();
        let target = text(&message["target"]["name"]).unwrap_or_default();
        let of_services = folder.ends_with("tests") && message["target"]["kind"][0] == "test";
        let name = if message["target"]["kind"][0] == "test" {
            target.clone()
        } else {
            format!("{target} (unit tests)")
        };
        let waits = of_services && !CALCULATING.contains(&&*target);
        suites.push(Suite { name, executable: executable.into(), folder, waits });
    }
    suites.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(suites)
}

/// Runs a suite, and prints what it said once it has ended.
fn run_one(
    suite: &Suite,
    prepare: &(impl Fn(&mut Command) + Sync),
    ended: &Mutex<Vec<Ended>>,
) -> anyhow::Result<()> {
    let folder = std::env::current_dir()?.join("target/suites");
    std::fs::create_dir_all(&folder)?;
    let log = folder.join(format!("{}.log", suite.name.replace(' ', "-")));
    let mut test = suite.command();
    prepare(test.current_dir(&suite.folder).env("CARGO_MANIFEST_DIR", &suite.folder));
    let file = File::create(&log)?;
    let began = Instant::now();
    let status = test.stdout(file.try_clone()?).stderr(file).stdin(Stdio::null()).status();
    let status = status.with_context(|| format!("{} can't be run", suite.executable.display()))?;
    let (took, said) = (began.elapsed(), std::fs::read(&log)?);
    let said = String::from_utf8_lossy(&said);
    let closing = said.lines().filter(|line| line.starts_with("test result:")).map(str::to_owned).collect();
    let mut all = ended.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    println!("\n     Running {} ({})\n{said}", suite.name, suite.executable.display());
    println!("{} took {:.1} min", suite.name, minutes(took));
    let succeeded = status.success();
    let failures = if succeeded { Vec::new() } else { failures(&said) };
    all.push(Ended { name: suite.name.clone(), took, succeeded, closing, failures });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shows_its_output(name: &str) -> bool {
        let suite =
            Suite { name: name.to_owned(), executable: "test".into(), folder: ".".into(), waits: false };
        suite.command().get_args().any(|argument| argument == "--show-output")
    }

    #[test]
    fn what_failed_is_said_without_its_backtrace() {
        let said = "running 2 tests\ntest one ... FAILED\n\nfailures:\n\n---- one stdout ----\n\nthread 'one' panicked at a.rs:1:2:\n\
            it broke\nstack backtrace:\n   0: __rustc::rust_begin_unwind\n             at /rustc/library/std/src/panicking.rs:689:5\n";
        assert_eq!(
            failures(said),
            ["---- one stdout ----", "thread 'one' panicked at a.rs:1:2:", "it broke"]
        );
        assert_eq!(failures("it was killed"), Vec::<String>::new());
    }

    #[test]
    fn simulated_lives_say_what_they_met_although_all_went_well() {
        assert!(shows_its_output("lives"));
        assert!(!shows_its_output("stories"));
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        assert!(repository.join("tests/sim/tests/lives.rs").is_file(), "the suite has another name now");
    }
}
