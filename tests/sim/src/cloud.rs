//! The provider: it does what it is asked in its own time, under its own weather, and keeps a true log of what was there
//! and what was up.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use molecule_domain::Timestamp;
use molecule_domain::id::{LaunchSeq, WorkspaceId};
use molecule_domain::lifecycle::Reason;
use molecule_provisioner::backend::{CallError, LaunchRequest, Refusal};
use molecule_provisioner::model::InstanceRef;
use molecule_provisioner::observation::OwnedInstance;
use tokio::sync::{Notify, mpsc};

use crate::inside::{Front, Inside, Stretch, Volumes};
use crate::machine::{Machine, State};
use crate::weather::Weather;
use crate::world::{Whom, World, lock};

/// How long a machine may be there before lists show it, as the provider promises.
pub const LAG: Duration = Duration::from_secs(5);

/// How long it really may be, in milliseconds: what the promise leaves is for the clocks of two replicas, which may be three
/// seconds apart.
const LAG_MILLIS: u64 = 1_500;

/// What kind of provider it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// A daemon: one name, one container; a stop waits until it is done.
    Containers,
    /// A cloud: several machines of one name are possible, lists are late, a stop is only begun.
    Machines,
}

/// The provider.
#[derive(Debug)]
pub struct Cloud {
    /// What kind it is.
    pub flavour: Flavour,
    /// Whether lists come in another order each time.
    shuffles: bool,
    world: Arc<World>,
    inside: Mutex<Inside>,
    booting: Notify,
}

impl Cloud {
    /// An empty cloud under a clear sky.
    pub fn new(world: Arc<World>, flavour: Flavour, shuffles: bool) -> Arc<Self> {
        Arc::new(Self { flavour, shuffles, world, inside: Mutex::default(), booting: Notify::new() })
    }

    fn with<T>(&self, what: impl FnOnce(&mut Inside, Timestamp) -> T) -> T {
        let now = self.world.now();
        let mut inside = lock(&self.inside);
        inside.settle(now, &self.world);
        let result = what(&mut inside, now);
        for weather in inside.newly_met() {
            self.world.coverage().trouble(weather.name());
        }
        result
    }

    /// Something is wrong from now on, for so long, for everybody or for one workspace.
    pub fn set_weather(&self, weather: Weather, workspace: Option<WorkspaceId>, lasts: Duration) {
        self.world.tell("cloud", weather as u64, || match workspace {
            Some(workspace) => format!("WEATHER {} for {lasts:?} over {workspace}", weather.name()),
            None => format!("WEATHER {} for {lasts:?}", weather.name()),
        });
        self.world.is_wrong(weather.name(), workspace.map_or(Whom::Everybody, Whom::Workspace), lasts);
        self.with(|inside, now| inside.weather.push(Front::new(weather, workspace, now + lasts)));
    }

    /// Whether something is wrong now.
    pub fn is(&self, weather: Weather, workspace: Option<WorkspaceId>) -> bool {
        self.with(|inside, now| inside.is(weather, workspace, now))
    }

    /// When the last weather ends, where there is any.
    pub fn clears_at(&self) -> Option<Timestamp> {
        self.with(|inside, _| inside.weather.iter().map(|front| front.until).max())
    }

    /// Every machine that is there.
    pub fn machines(&self) -> Vec<Machine> {
        self.with(|inside, _| inside.machines.clone())
    }

