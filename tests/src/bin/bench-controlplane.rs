//! Measures the control plane: admissions against pgbench doing the same writes on the same server, what steady
//! workspaces cost, how soon watchers hear, and what forwarding adds to a create. Prints tables in Markdown.
//!
//! `bench-controlplane` needs `MOLECULE_TEST_POSTGRES`, a Docker daemon, and the services beside it;
//! `bench-controlplane account N FILE` is a process of its own that plays an account with N machines.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use futures::StreamExt;
use molecule_backend_ec2::Ec2Backend;
use molecule_domain::clock::SystemClock;
use molecule_domain::id::{InstallationId, OrganizationId};
use molecule_domain::launch::LaunchSpec;
use molecule_proto::controlplane::v1::{
    CreateOrganizationRequest, InstanceSpec, IssueTokenRequest, Limits, Organization,
    ProvisionWorkspaceRequest, WatchInstancesRequest,
};
use molecule_proto::workspace::v1::WorkspaceState;
use molecule_provisioner::faults::Steps;
use molecule_provisioner::policy::Policy;
use molecule_provisioner::reconciler::execute::Executor;
use molecule_provisioner::reconciler::orphans::Sweeper;
use molecule_provisioner::store::contract;
use molecule_service_kit::seal::Aes;
use molecule_store_postgres::Database;
use molecule_store_postgres::engine::EngineStore;
use molecule_tests::controlplane::{Customer, Installation, Replica};
use molecule_tests::ec2::{self, Cloud, Front, Weather};
use molecule_tests::images::{self, Kind, docker};
use molecule_tests::postgres::{Scratch, execute};
use molecule_tests::seed::Dice;
use molecule_tests::stand::{Mode, Programs, Stand};
use molecule_tests::tenant::{Tenant, spec};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

const SUBNET: u8 = 99;
const ORGANIZATIONS: usize = 16;
const CLIENTS: usize = 16;
const SECONDS: u64 = 8;
const WATCHERS: usize = 1000;
const COMMITS: usize = 100;
const CREATES: usize = 15;
/// Written by the account's process, with the installation that its machines are of.
const OWNER: &str = "00000000-0000-4000-8000-000000000001";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["account", count] => account(count.parse()?).await,
        [] => {
            admissions().await?;
            steady().await?;
            watchers().await?;
            forwarding().await
        }
        other => bail!("unknown arguments: {other:?}"),
    }
}

fn beside(name: &str) -> anyhow::Result<String> {
    Ok(std::env::current_exe()?.with_file_name(name).display().to_string())
}

