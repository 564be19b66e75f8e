//! `molecule admin` and `molecule quota`: what operators and tenants ask of the control plane itself.

mod arguments;
mod database;
mod limits;
mod show;

use std::path::Path;

use molecule_proto::controlplane::v1 as wire;
use molecule_proto::controlplane::v1::organization_service_client::OrganizationServiceClient;
use molecule_proto::controlplane::v1::provisioning_service_client::ProvisioningServiceClient;
use molecule_proto::workspace::v1::Tier;
use molecule_service_kit::client::{Bearer, channel};
use prost_types::FieldMask;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

pub(crate) use self::arguments::{Admin, Quota};
use self::arguments::{Alarms, ControlPlane, Do, Organizations, Orphans, Tokens};
use crate::Format;
use crate::failure::{Failure, changed};

type Result<T> = std::result::Result<T, Failure>;
type Authorized = InterceptedService<Channel, Bearer>;
type Operator = OrganizationServiceClient<Authorized>;

fn connect(at: &ControlPlane, token: &str) -> Result<(Channel, Bearer)> {
    let authority = at.ca_file.as_deref().map(|path| read(path, "--ca-file")).transpose()?;
    let channel = channel(&at.url, authority.as_deref(), at.allow_plain)
        .map_err(|error| Failure::Usage(format!("--controlplane: {error}")))?;
    let bearer = Bearer::new(&token.trim().to_owned().into());
    Ok((channel, bearer.ok_or_else(|| Failure::Usage("that is no token".to_owned()))?))
}

fn read(path: &Path, option: &str) -> Result<String> {
    std::fs::read_to_string(path)
        .map_err(|error| Failure::Usage(format!("{option} {}: {error}", path.display())))
}

/// What an operator does.
pub(crate) async fn run(admin: Admin, format: Format) -> Result<()> {
    let token = operator_token(&admin)?;
    let (channel, bearer) = connect(&admin.at, &token)?;
    let mut client = OrganizationServiceClient::with_interceptor(channel, bearer);
    match admin.what {
        Do::Database(what) => database::run(&mut client, what, format).await,
        Do::Org(what) => organizations(&mut client, what, format).await,
        Do::Tokens(what) => tokens(&mut client, what, format).await,
        Do::Audit { org, limit } => {
            let request = wire::ListAuditEventsRequest {
                organization_id: org,
                page_size: limit,
                page_token: String::new(),
            };
            show::audit(&client.list_audit_events(request).await?.into_inner().events, format);
            Ok(())
        }
        Do::Orphans(Orphans::List) => {
            let listed = client.list_orphans(wire::ListOrphansRequest {}).await?.into_inner();
            let shown = show::Orphans {
                listed: &listed.orphans,
                awaited: Some(&listed.awaited),
                recovered: Some(&listed.recovered),
                unreachable: &listed.unreachable_backends,
            };
            show::orphans(&shown, format);
            if !listed.alarms.is_empty() {
                eprintln!("an alarm stands, and nothing is removed: see `molecule admin alarms`");
            }
            Ok(())
        }
        Do::Alarms { what: None } => {
            let listed = client.list_alarms(wire::ListAlarmsRequest {}).await?.into_inner();
            let shown = wire::ClearAlarmsResponse {
                alarms: listed.alarms,
                orphans: listed.orphans,
                unreachable_backends: listed.unreachable_backends,
                organizations_without_agreement: listed.organizations_without_agreement,
                unknown_organizations: listed.unknown_organizations,
                awaited: listed.awaited,
                ..wire::ClearAlarmsResponse::default()
            };
            show::alarms(&shown, format);
            Ok(())
        }
        Do::Alarms { what: Some(Alarms::Clear(confirmed)) } => {
            let request = wire::ClearAlarmsRequest { etag: confirmed.etag() };
            let cleared = changed(client.clear_alarms(request).await)?;
            show::alarms(&cleared, format);
            if !cleared.cleared && !cleared.alarms.is_empty() {
                eprintln!(
                    "nothing was ended; this ends the alarms, and then what is listed is removed: \
                     molecule admin alarms clear --confirm {}",
                    cleared.etag
                );
            }
            Ok(())
        }
        Do::Orphans(Orphans::Sweep(confirmed)) => {
            let request = wire::SweepOrphansRequest { etag: confirmed.etag() };
            let swept = changed(client.sweep_orphans(request).await)?;
            show::swept(&swept, format);
            if !swept.removed && !swept.orphans.is_empty() {
                eprintln!(
                    "nothing was removed; this removes what is listed: molecule admin orphans sweep --confirm {}",
                    swept.etag
                );
            }
            Ok(())
        }
    }
}

/// The token, from the environment, or from a file that holds it alone or after the operator's name.
fn operator_token(admin: &Admin) -> Result<String> {
    if let Ok(token) = std::env::var("MOLECULE_OPERATOR_TOKEN") {
        return Ok(token);
    }
    let path = admin.operator_token_file.as_deref().ok_or_else(|| {
        Failure::Usage(
            "an operator's token is needed: set MOLECULE_OPERATOR_TOKEN, or name its file with --operator-token-file"
                .to_owned(),
        )
    })?;
    let text = read(path, "--operator-token-file")?;
    let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    let token = line.and_then(|line| line.split_whitespace().last());
    token.map(str::to_owned).ok_or_else(|| Failure::Usage(format!("{} holds no token", path.display())))
}

