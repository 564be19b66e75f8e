//! One trace runs from a client's call to the agent's registration, through both services, a replica that ends and one
//! that goes on; and what Prometheus asks for is there.

use std::time::{Duration, Instant};

use molecule_proto::controlplane::v1::Limits;
use molecule_proto::tenant::v1::CreateWorkspaceRequest;
use molecule_proto::workspace::v1::WorkspaceState;
use molecule_tests::controlplane::Installation;
use molecule_tests::images::{self, Kind, docker};
use molecule_tests::otlp::{Receiver, Span, scrape};
use molecule_tests::tenant::spec;

const TENANT: &str = env!("CARGO_BIN_EXE_tenant-under-test");
const CONTROL_PLANE: &str = env!("CARGO_BIN_EXE_controlplane-under-test");
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

fn free_port() -> u16 {
    molecule_tests::ports::free().unwrap()
}

/// Whether there is a span of this name by this service, and each of its ancestors up to the caller is there too.
fn is_linked(spans: &[Span], service: &str, name: &str) -> bool {
    let mut found = spans.iter().find(|span| span.service == service && span.name == name);
    while let Some(span) = found {
        if span.parent == CALLER {
            return true;
        }
        found = spans.iter().find(|other| other.id == span.parent);
    }
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_runs_from_the_call_to_the_registration() {
    images::import(&docker().await.unwrap(), Kind::Root).await.unwrap();
    let receiver = Receiver::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let told = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url.clone()),
        ("OTEL_BSP_SCHEDULE_DELAY", "100".to_owned()),
        ("OTEL_METRIC_EXPORT_INTERVAL", "500".to_owned()),
    ];
    let mut installation = Installation::new(CONTROL_PLANE, folder.path(), 23).await.unwrap();
    for (name, value) in &told {
        installation = installation.with(name, value);
    }
    // the first replica admits, but can't launch
    let nobody = [("DOCKER_HOST", format!("unix://{}", folder.path().join("nobody").display()))];
    let (port, metrics) = (free_port(), free_port());
    let first = installation.start_at("first", port, &nobody).await.unwrap();
    let (organization, token) = installation.organization(&first, Limits::default()).await.unwrap();
    let mut setup = installation.tenant(TENANT, &[&first], &organization, &token).unwrap();
    for (name, value) in &told {
        setup = setup.with(name, value);
    }
    let mut tenant = setup.start().await.unwrap();

    let mut request = tonic::Request::new(CreateWorkspaceRequest {
        spec: Some(spec("traced", "demo")),
        ..CreateWorkspaceRequest::default()
    });
    let context = format!("00-{TRACE}-{CALLER}-01");
    request.metadata_mut().insert("traceparent", context.parse().unwrap());
    let made = tenant.client.create_workspace(request).await.unwrap().into_inner().workspace.unwrap();
    first.stop().await.unwrap();

    let environment = [("CONTROLPLANE_METRICS_LISTEN", format!("127.0.0.1:{metrics}"))];
    let second = installation.start_at("second", port, &environment).await.unwrap();
    tenant.reaches(&made.workspace_id, WorkspaceState::Running).await.unwrap();

    let control_plane = "controlplane-under-test";
    let wanted = [
        ("tenant-under-test", "/molecule.tenant.v1.WorkspaceService/CreateWorkspace"),
        ("tenant-under-test", "tell"),
        (control_plane, "/molecule.controlplane.v1.ProvisioningService/ProvisionWorkspace"),
        (control_plane, "reconcile"),
        (control_plane, "backend.launch"),
        ("tenant-under-test", "agent registered"),
    ];
    let began = Instant::now();
    loop {
        let spans = receiver.of_trace(TRACE);
        let missing: Vec<_> =
            wanted.iter().filter(|(service, name)| !is_linked(&spans, service, name)).collect();
        if missing.is_empty() {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "not linked: {missing:?} in {spans:#?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    let began = Instant::now();
    let names = [
        "molecule_instances{backend=\"docker\",phase=\"UP\"} 1",
        "molecule_queue_age_seconds_bucket",
        "molecule_provider_call_seconds_bucket",
        "molecule_orphans{backend=\"docker\"} 0",
        "molecule_transactions_total",
        "molecule_rpc_seconds_bucket{code=\"0\",method=\"/molecule.controlplane.v1.",
    ];
    loop {
        let answer = scrape(metrics).await.unwrap();
        let missing: Vec<_> = names.iter().filter(|name| !answer.contains(**name)).collect();
        if missing.is_empty() {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{missing:?} are not in {answer}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // the first replica's calls went wrong, and it said so over OTLP; the tenant says for how long its wishes wait
    for name in ["molecule_provider_errors", "molecule_quota_drift", "molecule_oldest_wish_seconds"] {
        while !receiver.metrics().contains(name) {
            assert!(began.elapsed() < Duration::from_secs(60), "no {name} in {:?}", receiver.metrics());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    tenant.delete(&made.workspace_id).await.unwrap();
    tenant.stop().await.unwrap();
    second.stop().await.unwrap();
    installation.finish().await.unwrap();
}
