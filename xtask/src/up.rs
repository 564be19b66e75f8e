//! `cargo xtask up`: the main job, from nothing to an agent that answers.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::docker::Docker;
use crate::shell::{self, cargo, command, say, succeeds};
use crate::tools::{build_static, import_images, static_binary};

const DATA_DIR: &str = "target/molecule-data";
const SERVER: &str = "127.0.0.1:7070";
const MOLECULE: &str = "target/debug/molecule";
const DEMO: &str = "demo";

/// A tenant-svc that ends with this.
struct Tenant(Child);

impl Drop for Tenant {
    fn drop(&mut self) {
        let _ = command("kill", &["-TERM", &self.0.id().to_string()]).status();
        let _ = self.0.wait();
    }
}

/// Runs the demo, and serves on unless `exit`.
pub(crate) fn run(exit: bool) -> anyhow::Result<()> {
    let (told, stop) = mpsc::channel();
    ctrlc::set_handler(move || {
        let _ = told.send(());
    })?;
    let _docker = Docker::ensure()?;
    say("building");
    shell::run(&mut cargo(&["build", "--locked", "--workspace"]))?;
    build_static()?;
    import_images()?;

    say("starting tenant-svc, self-hosted");
    let mut tenant = Tenant(start()?);
    wait_for_server(&mut tenant, &stop)?;
    shell::run(&mut molecule(&["info"]))?;

    let id = if let Some(id) = existing()? {
        say("the demo workspace is there; making sure that it runs");
        if !succeeds(&mut molecule(&["start", &id, "--wait", "--timeout", "120"])) {
            shell::run(&mut molecule(&["restart", &id, "--wait", "--timeout", "120"]))?;
        }
        id
    } else {
        say("creating a demo workspace");
        let create =
            ["create", DEMO, "--runtime", "demo", "--label", "made-by=up", "--wait", "--timeout", "120"];
        shell::run(&mut molecule(&create))?;
        existing()?.context("the demo workspace is not listed")?
    };
    say("its first message");
    let sent = molecule(&["send", &id, "hello, agent"]).output()?;
    let answer = String::from_utf8_lossy(&sent.stdout);
    println!("you:   hello, agent\nagent: {}", answer.trim());
    ensure!(sent.status.success() && answer.contains("hello, agent"), "the agent did not answer: {sent:?}");

    say("how to go on");
    println!(
        "  {MOLECULE} list\n  {MOLECULE} create mine --runtime demo --wait\n  {MOLECULE} send {id} 'how are you?'\n  \
         {MOLECULE} events {id}\n  {MOLECULE} logs -f {id}\n  {MOLECULE} stop {id} --wait\n  {MOLECULE} delete {id} --wait\n\
         API: grpc://{SERVER}, token in {DATA_DIR}/token"
    );
    if !exit {
        println!("\nServing until Ctrl-C.");
    }
    loop {
        if exit || stop.recv_timeout(Duration::from_millis(200)).is_ok() {
            // what this started, it stops; the workspace's disk stays for the next time
            say("stopping the demo workspace");
            return shell::run(molecule(&["stop", &id, "--wait"]).stdout(Stdio::null()));
        }
        if let Some(status) = tenant.0.try_wait()? {
            bail!("tenant-svc has ended with {status}");
        }
    }
}

fn start() -> anyhow::Result<Child> {
    let mut tenant = Command::new("target/debug/tenant-svc");
    tenant
        .env("TENANT_DATA_DIR", DATA_DIR)
        .env("TENANT_LISTEN", SERVER)
        .env("TENANT_WORKSPACE_INIT", static_binary("workspace-init"))
        .env("RUNTIMES_FILE", "tests/demo/runtimes.toml")
        .env("TENANT_LOG", "warn,tenant_svc=info");
    tenant.spawn().context("tenant-svc can't be run")
}

fn wait_for_server(tenant: &mut Tenant, stop: &mpsc::Receiver<()>) -> anyhow::Result<()> {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(30) {
        if succeeds(&mut molecule(&["info"])) {
            return Ok(());
        }
        if let Some(status) = tenant.0.try_wait()? {
            bail!("tenant-svc has ended with {status}; its message is above");
        }
        if stop.recv_timeout(Duration::from_millis(100)).is_ok() {
            bail!("stopped");
        }
    }
    bail!("tenant-svc does not answer at {SERVER}")
}

fn molecule(arguments: &[&str]) -> Command {
    let mut molecule = command(MOLECULE, arguments);
    molecule
        .env("MOLECULE_TOKEN_FILE", Path::new(DATA_DIR).join("token"))
        .env("MOLECULE_SERVER", format!("http://{SERVER}"));
    molecule
}

/// The demo workspace of an earlier run.
fn existing() -> anyhow::Result<Option<String>> {
    let filter = format!("labels.made-by = up AND name = {DEMO}");
    let listed = molecule(&["list", "-o", "json", "--filter", &filter]).stderr(Stdio::inherit()).output()?;
    ensure!(listed.status.success(), "the workspaces can't be listed");
    let text = String::from_utf8(listed.stdout)?;
    let id = text.lines().find_map(|line| line.trim().strip_prefix("\"workspace_id\": \""));
    Ok(id.and_then(|rest| rest.split('"').next()).map(str::to_owned))
}
