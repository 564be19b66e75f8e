//! A control plane that admits and never launches.

use anyhow::Context;
use molecule_proto::controlplane::v1::{
    CreateOrganizationRequest, InstanceSpec, IssueTokenRequest, Limits, Organization,
    ProvisionWorkspaceRequest,
};
use molecule_tests::controlplane::{Customer, Installation, Replica};

use crate::{SUBNET, beside};

/// A control plane whose engine never begins: what is admitted stays as it is.
pub(crate) async fn idle(folder: &tempfile::TempDir) -> anyhow::Result<(Installation, Replica)> {
    let nobody = format!("unix://{}", folder.path().join("nobody").display());
    let installation = Installation::new(&beside("controlplane-svc")?, folder.path(), SUBNET)
        .await?
        .with("CONTROLPLANE_DOCKER_ISOLATION", "require")
        .with("CONTROLPLANE_LOG", "error")
        .with("DOCKER_HOST", nobody);
    let replica = installation.start("idle").await?;
    Ok((installation, replica))
}

pub(crate) async fn organizations(
    replica: &Replica,
    gateway: &str,
    count: usize,
) -> anyhow::Result<Vec<(String, String)>> {
    let mut operator = replica.operator().await?;
    let mut made = Vec::new();
    for n in 0..count {
        let organization = Organization {
            name: format!("bench-{n}"),
            limits: Some(Limits { workspaces: Some(1_000_000), ..Limits::default() }),
            allowed_agent_hosts: vec![gateway.to_owned()],
            ..Organization::default()
        };
        let request = CreateOrganizationRequest { organization: Some(organization) };
        let id = operator.create_organization(request).await?.into_inner().organization;
        let organization_id = id.context("no organisation")?.organization_id;
        let request =
            IssueTokenRequest { organization_id: organization_id.clone(), name: "bench".to_owned() };
        made.push((organization_id, operator.issue_token(request).await?.into_inner().secret));
    }
    Ok(made)
}

pub(crate) async fn provision(customer: &mut Customer, gateway: &str) -> anyhow::Result<()> {
    let spec = InstanceSpec {
        runtime: "demo".to_owned(),
        agents_url: format!("http://{gateway}:7071"),
        ..InstanceSpec::default()
    };
    let request = ProvisionWorkspaceRequest {
        workspace_id: uuid::Uuid::now_v7().to_string(),
        spec: Some(spec),
        bootstrap_token: b"bench".to_vec(),
        ..ProvisionWorkspaceRequest::default()
    };
    customer.provision_workspace(request).await?;
    Ok(())
}
