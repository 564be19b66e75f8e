//! Wishes are told in their order, each by itself, until they are answered.

use std::sync::Arc;
use std::time::Duration;

use molecule_domain::error::ErrorReason;
use molecule_domain::id::Generation;
use molecule_domain::lifecycle::{Desired, Phase, WorkspaceState};
use molecule_domain::limits::Limits;
use molecule_provisioner::admission::Account;
use molecule_sim::client::{Ask, Heard, Request};
use molecule_sim::faults::Fault;
use molecule_sim::life::in_a_world;
use molecule_sim::pair::{Pair, Shape};

use crate::story::{Story, W, seconds};

/// Before: the tenant wanted generation 4 and the control plane had 3; STOPPING for good, and every later restart was
/// refused.
#[test]
fn a_restart_that_nobody_heard_is_followed_by_a_stop() {
    in_a_world(async {
        let mut story = Story::with_one_that_runs(Shape::small()).await;
        story.freeze(seconds(90));
        story.accepted(Ask::Restart).await;
        story.accepted(Ask::Stop).await;
        tokio::time::sleep(seconds(300)).await;
        let (tenant, engine) = (story.tenant(W).await.unwrap(), story.engine(W).await.unwrap());
        assert_eq!(tenant.state(), WorkspaceState::Stopped, "{}", story.words());
        assert_eq!(tenant.generation, engine.wanted_generation);
        story.accepted(Ask::Restart).await;
        let story = story.ends_well().await;
        assert_eq!(story.tenant(W).await.unwrap().state(), WorkspaceState::Running);
    });
}

/// What is asked for at once is told by many calls beside each other, and by no more than so many.
#[test]
fn sixteen_calls_are_out_at_a_time() {
    in_a_world(async {
        let mut story = Story::begin(Shape::small()).await;
        let asked = (1..=40).map(|number| {
            let (client, request) =
                (story.pair.client(0), story.request(Ask::Create, Pair::workspace(number)));
            tokio::spawn(async move { client.ask(request).await })
        });
        for heard in asked.collect::<Vec<_>>() {
            let heard = heard.await.unwrap();
            assert!(matches!(heard, Heard::Accepted), "{heard:?}");
        }
        let story = story.ends_well().await;
        assert_eq!(story.pair.oracle.most_under_way(), 16);
        assert_eq!(story.pair.cloud.machines().iter().filter(|one| one.is_running()).count(), 40);
    });
}

/// Before: PROVISIONING for ever, and each delete was answered `NOT_FOUND`.
#[test]
fn a_create_that_nobody_heard_is_followed_by_a_delete() {
    in_a_world(async {
        let mut story = Story::begin(Shape::small()).await;
        story.freeze(seconds(90));
        story.accepted(Ask::Create).await;
        story.accepted(Ask::Delete).await;
        let story = story.ends_well().await;
        assert_eq!(story.tenant(W).await.unwrap().phase, Phase::Gone);
        assert!(story.pair.cloud.machines().is_empty());
    });
}

#[test]
fn what_is_asked_before_the_two_have_agreed_waits_for_that() {
    in_a_world(async {
        let mut story = Story::begin_at_once(Shape::small()).await;
        story.accepted(Ask::Create).await;
        // and not for ever: nobody answers
        let tenant = Arc::clone(&story.pair.tenants[0]);
        tenant.last_process().unwrap().kill();
        tenant.network.cut(seconds(600));
        while tenant.serving().is_none() {
            tokio::time::sleep(seconds(1)).await;
        }
        let heard = story.ask(Ask::Restart).await;
        assert!(
            matches!(&heard, Heard::Nothing(error) if error.reason == ErrorReason::ControlPlaneUnavailable),
            "{heard:?}"
        );
        let story = story.ends_well().await;
        assert_eq!(story.tenant(W).await.unwrap().state(), WorkspaceState::Running, "{}", story.words());
    });
}

/// A1. Before: the second of two restarts overwrote the first, was refused, and was taken back to a generation that the
/// control plane never had.
#[test]
fn a1_restarts_while_the_control_plane_is_slow_follow_each_other() {
    in_a_world(async {
        let mut story = Story::with_one_that_runs(Shape::small()).await;
        story.arm("call.replace", Fault::RequestLost);
        let first = story.ask_beside(Ask::Restart);
        tokio::time::sleep(seconds(2)).await;
        let second = story.ask_beside(Ask::Restart);
        tokio::time::sleep(seconds(1)).await;
        let stop = story.ask_beside(Ask::Stop);
        for heard in [first, second, stop] {
            assert!(matches!(heard.await.unwrap(), Heard::Accepted), "{}", story.words());
        }
        let story = story.ends_well().await;
        let (tenant, engine) = (story.tenant(W).await.unwrap(), story.engine(W).await.unwrap());
        assert_eq!(tenant.state(), WorkspaceState::Stopped);
        assert_eq!((tenant.generation, engine.generation), (Generation(3), Generation(3)));
    });
}

