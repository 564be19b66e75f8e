//! What is refused, what stands all the same, and what clients hear of their wishes.

use std::sync::Arc;
use std::time::Duration;

use molecule_domain::error::ErrorReason;
use molecule_domain::id::{Generation, Revision};
use molecule_domain::lifecycle::{Phase, WorkspaceState};
use molecule_domain::limits::{Limits, Standing};
use molecule_provisioner::admission::Account;
use molecule_sim::client::{Ask, Heard, Request};
use molecule_sim::faults::Fault;
use molecule_sim::life::in_a_world;
use molecule_sim::pair::Shape;
use molecule_workspace::store::TenantStore;

use crate::story::{Story, W, goes_on, seconds};

/// A4. Before: a stop that met a refusal was withdrawn, and the workspace ran on.
#[test]
fn a4_a_stop_and_a_delete_stand_whatever_the_control_plane_says() {
    in_a_world(async {
        let mut story = Story::with_one_that_runs(Shape::small()).await;
        story.arm("call.stop", Fault::Denied);
        story.arm("call.delete", Fault::Denied);
        story.set_account(|account| Account { standing: Standing::Suspended, ..account }).await;
        story.accepted(Ask::Stop).await;
        tokio::time::sleep(seconds(120)).await;
        assert_eq!(story.tenant(W).await.unwrap().state(), WorkspaceState::Stopped, "{}", story.words());
        story.accepted(Ask::Delete).await;
        let story = story.ends_well().await;
        assert_eq!(story.tenant(W).await.unwrap().phase, Phase::Gone);
    });
}

/// The same where the control plane's answer is a refusal that takes other wishes back.
#[test]
fn a_stop_and_a_delete_stand_though_they_are_refused() {
    in_a_world(async {
        let mut story = Story::with_one_that_runs(Shape::small()).await;
        story.arm("call.stop", Fault::Refused);
        story.accepted(Ask::Stop).await;
        tokio::time::sleep(seconds(120)).await;
        assert_eq!(story.tenant(W).await.unwrap().state(), WorkspaceState::Stopped, "{}", story.words());
        story.arm("call.start", Fault::Refused);
        let heard = story.ask(Ask::Start).await;
        assert!(matches!(&heard, Heard::Nothing(error) if !goes_on(error)), "{heard:?}");
        story.arm("call.delete", Fault::Refused);
        story.accepted(Ask::Delete).await;
        let story = story.ends_well().await;
        assert_eq!(story.tenant(W).await.unwrap().phase, Phase::Gone);
    });
}

/// A6. Before: a create that was refused vanished from the list, and stayed with everybody who watched.
#[test]
fn a6_who_watches_sees_a_refused_create_go() {
    in_a_world(async {
        let mut story = Story::begin(Shape { cap: Some(0), ..Shape::small() }).await;
        let heard = story.ask(Ask::Create).await;
        assert!(matches!(&heard, Heard::Nothing(error) if !goes_on(error)), "{heard:?}");
        let tenant = Arc::clone(&story.pair.tenants[0]);
        let changes = tenant.database().changes_after(tenant.organization, Revision(0), 100).await.unwrap();
        let last = changes.iter().rfind(|change| change.workspace == W).expect("a watcher saw it come");
        assert_eq!(last.phase, Phase::Gone, "and sees it go");
        story.ends_well().await;
    });
}

/// Before: the call was broken off at its deadline, and its client heard that nobody knew what had become of it.
#[test]
fn who_waits_for_three_seconds_hears_that_a_wish_goes_on() {
    in_a_world(async {
        let mut story = Story::with_one_that_runs(Shape::small()).await;
        story.freeze(seconds(90));
        let request = Request { patience: seconds(3), number: 1000, ..story.request(Ask::Restart, W) };
        let heard = story.pair.client(0).ask(request).await;
        assert!(matches!(heard, Heard::Accepted), "{heard:?}\n{}", story.words());
        assert_eq!(story.tenant(W).await.unwrap().generation, Generation(2));
        let story = story.ends_well().await;
        assert_eq!(story.tenant(W).await.unwrap().state(), WorkspaceState::Running);
    });
}

