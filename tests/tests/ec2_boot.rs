//! The control plane launches on EC2 (moto), and what a launch really told its machine is done, in a throwaway root: the
//! agent registers and the workspace runs with its configuration; or the machine says why it does not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use molecule_domain::clock::SystemClock;
use molecule_proto::controlplane::v1::{
    GetConsoleOutputRequest, Limits, StreamInstanceLogsRequest, UpdateOrganizationRequest,
};
use molecule_proto::tenant::v1::GetServerInfoRequest;
use molecule_proto::workspace::v1::{Reason, WorkspaceState};
use molecule_tests::controlplane::{Installation, Replica};
use molecule_tests::ec2::{self, Cloud, Front, Weather};
use molecule_tests::images::{self, Kind, docker};
use molecule_tests::seed::Dice;
use molecule_tests::tenant::{Tenant, spec};
use molecule_tests::throwaway::Throwaway;

const TENANT: &str = env!("CARGO_BIN_EXE_tenant-under-test");
const CONTROL_PLANE: &str = env!("CARGO_BIN_EXE_controlplane-under-test");

struct Stand {
    front: Front,
    replica: Replica,
    tenant: Tenant,
    token: String,
    installation: Installation,
    _folder: tempfile::TempDir,
}

fn free_port() -> u16 {
    molecule_tests::ports::free().unwrap()
}

async fn stand(subnet: u8) -> Stand {
    images::import(&docker().await.unwrap(), Kind::Root).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let weather = Weather { pending: Duration::from_millis(300), ..Weather::default() };
    let cloud = Cloud::moto().await.unwrap();
    let front = Front::before(cloud, weather, Dice::new(), Arc::new(SystemClock)).await.unwrap();
    let boot = format!("127.0.0.1:{}", free_port());
    let subnets: Vec<&str> = front.subnets.iter().map(|(subnet, _)| subnet.as_str()).collect();
    let groups = front.by_hand("Action=DescribeSecurityGroups&Version=2016-11-15").await.unwrap();
    let group = groups.split("<groupId>").nth(1).unwrap().split('<').next().unwrap();
    let mut installation = Installation::new(CONTROL_PLANE, folder.path(), subnet)
        .await
        .unwrap()
        .with("CONTROLPLANE_BACKENDS", "ec2")
        .with("CONTROLPLANE_EC2_IMAGE", ec2::IMAGE_PARAMETER)
        .with("CONTROLPLANE_EC2_SUBNETS", subnets.join(","))
        .with("CONTROLPLANE_EC2_SECURITY_GROUPS", group)
        .with("CONTROLPLANE_BOOT_LISTEN", &boot)
        .with("CONTROLPLANE_BOOT_URL", format!("http://{boot}"));
    for (name, value) in ec2::environment(&front.url) {
        installation = installation.with(name, value);
    }
    let replica = installation.start("ec2").await.unwrap();
    let (organization, token) = installation.organization(&replica, Limits::default()).await.unwrap();
    // containers of any network reach the tenant there
    let bridge = images::bridge().unwrap().to_string();
    let agents = format!("{bridge}:{}", free_port());
    let mut operator = replica.operator().await.unwrap();
    let allowed = molecule_proto::controlplane::v1::Organization {
        organization_id: organization.clone(),
        allowed_agent_hosts: vec![bridge],
        ..Default::default()
    };
    let request = UpdateOrganizationRequest {
        organization: Some(allowed),
        update_mask: Some(prost_types::FieldMask { paths: vec!["allowed_agent_hosts".to_owned()] }),
    };
    operator.update_organization(request).await.unwrap();
    let setup = installation
        .tenant(TENANT, &[&replica], &organization, &token)
        .unwrap()
        .with("TENANT_AGENT_LISTEN", &agents)
        .with("TENANT_AGENT_URL", format!("http://{agents}"));
    let tenant = setup.start().await.unwrap();
    Stand { front, replica, tenant, token, installation, _folder: folder }
}

