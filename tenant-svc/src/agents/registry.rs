//! What agents tell of themselves and ask about workspaces.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use molecule_domain::error::{Error, ErrorReason};
use molecule_domain::id::WorkspaceId;
use molecule_domain::lifecycle::{AgentHealth, Phase};
use molecule_telemetry::trace;
use molecule_workspace::record::{AgentRecord, WorkspaceRecord};
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::{info, info_span};

use super::identity::Caller;
use super::{AgentsState, HttpError};

const MAX_TEXT: usize = 2000;

#[derive(Deserialize)]
pub(crate) struct Register {
    id: String,
    /// Kept nowhere: an agent's address is what the platform observes.
    #[serde(default, rename = "url")]
    _url: Option<String>,
    #[serde(default)]
    agent_card: Option<Value>,
}

/// `POST /registry/register`
pub(crate) async fn register(
    State(state): State<AgentsState>,
    caller: Caller,
    Json(request): Json<Register>,
) -> Result<Json<Value>, HttpError> {
    caller.must_be(&request.id)?;
    let card = request.agent_card.map(|card| card.to_string());
    let record = told(&state, &caller, |agent| {
        agent.health = AgentHealth::Healthy;
        if card.is_some() {
            agent.card = card;
        }
    })
    .await?;
    // where the trace of what was asked for ends
    let span = info_span!("agent registered", workspace = %caller.workspace, generation = %caller.generation);
    trace::continue_from(&span, &record.trace);
    span.in_scope(|| info!("an agent has registered"));
    let auth_token = caller.credential.expose_secret();
    Ok(Json(json!({ "auth_token": auth_token })))
}

#[derive(Deserialize)]
pub(crate) struct Heartbeat {
    workspace_id: String,
    #[serde(default)]
    error_rate: f64,
    #[serde(default)]
    sample_error: Option<String>,
    #[serde(default)]
    active_tasks: u32,
    #[serde(default)]
    current_task: Option<String>,
    #[serde(default)]
    uptime_seconds: f64,
}

/// `POST /registry/heartbeat`
pub(crate) async fn heartbeat(
    State(state): State<AgentsState>,
    caller: Caller,
    Json(beat): Json<Heartbeat>,
) -> Result<Json<Value>, HttpError> {
    caller.must_be(&beat.workspace_id)?;
    if !(0.0..=1.0).contains(&beat.error_rate) {
        return Err(Error::field("error_rate", "is a share: 0 to 1").into());
    }
    told(&state, &caller, |agent| {
        agent.health = agent.health.after_heartbeat(beat.error_rate);
        agent.error_rate = beat.error_rate;
        agent.sample_error = bounded(beat.sample_error);
        agent.active_tasks = beat.active_tasks;
        agent.current_task = bounded(beat.current_task);
        agent.uptime_seconds =
            std::time::Duration::try_from_secs_f64(beat.uptime_seconds).map_or(0, |d| d.as_secs());
    })
    .await?;
    Ok(Json(json!({ "status": "ok" })))
}

fn bounded(text: Option<String>) -> String {
    text.unwrap_or_default().chars().take(MAX_TEXT).collect()
}

#[derive(Deserialize)]
pub(crate) struct UpdateCard {
    #[serde(alias = "id")]
    workspace_id: String,
    agent_card: Value,
}

/// `POST /registry/update-card`
pub(crate) async fn update_card(
    State(state): State<AgentsState>,
    caller: Caller,
    Json(request): Json<UpdateCard>,
) -> Result<Json<Value>, HttpError> {
    caller.must_be(&request.workspace_id)?;
    let card = request.agent_card.to_string();
    told(&state, &caller, |agent| agent.card = Some(card)).await?;
    Ok(Json(json!({ "status": "ok" })))
}

async fn told(
    state: &AgentsState,
    caller: &Caller,
    update: impl FnOnce(&mut AgentRecord) + Send,
) -> Result<WorkspaceRecord, HttpError> {
    let workspaces = &state.workspaces;
    let (organization, now) = (workspaces.organization, workspaces.clock.now());
    let (workspace, generation, update) = (caller.workspace, caller.generation, Box::new(update));
    let told = workspaces.store.agent_reported(organization, workspace, generation, now, update).await?;
    let over = || {
        let message = format!("generation {} of workspace {} is over", caller.generation, caller.workspace);
        HttpError(Error::new(ErrorReason::WrongState, message))
    };
    told.ok_or_else(over)
}

/// `GET /workspaces/{id}`
pub(crate) async fn get_workspace(
    State(state): State<AgentsState>,
    _caller: Caller,
    Path(workspace): Path<String>,
) -> Result<Json<Value>, HttpError> {
    let record = find(&state, &workspace).await?;
    Ok(Json(json!({
        "id": record.workspace,
        "name": record.spec.name,
        "role": record.spec.role,
        "runtime": record.spec.runtime,
        "tier": record.spec.tier.number(),
        "status": record.state().name().to_ascii_lowercase(),
        "parent_id": record.spec.parent,
        "agent_card": record.agent.card.as_deref().and_then(|card| serde_json::from_str::<Value>(card).ok()),
    })))
}

/// `GET /workspaces/{id}/state`
pub(crate) async fn get_state(
    State(state): State<AgentsState>,
    _caller: Caller,
    Path(workspace): Path<String>,
) -> Result<Response, HttpError> {
    let gone =
        || (StatusCode::NOT_FOUND, Json(json!({ "status": "deleted", "paused": false, "deleted": true })));
    let record = match find(&state, &workspace).await {
        Ok(record) if record.phase != Phase::Gone => record,
        Ok(_) => return Ok(gone().into_response()),
        Err(HttpError(error)) if error.reason == ErrorReason::WorkspaceNotFound => {
            return Ok(gone().into_response());
        }
        Err(error) => return Err(error),
    };
    let name = record.state().name().to_ascii_lowercase();
    let paused = matches!(name.as_str(), "stopped" | "stopping");
    Ok(Json(json!({ "status": name, "paused": paused, "deleted": record.is_deleting() })).into_response())
}

pub(crate) async fn find(state: &AgentsState, workspace: &str) -> Result<WorkspaceRecord, HttpError> {
    let id: WorkspaceId = workspace.parse().map_err(|_| Error::workspace_not_found(workspace))?;
    Ok(state.workspaces.get(id).await?)
}