    /// Shows what is there to somebody who only looks, without a copy of it.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&[Machine], &Volumes) -> T) -> T {
        self.with(|inside, _| look(&inside.machines, &inside.volumes))
    }

    /// How many launches there were, each counted once.
    pub fn launches(&self) -> usize {
        self.with(|inside, _| inside.launched.len())
    }

    /// One machine.
    pub fn machine(&self, id: u64) -> Option<Machine> {
        self.with(|inside, _| inside.machines.iter().find(|machine| machine.id == id).cloned())
    }

    /// The workspaces that have volumes.
    pub fn volume_owners(&self) -> Vec<WorkspaceId> {
        let mut owners = self.with(|inside, _| inside.volumes.keys().map(|(of, _)| *of).collect::<Vec<_>>());
        owners.dedup();
        owners
    }

    /// The true log of what was up.
    pub fn log(&self) -> Vec<Stretch> {
        self.with(|inside, _| inside.log.clone())
    }

    /// Whether nothing of it moves. What is wrong with it may last: it meets whoever asks for something.
    pub fn is_calm(&self) -> bool {
        self.with(|inside, _| !inside.machines.iter().any(Machine::is_moving))
    }

    /// The machines that boot, and when they are up; waits until there are any.
    pub async fn booting(&self) -> Vec<(Timestamp, u64)> {
        loop {
            let boots = std::mem::take(&mut lock(&self.inside).boots);
            if !boots.is_empty() {
                return boots;
            }
            self.booting.notified().await;
        }
    }

    /// Hints from now on.
    pub fn hints(&self) -> mpsc::UnboundedReceiver<WorkspaceId> {
        let (sender, receiver) = mpsc::unbounded_channel();
        lock(&self.inside).hints.push(sender);
        receiver
    }

    /// The process of a workspace's machines ends by itself. Whether there was one.
    pub fn crash(&self, workspace: WorkspaceId) -> bool {
        self.with(|inside, now| {
            let mut hit = false;
            for place in 0..inside.machines.len() {
                let machine = &inside.machines[place];
                if machine.instance.workspace == workspace && machine.is_running() {
                    inside.ends(place, now);
                    inside.machines[place].state = State::Exited { code: 1 };
                    hit = true;
                }
            }
            inside.hint(workspace);
            hit
        })
    }

    /// Somebody takes a workspace's machines away. Whether there was one.
    pub fn vanish(&self, workspace: WorkspaceId) -> bool {
        self.with(|inside, now| {
            let mut hit = false;
            for place in 0..inside.machines.len() {
                if inside.machines[place].instance.workspace == workspace {
                    inside.ends(place, now);
                    hit = true;
                }
            }
            inside.machines.retain(|machine| machine.instance.workspace != workspace);
            inside.hint(workspace);
            hit
        })
    }

    /// How long a call takes, and whether it gets there. Half of the time is before its effect, half after.
    pub(crate) async fn way(&self) -> Result<Duration, CallError> {
        let (away, hangs, slow) = self.with(|inside, now| {
            let is = |weather| inside.is(weather, None, now);
            (is(Weather::Away), is(Weather::Hangs), is(Weather::Slow))
        });
        let (half, back) = {
            let mut rng = self.world.rng();
            let half = if slow { rng.millis(1_000, 40_000) } else { rng.millis(20, 400) };
            // most answers come at once: every pause costs as much as what it parts
            (half, if slow || rng.once_in(4) { half } else { Duration::ZERO })
        };
        if hangs {
            return std::future::pending().await;
        }
        tokio::time::sleep(half).await;
        if away {
            return Err(CallError::Unknown("the provider is away".to_owned()));
        }
        Ok(back)
    }

    pub(crate) fn list(&self, wanted: Option<&[InstanceRef]>) -> Vec<OwnedInstance> {
        let mut listed: Vec<_> = self.with(|inside, now| {
            let shown = inside.machines.iter().filter(|machine| machine.shown_from <= now);
            let of = |wanted: &[InstanceRef], machine: &Machine| {
                wanted.iter().any(|wanted| wanted.workspace == machine.instance.workspace)
            };
            let shown = shown.filter(|machine| wanted.is_none_or(|wanted| of(wanted, machine)));
            shown.map(Machine::as_listed).collect()
        });
        if self.shuffles && listed.len() > 1 {
            let mut rng = self.world.rng();
            for place in 1..listed.len() {
                let other = usize::try_from(rng.below(place as u64 + 1)).unwrap_or(0);
                listed.swap(place, other);
            }
        }
        listed
    }

    pub(crate) fn volumes(&self) -> Volumes {
        self.with(|inside, _| inside.volumes.clone())
    }

    pub(crate) fn launch(self: &Arc<Self>, request: &LaunchRequest) -> Result<(), CallError> {
        let workspace = Some(request.instance.workspace);
        let late = self.with(|inside, now| inside.is(Weather::Late, workspace, now));
        if late {
            let (this, request) = (Arc::clone(self), request.clone());
            let later = self.world.rng().seconds(2, 50);
            self.world.spawn(async move {
                tokio::time::sleep(later).await;
                // whatever it answers, nobody is there to hear it
                let _ = this.launch_now(&request);
            });
            return Err(CallError::Unknown("the launch seems lost".to_owned()));
        }
        self.launch_now(request)
    }

    fn launch_now(&self, request: &LaunchRequest) -> Result<(), CallError> {
        let refused = |reason, message: &str| Refusal { reason, message: message.to_owned() };
        let (lag, boot) = self.times(request.instance.workspace);
        let result = self.with(|inside, now| {
            let workspace = Some(request.instance.workspace);
            let is = |weather| inside.is(weather, workspace, now);
            let known = inside.launched.get(&request.token).copied();
            if let Some(known) = known.filter(|_| !is(Weather::Doubles)) {
                let place = inside.machines.iter().position(|machine| machine.id == known);
                // a launch that was done stays done: the machine may have ended since
                if let Some(place) = place
                    && inside.machines[place].state == State::Created
                    && !is(Weather::Half)
                {
                    inside.start(place, now, boot);
                }
                return Ok(());
            }
            if is(Weather::Taken) {
                let message = "something of a stranger's has its name";
                return Err(CallError::Refused(refused(Reason::NameTaken, message)));
            }
            if is(Weather::Refuses) {
                let message = "it may not be launched";
                return Err(CallError::Refused(refused(Reason::LaunchRefused, message)));
            }
            if is(Weather::Full) {
                return Err(CallError::NoRoom(refused(Reason::NoCapacity, "there is no room for it")));
            }
            if is(Weather::Quota) {
                let message = "the account's limit is reached";
                return Err(CallError::NoRoom(refused(Reason::ProviderQuota, message)));
            }
            let taken = inside.machines.iter().any(|machine| machine.instance == request.instance);
            if taken && self.flavour == Flavour::Containers {
                return Err(CallError::Unknown("a container of another launch is in the way".to_owned()));
            }
            let half = is(Weather::Half);
            inside.ids += 1;
            let id = inside.ids;
            inside.machines.push(Machine {
                id,
                instance: request.instance,
                seq: request.seq,
                spec: Arc::new(request.spec.clone()),
                bootstrap: request.bootstrap_token.as_ref().map(|token| token.expose().to_owned()),
                state: State::Created,
                created_at: now,
                shown_from: now + lag,
                init_failed: false,
                attached: self.flavour == Flavour::Containers || request.instance.generation.0 == 1,
            });
            inside.launched.insert(request.token.clone(), id);
            let InstanceRef { organization, workspace, .. } = request.instance;
            for name in ["configs", "workspace"] {
                inside.volumes.entry((workspace, name)).or_insert((organization, request.seq));
            }
            if half {
                return Err(CallError::Unknown("the launch seems lost".to_owned()));
            }
            let place = inside.machines.len() - 1;
            inside.start(place, now, boot);
            Ok(())
        });
        self.world.tell("cloud", 10 + u64::from(result.is_ok()), || {
            format!(
                "launch of {}/{} as launch {}: {result:?}",
                request.instance.workspace, request.instance.generation, request.seq
            )
        });
        self.booting.notify_one();
        result
    }

    /// How late what is made now shows, and how long it boots.
    fn times(&self, workspace: WorkspaceId) -> (Duration, Duration) {
        let (late, slow) = self.with(|inside, now| {
            let is = |weather| inside.is(weather, Some(workspace), now);
            (is(Weather::ShowsLate), is(Weather::SlowBoot))
        });
        let mut rng = self.world.rng();
        let lag = match self.flavour {
            Flavour::Containers => Duration::ZERO,
            Flavour::Machines if late => rng.seconds(10, 120),
            Flavour::Machines => rng.millis(0, LAG_MILLIS),
        };
        (lag, if slow { rng.seconds(11 * 60, 20 * 60) } else { rng.millis(300, 15_000) })
    }

    pub(crate) fn attach(&self, instance: &InstanceRef, seq: LaunchSeq) {
        let (_, boot) = self.times(instance.workspace);
        self.with(|inside, now| {
            for place in 0..inside.machines.len() {
                let machine = &mut inside.machines[place];
                if machine.is(instance, seq) && machine.state == State::Unattached {
                    machine.attached = true;
                    inside.start(place, now, boot);
                }
            }
        });
        self.booting.notify_one();
    }

    pub(crate) fn start(&self, instance: &InstanceRef, seq: LaunchSeq) -> Result<(), CallError> {
        let (_, boot) = self.times(instance.workspace);
        let result = self.with(|inside, now| {
            if self.flavour == Flavour::Machines && inside.is(Weather::Full, Some(instance.workspace), now) {
                return Err(CallError::NoRoom(Refusal {
                    reason: Reason::NoCapacity,
                    message: "there is no room for it to start".to_owned(),
                }));
            }
            let place = inside.machines.iter().position(|machine| machine.is(instance, seq));
            let Some(place) = place else {
                return Err(CallError::Unknown("there is no such instance".to_owned()));
            };
            match inside.machines[place].state {
                State::Created | State::Exited { .. } => inside.start(place, now, boot),
                State::Stopping { .. } | State::Leaving { .. } => {
                    return Err(CallError::Unknown("it is still on its way down".to_owned()));
                }
                _ => {}
            }
            Ok(())
        });
        self.world.tell("cloud", 20 + u64::from(result.is_ok()), || {
            format!("start of {}/{}: {result:?}", instance.workspace, instance.generation)
        });
        self.booting.notify_one();
        result
    }

    /// Begins to stop, and says when it is down.
    pub(crate) fn stop(&self, instance: &InstanceRef, seq: LaunchSeq) -> Option<Timestamp> {
        let takes = {
            let slow = self.is(Weather::SlowStop, Some(instance.workspace));
            let mut rng = self.world.rng();
            match self.flavour {
                _ if slow => rng.seconds(120, 600),
                Flavour::Containers => rng.millis(50, 3_000),
                Flavour::Machines => rng.millis(2_000, 12_000),
            }
        };
        let down = self.with(|inside, now| {
            let mut down = None;
            for place in 0..inside.machines.len() {
                if !inside.machines[place].is(instance, seq) {
                    continue;
                }
                match inside.machines[place].state {
                    State::Created | State::Exited { .. } | State::Leaving { .. } => {}
                    State::Stopping { until } => down = Some(until),
                    _ => {
                        inside.ends(place, now);
                        inside.machines[place].state = State::Stopping { until: now + takes };
                        down = Some(now + takes);
                    }
                }
            }
            down
        });
        self.world.tell("cloud", 30, || {
            format!("stop of {}/{}: down at {down:?}", instance.workspace, instance.generation)
        });
        down
    }

    pub(crate) fn remove(&self, instance: &InstanceRef, seq: LaunchSeq) {
        let takes = match self.flavour {
            Flavour::Containers => Duration::ZERO,
            Flavour::Machines => self.world.rng().millis(500, 6_000),
        };
        self.with(|inside, now| {
            for place in 0..inside.machines.len() {
                let machine = &inside.machines[place];
                if machine.is(instance, seq) && !matches!(machine.state, State::Leaving { .. }) {
                    inside.ends(place, now);
                    inside.machines[place].state = State::Leaving { until: now + takes };
                }
            }
            inside.settle(now, &self.world);
        });
        self.world.tell("cloud", 40, || {
            format!("removal of {}/{} of launch {seq}", instance.workspace, instance.generation)
        });
    }

    pub(crate) fn purge(&self, workspace: WorkspaceId) -> Result<(), CallError> {
        let result = self.with(|inside, _| {
            if inside.machines.iter().any(|machine| machine.instance.workspace == workspace) {
                return Err(CallError::Unknown("its volumes are still attached".to_owned()));
            }
            inside.volumes.retain(|(of, _), _| *of != workspace);
            Ok(())
        });
        self.world.tell("cloud", 50, || format!("purge of {workspace}: {result:?}"));
        result
    }

    /// The exit code of the last end, and whether its init failed.
    pub(crate) fn end_of(&self, instance: &InstanceRef, seq: LaunchSeq) -> Option<(i32, bool)> {
        self.with(|inside, _| {
            inside.machines.iter().find_map(|machine| match machine.state {
                State::Exited { code } if machine.is(instance, seq) => Some((code, machine.init_failed)),
                _ => None,
            })
        })
    }
}