/// What the workspace's machine was told.
async fn user_data(front: &Front, workspace: &str) -> Vec<u8> {
    let began = Instant::now();
    loop {
        if let Some(told) = front.user_data(workspace, 1) {
            return BASE64_STANDARD.decode(told).unwrap();
        }
        assert!(began.elapsed() < Duration::from_secs(30), "nothing was launched");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_boots_and_its_agent_registers() {
    let mut stand = stand(21).await;
    let mut wanted = spec("on-ec2", "demo");
    wanted.config_files.insert("config.yaml".to_owned(), b"name: from-the-request\n".to_vec());
    wanted.secrets.insert("API_KEY".to_owned(), "a-customers-secret".to_owned());
    let made = stand.tenant.create(wanted).await.unwrap();
    let workspace = made.workspace_id;
    let script = user_data(&stand.front, &workspace).await;
    let text = String::from_utf8_lossy(&script);
    assert!(!text.contains("a-customers-secret"), "a customer's secret is in user-data");
    assert!(!text.contains("from-the-request"), "a customer's configuration is in user-data");

    let root = tokio::task::spawn_blocking(Throwaway::new).await.unwrap().unwrap();
    let mut booting = root.boot(&script).unwrap();
    if let Err(error) = stand.tenant.reaches(&workspace, WorkspaceState::Running).await {
        panic!("{error}: {}", root.log());
    }
    assert!(!root.is_down(), "{}", root.log());
    let read = |path: &str| std::fs::read_to_string(format!("/var/lib/molecule/{workspace}/{path}")).unwrap();
    assert_eq!(read("configs/config.yaml"), "name: from-the-request\n");
    assert!(!read("configs/.auth_token").is_empty());
    assert!(!std::path::Path::new(&format!("/var/lib/molecule/{workspace}/configs/.bootstrap")).exists());
    assert!(!root.log().contains("a-customers-secret"), "{}", root.log());

    // what this backend can't do is declared, and told by name
    let info = stand.tenant.client.get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.backend, "ec2");
    assert!(!info.capabilities.iter().any(|one| one == "logs.stream"), "{info:?}");
    let mut customer = stand.replica.customer(&stand.token).await.unwrap();
    let logs = StreamInstanceLogsRequest { workspace_id: workspace.clone(), ..Default::default() };
    let refused = customer.stream_instance_logs(logs).await.err().unwrap();
    assert_eq!(refused.code(), tonic::Code::Unimplemented, "{refused:?}");
    let console = GetConsoleOutputRequest { workspace_id: workspace.clone() };
    customer.get_console_output(console).await.expect("a machine has a console");

    stand.tenant.delete(&workspace).await.unwrap();
    stand.tenant.reaches(&workspace, WorkspaceState::Deleted).await.unwrap();
    assert_eq!((stand.front.alive().len(), stand.front.disks().await.unwrap()), (0, 0));
    booting.kill().unwrap();
    booting.wait().unwrap();
    root.forget(&workspace, 1);
    drop(root);
    stand.tenant.stop().await.unwrap();
    stand.replica.stop().await.unwrap();
    stand.installation.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_does_not_come_up_says_why() {
    let mut stand = stand(22).await;
    let made = stand.tenant.create(spec("no-image", "demo-missing")).await.unwrap();
    let workspace = made.workspace_id;
    let script = String::from_utf8(user_data(&stand.front, &workspace).await).unwrap();
    let token = script.split("\nTOKEN='").nth(1).unwrap().split('\'').next().unwrap().to_owned();
    assert!(token.len() > 20, "{script}");
    // as it would after some minutes, and with something secret in its log
    let script = script.replace("for pause in 1 2 4 8 15 30 30 30; do", "for pause in 1; do");
    let script =
        script.replace("STAGE='fetch workspace-init'\n", "STAGE='fetch workspace-init'\necho \"$TOKEN\"\n");

    let root = tokio::task::spawn_blocking(Throwaway::new).await.unwrap().unwrap();
    let mut booting = root.boot(script.as_bytes()).unwrap();
    tokio::task::spawn_blocking(move || booting.wait()).await.unwrap().unwrap();
    assert!(root.is_down(), "it should have gone down: {}", root.log());
    let machine = stand.front.alive().remove(0);
    let stop = format!("Action=StopInstances&Version=2016-11-15&InstanceId.1={machine}");
    stand.front.by_hand(&stop).await.unwrap();

    let failed = stand.tenant.reaches(&workspace, WorkspaceState::Failed).await.unwrap();
    assert_eq!(failed.reason(), Reason::InitFailed, "{failed:?}");
    assert!(failed.message.contains("get the image localhost:9/molecule-demo:missing"), "{failed:?}");
    let events = stand.tenant.events(&workspace).await.unwrap();
    let tail = events.iter().map(|event| event.log_tail.as_str()).collect::<String>();
    assert!(tail.contains("localhost:9"), "the log reaches the events: {events:?}");
    assert!(tail.contains("(a line with a secret)") && !tail.contains(&token), "{tail}");

    stand.tenant.delete(&workspace).await.unwrap();
    stand.tenant.reaches(&workspace, WorkspaceState::Deleted).await.unwrap();
    root.forget(&workspace, 1);
    stand.tenant.stop().await.unwrap();
    stand.replica.stop().await.unwrap();
    stand.installation.finish().await.unwrap();
}
