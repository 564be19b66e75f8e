//! A launch that had to wait for its turn begins only under a lease that outlasts its call.

use std::sync::Arc;
use std::time::Duration;

use molecule_domain::Clock;
use molecule_domain::clock::ManualClock;
use molecule_domain::id::{LeaseOwner, WorkspaceId};
use molecule_domain::lifecycle::Phase;
use molecule_provisioner::faults::{Fault, Probe, Steps};
use molecule_provisioner::store::{Room, Store};

use crate::answers::Answers;
use crate::world::{Op, World};

#[tokio::test]
async fn a_launch_that_waited_for_too_long_is_claimed_anew() {
    let mut world = World::new();
    let workspace = WorkspaceId::generate();
    world.ask(workspace, Op::Create).await;
    let (owner, lease) = (LeaseOwner::generate(), world.executor.policy.lease);
    let claimed =
        world.store.claim("memory", owner, world.clock.now(), lease, Room::of_each(10)).await.unwrap();
    let snapshot = world.executor.look_at(&[claimed[0].record.instance()]).await;
    world.clock.advance(lease.saturating_sub(world.executor.policy.launch_call) + Duration::from_secs(1));
    world.executor.work(&claimed[0], &snapshot).await;
    let record = world.record(workspace).await.unwrap();
    assert_eq!((record.phase, record.attempt, record.failures), (Phase::Admitted, None, 0));
    assert_eq!(record.due_at, Some(world.clock.now()), "it is due at once");
    assert!(world.host.instances().is_empty());
    world.settle().await;
    assert_eq!(world.record(workspace).await.unwrap().phase, Phase::Up);
}

/// What is stored says until when the call may take effect: an absence that is seen later counts.
#[tokio::test(start_paused = true)]
async fn a_launch_ends_when_its_record_says_however_long_that_took_to_store() {
    let mut world = World::new();
    let answers = Answers::of(Arc::clone(&world.executor.backend));
    answers.next.lock().unwrap().launches_hang = true;
    world.executor.backend = Arc::new(answers);
    let (takes, launch_call) = (Duration::from_secs(50), world.executor.policy.launch_call);
    world.executor.steps = Steps::probed(Arc::new(StoredSlowly(world.clock.clone(), takes)));
    let workspace = WorkspaceId::generate();
    world.ask(workspace, Op::Create).await;
    let began = (tokio::time::Instant::now(), world.clock.now());
    world.tick().await;
    assert_eq!(Some(began.0.elapsed()), launch_call.checked_sub(takes));
    let attempt = world.record(workspace).await.unwrap().attempt.unwrap();
    assert_eq!(attempt.call_until.since(began.1), launch_call + Duration::from_secs(1), "a tick is a second");
}

/// To store that a launch begins takes so long.
struct StoredSlowly(Arc<ManualClock>, Duration);

#[async_trait::async_trait]
impl Probe for StoredSlowly {
    async fn before(&self, step: &'static str) -> Option<Fault> {
        if step == "store.begin_launch" {
            self.0.advance(self.1);
        }
        None
    }
}

/// A call that its lease does not outlive might come after the next holder's.
#[tokio::test]
async fn no_call_is_made_that_may_outlive_its_lease() {
    let mut world = World::new();
    let workspace = WorkspaceId::generate();
    world.ask(workspace, Op::Create).await;
    world.settle().await;
    world.executor.policy.stop_deadline = Duration::from_secs(3_600);
    let (policy, owner) = (world.executor.policy.clone(), LeaseOwner::generate());
    let stop = policy.stop_grace + policy.other_call;
    for (left, stopped) in [(stop, false), (stop + Duration::from_secs(1), true)] {
        world.ask(workspace, Op::Stop).await;
        world.store.wake(&[workspace], world.clock.now()).await.unwrap();
        let now = world.clock.now();
        let claimed = world.store.claim("memory", owner, now, policy.lease, Room::of_each(1)).await.unwrap();
        let snapshot = world.executor.look_at(&[claimed[0].record.instance()]).await;
        world.clock.advance(policy.lease.saturating_sub(left));
        world.faults.arm(None);
        world.executor.work(&claimed[0], &snapshot).await;
        assert_eq!(world.faults.taken().contains(&"backend.stop"), stopped, "{left:?} were left");
        world.clock.advance(policy.lease);
    }
    world.settle().await;
    assert_eq!(world.record(workspace).await.unwrap().phase, Phase::Stopped);
}
