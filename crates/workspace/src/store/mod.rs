//! The seam to a database. One method is one named transaction; no transaction leaves a store.

#[cfg(feature = "test-util")]
pub mod memory;

use async_trait::async_trait;
use molecule_domain::id::{Generation, IntentNumber, OrganizationId, Revision, WorkspaceId};
use molecule_domain::instance::{Event, InstanceView};
pub use molecule_domain::store::StoreError;
use molecule_domain::{Error, ErrorReason, Timestamp};
use tokio::sync::watch;

use crate::agent::{Patience, Verdict};
use crate::aggregate::{Answer, Change, NewWorkspace, Workspace};
use crate::agreement::{Agreed, Meetings, Met, Minter};
use crate::record::{AgentRecord, RequestKey, StoredEvent, WorkspaceRecord};
use crate::wish::Entry;

/// Decides about a change, seeing the workspace as it is inside the transaction.
pub type Decide<'a> = Box<dyn FnOnce(&Workspace) -> Result<Change, Error> + Send + 'a>;

/// Changes what an agent reported.
pub type Report<'a> = Box<dyn FnOnce(&mut AgentRecord) + Send + 'a>;

/// Makes the hash of the credential of a generation.
pub type CredentialHash<'a> = Box<dyn FnOnce(WorkspaceId, Generation) -> Vec<u8> + Send + 'a>;

/// What a change must find.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    /// Makes the request repeatable.
    pub key: Option<RequestKey>,
    /// The number of the last change that the client has seen.
    pub etag: Option<IntentNumber>,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// The workspace.
    pub record: WorkspaceRecord,
    /// The number of the wish that was stored; `None` where the provider has nothing to hear of this request.
    pub number: Option<IntentNumber>,
}

/// What came of records that were taken over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mirrored {
    /// The workspaces of which the provider has now something to hear.
    pub wishes: Vec<WorkspaceId>,
    /// Whether the provider has instances of workspaces that this database does not know. They are left to an agreement.
    pub unknown: bool,
}

/// How far the provider's records and events have been taken over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursors {
    /// The revision of the last record.
    pub revision: Revision,
    /// The number of the last event.
    pub event: i64,
}

/// Where a page of workspaces begins: behind the last one of the page before.
pub type Place = (i64, String);

/// A bootstrap token that somebody redeems.
#[derive(Clone, Debug)]
pub struct Redemption {
    /// The token's hash.
    pub token_hash: Vec<u8>,
    /// The nonce that came with it.
    pub nonce: String,
}

/// What became of a redemption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redeemed {
    /// The credential is this generation's; the same for the same nonce.
    Granted(WorkspaceId, Generation),
    /// There is no such token, or its generation is over.
    Unknown,
    /// Another nonce came first, or the credential is in use: somebody else has the token.
    Refused(WorkspaceId, Generation),
}

