//! What no record explains, over all backends, and the alarms under which nothing of it is removed. The dry run and the
//! removal are one code path.

use molecule_domain::error::{Error, ErrorReason, Result};
use molecule_domain::id::{OrganizationId, WorkspaceId};
use molecule_proto::controlplane::v1 as wire;
use molecule_provisioner::Engine;
use molecule_provisioner::reconciler::orphans::Orphans;
use molecule_provisioner::store::{Alarm, Store};
use molecule_service_kit::wire::{confirms, etag as etag_of, time};
use molecule_store_postgres::accounts::Audit;
use molecule_store_postgres::{Missing, Recovered};

use super::Parts;
use super::callers::Operator;
use super::convert::unsigned;

/// The orphans of one backend.
struct Found<'a> {
    engine: &'a Engine,
    orphans: Orphans,
}

async fn find(parts: &Parts) -> Result<(Vec<Found<'_>>, Vec<String>)> {
    let (mut found, mut unreachable) = (Vec::new(), Vec::new());
    for engine in parts.engines.iter() {
        match engine.orphans().await? {
            Some(orphans) => found.push(Found { engine, orphans }),
            None => unreachable.push(engine.backend_kind().to_owned()),
        }
    }
    Ok((found, unreachable))
}

fn to_wire(found: &[Found<'_>]) -> Vec<wire::Orphan> {
    let all = found.iter().flat_map(|Found { engine, orphans }| {
        let instances = orphans.instances.iter().map(|(instance, seq)| wire::Orphan {
            backend: engine.backend_kind().to_owned(),
            organization_id: instance.organization.to_string(),
            workspace_id: instance.workspace.to_string(),
            generation: instance.generation.0,
            launch: unsigned(seq.0),
        });
        let workspaces = orphans.workspaces.iter().map(|(organization, workspace)| wire::Orphan {
            backend: engine.backend_kind().to_owned(),
            organization_id: organization.to_string(),
            workspace_id: workspace.to_string(),
            generation: 0,
            launch: 0,
        });
        instances.chain(workspaces)
    });
    all.collect()
}

fn awaited_to_wire(found: &[Found<'_>]) -> Vec<wire::AwaitedWorkspace> {
    let of = |Found { engine, orphans }: &Found<'_>| {
        let backend = engine.backend_kind();
        let one = |(organization, workspace): &(OrganizationId, WorkspaceId)| wire::AwaitedWorkspace {
            backend: backend.to_owned(),
            organization_id: organization.to_string(),
            workspace_id: workspace.to_string(),
        };
        orphans.awaited.iter().map(one).collect::<Vec<_>>()
    };
    found.iter().flat_map(of).collect()
}

fn recovered_to_wire(recovered: Recovered) -> wire::RecoveredWorkspace {
    wire::RecoveredWorkspace {
        organization_id: recovered.organization.to_string(),
        workspace_id: recovered.workspace.to_string(),
        generation: recovered.generation.0,
    }
}

pub(super) async fn list(parts: &Parts) -> Result<wire::ListOrphansResponse> {
    let (found, unreachable_backends) = find(parts).await?;
    Ok(wire::ListOrphansResponse {
        orphans: to_wire(&found),
        awaited: awaited_to_wire(&found),
        unreachable_backends,
        alarms: alarms(parts).await?.iter().map(alarm_to_wire).collect(),
        recovered: parts.sessions.recovered().await?.into_iter().map(recovered_to_wire).collect(),
    })
}

pub(super) async fn sweep(
    parts: &Parts,
    operator: Operator,
    etag: &str,
) -> Result<wire::SweepOrphansResponse> {
    let (found, unreachable_backends) = find(parts).await?;
    let mut shown = wire::SweepOrphansResponse {
        orphans: to_wire(&found),
        unreachable_backends,
        ..wire::SweepOrphansResponse::default()
    };
    if shown.orphans.is_empty() {
        return Ok(shown);
    }
    shown.etag = etag_of(&shown);
    if confirms(etag, &shown.etag)? {
        for Found { engine, orphans } in &found {
            engine.may_remove(orphans).await?;
        }
        let audit = Audit {
            actor: operator.0,
            action: "sweep_orphans",
            message: format!("{} orphans", shown.orphans.len()),
        };
        parts.accounts.audit(&audit, None, parts.clock.now()).await.map_err(Error::from)?;
        for Found { engine, orphans } in &found {
            engine.remove_orphans(orphans).await?;
        }
        shown.removed = true;
    }
    Ok(shown)
}

async fn alarms(parts: &Parts) -> Result<Vec<Alarm>> {
    Ok(parts.store.alarms().await?)
}

fn alarm_to_wire(alarm: &Alarm) -> wire::Alarm {
    wire::Alarm {
        backend: alarm.backend.clone(),
        raised_at: Some(time(alarm.raised_at)),
        message: alarm.message.clone(),
    }
}

/// The backends of alarms that are not configured any more: nobody can say what is there.
fn not_configured<'a>(parts: &'a Parts, alarms: &'a [Alarm]) -> impl Iterator<Item = String> + 'a {
    let backends = alarms.iter().map(|alarm| &alarm.backend);
    backends.filter(|backend| parts.engines.get(backend).is_err()).cloned()
}

pub(super) async fn list_alarms(parts: &Parts) -> Result<wire::ListAlarmsResponse> {
    let alarms = alarms(parts).await?;
    let (found, mut unreachable_backends) = find(parts).await?;
    unreachable_backends.extend(not_configured(parts, &alarms));
    let found = under(&alarms, found);
    let missing = missing(parts, &found).await?;
    Ok(wire::ListAlarmsResponse {
        alarms: alarms.iter().map(alarm_to_wire).collect(),
        orphans: to_wire(&found),
        awaited: awaited_to_wire(&found),
        unreachable_backends,
        organizations_without_agreement: texts(&missing.without_agreement),
        unknown_organizations: texts(&missing.unknown),
    })
}

/// Organisations whose tenants may know more than this database, and those that own something of this and are not in it.
async fn missing(parts: &Parts, found: &[Found<'_>]) -> Result<Missing> {
    let instances = found.iter().flat_map(|one| &one.orphans.instances);
    let workspaces = found.iter().flat_map(|one| &one.orphans.workspaces);
    let owners = instances.map(|(instance, _)| instance.organization);
    let owners: Vec<_> = owners.chain(workspaces.map(|(organization, _)| *organization)).collect();
    Ok(parts.database.without_agreement(&owners).await?)
}

fn texts(organizations: &[OrganizationId]) -> Vec<String> {
    organizations.iter().map(ToString::to_string).collect()
}

/// What is at the backends that have an alarm.
fn under<'a>(alarms: &[Alarm], found: Vec<Found<'a>>) -> Vec<Found<'a>> {
    let has_one = |found: &Found<'_>| alarms.iter().any(|alarm| alarm.backend == found.engine.backend_kind());
    found.into_iter().filter(has_one).collect()
}

