//! What operators do: plans, limits, the hosts that workspaces may be told to reach, orphans, and the end of an
//! organisation with all that it has at a provider.

use std::collections::HashMap;

use bollard::Docker;
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{
    CreateContainerOptions, InspectContainerOptions, ListNetworksOptions, RemoveContainerOptions,
};
use molecule_domain::error::ErrorReason;
use molecule_proto::controlplane::v1 as wire;
use molecule_service_kit::status::from_status;
use molecule_tests::controlplane::{Customer, Installation, Replica};
use molecule_tests::images::{self, Kind, docker};
use molecule_tests::postgres::execute;
use prost_types::FieldMask;

const CONTROL_PLANE: &str = env!("CARGO_BIN_EXE_controlplane-under-test");
/// A workspace that no record explains.
const UNEXPLAINED: &str = "01a20500-0000-7000-8000-00000000abcd";
const PLANS: &str =
    "[plans.small]\nworkspaces = 3\nhighest_tier = 'T2'\nruntimes = ['demo']\nbackend = 'docker'\n";

fn provision(workspace: &str, agents_url: String) -> wire::ProvisionWorkspaceRequest {
    wire::ProvisionWorkspaceRequest {
        workspace_id: workspace.to_owned(),
        spec: Some(wire::InstanceSpec { runtime: "demo".to_owned(), agents_url, ..Default::default() }),
        bootstrap_token: b"token".to_vec(),
        ..wire::ProvisionWorkspaceRequest::default()
    }
}

async fn phase(customer: &mut Customer, workspace: &str) -> wire::InstancePhase {
    let request = wire::GetWorkspaceInstanceRequest { workspace_id: workspace.to_owned() };
    customer.get_workspace_instance(request).await.unwrap().into_inner().instance.unwrap().phase()
}

