//! The control plane: its database, as each replica reaches it, and the replicas.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use molecule_domain::error::{Error, ErrorReason, Result};
use molecule_domain::id::{IncarnationId, OrganizationId, Revision, WorkspaceId};
use molecule_domain::incarnation::{Standpoint, check_predecessors};
use molecule_domain::lifecycle::Phase;
use molecule_domain::limits::Amounts;
use molecule_domain::{Clock, Timestamp};
use molecule_provisioner::admission::counted;
use molecule_provisioner::faults::Steps;
use molecule_provisioner::model::{Claimed, InstanceRecord, Lease};
use molecule_provisioner::policy::Policy;
use molecule_provisioner::store::Store;
use molecule_provisioner::store::memory::{Data, MemoryStore};
use molecule_provisioner::wakes::Wakes;
use molecule_provisioner::watch::Feed;
use molecule_provisioner::{Engine, Instances};
use molecule_tenant::provider::Standpoints;
use molecule_workspace::agreement::Met;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::backend::CloudBackend;
use crate::book::Book;
use crate::clocks::{MachineClock, ProcessClock};
use crate::cloud::Cloud;
use crate::life::{DAY, PATIENCE};
use crate::machine::Machine;
use crate::network::{Network, unavailable};
use crate::oracle::Oracle;
use crate::process::{EngineSteps, Process};
use crate::replica_store::ReplicaStore;
use crate::secrets::Seal;
use crate::tenant::PRUNE_EVERY;
use crate::tiling::Tiled;
use crate::upgrade::Upgrade;
use crate::violation::Violation;
use crate::world::{Whom, World, lock};

/// What is known of the database from what was committed to it.
#[derive(Debug, Default)]
struct Ledger {
    phases: BTreeMap<WorkspaceId, (OrganizationId, Phase, Amounts)>,
    used: BTreeMap<OrganizationId, Amounts>,
    revisions: BTreeMap<OrganizationId, Revision>,
    /// The segments of each workspace.
    tiled: BTreeMap<WorkspaceId, Tiled>,
    /// The last lease of each record.
    leases: BTreeMap<WorkspaceId, Lease>,
}

/// A replica had a workspace at work, claim after claim.
#[derive(Clone, Copy, Debug)]
struct Claims {
    place: usize,
    from: Timestamp,
    until: Timestamp,
}

/// A workspace had failed when the control plane's database was put back.
#[derive(Clone, Copy, Debug)]
pub struct LostFailure {
    /// When it failed.
    pub failed_at: Timestamp,
    /// When the database was put back, by the true clock.
    pub restored_at: Timestamp,
    /// The same by the control plane's.
    pub restored_by: Timestamp,
}

impl LostFailure {
    /// Whether what failed then is this one, which its tenant told the control plane again soon after the restore.
    pub fn is_told_again(&self, failed_at: Timestamp) -> bool {
        failed_at > self.restored_by && failed_at < self.restored_by + PATIENCE
    }
}

/// The control plane's database, and the replicas over it.
pub struct ControlPlane {
    pub(crate) world: Arc<World>,
    cloud: Arc<Cloud>,
    pub(crate) oracle: Arc<Oracle>,
    policy: Policy,
    database: Mutex<Arc<MemoryStore>>,
    /// What is kept in the database beside the engine's records.
    book: Mutex<Book>,
    ledger: Mutex<Ledger>,
    pub(crate) replicas: Mutex<Vec<Replica>>,
    streams: AtomicU64,
    /// Processes over copies of a tenant's database, which must not be served.
    twins: Mutex<BTreeMap<IncarnationId, Arc<Process>>>,
    alarm: Notify,
    /// The rolling upgrade that goes on.
    pub(crate) upgrade: Mutex<Option<Upgrade>>,
    /// When all replicas show what the database's clock does.
    pub(crate) clocks_agree_at: Mutex<Timestamp>,
    /// The organisations that an operator has suspended.
    pub(crate) suspended: Mutex<BTreeSet<OrganizationId>>,
    /// Which replicas had each workspace at work, in order.
    claims: Mutex<BTreeMap<WorkspaceId, Vec<Claims>>>,
    /// What had failed when the database was put back.
    failures_lost: Mutex<BTreeMap<WorkspaceId, LostFailure>>,
}

impl std::fmt::Debug for ControlPlane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ControlPlane(..)")
    }
}

/// A copy of all that the control plane's database holds.
#[derive(Clone, Debug)]
pub struct Backup {
    data: Data,
    book: Book,
}

