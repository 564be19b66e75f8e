//! What is measured of the queue, of the provider and of the instances. Instruments belong to the process, so this is a program
//! of its own.

#[path = "shared/answers.rs"]
mod answers;

use std::fmt::Display;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use molecule_domain::clock::{Clock, ManualClock, Timestamp};
use molecule_domain::id::{
    IncarnationId, InstallationId, IntentNumber, LaunchSeq, OrganizationId, WorkspaceId,
};
use molecule_provisioner::Engine;
use molecule_provisioner::backend::Backend;
use molecule_provisioner::backend::memory::{Host, MemoryBackend, Trouble};
use molecule_provisioner::faults::Steps;
use molecule_provisioner::policy::Policy;
use molecule_provisioner::reconciler::execute::Executor;
use molecule_provisioner::samples;
use molecule_provisioner::store::Store;
use molecule_provisioner::store::memory::MemoryStore;
use opentelemetry::metrics::{
    Counter, Gauge, Histogram, HistogramBuilder, InstrumentBuilder, InstrumentProvider, Meter, MeterProvider,
    SyncInstrument,
};
use opentelemetry::{InstrumentationScope, KeyValue, global};
use tokio_util::sync::CancellationToken;

use self::answers::Answers;

/// Everything that is measured in this process, in lines.
static MEASURED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// An instrument of this name, or whatever makes them.
#[derive(Clone, Default)]
struct Measures(String);

impl Measures {
    fn named(name: &str) -> Arc<Self> {
        Arc::new(Self(name.to_owned()))
    }

    fn write(&self, value: impl Display, labels: &[KeyValue]) {
        let labels: Vec<_> = labels.iter().map(|label| format!("{}={}", label.key, label.value)).collect();
        MEASURED.lock().unwrap().push(format!("{}{{{}}} {value}", self.0, labels.join(",")));
    }
}

impl MeterProvider for Measures {
    fn meter_with_scope(&self, _scope: InstrumentationScope) -> Meter {
        Meter::new(Arc::new(self.clone()))
    }
}

impl InstrumentProvider for Measures {
    fn f64_histogram(&self, builder: HistogramBuilder<'_, Histogram<f64>>) -> Histogram<f64> {
        Histogram::new(Self::named(&builder.name))
    }

    fn u64_counter(&self, builder: InstrumentBuilder<'_, Counter<u64>>) -> Counter<u64> {
        Counter::new(Self::named(&builder.name))
    }

    fn u64_gauge(&self, builder: InstrumentBuilder<'_, Gauge<u64>>) -> Gauge<u64> {
        Gauge::new(Self::named(&builder.name))
    }
}

impl SyncInstrument<f64> for Measures {
    fn measure(&self, value: f64, labels: &[KeyValue]) {
        self.write(value, labels);
    }
}

impl SyncInstrument<u64> for Measures {
    fn measure(&self, value: u64, labels: &[KeyValue]) {
        self.write(value, labels);
    }
}

/// What was measured by an instrument, with its labels.
fn measured(instrument: &str) -> Vec<String> {
    let all = MEASURED.lock().unwrap();
    all.iter().filter_map(|line| line.strip_prefix(instrument)).map(str::to_owned).collect()
}

#[tokio::test(start_paused = true)]
async fn the_age_of_the_queue_counts_from_when_something_fell_due() {
    global::set_meter_provider(Measures::default());
    let clock = Arc::new(ManualClock::starting_at(Timestamp::from_micros(100_000_000)));
    let store = Arc::new(MemoryStore::default());
    for _ in 0..2 {
        store.provision(&samples::provision(WorkspaceId::generate()), clock.now()).await.unwrap();
        clock.advance(Duration::from_secs(20));
    }
    let dyn_clock: Arc<dyn Clock> = clock.clone();
    let backend =
        MemoryBackend::new(Arc::new(Host::default()), InstallationId::generate(), Arc::clone(&dyn_clock));
    // two that the store lacks, of which its tenant has still to tell
    let lost = [(); 2].map(|()| (WorkspaceId::generate(), IntentNumber(1)));
    for (workspace, _) in lost {
        backend.launch(&samples::launch(workspace, LaunchSeq(1))).await.unwrap();
    }
    store.begin(IncarnationId::generate(), clock.now());
    store.meet(OrganizationId::SELF_HOSTED);
    store.agree(OrganizationId::SELF_HOSTED, (IncarnationId::generate(), 1), &lost, clock.now());
    let sealer = Arc::new(samples::Unsealed);
    let engine =
        Engine::new(Arc::new(backend), store, sealer, dyn_clock, Policy::default(), Steps::default());
    let cancel = CancellationToken::new();
    tokio::join!(engine.run(cancel.clone()), async {
        tokio::time::sleep(Duration::from_secs(20)).await;
        cancel.cancel();
    });
    let ages = measured("molecule_queue_age_seconds{backend=memory} ");
    assert_eq!(ages[0], "40", "no engine ran when it fell due: {ages:?}");
    assert!(ages[1..].iter().all(|age| age == "0"), "what follows is due at once: {ages:?}");
    // as the last sweep has counted them
    assert_eq!(measured("molecule_awaited{backend=memory} ").pop(), Some("2".to_owned()));
    let last = |phase: &str| measured(&format!("molecule_instances{{backend=memory,phase={phase}}} ")).pop();
    assert_eq!(["UP", "BOOTING", "GONE"].map(last), ["2", "0", "0"].map(|count| Some(count.to_owned())));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_took_too_long_is_told_apart_from_one_that_failed() {
    global::set_meter_provider(Measures::default());
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::starting_at(Timestamp::from_micros(100_000_000)));
    let host = Arc::new(Host::default());
    let memory = MemoryBackend::new(Arc::clone(&host), InstallationId::generate(), Arc::clone(&clock));
    let answers = Arc::new(Answers::of(Arc::new(memory)));
    let executor = Executor {
        backend: Arc::clone(&answers) as _,
        store: Arc::new(MemoryStore::default()),
        sealer: Arc::new(samples::Unsealed),
        clock,
        policy: Policy::default(),
        steps: Steps::default(),
    };
    host.set(Trouble::Away, true);
    executor.look().await;
    answers.next.lock().unwrap().is_silent = true;
    executor.look().await;
    let failed = measured("molecule_provider_errors{backend=memory,call=backend.list,class=");
    assert_eq!(failed, ["unknown} 1", "timeout} 1"]);
}