/// Before: nobody told what was stored in the moment in which the control plane was lost from sight, and its request
/// waited for half a minute.
#[test]
fn who_asks_as_the_control_plane_goes_away_hears_that_soon() {
    // some transactions take longer than their client waits for
    let waited = (1..=8).map(|seed| in_a_world(asks_as_the_control_plane_goes_away(seed)));
    assert!(waited.filter(|is_soon| *is_soon).count() >= 2);
}

/// Whether the transaction ended long before its client's deadline.
async fn asks_as_the_control_plane_goes_away(seed: u64) -> bool {
    let mut story = Story::begin_under(seed, Shape::small()).await;
    tokio::time::sleep(seconds(5)).await;
    // the transaction that stores the wish takes a while
    story.arm("tenant.create", Fault::Delay);
    let asked = tokio::time::Instant::now();
    let create = story.ask_beside(Ask::Create);
    tokio::time::sleep(Duration::from_millis(10)).await;
    story.pair.control.replica(0).process.kill();
    while story.tenant(W).await.is_none() && !create.is_finished() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let stored = tokio::time::Instant::now();
    // its client waits for a minute
    let is_soon = stored - asked < seconds(50);
    if is_soon {
        let heard = create.await.unwrap();
        assert!(matches!(heard, Heard::Accepted), "{heard:?}\n{}", story.words());
        assert!(stored.elapsed() <= seconds(6), "{:?}\n{}", stored.elapsed(), story.words());
    }
    story.pair.control.restart(0);
    let story = story.ends_well().await;
    if is_soon {
        assert_eq!(story.tenant(W).await.unwrap().state(), WorkspaceState::Running);
    }
    is_soon
}

/// Before: the repeated request heard that nothing was stored of the deletion that went on.
#[test]
fn a_deletion_that_is_asked_for_again_of_a_locked_database_is_not_denied() {
    in_a_world(async {
        let mut story = Story::with_one_that_runs(Shape::small()).await;
        let request = story.request(Ask::Delete, W);
        assert!(matches!(story.pair.client(0).ask(request.clone()).await, Heard::Accepted));
        story.arm("tenant.get", Fault::Fail);
        let heard = story.pair.client(0).ask(request).await;
        assert!(matches!(heard, Heard::Silence), "{heard:?}");
        story.ends_well().await;
    });
}

/// Before: an update that asked for some of what waited, and for more, was accepted, and lost the former with the refusal of what
/// waited.
#[test]
fn what_overlaps_with_an_update_that_waits_is_asked_for_again() {
    in_a_world(async {
        let mut story = Story::with_one_that_runs(Shape::small()).await;
        let update = |story: &mut Story, fields, number| {
            let request = Request { number, ..story.request(Ask::Update(fields), W) };
            let client = story.pair.client(0);
            tokio::spawn(async move { client.ask(request).await })
        };
        let memory = |memory_mib| {
            move |account: Account| Account { limits: Limits { memory_mib, ..account.limits }, ..account }
        };
        story.set_account(memory(Some(1))).await;
        story.freeze(seconds(10));
        let (tier, tier_and_secrets, label) = (1, 4, 3);
        let waits = update(&mut story, tier, 1001);
        tokio::time::sleep(seconds(1)).await;
        // both numbers stand for the same tier
        let overlaps = update(&mut story, tier_and_secrets, 1004).await.unwrap();
        let Heard::Nothing(error) = overlaps else { panic!("{overlaps:?}\n{}", story.words()) };
        assert_eq!(error.reason, ErrorReason::ChangeInProgress);
        let label = update(&mut story, label, 1007).await.unwrap();
        assert!(matches!(label, Heard::Accepted), "it has nothing in common: {label:?}");
        let waits = waits.await.unwrap();
        assert!(matches!(waits, Heard::Nothing(_)), "{waits:?}\n{}", story.words());
        story.set_account(memory(None)).await;
        let again = update(&mut story, tier_and_secrets, 1010).await.unwrap();
        assert!(matches!(again, Heard::Accepted), "{again:?}");
        story.ends_well().await;
    });
}
