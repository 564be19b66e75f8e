//! What counts when, as the table says it, over random lives on PostgreSQL: workspaces and disk from admission to confirmed
//! absence; running workspaces, CPU and memory from the wish that it runs to confirmed stopped or absent. The oracle
//! looks at wishes and at the provider, never at the counters' own rules.

use std::sync::Arc;
use std::time::Duration;

use molecule_domain::clock::{Clock, ManualClock, SystemClock};
use molecule_domain::id::{InstallationId, LeaseOwner, OrganizationId, WorkspaceId};
use molecule_domain::lifecycle::{Desired, Phase};
use molecule_domain::limits::{Amounts, Limits};
use molecule_provisioner::admission::{Account, Change, ChangeRequest};
use molecule_provisioner::backend::memory::{Host, MemoryBackend};
use molecule_provisioner::faults::Steps;
use molecule_provisioner::policy::Policy;
use molecule_provisioner::reconciler::execute::Executor;
use molecule_provisioner::samples;
use molecule_provisioner::store::{Room, Store};
use molecule_service_kit::seal::Aes;
use molecule_store_postgres::Database;
use molecule_store_postgres::engine::EngineStore;
use molecule_tests::postgres::Scratch;
use molecule_tests::seed::Dice;
use tokio_util::sync::CancellationToken;

const ORG: OrganizationId = OrganizationId::SELF_HOSTED;
const CAP: i64 = 3;
const LIVES: usize = 12;
const STEPS: usize = 40;

struct World {
    host: Arc<Host>,
    clock: Arc<ManualClock>,
    store: Arc<EngineStore>,
    executor: Executor,
    workspaces: Vec<WorkspaceId>,
}

impl World {
    async fn new(store: Arc<EngineStore>) -> Self {
        let clock = Arc::new(ManualClock::starting_at(SystemClock.now()));
        let host = Arc::new(Host::default());
        let backend = MemoryBackend::new(host.clone(), InstallationId::generate(), clock.clone());
        let policy = Policy::default();
        let executor = Executor {
            backend: Arc::new(backend),
            store: store.clone(),
            sealer: Arc::new(Aes::new(&[7; 32]).unwrap()),
            clock: clock.clone(),
            policy,
            steps: Steps::default(),
        };
        let limits = Limits { running_workspaces: Some(CAP), ..Limits::default() };
        let account = Account { limits, ..Account::default() };
        store.set_account(ORG, account).await.unwrap();
        let workspaces = (0..5).map(|_| WorkspaceId::generate()).collect();
        Self { host, clock, store, executor, workspaces }
    }

    async fn ask(&self, workspace: WorkspaceId, op: &str) {
        let now = self.clock.now();
        let Some(record) = self.store.get(ORG, workspace).await.unwrap() else {
            let sealed = Aes::new(&[7; 32]).unwrap();
            let context = molecule_domain::seal::token_context(workspace, molecule_domain::id::Generation(1));
            let request = molecule_provisioner::admission::ProvisionRequest {
                sealed_token: sealed.seal(b"token", &context),
                ..samples::provision(workspace)
            };
            // beyond the cap it is refused, which is an answer
            let _ = self.store.provision(&request, now).await;
            return;
        };
        let change = match op {
            "stop" => Change::Stop(None),
            "start" => Change::Start,
            "restart" => {
                let generation = record.wanted_generation.next();
                let context = molecule_domain::seal::token_context(workspace, generation);
                let sealed_token = Aes::new(&[7; 32]).unwrap().seal(b"token", &context);
                Change::Replace { generation, spec: Box::new(record.spec.clone()), sealed_token, run: true }
            }
            "crash" => return self.host.crash(&record.instance(), 1),
            "vanish" => return self.host.vanish(&record.instance()),
            _ => Change::Delete,
        };
        let intent = record.intent.next();
        let request = ChangeRequest {
            organization: ORG,
            workspace,
            intent,
            change,
            refusal_is_final: false,
            process: None,
            trace: String::new(),
        };
        let _ = self.store.change(&request, now).await;
    }

    async fn tick(&self) {
        self.clock.advance(Duration::from_secs(1));
        let (owner, lease) = (LeaseOwner::generate(), self.executor.policy.lease);
        let claimed =
            self.store.claim("memory", owner, self.clock.now(), lease, Room::of_each(100)).await.unwrap();
        let wanted: Vec<_> = claimed.iter().map(|one| one.record.instance()).collect();
        let snapshot = self.executor.look_at(&wanted).await;
        for one in &claimed {
            self.executor.work(one, &snapshot).await;
            self.check().await;
        }
    }

    /// The table, from wishes and the provider.
    async fn check(&self) {
        let running: Vec<_> = self
            .host
            .instances()
            .into_iter()
            .filter(|one| !one.state.is_down())
            .map(|one| one.instance.workspace)
            .collect();
        let (mut least, mut most) = (Amounts::default(), Amounts::default());
        let plus = |to: &mut Amounts, amounts| *to = to.plus(amounts);
        for workspace in &self.workspaces {
            let Some(record) = self.store.get(ORG, *workspace).await.unwrap() else { continue };
            if record.phase == Phase::Gone {
                assert!(!running.contains(workspace), "it is told to be gone, and runs: {record:#?}");
                continue;
            }
            let (all, held) = (record.spec.amounts(), record.spec.amounts().allocated_part());
            let must = record.desired == Desired::Running || running.contains(workspace);
            plus(&mut least, if must { all } else { held });
            // until its end is confirmed, which the engine may be about to find out
            let may = must || record.due_at.is_some();
            plus(&mut most, if may { all } else { held });
        }
        let used = self.store.account(ORG, self.clock.now()).await.unwrap().used;
        let fits = |a: Amounts, b: Amounts| {
            a.workspaces <= b.workspaces
                && a.disk_gib <= b.disk_gib
                && a.running_workspaces <= b.running_workspaces
                && a.milli_cpus <= b.milli_cpus
                && a.memory_mib <= b.memory_mib
        };
        assert!(fits(least, used) && fits(used, most), "{used:?} is not within {least:?} and {most:?}");
        assert!(used.running_workspaces <= CAP, "{used:?} is beyond the cap");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_counts_when_is_the_table() {
    let mut dice = Dice::new();
    for _ in 0..LIVES {
        let (database, cancel) = (Scratch::new().await.unwrap(), CancellationToken::new());
        let opened = Database::open(&database.url(), 4, cancel.clone()).await.unwrap();
        let world = World::new(Arc::new(EngineStore::new(opened.clone()))).await;
        for _ in 0..STEPS {
            let workspace = *dice.pick(&world.workspaces);
            let op =
                *dice.pick(&["create", "stop", "start", "start", "restart", "crash", "vanish", "delete"]);
            if op == "create" || world.store.get(ORG, workspace).await.unwrap().is_some() {
                world.ask(workspace, op).await;
            }
            world.check().await;
            for _ in 0..dice.below(4) {
                world.tick().await;
            }
        }
        for workspace in &world.workspaces {
            if world.store.get(ORG, *workspace).await.unwrap().is_some() {
                world.ask(*workspace, "delete").await;
            }
        }
        for _ in 0..200 {
            world.tick().await;
        }
        let used = world.store.account(ORG, world.clock.now()).await.unwrap().used;
        assert_eq!(used, Amounts::default(), "something is counted still");
        assert!(world.host.instances().is_empty());
        opened.close().await;
        cancel.cancel();
    }
}
