//! The public gRPC API: wire to domain, one use case, domain to wire. Nothing else lives here.

mod convert;
mod service;
mod streams;

use std::sync::Arc;

use async_trait::async_trait;
use molecule_domain::error::{Error, ErrorReason, Result};
use molecule_proto::tenant::v1::workspace_service_server::WorkspaceServiceServer;
use molecule_service_kit::auth::{Authenticated, Authenticator};
use molecule_service_kit::seal::Aes;
use molecule_service_kit::token;
use molecule_tenant::Workspaces;
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use self::service::WorkspaceApi;

/// The largest request: a megabyte of config files, with room for the rest.
const MAX_REQUEST: usize = 2 << 20;

/// The service, behind its token.
pub(crate) fn service(
    workspaces: Workspaces,
    page_key: Arc<Aes>,
    token: SecretString,
    drain: CancellationToken,
) -> Authenticated<WorkspaceServiceServer<WorkspaceApi>, OneToken> {
    let server = WorkspaceServiceServer::new(WorkspaceApi::new(workspaces, page_key, drain))
        .max_decoding_message_size(MAX_REQUEST);
    Authenticated::new(server, Arc::new(OneToken(token)))
}

/// Lets only the holder of the token in.
#[derive(Debug)]
pub(crate) struct OneToken(SecretString);

/// Whoever has the token.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holder;

#[async_trait]
impl Authenticator for OneToken {
    type Identity = Holder;

    async fn identify(&self, sent: &str) -> Result<Holder> {
        if token::equal(&self.0, sent) {
            return Ok(Holder);
        }
        Err(Error::new(ErrorReason::Unauthenticated, format!("the token is wrong: {}", self.hint())))
    }

    fn hint(&self) -> &'static str {
        "the one in the file `token` of TENANT_DATA_DIR"
    }
}
