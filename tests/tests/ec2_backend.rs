//! The EC2 backend conforms, on moto behind a front that does what moto lacks, and beside endpoints that fail.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use molecule_backend_ec2::{Ec2Backend, Settings};
use molecule_contracts::backend::{self as contract, Subject};
use molecule_domain::clock::SystemClock;
use molecule_domain::id::{
    AttemptNumber, Generation, InstallationId, LaunchSeq, OrganizationId, WorkspaceId,
};
use molecule_domain::launch::LaunchSpec;
use molecule_domain::lifecycle::Reason;
use molecule_provisioner::backend::{
    Backend, BootstrapToken, CallError, LaunchRequest, PrepareRequest, Prepared,
};
use molecule_provisioner::faults::Steps;
use molecule_provisioner::model::{Attempt, InstanceRef};
use molecule_provisioner::observation::InstanceState;
use molecule_provisioner::samples;
use molecule_tests::broken::{self, Failure};
use molecule_tests::ec2::{self, Cloud, Front, Weather};
use molecule_tests::seed::Dice;

const WEATHER: Weather =
    Weather { faults: 0, lag: Duration::from_millis(200), pending: Duration::from_millis(200) };

async fn front() -> Front {
    Front::before(Cloud::moto().await.unwrap(), WEATHER, Dice::new(), Arc::new(SystemClock)).await.unwrap()
}

async fn backend(url: &str, settings: Settings, installation: InstallationId) -> Ec2Backend {
    let sdk = ec2::sdk(url).await;
    Ec2Backend::with(&sdk, settings, installation, ec2::no_reports(), Arc::new(SystemClock), Steps::default())
}

struct Account {
    front: Front,
    installation: InstallationId,
    ours: Arc<dyn Backend>,
    other: Arc<dyn Backend>,
}

#[async_trait]
impl Subject for Account {
    fn backend(&self) -> Arc<dyn Backend> {
        Arc::clone(&self.ours)
    }

    fn other_installation(&self) -> Arc<dyn Backend> {
        Arc::clone(&self.other)
    }

    fn spec(&self) -> LaunchSpec {
        samples::spec()
    }

    /// On EC2 the image that must be there is the operators'.
    async fn impossible(&self) -> (Arc<dyn Backend>, LaunchSpec) {
        let settings = Settings { image: "ami-00000000000000000".to_owned(), ..ec2::settings(&self.front) };
        (Arc::new(backend(&self.front.url, settings, self.installation).await), samples::spec())
    }

    /// EC2 has no names; the most alike is a machine with the same tags, but without the installation's.
    async fn occupy(&self, instance: &InstanceRef) -> bool {
        let (subnet, _) = &self.front.subnets[0];
        let image = image(&self.front).await;
        let call = format!(
            "Action=RunInstances&Version=2016-11-15&MinCount=1&MaxCount=1&ImageId={image}&InstanceType=t3.micro\
             &SubnetId={subnet}&TagSpecification.1.ResourceType=instance\
             &TagSpecification.1.Tag.1.Key=ai.molecule.workspace&TagSpecification.1.Tag.1.Value={}\
             &TagSpecification.1.Tag.2.Key=stranger&TagSpecification.1.Tag.2.Value={}",
            instance.workspace, instance.workspace
        );
        self.front.by_hand(&call).await.unwrap();
        false
    }

    async fn stranger_is_untouched(&self, instance: &InstanceRef) -> bool {
        let call = format!(
            "Action=DescribeInstances&Version=2016-11-15&Filter.1.Name=tag:stranger&Filter.1.Value.1={}",
            instance.workspace
        );
        self.front.by_hand(&call).await.unwrap().contains("<name>running</name>")
    }

