//! A store in memory: the reference that the others are compared with, and quick enough for simulations.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use molecule_domain::id::{Generation, IncarnationId, IntentNumber, OrganizationId, Revision, WorkspaceId};
use molecule_domain::incarnation::Incarnation;
use molecule_domain::instance::{Event, InstanceView};
use molecule_domain::{Error, Timestamp};
use tokio::sync::watch;

use super::{
    Conditions, CredentialHash, Cursors, Decide, Mirrored, Place, Redeemed, Redemption, Report, StoreError,
    Stored, TenantStore, check_etag, check_id_is_free, check_revision, is_of_lost_time, next_revision,
    request_id_reused,
};
use crate::agent::{Patience, Verdict};
use crate::aggregate::{Answer, NewWorkspace, Revoke, SideEffects, Workspace};
use crate::agreement::{Agreed, KnownAgents, Meetings, Met, Minter, Terms};
use crate::kinship::check_parent;
use crate::record::{RequestKey, StoredEvent, WorkspaceRecord};
use crate::wish::Entry;

/// A store in memory.
#[derive(Debug)]
pub struct MemoryStore {
    own: IncarnationId,
    data: Mutex<Data>,
    commits: watch::Sender<u64>,
}

/// What is remembered of a request with a key.
#[derive(Clone, Debug)]
struct Remembered {
    fingerprint: Vec<u8>,
    workspace: WorkspaceId,
    /// Whether it created the workspace.
    creates: bool,
    at: Timestamp,
}

/// What a [`MemoryStore`] holds; a copy of it is a backup.
#[derive(Clone, Debug, Default)]
pub struct Data {
    workspaces: BTreeMap<WorkspaceId, Workspace>,
    keys: BTreeMap<(OrganizationId, String), Remembered>,
    credentials: Vec<Credential>,
    events: Vec<StoredEvent>,
    events_told: i64,
    /// Shared by all copies: a change that was stored stays as it is.
    changes: BTreeMap<Revision, Arc<WorkspaceRecord>>,
    revision: Revision,
    forgotten: Revision,
    cursors: Cursors,
    meetings: Meetings,
    /// The revision at which each start began, and when.
    starts: Vec<(Revision, Timestamp)>,
}

#[derive(Clone, Debug)]
struct Credential {
    workspace: WorkspaceId,
    generation: Generation,
    token_hash: Vec<u8>,
    nonce: Option<String>,
    hash: Option<Vec<u8>>,
    used: bool,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::open(Data::default(), IncarnationId::generate(), Timestamp::default())
    }
}

impl MemoryStore {
    /// Opens what an earlier process, or a backup, has left, as a new start: every entry counts as begun.
    pub fn open(mut data: Data, own: IncarnationId, now: Timestamp) -> Self {
        for workspace in data.workspaces.values_mut() {
            workspace.outbox.iter_mut().for_each(|entry| entry.begun = true);
        }
        data.meetings.held.push(Incarnation { id: own, begins_at: data.revision });
        data.starts.push((data.revision, now));
        Self { own, data: Mutex::new(data), commits: watch::Sender::new(0) }
    }

    /// All that is stored.
    pub fn data(&self) -> Data {
        self.lock().clone()
    }

