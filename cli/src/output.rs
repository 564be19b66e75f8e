//! Tables for people, JSON for programs.

use comfy_table::{ContentArrangement, Table, presets};
use molecule_proto::tenant::v1::{
    Alarm, ClearAlarmsResponse, GetServerInfoResponse, Leftover, Mode, Runtime,
};
use molecule_proto::workspace::v1::{Event, ProvisioningPhase, Reason, Tier, Workspace, WorkspaceState};
use prost_types::Timestamp;
use serde_json::{Value, json};

use crate::Format;

/// A name on the wire without the prefix of its enum.
pub(crate) fn short(name: &'static str, prefix: &str) -> &'static str {
    name.strip_prefix(prefix).unwrap_or(name)
}

/// The name of an enum's value without the prefix of its enum. A later version's, which this one does not know, is told
/// by its number.
pub(crate) fn named<E: TryFrom<i32>>(
    number: i32,
    prefix: &str,
    name: impl FnOnce(&E) -> &'static str,
) -> String {
    match E::try_from(number) {
        Ok(value) => short(name(&value), prefix).to_owned(),
        Err(_) => format!("unknown ({number}), see message"),
    }
}

/// The same; `None` where it is unspecified, which every enum has as 0.
fn specified<E: TryFrom<i32>>(
    number: i32,
    prefix: &str,
    name: impl FnOnce(&E) -> &'static str,
) -> Option<String> {
    (number != 0).then(|| named(number, prefix, name))
}

fn phase(workspace: &Workspace) -> Option<String> {
    specified(workspace.phase, "PROVISIONING_PHASE_", ProvisioningPhase::as_str_name)
}

pub(crate) fn state(workspace: &Workspace) -> String {
    let state = named(workspace.state, "WORKSPACE_STATE_", WorkspaceState::as_str_name);
    match phase(workspace) {
        None => state,
        Some(phase) => format!("{state} ({phase})"),
    }
}

pub(crate) fn reason(number: i32) -> Option<String> {
    specified(number, "REASON_", Reason::as_str_name)
}

pub(crate) fn time(at: Option<&Timestamp>) -> String {
    let Some(at) = at else { return String::new() };
    let moment = time::OffsetDateTime::from_unix_timestamp(at.seconds).ok();
    moment
        .and_then(|moment| moment.format(&time::format_description::well_known::Rfc3339).ok())
        .unwrap_or_default()
}

pub(crate) fn workspace_json(workspace: &Workspace) -> Value {
    let spec = workspace.spec.clone().unwrap_or_default();
    let agent = workspace.agent.clone().unwrap_or_default();
    json!({
        "workspace_id": workspace.workspace_id,
        "name": spec.name,
        "runtime": spec.runtime,
        "tier": named(spec.tier, "TIER_", Tier::as_str_name),
        "labels": spec.labels,
        "parent_workspace_id": spec.parent_workspace_id,
        "state": named(workspace.state, "WORKSPACE_STATE_", WorkspaceState::as_str_name),
        "phase": phase(workspace),
        "reason": reason(workspace.reason),
        "message": workspace.message,
        "pending_since": workspace.pending_since.as_ref().map(|at| time(Some(at))),
        "pending_cause": workspace.pending_cause,
        "recovered": workspace.recovered,
        "generation": workspace.generation,
        "revision": workspace.revision,
        "etag": workspace.etag,
        "create_time": time(workspace.create_time.as_ref()),
        "update_time": time(workspace.update_time.as_ref()),
        "delete_time": workspace.delete_time.as_ref().map(|at| time(Some(at))),
        "agent_url": agent.url,
        "agent_last_seen_time": agent.last_seen_time.as_ref().map(|at| time(Some(at))),
    })
}

pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header);
    table
}

pub(crate) fn print_json(value: &Value) {
    println!("{value:#}");
}

pub(crate) fn workspace(workspace: &Workspace, format: Format) {
    if format == Format::Json {
        return print_json(&workspace_json(workspace));
    }
    let value = workspace_json(workspace);
    let mut rows = table(&["FIELD", "VALUE"]);
    if let Value::Object(fields) = value {
        for (name, value) in fields {
            match value {
                Value::Null => {}
                Value::String(text) if text.is_empty() => {}
                Value::String(text) => {
                    rows.add_row([name, text]);
                }
                other => {
                    rows.add_row([name, other.to_string()]);
                }
            }
        }
    }
    println!("{rows}");
}

pub(crate) fn workspaces(all: &[Workspace], format: Format) {
    if format == Format::Json {
        return print_json(&all.iter().map(workspace_json).collect());
    }
    let mut rows = table(&["WORKSPACE", "NAME", "RUNTIME", "STATE", "GENERATION", "MESSAGE"]);
    for one in all {
        let spec = one.spec.clone().unwrap_or_default();
        rows.add_row([
            one.workspace_id.clone(),
            spec.name,
            spec.runtime,
            state(one),
            one.generation.to_string(),
            one.message.clone(),
        ]);
    }
    println!("{rows}");
}

/// One line for a watcher.
pub(crate) fn change(workspace: &Workspace, format: Format) {
    if format == Format::Json {
        println!("{}", workspace_json(workspace));
        return;
    }
    let name = workspace.spec.as_ref().map(|spec| spec.name.as_str()).unwrap_or_default();
    println!(
        "{}  {:>6}  {}  {name}  {}  {}",
        time(workspace.update_time.as_ref()),
        workspace.revision,
        workspace.workspace_id,
        state(workspace),
        workspace.message
    );
}

