//! How a story is told: a pair under a clear sky, what is asked of it, and how it ends.

use std::sync::Arc;
use std::time::Duration;

use molecule_domain::error::{Error, StoredWish};
use molecule_domain::id::WorkspaceId;
use molecule_domain::lifecycle::WorkspaceState;
use molecule_provisioner::admission::Account;
use molecule_provisioner::model::InstanceRecord;
use molecule_provisioner::store::Store;
use molecule_sim::client::{Ask, Heard, Request};
use molecule_sim::faults::{Armed, Fault};
use molecule_sim::pair::{Pair, Shape};
use molecule_sim::world::World;
use molecule_workspace::record::WorkspaceRecord;
use molecule_workspace::store::TenantStore;

/// A pair under a clear sky.
pub(crate) struct Story {
    pub(crate) pair: Pair,
    requests: u64,
}

pub(crate) const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The first workspace of a story.
pub(crate) const W: WorkspaceId = Pair::workspace(1);

impl Story {
    /// Begins at the very start of all processes.
    pub(crate) async fn begin_at_once(shape: Shape) -> Self {
        Self::begin_under(1, shape).await
    }

    /// Begins under a seed, which says how long what is delayed takes.
    pub(crate) async fn begin_under(seed: u64, shape: Shape) -> Self {
        let world = Arc::new(World::new(seed, true, true));
        Self { pair: Pair::start(world, &shape).await, requests: 0 }
    }

    pub(crate) async fn begin(shape: Shape) -> Self {
        let story = Self::begin_at_once(shape).await;
        tokio::time::sleep(seconds(5)).await;
        story
    }

    /// Begins with a workspace that runs.
    pub(crate) async fn with_one_that_runs(shape: Shape) -> Self {
        let mut story = Self::begin(shape).await;
        story.accepted(Ask::Create).await;
        tokio::time::sleep(seconds(120)).await;
        assert_eq!(story.tenant(W).await.unwrap().state(), WorkspaceState::Running, "{}", story.words());
        story
    }

    pub(crate) fn words(&self) -> String {
        self.pair.world.story().words().to_owned()
    }

    pub(crate) fn request(&mut self, ask: Ask, workspace: WorkspaceId) -> Request {
        self.requests += 1;
        let number = self.requests;
        Request { ask, workspace, number, keyed: true, etag: false, patience: seconds(60), repeats: 0 }
    }

    pub(crate) async fn ask(&mut self, ask: Ask) -> Heard {
        let request = self.request(ask, W);
        self.pair.client(0).ask(request).await
    }

    pub(crate) async fn accepted(&mut self, ask: Ask) {
        let heard = self.ask(ask).await;
        assert!(matches!(heard, Heard::Accepted), "{ask:?}: {heard:?}\n{}", self.words());
    }

    /// Asks, and does not wait.
    pub(crate) fn ask_beside(&mut self, ask: Ask) -> tokio::task::JoinHandle<Heard> {
        let (client, request) = (self.pair.client(0), self.request(ask, W));
        tokio::spawn(async move { client.ask(request).await })
    }

    pub(crate) fn freeze(&self, lasts: Duration) {
        for place in 0..self.pair.control.places() {
            self.pair.control.replica(place).process.freeze(lasts);
        }
    }

    pub(crate) fn arm(&self, step: &'static str, fault: Fault) {
        self.pair.world.arm(Armed { step, skip: 0, fault });
    }

    pub(crate) async fn tenant(&self, workspace: WorkspaceId) -> Option<WorkspaceRecord> {
        let tenant = &self.pair.tenants[0];
        tenant.database().get(tenant.organization, workspace).await.unwrap()
    }

    pub(crate) async fn engine(&self, workspace: WorkspaceId) -> Option<InstanceRecord> {
        let organization = self.pair.tenants[0].organization;
        self.pair.control.database().get(organization, workspace).await.unwrap()
    }

    /// Lets half an hour pass, then everything must be as it was wished.
    pub(crate) async fn ends_well(self) -> Self {
        tokio::time::sleep(seconds(1800)).await;
        self.pair.check().await;
        let violations = self.pair.world.violations();
        assert!(violations.is_empty(), "{violations:#?}\n{}", self.words());
        self
    }

    pub(crate) async fn set_account(&self, change: impl FnOnce(Account) -> Account) {
        let (database, organization) = (self.pair.control.database(), self.pair.tenants[0].organization);
        let account = database.account(organization, self.pair.world.now()).await.unwrap();
        database.set_account(organization, change(account)).await.unwrap();
    }
}

pub(crate) fn goes_on(error: &Error) -> bool {
    matches!(error.stored, StoredWish::GoesOn(_))
}
