//! The agents in the machines: they connect once their machine is up, are heard of now and then, and fall silent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use molecule_domain::id::{Generation, OrganizationId, WorkspaceId};
use molecule_domain::lifecycle::{AgentHealth, Phase};
use molecule_workspace::record::{AgentRecord, WorkspaceRecord};
use molecule_workspace::store::{Redeemed, Redemption};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::cloud::Cloud;
use crate::machine::Machine;
use crate::secrets::hash_of;
use crate::tenant::{Serving, Tenant};
use crate::world::{Whom, World, lock};

/// How often all agents are heard.
const ROUND: Duration = Duration::from_secs(8 * 60);
/// How soon an agent is heard that a tenant waits for.
const HEARTBEAT: Duration = Duration::from_secs(60);
/// How often an agent that is refused, or finds nobody, tries to connect.
const TRIES: u32 = 60;
/// How often it reports soon after it has connected.
const SOON: u32 = 3;

#[derive(Debug, Default)]
struct Inside {
    /// Who reports when next, until its reports come with everybody's.
    connecting: BTreeMap<(Instant, u64), Try>,
    /// The machines whose agents are connected.
    connected: BTreeSet<u64>,
    /// What stands on each generation's disk.
    credentials: BTreeMap<(WorkspaceId, Generation), (String, String)>,
    /// Until when an agent says nothing, and until when it says that it fails.
    silent: BTreeMap<WorkspaceId, Instant>,
    failing: BTreeMap<WorkspaceId, Instant>,
}

/// How often an agent has tried to report, and has reported.
#[derive(Clone, Copy, Debug, Default)]
struct Try {
    failed: u32,
    heard: u32,
}

/// What became of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tried {
    Heard,
    Failed,
    Silent,
}

/// All agents.
#[derive(Debug)]
pub struct Agents {
    world: Arc<World>,
    cloud: Arc<Cloud>,
    tenants: Vec<Arc<Tenant>>,
    inside: Mutex<Inside>,
    changed: Notify,
}

impl Agents {
    /// Nobody is connected yet.
    pub fn new(world: Arc<World>, cloud: Arc<Cloud>, tenants: Vec<Arc<Tenant>>) -> Arc<Self> {
        Arc::new(Self { world, cloud, tenants, inside: Mutex::default(), changed: Notify::new() })
    }

    /// Lets them live.
    pub fn run(self: &Arc<Self>) {
        let this = Arc::clone(self);
        self.world.spawn(async move {
            loop {
                let boots = this.cloud.booting().await;
                let now = this.world.now();
                for (up_at, machine) in boots {
                    let after = this.world.rng().millis(500, 40_000);
                    let at = Instant::now() + up_at.since(now) + after;
                    lock(&this.inside).connecting.insert((at, machine), Try::default());
                }
                this.changed.notify_one();
            }
        });
        let this = Arc::clone(self);
        self.world.spawn(async move { this.connect_all().await });
        let this = Arc::clone(self);
        self.world.spawn(async move {
            let mut due = Instant::now() + ROUND;
            loop {
                tokio::time::sleep_until(due).await;
                due = Instant::now() + ROUND;
                this.round().await;
            }
        });
        let this = Arc::clone(self);
        self.world.spawn(async move {
            loop {
                tokio::time::sleep(HEARTBEAT).await;
                this.those_that_are_missed().await;
            }
        });
    }

    /// An agent says nothing for so long.
    pub fn silence(&self, workspace: WorkspaceId, lasts: Duration) {
        self.world.tell("agents", 80, || format!("{workspace} is SILENT for {lasts:?}"));
        self.world.is_wrong("silent", Whom::Workspace(workspace), lasts + ROUND);
        lock(&self.inside).silent.insert(workspace, Instant::now() + lasts);
    }

