//! A tenant's database that is put back to a backup, by the steps of the runbook's chapter, under twenty running agents.

use std::time::{Duration, Instant};

use bollard::query_parameters::KillContainerOptions;
use molecule_proto::controlplane::v1::{
    Instance, InstancePhase, Limits, ListInstancesRequest, ListOrphansRequest,
};
use molecule_proto::tenant::v1::{ListWorkspacesRequest, RestartWorkspaceRequest, StopWorkspaceRequest};
use molecule_proto::workspace::v1::{Reason, Workspace, WorkspaceSpec, WorkspaceState};
use molecule_tests::cluster::Cluster;
use molecule_tests::controlplane::{Installation, OPERATOR_TOKEN, Replica};
use molecule_tests::images::{self, Kind, docker};
use molecule_tests::postgres::Scratch;
use molecule_tests::runbook::{self, Chapter, Printed};
use molecule_tests::tenant::{Setup, Tenant, spec};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};

const TENANT: &str = env!("CARGO_BIN_EXE_tenant-under-test");
const CONTROL_PLANE: &str = env!("CARGO_BIN_EXE_controlplane-under-test");
const MOLECULE: &str = env!("CARGO_BIN_EXE_molecule-under-test");
/// Half of them are in the backup.
const AGENTS: usize = 20;
const SECRET: &str = "SECRET_OF_AN_AGENT";

/// Agents that are heard every two seconds.
async fn created(tenant: &mut Tenant, count: usize) -> Vec<String> {
    let env = [("DEMO_HEARTBEAT_SECONDS".to_owned(), "2".to_owned())].into();
    let spec = WorkspaceSpec { env, ..spec("agent", "demo") };
    let mut made = Vec::new();
    for _ in 0..count {
        made.push(tenant.create(spec.clone()).await.unwrap().workspace_id);
    }
    for id in &made {
        tenant.reaches(id, WorkspaceState::Running).await.unwrap();
    }
    made
}

async fn all(tenant: &mut Tenant) -> Vec<Workspace> {
    let request = ListWorkspacesRequest { page_size: 100, ..ListWorkspacesRequest::default() };
    tenant.client.list_workspaces(request).await.unwrap().into_inner().workspaces
}

/// What `sqlite3 FILE STATEMENT` does, in the tenant's data directory.
async fn sqlite3(words: &[String], setup: &Setup) {
    let [_, file, statement] = words else { panic!("{words:?} is not sqlite3 FILE STATEMENT") };
    let mut database = SqliteConnectOptions::new().filename(setup.data().join(file)).connect().await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement.clone())).execute(&mut database).await.unwrap();
    database.close().await.unwrap();
}

/// Executes a command of the runbook in the tenant's data directory, with the tokens of its clients and of an operator:
/// what it prints. It must succeed.
async fn execute(words: &[String], setup: &Setup, replica: &Replica) -> Printed {
    let program = if words[0] == "molecule" { MOLECULE } else { &words[0] };
    let mut command = tokio::process::Command::new(program);
    command
        .args(&words[1..])
        .current_dir(setup.data())
        .env("MOLECULE_SERVER", format!("http://{}", setup.address()))
        .env("MOLECULE_TOKEN", setup.token().unwrap())
        .env("CP_PROVISION_URL", replica.url())
        .env("MOLECULE_OPERATOR_TOKEN", OPERATOR_TOKEN)
        .env(SECRET, "a secret");
    runbook::execute(&mut command).await.unwrap()
}

