//! What services get of an engine and of its instances.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use molecule_domain::clock::{Clock, ManualClock, Timestamp};
use molecule_domain::error::ErrorReason;
use molecule_domain::id::{
    AttemptNumber, InstallationId, IntentNumber, LaunchSeq, LeaseOwner, OrganizationId, Revision, WorkspaceId,
};
use molecule_domain::lifecycle::Phase;
use molecule_provisioner::admission::{Change, ChangeRequest};
use molecule_provisioner::backend::memory::{Host, MemoryBackend, Trouble};
use molecule_provisioner::backend::{
    Backend, BootstrapToken, CallError, LaunchRequest, LogChunk, LogOptions, OwnedResource, PostMortem,
    PrepareRequest, Prepared, Progress,
};
use molecule_provisioner::faults::{Fault, Injected, Probe, Steps};
use molecule_provisioner::model::{Attempt, AttemptState, InstanceRef};
use molecule_provisioner::observation::{InstanceState, OwnedInstance};
use molecule_provisioner::policy::Policy;
use molecule_provisioner::reconciler::orphans::Orphans;
use molecule_provisioner::samples;
use molecule_provisioner::shown::Shown;
use molecule_provisioner::store::memory::MemoryStore;
use molecule_provisioner::store::{Alarm, Room, Store};
use molecule_provisioner::{Engine, Instances};

use tokio_util::sync::CancellationToken;

use crate::world::ORG;

const NOW: Timestamp = Timestamp::from_micros(5_000_000);

/// A backend whose machines have consoles and stream no output. It does no more than it must.
struct Machines(Vec<OwnedInstance>);

fn unknown<T>() -> Result<T, CallError> {
    Err(CallError::Unknown("not asked in these tests".to_owned()))
}

#[async_trait]
impl Backend for Machines {
    fn kind(&self) -> &'static str {
        "machines"
    }
    fn visibility_lag(&self) -> Duration {
        Duration::ZERO
    }
    async fn prepare(&self, _request: &PrepareRequest<'_>) -> Prepared {
        Prepared::Unknown("not asked in these tests".to_owned())
    }
    async fn launch(&self, _request: &LaunchRequest) -> Result<(), CallError> {
        unknown()
    }
    async fn start(&self, _instance: &InstanceRef, _seq: LaunchSeq) -> Result<(), CallError> {
        unknown()
    }
    async fn stop(
        &self,
        _instance: &InstanceRef,
        _seq: LaunchSeq,
        _grace: Duration,
    ) -> Result<Progress, CallError> {
        unknown()
    }
    async fn remove(&self, _instance: &InstanceRef, _seq: LaunchSeq) -> Result<Progress, CallError> {
        unknown()
    }
    async fn purge(&self, _organization: OrganizationId, _workspace: WorkspaceId) -> Result<(), CallError> {
        unknown()
    }
    async fn list_instances(&self) -> Result<Vec<OwnedInstance>, CallError> {
        Ok(self.0.clone())
    }
    async fn list_resources(&self) -> Result<Vec<OwnedResource>, CallError> {
        unknown()
    }
    async fn post_mortem(&self, _instance: &InstanceRef, _seq: LaunchSeq) -> Result<PostMortem, CallError> {
        unknown()
    }
    async fn logs(
        &self,
        _instance: &InstanceRef,
        _options: LogOptions,
    ) -> Result<BoxStream<'static, Result<LogChunk, CallError>>, CallError> {
        unknown()
    }
    fn streams_logs(&self) -> bool {
        false
    }
    async fn console(&self, _instance: &InstanceRef) -> Result<Option<Vec<u8>>, CallError> {
        Ok(Some(b"Kernel panic".to_vec()))
    }
    async fn hints(&self) -> Result<BoxStream<'static, WorkspaceId>, CallError> {
        unknown()
    }
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(ManualClock::starting_at(NOW))
}

fn engine(backend: impl Backend, store: &Arc<MemoryStore>) -> Engine {
    let policy = Policy::default();
    Engine::new(
        Arc::new(backend),
        Arc::clone(store) as _,
        Arc::new(samples::Unsealed),
        clock(),
        policy,
        Steps::default(),
    )
}

/// A store with a workspace of which a launch was begun.
async fn launched() -> (Arc<MemoryStore>, WorkspaceId) {
    let (store, workspace) = (Arc::new(MemoryStore::default()), WorkspaceId::generate());
    store.provision(&samples::provision(workspace), NOW).await.unwrap();
    let room = Room::of_each(1);
    let claimed =
        store.claim("memory", LeaseOwner::generate(), NOW, Duration::from_secs(60), room).await.unwrap();
    let (planned, until) = (claimed[0].record.wanted(), NOW + Duration::from_secs(30));
    store.begin_launch(&claimed[0].lease, planned, "", NOW, until).await.unwrap();
    (store, workspace)
}