/// An open stream, which keeps the session of a tenant's process until it is dropped.
pub(crate) struct OpenStream {
    control: Arc<ControlPlane>,
    network: Arc<Network>,
    organization: OrganizationId,
    process: Arc<Process>,
    stream: u64,
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let is_noted = !self.process.is_dead() && !self.network.is_cut();
        let now = self.control.world.now();
        lock(&self.control.book).end(self.organization, self.stream, is_noted, now);
    }
}

/// One replica: its place, and the process in it.
#[derive(Clone)]
pub struct Replica {
    /// Where it runs.
    pub(crate) place: usize,
    /// The time as its machine has it from the database.
    pub(crate) machine: Arc<MachineClock>,
    /// The time that its process goes by.
    pub(crate) clock: Arc<ProcessClock>,
    /// The process, dead or alive.
    pub process: Arc<Process>,
    /// Its engine.
    pub engine: Engine,
    /// The instances, as it serves them.
    pub instances: Instances,
    /// Whoever watches.
    pub feed: Arc<Feed>,
    pub(crate) store: Arc<ReplicaStore>,
}

impl ControlPlane {
    /// A control plane of as many replicas as there are skews, none of which runs yet.
    pub fn new(world: Arc<World>, cloud: Arc<Cloud>, oracle: Arc<Oracle>, policy: Policy) -> Arc<Self> {
        Arc::new(Self {
            world,
            cloud,
            oracle,
            policy,
            database: Mutex::default(),
            book: Mutex::default(),
            ledger: Mutex::default(),
            replicas: Mutex::default(),
            streams: AtomicU64::new(0),
            twins: Mutex::default(),
            alarm: Notify::new(),
            upgrade: Mutex::default(),
            clocks_agree_at: Mutex::default(),
            suspended: Mutex::default(),
            claims: Mutex::default(),
            failures_lost: Mutex::default(),
        })
    }

    /// The database.
    pub fn database(&self) -> Arc<MemoryStore> {
        Arc::clone(&lock(&self.database))
    }

    /// A copy of all that the database holds.
    pub fn backup(&self) -> Backup {
        Backup { data: self.database().data(), book: lock(&self.book).clone() }
    }

    /// Puts a backup in the place of the database, under replicas that die of it; they are started again over what is there
    /// then.
    pub async fn put_back(&self, backup: Backup, organizations: &[OrganizationId]) {
        for place in 0..self.places() {
            self.replica(place).process.kill();
        }
        let database = Arc::new(MemoryStore::open(backup.data));
        let mut ledger = Ledger::default();
        for organization in organizations {
            for record in database.records(*organization) {
                let amounts = counted(&record);
                let segments = database.segments(record.workspace).await.unwrap_or_default();
                ledger.tiled.insert(record.workspace, Tiled::of(&segments));
                ledger.phases.insert(record.workspace, (*organization, record.phase, amounts));
                let used = ledger.used.entry(*organization).or_default();
                *used = used.plus(amounts);
                let revision = ledger.revisions.entry(*organization).or_default();
                *revision = (*revision).max(record.revision);
            }
        }
        let known = std::mem::replace(&mut *lock(&self.ledger), ledger).phases;
        self.note_failures(known.into_keys(), &database);
        *lock(&self.book) = backup.book;
        *lock(&self.database) = database;
        self.begin();
        // one that stands in the backup is heard of as well
        self.raises_alarm();
    }

    /// Notes what had failed in the database that is being put back, and has not in the backup.
    fn note_failures(&self, known: impl Iterator<Item = WorkspaceId>, backup: &MemoryStore) {
        let (database, restored_at, restored_by) = (self.database(), self.world.now(), self.now());
        let mut lost = lock(&self.failures_lost);
        for record in known.filter_map(|workspace| database.find(workspace)) {
            let kept = backup.find(record.workspace);
            let is_kept = kept
                .is_some_and(|kept| kept.phase == Phase::Failed && kept.phase_since == record.phase_since);
            if record.phase == Phase::Failed && !is_kept {
                let before =
                    lost.get(&record.workspace).filter(|lost| lost.is_told_again(record.phase_since));
                let failed_at = before.map_or(record.phase_since, |lost| lost.failed_at);
                lost.insert(record.workspace, LostFailure { failed_at, restored_at, restored_by });
            }
        }
    }

    /// The failure of a workspace that was lost when the database was last put back.
    pub fn lost_failure(&self, workspace: WorkspaceId) -> Option<LostFailure> {
        lock(&self.failures_lost).get(&workspace).copied()
    }

    /// Waits until an alarm is raised.
    pub async fn alarm_raised(&self) {
        self.alarm.notified().await;
    }

