//! A process that can be killed, and be frozen while time goes on without it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use molecule_domain::Timestamp;
use molecule_provisioner::faults::{Fault as EngineFault, Probe};
use tokio::task::JoinHandle;

use crate::faults::Fault;
use crate::switch::Switch;
use crate::world::{Whom, World, lock};

/// What was to be read was not.
#[derive(Clone, Copy, Debug)]
pub struct Unread;

/// One life of a process. What is started again is another.
#[derive(Debug)]
pub struct Process {
    /// Its name in the story.
    pub name: String,
    /// Whom it hits that this one is away.
    serves: Whom,
    world: Arc<World>,
    frozen: Switch,
    dead: Switch,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    crash_after: Mutex<Vec<&'static str>>,
    /// When it died or froze, where it has.
    ill_since: Mutex<Option<Timestamp>>,
}

impl Process {
    /// A process that runs nothing yet.
    pub fn new(name: String, serves: Whom, world: Arc<World>) -> Arc<Self> {
        Arc::new(Self {
            name,
            serves,
            world,
            frozen: Switch::default(),
            dead: Switch::default(),
            tasks: Mutex::default(),
            crash_after: Mutex::default(),
            ill_since: Mutex::default(),
        })
    }

    /// The world that it is in.
    pub const fn world(&self) -> &Arc<World> {
        &self.world
    }

    /// Runs a task in it, which ends with it.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if self.is_dead() {
            return;
        }
        let mut tasks = lock(&self.tasks);
        if tasks.len() > 32 {
            tasks.retain(|task| !task.is_finished());
        }
        tasks.push(self.world.spawn(task));
    }

    /// Whether it has been killed.
    pub fn is_dead(&self) -> bool {
        self.dead.is_on()
    }

    /// Whether it is frozen.
    pub fn is_frozen(&self) -> bool {
        self.frozen.is_on()
    }

    /// Whether calls get an answer from it.
    pub fn is_well(&self) -> bool {
        !self.is_dead() && !self.is_frozen()
    }

    /// When it died or froze, where it has and is not well again.
    pub(crate) fn ill_since(&self) -> Option<Timestamp> {
        *lock(&self.ill_since)
    }

    /// Kills it: whatever it was doing is never gone on with. Whether it lived.
    pub fn kill(&self) -> bool {
        let lived = self.dead.set(true);
        if lived {
            lock(&self.ill_since).get_or_insert(self.world.now());
            self.world.tell(&self.name, 1, || "dies");
            lock(&self.tasks).drain(..).for_each(|task| task.abort());
        }
        lived
    }

    /// Waits until it is dead.
    pub async fn death(&self) {
        self.dead.becomes(true).await;
    }

    /// Freezes it for a while: it takes no step, and the clock goes on. Whether it was well.
    pub fn freeze(self: &Arc<Self>, lasts: Duration) -> bool {
        if self.is_frozen() || self.is_dead() {
            return false;
        }
        let kind = if matches!(self.serves, Whom::Replica(_)) { "replica frozen" } else { "tenant frozen" };
        self.world.is_wrong(kind, self.serves, lasts);
        self.world.tell(&self.name, 2, || format!("is frozen for {lasts:?}"));
        lock(&self.ill_since).get_or_insert(self.world.now());
        self.frozen.set(true);
        let this = Arc::clone(self);
        self.world.spawn(async move {
            tokio::time::sleep(lasts).await;
            this.thaw();
        });
        true
    }

    /// Ends a freeze.
    pub fn thaw(&self) {
        if self.is_frozen() {
            self.world.tell(&self.name, 3, || "thaws");
            self.frozen.set(false);
            lock(&self.ill_since).take_if(|_| !self.is_dead());
        }
    }

    /// Waits until it is frozen.
    pub async fn freezes(&self) {
        self.frozen.becomes(true).await;
    }

    /// Waits while it is frozen.
    pub async fn is_let(&self) {
        self.frozen.becomes(false).await;
    }

    /// A step is about to be taken: it may take a while, and it may not come to it. What is returned is the
    /// caller's to do.
    pub async fn before(self: &Arc<Self>, step: &'static str) -> Option<Fault> {
        self.is_let().await;
        if let Some(fault) = self.world.fault_at(&self.name, step) {
            return self.meets(fault, step).await;
        }
        self.world.breathe().await;
        self.is_let().await;
        None
    }

    /// Something is about to be read, which takes no time of its own.
    pub async fn reads(self: &Arc<Self>, step: &'static str) -> Result<(), Unread> {
        self.is_let().await;
        let Some(fault) = self.world.fault_at(&self.name, step) else { return Ok(()) };
        // whoever looks if all is quiet waits for the answer
        let _busy = self.world.busy();
        match self.meets(fault, step).await {
            None => Ok(()),
            Some(Fault::Fail) => Err(Unread),
            Some(other) => {
                self.world.does_nothing(other, step);
                Ok(())
            }
        }
    }

    async fn meets(self: &Arc<Self>, fault: Fault, step: &'static str) -> Option<Fault> {
        match fault {
            Fault::Delay => {
                let pause = self.world.rng().seconds(1, 150);
                tokio::time::sleep(pause).await;
                self.is_let().await;
                None
            }
            Fault::Freeze => {
                let lasts = self.world.rng().seconds(5, 600);
                self.freeze(lasts);
                self.is_let().await;
                None
            }
            Fault::CrashBefore => self.crash().await,
            Fault::CrashAfter => {
                lock(&self.crash_after).push(step);
                None
            }
            other => Some(other),
        }
    }

    /// Dies of a fault; whoever was on its way here never comes back.
    pub async fn crash<T>(&self) -> T {
        self.kill();
        std::future::pending().await
    }

    /// A step was taken.
    pub async fn after(&self, step: &'static str) {
        let crashes = {
            let mut waiting = lock(&self.crash_after);
            let place = waiting.iter().position(|one| *one == step);
            place.map(|place| waiting.remove(place)).is_some()
        };
        if crashes {
            return self.crash().await;
        }
        self.is_let().await;
    }
}

/// The steps of an engine that runs in a process.
#[derive(Clone, Debug)]
pub struct EngineSteps(pub Arc<Process>);

#[async_trait::async_trait]
impl Probe for EngineSteps {
    async fn before(&self, step: &'static str) -> Option<EngineFault> {
        match self.0.before(step).await? {
            Fault::Fail => Some(EngineFault::FailBefore),
            Fault::LoseReply => Some(EngineFault::LoseReply),
            Fault::Repeat => Some(EngineFault::Repeat),
            other => {
                self.0.world.does_nothing(other, step);
                None
            }
        }
    }

    async fn after(&self, step: &'static str) {
        self.0.after(step).await;
    }
}
