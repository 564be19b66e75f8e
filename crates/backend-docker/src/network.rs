//! One network per organisation, in subnets of our own.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use bollard::Docker;
use bollard::models::{Ipam, IpamConfig, NetworkCreateRequest};
use bollard::query_parameters::InspectNetworkOptions;
use molecule_domain::id::{InstallationId, OrganizationId};
use molecule_domain::lifecycle::Reason;
use molecule_domain::network::NetworkSpec;
use molecule_provisioner::backend::CallError;
use tokio::sync::Mutex;

use crate::client::{Problem, refused, unknown};
use crate::names;

/// Knows each organisation's network, and gives out subnets once.
#[async_trait]
pub trait NetworkDirectory: Send + Sync + 'static {
    /// The organisation's network: always the same.
    async fn network_of(&self, organization: OrganizationId) -> Result<NetworkSpec, String>;
}

/// The networks of one daemon.
pub(crate) struct Networks {
    installation: InstallationId,
    directory: Arc<dyn NetworkDirectory>,
    /// Those that were there lately. The lock also keeps two calls from making one network twice.
    there: Mutex<HashSet<String>>,
}

impl Networks {
    pub(crate) fn new(installation: InstallationId, directory: Arc<dyn NetworkDirectory>) -> Self {
        Self { installation, directory, there: Mutex::default() }
    }

    /// The daemon says that it is gone.
    pub(crate) async fn forget(&self, name: &str) {
        self.there.lock().await.remove(name);
    }

    /// Makes the network where it is missing.
    pub(crate) async fn ensure(
        &self,
        docker: &Docker,
        organization: OrganizationId,
    ) -> Result<NetworkSpec, CallError> {
        let spec = self.directory.network_of(organization).await.map_err(unknown)?;
        let mut there = self.there.lock().await;
        if there.contains(&spec.name) {
            return Ok(spec);
        }
        match docker.inspect_network(&spec.name, None::<InspectNetworkOptions>).await.map_err(Problem::from) {
            Ok(found) => {
                let labels = found.labels.unwrap_or_default();
                if !names::is_ours(&labels, self.installation) {
                    return Err(refused(
                        Reason::NetworkUnavailable,
                        format!("a network {} that is not ours is on this Docker host; remove it", spec.name),
                    ));
                }
            }
            Err(Problem::NotFound(_)) => self.create(docker, organization, &spec).await?,
            Err(problem) => return Err(problem.into_call_error("look at the network")),
        }
        there.insert(spec.name.clone());
        Ok(spec)
    }

    async fn create(
        &self,
        docker: &Docker,
        organization: OrganizationId,
        spec: &NetworkSpec,
    ) -> Result<(), CallError> {
        let labels = [
            (names::INSTALLATION, self.installation.to_string()),
            (names::ORGANIZATION, organization.to_string()),
        ];
        let ipam = IpamConfig {
            subnet: Some(spec.subnet.clone()),
            gateway: Some(spec.gateway.clone()),
            ..IpamConfig::default()
        };
        let request = NetworkCreateRequest {
            name: spec.name.clone(),
            driver: Some("bridge".to_owned()),
            ipam: Some(Ipam { config: Some(vec![ipam]), ..Ipam::default() }),
            labels: Some(HashMap::from(labels.map(|(key, value)| (key.to_owned(), value)))),
            ..NetworkCreateRequest::default()
        };
        match docker.create_network(request).await.map_err(Problem::from) {
            Ok(_) => Ok(()),
            Err(problem) => {
                let error = problem.into_call_error("make the network").to_string();
                if error.contains("overlaps") {
                    return Err(refused(
                        Reason::NetworkUnavailable,
                        format!(
                            "the subnet {} of the network {} is in use by another network of this Docker host: \
                             remove that one, or set the network pool to a free range",
                            spec.subnet, spec.name
                        ),
                    ));
                }
                Err(unknown(error))
            }
        }
    }
}
