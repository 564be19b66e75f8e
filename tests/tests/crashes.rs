//! The process is killed, as kill -9 does, right after each step of each operation; a new one goes on from
//! what is stored. The backend's own steps also fail, lose their reply and come twice. The steps are those that
//! the executor and the backend take; should they become fewer, the sweep has lost its sight. A test run takes
//! a seeded share of them, `cargo xtask soak` all.

use molecule_proto::tenant::v1::{
    DeleteWorkspaceRequest, RestartWorkspaceRequest, StartWorkspaceRequest, StopWorkspaceRequest,
    UpdateWorkspaceRequest,
};
use molecule_proto::workspace::v1::{Workspace, WorkspaceState};
use molecule_tests::images::{self, Kind, docker};
use molecule_tests::leftovers;
use molecule_tests::seed::Choice;
use molecule_tests::tenant::{Setup, Tenant, spec};
use tonic::Status;

const PROGRAM: &str = env!("CARGO_BIN_EXE_tenant-under-test");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Create,
    Stop,
    Start,
    Restart,
    ChangeSpec,
    Delete,
}

impl Op {
    const fn ends_in(self) -> WorkspaceState {
        match self {
            Self::Create | Self::Start | Self::Restart | Self::ChangeSpec => WorkspaceState::Running,
            Self::Stop => WorkspaceState::Stopped,
            Self::Delete => WorkspaceState::Deleted,
        }
    }

    /// The different steps of one undisturbed run, at least.
    const fn steps(self) -> usize {
        match self {
            Self::Create => 10,
            Self::Stop => 4,
            Self::Start => 4,
            Self::Restart | Self::ChangeSpec => 12,
            Self::Delete => 5,
        }
    }
}

async fn ask(tenant: &mut Tenant, op: Op, workspace: &str) -> Result<(), Status> {
    let workspace_id = workspace.to_owned();
    let client = &mut tenant.client;
    match op {
        Op::Create => {
            let request = molecule_proto::tenant::v1::CreateWorkspaceRequest {
                workspace_id,
                request_id: workspace.to_owned(),
                spec: Some(spec("swept", "demo")),
                ..Default::default()
            };
            client.create_workspace(request).await.map(drop)
        }
        Op::Stop => {
            client.stop_workspace(StopWorkspaceRequest { workspace_id, ..Default::default() }).await.map(drop)
        }
        Op::Start => client
            .start_workspace(StartWorkspaceRequest { workspace_id, ..Default::default() })
            .await
            .map(drop),
        Op::Restart => client
            .restart_workspace(RestartWorkspaceRequest { workspace_id, ..Default::default() })
            .await
            .map(drop),
        Op::ChangeSpec => {
            let mut changed = spec("swept", "demo");
            changed.env.insert("CHANGED".into(), "1".into());
            let request = UpdateWorkspaceRequest {
                workspace_id,
                spec: Some(changed),
                update_mask: Some(prost_types::FieldMask { paths: vec!["env".into()] }),
                ..Default::default()
            };
            client.update_workspace(request).await.map(drop)
        }
        Op::Delete => client
            .delete_workspace(DeleteWorkspaceRequest { workspace_id, ..Default::default() })
            .await
            .map(drop),
    }
}

/// A workspace that `op` makes sense for.
async fn ready_for(tenant: &mut Tenant, op: Op) -> String {
    let workspace = uuid::Uuid::now_v7().to_string();
    if op == Op::Create {
        return workspace;
    }
    ask(tenant, Op::Create, &workspace).await.unwrap();
    tenant.reaches(&workspace, WorkspaceState::Running).await.unwrap();
    if op == Op::Start {
        ask(tenant, Op::Stop, &workspace).await.unwrap();
        tenant.reaches(&workspace, WorkspaceState::Stopped).await.unwrap();
    }
    workspace
}

/// The steps that `op` takes when nothing happens to it, each once.
async fn steps_of(setup: &Setup, op: Op) -> Vec<String> {
    let file = setup.data().with_extension("steps");
    let mut tenant = setup.clone().start().await.unwrap();
    let workspace = ready_for(&mut tenant, op).await;
    tenant.stop().await.unwrap();
    let _ = std::fs::remove_file(&file);
    let mut tenant = setup.clone().with("TEST_STEPS", file.display().to_string()).start().await.unwrap();
    ask(&mut tenant, op, &workspace).await.unwrap();
    tenant.reaches(&workspace, op.ends_in()).await.unwrap();
    // the last step is noted right after its commit, which is what woke us
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let text = std::fs::read_to_string(&file).unwrap();
    if op != Op::Delete {
        tenant.delete(&workspace).await.unwrap();
    }
    tenant.stop().await.unwrap();
    let mut steps: Vec<String> = Vec::new();
    // looking changes nothing, and the sweep looks whenever it likes
    let names = text.lines().filter_map(|line| line.split(' ').next());
    for step in names.filter(|step| !step.contains("list")) {
        if !steps.iter().any(|known| known == step) {
            steps.push(step.to_owned());
        }
    }
    steps
}