pub(crate) fn events(all: &[Event], format: Format) {
    if format == Format::Json {
        let all = all.iter().map(|event| {
            json!({
                "event_id": event.event_id,
                "time": time(event.time.as_ref()),
                "kind": event.kind,
                "actor": event.actor,
                "generation": event.generation,
                "reason": reason(event.reason),
                "message": event.message,
                "exit_code": event.exit_code,
                "log_tail": event.log_tail,
            })
        });
        return print_json(&all.collect());
    }
    let mut rows = table(&["TIME", "EVENT", "BY", "GENERATION", "MESSAGE"]);
    for event in all {
        let mut message = event.message.clone();
        if !event.log_tail.is_empty() {
            message = format!("{message}\n{}", event.log_tail.trim_end());
        }
        let (at, generation) = (time(event.time.as_ref()), event.generation.to_string());
        rows.add_row([at, event.kind.clone(), event.actor.clone(), generation, message]);
    }
    println!("{rows}");
}

pub(crate) fn runtimes(all: &[Runtime], format: Format) {
    if format == Format::Json {
        let all = all.iter().map(|runtime| {
            json!({
                "name": runtime.name,
                "image": runtime.image,
                "agent_port": runtime.agent_port,
                "required_secrets": runtime.required_secrets,
                "has_default_config": runtime.has_default_config,
            })
        });
        return print_json(&all.collect());
    }
    let mut rows = table(&["RUNTIME", "IMAGE", "PORT", "REQUIRED SECRETS"]);
    for runtime in all {
        let (port, secrets) = (runtime.agent_port.to_string(), runtime.required_secrets.join(", "));
        rows.add_row([runtime.name.clone(), runtime.image.clone(), port, secrets]);
    }
    println!("{rows}");
}

pub(crate) fn server(info: &GetServerInfoResponse, format: Format) {
    let mode = named(info.mode, "MODE_", Mode::as_str_name);
    if format == Format::Json {
        return print_json(&json!({
            "version": info.version, "mode": mode, "backend": info.backend, "capabilities": info.capabilities,
        }));
    }
    let over = if info.backend.is_empty() { "the control plane" } else { &info.backend };
    println!("tenant-svc {} · {mode} over {over} · can: {}", info.version, info.capabilities.join(", "));
}

/// The alarm that stands, and what would be removed once it is ended.
pub(crate) fn alarms(shown: &ClearAlarmsResponse, format: Format) {
    if format == Format::Json {
        let alarm =
            |alarm: &Alarm| json!({ "raised_at": time(alarm.raised_at.as_ref()), "message": alarm.message });
        let leftover = |one: &Leftover| json!({ "workspace_id": one.workspace_id, "generation": one.generation, "launch": one.launch });
        let (alarms, leftovers): (Vec<_>, Vec<_>) =
            (shown.alarms.iter().map(alarm).collect(), shown.leftovers.iter().map(leftover).collect());
        return print_json(&json!({
            "alarms": alarms, "leftovers": leftovers, "cleared": shown.cleared, "etag": shown.etag,
        }));
    }
    let Some(alarm) = shown.alarms.first() else {
        println!("no alarm stands");
        return;
    };
    println!("ALARM since {}: {}.\n", time(alarm.raised_at.as_ref()), alarm.message);
    println!(
        "{}",
        if shown.cleared {
            "It is ended. The next sweeps remove all of this, a tenth of what is owned at a time:"
        } else {
            "No sweep removes anything while it stands. Once it is ended, they remove all of this:"
        }
    );
    let mut rows = table(&["WORKSPACE", "WHAT"]);
    for one in &shown.leftovers {
        let what = match one.generation {
            0 => "volumes".to_owned(),
            generation => format!("generation {generation}, launch {}", one.launch),
        };
        rows.add_row([one.workspace_id.clone(), what]);
    }
    println!("{rows}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_later_version_says_is_told_by_number() {
        let later = Workspace { state: 99, phase: 98, reason: 97, ..Workspace::default() };
        assert_eq!(state(&later), "unknown (99), see message (unknown (98), see message)");
        let value = workspace_json(&later);
        assert_eq!(value["state"], "unknown (99), see message");
        assert_eq!(value["reason"], "unknown (97), see message");
        let known = Workspace { state: WorkspaceState::Running.into(), ..Workspace::default() };
        assert_eq!(state(&known), "RUNNING");
        assert_eq!((&workspace_json(&known)["reason"], reason(0)), (&Value::Null, None));
    }

    #[test]
    fn what_waits_is_shown() {
        let waits = Workspace {
            pending_since: Some(Timestamp { seconds: 1_700_000_000, nanos: 0 }),
            pending_cause: "the control plane does not answer".to_owned(),
            ..Workspace::default()
        };
        let value = workspace_json(&waits);
        assert_eq!(value["pending_since"], "2023-11-14T22:13:20Z");
        assert_eq!(value["pending_cause"], "the control plane does not answer");
        assert_eq!(workspace_json(&Workspace::default())["pending_since"], Value::Null);
    }
}
