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
use molecule_domain::launch::LaunchSpec;
use molecule_domain::seal::token_context;
use molecule_domain::{Clock, Timestamp};
use molecule_proto::controlplane::v1 as wire;
use molecule_proto::controlplane::v1::provisioning_service_client::ProvisioningServiceClient;
use molecule_proto::tenant::v1::Mode;
use molecule_provisioner::admission::{Change, ChangeRequest, ProvisionRequest};
use molecule_provisioner::backend::{CallError, LogChunk, LogOptions};
use molecule_provisioner::model::{Endpoint, Event, InstanceView};
use molecule_service_kit::client::{Bearer, DEADLINE, RetryBudget};
use molecule_service_kit::seal::Aes;
use molecule_service_kit::status::from_status;
use molecule_service_kit::wire::{
    desired, event, moment, phase, reason, reason_to_wire, tier_to_wire, workspace_id,
};
use tokio::sync::Mutex;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

use super::{Changes, Cursors, Nature, Provisioning};

/// A living stream says something at least this often; the control plane does so every five seconds.
const SILENCE: Duration = Duration::from_secs(20);

/// How long to wait for what the backend is, where that is not known yet.
const INTRODUCTION: Duration = Duration::from_secs(2);

type Client = ProvisioningServiceClient<InterceptedService<Channel, Bearer>>;

/// The control plane of a SaaS tenant.
pub(crate) struct Remote {
    client: Client,
    organization: OrganizationId,
    key: Arc<Aes>,
    clock: Arc<dyn Clock>,
    budget: RetryBudget,
    stream: Mutex<Option<Following>>,
    away: AtomicBool,
    heard: AtomicI64,
    /// The backend and its capabilities, as the control plane last told them.
    told: RwLock<(String, Vec<String>)>,
}

struct Following {
    at: Cursors,
    messages: Streaming<wire::WatchInstancesResponse>,
}

