//! The programs that judge mutants, and what becomes of one that runs.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::switch::CHOICE;
use super::tree::Tree;
use super::{INTERRUPTED, determined};

/// How much memory a program may take, in KiB.
const MEMORY: u64 = 4 * 1024 * 1024;
/// Begins what is said of a program that failed and named no test.
pub(super) const NO_TEST: &str = "the program: ";
/// What Rust says where a program can't have more.
const OUT_OF_MEMORY: &str = "memory allocation of ";
/// What Rust says where a thread can't call any deeper.
const OUT_OF_STACK: &str = " has overflowed its stack";
/// The signal that no program survives.
const SIGKILL: i32 = 9;
/// How often a running program is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A program of tests.
#[derive(Clone, Debug)]
pub(super) struct Suite {
    /// Its package, and its own name where that is another.
    pub(super) name: String,
    executable: PathBuf,
    /// Where cargo runs the program.
    folder: PathBuf,
    /// How long the program takes without any mutant.
    pub(super) usual: Duration,
}

/// What of a program is run.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part<'a> {
    /// All of its tests but these.
    Without(&'a [String]),
    One(&'a str),
}

impl Part<'_> {
    pub(super) fn arguments(&self) -> Vec<&str> {
        match self {
            Self::Without([]) => Vec::new(),
            Self::Without(tests) => {
                ["--exact"].into_iter().chain(tests.iter().flat_map(|test| ["--skip", test])).collect()
            }
            Self::One(test) => vec!["--exact", test],
        }
    }
}

/// What came of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Passed,
    /// What failed: a test, or the program itself.
    Failed(String),
    TimedOut,
    /// The program took all the memory that it may have, as an endless loop does that keeps something.
    OutOfMemory,
    /// The program took all of a stack, as an endless recursion does.
    OutOfStack,
}

/// Builds the programs of a copy. Where that fails, the error is what the compiler says.
pub(super) fn build(tree: &Tree) -> anyhow::Result<Result<Vec<Suite>, String>> {
    let output = tree
        .cargo(&["test", "--no-run"])
        .env("CARGO_INCREMENTAL", "0")
        .output()
        .context("cargo can't be run")?;
    let mut suites = Vec::new();
    let (mut errors, mut is_placed) = (String::new(), false);
    for line in output.stdout.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"{")) {
        let line: Value = serde_json::from_slice(line)?;
        if line["message"]["level"] == "error" {
            errors.push_str(line["message"]["rendered"].as_str().unwrap_or_default());
            is_placed |= line["message"]["spans"].as_array().is_some_and(|spans| !spans.is_empty());
        }
        let (Some(executable), Some(manifest), Some(target)) =
            (line["executable"].as_str(), line["manifest_path"].as_str(), line["target"]["name"].as_str())
        else {
            continue;
        };
        if line["profile"]["test"] != true {
            continue;
        }
        let folder = Path::new(manifest).parent().context("a manifest is in a folder")?.to_owned();
        let package = package_of(Path::new(manifest))?;
        let name =
            if target == package.replace('-', "_") { package.clone() } else { format!("{package} {target}") };
        suites.push(Suite { name, executable: executable.into(), folder, usual: Duration::ZERO });
    }
    if output.status.success() {
        return Ok(Ok(suites));
    }
    // what is not about a place in the sources is no word on these, as where a disk is full
    ensure!(is_placed, "cargo test:\n{errors}{}", String::from_utf8_lossy(&output.stderr));
    Ok(Err(errors))
}

/// The name that a manifest gives its package.
fn package_of(manifest: &Path) -> anyhow::Result<String> {
    let text = fs::read_to_string(manifest)?;
    let name = text.lines().find_map(|line| line.strip_prefix("name = \""));
    Ok(name.and_then(|rest| rest.strip_suffix('"')).context("a manifest names its package")?.to_owned())
}

impl Suite {
    #[cfg(test)]
    pub(super) fn named(name: &str) -> Self {
        let (executable, folder) = (PathBuf::new(), PathBuf::new());
        Self { name: name.to_owned(), executable, folder, usual: Duration::ZERO }
    }

    /// How long the program may take with a mutant.
    pub(super) fn limit(&self) -> Duration {
        limit(self.usual)
    }

