//! Turns the wheel: claims what is due, looks once for all of it, takes a step for each, and sleeps until
//! something changes or falls due.
//!
//! Each `select!` is biased: none can be starved by another here, and a simulation replays.

use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use molecule_domain::id::{LeaseOwner, WorkspaceId};
use molecule_telemetry::metrics;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::execute::Executor;
use super::sweeper::Sweeper;
use crate::policy::Policy;
use crate::store::{Room, StoreError};

/// How long to wait before asking a store again that did not answer.
const STORE_PAUSE: Duration = Duration::from_secs(1);
/// How long to wait before listening for hints again.
const HINTS_PAUSE: Duration = Duration::from_secs(2);

/// Runs until cancelled, then until every step under way has come to its end.
pub async fn run(executor: Arc<Executor>, cancel: CancellationToken) {
    let hints_missed = Notify::new();
    tokio::join!(
        reconcile(Arc::clone(&executor), cancel.clone()),
        sweep(Arc::clone(&executor), &hints_missed, cancel.clone()),
        listen(executor, &hints_missed, cancel),
    );
}

async fn reconcile(executor: Arc<Executor>, cancel: CancellationToken) {
    let owner = LeaseOwner::generate();
    info!(%owner, backend = executor.backend.kind(), "the engine runs");
    let mut commits = executor.store.wakes().any();
    let mut working = Working::default();
    let mut gathered = Instant::now();
    while !cancel.is_cancelled() {
        // not before all that falls due meanwhile can share a look
        if cancel.run_until_cancelled(tokio::time::sleep_until(gathered)).await.is_none() {
            break;
        }
        working.settle();
        commits.borrow_and_update();
        let sleep = match claim_and_work(&executor, owner, &mut working).await {
            Ok(sleep) => sleep,
            Err(error) => {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "the store gives nothing to do; asking again"
                );
                STORE_PAUSE
            }
        };
        gathered = Instant::now() + executor.backend.gather();
        wait(&mut commits, &mut working, sleep, &cancel).await;
    }
    let (launches, others) = (working.launches.len(), working.others.len());
    info!(launches, others, "the engine ends after the steps under way");
    while working.next().await {}
}

/// The steps that were begun and have not ended. Launches have slots of their own, so that neither they nor what is to stop waits for the other.
#[derive(Debug, Default)]
struct Working {
    launches: JoinSet<()>,
    others: JoinSet<()>,
}

impl Working {
    /// Forgets those that have ended.
    fn settle(&mut self) {
        while self.launches.try_join_next().is_some() {}
        while self.others.try_join_next().is_some() {}
    }

    fn room(&self, policy: &Policy) -> Room {
        let left =
            |slots: usize, taken: usize| u32::try_from(slots.saturating_sub(taken)).unwrap_or(u32::MAX);
        Room {
            launches: left(policy.launch_concurrency, self.launches.len()),
            others: left(policy.concurrency, self.others.len()),
        }
    }

    /// Waits for the end of one; whether there was one.
    async fn next(&mut self) -> bool {
        tokio::select! {
            biased;
            Some(_) = self.others.join_next() => true,
            Some(_) = self.launches.join_next() => true,
            else => false,
        }
    }
}

/// Claims what is due and has room, starts on it, and says how long to sleep.
async fn claim_and_work(
    executor: &Arc<Executor>,
    owner: LeaseOwner,
    working: &mut Working,
) -> Result<Duration, StoreError> {
    let now = executor.clock.now();
    let longest = executor.policy.longest_sleep;
    let room = working.room(&executor.policy);
    if room.is_none() {
        return Ok(longest);
    }
    let due = match executor.store.next_due(executor.backend.kind(), now, room).await? {
        None => return Ok(longest),
        Some(due) if due > now => return Ok(due.since(now).min(longest)),
        Some(due) => due,
    };
    let claimed =
        executor.store.claim(executor.backend.kind(), owner, now, executor.policy.lease, room).await?;
    if claimed.is_empty() {
        return Ok(longest.min(Duration::from_millis(50)));
    }
    debug!(count = claimed.len(), "claimed");
    metrics::queue_age(executor.backend.kind(), now.since(due));
    // One look serves the whole batch; what falls due meanwhile does not wait for it.
    let wanted: Vec<_> = claimed.iter().map(|one| one.record.instance()).collect();
    let looking = Arc::clone(executor);
    let look = async move { Arc::new(looking.look_at(&wanted).await) }.boxed().shared();
    for claimed in claimed {
        let (executor, look) = (Arc::clone(executor), look.clone());
        let slots = if claimed.record.is_launching() { &mut working.launches } else { &mut working.others };
        // the future of a step is large, and the runtime would move it several times
        slots.spawn(Box::pin(async move { executor.work(&claimed, &*look.await).await }));
    }
    Ok(Duration::ZERO)
}

