//! What no record explains, over all backends. The dry run and the removal are one code path.

use molecule_domain::error::{Error, Result};
use molecule_proto::controlplane::v1 as wire;
use molecule_provisioner::Engine;
use molecule_provisioner::reconciler::orphans::Orphans;
use molecule_store_postgres::Recovered;
use molecule_store_postgres::accounts::Audit;

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
        beyond: found.iter().any(|found| found.orphans.beyond.is_some()),
        unreachable_backends,
        recovered: parts.sessions.recovered().await?.into_iter().map(recovered_to_wire).collect(),
    })
}

pub(super) async fn sweep(
    parts: &Parts,
    operator: Operator,
    confirm: bool,
) -> Result<wire::SweepOrphansResponse> {
    let (found, unreachable_backends) = find(parts).await?;
    let orphans = to_wire(&found);
    if confirm {
        let audit = Audit {
            actor: operator.0,
            action: "sweep_orphans",
            message: format!("{} orphans", orphans.len()),
        };
        parts.accounts.audit(&audit, None, parts.clock.now()).await.map_err(Error::from)?;
        for Found { engine, orphans } in &found {
            engine.remove_orphans(orphans).await;
        }
    }
    Ok(wire::SweepOrphansResponse { orphans, removed: confirm, unreachable_backends })
}
