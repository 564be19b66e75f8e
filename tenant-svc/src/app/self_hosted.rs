//! A self-hosted tenant: the engine in this process, over local Docker.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use molecule_backend_docker::{DockerBackend, Settings};
use molecule_domain::id::{InstallationId, OrganizationId};
use molecule_provisioner::policy::Policy;
use molecule_provisioner::store::Store;
use molecule_provisioner::{Engine, Instances};
use molecule_store_sqlite::engine::EngineStore;
use molecule_tenant::embedded::Embedded;

use super::networks::WorkspaceNetwork;
use super::{Base, Hooks, Side};
use crate::config::Config;

/// The port of the agents' listener on the gateway.
const AGENTS_PORT: u16 = 7071;

pub(super) async fn side(config: &Config, hooks: Hooks, base: &Base) -> anyhow::Result<Side> {
    let organization = OrganizationId::SELF_HOSTED;
    let installation: InstallationId =
        base.database.setting("installation_id", InstallationId::generate).await?;
    let pool = config.network_pool.context("TENANT_NETWORK_POOL is not set")?;
    let network = WorkspaceNetwork::find(&base.store, installation, organization, pool).await?;
    let subnet = network.subnet;
    let agents_at = config.agent_listen.unwrap_or_else(|| SocketAddr::from((subnet.gateway(), AGENTS_PORT)));
    anyhow::ensure!(
        config.workspace_init.exists(),
        "TENANT_WORKSPACE_INIT: there is no workspace-init at {}; build it, or say where it is",
        config.workspace_init.display()
    );
    let settings = Settings {
        docker_host: config.docker_host.clone(),
        installation,
        workspace_init: config.workspace_init.clone(),
        publish: config.agent_publish,
    };
    let backend = DockerBackend::new(settings, Arc::new(network), hooks.steps.clone());
    let policy = hooks.policy.unwrap_or_default();
    let store: Arc<dyn Store> = Arc::new(EngineStore::new(base.database.clone()));
    let instances = Instances::new(Arc::clone(&store), Arc::clone(&base.clock));
    let engine = Engine::new(
        Arc::new(backend),
        store,
        Arc::clone(&base.key) as Arc<_>,
        Arc::clone(&base.clock),
        Policy { restart_budget: config.restart_budget, ..policy },
        hooks.steps,
    );
    let explicit = config.agent_listen.is_some();
    let cancel = base.cancel.clone();
    Ok(Side {
        organization,
        provider: Arc::new(Embedded { engine: engine.clone(), instances }),
        agents_at,
        agents_url: config.agent_url.clone().unwrap_or_else(|| format!("http://{agents_at}")),
        admit: Arc::new(move |peer| match peer {
            IpAddr::V4(peer) => subnet.has_workspace(peer) || explicit && peer.is_loopback(),
            IpAddr::V6(_) => false,
        }),
        work: Box::pin(async move { engine.run(cancel).await }),
    })
}
