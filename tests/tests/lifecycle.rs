//! What workspaces live through, in both modes, in real containers.

use bollard::query_parameters::{InspectContainerOptions, RemoveContainerOptionsBuilder};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::TokioExecutor;
use molecule_proto::tenant::v1::{RestartWorkspaceRequest, StartWorkspaceRequest, StopWorkspaceRequest};
use molecule_proto::workspace::v1::{Reason, Tier, Workspace, WorkspaceSpec, WorkspaceState};
use molecule_tests::images::docker;
use molecule_tests::stand::{Programs, Stand};
use molecule_tests::tenant::{Tenant, spec};
use molecule_tests::{in_both_modes, leftovers};
use serde_json::{Value, json};

const PROGRAMS: Programs = Programs {
    tenant: env!("CARGO_BIN_EXE_tenant-under-test"),
    control_plane: env!("CARGO_BIN_EXE_controlplane-under-test"),
};

in_both_modes! {
    PROGRAMS;
    every_kind_of_image_lives_and_leaves_nothing(11),
    stop_start_restart_keep_what_they_say(12),
    // longer than a sweep: a runtime that has ended may be noticed by that only
    what_fails_says_why(13, "TENANT_CONNECT_DEADLINE" = "20", "TENANT_RESTART_BUDGET" = "2"),
    a_runtime_that_ends_is_started_again(14),
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

async fn every_kind_of_image_lives_and_leaves_nothing(mut tenant: Stand) {
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
        let gateway = format!("http://{}:7071", tenant.gateway());
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
    for (place, bytes) in [
        ("database", database),
        ("wal", wal),
        ("log", tenant.setup.whole_log().into_bytes()),
        ("control plane", tenant.known_to_control_plane().await.unwrap().into_bytes()),
    ] {
        let found = bytes.windows(7).any(|window| window == b"hunter2");
        assert!(!found, "a secret is in clear text in the {place}");
    }
    tenant.finish().await.unwrap();
}

async fn stop_start_restart_keep_what_they_say(mut tenant: Stand) {
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

async fn what_fails_says_why(mut tenant: Stand) {
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

async fn a_runtime_that_ends_is_started_again(mut tenant: Stand) {
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
