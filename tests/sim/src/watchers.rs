//! Who follows a tenant's workspaces for the whole of its life, as clients do, and what watchers must have seen.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use molecule_domain::error::ErrorReason;
use molecule_domain::id::{OrganizationId, Revision, WorkspaceId};
use molecule_workspace::record::{AgentRecord, WorkspaceRecord};
use molecule_workspace::store::memory::MemoryStore;
use molecule_workspace::store::{StoreError, TenantStore};

use crate::oracle::short;
use crate::pair::Pair;
use crate::tenant::Tenant;
use crate::violation::Violation;
use crate::world::{World, lock};

/// How many changes are told at once: few, so that a watch often asks for more.
const BATCH: u32 = 3;
/// After how many changes a watcher compares what it has seen with a list, while other things happen.
const COMPARES_EVERY: u32 = 12;
/// How soon a client watches again whose stream broke.
const WATCHES_AGAIN: Duration = Duration::from_secs(1);
/// How often others may go on before a watcher must have been told of the last change.
const TURNS: u32 = 100;

/// A client that watches a tenant for as long as it lives, whichever process serves it.
#[derive(Debug)]
pub(crate) struct Watcher {
    world: Arc<World>,
    organization: OrganizationId,
    seen: Mutex<Seen>,
}

/// What a watcher has seen.
#[derive(Debug, Default)]
struct Seen {
    /// The revision that it was told last.
    at: Revision,
    workspaces: BTreeMap<WorkspaceId, WorkspaceRecord>,
    /// How often it may still be told to start over: once when the database is put back, and once whenever the tenant finds that
    /// out.
    starts_over: u32,
    /// How many changes it was told since it last compared.
    uncompared: u32,
}

impl Watcher {
    pub(crate) fn new(world: Arc<World>, organization: OrganizationId) -> Arc<Self> {
        Arc::new(Self { world, organization, seen: Mutex::default() })
    }

    /// The database was set back: what was seen since need not hold.
    pub(crate) fn is_set_back(&self) {
        self.seen().starts_over += 2;
    }

    /// The control plane was put back to a time in which it had seen more of the tenant than the tenant has, whose database was
    /// put back before: the tenant finds that out once more.
    pub(crate) fn is_found_behind(&self) {
        self.seen().starts_over += 1;
    }

    /// Watches through a process, from the last revision on, until the process dies.
    pub(crate) async fn watch(&self, store: Arc<dyn TenantStore>, database: Arc<MemoryStore>) {
        let mut commits = store.commits();
        loop {
            commits.borrow_and_update();
            match self.catch_up(&*store).await {
                Ok(()) => self.compare_now_and_then(&database),
                Err(StoreError::Refused(error)) if error.reason == ErrorReason::RevisionTooOld => {
                    self.start_over();
                    continue;
                }
                // the stream breaks, and its client watches again from where it was
                Err(StoreError::Unavailable(_)) => {
                    let _busy = self.world.busy();
                    tokio::time::sleep(WATCHES_AGAIN).await;
                    continue;
                }
                Err(error) => self.violated("a watch goes on", error),
            }
            if commits.changed().await.is_err() {
                return;
            }
        }
    }

    async fn catch_up(&self, store: &dyn TenantStore) -> Result<(), StoreError> {
        if self.seen().at == Revision(0) {
            let (list, revision) = store.snapshot(self.organization).await?;
            let mut seen = self.seen();
            seen.workspaces = list.into_iter().map(|record| (record.workspace, record)).collect();
            seen.at = revision;
        }
        loop {
            let at = self.seen().at;
            let changes = store.changes_after(self.organization, at, BATCH).await?;
            if changes.is_empty() || !changes.into_iter().all(|change| self.is_told(change)) {
                return Ok(());
            }
        }
    }

    /// Takes a change over; `false` where it is none that is new.
    fn is_told(&self, change: WorkspaceRecord) -> bool {
        let mut seen = self.seen();
        if change.revision <= seen.at {
            self.violated(
                "watchers see each change once",
                format_args!("{} after {}", change.revision, seen.at),
            );
            return false;
        }
        seen.at = change.revision;
        seen.uncompared += 1;
        if change.deleted_at.is_none() {
            seen.workspaces.insert(change.workspace, change);
        } else {
            seen.workspaces.remove(&change.workspace);
        }
        true
    }

    fn start_over(&self) {
        self.world.coverage().figure("watches that started over");
        let mut seen = self.seen();
        match seen.starts_over.checked_sub(1) {
            Some(left) => seen.starts_over = left,
            None => self.violated("a watch goes on where it was", format_args!("not from {}", seen.at)),
        }
        seen.at = Revision(0);
    }

    fn compare_now_and_then(&self, database: &MemoryStore) {
        if self.seen().uncompared < COMPARES_EVERY {
            return;
        }
        // after a restore a watcher is told to start over once the tenant has found that out
        let has_agreed = database.look(|data| {
            let meetings = data.meetings();
            meetings.agreed_in == meetings.held.last().map(|own| own.id)
        });
        if has_agreed {
            self.compares(database, "watches compared with a list at once");
        }
    }

