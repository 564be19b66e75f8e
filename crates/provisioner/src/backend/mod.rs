//! The seam to a provider of containers or machines.

#[cfg(feature = "test-util")]
pub mod memory;

use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use molecule_domain::error::{Error, ErrorReason};
use molecule_domain::id::{AttemptNumber, LaunchSeq, OrganizationId, WorkspaceId};
use molecule_domain::launch::LaunchSpec;
use molecule_domain::lifecycle::Reason;

use crate::model::{Attempt, AttemptState, InstanceRef};
use crate::observation::OwnedInstance;

/// A provider of instances. Every call is idempotent, and safe beside any other call.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// What kind it is, in one lower-case word.
    fn kind(&self) -> &'static str;

    /// How long the provider may keep showing the past.
    fn visibility_lag(&self) -> Duration;

    /// For how long what falls due is gathered, so that one look serves it all: where the provider bounds how often it may be
    /// asked.
    fn gather(&self) -> Duration {
        Duration::ZERO
    }

    /// Makes ready what a launch needs and what may take long, such as an image, and chooses where it goes. Never
    /// waits for it: where it is under way, the answer says so.
    async fn prepare(&self, request: &PrepareRequest<'_>) -> Prepared;

    /// Launches an instance, or finishes the launch of the same token.
    async fn launch(&self, request: &LaunchRequest) -> Result<(), CallError>;

    /// Does for an instance that is [unattached](crate::observation::InstanceState::Unattached) what could not be
    /// done while it came up. Asked only by a provider that tells of such.
    async fn attach(&self, found: &OwnedInstance, _spec: &LaunchSpec) -> Result<(), CallError> {
        Err(CallError::Unknown(format!("nothing is to be attached to {:?}", found.instance)))
    }

    /// Starts the instance of a launch, which is down. Succeeds where it runs.
    async fn start(&self, instance: &InstanceRef, seq: LaunchSeq) -> Result<(), CallError>;

    /// Stops the instance of a launch; its process has `grace` to end by itself. Done where it is down or gone, and
    /// where what has its name is of another launch.
    async fn stop(
        &self,
        instance: &InstanceRef,
        seq: LaunchSeq,
        grace: Duration,
    ) -> Result<Progress, CallError>;

    /// Takes an instance away, running or not. Done where it is gone, and where what has its name is of
    /// another launch than `seq`. Its workspace's data stays.
    async fn remove(&self, instance: &InstanceRef, seq: LaunchSeq) -> Result<Progress, CallError>;

    /// Takes away everything else of a workspace's: volumes, disks, addresses. Succeeds only once the provider
    /// confirms that nothing is left.
    async fn purge(&self, organization: OrganizationId, workspace: WorkspaceId) -> Result<(), CallError>;

    /// All instances of this installation, whole or not at all.
    async fn list_instances(&self) -> Result<Vec<OwnedInstance>, CallError>;

    /// All instances of the workspaces of these, whatever their generation and launch, whole or not at all. More than was
    /// asked for may be in the answer.
    async fn find_instances(&self, _wanted: &[InstanceRef]) -> Result<Vec<OwnedInstance>, CallError> {
        self.list_instances().await
    }

    /// Everything else of this installation's that belongs to a workspace, whole or not at all; what is attached to an
    /// instance, which is listed itself, may be left out.
    async fn list_resources(&self) -> Result<Vec<OwnedResource>, CallError>;

    /// What can be told of the instance of a launch that ended.
    async fn post_mortem(&self, instance: &InstanceRef, seq: LaunchSeq) -> Result<PostMortem, CallError>;

    /// Whether [`logs`](Self::logs) has something to tell.
    fn streams_logs(&self) -> bool {
        true
    }

    /// The output of an instance.
    async fn logs(
        &self,
        instance: &InstanceRef,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<LogChunk, CallError>>, CallError>;

    /// What the machine wrote to its console; `None` where this backend has no machines.
    async fn console(&self, _instance: &InstanceRef) -> Result<Option<Vec<u8>>, CallError> {
        Ok(None)
    }

    /// Says which workspaces the provider has something new on. Only a hint: it may end, stutter or lie by
    /// omission, and everything still works, but later.
    async fn hints(&self) -> Result<BoxStream<'static, WorkspaceId>, CallError>;
}

/// What is about to be launched.
#[derive(Clone, Copy, Debug)]
pub struct PrepareRequest<'a> {
    /// As what.
    pub instance: InstanceRef,
    /// From what.
    pub spec: &'a LaunchSpec,
    /// The last attempt at this generation. A live one is to be called again, where it was placed.
    pub attempt: Option<&'a Attempt>,
}

