//! What a control plane does before its tenant has agreed with it, and after it has refused something.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use molecule_domain::error::{Error, ErrorReason};
use molecule_proto::controlplane::v1 as wire;
use molecule_proto::workspace::v1::Tier;
use molecule_service_kit::status::from_status;
use molecule_tests::controlplane::{Customer, Installation};
use molecule_tests::images::{self, Kind, docker};

const CONTROL_PLANE: &str = env!("CARGO_BIN_EXE_controlplane-under-test");
/// Many looks of an engine's.
const A_WHILE: Duration = Duration::from_secs(4);

/// How many agreements there were: each process counts up.
static AGREEMENTS: AtomicU64 = AtomicU64::new(0);

/// A process of a tenant's, by what it says of itself.
struct Process {
    customer: Customer,
    tenant: wire::Standpoint,
    agents_url: String,
}

impl Process {
    async fn meet(&self) -> wire::MeetResponse {
        let request = wire::MeetRequest { tenant: Some(self.tenant.clone()), ..wire::MeetRequest::default() };
        self.customer.clone().meet(request).await.unwrap().into_inner()
    }

    async fn agree(&self, met: &wire::MeetResponse, waiting: &[(&str, u64)]) -> Result<(), Error> {
        let named = waiting
            .iter()
            .map(|(id, intent)| wire::WaitingWish { workspace_id: (*id).to_owned(), intent: *intent });
        let request = wire::AgreeRequest {
            tenant: Some(self.tenant.clone()),
            seen: met.control_plane.clone(),
            waiting: named.collect(),
            offset: 0,
            total: u32::try_from(waiting.len()).unwrap(),
            number: AGREEMENTS.fetch_add(1, Ordering::Relaxed) + 1,
        };
        self.customer.clone().agree(request).await.map(drop).map_err(from_status)
    }

    async fn provision(&self, id: &str, intent: u64, is_final: bool) -> Result<(), Error> {
        let request = wire::ProvisionWorkspaceRequest {
            workspace_id: id.to_owned(),
            spec: Some(wire::InstanceSpec {
                runtime: "demo".to_owned(),
                tier: Tier::T2.into(),
                agents_url: self.agents_url.clone(),
                ..wire::InstanceSpec::default()
            }),
            bootstrap_token: b"token".to_vec(),
            intent,
            tenant: Some(self.tenant.clone()),
            refusal_is_final: is_final,
            ..wire::ProvisionWorkspaceRequest::default()
        };
        self.customer.clone().provision_workspace(request).await.map(drop).map_err(from_status)
    }

    async fn stop(&self, id: &str, intent: u64) {
        let request = wire::StopWorkspaceRequest {
            workspace_id: id.to_owned(),
            intent,
            tenant: Some(self.tenant.clone()),
            ..wire::StopWorkspaceRequest::default()
        };
        self.customer.clone().stop_workspace(request).await.unwrap();
    }

    async fn delete(&self, id: &str, intent: u64) {
        let request = wire::DeprovisionWorkspaceRequest {
            workspace_id: id.to_owned(),
            intent,
            tenant: Some(self.tenant.clone()),
            ..wire::DeprovisionWorkspaceRequest::default()
        };
        self.customer.clone().deprovision_workspace(request).await.unwrap();
    }

    async fn phase(&self, id: &str) -> wire::InstancePhase {
        let request = wire::GetWorkspaceInstanceRequest { workspace_id: id.to_owned() };
        let answer = self.customer.clone().get_workspace_instance(request).await.unwrap();
        answer.into_inner().instance.unwrap().phase()
    }

