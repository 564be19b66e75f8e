//! The clocks of machines, which are set at times, and the time that a process goes by, as in production: it never steps back.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use molecule_domain::clock::Steady;
use molecule_domain::{Clock, Timestamp};
use tokio::time::Instant;

use crate::pair::Pair;
use crate::world::{World, lock};

/// The least and the most by which a clock is set, in seconds.
const STEPS: (u64, u64) = (60, 3600);

/// The clock of a machine.
#[derive(Debug)]
pub struct MachineClock {
    world: Arc<World>,
    /// How far it is ahead, in microseconds.
    ahead: AtomicI64,
}

impl MachineClock {
    /// A clock that is so many microseconds ahead.
    pub fn new(world: Arc<World>, ahead: i64) -> Arc<Self> {
        Arc::new(Self { world, ahead: AtomicI64::new(ahead) })
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.world.now().micros() + self.ahead.load(Ordering::Relaxed))
    }

    /// Sets it forward or back.
    fn step(&self, by: i64) {
        self.ahead.fetch_add(by, Ordering::Relaxed);
    }

    /// The time as a process on this machine sees it, from its start on.
    pub fn of_a_process(self: &Arc<Self>) -> Arc<ProcessClock> {
        Arc::new(ProcessClock { machine: Arc::clone(self), shown: Mutex::default() })
    }
}

/// The time that a process goes by.
#[derive(Debug)]
pub struct ProcessClock {
    machine: Arc<MachineClock>,
    shown: Mutex<Steady>,
}

impl Clock for ProcessClock {
    fn now(&self) -> Timestamp {
        lock(&self.shown).show(self.machine.now(), Instant::now().into_std())
    }
}

/// Somebody sets the clock of some tenant's machine.
pub(crate) fn is_set(pair: &Pair) {
    let world = &pair.world;
    let place = usize::try_from(world.rng().below(pair.tenants.len() as u64)).unwrap_or(0);
    let (by, back) = {
        let mut rng = world.rng();
        (rng.seconds(STEPS.0, STEPS.1), rng.once_in(2))
    };
    world.tell("operator", 71, || {
        format!("SETS the clock of tenant {} {} by {by:?}", place + 1, if back { "back" } else { "forward" })
    });
    let micros = i64::try_from(by.as_micros()).unwrap_or(0);
    pair.tenants[place].clock.step(if back { -micros } else { micros });
    world.coverage().trouble(if back { "clock set back" } else { "clock set forward" });
}
