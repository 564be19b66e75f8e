//! Watches over agents: one that never connects fails its workspace, one that falls silent degrades it.

use std::time::Duration;

use molecule_domain::Timestamp;
use molecule_domain::error::Result;
use molecule_telemetry::metrics;
use molecule_workspace::agent::{Patience, Verdict, judge};
use molecule_workspace::record::Pending;
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
    metrics::oldest_wish(oldest_wish(records.iter().map(|record| record.pending.as_ref()), now));
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

/// For how long the oldest of these wishes waits; 0 where none does.
fn oldest_wish<'a>(pending: impl Iterator<Item = Option<&'a Pending>>, now: Timestamp) -> Duration {
    pending.flatten().map(|pending| now.since(pending.since)).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_wish_counts() {
        let since =
            |second: i64| Pending { since: Timestamp::from_micros(second * 1_000_000), cause: String::new() };
        let (old, new) = (since(10), since(50));
        let now = Timestamp::from_micros(60_000_000);
        let age = |some: &[Option<&Pending>]| oldest_wish(some.iter().copied(), now).as_secs();
        assert_eq!(age(&[None, Some(&new), Some(&old), None]), 50);
        assert_eq!((age(&[None]), age(&[])), (0, 0));
    }
}
