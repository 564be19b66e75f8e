//! What agents and workspace-init speak: HTTP, as existing runtimes have it.
//!
//! Here: bootstrap, register, heartbeat, update-card, state, get, and a plain A2A proxy. Peers and discovery
//! come with the agents' second part and belong beside these.

mod a2a;
mod bundle;
mod identity;
pub mod listener;
mod registry;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use molecule_domain::error::{Error, ErrorCode};
use molecule_service_kit::seal::Aes;
use molecule_tenant::Workspaces;
use serde_json::json;
use tracing::error;

pub(crate) use self::a2a::A2a;

/// What the handlers work with.
#[derive(Clone)]
pub(crate) struct AgentsState {
    pub(crate) workspaces: Workspaces,
    /// Derives the agents' credentials.
    pub(crate) key: Arc<Aes>,
    pub(crate) a2a: A2a,
    pub(crate) agents_url: String,
}

/// All routes.
pub(crate) fn router(state: AgentsState) -> Router {
    Router::new()
        .route("/bootstrap", post(bundle::bootstrap))
        .route("/registry/register", post(registry::register))
        .route("/registry/heartbeat", post(registry::heartbeat))
        .route("/registry/update-card", post(registry::update_card))
        .route("/workspaces/{id}", get(registry::get_workspace))
        .route("/workspaces/{id}/state", get(registry::get_state))
        .route("/workspaces/{id}/a2a", post(a2a::proxy))
        .layer(DefaultBodyLimit::max(4 << 20))
        .with_state(state)
}

/// An error as an agent sees it.
pub(crate) struct HttpError(pub(crate) Error);

impl<E: Into<Error>> From<E> for HttpError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        let status = match self.0.code() {
            ErrorCode::InvalidArgument | ErrorCode::OutOfRange => StatusCode::BAD_REQUEST,
            ErrorCode::NotFound => StatusCode::NOT_FOUND,
            ErrorCode::AlreadyExists | ErrorCode::Aborted | ErrorCode::FailedPrecondition => {
                StatusCode::CONFLICT
            }
            ErrorCode::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            ErrorCode::Unauthenticated => StatusCode::UNAUTHORIZED,
            ErrorCode::PermissionDenied => StatusCode::FORBIDDEN,
            ErrorCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            ErrorCode::Unimplemented => StatusCode::NOT_IMPLEMENTED,
            ErrorCode::Internal => {
                error!(error = &self.0 as &dyn std::error::Error, "internal error");
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        let body = json!({ "error": self.0.message, "reason": self.0.reason.as_str() });
        (status, axum::Json(body)).into_response()
    }
}
