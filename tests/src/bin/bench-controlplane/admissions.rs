//! Admitted per second, against pgbench with the same writes.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use molecule_provisioner::samples;
use molecule_tests::controlplane::Replica;
use molecule_tests::postgres::Scratch;

use crate::idle::{idle, organizations, provision};
use crate::{millis, percentile, sorted};

const ORGANIZATIONS: usize = 16;
const CLIENTS: usize = 16;
const SECONDS: u64 = 8;

/// The statements of one admission, as `Store::provision` makes them.
fn script(installation: &[(String, String)]) -> String {
    let ids: Vec<_> = installation.iter().map(|(id, _)| format!("'{id}'")).collect();
    let spec = serde_json::to_string(&samples::spec()).unwrap_or_default();
    // pgbench takes a word behind a colon for a variable
    let spec = spec.replace('\'', "''").replace(':', "\\u003a");
    format!(
        "\\set n random(1, {})\n\
         SELECT gen_random_uuid() AS w, (ARRAY[{}]::uuid[])[:n] AS o \\gset\n\
         BEGIN;\n\
         SELECT standing, permits, max_workspaces, used_workspaces FROM organizations WHERE organization_id = :o::uuid \
         AND deleted_at IS NULL FOR UPDATE;\n\
         SELECT * FROM instances WHERE workspace_id = :w::uuid;\n\
         WITH o AS (UPDATE organizations SET revision = revision + 1, events = events + 1, used_workspaces = \
         used_workspaces + 1, used_disk_gib = used_disk_gib + 10, used_running_workspaces = used_running_workspaces + 1, \
         used_milli_cpus = used_milli_cpus + 1000, used_memory_mib = used_memory_mib + 512 WHERE organization_id = :o::uuid \
         RETURNING revision, events), l AS (INSERT INTO launches (organization_id, at, workspace_id) VALUES (:o::uuid, now(), \
         :w::uuid)), e AS (INSERT INTO instance_events (organization_id, event_id, workspace_id, at, kind, actor, generation, \
         message, log_tail) SELECT :o::uuid, o.events, :w::uuid, now(), 'admitted', 'Client', 1, 'admitted', '' FROM o) INSERT \
         INTO instances (workspace_id, organization_id, backend, desired, intent, generation, wanted_generation, spec, \
         sealed_token, phase, phase_since, message, restarts, failures, charge_id, running_counted, revision, due_at, \
         created_at, trace) SELECT :w::uuid, :o::uuid, 'docker', 'Running', 0, 1, 1, E'{spec}', '\\\\x0000', 'Admitted', now(), \
         'admitted', 0, 0, gen_random_uuid(), true, o.revision, now(), now(), '' FROM o RETURNING revision;\n\
         COMMIT;\n",
        installation.len(),
        ids.join(","),
    )
}

/// Turns of each, alternating.
pub(crate) async fn measure() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (installation, replica) = idle(&folder).await?;
    let made = organizations(&replica, &installation.gateway(), ORGANIZATIONS).await?;
    let fsync = installation
        .database
        .text("SELECT current_setting('fsync') || ' ' || current_setting('synchronous_commit')");
    let fsync = fsync.await?;
    ensure!(fsync == "on on", "the server does not write durably: {fsync}");
    let script_file = folder.path().join("admission.sql");
    std::fs::write(&script_file, script(&made))?;

    let (mut ours, mut theirs, mut latencies) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..3 {
        let (rate, took) = through_the_service(&replica, &made, &installation.gateway()).await?;
        ours.push(rate);
        latencies.extend(took);
        theirs.push(pgbench(&installation.database, &script_file).await?);
    }
    let (ours, theirs, latencies) = (sorted(ours), sorted(theirs), sorted(latencies));
    let (ours, (bench, bench_latency)) =
        (ours[1], (theirs[1], millis(Duration::from_secs_f64(16.0 / theirs[1]))));
    println!(
        "\n## Admissions ({CLIENTS} clients, {ORGANIZATIONS} organisations, fsync on, median of 3 turns each)\n"
    );
    println!("| | through controlplane-svc | pgbench, the same writes | ratio |\n|---|---|---|---|");
    println!("| admitted per second | {ours:.0} | {bench:.0} | {:.2} |", ours / bench);
    println!(
        "| p50, p99 | {:.1} ms, {:.1} ms | mean {bench_latency:.1} ms | |",
        percentile(&latencies, 0.5),
        percentile(&latencies, 0.99)
    );
    replica.stop().await?;
    installation.finish().await
}

async fn through_the_service(
    replica: &Replica,
    made: &[(String, String)],
    gateway: &str,
) -> anyhow::Result<(f64, Vec<f64>)> {
    let began = Instant::now();
    let mut clients = Vec::new();
    for n in 0..CLIENTS {
        let mut customer = replica.customer(&made[n % made.len()].1).await?;
        let gateway = gateway.to_owned();
        clients.push(tokio::spawn(async move {
            let mut took = Vec::new();
            while began.elapsed() < Duration::from_secs(SECONDS) {
                let asked = Instant::now();
                provision(&mut customer, &gateway).await?;
                took.push(millis(asked.elapsed()));
            }
            anyhow::Ok(took)
        }));
    }
    let mut latencies = Vec::new();
    for client in clients {
        latencies.extend(client.await??);
    }
    #[allow(clippy::cast_precision_loss)]
    let rate = latencies.len() as f64 / began.elapsed().as_secs_f64();
    Ok((rate, latencies))
}

async fn pgbench(database: &Scratch, script: &std::path::Path) -> anyhow::Result<f64> {
    let program = std::env::var("MOLECULE_PGBENCH").unwrap_or_else(|_| "pgbench".to_owned());
    let mut command = Command::new(program);
    command
        .args([
            "--no-vacuum",
            "--client",
            &CLIENTS.to_string(),
            "--jobs",
            "2",
            "--time",
            &SECONDS.to_string(),
        ])
        .args(["--protocol", "prepared", "--file", &script.display().to_string()])
        .arg(database.url());
    let done = tokio::task::spawn_blocking(move || command.output()).await??;
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let told = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "pgbench: {told}");
    let rate = text.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
    rate.with_context(|| format!("pgbench tells no rate: {text} {told}"))
}
