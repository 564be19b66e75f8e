//! A self-hosted tenant on a real Docker daemon, from its API to its containers and back.

use std::collections::HashMap;

use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{
    CreateContainerOptions, InspectContainerOptions, RemoveContainerOptionsBuilder, StartContainerOptions,
    WaitContainerOptions,
};
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::TokioExecutor;
use molecule_proto::tenant::v1::{
    RestartWorkspaceRequest, StartWorkspaceRequest, StopWorkspaceRequest, StreamWorkspaceLogsRequest,
};
use molecule_proto::workspace::v1::{Reason, Tier, Workspace, WorkspaceSpec, WorkspaceState};
use molecule_tests::images::{self, Kind, docker};
use molecule_tests::leftovers;
use molecule_tests::tenant::{Setup, Tenant, spec};
use molecule_tests::tls::{Authority, terminate};
use serde_json::{Value, json};

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

async fn http(method: &str, url: &str, body: &Value) -> (u16, Value) {
    let client = HttpClient::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let request =
        hyper::Request::builder().method(method).uri(url).header("content-type", "application/json");
    let request = request.body(Full::new(Bytes::from(body.to_string()))).unwrap();
    let response = client.request(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

fn agent_url(workspace: &Workspace) -> String {
    workspace.agent.clone().unwrap().url
}

async fn says(workspace: &Workspace, text: &str) -> String {
    let message = json!({ "jsonrpc": "2.0", "id": 1, "method": "message/send",
        "params": { "message": { "parts": [{ "kind": "text", "text": text }] } } });
    let (_, answer) = http("POST", &format!("{}/", agent_url(workspace)), &message).await;
    answer["result"]["parts"][0]["text"].as_str().unwrap_or_default().to_owned()
}

/// The installation's id, as its first container's label tells.
async fn installation(workspace: &Workspace) -> String {
    let name = container_of(workspace);
    let found =
        docker().await.unwrap().inspect_container(&name, None::<InspectContainerOptions>).await.unwrap();
    found.config.unwrap().labels.unwrap()["ai.molecule.installation"].clone()
}

fn container_of(workspace: &Workspace) -> String {
    format!("ws-{}-{}", workspace.workspace_id, workspace.generation)
}

async fn running(tenant: &mut Tenant, spec: WorkspaceSpec) -> Workspace {
    let created = tenant.create(spec).await.unwrap();
    tenant.reaches(&created.workspace_id, WorkspaceState::Running).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_image_lives_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut tenant = setup(&folder, 1).await.start().await.unwrap();
    let mut all = Vec::new();
    for runtime in ["demo", "demo-user", "demo-drop"] {
        for tier in [Tier::T1, Tier::T2] {
            let mut spec = spec(runtime, runtime);
            spec.tier = tier.into();
            spec.env.insert("MINE".into(), "1".into());
            spec.secrets.insert("SECRET".into(), "hunter2-in-a-secret".into());
            spec.config_files.insert("deep/extra.txt".into(), b"hunter2-in-a-file".to_vec());
            all.push(tenant.create(spec).await.unwrap());
        }
    }
    let docker = docker().await.unwrap();
    let mut owner = String::new();
    for created in all {
        let up = tenant.reaches(&created.workspace_id, WorkspaceState::Running).await.unwrap();
        assert!(says(&up, "hello").await.contains("hello"), "{up:?}");
        let (_, env) = http("GET", &format!("{}/environment", agent_url(&up)), &Value::Null).await;
        let gateway = format!("http://{}:7071", tenant.setup.gateway());
        let id = up.workspace_id.as_str();
        for (name, value) in [
            ("WORKSPACE_ID", id),
            ("WORKSPACE_CONFIG_PATH", "/configs"),
            ("PLATFORM_URL", &gateway),
            ("MOLECULE_URL", &gateway),
            ("PYTHONPATH", "/app"),
            ("MINE", "1"),
            ("SECRET", "hunter2-in-a-secret"),
        ] {
            assert_eq!(env[name], value, "{name}");
        }
        let found =
            docker.inspect_container(&container_of(&up), None::<InspectContainerOptions>).await.unwrap();
        let text = format!("{found:?}");
        assert!(!text.contains("hunter2"), "a secret is in docker inspect");
        let host = found.host_config.unwrap();
        let spec = up.spec.clone().unwrap();
        assert_eq!(host.cap_drop.unwrap(), ["ALL"]);
        let rootless = spec.runtime == "demo-user";
        assert_eq!(host.cap_add.unwrap_or_default().is_empty(), rootless);
        assert_eq!(host.readonly_rootfs, Some(spec.tier() == Tier::T1));
        assert_eq!(host.memory, Some(if spec.tier() == Tier::T1 { 256 } else { 512 } << 20));
        assert_eq!(host.init, Some(true));
        assert_eq!(host.security_opt.unwrap(), ["no-new-privileges"]);
        owner = installation(&up).await;
        tenant.delete(id).await.unwrap();
    }
    assert_eq!(leftovers::of_installation(&docker, &owner).await.unwrap(), Vec::<String>::new());
    let database = std::fs::read(tenant.setup.data().join("tenant.db")).unwrap();
    let wal = std::fs::read(tenant.setup.data().join("tenant.db-wal")).unwrap_or_default();
    for (place, bytes) in
        [("database", database), ("wal", wal), ("log", tenant.setup.whole_log().into_bytes())]
    {
        let found = bytes.windows(7).any(|window| window == b"hunter2");
        assert!(!found, "a secret is in clear text in the {place}");
    }
    tenant.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_start_restart_keep_what_they_say() {
    let folder = tempfile::tempdir().unwrap();
    let mut tenant = setup(&folder, 2).await.start().await.unwrap();
    let up = running(&mut tenant, spec("session", "demo-session")).await;
    let id = up.workspace_id.clone();
    let docker = docker().await.unwrap();
    let volumes = || async {
        let volume = docker.inspect_volume(&format!("ws-{id}-sessions")).await.unwrap();
        volume.created_at.map(|at| format!("{at:?}"))
    };
    let session = volumes().await;

    let stop = StopWorkspaceRequest { workspace_id: id.clone(), ..Default::default() };
    tenant.client.stop_workspace(stop).await.unwrap();
    let stopped = tenant.reaches(&id, WorkspaceState::Stopped).await.unwrap();
    assert_eq!(stopped.generation, 1);
    let start = StartWorkspaceRequest { workspace_id: id.clone(), ..Default::default() };
    tenant.client.start_workspace(start).await.unwrap();
    let started = tenant.reaches(&id, WorkspaceState::Running).await.unwrap();
    assert_eq!(started.generation, 1, "a start keeps the generation");

    let restart = |reset_session| RestartWorkspaceRequest {
        workspace_id: id.clone(),
        reset_session,
        ..Default::default()
    };
    tenant.client.restart_workspace(restart(false)).await.unwrap();
    let second = tenant
        .until(&id, "RUNNING in generation 2", |w| w.generation == 2 && w.state() == WorkspaceState::Running);
    second.await.unwrap();
    assert_eq!(volumes().await, session, "a restart keeps the session");
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    tenant.client.restart_workspace(restart(true)).await.unwrap();
    let third = tenant
        .until(&id, "RUNNING in generation 3", |w| w.generation == 3 && w.state() == WorkspaceState::Running);
    third.await.unwrap();
    assert_ne!(volumes().await, session, "a reset discards the session");
    tenant.delete(&id).await.unwrap();
    tenant.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let setup =
        setup(&folder, 3).await.with("TENANT_CONNECT_DEADLINE", "2").with("TENANT_RESTART_BUDGET", "2");
    let mut tenant = setup.start().await.unwrap();

    let crash = tenant.create(spec("crash", "demo-crash")).await.unwrap();
    let missing = tenant.create(spec("missing", "demo-missing")).await.unwrap();
    let mut silent = spec("silent", "demo");
    silent.env.insert("DEMO_SILENT".into(), "1".into());
    let silent = tenant.create(silent).await.unwrap();
    let bare = tenant.create(spec("bare", "demo-bare")).await.unwrap_err();
    assert!(bare.message().contains("config.yaml"), "{bare}");

    let failed = tenant.reaches(&crash.workspace_id, WorkspaceState::Failed).await.unwrap();
    assert_eq!(failed.reason(), Reason::CrashLoop, "{}", failed.message);
    assert!(failed.message.contains("exit code 7"), "{}", failed.message);
    let events = tenant.events(&crash.workspace_id).await.unwrap();
    assert!(
        events.iter().any(|event| event.exit_code == Some(7) && event.log_tail.contains("as it was told")),
        "{events:#?}"
    );
    assert_eq!(events.iter().filter(|event| event.kind == "exited").count(), 2, "{events:#?}");

    let failed = tenant.reaches(&missing.workspace_id, WorkspaceState::Failed).await.unwrap();
    assert_eq!(failed.reason(), Reason::ImageUnavailable, "{}", failed.message);
    assert!(failed.message.contains("runtimes file"), "no remedy: {}", failed.message);

    let failed = tenant.reaches(&silent.workspace_id, WorkspaceState::Failed).await.unwrap();
    assert_eq!(failed.reason(), Reason::AgentNotConnected, "{}", failed.message);
    // what has failed is stopped, and can be restarted
    let start = StartWorkspaceRequest { workspace_id: silent.workspace_id.clone(), ..Default::default() };
    assert_eq!(
        tenant.client.start_workspace(start).await.unwrap_err().code(),
        tonic::Code::FailedPrecondition
    );
    let restart = RestartWorkspaceRequest { workspace_id: silent.workspace_id.clone(), ..Default::default() };
    tenant.client.restart_workspace(restart).await.unwrap();
    tenant
        .until(&silent.workspace_id, "PROVISIONING", |w| w.state() == WorkspaceState::Provisioning)
        .await
        .unwrap();
    for id in [crash.workspace_id, missing.workspace_id, silent.workspace_id] {
        tenant.delete(&id).await.unwrap();
    }
    tenant.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_ends_is_started_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut tenant = setup(&folder, 4).await.start().await.unwrap();
    let up = running(&mut tenant, spec("ends", "demo")).await;
    let id = up.workspace_id.clone();
    let end = json!({ "params": { "message": { "parts": [{ "text": "end yourself" }] } } });
    let client = HttpClient::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let request =
        hyper::Request::post(format!("{}/", agent_url(&up))).header("content-type", "application/json");
    let _ = client.request(request.body(Full::new(Bytes::from(end.to_string()))).unwrap()).await;
    tenant.until(&id, "not RUNNING", |w| w.state() != WorkspaceState::Running).await.unwrap();
    let again = tenant.reaches(&id, WorkspaceState::Running).await.unwrap();
    assert_eq!(again.generation, 1, "the same generation is started again");
    let events = tenant.events(&id).await.unwrap();
    assert!(events.iter().any(|event| event.kind == "exited" && event.exit_code == Some(3)), "{events:#?}");

    // somebody takes the container away: it is launched anew, once
    let docker = docker().await.unwrap();
    let options = RemoveContainerOptionsBuilder::default().force(true).build();
    docker.remove_container(&container_of(&again), Some(options)).await.unwrap();
    tenant.until(&id, "not RUNNING", |w| w.state() != WorkspaceState::Running).await.unwrap();
    let back = tenant.reaches(&id, WorkspaceState::Running).await.unwrap();
    assert!(says(&back, "still there?").await.contains("still there?"));
    tenant.delete(&id).await.unwrap();
    tenant.finish().await.unwrap();
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
    let plain = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
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
    let labels = |installation: &str| {
        HashMap::from(
            [
                ("ai.molecule.installation", installation),
                ("ai.molecule.organization", "00000000-0000-0000-0000-000000000000"),
                ("ai.molecule.workspace", "01a20500-0000-7000-8000-000000000000"),
                ("ai.molecule.generation", "1"),
                ("ai.molecule.launch", "1"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
        )
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
