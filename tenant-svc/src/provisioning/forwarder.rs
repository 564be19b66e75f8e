//! Carries intent over to whoever provides, and brings back what became of it.

use std::sync::Arc;
use std::time::Duration;

use molecule_domain::error::{Error, ErrorCode, Result};
use molecule_domain::id::OrganizationId;
use molecule_domain::spec::SpecRules;
use molecule_domain::{Clock, ErrorReason};
use molecule_provisioner::admission::{Change, ChangeRequest, ProvisionRequest};
use molecule_store_sqlite::tenant::TenantStore;
use molecule_store_sqlite::tenant::model::{Intent, Pending, WorkspaceRecord};
use molecule_telemetry::trace;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, info_span, warn};

use super::{Cursors, Provisioning};

/// How often what could not be carried over is tried again.
const BACKLOG_EVERY: Duration = Duration::from_secs(5);
/// How long to wait before asking again for changes.
const PAUSE: Duration = Duration::from_secs(1);

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

    /// The same for what may wait: where the provider is away, it is told later.
    pub(crate) async fn forward_soon(&self, record: WorkspaceRecord) -> Result<WorkspaceRecord> {
        match self.forward(record.clone()).await {
            Err(error) if !is_definite(&error) => {
                info!(workspace = %record.workspace, error = &error as &dyn std::error::Error, "told later");
                Ok(record)
            }
            result => result,
        }
    }

    /// In the trace of what was asked for, however long ago that was.
    async fn tell(&self, pending: &Pending) -> Result<WorkspaceRecord> {
        let record = &pending.record;
        let span = info_span!("forward", workspace = %record.workspace, intent = %record.intent);
        trace::continue_from(&span, &record.trace);
        trace::within(span, self.tell_in_its_trace(pending)).await
    }

    async fn tell_in_its_trace(&self, pending: &Pending) -> Result<WorkspaceRecord> {
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
                    backend: self.provisioning.nature().backend,
                    spec,
                    sealed_token,
                    trace: trace::current(),
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
        let (intent, trace) = (record.intent, trace::current());
        Ok(Request::Change(ChangeRequest { organization, workspace, intent, change, trace }))
    }

    /// Until cancelled: carries over what a crash or an outage left behind, and takes over every change.
    pub(crate) async fn run(self, organization: OrganizationId, cancel: CancellationToken) {
        let backlog = async {
            loop {
                self.carry_over().await;
                tokio::time::sleep(BACKLOG_EVERY).await;
            }
        };
        let changes = async {
            let mut away = false;
            loop {
                match self.take_over(organization).await {
                    Ok(()) => {
                        if std::mem::take(&mut away) {
                            info!("changes are taken over again");
                            self.carry_over().await;
                        }
                    }
                    Err(error) => {
                        // once for an outage, not every second
                        if !std::mem::replace(&mut away, true) {
                            warn!(error = &error as &dyn std::error::Error, "changes wait to be taken over");
                        }
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        };
        let both = async { tokio::join!(backlog, changes) };
        cancel.run_until_cancelled(Box::pin(both)).await;
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

    /// One batch.
    async fn take_over(&self, organization: OrganizationId) -> Result<()> {
        let (revision, event) = self.store.cursors(organization).await?;
        let changes = self.provisioning.changes(organization, Cursors { revision, event }).await?;
        if let Some(event) = changes.restarted_after_event {
            warn!(%revision, "the control plane knows less than it told before, as after a restore; following it anew");
            self.store.restart_mirror(organization, event).await?;
            return Ok(());
        }
        if changes.instances.is_empty() && changes.events.is_empty() {
            return Ok(());
        }
        self.store.mirror(organization, &changes.instances, &changes.events, self.clock.now()).await?;
        Ok(())
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
