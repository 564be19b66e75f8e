//! What a sweep does while its provider is slow, and when another engine has taken its role.

use std::sync::Arc;
use std::time::Duration;

use molecule_domain::clock::ManualClock;
use molecule_domain::id::{LaunchSeq, LeaseOwner, WorkspaceId};
use molecule_domain::lifecycle::{Phase, Reason};
use molecule_domain::{Clock, Timestamp};
use molecule_provisioner::backend::Backend;
use molecule_provisioner::faults::{Fault, Probe, Steps};
use molecule_provisioner::reconciler::comparison::Comparison;
use molecule_provisioner::reconciler::orphans;
use molecule_provisioner::reconciler::sweeper::Sweeper;
use molecule_provisioner::samples;
use molecule_provisioner::store::memory::MemoryStore;
use molecule_provisioner::store::{Alarm, Room, Store};

use crate::world::{Op, World};

/// A step takes so long, and another engine asks for the role right after it has begun.
struct Slow {
    step: &'static str,
    takes: Duration,
    rival: Option<LeaseOwner>,
    clock: Arc<ManualClock>,
    store: Arc<MemoryStore>,
}

#[async_trait::async_trait]
impl Probe for Slow {
    async fn before(&self, step: &'static str) -> Option<Fault> {
        if step == self.step {
            self.clock.advance(self.takes);
            if let Some(rival) = self.rival {
                let now = self.clock.now();
                let led = self.store.lead("sweep/memory", rival, now, now + Duration::from_secs(600)).await;
                assert!(led.unwrap(), "the role was kept for longer than the call took");
            }
        }
        None
    }
}

/// A world with orphans past their grace, so many that a pass may remove `tenth` of them.
async fn with_orphans(tenth: usize) -> World {
    let world = World::new();
    for n in 1..=tenth * 10 {
        let workspace = WorkspaceId::generate();
        let seq = LaunchSeq(i64::try_from(n).unwrap());
        world.executor.backend.launch(&samples::launch(workspace, seq)).await.unwrap();
        // known to the store, as after its record was dropped
        world.store.end_alarm("memory", &[(seq, workspace)], world.clock.now()).await.unwrap();
    }
    world.clock.advance(Duration::from_secs(3_600));
    world
}

fn slow(world: &mut World, step: &'static str, takes: u64, rival: Option<LeaseOwner>) {
    let (clock, store) = (world.clock.clone(), world.store.clone());
    let takes = Duration::from_secs(takes);
    world.executor.steps = Steps::probed(Arc::new(Slow { step, takes, rival, clock, store }));
}

#[tokio::test]
async fn who_has_lost_the_role_removes_nothing() {
    let mut world = with_orphans(3).await;
    slow(&mut world, "backend.list_resources", 200, Some(LeaseOwner::generate()));
    let mut sweeper = Sweeper::default();
    let found = sweeper.pass(&world.executor).await.unwrap();
    assert!(!found.instances.is_empty(), "{found:?}");
    assert_eq!(world.host.instances().len(), 30, "nothing is removed");
    world.executor.steps = Steps::default();
    assert_eq!(sweeper.pass(&world.executor).await.unwrap().instances, [], "and nothing is looked at");
}

#[tokio::test]
async fn a_slow_removal_does_not_hold_up_the_next_pass() {
    let mut world = with_orphans(5).await;
    let mut sweeper = Sweeper::default();
    slow(&mut world, "sweep.remove", 20, None);
    sweeper.pass(&world.executor).await.unwrap();
    assert_eq!(world.host.instances().len(), 49, "one took longer than a pass may");
    slow(&mut world, "sweep.remove", 1, None);
    let budget = sweeper.pass(&world.executor).await.unwrap().instances.len();
    assert_eq!(world.host.instances().len(), 49 - budget);
}

#[tokio::test]
async fn removals_go_on_until_the_next_pass_is_due() {
    for (takes, left) in [(15, 48), (16, 49)] {
        let mut world = with_orphans(5).await;
        slow(&mut world, "sweep.remove", takes, None);
        Sweeper::default().pass(&world.executor).await.unwrap();
        assert_eq!(world.host.instances().len(), left, "each takes {takes} seconds");
    }
}

