//! The seam between what a customer wants and who provides it: an engine in this process now, a control plane
//! for `SaaS` tenants later. Intent is stored first; this carries it over, and brings back what became of it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use molecule_domain::error::{Error, ErrorCode, Result};
use molecule_domain::id::{OrganizationId, Revision, WorkspaceId};
use molecule_domain::spec::SpecRules;
use molecule_domain::{Clock, ErrorReason};
use molecule_provisioner::Engine;
use molecule_provisioner::admission::{Change, ChangeRequest, ProvisionRequest};
use molecule_provisioner::backend::{CallError, LogChunk, LogOptions};
use molecule_provisioner::model::{Event, InstanceRecord};
use molecule_store_sqlite::tenant::TenantStore;
use molecule_store_sqlite::tenant::model::{Intent, Pending, WorkspaceRecord};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// Who provides instances.
#[async_trait]
pub(crate) trait Provisioning: Send + Sync + 'static {
    /// What kind of backend it has.
    fn backend_kind(&self) -> String;
    /// Asks for a first instance; repeatable.
    async fn provision(&self, request: &ProvisionRequest) -> Result<InstanceRecord>;
    /// Asks for a change; repeatable.
    async fn change(&self, request: &ChangeRequest) -> Result<InstanceRecord>;
    /// Changes after a revision, in order.
    async fn changed_after(
        &self,
        organization: OrganizationId,
        after: Revision,
    ) -> Result<Vec<InstanceRecord>>;
    /// Events after an id, in order.
    async fn events_after(&self, organization: OrganizationId, after: i64) -> Result<Vec<Event>>;
    /// The output of an instance.
    async fn logs(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<LogChunk, CallError>>>;
    /// Rises when there may be something new.
    fn news(&self, organization: OrganizationId) -> watch::Receiver<u64>;
}

#[async_trait]
impl Provisioning for Engine {
    fn backend_kind(&self) -> String {
        Self::backend_kind(self).to_owned()
    }

    async fn provision(&self, request: &ProvisionRequest) -> Result<InstanceRecord> {
        Self::provision(self, request).await
    }

    async fn change(&self, request: &ChangeRequest) -> Result<InstanceRecord> {
        Self::change(self, request).await
    }

    async fn changed_after(
        &self,
        organization: OrganizationId,
        after: Revision,
    ) -> Result<Vec<InstanceRecord>> {
        Self::changed_after(self, organization, after).await
    }

    async fn events_after(&self, organization: OrganizationId, after: i64) -> Result<Vec<Event>> {
        Self::events_after(self, organization, after).await
    }

    async fn logs(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<LogChunk, CallError>>> {
        Self::logs(self, organization, workspace, options).await
    }

    fn news(&self, organization: OrganizationId) -> watch::Receiver<u64> {
        Self::news(self, organization)
    }
}

/// Carries intent over and answers back.
#[derive(Clone)]
pub(crate) struct Forwarder {
    pub(crate) store: TenantStore,
    pub(crate) provisioning: Arc<dyn Provisioning>,
    pub(crate) rules: Arc<SpecRules>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Forwarder {
    /// Tells the provider of a workspace's latest intent, where it has not been told. Returns the workspace
    /// as it is then.
    pub(crate) async fn forward(&self, record: WorkspaceRecord) -> Result<WorkspaceRecord> {
        let Some(pending) = self.store.pending_of(record.workspace).await? else { return Ok(record) };
        self.tell(&pending).await
    }

    async fn tell(&self, pending: &Pending) -> Result<WorkspaceRecord> {
        let record = &pending.record;
        let answer = match self.request(pending)? {
            Request::Provision(request) => self.provisioning.provision(&request).await,
            Request::Change(request) => self.provisioning.change(&request).await,
        };
        let instance = match answer {
            Ok(instance) => instance,
            Err(error) => {
                if is_definite(&error) && pending.intent == Intent::Provision {
                    self.store.discard(record.workspace).await?;
                } else if is_definite(&error) {
                    let now = self.clock.now();
                    self.store.withdraw(record.organization, record.workspace, record.intent, now).await?;
                }
                return Err(error);
            }
        };
        self.store.forwarded(record.workspace, record.intent).await?;
        Ok(self.store.mirror_answer(&instance, self.clock.now()).await?)
    }

    fn request(&self, pending: &Pending) -> Result<Request> {
        let record = &pending.record;
        let (organization, workspace) = (record.organization, record.workspace);
        let launch_spec = |reset| {
            let spec = self.rules.launch_spec(&record.spec, reset);
            spec.ok_or_else(|| {
                Error::new(
                    ErrorReason::WrongState,
                    format!(
                        "the runtime {:?} is no longer known; add it to the runtimes file again",
                        record.spec.runtime
                    ),
                )
            })
        };
        let sealed_token = pending.sealed_token.clone().unwrap_or_default();
        let change = match &pending.intent {
            Intent::Provision => {
                let spec = launch_spec(false)?;
                return Ok(Request::Provision(Box::new(ProvisionRequest {
                    organization,
                    workspace,
                    backend: self.provisioning.backend_kind(),
                    spec,
                    sealed_token,
                })));
            }
            Intent::Start => Change::Start,
            Intent::Stop(cause) => Change::Stop(cause.clone()),
            Intent::Delete => Change::Delete,
            Intent::Replace { run, reset_session } => Change::Replace {
                generation: record.generation,
                spec: Box::new(launch_spec(*reset_session)?),
                sealed_token,
                run: *run,
            },
        };
        Ok(Request::Change(ChangeRequest { organization, workspace, intent: record.intent, change }))
    }

    /// Until cancelled: carries over what a crash or an outage left behind, and takes over every change.
    pub(crate) async fn run(self, organization: OrganizationId, cancel: CancellationToken) {
        let mut news = self.provisioning.news(organization);
        let mut backlog = tokio::time::interval(Duration::from_secs(5));
        loop {
            news.borrow_and_update();
            match self.take_over(organization).await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => {
                    warn!(error = &error as &dyn std::error::Error, "changes wait to be taken over");
                }
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = news.changed() => {}
                _ = backlog.tick() => self.carry_over().await,
            }
        }
    }

    async fn carry_over(&self) {
        let pending = match self.store.pending().await {
            Ok(pending) => pending,
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "the backlog can't be read");
                return;
            }
        };
        for one in pending {
            if let Err(error) = self.tell(&one).await {
                debug!(workspace = %one.record.workspace, error = &error as &dyn std::error::Error, "an intent waits");
            }
        }
    }

    /// One batch; whether there may be more.
    async fn take_over(&self, organization: OrganizationId) -> Result<bool> {
        let (revision, event) = self.store.cursors(organization).await?;
        let instances = self.provisioning.changed_after(organization, revision).await?;
        let events = self.provisioning.events_after(organization, event).await?;
        if instances.is_empty() && events.is_empty() {
            return Ok(false);
        }
        self.store.mirror(organization, &instances, &events, self.clock.now()).await?;
        Ok(true)
    }
}

enum Request {
    Provision(Box<ProvisionRequest>),
    Change(ChangeRequest),
}

/// Whether asking again can't help: then the intent is not kept.
fn is_definite(error: &Error) -> bool {
    !matches!(error.code(), ErrorCode::Unavailable | ErrorCode::DeadlineExceeded | ErrorCode::Internal)
}