impl Remote {
    /// Over a channel that connects by itself. Sealed tokens open with `key`.
    pub(crate) fn new(
        channel: Channel,
        bearer: Bearer,
        organization: OrganizationId,
        key: Arc<Aes>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let started = AtomicI64::new(clock.now().micros());
        Self {
            client: ProvisioningServiceClient::with_interceptor(channel, bearer),
            organization,
            key,
            clock,
            budget: RetryBudget::default(),
            stream: Mutex::default(),
            away: AtomicBool::new(false),
            heard: started,
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

    /// The organisation's quota; what comes with it of the backend is remembered.
    async fn quota(&self) -> Result<wire::GetQuotaResponse> {
        let asked =
            self.call(wire::GetQuotaRequest {}, async |mut client, request| client.get_quota(request).await);
        let quota = asked.await?;
        let told = (quota.backend.clone(), quota.capabilities.clone());
        *self.told.write().unwrap_or_else(PoisonError::into_inner) = told;
        Ok(quota)
    }

    async fn follow(&self, after: Cursors) -> Result<Following> {
        // the token decides whose instances these are; they must be those that this tenant is for
        let quota = self.quota().await?;
        let owner = quota.organization_id;
        if owner != self.organization.to_string() {
            return Err(Error::new(
                ErrorReason::PermissionDenied,
                format!(
                    "MOLECULE_ORG_TOKEN is a token of organisation {owner}, but MOLECULE_ORG_ID is {}",
                    self.organization
                ),
            ));
        }
        let request = wire::WatchInstancesRequest {
            after_revision: u64::try_from(after.revision.0).unwrap_or(0),
            after_event: u64::try_from(after.event).unwrap_or(0),
        };
        let opened = self.client.clone().watch_instances(request).await.map_err(from_status)?;
        Ok(Following { at: after, messages: opened.into_inner() })
    }

    async fn next(&self, after: Cursors) -> Result<Changes> {
        let mut stream = self.stream.lock().await;
        // taken out, so that a failure on the way leaves none behind
        let mut following = match stream.take() {
            Some(following) if following.at == after => following,
            _ => self.follow(after).await?,
        };
        let message = match tokio::time::timeout(SILENCE, following.messages.message()).await {
            Ok(Ok(Some(message))) => message,
            Ok(Ok(None)) | Err(_) => {
                let message = "the control plane's stream has ended; connecting again";
                return Err(Error::new(ErrorReason::ControlPlaneUnavailable, message));
            }
            Ok(Err(status)) => return Err(from_status(status)),
        };
        let instances = message.instances.into_iter().map(|instance| self.view(instance));
        let changes = Changes {
            instances: instances.collect::<Result<_>>()?,
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

    fn view(&self, instance: wire::Instance) -> Result<InstanceView> {
        let unknown =
            |what| Error::internal(format!("the control plane sent an instance with an unknown {what}"));
        Ok(InstanceView {
            workspace: workspace_id(&instance.workspace_id)?,
            organization: self.organization,
            desired: desired(instance.desired_state).ok_or_else(|| unknown("desired state"))?,
            intent: IntentNumber(signed(instance.intent)),
            generation: Generation(instance.generation),
            phase: phase(instance.phase).ok_or_else(|| unknown("phase"))?,
            phase_since: moment(instance.phase_time),
            reason: reason(instance.reason),
            message: instance.message,
            endpoint: instance.endpoint.map(|endpoint| Endpoint {
                host: endpoint.host,
                port: u16::try_from(endpoint.port).unwrap_or_default(),
            }),
            revision: Revision(signed(instance.revision)),
        })
    }

    fn answered(&self, instance: Option<wire::Instance>) -> Result<InstanceView> {
        let instance =
            instance.ok_or_else(|| Error::internal("the control plane answered without an instance"));
        self.view(instance?)
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: IntentNumber) -> u64 {
    u64::try_from(number.0).unwrap_or(0)
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
impl Provisioning for Remote {
    fn nature(&self) -> Nature {
        let told = self.told.read().unwrap_or_else(PoisonError::into_inner);
        let (backend, capabilities) = told.clone();
        Nature { mode: Mode::Saas, backend, capabilities }
    }

    async fn introduce(&self) {
        if self.nature().backend.is_empty() {
            // an outage shows elsewhere
            let _ = tokio::time::timeout(INTRODUCTION, self.quota()).await;
        }
    }

    fn ready(&self) -> Result<()> {
        if self.away.load(Ordering::Relaxed) {
            return Err(Error::new(
                ErrorReason::ControlPlaneUnavailable,
                "the control plane does not answer; what is there goes on, and can be stopped and deleted",
            )
            .with_retry_after(Duration::from_secs(5)));
        }
        Ok(())
    }

    fn age(&self, now: Timestamp) -> Duration {
        now.since(Timestamp::from_micros(self.heard.load(Ordering::Relaxed)))
    }

    async fn provision(&self, request: &ProvisionRequest) -> Result<InstanceView> {
        let message = wire::ProvisionWorkspaceRequest {
            workspace_id: request.workspace.to_string(),
            spec: Some(spec_to_wire(&request.spec)),
            bootstrap_token: self.token(request.workspace, Generation(1), &request.sealed_token)?,
        };
        let answer =
            self.call(message, async |mut client, request| client.provision_workspace(request).await).await?;
        self.answered(answer.instance)
    }

    async fn change(&self, request: &ChangeRequest) -> Result<InstanceView> {
        let (workspace_id, intent) = (request.workspace.to_string(), unsigned(request.intent));
        let instance = match &request.change {
            Change::Start => {
                let message = wire::StartWorkspaceRequest { workspace_id, intent };
                self.call(message, async |mut client, request| client.start_workspace(request).await)
                    .await?
                    .instance
            }
            Change::Stop(cause) => {
                let (reason, message) = cause.clone().map_or((None, String::new()), |(r, m)| (Some(r), m));
                let reason = reason_to_wire(reason).into();
                let message = wire::StopWorkspaceRequest { workspace_id, intent, reason, message };
                self.call(message, async |mut client, request| client.stop_workspace(request).await)
                    .await?
                    .instance
            }
            Change::Delete => {
                let message = wire::DeprovisionWorkspaceRequest { workspace_id, intent };
                self.call(message, async |mut client, request| client.deprovision_workspace(request).await)
                    .await?
                    .instance
            }
            Change::Replace { generation, spec, sealed_token, run } => {
                let message = wire::UpdateWorkspaceRequest {
                    workspace_id,
                    intent,
                    generation: generation.0,
                    spec: Some(spec_to_wire(spec)),
                    bootstrap_token: self.token(request.workspace, *generation, sealed_token)?,
                    run: *run,
                };
                self.call(message, async |mut client, request| client.update_workspace(request).await)
                    .await?
                    .instance
            }
        };
        self.answered(instance)
    }

    async fn changes(&self, _organization: OrganizationId, after: Cursors) -> Result<Changes> {
        let changes = self.next(after).await;
        self.away.store(changes.is_err(), Ordering::Relaxed);
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
