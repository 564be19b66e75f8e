//! A service under test is as it is, but impatient, and with a knife: `TEST_KILL_AFTER=STEP:N` kills the process, as
//! kill -9 does, right after it took a step for the N-th time; `TEST_FAULT=STEP:N:FAULT` fails, repeats, or loses the
//! reply of that one. `TEST_STEPS` names a file that every step is noted in, with the microseconds (Unix time) of
//! its beginning.

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use molecule_domain::Timestamp;
use molecule_domain::clock::{Clock, SystemClock};
use molecule_provisioner::faults::{Fault, Probe, Steps};
use molecule_provisioner::policy::Policy;

struct Knife {
    kill_after: Option<(String, usize)>,
    fault: Option<(String, usize, Fault)>,
    begun: Mutex<HashMap<&'static str, (usize, Timestamp)>>,
    steps: Option<Mutex<std::fs::File>>,
    taken: Mutex<HashMap<&'static str, usize>>,
}

#[async_trait::async_trait]
impl Probe for Knife {
    async fn before(&self, step: &'static str) -> Option<Fault> {
        let mut begun = self.begun.lock().unwrap();
        let now = SystemClock.now();
        let (count, began) = begun.entry(step).or_insert((0, now));
        (*count, *began) = (*count + 1, now);
        self.fault.as_ref().filter(|(at, n, _)| at == step && n == count).map(|(.., fault)| *fault)
    }

    async fn after(&self, step: &'static str) {
        if let Some(steps) = &self.steps {
            let began = self.begun.lock().unwrap().get(step).map_or(0, |(_, began)| began.micros());
            writeln!(steps.lock().unwrap(), "{step} {began}").unwrap();
        }
        let mut taken = self.taken.lock().unwrap();
        let count = taken.entry(step).or_default();
        *count += 1;
        if self.kill_after.as_ref().is_some_and(|(at, n)| at == step && n == count) {
            std::process::Command::new("kill")
                .args(["-KILL", &std::process::id().to_string()])
                .status()
                .unwrap();
            std::thread::sleep(Duration::from_secs(60));
        }
    }
}

/// Steps under the knife that the environment describes.
///
/// # Panics
/// Where it describes none.
pub fn steps() -> Steps {
    let kill_after = std::env::var("TEST_KILL_AFTER").ok().map(|text| {
        let (step, n) = text.split_once(':').expect("STEP:N");
        (step.to_owned(), n.parse().expect("a number"))
    });
    let fault = std::env::var("TEST_FAULT").ok().map(|text| {
        let mut parts = text.split(':');
        let mut part = || parts.next().expect("STEP:N:FAULT").to_owned();
        let (step, n, fault) = (part(), part().parse().expect("a number"), part());
        let known = [Fault::FailBefore, Fault::LoseReply, Fault::Repeat];
        let fault = known.into_iter().find(|known| format!("{known:?}") == fault).expect("a known fault");
        (step, n, fault)
    });
    let steps = std::env::var("TEST_STEPS").ok().map(|path| {
        Mutex::new(std::fs::OpenOptions::new().create(true).append(true).open(path).expect("the steps file"))
    });
    let knife = Knife { kill_after, fault, begun: Mutex::default(), steps, taken: Mutex::default() };
    Steps::probed(Arc::new(knife))
}

/// Short enough to wait for. `TEST_SWEEP_EVERY` sets the sweep's period, in seconds.
pub fn impatient() -> Policy {
    let sweep = std::env::var("TEST_SWEEP_EVERY").ok().map(|text| text.parse().expect("seconds"));
    Policy {
        lease: Duration::from_secs(30),
        launch_call: Duration::from_secs(6),
        other_call: Duration::from_secs(5),
        stop_grace: Duration::from_secs(2),
        backoff_base: Duration::from_millis(100),
        backoff_max: Duration::from_secs(2),
        sweep_every: Duration::from_secs(sweep.unwrap_or(2)),
        orphan_grace: Duration::from_secs(3),
        ..Policy::default()
    }
}