fn percentile(sorted: &[f64], share: f64) -> f64 {
    #[allow(clippy::cast_precision_loss, clippy::cast_sign_loss, clippy::cast_possible_truncation)]
    let at = ((sorted.len() - 1) as f64 * share).round() as usize;
    sorted[at]
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// A control plane whose engine never begins: what is admitted stays as it is.
async fn idle(folder: &tempfile::TempDir) -> anyhow::Result<(Installation, Replica)> {
    let nobody = format!("unix://{}", folder.path().join("nobody").display());
    let installation = Installation::new(&beside("controlplane-svc")?, folder.path(), SUBNET)
        .await?
        .with("CONTROLPLANE_DOCKER_ISOLATION", "require")
        .with("CONTROLPLANE_LOG", "error")
        .with("DOCKER_HOST", nobody);
    let replica = installation.start("idle").await?;
    Ok((installation, replica))
}

async fn organizations(
    replica: &Replica,
    gateway: &str,
    count: usize,
) -> anyhow::Result<Vec<(String, String)>> {
    let mut operator = replica.operator().await?;
    let mut made = Vec::new();
    for n in 0..count {
        let organization = Organization {
            name: format!("bench-{n}"),
            limits: Some(Limits { workspaces: Some(1_000_000), ..Limits::default() }),
            allowed_agent_hosts: vec![gateway.to_owned()],
            ..Organization::default()
        };
        let request = CreateOrganizationRequest { organization: Some(organization) };
        let id = operator.create_organization(request).await?.into_inner().organization;
        let organization_id = id.context("no organisation")?.organization_id;
        let request =
            IssueTokenRequest { organization_id: organization_id.clone(), name: "bench".to_owned() };
        made.push((organization_id, operator.issue_token(request).await?.into_inner().secret));
    }
    Ok(made)
}

async fn provision(customer: &mut Customer, gateway: &str) -> anyhow::Result<()> {
    let spec = InstanceSpec {
        runtime: "demo".to_owned(),
        agents_url: format!("http://{gateway}:7071"),
        ..InstanceSpec::default()
    };
    let request = ProvisionWorkspaceRequest {
        workspace_id: uuid::Uuid::now_v7().to_string(),
        spec: Some(spec),
        bootstrap_token: b"bench".to_vec(),
    };
    customer.provision_workspace(request).await?;
    Ok(())
}

/// The statements of one admission, as `Store::provision` makes them.
fn script(installation: &[(String, String)]) -> String {
    let ids: Vec<_> = installation.iter().map(|(id, _)| format!("'{id}'")).collect();
    let spec = serde_json::to_string(&contract::spec()).unwrap_or_default();
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

async fn admissions() -> anyhow::Result<()> {
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

/// An account in a process of its own, so that its work is not counted with ours.
async fn account(count: usize) -> anyhow::Result<()> {
    let front =
        Front::before(Cloud::memory(), Weather::default(), Dice::new(), Arc::new(SystemClock)).await?;
    front.fill_with(OWNER, count);
    println!("URL {}", front.url);
    std::io::stdout().flush()?;
    let mut line = String::new();
    loop {
        // a line asks how often machines were described; the end of the input ends this
        if std::io::stdin().read_line(&mut line)? == 0 {
            return Ok(());
        }
        println!("CALLS {}", front.calls("DescribeInstances") + front.calls("DescribeVolumes"));
        std::io::stdout().flush()?;
    }
}

/// What this process has used: CPU seconds, and memory in MiB.
fn used() -> anyhow::Result<(f64, f64)> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: f64 = [fields[11], fields[12]].iter().filter_map(|field| field.parse::<f64>().ok()).sum();
    let status = std::fs::read_to_string("/proc/self/status")?;
    let memory =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
    Ok((ticks / 100.0, memory.unwrap_or(0.0) / 1024.0))
}

async fn steady() -> anyhow::Result<()> {
    println!(
        "\n## Steady workspaces: one sweep over PostgreSQL and an account, and one look for what is due\n"
    );
    println!(
        "| workspaces | sweep, CPU | sweep, elapsed | transactions | pages described | memory after | idle pass, CPU |\n\
         |---|---|---|---|---|---|---|"
    );
    for count in [1_000, 10_000, 100_000] {
        let database = Scratch::new().await?;
        let cancel = CancellationToken::new();
        let opened = Database::open(&database.url(), 10, cancel.clone()).await?;
        fill(&database, count).await?;
        let mut account = Command::new(std::env::current_exe()?)
            .args(["account", &count.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut told = BufReader::new(account.stdout.take().context("no output")?).lines();
        let mut ask = account.stdin.take().context("no input")?;
        let mut next = |prefix: &str| -> anyhow::Result<String> {
            loop {
                let line = told.next().context("the account has ended")??;
                if let Some(rest) = line.strip_prefix(prefix) {
                    return Ok(rest.trim().to_owned());
                }
            }
        };
        let url = next("URL")?;
        let sdk = ec2::sdk(&url).await;
        let settings = molecule_backend_ec2::Settings {
            call_timeout: Duration::from_secs(60),
            subnets: vec!["subnet-0".to_owned()],
            ..ec2::plain_settings()
        };
        let installation: InstallationId = OWNER.parse()?;
        let clock = Arc::new(SystemClock);
        let backend = Ec2Backend::with(
            &sdk,
            settings,
            installation,
            ec2::no_reports(),
            clock.clone(),
            Steps::default(),
        );
        let store = Arc::new(EngineStore::new(opened.clone()));
        let policy = Policy { other_call: Duration::from_secs(300), ..Policy::default() };
        let executor = Executor {
            backend: Arc::new(backend),
            store: store.clone(),
            sealer: Arc::new(Aes::new(&[7; 32]).context("no key")?),
            clock,
            launches: Semaphore::new(1),
            policy,
            steps: Steps::default(),
        };
        let mut sweeper = Sweeper::default();
        // the first makes connections
        sweeper.pass(&executor).await?;
        let calls = |told: String| told.parse::<usize>().unwrap_or(0);
        writeln!(ask)?;
        let calls_before = calls(next("CALLS")?);
        let transactions =
            "SELECT (xact_commit)::bigint FROM pg_stat_database WHERE datname = current_database()";
        tokio::time::sleep(Duration::from_millis(1200)).await;
        let (before, commits) = (used()?, database.number(transactions).await?);
        let began = Instant::now();
        let found = sweeper.pass(&executor).await?;
        let elapsed = began.elapsed();
        ensure!(found.wake.is_empty() && found.unexplained == 0, "it was not steady: {found:?}");
        let after = used()?;
        tokio::time::sleep(Duration::from_millis(1200)).await;
        // one of these is the question itself
        let commits = database.number(transactions).await? - commits - 1;
        writeln!(ask)?;
        let described = calls(next("CALLS")?) - calls_before;
        let idle = used()?;
        for _ in 0..100 {
            molecule_provisioner::store::Store::next_due(
                &*store,
                "ec2",
                molecule_domain::Clock::now(&SystemClock),
            )
            .await?;
        }
        println!(
            "| {count} | {:.0} ms | {:.0} ms | {commits} | {described} | {:.0} MiB | {:.2} ms |",
            (after.0 - before.0) * 1000.0,
            millis(elapsed),
            after.1,
            (used()?.0 - idle.0) * 10.0
        );
        drop(ask);
        account.wait()?;
        opened.close().await;
        cancel.cancel();
    }
    Ok(())
}

/// Fills a database with workspaces that are up.
async fn fill(database: &Scratch, count: usize) -> anyhow::Result<()> {
    let spec = serde_json::to_string::<LaunchSpec>(&contract::spec())?;
    let organization = OrganizationId::SELF_HOSTED;
    let statement = format!(
        "INSERT INTO organizations (organization_id, revision, used_workspaces) VALUES ('{organization}', {count}, {count});
         SELECT setval('launch_seq', {count});
         INSERT INTO instances (workspace_id, organization_id, backend, desired, intent, generation, wanted_generation,
             spec, phase, phase_since, message, restarts, up_since, failures, charge_id, running_counted, revision,
             attempt_number, attempt_seq, attempt_token, attempt_state, attempt_call_until, attempt_unsure_until,
             attempt_created_at, created_at)
         SELECT lpad(to_hex(n), 32, '0')::uuid, '{organization}', 'ec2', 'Running', 0, 1, 1, '{spec}', 'Up', now(), 'up', 0,
             now(), 0, gen_random_uuid(), true, n, 1, n, n::text, 'Confirmed', now(), now(), now(), now()
         FROM generate_series(1, {count}) n;
         ANALYZE;"
    );
    execute(&database.url(), statement).await
}

async fn watchers() -> anyhow::Result<()> {
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

async fn forwarding() -> anyhow::Result<()> {
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
