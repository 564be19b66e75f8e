//! How soon watchers hear of a commit.

use std::time::{Duration, Instant};

use anyhow::Context;
use futures::StreamExt;
use molecule_proto::controlplane::v1::WatchInstancesRequest;

use crate::idle::{idle, organizations, provision};
use crate::{millis, percentile, sorted};

const WATCHERS: usize = 1000;
const COMMITS: usize = 100;

/// Commits one after another, each heard by all.
pub(crate) async fn measure() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (installation, replica) = idle(&folder).await?;
    let made = organizations(&replica, &installation.gateway(), 1).await?;
    let (heard, mut told) = tokio::sync::mpsc::unbounded_channel();
    for _ in 0..WATCHERS / 50 {
        let customer = replica.customer(&made[0].1).await?;
        for _ in 0..50 {
            let mut stream =
                customer.clone().watch_instances(WatchInstancesRequest::default()).await?.into_inner();
            let heard = heard.clone();
            tokio::spawn(async move {
                while let Some(Ok(message)) = stream.next().await {
                    if let Some(last) = message.instances.last() {
                        let _ = heard.send((last.workspace_id.clone(), Instant::now()));
                    }
                }
            });
        }
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut customer = replica.customer(&made[0].1).await?;
    let mut latencies = Vec::new();
    for _ in 0..COMMITS {
        provision(&mut customer, &installation.gateway()).await?;
        // the answer comes right after the commit
        let committed = Instant::now();
        for _ in 0..WATCHERS {
            let (_, at) =
                tokio::time::timeout(Duration::from_secs(10), told.recv()).await?.context("ended")?;
            latencies.push(millis(at.saturating_duration_since(committed)));
        }
    }
    let latencies = sorted(latencies);
    println!("\n## From commit to watcher ({WATCHERS} watchers of one organisation, {COMMITS} commits)\n");
    println!("| p50 | p99 | last |\n|---|---|---|");
    println!(
        "| {:.1} ms | {:.1} ms | {:.1} ms |",
        percentile(&latencies, 0.5),
        percentile(&latencies, 0.99),
        percentile(&latencies, 1.0)
    );
    replica.stop().await?;
    installation.finish().await
}
