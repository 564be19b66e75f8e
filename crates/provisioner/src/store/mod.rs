//! The seam to a database. One method is one named transaction; no transaction leaves a store.

pub mod codec;
#[cfg(feature = "test-util")]
pub mod memory;
pub mod tenants;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use async_trait::async_trait;
use molecule_domain::Timestamp;
use molecule_domain::id::{Generation, LaunchSeq, LeaseOwner, OrganizationId, Revision, WorkspaceId};
use molecule_domain::lifecycle::Phase;
pub use molecule_domain::store::StoreError;

use crate::admission::{Account, ChangeRequest, ProvisionRequest};
use crate::model::{Claimed, Event, InstanceRecord, Lease, Segment, Wanted};
use crate::outcome::Outcome;
use crate::reconciler::orphans::Launched;
use crate::shown::Shown;
use crate::wakes::Wakes;

pub use self::tenants::{Hold, LastAgreement, Part, RefusedWish, Tenants};

/// Where the engine keeps what it knows.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Admits a workspace's first instance, or returns the record of a replay. Limits, record and event
    /// change together or not at all.
    async fn provision(
        &self,
        request: &ProvisionRequest,
        now: Timestamp,
    ) -> Result<InstanceRecord, StoreError>;

    /// Changes what is wanted of an instance, or returns the record of a replay.
    async fn change(&self, request: &ChangeRequest, now: Timestamp) -> Result<InstanceRecord, StoreError>;

    /// One instance of an organisation's.
    async fn get(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
    ) -> Result<Option<InstanceRecord>, StoreError>;

    /// The organisation's instances that changed after a revision, in order of revision, at most so many. None is left out:
    /// of what a newer version has stored that shows which this one can read.
    async fn changed_after(
        &self,
        organization: OrganizationId,
        after: Revision,
        limit: u32,
    ) -> Result<Vec<Shown>, StoreError>;

    /// The organisation's events after an id, in order, at most so many.
    async fn events_after(
        &self,
        organization: OrganizationId,
        after: i64,
        limit: u32,
    ) -> Result<Vec<Event>, StoreError>;

    /// Takes a backend's due records for `lease`, as many of each [kind](Room) as there is room for. Organisations take turns,
    /// by how many of theirs are held or come before; of one turn, what is to stop or to go comes first, then what has been
    /// due for longest. No two owners hold one at once. They fall due again when the lease ends; one that is due before then
    /// was woken meanwhile. What this version can't read is given back, and falls due after [`UNREADABLE_PAUSE`].
    async fn claim(
        &self,
        backend: &str,
        owner: LeaseOwner,
        now: Timestamp,
        lease: Duration,
        room: Room,
    ) -> Result<Vec<Claimed>, StoreError>;

    /// When a backend's next record that nobody holds, and for which there is room, is due.
    async fn next_due(
        &self,
        backend: &str,
        now: Timestamp,
        room: Room,
    ) -> Result<Option<Timestamp>, StoreError>;

    /// Notes that a launch call is about to be made that may take effect until `call_until`: with a new
    /// attempt at `placement` where none is live, else as a retry of the live one, where that was placed. The phase
    /// becomes LAUNCHING. A launch that was planned for something else than is wanted now is [`StoreError::Overtaken`].
    async fn begin_launch(
        &self,
        lease: &Lease,
        planned_for: Wanted,
        placement: &str,
        now: Timestamp,
        call_until: Timestamp,
    ) -> Result<InstanceRecord, StoreError>;

    /// Writes an outcome and, with `release`, gives the lease back. Record, segment, limits and event change
    /// together or not at all. Of a decision that does not follow from the phase only the facts are written, and the
    /// answer is [`StoreError::Illegal`].
    async fn commit(
        &self,
        lease: &Lease,
        now: Timestamp,
        outcome: &Outcome,
        release: bool,
    ) -> Result<InstanceRecord, StoreError>;

    /// What should be at a backend.
    async fn expectations(&self, backend: &str) -> Result<Expectations, StoreError>;

    /// Those of these launches that this store has begun, or was told to answer for by [`end_alarm`](Self::end_alarm). What
    /// it launched is known at least for as long as the record of its workspace. An answer for [`WHOLE`] is one for every
    /// launch of the workspace up to the moment at which it was given: launch numbers are moments.
    async fn launched(&self, launches: &[Launched]) -> Result<HashSet<Launched>, StoreError>;

    /// Raises an alarm of a backend's, where none stands. It stands until it is ended by a person's word.
    async fn raise_alarm(&self, alarm: &Alarm) -> Result<(), StoreError>;

    /// The alarms that stand, by backend.
    async fn alarms(&self) -> Result<Vec<Alarm>, StoreError>;

    /// Ends the alarm of a backend's. From now on this store answers for these launches as if it had begun them: what they
    /// left, and no record explains, is an orphan like any other.
    async fn end_alarm(&self, backend: &str, launches: &[Launched], now: Timestamp)
    -> Result<(), StoreError>;

    /// Takes or keeps a role that one process has at a time, until a moment; whether `owner` has it.
    async fn lead(
        &self,
        role: &str,
        owner: LeaseOwner,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Makes records due now.
    async fn wake(&self, workspaces: &[WorkspaceId], now: Timestamp) -> Result<(), StoreError>;

    /// The usage segments of a workspace, in order.
    async fn segments(&self, workspace: WorkspaceId) -> Result<Vec<Segment>, StoreError>;

    /// The limits, standing and usage of an organisation.
    async fn account(&self, organization: OrganizationId, now: Timestamp) -> Result<Account, StoreError>;

    /// Sets the limits, permits and standing of an organisation; what is counted is left as it is.
    async fn set_account(&self, organization: OrganizationId, account: Account) -> Result<(), StoreError>;

    /// Drops what is older than `before`: events, records of what is gone since then, and the launches of these. Usage
    /// segments stay.
    async fn prune(&self, before: Timestamp) -> Result<(), StoreError>;

    /// Wakes after every commit that something waits for.
    fn wakes(&self) -> &Wakes;
}

