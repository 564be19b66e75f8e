//! Organisations that share a Docker host are kept apart by the host's rules: a live listener stands at each
//! forbidden address, and is reached without the rules and not with them. Needs root, for the rules and for an
//! address like a cloud's.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;

use async_trait::async_trait;
use molecule_backend_docker::{DockerBackend, NetworkDirectory, Pool, Settings};
use molecule_domain::id::{InstallationId, OrganizationId};
use molecule_domain::network::NetworkSpec;
use molecule_provisioner::faults::Steps;
use molecule_tests::controlplane::Installation;
use molecule_tests::images::{bridge, docker, static_binary};
use molecule_tests::leftovers;
use tokio::net::TcpListener;

const CONTROL_PLANE: &str = env!("CARGO_BIN_EXE_controlplane-under-test");
const POOL: &str = "10.216.0.0/22";
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

fn run(program: &str, arguments: &[&str]) {
    let ran = Command::new(program).args(arguments).output().unwrap();
    assert!(ran.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
}

fn rules(arguments: &[&str]) {
    run(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/host-rules.sh"), arguments);
}

/// What the test has changed on the machine; dropping this changes it back.
struct Machine;

impl Machine {
    fn prepare() -> Self {
        let id = Command::new("id").arg("-u").output().unwrap();
        assert_eq!(
            id.stdout.trim_ascii(),
            b"0",
            "this test changes the host's rules, and needs root for that"
        );
        Self::restore();
        run("ip", &["address", "add", &format!("{METADATA}/32"), "dev", "lo"]);
        Self
    }

    fn restore() {
        rules(&["remove"]);
        let remove = ["address", "del", &format!("{METADATA}/32"), "dev", "lo"];
        let _ = Command::new("ip").args(remove).output();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        Self::restore();
    }
}

/// The first subnets of the pool, in the order in which they are asked for.
#[derive(Default)]
struct InOrder(std::sync::Mutex<Vec<OrganizationId>>);

#[async_trait]
impl NetworkDirectory for InOrder {
    async fn network_of(&self, organization: OrganizationId) -> Result<NetworkSpec, String> {
        let mut known = self.0.lock().unwrap();
        if !known.contains(&organization) {
            known.push(organization);
        }
        let place = known.iter().position(|one| *one == organization).unwrap();
        let subnet = POOL.parse::<Pool>().unwrap().subnets().nth(place).unwrap();
        Ok(subnet.network(&format!("molecule-isolation-{place}")))
    }
}

async fn listen(address: Ipv4Addr, port: u16) -> SocketAddr {
    let listener = TcpListener::bind((address, port)).await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    at
}

#[tokio::test(flavor = "multi_thread")]
async fn organizations_are_kept_apart_by_the_hosts_rules() {
    let docker = docker().await.unwrap();
    leftovers::remove(&docker, "10.216.").await.unwrap();
    let _machine = Machine::prepare();
    let settings = Settings {
        docker_host: None,
        installation: InstallationId::generate(),
        workspace_init: static_binary("workspace-init").unwrap(),
        publish: None,
    };
    let backend = DockerBackend::new(settings, Arc::new(InOrder::default()), Steps::default());
    backend.prepare_canaries().await.unwrap();

    let bridge = bridge().unwrap();
    let agents = listen(bridge, 0).await; // the one address that is allowed
    let host = listen(bridge, 0).await;
    let own_gateway = listen(Ipv4Addr::new(10, 216, 0, 1), 0).await;
    let others_gateway = listen(Ipv4Addr::new(10, 216, 1, 1), 0).await;
    let metadata = listen(METADATA, 80).await;
    let all = [agents, host, own_gateway, others_gateway, metadata];

    let reached = backend.reachable_from_workspaces(&all).await.unwrap();
    assert_eq!(reached, all, "without the rules, every listener is reached");
    rules(&["install", POOL, &agents.to_string()]);
    rules(&["install", POOL, &agents.to_string()]);
    let reached = backend.reachable_from_workspaces(&all).await.unwrap();
    assert_eq!(reached, [agents], "with the rules, the agents' listener alone");
    rules(&["remove"]);
    leftovers::remove(&docker, "10.216.").await.unwrap();

    // the service finds out by itself, and refuses
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::new(CONTROL_PLANE, folder.path(), 7).await.unwrap();
    let installation =
        installation.with("CONTROLPLANE_NETWORK_POOL", POOL).with("CONTROLPLANE_DOCKER_ISOLATION", "require");
    if let Ok(mut replica) = installation.start("open").await {
        replica.ends().await.unwrap();
    }
    let log = std::fs::read_to_string(folder.path().join("open.log")).unwrap();
    for told in ["169.254.169.254:80", &bridge.to_string(), "deploy/host-rules.sh install"] {
        assert!(log.contains(told), "{told} is not told: {log}");
    }
    rules(&["install", POOL]);
    let replica = installation.start("kept-apart").await.unwrap();
    let began = std::time::Instant::now();
    while !replica.whole_log().contains("workspaces are kept apart") {
        assert!(began.elapsed().as_secs() < 60, "{}", replica.log());
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    replica.stop().await.unwrap();
    leftovers::remove(&docker, "10.216.").await.unwrap();
}
