//! What workspaces cost that only stand there.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use molecule_backend_ec2::Ec2Backend;
use molecule_domain::clock::SystemClock;
use molecule_domain::id::{InstallationId, OrganizationId};
use molecule_domain::launch::LaunchSpec;
use molecule_provisioner::faults::Steps;
use molecule_provisioner::policy::Policy;
use molecule_provisioner::reconciler::execute::Executor;
use molecule_provisioner::reconciler::sweeper::Sweeper;
use molecule_provisioner::samples;
use molecule_service_kit::seal::Aes;
use molecule_store_postgres::Database;
use molecule_store_postgres::engine::EngineStore;
use molecule_tests::ec2::{self, Cloud, Front, Weather};
use molecule_tests::postgres::{Scratch, execute};
use molecule_tests::seed::Dice;
use tokio_util::sync::CancellationToken;

use crate::millis;

/// The installation that the machines are of.
const OWNER: &str = "00000000-0000-4000-8000-000000000001";

/// An account in a process of its own, so that its work is not counted with ours.
pub(crate) async fn account(count: usize) -> anyhow::Result<()> {
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

/// One sweep, and looks for what is due, at three sizes.
pub(crate) async fn measure() -> anyhow::Result<()> {
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
                molecule_provisioner::store::Room::of_each(1),
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
    let spec = serde_json::to_string::<LaunchSpec>(&samples::spec())?;
    let organization = OrganizationId::SELF_HOSTED;
    let statement = format!(
        "INSERT INTO organizations (organization_id, revision, used_workspaces) VALUES ('{organization}', {count}, {count});
         UPDATE launch_numbers SET highest = {count};
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