impl PrepareRequest<'_> {
    /// Whether a call was made that is only to be repeated.
    pub fn is_placed(&self) -> bool {
        self.attempt.is_some_and(|attempt| attempt.state != AttemptState::Resolved)
    }
}

/// One launch, complete. Equal requests are equal to the last byte.
#[derive(Clone, Debug)]
pub struct LaunchRequest {
    /// What is launched.
    pub instance: InstanceRef,
    /// Which launch of its generation.
    pub attempt: AttemptNumber,
    /// Which launch of the store, for the label.
    pub seq: LaunchSeq,
    /// The idempotency token.
    pub token: String,
    /// Where, as [`Prepared::Ready`] said when the attempt began.
    pub placement: String,
    /// What to launch.
    pub spec: LaunchSpec,
    /// The bootstrap token of the generation, for workspace-init.
    pub bootstrap_token: Option<BootstrapToken>,
}

/// A bootstrap token in clear. Its `Debug` doesn't show it.
#[derive(Clone, PartialEq, Eq)]
pub struct BootstrapToken(String);

impl BootstrapToken {
    /// Wraps the value.
    pub const fn new(value: String) -> Self {
        Self(value)
    }

    /// The value, to be handed to the instance and nowhere else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for BootstrapToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BootstrapToken(..)")
    }
}

/// The answer of [`Backend::prepare`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prepared {
    /// The launch can begin: a new attempt goes to this place, in the backend's own words.
    Ready(String),
    /// Under way; what to tell meanwhile.
    InProgress(String),
    /// There is no room for it anywhere now; worth asking again.
    NoRoom(Refusal),
    /// It can't be had.
    Refused(Refusal),
    /// The provider gave no answer.
    Unknown(String),
}

/// How far a call has come that the provider has accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It has taken effect: the next look shows it.
    Done,
    /// It is under way at the provider, which may take minutes.
    InProgress,
}

/// The provider's definite no: nothing was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// What happened and what to do, for people.
    pub message: String,
}

/// A call that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The provider's definite no.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// Its definite no to this place, now: another attempt may be placed elsewhere, or later.
    #[error("{}", .0.message)]
    NoRoom(Refusal),
    /// No answer, or none that can be relied on: it may have happened.
    #[error("{0}")]
    Unknown(String),
}

impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused(refusal) | CallError::NoRoom(refusal) => {
                Self::new(ErrorReason::WrongState, refusal.message)
            }
            CallError::Unknown(cause) => {
                Self::new(ErrorReason::BackendUnavailable, format!("the provider does not answer: {cause}"))
            }
        }
    }
}

/// A resource that belongs to a workspace and is no instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedResource {
    /// Its organisation, by its labels.
    pub organization: OrganizationId,
    /// Its workspace, by its labels.
    pub workspace: WorkspaceId,
    /// Its name at the provider.
    pub name: String,
    /// The launch that made it, by its labels.
    pub seq: LaunchSeq,
}

/// What can be told of an instance that ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PostMortem {
    /// Its exit code.
    pub exit_code: Option<i32>,
    /// The last lines of its output.
    pub log_tail: String,
    /// More about its end, for people: that memory ran out, say.
    pub detail: Option<String>,
    /// workspace-init ended before the runtime began, and what it said.
    pub init_failure: Option<String>,
    /// Starting it again would end the same way.
    pub is_final: bool,
}

/// Which output to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Go on with what comes.
    pub follow: bool,
    /// Start with so many of the last lines; `None` starts at the beginning.
    pub tail: Option<u32>,
}

/// A piece of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogChunk {
    /// Whether it was written to standard error.
    pub stderr: bool,
    /// As it was written.
    pub data: Vec<u8>,
}