/// The tenant tells of them when it meets the control plane, and every ten seconds while something changes.
async fn are_listed_to_operators(replica: &Replica, expected: &[String]) {
    let mut operator = replica.operator().await.unwrap();
    let mut expected = expected.to_vec();
    expected.sort();
    let began = Instant::now();
    loop {
        let listed = operator.list_orphans(ListOrphansRequest {}).await.unwrap().into_inner();
        assert_eq!(listed.orphans, [], "they are no orphans");
        let mut found: Vec<_> = listed.recovered.into_iter().map(|one| one.workspace_id).collect();
        found.sort();
        if found == expected {
            return;
        }
        assert!(began.elapsed().as_secs() < 60, "{found:?} are listed, not {expected:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_tenant_leaves_twenty_agents_alone() {
    let folder = tempfile::tempdir().unwrap();
    let docker = docker().await.unwrap();
    if docker.inspect_image(&Kind::Root.image()).await.is_err() {
        images::import(&docker, Kind::Root).await.unwrap();
    }
    let installation = Installation::new(CONTROL_PLANE, folder.path(), 37).await.unwrap();
    let replica = installation.start("one").await.unwrap();
    let (organization, token) = installation.organization(&replica, Limits::default()).await.unwrap();
    // an agent that could be judged would be judged while this looks
    let setup = installation.tenant(TENANT, &[&replica], &organization, &token).unwrap();
    let setup = setup.with("TENANT_CONNECT_DEADLINE", "15").with("TENANT_AGENT_SILENCE", "15");

    let mut tenant = setup.start().await.unwrap();
    let before = created(&mut tenant, AGENTS / 2).await;
    let doomed = created(&mut tenant, 1).await.remove(0);
    let mut chapter = Chapter::read("Restoring a tenant's database").unwrap();
    let backup = folder.path().join("backup");
    std::fs::create_dir(&backup).unwrap();
    let backup = backup.display().to_string();
    sqlite3(&chapter.take("sqlite3", &[("/backup", &backup)]).unwrap(), &setup).await;

    let after = created(&mut tenant, AGENTS / 2).await;
    tenant.delete(&doomed).await.unwrap();
    let restarted = &before[0];
    let restart =
        RestartWorkspaceRequest { workspace_id: restarted.clone(), ..RestartWorkspaceRequest::default() };
    tenant.client.restart_workspace(restart).await.unwrap();
    tenant
        .until(restarted, "generation 2", |one| one.generation == 2 && one.state() == WorkspaceState::Running)
        .await
        .unwrap();
    let running = installation.containers().await.unwrap();
    assert_eq!(running.len(), AGENTS);
    tenant.stop().await.unwrap();

    execute(&chapter.take("rm", &[]).unwrap(), &setup, &replica).await;
    execute(&chapter.take("cp", &[("/backup", &backup)]).unwrap(), &setup, &replica).await;
    let mut tenant = setup.start().await.unwrap();
    tenant.reaches(&doomed, WorkspaceState::Deleted).await.unwrap();
    for id in &after {
        let found = tenant.until(id, "recovered", |one| one.reason() == Reason::Recovered).await.unwrap();
        assert_eq!(found.state(), WorkspaceState::Running);
        assert!(
            found.message.contains("Update it") && found.message.contains("delete it"),
            "{}",
            found.message
        );
    }
    assert!(setup.whole_log().contains("this tenant's database was put back to an earlier state"));
    // longer than any patience with agents
    tokio::time::sleep(Duration::from_secs(30)).await;
    for found in all(&mut tenant).await {
        let lost = after.contains(&found.workspace_id) || found.workspace_id == *restarted;
        assert_eq!(found.state(), WorkspaceState::Running, "{found:?}");
        assert_eq!(found.reason() == Reason::Recovered, lost, "{found:?}");
    }
    assert_eq!(all(&mut tenant).await.len(), AGENTS);
    assert_eq!(installation.containers().await.unwrap(), running, "none was stopped or started");
    // one that ends is started again, and told of with the ways on where its agent's credential is not taken
    let ended = format!("ws-{}-1", after[2]);
    docker.kill_container(&ended, None::<KillContainerOptions>).await.unwrap();
    let failed = tenant.reaches(&after[2], WorkspaceState::Failed).await.unwrap();
    assert_eq!(failed.reason(), Reason::InitFailed);
    assert!(failed.message.contains("401") && failed.message.contains("Update it"), "{}", failed.message);
    // operators see them beside orphans, and no sweep removes them
    let mut lost = after.clone();
    lost.push(restarted.clone());
    are_listed_to_operators(&replica, &lost).await;

    // step 4
    let listed = execute(&chapter.take("molecule list", &[]).unwrap(), &setup, &replica).await.out;
    for id in before.iter().chain(&after) {
        assert_eq!(listed.contains(id.as_str()), lost.contains(id), "{id}: {listed}");
    }
    let listed = execute(&chapter.take("molecule admin", &[]).unwrap(), &setup, &replica).await.out;
    assert!(lost.iter().all(|id| listed.contains(id.as_str())), "{listed}");
    assert!(!listed.contains(&before[1]), "{listed}");
    let config = folder.path().join("config.yaml").display().to_string();
    std::fs::write(&config, "name: again\n").unwrap();
    let filled = [
        ("ID", after[0].as_str()),
        ("NAME", "again"),
        ("KEY=VALUE", "DEMO_HEARTBEAT_SECONDS=2"),
        ("SECRET", SECRET),
        ("config.yaml", config.as_str()),
    ];
    let updated = execute(&chapter.take("molecule update", &filled).unwrap(), &setup, &replica).await.out;
    assert!(updated.contains(&after[0]) && updated.contains("again"), "{updated}");
    let restart = chapter.take("molecule restart", &[("ID", restarted)]).unwrap();
    assert!(execute(&restart, &setup, &replica).await.out.contains(restarted.as_str()));
    let known = |one: &Workspace| one.reason() != Reason::Recovered && one.state() == WorkspaceState::Running;
    for id in [&after[0], restarted] {
        let found = tenant.until(id, "known again", known).await.unwrap();
        assert_eq!(found.spec.unwrap().env["DEMO_HEARTBEAT_SECONDS"], "2");
    }
    let delete = chapter.take("molecule delete", &[("ID", &after[1])]).unwrap();
    assert!(execute(&delete, &setup, &replica).await.out.contains(&after[1]));
    tenant.reaches(&after[1], WorkspaceState::Deleted).await.unwrap();
    chapter.finish().unwrap();
    lost.retain(|id| ![&after[0], &after[1], restarted].contains(&id));
    are_listed_to_operators(&replica, &lost).await;
    tenant.stop().await.unwrap();
    replica.stop().await.unwrap();
    installation.finish().await.unwrap();
}

/// The control plane's data directory is put back to a copy under a tenant that goes on. It stands where it stood, so nobody
/// has to adopt it; the tenant finds out, and what it was asked for since then is told again.
#[tokio::test(flavor = "multi_thread")]
async fn a_copied_data_directory_is_put_back_under_a_tenant() {
    let folder = tempfile::tempdir().unwrap();
    let docker = docker().await.unwrap();
    if docker.inspect_image(&Kind::Root.image()).await.is_err() {
        images::import(&docker, Kind::Root).await.unwrap();
    }
    let cluster = Cluster::start().unwrap();
    let database = Scratch::on(cluster.url()).await.unwrap();
    let installation = Installation::in_database(CONTROL_PLANE, folder.path(), 38, database).await.unwrap();
    let mut replica = installation.start("one").await.unwrap();
    let (organization, token) = installation.organization(&replica, Limits::default()).await.unwrap();
    let setup = installation.tenant(TENANT, &[&replica], &organization, &token).unwrap();
    let mut tenant = setup.start().await.unwrap();
    let ids = created(&mut tenant, 4).await;
    let (kept, [stopped, deleted]) = (&ids[..2], [&ids[2], &ids[3]]);
    let untouched = installation.containers().await.unwrap();
    let port = replica.port();
    replica.stop().await.unwrap();
    cluster.stop().unwrap();
    cluster.back_up().unwrap();
    cluster.resume().unwrap();

    replica = installation.start_at("one", port, &[]).await.unwrap();
    let request = StopWorkspaceRequest { workspace_id: stopped.clone(), ..StopWorkspaceRequest::default() };
    tenant.client.stop_workspace(request).await.unwrap();
    tenant.reaches(stopped, WorkspaceState::Stopped).await.unwrap();
    tenant.delete(deleted).await.unwrap();
    replica.stop().await.unwrap();
    cluster.stop().unwrap();
    cluster.put_back().unwrap();
    cluster.resume().unwrap();

    replica = installation.start_at("one", port, &[]).await.unwrap();
    let customer = replica.customer(&token).await.unwrap();
    let began = Instant::now();
    loop {
        let request = ListInstancesRequest { page_size: 100, ..ListInstancesRequest::default() };
        let there = customer.clone().list_instances(request).await.unwrap().into_inner().instances;
        let phase = |id: &str| there.iter().find(|one| one.workspace_id == id).map(Instance::phase);
        let is_gone = phase(deleted).is_none_or(|phase| phase == InstancePhase::Gone);
        if is_gone && phase(stopped) == Some(InstancePhase::Stopped) {
            break;
        }
        assert!(began.elapsed().as_secs() < 90, "{there:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    tenant.reaches(stopped, WorkspaceState::Stopped).await.unwrap();
    tenant.reaches(deleted, WorkspaceState::Deleted).await.unwrap();
    for id in kept {
        assert_eq!(tenant.get(id).await.unwrap().state(), WorkspaceState::Running);
    }
    let containers = installation.containers().await.unwrap();
    let left = untouched.iter().filter(|(id, since)| containers.get(*id) == Some(*since)).count();
    assert_eq!(
        left,
        kept.len(),
        "those of which nothing was asked run on: {containers:?}, before {untouched:?}"
    );
    tenant.stop().await.unwrap();
    replica.stop().await.unwrap();
    installation.finish().await.unwrap();
}
