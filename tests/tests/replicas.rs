//! Replicas of the control plane die, freeze and lose their database, at any moment: what they share converges by
//! itself, with nothing launched twice, nothing leaked and nothing stuck.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use molecule_proto::controlplane::v1::{InstancePhase, Limits, ListInstancesRequest};
use molecule_proto::tenant::v1::{
    CreateWorkspaceRequest, DeleteWorkspaceRequest, ListWorkspacesRequest, RestartWorkspaceRequest,
    StartWorkspaceRequest, StopWorkspaceRequest,
};
use molecule_proto::workspace::v1::{DesiredState, Workspace, WorkspaceState};
use molecule_tests::controlplane::{Installation, Replica};
use molecule_tests::images::{self, Kind, docker};
use molecule_tests::leftovers;
use molecule_tests::seed::{Choice, Dice};
use molecule_tests::tenant::{Tenant, spec};

const TENANT: &str = env!("CARGO_BIN_EXE_tenant-under-test");
const CONTROL_PLANE: &str = env!("CARGO_BIN_EXE_controlplane-under-test");
/// What `controlplane-under-test` holds a lease for, and a little.
const PAST_A_LEASE: Duration = Duration::from_secs(10);

async fn installation(folder: &tempfile::TempDir, subnet: u8) -> Installation {
    let docker = docker().await.unwrap();
    if docker.inspect_image(&Kind::Root.image()).await.is_err() {
        images::import(&docker, Kind::Root).await.unwrap();
    }
    Installation::new(CONTROL_PLANE, folder.path(), subnet).await.unwrap()
}

/// Everything as it must be once nothing moves.
async fn check(installation: &Installation, owner: &str) {
    let count = async |query| installation.database.number(query).await.unwrap();
    let drifted = "SELECT COUNT(*) FROM organizations o WHERE used_workspaces <>
        (SELECT COUNT(*) FROM instances i WHERE i.organization_id = o.organization_id AND phase <> 'Gone')";
    assert_eq!(count(drifted).await, 0, "counters do not agree with instances");
    let overlapping = "SELECT COUNT(*) FROM segments a JOIN segments b USING (workspace_id)
        WHERE a.from_at < b.from_at AND (a.until_at IS NULL OR a.until_at > b.from_at)";
    assert_eq!(count(overlapping).await, 0, "usage segments overlap");
    let open = "SELECT COUNT(*) FROM segments s JOIN instances i USING (workspace_id)
        WHERE s.until_at IS NULL AND i.up_since IS NULL";
    assert_eq!(count(open).await, 0, "a segment is open and its instance is down");
    let leases = "SELECT COUNT(*) FROM instances WHERE lease_owner IS NOT NULL AND due_at IS NULL";
    assert_eq!(count(leases).await, 0, "a lease was left behind");
    let docker = docker().await.unwrap();
    let containers = leftovers::of_installation(&docker, owner).await.unwrap();
    let launched = containers.iter().filter(|name| name.starts_with("/ws-")).count();
    let expected = "SELECT COUNT(*) FROM instances WHERE phase IN ('Up', 'Stopped')";
    assert_eq!(i64::try_from(launched).unwrap(), count(expected).await, "{containers:?}");
}

async fn owner_of(installation: &Installation) -> String {
    let text = installation.database.text("SELECT value FROM settings WHERE name = 'installation_id'");
    text.await.unwrap()
}

async fn ask(tenant: &mut Tenant, op: &str, workspace: &str) {
    let workspace_id = workspace.to_owned();
    let client = &mut tenant.client;
    // a refusal is an answer, and an outage is what this test is about
    let _ = match op {
        "create" => {
            let request = CreateWorkspaceRequest {
                workspace_id,
                request_id: workspace.to_owned(),
                spec: Some(spec("chaos", "demo")),
                ..CreateWorkspaceRequest::default()
            };
            client.create_workspace(request).await.map(drop)
        }
        "stop" => {
            client.stop_workspace(StopWorkspaceRequest { workspace_id, ..Default::default() }).await.map(drop)
        }
        "start" => client
            .start_workspace(StartWorkspaceRequest { workspace_id, ..Default::default() })
            .await
            .map(drop),
        "restart" => client
            .restart_workspace(RestartWorkspaceRequest { workspace_id, ..Default::default() })
            .await
            .map(drop),
        _ => client
            .delete_workspace(DeleteWorkspaceRequest { workspace_id, ..Default::default() })
            .await
            .map(drop),
    };
}

