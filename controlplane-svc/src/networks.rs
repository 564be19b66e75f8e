//! Each organisation's network: taken from the pool when it is first needed, recorded, and the same ever after.

use async_trait::async_trait;
use molecule_backend_docker::{NetworkDirectory, Pool};
use molecule_domain::id::{InstallationId, OrganizationId};
use molecule_domain::network::NetworkSpec;
use molecule_store_postgres::Database;

/// The networks of all organisations.
pub(crate) struct Networks {
    pub(crate) database: Database,
    pub(crate) installation: InstallationId,
    pub(crate) pool: Pool,
}

#[async_trait]
impl NetworkDirectory for Networks {
    async fn network_of(&self, organization: OrganizationId) -> Result<NetworkSpec, String> {
        let name = NetworkSpec::name_of(self.installation, organization);
        let candidates = self.pool.subnets().map(move |subnet| subnet.network(&name));
        let found =
            self.database.network(organization, candidates).await.map_err(|error| error.to_string())?;
        found.ok_or_else(|| {
            "CONTROLPLANE_NETWORK_POOL: every /24 of the range is given out; widen it".to_owned()
        })
    }
}
