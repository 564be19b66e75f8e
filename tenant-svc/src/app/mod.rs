//! Puts the parts together and runs them.

mod networks;
mod saas;
mod self_hosted;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::future::BoxFuture;
use molecule_domain::clock::{Clock, SteadyClock};
use molecule_domain::id::OrganizationId;
use molecule_domain::spec::SpecRules;
use molecule_provisioner::faults::Steps;
use molecule_provisioner::policy::Policy;
use molecule_service_kit::guard::Guard;
use molecule_service_kit::seal::Aes;
use molecule_service_kit::server::{GrpcServer, listen};
use molecule_store_sqlite::Database;
use molecule_store_sqlite::engine::EngineStore;
use molecule_store_sqlite::tenant::SqliteStore;
use molecule_tenant::{Outbox, Provider, Workspaces, liveness, outbox};
use molecule_workspace::agent::Patience;
use molecule_workspace::store::TenantStore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::agents::{A2a, AgentsState, listener, router};
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::grpc;
use crate::secrets::SealKey;

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

/// Who provides, and how the agents' listener goes with that.
struct Side {
    organization: OrganizationId,
    provider: Arc<dyn Provider>,
    agents_at: SocketAddr,
    agents_url: String,
    admit: listener::Admit,
    /// Runs until cancelled.
    work: BoxFuture<'static, ()>,
}

/// What both sides are made from.
struct Base {
    database: Database,
    store: SqliteStore,
    key: Arc<Aes>,
    clock: Arc<dyn Clock>,
    cancel: CancellationToken,
}

/// Runs a tenant until cancelled.
pub async fn run(config: Config, hooks: Hooks, cancel: CancellationToken) -> anyhow::Result<()> {
    for warning in &config.warnings {
        warn!("{warning}");
    }
    let data = DataDir::open(&config.data_dir)?;
    let (token, key) = (data.token()?, Arc::new(data.key()?));
    let database = Database::open(&data.database()).await?;
    let clock: Arc<dyn Clock> = Arc::new(SteadyClock::default());
    let base = Base {
        store: SqliteStore::open(database.clone(), clock.now()).await?,
        database,
        key,
        clock,
        cancel: cancel.clone(),
    };
    // decided once: a SaaS tenant never launches anything itself
    let side = match &config.saas {
        Some(saas) => saas::side(saas, &config, &base)?,
        None => self_hosted::side(&config, hooks, &base).await?,
    };
    let Base { database, store, key, clock, cancel } = base;
    let agents_listener = listener::bind(side.agents_at)?;
    let grpc_listener = listen(config.listen).await?;
    let grpc_at = grpc_listener.local_addr()?;

    let rules = Arc::new(SpecRules {
        runtimes: config.runtimes.clone(),
        tiers: config.tiers.clone(),
        disk_gib: DISK_GIB,
        agents_url: side.agents_url.clone(),
        agents_ca: config.agent_ca.clone(),
    });
    let own = store.incarnation();
    let store: Arc<dyn TenantStore> = Arc::new(store);
    let secrets = Arc::new(SealKey(Arc::clone(&key)));
    let outbox = Outbox::new(outbox::Parts {
        organization: side.organization,
        own,
        store: Arc::clone(&store),
        provider: Arc::clone(&side.provider),
        rules: Arc::clone(&rules),
        minter: secrets.clone(),
        clock: Arc::clone(&clock),
    });
    let workspaces = Workspaces {
        organization: side.organization,
        store: Arc::clone(&store),
        provider: side.provider,
        outbox: Arc::clone(&outbox),
        rules,
        roots: config.workspace_roots.into(),
        secrets,
        clock: Arc::clone(&clock),
        answer_by: None,
    };

    let mut server =
        GrpcServer::new(Guard::new(config.max_calls, Duration::from_secs(60)), molecule_proto::DESCRIPTORS)?;
    server.add(grpc::service(workspaces.clone(), Arc::clone(&key), token, cancel.clone())).await;
    let mode = workspaces.provider.info().mode;
    info!(?mode, organization = %side.organization, grpc = %grpc_at, agents = %side.agents_at, "tenant-svc serves");

    let tasks = TaskTracker::new();
    let state =
        AgentsState { workspaces: workspaces.clone(), key, a2a: A2a::new(), agents_url: side.agents_url };
    tasks.spawn(listener::serve(agents_listener, router(state), side.admit, cancel.clone()));
    tasks.spawn({
        let (outbox, cancel) = (Arc::clone(&outbox), cancel.clone());
        async move { outbox.run(cancel).await }
    });
    tasks.spawn({
        let cancel = cancel.clone();
        async move {
            cancel.run_until_cancelled(outbox.follow()).await;
        }
    });
    let patience =
        Patience { connect: config.connect_deadline, silence: config.agent_silence, since: clock.now() };
    tasks.spawn(liveness::run(workspaces, patience, cancel.clone()));
    tasks.spawn(prune(store, EngineStore::new(database.clone()), clock, cancel.clone()));
    tasks.spawn(side.work);
    tasks.close();

    let served = server.serve(grpc_listener, cancel.clone()).await;
    cancel.cancel();
    tasks.wait().await;
    database.close().await;
    info!("tenant-svc has ended");
    served.context("the gRPC server failed")
}

async fn prune(
    store: Arc<dyn TenantStore>,
    engine: EngineStore,
    clock: Arc<dyn Clock>,
    cancel: CancellationToken,
) {
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
        if let Some(Err(error)) = cancel.run_until_cancelled(pruned).await {
            warn!(
                error = &error as &dyn std::error::Error,
                "what is old could not be dropped; trying again later"
            );
        }
    }
}
