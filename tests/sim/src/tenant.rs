//! A tenant: its database, and the process over it with the real use cases, outbox, mirror and watch over agents.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use molecule_domain::id::{IncarnationId, OrganizationId};
use molecule_domain::runtime::RuntimeRegistry;
use molecule_domain::spec::SpecRules;
use molecule_domain::tier::TierTable;
use molecule_domain::{Clock, Timestamp};
use molecule_tenant::liveness::Liveness;
use molecule_tenant::outbox::Parts;
use molecule_tenant::{Outbox, Provider, Workspaces};
use molecule_workspace::agent::Patience;
use molecule_workspace::store::TenantStore;
use molecule_workspace::store::memory::{Data, MemoryStore};
use tokio_util::sync::CancellationToken;

use crate::clocks::MachineClock;
use crate::life::DAY;
use crate::network::Network;
use crate::oracle::{Oracle, short};
use crate::process::Process;
use crate::seam::Remote;
use crate::secrets::Mint;
use crate::tenant_store::ProcessStore;
use crate::watchers::Watcher;
use crate::world::{TWIN, Whom, World, lock};

/// How long agents have to connect, and may be silent.
pub const CONNECT: Duration = Duration::from_secs(5 * 60);
/// How long agents may be silent.
pub const SILENCE: Duration = Duration::from_secs(50 * 60);
/// How often agents are looked at.
const LIVENESS_EVERY: Duration = Duration::from_secs(90);

/// How often what is too old is pruned, here and by the control plane.
pub(crate) const PRUNE_EVERY: Duration = Duration::from_secs(2 * 3600);

/// The runtimes of a life: one whose agent is waited for, and one that is ready when its process is.
const RUNTIMES: &str = r#"
[runtimes.agent]
image = "agent:1"
default_config = "name: x"
[runtimes.process]
image = "process:1"
readiness = "process"
default_config = "name: x"
"#;

/// What every tenant allows.
pub static RULES: LazyLock<Arc<SpecRules>> = LazyLock::new(|| {
    let runtimes = RuntimeRegistry::built_in().and_then(|built_in| built_in.with_overrides(RUNTIMES));
    Arc::new(SpecRules {
        runtimes: runtimes.expect("the runtimes of the simulation are valid"),
        tiers: TierTable::default(),
        disk_gib: 10,
        agents_url: "http://10.0.0.1:7071".to_owned(),
        agents_ca: None,
    })
});

/// A tenant and whatever serves it now.
pub struct Tenant {
    /// Whose it is.
    pub organization: OrganizationId,
    /// The clock of its machine.
    pub(crate) clock: Arc<MachineClock>,
    /// Its way to the control plane.
    pub network: Arc<Network>,
    /// Who follows its workspaces.
    pub(crate) watcher: Arc<Watcher>,
    world: Arc<World>,
    oracle: Arc<Oracle>,
    mint: Mint,
    database: Mutex<Arc<MemoryStore>>,
    serving: Mutex<Option<Serving>>,
    set_back: AtomicBool,
}

impl std::fmt::Debug for Tenant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tenant").field("organization", &self.organization).finish_non_exhaustive()
    }
}

/// The process of a tenant.
#[derive(Clone)]
pub struct Serving {
    /// The process.
    pub process: Arc<Process>,
    /// Its use cases.
    pub workspaces: Workspaces,
}

impl Tenant {
    /// A tenant with an empty database, which nobody serves yet.
    pub fn new(
        world: Arc<World>,
        oracle: Arc<Oracle>,
        network: Arc<Network>,
        organization: OrganizationId,
        skew: i64,
    ) -> Arc<Self> {
        let clock = MachineClock::new(Arc::clone(&world), skew);
        let (own, now) = (world.incarnation(), clock.of_a_process().now());
        Arc::new(Self {
            organization,
            clock,
            network,
            watcher: Watcher::new(Arc::clone(&world), organization),
            world,
            oracle,
            mint: Mint::default(),
            database: Mutex::new(Arc::new(MemoryStore::open(Data::default(), own, now))),
            serving: Mutex::default(),
            set_back: AtomicBool::new(false),
        })
    }

    /// What its machine's clock shows.
    fn now(&self) -> Timestamp {
        self.clock.of_a_process().now()
    }

    /// The database.
    pub fn database(&self) -> Arc<MemoryStore> {
        Arc::clone(&lock(&self.database))
    }

    /// Whether its database was ever set back.
    pub fn was_set_back(&self) -> bool {
        self.set_back.load(Ordering::Relaxed)
    }

