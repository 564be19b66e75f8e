//! Everybody who watches an organisation, from one reader: its changes and events are read once, however many wait
//! for them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use molecule_domain::id::{OrganizationId, Revision};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::broadcast::{self, Receiver, Sender, WeakSender};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::model::Event;
use crate::shown::Shown;
use crate::store::{Store, StoreError};

/// How many batches a slow watcher may be behind before it reads for itself.
const WAITING: usize = 64;
const BATCH: u32 = 200;
/// What a lost wake-up costs.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How far a watcher is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursors {
    /// Instances up to this revision are known.
    pub revision: Revision,
    /// Events up to this one are known.
    pub event: i64,
}

/// Some changes and events, in order.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Instances, in order of revision.
    pub instances: Vec<Shown>,
    /// Events, in order of their numbers.
    pub events: Vec<Event>,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.instances.is_empty() && self.events.is_empty()
    }

    /// Where one is who was at `from` and has this.
    fn end(&self, from: Cursors) -> Cursors {
        Cursors {
            revision: self.instances.last().map_or(from.revision, |last| last.view.revision),
            event: self.events.last().map_or(from.event, |last| last.id),
        }
    }

    /// What of it is new to one who is at `at`.
    fn after(&self, at: Cursors) -> Self {
        Self {
            instances: self.instances.iter().filter(|one| one.view.revision > at.revision).cloned().collect(),
            events: self.events.iter().filter(|event| event.id > at.event).cloned().collect(),
        }
    }
}

async fn read(store: &dyn Store, organization: OrganizationId, at: Cursors) -> Result<Batch, StoreError> {
    Ok(Batch {
        instances: store.changed_after(organization, at.revision, BATCH).await?,
        events: store.events_after(organization, at.event, BATCH).await?,
    })
}

/// Gives out followers, and keeps one reader for all of an organisation's.
pub struct Feed {
    store: Arc<dyn Store>,
    look_every: Duration,
    readers: Mutex<HashMap<OrganizationId, Weak<Reader>>>,
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Feed(..)")
    }
}

/// Reads for as long as somebody holds this.
struct Reader {
    sender: WeakSender<Arc<Batch>>,
    _stop: DropGuard,
}

impl Feed {
    /// A feed of this store.
    pub fn new(store: Arc<dyn Store>) -> Arc<Self> {
        Self::looking_every(store, LOOK_EVERY)
    }

    /// A feed of this store that looks so often without being woken.
    pub fn looking_every(store: Arc<dyn Store>, look_every: Duration) -> Arc<Self> {
        Arc::new(Self { store, look_every, readers: Mutex::default() })
    }

    /// Follows an organisation from where the cursors are.
    pub fn follow(self: &Arc<Self>, organization: OrganizationId, after: Cursors) -> Follower {
        Follower { feed: Arc::clone(self), organization, at: after, live: None, behind: true }
    }

    /// What is new from now on; the reader, where there is none yet, begins at `at`.
    fn subscribe(&self, organization: OrganizationId, at: Cursors) -> (Arc<Reader>, Receiver<Arc<Batch>>) {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reader) = readers.get(&organization).and_then(Weak::upgrade)
            && let Some(sender) = reader.sender.upgrade()
        {
            return (reader, sender.subscribe());
        }
        readers.retain(|_, reader| reader.strong_count() > 0);
        let (sender, receiver) = broadcast::channel(WAITING);
        let stop = CancellationToken::new();
        let reader = Arc::new(Reader { sender: sender.downgrade(), _stop: stop.clone().drop_guard() });
        readers.insert(organization, Arc::downgrade(&reader));
        let store = Arc::clone(&self.store);
        tokio::spawn(stop.run_until_cancelled_owned(run(store, organization, at, sender, self.look_every)));
        (reader, receiver)
    }
}

/// Ends, and with it the channel, where the store gives no answer: followers find out for themselves then.
async fn run(
    store: Arc<dyn Store>,
    organization: OrganizationId,
    mut at: Cursors,
    sender: Sender<Arc<Batch>>,
    look_every: Duration,
) {
    let mut news = store.wakes().of(organization);
    loop {
        news.borrow_and_update();
        loop {
            let Ok(batch) = read(&*store, organization, at).await else { return };
            if batch.is_empty() {
                break;
            }
            at = batch.end(at);
            // nobody may be left to hear it
            let _ = sender.send(Arc::new(batch));
        }
        let _ = tokio::time::timeout(look_every, news.changed()).await;
    }
}

/// One watcher.
pub struct Follower {
    feed: Arc<Feed>,
    organization: OrganizationId,
    at: Cursors,
    live: Option<(Arc<Reader>, Receiver<Arc<Batch>>)>,
    /// The store may have something that has not come, and will not come, through the channel.
    behind: bool,
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower").field("at", &self.at).finish_non_exhaustive()
    }
}

