//! Who calls: from the credential alone, never from the body.

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use molecule_domain::error::{Error, ErrorReason};
use molecule_domain::id::{Generation, WorkspaceId};
use molecule_service_kit::token;
use secrecy::SecretString;

use super::{AgentsState, HttpError};

/// The agent of one generation of one workspace.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) workspace: WorkspaceId,
    pub(crate) generation: Generation,
    /// The credential that the caller has shown.
    pub(crate) credential: SecretString,
}

impl Caller {
    /// What the body says of the caller must be what the credential says.
    pub(crate) fn must_be(&self, claimed: &str) -> Result<(), HttpError> {
        if claimed.parse() == Ok(self.workspace) {
            return Ok(());
        }
        let message = format!("this credential is of workspace {}, not of {claimed:?}", self.workspace);
        Err(Error::new(ErrorReason::PermissionDenied, message).into())
    }
}

/// The bearer token of a request.
pub(crate) fn bearer_token(parts: &Parts) -> Result<String, HttpError> {
    let header = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    header.and_then(token::bearer).map(str::to_owned).ok_or_else(|| unauthenticated().into())
}

pub(crate) fn unauthenticated() -> Error {
    Error::new(
        ErrorReason::Unauthenticated,
        "a bearer token is needed: the credential of the workspace's current generation, from /configs/.auth_token",
    )
}

impl FromRequestParts<AgentsState> for Caller {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, state: &AgentsState) -> Result<Self, HttpError> {
        let credential = bearer_token(parts)?;
        let hash = token::hash(&credential);
        let workspaces = &state.workspaces;
        let known = workspaces.store.authenticate(&hash, workspaces.clock.now()).await?;
        let (workspace, generation) = known.ok_or_else(unauthenticated)?;
        Ok(Self { workspace, generation, credential: credential.into() })
    }
}
