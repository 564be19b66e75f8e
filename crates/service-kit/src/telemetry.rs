//! Logs for people or machines; traces and metrics over OTLP where `OTEL_EXPORTER_OTLP_ENDPOINT` says where; metrics for
//! Prometheus where an address is set.
//!
//! The SDK reads `OTEL_*` itself: endpoints, headers, resource attributes, samplers, batch delays
//! (<https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>).

use std::net::SocketAddr;

use axum::Router;
use axum::routing::get;
use opentelemetry::global;
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use prometheus::{Registry, TextEncoder};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// Which spans become traces: ours, in detail where the provider and the database are called.
const TRACED: &str = "info,molecule_provisioner=debug,molecule_store_postgres=debug,h2=off,hyper=off,tonic=off,\
                      tower=off,sqlx=off,opentelemetry=off,opentelemetry_sdk=off,opentelemetry_otlp=off";

/// How logs look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// What a service tells of itself, and how.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// How logs look.
    pub format: LogFormat,
    /// What is logged, as `tracing_subscriber::EnvFilter` reads it.
    pub filter: String,
    /// Where Prometheus asks for metrics; `None` is nowhere.
    pub metrics: Option<SocketAddr>,
}

/// Running telemetry.
#[derive(Debug)]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    metrics: SdkMeterProvider,
    registry: Registry,
}

/// Sends logs to standard error, and the rest where the environment says, from now on. Within a runtime.
///
/// # Errors
/// Where the filter or the environment is malformed: the parser's words.
pub fn start(service: &'static str, observed: &Observed) -> Result<Telemetry, String> {
    let words = |error: &dyn std::fmt::Display| error.to_string();
    let disabled = std::env::var("OTEL_SDK_DISABLED").is_ok_and(|text| text.eq_ignore_ascii_case("true"));
    let goes = |signal: &str| {
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let own = format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT");
        !disabled && (is_set("OTEL_EXPORTER_OTLP_ENDPOINT") || is_set(&own))
    };
    let mut resource = Resource::builder();
    if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
        resource = resource.with_service_name(service);
    }
    let resource = resource.build();
    global::set_text_map_propagator(TraceContextPropagator::new());

    let registry = Registry::new();
    let prometheus =
        opentelemetry_prometheus::exporter().with_registry(registry.clone()).scope_info_enabled(false);
    let mut metrics = SdkMeterProvider::builder()
        .with_resource(resource.clone())
        .with_reader(prometheus.build().map_err(|error| words(&error))?);
    if goes("METRICS") {
        let exporter = opentelemetry_otlp::MetricExporter::builder().with_tonic().build();
        metrics = metrics.with_periodic_exporter(exporter.map_err(|error| words(&error))?);
    }
    let metrics = metrics.build();
    global::set_meter_provider(metrics.clone());

    let traces = if goes("TRACES") {
        let exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic().build();
        let exporter = exporter.map_err(|error| words(&error))?;
        Some(SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build())
    } else {
        None
    };

    let logs = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    let filter = EnvFilter::try_new(&observed.filter).map_err(|error| words(&error))?;
    let logs = match observed.format {
        LogFormat::Human => logs.with_target(false).boxed(),
        LogFormat::Json => logs.json().flatten_event(true).boxed(),
    };
    let traced = traces.as_ref().map(|provider| {
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer(service));
        layer.with_filter(EnvFilter::new(TRACED))
    });
    let subscriber = tracing_subscriber::registry().with(logs.with_filter(filter)).with(traced);
    subscriber.try_init().map_err(|error| words(&error))?;
    Ok(Telemetry { traces, metrics, registry })
}

impl Telemetry {
    /// Answers Prometheus at `/metrics` until cancelled.
    pub async fn serve(&self, listen: SocketAddr, cancel: CancellationToken) -> std::io::Result<()> {
        let registry = self.registry.clone();
        let answer = move || {
            let text = TextEncoder::new().encode_to_string(&registry.gather());
            async move { text.map_err(|_| axum::http::StatusCode::INTERNAL_SERVER_ERROR) }
        };
        let listener = tokio::net::TcpListener::bind(listen).await?;
        tracing::info!(metrics = %listener.local_addr()?, "Prometheus is answered");
        let router = Router::new().route("/metrics", get(answer));
        axum::serve(listener, router).with_graceful_shutdown(cancel.cancelled_owned()).await
    }

    /// Sends what has not been sent yet. Waits for it, but not for long.
    pub async fn end(self) {
        let flush = tokio::task::spawn_blocking(move || {
            if let Some(traces) = self.traces {
                let _ = traces.shutdown();
            }
            let _ = self.metrics.shutdown();
        });
        let _ = tokio::time::timeout(std::time::Duration::from_secs(5), flush).await;
    }
}