#[tokio::test]
async fn a_backend_needs_no_more_than_it_must_have() {
    let instance = InstanceRef {
        organization: ORG,
        workspace: WorkspaceId::generate(),
        generation: samples::provision(WorkspaceId::generate()).generation,
    };
    let found = OwnedInstance {
        instance,
        seq: LaunchSeq(1),
        state: InstanceState::Unattached,
        endpoint: None,
        created_at: NOW,
    };
    let machines = Machines(vec![found.clone()]);
    assert_eq!(machines.gather(), Duration::ZERO);
    assert_eq!(
        machines.find_instances(&[]).await,
        Ok(vec![found.clone()]),
        "more than was asked for may be told"
    );
    let attached = machines.attach(&found, &samples::spec()).await;
    assert!(matches!(attached, Err(CallError::Unknown(_))), "it tells of none that wait for that");
}

#[test]
fn a_launch_whose_call_may_have_happened_is_placed() {
    let workspace = WorkspaceId::generate();
    let request = samples::provision(workspace);
    let instance = InstanceRef { organization: ORG, workspace, generation: request.generation };
    let is_placed = |state: Option<AttemptState>| {
        let attempt = state.map(|state| Attempt {
            number: AttemptNumber(1),
            seq: LaunchSeq(1),
            token: String::new(),
            placement: String::new(),
            state,
            call_until: NOW,
            unsure_until: NOW,
            created_at: NOW,
        });
        PrepareRequest { instance, spec: &request.spec, attempt: attempt.as_ref() }.is_placed()
    };
    assert!(is_placed(Some(AttemptState::Intended)) && is_placed(Some(AttemptState::Confirmed)));
    assert!(!is_placed(Some(AttemptState::Resolved)) && !is_placed(None));
}

#[test]
fn a_bootstrap_token_is_not_shown() {
    let token = BootstrapToken::new("hidden".to_owned());
    assert_eq!((format!("{token:?}").as_str(), token.expose()), ("BootstrapToken(..)", "hidden"));
}

#[tokio::test]
async fn output_is_read_where_a_backend_has_it() {
    let (store, workspace) = launched().await;
    let options = LogOptions::default();
    let host = Arc::new(Host::default());
    let containers = engine(MemoryBackend::new(host, InstallationId::generate(), clock()), &store);
    assert_eq!(containers.capabilities(), ["logs.stream", "session.reset"]);
    assert!(
        containers.logs(ORG, workspace, options).await.unwrap().next().await.is_none(),
        "nothing has run"
    );
    let refused = containers.console(ORG, workspace).await.unwrap_err();
    assert_eq!(refused.reason, ErrorReason::NotSupported);
    assert!(refused.message.contains("read the logs"), "{refused}");

    let machines = engine(Machines(Vec::new()), &store);
    assert_eq!((machines.backend_kind(), machines.capabilities()), ("machines", vec!["session.reset"]));
    assert_eq!(machines.console(ORG, workspace).await.unwrap(), b"Kernel panic");
    let refused = machines.logs(ORG, workspace, options).await.err().unwrap();
    assert_eq!(refused.reason, ErrorReason::NotSupported);
    assert!(refused.message.contains("read the console"), "{refused}");
}

#[tokio::test]
async fn what_was_not_launched_has_no_output() {
    let (store, workspace) = (Arc::new(MemoryStore::default()), WorkspaceId::generate());
    let engine = engine(Machines(Vec::new()), &store);
    let refused = engine.console(ORG, workspace).await.unwrap_err();
    assert_eq!(refused.reason, ErrorReason::WorkspaceNotFound);
    store.provision(&samples::provision(workspace), NOW).await.unwrap();
    assert_eq!(engine.console(ORG, workspace).await.unwrap_err().reason, ErrorReason::WrongState);
}