async fn wait(
    commits: &mut watch::Receiver<u64>,
    working: &mut Working,
    sleep: Duration,
    cancel: &CancellationToken,
) {
    if sleep.is_zero() {
        tokio::task::yield_now().await;
        return;
    }
    tokio::select! {
        biased;
        () = cancel.cancelled() => {}
        _ = commits.changed() => {}
        true = working.next() => {}
        () = tokio::time::sleep(sleep) => {}
    }
}

/// Compares everything with the provider in its rhythm, and where hints may have been missed. A pass that saw nothing, as of a
/// provider that does not answer yet, is made again soon, and then in growing intervals.
async fn sweep(executor: Arc<Executor>, hints_missed: &Notify, cancel: CancellationToken) {
    let mut sweeper = Sweeper::default();
    let every = executor.policy.sweep_every;
    let mut again = HINTS_PAUSE.min(every);
    loop {
        if let Err(error) = sweeper.pass(&executor).await {
            warn!(error = &error as &dyn std::error::Error, "the sweep could not be finished");
        }
        let pause = if sweeper.has_compared() { every } else { again };
        again = if sweeper.has_compared() { HINTS_PAUSE } else { again * 2 }.min(every);
        tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            () = hints_missed.notified() => {
                debug!("hints were missed; comparing everything");
                again = HINTS_PAUSE.min(every);
            }
            () = tokio::time::sleep(pause) => {}
        }
    }
    if let Err(error) = sweeper.end(&executor).await {
        let error = &error as &dyn std::error::Error;
        debug!(error, "the sweep's role is not given back, and ends by itself");
    }
}

async fn listen(executor: Arc<Executor>, hints_missed: &Notify, cancel: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            () = forward_hints(&executor, hints_missed) => {}
        }
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(HINTS_PAUSE) => {}
        }
    }
}

