//! What the provider holds, and what becomes of it as time passes.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use molecule_domain::Timestamp;
use molecule_domain::id::{LaunchSeq, OrganizationId, WorkspaceId};
use molecule_provisioner::model::InstanceRef;
use tokio::sync::mpsc;

use crate::machine::{Machine, State};
use crate::weather::Weather;
use crate::world::World;

/// A stretch of time in which a machine was up.
#[derive(Clone, Copy, Debug)]
pub struct Stretch {
    /// The machine.
    pub machine: u64,
    /// What it is an instance of.
    pub instance: InstanceRef,
    /// From when.
    pub from: Timestamp,
    /// Until when; `None` while it is up.
    pub until: Option<Timestamp>,
}

/// Volumes, by workspace and name, with the launch that made them.
pub(crate) type Volumes = BTreeMap<(WorkspaceId, &'static str), (OrganizationId, LaunchSeq)>;

/// Weather over everybody or over one workspace, until some time.
#[derive(Debug)]
pub(crate) struct Front {
    kind: Weather,
    of: Option<WorkspaceId>,
    pub(crate) until: Timestamp,
    /// Whether somebody asked for something under it, and whether that is counted.
    met: Cell<bool>,
    counted: bool,
}

impl Front {
    pub(crate) const fn new(kind: Weather, of: Option<WorkspaceId>, until: Timestamp) -> Self {
        Self { kind, of, until, met: Cell::new(false), counted: false }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Inside {
    pub(crate) machines: Vec<Machine>,
    /// The launches that were ever answered, by token: a repeated one makes nothing.
    pub(crate) launched: BTreeMap<String, u64>,
    pub(crate) volumes: Volumes,
    pub(crate) weather: Vec<Front>,
    /// Whether some weather has met somebody for the first time.
    met: Cell<bool>,
    pub(crate) log: Vec<Stretch>,
    pub(crate) ids: u64,
    pub(crate) hints: Vec<mpsc::UnboundedSender<WorkspaceId>>,
    pub(crate) boots: Vec<(Timestamp, u64)>,
}

impl Inside {
    pub(crate) fn is(&self, weather: Weather, workspace: Option<WorkspaceId>, now: Timestamp) -> bool {
        let hits = |front: &&Front| {
            front.kind == weather && front.until > now && (front.of.is_none() || front.of == workspace)
        };
        let Some(front) = self.weather.iter().find(hits) else { return false };
        if !front.met.replace(true) {
            self.met.set(true);
        }
        true
    }

    /// The weather that has met somebody for the first time: it counts from then on.
    pub(crate) fn newly_met(&mut self) -> Vec<Weather> {
        if !self.met.replace(false) {
            return Vec::new();
        }
        let new = self.weather.iter_mut().filter(|front| front.met.get() && !front.counted);
        new.map(|front| {
            front.counted = true;
            front.kind
        })
        .collect()
    }

    pub(crate) fn hint(&mut self, workspace: WorkspaceId) {
        self.hints.retain(|hints| hints.send(workspace).is_ok());
    }

    pub(crate) fn start(&mut self, place: usize, now: Timestamp, boot: Duration) {
        let until = now + boot;
        self.machines[place].state = State::Starting { until };
        self.boots.push((until, self.machines[place].id));
    }

    /// A machine that may be up goes down.
    pub(crate) fn ends(&mut self, place: usize, at: Timestamp) {
        let machine = self.machines[place].id;
        for stretch in self.log.iter_mut().filter(|one| one.machine == machine && one.until.is_none()) {
            stretch.until = Some(at);
        }
    }

    /// What has come to its end until now.
    pub(crate) fn settle(&mut self, now: Timestamp, world: &World) {
        let mut place = 0;
        while place < self.machines.len() {
            let Machine { id, instance, state, attached, .. } = self.machines[place];
            match state {
                State::Starting { until } if until <= now && !attached => {
                    self.machines[place].state = State::Unattached;
                }
                State::Starting { until } if until <= now => {
                    let workspace = Some(instance.workspace);
                    let crashes = self.is(Weather::CrashLoop, workspace, now);
                    let init_fails = self.is(Weather::InitFails, workspace, now);
                    let ends = (crashes || init_fails).then(|| until + Duration::from_secs(4));
                    self.machines[place].init_failed = init_fails;
                    self.machines[place].state = State::Running { ends };
                    self.log.push(Stretch { machine: id, instance, from: until, until: None });
                    world.tell("cloud", 60, || {
                        format!("machine {id} of {}/{} is up", instance.workspace, instance.generation)
                    });
                    continue;
                }
                State::Running { ends: Some(at) } if at <= now => {
                    self.ends(place, at);
                    self.machines[place].state = State::Exited { code: 2 };
                    self.hint(instance.workspace);
                }
                State::Stopping { until } if until <= now => {
                    self.machines[place].state = State::Exited { code: 143 };
                }
                State::Leaving { until } if until <= now => {
                    self.machines.remove(place);
                    continue;
                }
                _ => {}
            }
            place += 1;
        }
    }
}
