//! A Docker daemon: the one that is there, or one of our own for as long as this runs.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::shell::{command, install, is_root, is_there, say};

const SOCKET: &str = "/var/run/docker.sock";
const PID_FILE: &str = "/var/run/docker.pid";

/// A daemon that answers. Dropping it stops the daemon where this started it.
pub(crate) struct Docker(Option<Child>);

impl Docker {
    /// Finds a daemon, or installs and starts one.
    pub(crate) fn ensure() -> anyhow::Result<Self> {
        if is_elsewhere() {
            return Ok(Self(None)); // the operator's own; whoever uses it will say what is wrong with it
        }
        if answers() {
            return Ok(Self(None));
        }
        if !is_there("dockerd") {
            install(&["docker.io", "iptables"], "the Docker Engine")?;
            // installing may have started it
            if wait_until_it_answers(Duration::from_secs(3)) {
                return Ok(Self(None));
            }
        }
        if !is_root() {
            bail!(
                "no Docker daemon answers at {SOCKET}. Start it, then run this again:\n    sudo systemctl start docker"
            );
        }
        say("starting the Docker daemon");
        clear_what_a_killed_daemon_left();
        fs::create_dir_all("target")?;
        let log = File::create("target/dockerd.log")?;
        let mut dockerd = Command::new("dockerd");
        // a group of its own: Ctrl-C is for us, and it ends after what runs on it
        dockerd.stdout(log.try_clone()?).stderr(log).process_group(0);
        let docker = Self(Some(dockerd.spawn().context("dockerd can't be run")?));
        if !wait_until_it_answers(Duration::from_secs(60)) {
            bail!("the Docker daemon does not answer; see target/dockerd.log");
        }
        Ok(docker)
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let Some(child) = &mut self.0 else { return };
        let _ = command("kill", &["-TERM", &child.id().to_string()]).status();
        let _ = child.wait();
    }
}

fn wait_until_it_answers(limit: Duration) -> bool {
    let began = Instant::now();
    while began.elapsed() < limit {
        if answers() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    false
}

fn answers() -> bool {
    ask("/_ping").is_ok_and(|answer| answer.contains(" 200 "))
}

/// Whether the environment names another daemon than the machine's own.
fn is_elsewhere() -> bool {
    std::env::var_os("DOCKER_HOST").is_some_and(|host| !host.to_string_lossy().ends_with(SOCKET))
}

/// What the daemon says of its networks, in JSON; nothing where it is not on this machine.
pub(crate) fn networks() -> anyhow::Result<String> {
    if is_elsewhere() {
        return Ok(String::new());
    }
    ask("/networks").context("the Docker daemon does not list its networks")
}

fn ask(path: &str) -> std::io::Result<String> {
    request("GET", path)
}

fn request(method: &str, path: &str) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(SOCKET)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(format!("{method} {path} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// A daemon that was killed leaves its pid file, and maybe its containerd, behind; the next won't start then.
fn clear_what_a_killed_daemon_left() {
    let Ok(pid) = fs::read_to_string(PID_FILE) else { return };
    // empty for a process that has ended and that nobody has waited for
    let running = fs::read_to_string(Path::new("/proc").join(pid.trim()).join("cmdline")).unwrap_or_default();
    if !running.contains("dockerd") {
        let _ = fs::remove_file(PID_FILE);
        for left in ["/var/run/docker/containerd/containerd.pid"] {
            if let Ok(pid) = fs::read_to_string(left) {
                let _ = command("kill", &["-TERM", pid.trim()]).status();
                std::thread::sleep(Duration::from_millis(500));
                let _ = fs::remove_file(left);
            }
        }
    }
}

/// The label that names the installation whose a container, a volume or a network is.
const INSTALLATION: &str = "ai.molecule.installation";

/// The installations that have containers; none where the daemon is not on this machine.
pub(crate) fn installations() -> anyhow::Result<BTreeSet<String>> {
    if is_elsewhere() {
        return Ok(BTreeSet::new());
    }
    let containers = listed("/containers/json?all=1", None)?;
    let named = containers.iter().filter_map(|found| found["Labels"][INSTALLATION].as_str());
    Ok(named.map(str::to_owned).collect())
}

/// Removes all that an installation, which is served no more, has left.
pub(crate) fn remove_installation(id: &str) -> anyhow::Result<()> {
    for (list, part, key, name) in [
        ("/containers/json?all=1", None, "Id", "/containers/{}?force=1&v=1"),
        ("/volumes", Some("Volumes"), "Name", "/volumes/{}?force=1"),
        ("/networks", None, "Id", "/networks/{}"),
    ] {
        for found in listed(list, part)? {
            if let Some(key) = found[key].as_str().filter(|_| found["Labels"][INSTALLATION] == id) {
                let answer = request("DELETE", &name.replace("{}", key))?;
                let is_gone = answer.starts_with("HTTP/1.0 2");
                // Docker 20.10 may count an endpoint of a network for good that was removed while it began
                ensure!(is_gone || list == "/networks", "{key} can't be removed: {answer}");
            }
        }
    }
    Ok(())
}

/// What the daemon lists; `part` names where in its answer that is.
fn listed(path: &str, part: Option<&str>) -> anyhow::Result<Vec<serde_json::Value>> {
    let answer = request("GET", path)?;
    let (_, body) = answer.split_once("\r\n\r\n").with_context(|| format!("{path}: {answer}"))?;
    let answer: serde_json::Value = serde_json::from_str(body).with_context(|| format!("{path}: {body}"))?;
    let list = part.map_or(&answer, |part| &answer[part]);
    Ok(list.as_array().cloned().unwrap_or_default())
}
