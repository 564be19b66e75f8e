//! The handlers.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use molecule_domain::error::{Error, ErrorReason, Result};
use molecule_domain::filter::Filter;
use molecule_domain::id::Revision;
use molecule_proto::tenant::v1::workspace_service_server::WorkspaceService;
use molecule_proto::tenant::v1::{
    ClearAlarmsRequest, ClearAlarmsResponse, CreateWorkspaceRequest, CreateWorkspaceResponse,
    DeleteWorkspaceRequest, DeleteWorkspaceResponse, GetServerInfoRequest, GetServerInfoResponse,
    GetWorkspaceRequest, GetWorkspaceResponse, ListAlarmsRequest, ListAlarmsResponse, ListRuntimesRequest,
    ListRuntimesResponse, ListWorkspaceEventsRequest, ListWorkspaceEventsResponse, ListWorkspacesRequest,
    ListWorkspacesResponse, RestartWorkspaceRequest, RestartWorkspaceResponse, Runtime,
    StartWorkspaceRequest, StartWorkspaceResponse, StopWorkspaceRequest, StopWorkspaceResponse,
    StreamWorkspaceLogsRequest, StreamWorkspaceLogsResponse, UpdateWorkspaceRequest, UpdateWorkspaceResponse,
    WatchWorkspacesRequest, WatchWorkspacesResponse,
};
use molecule_provisioner::backend::LogOptions;
use molecule_service_kit::guard::Deadline;
use molecule_service_kit::seal::Aes;
use molecule_service_kit::status::to_status;
use molecule_service_kit::{page, wire};
use molecule_tenant::Workspaces;
use molecule_tenant::provider::Mode;
use molecule_tenant::spec_update::SpecUpdate;
use molecule_tenant::workspaces::Create;
use molecule_workspace::WorkspaceRecord;
use molecule_workspace::store::{Conditions, Place};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{convert, streams};

const LIST_FIELDS: &[&str] = &["state", "parent_workspace_id", "runtime", "name", "labels."];
const WATCH_FIELDS: &[&str] = &["workspace_id", "parent_workspace_id", "labels."];
/// Rows read at a time where a filter passes over some.
const SCAN: u32 = 500;

pub(crate) struct WorkspaceApi {
    workspaces: Workspaces,
    /// Signs the tokens of pages.
    page_key: Arc<Aes>,
    drain: CancellationToken,
}

type Answer<T> = std::result::Result<Response<T>, Status>;

fn answer<T>(result: Result<T>) -> Answer<T> {
    result.map(Response::new).map_err(|error| to_status(&error))
}

impl WorkspaceApi {
    pub(crate) const fn new(workspaces: Workspaces, page_key: Arc<Aes>, drain: CancellationToken) -> Self {
        Self { workspaces, page_key, drain }
    }

    /// The use cases for a request, which is answered before its deadline.
    fn serving<T>(&self, request: &Request<T>) -> Workspaces {
        match request.extensions().get::<Deadline>() {
            Some(Deadline(at)) => self.workspaces.answering_before(*at),
            None => self.workspaces.clone(),
        }
    }

    async fn create(&self, request: Request<CreateWorkspaceRequest>) -> Result<WorkspaceRecord> {
        let (workspaces, request) = (self.serving(&request), request.into_inner());
        let key = convert::request_key(&request.request_id, "create", &request)?;
        let workspace = if request.workspace_id.is_empty() {
            None
        } else {
            Some(wire::workspace_id(&request.workspace_id)?)
        };
        let (spec, private) = convert::spec(request.spec.unwrap_or_default())?;
        let create = Create { key, workspace, spec, private, validate_only: request.validate_only };
        workspaces.create(create).await
    }

    async fn update(&self, request: Request<UpdateWorkspaceRequest>) -> Result<WorkspaceRecord> {
        let (workspaces, request) = (self.serving(&request), request.into_inner());
        let on = Conditions {
            key: convert::request_key(&request.request_id, "update", &request)?,
            etag: convert::etag(&request.etag),
        };
        let workspace = wire::workspace_id(&request.workspace_id)?;
        let (spec, private) = convert::spec(request.spec.unwrap_or_default())?;
        let fields = request.update_mask.unwrap_or_default().paths;
        let update = SpecUpdate { spec, private, fields };
        workspaces.update(workspace, on, update, request.validate_only).await
    }

