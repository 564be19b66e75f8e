//! The clocks of machines, which are set at times, and the time that a process goes by, as in production: it never steps back.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use molecule_domain::clock::Steady;
use molecule_domain::{Clock, Timestamp};
use tokio::time::Instant;

use crate::control::ControlPlane;
use crate::pair::Pair;
use crate::world::{Whom, World, lock};

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

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.world.now().micros() + self.ahead.load(Ordering::Relaxed))
    }

    /// Sets it forward or back.
    pub(crate) fn step(&self, by: i64) {
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

impl ControlPlane {
    /// The clock of the database is set, which all replicas go by; for so long they may show another time than that.
    pub(crate) fn set_clocks(&self, step: i64, lasts: Duration) {
        for replica in lock(&self.replicas).iter() {
            replica.machine.step(step);
        }
        let until = self.world.now() + lasts;
        let mut agrees = lock(&self.clocks_agree_at);
        *agrees = until.max(*agrees);
    }

    /// When all replicas show what the database's clock does.
    pub(crate) fn clocks_agree_at(&self) -> Timestamp {
        *lock(&self.clocks_agree_at)
    }

    /// The time by the database's clock.
    pub(crate) fn now(&self) -> Timestamp {
        lock(&self.replicas).first().map_or_else(|| self.world.now(), |replica| replica.machine.now())
    }
}

/// Somebody sets the clock of some tenant's machine, or of the control plane's database.
pub(crate) fn is_set(pair: &Pair) {
    let world = &pair.world;
    let (by, back, place) = {
        let mut rng = world.rng();
        let place = usize::try_from(rng.below(pair.tenants.len() as u64 + 1)).unwrap_or(0);
        (rng.seconds(STEPS.0, STEPS.1), rng.once_in(2), place)
    };
    let micros = i64::try_from(by.as_micros()).unwrap_or(0);
    let step = if back { -micros } else { micros };
    if place == pair.tenants.len() {
        world.tell("operator", 72, || {
            format!(
                "SETS the clock of the control plane's database {} by {by:?}",
                if back { "back" } else { "forward" }
            )
        });
        world.sets_control(by);
        world.is_wrong("clock", Whom::Everybody, by * 2);
        pair.control.set_clocks(step, by * 2);
        world.coverage().trouble(if back { "control clock set back" } else { "control clock set forward" });
        return;
    }
    world.tell("operator", 71, || {
        format!("SETS the clock of tenant {} {} by {by:?}", place + 1, if back { "back" } else { "forward" })
    });
    pair.tenants[place].clock.step(step);
    world.coverage().trouble(if back { "clock set back" } else { "clock set forward" });
}
