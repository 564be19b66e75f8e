//! The control plane. Its word comes by one stream, which resumes where the mirror is; what is asked of it is asked
//! with the remaining deadline, and again only where it was unavailable.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use molecule_domain::error::{Error, ErrorReason, Result};
use molecule_domain::id::{Generation, IntentNumber, OrganizationId, Revision, WorkspaceId};
use molecule_domain::incarnation::Standpoint;
use molecule_domain::instance::{Event, InstanceView};
use molecule_domain::launch::LaunchSpec;
use molecule_domain::seal::token_context;
use molecule_domain::{Clock, Timestamp};
use molecule_proto::controlplane::v1 as wire;
use molecule_proto::controlplane::v1::provisioning_service_client::ProvisioningServiceClient;
use molecule_provisioner::admission::{Change, ChangeRequest, ProvisionRequest};
use molecule_provisioner::backend::{CallError, LogChunk, LogOptions};
use molecule_service_kit::client::{Bearer, DEADLINE, RetryBudget};
use molecule_service_kit::seal::Aes;
use molecule_service_kit::status::from_status;
use molecule_service_kit::wire::{event, moment, reason_to_wire, tier_to_wire, time, workspace_id};
use tokio::sync::Mutex;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

use crate::instance_view::{instance_view, signed};
use molecule_tenant::provider::{Changes, Greeting, Mode, Provider, ProviderInfo, Standpoints};
use molecule_workspace::agreement::Met;
use molecule_workspace::store::Cursors;

/// A living stream says something at least this often; the control plane does so every five seconds.
const SILENCE: Duration = Duration::from_secs(20);

/// How many wishes that wait are named in one call.
const WAITING_AT_ONCE: usize = 2000;

/// How long to wait for what the backend is, where that is not known yet.
const INTRODUCTION: Duration = Duration::from_secs(2);

type Client = ProvisioningServiceClient<InterceptedService<Channel, Bearer>>;

/// The control plane of a SaaS tenant.
pub(crate) struct ControlPlane {
    client: Client,
    organization: OrganizationId,
    /// Where an operator finds this tenant-svc.
    address: String,
    key: Arc<Aes>,
    clock: Arc<dyn Clock>,
    budget: RetryBudget,
    stream: Mutex<Option<Following>>,
    /// Why it can't be asked now.
    away: std::sync::Mutex<Option<String>>,
    heard: AtomicI64,
    /// Whether the token was found to be this organisation's since the control plane was last away.
    owner_is_checked: AtomicBool,
    /// The backend and its capabilities, as the control plane last told them.
    told: RwLock<(String, Vec<String>)>,
}

struct Following {
    at: Cursors,
    messages: Streaming<wire::WatchInstancesResponse>,
}

impl ControlPlane {
    /// Over a channel that connects by itself. Sealed tokens open with `key`.
    pub(crate) fn new(
        channel: Channel,
        bearer: Bearer,
        organization: OrganizationId,
        address: String,
        key: Arc<Aes>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let started = AtomicI64::new(clock.now().micros());
        Self {
            client: ProvisioningServiceClient::with_interceptor(channel, bearer),
            organization,
            address,
            key,
            clock,
            budget: RetryBudget::default(),
            stream: Mutex::default(),
            away: std::sync::Mutex::default(),
            heard: started,
            owner_is_checked: AtomicBool::new(false),
            told: RwLock::default(),
        }
    }

    /// A unary call, within the deadline and the budget of retries.
    async fn call<Q, A, F>(&self, message: Q, call: impl Fn(Client, Request<Q>) -> F) -> Result<A>
    where
        Q: Clone,
        F: Future<Output = Result<tonic::Response<A>, Status>>,
    {
        let once = || {
            let mut request = Request::new(message.clone());
            request.set_timeout(DEADLINE);
            call(self.client.clone(), request)
        };
        let answered = tokio::time::timeout(DEADLINE, self.budget.call(once)).await;
        let answered = answered.map_err(|_| {
            Error::new(ErrorReason::DeadlineExceeded, "the control plane did not answer in time")
        })?;
        answered.map(tonic::Response::into_inner).map_err(from_status)
    }

    fn token(&self, workspace: WorkspaceId, generation: Generation, sealed: &[u8]) -> Result<Vec<u8>> {
        let token = self.key.open(sealed, &token_context(workspace, generation));
        token.ok_or_else(|| {
            Error::internal("a bootstrap token can't be unsealed: seal.key is not the key it was sealed with")
        })
    }

