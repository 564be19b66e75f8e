//! A whole world in memory: a store, a provider, a clock, and the real executor between them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use molecule_domain::clock::{Clock, ManualClock, Timestamp};
use molecule_domain::id::{
    Generation, InstallationId, IntentNumber, LeaseOwner, OrganizationId, WorkspaceId,
};
use molecule_domain::lifecycle::{Desired, Phase};
use molecule_domain::limits::Amounts;
use molecule_provisioner::admission::{Change, ChangeRequest, counted};
use molecule_provisioner::backend::memory::{Host, MemoryBackend, Trouble};
use molecule_provisioner::faults::{Fault, Probe, Steps};
use molecule_provisioner::model::InstanceRecord;
use molecule_provisioner::observation::InstanceState;
use molecule_provisioner::policy::Policy;
use molecule_provisioner::reconciler::execute::Executor;
use molecule_provisioner::reconciler::sweeper::Sweeper;
use molecule_provisioner::samples;
use molecule_provisioner::store::memory::MemoryStore;
use molecule_provisioner::store::{Room, Store};

pub(crate) const ORG: OrganizationId = OrganizationId::SELF_HOSTED;

/// Injects one fault at the n-th step taken, and remembers all steps.
#[derive(Default)]
pub(crate) struct OneFault {
    state: Mutex<Armed>,
}

type Armed = (Vec<&'static str>, Option<(usize, Fault)>);

impl OneFault {
    /// Forgets the steps so far and injects this fault at the n-th from now.
    pub(crate) fn arm(&self, fault: Option<(usize, Fault)>) {
        *self.state.lock().unwrap() = (Vec::new(), fault);
    }

    /// The steps since it was armed.
    pub(crate) fn taken(&self) -> Vec<&'static str> {
        self.state.lock().unwrap().0.clone()
    }
}

#[async_trait::async_trait]
impl Probe for OneFault {
    async fn before(&self, step: &'static str) -> Option<Fault> {
        let mut state = self.state.lock().unwrap();
        let n = state.0.len();
        state.0.push(step);
        state.1.filter(|(at, _)| *at == n).map(|(_, fault)| fault)
    }
}

pub(crate) struct World {
    pub(crate) host: Arc<Host>,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) faults: Arc<OneFault>,
    pub(crate) executor: Executor,
    sweeper: Sweeper,
    owner: LeaseOwner,
    violations: Vec<String>,
}

/// What a client can ask for, and what can happen to an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Create,
    Stop,
    Start,
    Restart,
    ChangeSpec,
    Delete,
    Suspend,
    Crash,
    Vanish,
    ProviderAway,
    ProviderBack,
    /// Launches from now on seem lost, and take effect half a minute later.
    LaunchesLate,
    /// Launches from now on get half-way and seem lost.
    LaunchesHalf,
    /// From now on there is no room for launches and starts.
    NoRoom,
}

impl World {
    pub(crate) fn new() -> Self {
        let clock = Arc::new(ManualClock::starting_at(Timestamp::from_micros(1_700_000_000_000_000)));
        let host = Arc::new(Host::default());
        let store = Arc::new(MemoryStore::default());
        let faults = Arc::new(OneFault::default());
        let policy = Policy { orphan_grace: Duration::from_secs(600), ..Policy::default() };
        let dyn_clock: Arc<dyn Clock> = clock.clone();
        let executor = Executor {
            backend: Arc::new(MemoryBackend::new(
                host.clone(),
                InstallationId::generate(),
                dyn_clock.clone(),
            )),
            store: store.clone(),
            sealer: Arc::new(samples::Unsealed),
            clock: dyn_clock,
            policy,
            steps: Steps::probed(faults.clone()),
        };
        Self {
            host,
            store,
            clock,
            faults,
            executor,
            sweeper: Sweeper::default(),
            owner: LeaseOwner::generate(),
            violations: Vec::new(),
        }
    }

    pub(crate) async fn record(&self, workspace: WorkspaceId) -> Option<InstanceRecord> {
        self.store.get(ORG, workspace).await.unwrap()
    }

