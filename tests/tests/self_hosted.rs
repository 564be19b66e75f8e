//! A self-hosted tenant on a real Docker daemon, from its API to its containers and back.

use std::collections::HashMap;

use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{
    CreateContainerOptions, InspectContainerOptions, RemoveContainerOptionsBuilder, StartContainerOptions,
    WaitContainerOptions,
};
use futures::StreamExt;
use molecule_proto::tenant::v1::StreamWorkspaceLogsRequest;
use molecule_proto::workspace::v1::{Workspace, WorkspaceSpec, WorkspaceState};
use molecule_tests::images::{self, Kind, docker};
use molecule_tests::leftovers;
use molecule_tests::tenant::{Setup, Tenant, spec};
use molecule_tests::tls::{Authority, terminate};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tenant-under-test");

async fn setup(folder: &tempfile::TempDir, subnet: u8) -> Setup {
    let docker = docker().await.unwrap();
    for kind in Kind::ALL {
        if docker.inspect_image(&kind.image()).await.is_err() {
            images::import(&docker, kind).await.unwrap();
        }
    }
    Setup::new(PROGRAM, folder.path(), subnet).await.unwrap()
}

async fn labels_of(workspace: &Workspace) -> HashMap<String, String> {
    let name = container_of(workspace);
    let found =
        docker().await.unwrap().inspect_container(&name, None::<InspectContainerOptions>).await.unwrap();
    found.config.unwrap().labels.unwrap()
}

/// The installation's id, as its first container's label tells.
async fn installation(workspace: &Workspace) -> String {
    labels_of(workspace).await["ai.molecule.installation"].clone()
}

fn container_of(workspace: &Workspace) -> String {
    format!("ws-{}-{}", workspace.workspace_id, workspace.generation)
}

async fn running(tenant: &mut Tenant, spec: WorkspaceSpec) -> Workspace {
    let created = tenant.create(spec).await.unwrap();
    tenant.reaches(&created.workspace_id, WorkspaceState::Running).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_workspaces_reach_the_agents_listener() {
    let folder = tempfile::tempdir().unwrap();
    let mut tenant = setup(&folder, 5).await.start().await.unwrap();
    let up = running(&mut tenant, spec("inside", "demo")).await;
    let listener = format!("{}:7071", tenant.setup.gateway());
    let network = {
        let (docker, name) = (docker().await.unwrap(), container_of(&up));
        let found = docker.inspect_container(&name, None::<InspectContainerOptions>).await.unwrap();
        found.network_settings.unwrap().networks.unwrap().into_keys().next().unwrap()
    };
    assert_eq!(probe(&network, &listener).await, 0, "a workspace's network must reach the listener");
    assert_ne!(probe("bridge", &listener).await, 0, "another bridge reaches the listener");
    // the host's own address is not a workspace's either
    let answer = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(&listener)?;
        std::io::Write::write_all(&mut stream, b"GET / HTTP/1.0\r\n\r\n")?;
        let mut answer = Vec::new();
        std::io::Read::read_to_end(&mut stream, &mut answer)?;
        Ok::<_, std::io::Error>(answer)
    });
    assert!(answer.await.unwrap().unwrap_or_default().is_empty(), "the host was answered");
    tenant.delete(&up.workspace_id).await.unwrap();
    tenant.finish().await.unwrap();
}

/// Agents reach the listener through an operator's proxy, whose authority is the operator's own.
#[tokio::test(flavor = "multi_thread")]
async fn only_the_pinned_authority_is_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let setup = setup(&folder, 7).await;
    let plain = std::net::SocketAddr::from(([127, 0, 0, 1], molecule_tests::ports::free().unwrap()));
    let (authority, other) = (Authority::new().unwrap(), Authority::new().unwrap());
    let port = terminate(authority.server(&[setup.gateway()]).unwrap(), plain).await.unwrap();
    let ca_file = folder.path().join("ca.pem");
    let setup = setup
        .clone()
        .with("TENANT_AGENT_LISTEN", plain.to_string())
        .with("TENANT_AGENT_URL", format!("https://{}:{port}", setup.gateway()))
        .with("TENANT_AGENT_CA_FILE", ca_file.display().to_string());
    for (pem, expected) in [(&authority.pem, "began "), (&other.pem, "certificate")] {
        std::fs::write(&ca_file, pem).unwrap();
        let mut tenant = setup.start().await.unwrap();
        let created = tenant.create(spec("behind a proxy", "demo-stamp")).await.unwrap();
        tenant.reaches(&created.workspace_id, WorkspaceState::Running).await.unwrap();
        let output = output_until(&mut tenant, &created.workspace_id, expected);
        tokio::time::timeout(std::time::Duration::from_secs(20), output).await.unwrap();
        tenant.delete(&created.workspace_id).await.unwrap();
        tenant.stop().await.unwrap();
    }
    leftovers::remove(&docker().await.unwrap(), "10.214.7.").await.unwrap();
}

