//! Between the wire's messages and the domain's types. What is wrong with a message is told all at once.

use molecule_domain::Violations;
use molecule_domain::error::{Error, Result};
use molecule_domain::id::IntentNumber;
use molecule_domain::launch::Mount;
use molecule_domain::lifecycle::{ProvisioningPhase, Readiness, Reason, WorkspaceState};
use molecule_domain::spec::{PrivateParts, WorkspaceSpec};
use molecule_domain::tier::Tier;
use molecule_proto::tenant::v1 as tenant_wire;
use molecule_proto::workspace::v1 as wire;
use molecule_provisioner::reconciler::orphans::Orphans;
use molecule_provisioner::store::Alarm;
use molecule_service_kit::token;
use molecule_service_kit::wire::{
    desired_to_wire, duration, event_to_wire, reason_to_wire, tier, tier_to_wire, time,
};
use molecule_workspace::record::{RequestKey, StoredEvent, WorkspaceRecord};

const MAX_REQUEST_ID: usize = 128;

pub(crate) fn alarm(alarm: &Alarm) -> tenant_wire::Alarm {
    tenant_wire::Alarm { raised_at: Some(time(alarm.raised_at)), message: alarm.message.clone() }
}

pub(crate) fn leftovers(orphans: &Orphans) -> Vec<tenant_wire::Leftover> {
    let instances = orphans.instances.iter().map(|(instance, launch)| tenant_wire::Leftover {
        workspace_id: instance.workspace.to_string(),
        generation: instance.generation.0,
        launch: u64::try_from(launch.0).unwrap_or(0),
    });
    let workspaces = orphans.workspaces.iter().map(|(_, workspace)| tenant_wire::Leftover {
        workspace_id: workspace.to_string(),
        ..tenant_wire::Leftover::default()
    });
    instances.chain(workspaces).collect()
}

/// The etag's number; any other text is no etag of ours and so is stale.
pub(crate) fn etag(text: &str) -> Option<IntentNumber> {
    (!text.is_empty()).then(|| text.parse().map_or(IntentNumber(-1), IntentNumber))
}

/// The key of a request that has an id: with a fingerprint of all that was asked. Maps are ordered, so equal
/// requests are equal bytes.
pub(crate) fn request_key(
    id: &str,
    method: &str,
    request: &impl prost::Message,
) -> Result<Option<RequestKey>> {
    if id.is_empty() {
        return Ok(None);
    }
    if id.len() > MAX_REQUEST_ID || id.chars().any(char::is_control) {
        return Err(Error::field("request_id", "has at most 128 bytes and no control characters"));
    }
    let mut asked = method.as_bytes().to_vec();
    asked.push(0);
    asked.extend(request.encode_to_vec());
    Ok(Some(RequestKey { id: id.to_owned(), fingerprint: token::hash(asked) }))
}

/// A spec, and its private part.
pub(crate) fn spec(wire: wire::WorkspaceSpec) -> Result<(WorkspaceSpec, PrivateParts)> {
    let mut v = Violations::default();
    let tier = tier(wire.tier).unwrap_or_else(|| {
        v.add("spec.tier", "there is no such tier; use TIER_T1 to TIER_T4");
        Tier::default()
    });
    let readiness = match wire::Readiness::try_from(wire.readiness) {
        Ok(wire::Readiness::Unspecified) => None,
        Ok(wire::Readiness::Agent) => Some(Readiness::Agent),
        Ok(wire::Readiness::Process) => Some(Readiness::Process),
        Err(_) => {
            v.add("spec.readiness", "there is no such readiness; use READINESS_AGENT or READINESS_PROCESS");
            None
        }
    };
    let parent = match wire.parent_workspace_id.as_str() {
        "" => None,
        id => id.parse().map_err(|_| v.add("spec.parent_workspace_id", format!("{id:?} is not a UUID"))).ok(),
    };
    let mount = mount(wire.mount.unwrap_or_default(), &mut v);
    v.into_result()?;
    let spec = WorkspaceSpec {
        name: wire.name,
        runtime: wire.runtime,
        tier,
        labels: wire.labels.into_iter().collect(),
        parent,
        role: wire.role,
        env: wire.env.into_iter().collect(),
        mount,
        readiness,
    };
    let private = PrivateParts {
        config_files: wire.config_files.into_iter().collect(),
        secrets: wire.secrets.into_iter().collect(),
    };
    Ok((spec, private))
}

fn mount(wire: wire::WorkspaceMount, v: &mut Violations) -> Mount {
    use wire::MountAccess;
    match MountAccess::try_from(wire.access) {
        Ok(MountAccess::Unspecified | MountAccess::None) => {
            v.require(
                wire.host_path.is_empty(),
                "spec.mount.host_path",
                "goes with READ_ONLY or READ_WRITE only",
            );
            Mount::None
        }
        Ok(MountAccess::ReadOnly) => Mount::ReadOnly(wire.host_path),
        Ok(MountAccess::ReadWrite) => Mount::ReadWrite(wire.host_path),
        Err(_) => {
            v.add("spec.mount.access", "there is no such access");
            Mount::None
        }
    }
}