async fn organizations(client: &mut Operator, what: Organizations, format: Format) -> Result<()> {
    let organization = match what {
        Organizations::Create { name, id, plan, limits, agent_hosts, backend } => {
            let limits =
                if limits.is_empty() { None } else { Some(limits::apply(wire::Limits::default(), &limits)?) };
            let organization = wire::Organization {
                organization_id: id,
                name,
                plan,
                limits,
                allowed_agent_hosts: agent_hosts,
                backend,
                ..wire::Organization::default()
            };
            let request = wire::CreateOrganizationRequest { organization: Some(organization) };
            changed(client.create_organization(request).await)?.organization
        }
        Organizations::List => {
            let mut request = wire::ListOrganizationsRequest { page_size: 500, ..Default::default() };
            let mut all = Vec::new();
            loop {
                let page = client.list_organizations(request.clone()).await?.into_inner();
                all.extend(page.organizations);
                if page.next_page_token.is_empty() {
                    show::organizations(&all, format);
                    return Ok(());
                }
                request.page_token = page.next_page_token;
            }
        }
        Organizations::Get { id } => Some(get(client, id).await?),
        Organizations::Update { id, name, plan, limits, agent_hosts, backend, standing } => {
            let mut new = get(client, id).await?;
            let mut paths = Vec::new();
            let mut change = |path: &str| paths.push(path.to_owned());
            if let Some(name) = name {
                new.name = name;
                change("name");
            }
            if let Some(plan) = plan {
                new.plan = plan;
                change("plan");
            }
            if !limits.is_empty() {
                new.limits = Some(limits::apply(new.limits.unwrap_or_default(), &limits)?);
                change("limits");
            }
            if !agent_hosts.is_empty() {
                new.allowed_agent_hosts = agent_hosts;
                change("allowed_agent_hosts");
            }
            if let Some(backend) = backend {
                new.backend = backend;
                change("backend");
            }
            if let Some(standing) = standing {
                new.standing = wire::Standing::from(standing).into();
                change("standing");
            }
            if paths.is_empty() {
                return Err(Failure::Usage("there is nothing to change; see --help".to_owned()));
            }
            let update_mask = Some(FieldMask { paths });
            let request = wire::UpdateOrganizationRequest { organization: Some(new), update_mask };
            changed(client.update_organization(request).await)?.organization
        }
        Organizations::Suspend { id, message } => {
            let request = wire::SuspendOrganizationRequest { organization_id: id, message };
            changed(client.suspend_organization(request).await)?.organization
        }
        Organizations::Resume { id } => {
            let request = wire::ResumeOrganizationRequest { organization_id: id };
            changed(client.resume_organization(request).await)?.organization
        }
        Organizations::Delete { id } => {
            let request = wire::DeleteOrganizationRequest { organization_id: id };
            changed(client.delete_organization(request).await)?;
            return Ok(());
        }
    };
    show::organization(&organization.unwrap_or_default(), format);
    Ok(())
}

async fn get(client: &mut Operator, organization_id: String) -> Result<wire::Organization> {
    let request = wire::GetOrganizationRequest { organization_id };
    let found = client.get_organization(request).await?.into_inner().organization;
    found.ok_or_else(|| Failure::Other("the control plane answered without an organisation".to_owned()))
}

async fn tokens(client: &mut Operator, what: Tokens, format: Format) -> Result<()> {
    match what {
        Tokens::Issue { org, name } => {
            let request = wire::IssueTokenRequest { organization_id: org, name };
            let issued = changed(client.issue_token(request).await)?;
            show::issued(&issued, format);
        }
        Tokens::List { org } => {
            let request = wire::ListTokensRequest { organization_id: org };
            show::tokens(&client.list_tokens(request).await?.into_inner().tokens, format);
        }
        Tokens::Revoke { org, token } => {
            let request = wire::RevokeTokenRequest { organization_id: org, token_id: token };
            let revoked = changed(client.revoke_token(request).await)?.token;
            show::tokens(revoked.as_slice(), format);
        }
    }
    Ok(())
}

/// What a tenant's organisation may use, and uses; or what admission would say.
pub(crate) async fn quota(quota: Quota, format: Format) -> Result<()> {
    let token = match (std::env::var("MOLECULE_ORG_TOKEN"), &quota.org_token_file) {
        (Ok(token), _) => token,
        (Err(_), Some(path)) => read(path, "--org-token-file")?,
        (Err(_), None) => {
            return Err(Failure::Usage(
                "the organisation's token is needed: set MOLECULE_ORG_TOKEN, or name its file with --org-token-file"
                    .to_owned(),
            ));
        }
    };
    let (channel, bearer) = connect(&quota.at, &token)?;
    let mut client = ProvisioningServiceClient::with_interceptor(channel, bearer);
    let Some(runtime) = quota.preview else {
        show::quota(&client.get_quota(wire::GetQuotaRequest {}).await?.into_inner(), format);
        return Ok(());
    };
    let tier = Tier::from_str_name(&format!("TIER_{}", quota.tier.to_uppercase()))
        .ok_or_else(|| Failure::Usage(format!("--tier {}: use T1 to T4", quota.tier)))?;
    let request = wire::PreviewAdmissionRequest { count: quota.count, runtime, tier: tier.into() };
    let preview = client.preview_admission(request).await?.into_inner();
    show::preview(&preview, format);
    if preview.admitted { Ok(()) } else { Err(Failure::Other(preview.message)) }
}
