//! The places where effects happen, named, so that tests can fail, repeat and kill at each of them.
//!
//! The executor and the backends pass through [`Steps::run`] for every effect; in production that is a plain
//! call. A test asks for a fault at a step, and learns which steps there are by running once without.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;

/// What a test does to a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The effect does not happen, and its caller is told that the outcome is unknown.
    FailBefore,
    /// The effect happens, and its caller is told that the outcome is unknown.
    LoseReply,
    /// The effect is asked for twice.
    Repeat,
}

/// Decides about faults. Both ends of a step may take as long as a test wants them to: other work goes on between them.
#[async_trait]
pub trait Probe: Send + Sync + 'static {
    /// What to do to this step, which is about to be taken.
    async fn before(&self, step: &'static str) -> Option<Fault>;

    /// Called after the step was taken.
    async fn after(&self, _step: &'static str) {}
}

/// Told to a caller in place of a result.
#[derive(Clone, Copy, Debug)]
pub struct Injected;

impl fmt::Display for Injected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("injected fault: the outcome is unknown")
    }
}

/// Takes steps, under a probe where a test has set one.
#[derive(Clone, Default)]
pub struct Steps(Option<Arc<dyn Probe>>);

impl fmt::Debug for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Steps(probed: {})", self.0.is_some())
    }
}

impl Steps {
    /// Steps under a test's probe.
    pub fn probed(probe: Arc<dyn Probe>) -> Self {
        Self(Some(probe))
    }

    /// Takes one step. `effect` must be safe to ask for twice, as every effect of the engine's is.
    pub async fn run<T, F>(&self, step: &'static str, effect: impl Fn() -> F) -> Result<T, Injected>
    where
        F: Future<Output = T>,
    {
        let Some(probe) = &self.0 else { return Ok(effect().await) };
        let fault = probe.before(step).await;
        if fault == Some(Fault::FailBefore) {
            return Err(Injected);
        }
        let mut result = effect().await;
        if fault == Some(Fault::Repeat) {
            result = effect().await;
        }
        probe.after(step).await;
        if fault == Some(Fault::LoseReply) { Err(Injected) } else { Ok(result) }
    }
}