async fn all(tenant: &mut Tenant) -> Vec<Workspace> {
    let request = ListWorkspacesRequest { page_size: 1000, ..ListWorkspacesRequest::default() };
    tenant.client.list_workspaces(request).await.unwrap().into_inner().workspaces
}

fn settled(workspace: &Workspace) -> bool {
    let as_wanted = match workspace.desired_state() {
        DesiredState::Running => workspace.state() == WorkspaceState::Running,
        DesiredState::Stopped => {
            matches!(workspace.state(), WorkspaceState::Stopped | WorkspaceState::Failed)
        }
        _ => workspace.state() == WorkspaceState::Deleted,
    };
    as_wanted && workspace.state() != WorkspaceState::Degraded
}

/// Waits until nothing moves any more.
async fn settle(tenant: &mut Tenant, installation: &Installation) {
    let began = Instant::now();
    loop {
        let moving: Vec<_> = all(tenant).await.into_iter().filter(|workspace| !settled(workspace)).collect();
        let due = "SELECT COUNT(*) FROM instances WHERE due_at IS NOT NULL";
        if moving.is_empty() && installation.database.number(due).await.unwrap() == 0 {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(90), "stuck: {moving:#?}\n{}", tenant.setup.log());
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// What the tenant's mirror says is what the control plane says.
async fn mirror_is_whole(tenant: &mut Tenant, replica: &Replica, token: &str) {
    let mut customer = replica.customer(token).await.unwrap();
    let request = ListInstancesRequest { page_size: 500, ..ListInstancesRequest::default() };
    let listed = customer.list_instances(request).await.unwrap().into_inner().instances;
    let theirs: BTreeMap<_, _> = listed
        .into_iter()
        .map(|instance| (instance.workspace_id.clone(), (instance.generation, instance.phase())))
        .collect();
    let ours: BTreeMap<_, _> = all(tenant)
        .await
        .into_iter()
        .map(|workspace| {
            let phase = match workspace.state() {
                WorkspaceState::Running => InstancePhase::Up,
                WorkspaceState::Stopped => InstancePhase::Stopped,
                WorkspaceState::Failed => InstancePhase::Failed,
                other => panic!("{other:?} after all has settled"),
            };
            (workspace.workspace_id, (workspace.generation, phase))
        })
        .collect();
    assert_eq!(ours, theirs);
}

#[tokio::test(flavor = "multi_thread")]
async fn chaos_converges() {
    let mut dice = Dice::new();
    let folder = tempfile::tempdir().unwrap();
    let installation = installation(&folder, 5).await;
    let mut replicas = [installation.start("one").await.unwrap(), installation.start("two").await.unwrap()];
    let (organization, token) = installation.organization(&replicas[0], Limits::default()).await.unwrap();
    let setup = installation.tenant(TENANT, &[&replicas[0], &replicas[1]], &organization, &token).unwrap();
    let mut tenant = setup.start().await.unwrap();
    let workspaces: Vec<String> = (0..5).map(|_| uuid::Uuid::new_v4().to_string()).collect();
    for workspace in &workspaces {
        ask(&mut tenant, "create", workspace).await;
    }
    for _ in 0..12 {
        let workspace = dice.pick(&workspaces).clone();
        let op = *dice.pick(&["create", "stop", "start", "restart", "restart", "delete"]);
        println!("{op} {workspace}");
        ask(&mut tenant, op, &workspace).await;
        let which = dice.below(2);
        match dice.below(7) {
            0 | 1 => {
                println!("kill replica {which}");
                installation.replace(["one", "two"][which], &mut replicas[which]).await.unwrap();
            }
            2 => {
                println!("freeze replica {which} past its lease");
                replicas[which].signal("STOP").unwrap();
                tokio::time::sleep(PAST_A_LEASE).await;
                replicas[which].signal("CONT").unwrap();
            }
            3 => {
                println!("the database is away");
                installation.database.outage(Duration::from_secs(2)).await.unwrap();
            }
            4 => {
                println!("kill the tenant");
                tenant.replace().await.unwrap();
            }
            _ => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
    settle(&mut tenant, &installation).await;
    let owner = owner_of(&installation).await;
    check(&installation, &owner).await;
    mirror_is_whole(&mut tenant, &replicas[0], &token).await;
    for workspace in all(&mut tenant).await {
        tenant.delete(&workspace.workspace_id).await.unwrap();
    }
    settle(&mut tenant, &installation).await;
    check(&installation, &owner).await;
    let docker = docker().await.unwrap();
    assert_eq!(leftovers::of_installation(&docker, &owner).await.unwrap(), Vec::<String>::new());
    tenant.stop().await.unwrap();
    for replica in replicas {
        replica.stop().await.unwrap();
    }
    installation.finish().await.unwrap();
}

/// One replica dies after a step, as kill -9 has it; another, which was not there, goes on when the lease has run out.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_dies_after_a_step_and_another_goes_on() {
    let choice = Choice::one_in(4);
    let folder = tempfile::tempdir().unwrap();
    let installation = installation(&folder, 6).await;
    let noted = folder.path().join("steps");
    let first = installation.start("first").await.unwrap();
    let (organization, token) = installation.organization(&first, Limits::default()).await.unwrap();
    let port = first.port();
    let setup = installation.tenant(TENANT, &[&first], &organization, &token).unwrap();
    first.stop().await.unwrap();

    let env = [("TEST_STEPS", noted.display().to_string())];
    let replica = installation.start_at("noting", port, &env).await.unwrap();
    let mut tenant = setup.start().await.unwrap();
    let workspace = uuid::Uuid::new_v4().to_string();
    for (op, state) in [("create", WorkspaceState::Running), ("delete", WorkspaceState::Deleted)] {
        ask(&mut tenant, op, &workspace).await;
        tenant.reaches(&workspace, state).await.unwrap();
    }
    replica.stop().await.unwrap();
    let text = std::fs::read_to_string(&noted).unwrap();
    let mut steps: Vec<String> = Vec::new();
    for step in text.lines().filter_map(|line| line.split(' ').next()) {
        if !step.contains("list") && !steps.iter().any(|known| known == step) {
            steps.push(step.to_owned());
        }
    }
    assert!(steps.len() >= 12, "only {} steps are left: {steps:?}", steps.len());

    for step in choice.of("replicas", steps) {
        println!("killed after {step}");
        let env = [("TEST_KILL_AFTER", format!("{step}:1"))];
        let mut doomed = installation.start_at("doomed", port, &env).await.unwrap();
        let workspace = uuid::Uuid::new_v4().to_string();
        let mut wanted = WorkspaceState::Running;
        // the tenant may not have found the new replica yet
        while tenant.get(&workspace).await.is_err() {
            ask(&mut tenant, "create", &workspace).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        if tokio::time::timeout(Duration::from_secs(4), doomed.ends()).await.is_err() {
            ask(&mut tenant, "delete", &workspace).await;
            wanted = WorkspaceState::Deleted;
            tokio::time::timeout(Duration::from_secs(20), doomed.ends()).await.expect("it dies").unwrap();
        }
        let heir = installation.start_at("heir", port, &[]).await.unwrap();
        tenant.reaches(&workspace, wanted).await.unwrap();
        if wanted != WorkspaceState::Deleted {
            let (docker, owner) = (docker().await.unwrap(), owner_of(&installation).await);
            let containers = leftovers::of_installation(&docker, &owner).await.unwrap();
            assert_eq!(
                containers.iter().filter(|name| name.starts_with("/ws-")).count(),
                1,
                "{containers:?}"
            );
            tenant.delete(&workspace).await.unwrap();
        }
        settle(&mut tenant, &installation).await;
        check(&installation, &owner_of(&installation).await).await;
        heir.stop().await.unwrap();
    }
    tenant.stop().await.unwrap();
    installation.finish().await.unwrap();
}
