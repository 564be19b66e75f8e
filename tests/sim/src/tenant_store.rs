//! A tenant's database as its process reaches it: every transaction is a step, and the oracle learns of what was stored.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use molecule_domain::Timestamp;
use molecule_domain::id::{Generation, IntentNumber, OrganizationId, Revision, WorkspaceId};
use molecule_domain::instance::{Event, InstanceView};
use molecule_domain::lifecycle::Desired;
use molecule_domain::spec::PrivateParts;
use molecule_tenant::private;
use molecule_workspace::agent::{Patience, Verdict};
use molecule_workspace::aggregate::{Answer, NewWorkspace};
use molecule_workspace::agreement::{Agreed, Meetings, Met, Minter};
use molecule_workspace::private::SealedParts;
use molecule_workspace::record::{RequestKey, StoredEvent, WorkspaceRecord};
use molecule_workspace::store::memory::MemoryStore;
use molecule_workspace::store::{
    Conditions, CredentialHash, Cursors, Decide, Mirrored, Place, Redeemed, Redemption, Report, StoreError,
    Stored, TenantStore,
};
use molecule_workspace::{Entry, Wish, Workspace};
use tokio::sync::watch;

use crate::asked::{Asked, StoredAs};
use crate::coverage::WishKind;
use crate::faults::Fault;
use crate::oracle::Oracle;
use crate::process::{Process, Unread};
use crate::secrets::Seal;
use crate::suspension::is_suspended;
use crate::wished::{Fields, SeenWish, fields_of, kind_of};
use crate::world::lock;

/// A tenant's database as its process reaches it.
pub struct ProcessStore {
    /// Whose database it is.
    pub organization: OrganizationId,
    /// The database.
    pub database: Arc<MemoryStore>,
    /// Who learns of what is stored.
    pub oracle: Arc<Oracle>,
    /// Whose steps these are.
    pub process: Arc<Process>,
}

/// What a change turned out to be, seen inside its transaction.
struct Decided {
    wish: Option<Wish>,
    sets: Fields,
    last: Option<(WishKind, IntentNumber, bool)>,
    intent: IntentNumber,
}

/// The numbers of the entries that wait, by workspace.
type Outboxes = BTreeMap<WorkspaceId, Vec<IntentNumber>>;

/// The old and the new number of each entry that was left in an agreement: the last ones, in their order.
fn renumbered(
    before: &Outboxes,
    after: &Outboxes,
) -> BTreeMap<WorkspaceId, Vec<(IntentNumber, IntentNumber)>> {
    let of = |(workspace, left): (&WorkspaceId, &Vec<IntentNumber>)| {
        let before = before.get(workspace)?;
        let pairs = before.iter().rev().copied().zip(left.iter().rev().copied());
        let mut pairs: Vec<_> = pairs.collect();
        pairs.reverse();
        pairs.iter().any(|(old, new)| old != new).then_some((*workspace, pairs))
    };
    after.iter().filter_map(of).collect()
}

/// A workspace right before a change.
struct Before {
    fields: Fields,
    desired: Desired,
}

/// Every field of a workspace.
fn fields_in(found: &Workspace) -> Fields {
    fields_of(&found.record.spec, &open_private(found.record.workspace, &found.private))
}

fn locked(step: &'static str) -> StoreError {
    StoreError::Unavailable(format!("{step}: the database is locked").into())
}

/// The private parts of a workspace, as they are sealed.
pub fn open_private(workspace: WorkspaceId, sealed: &SealedParts) -> PrivateParts {
    private::open(&Seal, workspace, sealed).unwrap_or_default()
}

impl ProcessStore {
    async fn transaction<T>(
        &self,
        step: &'static str,
        transaction: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let fault = self.process.before(step).await;
        match fault {
            None | Some(Fault::Unheard) => {}
            Some(Fault::Fail) => return Err(locked(step)),
            Some(other) => self.process.world().does_nothing(other, step),
        }
        let result = transaction.await;
        if fault == Some(Fault::Unheard) {
            // until its client goes away, or its process does
            return std::future::pending().await;
        }
        self.process.after(step).await;
        result
    }

