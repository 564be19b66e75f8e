//! Whom agents are heard by, and who is judged.

use std::sync::Arc;
use std::time::Duration;

use molecule_domain::id::Generation;
use molecule_domain::lifecycle::{AgentHealth, Desired, Phase, WorkspaceState};
use molecule_sim::client::{Ask, Heard};
use molecule_sim::faults::Fault;
use molecule_sim::life::in_a_world;
use molecule_sim::pair::Shape;

use crate::story::{Story, W, seconds};

/// Before: the agent was unknown to the database that was put back, and five minutes later its workspace was stopped for
/// that, since the control plane was away and the two had not agreed.
#[test]
fn nobody_is_judged_before_the_two_have_agreed() {
    in_a_world(async {
        let mut story = Story::begin(Shape::small()).await;
        story.accepted(Ask::Create).await;
        while story.tenant(W).await.unwrap().phase != Phase::Up {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let tenant = Arc::clone(&story.pair.tenants[0]);
        let backup = tenant.database().data();
        tokio::time::sleep(seconds(120)).await;
        assert_eq!(story.tenant(W).await.unwrap().state(), WorkspaceState::Running, "{}", story.words());
        story.pair.restore_tenant(0, backup).await;
        tenant.network.cut(seconds(900));
        tokio::time::sleep(seconds(1800)).await;
        let record = story.tenant(W).await.unwrap();
        assert_eq!(record.state(), WorkspaceState::Running, "{}", story.words());
        assert!(record.is_recovered() && record.desired == Desired::Running, "{record:?}");
        assert_eq!(story.engine(W).await.unwrap().intent, record.intent);
    });
}

/// Before: the agent counted as silent for as long as the process was frozen, and its workspace was stopped for that.
#[test]
fn an_agent_that_a_frozen_tenant_could_not_hear_is_waited_for() {
    in_a_world(async {
        let mut story = Story::begin(Shape::small()).await;
        let pair = story.pair.clone();
        pair.agents.silence(W, seconds(120));
        story.accepted(Ask::Create).await;
        tokio::time::sleep(seconds(60)).await;
        let found = story.tenant(W).await.unwrap();
        assert_eq!((found.phase, found.agent.last_seen), (Phase::Up, None), "{}", story.words());
        assert!(pair.tenants[0].last_process().unwrap().freeze(seconds(1200)));
        tokio::time::sleep(seconds(1300)).await;
        assert_eq!(story.tenant(W).await.unwrap().state(), WorkspaceState::Running, "{}", story.words());
        let story = story.ends_well().await;
        let found = story.tenant(W).await.unwrap();
        assert_eq!((found.state(), found.generation), (WorkspaceState::Running, Generation(1)));
    });
}

/// Before: the agent of what ran was refused for as long as a replacement waited, and was missed once that was refused.
#[test]
fn an_agent_is_heard_while_a_replacement_waits() {
    in_a_world(async {
        let mut story = Story::begin(Shape::small()).await;
        let pair = story.pair.clone();
        pair.agents.silence(W, seconds(120));
        story.accepted(Ask::Create).await;
        tokio::time::sleep(seconds(60)).await;
        story.arm("call.replace", Fault::RequestLost);
        story.arm("call.replace", Fault::Refused);
        let restart = story.ask_beside(Ask::Restart);
        tokio::time::sleep(seconds(1)).await;
        pair.tenants[0].network.cut(seconds(600));
        tokio::time::sleep(seconds(200)).await;
        let found = story.tenant(W).await.unwrap();
        assert!(found.pending.is_some() && found.generation == Generation(2), "{}", story.words());
        assert_eq!(found.agent.health, AgentHealth::Healthy, "{}", story.words());
        assert!(matches!(restart.await.unwrap(), Heard::Accepted), "{}", story.words());
        tokio::time::sleep(seconds(600)).await;
        let found = story.tenant(W).await.unwrap();
        assert_eq!((found.state(), found.generation), (WorkspaceState::Running, Generation(1)));
        story.ends_well().await;
    });
}
