//! `cargo xtask up`: the main job, from nothing to an agent that answers.

mod saas;
mod self_hosted;
mod service;
mod stop;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};

use self::service::{Service, Services};
use self::stop::Stop;
use crate::docker::Docker;
use crate::postgres::Postgres;
use crate::shell::{self, cargo, command, say, succeeds};
use crate::tools::{build_static, import_images};

/// Where the tenant's API is.
pub(crate) const SERVER: &str = "127.0.0.1:7070";
/// What it says once the demo has been shown.
pub(crate) const SERVING: &str = "Serving until Ctrl-C.";
const MOLECULE: &str = "target/debug/molecule";
const DEMO: &str = "demo";
const RUNTIMES: &str = "tests/demo/runtimes.toml";

/// Names the folder that holds what the demo keeps, where that is another than `target`: it begins with nothing there.
pub(crate) const SCRATCH: &str = "MOLECULE_UP_SCRATCH";

/// The folder that holds what the demo keeps.
fn folder() -> PathBuf {
    std::env::var_os(SCRATCH).map_or_else(|| "target".into(), PathBuf::from)
}

/// Runs the demo of a mode, and serves on unless `exit`. Being told to stop is no failure, whenever it happens.
pub(crate) fn run(saas: bool, exit: bool) -> anyhow::Result<()> {
    let stop = Stop::on_signals()?;
    match start(saas, exit, &stop) {
        Err(error) if !error.is::<BadEnd>() && stop.came() => {
            say("stopped");
            Ok(())
        }
        ended => ended,
    }
}

/// What was started does not end as it should: that is a failure also of who is told to stop.
#[derive(Clone, Copy, Debug)]
struct BadEnd;

impl std::fmt::Display for BadEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the demo did not end well")
    }
}

fn start(saas: bool, exit: bool, stop: &Stop) -> anyhow::Result<()> {
    let _docker = Docker::ensure()?;
    // dropped after the services that use it
    let scratch = std::env::var_os(SCRATCH);
    if let Some(scratch) = &scratch {
        let _ = std::fs::remove_dir_all(scratch);
    }
    let purpose = if scratch.is_some() { "scratch" } else { "up" };
    let postgres = if saas { Some(Postgres::ensure(purpose)?) } else { None };
    say("building");
    shell::run(&mut cargo(&["build", "--locked", "--workspace"]))?;
    build_static()?;
    import_images()?;
    match &postgres {
        Some(postgres) if scratch.is_some() => saas::run(&postgres.emptied("scratch")?, exit, stop),
        Some(postgres) => saas::run(&postgres.url, exit, stop),
        None => self_hosted::run(exit, stop),
    }
}

/// The demo workspace of a tenant whose data are in a folder.
struct Demo {
    data: PathBuf,
}

impl Demo {
    fn molecule(&self, arguments: &[&str]) -> Command {
        let mut molecule = command(MOLECULE, arguments);
        molecule
            .env("MOLECULE_TOKEN_FILE", self.data.join("token"))
            .env("MOLECULE_SERVER", format!("http://{SERVER}"));
        molecule
    }

    /// Makes sure that the workspace runs, speaks with its agent, shows what `show` shows, and serves until told to stop.
    /// However that ends, the workspace is stopped, and its disk stays for the next time; the services are stopped after that.
    fn play(
        &self,
        mut services: Services,
        exit: bool,
        stop: &Stop,
        show: impl FnOnce(&str) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let played = self.run_and_greet().and_then(|id| {
            show(&id)?;
            if exit { Ok(()) } else { serve(&mut services, stop) }
        });
        let stopped = self.stop();
        let ended = services.end();
        stopped.and(ended).map_err(|error| error.context(BadEnd))?;
        played
    }

    fn stop(&self) -> anyhow::Result<()> {
        let Some(id) = self.existing()? else { return Ok(()) };
        say("stopping the demo workspace");
        let mut stop = self.molecule(&["stop", &id, "--wait", "--timeout", "120"]);
        // a group of its own: another Ctrl-C does not end this
        shell::run(stop.stdout(Stdio::null()).process_group(0))
    }

    fn run_and_greet(&self) -> anyhow::Result<String> {
        shell::run(&mut self.molecule(&["info"]))?;
        let id = if let Some(id) = self.existing()? {
            say("the demo workspace is there; making sure that it runs");
            if !succeeds(&mut self.molecule(&["start", &id, "--wait", "--timeout", "120"])) {
                shell::run(&mut self.molecule(&["restart", &id, "--wait", "--timeout", "120"]))?;
            }
            id
        } else {
            say("creating a demo workspace");
            let create =
                ["create", DEMO, "--runtime", "demo", "--label", "made-by=up", "--wait", "--timeout", "120"];
            shell::run(&mut self.molecule(&create))?;
            self.existing()?.context("the demo workspace is not listed")?
        };
        say("its first message");
        let sent = self.molecule(&["send", &id, "hello, agent"]).output()?;
        let answer = String::from_utf8_lossy(&sent.stdout);
        println!("you:   hello, agent\nagent: {}", answer.trim());
        ensure!(
            sent.status.success() && answer.contains("hello, agent"),
            "the agent did not answer: {sent:?}"
        );
        Ok(id)
    }

    /// The demo workspace of an earlier run.
    fn existing(&self) -> anyhow::Result<Option<String>> {
        let filter = format!("labels.made-by = up AND name = {DEMO}");
        let mut list = self.molecule(&["list", "-o", "json", "--filter", &filter]);
        let listed = list.process_group(0).stderr(Stdio::inherit()).output()?;
        ensure!(listed.status.success(), "the workspaces can't be listed");
        Ok(field(&String::from_utf8(listed.stdout)?, "workspace_id"))
    }

    fn how_to_go_on(&self, id: &str) {
        say("how to go on");
        let token = self.data.join("token");
        println!(
            "  export MOLECULE_TOKEN_FILE={}\n  {MOLECULE} list\n  {MOLECULE} create mine --runtime demo --wait\n  \
             {MOLECULE} send {id} 'how are you?'\n  {MOLECULE} events {id}\n  {MOLECULE} logs -f {id}\n  {MOLECULE} \
             stop {id} --wait\n  {MOLECULE} delete {id} --wait\nAPI: grpc://{SERVER}, token in {}",
            token.display(),
            token.display(),
        );
    }
}

/// Serves until told to stop.
fn serve(services: &mut Services, stop: &Stop) -> anyhow::Result<()> {
    println!("\n{SERVING}");
    while !stop.came_within(Duration::from_millis(200)) {
        services.live()?;
    }
    Ok(())
}

/// The first value of a field in JSON that `molecule` printed.
fn field(json: &str, name: &str) -> Option<String> {
    let prefix = format!("\"{name}\": \"");
    let rest = json.lines().find_map(|line| line.trim().strip_prefix(&prefix))?;
    rest.split('"').next().map(str::to_owned)
}

/// A file of secrets, which only its owner reads, made with `content` where there is none.
fn secret_file(path: &Path, content: impl FnOnce() -> anyhow::Result<Vec<u8>>) -> anyhow::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    if !path.exists() {
        let content = content()?;
        let mut file = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)?;
        file.write_all(&content)?;
    }
    Ok(())
}