    async fn read<T>(
        &self,
        step: &'static str,
        read: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.process.reads(step).await.map_err(|Unread| locked(step))?;
        read.await
    }

    /// Compares what was stored with what the request that is being handled asked for.
    async fn compared(
        &self,
        workspace: WorkspaceId,
        wish: Option<&Wish>,
        before: Before,
    ) -> Result<(), StoreError> {
        let Some(asked) = Asked::now() else { return Ok(()) };
        let after = self.database.load(self.organization, workspace).await?;
        let after = after.as_ref().map(fields_in).unwrap_or_default();
        let Before { fields, desired } = before;
        let stored = StoredAs { wish, before: &fields, after: &after, desired };
        self.oracle.stored_for(workspace, &asked, &stored);
        Ok(())
    }

    /// What waits of each workspace: the numbers of its entries, but of those that tell again what was granted.
    async fn outboxes(&self) -> Result<Outboxes, StoreError> {
        let mut outboxes = Outboxes::new();
        for workspace in self.database.waiting().await? {
            let found = self.database.load(self.organization, workspace).await?;
            let entries = found.into_iter().flat_map(|found| found.outbox);
            outboxes.insert(workspace, entries.filter(|one| !one.retold).map(|one| one.number).collect());
        }
        Ok(outboxes)
    }

    fn noted(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
        request: Option<&RequestKey>,
        decided: Decided,
    ) {
        let Decided { wish, sets, last, intent } = decided;
        let (request, at) = (request.map(|key| key.id.clone()), self.process.world().now());
        let wish = SeenWish { number: intent, wish, sets, request, at, refused: false };
        self.oracle.stored(organization, workspace, wish, last);
    }
}

#[async_trait]
impl TenantStore for ProcessStore {
    async fn create(
        &self,
        new: &NewWorkspace,
        key: Option<&RequestKey>,
        now: Timestamp,
    ) -> Result<Stored, StoreError> {
        let create = async {
            let before = self.database.get(new.organization, new.workspace).await?;
            let stored = self.database.create(new, key, now).await?;
            // one whose creation was refused may be created again
            let is_new = before.is_none_or(|before| before.intent < stored.record.intent);
            if is_new && stored.record.workspace == new.workspace {
                let decided = Decided {
                    wish: Some(Wish::Provision { run: true }),
                    sets: fields_of(&new.spec, &open_private(new.workspace, &new.private)),
                    last: None,
                    intent: stored.record.intent,
                };
                let before = Before { fields: Fields::new(), desired: Desired::Running };
                self.compared(new.workspace, decided.wish.as_ref(), before).await?;
                self.noted(new.organization, new.workspace, key, decided);
            }
            Ok(stored)
        };
        self.transaction("tenant.create", create).await
    }

