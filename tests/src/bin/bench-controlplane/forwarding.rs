//! What forwarding adds to one create.

use std::time::Instant;

use molecule_proto::workspace::v1::WorkspaceState;
use molecule_tests::images::{self, Kind, docker};
use molecule_tests::stand::{Mode, Programs, Stand};
use molecule_tests::tenant::{Tenant, spec};

use crate::{SUBNET, beside, millis, percentile, sorted};

const CREATES: usize = 15;

/// One create, until it is answered and until it is RUNNING (with a runtime that is ready once its process runs).
async fn create(tenant: &mut Tenant) -> anyhow::Result<(f64, f64)> {
    let began = Instant::now();
    let made = tenant.create(spec("bench", "demo-stamp")).await?;
    let answered = millis(began.elapsed());
    tenant.reaches(&made.workspace_id, WorkspaceState::Running).await?;
    let running = millis(began.elapsed());
    tenant.delete(&made.workspace_id).await?;
    Ok((answered, running))
}

/// Creates in both modes, alternating.
pub(crate) async fn measure() -> anyhow::Result<()> {
    let docker = docker().await?;
    for kind in Kind::ALL {
        images::import(&docker, kind).await?;
    }
    let (tenant, control_plane) = (beside("tenant-svc")?, beside("controlplane-svc")?);
    let programs = Programs { tenant: tenant.leak(), control_plane: control_plane.leak() };
    let mut alone = Stand::start(programs, Mode::SelfHosted, SUBNET, &[]).await?;
    let mut pair = Stand::start(programs, Mode::Saas, SUBNET, &[]).await?;
    // the first of each makes networks and volumes
    create(&mut alone).await?;
    create(&mut pair).await?;
    let (mut one, mut other) = (Vec::new(), Vec::new());
    for _ in 0..CREATES {
        one.push(create(&mut alone).await?);
        other.push(create(&mut pair).await?);
    }
    let p50 = |of: &[(f64, f64)], which: fn(&(f64, f64)) -> f64| {
        percentile(&sorted(of.iter().map(which).collect()), 0.5)
    };
    println!("\n## One create, forwarded ({CREATES} each, alternating, p50)\n");
    println!("| | self-hosted | through the control plane | added |\n|---|---|---|---|");
    for (what, which) in [("answered", (|one| one.0) as fn(&(f64, f64)) -> f64), ("RUNNING", |one| one.1)] {
        let (a, b) = (p50(&one, which), p50(&other, which));
        println!("| {what} | {a:.1} ms | {b:.1} ms | {:.1} ms |", b - a);
    }
    alone.finish().await?;
    pair.finish().await
}
