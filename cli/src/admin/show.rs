//! What the control plane answers, as tables for people and JSON for programs.

use molecule_proto::controlplane::v1 as wire;
use molecule_proto::workspace::v1::Tier;
use serde_json::{Value, json};

use crate::Format;
use crate::output::{named, print_json, table, time};

/// A limit's name, its cap, and what is used of it; `None` is no cap.
fn limits(limits: &wire::Limits, used: &wire::Usage) -> [(&'static str, Option<i64>, i64); 6] {
    [
        ("workspaces", limits.workspaces, used.workspaces),
        ("disk_gib", limits.disk_gib, used.disk_gib),
        ("running_workspaces", limits.running_workspaces, used.running_workspaces),
        ("milli_cpus", limits.milli_cpus, used.milli_cpus),
        ("memory_mib", limits.memory_mib, used.memory_mib),
        ("launches_per_hour", limits.launches_per_hour, used.launches_last_hour),
    ]
}

fn limits_json(of: &wire::Limits, used: &wire::Usage) -> Value {
    let counted = limits(of, used).into_iter();
    let counted = counted.map(|(name, cap, used)| (name.to_owned(), json!({ "cap": cap, "used": used })));
    let mut all: serde_json::Map<String, Value> = counted.collect();
    all.insert("highest_tier".to_owned(), json!(tier(of)));
    all.insert("runtimes".to_owned(), json!(of.runtimes));
    all.insert("backends".to_owned(), json!(of.backends));
    Value::Object(all)
}

fn tier(limits: &wire::Limits) -> Option<String> {
    (limits.highest_tier != 0).then(|| named(limits.highest_tier, "TIER_", Tier::as_str_name))
}

fn standing(number: i32) -> String {
    named(number, "STANDING_", wire::Standing::as_str_name)
}

fn print_limits(of: &wire::Limits, used: &wire::Usage) {
    let mut rows = table(&["LIMIT", "USED", "CAP"]);
    for (name, cap, used) in limits(of, used) {
        rows.add_row([
            name.to_owned(),
            used.to_string(),
            cap.map_or("none".to_owned(), |cap| cap.to_string()),
        ]);
    }
    for (name, allowed) in [
        ("highest_tier", tier(of)),
        ("runtimes", Some(of.runtimes.join(", ")).filter(|list| !list.is_empty())),
        ("backends", Some(of.backends.join(", ")).filter(|list| !list.is_empty())),
    ] {
        rows.add_row([name.to_owned(), String::new(), allowed.unwrap_or_else(|| "all".to_owned())]);
    }
    println!("{rows}");
}

fn organization_json(one: &wire::Organization) -> Value {
    let (limits, used) = (one.limits.clone().unwrap_or_default(), one.used.unwrap_or_default());
    json!({
        "organization_id": one.organization_id,
        "name": one.name,
        "plan": one.plan,
        "standing": standing(one.standing),
        "backend": one.backend,
        "allowed_agent_hosts": one.allowed_agent_hosts,
        "limits": limits_json(&limits, &used),
        "create_time": time(one.create_time.as_ref()),
    })
}

pub(super) fn organization(one: &wire::Organization, format: Format) {
    if format == Format::Json {
        return print_json(&organization_json(one));
    }
    let mut rows = table(&["FIELD", "VALUE"]);
    for (name, value) in [
        ("organization_id", one.organization_id.clone()),
        ("name", one.name.clone()),
        ("plan", one.plan.clone()),
        ("standing", standing(one.standing)),
        ("backend", one.backend.clone()),
        ("allowed_agent_hosts", one.allowed_agent_hosts.join(", ")),
        ("create_time", time(one.create_time.as_ref())),
    ] {
        if !value.is_empty() {
            rows.add_row([name.to_owned(), value]);
        }
    }
    println!("{rows}");
    print_limits(&one.limits.clone().unwrap_or_default(), &one.used.unwrap_or_default());
}

pub(super) fn organizations(all: &[wire::Organization], format: Format) {
    if format == Format::Json {
        return print_json(&all.iter().map(organization_json).collect());
    }
    let mut rows = table(&["ORGANIZATION", "NAME", "PLAN", "STANDING", "WORKSPACES", "RUNNING"]);
    for one in all {
        let used = one.used.unwrap_or_default();
        rows.add_row([
            one.organization_id.clone(),
            one.name.clone(),
            one.plan.clone(),
            standing(one.standing),
            used.workspaces.to_string(),
            used.running_workspaces.to_string(),
        ]);
    }
    println!("{rows}");
}

fn token_json(token: &wire::Token) -> Value {
    json!({
        "token_id": token.token_id,
        "name": token.name,
        "create_time": time(token.create_time.as_ref()),
        "revoke_time": token.revoke_time.as_ref().map(|at| time(Some(at))),
    })
}

pub(super) fn issued(issued: &wire::IssueTokenResponse, format: Format) {
    let token = issued.token.clone().unwrap_or_default();
    if format == Format::Json {
        let mut value = token_json(&token);
        value["secret"] = json!(issued.secret);
        return print_json(&value);
    }
    println!("{}", issued.secret);
    eprintln!("token {} ({}); it is shown this once", token.token_id, token.name);
}

pub(super) fn tokens(all: &[wire::Token], format: Format) {
    if format == Format::Json {
        return print_json(&all.iter().map(token_json).collect());
    }
    let mut rows = table(&["TOKEN", "NAME", "ISSUED", "REVOKED"]);
    for token in all {
        let revoked = token.revoke_time.as_ref().map_or(String::new(), |at| time(Some(at)));
        rows.add_row([token.token_id.clone(), token.name.clone(), time(token.create_time.as_ref()), revoked]);
    }
    println!("{rows}");
}

pub(super) fn audit(all: &[wire::AuditEvent], format: Format) {
    if format == Format::Json {
        let all = all.iter().map(|event| {
            json!({
                "event_id": event.event_id,
                "time": time(event.time.as_ref()),
                "actor": event.actor,
                "action": event.action,
                "organization_id": event.organization_id,
                "message": event.message,
            })
        });
        return print_json(&all.collect());
    }
    let mut rows = table(&["TIME", "BY", "ACTION", "ORGANIZATION", "MESSAGE"]);
    for event in all {
        rows.add_row([
            time(event.time.as_ref()),
            event.actor.clone(),
            event.action.clone(),
            event.organization_id.clone(),
            event.message.clone(),
        ]);
    }
    println!("{rows}");
}

/// The alarms that stand, and what would be removed once they are ended.
pub(super) fn alarms(shown: &wire::ClearAlarmsResponse, format: Format) {
    let unreachable = &shown.unreachable_backends;
    if format == Format::Json {
        let alarms = shown.alarms.iter().map(|alarm| {
            json!({
                "backend": alarm.backend,
                "raised_at": time(alarm.raised_at.as_ref()),
                "message": alarm.message,
            })
        });
        let alarms: Vec<Value> = alarms.collect();
        let orphans: Vec<Value> = shown.orphans.iter().map(orphan_json).collect();
        return print_json(&json!({
            "alarms": alarms, "orphans": orphans, "unreachable_backends": unreachable, "cleared": shown.cleared,
            "etag": shown.etag, "organizations_without_agreement": shown.organizations_without_agreement,
            "unknown_organizations": shown.unknown_organizations,
            "awaited": shown.awaited.iter().map(awaited_json).collect::<Vec<_>>(),
        }));
    }
    if shown.alarms.is_empty() {
        println!("no alarm stands");
        return unreachable_backends(unreachable);
    }
    for alarm in &shown.alarms {
        println!("ALARM at the backend {} since {}", alarm.backend, time(alarm.raised_at.as_ref()));
        println!("{}.\n", alarm.message);
    }
    if !shown.organizations_without_agreement.is_empty() {
        println!(
            "The tenants of these organisations have not yet told this control plane what it may have lost. Wait for them before \
             the alarm is ended; of one that does not come back, save what is to be kept:\n  {}\n",
            shown.organizations_without_agreement.join("\n  ")
        );
    }
    if !shown.unknown_organizations.is_empty() {
        println!(
            "These organisations own some of what is listed, and this database does not know them. Their tenants can't tell of it \
             until the organisations are created anew, with these ids, and have tokens:\n  {}\n",
            shown.unknown_organizations.join("\n  ")
        );
    }
    println!(
        "{}",
        if shown.cleared {
            "It is ended. The next sweeps remove all of this, a tenth of what is owned at a time:"
        } else {
            "No sweep removes anything there while it stands. Once it is ended, they remove all of this:"
        }
    );
    let listed =
        Orphans { listed: &shown.orphans, awaited: Some(&shown.awaited), recovered: None, unreachable };
    orphans(&listed, format);
}

/// The orphans that were removed, or would be.
pub(super) fn swept(swept: &wire::SweepOrphansResponse, format: Format) {
    if format == Format::Json {
        let orphans: Vec<Value> = swept.orphans.iter().map(orphan_json).collect();
        return print_json(&json!({
            "orphans": orphans, "unreachable_backends": swept.unreachable_backends, "removed": swept.removed,
            "etag": swept.etag,
        }));
    }
    let listed = Orphans {
        listed: &swept.orphans,
        awaited: None,
        recovered: None,
        unreachable: &swept.unreachable_backends,
    };
    orphans(&listed, format);
}

fn awaited_json(one: &wire::AwaitedWorkspace) -> Value {
    json!({
        "backend": one.backend,
        "organization_id": one.organization_id,
        "workspace_id": one.workspace_id,
    })
}

fn orphan_json(orphan: &wire::Orphan) -> Value {
    json!({
        "backend": orphan.backend,
        "organization_id": orphan.organization_id,
        "workspace_id": orphan.workspace_id,
        "generation": orphan.generation,
        "launch": orphan.launch,
    })
}

/// Orphans, and what is shown beside them; `None` is not spoken of.
#[derive(Clone, Copy)]
pub(super) struct Orphans<'a> {
    pub(super) listed: &'a [wire::Orphan],
    pub(super) awaited: Option<&'a [wire::AwaitedWorkspace]>,
    pub(super) recovered: Option<&'a [wire::RecoveredWorkspace]>,
    pub(super) unreachable: &'a [String],
}

