//! What an instance costs while its provider is stopping or removing it: few looks, and few transactions.

use std::time::Duration;

use molecule_domain::id::WorkspaceId;
use molecule_domain::lifecycle::Phase;

use crate::world::{Op, World};

/// The provider calls and the transactions of the engine's for one workspace until it is in a phase, with a sweep every 15
/// seconds beside it. A claim and its look come together.
async fn cost(world: &mut World, workspace: WorkspaceId, op: Op, phase: Phase) -> (usize, usize, usize) {
    world.ask(workspace, op).await;
    let (mut calls, mut transactions) = (0, 0);
    for second in 1..=600 {
        world.faults.arm(None);
        world.tick().await;
        let taken = world.faults.taken();
        calls += taken.iter().filter(|step| step.starts_with("backend.")).count();
        transactions += taken.iter().filter(|step| step.starts_with("commit.")).count();
        transactions += taken.iter().filter(|step| **step == "backend.find").count();
        let record = world.record(workspace).await.unwrap();
        if record.phase == phase && record.due_at.is_none() {
            return (second, calls, transactions);
        }
        if second % 15 == 0 {
            world.sweep().await;
        }
    }
    panic!("it did not become {phase}: {:?}", world.record(workspace).await);
}

#[tokio::test]
async fn a_slow_stop_is_looked_at_a_few_times() {
    let mut world = World::new();
    let workspace = WorkspaceId::generate();
    world.ask(workspace, Op::Create).await;
    world.settle().await;
    world.host.set_slow(Some(Duration::from_secs(90)));
    let (stopped, calls, transactions) = cost(&mut world, workspace, Op::Stop, Phase::Stopped).await;
    assert!(calls <= 10 && transactions <= 10, "{calls} calls, {transactions} transactions");
    assert!((90..=106).contains(&stopped), "it was seen after {stopped} s, a sweep later at the latest");
    let (gone, calls, transactions) = cost(&mut world, workspace, Op::Delete, Phase::Gone).await;
    assert!(calls <= 10 && transactions <= 10, "{calls} calls, {transactions} transactions");
    assert!((90..=106).contains(&gone), "it was seen after {gone} s");
}

#[tokio::test]
async fn a_replacement_waits_for_a_slow_provider_without_haste() {
    let mut world = World::new();
    let workspace = WorkspaceId::generate();
    world.ask(workspace, Op::Create).await;
    world.settle().await;
    world.host.set_slow(Some(Duration::from_secs(60)));
    let (up, calls, transactions) = cost(&mut world, workspace, Op::Restart, Phase::Up).await;
    assert!(calls <= 20 && transactions <= 25, "{calls} calls, {transactions} transactions");
    assert!((120..=155).contains(&up), "it was up after {up} s");
    assert_eq!(world.host.instances().len(), 1);
}

/// What is quick is seen quickly: the first look comes after a few seconds.
#[tokio::test]
async fn a_quick_stop_is_seen_before_the_sweep() {
    let mut world = World::new();
    let workspace = WorkspaceId::generate();
    world.ask(workspace, Op::Create).await;
    world.settle().await;
    world.host.set_slow(Some(Duration::from_secs(2)));
    let (stopped, ..) = cost(&mut world, workspace, Op::Stop, Phase::Stopped).await;
    assert!(stopped <= 5, "{stopped}");
}