    /// Whether it has been told all, and then compares it with a list.
    fn compares(&self, database: &MemoryStore, figure: &'static str) -> bool {
        let mut seen = self.seen();
        let compared = database
            .look(|data| (seen.at == data.revision()).then(|| difference(data.live(), &seen.workspaces)));
        let Some(difference) = compared else { return false };
        seen.uncompared = 0;
        self.world.coverage().figure(figure);
        if let Some(what) = difference {
            self.violated("watchers equal a list at any time", what);
        }
        true
    }

    /// Compares what it has seen with a list, once the tenant has agreed and nothing is to be done.
    async fn check(&self, database: &MemoryStore) {
        for _ in 0..TURNS {
            if self.compares(database, "watches compared with a list in a quiet moment") {
                // whatever was put back before, the watch has been told
                self.seen().starts_over = 0;
                return;
            }
            tokio::task::yield_now().await;
        }
        let at = self.seen().at;
        self.violated("watchers are told of each change", format_args!("nothing after {at}"));
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }

    fn violated(&self, rule: &'static str, what: impl Display) {
        let what = format!("tenant {}: {what}", short(self.organization));
        self.world.violated(Violation::new(rule, what));
    }
}

/// Whether a client sees the same of both. It is not told of what else the two may differ in: what an agent reports but its
/// health, and how far the provider was heard.
fn look_alike(one: &WorkspaceRecord, other: &WorkspaceRecord) -> bool {
    let WorkspaceRecord {
        workspace,
        organization,
        spec,
        readiness,
        intent,
        answered: _,
        generation,
        highest,
        desired,
        phase,
        phase_since,
        reason,
        message,
        wanted_is_unknown: _,
        told_again: _,
        in_unknown_state,
        instance_generation,
        instance_revision: _,
        endpoint,
        agent: AgentRecord { health, .. },
        recovered,
        refused,
        pending,
        trace,
        created_at,
        updated_at,
        deleted_at,
        revision,
    } = one;
    (revision, workspace, organization) == (&other.revision, &other.workspace, &other.organization)
        && (readiness, intent, generation) == (&other.readiness, &other.intent, &other.generation)
        && (highest, desired, phase) == (&other.highest, &other.desired, &other.phase)
        && (phase_since, reason, message) == (&other.phase_since, &other.reason, &other.message)
        && (instance_generation, endpoint) == (&other.instance_generation, &other.endpoint)
        && in_unknown_state == &other.in_unknown_state
        && (health, recovered, refused) == (&other.agent.health, &other.recovered, &other.refused)
        && (pending, trace, created_at) == (&other.pending, &other.trace, &other.created_at)
        && (updated_at, deleted_at, spec) == (&other.updated_at, &other.deleted_at, &other.spec)
}

/// The first difference between a list and what was seen.
fn difference<'a>(
    list: impl Iterator<Item = &'a WorkspaceRecord>,
    seen: &BTreeMap<WorkspaceId, WorkspaceRecord>,
) -> Option<String> {
    let mut count = 0;
    for listed in list {
        count += 1;
        let known = seen.get(&listed.workspace);
        if !known.is_some_and(|known| look_alike(listed, known)) {
            return Some(format!("listed {listed:?}, seen {known:?}"));
        }
    }
    (count != seen.len()).then(|| format!("{count} are listed and {} were seen", seen.len()))
}

impl Pair {
    /// In a quiet moment, whoever watches has seen what a list shows, for tenants that were restored as well.
    pub(crate) async fn check_live_watchers(&self) {
        for tenant in &self.tenants {
            tenant.watcher.check(&tenant.database()).await;
        }
    }

    /// Whoever watches, whoever follows from the first revision, and whoever lists, see the same in the end.
    pub(crate) async fn check_watchers(&self) {
        self.check_live_watchers().await;
        for tenant in &self.tenants {
            self.check_late_follower(tenant).await;
        }
    }

    async fn check_late_follower(&self, tenant: &Tenant) {
        let (database, organization) = (tenant.database(), tenant.organization);
        let follower = Watcher::new(Arc::clone(&self.world), organization);
        let limit = u32::try_from(self.world.rng().between(1, 50)).unwrap_or(1);
        loop {
            let at = follower.seen().at;
            match database.changes_after(organization, at, limit).await {
                Ok(changes) if changes.is_empty() => break,
                Ok(changes) => {
                    if !changes.into_iter().all(|change| follower.is_told(change)) {
                        return;
                    }
                }
                Err(_) if tenant.was_set_back() => {
                    // whoever follows across that is told to start over with a list
                    self.world.coverage().figure("watchers that have to start over");
                    return;
                }
                Err(error) => return follower.violated("a watch goes on", error),
            }
        }
        let seen = follower.seen();
        if let Some(what) = database.look(|data| difference(data.live(), &seen.workspaces)) {
            follower.violated("watchers equal a list", what);
        }
    }
}
