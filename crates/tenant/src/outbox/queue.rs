//! When which workspace's wishes are told, and who waits for it. No more than one telling per workspace is out at a time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use molecule_domain::Error;
use molecule_domain::id::{IntentNumber, WorkspaceId};
use molecule_provisioner::policy::{self, Policy};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Told, copy_of};

/// The first pause before a wish is told again; it doubles up to [`LONGEST_PAUSE`], and is spread.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// For how long it is kept what became of a wish: whoever asked for it may come to wait for word of it later.
const KEPT: Duration = Duration::from_secs(60);

/// The workspaces of which something waits.
#[derive(Default)]
pub(crate) struct Queue {
    /// In the order in which they are told.
    schedule: BTreeSet<(Instant, WorkspaceId)>,
    workspaces: BTreeMap<WorkspaceId, Place>,
    waiting: BTreeMap<(WorkspaceId, IntentNumber), Vec<oneshot::Sender<Told>>>,
    /// What became of wishes lately: why it was refused, for one that was. One entry answers for the numbers before it, up to
    /// that of another.
    settled: BTreeMap<(WorkspaceId, IntentNumber), Option<Error>>,
    /// The same in the order in which it is forgotten.
    forgotten_at: VecDeque<(Instant, (WorkspaceId, IntentNumber))>,
    closed: bool,
}

/// Where a workspace is in the queue.
#[derive(Default)]
struct Place {
    /// When it is told next; `None` while it is being told.
    due: Option<Instant>,
    /// Tellings in a row that got no answer.
    failures: u32,
    /// Whether something was asked for while it was being told.
    again: bool,
}

impl Queue {
    /// Tells a workspace at once, or again right after the telling that is out.
    pub(crate) fn wake(&mut self, workspace: WorkspaceId) {
        let now = Instant::now();
        match self.workspaces.get_mut(&workspace) {
            Some(Place { due: None, again, .. }) => *again = true,
            Some(Place { due: Some(due), .. }) => {
                self.schedule.remove(&(*due, workspace));
                *due = now.min(*due);
                self.schedule.insert((*due, workspace));
            }
            None => {
                self.workspaces.insert(workspace, Place { due: Some(now), ..Place::default() });
                self.schedule.insert((now, workspace));
            }
        }
    }

    /// Wakes a workspace, and gives word of its wish of this number.
    pub(crate) fn wait_for(
        &mut self,
        workspace: WorkspaceId,
        number: IntentNumber,
    ) -> oneshot::Receiver<Told> {
        let (sender, receiver) = oneshot::channel();
        let later = self.settled.range((workspace, number)..=(workspace, IntentNumber(i64::MAX))).next();
        if let Some((_, Some(refusal))) = later {
            // it is waited for
            let _ = sender.send(Told::Refused(copy_of(refusal)));
        } else if !self.closed {
            self.waiting.entry((workspace, number)).or_default().push(sender);
            self.wake(workspace);
        }
        receiver
    }

    /// Keeps for a while what became of a wish, and of those that it was composed of: nobody may wait for word of it yet.
    pub(crate) fn settle(&mut self, workspace: WorkspaceId, number: IntentNumber, refusal: Option<&Error>) {
        let now = Instant::now();
        while let Some((_, key)) = self.forgotten_at.pop_front_if(|(at, _)| *at <= now) {
            self.settled.remove(&key);
        }
        self.forgotten_at.push_back((now + KEPT, (workspace, number)));
        self.settled.insert((workspace, number), refusal.map(copy_of));
    }

    /// Gives word to all who wait for a workspace's wishes up to this number.
    pub(crate) fn answer(&mut self, workspace: WorkspaceId, upto: IntentNumber, told: impl Fn() -> Told) {
        let range = (workspace, IntentNumber(i64::MIN))..=(workspace, upto);
        let keys: Vec<_> = self.waiting.range(range).map(|(key, _)| *key).collect();
        for sender in keys.iter().filter_map(|key| self.waiting.remove(key)).flatten() {
            // who has gone away needs no word
            let _ = sender.send(told());
        }
    }

    /// Gives word to all who wait for one wish.
    pub(crate) fn answer_one(
        &mut self,
        workspace: WorkspaceId,
        number: IntentNumber,
        told: impl Fn() -> Told,
    ) {
        for sender in self.waiting.remove(&(workspace, number)).into_iter().flatten() {
            // who has gone away needs no word
            let _ = sender.send(told());
        }
    }

    /// The next workspace that is due; it is being told from now on.
    pub(crate) fn take_due(&mut self) -> Option<WorkspaceId> {
        let (due, workspace) = *self.schedule.first()?;
        if due > Instant::now() {
            return None;
        }
        self.schedule.pop_first();
        self.workspaces.entry(workspace).or_default().due = None;
        Some(workspace)
    }

