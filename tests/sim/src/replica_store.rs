//! The control plane's database as one replica reaches it: transactions are steps, and every commit is looked at.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use molecule_domain::id::{IncarnationId, IntentNumber, LeaseOwner, OrganizationId, Revision, WorkspaceId};
use molecule_domain::{Clock, Timestamp};
use molecule_provisioner::admission::{Account, ChangeRequest, ProvisionRequest};
use molecule_provisioner::model::{Claimed, Event, InstanceRecord, Lease, Segment, Wanted};
use molecule_provisioner::outcome::Outcome;
use molecule_provisioner::reconciler::orphans::Launched;
use molecule_provisioner::shown::Shown;
use molecule_provisioner::store::memory::MemoryStore;
use molecule_provisioner::store::{Alarm, Expectations, Hold, RefusedWish, Room, Store, StoreError, Tenants};
use molecule_provisioner::wakes::Wakes;

use crate::clocks::ProcessClock;
use crate::control::ControlPlane;
use crate::faults::Fault;
use crate::process::{Process, Unread};
use crate::violation::Violation;

/// The control plane's database as one replica reaches it.
pub(crate) struct ReplicaStore {
    pub(crate) database: Arc<MemoryStore>,
    pub(crate) control: Arc<ControlPlane>,
    pub(crate) place: usize,
    pub(crate) process: Arc<Process>,
    pub(crate) wakes: Wakes,
    pub(crate) clock: Arc<ProcessClock>,
}

fn lost(step: &'static str) -> StoreError {
    StoreError::Unavailable(format!("{step}: the database gave no answer").into())
}

impl ReplicaStore {
    /// One transaction, with what may happen around it.
    async fn transaction<T>(
        &self,
        step: &'static str,
        transaction: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let fault = self.process.before(step).await;
        match fault {
            None | Some(Fault::LoseReply) => {}
            Some(Fault::Fail) => return Err(lost(step)),
            Some(other) => self.process.world().does_nothing(other, step),
        }
        let result = transaction.await;
        self.process.after(step).await;
        if fault == Some(Fault::LoseReply) { Err(lost(step)) } else { result }
    }

    async fn read<T>(
        &self,
        step: &'static str,
        read: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.process.reads(step).await.map_err(|Unread| lost(step))?;
        read.await
    }

    async fn admission(
        &self,
        step: &'static str,
        (workspace, number): (WorkspaceId, IntentNumber),
        admission: impl Future<Output = Result<InstanceRecord, StoreError>>,
    ) -> Result<InstanceRecord, StoreError> {
        let noted = async {
            let known = self.control.knows(workspace);
            let result = admission.await;
            if matches!(&result, Err(StoreError::Refused(_)))
                && self.control.oracle.is_refused(workspace, number)
            {
                self.process.world().coverage().figure("calls of refused wishes heard again");
            }
            if let Ok(record) = &result {
                self.control.committed(&self.database, record).await;
                if !known {
                    self.control.oracle.admitted(workspace, record.intent, record.desired);
                }
            }
            result
        };
        self.transaction(step, noted).await
    }
}

#[async_trait]
impl Store for ReplicaStore {
    async fn provision(
        &self,
        request: &ProvisionRequest,
        now: Timestamp,
    ) -> Result<InstanceRecord, StoreError> {
        let admission = self.database.provision(request, now);
        self.admission("control.provision", (request.workspace, request.intent), admission).await
    }

    async fn change(&self, request: &ChangeRequest, now: Timestamp) -> Result<InstanceRecord, StoreError> {
        let admission = async {
            let result = self.database.change(request, now).await;
            if let Ok(record) = result.as_ref()
                && record.intent == request.intent
            {
                self.control.oracle.granted(request.workspace, request.intent, record.desired);
            }
            result
        };
        self.admission("control.change", (request.workspace, request.intent), admission).await
    }

