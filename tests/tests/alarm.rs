//! A self-hosted tenant whose database is put back to a backup, by the steps of the runbook's chapter: nothing is removed,
//! and nothing is launched beside what runs, until a person says so.

use std::time::Duration;

use bollard::models::VolumeCreateRequest;
use bollard::query_parameters::{
    InspectContainerOptions, ListContainersOptionsBuilder, ListVolumesOptionsBuilder,
};
use molecule_domain::error::ErrorReason;
use molecule_proto::tenant::v1::{ClearAlarmsRequest, RestartWorkspaceRequest};
use molecule_proto::workspace::v1::{Reason, WorkspaceState};
use molecule_service_kit::status::from_status;
use molecule_tests::images::{self, Kind, docker};
use molecule_tests::runbook::{self, Chapter, Printed};
use molecule_tests::tenant::{Setup, Tenant, spec};

const TENANT: &str = env!("CARGO_BIN_EXE_tenant-under-test");
const MOLECULE: &str = env!("CARGO_BIN_EXE_molecule-under-test");

async fn running(tenant: &mut Tenant, name: &str) -> String {
    let created = tenant.create(spec(name, "demo")).await.unwrap();
    tenant.reaches(&created.workspace_id, WorkspaceState::Running).await.unwrap().workspace_id
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
    let request = RestartWorkspaceRequest { workspace_id: restarted.clone(), ..Default::default() };
    tenant.client.restart_workspace(request).await.unwrap();
    tenant
        .until(&restarted, "restarted", |one| one.generation == 2 && one.state() == WorkspaceState::Running)
        .await
        .unwrap();
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
    tenant.until(&restarted, "left as it is", |one| one.reason() == Reason::UnknownLaunch).await.unwrap();
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
