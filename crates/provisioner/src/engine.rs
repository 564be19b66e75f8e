//! The engine of one backend, as services use it.

use std::sync::Arc;

use futures::stream::BoxStream;
use molecule_domain::id::{OrganizationId, WorkspaceId};
use molecule_domain::{Clock, Error, ErrorReason, Result};
use tokio_util::sync::CancellationToken;

use crate::backend::{Backend, CallError, LogChunk, LogOptions};
use crate::faults::Steps;
use crate::model::InstanceRecord;
use crate::policy::Policy;
use crate::reconciler::driver;
use crate::reconciler::execute::Executor;
use crate::reconciler::orphans::{self, Orphans};
use crate::store::{Alarm, Store};
use molecule_domain::seal::Sealer;

/// The lifecycle engine over one store and one backend.
#[derive(Clone, Debug)]
pub struct Engine {
    executor: Arc<Executor>,
}

impl Engine {
    /// An engine that does nothing until it is [run](Self::run).
    pub fn new(
        backend: Arc<dyn Backend>,
        store: Arc<dyn Store>,
        sealer: Arc<dyn Sealer>,
        clock: Arc<dyn Clock>,
        policy: Policy,
        steps: Steps,
    ) -> Self {
        Self { executor: Arc::new(Executor { backend, store, sealer, clock, policy, steps }) }
    }

    /// Reconciles until cancelled.
    pub async fn run(&self, cancel: CancellationToken) {
        driver::run(Arc::clone(&self.executor), cancel).await;
    }

    /// The backend's kind.
    pub fn backend_kind(&self) -> &'static str {
        self.executor.backend.kind()
    }

    /// What its backend can do beyond the common API, as a tenant's `GetServerInfo` declares it.
    pub fn capabilities(&self) -> Vec<&'static str> {
        let mut all = vec!["session.reset"];
        if self.executor.backend.streams_logs() {
            all.insert(0, "logs.stream");
        }
        all
    }

    /// The output of a workspace's current instance.
    pub async fn logs(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<LogChunk, CallError>>> {
        if !self.executor.backend.streams_logs() {
            let kind = self.backend_kind();
            return Err(Error::new(
                ErrorReason::NotSupported,
                format!("the backend {kind} streams no output; read the console"),
            ));
        }
        let record = self.launched(organization, workspace).await?;
        Ok(self.executor.backend.logs(&record.instance(), options).await?)
    }

    /// What the machine of a workspace's current instance wrote to its console.
    pub async fn console(&self, organization: OrganizationId, workspace: WorkspaceId) -> Result<Vec<u8>> {
        let record = self.launched(organization, workspace).await?;
        let console = self.executor.backend.console(&record.instance()).await?;
        console.ok_or_else(|| {
            let kind = self.backend_kind();
            Error::new(
                ErrorReason::NotSupported,
                format!("the backend {kind} has no consoles; read the logs"),
            )
        })
    }

    async fn launched(&self, organization: OrganizationId, workspace: WorkspaceId) -> Result<InstanceRecord> {
        let found = self.executor.store.get(organization, workspace).await?;
        let record = found.ok_or_else(|| Error::workspace_not_found(workspace))?;
        if record.attempt.is_none() {
            return Err(Error::new(
                ErrorReason::WrongState,
                format!("workspace {workspace} has not been launched yet, so it has no output"),
            ));
        }
        Ok(record)
    }

    /// Everything at the provider that no record explains; `None` where the provider does not answer.
    pub async fn orphans(&self) -> Result<Option<Orphans>> {
        Ok(orphans::list(&self.executor).await?)
    }

    /// Removes orphans that an operator has seen, unless an alarm stands.
    pub async fn remove_orphans(&self, orphans: &Orphans) -> Result<()> {
        self.may_remove(orphans).await?;
        orphans::remove(&self.executor, orphans).await;
        Ok(())
    }

    /// Refuses while an alarm stands, or while one of these calls for one.
    pub async fn may_remove(&self, orphans: &Orphans) -> Result<()> {
        if orphans.unknown.is_empty() && self.alarm().await?.is_none() {
            return Ok(());
        }
        Err(Error::new(
            ErrorReason::AlarmStands,
            format!(
                "nothing is removed at the backend {} while its alarm stands: launches are there that the database does not \
                 know. Look at the alarms, and end them if all that is listed may go",
                self.backend_kind()
            ),
        ))
    }

    /// The alarm that stands for its backend.
    pub async fn alarm(&self) -> Result<Option<Alarm>> {
        Ok(orphans::alarm(&self.executor).await?)
    }

    /// Ends the alarm by a person's word, who has seen these orphans: the sweeps remove them from now on.
    pub async fn end_alarm(&self, orphans: &Orphans) -> Result<()> {
        let (store, now) = (&self.executor.store, self.executor.clock.now());
        Ok(store.end_alarm(self.backend_kind(), &orphans.answered_for(), now).await?)
    }
}