pub(super) async fn clear_alarms(
    parts: &Parts,
    operator: Operator,
    etag: &str,
) -> Result<wire::ClearAlarmsResponse> {
    let alarms = alarms(parts).await?;
    let (found, unreachable_backends) = find(parts).await?;
    let found = under(&alarms, found);
    // one of a backend that is not configured any more stands until that is back, and keeps no other from ending
    let gone: Vec<String> = not_configured(parts, &alarms).collect();
    let alarms: Vec<_> = alarms.into_iter().filter(|alarm| !gone.contains(&alarm.backend)).collect();
    if alarms.is_empty() && !gone.is_empty() {
        let message = format!(
            "the alarm at the backend {} stands until that backend is configured again: nobody can say what would be removed \
             there",
            gone.join(" and ")
        );
        return Err(Error::new(ErrorReason::BackendUnavailable, message));
    }
    let missing = missing(parts, &found).await?;
    let mut shown = wire::ClearAlarmsResponse {
        alarms: alarms.iter().map(alarm_to_wire).collect(),
        orphans: to_wire(&found),
        awaited: awaited_to_wire(&found),
        unreachable_backends,
        organizations_without_agreement: texts(&missing.without_agreement),
        unknown_organizations: texts(&missing.unknown),
        ..wire::ClearAlarmsResponse::default()
    };
    if alarms.is_empty() {
        return Ok(shown);
    }
    shown.etag = etag_of(&shown);
    if confirms(etag, &shown.etag)? {
        let is_silent = |alarm: &&Alarm| shown.unreachable_backends.contains(&alarm.backend);
        if let Some(silent) = alarms.iter().find(is_silent) {
            let message = format!(
                "the backend {} does not answer, so nobody can say what would be removed there. Its alarm stands, and so do \
                 the others; try again once it does",
                silent.backend
            );
            return Err(Error::new(ErrorReason::BackendUnavailable, message));
        }
        for Found { engine, orphans } in &found {
            let audit = Audit {
                actor: operator.0.clone(),
                action: "clear_alarm",
                message: format!(
                    "{}: {} instances, volumes of {} workspaces",
                    engine.backend_kind(),
                    orphans.instances.len(),
                    orphans.workspaces.len()
                ),
            };
            parts.accounts.audit(&audit, None, parts.clock.now()).await.map_err(Error::from)?;
            engine.end_alarm(orphans).await?;
        }
        shown.cleared = true;
    }
    Ok(shown)
}