    /// When the next workspace is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.schedule.first().map(|(due, _)| *due)
    }

    /// A telling has come to its end.
    pub(crate) fn ended(&mut self, workspace: WorkspaceId, failed: bool) {
        let Some(mut place) = self.workspaces.remove(&workspace) else { return };
        place.failures = if failed { place.failures.saturating_add(1) } else { 0 };
        let due = if place.again {
            Instant::now()
        } else if failed {
            let policy =
                Policy { backoff_base: FIRST_PAUSE, backoff_max: LONGEST_PAUSE, ..Policy::default() };
            Instant::now() + policy.backoff(place.failures, workspace.as_uuid().as_u64_pair().1)
        } else {
            return;
        };
        self.schedule.insert((due, workspace));
        self.workspaces.insert(workspace, Place { due: Some(due), again: false, ..place });
    }

    /// Has all that waits told within this time, spread over it, whenever it was due. What a client waits for is told at
    /// once.
    pub(crate) fn spread(&mut self, over: Duration) {
        let now = Instant::now();
        for (workspace, place) in &mut self.workspaces {
            let Some(due) = &mut place.due else { continue };
            self.schedule.remove(&(*due, *workspace));
            let all = (*workspace, IntentNumber(i64::MIN))..=(*workspace, IntentNumber(i64::MAX));
            let part = match self.waiting.range(all).next() {
                Some(_) => 0.0,
                None => policy::spread(workspace.as_uuid().as_u64_pair().1),
            };
            *due = now + over.mul_f64(part);
            self.schedule.insert((*due, *workspace));
        }
    }

    /// Nothing is told any more: whoever waits, and whoever comes, hears that the wish waits.
    pub(crate) fn close(&mut self, error: impl Fn() -> Error) {
        self.closed = true;
        for sender in std::mem::take(&mut self.waiting).into_values().flatten() {
            let _ = sender.send(Told::Waits(error()));
        }
    }
}

#[cfg(test)]
mod tests {
    use molecule_domain::error::ErrorReason;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_telling_is_out_per_workspace_and_failures_pause() {
        let (mut queue, workspace) = (Queue::default(), WorkspaceId::generate());
        queue.wake(workspace);
        assert_eq!(queue.take_due(), Some(workspace));
        queue.wake(workspace);
        assert_eq!(queue.take_due(), None, "it is being told");
        queue.ended(workspace, false);
        assert_eq!(queue.take_due(), Some(workspace), "something was asked for meanwhile");
        for _ in 0..12 {
            queue.ended(workspace, true);
            assert_eq!(queue.take_due(), None);
            let due = queue.next_due().unwrap();
            assert!(due - Instant::now() <= LONGEST_PAUSE.mul_f64(1.25));
            tokio::time::advance(due - Instant::now()).await;
            assert_eq!(queue.take_due(), Some(workspace));
        }
        queue.ended(workspace, true);
        queue.spread(Duration::from_secs(2));
        assert!(queue.next_due().unwrap() - Instant::now() <= Duration::from_secs(2));
        queue.wake(workspace);
        assert_eq!(queue.take_due(), Some(workspace), "a client who asks does not wait for the pause");
        queue.ended(workspace, false);
        assert_eq!(queue.next_due(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_failed_together_is_told_again_apart() {
        let mut queue = Queue::default();
        (0..400).for_each(|_| queue.wake(WorkspaceId::generate()));
        let workspaces: Vec<_> = std::iter::from_fn(|| queue.take_due()).collect();
        for _ in 0..3 {
            for workspace in &workspaces {
                queue.ended(*workspace, true);
            }
            let (began, mut together) = (Instant::now(), Vec::new());
            while let Some(due) = queue.next_due() {
                tokio::time::advance((due - Instant::now()).max(Duration::from_millis(10))).await;
                together.push(std::iter::from_fn(|| queue.take_due()).count());
            }
            assert!(began.elapsed() >= FIRST_PAUSE && together.iter().sum::<usize>() == 400);
            assert!(together.iter().all(|some| *some <= 80), "{together:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_backlog_is_spread_and_a_client_is_not_kept_waiting() {
        let (mut queue, asked) = (Queue::default(), WorkspaceId::generate());
        for _ in 0..500 {
            queue.wake(WorkspaceId::generate());
        }
        let _asked = queue.wait_for(asked, IntentNumber(1));
        // all of it was due long ago
        tokio::time::advance(Duration::from_secs(600)).await;
        queue.spread(Duration::from_secs(2));
        assert_eq!(queue.take_due(), Some(asked));
        let mut told_by = Vec::new();
        for _ in 0..20 {
            tokio::time::advance(Duration::from_millis(100)).await;
            told_by.push(std::iter::from_fn(|| queue.take_due()).count());
        }
        assert_eq!(told_by.iter().sum::<usize>(), 500);
        assert!(told_by.iter().all(|some| (5..60).contains(some)), "{told_by:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_to_wait_for_what_was_refused_hears_of_that() {
        let (mut queue, workspace, other) =
            (Queue::default(), WorkspaceId::generate(), WorkspaceId::generate());
        let refused = Error::new(ErrorReason::QuotaExceeded, "no room");
        queue.settle(workspace, IntentNumber(2), None);
        queue.settle(workspace, IntentNumber(4), Some(&refused));
        let mut hears = |of, number| {
            let told = queue.wait_for(of, IntentNumber(number)).try_recv();
            matches!(told, Ok(Told::Refused(error)) if error.reason == refused.reason)
        };
        // the third was composed with the fourth
        assert_eq!([1, 2, 3, 4, 5].map(|number| hears(workspace, number)), [false, false, true, true, false]);
        assert!(!hears(other, 4));
        tokio::time::advance(KEPT).await;
        queue.settle(other, IntentNumber(1), None);
        assert_eq!((queue.settled.len(), queue.forgotten_at.len()), (1, 1), "it is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn word_of_a_wish_is_word_of_those_composed_with_it() {
        let (mut queue, workspace) = (Queue::default(), WorkspaceId::generate());
        let mut waiting: Vec<_> = (1..=3).map(|n| queue.wait_for(workspace, IntentNumber(n))).collect();
        queue.answer(workspace, IntentNumber(2), || Told::Waits(Error::workspace_not_found("x")));
        assert!(
            waiting[0].try_recv().is_ok() && waiting[1].try_recv().is_ok() && waiting[2].try_recv().is_err()
        );
    }
}
