//! What watchers get while others write.

use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use async_trait::async_trait;
use molecule_domain::Timestamp;
use molecule_domain::id::{Revision, WorkspaceId};
use molecule_provisioner::faults::{Fault, Probe};
use molecule_provisioner::samples;
use molecule_provisioner::store::Store;
use molecule_provisioner::store::memory::MemoryStore;
use molecule_provisioner::watch::{Cursors, Feed, Follower};

use crate::world::ORG;

/// Creates a workspace right after a read of events, where a watcher is given, and goes on once another watcher has been told of it.
#[derive(Default)]
struct CreatesAfterARead {
    store: OnceLock<Weak<MemoryStore>>,
    other: Mutex<Option<Follower>>,
    told: Mutex<Option<Follower>>,
}

impl CreatesAfterARead {
    fn store(&self) -> Arc<MemoryStore> {
        self.store.get().and_then(Weak::upgrade).expect("the store that is probed")
    }
}

#[async_trait]
impl Probe for CreatesAfterARead {
    async fn before(&self, _step: &'static str) -> Option<Fault> {
        None
    }

    async fn after(&self, _step: &'static str) {
        let other = self.other.lock().unwrap().take();
        if let Some(mut other) = other {
            self.store()
                .provision(&samples::provision(WorkspaceId::generate()), Timestamp::from_micros(2))
                .await
                .unwrap();
            other.next().await.unwrap();
            // it goes on, and the shared reader with it
            *self.told.lock().unwrap() = Some(other);
        }
    }
}

/// The reader that all watchers of an organisation share has told it before the second of them began to listen.
#[tokio::test(start_paused = true)]
async fn what_comes_between_a_read_and_a_subscription_is_not_missed() {
    let probe = Arc::new(CreatesAfterARead::default());
    let store = Arc::new(MemoryStore::probed(Arc::clone(&probe) as Arc<dyn Probe>));
    probe.store.set(Arc::downgrade(&store)).unwrap();
    let feed = Feed::new(Arc::clone(&store) as Arc<dyn Store>);
    let created = store
        .provision(&samples::provision(WorkspaceId::generate()), Timestamp::from_micros(1))
        .await
        .unwrap();
    let mut first = feed.follow(ORG, Cursors::default());
    let told = first.next().await.unwrap();
    let at = Cursors { revision: created.revision, event: told.events[0].id };
    // it waits for what comes, by the shared reader
    assert!(tokio::time::timeout(Duration::from_millis(1), first.next()).await.is_err());
    *probe.other.lock().unwrap() = Some(first);
    let mut second = feed.follow(ORG, at);
    let told =
        tokio::time::timeout(Duration::from_secs(60), second.next()).await.expect("it is told").unwrap();
    let revisions: Vec<_> = told.instances.iter().map(|one| one.view.revision).collect();
    assert_eq!(revisions, [Revision(created.revision.0 + 1)]);
}
