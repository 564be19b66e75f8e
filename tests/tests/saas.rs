//! A SaaS tenant and its control plane as real processes, over real PostgreSQL and Docker.

use molecule_domain::error::{ErrorReason, StoredWish};
use molecule_proto::controlplane::v1::{
    AdoptDatabaseRequest, GetDatabaseIdentityRequest, Limits, SuspendOrganizationRequest,
};
use molecule_proto::tenant::v1::{
    CreateWorkspaceRequest, DeleteWorkspaceRequest, GetServerInfoRequest, ListWorkspacesRequest, Mode,
    RestartWorkspaceRequest, StartWorkspaceRequest, StopWorkspaceRequest,
};
use molecule_proto::workspace::v1::{Reason, Workspace, WorkspaceState};
use molecule_service_kit::status::{from_status, stored};
use molecule_tests::controlplane::Installation;
use molecule_tests::images::{self, Kind, docker};
use molecule_tests::tenant::spec;
use tonic::Code;

const TENANT: &str = env!("CARGO_BIN_EXE_tenant-under-test");
const CONTROL_PLANE: &str = env!("CARGO_BIN_EXE_controlplane-under-test");

async fn installation(folder: &tempfile::TempDir, subnet: u8) -> Installation {
    let docker = docker().await.unwrap();
    if docker.inspect_image(&Kind::Root.image()).await.is_err() {
        images::import(&docker, Kind::Root).await.unwrap();
    }
    Installation::new(CONTROL_PLANE, folder.path(), subnet).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_runs_within_its_quota_and_stops_when_suspended() {
    let folder = tempfile::tempdir().unwrap();
    let installation = installation(&folder, 1).await;
    let (one, two) = (installation.start("one").await.unwrap(), installation.start("two").await.unwrap());
    let limits = Limits { workspaces: Some(1), ..Limits::default() };
    let (organization, token) = installation.organization(&one, limits).await.unwrap();
    let setup = installation.tenant(TENANT, &[&one, &two], &organization, &token).unwrap();
    let mut tenant = setup.start().await.unwrap();
    let info = tenant.client.get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.mode(), Mode::Saas);

    let created = tenant.create(spec("first", "demo")).await.unwrap();
    let id = created.workspace_id;
    let running = tenant.reaches(&id, WorkspaceState::Running).await.unwrap();
    assert!(!running.agent.unwrap().url.is_empty());

    let denied = from_status(tenant.create(spec("one too many", "demo")).await.unwrap_err());
    assert_eq!(denied.reason, ErrorReason::QuotaExceeded);
    assert_eq!(
        (denied.limits[0].limit.as_ref(), denied.limits[0].cap, denied.limits[0].used),
        ("workspaces", 1, 1)
    );

    // a replica that drains sends the tenant to the other, where it goes on from its cursor
    one.stop().await.unwrap();
    let suspend = SuspendOrganizationRequest { organization_id: organization, message: "unpaid".to_owned() };
    two.operator().await.unwrap().suspend_organization(suspend).await.unwrap();
    let stopped = tenant.reaches(&id, WorkspaceState::Stopped).await.unwrap();
    assert_eq!(stopped.reason(), Reason::OrganizationSuspended);
    let events = tenant.events(&id).await.unwrap();
    let suspended = events.iter().find(|event| event.kind == "suspended").expect("it is told why");
    assert_eq!((suspended.reason(), suspended.actor.as_str()), (Reason::OrganizationSuspended, "operator"));

    tenant.delete(&id).await.unwrap();
    tenant.stop().await.unwrap();
    two.stop().await.unwrap();
    installation.finish().await.unwrap();
}

