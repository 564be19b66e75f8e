//! The daemon comes late, freezes, and is started again: what runs goes on, what ended is started once.

use std::time::Duration;

use bollard::query_parameters::InspectContainerOptions;
use molecule_proto::controlplane::v1::Limits;
use molecule_proto::workspace::v1::{Reason, Workspace, WorkspaceState};
use molecule_tests::controlplane::Installation;
use molecule_tests::daemon::Daemon;
use molecule_tests::images::{self, Kind};
use molecule_tests::tenant::{Setup, Tenant, spec};
use tokio::sync::Mutex;

const PROGRAM: &str = env!("CARGO_BIN_EXE_tenant-under-test");
const CONTROL_PLANE: &str = env!("CARGO_BIN_EXE_controlplane-under-test");
/// Both tests' daemons have the same bridge.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
/// Longer than a provider call may take, and than several sweeps.
const FREEZE: Duration = Duration::from_secs(20);

async fn started_at(daemon: &Daemon, workspace: &Workspace) -> String {
    let name = format!("ws-{}-{}", workspace.workspace_id, workspace.generation);
    let found = daemon
        .client()
        .await
        .unwrap()
        .inspect_container(&name, None::<InspectContainerOptions>)
        .await
        .unwrap();
    found.state.unwrap().started_at.unwrap()
}

async fn ended(tenant: &mut Tenant, workspace: &Workspace) -> usize {
    let events = tenant.events(&workspace.workspace_id).await.unwrap();
    events.iter().filter(|event| ["exited", "vanished"].contains(&event.kind.as_str())).count()
}

/// Waits until what ended with the daemon was started again, and sees that it was only once.
async fn were_started_once(daemon: &Daemon, tenant: &mut Tenant, running: &[Workspace], before: &[String]) {
    for (workspace, before) in running.iter().zip(before) {
        let id = &workspace.workspace_id;
        for _ in 0..300 {
            if started_at(daemon, workspace).await != *before {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        tenant.reaches(id, WorkspaceState::Running).await.unwrap();
        assert_ne!(started_at(daemon, workspace).await, *before, "it was not started again");
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    for workspace in running {
        assert_eq!(ended(tenant, workspace).await, 1, "started again more than once");
    }
}

/// Sees that nothing is left on the daemon but networks, and ends it.
async fn finish(mut daemon: Daemon) {
    let left = daemon.client().await.unwrap();
    assert!(left.list_containers(None).await.unwrap().is_empty());
    let networks = left.list_networks(None).await.unwrap().into_iter().filter_map(|network| network.name);
    for network in networks.filter(|name| name.starts_with("molecule-")) {
        left.remove_network(&network).await.unwrap();
    }
    daemon.stop().unwrap();
}

/// The daemon under a control plane with two replicas is restarted, and one replica with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_daemon_under_a_control_plane() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let folder = tempfile::Builder::new().prefix("md").tempdir_in("/tmp").unwrap();
    let mut daemon = Daemon::new(folder.path());
    daemon.start().await.unwrap();
    images::import(&daemon.client().await.unwrap(), Kind::Root).await.unwrap();
    let installation = Installation::new(CONTROL_PLANE, folder.path(), 24).await.unwrap();
    let installation = installation.with("DOCKER_HOST", daemon.host());
    let mut one = installation.start("one").await.unwrap();
    let two = installation.start("two").await.unwrap();
    let (organization, token) = installation.organization(&one, Limits::default()).await.unwrap();
    let setup = installation.tenant(PROGRAM, &[&one, &two], &organization, &token).unwrap();
    let mut tenant = setup.start().await.unwrap();
    let (mut running, mut before) = (Vec::new(), Vec::new());
    for name in ["first", "second"] {
        let created = tenant.create(spec(name, "demo")).await.unwrap();
        let up = tenant.reaches(&created.workspace_id, WorkspaceState::Running).await.unwrap();
        before.push(started_at(&daemon, &up).await);
        running.push(up);
    }
    daemon.stop().unwrap();
    installation.replace("one", &mut one).await.unwrap();
    daemon.start().await.unwrap();
    were_started_once(&daemon, &mut tenant, &running, &before).await;
    for workspace in &running {
        tenant.delete(&workspace.workspace_id).await.unwrap();
    }
    tenant.stop().await.unwrap();
    one.stop().await.unwrap();
    two.stop().await.unwrap();
    finish(daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_frozen_and_restarted_daemon() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let folder = tempfile::Builder::new().prefix("md").tempdir_in("/tmp").unwrap();
    let mut daemon = Daemon::new(folder.path());
    daemon.start().await.unwrap();
    images::import(&daemon.client().await.unwrap(), Kind::Root).await.unwrap();
    daemon.stop().unwrap();

    // tenant-svc starts before the daemon, takes an order, and says what it waits for
    let setup = Setup::on_any_daemon(PROGRAM, folder.path(), 61).unwrap().with("DOCKER_HOST", daemon.host());
    let mut tenant = setup.start().await.unwrap();
    let early = tenant.create(spec("early", "demo")).await.unwrap();
    let told = |workspace: &Workspace| workspace.reason() == Reason::BackendUnreachable;
    let waiting = tenant.until(&early.workspace_id, "waiting for the provider", told).await.unwrap();
    assert_eq!(waiting.state(), WorkspaceState::Provisioning);
    daemon.start().await.unwrap();
    let mut running = vec![tenant.reaches(&early.workspace_id, WorkspaceState::Running).await.unwrap()];
    for name in ["second", "third"] {
        let created = tenant.create(spec(name, "demo")).await.unwrap();
        running.push(tenant.reaches(&created.workspace_id, WorkspaceState::Running).await.unwrap());
    }

    // frozen: reads go on, orders are taken, and nobody is restarted
    let mut before = Vec::new();
    for workspace in &running {
        before.push(started_at(&daemon, workspace).await);
    }
    daemon.signal("STOP").unwrap();
    let meanwhile = tenant.create(spec("meanwhile", "demo")).await.unwrap();
    tokio::time::sleep(FREEZE).await;
    for workspace in &running {
        let now = tenant.get(&workspace.workspace_id).await.unwrap();
        assert_eq!(now.state(), WorkspaceState::Running, "{now:?}");
    }
    daemon.signal("CONT").unwrap();
    tenant.reaches(&meanwhile.workspace_id, WorkspaceState::Running).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    for (workspace, before) in running.iter().zip(&before) {
        assert_eq!(started_at(&daemon, workspace).await, *before, "a healthy agent was restarted");
        assert_eq!(ended(&mut tenant, workspace).await, 0);
    }

    // restarted: what really ended is started again, once each
    daemon.stop().unwrap();
    daemon.start().await.unwrap();
    were_started_once(&daemon, &mut tenant, &running, &before).await;
    for workspace in running.iter().chain([&meanwhile]) {
        tenant.delete(&workspace.workspace_id).await.unwrap();
    }
    tenant.stop().await.unwrap();
    finish(daemon).await;
}
