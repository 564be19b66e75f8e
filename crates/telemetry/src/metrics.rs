//! Everything that is measured, by name. Units are in the names, as Prometheus has it.

use std::sync::LazyLock;
use std::time::Duration;

use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter};
use opentelemetry::{KeyValue, global};

static ALL: LazyLock<Instruments> = LazyLock::new(|| Instruments::new(&global::meter("molecule")));

const SECONDS: [f64; 12] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0];

struct Instruments {
    rpcs: Histogram<f64>,
    queue_age: Histogram<f64>,
    provider_calls: Histogram<f64>,
    provider_errors: Counter<u64>,
    instances: Gauge<u64>,
    orphans: Gauge<u64>,
    awaited: Gauge<u64>,
    orphan_age: Gauge<f64>,
    alarm: Gauge<u64>,
    drifting: Gauge<u64>,
    oldest_wish: Gauge<f64>,
}

impl Instruments {
    fn new(meter: &Meter) -> Self {
        let seconds = |name: &'static str, about: &'static str| {
            meter.f64_histogram(name).with_description(about).with_boundaries(SECONDS.to_vec()).build()
        };
        Self {
            rpcs: seconds("molecule_rpc_seconds", "Calls of the gRPC APIs, until the answer begins"),
            queue_age: seconds(
                "molecule_queue_age_seconds",
                "How long the record that fell due first had waited, at each claim",
            ),
            provider_calls: seconds("molecule_provider_call_seconds", "Calls to providers"),
            provider_errors: meter
                .u64_counter("molecule_provider_errors")
                .with_description("Calls to providers that did not succeed, by class")
                .build(),
            instances: meter
                .u64_gauge("molecule_instances")
                .with_description("Instances by phase, as the replica that sweeps last counted them")
                .build(),
            orphans: meter
                .u64_gauge("molecule_orphans")
                .with_description("What a provider has and no record explains, likewise")
                .build(),
            orphan_age: meter
                .f64_gauge("molecule_orphan_age_seconds")
                .with_description("The age of the oldest of these")
                .build(),
            awaited: meter
                .u64_gauge("molecule_awaited")
                .with_description(
                    "Workspaces that a restored database lacks, whose tenants have still to tell a wish or were refused for now: \
                     what a provider has of these is left as it is, and is neither counted nor billed",
                )
                .build(),
            alarm: meter
                .u64_gauge("molecule_alarm")
                .with_description("1 where an alarm stands: nothing is removed at the backend until it is ended")
                .build(),
            drifting: meter
                .u64_gauge("molecule_quota_drift")
                .with_description("Organisations whose counters are not what their instances add up to")
                .build(),
            oldest_wish: meter
                .f64_gauge("molecule_oldest_wish_seconds")
                .with_description(
                    "How long the oldest wish of a tenant waits for the control plane's answer; 0 where none does",
                )
                .build(),
        }
    }
}

fn label(name: &'static str, value: impl Into<String>) -> KeyValue {
    KeyValue::new(name, value.into())
}

/// A call of a gRPC API was answered with this status code.
pub fn rpc(method: &str, code: &str, took: Duration) {
    ALL.rpcs.record(took.as_secs_f64(), &[label("method", method), label("code", code)]);
}

/// What is due was claimed, so long after the first of it fell due.
pub fn queue_age(backend: &'static str, age: Duration) {
    ALL.queue_age.record(age.as_secs_f64(), &[KeyValue::new("backend", backend)]);
}

/// A provider was called; `error` is the class of what went wrong.
pub fn provider_call(backend: &'static str, call: &'static str, took: Duration, error: Option<&'static str>) {
    let labels = [KeyValue::new("backend", backend), KeyValue::new("call", call)];
    ALL.provider_calls.record(took.as_secs_f64(), &labels);
    if let Some(class) = error {
        let [backend, call] = labels;
        ALL.provider_errors.add(1, &[backend, call, KeyValue::new("class", class)]);
    }
}

/// So many instances are in a phase.
pub fn instances(backend: &'static str, phase: &str, count: usize) {
    let count = u64::try_from(count).unwrap_or(u64::MAX);
    ALL.instances.record(count, &[KeyValue::new("backend", backend), label("phase", phase)]);
}

/// So many things at a provider are explained by no record, the oldest for so long.
pub fn orphans(backend: &'static str, count: usize, oldest: Duration) {
    let labels = [KeyValue::new("backend", backend)];
    ALL.orphans.record(u64::try_from(count).unwrap_or(u64::MAX), &labels);
    ALL.orphan_age.record(oldest.as_secs_f64(), &labels);
}

/// What a provider has of so many workspaces is left for their tenants.
pub fn awaited(backend: &'static str, count: usize) {
    ALL.awaited.record(u64::try_from(count).unwrap_or(u64::MAX), &[KeyValue::new("backend", backend)]);
}

/// Whether an alarm stands for a backend.
pub fn alarm(backend: &'static str, stands: bool) {
    ALL.alarm.record(u64::from(stands), &[KeyValue::new("backend", backend)]);
}

/// So many organisations' counters have drifted.
pub fn quota_drift(organizations: usize) {
    ALL.drifting.record(u64::try_from(organizations).unwrap_or(u64::MAX), &[]);
}

/// The oldest wish that waits for the control plane's answer has waited for so long.
pub fn oldest_wish(age: Duration) {
    ALL.oldest_wish.record(age.as_secs_f64(), &[]);
}

/// Reports how often each transaction ran, was run again and failed, whenever somebody asks.
pub fn transactions(counts: impl Fn() -> Vec<(&'static str, [u64; 3])> + Send + Sync + 'static) {
    let meter = global::meter("molecule");
    let observed = meter
        .u64_observable_counter("molecule_transactions")
        .with_description("Transactions on the database by name and outcome")
        .with_callback(move |observer| {
            for (name, counts) in counts() {
                for (outcome, count) in ["run", "run_again", "failed"].into_iter().zip(counts) {
                    let labels = [KeyValue::new("name", name), KeyValue::new("outcome", outcome)];
                    observer.observe(count, &labels);
                }
            }
        });
    // it lives as long as its provider
    let _ = observed.build();
}