pub(super) fn orphans(shown: &Orphans<'_>, format: Format) {
    let Orphans { listed: orphans, awaited, recovered, unreachable } = *shown;
    if format == Format::Json {
        let orphans: Vec<Value> = orphans.iter().map(orphan_json).collect();
        let mut told = json!({ "orphans": orphans, "unreachable_backends": unreachable });
        if let Some(awaited) = awaited {
            told["awaited"] = awaited.iter().map(awaited_json).collect();
        }
        if let Some(recovered) = recovered {
            let recovered = recovered.iter().map(|one| {
                json!({
                    "organization_id": one.organization_id,
                    "workspace_id": one.workspace_id,
                    "generation": one.generation,
                })
            });
            told["recovered"] = recovered.collect();
        }
        return print_json(&told);
    }
    let mut rows = table(&["BACKEND", "ORGANIZATION", "WORKSPACE", "WHAT"]);
    for orphan in orphans {
        let what = match orphan.generation {
            0 => "volumes and the like".to_owned(),
            generation => format!("generation {generation}, launch {}", orphan.launch),
        };
        let (organization, workspace) = (orphan.organization_id.clone(), orphan.workspace_id.clone());
        rows.add_row([orphan.backend.clone(), organization, workspace, what]);
    }
    println!("{rows}");
    if let Some(awaited @ [_, ..]) = awaited {
        println!(
            "\nThe tenants of these have still to tell what they want of them, or were refused for now, as by a limit. They are no \
             orphans: what is there of them stays, uncounted, until it is granted (raise the limit) or deleted by its owner. Of a \
             suspended organisation's only the data stays."
        );
        let mut rows = table(&["BACKEND", "ORGANIZATION", "WORKSPACE"]);
        for one in awaited {
            rows.add_row([&one.backend, &one.organization_id, &one.workspace_id]);
        }
        println!("{rows}");
    }
    if let Some(recovered @ [_, ..]) = recovered {
        println!(
            "\nThese run, but their tenants lost their configurations in a restore. They are no orphans: no sweep removes \
             them. Their owner updates each with its configuration, restarts it, or deletes it."
        );
        let mut rows = table(&["ORGANIZATION", "WORKSPACE", "GENERATION"]);
        for one in recovered {
            rows.add_row([&one.organization_id, &one.workspace_id, &one.generation.to_string()]);
        }
        println!("{rows}");
    }
    unreachable_backends(unreachable);
}