    async fn greet(&self, greeting: Greeting) -> Result<Met> {
        if !self.owner_is_checked.load(Ordering::Relaxed) {
            self.check_owner().await?;
            self.owner_is_checked.store(true, Ordering::Relaxed);
        }
        let message = wire::MeetRequest {
            tenant: Some(self.standpoint(greeting.standpoints.own)),
            seen: greeting.standpoints.seen.map(|seen| self.standpoint(seen)),
            address: self.address.clone(),
            recovered_workspace_ids: greeting.recovered.iter().map(ToString::to_string).collect(),
            predecessors: greeting.predecessors.iter().map(|one| self.standpoint(*one)).collect(),
        };
        let answer =
            self.call(message, async |mut client: Client, request| client.meet(request).await).await?;
        let provider = answer.control_plane.as_ref().map(standpoint_of);
        let provider = provider
            .ok_or_else(|| Error::internal("the control plane did not say where its database stands"))??;
        let seen = answer.seen.iter().map(standpoint_of).collect::<Result<_>>()?;
        Ok(Met { provider, seen, agreed: answer.agreed })
    }

    /// The organisation's quota; what comes with it of the backend is remembered.
    async fn quota(&self) -> Result<wire::GetQuotaResponse> {
        let asked =
            self.call(wire::GetQuotaRequest {}, async |mut client, request| client.get_quota(request).await);
        let quota = asked.await?;
        let told = (quota.backend.clone(), quota.capabilities.clone());
        *self.told.write().unwrap_or_else(PoisonError::into_inner) = told;
        Ok(quota)
    }

    /// The token decides whose instances these are; they must be those that this tenant is for.
    async fn check_owner(&self) -> Result<()> {
        let owner = self.quota().await?.organization_id;
        if owner == self.organization.to_string() {
            return Ok(());
        }
        let message = format!(
            "MOLECULE_ORG_TOKEN is a token of organisation {owner}, but MOLECULE_ORG_ID is {}",
            self.organization
        );
        Err(Error::new(ErrorReason::PermissionDenied, message))
    }

    fn standpoint(&self, own: Standpoint) -> wire::Standpoint {
        wire::Standpoint {
            incarnation: own.incarnation.to_string(),
            revision: unsigned(own.revision.0),
            time: Some(time(self.clock.now())),
        }
    }

    async fn follow(&self, after: Cursors, standpoints: Standpoints) -> Result<Following> {
        let request = wire::WatchInstancesRequest {
            after_revision: u64::try_from(after.revision.0).unwrap_or(0),
            after_event: u64::try_from(after.event).unwrap_or(0),
            tenant: Some(self.standpoint(standpoints.own)),
            seen: standpoints.seen.map(|seen| self.standpoint(seen)),
        };
        let opened = self.client.clone().watch_instances(request).await.map_err(from_status)?;
        Ok(Following { at: after, messages: opened.into_inner() })
    }

    async fn next(&self, after: Cursors, standpoints: Standpoints) -> Result<Changes> {
        let mut stream = self.stream.lock().await;
        // taken out, so that a failure on the way leaves none behind
        let mut following = match stream.take() {
            Some(following) if following.at == after => following,
            _ => self.follow(after, standpoints).await?,
        };
        let message = match tokio::time::timeout(SILENCE, following.messages.message()).await {
            Ok(Ok(Some(message))) => message,
            Ok(Ok(None)) | Err(_) => {
                let message = "the control plane's stream has ended; connecting again";
                return Err(Error::new(ErrorReason::ControlPlaneUnavailable, message));
            }
            Ok(Err(status)) => return Err(from_status(status)),
        };
        let at = message.control_plane;
        let instances = message.instances.into_iter().map(|instance| self.view(instance, at.as_ref()));
        let changes = Changes {
            instances: instances.collect::<Result<_>>()?,
            incarnation: at.as_ref().and_then(|at| at.incarnation.parse().ok()),
            events: message.events.into_iter().map(event_of).collect::<Result<_>>()?,
            restarted_after_event: message.restarted_after_event.map(signed),
        };
        following.at = match changes.restarted_after_event {
            Some(event) => Cursors { revision: Revision(0), event },
            None => Cursors {
                revision: changes.instances.last().map_or(after.revision, |last| last.revision),
                event: changes.events.last().map_or(after.event, |last| last.id),
            },
        };
        *stream = Some(following);
        Ok(changes)
    }

