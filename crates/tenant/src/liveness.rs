//! Watches over agents: one that never connects fails its workspace, one that falls silent degrades it.

use std::time::Duration;

use molecule_domain::error::Result;
use molecule_telemetry::metrics;
use molecule_workspace::agent::{Patience, Verdict, judge};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::workspaces::Workspaces;

/// Runs until cancelled.
pub async fn run(workspaces: Workspaces, patience: Patience, cancel: CancellationToken) {
    let period = Duration::from_secs(5).min(patience.connect / 4).max(Duration::from_millis(250));
    while cancel.run_until_cancelled(tokio::time::sleep(period)).await.is_some() {
        if let Err(error) = pass(&workspaces, &patience).await {
            warn!(error = &error as &dyn std::error::Error, "agents could not be looked at");
        }
    }
}

/// Looks at every workspace once, and measures how long wishes wait. What looks wrong is judged again inside a transaction:
/// the agent may have been heard, or something else asked for, since it was read. Nobody is judged before this start and
/// the provider have agreed.
pub async fn pass(workspaces: &Workspaces, patience: &Patience) -> Result<()> {
    let (records, _) = workspaces.store.snapshot(workspaces.organization).await?;
    let now = workspaces.clock.now();
    let waits =
        records.iter().filter_map(|record| record.pending.as_ref()).map(|pending| pending.since).min();
    metrics::oldest_wish(waits.map_or(Duration::ZERO, |since| now.since(since)));
    let Some(agreed_at) = workspaces.outbox.agreement.reached_at() else {
        // an agent that runs may be unknown to a database that was put back
        return Ok(());
    };
    // an instance that a restored provider shows as it was may have been down since, and its agent heard of long ago
    let patience = &Patience { since: patience.since.max(agreed_at), ..*patience };
    for record in records.iter().filter(|record| judge(record, patience, now) != Verdict::Fine) {
        let workspace = record.workspace;
        let verdict = workspaces.store.judge_agent(workspaces.organization, workspace, patience, now).await?;
        match verdict {
            Verdict::Fine => {}
            Verdict::Silent => info!(%workspace, "its agent is silent"),
            Verdict::NeverConnected => {
                info!(%workspace, "its agent never connected; it is stopped for that");
                workspaces.outbox.wake(workspace);
            }
        }
    }
    Ok(())
}
