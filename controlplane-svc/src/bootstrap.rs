//! What machines ask for when they boot, over HTTP: workspace-init, by its hash; and where they report that they did
//! not come up. Which machine reports is told by its address, which nobody else can make.

use std::sync::Arc;

use anyhow::Context;
use async_trait::async_trait;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use molecule_backend_ec2::{BootDesk, BootReport};
use molecule_domain::Clock;
use molecule_domain::id::{Generation, WorkspaceId};
use molecule_provisioner::model::InstanceRef;
use molecule_provisioner::store::Store;
use molecule_service_kit::seal::Aes;
use molecule_service_kit::token;
use molecule_store_postgres::engine::EngineStore;
use molecule_store_postgres::{BootReport as StoredReport, Database};
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

const MAX_REPORT: usize = 16 << 10;
const MAX_STAGE: usize = 300;

/// workspace-init, as machines fetch it.
#[derive(Clone, Debug)]
pub(crate) struct InitBinary {
    bytes: Bytes,
    /// SHA-256, in hexadecimal.
    pub(crate) sha256: String,
}

impl InitBinary {
    /// Reads the binary.
    pub(crate) fn read(path: &std::path::Path) -> anyhow::Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("workspace-init: {}", path.display()))?;
        Ok(Self { sha256: token::sha256_hex(&bytes), bytes: bytes.into() })
    }

    /// Where machines fetch it, below the service's address.
    pub(crate) fn url(&self, base: &str) -> String {
        format!("{base}/workspace-init/{}", self.sha256)
    }
}

/// Knows the addresses that machines report to, and what they reported.
pub(crate) struct Desk {
    pub(crate) key: Arc<Aes>,
    pub(crate) base: String,
    pub(crate) database: Database,
}

impl Desk {
    fn mark(key: &Aes, workspace: WorkspaceId, generation: Generation) -> SecretString {
        key.derive_token("boot", &format!("boot-report/{workspace}/{generation}"))
    }
}

#[async_trait]
impl BootDesk for Desk {
    fn report_url(&self, instance: &InstanceRef) -> String {
        let InstanceRef { workspace, generation, .. } = *instance;
        let mark = Self::mark(&self.key, workspace, generation);
        format!("{}/boot-reports/{workspace}/{generation}/{}", self.base, mark.expose_secret())
    }

    async fn report(&self, instance: &InstanceRef) -> Result<Option<BootReport>, String> {
        let found = self.database.boot_report(instance.workspace, instance.generation).await;
        let found = found.map_err(|error| format!("the boot reports can't be read: {error}"))?;
        Ok(found.map(|report| BootReport { message: report.message, log_tail: report.log_tail }))
    }
}

#[derive(Clone)]
pub(crate) struct Bootstrap {
    pub(crate) init: InitBinary,
    pub(crate) key: Arc<Aes>,
    pub(crate) database: Database,
    pub(crate) store: EngineStore,
    pub(crate) clock: Arc<dyn Clock>,
}

/// Serves until cancelled.
pub(crate) async fn serve(
    bootstrap: Bootstrap,
    listener: TcpListener,
    cancel: CancellationToken,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/workspace-init/{sha256}", get(workspace_init))
        .route("/boot-reports/{workspace}/{generation}/{mark}", post(boot_report))
        .layer(DefaultBodyLimit::max(MAX_REPORT))
        .with_state(bootstrap);
    axum::serve(listener, router).with_graceful_shutdown(cancel.cancelled_owned()).await
}

/// While versions change, a machine may ask a replica for another's binary, and asks again.
async fn workspace_init(
    State(bootstrap): State<Bootstrap>,
    Path(sha256): Path<String>,
) -> Result<Bytes, StatusCode> {
    if sha256 == bootstrap.init.sha256 { Ok(bootstrap.init.bytes) } else { Err(StatusCode::NOT_FOUND) }
}

async fn boot_report(
    State(bootstrap): State<Bootstrap>,
    Path((workspace, generation, mark)): Path<(String, u32, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    let generation = Generation(generation);
    let Ok(workspace) = workspace.parse::<WorkspaceId>() else { return StatusCode::NOT_FOUND };
    let expected = Desk::mark(&bootstrap.key, workspace, generation);
    if !token::equal(&expected, &mark) {
        warn!(%workspace, %generation, "a boot report came to an address that was never given out");
        return StatusCode::NOT_FOUND;
    }
    let stage = headers.get("x-molecule-stage").and_then(|stage| stage.to_str().ok()).unwrap_or("boot");
    let stage: String = stage.chars().filter(|c| !c.is_control()).take(MAX_STAGE).collect();
    let report = StoredReport {
        message: format!("the machine failed to {stage}"),
        log_tail: String::from_utf8_lossy(&body).replace('\0', ""),
    };
    info!(%workspace, %generation, stage, "a machine reports that it did not come up");
    match bootstrap.database.keep_boot_report(workspace, generation, &report).await {
        Ok(true) => {
            // it goes down now: somebody should look
            if let Err(error) = bootstrap.store.wake(&[workspace], bootstrap.clock.now()).await {
                warn!(%workspace, %error, "a sweep will find it");
            }
            StatusCode::NO_CONTENT
        }
        Ok(false) => StatusCode::NOT_FOUND,
        Err(error) => {
            warn!(%workspace, error = &error as &dyn std::error::Error, "a boot report can't be kept");
            StatusCode::SERVICE_UNAVAILABLE
        }
    }
}