/// Stands for all launches of a workspace until now: no launch has this number.
pub const WHOLE: LaunchSeq = LaunchSeq(0);

/// How long a record that this version can't read rests before it is claimed again.
pub const UNREADABLE_PAUSE: Duration = Duration::from_secs(5);

/// How many records may be worked on besides. Neither kind takes the other's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Of those that are to be launched or started ([`InstanceRecord::is_launching`]).
    pub launches: u32,
    /// Of all others.
    pub others: u32,
}

impl Room {
    /// So many of each.
    pub const fn of_each(each: u32) -> Self {
        Self { launches: each, others: each }
    }

    /// Whether there is none.
    pub const fn is_none(self) -> bool {
        self.launches == 0 && self.others == 0
    }

    /// For records of one kind.
    pub const fn of(self, launching: bool) -> u32 {
        if launching { self.launches } else { self.others }
    }
}

/// What should be at the provider.
#[derive(Clone, Debug, Default)]
pub struct Expectations {
    /// All instances that are not GONE.
    pub instances: Vec<Expected>,
    /// Workspaces without one for which their tenants have still to be heard, as where what a restored store lacks was told
    /// again and was refused for now: what of these is left as it is.
    pub awaited: HashMap<(OrganizationId, WorkspaceId), Awaited>,
}

/// What is left as it is of a workspace that is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// All of it.
    Whole,
    /// What outlives an instance. Its organisation is suspended, so nothing of it is to run.
    Data,
}

/// An alarm that is stored, and stands until a person ends it: nothing is removed at its backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// The kind of the backend.
    pub backend: String,
    /// When it was raised.
    pub raised_at: Timestamp,
    /// What is wrong, for people.
    pub message: String,
}

/// What a record expects to find at the provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The organisation.
    pub organization: OrganizationId,
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The current generation.
    pub generation: Generation,
    /// The live launch of that generation.
    pub seq: Option<LaunchSeq>,
    /// Where it is; `None` is a phase of a newer version.
    pub phase: Option<Phase>,
    /// Whether the provider's last word was that it is up.
    pub up: bool,
    /// Whether the record waits for a change: nothing is due.
    pub settled: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_while_either_kind_has_some() {
        assert!(Room::of_each(0).is_none());
        for room in [Room { launches: 1, others: 0 }, Room { launches: 0, others: 2 }] {
            assert!(!room.is_none());
            assert_eq!((room.of(true), room.of(false)), (room.launches, room.others));
        }
    }
}