fn unreachable_backends(unreachable: &[String]) {
    for backend in unreachable {
        eprintln!("the backend {backend} does not answer, or is not configured; of it nothing is known");
    }
}

fn identity_json(identity: &wire::DatabaseIdentity) -> Value {
    json!({ "system_identifier": identity.system_identifier, "oid": identity.oid })
}

fn identity(identity: &wire::DatabaseIdentity) -> String {
    format!("system identifier {}, database oid {}", identity.system_identifier, identity.oid)
}

/// Both identities, one above the other.
pub(super) fn identities(found: &wire::GetDatabaseIdentityResponse) -> String {
    let (stored, actual) =
        (found.stored.clone().unwrap_or_default(), found.actual.clone().unwrap_or_default());
    format!("put into use as  {}\nis now           {}", identity(&stored), identity(&actual))
}

pub(super) fn database(found: &wire::GetDatabaseIdentityResponse, format: Format) {
    if format == Format::Json {
        let (stored, actual) =
            (found.stored.clone().unwrap_or_default(), found.actual.clone().unwrap_or_default());
        return print_json(&json!({
            "stored": identity_json(&stored), "actual": identity_json(&actual), "adopted": found.adopted,
        }));
    }
    println!("{}", identities(found));
    println!("{}", if found.adopted { "in use" } else { "not adopted: read only, and nothing is launched" });
}

