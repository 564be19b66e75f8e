//! A judgement about an agent that the control plane hears late: its database is put back to when the workspace was stopped
//! while its tenant, which has given the workspace up since, is telling it so.

use std::sync::Arc;
use std::time::Duration;

use molecule_domain::id::WorkspaceId;
use molecule_domain::lifecycle::{Desired, Phase, Readiness};
use molecule_workspace::Wish;
use molecule_workspace::record::WorkspaceRecord;
use molecule_workspace::store::TenantStore;
use tokio::time::Instant;

use crate::client::Ask;
use crate::faults::{Armed, Fault};
use crate::operator;
use crate::pair::Pair;
use crate::tenant::Tenant;
use crate::trouble;

/// How long the agent says nothing: its tenant gives it up before that.
const SILENT: Duration = Duration::from_secs(20 * 60);

/// Starts a stopped workspace whose agent says nothing, and puts the control plane's database back once that is found out.
pub(crate) fn is_heard_late(pair: &Pair) {
    let pair = pair.clone();
    Arc::clone(&pair.world).spawn(async move {
        let place = usize::try_from(pair.world.rng().below(pair.tenants.len() as u64)).unwrap_or(0);
        let tenant = &pair.tenants[place];
        let Some(workspace) = some_stopped(&pair, tenant).await else { return };
        let (backup, began) = (pair.control.backup(), Instant::now());
        pair.agents.silence(workspace, SILENT);
        trouble::ask(&pair, Ask::Start, workspace, Duration::ZERO);
        let mut is_armed = false;
        while began.elapsed() < SILENT && !pair.world.is_over() {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let found = tenant.database().load(tenant.organization, workspace).await.ok().flatten();
            let Some(found) = found else { return };
            if !is_armed && found.record.phase == Phase::Up {
                pair.world.arm(Armed { step: "call.stop", skip: 0, fault: Fault::RequestLost });
                is_armed = true;
            }
            if found.outbox.iter().any(|entry| matches!(entry.wish, Wish::Stop(Some(_)))) {
                operator::restore_control(&pair, backup, began.elapsed()).await;
                pair.world.coverage().trouble("late judgement");
                return;
            }
        }
    });
}

/// A stopped workspace of a tenant's whose agent is waited for once it runs.
async fn some_stopped(pair: &Pair, tenant: &Tenant) -> Option<WorkspaceId> {
    let (records, _) = tenant.database().snapshot(tenant.organization).await.ok()?;
    let is_stopped = |record: &&WorkspaceRecord| {
        record.phase == Phase::Stopped
            && record.desired == Desired::Stopped
            && record.readiness == Readiness::Agent
            && !record.is_recovered()
    };
    let stopped: Vec<_> = records.iter().filter(is_stopped).map(|record| record.workspace).collect();
    if stopped.is_empty() { None } else { Some(*pair.world.rng().pick(&stopped)) }
}
