//! The tenants' API. The organisation is the credential's, everywhere.

use futures::StreamExt;
use futures::stream::BoxStream;
use molecule_domain::error::{Error, Result};
use molecule_domain::id::{Generation, IncarnationId, IntentNumber, Revision, WorkspaceId};
use molecule_domain::lifecycle::Phase;
use molecule_proto::controlplane::v1::provisioning_service_server::ProvisioningService;
use molecule_proto::controlplane::v1::{
    AgreeRequest, AgreeResponse, DeprovisionWorkspaceRequest, DeprovisionWorkspaceResponse,
    GetConsoleOutputRequest, GetConsoleOutputResponse, GetQuotaRequest, GetQuotaResponse,
    GetWorkspaceInstanceRequest, GetWorkspaceInstanceResponse, Instance, InstanceSpec, LimitCheck,
    ListInstancesRequest, ListInstancesResponse, MeetRequest, MeetResponse, PreviewAdmissionRequest,
    PreviewAdmissionResponse, ProvisionWorkspaceRequest, ProvisionWorkspaceResponse, RestartWorkspaceRequest,
    RestartWorkspaceResponse, Standpoint, StartWorkspaceRequest, StartWorkspaceResponse,
    StopWorkspaceRequest, StopWorkspaceResponse, StreamInstanceLogsRequest, StreamInstanceLogsResponse,
    UpdateWorkspaceRequest, UpdateWorkspaceResponse, WatchInstancesRequest, WatchInstancesResponse,
};
use molecule_provisioner::admission::{self, Change, ChangeRequest, ProvisionRequest};
use molecule_provisioner::backend::{LogChunk, LogOptions};
use molecule_provisioner::model::InstanceRecord;
use molecule_provisioner::shown::Shown;
use molecule_provisioner::store::Store;
use molecule_provisioner::watch::Cursors;
use molecule_service_kit::auth::identity;
use molecule_service_kit::wire::{reason, tier, workspace_id};
use molecule_service_kit::{page, streams};
use molecule_store_postgres::Process;
use molecule_store_postgres::accounts::Holder;
use molecule_telemetry::trace;
use tonic::{Request, Status};

use super::convert::{intent, launch, signed};
use super::{Answer, Parts, answer, convert, peers, watch};

const MAX_MESSAGE: usize = 4096;
const MAX_PREVIEW: u32 = 1000;
/// How many instances one read of the store gives at most.
const BATCH: u32 = 500;

pub(crate) struct ProvisioningApi(pub(super) Parts);

/// A replacement, as both RPCs that ask for one bring it.
struct Replacement {
    process: Option<IncarnationId>,
    intent: u64,
    generation: u32,
    spec: Option<InstanceSpec>,
    bootstrap_token: Vec<u8>,
    run: bool,
    refusal_is_final: bool,
}

/// Who asks, and whether it takes a refusal for the last word.
#[derive(Clone, Copy)]
struct Caller {
    process: Option<IncarnationId>,
    refusal_is_final: bool,
}

/// The process of a tenant's that a request names.
fn process(tenant: Option<&Standpoint>) -> Result<Option<IncarnationId>> {
    Ok(peers::standpoint(tenant, "tenant")?.map(|standpoint| standpoint.incarnation))
}

impl ProvisioningApi {
    async fn provision(&self, holder: &Holder, request: ProvisionWorkspaceRequest) -> Result<Instance> {
        let workspace = workspace_id(&request.workspace_id)?;
        let generation = Generation(request.generation.max(1));
        let (intent, run) = (intent(request.intent.max(1))?, !request.stopped);
        let (process, refusal_is_final) = (process(request.tenant.as_ref())?, request.refusal_is_final);
        let asked = async {
            let token = &request.bootstrap_token;
            let (spec, sealed_token) = launch(&self.0, holder, workspace, generation, request.spec, token)?;
            let request = ProvisionRequest {
                organization: holder.organization,
                workspace,
                intent,
                generation,
                run,
                backend: self.0.backend_of(&holder.backend, &holder.plan)?.to_owned(),
                spec,
                sealed_token,
                refusal_is_final,
                process,
                trace: trace::current(),
            };
            self.0.instances.provision(&request).await
        };
        let caller = Caller { process, refusal_is_final };
        self.settled(holder, (workspace, intent), caller, true, asked.await).await
    }

    async fn change(&self, holder: &Holder, id: &str, number: u64, change: Change) -> Result<Instance> {
        let (workspace, intent) = (workspace_id(id)?, intent(number)?);
        // a stop and a deletion are never refused for good
        let caller = Caller { process: None, refusal_is_final: false };
        let record = self.asked(holder, (workspace, intent), change, caller).await?;
        Ok(convert::instance(record))
    }