impl Follower {
    /// What comes next: never empty, without gap or duplicate. May be dropped and asked again.
    pub async fn next(&mut self) -> Result<Batch, StoreError> {
        loop {
            if self.behind {
                let batch = read(&*self.feed.store, self.organization, self.at).await?;
                if !batch.is_empty() {
                    self.at = batch.end(self.at);
                    return Ok(batch);
                }
                if self.live.is_some() {
                    self.behind = false;
                } else {
                    // subscribed first, then read once more: nothing falls in between
                    self.live = Some(self.feed.subscribe(self.organization, self.at));
                    continue;
                }
            }
            let Some((_, receiver)) = &mut self.live else {
                self.behind = true;
                continue;
            };
            match receiver.recv().await {
                Ok(batch) => {
                    let batch = batch.after(self.at);
                    if !batch.is_empty() {
                        self.at = batch.end(self.at);
                        return Ok(batch);
                    }
                }
                Err(RecvError::Lagged(_)) => self.behind = true,
                Err(RecvError::Closed) => {
                    self.live = None;
                    self.behind = true;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use molecule_domain::Timestamp;
    use molecule_domain::id::WorkspaceId;

    use super::*;
    use crate::samples;
    use crate::store::memory::MemoryStore;

    /// Follows until so many events have come; their numbers, and the revisions of the records.
    async fn gather(mut follower: Follower, events: usize, pause: Duration) -> (Vec<i64>, Vec<i64>) {
        let (mut numbers, mut revisions) = (Vec::new(), Vec::new());
        while numbers.len() < events {
            let batch = follower.next().await.unwrap();
            numbers.extend(batch.events.iter().map(|event| event.id));
            revisions.extend(batch.instances.iter().map(|one| one.view.revision.0));
            tokio::time::sleep(pause).await;
        }
        (numbers, revisions)
    }

    #[tokio::test(start_paused = true)]
    async fn everybody_gets_everything_once_and_in_order() {
        let store = Arc::new(MemoryStore::default());
        let feed = Feed::new(Arc::clone(&store) as Arc<dyn Store>);
        let request = || samples::provision(WorkspaceId::generate());
        let organization = request().organization;
        let at = Timestamp::from_micros(1);
        for _ in 0..10 {
            store.provision(&request(), at).await.unwrap();
        }
        let total = 500;
        // quick ones, slow ones that fall behind the channel, and one that begins late
        let followers = (0..6).map(|n| {
            let pause = Duration::from_millis(if n < 3 { 0 } else { 400 });
            tokio::spawn(gather(feed.follow(organization, Cursors::default()), total, pause))
        });
        let mut followers: Vec<_> = followers.collect();
        for _ in 10..total {
            store.provision(&request(), at).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let late = feed.follow(organization, Cursors { revision: Revision(300), event: 300 });
        let (numbers, revisions) = gather(late, total - 300, Duration::ZERO).await;
        let all: Vec<i64> = (1..=i64::try_from(total).unwrap()).collect();
        assert_eq!((numbers.as_slice(), revisions.as_slice()), (&all[300..], &all[300..]));
        for follower in followers.drain(..) {
            let (numbers, revisions) = follower.await.unwrap();
            assert_eq!((&numbers, &revisions), (&all, &all));
        }
        // once nobody follows, nobody reads
        tokio::task::yield_now().await;
        assert!(feed.readers.lock().unwrap().values().all(|reader| reader.strong_count() == 0));
    }

    /// Of a store: the records and events of so many workspaces.
    async fn batch(workspaces: u32) -> Batch {
        let store = MemoryStore::default();
        for _ in 0..workspaces {
            store
                .provision(&samples::provision(WorkspaceId::generate()), Timestamp::from_micros(1))
                .await
                .unwrap();
        }
        read(&store, OrganizationId::SELF_HOSTED, Cursors::default()).await.unwrap()
    }

    #[tokio::test]
    async fn a_batch_leads_from_where_one_is_to_its_end() {
        let (three, empty) = (batch(3).await, Batch::default());
        let at = |revision, event| Cursors { revision: Revision(revision), event };
        assert_eq!((three.end(at(0, 0)), empty.end(at(4, 5))), (at(3, 3), at(4, 5)));
        let left = three.after(at(2, 1));
        assert_eq!(left.instances.iter().map(|one| one.view.revision.0).collect::<Vec<_>>(), [3]);
        assert_eq!(left.events.iter().map(|event| event.id).collect::<Vec<_>>(), [2, 3]);
        let (records, events) = (three.after(at(2, 3)), three.after(at(3, 2)));
        assert!(empty.is_empty() && three.after(at(3, 3)).is_empty());
        assert!(!three.is_empty() && !records.is_empty() && !events.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_tells_what_there_is_and_what_comes() {
        let store = Arc::new(MemoryStore::default());
        let provision = async || {
            let request = samples::provision(WorkspaceId::generate());
            store.provision(&request, Timestamp::from_micros(1)).await.unwrap()
        };
        provision().await;
        let (sender, mut receiver) = broadcast::channel(4);
        let (of, from) = (OrganizationId::SELF_HOSTED, Cursors::default());
        let reader = tokio::spawn(run(Arc::clone(&store) as Arc<dyn Store>, of, from, sender, LOOK_EVERY));
        for _ in 0..2 {
            let told = tokio::time::timeout(LOOK_EVERY / 2, receiver.recv()).await.expect("at once").unwrap();
            assert_eq!((told.instances.len(), told.events.len()), (1, 1));
            provision().await;
        }
        reader.abort();
    }

    #[tokio::test]
    async fn readers_that_nobody_needs_are_forgotten() {
        let feed = Feed::new(Arc::new(MemoryStore::default()) as Arc<dyn Store>);
        let [one, two, three] =
            [(); 3].map(|()| feed.subscribe(OrganizationId::generate(), Cursors::default()));
        let left = || feed.readers.lock().unwrap().len();
        assert_eq!(left(), 3);
        drop(two);
        let four = feed.subscribe(OrganizationId::generate(), Cursors::default());
        assert_eq!(left(), 3, "those that somebody holds stay");
        assert_eq!(format!("{feed:?}"), "Feed(..)");
        let follower = feed.follow(OrganizationId::SELF_HOSTED, Cursors { revision: Revision(7), event: 8 });
        assert!(format!("{follower:?}").contains("Revision(7)"), "{follower:?}");
        drop((one, three, four));
    }
}
