//! The services of a demo.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};

use super::stop::Stop;
use crate::shell::{command, succeeds};

/// A service that ends with this.
pub(super) struct Service {
    name: &'static str,
    child: Child,
}

impl Service {
    pub(super) fn start(name: &'static str, command: &mut Command) -> anyhow::Result<Self> {
        // a group of its own: Ctrl-C is for the one that stops the demo, and ends the services after that
        let child = command.process_group(0).spawn().with_context(|| format!("{name} can't be run"))?;
        Ok(Self { name, child })
    }

    pub(super) fn lives(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} has ended with {status}; its message is above", self.name),
        }
    }

    fn end(&mut self) -> anyhow::Result<ExitStatus> {
        if self.child.try_wait()?.is_none() {
            // it may have ended by now
            let _ = command("kill", &["-TERM", &self.child.id().to_string()]).status();
        }
        Ok(self.child.wait()?)
    }

    /// Waits until a command of `molecule`'s succeeds on it.
    pub(super) fn answers(&mut self, ask: impl Fn() -> Command, stop: &Stop) -> anyhow::Result<()> {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(30) {
            if succeeds(&mut ask()) {
                return Ok(());
            }
            self.lives()?;
            if stop.came_within(Duration::from_millis(100)) {
                bail!("stopped");
            }
        }
        bail!("{} does not answer", self.name)
    }
}

/// The services of a demo. The last that was started ends first: it uses those before it.
#[derive(Default)]
pub(super) struct Services(Vec<Service>);

impl Services {
    /// Has a service end with these.
    pub(super) fn add(&mut self, service: Service) -> &mut Service {
        self.0.push(service);
        self.0.last_mut().expect("one was added")
    }

    pub(super) fn all(&mut self) -> impl Iterator<Item = &mut Service> {
        self.0.iter_mut()
    }

    pub(super) fn live(&mut self) -> anyhow::Result<()> {
        self.all().try_for_each(Service::lives)
    }

    /// Ends all of them, and fails where one did not end well.
    pub(super) fn end(mut self) -> anyhow::Result<()> {
        let mut all_well = Ok(());
        while let Some(mut last) = self.0.pop() {
            let status = last.end()?;
            if !status.success() {
                all_well = Err(anyhow!("{} has ended with {status}; its message is above", last.name));
            }
        }
        all_well
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        while let Some(last) = self.0.pop() {
            drop(last);
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.end();
    }
}
