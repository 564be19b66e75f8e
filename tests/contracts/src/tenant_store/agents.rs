//! What every store does with what agents say, and with their silence.

use molecule_domain::id::{Generation, IntentNumber};
use molecule_domain::instance::InstanceView;
use molecule_domain::lifecycle::{AgentHealth, Phase, Reason};

use super::{ORG, RESTART, Subject, at, instance, token};
use molecule_workspace::agent::{Patience, Verdict};
use molecule_workspace::aggregate::Answer;
use molecule_workspace::store::{Redeemed, Redemption, Report};
use molecule_workspace::wish::Wish;

pub(super) async fn run<F: Future<Output = Subject>>(store: impl Fn() -> F) {
    a_token_is_redeemed_by_one_nonce(store().await).await;
    an_agent_is_judged_as_it_is_in_the_transaction(store().await).await;
    an_early_registration_stays(store().await).await;
    an_agent_that_is_heard_before_its_generation_stays(store().await).await;
}

async fn a_token_is_redeemed_by_one_nonce(store: Subject) {
    let workspace = store.created().await.workspace;
    let redeem = async |nonce: &str| {
        let redemption = Redemption { token_hash: token(workspace, 1).hash, nonce: nonce.to_owned() };
        store.0.redeem(&redemption, Box::new(|_, _| b"credential".to_vec())).await.unwrap()
    };
    let (granted, refused) =
        (Redeemed::Granted(workspace, Generation(1)), Redeemed::Refused(workspace, Generation(1)));
    assert_eq!(redeem("first").await, granted);
    assert_eq!(redeem("first").await, granted, "init crashed before it stored its credential");
    assert_eq!(redeem("second").await, refused);
    let known = store.0.authenticate(b"credential", at(2)).await.unwrap();
    assert_eq!(known, Some((workspace, Generation(1))));
    assert_eq!(redeem("first").await, refused, "the credential is in use");
    assert_eq!(store.0.authenticate(b"another", at(2)).await.unwrap(), None);
}

async fn an_agent_is_judged_as_it_is_in_the_transaction(store: Subject) {
    let limit = std::time::Duration::from_secs(60);
    let patience = |since| Patience { connect: limit, silence: limit, since: at(since) };
    let judge = async |workspace, patience: Patience, now| {
        store.0.judge_agent(ORG, workspace, &patience, at(now)).await.unwrap()
    };
    let up = store.up().await;
    let workspace = up.workspace;
    assert_eq!(judge(workspace, patience(0), 62).await, Verdict::Fine);
    assert_eq!(judge(workspace, patience(100), 150).await, Verdict::Fine, "nobody was there to be called");
    let report = |health| -> Report<'static> { Box::new(move |agent| agent.health = health) };
    let told = store.0.agent_reported(ORG, workspace, Generation(1), at(100), report(AgentHealth::Healthy));
    assert!(told.await.unwrap().is_some());
    assert_eq!(judge(workspace, patience(0), 160).await, Verdict::Fine);
    assert_eq!(judge(workspace, patience(0), 161).await, Verdict::Silent);
    let now = store.0.get(ORG, workspace).await.unwrap().unwrap();
    assert_eq!((now.agent.health, now.agent.last_seen), (AgentHealth::Silent, Some(at(100))));
    assert_eq!(judge(workspace, patience(0), 162).await, Verdict::Fine, "it is told once");

    // a restart that was just asked for is not cancelled by a judgement on the old generation
    let workspace = store.up().await.workspace;
    store.asks(workspace, RESTART).await;
    assert_eq!(judge(workspace, patience(0), 500).await, Verdict::Fine);
    let number = store.begins(workspace).await.unwrap().number;
    let old = InstanceView { generation: Generation(1), ..instance(&up, number, Phase::Up, 3) };
    let answer = Answer::Granted(InstanceView { workspace, ..old });
    store.0.answered(workspace, number, &answer, at(4)).await.unwrap();
    assert_eq!(judge(workspace, patience(0), 500).await, Verdict::Fine);

    let workspace = store.up().await.workspace;
    assert_eq!(judge(workspace, patience(0), 63).await, Verdict::NeverConnected);
    assert!(matches!(store.outbox(workspace).await[..], [Wish::Stop(Some((Reason::AgentNotConnected, _)))]));
}

async fn an_early_registration_stays(store: Subject) {
    let created = store.created().await;
    let workspace = created.workspace;
    store.begins(workspace).await.unwrap();
    let answer = Answer::Granted(instance(&created, IntentNumber(1), Phase::Admitted, 1));
    store.0.answered(workspace, IntentNumber(1), &answer, at(1)).await.unwrap();
    let becomes = async |revision, phase| {
        let view = instance(&created, IntentNumber(1), phase, revision);
        store.0.mirror(ORG, &[view], &[], at(revision)).await.unwrap();
        store.0.get(ORG, workspace).await.unwrap().unwrap().agent.health
    };
    assert_eq!(becomes(2, Phase::Launching).await, AgentHealth::NotConnected);
    let report: Report<'_> = Box::new(|agent| agent.health = AgentHealth::Healthy);
    let told = store.0.agent_reported(ORG, workspace, Generation(1), at(3), report).await.unwrap();
    assert!(told.is_some());
    assert_eq!(becomes(4, Phase::Booting).await, AgentHealth::Healthy);
    assert_eq!(becomes(5, Phase::Up).await, AgentHealth::Healthy);
    assert_eq!(becomes(6, Phase::Launching).await, AgentHealth::NotConnected, "it ended and starts again");
    let report: Report<'_> = Box::new(|_| {});
    let other = store.0.agent_reported(ORG, workspace, Generation(2), at(7), report).await.unwrap();
    assert_eq!(other, None, "a generation that is not there says nothing");
}

/// The tenant's clock is behind the provider's, and what the provider says comes late: the agent of the new generation is
/// heard first.
async fn an_agent_that_is_heard_before_its_generation_stays(store: Subject) {
    let up = store.up().await;
    let workspace = up.workspace;
    store.asks(workspace, RESTART).await;
    let number = store.begins(workspace).await.unwrap().number;
    let becomes = async |revision, generation, phase| {
        let view = InstanceView {
            generation: Generation(generation),
            wanted_generation: Generation(2),
            ..instance(&up, number, phase, revision)
        };
        store.0.mirror(ORG, &[view], &[], at(3)).await.unwrap();
        store.0.get(ORG, workspace).await.unwrap().unwrap().agent.health
    };
    assert_eq!(becomes(10, 1, Phase::Stopping).await, AgentHealth::NotConnected);
    let report: Report<'_> = Box::new(|agent| agent.health = AgentHealth::Healthy);
    let told = store.0.agent_reported(ORG, workspace, Generation(2), at(3), report).await.unwrap();
    assert!(told.is_some());
    assert_eq!(becomes(11, 1, Phase::Stopped).await, AgentHealth::Healthy, "another generation ended");
    let report: Report<'_> = Box::new(|_| {});
    let told = store.0.agent_reported(ORG, workspace, Generation(2), at(3), report).await.unwrap();
    assert!(told.is_some(), "and says nothing of this one");
    assert_eq!(becomes(12, 2, Phase::Admitted).await, AgentHealth::Healthy);
    assert_eq!(becomes(13, 2, Phase::Launching).await, AgentHealth::Healthy);
    assert_eq!(becomes(14, 2, Phase::Up).await, AgentHealth::Healthy);
    assert_eq!(becomes(15, 2, Phase::Stopping).await, AgentHealth::NotConnected);
}
