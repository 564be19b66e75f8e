//! What each command does.

use std::io::Write;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::TokioExecutor;
use molecule_proto::tenant::v1::watch_workspaces_response::Event;
use molecule_proto::tenant::v1::{
    ClearAlarmsRequest, ClearAlarmsResponse, DeleteWorkspaceRequest, GetServerInfoRequest,
    GetWorkspaceRequest, ListAlarmsRequest, ListRuntimesRequest, ListWorkspaceEventsRequest,
    ListWorkspacesRequest, LogStream, RestartWorkspaceRequest, StartWorkspaceRequest, StopWorkspaceRequest,
    StreamWorkspaceLogsRequest, WatchWorkspacesRequest,
};
use molecule_proto::workspace::v1::{Workspace, WorkspaceState};
use serde_json::{Value, json};
use tonic::Code;

use crate::client::{Client, connect};
use crate::failure::{Failure, changed};
use crate::{Alarms, Cli, Command, Create, Format, OnOne, TenantCommand, Update, output, spec};

type Result<T> = std::result::Result<T, Failure>;

pub(crate) async fn run(cli: Cli) -> Result<()> {
    let Cli { server, token_file, output, command } = cli;
    match command {
        Command::Quota(quota) => crate::admin::quota(quota, output).await,
        Command::Admin(admin) => crate::admin::run(admin, output).await,
        Command::Tenant(command) => {
            let client = connect(&server, token_file.as_deref()).await?;
            on_tenant(client, command, output).await
        }
    }
}

async fn on_tenant(mut client: Client, command: TenantCommand, format: Format) -> Result<()> {
    match command {
        TenantCommand::Create(create) => self::create(&mut client, *create, format).await,
        TenantCommand::Update(update) => self::update(&mut client, *update, format).await,
        TenantCommand::Get { id } => {
            output::workspace(&get(&mut client, &id).await?, format);
            Ok(())
        }
        TenantCommand::List { filter, deleted, recovered } => {
            list(&mut client, filter, deleted, recovered, format).await
        }
        TenantCommand::Watch { filter, after } => watch(&mut client, filter, after, format).await,
        TenantCommand::Events { id } => events(&mut client, id, format).await,
        TenantCommand::Logs { id, follow, tail } => logs(&mut client, id, follow, tail).await,
        TenantCommand::Stop(on) => {
            let request = StopWorkspaceRequest { workspace_id: on.id.clone(), ..Default::default() };
            let stopped = changed(client.stop_workspace(request).await)?.workspace;
            done(&mut client, stopped, &on, WorkspaceState::Stopped, format).await
        }
        TenantCommand::Start(on) => {
            let request = StartWorkspaceRequest { workspace_id: on.id.clone(), ..Default::default() };
            let started = changed(client.start_workspace(request).await)?.workspace;
            done(&mut client, started, &on, WorkspaceState::Running, format).await
        }
        TenantCommand::Restart { on, reset_session } => {
            let request =
                RestartWorkspaceRequest { workspace_id: on.id.clone(), reset_session, ..Default::default() };
            let restarted = changed(client.restart_workspace(request).await)?.workspace;
            done(&mut client, restarted, &on, WorkspaceState::Running, format).await
        }
        TenantCommand::Delete(on) => {
            let request = DeleteWorkspaceRequest { workspace_id: on.id.clone(), ..Default::default() };
            let deleted = changed(client.delete_workspace(request).await)?.workspace;
            done(&mut client, deleted, &on, WorkspaceState::Deleted, format).await
        }
        TenantCommand::Alarms { what } => alarms(&mut client, what, format).await,
        TenantCommand::Runtimes => runtimes(&mut client, format).await,
        TenantCommand::Info => {
            output::server(&client.get_server_info(GetServerInfoRequest {}).await?.into_inner(), format);
            Ok(())
        }
        TenantCommand::Send { id, text } => send(&mut client, &id, &text).await,
    }
}

/// The alarm of a self-hosted server, or its end.
async fn alarms(client: &mut Client, what: Option<Alarms>, format: Format) -> Result<()> {
    let Some(Alarms::Clear(confirmed)) = what else {
        let listed = client.list_alarms(ListAlarmsRequest {}).await?.into_inner();
        let shown = ClearAlarmsResponse {
            alarms: listed.alarms,
            leftovers: listed.leftovers,
            ..ClearAlarmsResponse::default()
        };
        output::alarms(&shown, format);
        return Ok(());
    };
    let request = ClearAlarmsRequest { etag: confirmed.etag() };
    let cleared = changed(client.clear_alarms(request).await)?;
    output::alarms(&cleared, format);
    if !cleared.cleared && !cleared.alarms.is_empty() {
        eprintln!(
            "nothing was ended; this ends the alarm, and then what is listed is removed: molecule alarms clear --confirm {}",
            cleared.etag
        );
    }
    Ok(())
}

