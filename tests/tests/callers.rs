//! Every RPC of the control plane's, as its descriptors list them, asked by every kind of caller.

use molecule_proto::controlplane::v1 as wire;
use molecule_tests::controlplane::{Installation, OPERATOR_TOKEN, Replica};
use molecule_tests::images::{self, Kind, docker};
use molecule_tests::raw::{call, rpcs_of};
use prost::Message;
use tonic::Code;
use tonic_types::StatusExt;

const CONTROL_PLANE: &str = env!("CARGO_BIN_EXE_controlplane-under-test");
const PROVISIONING: &str = "molecule.controlplane.v1.ProvisioningService";
const ORGANIZATIONS: &str = "molecule.controlplane.v1.OrganizationService";

/// A request to a tenants' RPC about a workspace, and what is answered where that workspace is another
/// organisation's, and where it is the caller's own and the caller is suspended. An RPC without an entry fails the
/// test.
fn tenants_request(rpc: &str, workspace: &str, agents_url: &str) -> Option<(Vec<u8>, Code, Code)> {
    let workspace_id = workspace.to_owned();
    let spec = Some(wire::InstanceSpec {
        runtime: "demo".to_owned(),
        agents_url: agents_url.to_owned(),
        ..wire::InstanceSpec::default()
    });
    let bootstrap_token = b"token".to_vec();
    Some(match rpc {
        // each organisation's process is its own: nobody is met in another's place
        "Meet" => {
            let tenant = Some(wire::Standpoint {
                incarnation: uuid::Uuid::new_v4().to_string(),
                ..wire::Standpoint::default()
            });
            (wire::MeetRequest { tenant, ..Default::default() }.encode_to_vec(), Code::Ok, Code::Ok)
        }
        // it does not say where its caller's database stands
        "Agree" => (Vec::new(), Code::InvalidArgument, Code::InvalidArgument),
        // of one's own it is a replay, which is answered whatever the standing
        "ProvisionWorkspace" => {
            let request =
                wire::ProvisionWorkspaceRequest { workspace_id, spec, bootstrap_token, ..Default::default() };
            (request.encode_to_vec(), Code::AlreadyExists, Code::Ok)
        }
        "UpdateWorkspace" => {
            let (intent, generation, run, tenant) = (101, 2, false, None);
            let request = wire::UpdateWorkspaceRequest {
                workspace_id,
                intent,
                generation,
                spec,
                bootstrap_token,
                run,
                tenant,
                seen: None,
                refusal_is_final: false,
            };
            (request.encode_to_vec(), Code::NotFound, Code::Ok)
        }
        "GetWorkspaceInstance" => {
            let request = wire::GetWorkspaceInstanceRequest { workspace_id };
            (request.encode_to_vec(), Code::NotFound, Code::Ok)
        }
        "ListInstances" => (wire::ListInstancesRequest::default().encode_to_vec(), Code::Ok, Code::Ok),
        "StopWorkspace" => {
            let request = wire::StopWorkspaceRequest { workspace_id, intent: 102, ..Default::default() };
            (request.encode_to_vec(), Code::NotFound, Code::Ok)
        }
        "StartWorkspace" => {
            let request = wire::StartWorkspaceRequest { workspace_id, intent: 103, ..Default::default() };
            (request.encode_to_vec(), Code::NotFound, Code::FailedPrecondition)
        }
        "RestartWorkspace" => {
            let (intent, generation, tenant) = (104, 3, None);
            let request = wire::RestartWorkspaceRequest {
                workspace_id,
                intent,
                generation,
                spec,
                bootstrap_token,
                tenant,
                seen: None,
                refusal_is_final: false,
            };
            (request.encode_to_vec(), Code::NotFound, Code::FailedPrecondition)
        }
        "DeprovisionWorkspace" => {
            let request =
                wire::DeprovisionWorkspaceRequest { workspace_id, intent: 105, tenant: None, seen: None };
            (request.encode_to_vec(), Code::NotFound, Code::Ok)
        }
        "WatchInstances" => (wire::WatchInstancesRequest::default().encode_to_vec(), Code::Ok, Code::Ok),
        // it was never launched
        "StreamInstanceLogs" => {
            let request = wire::StreamInstanceLogsRequest { workspace_id, ..Default::default() };
            (request.encode_to_vec(), Code::NotFound, Code::FailedPrecondition)
        }
        "GetConsoleOutput" => {
            let request = wire::GetConsoleOutputRequest { workspace_id };
            (request.encode_to_vec(), Code::NotFound, Code::FailedPrecondition)
        }
        "GetQuota" => (wire::GetQuotaRequest {}.encode_to_vec(), Code::Ok, Code::Ok),
        "PreviewAdmission" => {
            let request = wire::PreviewAdmissionRequest { runtime: "demo".to_owned(), ..Default::default() };
            (request.encode_to_vec(), Code::Ok, Code::Ok)
        }
        _ => return None,
    })
}

struct Callers {
    replica: Replica,
    revoked: String,
}

impl Callers {
    async fn code(&self, service: &str, rpc: &str, token: Option<&str>, message: Vec<u8>) -> (Code, Vec<u8>) {
        let channel = tonic::transport::Channel::from_shared(self.replica.url()).unwrap();
        match call(channel.connect().await.unwrap(), service, rpc, token, message).await {
            Ok(answer) => (Code::Ok, answer),
            Err(status) => {
                let info = status.get_details_error_info();
                assert_eq!(info.map(|info| info.domain).as_deref(), Some("molecule"), "{rpc}: {status:?}");
                (status.code(), status.message().as_bytes().to_vec())
            }
        }
    }

