//! The whole pair, put together: tenants, the control plane's replicas, the provider and the agents.

use std::sync::Arc;
use std::time::Duration;

use molecule_domain::Timestamp;
use molecule_domain::id::{OrganizationId, WorkspaceId};
use molecule_domain::limits::Limits;
use molecule_provisioner::admission::Account;
use molecule_provisioner::policy::Policy;
use molecule_provisioner::store::{Expected, Store};
use molecule_workspace::agent::{Patience, Verdict, judge};
use molecule_workspace::record::WorkspaceRecord;
use molecule_workspace::store::TenantStore;
use molecule_workspace::store::memory::Data;
use tokio::time::Instant;
use uuid::Uuid;

use crate::agents::Agents;
use crate::backend::KIND;
use crate::client::Client;
use crate::cloud::{Cloud, Flavour};
use crate::control::{Backup, ControlPlane};
use crate::network::Network;
use crate::oracle::Oracle;
use crate::restored::Sides;
use crate::tenant::Tenant;
use crate::world::{Whom, World};

/// How a pair is made.
#[derive(Clone, Debug)]
pub struct Shape {
    /// The clocks of the tenants, in microseconds ahead.
    pub tenants: Vec<i64>,
    /// The clocks of the replicas, likewise.
    pub replicas: Vec<i64>,
    /// What kind of provider there is.
    pub flavour: Flavour,
    /// Whether its lists come in another order each time.
    pub shuffles: bool,
    /// What each tenant may run at once; `None` is no bound.
    pub cap: Option<i64>,
    /// Whether memory, processors and disk are bound as well.
    pub caps_resources: bool,
}

impl Shape {
    /// One tenant, one replica, a daemon, no bounds.
    pub fn small() -> Self {
        Self {
            tenants: vec![0],
            replicas: vec![0],
            flavour: Flavour::Containers,
            shuffles: false,
            cap: None,
            caps_resources: false,
        }
    }
}

/// The pair.
#[derive(Clone, Debug)]
pub struct Pair {
    /// What all share.
    pub world: Arc<World>,
    /// What clients were promised.
    pub oracle: Arc<Oracle>,
    /// The provider.
    pub cloud: Arc<Cloud>,
    /// The control plane.
    pub control: Arc<ControlPlane>,
    /// The tenants.
    pub tenants: Vec<Arc<Tenant>>,
    /// The agents.
    pub agents: Arc<Agents>,
}

/// How long nothing happens at once: agents are heard in between.
const LONGEST_REST: Duration = Duration::from_secs(40 * 60);

/// How often it is looked whether anything is to be done.
const LOOKS_EVERY: Duration = Duration::from_secs(45);

/// How patient the engine is: as in production, but that it looks less often where nothing tells it to.
pub fn policy() -> Policy {
    Policy {
        look_every: Duration::from_secs(4),
        longest_sleep: Duration::from_secs(180),
        sweep_every: Duration::from_secs(150),
        backoff_base: Duration::from_secs(2),
        ..Policy::default()
    }
}

/// Judges who has not connected as soon as anybody could.
const AT_ONCE: Patience =
    Patience { connect: Duration::ZERO, silence: Duration::MAX, since: Timestamp::from_micros(0) };

impl Pair {
    /// Starts everything.
    pub async fn start(world: Arc<World>, shape: &Shape) -> Self {
        let oracle = Oracle::new(Arc::clone(&world));
        let cloud = Cloud::new(Arc::clone(&world), shape.flavour, shape.shuffles);
        let control =
            ControlPlane::new(Arc::clone(&world), Arc::clone(&cloud), Arc::clone(&oracle), policy());
        let mut tenants = Vec::new();
        for (place, skew) in (1_u128..).zip(&shape.tenants) {
            let organization = OrganizationId::from_uuid(Uuid::from_u128(place));
            let more = shape.cap.filter(|_| shape.caps_resources);
            let limits = Limits {
                running_workspaces: shape.cap,
                workspaces: shape.cap.map(|cap| cap + 3),
                memory_mib: more.map(|cap| cap * 800),
                milli_cpus: more.map(|cap| cap * 1_000),
                disk_gib: more.map(|cap| (cap + 2) * 10),
                ..Limits::default()
            };
            let account = Account { limits, ..Account::default() };
            // the memory store takes any account
            let _ = control.database().set_account(organization, account).await;
            let network = Network::new(Arc::clone(&world), Arc::clone(&control));
            tenants.push(Tenant::new(Arc::clone(&world), Arc::clone(&oracle), network, organization, *skew));
        }
        for skew in &shape.replicas {
            control.add(*skew);
        }
        for tenant in &tenants {
            tenant.start();
        }
        let agents = Agents::new(Arc::clone(&world), Arc::clone(&cloud), tenants.clone());
        agents.run();
        let pair = Self { world, oracle, cloud, control, tenants, agents };
        pair.keep_up();
        pair
    }

    /// Whatever process dies is started again after a while.
    fn keep_up(&self) {
        for place in 0..self.control.places() {
            let pair = self.clone();
            self.world.spawn(async move {
                loop {
                    pair.control.replica(place).process.death().await;
                    let pause = pair.world.rng().millis(500, 240_000);
                    pair.world.is_wrong("replica down", Whom::Replica(place), pause);
                    tokio::time::sleep(pause).await;
                    pair.control.restart(place);
                }
            });
        }
        for tenant in &self.tenants {
            let (world, tenant) = (Arc::clone(&self.world), Arc::clone(tenant));
            self.world.spawn(async move {
                while let Some(process) = tenant.last_process() {
                    process.death().await;
                    let pause = world.rng().millis(500, 240_000);
                    world.is_wrong("tenant down", Whom::Organization(tenant.organization), pause);
                    tokio::time::sleep(pause).await;
                    tenant.start();
                }
            });
        }
    }