/// A2. Before: a delete that overtook its create was answered `NOT_FOUND`, which withdrew it; the instance launched and
/// stayed.
#[test]
fn a2_a_delete_that_comes_while_its_create_is_on_the_way_wins() {
    in_a_world(async {
        let mut story = Story::begin(Shape::small()).await;
        story.arm("call.provision", Fault::Reordered);
        let create = story.ask_beside(Ask::Create);
        tokio::time::sleep(Duration::from_millis(100)).await;
        let delete = story.ask_beside(Ask::Delete);
        assert!(matches!(create.await.unwrap(), Heard::Accepted), "{}", story.words());
        assert!(matches!(delete.await.unwrap(), Heard::Accepted), "{}", story.words());
        let story = story.ends_well().await;
        assert_eq!(story.engine(W).await.unwrap().phase, Phase::Gone, "{}", story.words());
        assert_eq!(story.tenant(W).await.unwrap().phase, Phase::Gone);
    });
}

/// A3. Before: the replacement was told again under the label's number, refused, and withdrawn with the credential of
/// the generation that ran.
#[test]
fn a3_a_label_changes_while_a_restart_is_being_told() {
    in_a_world(async {
        let mut story = Story::with_one_that_runs(Shape::small()).await;
        story.arm("call.replace", Fault::AnswerLost);
        let restart = story.ask_beside(Ask::Restart);
        tokio::time::sleep(seconds(1)).await;
        // the fourth field is the labels
        story.accepted(Ask::Update(3)).await;
        assert!(matches!(restart.await.unwrap(), Heard::Accepted), "{}", story.words());
        let story = story.ends_well().await;
        let tenant = story.tenant(W).await.unwrap();
        assert_eq!((tenant.state(), tenant.generation), (WorkspaceState::Running, Generation(2)));
        assert!(tenant.spec.labels["mark"].contains("request 3"), "{:?}", tenant.spec.labels);
    });
}

/// A5. Before: the backlog told a create again beside the call that told it; one was refused and forgotten, the other
/// admitted: an instance that nobody knew.
#[test]
fn a5_one_telling_of_a_workspace_is_out_at_a_time() {
    in_a_world(async {
        let mut story = Story::begin(Shape { cap: Some(0), ..Shape::small() }).await;
        // the call takes its time
        story.arm("call.provision", Fault::Reordered);
        let create = story.ask_beside(Ask::Create);
        tokio::time::sleep(Duration::from_millis(10)).await;
        // the stream comes back, which hastens the backlog, just as the call is under way
        story.pair.tenants[0].serving().unwrap().workspaces.outbox.retry_soon();
        let heard = create.await.unwrap();
        assert!(
            matches!(&heard, Heard::Nothing(error) if error.reason == ErrorReason::QuotaExceeded),
            "{heard:?}"
        );
        let raised = Limits { running_workspaces: Some(1), workspaces: Some(4), ..Limits::default() };
        story.set_account(|account| Account { limits: raised, ..account }).await;
        let story = story.ends_well().await;
        assert!(story.engine(W).await.is_none(), "{}", story.words());
        assert!(story.pair.cloud.machines().is_empty());
    });
}

/// A7. Before: a record that was on its way when a wish was granted set what is wanted back.
#[test]
fn a7_an_older_record_does_not_undo_a_newer_wish() {
    in_a_world(async {
        let mut story = Story::with_one_that_runs(Shape::small()).await;
        // the stream lags by minutes: what it tells of the start is old when it comes
        story.accepted(Ask::Stop).await;
        tokio::time::sleep(seconds(60)).await;
        story.arm("stream.batch", Fault::AnswerLate);
        story.accepted(Ask::Start).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        story.accepted(Ask::Stop).await;
        for _ in 0..400 {
            assert_eq!(story.tenant(W).await.unwrap().desired, Desired::Stopped, "{}", story.words());
            tokio::time::sleep(seconds(1)).await;
        }
        let story = story.ends_well().await;
        assert_eq!(story.tenant(W).await.unwrap().state(), WorkspaceState::Stopped);
    });
}

/// Before: nobody told a wish whose client had gone away while it was being stored, until the tenant was started anew.
#[test]
fn a_wish_is_told_though_its_client_goes_away_while_it_is_stored() {
    in_a_world(async {
        for (ask, step) in [(Ask::Create, "tenant.create"), (Ask::Delete, "tenant.change")] {
            let mut story = match ask {
                Ask::Create => Story::begin(Shape::small()).await,
                _ => Story::with_one_that_runs(Shape::small()).await,
            };
            story.arm(step, Fault::Unheard);
            let request = Request { patience: seconds(1), ..story.request(ask, W) };
            let heard = story.pair.client(0).ask(request).await;
            assert!(matches!(heard, Heard::Silence), "{heard:?}");
            let story = story.ends_well().await;
            let expected = if ask == Ask::Create { WorkspaceState::Running } else { WorkspaceState::Deleted };
            assert_eq!(story.tenant(W).await.unwrap().state(), expected, "{}", story.words());
        }
    });
}

/// Before: a deletion waited for ever behind a wish to which the control plane had no answer.
#[test]
fn a_deletion_does_not_wait_behind_what_gets_no_answer() {
    in_a_world(async {
        let mut story = Story::with_one_that_runs(Shape::small()).await;
        for _ in 0..400 {
            story.arm("call.replace", Fault::Unreachable);
        }
        let restart = story.ask(Ask::Restart).await;
        assert!(!matches!(restart, Heard::Nothing(_)), "{restart:?}");
        story.accepted(Ask::Delete).await;
        tokio::time::sleep(seconds(300)).await;
        assert_eq!(story.tenant(W).await.unwrap().state(), WorkspaceState::Deleted, "{}", story.words());
    });
}
