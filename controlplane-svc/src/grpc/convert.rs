//! Between the wire's messages and the domain's types.

use molecule_domain::Violations;
use molecule_domain::error::{Error, Result};
use molecule_domain::id::{Generation, IntentNumber, OrganizationId, WorkspaceId};
use molecule_domain::launch::LaunchSpec;
use molecule_domain::limits::{Limits, Permits, Standing};
use molecule_domain::tier::Tier;
use molecule_proto::controlplane::v1 as wire;
use molecule_proto::workspace::v1 as workspace_wire;
use molecule_provisioner::admission::Account;
use molecule_provisioner::shown::Shown;
use molecule_service_kit::wire::{desired_to_wire, phase_to_wire, reason_to_wire, tier, tier_to_wire, time};
use molecule_store_postgres::accounts::{AuditEvent, Holder, Organization, Token};

use super::Parts;

const MAX_CA: usize = 64 << 10;
const MAX_TOKEN: usize = 512;

/// An instance as its tenant sees it. What only a newer version knows of it is unspecified.
pub(super) fn instance(shown: impl Into<Shown>) -> wire::Instance {
    let Shown { view, backend, created_at } = shown.into();
    let phase =
        if view.in_unknown_state { wire::InstancePhase::Unspecified } else { phase_to_wire(view.phase) };
    let desired = view.desired.map_or(workspace_wire::DesiredState::Unspecified, desired_to_wire);
    wire::Instance {
        workspace_id: view.workspace.to_string(),
        backend,
        desired_state: desired.into(),
        intent: unsigned(view.intent.0),
        generation: view.generation.0,
        phase: phase.into(),
        phase_time: Some(time(view.phase_since)),
        reason: reason_to_wire(view.reason).into(),
        message: view.message,
        endpoint: view
            .endpoint
            .map(|endpoint| wire::Endpoint { host: endpoint.host, port: endpoint.port.into() }),
        revision: unsigned(view.revision.0),
        create_time: Some(time(created_at)),
        wanted_generation: view.wanted_generation.0,
        runtime: view.runtime,
        tier: tier_to_wire(view.tier).into(),
        launched: view.launched,
    }
}

pub(super) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// A number that the wire has without a sign.
pub(super) fn signed(number: u64, field: &str) -> Result<i64> {
    i64::try_from(number).map_err(|_| Error::field(field, "is too large"))
}

/// The number of a request.
pub(super) fn intent(number: u64) -> Result<IntentNumber> {
    if number == 0 {
        return Err(Error::field("intent", "must be above 0: it makes the request repeatable"));
    }
    signed(number, "intent").map(IntentNumber)
}

pub(super) fn organization_id(text: &str) -> Result<OrganizationId> {
    text.parse().map_err(|_| Error::field("organization_id", format!("{text:?} is not a UUID")))
}

/// What a tenant asks to be launched, and its bootstrap token, sealed. All that is wrong is told at once.
pub(super) fn launch(
    parts: &Parts,
    holder: &Holder,
    workspace: WorkspaceId,
    generation: Generation,
    spec: Option<wire::InstanceSpec>,
    bootstrap_token: &[u8],
) -> Result<(LaunchSpec, Vec<u8>)> {
    let spec = spec.unwrap_or_default();
    let mut v = Violations::default();
    let asked_tier = tier(spec.tier).unwrap_or_else(|| {
        v.add("spec.tier", "there is no such tier; use TIER_T1 to TIER_T4");
        Tier::default()
    });
    check_agents_url(&spec.agents_url, holder, &mut v);
    v.require(spec.agents_ca_pem.len() <= MAX_CA, "spec.agents_ca_pem", "must have at most 64 KiB");
    let usable = (1..=MAX_TOKEN).contains(&bootstrap_token.len()) && bootstrap_token.is_ascii();
    v.require(usable, "bootstrap_token", "must be 1 to 512 bytes of ASCII");
    let launch = match parts.launch_spec(&spec.runtime, asked_tier, "spec.runtime") {
        Ok(launch) => Some(launch),
        Err(error) => {
            error.fields.into_iter().for_each(|wrong| v.add(wrong.field, wrong.description));
            None
        }
    };
    v.into_result()?;
    let launch = launch.ok_or_else(|| Error::internal("a spec without violations and without a launch"))?;
    let launch = LaunchSpec {
        agents_url: spec.agents_url.trim_end_matches('/').to_owned(),
        agents_ca: Some(spec.agents_ca_pem).filter(|pem| !pem.is_empty()),
        reset_session: spec.reset_session,
        ..launch
    };
    let context = molecule_domain::seal::token_context(workspace, generation);
    Ok((launch, parts.key.seal(bootstrap_token, &context)))
}

