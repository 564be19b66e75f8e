//! Puts the parts together and runs them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use molecule_domain::clock::Clock;
use molecule_domain::id::{InstallationId, LeaseOwner};
use molecule_provisioner::Instances;
use molecule_provisioner::faults::Steps;
use molecule_provisioner::policy::Policy;
use molecule_provisioner::store::{Store, StoreError};
use molecule_provisioner::watch::Feed;
use molecule_service_kit::guard::Guard;
use molecule_service_kit::seal::Aes;
use molecule_service_kit::server::{GrpcServer, listen};
use molecule_store_postgres::Database;
use molecule_store_postgres::accounts::Accounts;
use molecule_store_postgres::engine::EngineStore;
use molecule_telemetry::metrics;
use secrecy::ExposeSecret;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::clock::DatabaseClock;
use crate::config::Config;
use crate::engines::Engines;
use crate::grpc::{self, Parts};
use crate::membership;
use crate::sessions::Sessions;
use crate::{backends, recount, suspensions};

/// Disk that a workspace counts for.
const DISK_GIB: i64 = 10;
const PRUNE_EVERY: Duration = Duration::from_secs(600);
const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);
/// What operators did is kept for longer than a year, so that a yearly audit finds all of it.
const AUDIT_KEPT: Duration = Duration::from_secs(400 * 24 * 3600);

/// What tests set and production leaves.
#[derive(Clone, Debug, Default)]
pub struct Hooks {
    /// Where faults are injected.
    pub steps: Steps,
    /// How patient the engines are; `None` is the default.
    pub policy: Option<Policy>,
}