    async fn list(&self, request: ListWorkspacesRequest) -> Result<ListWorkspacesResponse> {
        let filter =
            Filter::parse(&request.filter, LIST_FIELDS).map_err(|problem| Error::field("filter", problem))?;
        let size = page::size(request.page_size)? as usize;
        let list = format!("workspaces/{}/{}", request.show_deleted, request.filter);
        let key = &self.page_key;
        let mut after: Option<Place> = page::place(key, &list, &request.page_token)?;
        let mut found: Vec<WorkspaceRecord> = Vec::new();
        let mut more = true;
        while found.len() <= size && more {
            let (organization, deleted) = (self.workspaces.organization, request.show_deleted);
            let rows = self.workspaces.store.list(organization, deleted, after, SCAN).await?;
            more = rows.len() == SCAN as usize;
            after = rows.last().map(place_of);
            found.extend(
                rows.into_iter().filter(|row| filter.matches(|field| convert::filter_field(row, field))),
            );
        }
        let next_page_token = if found.len() > size {
            found.truncate(size);
            found.last().map(|last| page::token(key, &list, &place_of(last))).transpose()?.unwrap_or_default()
        } else {
            String::new()
        };
        Ok(ListWorkspacesResponse {
            workspaces: found.iter().map(convert::workspace).collect(),
            next_page_token,
        })
    }

    async fn list_events(&self, request: ListWorkspaceEventsRequest) -> Result<ListWorkspaceEventsResponse> {
        let workspace = wire::workspace_id(&request.workspace_id)?;
        self.workspaces.get(workspace).await?;
        let size = page::size(request.page_size)?;
        let (key, list) = (&self.page_key, format!("events/{workspace}"));
        let before = page::place(key, &list, &request.page_token)?;
        let mut events = self.workspaces.store.events(workspace, before, size + 1).await?;
        let next_page_token = if events.len() > size as usize {
            events.truncate(size as usize);
            events.last().map(|last| page::token(key, &list, &last.id)).transpose()?.unwrap_or_default()
        } else {
            String::new()
        };
        Ok(ListWorkspaceEventsResponse {
            events: events.into_iter().map(convert::event).collect(),
            next_page_token,
        })
    }

    fn list_runtimes(&self, request: &ListRuntimesRequest) -> Result<ListRuntimesResponse> {
        let size = page::size(request.page_size)? as usize;
        let key = &self.page_key;
        let after: Option<String> = page::place(key, "runtimes", &request.page_token)?;
        let all = self.workspaces.rules.runtimes.iter();
        let behind = all.filter(|(name, _)| after.as_deref().is_none_or(|after| *name > after));
        let mut runtimes: Vec<Runtime> = behind
            .take(size + 1)
            .map(|(name, runtime)| Runtime {
                name: name.to_owned(),
                image: runtime.image.clone(),
                agent_port: runtime.agent_port.into(),
                readiness: convert::readiness(runtime.readiness).into(),
                required_secrets: runtime.required_secrets.clone(),
                has_default_config: runtime.default_config.is_some(),
            })
            .collect();
        let more = runtimes.len() > size;
        runtimes.truncate(size);
        let last = runtimes.last().filter(|_| more);
        let next_page_token =
            last.map(|last| page::token(key, "runtimes", &last.name)).transpose()?.unwrap_or_default();
        Ok(ListRuntimesResponse { runtimes, next_page_token })
    }