    /// Nobody, a stranger and a former tenant are told the same everywhere.
    async fn outsiders_are_kept_out(&self, service: &str, rpc: &str) {
        for token in [None, Some("wrong"), Some(""), Some(self.revoked.as_str())] {
            let (code, _) = self.code(service, rpc, token, Vec::new()).await;
            assert_eq!(code, Code::Unauthenticated, "{rpc} asked with the token {token:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rpc_is_for_its_callers_only() {
    let folder = tempfile::tempdir().unwrap();
    let docker = docker().await.unwrap();
    if docker.inspect_image(&Kind::Root.image()).await.is_err() {
        images::import(&docker, Kind::Root).await.unwrap();
    }
    let installation = Installation::new(CONTROL_PLANE, folder.path(), 2).await.unwrap();
    let replica = installation.start("one").await.unwrap();
    let agents_url = format!("http://{}:7071", installation.gateway());
    let unlimited = wire::Limits::default();
    let (_, intruder) = installation.organization(&replica, unlimited.clone()).await.unwrap();
    let (_, owner) = installation.organization(&replica, unlimited.clone()).await.unwrap();
    let (suspended_id, suspended) = installation.organization(&replica, unlimited).await.unwrap();
    let mut operator = replica.operator().await.unwrap();
    let provision = |workspace: &str| {
        let (message, ..) = tenants_request("ProvisionWorkspace", workspace, &agents_url).unwrap();
        wire::ProvisionWorkspaceRequest::decode(message.as_slice()).unwrap()
    };
    let [theirs, own] = [(); 2].map(|()| uuid::Uuid::new_v4().to_string());
    let mut customer = replica.customer(&owner).await.unwrap();
    customer.provision_workspace(provision(&theirs)).await.unwrap();
    // its image is missing, so it is never launched
    let mut customer = replica.customer(&suspended).await.unwrap();
    let mut without_image = provision(&own);
    if let Some(spec) = &mut without_image.spec {
        spec.runtime = "demo-missing".to_owned();
    }
    customer.provision_workspace(without_image).await.unwrap();
    let request = wire::SuspendOrganizationRequest {
        organization_id: suspended_id.clone(),
        ..wire::SuspendOrganizationRequest::default()
    };
    operator.suspend_organization(request).await.unwrap();
    let request = wire::IssueTokenRequest { organization_id: suspended_id.clone(), name: "old".to_owned() };
    let issued = operator.issue_token(request).await.unwrap().into_inner();
    let request =
        wire::RevokeTokenRequest { organization_id: suspended_id, token_id: issued.token.unwrap().token_id };
    operator.revoke_token(request).await.unwrap();
    let callers = Callers { replica, revoked: issued.secret };

    let (mut of_tenants, mut of_operators) = (0, 0);
    for (service, rpc) in rpcs_of("molecule.controlplane.v1").unwrap() {
        callers.outsiders_are_kept_out(&service, &rpc).await;
        if service == ORGANIZATIONS {
            of_operators += 1;
            for token in [&intruder, &suspended] {
                let (code, _) = callers.code(&service, &rpc, Some(token), Vec::new()).await;
                assert_eq!(code, Code::PermissionDenied, "{rpc} asked by a tenant");
            }
            // an empty request is refused for what it lacks, or is fine: the operator was let in
            let (code, _) = callers.code(&service, &rpc, Some(OPERATOR_TOKEN), Vec::new()).await;
            assert!(matches!(code, Code::Ok | Code::InvalidArgument), "{rpc} asked by an operator: {code:?}");
            continue;
        }
        assert_eq!(service, PROVISIONING);
        of_tenants += 1;
        let (code, _) = callers.code(&service, &rpc, Some(OPERATOR_TOKEN), Vec::new()).await;
        assert_eq!(code, Code::PermissionDenied, "{rpc} asked by an operator");

        let (message, foreign, _) =
            tenants_request(&rpc, &theirs, &agents_url).unwrap_or_else(|| panic!("{rpc} has no entry"));
        let (code, answer) = callers.code(&service, &rpc, Some(&intruder), message).await;
        assert_eq!(code, foreign, "{rpc} on another's workspace: {}", String::from_utf8_lossy(&answer));
        if code == Code::Ok {
            let tells = answer.windows(theirs.len()).any(|window| window == theirs.as_bytes());
            assert!(!tells, "{rpc} tells of another's workspace");
        }

        let (message, _, expected) = tenants_request(&rpc, &own, &agents_url).unwrap();
        let (code, answer) = callers.code(&service, &rpc, Some(&suspended), message).await;
        assert_eq!(code, expected, "{rpc} asked while suspended: {}", String::from_utf8_lossy(&answer));
    }
    assert!(of_tenants >= 14 && of_operators >= 15, "{of_tenants} and {of_operators} RPCs are left");

    // nothing of what the intruder asked for was done
    let mut customer = callers.replica.customer(&owner).await.unwrap();
    let request = wire::GetWorkspaceInstanceRequest { workspace_id: theirs.clone() };
    let instance = customer.get_workspace_instance(request).await.unwrap().into_inner().instance.unwrap();
    assert_eq!((instance.intent, instance.generation), (1, 1));
    let request =
        wire::DeprovisionWorkspaceRequest { workspace_id: theirs, intent: 2, tenant: None, seen: None };
    customer.deprovision_workspace(request).await.unwrap();
    callers.replica.stop().await.unwrap();
    installation.finish().await.unwrap();
}
