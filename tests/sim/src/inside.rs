//! What the provider holds, and what becomes of it as time passes.

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

#[derive(Debug, Default)]
pub(crate) struct Inside {
    pub(crate) machines: Vec<Machine>,
    /// The launches that were ever answered, by token: a repeated one makes nothing.
    pub(crate) launched: BTreeMap<String, u64>,
    pub(crate) volumes: Volumes,
    pub(crate) weather: Vec<(Weather, Option<WorkspaceId>, Timestamp)>,
    pub(crate) log: Vec<Stretch>,
    pub(crate) ids: u64,
    pub(crate) hints: Vec<mpsc::UnboundedSender<WorkspaceId>>,
    pub(crate) boots: Vec<(Timestamp, u64)>,
}

impl Inside {
    pub(crate) fn is(&self, weather: Weather, workspace: Option<WorkspaceId>, now: Timestamp) -> bool {
        self.weather
            .iter()
            .any(|(kind, of, until)| *kind == weather && *until > now && (of.is_none() || *of == workspace))
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