    /// The process, where it is alive.
    pub fn serving(&self) -> Option<Serving> {
        lock(&self.serving).clone().filter(|serving| !serving.process.is_dead())
    }

    /// The process, dead or alive.
    pub fn last_process(&self) -> Option<Arc<Process>> {
        lock(&self.serving).as_ref().map(|serving| Arc::clone(&serving.process))
    }

    /// Puts a backup in the place of the database, under a process that dies of it; it is started again over what is there
    /// then.
    pub fn put_back(&self, data: Data) {
        if let Some(process) = self.last_process() {
            process.kill();
        }
        self.set_back.store(true, Ordering::Relaxed);
        self.watcher.is_set_back();
        *lock(&self.database) = Arc::new(MemoryStore::open(data, self.world.incarnation(), self.now()));
    }

    /// Starts a process over the database as it is: the one before is dead.
    pub fn start(&self) {
        let own = self.world.incarnation();
        let database = Arc::new(MemoryStore::open(self.database().data(), own, self.now()));
        *lock(&self.database) = Arc::clone(&database);
        let name = format!("tenant-{}", short(self.organization));
        let serving = self.run(&name, own, Arc::clone(&database), &self.oracle);
        let (watcher, store) = (Arc::clone(&self.watcher), Arc::clone(&serving.workspaces.store));
        serving.process.spawn(async move { watcher.watch(store, database).await });
        *lock(&self.serving) = Some(serving);
    }

    /// Starts a second process beside the first, over a copy of the database: a moved host that still runs. Nobody asks it
    /// for anything, and the control plane must not serve it while it serves the first.
    pub fn start_twin(&self, own: IncarnationId) -> Arc<Process> {
        let copy = Arc::new(MemoryStore::open(self.database().data(), own, self.now()));
        let name = format!("{TWIN}-{}", short(self.organization));
        // what it stores is no promise to anybody
        self.run(&name, own, copy, &Oracle::new(Arc::clone(&self.world))).process
    }

    fn run(
        &self,
        name: &str,
        own: IncarnationId,
        database: Arc<MemoryStore>,
        oracle: &Arc<Oracle>,
    ) -> Serving {
        let process =
            Process::new(name.to_owned(), Whom::Organization(self.organization), Arc::clone(&self.world));
        self.world.tell(&process.name, 5, || "starts");
        let clock = self.clock.of_a_process();
        let store: Arc<dyn TenantStore> = Arc::new(ProcessStore {
            organization: self.organization,
            database,
            oracle: Arc::clone(oracle),
            process: Arc::clone(&process),
        });
        let provider: Arc<dyn Provider> = Remote::new(
            self.organization,
            Arc::clone(&self.network),
            Arc::clone(oracle),
            Arc::clone(&process),
            Arc::clone(&clock),
        );
        let rules = Arc::clone(&RULES);
        let shared: Arc<dyn Clock> = clock;
        let outbox = Outbox::new(Parts {
            organization: self.organization,
            own,
            store: Arc::clone(&store),
            provider: Arc::clone(&provider),
            rules: Arc::clone(&rules),
            minter: Arc::new(self.mint.clone()),
            clock: Arc::clone(&shared),
        });
        let workspaces = Workspaces {
            organization: self.organization,
            store,
            provider,
            outbox: Arc::clone(&outbox),
            rules,
            roots: Arc::from([]),
            secrets: Arc::new(self.mint.clone()),
            clock: shared,
            answer_by: None,
        };
        let telling = Arc::clone(&outbox);
        process.spawn(async move { telling.run(CancellationToken::new()).await });
        process.spawn(async move { outbox.follow().await });
        let watching = workspaces.clone();
        process.spawn(async move {
            let patience = Patience { connect: CONNECT, silence: SILENCE, since: watching.clock.now() };
            let mut liveness = Liveness::new(watching, patience, LIVENESS_EVERY);
            loop {
                tokio::time::sleep(LIVENESS_EVERY).await;
                // what could not be looked at now is looked at next time
                let _ = liveness.pass().await;
            }
        });
        let (pruned, clock) = (Arc::clone(&workspaces.store), Arc::clone(&workspaces.clock));
        process.spawn(async move {
            loop {
                tokio::time::sleep(PRUNE_EVERY).await;
                let now = clock.now();
                // the whole history of a life is kept, which is a little longer than a day; what could not be pruned now is
                // pruned next time
                let _ = pruned.prune(now - DAY * 2, now - DAY * 30).await;
            }
        });
        Serving { process, workspaces }
    }
}
