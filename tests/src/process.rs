//! A service as a real process.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// What services under test log.
pub(crate) const LOG_FILTER: &str =
    "debug,h2=info,hyper=info,hyper_util=info,tower=info,sqlx=info,bollard=info,rustls=info";

/// A running service. Dropping this kills it.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it; what it logs is added to a file.
    pub(crate) fn start(command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
        let child = command.stdout(Stdio::null()).stderr(file).spawn();
        let child = child.with_context(|| format!("{} can't be run", command.get_program().display()))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Fails if it has ended.
    pub(crate) fn lives(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the service has ended with {status}: {}", end_of(&self.log)),
        }
    }

    /// Sends it a signal, by name.
    pub(crate) fn signal(&self, signal: &str) -> anyhow::Result<()> {
        let kill = [format!("-{signal}"), self.child.id().to_string()];
        // one that has ended already needs no signal
        Command::new("kill").args(kill).stderr(Stdio::null()).status()?;
        Ok(())
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ends(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        while self.child.try_wait()?.is_none() {
            if began.elapsed() > Duration::from_secs(60) {
                bail!("it lives on: {}", end_of(&self.log));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Tells it to end, and waits.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<()> {
        self.signal("TERM")?;
        self.ends().await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The end of a log.
pub(crate) fn end_of(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.chars().skip(text.chars().count().saturating_sub(4000)).collect()
}

/// The demo runtimes.
pub(crate) fn runtimes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/runtimes.toml")
}
