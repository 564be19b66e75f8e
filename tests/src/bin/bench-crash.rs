//! Measures how soon the end of a container is known: from the moment of the daemon's own event to the stored fact, which the
//! workspace's events tell. Kills come one after another over several workspaces. Prints a table in Markdown, against the limit
//! that it is to keep.
//!
//! An event tells the moment at which the engine began to store it, by its clock: the daemon's word, the wake-up, the look at the
//! container and its post-mortem are in it, the transaction itself is not, nor is how soon a client hears of it.

use std::time::Duration;

use anyhow::{Context, bail};
use bollard::Docker;
use bollard::query_parameters::{EventsOptionsBuilder, KillContainerOptions};
use futures::StreamExt;
use molecule_proto::tenant::v1::RestartWorkspaceRequest;
use molecule_proto::workspace::v1::{Workspace, WorkspaceState};
use molecule_tests::images::docker;
use molecule_tests::tenant::{Setup, Tenant, spec};

const SUBNET: u8 = 98;
const WORKSPACES: usize = 5;
/// What ninety-nine of a hundred are to keep.
const LIMIT: Duration = Duration::from_secs(1);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let kills: usize = std::env::args().nth(1).context("bench-crash KILLS")?.parse()?;
    let docker = docker().await?;
    let folder = tempfile::tempdir()?;
    let program = std::env::current_exe()?.with_file_name("tenant-svc").display().to_string();
    let setup = Setup::new(&program, folder.path(), SUBNET).await?.with("TENANT_LOG", "warn");
    let mut tenant = setup.start().await?;
    let mut workspaces = Vec::new();
    for _ in 0..WORKSPACES {
        let created = tenant.create(spec("bench", "demo")).await?;
        workspaces.push(tenant.reaches(&created.workspace_id, WorkspaceState::Running).await?);
    }
    let mut noticed = Vec::new();
    for kill in 0..kills {
        let workspace = &mut workspaces[kill % WORKSPACES];
        let died =
            killed(&docker, &format!("ws-{}-{}", workspace.workspace_id, workspace.generation)).await?;
        noticed.push(stored(&mut tenant, workspace).await? - died);
        *workspace = restarted(&mut tenant, workspace).await?;
        if kill % 20 == 19 {
            eprintln!("{} of {kills} kills", kill + 1);
        }
    }
    for workspace in &workspaces {
        tenant.delete(&workspace.workspace_id).await?;
    }
    tenant.finish().await?;

    noticed.sort_by(f64::total_cmp);
    println!("| {kills} kills | from the daemon's event to the fact's time | of the limit of {LIMIT:?} |");
    println!("|---|---|---|");
    for (name, percent) in [("p50", 50), ("p99", 99), ("longest", 100)] {
        let seconds = noticed[(noticed.len() * percent).div_ceil(100).max(1) - 1];
        println!("| {name} | {:.0} ms | {:.2} |", seconds * 1000.0, seconds / LIMIT.as_secs_f64());
    }
    Ok(())
}

/// Kills a container, and says when it died by the daemon's clock, in seconds.
async fn killed(docker: &Docker, container: &str) -> anyhow::Result<f64> {
    let filters = [("container", container), ("event", "die")];
    let filters = filters.map(|(name, value)| (name.to_owned(), vec![value.to_owned()])).into();
    let mut events = docker.events(Some(EventsOptionsBuilder::default().filters(&filters).build()));
    let died = tokio::spawn(async move { events.next().await });
    // the daemon has to know that somebody listens
    tokio::time::sleep(Duration::from_millis(100)).await;
    docker.kill_container(container, None::<KillContainerOptions>).await?;
    let event = died.await?.context("the daemon's events ended")??;
    Ok(seconds(event.time_nano.context("an event without its time")?))
}

/// When the end was stored by the same machine's clock, in seconds.
async fn stored(tenant: &mut Tenant, workspace: &Workspace) -> anyhow::Result<f64> {
    for _ in 0..1_200 {
        let events = tenant.events(&workspace.workspace_id).await?;
        let end =
            events.iter().find(|event| event.kind == "exited" && event.generation == workspace.generation);
        if let Some(at) = end.and_then(|event| event.time) {
            return Ok(seconds(at.seconds * 1_000_000_000 + i64::from(at.nanos)));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("the end of {} was not noticed within a minute", workspace.workspace_id)
}

#[allow(clippy::cast_precision_loss)]
fn seconds(nanos: i64) -> f64 {
    nanos as f64 / 1e9
}

/// A new generation, so that each kill is the first of its own.
async fn restarted(tenant: &mut Tenant, workspace: &Workspace) -> anyhow::Result<Workspace> {
    let workspace_id = workspace.workspace_id.clone();
    tenant.client.restart_workspace(RestartWorkspaceRequest { workspace_id, ..Default::default() }).await?;
    let generation = workspace.generation + 1;
    let runs = |now: &Workspace| now.generation == generation && now.state() == WorkspaceState::Running;
    tenant.until(&workspace.workspace_id, "RUNNING again", runs).await
}