    /// Runs a part of the program under the mutant of a number or none, until a test fails.
    pub(super) fn run(
        &self,
        mutant: u32,
        part: Part<'_>,
        limit: Duration,
        scratch: &Path,
    ) -> anyhow::Result<Outcome> {
        fs::create_dir_all(scratch)?;
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -v {MEMORY}; exec \"$0\" \"$@\"")]).arg(&self.executable);
        command.args(part.arguments());
        command.current_dir(&self.folder).env("CARGO_MANIFEST_DIR", &self.folder).env("TMPDIR", scratch);
        determined(&mut command).env(CHOICE, mutant.to_string()).env("MOLECULE_SIM_STOP", "1");
        command.env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "true").env("PROPTEST_MAX_SHRINK_ITERS", "0");
        command.env("RUST_BACKTRACE", "0").env_remove("RUSTC_BOOTSTRAP");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let child = command.spawn().with_context(|| format!("{} can't be run", self.executable.display()))?;
        let outcome = watch(child, limit, Until::Failure);
        fs::remove_dir_all(scratch)?;
        outcome
    }
}

/// How long may be taken with a mutant by what takes so long without.
pub(super) fn limit(usual: Duration) -> Duration {
    usual * 10 + Duration::from_secs(20)
}

/// When a program has run for long enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// Once a test has failed.
    Failure,
    /// Once it has ended by itself, so that it can clear away what it has made elsewhere.
    End,
}

/// Waits for a program's end, its first failed test, or the limit. Nothing that the program has started survives it. Its output
/// and its errors are piped, and it has a process group of its own.
pub(super) fn watch(mut child: Child, limit: Duration, until: Until) -> anyhow::Result<Outcome> {
    let began = Instant::now();
    let group = child.id();
    let stdout = child.stdout.take().context("a program's output is piped")?;
    let stderr = child.stderr.take().context("a program's errors are piped")?;
    let (sender, failed) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            if let Some(test) = failed_test(&String::from_utf8_lossy(&line)) {
                // the other end has gone where one failure was enough
                let _ = sender.send(test);
            }
        }
    });
    let errors = std::thread::spawn(move || {
        let lines = BufReader::new(stderr).split(b'\n').map_while(Result::ok);
        // all are read, so that the program does not wait for that
        lines.fold(None, |told, line| told.or_else(|| taken(&String::from_utf8_lossy(&line))))
    });
    let mut first = None;
    let ended = loop {
        match failed.recv_timeout(LOOK_EVERY) {
            Ok(test) if until == Until::Failure => break Some(Outcome::Failed(test)),
            Ok(test) => first = first.or(Some(test)),
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(Duration::from_millis(1)),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if child.try_wait()?.is_some() {
            break None;
        }
        if began.elapsed() > limit {
            break Some(first.take().map_or(Outcome::TimedOut, Outcome::Failed));
        }
        if INTERRUPTED.load(Ordering::SeqCst) {
            kill(group);
            child.wait()?;
            bail!("interrupted; what was found is kept");
        }
    };
    kill(group);
    let status = child.wait()?;
    // the output ends with the last process that holds it
    let _ = reader.join();
    let taken = errors.join().unwrap_or_default();
    Ok(match ended {
        Some(outcome) => outcome,
        None if status.success() => Outcome::Passed,
        None => match (first.or_else(|| failed.try_recv().ok()), taken, status.signal()) {
            (Some(test), ..) => Outcome::Failed(test),
            (_, Some(taken), _) => taken,
            // nobody but a system that has no more memory ends it so
            (_, _, Some(SIGKILL)) => Outcome::OutOfMemory,
            (_, _, Some(signal)) => Outcome::Failed(format!("{NO_TEST}signal {signal}")),
            (..) => Outcome::Failed(format!("{NO_TEST}{status}")),
        },
    })
}

/// What a line of a program's errors says that the program took all of.
fn taken(line: &str) -> Option<Outcome> {
    if line.starts_with(OUT_OF_MEMORY) {
        return Some(Outcome::OutOfMemory);
    }
    line.contains(OUT_OF_STACK).then_some(Outcome::OutOfStack)
}

/// The test that a line of a program's output says has failed.
fn failed_test(line: &str) -> Option<String> {
    let test = line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?;
    Some(test.split(" - ").next().unwrap_or(test).to_owned())
}