    async fn start(&self, holder: &Holder, request: StartWorkspaceRequest) -> Result<Instance> {
        let wish = (workspace_id(&request.workspace_id)?, intent(request.intent)?);
        let process = process(request.tenant.as_ref())?;
        let caller = Caller { process, refusal_is_final: request.refusal_is_final };
        let asked = self.asked(holder, wish, Change::Start, caller).await;
        self.settled(holder, wish, caller, false, asked).await
    }

    async fn replace(&self, holder: &Holder, id: &str, replacement: Replacement) -> Result<Instance> {
        let wish = (workspace_id(id)?, intent(replacement.intent)?);
        let generation = Generation(replacement.generation);
        let Replacement { run, process, refusal_is_final, .. } = replacement;
        let caller = Caller { process, refusal_is_final };
        let asked = async {
            let token = &replacement.bootstrap_token;
            let (spec, sealed_token) = launch(&self.0, holder, wish.0, generation, replacement.spec, token)?;
            let change = Change::Replace { generation, spec: Box::new(spec), sealed_token, run };
            self.asked(holder, wish, change, caller).await
        };
        self.settled(holder, wish, caller, false, asked.await).await
    }

    async fn asked(
        &self,
        holder: &Holder,
        (workspace, intent): (WorkspaceId, IntentNumber),
        change: Change,
        Caller { process, refusal_is_final }: Caller,
    ) -> Result<InstanceRecord> {
        let (organization, trace) = (holder.organization, trace::current());
        let request =
            ChangeRequest { organization, workspace, intent, change, refusal_is_final, process, trace };
        self.0.instances.change(&request).await
    }

    /// What the caller hears: where it takes a refusal for the last word, the refusal holds for every call of the wish.
    async fn settled(
        &self,
        holder: &Holder,
        (workspace, intent): (WorkspaceId, IntentNumber),
        caller: Caller,
        creates: bool,
        asked: Result<InstanceRecord>,
    ) -> Result<Instance> {
        let wish = (holder.organization, workspace, intent);
        let record = if caller.refusal_is_final {
            self.0.instances.settled(&self.0.store, wish, caller.process, creates, asked).await?
        } else {
            asked?
        };
        Ok(convert::instance(record))
    }

    async fn record(&self, holder: &Holder, workspace: WorkspaceId) -> Result<InstanceRecord> {
        self.0.instances.get(holder.organization, workspace).await
    }

    async fn list(&self, holder: &Holder, request: ListInstancesRequest) -> Result<ListInstancesResponse> {
        let size = page::size(request.page_size)?.min(500) as usize;
        let gone_too = request.show_gone;
        let list = format!("instances/{}/{gone_too}", holder.organization);
        let mut after: Revision = page::place(&self.0.key, &list, &request.page_token)?.unwrap_or_default();
        let mut found: Vec<Shown> = Vec::new();
        let mut more = true;
        while found.len() <= size && more {
            let changed = self.0.store.changed_after(holder.organization, after, BATCH).await?;
            more = changed.len() == BATCH as usize;
            after = changed.last().map_or(after, |last| last.view.revision);
            found.extend(changed.into_iter().filter(|one| gone_too || one.view.phase != Phase::Gone));
        }
        let next_page_token = if found.len() > size {
            found.truncate(size);
            let last = found.last().map(|last| page::token(&self.0.key, &list, &last.view.revision));
            last.transpose()?.unwrap_or_default()
        } else {
            String::new()
        };
        Ok(ListInstancesResponse {
            instances: found.into_iter().map(convert::instance).collect(),
            next_page_token,
            control_plane: self.0.control_plane(holder.revision),
        })
    }

    async fn preview(
        &self,
        holder: &Holder,
        request: PreviewAdmissionRequest,
    ) -> Result<PreviewAdmissionResponse> {
        let count = request.count.max(1);
        if count > MAX_PREVIEW {
            return Err(Error::field("count", format!("must be at most {MAX_PREVIEW}")));
        }
        let tier = tier(request.tier).ok_or_else(|| Error::field("tier", "there is no such tier"))?;
        let spec = self.0.launch_spec(&request.runtime, tier, "runtime")?;
        let backend = self.0.backend_of(&holder.backend, &holder.plan)?;
        let account = self.0.store.account(holder.organization, self.0.clock.now()).await?;
        let (verdict, checks) = admission::preview(&account, &spec, backend, count);
        let (message, reason) = match &verdict {
            Ok(()) => (String::new(), String::new()),
            Err(error) => (error.message.clone(), error.reason.as_str().to_owned()),
        };
        let checks = checks.into_iter().map(|check| LimitCheck {
            limit: check.limit.to_owned(),
            cap: check.cap,
            used: check.used,
            asked: check.asked,
            exceeded: check.exceeded(),
        });
        Ok(PreviewAdmissionResponse { admitted: verdict.is_ok(), message, reason, checks: checks.collect() })
    }
}