    async fn leaves(&self, id: &str, phase: wire::InstancePhase) {
        for _ in 0..300 {
            if self.phase(id).await != phase {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{id} stays {phase:?}");
    }
}

fn id() -> String {
    uuid::Uuid::new_v4().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_launches_what_its_tenant_has_agreed_on() {
    let docker = docker().await.unwrap();
    if docker.inspect_image(&Kind::Root.image()).await.is_err() {
        images::import(&docker, Kind::Root).await.unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::new(CONTROL_PLANE, folder.path(), 48).await.unwrap();
    let mut replica = installation.start("one").await.unwrap();
    let (organization, token) = installation.organization(&replica, wire::Limits::default()).await.unwrap();
    let mut process = Process {
        customer: replica.customer(&token).await.unwrap(),
        tenant: wire::Standpoint { incarnation: id(), revision: 1, time: None },
        agents_url: format!("http://{}:7071", installation.gateway()),
    };
    let met = process.meet().await;
    assert!(!met.agreed);
    let (one, other) = (id(), id());
    for workspace in [&one, &other] {
        process.provision(workspace, 1, true).await.unwrap();
    }
    tokio::time::sleep(A_WHILE).await;
    for workspace in [&one, &other] {
        assert_eq!(process.phase(workspace).await, wire::InstancePhase::Admitted, "nothing was agreed on");
    }
    // of the other a stop waits to be told
    process.agree(&met, &[(&other, 2)]).await.unwrap();
    assert!(process.meet().await.agreed);
    process.leaves(&one, wire::InstancePhase::Admitted).await;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(process.phase(&other).await, wire::InstancePhase::Admitted, "its stop was not told yet");
    process.stop(&other, 2).await;
    process.leaves(&other, wire::InstancePhase::Admitted).await;
    assert_eq!(process.phase(&other).await, wire::InstancePhase::Stopped);

    // another start of the control plane may go by a backup
    installation.replace("one", &mut replica).await.unwrap();
    process.customer = replica.customer(&token).await.unwrap();
    let third = id();
    let again = process.meet().await;
    assert!(!again.agreed);
    let refused = process.agree(&met, &[]).await.unwrap_err();
    assert_eq!(
        refused.reason,
        ErrorReason::StoreUnavailable,
        "it has agreed with the start before: {refused}"
    );
    process.provision(&third, 1, true).await.unwrap();
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(process.phase(&third).await, wire::InstancePhase::Admitted);
    // an operator sees whose word is missing
    let mut operator = replica.operator().await.unwrap();
    let missing = operator.list_alarms(wire::ListAlarmsRequest {}).await.unwrap().into_inner();
    assert_eq!(missing.organizations_without_agreement, [organization]);
    process.agree(&again, &[]).await.unwrap();
    let missing = operator.list_alarms(wire::ListAlarmsRequest {}).await.unwrap().into_inner();
    assert_eq!(missing.organizations_without_agreement, Vec::<String>::new());
    process.leaves(&third, wire::InstancePhase::Admitted).await;

    for workspace in [&one, &other, &third] {
        process.delete(workspace, 9).await;
        for _ in 0..300 {
            if process.phase(workspace).await == wire::InstancePhase::Gone {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(process.phase(workspace).await, wire::InstancePhase::Gone);
    }
    replica.stop().await.unwrap();
    installation.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_for_good_is_not_granted_to_a_late_call() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::new(CONTROL_PLANE, folder.path(), 49).await.unwrap();
    let replica = installation.start("one").await.unwrap();
    let none = wire::Limits { workspaces: Some(0), ..wire::Limits::default() };
    let (organization_id, token) = installation.organization(&replica, none).await.unwrap();
    let process = Process {
        customer: replica.customer(&token).await.unwrap(),
        tenant: wire::Standpoint { incarnation: id(), revision: 1, time: None },
        agents_url: format!("http://{}:7071", installation.gateway()),
    };
    let (refused_for_good, asked_again) = (id(), id());
    // of either something waits that was asked for later
    let met = process.meet().await;
    process.agree(&met, &[(&refused_for_good, 3), (&asked_again, 3)]).await.unwrap();
    let awaited = async || {
        let query = "SELECT string_agg(workspace_id::text, ' ') FROM tenant_waiting";
        installation.database.text(query).await.unwrap()
    };
    assert_eq!(awaited().await.split(' ').count(), 2);
    for (workspace, is_final) in [(&refused_for_good, true), (&asked_again, false)] {
        let refused = process.provision(workspace, 1, is_final).await.unwrap_err();
        assert_eq!(refused.reason, ErrorReason::QuotaExceeded);
    }
    // a refused creation takes all with it that was asked for after it
    assert_eq!(awaited().await, asked_again);
    let organization =
        wire::Organization { organization_id, limits: Some(wire::Limits::default()), ..Default::default() };
    let update_mask = Some(prost_types::FieldMask { paths: vec!["limits".to_owned()] });
    let request = wire::UpdateOrganizationRequest { organization: Some(organization), update_mask };
    replica.operator().await.unwrap().update_organization(request).await.unwrap();
    let late = process.provision(&refused_for_good, 1, true).await.unwrap_err();
    assert_eq!(late.reason, ErrorReason::QuotaExceeded, "{late}");
    process.provision(&asked_again, 1, false).await.unwrap();
    process.provision(&refused_for_good, 2, true).await.unwrap();
    replica.stop().await.unwrap();
    installation.finish().await.unwrap();
}