/// Forwards hints until their stream ends, or one can't be stored. What happened before the stream, as while the provider or the
/// database was down, or since the first sweep, has no hint: `missed` is told once the stream has lasted or says something. One
/// that ends at once is no word of the provider's.
async fn forward_hints(executor: &Executor, missed: &Notify) {
    let mut missed = Some(missed);
    let hints = match executor.backend.hints().await {
        Ok(hints) => hints,
        Err(error) => {
            debug!(%error, "the provider gives no hints; sweeps find changes later");
            return;
        }
    };
    let mut batches = hints.ready_chunks(256);
    loop {
        let batch: Option<Vec<WorkspaceId>> = tokio::select! {
            biased;
            batch = batches.next() => batch,
            () = tokio::time::sleep(HINTS_PAUSE), if missed.is_some() => Some(Vec::new()),
        };
        let Some(batch) = batch else { return };
        if let Some(missed) = missed.take() {
            missed.notify_one();
        }
        if batch.is_empty() {
            continue;
        }
        if let Err(error) = executor.store.wake(&batch, executor.clock.now()).await {
            debug!(error = &error as &dyn std::error::Error, "hints are lost; comparing everything soon");
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use async_trait::async_trait;
    use molecule_domain::clock::{Clock, ManualClock, Timestamp};
    use molecule_domain::id::{InstallationId, LaunchSeq};
    use molecule_domain::lifecycle::Phase;

    use super::*;
    use crate::backend::memory::{Host, MemoryBackend, Trouble};
    use crate::faults::{Fault, Probe, Steps};
    use crate::samples;
    use crate::store::Store;
    use crate::store::memory::MemoryStore;

    struct World {
        host: Arc<Host>,
        store: Arc<MemoryStore>,
        clock: Arc<ManualClock>,
        executor: Arc<Executor>,
        working: Working,
    }

    impl World {
        fn new() -> Self {
            let (host, store) = (Arc::new(Host::default()), Arc::new(MemoryStore::default()));
            let clock = Arc::new(ManualClock::starting_at(Timestamp::from_micros(100_000_000)));
            let dyn_clock: Arc<dyn Clock> = clock.clone();
            let backend =
                MemoryBackend::new(Arc::clone(&host), InstallationId::generate(), dyn_clock.clone());
            let executor = Arc::new(Executor {
                backend: Arc::new(backend),
                store: store.clone(),
                sealer: Arc::new(samples::Unsealed),
                clock: dyn_clock,
                policy: Policy::default(),
                steps: Steps::default(),
            });
            Self { host, store, clock, executor, working: Working::default() }
        }

        async fn admitted(&self) -> WorkspaceId {
            let request = samples::provision(WorkspaceId::generate());
            self.store.provision(&request, self.clock.now()).await.unwrap().workspace
        }

        /// How long to sleep, and how many steps are under way.
        async fn claim(&mut self) -> (Duration, usize) {
            let owner = LeaseOwner::generate();
            let sleep = claim_and_work(&self.executor, owner, &mut self.working).await.unwrap();
            (sleep, self.working.launches.len() + self.working.others.len())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_due_is_worked_on_and_else_the_engine_sleeps() {
        let mut world = World::new();
        let longest = world.executor.policy.longest_sleep;
        assert_eq!(world.claim().await, (longest, 0), "there is nothing");
        world.admitted().await;
        assert_eq!(world.claim().await, (Duration::ZERO, 1));
        assert!(world.working.next().await && !world.working.next().await);
        // it boots, and is looked at at once; then it rests
        assert_eq!(world.claim().await, (Duration::ZERO, 1));
        assert!(world.working.next().await);
        assert_eq!(world.claim().await, (longest, 0), "it is up");

        world.host.set(Trouble::Away, true);
        world.admitted().await;
        world.claim().await;
        assert!(world.working.next().await);
        let (sleep, working) = world.claim().await;
        let base = world.executor.policy.backoff_base;
        assert!(sleep >= base && sleep < base * 2 && working == 0, "it backs off: {sleep:?}");
        world.clock.advance(sleep);
        assert_eq!(world.claim().await, (Duration::ZERO, 1), "it is due");
    }

    #[tokio::test]
    async fn without_room_nothing_is_claimed() {
        let mut world = World::new();
        world.admitted().await;
        let longest = world.executor.policy.longest_sleep;
        let Executor { backend, store, sealer, clock, policy, .. } = &*world.executor;
        let policy = Policy { concurrency: 0, launch_concurrency: 0, ..policy.clone() };
        let executor = Executor {
            backend: Arc::clone(backend),
            store: Arc::clone(store),
            sealer: Arc::clone(sealer),
            clock: Arc::clone(clock),
            policy,
            steps: Steps::default(),
        };
        world.executor = Arc::new(executor);
        assert_eq!(world.claim().await, (longest, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_sleep_ends_in_its_time_or_with_a_commit() {
        let (world, cancel) = (World::new(), CancellationToken::new());
        let (mut commits, mut working) = (world.store.wakes().any(), Working::default());
        let mut slept = async |sleep| {
            let began = Instant::now();
            wait(&mut commits, &mut working, sleep, &cancel).await;
            began.elapsed()
        };
        let five = Duration::from_secs(5);
        assert!(slept(five).await >= five);
        world.admitted().await;
        assert_eq!(slept(five).await, Duration::ZERO);
        assert_eq!(slept(Duration::ZERO).await, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hint_wakes_a_record() {
        let mut world = World::new();
        let workspace = world.admitted().await;
        for _ in 0..2 {
            world.claim().await;
            assert!(world.working.next().await);
        }
        let rests = async || {
            let record = world.store.get(samples::provision(workspace).organization, workspace).await;
            let record = record.unwrap().unwrap();
            (record.phase, record.due_at.is_none())
        };
        assert_eq!(rests().await, (Phase::Up, true));
        let cancel = CancellationToken::new();
        let listen = |executor, cancel| async move { listen(executor, &Notify::new(), cancel).await };
        let listening = tokio::spawn(listen(Arc::clone(&world.executor), cancel.clone()));
        tokio::time::sleep(HINTS_PAUSE).await;
        assert!(rests().await.1, "nothing was told");
        listening.abort();
        world.host.hint(workspace);
        let listening = tokio::spawn(listen(Arc::clone(&world.executor), cancel.clone()));
        tokio::time::sleep(HINTS_PAUSE).await;
        assert!(!rests().await.1, "it is looked at");
        cancel.cancel();
        listening.await.unwrap();
    }

    /// A provider that does not list for so many times, and a store that does not wake for so many.
    #[derive(Default)]
    struct Away {
        list: AtomicU32,
        wake: AtomicU32,
    }

    #[async_trait]
    impl Probe for Away {
        async fn before(&self, step: &'static str) -> Option<Fault> {
            let left = match step {
                "backend.list" => &self.list,
                "store.wake" => &self.wake,
                _ => return None,
            };
            let fails = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            fails.ok().map(|_| Fault::FailBefore)
        }
    }

    /// What dies with the daemon, or while nobody listens, has no hint: once the stream is there again, everything is compared, as
    /// soon as the provider lists it. So it is after the first stream was opened, for what ended since the first sweep.
    #[tokio::test(start_paused = true)]
    async fn what_ends_while_nobody_listens_is_seen_once_somebody_does() {
        let second = Duration::from_secs(1);
        for (opened_again, unlisted, ends_after, is_seen) in [
            (true, 0, second, true),
            (true, 1, second, true),
            (false, 0, second, true),
            (false, 0, HINTS_PAUSE * 2, false),
        ] {
            let mut world = World::new();
            let executor = Arc::get_mut(&mut world.executor).unwrap();
            let away = Arc::new(Away::default());
            executor.steps = Steps::probed(away.clone());
            executor.policy.sweep_every = Duration::from_secs(3600);
            if opened_again {
                // the first stream tells it, and ends
                world.host.hint(WorkspaceId::generate());
            }
            let cancel = CancellationToken::new();
            let running = tokio::spawn(run(Arc::clone(&world.executor), cancel.clone()));
            let workspace = world.admitted().await;
            let record = async || {
                let record = world.store.get(samples::provision(workspace).organization, workspace).await;
                record.unwrap().unwrap()
            };
            tokio::time::sleep(ends_after).await;
            let up = record().await;
            assert_eq!(up.phase, Phase::Up);
            away.list.store(unlisted, Ordering::SeqCst);
            world.host.vanish(&up.instance());
            // late enough that its absence is no launch under way
            world.clock.advance(Duration::from_secs(1));
            tokio::time::sleep(HINTS_PAUSE * 3).await;
            assert_eq!(record().await.phase != Phase::Up, is_seen, "by a sweep before its time");
            cancel.cancel();
            running.await.unwrap();
        }
    }

    /// A database that is away for a moment loses nothing of what the provider told in it.
    #[tokio::test(start_paused = true)]
    async fn what_a_hint_could_not_wake_is_found_by_a_sweep_before_its_time() {
        let mut world = World::new();
        let away = Arc::new(Away::default());
        world.store = Arc::new(MemoryStore::probed(away.clone()));
        let executor = Arc::get_mut(&mut world.executor).unwrap();
        executor.store = world.store.clone();
        executor.policy.sweep_every = Duration::from_secs(3600);
        let cancel = CancellationToken::new();
        let running = tokio::spawn(run(Arc::clone(&world.executor), cancel.clone()));
        let workspace = world.admitted().await;
        let phase = async || {
            let record = world.store.get(samples::provision(workspace).organization, workspace).await;
            record.unwrap().unwrap().phase
        };
        tokio::time::sleep(HINTS_PAUSE * 2).await;
        assert_eq!(phase().await, Phase::Up);
        away.wake.store(1, Ordering::SeqCst);
        let instance = samples::launch(workspace, LaunchSeq(1)).instance;
        world.host.vanish(&instance);
        world.host.hint(workspace);
        world.clock.advance(Duration::from_secs(1));
        tokio::time::sleep(HINTS_PAUSE * 3).await;
        assert_ne!(phase().await, Phase::Up);
        assert_eq!(away.wake.load(Ordering::SeqCst), 0);
        cancel.cancel();
        running.await.unwrap();
    }

    /// A provider that gives no list is asked again soon, less and less often, and no more often than is swept anyway.
    #[tokio::test(start_paused = true)]
    async fn a_sweep_that_saw_nothing_is_made_again() {
        let mut world = World::new();
        let away = Arc::new(Away { list: AtomicU32::new(u32::MAX), wake: AtomicU32::new(0) });
        let executor = Arc::get_mut(&mut world.executor).unwrap();
        executor.steps = Steps::probed(away.clone());
        executor.policy.sweep_every = Duration::from_secs(10);
        let cancel = CancellationToken::new();
        let sweeping = {
            let (executor, cancel) = (Arc::clone(&world.executor), cancel.clone());
            tokio::spawn(async move { sweep(executor, &Notify::new(), cancel).await })
        };
        // at the seconds 0, 2, 6, 14, 24 and 34
        for (milliseconds, asked) in [(1_000, 1), (2_500, 2), (31_500, 6)] {
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            assert_eq!(u32::MAX - away.list.load(Ordering::SeqCst), asked);
        }
        cancel.cancel();
        sweeping.await.unwrap();
    }

    /// Whoever comes next need not wait until the role is forgotten.
    #[tokio::test(start_paused = true)]
    async fn an_engine_that_ends_gives_the_role_of_its_sweep_back() {
        let (world, cancel) = (World::new(), CancellationToken::new());
        let running = tokio::spawn(run(Arc::clone(&world.executor), cancel.clone()));
        let leads = async || {
            let now = world.clock.now();
            world.store.lead("sweep/memory", LeaseOwner::generate(), now, now).await.unwrap()
        };
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!leads().await, "it sweeps");
        cancel.cancel();
        running.await.unwrap();
        assert!(leads().await, "it has ended");
    }
}