    /// An alarm was raised.
    pub(crate) fn raises_alarm(&self) {
        self.alarm.notify_one();
    }

    /// Lets all replicas go, which hold it as it holds them.
    pub fn end(&self) {
        lock(&self.replicas).clear();
    }

    /// Begins a new incarnation over the database as it is.
    fn begin(&self) {
        let begins_at = lock(&self.ledger).revisions.values().copied().max().unwrap_or_default();
        let id = self.world.incarnation();
        self.world.tell("control", 7, || format!("begins anew as {id}"));
        lock(&self.book).begin(id, begins_at);
        self.database().begin(id, self.now());
    }

    /// The incarnation that its replicas are.
    pub fn incarnation(&self) -> Option<IncarnationId> {
        lock(&self.book).incarnation()
    }

    /// Serves a process of a tenant's from now on, or refuses it. Where the database stands, and what was seen of the
    /// tenant's before.
    pub(crate) fn meet(
        &self,
        organization: OrganizationId,
        Standpoints { own, seen }: Standpoints,
        predecessors: &[Standpoint],
    ) -> Result<Met> {
        self.refuse_dead_twin(own)?;
        check_predecessors(predecessors.len())?;
        let (revision, _) = self.database().counters(organization);
        let now = self.world.now();
        let mut book = lock(&self.book);
        let before = book.meet(organization, own, predecessors, now)?;
        let agreed = self.database().meet(organization);
        self.check_is_no_twin(own);
        if seen.is_some_and(|seen| book.is_behind(revision, &seen)) {
            self.world.coverage().figure("tenants that had seen more than there is");
        }
        let incarnation = book.incarnation().ok_or_else(|| Error::internal("no replica has begun"))?;
        Ok(Met { provider: Standpoint { incarnation, revision }, seen: before, agreed })
    }

    /// Refuses a process that has met another start of the control plane, or has seen more than there is.
    fn check_seen(&self, organization: OrganizationId, standpoints: Standpoints) -> Result<()> {
        let (revision, _) = self.database().counters(organization);
        match standpoints.seen {
            Some(seen) if self.incarnation() != Some(seen.incarnation) || seen.revision > revision => {
                Err(Error::new(ErrorReason::StoreUnavailable, "meet the control plane again"))
            }
            _ => Ok(()),
        }
    }

    /// Lets a change of a tenant's through, or refuses its process.
    pub(crate) fn heard(&self, organization: OrganizationId, standpoints: Standpoints) -> Result<()> {
        let own = standpoints.own;
        self.refuse_dead_twin(own)?;
        self.check_seen(organization, standpoints)?;
        lock(&self.book).heard(organization, own, self.world.now())?;
        self.check_is_no_twin(own);
        Ok(())
    }

    /// A replica opens a stream of a tenant's, or refuses its process; the session ends with what this returns.
    pub(crate) fn open_stream(
        self: &Arc<Self>,
        organization: OrganizationId,
        standpoints: Standpoints,
        replica: &Replica,
        network: &Arc<Network>,
    ) -> Result<OpenStream> {
        let own = standpoints.own;
        self.refuse_dead_twin(own)?;
        self.check_seen(organization, standpoints)?;
        let (process, stream) = (Arc::clone(&replica.process), self.streams.fetch_add(1, Ordering::Relaxed));
        let now = self.world.now();
        lock(&self.book).open(organization, own, now, (Arc::clone(&process), stream))?;
        self.check_is_no_twin(own);
        Ok(OpenStream {
            control: Arc::clone(self),
            network: Arc::clone(network),
            organization,
            process,
            stream,
        })
    }

    /// From now on it is a violation where this process of a tenant's is served.
    pub fn is_twin(&self, incarnation: IncarnationId, process: Arc<Process>) {
        lock(&self.twins).insert(incarnation, process);
    }

    /// A call ends with its caller's connection.
    fn refuse_dead_twin(&self, own: Standpoint) -> Result<()> {
        match lock(&self.twins).get(&own.incarnation) {
            Some(twin) if twin.is_dead() => Err(unavailable("its caller has gone away")),
            _ => Ok(()),
        }
    }

    /// Refuses a process that is not the one that was met last.
    pub(crate) fn is_met(&self, organization: OrganizationId, process: IncarnationId) -> Result<()> {
        lock(&self.book).is_met(organization, process)
    }

    /// What its database has seen of a tenant, newest first.
    pub(crate) fn seen_of(&self, organization: OrganizationId) -> Vec<Standpoint> {
        lock(&self.book).seen_of(organization)
    }

