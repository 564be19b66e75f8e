//! The public gRPC API: wire to domain, one use case, domain to wire. Nothing else lives here.

mod convert;
mod page;
mod service;
mod streams;

use molecule_domain::error::{Error, ErrorReason};
use molecule_proto::tenant::v1::workspace_service_server::WorkspaceServiceServer;
use molecule_service_kit::status::to_status;
use molecule_service_kit::token;
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Status};

use self::service::WorkspaceApi;
use crate::workspaces::Workspaces;

/// The largest request: a megabyte of config files, with room for the rest.
const MAX_REQUEST: usize = 2 << 20;

/// The service, behind its token.
pub(crate) fn service(
    workspaces: Workspaces,
    token: SecretString,
    drain: CancellationToken,
) -> InterceptedService<WorkspaceServiceServer<WorkspaceApi>, BearerAuth> {
    let server = WorkspaceServiceServer::new(WorkspaceApi::new(workspaces, drain))
        .max_decoding_message_size(MAX_REQUEST);
    InterceptedService::new(server, BearerAuth(token))
}

/// Lets only the holder of the token in.
#[derive(Clone)]
pub(crate) struct BearerAuth(SecretString);

impl Interceptor for BearerAuth {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let header = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        match header.and_then(token::bearer) {
            Some(sent) if token::equal(&self.0, sent) => Ok(request),
            _ => Err(to_status(&Error::new(
                ErrorReason::Unauthenticated,
                "a bearer token is needed: the one in the file `token` of TENANT_DATA_DIR",
            ))),
        }
    }
}
