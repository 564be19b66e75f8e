//! A store in memory: the reference that the others are compared with, and quick enough for simulations.

mod tenants;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use self::tenants::Kept;
use super::{Alarm, Expectations, Expected, Room, Store, StoreError, WHOLE};
use crate::admission::{self, Account, Admitted, Change, ChangeRequest, LAUNCH_WINDOW, ProvisionRequest};
use crate::faults::{Probe, Steps};
use crate::model::{Claimed, Event, EventDetail, InstanceRecord, Lease, Segment, Wanted};
use crate::outcome::{self, Outcome};
use crate::reconciler::orphans::Launched;
use crate::shown::Shown;
use crate::wakes::Wakes;
use async_trait::async_trait;
use molecule_domain::id::{LaunchSeq, LeaseOwner, OrganizationId, Revision, WorkspaceId};
use molecule_domain::lifecycle::{Desired, Phase};
use molecule_domain::limits::Standing;
use molecule_domain::{Error, Timestamp};

/// A store in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: Mutex<State>,
    wakes: Wakes,
    steps: Steps,
}

/// What a [`MemoryStore`] holds; a copy of it is a backup.
#[derive(Clone, Debug, Default)]
pub struct Data(State);

#[derive(Clone, Debug, Default)]
struct State {
    instances: BTreeMap<WorkspaceId, InstanceRecord>,
    leases: HashMap<WorkspaceId, Lease>,
    accounts: HashMap<OrganizationId, Account>,
    launches: HashMap<OrganizationId, Vec<Timestamp>>,
    roles: HashMap<String, (LeaseOwner, Timestamp)>,
    revisions: HashMap<OrganizationId, Revision>,
    events: Vec<(OrganizationId, Event)>,
    events_told: i64,
    segments: HashMap<WorkspaceId, Vec<Segment>>,
    /// Every launch that was begun, or is answered for.
    launched: BTreeMap<Launched, Timestamp>,
    highest_launch: LaunchSeq,
    alarms: BTreeMap<String, Alarm>,
    epochs: i64,
    tenants: Kept,
}

impl MemoryStore {
    /// Opens what an earlier process, or a backup, has left.
    pub fn open(data: Data) -> Self {
        Self { state: Mutex::new(data.0), ..Self::default() }
    }

    /// An empty store whose reads of events, and what wakes records, are steps under a test's probe.
    pub fn probed(probe: Arc<dyn Probe>) -> Self {
        Self { steps: Steps::probed(probe), ..Self::default() }
    }

    /// All that is stored.
    pub fn data(&self) -> Data {
        Data(self.lock().clone())
    }

    /// The last revision of an organisation's, and the number of the last event.
    pub fn counters(&self, organization: OrganizationId) -> (Revision, i64) {
        let state = self.lock();
        (state.revisions.get(&organization).copied().unwrap_or_default(), state.events_told)
    }

    fn told_after(&self, organization: OrganizationId, after: i64, limit: u32) -> Vec<Event> {
        let state = self.lock();
        // their numbers only grow
        let later = state.events.partition_point(|(_, event)| event.id <= after);
        let mine = state.events[later..].iter().filter(|(owner, _)| *owner == organization);
        mine.take(limit as usize).map(|(_, event)| event.clone()).collect()
    }

    /// All records of an organisation's.
    pub fn records(&self, organization: OrganizationId) -> Vec<InstanceRecord> {
        let state = self.lock();
        state.instances.values().filter(|record| record.organization == organization).cloned().collect()
    }

    /// The record of a workspace, whosever it is.
    pub fn find(&self, workspace: WorkspaceId) -> Option<InstanceRecord> {
        self.lock().instances.get(&workspace).cloned()
    }