    async fn logs(
        &self,
        request: StreamWorkspaceLogsRequest,
    ) -> Result<BoxStream<'static, std::result::Result<StreamWorkspaceLogsResponse, Status>>> {
        let workspace = wire::workspace_id(&request.workspace_id)?;
        self.workspaces.get(workspace).await?;
        let tail = u32::try_from(request.tail_lines);
        let tail = tail.map_err(|_| Error::field("tail_lines", "must not be negative"))?;
        let options = LogOptions { follow: request.follow, tail: (tail > 0).then_some(tail) };
        let chunks = self.workspaces.provider.logs(self.workspaces.organization, workspace, options).await?;
        Ok(streams::logs(chunks, self.drain.clone()).boxed())
    }

    async fn end_alarm(&self, etag: &str) -> Result<ClearAlarmsResponse> {
        let (alarm, orphans) = self.workspaces.provider.alarm().await?;
        let mut shown = ClearAlarmsResponse {
            alarms: alarm.iter().map(convert::alarm).collect(),
            leftovers: convert::leftovers(&orphans),
            ..ClearAlarmsResponse::default()
        };
        if alarm.is_none() {
            return Ok(shown);
        }
        shown.etag = wire::etag(&shown);
        if wire::confirms(etag, &shown.etag)? {
            self.workspaces.provider.end_alarm(&orphans).await?;
            shown.cleared = true;
        }
        Ok(shown)
    }
}

const fn mode(mode: Mode) -> molecule_proto::tenant::v1::Mode {
    match mode {
        Mode::SelfHosted => molecule_proto::tenant::v1::Mode::SelfHosted,
        Mode::Saas => molecule_proto::tenant::v1::Mode::Saas,
    }
}

fn place_of(record: &WorkspaceRecord) -> Place {
    (record.created_at.micros(), record.workspace.to_string())
}

fn conditions(id: &str, etag: &str, method: &str, request: &impl prost::Message) -> Result<Conditions> {
    Ok(Conditions { key: convert::request_key(id, method, request)?, etag: convert::etag(etag) })
}

#[tonic::async_trait]
impl WorkspaceService for WorkspaceApi {
    async fn create_workspace(
        &self,
        request: Request<CreateWorkspaceRequest>,
    ) -> Answer<CreateWorkspaceResponse> {
        let created = self.create(request).await;
        answer(created.map(|record| CreateWorkspaceResponse { workspace: Some(convert::workspace(&record)) }))
    }

    async fn get_workspace(&self, request: Request<GetWorkspaceRequest>) -> Answer<GetWorkspaceResponse> {
        let found = async {
            let workspace = wire::workspace_id(&request.into_inner().workspace_id)?;
            self.workspaces.get(workspace).await
        };
        answer(
            found.await.map(|record| GetWorkspaceResponse { workspace: Some(convert::workspace(&record)) }),
        )
    }

    async fn list_workspaces(
        &self,
        request: Request<ListWorkspacesRequest>,
    ) -> Answer<ListWorkspacesResponse> {
        answer(self.list(request.into_inner()).await)
    }

    async fn update_workspace(
        &self,
        request: Request<UpdateWorkspaceRequest>,
    ) -> Answer<UpdateWorkspaceResponse> {
        let updated = self.update(request).await;
        answer(updated.map(|record| UpdateWorkspaceResponse { workspace: Some(convert::workspace(&record)) }))
    }

    async fn stop_workspace(&self, request: Request<StopWorkspaceRequest>) -> Answer<StopWorkspaceResponse> {
        let (workspaces, request) = (self.serving(&request), request.into_inner());
        let stopped = async {
            let on = conditions(&request.request_id, &request.etag, "stop", &request)?;
            workspaces.stop(wire::workspace_id(&request.workspace_id)?, on).await
        };
        answer(
            stopped
                .await
                .map(|record| StopWorkspaceResponse { workspace: Some(convert::workspace(&record)) }),
        )
    }

    async fn start_workspace(
        &self,
        request: Request<StartWorkspaceRequest>,
    ) -> Answer<StartWorkspaceResponse> {
        let (workspaces, request) = (self.serving(&request), request.into_inner());
        let started = async {
            let on = conditions(&request.request_id, &request.etag, "start", &request)?;
            workspaces.start(wire::workspace_id(&request.workspace_id)?, on).await
        };
        answer(
            started
                .await
                .map(|record| StartWorkspaceResponse { workspace: Some(convert::workspace(&record)) }),
        )
    }

