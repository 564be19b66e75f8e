//! The connection to tenant-svc.

use std::path::{Path, PathBuf};
use std::time::Duration;

use molecule_proto::tenant::v1::workspace_service_client::WorkspaceServiceClient;
use molecule_service_kit::client::Bearer;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

use crate::failure::Failure;

pub(crate) type Client = WorkspaceServiceClient<InterceptedService<Channel, Bearer>>;

pub(crate) async fn connect(server: &str, token_file: Option<&Path>) -> Result<Client, Failure> {
    let token = token(token_file)?;
    let bearer = Bearer::new(&token.trim().to_owned().into());
    let bearer = bearer.ok_or_else(|| Failure::Usage("the token file does not hold a token".to_owned()))?;
    let endpoint = Endpoint::from_shared(server.to_owned())
        .map_err(|error| Failure::Usage(format!("--server {server}: {error}")))?
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_while_idle(true);
    let channel = endpoint.connect().await.map_err(|_| {
        Failure::Unreachable(format!(
            "there is no tenant-svc at {server}; start one with `cargo xtask up`, or name another with --server"
        ))
    })?;
    Ok(WorkspaceServiceClient::with_interceptor(channel, bearer))
}

/// The token: from the environment, the named file, or where a tenant-svc on this machine keeps it.
fn token(token_file: Option<&Path>) -> Result<String, Failure> {
    if let Ok(token) = std::env::var("MOLECULE_TOKEN") {
        return Ok(token);
    }
    let read = |path: &Path| std::fs::read_to_string(path);
    if let Some(path) = token_file {
        return read(path)
            .map_err(|error| Failure::Usage(format!("--token-file {}: {error}", path.display())));
    }
    let mut places = Vec::new();
    if let Some(data) = std::env::var_os("TENANT_DATA_DIR") {
        places.push(PathBuf::from(data).join("token"));
    }
    places.push("molecule-data/token".into());
    places.push("target/molecule-data/token".into());
    places.push("/var/lib/molecule/token".into());
    places.iter().find_map(|path| read(path).ok()).ok_or_else(|| {
        let tried: Vec<_> = places.iter().map(|path| path.display().to_string()).collect();
        Failure::Usage(format!(
            "there is no token in {}; name its file with --token-file, or set MOLECULE_TOKEN",
            tried.join(", ")
        ))
    })
}
