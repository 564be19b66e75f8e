//! The engine's store.

mod queries;
pub(crate) mod rows;
pub(crate) mod write;

use std::collections::HashSet;
use std::time::Duration;

use async_trait::async_trait;
use molecule_domain::Timestamp;
use molecule_domain::error::{Error, ErrorReason};
use molecule_domain::id::{LeaseOwner, OrganizationId, Revision, WorkspaceId};
use molecule_domain::limits::Amounts;
use molecule_provisioner::admission::{self, Account, Change, ChangeRequest, ProvisionRequest};
use molecule_provisioner::model::{Claimed, Event, InstanceRecord, Lease, Segment, Wanted};
use molecule_provisioner::outcome::{self, Outcome};
use molecule_provisioner::reconciler::orphans::Launched;
use molecule_provisioner::shown::Shown;
use molecule_provisioner::store::{Alarm, Expectations, Room, Store, StoreError};
use molecule_provisioner::wakes::Wakes;
use sqlx::PgConnection;

pub(crate) use self::queries::await_no_more;
pub(crate) use self::rows::account;
use self::rows::{InstanceRow, account_locked, find, find_locked};
use self::write::Beside;
use crate::Database;
use crate::sqlstate::store_error;
use crate::tenants::{check_refused, what_is_known};

/// The engine's store over an open database.
#[derive(Clone, Debug)]
pub struct EngineStore(pub(crate) Database);

impl EngineStore {
    /// The engine's store in this database.
    pub const fn new(database: Database) -> Self {
        Self(database)
    }

    /// The organisation's last revision and the number of its last event.
    pub async fn counters(&self, organization: OrganizationId) -> Result<(Revision, i64), StoreError> {
        queries::counters(&self.0.pool, organization).await
    }
}

/// There is no such organisation.
pub fn organization_not_found(organization: OrganizationId) -> Error {
    Error::new(ErrorReason::OrganizationNotFound, format!("there is no organisation {organization}"))
}

/// The record under a lease that still holds, locked.
async fn held(db: &mut PgConnection, lease: &Lease, now: Timestamp) -> Result<InstanceRecord, StoreError> {
    match find_locked(db, lease.workspace).await? {
        Some(row) if row.is_held_by(lease, now) => row.into_record(),
        _ => Err(StoreError::LeaseLost(lease.workspace)),
    }
}

#[async_trait]
impl Store for EngineStore {
    async fn provision(
        &self,
        request: &ProvisionRequest,
        now: Timestamp,
    ) -> Result<InstanceRecord, StoreError> {
        let organization = request.organization;
        let once = || async {
            let mut tx = self.0.begin().await?;
            let found = account_locked(&mut tx, organization, now).await?;
            let (account, terms) = found.ok_or_else(|| organization_not_found(organization))?;
            let known = what_is_known(&mut tx, organization, request.workspace, request.process).await?;
            if known.instance
                && let Some(row) = find(&mut tx, request.workspace).await?
            {
                let record = row.into_record()?;
                if record.organization == organization {
                    return Ok(record);
                }
                return Err(admission::workspace_taken(request.workspace).into());
            }
            if known.refusal {
                let wish = (request.intent, request.process);
                check_refused(&mut tx, organization, request.workspace, wish, None).await?;
            }
            terms.check()?;
            let admitted = admission::provision(&account, request, now)?;
            let mut record = admitted.record;
            write::insert(&mut tx, &mut record, admitted.asked, &admitted.event, now).await?;
            self.0.commit(tx, organization).await?;
            Ok(record)
        };
        self.0.transactions.run("provision", once).await
    }

    async fn change(&self, request: &ChangeRequest, now: Timestamp) -> Result<InstanceRecord, StoreError> {
        let organization = request.organization;
        let once = || async {
            let mut tx = self.0.begin().await?;
            let before =
                find_locked(&mut tx, request.workspace).await?.map(InstanceRow::into_record).transpose()?;
            let Some(before) = before.filter(|record| record.organization == organization) else {
                if matches!(request.change, Change::Delete) {
                    await_no_more(&mut tx, organization, request.workspace, request.intent).await?;
                    tx.commit().await.map_err(store_error)?;
                }
                return Err(Error::workspace_not_found(request.workspace).into());
            };
            let found = account_locked(&mut tx, organization, now).await?;
            let (account, terms) = found.ok_or_else(|| organization_not_found(organization))?;
            if request.intent > before.intent && request.change.launches() {
                let wish = (request.intent, request.process);
                check_refused(&mut tx, organization, request.workspace, wish, Some(&request.change)).await?;
                terms.check()?;
            }
            let Some(admitted) = admission::change(&account, &before, request, now)? else {
                if matches!(request.change, Change::Delete) {
                    // it is being deleted, or gone
                    await_no_more(&mut tx, organization, request.workspace, request.intent).await?;
                    tx.commit().await.map_err(store_error)?;
                }
                return Ok(before);
            };
            let mut record = admitted.record;
            let beside = Beside {
                asked: admitted.asked,
                visible: true,
                event: Some(&admitted.event),
                launch: admitted.launch,
                ..Beside::default()
            };
            write::update(&mut tx, &mut record, &beside, now).await?;
            self.0.commit(tx, organization).await?;
            Ok(record)
        };
        self.0.transactions.run("change", once).await
    }

    async fn get(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
    ) -> Result<Option<InstanceRecord>, StoreError> {
        let mut db = self.0.pool.acquire().await.map_err(store_error)?;
        let record = find(&mut db, workspace).await?.map(InstanceRow::into_record).transpose()?;
        Ok(record.filter(|record| record.organization == organization))
    }

