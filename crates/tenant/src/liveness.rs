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
    let mut liveness = Liveness::new(workspaces, patience, period);
    while cancel.run_until_cancelled(tokio::time::sleep(period)).await.is_some() {
        if let Err(error) = liveness.pass().await {
            warn!(error = &error as &dyn std::error::Error, "agents could not be looked at");
        }
    }
}

/// The watch over a tenant's agents.
#[derive(Debug)]
pub struct Liveness {
    workspaces: Workspaces,
    patience: Patience,
    listening: Listening,
}

impl Liveness {
    /// Watches over agents that could be heard from `patience.since` on; a [pass](Self::pass) is made every `period`.
    pub const fn new(workspaces: Workspaces, patience: Patience, period: Duration) -> Self {
        Self { workspaces, patience, listening: Listening::new(patience.since, period) }
    }

    /// Looks at every workspace once, and measures how long wishes wait. What looks wrong is judged again inside a
    /// transaction: the agent may have been heard, or something else asked for, since it was read. Nobody is judged before
    /// this start and the provider have agreed.
    pub async fn pass(&mut self) -> Result<()> {
        let workspaces = &self.workspaces;
        let (records, _) = workspaces.store.snapshot(workspaces.organization).await?;
        let now = workspaces.clock.now();
        let heard_since = self.listening.since(now);
        metrics::oldest_wish(oldest_wish(records.iter().map(|record| record.pending.as_ref()), now));
        let Some(agreed_at) = workspaces.outbox.agreement.reached_at() else {
            // an agent that runs may be unknown to a database that was put back
            return Ok(());
        };
        // an instance that a restored provider shows as it was may have been down since, and its agent heard of long ago
        let patience = &Patience { since: heard_since.max(agreed_at), ..self.patience };
        for record in records.iter().filter(|record| judge(record, patience, now) != Verdict::Fine) {
            let workspace = record.workspace;
            let verdict =
                workspaces.store.judge_agent(workspaces.organization, workspace, patience, now).await?;
            // a break while this waited for the store is one as well
            self.listening.since(workspaces.clock.now());
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
}

/// Since when agents could be heard without a break. While the process is frozen, its machine sleeps, or the clock is
/// set, nobody is heard, and agents that are well seem to have been silent for as long.
#[derive(Debug)]
struct Listening {
    since: Timestamp,
    /// When this process was last known to run.
    awake_at: Timestamp,
    /// What is longer than this was a break.
    longest: Duration,
}

impl Listening {
    const fn new(since: Timestamp, period: Duration) -> Self {
        Self {
            since,
            awake_at: since,
            longest: period.saturating_mul(2).saturating_add(Duration::from_secs(1)),
        }
    }

    /// The process runs now: since when agents could be heard.
    fn since(&mut self, now: Timestamp) -> Timestamp {
        if now < self.awake_at || now.since(self.awake_at) > self.longest {
            self.since = now;
        }
        self.awake_at = now;
        self.since
    }
}

/// For how long the oldest of these wishes waits; 0 where none does.
fn oldest_wish<'a>(pending: impl Iterator<Item = Option<&'a Pending>>, now: Timestamp) -> Duration {
    pending.flatten().map(|pending| now.since(pending.since)).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_are_heard_anew_after_a_break() {
        let at = |second: i64| Timestamp::from_micros(second * 1_000_000);
        let mut listening = Listening::new(at(100), Duration::from_secs(5));
        assert_eq!(listening.since(at(105)), at(100));
        // a pass may come late
        assert_eq!(listening.since(at(116)), at(100));
        // the process was frozen, or the clock was set
        assert_eq!(listening.since(at(128)), at(128));
        assert_eq!(listening.since(at(133)), at(128));
        assert_eq!(listening.since(at(4000)), at(4000));
        assert_eq!(listening.since(at(4005)), at(4000));
        // it was set back
        assert_eq!(listening.since(at(300)), at(300));
        assert_eq!(listening.since(at(305)), at(300));
    }

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