fn wire_spec(spec: &WorkspaceSpec) -> wire::WorkspaceSpec {
    let (access, host_path) = match &spec.mount {
        Mount::None => (wire::MountAccess::None, String::new()),
        Mount::ReadOnly(path) => (wire::MountAccess::ReadOnly, path.clone()),
        Mount::ReadWrite(path) => (wire::MountAccess::ReadWrite, path.clone()),
    };
    wire::WorkspaceSpec {
        name: spec.name.clone(),
        runtime: spec.runtime.clone(),
        tier: tier_to_wire(spec.tier).into(),
        labels: spec.labels.clone().into_iter().collect(),
        parent_workspace_id: spec.parent.map(|parent| parent.to_string()).unwrap_or_default(),
        role: spec.role.clone(),
        env: spec.env.clone().into_iter().collect(),
        mount: Some(wire::WorkspaceMount { access: access.into(), host_path }),
        readiness: spec.readiness.map_or(wire::Readiness::Unspecified, readiness).into(),
        config_files: std::collections::BTreeMap::new(),
        secrets: std::collections::BTreeMap::new(),
    }
}

pub(crate) const fn readiness(readiness: Readiness) -> wire::Readiness {
    match readiness {
        Readiness::Agent => wire::Readiness::Agent,
        Readiness::Process => wire::Readiness::Process,
    }
}

/// A workspace as a client sees it.
pub(crate) fn workspace(record: &WorkspaceRecord) -> wire::Workspace {
    let (state, phase) = state(record.state());
    let agent = &record.agent;
    wire::Workspace {
        workspace_id: record.workspace.to_string(),
        spec: Some(wire_spec(&record.spec)),
        state: state.into(),
        phase: phase.into(),
        reason: reason_to_wire(reason(record)).into(),
        message: message(record),
        desired_state: desired_to_wire(record.desired).into(),
        generation: record.generation.0,
        revision: u64::try_from(record.revision.0).unwrap_or(0),
        etag: record.intent.to_string(),
        create_time: Some(time(record.created_at)),
        update_time: Some(time(record.updated_at)),
        delete_time: record.deleted_at.map(time),
        agent: Some(wire::Agent {
            last_seen_time: agent.last_seen.map(time),
            error_rate: agent.error_rate,
            sample_error: agent.sample_error.clone(),
            active_tasks: agent.active_tasks,
            current_task: agent.current_task.clone(),
            uptime: Some(duration(std::time::Duration::from_secs(agent.uptime_seconds))),
            card_json: agent.card.clone().unwrap_or_default(),
            url: record
                .endpoint
                .as_ref()
                .map_or_else(String::new, |e| format!("http://{}:{}", e.host, e.port)),
        }),
        pending_since: record.pending.as_ref().map(|pending| time(pending.since)),
        pending_cause: record.pending.as_ref().map_or_else(String::new, |pending| pending.cause.clone()),
        recovered: has_lost_config(record),
    }
}

fn reason(record: &WorkspaceRecord) -> Option<Reason> {
    // why it has failed is more than that it was found
    let failed = record.state() == WorkspaceState::Failed;
    if has_lost_config(record) && !failed {
        return Some(Reason::Recovered);
    }
    record.reason.or(agent_reason(record))
}

fn has_lost_config(record: &WorkspaceRecord) -> bool {
    record.has_lost_config() && !record.is_deleting()
}

fn agent_reason(record: &WorkspaceRecord) -> Option<Reason> {
    use molecule_domain::lifecycle::AgentHealth;
    if record.state() != WorkspaceState::Degraded {
        return None;
    }
    Some(if record.agent.health == AgentHealth::Silent { Reason::AgentSilent } else { Reason::AgentErrors })
}

fn message(record: &WorkspaceRecord) -> String {
    match record.state() {
        WorkspaceState::Provisioning(ProvisioningPhase::Connecting) => {
            "up; waiting for its agent to connect".to_owned()
        }
        WorkspaceState::Running if record.is_recovered() => {
            "recovered after a restore: it runs on untouched, but its agent's credential, and what it was configured with since \
             the backup, are lost. Update it with its config files and secrets; or restart it, if the backup has them; or \
             delete it"
                .to_owned()
        }
        WorkspaceState::Stopped if record.has_lost_config() => {
            "recovered after a restore: it is stopped, and what it was configured with since the backup is lost. Update it \
             with its config files and secrets, and start it; or restart it, if the backup has them; or delete it"
                .to_owned()
        }
        WorkspaceState::Failed if record.has_lost_config() => format!(
            "{}. It was recovered after a restore: its agent's credential, and what it was configured with since the backup, \
             are lost. Update it with its config files and secrets; or restart it, if the backup has them; or delete it",
            record.message
        ),
        WorkspaceState::Running => "running".to_owned(),
        WorkspaceState::Degraded if agent_reason(record) == Some(Reason::AgentSilent) => {
            "its agent is silent".to_owned()
        }
        WorkspaceState::Degraded => {
            format!(
                "its agent reports errors ({:.0} %): {}",
                record.agent.error_rate * 100.0,
                record.agent.sample_error
            )
        }
        _ => record.message.clone(),
    }
}