/// Workspaces are told to reach only what the organisation's operators allow: else a tenant could have the control
/// plane's machines call wherever it likes.
fn check_agents_url(url: &str, holder: &Holder, v: &mut Violations) {
    let field = "spec.agents_url";
    let uri = url.parse::<http::Uri>().ok();
    let parts = uri.as_ref().and_then(|uri| Some((uri.scheme_str()?, uri.host()?)));
    match parts {
        Some(("http" | "https", host)) => {
            let allowed = holder.allowed_agent_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(host));
            if !allowed {
                v.add(
                    field,
                    format!(
                        "the host {host:?} is not among the organisation's allowed agent hosts ({}); an operator can \
                         add it",
                        holder.allowed_agent_hosts.join(", ")
                    ),
                );
            }
        }
        _ => v.add(field, "must be a URL that begins with http:// or https:// and names a host"),
    }
}

pub(super) const fn standing(standing: Standing) -> wire::Standing {
    match standing {
        Standing::Good => wire::Standing::Good,
        Standing::Grace => wire::Standing::Grace,
        Standing::Suspended => wire::Standing::Suspended,
    }
}

pub(super) fn limits(account: &Account) -> wire::Limits {
    let (limits, permits) = (&account.limits, &account.permits);
    wire::Limits {
        workspaces: limits.workspaces,
        disk_gib: limits.disk_gib,
        running_workspaces: limits.running_workspaces,
        milli_cpus: limits.milli_cpus,
        memory_mib: limits.memory_mib,
        launches_per_hour: limits.launches_per_hour,
        highest_tier: permits.highest_tier.map_or(workspace_wire::Tier::Unspecified, tier_to_wire).into(),
        runtimes: permits.runtimes.clone(),
        backends: permits.backends.clone(),
    }
}

pub(super) fn limits_from(wire: wire::Limits) -> Result<(Limits, Permits)> {
    let mut v = Violations::default();
    let limits = Limits {
        workspaces: wire.workspaces,
        disk_gib: wire.disk_gib,
        running_workspaces: wire.running_workspaces,
        milli_cpus: wire.milli_cpus,
        memory_mib: wire.memory_mib,
        launches_per_hour: wire.launches_per_hour,
    };
    for (name, cap) in [
        ("workspaces", limits.workspaces),
        ("disk_gib", limits.disk_gib),
        ("running_workspaces", limits.running_workspaces),
        ("milli_cpus", limits.milli_cpus),
        ("memory_mib", limits.memory_mib),
        ("launches_per_hour", limits.launches_per_hour),
    ] {
        v.require(
            cap.is_none_or(|cap| cap >= 0),
            &format!("organization.limits.{name}"),
            "must not be negative; leave it out for no limit",
        );
    }
    let highest_tier = if wire.highest_tier == i32::from(workspace_wire::Tier::Unspecified) {
        None
    } else {
        let known = tier(wire.highest_tier);
        v.require(known.is_some(), "organization.limits.highest_tier", "there is no such tier");
        known
    };
    v.into_result()?;
    Ok((limits, Permits { highest_tier, runtimes: wire.runtimes, backends: wire.backends }))
}

pub(super) const fn usage(account: &Account) -> wire::Usage {
    wire::Usage {
        workspaces: account.used.workspaces,
        disk_gib: account.used.disk_gib,
        running_workspaces: account.used.running_workspaces,
        milli_cpus: account.used.milli_cpus,
        memory_mib: account.used.memory_mib,
        launches_last_hour: account.launches,
    }
}

pub(super) fn organization(organization: &Organization) -> wire::Organization {
    wire::Organization {
        organization_id: organization.id.to_string(),
        name: organization.name.clone(),
        plan: organization.plan.clone(),
        limits: Some(limits(&organization.account)),
        standing: standing(organization.account.standing).into(),
        allowed_agent_hosts: organization.allowed_agent_hosts.clone(),
        backend: organization.backend.clone(),
        used: Some(usage(&organization.account)),
        create_time: Some(time(organization.created_at)),
    }
}

pub(super) fn token(token: Token) -> wire::Token {
    wire::Token {
        token_id: token.id.to_string(),
        name: token.name,
        create_time: Some(time(token.created_at)),
        revoke_time: token.revoked_at.map(time),
    }
}

pub(super) fn audit_event(event: AuditEvent) -> wire::AuditEvent {
    wire::AuditEvent {
        event_id: unsigned(event.id),
        time: Some(time(event.at)),
        actor: event.actor,
        action: event.action,
        organization_id: event.organization.map(|id| id.to_string()).unwrap_or_default(),
        message: event.message,
    }
}
