//! The engine over EC2 in bad weather: a third of all calls is throttled, delayed, fails, loses its answer or finds no
//! room. Nothing is launched twice, nothing is lost, nothing is left behind.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use molecule_backend_ec2::{Ec2Backend, Settings};
use molecule_domain::clock::{Clock, ManualClock, Timestamp};
use molecule_domain::id::{Generation, InstallationId, LeaseOwner, OrganizationId, WorkspaceId};
use molecule_domain::lifecycle::{Desired, Phase, Reason};
use molecule_domain::limits::Amounts;
use molecule_domain::seal::token_context;
use molecule_provisioner::admission::{Change, ChangeRequest, ProvisionRequest};
use molecule_provisioner::faults::Steps;
use molecule_provisioner::model::InstanceRecord;
use molecule_provisioner::policy::Policy;
use molecule_provisioner::reconciler::execute::Executor;
use molecule_provisioner::reconciler::sweeper::Sweeper;
use molecule_provisioner::samples;
use molecule_provisioner::store::memory::MemoryStore;
use molecule_provisioner::store::{Room, Store};
use molecule_service_kit::seal::Aes;
use molecule_tests::ec2::{self, Cloud, Front, Weather};
use molecule_tests::seed::Dice;

const ORG: OrganizationId = OrganizationId::SELF_HOSTED;
const STORM: Weather = Weather { faults: 30, lag: Duration::from_secs(20), pending: Duration::from_secs(10) };

fn sealer() -> Arc<Aes> {
    Arc::new(Aes::new(&[7; 32]).unwrap())
}

fn provision(workspace: WorkspaceId) -> ProvisionRequest {
    let sealed_token = sealer().seal(b"token", &token_context(workspace, Generation(1)));
    ProvisionRequest { backend: "ec2".to_owned(), sealed_token, ..samples::provision(workspace) }
}

fn change(record: &InstanceRecord, change: Change) -> ChangeRequest {
    let (workspace, intent) = (record.workspace, record.intent.next());
    ChangeRequest {
        organization: ORG,
        workspace,
        intent,
        change,
        refusal_is_final: false,
        process: None,
        trace: String::new(),
    }
}

fn replacement(record: &InstanceRecord) -> Change {
    let generation = record.wanted_generation.next();
    let sealed_token = sealer().seal(b"token", &token_context(record.workspace, generation));
    Change::Replace { generation, spec: Box::new(record.spec.clone()), sealed_token, run: true }
}

/// A world in which time passes by the second.
struct World {
    front: Front,
    clock: Arc<ManualClock>,
    store: Arc<MemoryStore>,
    executor: Executor,
    sweeper: Sweeper,
}

impl World {
    async fn new(cloud: Cloud, weather: Weather) -> Self {
        let clock = Arc::new(ManualClock::starting_at(Timestamp::from_micros(1_700_000_000_000_000)));
        let front = Front::before(cloud, weather, Dice::new(), clock.clone()).await.unwrap();
        let sdk = ec2::sdk(&front.url).await;
        let settings = Settings { visibility_lag: Duration::from_secs(60), ..ec2::settings(&front) };
        let installation = InstallationId::generate();
        let (desk, its_clock) = (ec2::no_reports(), clock.clone());
        let backend = Ec2Backend::with(&sdk, settings, installation, desk, its_clock, Steps::default());
        let store = Arc::new(MemoryStore::default());
        let policy = Policy {
            orphan_grace: Duration::from_secs(90),
            // in a storm, patience decides how many are given up; here none is to be
            launch_deadline: Duration::from_secs(3600),
            backoff_max: Duration::from_secs(8),
            ..Policy::default()
        };
        let executor = Executor {
            backend: Arc::new(backend),
            store: store.clone(),
            sealer: sealer(),
            clock: clock.clone(),
            policy,
            steps: Steps::default(),
        };
        Self { front, clock, store, executor, sweeper: Sweeper::default() }
    }

    /// A second passes, and all that is due takes a step.
    async fn tick(&mut self) {
        self.clock.advance(Duration::from_secs(1));
        let (owner, lease) = (LeaseOwner::generate(), self.executor.policy.lease);
        let claimed =
            self.store.claim("ec2", owner, self.clock.now(), lease, Room::of_each(1000)).await.unwrap();
        for some in claimed.chunks(32) {
            let wanted: Vec<_> = some.iter().map(|one| one.record.instance()).collect();
            let snapshot = self.executor.look_at(&wanted).await;
            join_all(some.iter().map(|one| self.executor.work(one, &snapshot))).await;
        }
        if self.clock.now().micros() / 1_000_000 % 15 == 0 {
            self.sweeper.pass(&self.executor).await.unwrap();
        }
    }