fn state(state: WorkspaceState) -> (wire::WorkspaceState, wire::ProvisioningPhase) {
    use wire::{ProvisioningPhase as Phase, WorkspaceState as State};
    match state {
        WorkspaceState::Provisioning(phase) => {
            let phase = match phase {
                ProvisioningPhase::Admitted => Phase::Admitted,
                ProvisioningPhase::Launching => Phase::Launching,
                ProvisioningPhase::Booting => Phase::Booting,
                ProvisioningPhase::Connecting => Phase::Connecting,
            };
            (State::Provisioning, phase)
        }
        WorkspaceState::Running => (State::Running, Phase::Unspecified),
        WorkspaceState::Degraded => (State::Degraded, Phase::Unspecified),
        WorkspaceState::Stopping => (State::Stopping, Phase::Unspecified),
        WorkspaceState::Stopped => (State::Stopped, Phase::Unspecified),
        WorkspaceState::Deleting => (State::Deleting, Phase::Unspecified),
        WorkspaceState::Deleted => (State::Deleted, Phase::Unspecified),
        WorkspaceState::Failed => (State::Failed, Phase::Unspecified),
    }
}

/// An event as a client sees it.
pub(crate) fn event(event: StoredEvent) -> wire::Event {
    event_to_wire(event.id, event.workspace, event.at, event.detail)
}

/// The fields that filters know.
pub(crate) fn filter_field(record: &WorkspaceRecord, field: &str) -> Option<String> {
    match field {
        "workspace_id" => Some(record.workspace.to_string()),
        "state" => Some(record.state().name().to_owned()),
        "parent_workspace_id" => record.spec.parent.map(|parent| parent.to_string()),
        "runtime" => Some(record.spec.runtime.clone()),
        "name" => Some(record.spec.name.clone()),
        _ => record.spec.labels.get(field.strip_prefix("labels.")?).cloned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_of_all_that_was_asked_in_its_order() {
        let spec = |file: &[u8]| wire::WorkspaceSpec {
            config_files: [("f".to_owned(), file.to_vec())].into(),
            ..wire::WorkspaceSpec::default()
        };
        let key = |method, spec: &wire::WorkspaceSpec| {
            request_key("id", method, spec).unwrap().unwrap().fingerprint
        };
        assert_eq!(key("m", &spec(b"ab")), key("m", &spec(b"ab")));
        assert_ne!(key("m", &spec(b"ab")), key("m", &spec(b"ba")));
        assert_ne!(key("m", &spec(b"ab")), key("n", &spec(b"ab")));
    }

    #[test]
    fn wrong_parts_are_told_together() {
        let wrong = wire::WorkspaceSpec {
            tier: 99,
            readiness: 99,
            parent_workspace_id: "x".into(),
            mount: Some(wire::WorkspaceMount { access: 1, host_path: "/x".into() }),
            ..wire::WorkspaceSpec::default()
        };
        assert_eq!(spec(wrong).unwrap_err().fields.len(), 4);
    }

    #[test]
    fn a_recovered_workspace_says_the_ways_on_whatever_became_of_it() {
        use molecule_domain::Timestamp;
        use molecule_domain::id::{Generation, IncarnationId, OrganizationId, WorkspaceId};
        use molecule_domain::lifecycle::{Desired, Phase, Readiness};
        use molecule_workspace::aggregate::{NewWorkspace, SealedToken};
        use molecule_workspace::private::SealedParts;

        let new = NewWorkspace {
            workspace: WorkspaceId::generate(),
            organization: OrganizationId::SELF_HOSTED,
            spec: molecule_domain::spec::WorkspaceSpec::default(),
            readiness: Readiness::Agent,
            private: SealedParts::default(),
            token: SealedToken { sealed: Vec::new(), hash: Vec::new() },
            trace: String::new(),
        };
        let at = Timestamp::from_micros(1);
        let found = molecule_workspace::Workspace::create(&new, None, at, IncarnationId::generate(), None).0;
        for (desired, phase, reason) in [
            (Desired::Running, Phase::Up, wire::Reason::Recovered),
            (Desired::Stopped, Phase::Stopped, wire::Reason::Recovered),
            (Desired::Stopped, Phase::Failed, wire::Reason::InitFailed),
        ] {
            let record = WorkspaceRecord {
                desired,
                phase,
                reason: (phase == Phase::Failed).then_some(Reason::InitFailed),
                message: "tenant-svc refuses the bundle".to_owned(),
                instance_generation: Generation(1),
                recovered: Some(Generation(1)),
                ..found.record.clone()
            };
            let shown = workspace(&record);
            assert_eq!((shown.reason(), shown.recovered), (reason, true), "{phase}");
            assert_eq!(
                shown.message.contains("refuses the bundle"),
                phase == Phase::Failed,
                "{}",
                shown.message
            );
            for way in ["Update it", "restart it", "delete it"] {
                assert!(shown.message.contains(way), "{phase}: {}", shown.message);
            }
        }
    }
}