    async fn get(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
    ) -> Result<Option<InstanceRecord>, StoreError> {
        self.read("control.get", self.database.get(organization, workspace)).await
    }

    async fn changed_after(
        &self,
        organization: OrganizationId,
        after: Revision,
        limit: u32,
    ) -> Result<Vec<Shown>, StoreError> {
        if self.control.revision_of(organization) <= after {
            // nothing is there, whoever asks: the reader that looks every few seconds costs little so
            self.process.is_let().await;
            return Ok(Vec::new());
        }
        let changed = self.database.changed_after(organization, after, limit);
        self.transaction("control.changed_after", changed).await
    }

    async fn events_after(
        &self,
        organization: OrganizationId,
        after: i64,
        limit: u32,
    ) -> Result<Vec<Event>, StoreError> {
        let events = self.database.events_after(organization, after, limit);
        self.read("control.events_after", events).await
    }

    async fn claim(
        &self,
        backend: &str,
        owner: LeaseOwner,
        now: Timestamp,
        lease: Duration,
        room: Room,
    ) -> Result<Vec<Claimed>, StoreError> {
        let claim = async {
            let claimed = self.database.claim(backend, owner, now, lease, room).await?;
            self.control.claimed(&claimed, self.place);
            let held = claimed.iter().filter(|one| matches!(one.hold, Hold::Held(_))).count();
            for _ in 0..held {
                self.process.world().coverage().figure("records held until their tenants had agreed");
            }
            Ok(claimed)
        };
        self.transaction("control.claim", claim).await
    }

    async fn next_due(
        &self,
        backend: &str,
        now: Timestamp,
        room: Room,
    ) -> Result<Option<Timestamp>, StoreError> {
        self.read("control.next_due", self.database.next_due(backend, now, room)).await
    }

    async fn begin_launch(
        &self,
        lease: &Lease,
        planned_for: Wanted,
        placement: &str,
        now: Timestamp,
        call_until: Timestamp,
    ) -> Result<InstanceRecord, StoreError> {
        self.lives().await;
        let result = self.database.begin_launch(lease, planned_for, placement, now, call_until).await;
        if let Ok(record) = &result {
            self.control.oracle.launches(record.workspace, record.intent);
        }
        self.written(lease, now, result).await
    }

    async fn commit(
        &self,
        lease: &Lease,
        now: Timestamp,
        outcome: &Outcome,
        release: bool,
    ) -> Result<InstanceRecord, StoreError> {
        self.lives().await;
        let before = self.database.find(lease.workspace);
        let result = self.database.commit(lease, now, outcome, release).await;
        if let (Some(before), Ok(after)) = (before, &result)
            && before.wanted() != outcome.planned_for
        {
            self.check_stale(&before, after);
        }
        self.written(lease, now, result).await
    }

    async fn expectations(&self, backend: &str) -> Result<Expectations, StoreError> {
        self.read("control.expectations", self.database.expectations(backend)).await
    }

    async fn launched(&self, launches: &[Launched]) -> Result<HashSet<Launched>, StoreError> {
        self.read("control.launched", self.database.launched(launches)).await
    }

    async fn raise_alarm(&self, alarm: &Alarm) -> Result<(), StoreError> {
        let raise = async {
            self.process.world().tell("control", 8, || format!("raises an alarm: {}", alarm.message));
            self.process.world().coverage().figure("alarms raised");
            self.database.raise_alarm(alarm).await?;
            self.control.raises_alarm();
            Ok(())
        };
        self.transaction("control.raise_alarm", raise).await
    }

    async fn alarms(&self) -> Result<Vec<Alarm>, StoreError> {
        self.read("control.alarms", self.database.alarms()).await
    }

    async fn end_alarm(
        &self,
        backend: &str,
        launches: &[Launched],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.transaction("control.end_alarm", self.database.end_alarm(backend, launches, now)).await
    }