async fn output_until(tenant: &mut Tenant, id: &str, expected: &str) {
    let request = StreamWorkspaceLogsRequest { workspace_id: id.to_owned(), follow: true, tail_lines: 0 };
    let mut stream = tenant.client.stream_workspace_logs(request).await.unwrap().into_inner();
    let mut text = String::new();
    while !text.contains(expected) {
        let chunk = stream.next().await.unwrap_or_else(|| panic!("the output ended: {text}")).unwrap();
        text.push_str(&String::from_utf8_lossy(&chunk.data));
    }
}

/// Runs a probe in a container on a network; its exit code.
async fn probe(network: &str, address: &str) -> i64 {
    let docker = docker().await.unwrap();
    let body = ContainerCreateBody {
        image: Some(Kind::Root.image()),
        entrypoint: Some(["/demo-agent", "probe", address].map(str::to_owned).to_vec()),
        host_config: Some(HostConfig { network_mode: Some(network.to_owned()), ..HostConfig::default() }),
        ..ContainerCreateBody::default()
    };
    let id = docker.create_container(None::<CreateContainerOptions>, body).await.unwrap().id;
    docker.start_container(&id, None::<StartContainerOptions>).await.unwrap();
    let ended = docker.wait_container(&id, None::<WaitContainerOptions>).next().await.unwrap();
    let code = match ended {
        Ok(ended) => ended.status_code,
        Err(bollard::errors::Error::DockerContainerWaitError { code, .. }) => code,
        Err(error) => panic!("{error}"),
    };
    let options = RemoveContainerOptionsBuilder::default().force(true).build();
    docker.remove_container(&id, Some(options)).await.unwrap();
    code
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orphan_goes_and_a_strangers_container_stays() {
    let folder = tempfile::tempdir().unwrap();
    let mut tenant = setup(&folder, 6).await.start().await.unwrap();
    let up = running(&mut tenant, spec("neighbour", "demo")).await;
    let docker = docker().await.unwrap();
    let owner = installation(&up).await;
    // what is left of one that is deleted carries the labels of its launch
    let gone = running(&mut tenant, spec("gone", "demo")).await;
    let of_gone = labels_of(&gone).await;
    tenant.delete(&gone.workspace_id).await.unwrap();
    let labels = |installation: &str| {
        let mut labels = of_gone.clone();
        labels.insert("ai.molecule.installation".to_owned(), installation.to_owned());
        labels
    };
    let make = |labels| {
        let body = ContainerCreateBody {
            image: Some(Kind::Root.image()),
            labels: Some(labels),
            ..ContainerCreateBody::default()
        };
        docker.create_container(None::<CreateContainerOptions>, body)
    };
    let orphan = make(labels(&owner)).await.unwrap().id;
    let strangers = make(labels("01a20500-0000-7000-8000-00000000ffff")).await.unwrap().id;
    // the orphan's name is not the one an instance has: found by its labels, it must go all the same
    for _ in 0..100 {
        if docker.inspect_container(&orphan, None::<InspectContainerOptions>).await.is_err() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    assert!(
        docker.inspect_container(&orphan, None::<InspectContainerOptions>).await.is_err(),
        "the orphan lives on"
    );
    assert!(
        docker.inspect_container(&strangers, None::<InspectContainerOptions>).await.is_ok(),
        "a stranger's is gone"
    );
    let options = RemoveContainerOptionsBuilder::default().force(true).build();
    docker.remove_container(&strangers, Some(options)).await.unwrap();
    assert_eq!(tenant.get(&up.workspace_id).await.unwrap().state(), WorkspaceState::Running);
    tenant.delete(&up.workspace_id).await.unwrap();
    tenant.finish().await.unwrap();
}