pub(super) fn quota(quota: &wire::GetQuotaResponse, format: Format) {
    let (limits, used) = (quota.limits.clone().unwrap_or_default(), quota.used.unwrap_or_default());
    if format == Format::Json {
        return print_json(&json!({
            "organization_id": quota.organization_id,
            "standing": standing(quota.standing),
            "limits": limits_json(&limits, &used),
        }));
    }
    println!("organisation {} · {}", quota.organization_id, standing(quota.standing));
    print_limits(&limits, &used);
}

pub(super) fn preview(preview: &wire::PreviewAdmissionResponse, format: Format) {
    if format == Format::Json {
        let checks = preview.checks.iter().map(|check| {
            json!({
                "limit": check.limit, "cap": check.cap, "used": check.used, "asked": check.asked,
                "exceeded": check.exceeded,
            })
        });
        let checks: Vec<Value> = checks.collect();
        return print_json(&json!({
            "admitted": preview.admitted, "reason": preview.reason, "message": preview.message, "checks": checks,
        }));
    }
    let mut rows = table(&["LIMIT", "USED", "ASKED", "CAP", ""]);
    for check in &preview.checks {
        let verdict = if check.exceeded { "exceeded" } else { "fits" };
        let numbers = [check.used, check.asked, check.cap].map(|number| number.to_string());
        let [used, asked, cap] = numbers;
        rows.add_row([check.limit.clone(), used, asked, cap, verdict.to_owned()]);
    }
    println!("{rows}");
    println!("{}", if preview.admitted { "would be admitted" } else { "would not be admitted" });
}
