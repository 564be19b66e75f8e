//! The seam between what a customer wants and who provides it: an engine in this process, or the control plane.
//! Intent is stored first; the [forwarder](forwarder::Forwarder) carries it over and brings back what became of it.

mod embedded;
mod forwarder;
mod remote;

use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use molecule_domain::Timestamp;
use molecule_domain::error::Result;
use molecule_domain::id::{OrganizationId, Revision, WorkspaceId};
use molecule_proto::tenant::v1::Mode;
use molecule_provisioner::admission::{ChangeRequest, ProvisionRequest};
use molecule_provisioner::backend::{CallError, LogChunk, LogOptions};
use molecule_provisioner::model::{Event, InstanceView};

pub(crate) use self::embedded::Embedded;
pub(crate) use self::forwarder::Forwarder;
pub(crate) use self::remote::Remote;

/// What a provider is and can do.
#[derive(Clone, Debug)]
pub(crate) struct Nature {
    pub(crate) mode: Mode,
    /// The kind of backend that new workspaces go to; empty until the control plane has told.
    pub(crate) backend: String,
    pub(crate) capabilities: Vec<String>,
}

/// How far a provider's changes and events have been taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursors {
    pub(crate) revision: Revision,
    pub(crate) event: i64,
}

/// Changes and events in order; neither may be there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes {
    pub(crate) instances: Vec<InstanceView>,
    pub(crate) events: Vec<Event>,
    /// The provider knows less than the cursors say: its records follow from the first, its events after this one.
    pub(crate) restarted_after_event: Option<i64>,
}

/// Who provides instances.
#[async_trait]
pub(crate) trait Provisioning: Send + Sync + 'static {
    /// What it is and can do, as far as that is known here.
    fn nature(&self) -> Nature;
    /// Asks it for that where it has not told yet; not for long, and an outage is no error.
    async fn introduce(&self) {}
    /// Whether it can be asked now; why not, where it can't.
    fn ready(&self) -> Result<()>;
    /// How old its last word is.
    fn age(&self, now: Timestamp) -> Duration;
    /// Asks for a first instance; repeatable.
    async fn provision(&self, request: &ProvisionRequest) -> Result<InstanceView>;
    /// Asks for a change; repeatable.
    async fn change(&self, request: &ChangeRequest) -> Result<InstanceView>;
    /// What came after the cursors; waits a while where there is nothing yet.
    async fn changes(&self, organization: OrganizationId, after: Cursors) -> Result<Changes>;
    /// The output of an instance.
    async fn logs(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<LogChunk, CallError>>>;
}
