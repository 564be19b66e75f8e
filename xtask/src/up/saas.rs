//! The SaaS pair on one machine: two replicas of controlplane-svc over PostgreSQL and Docker, and one tenant.

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use super::{DEMO, Demo, MOLECULE, RUNTIMES, SERVER, Service, Services, Stop, field, folder, secret_file};
use crate::docker;
use crate::shell::{self, command, is_root, is_there, say};
use crate::tools::static_binary;

const REPLICAS: [&str; 2] = ["127.0.0.1:7080", "127.0.0.1:7081"];
const AGENTS_PORT: u16 = 7071;
const RULES: &str = "deploy/host-rules.sh";

/// What the SaaS pair of the demo keeps.
fn saas_folder() -> PathBuf {
    folder().join("molecule-saas")
}

struct Files {
    operators: PathBuf,
    seal_key: PathBuf,
    organization_token: PathBuf,
}

pub(super) fn run(database_url: &str, exit: bool, stop: &Stop) -> anyhow::Result<()> {
    let (files, pool) = (files()?, pool()?);
    let agents_host = bridge_gateway()?;
    let _rules = HostRules::install(&pool, &format!("{agents_host}:{AGENTS_PORT}"))?;
    let mut services = Services::default();
    for replica in REPLICAS {
        say(&format!("starting controlplane-svc at {replica}"));
        services.add(Service::start(
            "controlplane-svc",
            &mut control_plane(database_url, &files, &pool, replica),
        )?);
    }
    for service in services.all() {
        service.answers(|| admin(&files, &["org", "list"]), stop)?;
    }

    let organization = organization(&files, &agents_host)?;
    say("starting tenant-svc, which forwards to them");
    let demo = Demo { data: saas_folder().join("tenant") };
    let agents = format!("{agents_host}:{AGENTS_PORT}");
    let mut command = Command::new("target/debug/tenant-svc");
    command
        .env("TENANT_DATA_DIR", &demo.data)
        .env("TENANT_LISTEN", SERVER)
        .env("TENANT_AGENT_LISTEN", &agents)
        .env("TENANT_AGENT_URL", format!("http://{agents}"))
        .env("RUNTIMES_FILE", RUNTIMES)
        .env("TENANT_LOG", "warn,tenant_svc=info")
        .env("MOLECULE_ORG_ID", &organization)
        .env("MOLECULE_ORG_TOKEN_FILE", &files.organization_token)
        .env("CP_PROVISION_URL", REPLICAS.map(|replica| format!("http://{replica}")).join(","))
        .env_remove("DOCKER_HOST");
    services.add(Service::start("tenant-svc", &mut command)?).answers(|| demo.molecule(&["info"]), stop)?;
    demo.play(services, exit, stop, |id| show(&demo, &files, &organization, id))
}

/// What an organisation may have, and what its tenant and the operators see of it.
fn show(demo: &Demo, files: &Files, organization: &str, id: &str) -> anyhow::Result<()> {
    say("one workspace too many");
    let too_many = demo.molecule(&["create", "one-too-many", "--runtime", "demo"]).output()?;
    let denial = String::from_utf8_lossy(&too_many.stderr);
    print!("{denial}");
    ensure!(
        !too_many.status.success() && denial.contains("QUOTA_EXCEEDED"),
        "a workspace beyond the quota was not denied: {too_many:?}"
    );
    say("the quota, as the tenant sees it");
    let mut quota = command_at(&["quota"]);
    shell::run(quota.env("MOLECULE_ORG_TOKEN_FILE", &files.organization_token))?;
    say("the audit, as operators see it");
    shell::run(&mut admin(files, &["audit", "--org", organization, "--limit", "5"]))?;

    demo.how_to_go_on(id);
    println!(
        "operators: {MOLECULE} admin --operator-token-file {} org get {organization}",
        files.operators.display()
    );
    Ok(())
}

/// The host's rules that keep organisations apart, for as long as this runs.
struct HostRules {
    ours: bool,
}

impl HostRules {
    /// As root. Otherwise they must be there already; the control plane finds out, and says so.
    fn install(pool: &str, allowed: &str) -> anyhow::Result<Self> {
        if !is_root() {
            println!("without root, these must have been run: sudo {RULES} install {pool} {allowed}");
            return Ok(Self { ours: false });
        }
        if !is_there("iptables") {
            shell::install(&["iptables"], "iptables")?;
        }
        say("installing the rules that keep organisations' workspaces apart");
        shell::run(&mut command(RULES, &["install", pool, allowed]))?;
        Ok(Self { ours: true })
    }
}

impl Drop for HostRules {
    fn drop(&mut self) {
        if self.ours {
            let _ = command(RULES, &["remove"]).status();
        }
    }
}

