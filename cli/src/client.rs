//! The connection to tenant-svc.

use std::path::PathBuf;
use std::time::Duration;

use molecule_proto::tenant::v1::workspace_service_client::WorkspaceServiceClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::Cli;
use crate::failure::Failure;

pub(crate) type Client = WorkspaceServiceClient<InterceptedService<Channel, Bearer>>;

/// Adds the token to every call.
#[derive(Clone)]
pub(crate) struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

pub(crate) async fn connect(cli: &Cli) -> Result<Client, Failure> {
    let token = token(cli)?;
    let header = format!("Bearer {}", token.trim());
    let header =
        header.parse().map_err(|_| Failure::Usage("the token file does not hold a token".to_owned()))?;
    let endpoint = Endpoint::from_shared(cli.server.clone())
        .map_err(|error| Failure::Usage(format!("--server {}: {error}", cli.server)))?
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_while_idle(true);
    let channel = endpoint.connect().await.map_err(|_| {
        Failure::Unreachable(format!(
            "there is no tenant-svc at {}; start one with `cargo xtask up`, or name another with --server",
            cli.server
        ))
    })?;
    Ok(WorkspaceServiceClient::with_interceptor(channel, Bearer(header)))
}

/// The token: from the environment, the named file, or where a tenant-svc on this machine keeps it.
fn token(cli: &Cli) -> Result<String, Failure> {
    if let Ok(token) = std::env::var("MOLECULE_TOKEN") {
        return Ok(token);
    }
    let read = |path: &PathBuf| std::fs::read_to_string(path);
    if let Some(path) = &cli.token_file {
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
