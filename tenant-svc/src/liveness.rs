//! Watches over agents: one that never connects fails its workspace, one that falls silent degrades it.
//! (Restarting what is silent for longer comes with the agents' second part; its place is here.)

use std::time::Duration;

use molecule_domain::Timestamp;
use molecule_domain::error::Result;
use molecule_domain::lifecycle::{AgentHealth, Phase, Readiness, Reason, WorkspaceState};
use molecule_store_sqlite::tenant::model::WorkspaceRecord;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::workspaces::Workspaces;

/// How patient it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    pub(crate) connect: Duration,
    pub(crate) silence: Duration,
}

/// Runs until cancelled.
pub(crate) async fn run(workspaces: Workspaces, patience: Patience, cancel: CancellationToken) {
    let mut tick = tokio::time::interval(
        Duration::from_secs(5).min(patience.connect / 4).max(Duration::from_millis(250)),
    );
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = tick.tick() => {}
        }
        if let Err(error) = pass(&workspaces, patience).await {
            warn!(error = &error as &dyn std::error::Error, "agents could not be looked at");
        }
    }
}

enum Verdict {
    Fine,
    NeverConnected,
    Silent,
}

fn judge(record: &WorkspaceRecord, patience: Patience, now: Timestamp) -> Verdict {
    if record.phase != Phase::Up
        || !matches!(record.state(), WorkspaceState::Provisioning(_) | WorkspaceState::Running)
    {
        return Verdict::Fine;
    }
    match record.agent.health {
        AgentHealth::NotConnected if record.readiness == Readiness::Agent => {
            if now.since(record.phase_since) > patience.connect {
                Verdict::NeverConnected
            } else {
                Verdict::Fine
            }
        }
        AgentHealth::Healthy
            if record.agent.last_seen.is_some_and(|seen| now.since(seen) > patience.silence) =>
        {
            Verdict::Silent
        }
        _ => Verdict::Fine,
    }
}

async fn pass(workspaces: &Workspaces, patience: Patience) -> Result<()> {
    let (records, _) = workspaces.store.snapshot(workspaces.organization).await?;
    let now = workspaces.clock.now();
    for record in records {
        match judge(&record, patience, now) {
            Verdict::Fine => {}
            Verdict::NeverConnected => {
                info!(workspace = %record.workspace, "its agent never connected");
                let message = format!(
                    "its instance is up, but its agent did not connect within {:?}; look at its output, then \
                     restart it",
                    patience.connect
                );
                let failed =
                    workspaces.fail(record.workspace, record.intent, Reason::AgentNotConnected, message);
                if let Err(error) = failed.await {
                    // somebody asked for something else meanwhile, or the next look tries again
                    debug!(workspace = %record.workspace, %error, "it was not stopped for that");
                }
            }
            Verdict::Silent => {
                info!(workspace = %record.workspace, "its agent is silent");
                let seen = record.agent.last_seen;
                let told = workspaces.store.agent_told(
                    record.organization,
                    record.workspace,
                    record.generation,
                    now,
                    // it did not tell anything: only the judgement changes
                    |agent| {
                        agent.last_seen = seen;
                        agent.health = AgentHealth::Silent;
                    },
                );
                told.await?;
            }
        }
    }
    Ok(())
}