#[tokio::test]
async fn wishes_are_stored_and_told_of() {
    let store = Arc::new(MemoryStore::default());
    let instances = Instances::new(store, clock());
    let (workspace, missing) = (WorkspaceId::generate(), WorkspaceId::generate());
    let mut news = instances.news(ORG);
    let admitted = instances.provision(&samples::provision(workspace)).await.unwrap();
    assert_eq!((admitted.created_at, news.has_changed().unwrap()), (NOW, true));
    news.mark_unchanged();
    let stop = ChangeRequest {
        organization: ORG,
        workspace,
        intent: IntentNumber(2),
        change: Change::Stop(None),
        refusal_is_final: false,
        process: None,
        trace: String::new(),
    };
    let stopped = instances.change(&stop).await.unwrap();
    assert!(news.has_changed().unwrap());
    assert_eq!(instances.get(ORG, workspace).await.unwrap(), stopped);
    let refused = instances.get(ORG, missing).await.unwrap_err();
    assert_eq!(refused.reason, ErrorReason::WorkspaceNotFound);
    assert_eq!(instances.changed_after(ORG, Revision(0)).await.unwrap(), [Shown::from(stopped.clone())]);
    assert_eq!(instances.changed_after(ORG, stopped.revision).await.unwrap(), []);
    let events = instances.events_after(ORG, 0).await.unwrap();
    let kinds: Vec<_> = events.iter().map(|event| &*event.detail.kind).collect();
    assert_eq!(kinds, ["admitted", "stop_requested"]);
    assert_eq!(instances.events_after(ORG, events[1].id).await.unwrap(), []);
    assert_eq!(format!("{instances:?}"), "Instances { .. }");
}

#[tokio::test]
async fn orphans_go_by_hand_once_no_alarm_stands() {
    let (store, host) = (Arc::new(MemoryStore::default()), Arc::new(Host::default()));
    let backend = MemoryBackend::new(Arc::clone(&host), InstallationId::generate(), clock());
    let engine = engine(backend.clone(), &store);
    let request = samples::launch(WorkspaceId::generate(), LaunchSeq(7));
    backend.launch(&request).await.unwrap();
    let is_refused = async |orphans: &Orphans| {
        let asked = [engine.may_remove(orphans).await, engine.remove_orphans(orphans).await];
        asked.into_iter().all(|answer| answer.is_err_and(|error| error.reason == ErrorReason::AlarmStands))
    };
    let orphans = engine.orphans().await.unwrap().unwrap();
    assert_eq!((orphans.instances.len(), orphans.unknown.len()), (1, 1));
    assert!(engine.alarm().await.unwrap().is_none());
    assert!(is_refused(&orphans).await, "its launch calls for an alarm");
    let alarm =
        |message: &str| Alarm { backend: "memory".to_owned(), raised_at: NOW, message: message.to_owned() };
    store.raise_alarm(&alarm("a launch is not known")).await.unwrap();
    assert_eq!(engine.alarm().await.unwrap().unwrap().message, "a launch is not known");
    engine.end_alarm(&orphans).await.unwrap();
    assert!(engine.alarm().await.unwrap().is_none());
    let orphans = engine.orphans().await.unwrap().unwrap();
    assert_eq!((orphans.instances.len(), orphans.unknown.len()), (1, 0));
    store.raise_alarm(&alarm("another launch is not known")).await.unwrap();
    assert!(is_refused(&orphans).await, "an alarm stands");
    assert_eq!(host.instances().len(), 1);
    engine.end_alarm(&orphans).await.unwrap();
    engine.remove_orphans(&orphans).await.unwrap();
    assert_eq!((host.instances().len(), host.volume_owners().len()), (0, 0));
    host.set(Trouble::Away, true);
    assert!(engine.orphans().await.unwrap().is_none(), "who does not answer tells of none");
}

/// An instance that ends right after everything was listed for the first time.
struct EndsOnceListed(Arc<Host>, InstanceRef);

#[async_trait]
impl Probe for EndsOnceListed {
    async fn before(&self, _step: &'static str) -> Option<Fault> {
        None
    }

    async fn after(&self, step: &'static str) {
        if step == "backend.list_resources" {
            self.0.vanish(&self.1);
        }
    }
}

/// A person confirms what was shown: what had ended by then would never be the same twice where much is launched.
#[tokio::test]
async fn what_ends_while_orphans_are_listed_is_none() {
    let (store, host) = (Arc::new(MemoryStore::default()), Arc::new(Host::default()));
    let backend = MemoryBackend::new(Arc::clone(&host), InstallationId::generate(), clock());
    let [stays, ends] = [1, 2].map(|seq| samples::launch(WorkspaceId::generate(), LaunchSeq(seq)));
    for launch in [&stays, &ends] {
        backend.launch(launch).await.unwrap();
    }
    let steps = Steps::probed(Arc::new(EndsOnceListed(Arc::clone(&host), ends.instance)));
    let (store, sealer) = (Arc::clone(&store) as _, Arc::new(samples::Unsealed));
    let engine = Engine::new(Arc::new(backend), store, sealer, clock(), Policy::default(), steps);
    let orphans = engine.orphans().await.unwrap().unwrap();
    assert_eq!(orphans.instances, [(stays.instance, LaunchSeq(1))]);
}

/// Asks for something else right before a step is written.
struct Overtakes {
    step: &'static str,
    /// A step that fails the first time; only then another wish overtakes.
    fails: Option<&'static str>,
    failed: AtomicBool,
    store: Arc<MemoryStore>,
    request: ChangeRequest,
}