    async fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.tick().await;
        }
    }

    async fn is(&self, workspace: WorkspaceId) -> InstanceRecord {
        self.store.get(ORG, workspace).await.unwrap().unwrap()
    }

    async fn create(&self, workspace: WorkspaceId) {
        self.store.provision(&provision(workspace), self.clock.now()).await.unwrap();
    }

    async fn ask(&self, record: &InstanceRecord, wanted: Change) {
        self.store.change(&change(record, wanted), self.clock.now()).await.unwrap();
    }

    /// Workspaces are created, some are replaced once they are up, and all are deleted.
    async fn lives(&mut self, dice: &mut Dice, count: usize) {
        let mut living: Vec<_> = (0..count).map(|_| (WorkspaceId::generate(), dice.below(2) == 0)).collect();
        for (workspace, _) in &living {
            self.create(*workspace).await;
        }
        let began = self.clock.now();
        while !living.is_empty() {
            self.tick().await;
            let mut left = Vec::new();
            for (workspace, replaced) in living {
                let record = self.is(workspace).await;
                let last = if replaced { 2 } else { 1 };
                match record.phase {
                    Phase::Up if record.wanted_generation.0 < last => {
                        self.ask(&record, replacement(&record)).await;
                    }
                    Phase::Up if record.generation.0 == last && record.desired == Desired::Running => {
                        self.ask(&record, Change::Delete).await;
                    }
                    Phase::Gone => {
                        let segments = self.store.segments(workspace).await.unwrap();
                        assert_eq!(segments.len(), last as usize, "{segments:?}");
                        assert!(segments.iter().all(|one| one.until.is_some()), "{segments:?}");
                        continue;
                    }
                    Phase::Failed => panic!("given up: {record:#?}"),
                    _ => {}
                }
                left.push((workspace, replaced));
            }
            living = left;
            if self.clock.now().since(began) > Duration::from_secs(3600) {
                let stuck = join_all(living.iter().map(|(workspace, _)| self.is(*workspace))).await;
                panic!("stuck: {stuck:#?}");
            }
        }
        assert_eq!(self.store.account(ORG, self.clock.now()).await.unwrap().used, Amounts::default());
        assert_eq!((self.front.violations(), self.front.alive()), (Vec::new(), Vec::new()));
        assert_eq!(self.front.disks().await.unwrap(), 0, "disks are left behind");
    }
}

/// As many lives as it takes for so many launches; what has been launched.
async fn storm(cloud: Cloud, launches: usize, at_once: usize) -> usize {
    let mut dice = Dice::new();
    let mut world = World::new(cloud, STORM).await;
    while world.front.launched() < launches {
        world.lives(&mut dice, at_once).await;
    }
    let (launched, asked) = (world.front.launched(), world.front.calls("RunInstances"));
    println!("{launched} launches, asked for {asked} times");
    assert!(asked > launched, "nothing was lost and asked for again");
    launched
}

/// How many launches there are, and of these through moto; `SOAK` has more of both.
fn launches() -> (usize, usize) {
    if std::env::var_os("SOAK").is_some() { (10_000, 500) } else { (2_000, 100) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_over_moto() {
    let (_, through_moto) = launches();
    let mut launched = 0;
    while launched < through_moto {
        // it remembers all that ever was, and is the slower for it
        launched += storm(Cloud::moto().await.unwrap(), 50, 40).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_over_thousands_of_launches() {
    let (all, through_moto) = launches();
    let share = (all - through_moto) / 2;
    let half = || async move {
        let mut launched = 0;
        while launched < share {
            launched += storm(Cloud::memory(), 500, 400).await;
        }
    };
    let halves = [tokio::spawn(half()), tokio::spawn(half())];
    for half in halves {
        half.await.unwrap();
    }
}

/// EC2 is unreachable for ten minutes: what runs goes on, what is deleted is deleted afterwards, what was to be
/// launched was given up in time with the reason, and nothing is launched twice.
#[tokio::test(flavor = "multi_thread")]
async fn ten_minutes_without_ec2() {
    let mut world = World::new(Cloud::memory(), Weather::default()).await;
    let [steady, deleted, created] = [0; 3].map(|_| WorkspaceId::generate());
    for workspace in [steady, deleted] {
        world.create(workspace).await;
    }
    world.pass(10).await;
    assert_eq!([world.is(steady).await.phase, world.is(deleted).await.phase], [Phase::Up; 2]);
    let before = world.is(steady).await;

    world.front.set_away(true);
    world.ask(&world.is(deleted).await, Change::Delete).await;
    world.create(created).await;
    world.pass(600).await;
    assert_eq!(world.is(steady).await, before, "a hiccup moves nothing");
    assert_ne!(world.is(deleted).await.phase, Phase::Gone, "nobody has confirmed that");
    let waiting = world.is(created).await;
    assert!(
        matches!(waiting.reason, Some(Reason::BackendUnreachable)) && !waiting.phase.eq(&Phase::Up),
        "{waiting:#?}"
    );

    world.front.set_away(false);
    world.pass(120).await;
    assert_eq!(world.is(steady).await.phase, Phase::Up);
    assert_eq!(world.is(deleted).await.phase, Phase::Gone);
    let created = world.is(created).await;
    assert!(matches!(created.phase, Phase::Up | Phase::Failed), "stuck: {created:#?}");
    let alive = 1 + usize::from(created.phase == Phase::Up);
    assert_eq!((world.front.alive().len(), world.front.violations()), (alive, Vec::new()));
}

/// There is no room anywhere: the workspace waits, says why, and fails with that in the end; with room again, another
/// launches at once where there is some.
#[tokio::test(flavor = "multi_thread")]
async fn without_room_a_launch_waits_and_says_why() {
    let mut world = World::new(Cloud::memory(), Weather::default()).await;
    for machine_type in ["t3a.small", "t3.small", "t2.small"] {
        world.front.fill(machine_type, None);
    }
    let workspace = WorkspaceId::generate();
    world.create(workspace).await;
    world.pass(60).await;
    let waiting = world.is(workspace).await;
    assert_eq!((waiting.phase, waiting.reason), (Phase::Launching, Some(Reason::NoCapacity)));
    assert!(waiting.message.contains("no room"), "{waiting:#?}");
    let asked = world.front.calls("RunInstances");
    assert_eq!(asked, 6, "three types in two zones, and none of them twice");
    world.pass(30 * 60).await;
    let failed = world.is(workspace).await;
    assert_eq!((failed.phase, failed.reason), (Phase::Failed, Some(Reason::NoCapacity)));
    world.ask(&world.is(workspace).await, Change::Delete).await;
    world.pass(10).await;
    assert_eq!(world.is(workspace).await.phase, Phase::Gone);
}
