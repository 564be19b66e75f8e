//! What services store and read of instances, whichever backend they are on.

use std::sync::Arc;

use molecule_domain::id::{IncarnationId, IntentNumber, OrganizationId, Revision, WorkspaceId};
use molecule_domain::{Clock, Error, Result};
use tokio::sync::watch;

use crate::admission::{ChangeRequest, ProvisionRequest};
use crate::model::{Event, InstanceRecord};
use crate::shown::Shown;
use crate::store::{RefusedWish, Store, Tenants};

/// How many records or events one read gives at most.
const BATCH: u32 = 500;

/// The instances of a store.
#[derive(Clone)]
pub struct Instances {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Instances {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instances").finish_non_exhaustive()
    }
}

impl Instances {
    /// Those of this store.
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock }
    }

    /// Stores the wish for a workspace's first instance. No provider is called here.
    pub async fn provision(&self, request: &ProvisionRequest) -> Result<InstanceRecord> {
        Ok(self.store.provision(request, self.clock.now()).await?)
    }

    /// Stores a change of what is wanted. No provider is called here.
    pub async fn change(&self, request: &ChangeRequest) -> Result<InstanceRecord> {
        Ok(self.store.change(request, self.clock.now()).await?)
    }

    /// What a tenant hears that takes a refusal for the last word: a call of the wish that is heard late is not granted after all.
    /// Where another call was granted meanwhile, that is what it hears. `creates` says whether it asked for a first instance.
    pub async fn settled(
        &self,
        tenants: &dyn Tenants,
        (organization, workspace, intent): (OrganizationId, WorkspaceId, IntentNumber),
        process: Option<IncarnationId>,
        creates: bool,
        asked: Result<InstanceRecord>,
    ) -> Result<InstanceRecord> {
        match asked {
            Err(refusal) if refusal.reason.is_refusal() => {
                let (reason, message) = (refusal.reason, refusal.message.clone());
                let refused =
                    RefusedWish { organization, workspace, intent, process, creates, reason, message };
                tenants.refuse(&refused, self.clock.now()).await?.ok_or(refusal)
            }
            asked => asked,
        }
    }

    /// One instance of an organisation's.
    pub async fn get(&self, organization: OrganizationId, workspace: WorkspaceId) -> Result<InstanceRecord> {
        let found = self.store.get(organization, workspace).await?;
        found.ok_or_else(|| Error::workspace_not_found(workspace))
    }

    /// The organisation's instances that changed after a revision, in order.
    pub async fn changed_after(&self, organization: OrganizationId, after: Revision) -> Result<Vec<Shown>> {
        Ok(self.store.changed_after(organization, after, BATCH).await?)
    }

    /// The organisation's events after an id, in order.
    pub async fn events_after(&self, organization: OrganizationId, after: i64) -> Result<Vec<Event>> {
        Ok(self.store.events_after(organization, after, BATCH).await?)
    }

    /// Rises after every commit of an organisation's.
    pub fn news(&self, organization: OrganizationId) -> watch::Receiver<u64> {
        self.store.wakes().of(organization)
    }
}