    /// Whether a tenant's process follows.
    pub fn is_followed_by(&self, organization: OrganizationId) -> bool {
        lock(&self.book).is_followed_by(organization)
    }

    fn check_is_no_twin(&self, own: Standpoint) {
        if lock(&self.twins).contains_key(&own.incarnation) {
            let what = format!("{} is served beside the process that was served before", own.incarnation);
            self.world.violated(Violation::new("of two processes of a tenant one is served", what));
        }
    }

    /// Starts a replica in a new place.
    pub fn add(self: &Arc<Self>, skew: i64) {
        let place = lock(&self.replicas).len();
        let replica = self.boot(place, MachineClock::new(Arc::clone(&self.world), skew));
        lock(&self.replicas).push(replica);
    }

    /// Starts the replica of a place again.
    pub fn restart(self: &Arc<Self>, place: usize) {
        let machine = self.replica(place).machine;
        let replica = self.boot(place, machine);
        lock(&self.replicas)[place] = replica;
    }

    fn boot(self: &Arc<Self>, place: usize, machine: Arc<MachineClock>) -> Replica {
        let process = Process::new(format!("control-{place}"), Whom::Replica(place), Arc::clone(&self.world));
        if self.some_is_alive() {
            self.world.tell(&process.name, 4, || "starts");
        } else {
            self.begin();
            self.world.tell(&process.name, 4, || "starts, and nobody else is there");
        }
        let own = Arc::new(ReplicaStore {
            database: self.database(),
            control: Arc::clone(self),
            place,
            process: Arc::clone(&process),
            wakes: Wakes::default(),
            clock: machine.of_a_process(),
        });
        let store: Arc<dyn Store> = Arc::clone(&own) as Arc<dyn Store>;
        let shown = Arc::clone(&own.clock);
        let clock: Arc<dyn Clock> = Arc::clone(&shown) as Arc<dyn Clock>;
        let instances = Instances::new(Arc::clone(&store), Arc::clone(&clock));
        let engine = Engine::new(
            Arc::new(CloudBackend { cloud: Arc::clone(&self.cloud), process: Arc::clone(&process) }),
            Arc::clone(&store),
            Arc::new(Seal),
            Arc::clone(&clock),
            self.policy.clone(),
            Steps::probed(Arc::new(EngineSteps(Arc::clone(&process)))),
        );
        let running = engine.clone();
        process.spawn(async move { running.run(CancellationToken::new()).await });
        let (pruned, pruning) = (Arc::clone(&store), Arc::clone(&clock));
        process.spawn(async move {
            loop {
                tokio::time::sleep(PRUNE_EVERY).await;
                // what could not be pruned now is pruned next time
                let _ = pruned.prune(pruning.now() - DAY * 30).await;
            }
        });
        Replica {
            place,
            machine,
            clock: shown,
            process,
            engine,
            instances,
            feed: Feed::looking_every(store, self.policy.longest_sleep),
            store: own,
        }
    }

    /// The replica of a place.
    pub fn replica(&self, place: usize) -> Replica {
        lock(&self.replicas)[place].clone()
    }

    fn some_is_alive(&self) -> bool {
        lock(&self.replicas).iter().any(|replica| !replica.process.is_dead())
    }

    /// How many places there are.
    pub fn places(&self) -> usize {
        lock(&self.replicas).len()
    }

    /// Some replica that is not dead; it may be frozen.
    pub fn some_replica(&self) -> Option<Replica> {
        let replicas = lock(&self.replicas);
        let alive: Vec<&Replica> = replicas.iter().filter(|replica| !replica.process.is_dead()).collect();
        if alive.is_empty() {
            return None;
        }
        Some((*self.world.rng().pick(&alive)).clone())
    }

    /// Whether something of a workspace's was ever committed.
    pub(crate) fn knows(&self, workspace: WorkspaceId) -> bool {
        lock(&self.ledger).phases.contains_key(&workspace)
    }

    /// The places of the replicas that had a workspace at work between two moments.
    pub(crate) fn claimants(
        &self,
        workspace: WorkspaceId,
        from: Timestamp,
        until: Timestamp,
    ) -> BTreeSet<usize> {
        let claims = lock(&self.claims);
        let of = claims.get(&workspace).into_iter().flatten();
        of.filter(|one| one.from <= until && one.until >= from).map(|one| one.place).collect()
    }

    /// Records were claimed.
    pub(crate) fn claimed(&self, claimed: &[Claimed], place: usize) {
        let now = self.world.now();
        let mut claims = lock(&self.claims);
        for one in claimed {
            let of = claims.entry(one.lease.workspace).or_default();
            match of.last_mut().filter(|last| last.place == place) {
                Some(last) => last.until = now,
                None => of.push(Claims { place, from: now, until: now }),
            }
        }
        drop(claims);
        let mut ledger = lock(&self.ledger);
        ledger.leases.extend(claimed.iter().map(|one| (one.lease.workspace, one.lease)));
    }