    fn view(&self, instance: wire::Instance, at: Option<&wire::Standpoint>) -> Result<InstanceView> {
        instance_view(instance, at, self.organization, self.clock.now())
    }

    fn answered(
        &self,
        instance: Option<wire::Instance>,
        at: Option<&wire::Standpoint>,
    ) -> Result<InstanceView> {
        let instance =
            instance.ok_or_else(|| Error::internal("the control plane answered without an instance"));
        self.view(instance?, at)
    }
}

fn standpoint_of(said: &wire::Standpoint) -> Result<Standpoint> {
    let incarnation = said.incarnation.parse().map_err(Error::internal)?;
    Ok(Standpoint { incarnation, revision: Revision(signed(said.revision)) })
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn event_of(sent: molecule_proto::workspace::v1::Event) -> Result<Event> {
    Ok(Event {
        id: signed(sent.event_id),
        workspace: workspace_id(&sent.workspace_id)?,
        at: moment(sent.time),
        detail: event(sent),
    })
}

fn spec_to_wire(spec: &LaunchSpec) -> wire::InstanceSpec {
    wire::InstanceSpec {
        runtime: spec.runtime.clone(),
        tier: tier_to_wire(spec.tier).into(),
        agents_url: spec.agents_url.clone(),
        agents_ca_pem: spec.agents_ca.clone().unwrap_or_default(),
        reset_session: spec.reset_session,
    }
}

#[async_trait]
impl Provider for ControlPlane {
    fn info(&self) -> ProviderInfo {
        let told = self.told.read().unwrap_or_else(PoisonError::into_inner);
        let (backend, capabilities) = told.clone();
        ProviderInfo { mode: Mode::Saas, backend, capabilities }
    }

    async fn meet(&self, _organization: OrganizationId, greeting: Greeting) -> Result<Option<Met>> {
        let met = self.greet(greeting).await;
        let cause = met.as_ref().err().map(|error| error.message.clone());
        *self.away.lock().unwrap_or_else(PoisonError::into_inner) = cause;
        met.map(Some)
    }

    async fn inventory(&self, _organization: OrganizationId, met: &Standpoint) -> Result<Vec<InstanceView>> {
        let (mut all, mut page_token) = (Vec::new(), String::new());
        loop {
            let message = wire::ListInstancesRequest { page_size: 500, page_token, show_gone: true };
            let call = async |mut client: Client, request| client.list_instances(request).await;
            let page = self.call(message, call).await?;
            let shown = page.control_plane.as_ref().map(standpoint_of).transpose()?;
            if shown.is_none_or(|shown| shown.incarnation != met.incarnation || shown.revision < met.revision)
            {
                let message = "another control plane answered than the one that was met; meeting it again";
                return Err(Error::new(ErrorReason::ControlPlaneUnavailable, message));
            }
            for instance in page.instances {
                all.push(self.view(instance, page.control_plane.as_ref())?);
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(all);
            }
        }
    }

    async fn agree(
        &self,
        _organization: OrganizationId,
        standpoints: Standpoints,
        number: i64,
        waiting: &[(WorkspaceId, IntentNumber)],
    ) -> Result<()> {
        let counted = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let mut offset = 0;
        loop {
            let part = &waiting[offset..waiting.len().min(offset + WAITING_AT_ONCE)];
            let message = wire::AgreeRequest {
                tenant: Some(self.standpoint(standpoints.own)),
                seen: standpoints.seen.map(|seen| self.standpoint(seen)),
                waiting: part
                    .iter()
                    .map(|(workspace, number)| wire::WaitingWish {
                        workspace_id: workspace.to_string(),
                        intent: unsigned(number.0),
                    })
                    .collect(),
                offset: counted(offset),
                total: counted(waiting.len()),
                number: unsigned(number),
            };
            self.call(message, async |mut client: Client, request| client.agree(request).await).await?;
            offset += part.len();
            if offset >= waiting.len() {
                return Ok(());
            }
        }
    }

    async fn introduce(&self) {
        if self.info().backend.is_empty() {
            // an outage shows elsewhere
            let _ = tokio::time::timeout(INTRODUCTION, self.quota()).await;
        }
    }

    fn ready(&self) -> Result<()> {
        let away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(cause) = &*away else { return Ok(()) };
        let message = format!(
            "the control plane can't be asked now ({}); what is there goes on, and can be stopped and deleted",
            cause.trim_end_matches('.')
        );
        Err(Error::new(ErrorReason::ControlPlaneUnavailable, message)
            .with_retry_after(Duration::from_secs(5)))
    }

    fn age(&self, now: Timestamp) -> Duration {
        now.since(Timestamp::from_micros(self.heard.load(Ordering::Relaxed)))
    }

    async fn provision(&self, request: &ProvisionRequest, standpoints: Standpoints) -> Result<InstanceView> {
        let message = wire::ProvisionWorkspaceRequest {
            workspace_id: request.workspace.to_string(),
            spec: Some(spec_to_wire(&request.spec)),
            bootstrap_token: self.token(request.workspace, request.generation, &request.sealed_token)?,
            intent: unsigned(request.intent.0),
            generation: request.generation.0,
            stopped: !request.run,
            tenant: Some(self.standpoint(standpoints.own)),
            seen: standpoints.seen.map(|seen| self.standpoint(seen)),
            refusal_is_final: request.refusal_is_final,
        };
        let answer =
            self.call(message, async |mut client, request| client.provision_workspace(request).await).await?;
        self.answered(answer.instance, answer.control_plane.as_ref())
    }

    async fn change(&self, request: &ChangeRequest, standpoints: Standpoints) -> Result<InstanceView> {
        let (workspace_id, intent) = (request.workspace.to_string(), unsigned(request.intent.0));
        let tenant = Some(self.standpoint(standpoints.own));
        let seen = standpoints.seen.map(|seen| self.standpoint(seen));
        let refusal_is_final = request.refusal_is_final;
        let (instance, at) = match &request.change {
            Change::Start => {
                let message =
                    wire::StartWorkspaceRequest { workspace_id, intent, tenant, seen, refusal_is_final };
                let call = async |mut client: Client, request| client.start_workspace(request).await;
                let answer = self.call(message, call).await?;
                (answer.instance, answer.control_plane)
            }
            Change::Stop(cause) => {
                let (reason, message) = cause.clone().map_or((None, String::new()), |(r, m)| (Some(r), m));
                let reason = reason_to_wire(reason).into();
                let message =
                    wire::StopWorkspaceRequest { workspace_id, intent, reason, message, tenant, seen };
                let call = async |mut client: Client, request| client.stop_workspace(request).await;
                let answer = self.call(message, call).await?;
                (answer.instance, answer.control_plane)
            }
            Change::Delete => {
                let message = wire::DeprovisionWorkspaceRequest { workspace_id, intent, tenant, seen };
                let call = async |mut client: Client, request| client.deprovision_workspace(request).await;
                let answer = self.call(message, call).await?;
                (answer.instance, answer.control_plane)
            }
            Change::Replace { generation, spec, sealed_token, run } => {
                let message = wire::UpdateWorkspaceRequest {
                    workspace_id,
                    intent,
                    generation: generation.0,
                    spec: Some(spec_to_wire(spec)),
                    bootstrap_token: self.token(request.workspace, *generation, sealed_token)?,
                    run: *run,
                    tenant,
                    seen,
                    refusal_is_final,
                };
                let call = async |mut client: Client, request| client.update_workspace(request).await;
                let answer = self.call(message, call).await?;
                (answer.instance, answer.control_plane)
            }
        };
        self.answered(instance, at.as_ref())
    }

    async fn changes(
        &self,
        _organization: OrganizationId,
        after: Cursors,
        standpoints: Standpoints,
    ) -> Result<Changes> {
        let changes = self.next(after, standpoints).await;
        let cause = changes.as_ref().err().map(|error| error.message.clone());
        *self.away.lock().unwrap_or_else(PoisonError::into_inner) = cause;
        self.owner_is_checked.fetch_and(changes.is_ok(), Ordering::Relaxed);
        if changes.is_ok() {
            self.heard.store(self.clock.now().micros(), Ordering::Relaxed);
        }
        changes
    }

    async fn logs(
        &self,
        _organization: OrganizationId,
        workspace: WorkspaceId,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<LogChunk, CallError>>> {
        let request = wire::StreamInstanceLogsRequest {
            workspace_id: workspace.to_string(),
            follow: options.follow,
            tail_lines: options.tail.unwrap_or(0),
        };
        let opened = self.client.clone().stream_instance_logs(request).await.map_err(from_status)?;
        let chunks = opened
            .into_inner()
            .map_ok(|chunk| LogChunk { stderr: chunk.stderr, data: chunk.data })
            .map_err(|status| CallError::Unknown(from_status(status).message));
        Ok(chunks.boxed())
    }
}
