//! The engine in this process.

use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use molecule_domain::Timestamp;
use molecule_domain::error::{Error, ErrorReason, Result};
use molecule_domain::id::{OrganizationId, WorkspaceId};
use molecule_domain::incarnation::Standpoint;
use molecule_domain::instance::InstanceView;
use molecule_provisioner::admission::{ChangeRequest, ProvisionRequest};
use molecule_provisioner::backend::{CallError, LogChunk, LogOptions};
use molecule_provisioner::reconciler::orphans::Orphans;
use molecule_provisioner::store::Alarm;
use molecule_provisioner::{Engine, Instances};
use molecule_workspace::agreement::Met;
use molecule_workspace::store::Cursors;

use crate::provider::{Changes, Greeting, Mode, Provider, ProviderInfo, Standpoints};

/// How long to wait for something new.
const PATIENCE: Duration = Duration::from_secs(5);

/// A self-hosted tenant's engine, and the instances that it sees to.
#[derive(Debug)]
pub struct Embedded {
    /// Brings the local daemon to what is stored.
    pub engine: Engine,
    /// What is stored of this tenant's instances, in the same database.
    pub instances: Instances,
}

#[async_trait]
impl Provider for Embedded {
    fn info(&self) -> ProviderInfo {
        let capabilities = self.engine.capabilities().into_iter().chain(["mount.host_path"]);
        let mut capabilities: Vec<String> = capabilities.map(str::to_owned).collect();
        capabilities.sort_unstable();
        ProviderInfo { mode: Mode::SelfHosted, backend: self.engine.backend_kind().to_owned(), capabilities }
    }

    fn ready(&self) -> Result<()> {
        Ok(())
    }

    fn age(&self, _now: Timestamp) -> Duration {
        Duration::ZERO
    }

    async fn meet(&self, _organization: OrganizationId, _greeting: Greeting) -> Result<Option<Met>> {
        Ok(None)
    }

    async fn inventory(&self, organization: OrganizationId, _met: &Standpoint) -> Result<Vec<InstanceView>> {
        let mut all = Vec::new();
        loop {
            let after = all.last().map_or_else(Default::default, |last: &InstanceView| last.revision);
            let batch = self.instances.changed_after(organization, after).await?;
            if batch.is_empty() {
                return Ok(all);
            }
            all.extend(batch.into_iter().map(InstanceView::from));
        }
    }

    async fn provision(&self, request: &ProvisionRequest, _standpoints: Standpoints) -> Result<InstanceView> {
        self.instances.provision(request).await.map(InstanceView::from)
    }

    async fn change(&self, request: &ChangeRequest, _standpoints: Standpoints) -> Result<InstanceView> {
        self.instances.change(request).await.map(InstanceView::from)
    }

    async fn changes(
        &self,
        organization: OrganizationId,
        after: Cursors,
        _standpoints: Standpoints,
    ) -> Result<Changes> {
        let mut commits = self.instances.news(organization);
        loop {
            commits.borrow_and_update();
            let instances = self.instances.changed_after(organization, after.revision).await?;
            let events = self.instances.events_after(organization, after.event).await?;
            if !instances.is_empty() || !events.is_empty() {
                let instances = instances.into_iter().map(InstanceView::from).collect();
                return Ok(Changes { instances, events, ..Changes::default() });
            }
            if tokio::time::timeout(PATIENCE, commits.changed()).await.is_err() {
                return Ok(Changes::default());
            }
        }
    }

    async fn alarm(&self) -> Result<(Option<Alarm>, Orphans)> {
        let Some(alarm) = self.engine.alarm().await? else { return Ok((None, Orphans::default())) };
        let orphans = self.engine.orphans().await?.ok_or_else(|| {
            let message = "the daemon does not answer, so nobody can say what would be removed. The alarm stands; try again";
            Error::new(ErrorReason::BackendUnavailable, message)
        })?;
        Ok((Some(alarm), orphans))
    }

    async fn end_alarm(&self, orphans: &Orphans) -> Result<()> {
        Ok(self.engine.end_alarm(orphans).await?)
    }

    async fn logs(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<LogChunk, CallError>>> {
        self.engine.logs(organization, workspace, options).await
    }
}
