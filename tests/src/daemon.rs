//! A Docker daemon of the test's own, beside the machine's: it can be frozen, ended and started again without
//! disturbing anybody. Needs root.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bollard::{API_DEFAULT_VERSION, Docker};

const BRIDGE: &str = "molecule-test0";

/// A daemon below a folder. Dropping it ends it.
#[derive(Debug)]
pub struct Daemon {
    folder: PathBuf,
    child: Option<Child>,
}

impl Daemon {
    /// A daemon that is yet to be started. The folder's path must be short: sockets stand below it.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), child: None }
    }

    /// `DOCKER_HOST` for it.
    pub fn host(&self) -> String {
        format!("unix://{}", self.folder.join("sock").display())
    }

    /// A client of it.
    pub async fn client(&self) -> anyhow::Result<Docker> {
        let path = self.folder.join("sock").display().to_string();
        Ok(Docker::connect_with_unix(&path, 60, API_DEFAULT_VERSION)?.negotiate_version().await?)
    }

    /// Starts it and waits until it answers.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        Self::bridge(true);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.folder.join("log"))?;
        let folder = |name: &str| self.folder.join(name).display().to_string();
        let mut dockerd = Command::new("dockerd");
        dockerd
            .args([
                "--data-root",
                &folder("data"),
                "--exec-root",
                &folder("exec"),
                "--pidfile",
                &folder("pid"),
            ])
            .args(["--host", &self.host(), "--bridge", BRIDGE, "--iptables=false", "--ip6tables=false"])
            .stdout(Stdio::null())
            .stderr(log);
        self.child =
            Some(dockerd.spawn().context("dockerd can't be run: the tests of the daemon need root")?);
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(60) {
            if let Ok(client) = self.client().await
                && client.ping().await.is_ok()
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!("the daemon does not answer: {}", std::fs::read_to_string(self.folder.join("log"))?)
    }

    /// Makes or removes its default bridge: with none at all, a daemon takes away the machine's own.
    fn bridge(there: bool) {
        let ip = |arguments: &[&str]| {
            let _ = Command::new("ip").args(arguments).stderr(Stdio::null()).status();
        };
        if there {
            ip(&["link", "add", "name", BRIDGE, "type", "bridge"]);
            ip(&["address", "add", "10.215.0.1/24", "dev", BRIDGE]);
            ip(&["link", "set", BRIDGE, "up"]);
        } else {
            ip(&["link", "delete", BRIDGE]);
        }
    }

    /// Sends it a signal by name.
    pub fn signal(&self, name: &str) -> anyhow::Result<()> {
        let child = self.child.as_ref().context("it does not run")?;
        Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status()?;
        Ok(())
    }

    /// Ends it; what it runs ends with it.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        if self.child.is_some() {
            self.signal("CONT")?;
            self.signal("TERM")?;
        }
        if let Some(mut child) = self.child.take() {
            child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.stop();
        Self::bridge(false);
    }
}
