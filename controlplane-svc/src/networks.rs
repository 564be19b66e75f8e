//! Each organisation's network: taken from the pool when it is first needed, recorded, and the same ever after.

use std::time::Duration;

use async_trait::async_trait;
use molecule_backend_docker::{DockerBackend, NetworkDirectory, Pool};
use molecule_domain::id::{InstallationId, OrganizationId};
use molecule_domain::network::NetworkSpec;
use molecule_store_postgres::Database;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

const LOOK_EVERY: Duration = Duration::from_secs(15);

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

    async fn found(&self, organization: OrganizationId, network: &NetworkSpec) -> Result<bool, String> {
        warn!(%organization, network.subnet, "this database did not know the network that an organisation has");
        self.database.found_network(organization, network).await.map_err(|error| error.to_string())?;
        Ok(true)
    }
}

/// Takes the networks of deleted organisations away, until cancelled: their deletion is stored, this follows it until
/// the daemon confirms.
pub(crate) async fn take_away(database: Database, backend: &DockerBackend, cancel: CancellationToken) {
    loop {
        match database.networks_left().await {
            Ok(left) => {
                for organization in left {
                    take_one_away(&database, backend, organization).await;
                }
            }
            Err(error) => warn!(error = &error as &dyn std::error::Error, "the networks left can't be read"),
        }
        if cancel.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_none() {
            return;
        }
    }
}

async fn take_one_away(database: &Database, backend: &DockerBackend, organization: OrganizationId) {
    if let Err(error) = backend.remove_network(organization).await {
        warn!(%organization, %error, "the network of a deleted organisation is still there; trying again");
        return;
    }
    match database.forget_network(organization).await {
        Ok(()) => info!(%organization, "the network of a deleted organisation is gone"),
        Err(error) => warn!(%organization, error = &error as &dyn std::error::Error, "it is forgotten later"),
    }
}
