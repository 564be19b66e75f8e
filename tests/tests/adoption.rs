//! A copy of the control plane's database beside the real one, on one Docker daemon: what runs over the copy reads, and
//! launches, stops, removes and changes nothing, until an operator says that the database has moved.

use std::time::{Duration, Instant};

use molecule_domain::error::ErrorReason;
use molecule_proto::controlplane::v1 as wire;
use molecule_service_kit::status::from_status;
use molecule_tests::controlplane::{Customer, Installation, OPERATOR_TOKEN, Replica};
use molecule_tests::images::{self, Kind, docker};
use molecule_tests::postgres::execute;
use molecule_tests::raw::{call, rpcs_of};
use prost::Message;
use tonic_types::StatusExt;

const CONTROL_PLANE: &str = env!("CARGO_BIN_EXE_controlplane-under-test");
const MOLECULE: &str = env!("CARGO_BIN_EXE_molecule-under-test");
/// Several sweeps of the policy under test, and what it takes for an orphan's grace to pass.
const SEVERAL_SWEEPS: Duration = Duration::from_secs(8);
/// What may be asked of a database that is not in use; the other RPCs are refused.
const READS: [&str; 14] = [
    "GetWorkspaceInstance",
    "ListInstances",
    "WatchInstances",
    "StreamInstanceLogs",
    "GetConsoleOutput",
    "GetQuota",
    "PreviewAdmission",
    "GetOrganization",
    "ListOrganizations",
    "ListTokens",
    "ListAuditEvents",
    "ListOrphans",
    "ListAlarms",
    "GetDatabaseIdentity",
];

async fn until<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed().as_secs() < 60, "not {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn phase(customer: &Customer, workspace: &str) -> wire::InstancePhase {
    let request = wire::GetWorkspaceInstanceRequest { workspace_id: workspace.to_owned() };
    let found = customer.clone().get_workspace_instance(request).await.unwrap().into_inner();
    found.instance.unwrap().phase()
}

async fn reaches(customer: &Customer, workspace: &str, wanted: wire::InstancePhase) {
    until(&format!("{wanted:?}"), || async { phase(customer, workspace).await == wanted }).await;
}

fn provision(installation: &Installation, workspace: &str) -> wire::ProvisionWorkspaceRequest {
    wire::ProvisionWorkspaceRequest {
        workspace_id: workspace.to_owned(),
        spec: Some(wire::InstanceSpec {
            runtime: "demo".to_owned(),
            agents_url: format!("http://{}:7071", installation.gateway()),
            ..wire::InstanceSpec::default()
        }),
        bootstrap_token: b"token".to_vec(),
        ..wire::ProvisionWorkspaceRequest::default()
    }
}

/// Every RPC but the reads is refused, and says what to do.
async fn all_changes_are_refused(replica: &Replica, token: &str) {
    let (mut refused, mut reads) = (0, 0);
    for (service, rpc) in rpcs_of("molecule.controlplane.v1").unwrap() {
        let of_operators = service.ends_with("OrganizationService");
        let token = if of_operators { OPERATOR_TOKEN } else { token };
        let message = match rpc.as_str() {
            // the way out, which is told from a request that names nothing
            "AdoptDatabase" => continue,
            "Meet" => {
                let incarnation = uuid::Uuid::new_v4().to_string();
                let tenant = Some(wire::Standpoint { incarnation, ..wire::Standpoint::default() });
                wire::MeetRequest { tenant, ..wire::MeetRequest::default() }.encode_to_vec()
            }
            _ => Vec::new(),
        };
        let channel = tonic::transport::Channel::from_shared(replica.url()).unwrap();
        let channel = channel.connect().await.unwrap();
        let answer = call(channel, &service, &rpc, Some(token), message).await;
        let reason = answer.err().and_then(|status| {
            let info = status.get_details_error_info()?;
            if info.reason == "DATABASE_NOT_ADOPTED" {
                assert!(status.message().contains("molecule admin database adopt"), "{status:?}");
            }
            Some(info.reason)
        });
        if READS.contains(&rpc.as_str()) {
            reads += 1;
            assert_ne!(reason.as_deref(), Some("DATABASE_NOT_ADOPTED"), "{rpc} is a read");
        } else {
            refused += 1;
            assert_eq!(reason.as_deref(), Some("DATABASE_NOT_ADOPTED"), "{rpc} changes something");
        }
    }
    assert_eq!(reads, READS.len());
    assert!(refused >= 15, "only {refused} RPCs that change something are left");
}