async fn until<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    let began = std::time::Instant::now();
    while !holds().await {
        assert!(began.elapsed().as_secs() < 60, "not {what}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

/// The networks in a range.
async fn networks(docker: &Docker, subnets: &str) -> usize {
    let all = docker.list_networks(None::<ListNetworksOptions>).await.unwrap();
    let configs = all.into_iter().filter_map(|network| network.ipam?.config);
    configs
        .flatten()
        .filter(|config| config.subnet.as_deref().is_some_and(|s| s.starts_with(subnets)))
        .count()
}

/// A container that no record explains, with the labels of a launch.
async fn orphan(docker: &Docker, installation: &Installation, organization: &str, launch: i64) -> String {
    let owner = installation.database.text("SELECT value FROM settings WHERE name = 'installation_id'");
    let labels = [
        ("ai.molecule.installation", owner.await.unwrap()),
        ("ai.molecule.organization", organization.to_owned()),
        ("ai.molecule.workspace", UNEXPLAINED.to_owned()),
        ("ai.molecule.generation", "1".to_owned()),
        ("ai.molecule.launch", launch.to_string()),
    ];
    let body = ContainerCreateBody {
        image: Some(Kind::Root.image()),
        labels: Some(HashMap::from(labels.map(|(name, value)| (name.to_owned(), value)))),
        ..ContainerCreateBody::default()
    };
    docker.create_container(None::<CreateContainerOptions>, body).await.unwrap().id
}

/// A launch that the database does not know, and that no tenant tells of: all of its workspace goes once the alarm is ended,
/// and not before. What the database has launched goes when an operator says so.
async fn what_is_unknown_goes_by_an_operators_word(
    installation: &Installation,
    replica: &Replica,
    organization: &str,
) {
    let (docker, mut operator) = (docker().await.unwrap(), replica.operator().await.unwrap());
    let unknown = orphan(&docker, installation, organization, 999).await;
    let is_there =
        async |id: &str| docker.inspect_container(id, None::<InspectContainerOptions>).await.is_ok();
    until("the alarm", || {
        let mut operator = operator.clone();
        async move {
            let listed = operator.list_alarms(wire::ListAlarmsRequest {}).await.unwrap().into_inner();
            listed.alarms.iter().any(|alarm| alarm.backend == "docker")
        }
    })
    .await;
    // whose tenant may still tell of something is named, whether the database knows the organisation or not
    let lost = uuid::Uuid::new_v4().to_string();
    let of_lost = orphan(&docker, installation, &lost, 998).await;
    let listed = operator.list_alarms(wire::ListAlarmsRequest {}).await.unwrap().into_inner();
    assert_eq!(listed.organizations_without_agreement, [organization]);
    assert_eq!(listed.unknown_organizations, [lost]);
    docker.remove_container(&of_lost, None::<RemoveContainerOptions>).await.unwrap();
    let listed = operator.list_orphans(wire::ListOrphansRequest {}).await.unwrap().into_inner();
    assert_eq!(listed.alarms.len(), 1);
    // whatever else there is of its workspace goes with it, and is shown
    assert_eq!(listed.orphans.iter().map(|orphan| orphan.launch).collect::<Vec<_>>(), [999, 0]);
    let sweep = |etag: &str| wire::SweepOrphansRequest { etag: etag.to_owned() };
    let dry = operator.sweep_orphans(sweep("")).await.unwrap().into_inner();
    assert_eq!((dry.removed, dry.orphans.len()), (false, 2));
    let refused = from_status(operator.sweep_orphans(sweep(&dry.etag)).await.unwrap_err());
    assert_eq!(refused.reason, ErrorReason::AlarmStands, "{refused}");

    let clear = |etag: &str| wire::ClearAlarmsRequest { etag: etag.to_owned() };
    let dry = operator.clear_alarms(clear("")).await.unwrap().into_inner();
    assert_eq!((dry.cleared, &dry.orphans), (false, &listed.orphans));
    let refused = from_status(operator.clear_alarms(clear("of something else")).await.unwrap_err());
    assert_eq!(refused.reason, ErrorReason::StaleEtag, "{refused}");
    assert!(is_there(&unknown).await, "it went while the alarm stands");
    assert!(operator.clear_alarms(clear(&dry.etag)).await.unwrap().into_inner().cleared);
    until("rid of it", async || !is_there(&unknown).await).await;
    let listed = operator.list_alarms(wire::ListAlarmsRequest {}).await.unwrap().into_inner();
    assert_eq!(listed, wire::ListAlarmsResponse::default());

    // from now on the database answers for that launch: what is left of it is an orphan like any other
    let known = orphan(&docker, installation, organization, 999).await;
    let refused = from_status(operator.sweep_orphans(sweep("of something else")).await.unwrap_err());
    assert_eq!(refused.reason, ErrorReason::StaleEtag, "{refused}");
    let dry = operator.sweep_orphans(sweep("")).await.unwrap().into_inner();
    let swept = operator.sweep_orphans(sweep(&dry.etag)).await.unwrap().into_inner();
    assert_eq!((swept.removed, &swept.orphans, swept.orphans.len()), (true, &dry.orphans, 2));
    assert!(!is_there(&known).await, "the orphan is still there");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organization_lives_by_its_plan_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let docker = docker().await.unwrap();
    if docker.inspect_image(&Kind::Root.image()).await.is_err() {
        images::import(&docker, Kind::Root).await.unwrap();
    }
    std::fs::write(folder.path().join("plans.toml"), PLANS).unwrap();
    let installation = Installation::new(CONTROL_PLANE, folder.path(), 9).await.unwrap();
    let plans = folder.path().join("plans.toml").display().to_string();
    let installation = installation.with("CONTROLPLANE_PLANS_FILE", plans);
    let replica = installation.start("one").await.unwrap();
    let mut operator = replica.operator().await.unwrap();

    // a plan brings its limits, and an unknown one is named
    let asked = |plan: &str| wire::CreateOrganizationRequest {
        organization: Some(wire::Organization {
            name: "acme".to_owned(),
            plan: plan.to_owned(),
            allowed_agent_hosts: vec![installation.gateway()],
            ..wire::Organization::default()
        }),
    };
    let refused = from_status(operator.create_organization(asked("large")).await.unwrap_err());
    assert_eq!(refused.fields[0].field, "organization.plan");
    assert!(refused.fields[0].description.contains("small"), "{refused:?}");
    let made = operator.create_organization(asked("small")).await.unwrap().into_inner().organization.unwrap();
    let (organization_id, limits) = (made.organization_id, made.limits.unwrap());
    assert_eq!((limits.workspaces, limits.runtimes.as_slice()), (Some(3), &["demo".to_owned()][..]));
    let request = wire::IssueTokenRequest { organization_id: organization_id.clone(), name: "t".to_owned() };
    let token = operator.issue_token(request).await.unwrap().into_inner().secret;
    let mut customer = replica.customer(&token).await.unwrap();

    // what would be admitted is told by what admits
    let preview = |count| wire::PreviewAdmissionRequest {
        count,
        runtime: "demo".to_owned(),
        ..wire::PreviewAdmissionRequest::default()
    };
    assert!(customer.preview_admission(preview(3)).await.unwrap().into_inner().admitted);
    let told = customer.preview_admission(preview(4)).await.unwrap().into_inner();
    assert_eq!((told.admitted, told.reason.as_str()), (false, "QUOTA_EXCEEDED"));
    assert!(told.checks.iter().any(|check| check.exceeded && check.limit == "workspaces"), "{told:?}");

    // workspaces are told to reach only what operators allow
    let workspace = uuid::Uuid::new_v4().to_string();
    let elsewhere = provision(&workspace, "http://169.254.169.254/latest".to_owned());
    let refused = from_status(customer.provision_workspace(elsewhere).await.unwrap_err());
    assert_eq!(refused.fields[0].field, "spec.agents_url", "{refused:?}");
    let agents_url = format!("http://{}:7071", installation.gateway());
    customer.provision_workspace(provision(&workspace, agents_url)).await.unwrap();
    until("up", || {
        let (mut customer, workspace) = (customer.clone(), workspace.clone());
        async move { phase(&mut customer, &workspace).await == wire::InstancePhase::Up }
    })
    .await;
    assert_eq!(networks(&docker, "10.215.9.").await, 1);

    // lowering a limit stops nothing, and refuses what is asked from then on
    let lowered = wire::UpdateOrganizationRequest {
        organization: Some(wire::Organization {
            organization_id: organization_id.clone(),
            limits: Some(wire::Limits { workspaces: Some(0), ..wire::Limits::default() }),
            ..wire::Organization::default()
        }),
        update_mask: Some(FieldMask { paths: vec!["limits".to_owned()] }),
    };
    operator.update_organization(lowered).await.unwrap();
    assert_eq!(phase(&mut customer, &workspace).await, wire::InstancePhase::Up);
    assert!(!customer.preview_admission(preview(1)).await.unwrap().into_inner().admitted);

    what_is_unknown_goes_by_an_operators_word(&installation, &replica, &organization_id).await;

    // an organisation with something left stays; one without takes its network along
    let delete = wire::DeleteOrganizationRequest { organization_id: organization_id.clone() };
    let refused = from_status(operator.delete_organization(delete.clone()).await.unwrap_err());
    assert_eq!(refused.reason, ErrorReason::OrganizationInUse);
    let request = wire::DeprovisionWorkspaceRequest {
        workspace_id: workspace.clone(),
        intent: 2,
        tenant: None,
        seen: None,
    };
    customer.deprovision_workspace(request).await.unwrap();
    until("gone", || {
        let (mut customer, workspace) = (customer.clone(), workspace.clone());
        async move { phase(&mut customer, &workspace).await == wire::InstancePhase::Gone }
    })
    .await;
    operator.delete_organization(delete).await.unwrap();
    let closed = from_status(customer.get_quota(wire::GetQuotaRequest {}).await.unwrap_err());
    assert_eq!(closed.reason, ErrorReason::Unauthenticated);
    until("rid of the network", || async { networks(&docker, "10.215.9.").await == 0 }).await;
    // then its subnet may be given out again
    until("rid of the subnet", || async {
        installation.database.number("SELECT COUNT(*) FROM networks").await.unwrap() == 0
    })
    .await;
    replica.stop().await.unwrap();
    installation.finish().await.unwrap();
}

/// What each replica does beside serving: it finishes suspensions that were cut short, and drops what is old.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_does_its_chores() {
    let folder = tempfile::tempdir().unwrap();
    let docker = docker().await.unwrap();
    if docker.inspect_image(&Kind::Root.image()).await.is_err() {
        images::import(&docker, Kind::Root).await.unwrap();
    }
    let installation = Installation::new(CONTROL_PLANE, folder.path(), 25).await.unwrap();
    let replica = installation.start("one").await.unwrap();
    let (organization, token) = installation.organization(&replica, wire::Limits::default()).await.unwrap();
    let workspace = uuid::Uuid::new_v4().to_string();
    let agents_url = format!("http://{}:7071", installation.gateway());
    let mut customer = replica.customer(&token).await.unwrap();
    customer.provision_workspace(provision(&workspace, agents_url)).await.unwrap();
    replica.stop().await.unwrap();
    let write = async |what: String| execute(&installation.database.url(), what).await.unwrap();
    write(format!(
        "UPDATE organizations SET standing = 'Suspended' WHERE organization_id = '{organization}'"
    ))
    .await;
    write(format!(
        "INSERT INTO launches (organization_id, at, workspace_id) VALUES ('{organization}', to_timestamp(1), '{workspace}')"
    ))
    .await;

    // as where nobody has pruned for a while
    write("DELETE FROM roles WHERE role = 'prune'".to_owned()).await;

    let replica = installation.start("one").await.unwrap();
    let count = async |what| installation.database.number(what).await.unwrap();
    until("stopped", async || count("SELECT COUNT(*) FROM instances WHERE desired = 'Running'").await == 0)
        .await;
    until("rid of what is old", async || {
        count("SELECT COUNT(*) FROM launches WHERE at < now() - interval '1 year'").await == 0
    })
    .await;
    let mut customer = replica.customer(&token).await.unwrap();
    let request = wire::DeprovisionWorkspaceRequest {
        workspace_id: workspace.clone(),
        intent: 2,
        ..wire::DeprovisionWorkspaceRequest::default()
    };
    customer.deprovision_workspace(request).await.unwrap();
    until("gone", || {
        let (mut customer, workspace) = (customer.clone(), workspace.clone());
        async move { phase(&mut customer, &workspace).await == wire::InstancePhase::Gone }
    })
    .await;
    replica.stop().await.unwrap();
    installation.finish().await.unwrap();
}

/// Nobody can say what is at a backend that does not answer, or is not configured any more: its alarm stands, whoever ends it.
#[tokio::test(flavor = "multi_thread")]
async fn an_alarm_of_a_backend_of_which_nothing_is_known_stands() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::new(CONTROL_PLANE, folder.path(), 11).await.unwrap();
    let nobody = format!("unix://{}", folder.path().join("nobody").display());
    let installation = installation.with("DOCKER_HOST", nobody);
    let replica = installation.start("one").await.unwrap();
    let mut operator = replica.operator().await.unwrap();
    let raise =
        "INSERT INTO alarms (backend, raised_at, message) VALUES ('docker', now(), ''), ('ec2', now(), '')";
    execute(&installation.database.url(), raise.to_owned()).await.unwrap();
    let listed = operator.list_alarms(wire::ListAlarmsRequest {}).await.unwrap().into_inner();
    assert_eq!(listed.alarms.len(), 2);
    assert_eq!(listed.unreachable_backends, ["docker", "ec2"]);

    let clear = |etag: &str| wire::ClearAlarmsRequest { etag: etag.to_owned() };
    let shown = operator.clear_alarms(clear("")).await.unwrap().into_inner();
    assert_eq!(shown.alarms.iter().map(|alarm| alarm.backend.as_str()).collect::<Vec<_>>(), ["docker"]);
    let refused = from_status(operator.clear_alarms(clear(&shown.etag)).await.unwrap_err());
    assert_eq!(refused.reason, ErrorReason::BackendUnavailable);
    assert!(refused.message.contains("docker does not answer"), "{refused}");
    assert_eq!(installation.database.number("SELECT COUNT(*) FROM alarms").await.unwrap(), 2);

    execute(&installation.database.url(), "DELETE FROM alarms WHERE backend = 'docker'".to_owned())
        .await
        .unwrap();
    let refused = from_status(operator.clear_alarms(clear("")).await.unwrap_err());
    assert_eq!(refused.reason, ErrorReason::BackendUnavailable);
    assert!(refused.message.contains("ec2 stands until that backend is configured again"), "{refused}");
    assert_eq!(installation.database.number("SELECT COUNT(*) FROM alarms").await.unwrap(), 1);
}