/// One that can't be removed does not take the turn of the others for good.
#[tokio::test]
async fn what_cannot_be_removed_holds_up_nobody() {
    let world = with_orphans(1).await;
    let stuck = world.host.instances().into_iter().map(|one| one.instance).min().unwrap();
    world.host.stick(stuck);
    let mut sweeper = Sweeper::default();
    for _ in 0..12 {
        sweeper.pass(&world.executor).await.unwrap();
    }
    let left: Vec<_> = world.host.instances().into_iter().map(|one| one.instance).collect();
    assert_eq!(left, [stuck]);
}

/// Creates workspaces while a sweep removes something.
struct Creates(Arc<MemoryStore>, Vec<WorkspaceId>);

#[async_trait::async_trait]
impl Probe for Creates {
    async fn before(&self, step: &'static str) -> Option<Fault> {
        if step == "sweep.remove" {
            for workspace in &self.1 {
                // a second time it is there
                let _ = self.0.provision(&samples::provision(*workspace), Timestamp::from_micros(1)).await;
            }
        }
        None
    }
}

/// A tenant that tells a restored control plane of a workspace again, say.
#[tokio::test]
async fn volumes_of_a_workspace_that_was_created_meanwhile_stay() {
    let mut world = with_orphans(1).await;
    let mut sweeper = Sweeper::default();
    while world.host.instances().len() > 1 {
        sweeper.pass(&world.executor).await.unwrap();
    }
    world.clock.advance(Duration::from_secs(3_600));
    let owners: Vec<_> = world.host.volume_owners().into_iter().collect();
    world.executor.steps = Steps::probed(Arc::new(Creates(world.store.clone(), owners.clone())));
    let found = sweeper.pass(&world.executor).await.unwrap();
    assert!(!found.instances.is_empty() && !found.resources.is_empty(), "{found:?}");
    assert_eq!(world.host.volume_owners().into_iter().collect::<Vec<_>>(), owners);
}

/// The same where an operator removes what was listed.
#[tokio::test]
async fn by_hand_nothing_of_a_workspace_that_was_created_meanwhile_is_removed() {
    let world = with_orphans(1).await;
    let listed = orphans::list(&world.executor).await.unwrap().unwrap();
    let owners = world.host.volume_owners();
    for workspace in &owners {
        world.store.provision(&samples::provision(*workspace), world.clock.now()).await.unwrap();
    }
    orphans::remove(&world.executor, &listed).await;
    assert_eq!((listed.workspaces.len(), world.host.volume_owners()), (10, owners));
}

#[tokio::test]
async fn what_has_ended_is_seen_although_volumes_are_not_listed() {
    let mut world = World::new();
    let workspace = WorkspaceId::generate();
    world.ask(workspace, Op::Create).await;
    world.settle().await;
    world.ask(workspace, Op::Crash).await;
    // the second step of a sweep, after the list of instances
    world.faults.arm(Some((1, Fault::FailBefore)));
    world.sweep().await;
    assert_eq!(world.faults.taken(), ["backend.list", "backend.list_resources"]);
    assert!(world.record(workspace).await.unwrap().due_at.is_some(), "it is looked at");
}

/// One instance has ended, and another is of a launch that the store does not know. Where volumes are not listed, all but what
/// no record explains is told.
#[tokio::test]
async fn a_pass_tells_what_it_has_found() {
    for (fault, unexplained) in [(None, 3), (Some((1, Fault::FailBefore)), 0)] {
        let mut world = World::new();
        let workspace = WorkspaceId::generate();
        world.ask(workspace, Op::Create).await;
        world.settle().await;
        world.ask(workspace, Op::Crash).await;
        let stray = samples::launch(WorkspaceId::generate(), LaunchSeq(7));
        world.executor.backend.launch(&stray).await.unwrap();
        world.faults.arm(fault);
        let found = Sweeper::default().pass(&world.executor).await.unwrap();
        let expected = Comparison { wake: vec![workspace], unexplained, unknown: 1, ..Comparison::default() };
        assert_eq!(found, expected, "{fault:?}");
    }
}