    /// Shows all that is stored to somebody who only looks, without a copy of it.
    pub fn look<T>(&self, look: impl FnOnce(&Data) -> T) -> T {
        look(&self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Data> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn commit(&self, data: MutexGuard<'_, Data>) {
        drop(data);
        self.commits.send_modify(|count| *count += 1);
    }
}

impl Data {
    /// The records of all workspaces that are not deleted, by their ids.
    pub fn live(&self) -> impl Iterator<Item = &WorkspaceRecord> {
        self.workspaces.values().map(|found| &found.record).filter(|record| record.deleted_at.is_none())
    }

    /// The revision of the last change.
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// How far the provider was followed.
    pub const fn cursors(&self) -> Cursors {
        self.cursors
    }

    /// What is known of the starts of both sides.
    pub const fn meetings(&self) -> &Meetings {
        &self.meetings
    }

    /// Whether some wish waits.
    pub fn is_waiting(&self) -> bool {
        self.workspaces.values().any(|found| !found.outbox.is_empty())
    }

    fn listed(
        &self,
        organization: OrganizationId,
        show_deleted: bool,
        after: Option<&Place>,
        limit: u32,
    ) -> Vec<WorkspaceRecord> {
        let all = self.workspaces.values().map(|found| &found.record);
        let all = all.filter(|record| {
            record.organization == organization && (show_deleted || record.deleted_at.is_none())
        });
        let place = |record: &WorkspaceRecord| (record.created_at.micros(), record.workspace.to_string());
        let mut found: Vec<_> =
            all.filter(|record| after.is_none_or(|after| place(record) > *after)).collect();
        // ids are in the order of their texts
        found.sort_by_key(|record| (record.created_at, record.workspace));
        found.into_iter().take(limit as usize).cloned().collect()
    }

    fn existing(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
    ) -> Result<&Workspace, StoreError> {
        let found = self.workspaces.get(&workspace);
        let found = found.filter(|found| found.record.organization == organization);
        found.ok_or_else(|| Error::workspace_not_found(workspace).into())
    }

    /// Takes out one that is there, until it is [saved](Self::save).
    fn taken(&mut self, workspace: WorkspaceId) -> Result<Workspace, StoreError> {
        self.workspaces.remove(&workspace).ok_or_else(|| Error::workspace_not_found(workspace).into())
    }

    fn replayed(
        &self,
        organization: OrganizationId,
        key: Option<&RequestKey>,
    ) -> Result<Option<Stored>, StoreError> {
        let Some(key) = key else { return Ok(None) };
        let Some(known) = self.keys.get(&(organization, key.id.clone())) else {
            return Ok(None);
        };
        if known.fingerprint != key.fingerprint {
            return Err(request_id_reused(key).into());
        }
        let found = self.workspaces.get(&known.workspace);
        Ok(found.map(|found| Stored {
            record: found.record.clone(),
            number: found.outbox.iter().find_map(|entry| entry.awaited_by(&key.id)),
        }))
    }

    fn check_parent(&self, workspace: WorkspaceId, parent: Option<WorkspaceId>) -> Result<(), StoreError> {
        let Some(parent) = parent else { return Ok(()) };
        let (mut above, mut next) = (Vec::new(), Some(parent));
        let mut seen = BTreeSet::new();
        while let Some(found) = next.filter(|id| seen.insert(*id)).and_then(|id| self.workspaces.get(&id)) {
            next = found.record.spec.parent;
            above.push(found.record.clone());
        }
        Ok(check_parent(workspace, parent, &above)?)
    }

    fn remember(&mut self, record: &WorkspaceRecord, key: Option<&RequestKey>, creates: bool, at: Timestamp) {
        if let Some(key) = key {
            let (fingerprint, workspace) = (key.fingerprint.clone(), record.workspace);
            let remembered = Remembered { fingerprint, workspace, creates, at };
            self.keys.insert((record.organization, key.id.clone()), remembered);
        }
    }

    fn save(&mut self, mut workspace: Workspace, effects: SideEffects, now: Timestamp) -> WorkspaceRecord {
        let (id, organization) = (workspace.record.workspace, workspace.record.organization);
        if effects.visible {
            self.revision = next_revision(self.revision, now);
            workspace.record.revision = self.revision;
            workspace.record.updated_at = now;
            self.changes.insert(self.revision, Arc::new(workspace.record.clone()));
        }
        for (generation, token_hash) in effects.add_tokens {
            let credential =
                Credential { workspace: id, generation, token_hash, nonce: None, hash: None, used: false };
            self.credentials.push(credential);
        }
        self.credentials.retain(|one| {
            one.workspace != id
                || match effects.revoke {
                    Revoke::None => true,
                    Revoke::Before(first) => one.generation >= first,
                    Revoke::All => false,
                }
        });
        for detail in effects.events {
            self.tell(id, now, detail);
        }
        for request in effects.forget_requests {
            self.keys.remove(&(organization, request));
        }
        let record = workspace.record.clone();
        self.workspaces.insert(id, workspace);
        record
    }

    fn tell(&mut self, workspace: WorkspaceId, at: Timestamp, detail: molecule_domain::event::EventDetail) {
        self.events_told += 1;
        self.events.push(StoredEvent { id: self.events_told, workspace, at, detail });
    }
}

#[async_trait]
impl TenantStore for MemoryStore {
    async fn create(
        &self,
        new: &NewWorkspace,
        key: Option<&RequestKey>,
        now: Timestamp,
    ) -> Result<Stored, StoreError> {
        let mut data = self.lock();
        if let Some(replayed) = data.replayed(new.organization, key)? {
            return Ok(replayed);
        }
        let earlier = data.workspaces.get(&new.workspace).map(|found| found.record.clone());
        check_id_is_free(new.workspace, earlier.as_ref())?;
        data.check_parent(new.workspace, new.spec.parent)?;
        let (workspace, effects) = Workspace::create(new, key, now, self.own, earlier.as_ref());
        data.remember(&workspace.record, key, true, now);
        let number = workspace.outbox.last().map(|entry| entry.number);
        let record = data.save(workspace, effects, now);
        self.commit(data);
        Ok(Stored { record, number })
    }

    async fn change(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
        on: &Conditions,
        now: Timestamp,
        decide: Decide<'_>,
    ) -> Result<Stored, StoreError> {
        let mut data = self.lock();
        if let Some(replayed) = data.replayed(organization, on.key.as_ref())? {
            return Ok(replayed);
        }
        let found = data.existing(organization, workspace)?;
        check_etag(&found.record, on.etag)?;
        let change = decide(found)?;
        if let Some((spec, _)) = &change.spec {
            data.check_parent(workspace, spec.parent)?;
        }
        let mut found = data.taken(workspace)?;
        let (wishes, shared) = (change.wish.is_some(), found.shares_answer_of(&change));
        let effects = found.change(change, on.key.as_ref(), now, self.own);
        data.remember(&found.record, on.key.as_ref(), false, now);
        let number = if wishes { found.outbox.last().map(|entry| entry.number) } else { shared };
        let record = data.save(found, effects, now);
        self.commit(data);
        Ok(Stored { record, number })
    }

    async fn replayed(
        &self,
        organization: OrganizationId,
        key: &RequestKey,
    ) -> Result<Option<Stored>, StoreError> {
        self.lock().replayed(organization, Some(key))
    }

    async fn waiting(&self) -> Result<Vec<WorkspaceId>, StoreError> {
        let data = self.lock();
        let waiting = data
            .workspaces
            .values()
            .filter_map(|found| found.outbox.first().map(|first| (first.asked_at, found.record.workspace)));
        let mut waiting: Vec<_> = waiting.collect();
        waiting.sort_unstable();
        Ok(waiting.into_iter().map(|(_, workspace)| workspace).collect())
    }

    async fn begin_call(
        &self,
        workspace: WorkspaceId,
    ) -> Result<Option<(WorkspaceRecord, Entry)>, StoreError> {
        let mut data = self.lock();
        let Some(found) = data.workspaces.get_mut(&workspace) else { return Ok(None) };
        let Some(first) = found.outbox.first_mut() else { return Ok(None) };
        first.begun = true;
        Ok(Some((found.record.clone(), first.clone())))
    }

    async fn answered(
        &self,
        workspace: WorkspaceId,
        number: IntentNumber,
        answer: &Answer,
        now: Timestamp,
    ) -> Result<Option<WorkspaceRecord>, StoreError> {
        let mut data = self.lock();
        let Ok(mut found) = data.taken(workspace) else { return Ok(None) };
        let effects = found.answered(number, answer, now, self.own);
        let record = data.save(found, effects, now);
        self.commit(data);
        Ok(Some(record))
    }

    async fn call_failed(
        &self,
        workspace: WorkspaceId,
        number: IntentNumber,
        cause: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut data = self.lock();
        let Ok(mut found) = data.taken(workspace) else { return Ok(()) };
        let effects = found.call_failed(number, cause);
        data.save(found, effects, now);
        self.commit(data);
        Ok(())
    }

    async fn cursors(&self, _organization: OrganizationId) -> Result<Cursors, StoreError> {
        Ok(self.lock().cursors)
    }

    async fn mirror(
        &self,
        _organization: OrganizationId,
        instances: &[InstanceView],
        events: &[Event],
        now: Timestamp,
    ) -> Result<Mirrored, StoreError> {
        let (mut data, mut mirrored) = (self.lock(), Mirrored::default());
        for instance in instances {
            if let Ok(mut found) = data.taken(instance.workspace) {
                let (mut effects, waited) = (SideEffects::default(), !found.outbox.is_empty());
                found.take_over(instance, now, self.own, &mut effects);
                if !waited && !found.outbox.is_empty() {
                    mirrored.wishes.push(instance.workspace);
                }
                data.save(found, effects, now);
            } else {
                mirrored.unknown |= !instance.is_ending();
            }
            data.cursors.revision = data.cursors.revision.max(instance.revision);
        }
        for event in events {
            data.tell(event.workspace, event.at, event.detail.clone());
            data.cursors.event = data.cursors.event.max(event.id);
        }
        self.commit(data);
        Ok(mirrored)
    }

    async fn meetings(&self, _organization: OrganizationId) -> Result<(Meetings, Revision), StoreError> {
        let data = self.lock();
        Ok((data.meetings.clone(), data.revision))
    }

    async fn agree(
        &self,
        _organization: OrganizationId,
        met: &Met,
        inventory: &[InstanceView],
        minter: &dyn Minter,
        now: Timestamp,
    ) -> Result<Agreed, StoreError> {
        let mut data = self.lock();
        let lost = data.meetings.lost_until(data.revision, &met.seen);
        let set_back = lost.is_some();
        let meetings = data.meetings.clone();
        let (seen, revision) = (&met.seen[..], data.revision);
        let terms = Terms { meetings: &meetings, revision, seen, set_back, own: self.own, minter };
        let mut agreed = Agreed { set_back, ..Agreed::default() };
        let has: BTreeMap<_, _> = inventory.iter().map(|instance| (instance.workspace, instance)).collect();
        let held: Vec<_> = data.workspaces.values().cloned().collect();
        for mut workspace in held {
            let id = workspace.record.workspace;
            let instance = has.get(&id).copied();
            let agents = instance.map_or_else(KnownAgents::default, |instance| {
                let mine = data.credentials.iter().filter(|one| one.workspace == id);
                let held: Vec<_> = mine.map(|one| (one.generation, one.hash.is_some())).collect();
                KnownAgents::of(instance, &held)
            });
            let (verdict, effects) = workspace.agree(instance, agents, &terms, now);
            agreed.add(&workspace, verdict, &effects);
            data.save(workspace, effects, now);
        }
        for instance in inventory.iter().filter(|instance| !instance.is_ending()) {
            if !data.workspaces.contains_key(&instance.workspace) {
                let (workspace, effects) = Workspace::take_back(instance, &terms, now);
                agreed.recovered.push(instance.workspace);
                data.save(workspace, effects, now);
            }
        }
        if lost.is_some_and(|lost| lost > data.forgotten) {
            // whoever watched in the time that is lost begins anew, whatever revision it was told last
            data.revision = next_revision(data.revision, now);
            data.forgotten = data.revision;
        }
        data.cursors.revision = inventory.last().map_or(Revision(0), |last| last.revision);
        data.meetings.agreed_in = Some(self.own);
        data.meetings.provider = Some(met.provider.incarnation);
        data.meetings.acknowledge(&met.seen);
        self.commit(data);
        Ok(agreed)
    }

    async fn restart_mirror(&self, _organization: OrganizationId, event: i64) -> Result<(), StoreError> {
        let mut data = self.lock();
        data.cursors = Cursors { revision: Revision(0), event };
        for found in data.workspaces.values_mut() {
            found.record.instance_revision = Revision(0);
        }
        Ok(())
    }

    async fn get(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
    ) -> Result<Option<WorkspaceRecord>, StoreError> {
        Ok(self.lock().existing(organization, workspace).ok().map(|found| found.record.clone()))
    }

    async fn load(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
    ) -> Result<Option<Workspace>, StoreError> {
        Ok(self.lock().existing(organization, workspace).ok().cloned())
    }

    async fn list(
        &self,
        organization: OrganizationId,
        show_deleted: bool,
        after: Option<Place>,
        limit: u32,
    ) -> Result<Vec<WorkspaceRecord>, StoreError> {
        Ok(self.lock().listed(organization, show_deleted, after.as_ref(), limit))
    }

    async fn snapshot(
        &self,
        organization: OrganizationId,
    ) -> Result<(Vec<WorkspaceRecord>, Revision), StoreError> {
        let data = self.lock();
        Ok((data.listed(organization, false, None, u32::MAX), data.revision))
    }

    async fn changes_after(
        &self,
        _organization: OrganizationId,
        after: Revision,
        limit: u32,
    ) -> Result<Vec<WorkspaceRecord>, StoreError> {
        let data = self.lock();
        let start = data.starts.iter().rfind(|(begins_at, _)| *begins_at < after);
        let of_lost_time = is_of_lost_time(after, start.map(|(_, started_at)| *started_at));
        check_revision(after, data.revision, data.forgotten, of_lost_time)?;
        Ok(data
            .changes
            .range(after.next()..)
            .take(limit as usize)
            .map(|(_, change)| WorkspaceRecord::clone(change))
            .collect())
    }

    async fn events(
        &self,
        workspace: WorkspaceId,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let data = self.lock();
        let of = |event: &&StoredEvent| {
            event.workspace == workspace && before.is_none_or(|before| event.id < before)
        };
        Ok(data.events.iter().rev().filter(of).take(limit as usize).cloned().collect())
    }

    async fn redeem(
        &self,
        redemption: &Redemption,
        credential_hash: CredentialHash<'_>,
    ) -> Result<Redeemed, StoreError> {
        let mut data = self.lock();
        let found = data.credentials.iter_mut().find(|one| one.token_hash == redemption.token_hash);
        let Some(found) = found else { return Ok(Redeemed::Unknown) };
        let (workspace, generation) = (found.workspace, found.generation);
        if found.used || found.nonce.as_ref().is_some_and(|nonce| *nonce != redemption.nonce) {
            return Ok(Redeemed::Refused(workspace, generation));
        }
        found.nonce = Some(redemption.nonce.clone());
        found.hash = Some(credential_hash(workspace, generation));
        Ok(Redeemed::Granted(workspace, generation))
    }

    async fn authenticate(
        &self,
        credential_hash: &[u8],
        _now: Timestamp,
    ) -> Result<Option<(WorkspaceId, Generation)>, StoreError> {
        let mut data = self.lock();
        let found = data.credentials.iter_mut().find(|one| one.hash.as_deref() == Some(credential_hash));
        Ok(found.map(|found| {
            found.used = true;
            (found.workspace, found.generation)
        }))
    }

    async fn agent_reported(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
        generation: Generation,
        now: Timestamp,
        report: Report<'_>,
    ) -> Result<Option<WorkspaceRecord>, StoreError> {
        let mut data = self.lock();
        data.existing(organization, workspace)?;
        let mut found = data.taken(workspace)?;
        let Some(effects) = found.reported(generation, now, report) else {
            data.workspaces.insert(workspace, found);
            return Ok(None);
        };
        let record = data.save(found, effects, now);
        self.commit(data);
        Ok(Some(record))
    }

    async fn judge_agent(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
        patience: &Patience,
        now: Timestamp,
    ) -> Result<Verdict, StoreError> {
        let mut data = self.lock();
        let mut found = data.existing(organization, workspace)?.clone();
        let (verdict, effects) = found.judged(patience, now, self.own);
        if verdict != Verdict::Fine {
            data.save(found, effects, now);
            self.commit(data);
        }
        Ok(verdict)
    }

    async fn prune(&self, day_ago: Timestamp, month_ago: Timestamp) -> Result<(), StoreError> {
        let mut data = self.lock();
        let data = &mut *data;
        let old = data.changes.iter().filter(|(_, change)| change.updated_at < day_ago);
        data.forgotten = old.map(|(revision, _)| *revision).max().unwrap_or_default().max(data.forgotten);
        data.changes.retain(|_, change| change.updated_at >= day_ago);
        data.events.retain(|event| event.at >= month_ago);
        data.workspaces.retain(|_, found| found.record.deleted_at.is_none_or(|at| at >= month_ago));
        let workspaces = &data.workspaces;
        data.keys.retain(|_, known| {
            let found = workspaces.get(&known.workspace);
            let lives = found.is_some_and(|found| found.record.deleted_at.is_none());
            let waits = found.is_some_and(|found| !found.outbox.is_empty());
            known.at >= day_ago || (known.creates && lives) || waits
        });
        Ok(())
    }

    fn commits(&self) -> watch::Receiver<u64> {
        self.commits.subscribe()
    }
}