    async fn change(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
        on: &Conditions,
        now: Timestamp,
        decide: Decide<'_>,
    ) -> Result<Stored, StoreError> {
        let seen: Mutex<Option<(Decided, Before)>> = Mutex::default();
        let change = async {
            let watching: Decide<'_> = Box::new(|found| {
                let change = decide(found)?;
                let before = Before { fields: fields_in(found), desired: found.record.desired };
                let spec = change.spec.as_ref().map_or(&found.record.spec, |(spec, _)| spec);
                let private = change.private.as_ref().unwrap_or(&found.private);
                let mut sets = fields_of(spec, &open_private(workspace, private));
                sets.retain(|field, value| before.fields.get(field) != Some(value));
                let last = found.outbox.last();
                let last = last.map(|last| (kind_of(&last.wish), last.number, last.begun));
                let (wish, intent) = (change.wish.clone(), found.record.intent.next());
                *lock(&seen) = Some((Decided { wish, sets, last, intent }, before));
                Ok(change)
            });
            let stored = self.database.change(organization, workspace, on, now, watching).await?;
            let seen = lock(&seen).take();
            if let Some((decided, before)) = seen {
                self.compared(workspace, decided.wish.as_ref(), before).await?;
                self.noted(organization, workspace, on.key.as_ref(), decided);
            }
            Ok(stored)
        };
        self.transaction("tenant.change", change).await
    }

    async fn replayed(
        &self,
        organization: OrganizationId,
        key: &RequestKey,
    ) -> Result<Option<Stored>, StoreError> {
        self.transaction("tenant.replayed", self.database.replayed(organization, key)).await
    }

    async fn waiting(&self) -> Result<Vec<WorkspaceId>, StoreError> {
        self.transaction("tenant.waiting", self.database.waiting()).await
    }

    async fn begin_call(
        &self,
        workspace: WorkspaceId,
    ) -> Result<Option<(WorkspaceRecord, Entry)>, StoreError> {
        let begin = async {
            let begun = self.database.begin_call(workspace).await?;
            if let Some((_, entry)) = &begun {
                self.oracle.begun(workspace, entry);
            }
            Ok(begun)
        };
        self.transaction("tenant.begin_call", begin).await
    }

    async fn answered(
        &self,
        workspace: WorkspaceId,
        number: IntentNumber,
        answer: &Answer,
        now: Timestamp,
    ) -> Result<Option<WorkspaceRecord>, StoreError> {
        let answered = async {
            if !matches!(answer, Answer::Refused(_)) {
                return self.database.answered(workspace, number, answer, now).await;
            }
            let before = self.database.load(self.organization, workspace).await?;
            let record = self.database.answered(workspace, number, answer, now).await?;
            let after = self.database.load(self.organization, workspace).await?;
            let waits = |found: &Option<Workspace>| {
                found.iter().flat_map(|found| &found.outbox).find(|entry| entry.number == number).cloned()
            };
            // what is told again after a restore stays in the outbox, or gives way to what is behind it
            let taken_back = waits(&before).filter(|entry| !entry.retold && waits(&after).is_none());
            if let Some(entry) = taken_back {
                self.oracle.taken_back(workspace, &entry);
            }
            Ok(record)
        };
        self.transaction("tenant.answered", answered).await
    }

    async fn call_failed(
        &self,
        workspace: WorkspaceId,
        number: IntentNumber,
        cause: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let failed = self.database.call_failed(workspace, number, cause, now);
        self.transaction("tenant.call_failed", failed).await
    }

    async fn cursors(&self, organization: OrganizationId) -> Result<Cursors, StoreError> {
        self.read("tenant.cursors", self.database.cursors(organization)).await
    }

    async fn mirror(
        &self,
        organization: OrganizationId,
        instances: &[InstanceView],
        events: &[Event],
        now: Timestamp,
    ) -> Result<Mirrored, StoreError> {
        let mirror = async {
            let mirrored = self.database.mirror(organization, instances, events, now).await?;
            for has in instances.iter().filter(|has| says_it_is_suspended(has)) {
                self.oracle.heard_suspension(has.workspace, has.intent);
            }
            Ok(mirrored)
        };
        self.transaction("tenant.mirror", mirror).await
    }

    async fn meetings(&self, organization: OrganizationId) -> Result<(Meetings, Revision), StoreError> {
        self.transaction("tenant.meetings", self.database.meetings(organization)).await
    }

    async fn agree(
        &self,
        organization: OrganizationId,
        met: &Met,
        inventory: &[InstanceView],
        minter: &dyn Minter,
        now: Timestamp,
    ) -> Result<Agreed, StoreError> {
        let agree = async {
            let before = self.outboxes().await?;
            let agreed = self.database.agree(organization, met, inventory, minter, now).await?;
            self.oracle.agreed(organization, &renumbered(&before, &self.outboxes().await?));
            for has in inventory.iter().filter(|has| says_it_is_suspended(has)) {
                self.oracle.heard_suspension(has.workspace, has.intent);
            }
            let world = self.process.world();
            world.tell(&self.process.name, 6, || format!("agrees: {agreed:?}"));
            let mut coverage = world.coverage();
            for (figure, is) in [
                ("agreed after being set back", agreed.set_back),
                ("agreed by telling again", !agreed.told_again.is_empty()),
                ("agreed by adopting", !agreed.adopted.is_empty()),
                ("agreed by recovering", !agreed.recovered.is_empty()),
            ] {
                if is {
                    coverage.figure(figure);
                }
            }
            drop(coverage);
            Ok(agreed)
        };
        self.transaction("tenant.agree", agree).await
    }

    async fn restart_mirror(&self, organization: OrganizationId, event: i64) -> Result<(), StoreError> {
        self.transaction("tenant.restart_mirror", self.database.restart_mirror(organization, event)).await
    }

    async fn get(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
    ) -> Result<Option<WorkspaceRecord>, StoreError> {
        self.transaction("tenant.get", self.database.get(organization, workspace)).await
    }

    async fn load(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
    ) -> Result<Option<Workspace>, StoreError> {
        self.read("tenant.load", self.database.load(organization, workspace)).await
    }

    async fn list(
        &self,
        organization: OrganizationId,
        show_deleted: bool,
        after: Option<Place>,
        limit: u32,
    ) -> Result<Vec<WorkspaceRecord>, StoreError> {
        self.read("tenant.list", self.database.list(organization, show_deleted, after, limit)).await
    }

    async fn snapshot(
        &self,
        organization: OrganizationId,
    ) -> Result<(Vec<WorkspaceRecord>, Revision), StoreError> {
        self.read("tenant.snapshot", self.database.snapshot(organization)).await
    }

    async fn changes_after(
        &self,
        organization: OrganizationId,
        after: Revision,
        limit: u32,
    ) -> Result<Vec<WorkspaceRecord>, StoreError> {
        self.read("tenant.changes_after", self.database.changes_after(organization, after, limit)).await
    }

    async fn events(
        &self,
        workspace: WorkspaceId,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        self.read("tenant.events", self.database.events(workspace, before, limit)).await
    }

    async fn redeem(
        &self,
        redemption: &Redemption,
        credential_hash: CredentialHash<'_>,
    ) -> Result<Redeemed, StoreError> {
        self.transaction("tenant.redeem", self.database.redeem(redemption, credential_hash)).await
    }

    async fn authenticate(
        &self,
        credential_hash: &[u8],
        now: Timestamp,
    ) -> Result<Option<(WorkspaceId, Generation)>, StoreError> {
        self.read("tenant.authenticate", self.database.authenticate(credential_hash, now)).await
    }

    async fn agent_reported(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
        generation: Generation,
        now: Timestamp,
        report: Report<'_>,
    ) -> Result<Option<WorkspaceRecord>, StoreError> {
        let reported = self.database.agent_reported(organization, workspace, generation, now, report);
        self.transaction("tenant.agent_reported", reported).await
    }

    async fn judge_agent(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
        patience: &Patience,
        now: Timestamp,
    ) -> Result<Verdict, StoreError> {
        let judge = async {
            let before = self.database.load(organization, workspace).await?;
            let verdict = self.database.judge_agent(organization, workspace, patience, now).await?;
            let after = self.database.load(organization, workspace).await?;
            if let (Some(before), Some(after)) = (before, after)
                && after.record.intent > before.record.intent
            {
                let last = before.outbox.last();
                let last = last.map(|last| (kind_of(&last.wish), last.number, last.begun));
                let wish = after.outbox.last().map(|last| last.wish.clone());
                let (intent, sets) = (after.record.intent, Fields::new());
                self.noted(organization, workspace, None, Decided { wish, sets, last, intent });
            }
            Ok(verdict)
        };
        self.transaction("tenant.judge_agent", judge).await
    }

    async fn prune(&self, day_ago: Timestamp, month_ago: Timestamp) -> Result<(), StoreError> {
        self.transaction("tenant.prune", self.database.prune(day_ago, month_ago)).await
    }

    fn commits(&self) -> watch::Receiver<u64> {
        self.database.commits()
    }
}

fn says_it_is_suspended(has: &InstanceView) -> bool {
    has.desired.is_some_and(|desired| is_suspended(desired, has.reason))
}