    /// An agent fails at its work for so long.
    pub fn fail(&self, workspace: WorkspaceId, lasts: Duration) {
        self.world.tell("agents", 81, || format!("{workspace} FAILS at its work for {lasts:?}"));
        self.world.is_wrong("failing", Whom::Workspace(workspace), lasts + ROUND);
        lock(&self.inside).failing.insert(workspace, Instant::now() + lasts);
    }

    /// When the last agent that is silent or fails is well again, where one is not.
    pub(crate) fn clears_at(&self) -> Option<Instant> {
        let inside = lock(&self.inside);
        let until = inside.silent.values().chain(inside.failing.values()).copied();
        until.filter(|until| *until > Instant::now()).max()
    }

    /// Whether nobody is on the way to connect.
    pub fn is_calm(&self) -> bool {
        lock(&self.inside).connecting.is_empty()
    }

    fn is(of: &BTreeMap<WorkspaceId, Instant>, workspace: WorkspaceId) -> bool {
        of.get(&workspace).is_some_and(|until| *until > Instant::now())
    }

    fn serving(&self, organization: OrganizationId) -> Option<Serving> {
        let tenant = self.tenants.iter().find(|tenant| tenant.organization == organization)?;
        tenant.serving().filter(|serving| !serving.process.is_frozen())
    }

    async fn connect_all(self: Arc<Self>) {
        loop {
            let next = lock(&self.inside).connecting.first_key_value().map(|(key, _)| key.0);
            let wait = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.changed.notified() => continue,
                () = wait => {}
            }
            let (machine, mut tries) = {
                let mut inside = lock(&self.inside);
                let Some(((_, machine), tries)) = inside.connecting.pop_first() else { continue };
                (machine, tries)
            };
            let (this, busy) = (Arc::clone(&self), self.world.busy());
            self.world.spawn(async move {
                let _busy = busy;
                let heard = this.connect(machine, tries).await;
                match heard {
                    Some(Tried::Heard) => tries.heard += 1,
                    Some(Tried::Silent) => {}
                    _ => tries.failed += 1,
                }
                let mut inside = lock(&this.inside);
                if heard.is_some() && tries.failed < TRIES && tries.heard < SOON {
                    let after = this.world.rng().seconds(10, 45);
                    inside.connecting.insert((Instant::now() + after, machine), tries);
                }
                drop(inside);
                this.changed.notify_one();
            });
        }
    }

    /// Connects the agent of a machine, or lets it report again soon after that. Whether it was heard; `None` where it
    /// is no more.
    async fn connect(&self, id: u64, tries: Try) -> Option<Tried> {
        let machine = self.cloud.machine(id)?;
        if !machine.is_running() {
            return machine.is_moving().then_some(Tried::Failed);
        }
        let workspace = machine.instance.workspace;
        if Self::is(&lock(&self.inside).silent, workspace) {
            return Some(Tried::Silent);
        }
        let heard = self.report(&machine, tries.heard == 0).await;
        if heard && tries.heard == 0 {
            self.world.tell("agents", 82, || format!("that of machine {id} ({workspace}) connected"));
            lock(&self.inside).connected.insert(id);
        }
        Some(if heard { Tried::Heard } else { Tried::Failed })
    }

    /// Every connected agent is heard now.
    pub async fn round(&self) {
        self.round_of(|_| true).await;
    }

    async fn round_of(&self, wanted: impl Fn(WorkspaceId) -> bool) {
        let _busy = self.world.busy();
        let connected: Vec<u64> = lock(&self.inside).connected.iter().copied().collect();
        for id in connected {
            match self.cloud.machine(id) {
                None => {
                    lock(&self.inside).connected.remove(&id);
                }
                Some(machine) if machine.is_running() && wanted(machine.instance.workspace) => {
                    let workspace = machine.instance.workspace;
                    let silent = Self::is(&lock(&self.inside).silent, workspace);
                    if !silent {
                        // who is not heard now is heard in the next round
                        self.report(&machine, false).await;
                    }
                }
                Some(_) => {}
            }
        }
    }

    /// Agents report twice a minute: where a tenant waits for one, its next report comes soon.
    async fn those_that_are_missed(&self) {
        for tenant in &self.tenants {
            let is_missed = |record: &&WorkspaceRecord| {
                record.phase == Phase::Up && record.agent.health == AgentHealth::NotConnected
            };
            let missed: BTreeSet<_> = tenant
                .database()
                .look(|data| data.live().filter(is_missed).map(|record| record.workspace).collect());
            if !missed.is_empty() {
                self.round_of(|workspace| missed.contains(&workspace)).await;
            }
        }
    }

    /// Reports to the tenant. One that boots does as workspace-init does: a token that it has not redeemed gives a credential, or
    /// what is on the disk counts where that is refused; and the token that it has redeemed does, where what that gave is refused.
    async fn report(&self, machine: &Machine, boots: bool) -> bool {
        let instance = machine.instance;
        let Some(serving) = self.serving(instance.organization) else { return false };
        let key = (instance.workspace, instance.generation);
        let (kept, failing) = {
            let inside = lock(&self.inside);
            (inside.credentials.get(&key).cloned(), Self::is(&inside.failing, instance.workspace))
        };
        let brings = machine.bootstrap.clone().filter(|_| boots);
        let brings_another = matches!((&kept, &brings), (Some((of, _)), Some(token)) if of != token);
        let kept = kept.map(|(_, credential)| credential);
        if !brings_another
            && let Some(credential) = kept.clone()
            && ask(&serving, |serving| reported(serving, credential, failing)).await == Some(true)
        {
            return true;
        }
        let Some(token) = brings else { return false };
        // it is on the disk before it is used
        let (nonce, brought) = (format!("nonce of {}/{} for {token}", key.0, key.1), token.clone());
        let credential = match ask(&serving, |serving| redeemed(serving, brought, nonce)).await {
            Some(Some(credential)) => {
                // so is what it gives
                lock(&self.inside).credentials.insert(key, (token, credential.clone()));
                credential
            }
            // whoever launches may have been put back to a time with an earlier token than the disk's
            Some(None) if brings_another => match kept {
                Some(credential) => credential,
                None => return false,
            },
            _ => return false,
        };
        ask(&serving, |serving| reported(serving, credential, failing)).await == Some(true)
    }
}

