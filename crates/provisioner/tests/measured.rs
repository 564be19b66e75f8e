//! What is measured of the queue. Instruments belong to the process, so this is a program of its own.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use molecule_domain::clock::{Clock, ManualClock, Timestamp};
use molecule_domain::id::{InstallationId, WorkspaceId};
use molecule_provisioner::Engine;
use molecule_provisioner::backend::memory::{Host, MemoryBackend};
use molecule_provisioner::faults::Steps;
use molecule_provisioner::policy::Policy;
use molecule_provisioner::samples;
use molecule_provisioner::store::Store;
use molecule_provisioner::store::memory::MemoryStore;
use opentelemetry::metrics::{
    Histogram, HistogramBuilder, InstrumentProvider, Meter, MeterProvider, SyncInstrument,
};
use opentelemetry::{InstrumentationScope, KeyValue, global};
use tokio_util::sync::CancellationToken;

/// Keeps what is measured as the age of the queue, in seconds.
#[derive(Clone, Default)]
struct Ages(Arc<Mutex<Vec<f64>>>);

impl MeterProvider for Ages {
    fn meter_with_scope(&self, _scope: InstrumentationScope) -> Meter {
        Meter::new(Arc::new(self.clone()))
    }
}

impl InstrumentProvider for Ages {
    fn f64_histogram(&self, builder: HistogramBuilder<'_, Histogram<f64>>) -> Histogram<f64> {
        let is_it = builder.name == "molecule_queue_age_seconds";
        Histogram::new(if is_it { Arc::new(self.clone()) } else { Arc::new(Self::default()) })
    }
}

impl SyncInstrument<f64> for Ages {
    fn measure(&self, seconds: f64, _labels: &[KeyValue]) {
        self.0.lock().unwrap().push(seconds);
    }
}

#[tokio::test(start_paused = true)]
async fn the_age_of_the_queue_counts_from_when_something_fell_due() {
    let ages = Ages::default();
    global::set_meter_provider(ages.clone());
    let clock = Arc::new(ManualClock::starting_at(Timestamp::from_micros(100_000_000)));
    let store = Arc::new(MemoryStore::default());
    for _ in 0..2 {
        store.provision(&samples::provision(WorkspaceId::generate()), clock.now()).await.unwrap();
        clock.advance(Duration::from_secs(20));
    }
    let dyn_clock: Arc<dyn Clock> = clock.clone();
    let backend =
        MemoryBackend::new(Arc::new(Host::default()), InstallationId::generate(), Arc::clone(&dyn_clock));
    let sealer = Arc::new(samples::Unsealed);
    let engine =
        Engine::new(Arc::new(backend), store, sealer, dyn_clock, Policy::default(), Steps::default());
    let cancel = CancellationToken::new();
    tokio::join!(engine.run(cancel.clone()), async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        cancel.cancel();
    });
    let ages = ages.0.lock().unwrap();
    assert_eq!(ages.first(), Some(&40.0), "no engine ran when it fell due: {ages:?}");
    assert!(ages[1..].iter().all(|age| *age == 0.0), "what follows is due at once: {ages:?}");
}