    /// Suspends an organisation: it launches nothing, and what is to run is to stop. The records of that as they are now.
    pub fn suspend(&self, organization: OrganizationId, now: Timestamp) -> Vec<InstanceRecord> {
        let mut state = self.lock();
        state.accounts.entry(organization).or_default().standing = Standing::Suspended;
        let records = state.instances.values().filter(|record| record.organization == organization);
        let running: Vec<_> = records.filter(|record| record.desired == Desired::Running).cloned().collect();
        let suspend = |record| state.admit(admission::suspend(&record, now), now);
        let suspended = running.into_iter().map(suspend).collect();
        drop(state);
        self.wakes.committed(organization);
        suspended
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Never behind the clock, so that what comes after a restore is above every number that was given out before.
    fn next_revision(&mut self, organization: OrganizationId, now: Timestamp) -> Revision {
        let revision = self.revisions.entry(organization).or_default();
        *revision = Revision((revision.0 + 1).max(now.micros()));
        *revision
    }

    fn tell(&mut self, record: &InstanceRecord, at: Timestamp, detail: EventDetail) {
        self.events_told = (self.events_told + 1).max(at.micros());
        let event = Event { id: self.events_told, workspace: record.workspace, at, detail };
        self.events.push((record.organization, event));
    }

    fn account(&self, organization: OrganizationId, now: Timestamp) -> Account {
        let mut account = self.accounts.get(&organization).cloned().unwrap_or_default();
        let launches = self.launches.get(&organization).map_or(&[][..], Vec::as_slice);
        let recent = launches.iter().filter(|at| **at > now - LAUNCH_WINDOW).count();
        account.launches = i64::try_from(recent).unwrap_or(i64::MAX);
        account
    }

    fn admit(&mut self, admitted: Admitted, now: Timestamp) -> InstanceRecord {
        let Admitted { mut record, asked, launch, event } = admitted;
        if launch {
            self.launches.entry(record.organization).or_default().push(now);
        }
        let account = self.accounts.entry(record.organization).or_default();
        account.used = account.used.plus(asked);
        record.revision = self.next_revision(record.organization, now);
        self.tell(&record, now, event);
        self.instances.insert(record.workspace, record.clone());
        record
    }

    fn is_held(&self, workspace: WorkspaceId, now: Timestamp) -> bool {
        self.leases.get(&workspace).is_some_and(|lease| lease.until > now)
    }

    /// What of a backend's is due, in the order in which it is claimed, as far as there is room.
    fn due(&self, backend: &str, now: Timestamp, room: Room) -> Vec<WorkspaceId> {
        let here = self.instances.values().filter(|record| record.backend == backend);
        let (held, free): (Vec<_>, Vec<_>) =
            here.filter(|record| record.due_at.is_some()).partition(|one| self.is_held(one.workspace, now));
        let mut turns: HashMap<(OrganizationId, bool), usize> = HashMap::new();
        for record in held {
            *turns.entry((record.organization, record.is_launching())).or_default() += 1;
        }
        let mut due: Vec<_> = free.into_iter().filter(|record| record.due_at <= Some(now)).collect();
        due.sort_by_key(|record| (!record.is_to_end(), record.due_at));
        let mut due: Vec<_> = due
            .into_iter()
            .map(|record| {
                let turn = turns.entry((record.organization, record.is_launching())).or_default();
                *turn += 1;
                (*turn, !record.is_to_end(), record.due_at, record)
            })
            .collect();
        due.sort_by_key(|(turn, later, at, _)| (*turn, *later, *at));
        let mut left = room;
        let mut chosen = Vec::new();
        for (.., record) in due {
            let left = if record.is_launching() { &mut left.launches } else { &mut left.others };
            if *left > 0 {
                *left -= 1;
                chosen.push(record.workspace);
            }
        }
        chosen
    }

    /// The record under a lease that still holds.
    fn held(&mut self, lease: &Lease, now: Timestamp) -> Result<InstanceRecord, StoreError> {
        let lost = StoreError::LeaseLost(lease.workspace);
        match self.leases.get(&lease.workspace) {
            Some(held) if held == lease && now < lease.until => {}
            _ => return Err(lost),
        }
        self.instances.get(&lease.workspace).cloned().ok_or(lost)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn provision(
        &self,
        request: &ProvisionRequest,
        now: Timestamp,
    ) -> Result<InstanceRecord, StoreError> {
        let mut state = self.lock();
        if let Some(record) = state.instances.get(&request.workspace) {
            if record.organization == request.organization {
                return Ok(record.clone());
            }
            return Err(admission::workspace_taken(request.workspace).into());
        }
        if let Some(refused) = state.tenants.refusal(request.organization, request.workspace, request.process)
        {
            refused.check(request.intent, None)?;
        }
        let account = state.account(request.organization, now);
        let record = state.admit(admission::provision(&account, request, now)?, now);
        drop(state);
        self.wakes.committed(request.organization);
        Ok(record)
    }

    async fn change(&self, request: &ChangeRequest, now: Timestamp) -> Result<InstanceRecord, StoreError> {
        let mut state = self.lock();
        let mine = |record: &&InstanceRecord| record.organization == request.organization;
        let Some(before) = state.instances.get(&request.workspace).filter(mine).cloned() else {
            if matches!(request.change, Change::Delete) {
                state.await_no_more(request.organization, request.workspace, request.intent);
            }
            return Err(Error::workspace_not_found(request.workspace).into());
        };
        if let Some(refused) = state.tenants.refusal(request.organization, request.workspace, request.process)
            && request.intent > before.intent
        {
            refused.check(request.intent, Some(&request.change))?;
        }
        let account = state.account(request.organization, now);
        let Some(admitted) = admission::change(&account, &before, request, now)? else {
            if matches!(request.change, Change::Delete) {
                // it is being deleted, or gone
                state.await_no_more(request.organization, request.workspace, request.intent);
            }
            return Ok(before);
        };
        let record = state.admit(admitted, now);
        drop(state);
        self.wakes.committed(request.organization);
        Ok(record)
    }

    async fn get(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
    ) -> Result<Option<InstanceRecord>, StoreError> {
        let state = self.lock();
        Ok(state.instances.get(&workspace).filter(|record| record.organization == organization).cloned())
    }

    async fn changed_after(
        &self,
        organization: OrganizationId,
        after: Revision,
        limit: u32,
    ) -> Result<Vec<Shown>, StoreError> {
        let state = self.lock();
        let changed =
            |record: &&InstanceRecord| record.organization == organization && record.revision > after;
        let mut changed: Vec<_> = state.instances.values().filter(changed).collect();
        changed.sort_by_key(|record| record.revision);
        Ok(changed.into_iter().take(limit as usize).cloned().map(Shown::from).collect())
    }

    async fn events_after(
        &self,
        organization: OrganizationId,
        after: i64,
        limit: u32,
    ) -> Result<Vec<Event>, StoreError> {
        let read = || async { self.told_after(organization, after, limit) };
        let read = self.steps.run("store.events_after", read).await;
        read.map_err(|injected| StoreError::Unavailable(injected.to_string().into()))
    }

    async fn claim(
        &self,
        backend: &str,
        owner: LeaseOwner,
        now: Timestamp,
        lease: Duration,
        room: Room,
    ) -> Result<Vec<Claimed>, StoreError> {
        let mut state = self.lock();
        let chosen = state.due(backend, now, room);
        let mut claimed = Vec::with_capacity(chosen.len());
        for workspace in chosen {
            let Some(mut record) = state.instances.get(&workspace).cloned() else { continue };
            state.epochs += 1;
            let lease = Lease { workspace: record.workspace, owner, epoch: state.epochs, until: now + lease };
            state.leases.insert(record.workspace, lease);
            record.due_at = Some(lease.until);
            state.instances.insert(record.workspace, record.clone());
            let hold = state.tenants.hold(&record);
            claimed.push(Claimed { lease, record, hold });
        }
        Ok(claimed)
    }

    async fn next_due(
        &self,
        backend: &str,
        now: Timestamp,
        room: Room,
    ) -> Result<Option<Timestamp>, StoreError> {
        let state = self.lock();
        let here = state.instances.values().filter(|record| record.backend == backend);
        let here = here.filter(|record| room.of(record.is_launching()) > 0);
        let due = here.filter_map(|record| {
            let due = record.due_at?;
            let held =
                state.leases.get(&record.workspace).map(|lease| lease.until).filter(|until| *until > now);
            Some(held.map_or(due, |until| due.max(until)))
        });
        Ok(due.min())
    }

    async fn begin_launch(
        &self,
        lease: &Lease,
        planned_for: Wanted,
        placement: &str,
        now: Timestamp,
        call_until: Timestamp,
    ) -> Result<InstanceRecord, StoreError> {
        let mut state = self.lock();
        let mut record = state.held(lease, now)?;
        let next = outcome::next_launch(state.highest_launch, now);
        let began = outcome::begin_launch(&mut record, planned_for, next, placement, now, call_until)?;
        if began.new_attempt {
            state.highest_launch = next;
            state.launched.insert((next, record.workspace), now);
        }
        if began.visible {
            record.revision = state.next_revision(record.organization, now);
        }
        state.instances.insert(record.workspace, record.clone());
        drop(state);
        self.wakes.committed(record.organization);
        Ok(record)
    }

    async fn commit(
        &self,
        lease: &Lease,
        now: Timestamp,
        outcome: &Outcome,
        release: bool,
    ) -> Result<InstanceRecord, StoreError> {
        let mut state = self.lock();
        let mut record = state.held(lease, now)?;
        let effects = outcome::apply(&mut record, outcome, lease, release, now);
        let segments = state.segments.entry(record.workspace).or_default();
        if let (Some(until), Some(open)) = (effects.close_segment, segments.last_mut()) {
            open.until = Some(until.max(open.from));
        }
        if let Some(from) = effects.open_segment {
            // a clock that stepped back bills nothing twice
            let after = segments
                .last()
                .map(|last| last.until.unwrap_or(last.from).max(last.from + Duration::from_micros(1)));
            let from = after.map_or(from, |after| from.max(after));
            segments.push(Segment { generation: record.generation, from, until: None });
        }
        let account = state.accounts.entry(record.organization).or_default();
        account.used = account.used.minus(effects.released);
        if effects.visible {
            record.revision = state.next_revision(record.organization, now);
        }
        if let Some(detail) = effects.event {
            state.tell(&record, now, detail);
        }
        state.instances.insert(record.workspace, record.clone());
        if release {
            state.leases.remove(&record.workspace);
        }
        drop(state);
        self.wakes.committed(record.organization);
        effects.illegal.map_or(Ok(record), |illegal| Err(illegal.into()))
    }

    async fn expectations(&self, backend: &str) -> Result<Expectations, StoreError> {
        let state = self.lock();
        let here = |record: &&InstanceRecord| record.backend == backend && record.phase != Phase::Gone;
        let instances = state.instances.values().filter(here);
        let instances = instances
            .map(|record| Expected {
                organization: record.organization,
                workspace: record.workspace,
                generation: record.generation,
                seq: record.live_attempt().map(|attempt| attempt.seq),
                phase: Some(record.phase),
                up: record.up_since.is_some(),
                settled: record.due_at.is_none(),
            })
            .collect();
        Ok(Expectations { instances, awaited: state.awaited() })
    }

    async fn launched(&self, launches: &[Launched]) -> Result<HashSet<Launched>, StoreError> {
        let state = self.lock();
        let is_known = |(launch, workspace): &Launched| {
            let whole = state.launched.get(&(WHOLE, *workspace));
            state.launched.contains_key(&(*launch, *workspace))
                || whole.is_some_and(|at| launch.0 <= at.micros())
        };
        Ok(launches.iter().filter(|launch| is_known(launch)).copied().collect())
    }

    async fn raise_alarm(&self, alarm: &Alarm) -> Result<(), StoreError> {
        self.lock().alarms.entry(alarm.backend.clone()).or_insert_with(|| alarm.clone());
        Ok(())
    }

    async fn alarms(&self) -> Result<Vec<Alarm>, StoreError> {
        Ok(self.lock().alarms.values().cloned().collect())
    }

    async fn end_alarm(
        &self,
        backend: &str,
        launches: &[Launched],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut state = self.lock();
        for launch in launches {
            let at = state.launched.entry(*launch).or_insert(now);
            *at = now.max(*at);
        }
        state.alarms.remove(backend);
        Ok(())
    }

    async fn lead(
        &self,
        role: &str,
        owner: LeaseOwner,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut state = self.lock();
        let free = state.roles.get(role).is_none_or(|(holder, ends)| *holder == owner || *ends <= now);
        if free {
            state.roles.insert(role.to_owned(), (owner, until));
        }
        Ok(free)
    }

    async fn wake(&self, workspaces: &[WorkspaceId], now: Timestamp) -> Result<(), StoreError> {
        let wake = || async {
            let mut state = self.lock();
            for workspace in workspaces {
                if let Some(record) = state.instances.get_mut(workspace)
                    && record.phase != Phase::Gone
                {
                    record.due_at = Some(record.due_at.map_or(now, |due| due.min(now)));
                }
            }
            drop(state);
            self.wakes.woken();
        };
        let woken = self.steps.run("store.wake", wake).await;
        woken.map_err(|injected| StoreError::Unavailable(injected.to_string().into()))
    }

    async fn segments(&self, workspace: WorkspaceId) -> Result<Vec<Segment>, StoreError> {
        Ok(self.lock().segments.get(&workspace).cloned().unwrap_or_default())
    }

    async fn account(&self, organization: OrganizationId, now: Timestamp) -> Result<Account, StoreError> {
        Ok(self.lock().account(organization, now))
    }

    async fn set_account(&self, organization: OrganizationId, account: Account) -> Result<(), StoreError> {
        let mut state = self.lock();
        let stored = state.accounts.entry(organization).or_default();
        *stored = Account { used: stored.used, ..account };
        Ok(())
    }

    async fn prune(&self, before: Timestamp) -> Result<(), StoreError> {
        let mut state = self.lock();
        state.events.retain(|(_, event)| event.at >= before);
        for launches in state.launches.values_mut() {
            launches.retain(|at| *at >= before);
        }
        let State { instances, tenants, .. } = &mut *state;
        tenants.forget_heard(instances);
        state.instances.retain(|_, record| record.phase != Phase::Gone || record.phase_since >= before);
        let mut kept: BTreeSet<WorkspaceId> = state.instances.keys().copied().collect();
        kept.extend(state.tenants.waiting());
        state.launched.retain(|(_, workspace), at| *at >= before || kept.contains(workspace));
        Ok(())
    }

    fn wakes(&self) -> &Wakes {
        &self.wakes
    }
}