    async fn restart_workspace(
        &self,
        request: Request<RestartWorkspaceRequest>,
    ) -> Answer<RestartWorkspaceResponse> {
        let (workspaces, request) = (self.serving(&request), request.into_inner());
        let restarted = async {
            let on = conditions(&request.request_id, &request.etag, "restart", &request)?;
            let workspace = wire::workspace_id(&request.workspace_id)?;
            workspaces.restart(workspace, on, request.reset_session).await
        };
        answer(
            restarted
                .await
                .map(|record| RestartWorkspaceResponse { workspace: Some(convert::workspace(&record)) }),
        )
    }

    async fn delete_workspace(
        &self,
        request: Request<DeleteWorkspaceRequest>,
    ) -> Answer<DeleteWorkspaceResponse> {
        let (workspaces, request) = (self.serving(&request), request.into_inner());
        let deleted = async {
            let on = conditions(&request.request_id, &request.etag, "delete", &request)?;
            workspaces.delete(wire::workspace_id(&request.workspace_id)?, on).await
        };
        match deleted.await {
            Err(error) if request.allow_missing && error.reason == ErrorReason::WorkspaceNotFound => {
                answer(Ok(DeleteWorkspaceResponse { workspace: None }))
            }
            deleted => answer(
                deleted
                    .map(|record| DeleteWorkspaceResponse { workspace: Some(convert::workspace(&record)) }),
            ),
        }
    }

    type WatchWorkspacesStream = BoxStream<'static, std::result::Result<WatchWorkspacesResponse, Status>>;

    async fn watch_workspaces(
        &self,
        request: Request<WatchWorkspacesRequest>,
    ) -> Answer<Self::WatchWorkspacesStream> {
        let request = request.into_inner();
        let watch = async {
            let filter = Filter::parse(&request.filter, WATCH_FIELDS);
            let filter = filter.map_err(|problem| Error::field("filter", problem))?;
            let after = i64::try_from(request.after_revision);
            let after = after.map_err(|_| Error::field("after_revision", "is no revision"))?;
            let (store, organization) = (Arc::clone(&self.workspaces.store), self.workspaces.organization);
            if after > 0 {
                // what is out of range is told before the stream begins
                store.changes_after(organization, Revision(after), 1).await?;
            }
            Ok(streams::watch(store, organization, Revision(after), filter, self.drain.clone()).boxed())
        };
        answer(watch.await)
    }

    async fn list_workspace_events(
        &self,
        request: Request<ListWorkspaceEventsRequest>,
    ) -> Answer<ListWorkspaceEventsResponse> {
        answer(self.list_events(request.into_inner()).await)
    }

    type StreamWorkspaceLogsStream =
        BoxStream<'static, std::result::Result<StreamWorkspaceLogsResponse, Status>>;

    async fn stream_workspace_logs(
        &self,
        request: Request<StreamWorkspaceLogsRequest>,
    ) -> Answer<Self::StreamWorkspaceLogsStream> {
        answer(self.logs(request.into_inner()).await)
    }

    async fn list_alarms(&self, _request: Request<ListAlarmsRequest>) -> Answer<ListAlarmsResponse> {
        let listed = self.workspaces.provider.alarm().await;
        answer(listed.map(|(alarm, orphans)| ListAlarmsResponse {
            alarms: alarm.iter().map(convert::alarm).collect(),
            leftovers: convert::leftovers(&orphans),
        }))
    }

    async fn clear_alarms(&self, request: Request<ClearAlarmsRequest>) -> Answer<ClearAlarmsResponse> {
        answer(self.end_alarm(&request.into_inner().etag).await)
    }

    async fn list_runtimes(&self, request: Request<ListRuntimesRequest>) -> Answer<ListRuntimesResponse> {
        answer(Self::list_runtimes(self, &request.into_inner()))
    }

    async fn get_server_info(
        &self,
        _request: Request<GetServerInfoRequest>,
    ) -> Answer<GetServerInfoResponse> {
        let provider = &self.workspaces.provider;
        provider.introduce().await;
        let (info, now) = (provider.info(), self.workspaces.clock.now());
        answer(Ok(GetServerInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mode: mode(info.mode).into(),
            backend: info.backend,
            capabilities: info.capabilities,
            server_time: Some(wire::time(now)),
            mirror_age: Some(wire::duration(provider.age(now))),
        }))
    }
}