async fn get(client: &mut Client, id: &str) -> Result<Workspace> {
    let found = client.get_workspace(GetWorkspaceRequest { workspace_id: id.to_owned() }).await?;
    found
        .into_inner()
        .workspace
        .ok_or_else(|| Failure::Other("the server answered without a workspace".to_owned()))
}

async fn create(client: &mut Client, create: Create, format: Format) -> Result<()> {
    let wait = create.wait;
    let request = spec::create(create)?;
    let created = changed(client.create_workspace(request).await)?.workspace;
    let id = created.as_ref().map(|workspace| workspace.workspace_id.clone()).unwrap_or_default();
    done(client, created, &OnOne { id, wait }, WorkspaceState::Running, format).await
}

/// Changes a workspace. Whether its instance is replaced depends on what changes, and on whether it was wanted running:
/// what is waited for is read from the answer.
async fn update(client: &mut Client, update: Update, format: Format) -> Result<()> {
    let on = OnOne { id: update.id.clone(), wait: update.wait };
    let updated = changed(client.update_workspace(spec::update(update)?).await)?.workspace;
    let until = match updated.as_ref().map(Workspace::state) {
        Some(WorkspaceState::Stopping) => WorkspaceState::Stopped,
        Some(state) if state != WorkspaceState::Provisioning => state,
        _ => WorkspaceState::Running,
    };
    done(client, updated, &on, until, format).await
}

/// Prints what became of a change, at once or when it is done.
async fn done(
    client: &mut Client,
    workspace: Option<Workspace>,
    on: &OnOne,
    until: WorkspaceState,
    format: Format,
) -> Result<()> {
    let now =
        workspace.ok_or_else(|| Failure::Other("the server answered without a workspace".to_owned()))?;
    let Some(limit) = on.wait.limit() else {
        output::workspace(&now, format);
        return Ok(());
    };
    let waited = tokio::time::timeout(limit, wait(client, now, until)).await;
    let end = waited.map_err(|_| {
        Failure::TooLong(format!("workspace {} is not {} after {limit:?}", on.id, until.as_str_name()))
    })??;
    output::workspace(&end, format);
    Ok(())
}

/// Follows a workspace until it is as wanted; shows each of its phases on standard error.
async fn wait(client: &mut Client, now: Workspace, until: WorkspaceState) -> Result<Workspace> {
    let began = Instant::now();
    let id = now.workspace_id.clone();
    let mut progress = Progress::default();
    progress.show(&now, began);
    let mut after = now.revision;
    if now.state() == until {
        return Ok(now);
    }
    let mut outdated = false;
    loop {
        if std::mem::take(&mut outdated) {
            // the server's database was put back meanwhile
            let now = get(client, &id).await?;
            progress.show(&now, began);
            if now.state() == until {
                return Ok(now);
            }
            after = now.revision;
        }
        let filter = format!("workspace_id = \"{id}\"");
        let opened = client.watch_workspaces(WatchWorkspacesRequest { after_revision: after, filter }).await;
        let mut stream = match opened {
            Ok(stream) => stream.into_inner(),
            Err(status) if status.code() == Code::Unavailable => {
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
            Err(status) if status.code() == Code::OutOfRange => {
                outdated = true;
                continue;
            }
            Err(status) => return Err(status.into()),
        };
        loop {
            let message = match stream.next().await {
                Some(Ok(message)) => message,
                Some(Err(status)) if status.code() == Code::OutOfRange => {
                    outdated = true;
                    break;
                }
                _ => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    break;
                }
            };
            match message.event {
                Some(Event::Snapshot(workspace) | Event::Change(workspace)) => {
                    after = workspace.revision;
                    progress.show(&workspace, began);
                    if workspace.state() == until {
                        return Ok(workspace);
                    }
                    if workspace.state() == WorkspaceState::Failed && until != WorkspaceState::Deleted {
                        return Err(Failure::Failed(format!(
                            "workspace {id} has FAILED ({}): {}",
                            output::reason(workspace.reason).unwrap_or_default(),
                            workspace.message
                        )));
                    }
                }
                Some(Event::Bookmark(bookmark)) => after = after.max(bookmark.revision),
                None => {}
            }
        }
    }
}

