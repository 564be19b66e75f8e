//! What all parts of a life share: time, chance, the story, and the faults that wait for their step.

use std::any::Any;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use molecule_domain::Timestamp;
use molecule_domain::id::{IncarnationId, OrganizationId, WorkspaceId};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use uuid::Uuid;

use crate::coverage::Coverage;
use crate::faults::{Armed, Fault, can_meet};
use crate::rng::Rng;
use crate::story::Story;
use crate::violation::Violation;

/// How the second of two processes over one database is called.
pub const TWIN: &str = "twin";

/// When every life begins.
const BEGIN: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

/// Locks; a poisoned lock is as good as any, since a panic ends the life.
pub fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The rule that a panic breaks, with its message.
pub(crate) fn panicked(panic: &(dyn Any + Send)) -> Violation {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    Violation::new("nothing panics", text.unwrap_or("without a message").to_owned())
}

/// What all parts of a life share.
#[derive(Debug)]
pub struct World {
    began: Instant,
    /// Whether steps take their natural time only, as in a story that is told on purpose.
    calm: bool,
    busy: AtomicU32,
    numbers: AtomicU64,
    starts: AtomicU64,
    over: AtomicBool,
    /// By how much the control plane's time may be away from the true one, in microseconds.
    off: AtomicU64,
    rng: Mutex<Rng>,
    story: Mutex<Story>,
    coverage: Mutex<Coverage>,
    armed: Mutex<Vec<Armed>>,
    violations: Mutex<Vec<Violation>>,
    explained: Mutex<Vec<Trouble>>,
}

/// Whom something that is wrong may hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // as they say
pub enum Whom {
    Everybody,
    Organization(OrganizationId),
    Workspace(WorkspaceId),
    /// What the replica of this place had at work.
    Replica(usize),
}

/// A workspace, and who has to do with it.
#[derive(Clone, Debug)]
pub struct Concerned {
    /// Which.
    pub workspace: WorkspaceId,
    /// Whose it is.
    pub organization: Option<OrganizationId>,
    /// The places of the replicas that had it at work at the time.
    pub places: BTreeSet<usize>,
}

/// Something that was wrong for a while, and what may come of it.
#[derive(Clone, Debug)]
struct Trouble {
    kind: &'static str,
    whom: Whom,
    from: Timestamp,
    until: Timestamp,
}

impl World {
    /// A world that begins now. It keeps the story's words where `told` is set.
    pub fn new(seed: u64, calm: bool, told: bool) -> Self {
        Self {
            began: Instant::now(),
            calm,
            busy: AtomicU32::new(0),
            numbers: AtomicU64::new(100_000),
            starts: AtomicU64::new(0),
            over: AtomicBool::new(false),
            off: AtomicU64::new(0),
            rng: Mutex::new(Rng::new(seed)),
            story: Mutex::new(Story::new(told)),
            coverage: Mutex::default(),
            armed: Mutex::default(),
            violations: Mutex::default(),
            explained: Mutex::default(),
        }
    }

    /// The true time, which no process knows.
    pub fn now(&self) -> Timestamp {
        BEGIN + self.began.elapsed()
    }

    /// How long this world has been.
    pub fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// By how much the control plane's time may be away from the true one, besides what clocks always are.
    pub fn off(&self) -> Duration {
        Duration::from_micros(self.off.load(Ordering::Relaxed))
    }

    /// The clock that the control plane goes by is set by so much.
    pub(crate) fn sets_control(&self, by: Duration) {
        self.off.fetch_add(u64::try_from(by.as_micros()).unwrap_or(0), Ordering::Relaxed);
    }