    async fn broken(&self) -> Vec<(&'static str, Arc<dyn Backend>)> {
        let mut all: Vec<(&'static str, Arc<dyn Backend>)> = Vec::new();
        for failure in Failure::ALL {
            let url = broken::endpoint(failure).await.unwrap();
            let broken = backend(&url, ec2::settings(&self.front), self.installation).await;
            all.push((failure.name(), Arc::new(broken)));
        }
        let nobody = backend(ec2::NOWHERE, ec2::settings(&self.front), self.installation).await;
        all.push(("refused", Arc::new(nobody)));
        all
    }
}

/// An image that moto has.
async fn image(front: &Front) -> String {
    let xml = front.by_hand("Action=DescribeImages&Version=2016-11-15&Owner.1=amazon").await.unwrap();
    xml.split("<imageId>").nth(1).unwrap().split('<').next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ec2_backend_conforms() {
    let front = front().await;
    let installation = InstallationId::generate();
    let ours = Arc::new(backend(&front.url, ec2::settings(&front), installation).await);
    let other = Arc::new(backend(&front.url, ec2::settings(&front), InstallationId::generate()).await);
    let account = Account { front, installation, ours, other };
    contract::run(&account).await;
    assert_eq!(account.front.violations(), Vec::<String>::new());
    are_permitted(&account.front);
}

/// What was asked for is what the policy for operators permits.
fn are_permitted(front: &Front) {
    let policy = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/ec2/policy.json");
    let policy: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(policy).unwrap()).unwrap();
    let allowed = policy["Statement"].as_array().unwrap().iter().filter(|one| one["Effect"] == "Allow");
    let permitted: String = allowed.map(|one| one["Action"].to_string()).collect();
    for action in front.actions() {
        assert!(permitted.contains(&format!("\"ec2:{action}\"")), "{action} is not among {permitted}");
    }
}

fn request(generation: u32, attempt: u32) -> LaunchRequest {
    let instance = InstanceRef {
        organization: OrganizationId::generate(),
        workspace: WorkspaceId::generate(),
        generation: Generation(generation),
    };
    let attempt = AttemptNumber(attempt);
    LaunchRequest {
        instance,
        attempt,
        seq: LaunchSeq(1),
        token: Attempt::token_of(instance.workspace, instance.generation, LaunchSeq(1)),
        placement: String::new(),
        spec: samples::spec(),
        bootstrap_token: Some(BootstrapToken::new("bootstrap-token".to_owned())),
    }
}

async fn place(backend: &Ec2Backend, request: &LaunchRequest) -> Prepared {
    backend.prepare(&PrepareRequest { instance: request.instance, spec: &request.spec, attempt: None }).await
}

async fn launch(backend: &Ec2Backend, request: LaunchRequest) -> (LaunchRequest, Result<(), CallError>) {
    let Prepared::Ready(placement) = place(backend, &request).await else { panic!("not ready") };
    let request = LaunchRequest { placement, ..request };
    let launched = backend.launch(&request).await;
    (request, launched)
}

async fn seen(backend: &Ec2Backend, instance: &InstanceRef, wanted: fn(InstanceState) -> bool) {
    for _ in 0..200 {
        let found = backend.find_instances(&[*instance]).await.unwrap();
        if found.iter().any(|one| one.instance == *instance && wanted(one.state)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it is not as wanted: {:?}", backend.find_instances(&[*instance]).await);
}

/// What a launch asks for, as moto understood it.
#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_as_safe_as_it_should_be() {
    let front = front().await;
    let backend = backend(&front.url, ec2::settings(&front), InstallationId::generate()).await;
    let (request, launched) = launch(&backend, request(1, 1)).await;
    launched.unwrap();
    let machines = front.by_hand("Action=DescribeInstances&Version=2016-11-15").await.unwrap();
    for part in [
        "<httpTokens>required</httpTokens>",
        "<httpPutResponseHopLimit>1</httpPutResponseHopLimit>",
        "<key>ai.molecule.installation</key>",
        &format!("<clientToken>{}</clientToken>", request.token),
    ] {
        assert!(machines.contains(part), "no {part} in {machines}");
    }
    let disks = front.by_hand("Action=DescribeVolumes&Version=2016-11-15").await.unwrap();
    assert_eq!(disks.matches("<encrypted>true</encrypted>").count(), 2, "{disks}");
    assert_eq!(disks.matches("<volumeType>gp3</volumeType>").count(), 2, "{disks}");
    assert!(!format!("{machines}{disks}").contains("bootstrap-token"), "the token is in a tag");
}

/// A shortage in one zone leads to another, then to another type; a quota leads nowhere, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn launches_go_where_there_is_room() {
    let front = front().await;
    let backend = backend(&front.url, ec2::settings(&front), InstallationId::generate()).await;
    front.fill("t3a.small", None);
    let first = request(1, 1);
    let mut tried = Vec::new();
    let placed = loop {
        let (request, launched) =
            launch(&backend, LaunchRequest { attempt: AttemptNumber(1), ..first.clone() }).await;
        match launched {
            Ok(()) => break request.placement,
            Err(CallError::NoRoom(refusal)) => assert_eq!(refusal.reason, Reason::NoCapacity),
            Err(other) => panic!("{other:?}"),
        }
        assert!(
            !tried.contains(&request.placement),
            "asked again where there was none: {}",
            request.placement
        );
        tried.push(request.placement);
    };
    assert_eq!(tried.len(), front.subnets.len(), "every zone is tried before another type");
    assert!(placed.contains("t3.small"), "{placed}");
    // another workspace's launch does not ask for what there is none of
    let asked = front.calls("RunInstances");
    launch(&backend, request(1, 1)).await.1.unwrap();
    assert_eq!(front.calls("RunInstances"), asked + 1);

    front.set_over_quota();
    let (_, over) = launch(&backend, request(1, 1)).await;
    let Err(CallError::NoRoom(refusal)) = over else { panic!("{over:?}") };
    assert_eq!(refusal.reason, Reason::ProviderQuota);
    assert!(refusal.message.contains("vCPU"), "{refusal:?}");
}

/// The disk outlives its machine, and only a machine in its zone can have it.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_goes_from_machine_to_machine() {
    let front = front().await;
    let backend = backend(&front.url, ec2::settings(&front), InstallationId::generate()).await;
    let (first, launched) = launch(&backend, request(1, 1)).await;
    launched.unwrap();
    seen(&backend, &first.instance, |state| state == InstanceState::Running).await;
    backend.remove(&first.instance, first.seq).await.unwrap();
    assert_eq!(front.disks().await.unwrap(), 1, "the root disk goes with its machine, the data disk stays");