/// Launches a workspace just before the provider is asked for its list.
struct Launches {
    workspace: WorkspaceId,
    backend: Arc<dyn Backend>,
    store: Arc<MemoryStore>,
    clock: Arc<ManualClock>,
}

#[async_trait::async_trait]
impl Probe for Launches {
    async fn before(&self, step: &'static str) -> Option<Fault> {
        if step == "backend.list" {
            let (now, lease) = (self.clock.now(), Duration::from_secs(60));
            self.store.provision(&samples::provision(self.workspace), now).await.unwrap();
            let owner = LeaseOwner::generate();
            let claimed = self.store.claim("memory", owner, now, lease, Room::of_each(1)).await.unwrap();
            let (lease, wanted) = (&claimed[0].lease, claimed[0].record.wanted());
            let launched = self.store.begin_launch(lease, wanted, "", now, lease.until).await.unwrap();
            let seq = launched.live_attempt().unwrap().seq;
            self.backend.launch(&samples::launch(self.workspace, seq)).await.unwrap();
        }
        None
    }
}

#[tokio::test]
async fn what_is_launched_as_the_sweep_begins_is_explained() {
    let mut world = World::new();
    let workspace = WorkspaceId::generate();
    let (backend, store) = (Arc::clone(&world.executor.backend), world.store.clone());
    let launches = Launches { workspace, backend, store, clock: world.clock.clone() };
    world.executor.steps = Steps::probed(Arc::new(launches));
    let found = Sweeper::default().pass(&world.executor).await.unwrap();
    assert_eq!((world.host.instances().len(), found.unexplained), (1, 0), "{found:?}");
}

#[tokio::test]
async fn an_unknown_launch_raises_the_alarm_although_volumes_are_not_listed() {
    let mut world = World::new();
    let launch = samples::launch(WorkspaceId::generate(), LaunchSeq(7));
    world.executor.backend.launch(&launch).await.unwrap();
    world.clock.advance(Duration::from_secs(3_600));
    world.faults.arm(Some((1, Fault::FailBefore)));
    world.sweep().await;
    assert_eq!(world.faults.taken(), ["backend.list", "backend.list_resources"], "and nothing is removed");
    assert_eq!(world.store.alarms().await.unwrap().len(), 1);
}

/// An alarm says that the store is of an earlier time, so nothing is removed while it stands: also not what the store knows, as what
/// it knows of the workspace may be behind. What that is in the way of says whom it waits for.
#[tokio::test]
async fn what_is_in_the_way_stays_while_an_alarm_stands_and_says_so() {
    for (op, waits, ends) in
        [(Op::Delete, Phase::Up, Phase::Gone), (Op::Restart, Phase::Failed, Phase::Failed)]
    {
        let mut world = World::new();
        let workspace = WorkspaceId::generate();
        world.ask(workspace, Op::Create).await;
        world.settle().await;
        world.ask(workspace, Op::Vanish).await;
        let stray = LaunchSeq(1);
        world.executor.backend.launch(&samples::launch(workspace, stray)).await.unwrap();
        world.store.end_alarm("memory", &[(stray, workspace)], world.clock.now()).await.unwrap();
        let alarm = Alarm {
            backend: "memory".to_owned(),
            raised_at: world.clock.now(),
            message: "a launch of another workspace is not known".to_owned(),
        };
        world.store.raise_alarm(&alarm).await.unwrap();
        world.ask(workspace, op).await;
        let pass = async |world: &mut World| {
            for second in 0..30 * 60 {
                world.tick().await;
                if second % 15 == 0 {
                    world.sweep().await;
                }
            }
            world.record(workspace).await.unwrap()
        };
        let record = pass(&mut world).await;
        assert_eq!((record.phase, record.reason), (waits, Some(Reason::NameTaken)), "{op:?}");
        assert!(record.message.contains("waits for an operator to end the alarm"), "{}", record.message);
        assert_eq!(world.host.instances().len(), 1, "{op:?}: nothing is removed");
        world.store.end_alarm("memory", &[], world.clock.now()).await.unwrap();
        assert_eq!(pass(&mut world).await.phase, ends, "{op:?}");
        assert_eq!(world.host.instances().len(), 0, "{op:?}: the sweep has removed it");
    }
}