    /// Asks for it; whatever the rules refuse is no concern here.
    pub(crate) async fn ask(&mut self, workspace: WorkspaceId, op: Op) {
        let now = self.clock.now();
        let before = self.record(workspace).await;
        let change = match (op, &before) {
            (Op::Create, _) => {
                self.store.provision(&samples::provision(workspace), now).await.unwrap();
                return;
            }
            (Op::Suspend, _) => {
                self.store.suspend(ORG, now);
                return;
            }
            (Op::ProviderAway, _) => return self.host.set(Trouble::Away, true),
            (Op::ProviderBack, _) => return self.host.clear(),
            (Op::LaunchesLate, _) => return self.host.set_late(Some(Duration::from_secs(30))),
            (Op::LaunchesHalf, _) => return self.host.set(Trouble::Half, true),
            (Op::NoRoom, _) => return self.host.set(Trouble::Full, true),
            (_, None) => return,
            (Op::Crash, Some(record)) => return self.host.crash(&record.instance(), 1),
            (Op::Vanish, Some(record)) => return self.host.vanish(&record.instance()),
            (Op::Stop, _) => Change::Stop(None),
            (Op::Start, _) => Change::Start,
            (Op::Delete, _) => Change::Delete,
            (Op::Restart | Op::ChangeSpec, Some(record)) => {
                let mut spec = record.spec.clone();
                if op == Op::ChangeSpec {
                    spec.resources.memory_mib = Some(spec.resources.memory_mib.unwrap_or(0) + 64);
                }
                let run = op == Op::Restart || record.desired == Desired::Running;
                let generation = record.wanted_generation.next();
                Change::Replace { generation, spec: Box::new(spec), sealed_token: b"token".to_vec(), run }
            }
        };
        let intent = before.map_or(IntentNumber(1), |record| record.intent.next());
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

    /// One turn of the wheel: a second passes, and everything due takes a step. Twice, so that a decision on
    /// stale sight would show.
    pub(crate) async fn tick(&mut self) {
        self.clock.advance(Duration::from_secs(1));
        self.host.deliver(self.clock.now());
        for _ in 0..2 {
            let lease = self.executor.policy.lease;
            let claimed = self
                .store
                .claim("memory", self.owner, self.clock.now(), lease, Room::of_each(100))
                .await
                .unwrap();
            if claimed.is_empty() {
                return;
            }
            // another owner's claim of the same records must find nothing
            self.owner = LeaseOwner::generate();
            let wanted: Vec<_> = claimed.iter().map(|one| one.record.instance()).collect();
            let snapshot = self.executor.look_at(&wanted).await;
            for one in &claimed {
                self.executor.work(one, &snapshot).await;
                self.check_always(one.record.workspace).await;
            }
        }
    }

    pub(crate) async fn sweep(&mut self) {
        self.sweeper.pass(&self.executor).await.unwrap();
    }

    /// Ticks without faults until nothing is due and the provider is as every record expects.
    pub(crate) async fn settle(&mut self) {
        self.faults.arm(None);
        self.host.clear();
        let mut calm = 0;
        for _ in 0..2_000 {
            self.tick().await;
            let expected = self.store.expectations("memory").await.unwrap();
            if expected.instances.iter().all(|record| record.settled) {
                self.sweep().await;
                calm += 1;
                // long enough for an orphan's grace to pass
                self.clock.advance(Duration::from_secs(700));
                if calm > 3 {
                    return;
                }
            } else {
                calm = 0;
            }
        }
        panic!("it does not settle: {:#?}", self.store.expectations("memory").await.unwrap());
    }

    /// What must hold at every moment.
    async fn check_always(&mut self, workspace: WorkspaceId) {
        let there: Vec<_> =
            self.host.instances().into_iter().filter(|one| one.instance.workspace == workspace).collect();
        if there.len() > 1 {
            self.violations.push(format!("two generations at once: {there:?}"));
        }
        let segments = self.store.segments(workspace).await.unwrap();
        for pair in segments.windows(2) {
            if pair[0].until.is_none_or(|until| until > pair[1].from) {
                self.violations.push(format!("segments overlap: {pair:?}"));
            }
        }
        let mut counted_now = Amounts::default();
        for record in self.store.records(ORG) {
            counted_now = counted_now.plus(counted(&record));
        }
        let used = self.store.account(ORG, self.clock.now()).await.unwrap().used;
        if used != counted_now {
            self.violations.push(format!("{used:?} is counted, {counted_now:?} is there"));
        }
    }

    /// What must hold once all is calm.
    pub(crate) async fn check_settled(&self) {
        assert!(self.violations.is_empty(), "{:#?}", self.violations);
        let records = self.store.records(ORG);
        let mut by_workspace: BTreeMap<WorkspaceId, _> =
            self.host.instances().into_iter().map(|one| (one.instance.workspace, one)).collect();
        let volumes = self.host.volume_owners();
        for record in &records {
            let found = by_workspace.remove(&record.workspace);
            let open = self.store.segments(record.workspace).await.unwrap().iter().any(|s| s.until.is_none());
            let running = found.as_ref().is_some_and(|one| one.state == InstanceState::Running);
            assert_eq!(open, running, "a segment is open exactly while it runs: {record:#?}");
            match record.phase {
                Phase::Up => {
                    let found = found.expect("what is UP is there");
                    assert!(running && record.desired == Desired::Running, "{record:#?}");
                    assert_eq!(found.instance.generation, record.wanted_generation);
                }
                Phase::Stopped => {
                    assert!(!running && record.desired == Desired::Stopped, "{record:#?}");
                    assert!(!record.running_counted, "what is stopped is not counted as running");
                }
                Phase::Failed => assert!(!running && !record.running_counted, "{record:#?}"),
                Phase::Gone => {
                    assert_eq!((found, record.desired), (None, Desired::Deleted));
                    assert!(!volumes.contains(&record.workspace), "volumes are left behind");
                }
                other => panic!("it settled in {other}: {record:#?}"),
            }
        }
        assert!(by_workspace.is_empty(), "instances are left behind: {by_workspace:?}");
    }

    pub(crate) fn starts(&self, workspace: WorkspaceId, generation: u32) -> usize {
        let generation = Generation(generation);
        let instance = molecule_provisioner::model::InstanceRef { organization: ORG, workspace, generation };
        self.host.starts_of(&instance)
    }
}
