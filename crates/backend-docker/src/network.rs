//! One network per organisation, in subnets of our own.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bollard::Docker;
use bollard::models::{Ipam, IpamConfig, Network, NetworkCreateRequest};
use bollard::query_parameters::{InspectNetworkOptions, ListNetworksOptions};
use molecule_domain::id::{InstallationId, OrganizationId};
use molecule_domain::lifecycle::Reason;
use molecule_domain::network::NetworkSpec;
use molecule_provisioner::backend::CallError;
use tokio::sync::Mutex;

use crate::client::{Problem, refused, unknown};
use crate::names;

/// How often to look whether a network that another replica is making is there.
const LOOKS: u32 = 40;
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Knows each organisation's network, and gives out subnets once.
#[async_trait]
pub trait NetworkDirectory: Send + Sync + 'static {
    /// The organisation's network: always the same.
    async fn network_of(&self, organization: OrganizationId) -> Result<NetworkSpec, String>;

    /// What is there is this organisation's network, whatever is known of it: a database that was put back gives its subnet to
    /// another, which is given another one from now on. Whether that was noted.
    async fn found(&self, _organization: OrganizationId, _network: &NetworkSpec) -> Result<bool, String> {
        Ok(false)
    }
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
        loop {
            let spec = self.directory.network_of(organization).await.map_err(unknown)?;
            let mut there = self.there.lock().await;
            let is_there = there.contains(&spec.name) || self.is_there(docker, &spec).await?;
            if is_there || self.create(docker, organization, &spec).await? {
                there.insert(spec.name.clone());
                return Ok(spec);
            }
        }
    }

    fn is_ours(&self, labels: Option<&names::Labels>) -> bool {
        labels.is_some_and(|labels| names::is_ours(labels, self.installation))
    }

    /// Takes an organisation's network away. Succeeds where it is gone, and where what has its name is a stranger's.
    pub(crate) async fn remove(
        &self,
        docker: &Docker,
        organization: OrganizationId,
    ) -> Result<(), CallError> {
        let name = NetworkSpec::name_of(self.installation, organization);
        self.forget(&name).await;
        match docker.inspect_network(&name, None::<InspectNetworkOptions>).await.map_err(Problem::from) {
            Ok(found) if !self.is_ours(found.labels.as_ref()) => return Ok(()),
            Err(Problem::NotFound(_)) => return Ok(()),
            Ok(_) => {}
            Err(problem) => return Err(problem.into_call_error("look at the network")),
        }
        match docker.remove_network(&name).await.map_err(Problem::from) {
            Ok(()) | Err(Problem::NotFound(_)) => Ok(()),
            Err(problem) => Err(problem.into_call_error("remove the network")),
        }
    }

    /// Whether the network is there; a stranger's of the same name is an error.
    async fn is_there(&self, docker: &Docker, spec: &NetworkSpec) -> Result<bool, CallError> {
        match docker.inspect_network(&spec.name, None::<InspectNetworkOptions>).await.map_err(Problem::from) {
            Ok(found) if self.is_ours(found.labels.as_ref()) => Ok(true),
            Ok(_) => Err(refused(
                Reason::NetworkUnavailable,
                format!("a network {} that is not ours is on this Docker host; remove it", spec.name),
            )),
            Err(Problem::NotFound(_)) => Ok(false),
            Err(problem) => Err(problem.into_call_error("look at the network")),
        }
    }

    /// Whether it is there now; if not, another subnet is to be had.
    async fn create(
        &self,
        docker: &Docker,
        organization: OrganizationId,
        spec: &NetworkSpec,
    ) -> Result<bool, CallError> {
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
            Ok(_) => Ok(true),
            Err(problem) => {
                let error = problem.into_call_error("make the network").to_string();
                if error.contains("overlaps") {
                    return self.overlapping(docker, spec).await;
                }
                Err(unknown(error))
            }
        }
    }

    /// The daemon says that the subnet is in use. By another network: that is definite. By none that can be seen:
    /// then another replica is just making ours. Whether ours is there; if not, it was another organisation's, and that is known
    /// from now on.
    async fn overlapping(&self, docker: &Docker, spec: &NetworkSpec) -> Result<bool, CallError> {
        for _ in 0..LOOKS {
            if self.is_there(docker, spec).await? {
                return Ok(true);
            }
            let listed = docker.list_networks(None::<ListNetworksOptions>).await;
            let listed = listed.map_err(|error| Problem::from(error).into_call_error("list the networks"))?;
            let other = listed.into_iter().find(|network| {
                let configs =
                    network.ipam.as_ref().and_then(|ipam| ipam.config.as_deref()).unwrap_or_default();
                network.name.as_deref() != Some(&spec.name)
                    && configs
                        .iter()
                        .filter_map(|config| config.subnet.as_deref())
                        .any(|s| overlap(s, &spec.subnet))
            });
            if let Some(other) = other {
                if self.is_known(&other, spec).await? {
                    return Ok(false);
                }
                return Err(refused(
                    Reason::NetworkUnavailable,
                    format!(
                        "the subnet {} of the network {} is in use by the network {} of this Docker host: remove that \
                         one, or set the network pool to a free range",
                        spec.subnet,
                        spec.name,
                        other.name.unwrap_or_default()
                    ),
                ));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Err(unknown(format!("the network {} is being made", spec.name)))
    }

    /// Whether the network that has this subnet is known to be another organisation's, now that it was found.
    async fn is_known(&self, other: &Network, spec: &NetworkSpec) -> Result<bool, CallError> {
        let labels = other.labels.as_ref().filter(|labels| self.is_ours(Some(labels)));
        let owner = labels.and_then(|labels| labels.get(names::ORGANIZATION)?.parse().ok());
        let (Some(owner), Some(name)) = (owner, other.name.clone()) else { return Ok(false) };
        let configs = other.ipam.as_ref().and_then(|ipam| ipam.config.as_deref()).unwrap_or_default();
        if name != NetworkSpec::name_of(self.installation, owner)
            || !configs.iter().any(|config| config.subnet.as_ref() == Some(&spec.subnet))
        {
            return Ok(false);
        }
        self.directory.found(owner, &NetworkSpec { name, ..spec.clone() }).await.map_err(unknown)
    }
}

/// Whether two IPv4 ranges in CIDR notation share addresses. What is no such range shares none.
fn overlap(one: &str, other: &str) -> bool {
    let range = |text: &str| -> Option<(u32, u32)> {
        let (address, length) = text.split_once('/')?;
        let mask = u32::MAX.checked_shl(32 - length.parse::<u32>().ok()?.min(32)).unwrap_or(0);
        Some((u32::from(address.parse::<Ipv4Addr>().ok()?), mask))
    };
    let (Some((a, a_mask)), Some((b, b_mask))) = (range(one), range(other)) else { return false };
    a & a_mask & b_mask == b & a_mask & b_mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_overlap_where_one_holds_the_other() {
        assert!(overlap("10.1.2.0/24", "10.1.0.0/16"));
        assert!(overlap("10.1.2.0/24", "10.1.2.128/25"));
        assert!(overlap("0.0.0.0/0", "10.1.2.0/24"));
        assert!(!overlap("10.1.2.0/24", "10.1.3.0/24"));
        assert!(!overlap("fd00::/8", "10.1.3.0/24"));
    }
}