/// `molecule admin database adopt`, with nobody at a terminal.
async fn adopt_by_command(replica: &Replica, flags: &[&str]) -> std::process::Output {
    let mut command = tokio::process::Command::new(MOLECULE);
    command.args(["admin", "database", "adopt"]).args(flags).stdin(std::process::Stdio::null());
    command.env("CP_PROVISION_URL", replica.url()).env("MOLECULE_OPERATOR_TOKEN", OPERATOR_TOKEN);
    command.output().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copied_database_launches_nothing_until_it_is_adopted() {
    let folder = tempfile::tempdir().unwrap();
    let docker = docker().await.unwrap();
    if docker.inspect_image(&Kind::Root.image()).await.is_err() {
        images::import(&docker, Kind::Root).await.unwrap();
    }
    let real = Installation::new(CONTROL_PLANE, folder.path(), 35).await.unwrap();
    let replica = real.start("real").await.unwrap();
    let (_, token) = real.organization(&replica, wire::Limits::default()).await.unwrap();
    let customer = replica.customer(&token).await.unwrap();
    let [kept, deleted, stopped] = [(); 3].map(|()| uuid::Uuid::new_v4().to_string());
    for workspace in [&kept, &deleted, &stopped] {
        customer.clone().provision_workspace(provision(&real, workspace)).await.unwrap();
        reaches(&customer, workspace, wire::InstancePhase::Up).await;
    }
    // the copy holds wishes that were fulfilled since, and lacks what was launched since
    replica.stop().await.unwrap();
    let copy = real.over(real.database.copy().await.unwrap());
    execute(
        &copy.database.url(),
        format!(
            "UPDATE instances SET desired = 'Deleted', due_at = now() WHERE workspace_id = '{kept}';
             UPDATE instances SET desired = 'Stopped', due_at = now() WHERE workspace_id = '{stopped}'"
        ),
    )
    .await
    .unwrap();
    let replica = real.start("real again").await.unwrap();
    let customer = replica.customer(&token).await.unwrap();
    let later = uuid::Uuid::new_v4().to_string();
    customer.clone().provision_workspace(provision(&real, &later)).await.unwrap();
    reaches(&customer, &later, wire::InstancePhase::Up).await;
    let request = wire::DeprovisionWorkspaceRequest {
        workspace_id: deleted.clone(),
        intent: 2,
        tenant: None,
        seen: None,
    };
    customer.clone().deprovision_workspace(request).await.unwrap();
    reaches(&customer, &deleted, wire::InstancePhase::Gone).await;
    let before = real.containers().await.unwrap();
    assert_eq!(before.len(), 3, "{before:?}");

    let roles = "SELECT string_agg(role || ' until ' || until, ', ' ORDER BY role) FROM roles";
    let had_roles = copy.database.text(roles).await.unwrap();
    let foreign = copy.start("copy").await.unwrap();
    let reader = foreign.customer(&token).await.unwrap();
    assert_eq!(phase(&reader, &deleted).await, wire::InstancePhase::Up, "it reads what it holds");
    let mut stream = reader.clone().watch_instances(wire::WatchInstancesRequest::default()).await.unwrap();
    let told = loop {
        // a quiet one only says that the stream lives
        let told = stream.get_mut().message().await.unwrap().unwrap();
        if !told.instances.is_empty() {
            break told;
        }
    };
    assert_eq!((told.instances.len(), told.control_plane), (3, None), "a copy speaks for no control plane");
    // a tenant, which says which process it is, must not follow a copy
    let tenant = Some(wire::Standpoint {
        incarnation: uuid::Uuid::new_v4().to_string(),
        ..wire::Standpoint::default()
    });
    let follow = wire::WatchInstancesRequest { tenant, ..wire::WatchInstancesRequest::default() };
    let refused = from_status(reader.clone().watch_instances(follow).await.unwrap_err());
    assert_eq!(refused.reason, ErrorReason::DatabaseNotAdopted, "{refused}");
    all_changes_are_refused(&foreign, &token).await;
    let mut operator = foreign.operator().await.unwrap();
    let identity = operator.get_database_identity(wire::GetDatabaseIdentityRequest {}).await.unwrap();
    let identity = identity.into_inner();
    assert!(!identity.adopted && identity.stored != identity.actual, "{identity:?}");
    let log = foreign.whole_log();
    let told = log.lines().find(|line| line.contains("NOT ADOPTED")).expect("the log says so");
    for named in [&identity.stored, &identity.actual] {
        let named = named.as_ref().unwrap();
        let named = format!("{}/{}", named.system_identifier, named.oid);
        assert!(told.contains(&named), "{named} is not in: {told}");
    }
    assert!(told.contains("molecule admin database adopt"), "{told}");
    tokio::time::sleep(SEVERAL_SWEEPS).await;
    assert_eq!(real.containers().await.unwrap(), before, "what runs over a copy has touched something");
    assert!(!foreign.whole_log().contains("the engine runs"));
    let leases = "SELECT COUNT(*) FROM instances WHERE lease_owner IS NOT NULL";
    assert_eq!(copy.database.number(leases).await.unwrap(), 0);
    assert_eq!(copy.database.text(roles).await.unwrap(), had_roles, "somebody sweeps or counts over a copy");
    // the real one is served as before
    let mut operator_of_real = replica.operator().await.unwrap();
    let real_identity = operator_of_real.get_database_identity(wire::GetDatabaseIdentityRequest {});
    assert!(real_identity.await.unwrap().into_inner().adopted);

    // it moves: the one that it was ends, and an operator says so. What was seen is what is adopted
    replica.stop().await.unwrap();
    let stale = wire::AdoptDatabaseRequest { actual: identity.stored.clone() };
    let refused = from_status(operator.adopt_database(stale).await.unwrap_err());
    assert_eq!(refused.fields[0].field, "actual", "{refused}");
    let second = copy.start("second over the copy").await.unwrap();
    // the command prints both before anything is adopted, and adopts nothing by itself where nobody can be asked
    let asked = adopt_by_command(&foreign, &[]).await;
    let printed = String::from_utf8_lossy(&asked.stderr);
    for named in [&identity.stored, &identity.actual] {
        let named = named.as_ref().unwrap();
        assert!(
            printed.contains(&named.system_identifier) && printed.contains(&named.oid.to_string()),
            "{printed}"
        );
    }
    assert!(!asked.status.success() && printed.contains("--yes"), "{printed}");
    let request = wire::GetDatabaseIdentityRequest {};
    assert!(!operator.get_database_identity(request).await.unwrap().into_inner().adopted);
    let adopted = adopt_by_command(&foreign, &["--yes"]).await;
    assert!(adopted.status.success(), "{adopted:?}");
    operator.adopt_database(wire::AdoptDatabaseRequest { actual: identity.actual.clone() }).await.unwrap();
    // both replicas launch without a restart, and do what the copy holds
    reaches(&reader, &kept, wire::InstancePhase::Gone).await;
    reaches(&reader, &stopped, wire::InstancePhase::Stopped).await;
    for replica in [&foreign, &second] {
        until("an engine on each", || async { replica.whole_log().contains("the engine runs") }).await;
    }
    let audited = "SELECT COUNT(*) FROM audit_events WHERE action = 'adopt_database' AND actor = 'tester'";
    assert_eq!(copy.database.number(audited).await.unwrap(), 1);
    let new = uuid::Uuid::new_v4().to_string();
    second.customer(&token).await.unwrap().provision_workspace(provision(&copy, &new)).await.unwrap();
    reaches(&reader, &new, wire::InstancePhase::Up).await;
    foreign.stop().await.unwrap();
    second.stop().await.unwrap();
    copy.finish().await.unwrap();
}

/// The same under a replica that goes on: its connections come back to another database of the same name, whose older
/// wishes it does not fulfil.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_replaced_under_a_replica_is_not_served() {
    let folder = tempfile::tempdir().unwrap();
    let docker = docker().await.unwrap();
    if docker.inspect_image(&Kind::Root.image()).await.is_err() {
        images::import(&docker, Kind::Root).await.unwrap();
    }
    let installation = Installation::new(CONTROL_PLANE, folder.path(), 36).await.unwrap();
    let replica = installation.start("one").await.unwrap();
    let (_, token) = installation.organization(&replica, wire::Limits::default()).await.unwrap();
    let customer = replica.customer(&token).await.unwrap();
    let workspace = uuid::Uuid::new_v4().to_string();
    customer.clone().provision_workspace(provision(&installation, &workspace)).await.unwrap();
    reaches(&customer, &workspace, wire::InstancePhase::Up).await;
    replica.stop().await.unwrap();
    let backup = installation.database.copy().await.unwrap();
    let wish = "UPDATE instances SET desired = 'Deleted', due_at = now()".to_owned();
    execute(&backup.url(), wish).await.unwrap();

    let mut replica = installation.start("two").await.unwrap();
    let before = installation.containers().await.unwrap();
    assert_eq!(before.len(), 1, "{before:?}");
    installation.database.put_back(backup).await.unwrap();
    until("found to be another", || async { replica.whole_log().contains("NOT ADOPTED") }).await;
    let customer = replica.customer(&token).await.unwrap();
    let request = wire::DeprovisionWorkspaceRequest {
        workspace_id: workspace.clone(),
        intent: 9,
        tenant: None,
        seen: None,
    };
    let refused = async || {
        let refused = customer.clone().deprovision_workspace(request.clone()).await;
        from_status(refused.unwrap_err()).reason
    };
    // reads come back once what launched has ended
    until("read again", || async { refused().await == ErrorReason::DatabaseNotAdopted }).await;
    tokio::time::sleep(SEVERAL_SWEEPS).await;
    assert_eq!(installation.containers().await.unwrap(), before, "a wish of another database was fulfilled");
    // a restart changes nothing about it; an operator does
    installation.replace("two", &mut replica).await.unwrap();
    assert_eq!(refused().await, ErrorReason::DatabaseNotAdopted);
    let mut operator = replica.operator().await.unwrap();
    let identity = operator.get_database_identity(wire::GetDatabaseIdentityRequest {}).await.unwrap();
    let adopt = wire::AdoptDatabaseRequest { actual: identity.into_inner().actual };
    operator.adopt_database(adopt).await.unwrap();
    let customer = replica.customer(&token).await.unwrap();
    reaches(&customer, &workspace, wire::InstancePhase::Gone).await;
    replica.stop().await.unwrap();
    installation.finish().await.unwrap();
}
