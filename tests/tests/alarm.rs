//! A self-hosted tenant and a control plane whose databases are put back to a backup that lacks launches, by the steps of the
//! runbook's chapters: nothing is removed, and nothing is launched beside what runs, until a person says so.

use std::path::Path;
use std::time::{Duration, Instant};

use bollard::models::VolumeCreateRequest;
use bollard::query_parameters::{
    InspectContainerOptions, ListContainersOptionsBuilder, ListVolumesOptionsBuilder,
};
use molecule_domain::error::ErrorReason;
use molecule_proto::controlplane::v1 as wire;
use molecule_proto::tenant::v1::{
    ClearAlarmsRequest, ListWorkspacesRequest, RestartWorkspaceRequest, StopWorkspaceRequest,
};
use molecule_proto::workspace::v1::{DesiredState, Reason, Workspace, WorkspaceState};
use molecule_service_kit::status::from_status;
use molecule_tests::controlplane::{Installation, OPERATOR_TOKEN, Replica};
use molecule_tests::images::{self, Kind, docker};
use molecule_tests::otlp::scrape;
use molecule_tests::ports;
use molecule_tests::postgres::{Scratch, program};
use molecule_tests::runbook::{self, Chapter, Printed};
use molecule_tests::tenant::{Setup, Tenant, spec};

const TENANT: &str = env!("CARGO_BIN_EXE_tenant-under-test");
const CONTROL_PLANE: &str = env!("CARGO_BIN_EXE_controlplane-under-test");
const MOLECULE: &str = env!("CARGO_BIN_EXE_molecule-under-test");

async fn running(tenant: &mut Tenant, name: &str) -> String {
    let created = tenant.create(spec(name, "demo")).await.unwrap();
    tenant.reaches(&created.workspace_id, WorkspaceState::Running).await.unwrap().workspace_id
}

/// Restarts a workspace of the first generation.
async fn restart(tenant: &mut Tenant, workspace: &str) {
    let request = RestartWorkspaceRequest { workspace_id: workspace.to_owned(), ..Default::default() };
    tenant.client.restart_workspace(request).await.unwrap();
    let up = |one: &Workspace| one.generation == 2 && one.state() == WorkspaceState::Running;
    tenant.until(workspace, "restarted", up).await.unwrap();
}

async fn is_left_alone(tenant: &mut Tenant, workspace: &str) {
    tenant.until(workspace, "left as it is", |one| one.reason() == Reason::UnknownLaunch).await.unwrap();
}

/// Executes a command of the runbook in the tenant's data directory: what it prints. It must succeed.
async fn execute(words: &[String], setup: &Setup) -> Printed {
    let program = if words[0] == "molecule" { MOLECULE } else { &words[0] };
    let mut command = tokio::process::Command::new(program);
    command
        .args(&words[1..])
        .current_dir(setup.data())
        .env("MOLECULE_SERVER", format!("http://{}", setup.address()))
        .env("MOLECULE_TOKEN", setup.token().unwrap());
    runbook::execute(&mut command).await.unwrap()
}

/// The containers of a workspace, by name, with the time at which each was started.
async fn containers(workspace: &str) -> Vec<(String, String)> {
    let docker = docker().await.unwrap();
    let filters = [("label", vec![format!("ai.molecule.workspace={workspace}")])].into();
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
    let mut all = Vec::new();
    for listed in docker.list_containers(Some(options)).await.unwrap() {
        let found =
            docker.inspect_container(&listed.id.unwrap(), None::<InspectContainerOptions>).await.unwrap();
        let name = found.name.unwrap().trim_start_matches('/').to_owned();
        all.push((name, found.state.unwrap().started_at.unwrap()));
    }
    all.sort();
    all
}

async fn volumes(workspace: &str) -> usize {
    let filters = [("label", vec![format!("ai.molecule.workspace={workspace}")])].into();
    let options = ListVolumesOptionsBuilder::default().filters(&filters).build();
    docker().await.unwrap().list_volumes(Some(options)).await.unwrap().volumes.unwrap_or_default().len()
}