#[tonic::async_trait]
impl ProvisioningService for ProvisioningApi {
    type WatchInstancesStream = BoxStream<'static, std::result::Result<WatchInstancesResponse, Status>>;
    type StreamInstanceLogsStream =
        BoxStream<'static, std::result::Result<StreamInstanceLogsResponse, Status>>;

    async fn meet(&self, request: Request<MeetRequest>) -> Answer<MeetResponse> {
        answer(self.0.meet(request).await)
    }

    async fn agree(&self, request: Request<AgreeRequest>) -> Answer<AgreeResponse> {
        answer(self.0.agree(request).await)
    }

    async fn provision_workspace(
        &self,
        request: Request<ProvisionWorkspaceRequest>,
    ) -> Answer<ProvisionWorkspaceResponse> {
        let result = async {
            let holder = self.0.tenant_changing(&request)?;
            let instance = self.provision(&holder, request.into_inner()).await?;
            let control_plane = self.0.control_plane_after(&holder, &instance);
            Ok(ProvisionWorkspaceResponse { instance: Some(instance), control_plane })
        };
        answer(result.await)
    }

    async fn update_workspace(
        &self,
        request: Request<UpdateWorkspaceRequest>,
    ) -> Answer<UpdateWorkspaceResponse> {
        let result = async {
            let holder = self.0.tenant_changing(&request)?;
            let UpdateWorkspaceRequest {
                workspace_id,
                intent,
                generation,
                spec,
                bootstrap_token,
                run,
                refusal_is_final,
                tenant,
                ..
            } = request.into_inner();
            let process = process(tenant.as_ref())?;
            let replacement =
                Replacement { process, intent, generation, spec, bootstrap_token, run, refusal_is_final };
            let instance = self.replace(&holder, &workspace_id, replacement).await?;
            let control_plane = self.0.control_plane_after(&holder, &instance);
            Ok(UpdateWorkspaceResponse { instance: Some(instance), control_plane })
        };
        answer(result.await)
    }

    async fn get_workspace_instance(
        &self,
        request: Request<GetWorkspaceInstanceRequest>,
    ) -> Answer<GetWorkspaceInstanceResponse> {
        let result = async {
            let holder: Holder = identity(request.extensions())?;
            let record = self.record(&holder, workspace_id(&request.into_inner().workspace_id)?).await?;
            Ok(GetWorkspaceInstanceResponse { instance: Some(convert::instance(record)) })
        };
        answer(result.await)
    }

    async fn list_instances(&self, request: Request<ListInstancesRequest>) -> Answer<ListInstancesResponse> {
        let result = async {
            let holder: Holder = identity(request.extensions())?;
            self.list(&holder, request.into_inner()).await
        };
        answer(result.await)
    }

    async fn stop_workspace(&self, request: Request<StopWorkspaceRequest>) -> Answer<StopWorkspaceResponse> {
        let result = async {
            let holder = self.0.tenant_changing(&request)?;
            let request = request.into_inner();
            if request.message.len() > MAX_MESSAGE {
                return Err(Error::field("message", "must have at most 4096 bytes"));
            }
            let cause = reason(request.reason).map(|reason| (reason, request.message.clone()));
            let stop = Change::Stop(cause);
            let instance = self.change(&holder, &request.workspace_id, request.intent, stop).await?;
            let control_plane = self.0.control_plane_after(&holder, &instance);
            Ok(StopWorkspaceResponse { instance: Some(instance), control_plane })
        };
        answer(result.await)
    }

    async fn start_workspace(
        &self,
        request: Request<StartWorkspaceRequest>,
    ) -> Answer<StartWorkspaceResponse> {
        let result = async {
            let holder = self.0.tenant_changing(&request)?;
            let instance = self.start(&holder, request.into_inner()).await?;
            let control_plane = self.0.control_plane_after(&holder, &instance);
            Ok(StartWorkspaceResponse { instance: Some(instance), control_plane })
        };
        answer(result.await)
    }

