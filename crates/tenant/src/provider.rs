//! The seam between what a customer wants and who provides it: an engine in this process, or the control plane.

use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use molecule_domain::Timestamp;
use molecule_domain::error::{Error, ErrorReason, Result};
use molecule_domain::id::{IncarnationId, IntentNumber, OrganizationId, WorkspaceId};
use molecule_domain::incarnation::Standpoint;
use molecule_domain::instance::{Event, InstanceView};
use molecule_provisioner::admission::{ChangeRequest, ProvisionRequest};
use molecule_provisioner::backend::{CallError, LogChunk, LogOptions};
use molecule_provisioner::reconciler::orphans::Orphans;
use molecule_provisioner::store::Alarm;
use molecule_workspace::agreement::Met;
use molecule_workspace::store::Cursors;

/// Who launches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// An engine in this process.
    SelfHosted,
    /// The control plane.
    Saas,
}

/// What a provider is and can do.
#[derive(Clone, Debug)]
pub struct ProviderInfo {
    /// Who launches.
    pub mode: Mode,
    /// The kind of backend that new workspaces go to; empty until the control plane has told.
    pub backend: String,
    /// What it can do beyond the common API.
    pub capabilities: Vec<String>,
}

/// Records and events in order; there may be none of either.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Records, in order of their revisions.
    pub instances: Vec<InstanceView>,
    /// Events, in order of their numbers.
    pub events: Vec<Event>,
    /// The provider knows less than the cursors say: its records follow from the first, its events after this one.
    pub restarted_after_event: Option<i64>,
    /// The provider's start that says so; `None` where it shares this tenant's database.
    pub incarnation: Option<IncarnationId>,
}

/// Where the two databases stand, as this tenant knows it. It is said with every call, so that a database that was put
/// back on either side shows itself.
#[derive(Clone, Copy, Debug)]
pub struct Standpoints {
    /// This tenant's.
    pub own: Standpoint,
    /// The provider's, as it was last seen; `None` before the first meeting, and where the provider shares this tenant's.
    pub seen: Option<Standpoint>,
}

/// What a process of a tenant's says of itself when it meets the provider.
#[derive(Clone, Debug)]
pub struct Greeting {
    /// Where the two databases stand.
    pub standpoints: Standpoints,
    /// The workspaces that run as recovered.
    pub recovered: Vec<WorkspaceId>,
    /// This process's predecessors over the same database, newest first, each as it was when it ended.
    pub predecessors: Vec<Standpoint>,
}

/// Who provides instances.
#[async_trait]
pub trait Provider: Send + Sync + 'static {
    /// What it is and can do, as far as that is known here.
    fn info(&self) -> ProviderInfo;
    /// Asks it for that where it has not told yet; not for long, and an outage is no error.
    async fn introduce(&self) {}
    /// Whether it can be asked now; why not, where it can't.
    fn ready(&self) -> Result<()>;
    /// How old its last word is.
    fn age(&self, now: Timestamp) -> Duration;
    /// Makes this process known, and hears where the provider stands and what it had seen of this tenant. `None` where
    /// the provider shares this tenant's database: the two are put back together.
    async fn meet(&self, organization: OrganizationId, greeting: Greeting) -> Result<Option<Met>>;
    /// Every instance as it is now, what is gone included, in order of revision. An answer of another start than the one
    /// that was met, or of one that knows less, is an error.
    async fn inventory(&self, organization: OrganizationId, met: &Standpoint) -> Result<Vec<InstanceView>>;
    /// Says that this tenant has agreed with the provider on all that there is, and what it has still to tell: the workspaces
    /// of which wishes wait, each with the number of the last. `number` rises with each agreement of this process: one that is
    /// heard late changes nothing.
    async fn agree(
        &self,
        _organization: OrganizationId,
        _standpoints: Standpoints,
        _number: i64,
        _waiting: &[(WorkspaceId, IntentNumber)],
    ) -> Result<()> {
        Ok(())
    }
    /// Asks for a first instance; repeatable by the workspace's id.
    async fn provision(&self, request: &ProvisionRequest, standpoints: Standpoints) -> Result<InstanceView>;
    /// Asks for a change; repeatable by the workspace's id and the number of the wish.
    async fn change(&self, request: &ChangeRequest, standpoints: Standpoints) -> Result<InstanceView>;
    /// What came after the cursors; waits a while where there is nothing yet.
    async fn changes(
        &self,
        organization: OrganizationId,
        after: Cursors,
        standpoints: Standpoints,
    ) -> Result<Changes>;
    /// The alarm that stands, with what would be removed once it is ended. An error where somebody else than this tenant
    /// sees to that.
    async fn alarm(&self) -> Result<(Option<Alarm>, Orphans)> {
        Err(alarms_are_elsewhere())
    }
    /// Ends the alarm: the next sweeps remove these.
    async fn end_alarm(&self, _orphans: &Orphans) -> Result<()> {
        Err(alarms_are_elsewhere())
    }
    /// The output of an instance.
    async fn logs(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<LogChunk, CallError>>>;
}

fn alarms_are_elsewhere() -> Error {
    Error::new(
        ErrorReason::NotSupported,
        "the control plane launches for this tenant: its operators see to its alarms, with `molecule admin alarms`",
    )
}
