//! What the store in memory keeps of tenants that call it over a network.

use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;
use molecule_domain::Timestamp;
use molecule_domain::id::{IncarnationId, IntentNumber, OrganizationId, WorkspaceId};
use molecule_domain::lifecycle::Phase;
use molecule_domain::limits::Standing;

use super::{MemoryStore, State};
use crate::model::InstanceRecord;
use crate::store::{Awaited, Hold, LastAgreement, Part, RefusedWish, StoreError, Tenants};

/// What is kept of tenants.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept {
    /// The start of the service that goes on now.
    service: Option<(IncarnationId, Timestamp)>,
    met: BTreeMap<OrganizationId, Tenant>,
    refused: BTreeMap<(OrganizationId, WorkspaceId, Option<IncarnationId>), RefusedWish>,
}

/// A tenant that has met the service.
#[derive(Clone, Debug, Default)]
struct Tenant {
    agreed: Option<(IncarnationId, Timestamp)>,
    heard: Option<LastAgreement>,
    waiting: BTreeMap<WorkspaceId, IntentNumber>,
}

impl Kept {
    pub(super) fn refusal(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
        process: Option<IncarnationId>,
    ) -> Option<&RefusedWish> {
        self.refused.get(&(organization, workspace, process))
    }

    /// Workspaces of which wishes wait.
    pub(super) fn waiting(&self) -> impl Iterator<Item = WorkspaceId> {
        self.met.values().flat_map(|tenant| tenant.waiting.keys().copied())
    }

    /// Waits no more for what these were told of.
    pub(super) fn forget_heard(&mut self, records: &BTreeMap<WorkspaceId, InstanceRecord>) {
        for (organization, tenant) in &mut self.met {
            tenant.waiting.retain(|workspace, number| {
                let mine = records.get(workspace).filter(|record| record.organization == *organization);
                mine.is_none_or(|record| record.intent < *number)
            });
        }
    }

    pub(super) fn hold(&self, record: &InstanceRecord) -> Hold {
        let Some(tenant) = self.met.get(&record.organization) else { return Hold::None };
        let waits = tenant.waiting.get(&record.workspace).is_some_and(|number| record.intent < *number);
        match (tenant.agreed, self.service) {
            (Some((with, at)), Some((service, _))) if with == service && !waits => Hold::Released(at),
            (_, service) => Hold::Held(service.map_or(record.created_at, |(_, began)| began)),
        }
    }
}

impl State {
    /// Workspaces without an instance of which wishes wait that were not heard since their tenants agreed.
    pub(super) fn awaited(&self) -> HashMap<(OrganizationId, WorkspaceId), Awaited> {
        let waiting = self.tenants.met.iter().flat_map(|(organization, tenant)| {
            tenant.waiting.iter().map(move |(workspace, number)| (*organization, *workspace, *number))
        });
        let is_heard = |(organization, workspace, number): &(OrganizationId, WorkspaceId, IntentNumber)| {
            let mine = self.instances.get(workspace).filter(|record| record.organization == *organization);
            mine.is_some_and(|record| record.phase != Phase::Gone || record.intent >= *number)
        };
        let awaited = waiting.filter(|one| !is_heard(one));
        let of = |organization| match self.accounts.get(&organization).map(|account| account.standing) {
            Some(Standing::Suspended) => Awaited::Data,
            _ => Awaited::Whole,
        };
        awaited.map(|(organization, workspace, _)| ((organization, workspace), of(organization))).collect()
    }

    /// Awaits nothing more of a workspace up to this wish, which was heard: it is refused, or says that the workspace is to go.
    /// The number of the last wish that was waited for, where there was any.
    pub(super) fn await_no_more(
        &mut self,
        organization: OrganizationId,
        workspace: WorkspaceId,
        intent: IntentNumber,
    ) -> Option<IntentNumber> {
        let waiting = &mut self.tenants.met.get_mut(&organization)?.waiting;
        let number = *waiting.get(&workspace).filter(|number| **number <= intent)?;
        waiting.remove(&workspace)?;
        Some(number)
    }
}

