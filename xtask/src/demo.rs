//! `cargo xtask up`, run as a person runs it: it serves, and Ctrl-C stops it.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, ensure};

use crate::docker;
use crate::shell::{run, say};
use crate::up::{SCRATCH, SERVER, SERVING};

/// Runs the demo of both modes until it serves, presses Ctrl-C, and insists on a clean end.
pub(crate) fn check() -> anyhow::Result<()> {
    for mode in [&["up"][..], &["up", "--saas"]] {
        let began = Instant::now();
        say(&format!("cargo xtask {}, until Ctrl-C", mode.join(" ")));
        // beside what a person keeps in the demo: a test neither finds nor touches that
        let before = docker::installations()?;
        let ended = interrupt(mode);
        for left in docker::installations()?.difference(&before) {
            docker::remove_installation(left)?;
        }
        ended?;
        println!("it took {:.1} min", began.elapsed().as_secs_f64() / 60.0);
    }
    Ok(())
}

/// This program's file. It may have been built anew since it was started: the system says then that the old one is deleted.
fn own_file() -> anyhow::Result<PathBuf> {
    let file = std::env::current_exe()?;
    let built_anew = file.to_str().and_then(|text| text.strip_suffix(" (deleted)")).map(PathBuf::from);
    Ok(built_anew.unwrap_or(file))
}

fn interrupt(mode: &[&str]) -> anyhow::Result<()> {
    let mut demo = Command::new("sh");
    demo.env(SCRATCH, "target/scratch");
    // what goes wrong is said on the other stream
    demo.args(["-c", "exec \"$0\" \"$@\" 2>&1"]).arg(own_file()?);
    // a terminal sends Ctrl-C to a whole group
    demo.args(mode).process_group(0).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut demo = demo.spawn().context("the demo can't be started")?;
    let mut said = BufReader::new(demo.stdout.take().context("its output is piped")?).lines();
    let mut serves = false;
    for line in said.by_ref() {
        let line = line?;
        println!("{line}");
        serves = line.contains(SERVING);
        if serves {
            break;
        }
    }
    if serves {
        // the shell's own: the program of that name takes the first digit of a group for all of it, where it is of procps 4
        run(Command::new("sh").args(["-c", &format!("kill -s INT -- -{}", demo.id())]))?;
    }
    let mut rest = String::new();
    for line in said {
        rest.push_str(&line?);
        rest.push('\n');
    }
    print!("{rest}");
    let status = demo.wait()?;
    ensure!(serves && status.success(), "it did not serve until Ctrl-C, but ended with {status}");
    ensure!(!rest.contains("backtrace") && !rest.contains("panicked"), "its end was not a clean one");
    ensure!(TcpStream::connect(SERVER).is_err(), "something still serves at {SERVER}");
    Ok(())
}