    async fn changed_after(
        &self,
        organization: OrganizationId,
        after: Revision,
        limit: u32,
    ) -> Result<Vec<Shown>, StoreError> {
        queries::changed_after(&self.0.pool, organization, after, limit).await
    }

    async fn events_after(
        &self,
        organization: OrganizationId,
        after: i64,
        limit: u32,
    ) -> Result<Vec<Event>, StoreError> {
        queries::events_after(&self.0.pool, organization, after, limit).await
    }

    async fn claim(
        &self,
        backend: &str,
        owner: LeaseOwner,
        now: Timestamp,
        lease: Duration,
        room: Room,
    ) -> Result<Vec<Claimed>, StoreError> {
        let once = || queries::claim(&self.0.pool, backend, owner, now, lease, room);
        self.0.transactions.run("claim", once).await
    }

    async fn next_due(
        &self,
        backend: &str,
        now: Timestamp,
        room: Room,
    ) -> Result<Option<Timestamp>, StoreError> {
        queries::next_due(&self.0.pool, backend, now, room).await
    }

    async fn begin_launch(
        &self,
        lease: &Lease,
        planned_for: Wanted,
        placement: &str,
        now: Timestamp,
        call_until: Timestamp,
    ) -> Result<InstanceRecord, StoreError> {
        let once = || async {
            // a retry of a live launch keeps its number
            let next = if queries::is_launched(&self.0.pool, lease.workspace).await? {
                None
            } else {
                Some(queries::next_launch(&self.0.pool, now).await?)
            };
            let mut tx = self.0.begin().await?;
            let mut record = held(&mut tx, lease, now).await?;
            let next = match (record.live_attempt(), next) {
                (Some(live), _) => live.seq,
                (None, Some(next)) => {
                    queries::add_launched(&mut tx, next, lease.workspace, now).await?;
                    next
                }
                // it has ended since: only who has lost the lease meets that
                (None, None) => return Err(StoreError::LeaseLost(lease.workspace)),
            };
            let begun = outcome::begin_launch(&mut record, planned_for, next, placement, now, call_until)?;
            let beside = Beside { visible: begun.visible, ..Beside::default() };
            write::update(&mut tx, &mut record, &beside, now).await?;
            self.0.commit(tx, record.organization).await?;
            Ok(record)
        };
        self.0.transactions.run("begin_launch", once).await
    }

    async fn commit(
        &self,
        lease: &Lease,
        now: Timestamp,
        outcome: &Outcome,
        release: bool,
    ) -> Result<InstanceRecord, StoreError> {
        let once = || async {
            let mut tx = self.0.begin().await?;
            let mut record = held(&mut tx, lease, now).await?;
            let segment_generation = record.generation.0;
            let effects = outcome::apply(&mut record, outcome, lease, release, now);
            let beside = Beside {
                asked: Amounts::default().minus(effects.released),
                visible: effects.visible,
                event: effects.event.as_ref(),
                launch: false,
                open_segment: effects.open_segment,
                close_segment: effects.close_segment,
                segment_generation,
                release,
            };
            write::update(&mut tx, &mut record, &beside, now).await?;
            self.0.commit(tx, record.organization).await?;
            effects.illegal.map_or(Ok(record), |illegal| Err(illegal.into()))
        };
        self.0.transactions.run("commit", once).await
    }

    async fn expectations(&self, backend: &str) -> Result<Expectations, StoreError> {
        queries::expectations(&self.0.pool, backend).await
    }

    async fn launched(&self, launches: &[Launched]) -> Result<HashSet<Launched>, StoreError> {
        queries::launched(&self.0.pool, launches).await
    }

    async fn raise_alarm(&self, alarm: &Alarm) -> Result<(), StoreError> {
        let once = || queries::raise_alarm(&self.0.pool, alarm);
        self.0.transactions.run("raise_alarm", once).await
    }

    async fn alarms(&self) -> Result<Vec<Alarm>, StoreError> {
        queries::alarms(&self.0.pool).await
    }

    async fn end_alarm(
        &self,
        backend: &str,
        launches: &[Launched],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let once = || queries::end_alarm(&self.0.pool, backend, launches, now);
        self.0.transactions.run("end_alarm", once).await
    }

    async fn lead(
        &self,
        role: &str,
        owner: LeaseOwner,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<bool, StoreError> {
        let once = || queries::lead(&self.0.pool, role, owner, now, until);
        self.0.transactions.run("lead", once).await
    }

    async fn wake(&self, workspaces: &[WorkspaceId], now: Timestamp) -> Result<(), StoreError> {
        let once = || queries::wake(&self.0.pool, workspaces, now);
        self.0.transactions.run("wake", once).await?;
        self.0.wakes.woken();
        Ok(())
    }

    async fn segments(&self, workspace: WorkspaceId) -> Result<Vec<Segment>, StoreError> {
        queries::segments(&self.0.pool, workspace).await
    }

    async fn account(&self, organization: OrganizationId, now: Timestamp) -> Result<Account, StoreError> {
        let mut db = self.0.pool.acquire().await.map_err(store_error)?;
        let account = account(&mut db, organization, now).await?;
        account.ok_or_else(|| organization_not_found(organization).into())
    }

    async fn set_account(&self, organization: OrganizationId, account: Account) -> Result<(), StoreError> {
        let once = || queries::set_account(&self.0.pool, organization, &account);
        self.0.transactions.run("set_account", once).await
    }

    async fn prune(&self, before: Timestamp) -> Result<(), StoreError> {
        queries::prune(&self.0, before).await
    }

    fn wakes(&self) -> &Wakes {
        &self.0.wakes
    }
}
