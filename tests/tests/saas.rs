//! A SaaS tenant and its control plane as real processes, over real PostgreSQL and Docker.

use molecule_domain::error::ErrorReason;
use molecule_proto::controlplane::v1::{Limits, SuspendOrganizationRequest};
use molecule_proto::tenant::v1::{GetServerInfoRequest, Mode};
use molecule_proto::workspace::v1::{Reason, WorkspaceState};
use molecule_service_kit::status::from_status;
use molecule_tests::controlplane::Installation;
use molecule_tests::images::{self, Kind, docker};
use molecule_tests::tenant::spec;

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

    let suspend = SuspendOrganizationRequest { organization_id: organization, message: "unpaid".to_owned() };
    two.operator().await.unwrap().suspend_organization(suspend).await.unwrap();
    let stopped = tenant.reaches(&id, WorkspaceState::Stopped).await.unwrap();
    assert_eq!(stopped.reason(), Reason::OrganizationSuspended);
    let events = tenant.events(&id).await.unwrap();
    let suspended = events.iter().find(|event| event.kind == "suspended").expect("it is told why");
    assert_eq!((suspended.reason(), suspended.actor.as_str()), (Reason::OrganizationSuspended, "operator"));

    tenant.delete(&id).await.unwrap();
    tenant.stop().await.unwrap();
    one.stop().await.unwrap();
    two.stop().await.unwrap();
    installation.finish().await.unwrap();
}
