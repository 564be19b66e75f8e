//! The subnet of the workspaces: taken from the pool at first start, recorded, and the same ever after.

use anyhow::Context;
use async_trait::async_trait;
use molecule_backend_docker::{NetworkDirectory, Pool, Subnet};
use molecule_domain::id::{InstallationId, OrganizationId};
use molecule_domain::network::NetworkSpec;
use molecule_store_sqlite::tenant::SqliteStore;

/// A self-hosted tenant's one network.
#[derive(Clone, Debug)]
pub(super) struct WorkspaceNetwork {
    spec: NetworkSpec,
    pub(super) subnet: Subnet,
}

impl WorkspaceNetwork {
    /// The recorded network, or the first /24 of the pool that no route of this host covers.
    pub(super) async fn find(
        store: &SqliteStore,
        installation: InstallationId,
        organization: OrganizationId,
        pool: Pool,
    ) -> anyhow::Result<Self> {
        let name = NetworkSpec::name_of(installation, organization);
        let candidates = pool.free_here().take(16).map(|subnet| subnet.network(&name));
        let stored = store.network(organization, candidates.collect::<Vec<_>>()).await?;
        let spec = stored.context(
            "TENANT_NETWORK_POOL: every /24 of the range is in use on this host; set a range that is free",
        )?;
        let subnet = spec.subnet.parse().map_err(anyhow::Error::msg)?;
        Ok(Self { spec, subnet })
    }
}

#[async_trait]
impl NetworkDirectory for WorkspaceNetwork {
    async fn network_of(&self, _organization: OrganizationId) -> Result<NetworkSpec, String> {
        Ok(self.spec.clone())
    }
}
