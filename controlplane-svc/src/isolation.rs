//! Whether the Docker host keeps organisations apart. That is the host's rules' to do (`deploy/host-rules.sh`); here
//! it is only found out, from within, before anything is launched.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use molecule_backend_docker::DockerBackend;
use molecule_provisioner::backend::CallError;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Where clouds tell a machine its secrets.
const METADATA: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), 80);
const PAUSE: Duration = Duration::from_secs(5);

/// Workspaces reach what they must not.
#[derive(Debug, thiserror::Error)]
#[error(
    "workspaces of this Docker host reach {}: organisations would not be kept apart. Install the host's rules with \
     `deploy/host-rules.sh install`, or set CONTROLPLANE_DOCKER_ISOLATION=trusted where all organisations trust each \
     other",
    .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
)]
pub struct NotIsolated(Vec<SocketAddr>);

/// Waits for the daemon, and finds out. `None` where cancelled before.
pub(crate) async fn verify(
    backend: &DockerBackend,
    cancel: &CancellationToken,
) -> Option<Result<(), NotIsolated>> {
    loop {
        match probe(backend).await {
            Ok(reached) if reached.is_empty() => {
                info!("workspaces are kept apart from each other's, from this host and from its metadata");
                return Some(Ok(()));
            }
            Ok(reached) => return Some(Err(NotIsolated(reached))),
            Err(error) => warn!(%error, "nothing is launched on Docker until its isolation is known"),
        }
        cancel.run_until_cancelled(tokio::time::sleep(PAUSE)).await?;
    }
}

async fn probe(backend: &DockerBackend) -> Result<Vec<SocketAddr>, CallError> {
    backend.prepare_canaries().await?;
    // a live listener at each of this host's addresses, the networks' gateways among them
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await;
    let listener = listener.map_err(|error| CallError::Unknown(format!("nothing to probe: {error}")))?;
    let port = listener
        .local_addr()
        .map_err(|error| CallError::Unknown(format!("nothing to probe: {error}")))?
        .port();
    let own = local_addresses(&std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default());
    let own = own.into_iter().map(|address| SocketAddr::from((address, port)));
    let targets: Vec<SocketAddr> = own.chain([METADATA]).collect();
    let accept = async {
        loop {
            let _ = listener.accept().await;
        }
    };
    tokio::select! {
        reached = backend.reachable_from_workspaces(&targets) => reached,
        () = accept => Ok(Vec::new()),
    }
}

/// This host's own IPv4 addresses, from the kernel's table of routes: an address, then `/32 host LOCAL`.
fn local_addresses(fib_trie: &str) -> Vec<Ipv4Addr> {
    let mut found: Vec<Ipv4Addr> = Vec::new();
    let mut last = None;
    for line in fib_trie.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse().ok();
        } else if line.starts_with("/32 host LOCAL") {
            found.extend(last.filter(|address: &Ipv4Addr| !address.is_loopback()));
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses_are_found_in_the_kernels_table() {
        let table = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     +-- 10.1.2.0/24\n        \
                     |-- 10.1.2.3\n           /32 host LOCAL\n        |-- 10.1.2.255\n           /32 link BROADCAST\n     \
                     |-- 127.0.0.1\n        /32 host LOCAL\nLocal:\n     |-- 10.1.2.3\n           /32 host LOCAL\n";
        assert_eq!(local_addresses(table), [Ipv4Addr::new(10, 1, 2, 3)]);
    }
}
