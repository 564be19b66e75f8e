//! The subnet of the workspaces: taken from the pool at first start, recorded, and the same ever after.

use std::net::Ipv4Addr;

use anyhow::Context;
use async_trait::async_trait;
use molecule_backend_docker::{NetworkDirectory, NetworkSpec};
use molecule_domain::id::{InstallationId, OrganizationId};
use molecule_store_sqlite::tenant::TenantStore;
use molecule_store_sqlite::tenant::networks::StoredNetwork;

/// A self-hosted tenant's one network.
#[derive(Clone, Debug)]
pub(crate) struct WorkspaceNetwork {
    pub(crate) spec: NetworkSpec,
    /// The network's first address.
    subnet: Ipv4Addr,
}

impl WorkspaceNetwork {
    /// The recorded network, or the first /24 of the pool that no route of this host covers.
    pub(crate) async fn find(
        store: &TenantStore,
        installation: InstallationId,
        organization: OrganizationId,
        pool: (Ipv4Addr, u8),
    ) -> anyhow::Result<Self> {
        let routes = host_routes();
        let name = NetworkSpec::name_of(installation, organization);
        let free =
            subnets(pool).filter(|subnet| !routes.iter().any(|route| route.overlaps(*subnet))).take(16);
        let candidates = free.map(|subnet| StoredNetwork {
            name: name.clone(),
            subnet: format!("{subnet}/24"),
            gateway: gateway(subnet).to_string(),
        });
        let stored = store.network(organization, candidates.collect::<Vec<_>>()).await?;
        let stored = stored.context(
            "TENANT_NETWORK_POOL: every /24 of the range is in use on this host; set a range that is free",
        )?;
        let subnet =
            stored.subnet.trim_end_matches("/24").parse().context("the recorded subnet can't be read")?;
        let spec = NetworkSpec { name: stored.name, subnet: stored.subnet, gateway: stored.gateway };
        Ok(Self { spec, subnet })
    }

    /// The host's address in it.
    pub(crate) fn gateway(&self) -> Ipv4Addr {
        gateway(self.subnet)
    }

    /// Whether an address is a workspace's. The gateway is the host's own.
    pub(crate) fn has_workspace(&self, address: Ipv4Addr) -> bool {
        address.octets()[..3] == self.subnet.octets()[..3] && address != self.gateway()
    }
}

#[async_trait]
impl NetworkDirectory for WorkspaceNetwork {
    async fn network_of(&self, _organization: OrganizationId) -> Result<NetworkSpec, String> {
        Ok(self.spec.clone())
    }
}

fn gateway(subnet: Ipv4Addr) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(subnet) + 1)
}

fn subnets((first, length): (Ipv4Addr, u8)) -> impl Iterator<Item = Ipv4Addr> {
    let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
    let first = u32::from(first) & mask;
    (0..1_u32 << (24 - u32::from(length.min(24)))).map(move |n| Ipv4Addr::from(first + (n << 8)))
}

#[derive(Debug)]
struct Route {
    destination: u32,
    mask: u32,
}

impl Route {
    fn overlaps(&self, subnet: Ipv4Addr) -> bool {
        let mask = self.mask & (u32::MAX << 8);
        // the default route covers everything and takes nothing
        self.mask != 0 && u32::from(subnet) & mask == self.destination & mask
    }
}

/// From `/proc/net/route`: little-endian hexadecimal.
fn host_routes() -> Vec<Route> {
    let text = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    let hex = |field: Option<&str>| Some(u32::from_str_radix(field?, 16).ok()?.swap_bytes());
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            Some(Route { destination: hex(fields.nth(1))?, mask: hex(fields.nth(5))? })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_fill_the_pool() {
        let all: Vec<_> = subnets(([10, 201, 7, 9].into(), 22)).map(|s| s.to_string()).collect();
        assert_eq!(all, ["10.201.4.0", "10.201.5.0", "10.201.6.0", "10.201.7.0"]);
        assert_eq!(subnets(([10, 1, 2, 3].into(), 24)).count(), 1);
    }

    #[test]
    fn routes_overlap_where_they_share_addresses() {
        let route = |destination: [u8; 4], length: u32| Route {
            destination: u32::from(Ipv4Addr::from(destination)),
            mask: u32::MAX.checked_shl(32 - length).unwrap_or(0),
        };
        let subnet = Ipv4Addr::new(10, 201, 3, 0);
        assert!(route([10, 201, 0, 0], 16).overlaps(subnet));
        assert!(route([10, 201, 3, 128], 25).overlaps(subnet));
        assert!(!route([10, 201, 4, 0], 24).overlaps(subnet));
        assert!(!route([0, 0, 0, 0], 0).overlaps(subnet));
    }
}