/// A volume like one of a workspace's, but of another workspace: its id.
async fn volume_of_another(workspace: &str) -> String {
    let docker = docker().await.unwrap();
    let filters = [("label", vec![format!("ai.molecule.workspace={workspace}")])].into();
    let options = ListVolumesOptionsBuilder::default().filters(&filters).build();
    let mut labels = docker.list_volumes(Some(options)).await.unwrap().volumes.unwrap().remove(0).labels;
    let another = "01a20500-0000-7000-8000-00000000dcba".to_owned();
    labels.insert("ai.molecule.workspace".to_owned(), another.clone());
    let request = VolumeCreateRequest { labels: Some(labels), ..VolumeCreateRequest::default() };
    docker.create_volume(request).await.unwrap();
    another
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_database_removes_nothing_until_its_alarm_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    let docker = docker().await.unwrap();
    if docker.inspect_image(&Kind::Root.image()).await.is_err() {
        images::import(&docker, Kind::Root).await.unwrap();
    }
    let setup = Setup::new(TENANT, folder.path(), 41).await.unwrap();
    let mut tenant = setup.start().await.unwrap();
    let (kept, restarted) = (running(&mut tenant, "kept").await, running(&mut tenant, "restarted").await);
    tenant.stop().await.unwrap();
    let backup = folder.path().join("backup");
    std::fs::create_dir(&backup).unwrap();
    std::fs::copy(setup.data().join("tenant.db"), backup.join("tenant.db")).unwrap();
    let backup = backup.display().to_string();

    let mut tenant = setup.start().await.unwrap();
    let lost = [running(&mut tenant, "lost").await, running(&mut tenant, "lost too").await];
    restart(&mut tenant, &restarted).await;
    tenant.stop().await.unwrap();
    let mut before = Vec::new();
    for workspace in [&kept, &restarted, &lost[0], &lost[1]] {
        before.push(containers(workspace).await);
    }
    assert_eq!(before[1][0].0, format!("ws-{restarted}-2"));

    let mut chapter = Chapter::read("Restoring a self-hosted tenant's database").unwrap();
    execute(&chapter.take("rm", &[]).unwrap(), &setup).await;
    execute(&chapter.take("cp", &[("/backup", &backup)]).unwrap(), &setup).await;
    let mut tenant = setup.start().await.unwrap();
    // everybody else is served, and more is launched than was lost
    let mut others = Vec::new();
    for number in 0..4 {
        others.push(running(&mut tenant, &format!("other {number}")).await);
    }
    is_left_alone(&mut tenant, &restarted).await;
    // past the grace of orphans and several sweeps, and through a restart
    tokio::time::sleep(Duration::from_secs(6)).await;
    tenant.stop().await.unwrap();
    let mut tenant = setup.start().await.unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    let untouched = async |before: &[Vec<(String, String)>]| {
        for (workspace, before) in [&kept, &restarted, &lost[0], &lost[1]].into_iter().zip(before) {
            assert_eq!(containers(workspace).await, *before, "{workspace} was touched");
            assert!(volumes(workspace).await > 0, "the volumes of {workspace} are gone");
        }
    };
    untouched(&before).await;
    assert!(setup.whole_log().contains("ALARM"), "the log does not say so");
    let listed = execute(&chapter.take("molecule alarms", &[]).unwrap(), &setup).await;
    let clear = chapter.take("molecule alarms clear", &[]).unwrap();
    let dry = execute(&clear, &setup).await;
    for shown in [&listed.out, &dry.out] {
        assert!(shown.contains("ALARM since") && !shown.contains(&kept), "{shown}");
        assert!(shown.contains(&restarted) && lost.iter().all(|lost| shown.contains(lost)), "{shown}");
    }
    untouched(&before).await;

    // more would be removed by now than was shown: nothing is, until that is confirmed
    let another = volume_of_another(&lost[0]).await;
    let request = ClearAlarmsRequest { etag: dry.etag().unwrap().to_owned() };
    let refused = from_status(tenant.client.clear_alarms(request).await.unwrap_err());
    assert_eq!(refused.reason, ErrorReason::StaleEtag, "{refused}");
    tokio::time::sleep(Duration::from_secs(6)).await;
    untouched(&before).await;
    let dry = execute(&clear, &setup).await;
    let confirmed =
        chapter.take("molecule alarms clear --confirm", &[("ETAG", dry.etag().unwrap())]).unwrap();
    execute(&confirmed, &setup).await;
    for lost in lost.iter().chain([&another]) {
        let mut tries = 0;
        while !containers(lost).await.is_empty() || volumes(lost).await > 0 {
            tries += 1;
            assert!(tries < 300, "{lost} is still there");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    execute(&chapter.take("molecule restart", &[("ID", &restarted)]).unwrap(), &setup).await;
    chapter.finish().unwrap();
    tenant
        .until(&restarted, "served again", |one| {
            one.state() == WorkspaceState::Running && one.reason() == Reason::Unspecified
        })
        .await
        .unwrap();
    assert_eq!(containers(&kept).await, before[0], "{kept} was touched");
    for workspace in others.iter().chain([&kept, &restarted]) {
        assert_eq!(tenant.get(workspace).await.unwrap().state(), WorkspaceState::Running);
        tenant.delete(workspace).await.unwrap();
    }
    tenant.finish().await.unwrap();
}

/// Executes a command of the runbook as an operator: what it prints. It must succeed.
async fn operate(words: &[String], control_plane: &str) -> Printed {
    let is_ours = words[0] == "molecule";
    let program = if is_ours { MOLECULE.into() } else { program(&words[0]).unwrap() };
    let mut command = tokio::process::Command::new(program);
    command
        .args(&words[1..])
        .env("CP_PROVISION_URL", control_plane)
        .env("MOLECULE_OPERATOR_TOKEN", OPERATOR_TOKEN);
    runbook::execute(&mut command).await.unwrap()
}

/// Waits until several sweeps more have been whole.
async fn several_sweeps(steps: &Path) {
    let count = || std::fs::read_to_string(steps).unwrap().matches("backend.list_resources ").count();
    // nobody else lists these meanwhile; of the last one the list is there, and no more
    let (before, began) = (count(), Instant::now());
    while count() < before + 4 {
        assert!(began.elapsed().as_secs() < 60, "only {} sweeps", count() - before);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until an alarm stands, and the tenants of these organisations are those that have not agreed with the control plane.
async fn until_missing(expected: &[&str], replica: &Replica) {
    let (mut operator, began) = (replica.operator().await.unwrap(), Instant::now());
    loop {
        let shown = operator.list_alarms(wire::ListAlarmsRequest {}).await.unwrap().into_inner();
        if !shown.alarms.is_empty() && shown.organizations_without_agreement == expected {
            return;
        }
        assert!(began.elapsed().as_secs() < 60, "{shown:?}, not {expected:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// That a tenant's list, the control plane's and what counts for its limits are one.
async fn agree(tenant: &mut Tenant, replica: &Replica, token: &str, running: i64) {
    let mut customer = replica.customer(token).await.unwrap();
    let request = ListWorkspacesRequest { page_size: 100, ..ListWorkspacesRequest::default() };
    let listed = tenant.client.list_workspaces(request).await.unwrap().into_inner().workspaces;
    let mut ours: Vec<_> =
        listed.iter().map(|one| (&*one.workspace_id, one.generation, one.state())).collect();
    ours.sort_unstable_by_key(|(id, ..)| *id);
    let request = wire::ListInstancesRequest { page_size: 100, ..wire::ListInstancesRequest::default() };
    let listed = customer.list_instances(request).await.unwrap().into_inner().instances;
    let state = |one: &wire::Instance| match (one.desired_state(), one.phase()) {
        (DesiredState::Running, wire::InstancePhase::Up) => WorkspaceState::Running,
        (DesiredState::Stopped, wire::InstancePhase::Stopped) => WorkspaceState::Stopped,
        other => panic!("{other:?}: {one:?}"),
    };
    let mut theirs: Vec<_> =
        listed.iter().map(|one| (&*one.workspace_id, one.generation, state(one))).collect();
    theirs.sort_unstable_by_key(|(id, ..)| *id);
    assert_eq!(ours, theirs);
    let quota = customer.get_quota(wire::GetQuotaRequest {}).await.unwrap().into_inner().used.unwrap();
    assert_eq!((quota.workspaces, quota.running_workspaces), (i64::try_from(ours.len()).unwrap(), running));
}

/// One tenant goes on while its control plane's database is put back; another is away, and comes back under the alarm.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_control_plane_removes_nothing_until_its_alarm_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    let docker = docker().await.unwrap();
    if docker.inspect_image(&Kind::Root.image()).await.is_err() {
        images::import(&docker, Kind::Root).await.unwrap();
    }
    let (steps, metrics) = (folder.path().join("steps"), ports::free().unwrap());
    let database = Scratch::new().await.unwrap();
    let installation = Installation::for_several(CONTROL_PLANE, folder.path(), 52, 4, database)
        .await
        .unwrap()
        .with("CONTROLPLANE_METRICS_LISTEN", format!("127.0.0.1:{metrics}"))
        .with("TEST_STEPS", steps.display().to_string());
    let replica = installation.start("one").await.unwrap();
    let limits = wire::Limits { workspaces: Some(20), ..wire::Limits::default() };
    let (ours, token) = installation.organization(&replica, limits.clone()).await.unwrap();
    let (theirs, their_token) = installation.organization_at(&replica, limits.clone(), 1).await.unwrap();
    let setup = installation.tenant(TENANT, &[&replica], &ours, &token).unwrap();
    let mut tenant = setup.start().await.unwrap();
    let setup_of_other = installation.tenant_at(TENANT, &[&replica], &theirs, &their_token, 1).unwrap();
    let (kept, restarted) = (running(&mut tenant, "kept").await, running(&mut tenant, "restarted").await);
    // it has met the control plane that is backed up; the other one meets it only after the backup
    let began = Instant::now();
    let agreed = "SELECT COUNT(*) FROM tenant_sessions WHERE agreed_with IS NOT NULL";
    while installation.database.number(agreed).await.unwrap() < 1 {
        assert!(began.elapsed().as_secs() < 30, "the tenant does not agree with the control plane");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut chapter = Chapter::read("Restoring the control plane's database").unwrap();
    let (at, port) = (replica.url(), replica.port());
    let (url, backup) = (installation.database.url(), folder.path().display().to_string());
    let filled = [("$DATABASE_URL", url.as_str()), ("/backup", backup.as_str())];
    operate(&chapter.take("pg_dump", &filled).unwrap(), &at).await;

    let (lost, stopped) = (running(&mut tenant, "lost").await, running(&mut tenant, "stopped").await);
    let request = StopWorkspaceRequest { workspace_id: stopped.clone(), ..StopWorkspaceRequest::default() };
    tenant.client.stop_workspace(request).await.unwrap();
    tenant.reaches(&stopped, WorkspaceState::Stopped).await.unwrap();
    restart(&mut tenant, &restarted).await;
    let mut other = setup_of_other.start().await.unwrap();
    let away = running(&mut other, "of a tenant that is away").await;
    other.stop().await.unwrap();
    let (containers, volumes) =
        (installation.containers().await.unwrap(), installation.volumes().await.unwrap());
    assert_eq!(containers.len(), 5, "{containers:?}");
    let untouched = async || {
        for (before, now) in [
            (&containers, installation.containers().await.unwrap()),
            (&volumes, installation.volumes().await.unwrap()),
        ] {
            for (id, state) in before {
                assert_eq!(now.get(id), Some(state), "{id} was touched: {now:?}");
            }
        }
        let steps = std::fs::read_to_string(&steps).unwrap();
        assert!(!steps.contains("sweep."), "a sweep has tried to remove something:\n{steps}");
    };
    let alarm_is = async |value: u8| {
        let (line, began) = (format!("molecule_alarm{{backend=\"docker\"}} {value}"), Instant::now());
        while !scrape(metrics).await.unwrap().contains(&line) {
            assert!(began.elapsed().as_secs() < 20, "no {line}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };

    // step 1: the dump goes into the database that it was made of, which nobody has to adopt
    let restore = chapter.take("pg_restore", &filled).unwrap();
    replica.stop().await.unwrap();
    operate(&restore, &at).await;
    let mut replica = installation.start_at("one", port, &[]).await.unwrap();
    let mut operator = replica.operator().await.unwrap();
    let identity = operator.get_database_identity(wire::GetDatabaseIdentityRequest {}).await.unwrap();
    assert!(identity.into_inner().adopted);

    // step 2
    until_missing(&[&theirs], &replica).await;
    let told = "this database was put back to an earlier state";
    assert!(replica.whole_log().contains(told), "the log does not say so");

    // step 3
    let left_alone = [&restarted, &lost, &stopped];
    for workspace in left_alone {
        is_left_alone(&mut tenant, workspace).await;
    }
    // everybody else is served, also one whose network would be the one that the database does not know
    let new = running(&mut tenant, "new").await;
    let (thirds, token_of_third) = installation.organization_at(&replica, limits, 2).await.unwrap();
    let third = installation.tenant_at(TENANT, &[&replica], &thirds, &token_of_third, 2).unwrap();
    let mut third = third.start().await.unwrap();
    let first = running(&mut third, "the first of its organisation").await;
    several_sweeps(&steps).await;
    untouched().await;
    installation.replace("one", &mut replica).await.unwrap();
    until_missing(&[&theirs], &replica).await;
    several_sweeps(&steps).await;
    untouched().await;
    for workspace in left_alone {
        assert_eq!(tenant.get(workspace).await.unwrap().reason(), Reason::UnknownLaunch);
    }
    for workspace in [&kept, &new] {
        assert_eq!(tenant.get(workspace).await.unwrap().state(), WorkspaceState::Running);
    }
    assert_eq!(third.get(&first).await.unwrap().state(), WorkspaceState::Running);
    assert_eq!(
        replica.whole_log().matches("ALARM: ").count(),
        2,
        "it is told when it is raised, and at a start"
    );
    alarm_is(1).await;
    let show = chapter.take("molecule admin alarms", &[]).unwrap();
    let shown = operate(&show, &at).await.out;
    let is_unrecorded = |line: &str| line.contains(&away) && line.contains("volumes");
    assert!(shown.lines().any(is_unrecorded), "nobody has told of it yet: {shown}");
    assert!(shown.contains("ALARM at the backend docker"), "{shown}");
    assert!(left_alone.iter().all(|workspace| shown.contains(*workspace)), "{shown}");
    assert!([&kept, &new, &first].iter().all(|workspace| !shown.contains(*workspace)), "{shown}");
    assert!(
        shown.contains(&format!("\n  {theirs}\n")) && !shown.contains(&format!("\n  {ours}\n")),
        "{shown}"
    );

    // step 4
    let mut operator = replica.operator().await.unwrap();
    let early = operator.clear_alarms(wire::ClearAlarmsRequest::default()).await.unwrap().into_inner().etag;
    let mut other = setup_of_other.start().await.unwrap();
    until_missing(&[], &replica).await;
    is_left_alone(&mut other, &away).await;
    let shown = operate(&show, &at).await.out;
    assert!(!shown.contains(&format!("\n  {theirs}\n")) && shown.contains(&away), "{shown}");
    let refused = operator.clear_alarms(wire::ClearAlarmsRequest { etag: early }).await;
    let refused = from_status(refused.unwrap_err());
    assert_eq!(refused.reason, ErrorReason::StaleEtag, "{refused}");
    several_sweeps(&steps).await;
    untouched().await;

    // step 5
    let dry = operate(&chapter.take("molecule admin alarms clear", &[]).unwrap(), &at).await;
    assert!(!dry.out.contains("volumes"), "the volumes are of workspaces that were told again: {}", dry.out);
    assert!(left_alone.iter().chain([&&away]).all(|workspace| dry.out.contains(*workspace)), "{}", dry.out);
    until_missing(&[], &replica).await;
    untouched().await;
    let confirm = [("ETAG", dry.etag().unwrap())];
    let confirmed = chapter.take("molecule admin alarms clear --confirm", &confirm).unwrap();
    operate(&confirmed, &at).await;
    chapter.finish().unwrap();

    let served = |state| move |one: &Workspace| one.state() == state && one.reason() == Reason::Unspecified;
    for workspace in [&restarted, &lost] {
        tenant.until(workspace, "served again", served(WorkspaceState::Running)).await.unwrap();
    }
    tenant.until(&stopped, "left stopped", served(WorkspaceState::Stopped)).await.unwrap();
    other.until(&away, "served again", served(WorkspaceState::Running)).await.unwrap();
    alarm_is(0).await;
    assert_eq!(operate(&show, &at).await.out.trim(), "no alarm stands");
    let left = operator.list_orphans(wire::ListOrphansRequest {}).await.unwrap().into_inner();
    assert_eq!(left, wire::ListOrphansResponse::default());
    agree(&mut tenant, &replica, &token, 4).await;
    agree(&mut other, &replica, &their_token, 1).await;
    agree(&mut third, &replica, &token_of_third, 1).await;
    let networks = "SELECT string_agg(subnet, ' ' ORDER BY subnet) FROM networks";
    let networks = installation.database.text(networks).await.unwrap();
    assert_eq!(networks, "10.215.52.0/24 10.215.53.0/24 10.215.54.0/24");
    let now = installation.volumes().await.unwrap();
    // the others are a launch's, like its container
    let workspaces: Vec<_> = volumes.iter().filter(|(name, _)| name.ends_with("-workspace")).collect();
    assert_eq!(workspaces.len(), 5, "{volumes:?}");
    assert!(
        workspaces.iter().all(|(name, made)| now.get(*name) == Some(*made)),
        "{now:?}, before {volumes:?}"
    );
    let now = installation.containers().await.unwrap();
    let same = containers.iter().filter(|(id, since)| now.get(*id) == Some(*since)).count();
    assert_eq!(
        (same, now.len()),
        (1, 6),
        "one runs on, and what was told again has other containers: {now:?}"
    );
    tenant.stop().await.unwrap();
    other.stop().await.unwrap();
    third.stop().await.unwrap();
    replica.stop().await.unwrap();
    installation.finish().await.unwrap();
}