    /// Something was written under a lease: it must be the last, and not be over by its holder's clock.
    pub(crate) fn check_lease(&self, lease: &Lease, now: Timestamp) {
        let last = lock(&self.ledger).leases.get(&lease.workspace).copied();
        if last != Some(*lease) || now >= lease.until {
            let what = format!("{lease:?} at {now}, the last is {last:?}");
            self.world.violated(Violation::new("a lost lease writes nothing", what));
        }
    }

    /// The newest revision of an organisation's.
    pub fn revision_of(&self, organization: OrganizationId) -> Revision {
        lock(&self.ledger).revisions.get(&organization).copied().unwrap_or_default()
    }

    /// Every replica hears that something was committed. Each has wakes of its own: those of the memory store would be
    /// heard in an order of chance.
    pub(crate) fn wake(&self, organization: Option<OrganizationId>) {
        for replica in lock(&self.replicas).iter() {
            match organization {
                Some(organization) => replica.store.wakes.committed(organization),
                None => replica.store.wakes.woken(),
            }
        }
    }

    /// Takes note of what was committed, and checks what must hold after each commit.
    pub(crate) async fn committed(&self, database: &MemoryStore, record: &InstanceRecord) {
        let organization = record.organization;
        let used = {
            let mut ledger = lock(&self.ledger);
            let amounts = counted(record);
            let new = (organization, record.phase, amounts);
            let before = ledger.phases.insert(record.workspace, new);
            if let Some((_, phase, _)) = before {
                self.world.coverage().transition(phase, record.phase, record.reason);
            }
            if before.map(|(_, phase, _)| phase) != Some(record.phase) {
                self.world.tell("engine", 100 + record.phase as u64, || {
                    format!(
                        "{} is {} at generation {} of {}, {:?} is wanted by {}: {}",
                        record.workspace,
                        record.phase,
                        record.generation,
                        record.wanted_generation,
                        record.desired,
                        record.intent,
                        record.message
                    )
                });
            }
            let revision = ledger.revisions.entry(organization).or_default();
            *revision = (*revision).max(record.revision);
            let held = before.map_or_else(Amounts::default, |(.., amounts)| amounts);
            let used = ledger.used.entry(organization).or_default();
            *used = used.plus(amounts).minus(held);
            *used
        };
        self.wake(Some(organization));
        self.check_tiles(database, record).await;
        let account = database.account(organization, self.world.now()).await;
        let Ok(account) = account else { return };
        if account.used != used {
            let what = format!("{:?} is counted for {organization}, {used:?} is there", account.used);
            self.world.violated(Violation::new("quota equals a recount", what));
        }
        let within = |cap: Option<i64>, used: i64| cap.is_none_or(|cap| used <= cap);
        let limits = &account.limits;
        if !within(limits.workspaces, used.workspaces)
            || !within(limits.running_workspaces, used.running_workspaces)
            || !within(limits.memory_mib, used.memory_mib)
            || !within(limits.milli_cpus, used.milli_cpus)
            || !within(limits.disk_gib, used.disk_gib)
        {
            let what = format!("{organization} uses {used:?} of {limits:?}");
            self.world.violated(Violation::new("quota is within its cap", what));
        }
    }

    /// Compares the segments of a workspace with what was committed of it.
    async fn check_tiles(&self, database: &MemoryStore, record: &InstanceRecord) {
        let segments = database.segments(record.workspace).await.unwrap_or_default();
        let before = lock(&self.ledger).tiled.insert(record.workspace, Tiled::of(&segments));
        let seq = record.live_attempt().map(|attempt| attempt.seq);
        let is_it = |machine: &Machine| {
            machine.is_running()
                && machine.instance.workspace == record.workspace
                && machine.instance.generation == record.generation
                && seq == Some(machine.seq)
        };
        let is_up = || self.cloud.look(|machines, _| machines.iter().any(is_it));
        let matters = matches!(record.phase, Phase::Up | Phase::Admitted | Phase::Launching);
        let (is_up, now) = (matters && is_up(), self.world.now());
        let objection = before.unwrap_or_default().objection(&segments, record, is_up, now, self.world.off());
        if let Some(objection) = objection {
            let what = format!("{}: {objection}", record.workspace);
            self.world.violated(Violation::new("segments tile", what));
        }
    }
}