/// While the control plane is away, what is there is read, stopped and deleted; nothing new begins, and nothing ever
/// begins on local Docker.
#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_is_away_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let installation = installation(&folder, 3).await;
    let mut replica = installation.start("one").await.unwrap();
    let (organization, token) = installation.organization(&replica, Limits::default()).await.unwrap();
    let setup = installation.tenant(TENANT, &[&replica], &organization, &token).unwrap();
    let mut tenant = setup.start().await.unwrap();
    let [stopped, deleted] = [(); 2].map(|()| uuid::Uuid::new_v4().to_string());
    for id in [&stopped, &deleted] {
        let request = CreateWorkspaceRequest {
            workspace_id: id.clone(),
            spec: Some(spec("there", "demo")),
            ..CreateWorkspaceRequest::default()
        };
        tenant.client.create_workspace(request).await.unwrap();
        tenant.reaches(id, WorkspaceState::Running).await.unwrap();
    }

    replica.signal("KILL").unwrap();
    replica.ends().await.unwrap();
    // it takes a moment to be noticed; until then a call finds out by itself
    let refused = loop {
        let request = CreateWorkspaceRequest {
            request_id: "while away".to_owned(),
            spec: Some(spec("new", "demo")),
            ..CreateWorkspaceRequest::default()
        };
        let refused = tenant.client.create_workspace(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
        let info = tenant.client.get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner();
        if info.mirror_age.is_some_and(|age| age.seconds >= 2) {
            break refused;
        }
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    };
    let refused = from_status(refused);
    assert_eq!(refused.reason, ErrorReason::ControlPlaneUnavailable);
    assert!(refused.retry_after.is_some());
    assert_eq!(tenant.get(&stopped).await.unwrap().state(), WorkspaceState::Running);
    let stop = StopWorkspaceRequest { workspace_id: stopped.clone(), ..StopWorkspaceRequest::default() };
    let stopping = tenant.client.stop_workspace(stop).await.unwrap().into_inner().workspace.unwrap();
    assert!(stopping.pending_since.is_some(), "{stopping:?}");
    assert!(stopping.pending_cause.contains("the control plane can't be asked now"), "{stopping:?}");
    let delete =
        DeleteWorkspaceRequest { workspace_id: deleted.clone(), ..DeleteWorkspaceRequest::default() };
    let deleting = tenant.client.delete_workspace(delete).await.unwrap().into_inner().workspace.unwrap();
    assert_eq!(deleting.state(), WorkspaceState::Deleting);
    // a tenant that starts now knows all of it still
    tenant.replace().await.unwrap();
    assert_eq!(tenant.get(&deleted).await.unwrap().state(), WorkspaceState::Deleting);

    installation.replace("one", &mut replica).await.unwrap();
    tenant.reaches(&stopped, WorkspaceState::Stopped).await.unwrap();
    tenant.reaches(&deleted, WorkspaceState::Deleted).await.unwrap();
    let all = tenant.client.list_workspaces(ListWorkspacesRequest::default()).await.unwrap().into_inner();
    let left: Vec<_> = all.workspaces.iter().filter(|workspace| workspace.workspace_id != stopped).collect();
    // what was asked for in the moment before the outage was noticed may have been stored: then it is done
    for workspace in left {
        tenant.delete(&workspace.workspace_id).await.unwrap();
    }
    tenant.delete(&stopped).await.unwrap();
    tenant.stop().await.unwrap();
    replica.stop().await.unwrap();
    installation.finish().await.unwrap();
}

/// A control plane that is frozen answers nobody: what was asked for then is carried out in its order, and whoever asked is
/// told no untruth about it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_of_a_frozen_control_plane_is_carried_out_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let installation = installation(&folder, 40).await;
    let replica = installation.start("one").await.unwrap();
    let (organization, token) = installation.organization(&replica, Limits::default()).await.unwrap();
    let setup = installation.tenant(TENANT, &[&replica], &organization, &token).unwrap();
    let mut tenant = setup.start().await.unwrap();
    let id = tenant.create(spec("frozen", "demo")).await.unwrap().workspace_id;
    tenant.reaches(&id, WorkspaceState::Running).await.unwrap();

    replica.signal("STOP").unwrap();
    let restart =
        || RestartWorkspaceRequest { workspace_id: id.clone(), ..RestartWorkspaceRequest::default() };
    // whoever says how long it waits hears in time that its wish is stored, of which workspace, and how to get rid of it
    let mut request = tonic::Request::new(restart());
    request.metadata_mut().insert("grpc-timeout", "2S".parse().unwrap());
    for request in [request, tonic::Request::new(restart())] {
        let waits = tenant.client.restart_workspace(request).await.unwrap_err();
        assert_eq!(stored(&waits), Some(StoredWish::GoesOn(id.parse().unwrap())), "{waits:?}");
        assert!(waits.message().contains(&id) && waits.message().contains("stop the workspace"), "{waits:?}");
    }
    let stop = StopWorkspaceRequest { workspace_id: id.clone(), ..StopWorkspaceRequest::default() };
    tenant.client.stop_workspace(stop).await.unwrap();
    replica.signal("CONT").unwrap();

    let stopped = tenant.until(&id, "stopped", |one| one.state() == WorkspaceState::Stopped).await.unwrap();
    assert_eq!(stopped.generation, 3, "both restarts were carried out before the stop");
    tenant.client.restart_workspace(restart()).await.unwrap();
    let up = |one: &Workspace| one.state() == WorkspaceState::Running && one.generation == 4;
    tenant.until(&id, "running again", up).await.unwrap();
    tenant.delete(&id).await.unwrap();
    tenant.stop().await.unwrap();
    replica.stop().await.unwrap();
    installation.finish().await.unwrap();
}