    /// Chance.
    pub fn rng(&self) -> MutexGuard<'_, Rng> {
        lock(&self.rng)
    }

    /// What has been met so far.
    pub fn coverage(&self) -> MutexGuard<'_, Coverage> {
        lock(&self.coverage)
    }

    /// A number that no other request has.
    pub fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// No trouble begins any more.
    pub fn ends(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Whether no trouble begins any more.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// The id of another start of some service: ascending in time, and made of nothing but time and a count.
    pub fn incarnation(&self) -> IncarnationId {
        let count = u128::from(self.starts.fetch_add(1, Ordering::Relaxed));
        let millis = u128::from(self.now().micros().unsigned_abs() / 1_000);
        IncarnationId::from_uuid(Uuid::from_u128(millis << 80 | 0x7 << 76 | 0x8 << 60 | count))
    }

    /// Somebody is at work, for as long as the answer is kept.
    pub fn busy(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    /// Whether somebody is at work.
    pub fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed) > 0
    }

    /// Notes in the story what somebody did. The words are made only where they are kept.
    pub fn tell<T: Display>(&self, who: impl Display, code: u64, what: impl FnOnce() -> T) {
        lock(&self.story).tell(self.began.elapsed(), who, code, what);
    }

    /// The story so far.
    pub fn story(&self) -> MutexGuard<'_, Story> {
        lock(&self.story)
    }

    /// Runs a task. A panic in it breaks a rule: it would end the task without a word.
    pub fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        // a task's future is large, and the runtime would move it several times
        let (world, task) = (Arc::clone(self), Box::pin(task));
        tokio::spawn(async move {
            if let Err(panic) = AssertUnwindSafe(task).catch_unwind().await {
                world.violated(panicked(&*panic));
            }
        })
    }

    /// Notes that a rule was broken.
    pub fn violated(&self, violation: Violation) {
        self.tell("CHECK", 0xbad, || format!("VIOLATION: {violation}"));
        let mut all = lock(&self.violations);
        if !all.contains(&violation) {
            all.push(violation);
        }
    }

    /// The rules that were broken.
    pub fn violations(&self) -> Vec<Violation> {
        lock(&self.violations).clone()
    }

    /// Has a fault wait for its step, at which it must do something.
    pub fn arm(&self, armed: Armed) {
        if !can_meet(armed.fault, armed.step) {
            return self.does_nothing(armed.fault, armed.step);
        }
        lock(&self.armed).push(armed);
    }

    /// A fault was to meet a step that takes no notice of it.
    pub fn does_nothing(&self, fault: Fault, step: &'static str) {
        let what = format!("{fault:?} does nothing at {step}");
        self.violated(Violation::new("every fault does something", what));
    }

    /// Nothing waits for its step any more.
    pub fn disarm(&self) {
        lock(&self.armed).clear();
    }

    /// The fault that waits for this step, which is about to be taken by somebody. It is taken out.
    pub fn fault_at(&self, who: &str, step: &'static str) -> Option<Fault> {
        self.coverage().step(step);
        if who.starts_with(TWIN) {
            // a call of a twin's that came late would be the first that is heard of its tenant
            return None;
        }
        let mut all = lock(&self.armed);
        let place = all.iter().position(|armed| armed.step == step)?;
        if all[place].skip > 0 {
            all[place].skip -= 1;
            return None;
        }
        let fault = all.remove(place).fault;
        drop(all);
        self.coverage().fault(fault, step);
        self.tell(who, fault as u64, || format!("FAULT {fault:?} at {step}"));
        Some(fault)
    }

    /// Whether a copy of a call of this process's is heard late, now and then.
    pub fn may_stray(&self, who: &str) -> bool {
        !self.calm && !who.starts_with(TWIN) && self.rng().once_in(30)
    }

    /// How many faults wait for their steps.
    pub fn armed(&self) -> usize {
        lock(&self.armed).len()
    }

    /// A step takes its time. Now and then it takes long, and other things happen meanwhile.
    pub async fn breathe(&self) {
        if self.calm {
            return;
        }
        let pause = {
            let mut rng = self.rng();
            match rng.below(128) {
                0 => rng.millis(1_000, 20_000),
                1..=3 => rng.millis(50, 1_000),
                4..=24 => rng.millis(1, 50),
                _ => return,
            }
        };
        tokio::time::sleep(pause).await;
    }

    /// Something is wrong from now on, for so long; `kind` is what [`was_wrong`](Self::was_wrong) asks for.
    pub fn is_wrong(&self, kind: &'static str, whom: Whom, lasts: Duration) {
        let from = self.now();
        lock(&self.explained).push(Trouble { kind, whom, from, until: from + lasts });
    }

    /// Whether something of one of these kinds was wrong, with everybody or with who has to do with a workspace, between two
    /// moments.
    pub fn was_wrong(
        &self,
        kinds: &[&str],
        concerned: &Concerned,
        from: Timestamp,
        until: Timestamp,
    ) -> bool {
        self.wrong_from(kinds, concerned, from, until).is_some()
    }

    /// When the first such thing began.
    pub fn wrong_from(
        &self,
        kinds: &[&str],
        concerned: &Concerned,
        from: Timestamp,
        until: Timestamp,
    ) -> Option<Timestamp> {
        let hits = |whom| match whom {
            Whom::Everybody => true,
            Whom::Organization(of) => Some(of) == concerned.organization,
            Whom::Workspace(of) => of == concerned.workspace,
            Whom::Replica(place) => concerned.places.contains(&place),
        };
        let explained = lock(&self.explained);
        let met = explained.iter().filter(|one| {
            kinds.contains(&one.kind) && hits(one.whom) && one.from <= until && one.until >= from
        });
        met.map(|one| one.from).min()
    }
}

/// Somebody is at work.
#[derive(Debug)]
pub struct Busy(Arc<World>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}
