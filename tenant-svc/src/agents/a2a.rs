//! The A2A proxy: carries a JSON-RPC call to a workspace's agent, at the address that the platform observed.
//! (Retrying a busy agent comes with the agents' second part.)

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, Request, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use molecule_domain::error::{Error, ErrorReason};
use molecule_domain::lifecycle::WorkspaceState;

use super::identity::Caller;
use super::{AgentsState, HttpError, registry};

/// How long an agent has to begin its answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(300);

/// The client that speaks to agents.
#[derive(Clone)]
pub(crate) struct A2a(Client<HttpConnector, Full<Bytes>>);

impl A2a {
    pub(crate) fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(Duration::from_secs(5)));
        Self(Client::builder(TokioExecutor::new()).build(connector))
    }
}

/// `POST /workspaces/{id}/a2a`
pub(crate) async fn proxy(
    State(state): State<AgentsState>,
    caller: Caller,
    Path(workspace): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response<Body>, HttpError> {
    let target = registry::find(&state, &workspace).await?;
    let up = matches!(target.state(), WorkspaceState::Running | WorkspaceState::Degraded);
    let endpoint = target.endpoint.as_ref().filter(|_| up).ok_or_else(|| {
        let message = format!(
            "workspace {workspace} is {}; it takes messages once it is RUNNING",
            target.state().name()
        );
        Error::new(ErrorReason::WrongState, message)
    })?;
    let request = Request::post(format!("http://{}:{}/", endpoint.host, endpoint.port))
        .header(
            CONTENT_TYPE,
            headers.get(CONTENT_TYPE).map_or(&b"application/json"[..], |value| value.as_bytes()),
        )
        .header("x-workspace-id", caller.workspace.to_string())
        .body(Full::new(body))
        .map_err(Error::internal)?;
    let unreachable = |cause: String| {
        let message = format!("the agent of workspace {workspace} does not answer: {cause}");
        HttpError(Error::new(ErrorReason::BackendUnavailable, message))
    };
    let answer = tokio::time::timeout(ANSWER_WITHIN, state.a2a.0.request(request)).await;
    let answer = answer.map_err(|_| unreachable(format!("nothing within {ANSWER_WITHIN:?}")))?;
    let (parts, body) = answer.map_err(|error| unreachable(error.to_string()))?.into_parts();
    let mut response = Response::builder().status(parts.status);
    for name in [CONTENT_TYPE, RETRY_AFTER] {
        if let Some(value) = parts.headers.get(&name) {
            response = response.header(name, value);
        }
    }
    response.body(Body::new(body.map_err(axum::Error::new))).map_err(|error| Error::internal(error).into())
}
