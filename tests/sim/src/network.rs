//! The network between a tenant and the control plane: it carries each call to some replica after a while, and is cut at
//! times.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use molecule_domain::error::{Error, ErrorReason, Result};
use molecule_domain::id::{IncarnationId, IntentNumber, OrganizationId, WorkspaceId};
use molecule_domain::incarnation::Standpoint;
use molecule_domain::instance::InstanceView;
use molecule_domain::{Clock, Timestamp};
use molecule_provisioner::admission::{Change, ChangeRequest, ProvisionRequest};
use molecule_tenant::provider::Standpoints;
use molecule_workspace::agreement::Met;
use tokio::sync::oneshot;

use crate::control::{ControlPlane, Replica};
use crate::switch::Switch;
use crate::world::World;

/// What is asked of the control plane.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    /// With the process's predecessors.
    Meet(Vec<Standpoint>),
    Inventory,
    /// With its number, and the workspaces of which wishes wait.
    Agree(i64, Vec<(WorkspaceId, IntentNumber)>),
    Provision(Box<ProvisionRequest>),
    Change(Box<ChangeRequest>),
}

/// What it answers.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    Met(Met),
    /// With the start of the control plane that shows it.
    Inventory(Vec<InstanceView>, Option<IncarnationId>),
    Agreed,
    Instance(Box<InstanceView>),
}

/// An answer, with what its speaker's clock showed.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) reply: Reply,
    pub(crate) at: Timestamp,
}

impl Call {
    pub(crate) fn step(&self) -> &'static str {
        match self {
            Self::Meet(_) => "call.meet",
            Self::Inventory => "call.inventory",
            Self::Agree(..) => "call.agree",
            Self::Provision(_) => "call.provision",
            Self::Change(request) => match request.change {
                Change::Start => "call.start",
                Change::Stop(_) => "call.stop",
                Change::Replace { .. } => "call.replace",
                Change::Delete => "call.delete",
            },
        }
    }

    /// The wish that it tells.
    pub(crate) fn key(&self) -> Option<(WorkspaceId, IntentNumber)> {
        match self {
            Self::Meet(_) | Self::Inventory | Self::Agree(..) => None,
            Self::Provision(request) => Some((request.workspace, request.intent)),
            Self::Change(request) => Some((request.workspace, request.intent)),
        }
    }

    async fn handle(
        &self,
        organization: OrganizationId,
        standpoints: Standpoints,
        control: &ControlPlane,
        replica: &Replica,
    ) -> Result<Reply> {
        let instances = &replica.instances;
        let heard = |view: InstanceView| control.as_heard(replica.place, organization, view);
        let instance = match self {
            Self::Meet(predecessors) => {
                return control.meet(organization, standpoints, predecessors).map(Reply::Met);
            }
            Self::Inventory => {
                let mut all = Vec::<InstanceView>::new();
                loop {
                    let after = all.last().map_or_else(Default::default, |last| last.revision);
                    let batch = instances.changed_after(organization, after).await?;
                    if batch.is_empty() {
                        return Ok(Reply::Inventory(all, control.incarnation()));
                    }
                    all.extend(batch.into_iter().map(InstanceView::from).map(heard));
                }
            }
            Self::Agree(number, waiting) => {
                control.heard(organization, standpoints)?;
                replica.store.agree(organization, (standpoints.own.incarnation, *number), waiting).await?;
                return Ok(Reply::Agreed);
            }
            Self::Provision(request) => {
                control.heard(organization, standpoints)?;
                let asked = instances.provision(request).await;
                let wish = (organization, request.workspace, request.intent);
                let is_final = request.refusal_is_final;
                if is_final {
                    instances.settled(&*replica.store, wish, request.process, true, asked).await?
                } else {
                    asked?
                }
            }
            Self::Change(request) => {
                control.heard(organization, standpoints)?;
                let asked = instances.change(request).await;
                let wish = (organization, request.workspace, request.intent);
                let is_final = request.refusal_is_final;
                if is_final {
                    instances.settled(&*replica.store, wish, request.process, false, asked).await?
                } else {
                    asked?
                }
            }
        };
        Ok(Reply::Instance(Box::new(heard(instance.into()))))
    }
}

/// The network between one tenant and the control plane.
#[derive(Debug)]
pub struct Network {
    pub(crate) world: Arc<World>,
    pub(crate) control: Arc<ControlPlane>,
    /// Whether nothing gets through.
    cut: Switch,
    /// How many calls were made.
    pub(crate) calls: AtomicU32,
}

impl Network {
    /// A network that carries everything.
    pub fn new(world: Arc<World>, control: Arc<ControlPlane>) -> Arc<Self> {
        Arc::new(Self { world, control, cut: Switch::default(), calls: AtomicU32::new(0) })
    }

    /// Nothing gets through for so long. Whether something did before.
    pub fn cut(self: &Arc<Self>, lasts: Duration) -> bool {
        if !self.cut.set(true) {
            return false;
        }
        self.world.tell("network", 70, || format!("CUT for {lasts:?}"));
        let this = Arc::clone(self);
        self.world.spawn(async move {
            tokio::time::sleep(lasts).await;
            this.cut.set(false);
            this.world.tell("network", 71, || "carries again");
        });
        true
    }

    /// Whether nothing gets through.
    pub fn is_cut(&self) -> bool {
        self.cut.is_on()
    }

    /// Waits until everything gets through, or nothing does.
    pub(crate) async fn becomes(&self, cut: bool) {
        self.cut.becomes(cut).await;
    }

    pub(crate) fn delay(&self) -> Duration {
        self.world.rng().millis(1, 30)
    }

    /// Carries a call to some replica after a while, where it is handled whether or not somebody still waits.
    pub(crate) fn deliver(
        self: &Arc<Self>,
        (organization, standpoints): (OrganizationId, Standpoints),
        call: Call,
        after: Duration,
        answer: Option<oneshot::Sender<Result<Said>>>,
    ) {
        let (this, busy) = (Arc::clone(self), self.world.busy());
        self.world.spawn(async move {
            tokio::time::sleep(after).await;
            let Some(replica) = this.control.some_replica() else {
                if let Some(answer) = answer {
                    let _ = answer.send(Err(unavailable("no replica takes the call")));
                }
                return;
            };
            let process = Arc::clone(&replica.process);
            process.clone().spawn(async move {
                let _busy = busy;
                process.is_let().await;
                let result = call.handle(organization, standpoints, &this.control, &replica).await;
                process.is_let().await;
                this.world.tell(&process.name, 72 + u64::from(result.is_ok()), || {
                    let heard = match &result {
                        Err(error) => error.message.clone(),
                        Ok(Reply::Instance(view)) => {
                            format!("{} at {}, intent {}", view.phase, view.generation, view.intent)
                        }
                        Ok(Reply::Met(met)) => format!("it had seen {:?}", met.seen),
                        Ok(Reply::Inventory(all, _)) => format!("{} instances", all.len()),
                        Ok(Reply::Agreed) => "they have agreed".to_owned(),
                    };
                    let of = call.key().map(|(workspace, number)| format!(" {number} of {workspace}"));
                    format!("handles {}{}: {heard}", call.step(), of.unwrap_or_default())
                });
                let at = replica.clock.now();
                let result = result.map(|reply| Said { reply, at });
                if let Some(answer) = answer {
                    // who has gone away needs no word
                    let _ = answer.send(result);
                }
            });
        });
    }
}

/// Nobody answers.
pub(crate) fn unavailable(why: &str) -> Error {
    Error::new(ErrorReason::ControlPlaneUnavailable, why)
}
