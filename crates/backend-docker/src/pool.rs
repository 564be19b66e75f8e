//! The range that organisations' networks are taken from, a /24 each: the daemon's default pool ends at about
//! thirty.

use std::net::Ipv4Addr;
use std::str::FromStr;

use molecule_domain::network::NetworkSpec;

/// A range of IPv4 addresses, /24 or wider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    first: Ipv4Addr,
    length: u8,
}

/// One /24 of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet(Ipv4Addr);

impl FromStr for Pool {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text.split_once('/').and_then(|(first, length)| {
            Some(Self { first: first.parse().ok()?, length: length.parse().ok()? })
        });
        let fit = parsed.filter(|pool| pool.length <= 24);
        fit.ok_or("it is not an IPv4 range of /24 or wider, such as 10.201.0.0/16")
    }
}

impl Pool {
    /// All of its subnets, in order.
    pub fn subnets(self) -> impl Iterator<Item = Subnet> + Send {
        let mask = u32::MAX.checked_shl(32 - u32::from(self.length)).unwrap_or(0);
        let first = u32::from(self.first) & mask;
        (0..1_u32 << (24 - u32::from(self.length.min(24))))
            .map(move |n| Subnet(Ipv4Addr::from(first + (n << 8))))
    }

    /// Those that no route of this host covers.
    pub fn free_here(self) -> impl Iterator<Item = Subnet> + Send {
        let routes = host_routes();
        self.subnets().filter(move |subnet| !routes.iter().any(|route| route.overlaps(*subnet)))
    }
}

impl Subnet {
    /// The host's address in it.
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.0) + 1)
    }

    /// Whether an address is a workspace's. The gateway is the host's own.
    pub fn has_workspace(self, address: Ipv4Addr) -> bool {
        address.octets()[..3] == self.0.octets()[..3] && address != self.gateway()
    }

    /// The network of this subnet.
    pub fn network(self, name: &str) -> NetworkSpec {
        NetworkSpec {
            name: name.to_owned(),
            subnet: format!("{}/24", self.0),
            gateway: self.gateway().to_string(),
        }
    }
}

impl FromStr for Subnet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let address = text.strip_suffix("/24").and_then(|address| address.parse().ok());
        address.map(Self).ok_or_else(|| format!("{text:?} is not a subnet of a pool"))
    }
}

#[derive(Debug)]
struct Route {
    destination: u32,
    mask: u32,
}

impl Route {
    fn overlaps(&self, subnet: Subnet) -> bool {
        let mask = self.mask & (u32::MAX << 8);
        // the default route covers everything and takes nothing
        self.mask != 0 && u32::from(subnet.0) & mask == self.destination & mask
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
        let subnets = |pool: &str| pool.parse::<Pool>().unwrap().subnets().map(|s| s.network("n").subnet);
        let all: Vec<_> = subnets("10.201.7.9/22").collect();
        assert_eq!(all, ["10.201.4.0/24", "10.201.5.0/24", "10.201.6.0/24", "10.201.7.0/24"]);
        assert_eq!(subnets("10.1.2.3/24").count(), 1);
        for bad in ["10.0.0.0/30", "10.0.0.0", "::/8", ""] {
            assert!(bad.parse::<Pool>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_gateway_is_no_workspaces() {
        let subnet: Subnet = "10.201.4.0/24".parse().unwrap();
        assert_eq!(subnet.gateway(), Ipv4Addr::new(10, 201, 4, 1));
        assert!(subnet.has_workspace([10, 201, 4, 2].into()));
        assert!(!subnet.has_workspace([10, 201, 4, 1].into()));
        assert!(!subnet.has_workspace([10, 201, 5, 2].into()));
    }

    #[test]
    fn routes_overlap_where_they_share_addresses() {
        let route = |destination: [u8; 4], length: u32| Route {
            destination: u32::from(Ipv4Addr::from(destination)),
            mask: u32::MAX.checked_shl(32 - length).unwrap_or(0),
        };
        let subnet = Subnet(Ipv4Addr::new(10, 201, 3, 0));
        assert!(route([10, 201, 0, 0], 16).overlaps(subnet));
        assert!(route([10, 201, 3, 128], 25).overlaps(subnet));
        assert!(!route([10, 201, 4, 0], 24).overlaps(subnet));
        assert!(!route([0, 0, 0, 0], 0).overlaps(subnet));
    }
}
