//! Puts the parts together and runs them.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use molecule_backend_docker::{DockerBackend, Settings};
use molecule_domain::clock::{Clock, SystemClock};
use molecule_domain::id::{InstallationId, OrganizationId};
use molecule_domain::spec::SpecRules;
use molecule_provisioner::Engine;
use molecule_provisioner::faults::Steps;
use molecule_provisioner::policy::Policy;
use molecule_service_kit::guard::Guard;
use molecule_service_kit::server::{GrpcServer, listen};
use molecule_store_sqlite::Database;
use molecule_store_sqlite::engine::EngineStore;
use molecule_store_sqlite::tenant::TenantStore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::agents::{A2a, AgentsState, listener, router};
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::grpc;
use crate::liveness::{self, Patience};
use crate::networks::WorkspaceNetwork;
use crate::provisioning::Forwarder;
use crate::workspaces::Workspaces;

/// The port of the agents' listener on the gateway.
const AGENTS_PORT: u16 = 7071;
/// Disk that a workspace counts for.
const DISK_GIB: i64 = 10;
const PRUNE_EVERY: Duration = Duration::from_secs(600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// What tests set and production leaves.
#[derive(Clone, Debug, Default)]
pub struct Hooks {
    /// Where faults are injected.
    pub steps: Steps,
    /// How patient the engine is; `None` is the default.
    pub policy: Option<Policy>,
}

/// Runs a self-hosted tenant until cancelled.
pub async fn run(config: Config, hooks: Hooks, cancel: CancellationToken) -> anyhow::Result<()> {
    for warning in &config.warnings {
        warn!("{warning}");
    }
    let data = DataDir::open(&config.data_dir)?;
    let (token, key) = (data.token()?, Arc::new(data.key()?));
    let database = Database::open(&data.database()).await?;
    let installation: InstallationId = database.setting("installation_id", InstallationId::generate).await?;
    let organization = OrganizationId::SELF_HOSTED;
    let store = TenantStore::new(database.clone());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);

    let pool = config.network_pool.context("TENANT_NETWORK_POOL is not set")?;
    let network = WorkspaceNetwork::find(&store, installation, organization, pool).await?;
    let gateway = network.subnet.gateway();
    let agents_at = config.agent_listen.unwrap_or_else(|| SocketAddr::from((gateway, AGENTS_PORT)));
    let agents_url = config.agent_url.clone().unwrap_or_else(|| format!("http://{agents_at}"));
    let agents_listener = listener::bind(agents_at)?;
    let grpc_listener = listen(config.listen).await?;
    let grpc_at = grpc_listener.local_addr()?;

    let settings = Settings {
        docker_host: config.docker_host.clone(),
        installation,
        workspace_init: config.workspace_init.clone(),
        publish: config.agent_publish,
    };
    anyhow::ensure!(
        config.workspace_init.exists(),
        "TENANT_WORKSPACE_INIT: there is no workspace-init at {}; build it, or say where it is",
        config.workspace_init.display()
    );
    let backend = DockerBackend::new(settings, Arc::new(network.clone()), hooks.steps.clone());
    let policy = hooks.policy.unwrap_or_default();
    let engine = Engine::new(
        Arc::new(backend),
        Arc::new(EngineStore::new(database.clone())),
        Arc::clone(&key) as Arc<_>,
        Arc::clone(&clock),
        Policy { restart_budget: config.restart_budget, ..policy },
        hooks.steps,
    );
    let rules = Arc::new(SpecRules {
        runtimes: config.runtimes.clone(),
        tiers: config.tiers.clone(),
        disk_gib: DISK_GIB,
        agents_url: agents_url.clone(),
        agents_ca: config.agent_ca.clone(),
    });
    let forwarder = Forwarder {
        store: store.clone(),
        provisioning: Arc::new(engine.clone()),
        rules: Arc::clone(&rules),
        clock: Arc::clone(&clock),
    };
    let workspaces = Workspaces {
        organization,
        store: store.clone(),
        forwarder: forwarder.clone(),
        rules,
        roots: config.workspace_roots.into(),
        key,
        clock: Arc::clone(&clock),
    };

    let mut server =
        GrpcServer::new(Guard::new(config.max_calls, Duration::from_secs(60)), molecule_proto::DESCRIPTORS)?;
    server.add(grpc::service(workspaces.clone(), token, cancel.clone())).await;
    info!(mode = "self-hosted", %installation, grpc = %grpc_at, agents = %agents_at, "tenant-svc serves");

    let tasks = TaskTracker::new();
    let state = AgentsState { workspaces: workspaces.clone(), a2a: A2a::new(), agents_url };
    let (explicit, subnet) = (config.agent_listen.is_some(), network.subnet);
    let admit: listener::Admit = Arc::new(move |peer| match peer {
        IpAddr::V4(peer) => subnet.has_workspace(peer) || explicit && peer.is_loopback(),
        IpAddr::V6(_) => false,
    });
    tasks.spawn(listener::serve(agents_listener, router(state), admit, cancel.clone()));
    tasks.spawn(forwarder.run(organization, cancel.clone()));
    let patience = Patience { connect: config.connect_deadline, silence: config.agent_silence };
    tasks.spawn(liveness::run(workspaces, patience, cancel.clone()));
    tasks.spawn(prune(store, EngineStore::new(database.clone()), clock, cancel.clone()));
    tasks.spawn({
        let cancel = cancel.clone();
        async move { engine.run(cancel).await }
    });
    tasks.close();

    let served = server.serve(grpc_listener, cancel.clone()).await;
    cancel.cancel();
    tasks.wait().await;
    database.close().await;
    info!("tenant-svc has ended");
    served.context("the gRPC server failed")
}

async fn prune(store: TenantStore, engine: EngineStore, clock: Arc<dyn Clock>, cancel: CancellationToken) {
    use molecule_provisioner::store::Store;
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(PRUNE_EVERY) => {}
        }
        let now = clock.now();
        let (day_ago, month_ago) = (now - DAY, now - DAY * 30);
        let pruned = async {
            store.prune(day_ago, month_ago).await?;
            engine.prune(month_ago).await
        };
        if let Err(error) = pruned.await {
            warn!(
                error = &error as &dyn std::error::Error,
                "what is old could not be dropped; trying again later"
            );
        }
    }
}
