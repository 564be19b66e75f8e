//! How instances are launched, stopped and replaced.

use std::time::Duration;

use molecule_domain::id::Generation;
use molecule_domain::lifecycle::{Phase, WorkspaceState};
use molecule_sim::client::{Ask, Heard};
use molecule_sim::cloud::Flavour;
use molecule_sim::faults::Fault;
use molecule_sim::life::in_a_world;
use molecule_sim::pair::{Pair, Shape};
use molecule_sim::weather::Weather;

use crate::story::{Story, W, seconds};

/// B1. Before: the launch took the new generation's token for the old one's, which did not open it: FAILED, with advice
/// about a key.
#[test]
fn b1_a_restart_that_comes_before_a_launch_begins() {
    // in some of these worlds the lease outlasts the delay
    (1..=8).for_each(|seed| in_a_world(restarts_before_a_launch_begins(seed)));
}

async fn restarts_before_a_launch_begins(seed: u64) {
    let mut story = Story::begin_under(seed, Shape::small()).await;
    tokio::time::sleep(seconds(5)).await;
    story.arm("store.begin_launch", Fault::Delay);
    story.accepted(Ask::Create).await;
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(story.engine(W).await.unwrap().phase, Phase::Admitted, "{}", story.words());
    story.accepted(Ask::Restart).await;
    let story = story.ends_well().await;
    let tenant = story.tenant(W).await.unwrap();
    assert_eq!((tenant.state(), tenant.generation), (WorkspaceState::Running, Generation(2)));
    assert!(!story.words().contains("FAILED"), "{}", story.words());
}

/// B2. Before: FAILED for good, counted and billed, with a lease that ran out again and again.
#[test]
fn b2_what_has_failed_while_it_was_being_replaced_ends() {
    in_a_world(async {
        let mut story = Story::begin(Shape::small()).await;
        story.pair.cloud.set_weather(Weather::Away, None, seconds(3600));
        story.accepted(Ask::Create).await;
        tokio::time::sleep(seconds(10)).await;
        story.accepted(Ask::Restart).await;
        tokio::time::sleep(seconds(7200)).await;
        let engine = story.engine(W).await.unwrap();
        assert_eq!(engine.phase, Phase::Failed, "{}", story.words());
        assert!(!engine.is_being_replaced() && !engine.running_counted, "{engine:?}");
        story.accepted(Ask::Restart).await;
        let story = story.ends_well().await;
        assert_eq!(story.tenant(W).await.unwrap().state(), WorkspaceState::Running);
    });
}

/// B4. Before: of two machines of one launch one was invisible, and ran on for good.
#[test]
fn b4_a_launch_that_made_two_machines_comes_to_one() {
    in_a_world(async {
        let mut story = Story::begin(Shape { flavour: Flavour::Machines, ..Shape::small() }).await;
        story.pair.cloud.set_weather(Weather::Doubles, None, seconds(60));
        story.arm("backend.launch", Fault::Repeat);
        story.accepted(Ask::Create).await;
        let mut most = 0;
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            most = most.max(story.pair.cloud.machines().len());
        }
        assert_eq!(most, 2, "{}", story.words());
        let story = story.ends_well().await;
        assert_eq!(story.pair.cloud.machines().len(), 1, "{}", story.words());
        assert_eq!(story.tenant(W).await.unwrap().state(), WorkspaceState::Running);
    });
}

/// Before: its bootstrap token was erased once its launch was confirmed, so nothing that took its place could connect.
#[test]
fn what_is_lost_before_its_agent_has_connected_comes_up_again() {
    in_a_world(async {
        let mut story = Story::begin(Shape::small()).await;
        story.accepted(Ask::Create).await;
        for _ in 0..600 {
            if story.engine(W).await.unwrap().phase == Phase::Booting {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(story.pair.cloud.vanish(W), "{}", story.words());
        let story = story.ends_well().await;
        assert_eq!(story.tenant(W).await.unwrap().state(), WorkspaceState::Running, "{}", story.words());
        assert_eq!(story.engine(W).await.unwrap().generation, Generation(1));
    });
}

/// B6 and B11. Before: launches that waited took every slot, so that a stop had to wait for all of them; and under load each
/// record was looked at by a call of its own.
#[test]
fn b6_a_stop_does_not_wait_for_launches_and_looks_are_shared() {
    in_a_world(async {
        let mut story =
            Story::with_one_that_runs(Shape { flavour: Flavour::Machines, ..Shape::small() }).await;
        let pair = story.pair.clone();
        let looks = || pair.world.coverage().steps.of("backend.find");
        let before = looks();
        for number in 2..=61 {
            let request = story.request(Ask::Create, Pair::workspace(number));
            assert!(matches!(pair.client(0).ask(request).await, Heard::Accepted));
        }
        story.accepted(Ask::Stop).await;
        tokio::time::sleep(seconds(30)).await;
        let engine = story.engine(W).await.unwrap();
        assert_eq!(engine.phase, Phase::Stopped, "{}", story.words());
        let story = story.ends_well().await;
        assert_eq!(story.pair.cloud.machines().iter().filter(|one| one.is_running()).count(), 60);
        let looks = looks() - before;
        assert!(looks < 120, "{looks} looks for 60 workspaces");
    });
}

/// X. Before: STOPPED might not become UP, so it ran on unbilled, and nothing that was decided about it was stored.
#[test]
fn x_a_start_that_is_asked_for_twice_comes_up() {
    in_a_world(async {
        let mut story = Story::with_one_that_runs(Shape::small()).await;
        story.accepted(Ask::Stop).await;
        tokio::time::sleep(seconds(300)).await;
        assert_eq!(story.engine(W).await.unwrap().phase, Phase::Stopped, "{}", story.words());
        story.arm("commit.starting", Fault::Delay);
        story.accepted(Ask::Start).await;
        tokio::time::sleep(seconds(1)).await;
        story.accepted(Ask::Start).await;
        let story = story.ends_well().await;
        assert_eq!(story.tenant(W).await.unwrap().state(), WorkspaceState::Running);
        assert!(story.engine(W).await.unwrap().up_since.is_some(), "and is billed");
    });
}
