//! Suspended organisations: how an operator suspends one, and what that makes of what was wished of its workspaces.

use std::sync::Arc;
use std::time::Duration;

use molecule_domain::Timestamp;
use molecule_domain::id::{IntentNumber, OrganizationId, WorkspaceId};
use molecule_domain::lifecycle::{Desired, Reason};
use molecule_domain::limits::Standing;
use molecule_provisioner::model::InstanceRecord;
use molecule_provisioner::store::StoreError;
use molecule_provisioner::store::memory::MemoryStore;
use tokio::sync::oneshot;

use crate::client::Ask;
use crate::control::ControlPlane;
use crate::operator::set_standing;
use crate::oracle::Oracle;
use crate::pair::Pair;
use crate::restored::Sides;
use crate::trouble;
use crate::wished::Wished;
use crate::world::lock;

/// A suspension that has stopped what was to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Suspension {
    /// The number of the last change that was granted before it.
    after: IntentNumber,
    /// Whether the workspace is STOPPED for that reason. It is not where the control plane has lost the suspension in a restore,
    /// and is told to stop it like by a client.
    pub(crate) is_shown: bool,
}

/// Whether a record is one that a suspension has stopped.
pub(crate) fn is_suspended(desired: Desired, reason: Option<Reason>) -> bool {
    desired == Desired::Stopped && reason == Some(Reason::OrganizationSuspended)
}

impl Wished {
    /// The engine has granted a change: what it starts is stopped by no earlier suspension.
    pub(crate) fn granted_after_suspension(&mut self, number: IntentNumber, desired: Desired) {
        self.unheard_suspension = self.unheard_suspension.filter(|after| number <= *after);
        let Some(suspension) = self.suspension.as_mut().filter(|one| number > one.after) else { return };
        if desired == Desired::Stopped {
            suspension.is_shown = false;
        } else {
            self.suspension = None;
        }
    }

    /// A database was put back: what the control plane holds now, or is told by the tenant, says whether a suspension stops the
    /// workspace.
    pub(crate) fn suspended_in(&mut self, sides: &Sides, workspace: WorkspaceId) {
        let was_suspended = self.suspension.is_some();
        let tenant = sides.tenant.get(&workspace).map(|tenant| &tenant.record);
        let answered = tenant.map_or(IntentNumber(0), |tenant| tenant.answered);
        let engine = sides.engine.get(&workspace);
        let shown = engine.filter(|engine| is_suspended(engine.desired, engine.reason));
        let is_newest = engine.is_some_and(|engine| engine.intent >= answered);
        // whose last word is to stop it: the control plane's, or its tenant's, which is told where the other has not stopped it
        let stops = if is_newest { engine.map(|one| one.desired) } else { tenant.map(|one| one.desired) };
        let stops = stops == Some(Desired::Stopped);
        // one of an older version may not know the reason
        let says_why = tenant.is_some_and(|tenant| is_suspended(tenant.desired, tenant.reason));
        // what the control plane has said may be on its way to its tenant still, which will tell it again then
        self.unheard_suspension = engine.filter(|_| was_suspended && !stops).map(|engine| engine.intent);
        self.suspension = match shown {
            _ if !stops => None,
            Some(engine) => Some(Suspension { after: engine.intent, is_shown: true }),
            None if was_suspended || !is_newest && says_why => {
                let after = engine.map_or(answered, |engine| engine.intent);
                Some(Suspension { after, is_shown: false })
            }
            None => None,
        };
    }
}

impl Oracle {
    /// A tenant hears, late, of a suspension that the control plane has lost in a restore. Where that has lost a wish as well, it is
    /// told again what all of it came to, so it stops that; of the same number its own word counts.
    pub(crate) fn heard_suspension(&self, workspace: WorkspaceId, intent: IntentNumber) {
        if let Some(wished) = lock(&self.all).get_mut(&workspace)
            && let Some(after) = wished.unheard_suspension.take_if(|after| intent > *after)
            && wished.suspension.is_none()
        {
            wished.suspension = Some(Suspension { after, is_shown: false });
        }
    }

    /// A suspension has stopped what was to run.
    fn suspended(&self, record: &InstanceRecord) {
        let mut coverage = self.world.coverage();
        *coverage.suspended.entry(record.phase).or_default() += 1;
        drop(coverage);
        if let Some(wished) = lock(&self.all).get_mut(&record.workspace) {
            wished.suspension = Some(Suspension { after: record.intent, is_shown: true });
            wished.unheard_suspension = None;
        }
    }
}

impl ControlPlane {
    /// Suspends an organisation in a database, by the use case of production.
    pub(crate) async fn suspend_in(
        &self,
        database: &MemoryStore,
        organization: OrganizationId,
        now: Timestamp,
    ) {
        for record in database.suspend(organization, now) {
            self.oracle.suspended(&record);
            self.committed(database, &record).await;
        }
    }

    /// Whether an operator has suspended an organisation.
    pub(crate) fn is_suspended(&self, organization: OrganizationId) -> bool {
        lock(&self.suspended).contains(&organization)
    }
}

/// An operator suspends some organisation for so long.
pub(crate) async fn happens(pair: &Pair, lasts: Duration) {
    let world = &pair.world;
    let tenant = usize::try_from(world.rng().below(pair.tenants.len() as u64)).unwrap_or(0);
    let organization = pair.tenants[tenant].organization;
    if world.is_over() || !lock(&pair.control.suspended).insert(organization) {
        return;
    }
    world.coverage().trouble("suspension");
    world.tell("operator", 63, || format!("SUSPENDS tenant {} for {lasts:?}", tenant + 1));
    // an operator who does not hear that it is done asks again
    while pair.control.is_suspended(organization) && !is_said_done(pair, organization).await {
        let pause = world.rng().seconds(2, 40);
        tokio::time::sleep(pause).await;
    }
    tokio::time::sleep(lasts).await;
    resume(pair, organization).await;
}

/// Asks some replica to suspend an organisation; whether it said that it has.
async fn is_said_done(pair: &Pair, organization: OrganizationId) -> bool {
    let Some(replica) = pair.control.some_replica() else { return false };
    let (sender, receiver) = oneshot::channel::<Result<(), StoreError>>();
    let (store, process) = (Arc::clone(&replica.store), Arc::clone(&replica.process));
    replica.process.spawn(async move {
        process.is_let().await;
        // nobody else ends this wait
        let _ = sender.send(store.suspend(organization).await);
    });
    // a replica that dies meanwhile answers nothing
    matches!(receiver.await, Ok(Ok(())))
}

/// An operator ends the suspension of an organisation, where it is suspended, and somebody starts again what that has stopped.
async fn resume(pair: &Pair, organization: OrganizationId) {
    let world = &pair.world;
    if !lock(&pair.control.suspended).remove(&organization) {
        return;
    }
    world.tell("operator", 70, || format!("RESUMES {organization}"));
    set_standing(pair, organization, Standing::Good).await;
    for workspace in pair.oracle.workspaces(organization) {
        if !world.is_over() && world.rng().once_in(3) {
            let after = world.rng().seconds(0, 300);
            let ask = *world.rng().pick(&[Ask::Start, Ask::Start, Ask::Restart]);
            trouble::ask(pair, ask, workspace, after);
        }
    }
}

/// Ends every suspension.
pub(crate) async fn ends(pair: &Pair) {
    for tenant in &pair.tenants {
        resume(pair, tenant.organization).await;
    }
}