/// Runs a replica until cancelled.
pub async fn run(config: Config, hooks: Hooks, cancel: CancellationToken) -> anyhow::Result<()> {
    for warning in &config.warnings {
        warn!("{warning}");
    }
    let key = std::fs::read(&config.seal_key)
        .with_context(|| format!("CONTROLPLANE_SEAL_KEY_FILE: {}", config.seal_key.display()))?;
    let key = Aes::new(&key).context("CONTROLPLANE_SEAL_KEY_FILE must hold exactly 32 bytes")?;
    let key = Arc::new(key);
    anyhow::ensure!(
        config.workspace_init.exists(),
        "CONTROLPLANE_WORKSPACE_INIT: there is no workspace-init at {}; build it, or say where it is",
        config.workspace_init.display()
    );
    // outlives the calls under way, which still commit
    let listening = CancellationToken::new();
    let database =
        Database::open(config.database_url.expose_secret(), config.database_connections, listening.clone())
            .await
            .context("the database can't be opened")?;
    let counted = database.clone();
    metrics::transactions(move || {
        let counts = counted.counts().into_iter();
        counts.map(|(name, counts)| (name, [counts.runs, counts.retries, counts.failures])).collect()
    });
    let (places, keeper) = membership::join(&database).await?;
    let installation: InstallationId = database.setting("installation_id", InstallationId::generate).await?;
    let database_clock = Arc::new(DatabaseClock::read(&database).await?);
    let clock: Arc<dyn Clock> = database_clock.clone();
    let (store, accounts) = (EngineStore::new(database.clone()), Accounts::new(database.clone()));

    let parts = backends::Parts {
        database: database.clone(),
        store: store.clone(),
        installation,
        key: Arc::clone(&key),
        clock: Arc::clone(&clock),
        policy: Policy { restart_budget: config.restart_budget, ..hooks.policy.unwrap_or_default() },
        steps: hooks.steps,
    };
    let mut launchers = Vec::new();
    for kind in &config.backends {
        launchers.push(parts.launcher(*kind, &config).await?);
    }
    let engines = launchers.iter().map(|launcher| launcher.engine.clone()).collect();
    let engines = Engines::new(engines).context("there is no backend")?;
    config.plans.check(|backend| engines.has(backend)).map_err(anyhow::Error::msg)?;

    let listener = listen(config.listen).await?;
    let address = listener.local_addr()?;
    let guard = Guard::new(config.max_calls, Duration::from_secs(60));
    let mut server = GrpcServer::new(guard, molecule_proto::DESCRIPTORS)?;
    if let Some((certificate, key)) = &config.tls {
        server = server.with_tls(certificate, key);
    }
    let sessions = Sessions::new(database.clone(), places.clone(), cancel.clone());
    let parts = Parts {
        engines: engines.clone(),
        instances: Instances::new(Arc::new(store.clone()), Arc::clone(&clock)),
        store: store.clone(),
        feed: Feed::new(Arc::new(store.clone())),
        accounts: accounts.clone(),
        runtimes: Arc::new(config.runtimes),
        tiers: Arc::new(config.tiers),
        plans: Arc::new(config.plans),
        disk_gib: DISK_GIB,
        database: database.clone(),
        places: places.clone(),
        sessions: Arc::clone(&sessions),
        key,
        clock: Arc::clone(&clock),
        drain: cancel.clone(),
    };
    let callers = Arc::new(grpc::Callers::new(accounts.clone(), config.operators));
    server.add(grpc::provisioning(parts.clone(), Arc::clone(&callers))).await;
    server.add(grpc::organizations(parts, callers)).await;
    info!(%installation, grpc = %address, backends = engines.kinds(), "controlplane-svc serves");

    let tasks = TaskTracker::new();
    let launching: Vec<_> = launchers
        .into_iter()
        .map(|launcher| {
            let (places, cancel) = (places.clone(), cancel.clone());
            tasks.spawn(async move {
                let ended = places.while_in_use(&cancel, |stop| launcher.run(stop)).await;
                // one that can't go on ends the service
                cancel.cancel();
                ended
            })
        })
        .collect();
    tasks.spawn({
        let (database, cancel) = (database.clone(), cancel.clone());
        async move { database_clock.keep(database, cancel).await }
    });
    tasks.spawn({
        let (store, clock, cancel) = (store.clone(), Arc::clone(&clock), cancel.clone());
        async move {
            let chores = |stop: CancellationToken| {
                let (accounts, store, clock) = (accounts.clone(), store.clone(), Arc::clone(&clock));
                async move {
                    let suspending = suspensions::run(accounts.clone(), &*clock, stop.clone());
                    let pruning = prune(store.clone(), accounts.clone(), &*clock, stop.clone());
                    tokio::join!(recount::run(accounts, store, &*clock, stop), suspending, pruning);
                    Ok(())
                }
            };
            places.while_in_use(&cancel, chores).await
        }
    });
    tasks.spawn({
        let (sessions, cancel) = (Arc::clone(&sessions), cancel.clone());
        async move { sessions.store(&*clock, cancel).await }
    });
    // outlives the duties, which it waits for where the database is no longer in use
    let keeping = CancellationToken::new();
    let keeper = tokio::spawn(keeper.keep(keeping.clone()));
    tasks.close();

    let served = server.serve(listener, cancel.clone()).await;
    cancel.cancel();
    tasks.wait().await;
    sessions.ended().await;
    keeping.cancel();
    keeper.await.context("the replica's place was not kept")?;
    listening.cancel();
    database.close().await;
    info!("controlplane-svc has ended");
    served.context("the gRPC server failed")?;
    for launcher in launching {
        launcher.await.context("an engine ended badly")??;
    }
    Ok(())
}

/// Drops what is old, at once and again and again, in one replica at a time.
async fn prune(store: EngineStore, accounts: Accounts, clock: &dyn Clock, cancel: CancellationToken) {
    loop {
        let now = clock.now();
        let pruned = async {
            // under a new name each time nobody prolongs it; it is over before this one looks again
            if store.lead("prune", LeaseOwner::generate(), now, now + PRUNE_EVERY / 2).await? {
                store.prune(now - MONTH).await?;
                accounts.prune(now - AUDIT_KEPT).await?;
            }
            Ok::<_, StoreError>(())
        };
        if let Some(Err(error)) = cancel.run_until_cancelled(pruned).await {
            warn!(
                error = &error as &dyn std::error::Error,
                "what is old could not be dropped; trying again later"
            );
        }
        if cancel.run_until_cancelled(tokio::time::sleep(PRUNE_EVERY)).await.is_none() {
            return;
        }
    }
}