    /// A client of a tenant.
    pub fn client(&self, tenant: usize) -> Client {
        Client {
            world: Arc::clone(&self.world),
            oracle: Arc::clone(&self.oracle),
            tenant: Arc::clone(&self.tenants[tenant]),
        }
    }

    /// The workspace of this number.
    pub const fn workspace(number: u128) -> WorkspaceId {
        WorkspaceId::from_uuid(Uuid::from_u128(0x1000 + number))
    }

    /// What the two sides hold of a tenant's workspaces now.
    async fn sides(&self, tenant: &Tenant) -> Sides {
        let (organization, held) = (tenant.organization, tenant.database());
        let records = self.control.database().records(organization);
        let mut sides = Sides::default();
        sides.engine.extend(records.into_iter().map(|record| (record.workspace, record)));
        for record in held.list(organization, true, None, 10_000).await.unwrap_or_default() {
            let found = held.load(organization, record.workspace).await.ok().flatten();
            sides.tenant.extend(found.map(|found| (record.workspace, found)));
        }
        sides
    }

    /// Puts a backup in the place of a tenant's database.
    pub async fn restore_tenant(&self, place: usize, backup: Data) {
        let tenant = &self.tenants[place];
        tenant.put_back(backup);
        self.oracle.set_back(tenant.organization, &self.sides(tenant).await);
    }

    /// Puts a backup in the place of the control plane's database.
    pub async fn restore_control(&self, backup: Backup) {
        let organizations: Vec<_> = self.tenants.iter().map(|tenant| tenant.organization).collect();
        self.control.put_back(backup, &organizations).await;
        for tenant in &self.tenants {
            let seen = self.control.seen_of(tenant.organization);
            if tenant.was_set_back()
                && tenant.database().look(|data| data.meetings().is_set_back(data.revision(), &seen))
            {
                tenant.watcher.is_found_behind();
            }
            self.oracle.control_set_back(tenant.organization, &self.sides(tenant).await);
        }
    }

    /// Whether every process runs and everything gets through.
    pub fn is_whole(&self) -> bool {
        (0..self.control.places()).all(|place| self.control.replica(place).process.is_well())
            && self.tenants.iter().all(|tenant| {
                !tenant.network.is_cut()
                    && tenant.serving().is_some_and(|serving| !serving.process.is_frozen())
            })
    }

    /// Whether every tenant has agreed with the control plane as both of them are now.
    pub fn has_agreed(&self) -> bool {
        for tenant in &self.tenants {
            let provider = self.control.incarnation();
            let has_agreed = tenant.database().look(|data| {
                let meetings = data.meetings();
                meetings.agreed_in == meetings.held.last().map(|own| own.id) && meetings.provider == provider
            });
            if !has_agreed {
                return false;
            }
        }
        true
    }

    /// Whether nothing is to be done by anybody: time alone changes nothing.
    pub async fn is_quiet(&self) -> bool {
        if self.world.is_busy() || !self.is_whole() || !self.cloud.is_calm() || !self.agents.is_calm() {
            return false;
        }
        if !self.has_agreed() {
            return false;
        }
        let now = self.world.now();
        for tenant in &self.tenants {
            let newest = self.control.revision_of(tenant.organization);
            // whose agent has not connected is judged once its time is over, and time that passes at once counts as none
            let is_judged =
                |record: &WorkspaceRecord| judge(record, &AT_ONCE, now) == Verdict::NeverConnected;
            let is_quiet = tenant.database().look(|data| {
                data.cursors().revision >= newest && !data.is_waiting() && !data.live().any(is_judged)
            });
            if !is_quiet {
                return false;
            }
        }
        let expected = self.control.database().expectations(KIND).await.unwrap_or_default().instances;
        if !expected.iter().all(|one| one.settled) {
            return false;
        }
        self.cloud.look(|machines, volumes| {
            let explained = machines.iter().all(|machine| {
                expected.iter().any(|one| {
                    one.workspace == machine.instance.workspace
                        && one.generation == machine.instance.generation
                        && one.seq == Some(machine.seq)
                        && one.up == machine.is_running()
                })
            });
            let there = |one: &Expected| {
                machines.iter().filter(|machine| machine.instance.workspace == one.workspace).count()
            };
            explained
                && expected.iter().all(|one| there(one) <= 1 && (!one.up || there(one) == 1))
                && volumes.keys().all(|(of, _)| expected.iter().any(|one| one.workspace == *of))
        })
    }

    /// Lets time pass until a moment. Where nothing is to be done by anybody, it passes at once.
    pub async fn pass(&self, until: Instant) {
        loop {
            let now = Instant::now();
            if now >= until {
                return;
            }
            let left = until - now;
            if self.is_quiet().await {
                // agents are heard before and after, so that nobody misses them
                self.agents.round().await;
                if !self.is_quiet().await {
                    continue;
                }
                self.check_live_watchers().await;
                let left = until.saturating_duration_since(Instant::now()).min(LONGEST_REST);
                self.world.tell("time", 99, || format!("nothing is to be done for {left:?}"));
                tokio::time::advance(left).await;
                tokio::time::sleep(Duration::from_millis(1)).await;
            } else {
                tokio::time::sleep(left.min(LOOKS_EVERY)).await;
            }
        }
    }
}