/// A token of another organisation's gets nothing, and the tenant says why.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_another_organization_is_found_out() {
    let folder = tempfile::tempdir().unwrap();
    let installation = installation(&folder, 4).await;
    let replica = installation.start("one").await.unwrap();
    let (_, token) = installation.organization(&replica, Limits::default()).await.unwrap();
    let (other, _) = installation.organization(&replica, Limits::default()).await.unwrap();
    let setup = installation.tenant(TENANT, &[&replica], &other, &token).unwrap();
    let mut tenant = setup.start().await.unwrap();
    let began = std::time::Instant::now();
    while !tenant.setup.whole_log().contains("MOLECULE_ORG_TOKEN is a token of organisation") {
        assert!(began.elapsed().as_secs() < 20, "{}", tenant.setup.whole_log());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(tenant.create(spec("x", "demo")).await.unwrap_err().code(), Code::Unavailable);
    tenant.stop().await.unwrap();
    replica.stop().await.unwrap();
    installation.finish().await.unwrap();
}

/// A dump of the control plane's database is put back under a tenant that goes on: it follows anew, and tells again what was
/// asked for since the dump was made.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_heals_a_control_plane_of_which_a_dump_was_put_back() {
    let folder = tempfile::tempdir().unwrap();
    let installation = installation(&folder, 8).await;
    let mut replica = installation.start("one").await.unwrap();
    let (organization, token) = installation.organization(&replica, Limits::default()).await.unwrap();
    let setup = installation.tenant(TENANT, &[&replica], &organization, &token).unwrap();
    let mut tenant = setup.start().await.unwrap();
    let created = tenant.create(spec("restored", "demo")).await.unwrap();
    let id = created.workspace_id;
    tenant.reaches(&id, WorkspaceState::Running).await.unwrap();
    let dump = installation.database.copy().await.unwrap();
    let stop = StopWorkspaceRequest { workspace_id: id.clone(), ..StopWorkspaceRequest::default() };
    tenant.client.stop_workspace(stop).await.unwrap();
    tenant.reaches(&id, WorkspaceState::Stopped).await.unwrap();
    let told = tenant.events(&id).await.unwrap().len();

    replica.signal("KILL").unwrap();
    replica.ends().await.unwrap();
    installation.database.put_back(dump).await.unwrap();
    let held = "SELECT desired FROM instances";
    assert_eq!(installation.database.text(held).await.unwrap(), "Running");
    installation.replace("one", &mut replica).await.unwrap();
    let mut operator = replica.operator().await.unwrap();
    let identity = operator.get_database_identity(GetDatabaseIdentityRequest {}).await.unwrap().into_inner();
    assert!(!identity.adopted);
    operator.adopt_database(AdoptDatabaseRequest { actual: identity.actual }).await.unwrap();
    let began = std::time::Instant::now();
    while installation.database.text(held).await.unwrap() != "Stopped" {
        assert!(began.elapsed().as_secs() < 90, "the tenant does not tell again what was lost");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    tenant.reaches(&id, WorkspaceState::Stopped).await.unwrap();
    let start = StartWorkspaceRequest { workspace_id: id.clone(), ..StartWorkspaceRequest::default() };
    tenant.client.start_workspace(start).await.unwrap();
    tenant.reaches(&id, WorkspaceState::Running).await.unwrap();
    let events = tenant.events(&id).await.unwrap();
    assert!(events.len() > told, "what happens since is told");
    let admitted = events.iter().filter(|event| event.kind == "admitted").count();
    assert_eq!(admitted, 1, "what was told is not told again");
    tenant.delete(&id).await.unwrap();
    tenant.stop().await.unwrap();
    replica.stop().await.unwrap();
    installation.finish().await.unwrap();
}