/// Ends all processes of a group; most groups have none left.
fn kill(group: u32) {
    let _ = Command::new("kill")
        .args(["-KILL", "--", &format!("-{group}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(script: &str, limit: Duration) -> Outcome {
        let mut sh = Command::new("sh");
        sh.args(["-c", script]).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        watch(sh.spawn().unwrap(), limit, Until::Failure).unwrap()
    }

    #[test]
    fn a_program_that_has_to_clear_away_ends_by_itself() {
        let mut sh = Command::new("sh");
        let script = "echo 'test a ... FAILED'; sleep 0.2; echo 'test b ... FAILED'; exit 101";
        sh.args(["-c", script]).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let began = Instant::now();
        let outcome = watch(sh.spawn().unwrap(), Duration::from_secs(60), Until::End).unwrap();
        assert_eq!(outcome, Outcome::Failed("a".to_owned()));
        assert!(began.elapsed() >= Duration::from_millis(200));
        let mut sh = Command::new("sh");
        sh.args(["-c", "echo 'test a ... FAILED'; exec sleep 60"]).process_group(0);
        let child = sh.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let outcome = watch(child, Duration::from_millis(100), Until::End).unwrap();
        assert_eq!(outcome, Outcome::Failed("a".to_owned()), "another test hangs");
    }

    #[test]
    fn a_program_passes_fails_or_hangs() {
        let long = Duration::from_secs(60);
        assert_eq!(ran("echo 'test a::b ... ok'", long), Outcome::Passed);
        assert_eq!(
            ran("echo 'test a::b ... FAILED'; exec sleep 60", long),
            Outcome::Failed("a::b".to_owned())
        );
        assert_eq!(ran("exit 3", long), Outcome::Failed("the program: exit status: 3".to_owned()));
        assert_eq!(ran("kill -ABRT $$", long), Outcome::Failed("the program: signal 6".to_owned()));
        assert_eq!(ran("sleep 60 & sleep 60", Duration::from_millis(50)), Outcome::TimedOut);
    }

    /// Under the limit that mutants run under, in a program as those of tests are.
    #[test]
    fn a_program_that_takes_all_memory_has_failed_no_test() {
        let this = std::env::current_exe().unwrap();
        let test = "mutants::suites::tests::takes_all_memory";
        let script = format!("ulimit -v 2000000; exec {} --exact {test} --ignored", this.display());
        assert_eq!(ran(&script, Duration::from_secs(60)), Outcome::OutOfMemory);
    }

    /// The runtime says so, and ends the program by a signal.
    #[test]
    fn a_program_that_recurses_for_ever_has_failed_no_test() {
        let this = std::env::current_exe().unwrap();
        let test = "mutants::suites::tests::recurses_for_ever";
        let script = format!("exec {} --exact {test} --ignored", this.display());
        assert_eq!(ran(&script, Duration::from_secs(60)), Outcome::OutOfStack);
    }

    #[test]
    #[ignore = "it takes all of its stack; the test above runs it"]
    fn recurses_for_ever() {
        fn depth(from: u64) -> u64 {
            if from == u64::MAX { 0 } else { std::hint::black_box(depth(from + 1)) + 1 }
        }
        depth(0);
    }

    #[test]
    #[ignore = "it takes all the memory that there is; the test above bounds that"]
    fn takes_all_memory() {
        let mut all = Vec::new();
        loop {
            all.push(Vec::<u8>::with_capacity(1 << 28));
        }
    }

    /// What is found is the same each time.
    #[test]
    fn all_that_is_by_chance_is_determined() {
        let mut command = Command::new("true");
        let set: Vec<_> = determined(&mut command).get_envs().collect();
        for name in ["MOLECULE_SIM_LIVES", "PROPTEST_RNG_SEED"] {
            assert!(set.iter().any(|(set, value)| *set == name && value.is_some()), "{name}");
        }
        for name in ["MOLECULE_SIM_SEED", "PROPTEST_CASES", "SOAK_CASES"] {
            assert!(set.iter().any(|(set, value)| *set == name && value.is_none()), "{name}");
        }
    }

    #[test]
    fn what_a_program_leaves_behind_ends_with_it() {
        let began = Instant::now();
        assert_eq!(ran("sleep 60 &", Duration::from_secs(60)), Outcome::Passed);
        assert!(began.elapsed() < Duration::from_secs(30));
    }
}