    let instance = InstanceRef { generation: Generation(2), ..first.instance };
    let token = Attempt::token_of(instance.workspace, instance.generation, LaunchSeq(1));
    let second = LaunchRequest { instance, seq: LaunchSeq(2), token, ..first.clone() };
    let (second, launched) = launch(&backend, second).await;
    launched.unwrap();
    let zone = |request: &LaunchRequest| {
        let placement: serde_json::Value = serde_json::from_str(&request.placement).unwrap();
        placement["zone"].clone()
    };
    assert_eq!(zone(&first), zone(&second));
    seen(&backend, &instance, |state| state == InstanceState::Unattached).await;
    let found = backend.find_instances(&[instance]).await.unwrap().remove(0);
    backend.attach(&found, &second.spec).await.unwrap();
    backend.attach(&found, &second.spec).await.expect("attaching what is attached succeeds");
    seen(&backend, &instance, |state| state == InstanceState::Running).await;
    backend.remove(&instance, second.seq).await.unwrap();
    backend.purge(instance.organization, instance.workspace).await.unwrap();
    assert_eq!((front.disks().await.unwrap(), front.alive().len()), (0, 0));
    assert_eq!(front.violations(), Vec::<String>::new());
    are_permitted(&front);
}

/// What was boots from is stored: a retry sends the same though the settings have changed.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_sends_the_same_bytes() {
    let front = front().await;
    let installation = InstallationId::generate();
    let before = backend(&front.url, ec2::settings(&front), installation).await;
    let (request, launched) = launch(&before, request(1, 1)).await;
    launched.unwrap();
    let settings = Settings { root_gib: 99, init_sha256: "1".repeat(64), ..ec2::settings(&front) };
    let after = backend(&front.url, settings, installation).await;
    after.launch(&request).await.expect("the same launch");
    assert_eq!((front.launched(), front.violations()), (1, Vec::new()));
    // and where it could not be the same, it is no definite answer
    let placement = request.placement.replace("\"root_gib\":8", "\"root_gib\":9");
    let other = after.launch(&LaunchRequest { placement, ..request }).await;
    assert!(matches!(other, Err(CallError::Unknown(_))), "{other:?}");
    assert_eq!(front.launched(), 1);
}

/// A sweep asks by pages of owned machines, never once per machine.
#[tokio::test(flavor = "multi_thread")]
async fn a_look_at_all_is_one_call_per_page() {
    let front =
        Front::before(Cloud::memory(), Weather::default(), Dice::new(), Arc::new(SystemClock)).await.unwrap();
    let backend = backend(&front.url, ec2::settings(&front), InstallationId::generate()).await;
    for _ in 0..50 {
        launch(&backend, request(1, 1)).await.1.unwrap();
    }
    let asked = front.calls("DescribeInstances");
    assert_eq!(backend.list_instances().await.unwrap().len(), 50);
    assert_eq!(front.calls("DescribeInstances"), asked + 1);
}