/// Asks a tenant's process; `None` where it dies meanwhile.
async fn ask<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    serving: &Serving,
    what: impl FnOnce(Serving) -> F,
) -> Option<T> {
    let (sender, receiver) = oneshot::channel();
    let asked = what(serving.clone());
    serving.process.spawn(async move {
        // who has gone away needs no answer
        let _ = sender.send(asked.await);
    });
    receiver.await.ok()
}

/// What the agents' listener does with a bootstrap token.
async fn redeemed(serving: Serving, token: String, nonce: String) -> Option<String> {
    let name = |workspace, generation| format!("credential of {workspace}/{generation} for {nonce}");
    let redemption = Redemption { token_hash: hash_of(&token), nonce: nonce.clone() };
    let hash = Box::new(|workspace, generation| hash_of(&name(workspace, generation)));
    match serving.workspaces.store.redeem(&redemption, hash).await {
        Ok(Redeemed::Granted(workspace, generation)) => Some(name(workspace, generation)),
        _ => None,
    }
}

/// What the agents' listener does with a report: whether the agent is heard.
async fn reported(serving: Serving, credential: String, failing: bool) -> bool {
    let store = &serving.workspaces.store;
    let now = serving.workspaces.clock.now();
    let Ok(Some((workspace, generation))) = store.authenticate(&hash_of(&credential), now).await else {
        return false;
    };
    let rate = if failing { 0.9 } else { 0.0 };
    let report = Box::new(move |agent: &mut AgentRecord| {
        agent.health = agent.health.after_heartbeat(rate);
        agent.error_rate = rate;
    });
    let organization = serving.workspaces.organization;
    let heard = store.agent_reported(organization, workspace, generation, now, report).await;
    matches!(heard, Ok(Some(_)))
}