impl MemoryStore {
    /// Another start of the service goes on over this store.
    pub fn begin(&self, service: IncarnationId, now: Timestamp) {
        self.lock().tenants.service = Some((service, now));
    }

    /// A tenant has met the service. Whether it has agreed with this start of the service.
    pub fn meet(&self, organization: OrganizationId) -> bool {
        let kept = &mut self.lock().tenants;
        let met = kept.met.entry(organization);
        let tenant = met.or_default();
        let service = kept.service.map(|(service, _)| service);
        tenant.agreed.is_some_and(|(with, _)| Some(with) == service)
    }

    /// A process of a tenant's has agreed with this start of the service, for the so manieth time; these of its wishes it has
    /// still to tell.
    pub fn agree(
        &self,
        organization: OrganizationId,
        (process, number): (IncarnationId, i64),
        waiting: &[(WorkspaceId, IntentNumber)],
        now: Timestamp,
    ) {
        let mut state = self.lock();
        let (service, mut waited) = (state.tenants.service, BTreeMap::new());
        if let Some(tenant) = state.tenants.met.get_mut(&organization) {
            // it begins, so it is heard
            if let Ok(Part::Late) = LastAgreement::judge(tenant.heard, process, number, true) {
                return;
            }
            tenant.heard = Some(LastAgreement { process, number, ended: true });
            let waiting = waiting.iter().copied().collect();
            waited = std::mem::replace(&mut tenant.waiting, waiting);
            waited.retain(|workspace, _| !tenant.waiting.contains_key(workspace));
            // time counts from the first agreement with a start of the service
            if tenant.agreed.map(|(with, _)| with) != service.map(|(service, _)| service) {
                tenant.agreed = service.map(|(service, _)| (service, now));
            }
        }
        for (workspace, number) in waited {
            state.release(organization, workspace, number, now);
        }
        state.wake_all(organization, now);
        drop(state);
        self.wakes.committed(organization);
    }
}

impl State {
    /// Begins the time of what was held until a wish would be told: nothing was tried of it meanwhile.
    fn release(
        &mut self,
        organization: OrganizationId,
        workspace: WorkspaceId,
        waited: IntentNumber,
        now: Timestamp,
    ) {
        if let Some(held) = self.instances.get_mut(&workspace)
            && held.organization == organization
            && held.intent < waited
            && held.phase.is_transient()
        {
            (held.phase_since, held.due_at) = (now, Some(now));
        }
    }

    /// Has everything of an organisation's that rests looked at.
    fn wake_all(&mut self, organization: OrganizationId, now: Timestamp) {
        let mine = self.instances.values_mut().filter(|record| record.organization == organization);
        for record in mine.filter(|record| record.due_at.is_some_and(|due| due > now)) {
            record.due_at = Some(now);
        }
    }
}

#[async_trait]
impl Tenants for MemoryStore {
    async fn refuse(
        &self,
        refused: &RefusedWish,
        now: Timestamp,
    ) -> Result<Option<InstanceRecord>, StoreError> {
        let mut state = self.lock();
        let found = state.instances.get(&refused.workspace);
        let mine = found.filter(|record| record.organization == refused.organization);
        if let Some(granted) = mine.filter(|record| record.intent >= refused.intent) {
            return Ok(Some(granted.clone()));
        }
        let waited = state.await_no_more(refused.organization, refused.workspace, refused.heard());
        if let Some(waited) = waited {
            state.release(refused.organization, refused.workspace, waited, now);
        }
        let key = (refused.organization, refused.workspace, refused.process);
        let kept = state.tenants.refused.entry(key).or_insert_with(|| refused.clone());
        if kept.intent < refused.intent {
            kept.clone_from(refused);
        }
        Ok(None)
    }
}