/// Where a tenant keeps what it knows.
#[async_trait]
pub trait TenantStore: Send + Sync + 'static {
    /// Stores a new workspace with the wish to provision it, or returns the workspace that the key made before.
    async fn create(
        &self,
        new: &NewWorkspace,
        key: Option<&RequestKey>,
        now: Timestamp,
    ) -> Result<Stored, StoreError>;

    /// Stores a change that `decide` makes of the workspace as it is, or returns what the request's key made before.
    async fn change(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
        on: &Conditions,
        now: Timestamp,
        decide: Decide<'_>,
    ) -> Result<Stored, StoreError>;

    /// What a request's key made before, and whether that still waits; `None` where it made nothing.
    async fn replayed(
        &self,
        organization: OrganizationId,
        key: &RequestKey,
    ) -> Result<Option<Stored>, StoreError>;

    /// The workspaces about which the provider has something to hear, the longest waiting first.
    async fn waiting(&self) -> Result<Vec<WorkspaceId>, StoreError>;

    /// The first entry of a workspace's outbox. From now on a call of it counts as begun.
    async fn begin_call(
        &self,
        workspace: WorkspaceId,
    ) -> Result<Option<(WorkspaceRecord, Entry)>, StoreError>;

    /// Takes the provider's answer to an entry. `None` where nothing of the workspace is kept.
    async fn answered(
        &self,
        workspace: WorkspaceId,
        number: IntentNumber,
        answer: &Answer,
        now: Timestamp,
    ) -> Result<Option<WorkspaceRecord>, StoreError>;

    /// Notes why a call for an entry did not succeed.
    async fn call_failed(
        &self,
        workspace: WorkspaceId,
        number: IntentNumber,
        cause: &str,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// How far the provider's records and events have been taken over.
    async fn cursors(&self, organization: OrganizationId) -> Result<Cursors, StoreError>;

    /// Takes over records and events, in order, with the cursors behind them. What is not newer than what is known
    /// changes nothing, so they may come twice.
    async fn mirror(
        &self,
        organization: OrganizationId,
        instances: &[InstanceView],
        events: &[Event],
        now: Timestamp,
    ) -> Result<Mirrored, StoreError>;

    /// What this database holds of its own starts and of meetings with the provider, and its highest revision.
    async fn meetings(&self, organization: OrganizationId) -> Result<(Meetings, Revision), StoreError>;

    /// Agrees with the provider about every workspace: `inventory` is all that the provider has, in order of revision,
    /// what is gone included.
    async fn agree(
        &self,
        organization: OrganizationId,
        met: &Met,
        inventory: &[InstanceView],
        minter: &dyn Minter,
        now: Timestamp,
    ) -> Result<Agreed, StoreError>;

    /// Follows a provider anew that knows less than it told before: every record of its is news again, and events
    /// are those after this one.
    async fn restart_mirror(&self, organization: OrganizationId, event: i64) -> Result<(), StoreError>;

    /// One workspace.
    async fn get(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
    ) -> Result<Option<WorkspaceRecord>, StoreError>;

    /// One workspace, with its private parts and its outbox.
    async fn load(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
    ) -> Result<Option<Workspace>, StoreError>;

    /// Workspaces in order of creation, behind `after`, at most so many.
    async fn list(
        &self,
        organization: OrganizationId,
        show_deleted: bool,
        after: Option<Place>,
        limit: u32,
    ) -> Result<Vec<WorkspaceRecord>, StoreError>;

    /// Everything that is not deleted, and the revision at which it is so.
    async fn snapshot(
        &self,
        organization: OrganizationId,
    ) -> Result<(Vec<WorkspaceRecord>, Revision), StoreError>;

    /// The changes after a revision, in order, at most so many. Too old a revision, and one that is yet to come, are
    /// out of range.
    async fn changes_after(
        &self,
        organization: OrganizationId,
        after: Revision,
        limit: u32,
    ) -> Result<Vec<WorkspaceRecord>, StoreError>;

    /// The events of a workspace, newest first, before an id, at most so many.
    async fn events(
        &self,
        workspace: WorkspaceId,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<StoredEvent>, StoreError>;

    /// Redeems a bootstrap token: the first nonce wins, until the credential is first used.
    async fn redeem(
        &self,
        redemption: &Redemption,
        credential_hash: CredentialHash<'_>,
    ) -> Result<Redeemed, StoreError>;

    /// Whose credential this is, by its hash. Its first use ends the bootstrap token's worth.
    async fn authenticate(
        &self,
        credential_hash: &[u8],
        now: Timestamp,
    ) -> Result<Option<(WorkspaceId, Generation)>, StoreError>;

    /// Takes what the agent of a generation reports. `None` where that generation is not the one that runs.
    async fn agent_reported(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
        generation: Generation,
        now: Timestamp,
        report: Report<'_>,
    ) -> Result<Option<WorkspaceRecord>, StoreError>;

    /// Judges the agent of a workspace as it is inside the transaction, and stores what follows.
    async fn judge_agent(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
        patience: &Patience,
        now: Timestamp,
    ) -> Result<Verdict, StoreError>;

    /// Drops what is kept no longer: changes after a day, and so are the keys of requests, but those that created what is
    /// there still and those of workspaces with wishes that wait; events and deleted workspaces after thirty.
    async fn prune(&self, day_ago: Timestamp, month_ago: Timestamp) -> Result<(), StoreError>;

    /// Rises after every commit that a watcher may see.
    fn commits(&self) -> watch::Receiver<u64>;
}

/// The revision after `last`: never behind the clock (microseconds since 1970), so that what comes after a restore
/// from a backup is above every number that was given out before.
pub fn next_revision(last: Revision, now: Timestamp) -> Revision {
    Revision((last.0 + 1).max(now.micros()))
}

/// Refuses a new workspace whose id another has, unless that one's creation was refused.
pub fn check_id_is_free(workspace: WorkspaceId, earlier: Option<&WorkspaceRecord>) -> Result<(), Error> {
    match earlier {
        Some(earlier) if !earlier.refused => Err(Error::new(
            ErrorReason::WorkspaceExists,
            format!("there is a workspace {workspace} already; choose another id, or leave it out"),
        )),
        _ => Ok(()),
    }
}

/// The request id was used for another request.
pub fn request_id_reused(key: &RequestKey) -> Error {
    Error::new(
        ErrorReason::RequestIdReused,
        format!("the request_id {:?} was used for another request; use a new one", key.id),
    )
}

/// The workspace has changed since the client looked.
pub fn check_etag(record: &WorkspaceRecord, etag: Option<IntentNumber>) -> Result<(), Error> {
    if etag.is_some_and(|etag| etag != record.intent) {
        return Err(Error::new(
            ErrorReason::StaleEtag,
            "the workspace has changed since that etag; get it again and decide anew",
        ));
    }
    Ok(())
}

/// A revision that no watch can begin at. `of_lost_time` says whether it lies [in a time that is lost](is_of_lost_time).
pub fn check_revision(
    after: Revision,
    newest: Revision,
    forgotten: Revision,
    of_lost_time: bool,
) -> Result<(), Error> {
    let problem = if after < forgotten {
        "is older than the history kept"
    } else if after > newest {
        "has not come yet"
    } else if of_lost_time {
        "was given out in a time that is lost: the database was put back to an earlier state since"
    } else {
        return Ok(());
    };
    Err(Error::new(
        ErrorReason::RevisionTooOld,
        format!("revision {after} {problem}; start the watch over with 0"),
    ))
}

/// Whether a revision was given out in a time that this database does not hold. `started_at` is when the last start of the
/// tenant's began before which a lower revision had been given out: the one that would have given this out, and that gives out
/// none that is behind the clock as it was then.
pub fn is_of_lost_time(revision: Revision, started_at: Option<Timestamp>) -> bool {
    started_at.is_some_and(|started_at| revision.0 < started_at.micros())
}