/// The range of the organisations' networks, chosen at the first run: none of the daemon's networks is in it.
fn pool() -> anyhow::Result<String> {
    let kept = saas_folder().join("pool");
    if let Ok(pool) = fs::read_to_string(&kept) {
        return Ok(pool);
    }
    let networks = docker::networks()?;
    let free = (202..=254).find(|number| !networks.contains(&format!("\"Subnet\":\"10.{number}.")));
    let pool =
        format!("10.{}.0.0/16", free.context("Docker's networks leave no range from 10.202 to 10.254 free")?);
    fs::create_dir_all(saas_folder())?;
    fs::write(kept, &pool)?;
    Ok(pool)
}

/// Keys and tokens, made at the first run.
fn files() -> anyhow::Result<Files> {
    let folder = saas_folder();
    fs::create_dir_all(&folder)?;
    let files = Files {
        operators: folder.join("operators"),
        seal_key: folder.join("seal.key"),
        organization_token: folder.join("organization-token"),
    };
    secret_file(&files.operators, || {
        let random = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
        Ok(format!("demo-operator {}\n", random.trim()).into_bytes())
    })?;
    secret_file(&files.seal_key, || {
        let mut key = [0; 32];
        fs::File::open("/dev/urandom")?.read_exact(&mut key)?;
        Ok(key.to_vec())
    })?;
    Ok(files)
}

fn control_plane(database_url: &str, files: &Files, pool: &str, listen: &str) -> Command {
    let mut command = Command::new("target/debug/controlplane-svc");
    command
        .env("CONTROLPLANE_LISTEN", listen)
        .env("DATABASE_URL", database_url)
        .env("CONTROLPLANE_NETWORK_POOL", pool)
        .env("CONTROLPLANE_OPERATOR_TOKENS_FILE", &files.operators)
        .env("CONTROLPLANE_SEAL_KEY_FILE", &files.seal_key)
        .env("CONTROLPLANE_WORKSPACE_INIT", static_binary("workspace-init"))
        .env("RUNTIMES_FILE", RUNTIMES)
        .env("CONTROLPLANE_LOG", "warn,controlplane_svc=info");
    command
}

fn command_at(arguments: &[&str]) -> Command {
    let mut molecule = command(MOLECULE, arguments);
    molecule.env("CP_PROVISION_URL", format!("http://{}", REPLICAS[0]));
    molecule
}

fn admin(files: &Files, arguments: &[&str]) -> Command {
    let mut molecule = command_at(&[&["admin"], arguments].concat());
    molecule.env("MOLECULE_OPERATOR_TOKEN_FILE", &files.operators);
    molecule
}

/// The demo's organisation, which may have one workspace, and a token of it; an earlier run's where there is one.
fn organization(files: &Files, agents_host: &str) -> anyhow::Result<String> {
    let kept = saas_folder().join("organization");
    if let Ok(id) = fs::read_to_string(&kept)
        && admin(files, &["org", "get", &id]).stdout(Stdio::null()).stderr(Stdio::null()).status()?.success()
    {
        // the machine may have another address now
        shell::run(admin(files, &["org", "update", &id, "--agent-host", agents_host]).stdout(Stdio::null()))?;
        return Ok(id);
    }
    say("making an organisation that may have one workspace");
    let create =
        ["org", "create", DEMO, "--limit", "workspaces=1", "--agent-host", agents_host, "-o", "json"];
    let made = admin(files, &create).stderr(Stdio::inherit()).output()?;
    ensure!(made.status.success(), "the organisation can't be made");
    let id = field(&String::from_utf8(made.stdout)?, "organization_id").context("no organization_id")?;
    let issued = admin(files, &["tokens", "issue", &id, "the demo's tenant"]).output()?;
    ensure!(issued.status.success(), "a token can't be issued: {issued:?}");
    let _ = fs::remove_file(&files.organization_token);
    secret_file(&files.organization_token, || Ok(issued.stdout))?;
    // what an earlier organisation's tenant kept is another's
    let _ = fs::remove_dir_all(saas_folder().join("tenant"));
    fs::write(kept, &id)?;
    Ok(id)
}

/// The host's address on Docker's own bridge: workspaces of any network reach it. The daemon itself tells of a gateway only
/// where the bridge was there before it.
fn bridge_gateway() -> anyhow::Result<String> {
    if !is_there("ip") {
        shell::install(&["iproute2"], "iproute2")?;
    }
    let shown = command("ip", &["-4", "-o", "addr", "show", "docker0"]).output()?;
    let shown = String::from_utf8(shown.stdout)?;
    let address = shown.split("inet ").nth(1).and_then(|rest| rest.split('/').next());
    address
        .map(str::to_owned)
        .context("Docker's bridge docker0 has no address that agents could reach the tenant at")
}