    async fn lead(
        &self,
        role: &str,
        owner: LeaseOwner,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<bool, StoreError> {
        self.transaction("control.lead", self.database.lead(role, owner, now, until)).await
    }

    async fn wake(&self, workspaces: &[WorkspaceId], now: Timestamp) -> Result<(), StoreError> {
        let wake = async {
            self.database.wake(workspaces, now).await?;
            self.control.wake(None);
            Ok(())
        };
        self.transaction("control.wake", wake).await
    }

    async fn segments(&self, workspace: WorkspaceId) -> Result<Vec<Segment>, StoreError> {
        self.database.segments(workspace).await
    }

    async fn account(&self, organization: OrganizationId, now: Timestamp) -> Result<Account, StoreError> {
        self.database.account(organization, now).await
    }

    async fn set_account(&self, organization: OrganizationId, account: Account) -> Result<(), StoreError> {
        self.database.set_account(organization, account).await
    }

    async fn prune(&self, before: Timestamp) -> Result<(), StoreError> {
        self.transaction("control.prune", self.database.prune(before)).await
    }

    fn wakes(&self) -> &Wakes {
        &self.wakes
    }
}

#[async_trait]
impl Tenants for ReplicaStore {
    async fn refuse(
        &self,
        refused: &RefusedWish,
        now: Timestamp,
    ) -> Result<Option<InstanceRecord>, StoreError> {
        self.transaction("control.refuse", self.database.refuse(refused, now)).await
    }
}

impl ReplicaStore {
    /// Whoever is dead writes nothing: a step of its engine may be polled once more in the moment of its death.
    async fn lives(&self) {
        if self.process.is_dead() {
            std::future::pending::<()>().await;
        }
    }

    /// A process of a tenant's has agreed with the control plane as it began last.
    pub(crate) async fn agree(
        &self,
        organization: OrganizationId,
        (process, number): (IncarnationId, i64),
        waiting: &[(WorkspaceId, IntentNumber)],
    ) -> Result<(), StoreError> {
        let agree = async {
            // as production's transaction finds out under the lock of the session's row
            self.control.is_met(organization, process)?;
            self.database.agree(organization, (process, number), waiting, self.clock.now());
            self.control.wake(None);
            Ok(())
        };
        self.transaction("control.agree", agree).await
    }

    /// An operator suspends an organisation.
    pub(crate) async fn suspend(&self, organization: OrganizationId) -> Result<(), StoreError> {
        let suspend = async {
            self.control.suspend_in(&self.database, organization, self.clock.now()).await;
            Ok(())
        };
        self.transaction("control.suspend", suspend).await
    }

    /// What was planned for an older wish writes facts, and decides nothing.
    fn check_stale(&self, before: &InstanceRecord, after: &InstanceRecord) {
        let decided = |record: &InstanceRecord| {
            let InstanceRecord { phase, desired, reason, generation, wanted_generation, restarts, .. } =
                *record;
            (phase, desired, reason, generation, wanted_generation, restarts)
        };
        if decided(before) != decided(after) || before.message != after.message {
            let what = format!("{}: {:?} became {:?}", before.workspace, decided(before), decided(after));
            self.process.world().violated(Violation::new("a stale plan decides nothing", what));
        }
        self.process.world().coverage().figure("outcomes of stale plans");
    }

    /// What the engine wrote, or was not let write.
    async fn written(
        &self,
        lease: &Lease,
        now: Timestamp,
        result: Result<InstanceRecord, StoreError>,
    ) -> Result<InstanceRecord, StoreError> {
        match &result {
            Ok(record) => {
                self.control.check_lease(lease, now);
                self.control.committed(&self.database, record).await;
            }
            Err(StoreError::Illegal(illegal)) => {
                let what = format!("{}: {illegal}", lease.workspace);
                self.process.world().violated(Violation::new("every decision is legal", what));
            }
            Err(StoreError::LeaseLost(_)) => self.process.world().coverage().figure("leases lost"),
            Err(_) => {}
        }
        result
    }
}