async fn sweep(op: Op, subnet: u8) {
    let folder = tempfile::tempdir().unwrap();
    let docker = docker().await.unwrap();
    if docker.inspect_image(&Kind::Root.image()).await.is_err() {
        images::import(&docker, Kind::Root).await.unwrap();
    }
    let setup = Setup::new(PROGRAM, folder.path(), subnet).await.unwrap();
    let steps = steps_of(&setup, op).await;
    assert!(steps.len() >= op.steps(), "{op:?}: only {} steps are left: {steps:?}", steps.len());
    let choice = Choice::one_in(3);
    for step in choice.of(&format!("{op:?} killed"), steps.clone()) {
        let mut tenant = setup.start().await.unwrap();
        let workspace = ready_for(&mut tenant, op).await;
        tenant.stop().await.unwrap();

        let mut doomed = setup.clone().with("TEST_KILL_AFTER", format!("{step}:1")).start().await.unwrap();
        // its answer may come or not: what was asked for is stored before anything happens
        let _ = ask(&mut doomed, op, &workspace).await;
        // a step that a run may do without, such as waiting, is not always reached
        let _ = tokio::time::timeout(std::time::Duration::from_secs(5), doomed.ends()).await;
        drop(doomed);
        let mut heir = setup.start().await.unwrap();
        converges(&mut heir, op, &workspace, &format!("{op:?}, killed after {step}")).await;
        heir.stop().await.unwrap();
    }
    let docker_steps = steps.iter().filter(|step| step.starts_with("docker."));
    let faults = ["FailBefore", "LoseReply", "Repeat"];
    let faulty = docker_steps.flat_map(|step| faults.map(|fault| (step.as_str(), fault))).collect();
    for (step, fault) in choice.of(&format!("{op:?} disturbed"), faulty) {
        let mut tenant = setup.start().await.unwrap();
        let workspace = ready_for(&mut tenant, op).await;
        tenant.stop().await.unwrap();
        let mut tenant = setup.clone().with("TEST_FAULT", format!("{step}:1:{fault}")).start().await.unwrap();
        ask(&mut tenant, op, &workspace).await.unwrap();
        converges(&mut tenant, op, &workspace, &format!("{op:?}, {fault} at {step}")).await;
        tenant.stop().await.unwrap();
    }
    leftovers::remove(&docker, &format!("10.214.{subnet}.")).await.unwrap();
}

/// It ends as it was asked for, once, and when it is deleted nothing is left.
async fn converges(tenant: &mut Tenant, op: Op, workspace: &str, what: &str) {
    let generation = if matches!(op, Op::Restart | Op::ChangeSpec) { 2 } else { 1 };
    let as_asked = |w: &Workspace| w.state() == op.ends_in() && w.generation == generation;
    tenant
        .until(workspace, "as it was asked for", as_asked)
        .await
        .unwrap_or_else(|e| panic!("{what}: {e:#}"));
    if op.ends_in() == WorkspaceState::Running {
        let containers = containers_of(workspace).await;
        assert_eq!(containers.len(), 1, "{what}: {containers:?}");
    }
    if op != Op::Delete {
        tenant.delete(workspace).await.unwrap();
    }
    assert_eq!(containers_of(workspace).await, Vec::<String>::new(), "{what}");
    assert_eq!(volumes_of(workspace).await, Vec::<String>::new(), "{what}");
}

async fn containers_of(workspace: &str) -> Vec<String> {
    let filter = [("label".to_owned(), vec![format!("ai.molecule.workspace={workspace}")])].into();
    let options =
        bollard::query_parameters::ListContainersOptionsBuilder::default().all(true).filters(&filter).build();
    let listed = docker().await.unwrap().list_containers(Some(options)).await.unwrap();
    listed.into_iter().flat_map(|container| container.names.unwrap_or_default()).collect()
}

async fn volumes_of(workspace: &str) -> Vec<String> {
    let filter = [("label".to_owned(), vec![format!("ai.molecule.workspace={workspace}")])].into();
    let options = bollard::query_parameters::ListVolumesOptionsBuilder::default().filters(&filter).build();
    let listed = docker().await.unwrap().list_volumes(Some(options)).await.unwrap();
    listed.volumes.unwrap_or_default().into_iter().map(|volume| volume.name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn create_survives_a_kill_after_each_step() {
    sweep(Op::Create, 21).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_survives_a_kill_after_each_step() {
    sweep(Op::Stop, 22).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn start_survives_a_kill_after_each_step() {
    sweep(Op::Start, 23).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restart_survives_a_kill_after_each_step() {
    sweep(Op::Restart, 24).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_spec_survives_a_kill_after_each_step() {
    sweep(Op::ChangeSpec, 26).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_survives_a_kill_after_each_step() {
    sweep(Op::Delete, 25).await;
}