    async fn restart_workspace(
        &self,
        request: Request<RestartWorkspaceRequest>,
    ) -> Answer<RestartWorkspaceResponse> {
        let result = async {
            let holder = self.0.tenant_changing(&request)?;
            let RestartWorkspaceRequest {
                workspace_id,
                intent,
                generation,
                spec,
                bootstrap_token,
                refusal_is_final,
                tenant,
                ..
            } = request.into_inner();
            let (process, run) = (process(tenant.as_ref())?, true);
            let replacement =
                Replacement { process, intent, generation, spec, bootstrap_token, run, refusal_is_final };
            let instance = self.replace(&holder, &workspace_id, replacement).await?;
            let control_plane = self.0.control_plane_after(&holder, &instance);
            Ok(RestartWorkspaceResponse { instance: Some(instance), control_plane })
        };
        answer(result.await)
    }

    async fn deprovision_workspace(
        &self,
        request: Request<DeprovisionWorkspaceRequest>,
    ) -> Answer<DeprovisionWorkspaceResponse> {
        let result = async {
            let holder = self.0.tenant_changing(&request)?;
            let DeprovisionWorkspaceRequest { workspace_id, intent, .. } = request.into_inner();
            let instance = self.change(&holder, &workspace_id, intent, Change::Delete).await?;
            let control_plane = self.0.control_plane_after(&holder, &instance);
            Ok(DeprovisionWorkspaceResponse { instance: Some(instance), control_plane })
        };
        answer(result.await)
    }

    async fn watch_instances(
        &self,
        request: Request<WatchInstancesRequest>,
    ) -> Answer<Self::WatchInstancesStream> {
        let result = async {
            let holder: Holder = identity(request.extensions())?;
            let peer = peers::address(request.remote_addr());
            let request = request.into_inner();
            self.0.check_seen(&request, &holder)?;
            let tenant = peers::standpoint(request.tenant.as_ref(), "tenant")?;
            let after = Cursors {
                revision: Revision(signed(request.after_revision, "after_revision")?),
                event: signed(request.after_event, "after_event")?,
            };
            let organization = holder.organization;
            let session = match tenant {
                Some(standpoint) => {
                    let process =
                        Process { organization, standpoint, predecessors: Vec::new(), address: peer };
                    Some(self.0.sessions.open(process).await?)
                }
                None => None,
            };
            Ok(watch::instances(self.0.clone(), organization, after, session).boxed())
        };
        answer(result.await)
    }

    async fn stream_instance_logs(
        &self,
        request: Request<StreamInstanceLogsRequest>,
    ) -> Answer<Self::StreamInstanceLogsStream> {
        let result = async {
            let holder: Holder = identity(request.extensions())?;
            let request = request.into_inner();
            let workspace = workspace_id(&request.workspace_id)?;
            let record = self.record(&holder, workspace).await?;
            let tail = Some(request.tail_lines).filter(|lines| *lines > 0);
            let options = LogOptions { follow: request.follow, tail };
            let engine = self.0.engines.get(&record.backend)?;
            let chunks = engine.logs(holder.organization, workspace, options).await?;
            let answer =
                |chunk: LogChunk| StreamInstanceLogsResponse { data: chunk.data, stderr: chunk.stderr };
            Ok(streams::items(self.0.drain.clone(), chunks, answer).boxed())
        };
        answer(result.await)
    }

    async fn get_console_output(
        &self,
        request: Request<GetConsoleOutputRequest>,
    ) -> Answer<GetConsoleOutputResponse> {
        let result = async {
            let holder: Holder = identity(request.extensions())?;
            let workspace = workspace_id(&request.into_inner().workspace_id)?;
            let record = self.record(&holder, workspace).await?;
            let data = self.0.engines.get(&record.backend)?.console(holder.organization, workspace).await?;
            Ok(GetConsoleOutputResponse { data })
        };
        answer(result.await)
    }

    async fn get_quota(&self, request: Request<GetQuotaRequest>) -> Answer<GetQuotaResponse> {
        let result = async {
            let holder: Holder = identity(request.extensions())?;
            let account = self.0.store.account(holder.organization, self.0.clock.now()).await?;
            let backend = self.0.backend_of(&holder.backend, &holder.plan)?;
            let engine = self.0.engines.get(backend)?;
            Ok(GetQuotaResponse {
                backend: backend.to_owned(),
                capabilities: engine.capabilities().into_iter().map(str::to_owned).collect(),
                organization_id: holder.organization.to_string(),
                standing: convert::standing(account.standing).into(),
                limits: Some(convert::limits(&account)),
                used: Some(convert::usage(&account)),
            })
        };
        answer(result.await)
    }

    async fn preview_admission(
        &self,
        request: Request<PreviewAdmissionRequest>,
    ) -> Answer<PreviewAdmissionResponse> {
        let result = async {
            let holder: Holder = identity(request.extensions())?;
            self.preview(&holder, request.into_inner()).await
        };
        answer(result.await)
    }
}
