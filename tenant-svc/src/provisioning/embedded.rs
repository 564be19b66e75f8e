//! The engine in this process.

use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use molecule_domain::Timestamp;
use molecule_domain::error::Result;
use molecule_domain::id::{OrganizationId, WorkspaceId};
use molecule_proto::tenant::v1::Mode;
use molecule_provisioner::Engine;
use molecule_provisioner::admission::{ChangeRequest, ProvisionRequest};
use molecule_provisioner::backend::{CallError, LogChunk, LogOptions};
use molecule_provisioner::model::InstanceView;

use super::{Changes, Cursors, Nature, Provisioning};

/// How long to wait for something new.
const PATIENCE: Duration = Duration::from_secs(5);

/// A self-hosted tenant's engine.
#[derive(Debug)]
pub(crate) struct Embedded(pub(crate) Engine);

#[async_trait]
impl Provisioning for Embedded {
    fn nature(&self) -> Nature {
        let capabilities = self.0.capabilities().into_iter().chain(["mount.host_path"]);
        let mut capabilities: Vec<String> = capabilities.map(str::to_owned).collect();
        capabilities.sort_unstable();
        Nature { mode: Mode::SelfHosted, backend: self.0.backend_kind().to_owned(), capabilities }
    }

    fn ready(&self) -> Result<()> {
        Ok(())
    }

    fn age(&self, _now: Timestamp) -> Duration {
        Duration::ZERO
    }

    async fn provision(&self, request: &ProvisionRequest) -> Result<InstanceView> {
        self.0.provision(request).await.map(InstanceView::from)
    }

    async fn change(&self, request: &ChangeRequest) -> Result<InstanceView> {
        self.0.change(request).await.map(InstanceView::from)
    }

    async fn changes(&self, organization: OrganizationId, after: Cursors) -> Result<Changes> {
        let mut news = self.0.news(organization);
        loop {
            news.borrow_and_update();
            let instances = self.0.changed_after(organization, after.revision).await?;
            let events = self.0.events_after(organization, after.event).await?;
            if !instances.is_empty() || !events.is_empty() {
                let instances = instances.into_iter().map(InstanceView::from).collect();
                return Ok(Changes { instances, events, restarted_after_event: None });
            }
            if tokio::time::timeout(PATIENCE, news.changed()).await.is_err() {
                return Ok(Changes::default());
            }
        }
    }

    async fn logs(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<LogChunk, CallError>>> {
        self.0.logs(organization, workspace, options).await
    }
}