#[derive(Default)]
struct Progress(String);

impl Progress {
    fn show(&mut self, workspace: &Workspace, began: Instant) {
        let line = format!("{}: {}", output::state(workspace), workspace.message);
        if line != self.0 {
            eprintln!("{:>7.2} s  {line}", began.elapsed().as_secs_f64());
            self.0 = line;
        }
    }
}

async fn list(
    client: &mut Client,
    filter: String,
    show_deleted: bool,
    recovered: bool,
    format: Format,
) -> Result<()> {
    let mut all = Vec::new();
    let mut page_token = String::new();
    loop {
        let request =
            ListWorkspacesRequest { page_size: 500, page_token, filter: filter.clone(), show_deleted };
        let page = client.list_workspaces(request).await?.into_inner();
        let wanted = |one: &Workspace| !recovered || one.recovered;
        all.extend(page.workspaces.into_iter().filter(wanted));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            output::workspaces(&all, format);
            return Ok(());
        }
    }
}

async fn watch(client: &mut Client, filter: String, after_revision: u64, format: Format) -> Result<()> {
    let mut stream =
        client.watch_workspaces(WatchWorkspacesRequest { after_revision, filter }).await?.into_inner();
    while let Some(message) = stream.message().await? {
        if let Some(Event::Snapshot(workspace) | Event::Change(workspace)) = message.event {
            output::change(&workspace, format);
        }
    }
    Ok(())
}

async fn events(client: &mut Client, workspace_id: String, format: Format) -> Result<()> {
    let request = ListWorkspaceEventsRequest { workspace_id, page_size: 200, page_token: String::new() };
    output::events(&client.list_workspace_events(request).await?.into_inner().events, format);
    Ok(())
}

async fn logs(client: &mut Client, workspace_id: String, follow: bool, tail_lines: i32) -> Result<()> {
    let request = StreamWorkspaceLogsRequest { workspace_id, follow, tail_lines };
    let mut stream = client.stream_workspace_logs(request).await?.into_inner();
    let written = |result: std::io::Result<()>| result.map_err(|error| Failure::Other(error.to_string()));
    while let Some(chunk) = stream.message().await? {
        if chunk.stream() == LogStream::Stderr {
            written(std::io::stderr().write_all(&chunk.data))?;
        } else {
            let mut out = std::io::stdout();
            written(out.write_all(&chunk.data).and_then(|()| out.flush()))?;
        }
    }
    Ok(())
}

async fn runtimes(client: &mut Client, format: Format) -> Result<()> {
    let request = ListRuntimesRequest { page_size: 1000, page_token: String::new() };
    output::runtimes(&client.list_runtimes(request).await?.into_inner().runtimes, format);
    Ok(())
}

/// Sends an A2A `message/send` to the agent at its published address.
async fn send(client: &mut Client, id: &str, text: &str) -> Result<()> {
    let workspace = get(client, id).await?;
    let url = workspace.agent.clone().map(|agent| agent.url).unwrap_or_default();
    if url.is_empty() {
        let state = output::state(&workspace);
        return Err(Failure::Other(format!("workspace {id} is {state}: its agent has no address yet")));
    }
    let message = json!({
        "jsonrpc": "2.0",
        "id": 1,
        "method": "message/send",
        "params": { "message": {
            "kind": "message",
            "role": "user",
            "messageId": uuid::Uuid::new_v4().to_string(),
            "parts": [{ "kind": "text", "text": text }],
        } },
    });
    let other = |error: String| Failure::Other(format!("the agent at {url} does not answer: {error}"));
    let request = hyper::Request::post(format!("{url}/"))
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(message.to_string())))
        .map_err(|error| other(error.to_string()))?;
    let http = HttpClient::builder(TokioExecutor::new()).build_http();
    let response = http.request(request).await.map_err(|error| other(error.to_string()))?;
    let body = response.into_body().collect().await.map_err(|error| other(error.to_string()))?.to_bytes();
    let answer: Value = serde_json::from_slice(&body).map_err(|error| other(error.to_string()))?;
    let parts = answer["result"]["parts"].as_array().cloned().unwrap_or_default();
    let said: Vec<&str> = parts.iter().filter_map(|part| part["text"].as_str()).collect();
    if said.is_empty() {
        println!("{answer}");
    } else {
        println!("{}", said.join("\n"));
    }
    Ok(())
}