#[async_trait]
impl Probe for Overtakes {
    async fn before(&self, step: &'static str) -> Option<Fault> {
        if self.fails == Some(step) && !self.failed.swap(true, Ordering::Relaxed) {
            return Some(Fault::FailBefore);
        }
        if step == self.step && (self.fails.is_none() || self.failed.load(Ordering::Relaxed)) {
            // a second time it is a replay
            let _ = self.store.change(&self.request, NOW).await;
        }
        None
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_overtaken_is_neither_stopped_nor_started() {
    for (step, fails, first, then) in [
        ("commit.stopping", None, Change::Stop(None), Change::Start),
        // the stop is asked for again, after the look that it is asked for by
        ("backend.find", Some("backend.stop"), Change::Stop(None), Change::Start),
        ("commit.starting", None, Change::Start, Change::Stop(None)),
    ] {
        let (store, host) = (Arc::new(MemoryStore::default()), Arc::new(Host::default()));
        let backend = MemoryBackend::new(Arc::clone(&host), InstallationId::generate(), clock());
        let workspace = WorkspaceId::generate();
        let wish = |intent, change| ChangeRequest {
            organization: ORG,
            workspace,
            intent: IntentNumber(intent),
            change,
            refusal_is_final: false,
            process: None,
            trace: String::new(),
        };
        store.provision(&samples::provision(workspace), NOW).await.unwrap();
        let begins = |steps| {
            let policy = Policy::default();
            Engine::new(
                Arc::new(backend.clone()),
                Arc::clone(&store) as _,
                Arc::new(samples::Unsealed),
                clock(),
                policy,
                steps,
            )
        };
        let run = async |engine: Engine| {
            let cancel = CancellationToken::new();
            tokio::join!(engine.run(cancel.clone()), async {
                for _ in 0..10 {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    // the clock stands still, so nothing falls due again
                    store.wake(&[workspace], NOW).await.unwrap();
                }
                cancel.cancel();
            })
        };
        run(begins(Steps::default())).await;
        let runs = matches!(first, Change::Stop(None));
        if !runs {
            store.change(&wish(1, Change::Stop(None)), NOW).await.unwrap();
            run(begins(Steps::default())).await;
        }
        let starts = || host.instances().iter().map(|found| host.starts_of(&found.instance)).sum::<usize>();
        let before = (starts(), host.instances()[0].state);
        store.change(&wish(2, first), NOW).await.unwrap();
        let failed = AtomicBool::new(false);
        let probe = Overtakes { step, fails, failed, store: Arc::clone(&store), request: wish(3, then) };
        run(begins(Steps::probed(Arc::new(probe)))).await;
        assert_eq!((starts(), host.instances()[0].state), before, "{step}: it was left as it was");
        let told = store.events_after(ORG, 0, 100).await.unwrap();
        assert!(!told.iter().any(|event| event.detail.kind == "exited"), "{step}: {told:?}");
    }
}

/// Lets each launch take five seconds.
struct Slow;

#[async_trait]
impl Probe for Slow {
    async fn before(&self, step: &'static str) -> Option<Fault> {
        if step == "backend.launch" {
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        None
    }
}

#[tokio::test(start_paused = true)]
async fn an_engine_ends_after_the_steps_that_it_has_begun() {
    let (store, host) = (Arc::new(MemoryStore::default()), Arc::new(Host::default()));
    let backend = MemoryBackend::new(Arc::clone(&host), InstallationId::generate(), clock());
    let (policy, steps) = (Policy::default(), Steps::probed(Arc::new(Slow)));
    let engine = Engine::new(
        Arc::new(backend),
        Arc::clone(&store) as _,
        Arc::new(samples::Unsealed),
        clock(),
        policy,
        steps,
    );
    let admitted = store.provision(&samples::provision(WorkspaceId::generate()), NOW).await.unwrap();
    let cancel = CancellationToken::new();
    let running = tokio::spawn({
        let cancel = cancel.clone();
        async move { engine.run(cancel).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let phase = async || store.get(ORG, admitted.workspace).await.unwrap().unwrap().phase;
    assert_eq!((phase().await, host.instances().len()), (Phase::Launching, 0));
    cancel.cancel();
    running.await.unwrap();
    assert_eq!((phase().await, host.starts_of(&admitted.instance())), (Phase::Booting, 1));
}

#[tokio::test]
async fn a_step_says_that_its_fault_was_injected() {
    let steps = Steps::default();
    assert_eq!(
        format!("{steps:?} {Injected}"),
        "Steps(probed: false) injected fault: the outcome is unknown"
    );
    assert_eq!(steps.run("a step", async || 7).await.unwrap(), 7);
}
