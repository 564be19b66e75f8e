//! Databases that were put back, on either side.

use std::sync::Arc;
use std::time::Duration;

use molecule_domain::id::Generation;
use molecule_domain::lifecycle::{Desired, Phase, Reason, WorkspaceState};
use molecule_domain::limits::{Limits, Standing};
use molecule_provisioner::admission::{Account, Change, ChangeRequest};
use molecule_provisioner::store::Store;
use molecule_sim::client::{Ask, Heard};
use molecule_sim::faults::Fault;
use molecule_sim::life::in_a_world;
use molecule_sim::machine::Machine;
use molecule_sim::pair::{Pair, Shape};
use molecule_sim::weather::Weather;

use crate::story::{Story, W, seconds};

/// A8. Before: after a restore of the tenant's database its numbers were behind the control plane's, and the next stops
/// were answered as replays: granted, and nothing happened.
#[test]
fn a8_wishes_count_after_the_tenants_database_was_restored() {
    in_a_world(async {
        let mut story = Story::with_one_that_runs(Shape::small()).await;
        let tenant = Arc::clone(&story.pair.tenants[0]);
        let backup = tenant.database().data();
        for ask in [Ask::Stop, Ask::Start, Ask::Restart] {
            story.accepted(ask).await;
            tokio::time::sleep(seconds(120)).await;
        }
        story.pair.restore_tenant(0, backup).await;
        tokio::time::sleep(seconds(600)).await;
        story.accepted(Ask::Stop).await;
        let story = story.ends_well().await;
        assert_eq!(story.tenant(W).await.unwrap().state(), WorkspaceState::Stopped);
    });
}

/// What a backup holds as untold was told since, and followed by another wish: that one wins.
#[test]
fn an_old_stop_does_not_win_over_a_later_start_after_a_restore() {
    for ends_soon in [false, true] {
        in_a_world(stops_and_starts(ends_soon));
    }
}

async fn stops_and_starts(ends_soon: bool) {
    let mut story = Story::with_one_that_runs(Shape::small()).await;
    let tenant = Arc::clone(&story.pair.tenants[0]);
    // a process that has not met the control plane yet stores a stop
    tenant.network.cut(seconds(600));
    tenant.last_process().unwrap().kill();
    while tenant.serving().is_none() {
        tokio::time::sleep(seconds(1)).await;
    }
    story.accepted(Ask::Stop).await;
    let backup = tenant.database().data();
    if ends_soon {
        // it ends before it has said how far it came
        while story.engine(W).await.unwrap().desired == Desired::Running {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tenant.last_process().unwrap().kill();
    }
    tokio::time::sleep(seconds(900)).await;
    assert_eq!(story.tenant(W).await.unwrap().state(), WorkspaceState::Stopped, "{}", story.words());
    story.accepted(Ask::Start).await;
    tokio::time::sleep(seconds(120)).await;
    story.pair.restore_tenant(0, backup).await;
    let story = story.ends_well().await;
    assert_eq!(story.engine(W).await.unwrap().phase, Phase::Up, "{}", story.words());
}

/// A replacement is refused as it is told again, and its first call is heard after that, while a stop waits to be told.
#[test]
fn a_replacement_that_is_heard_late_before_a_stop_is_known_to_both() {
    (1..=12).for_each(|seed| in_a_world(replaces_late(seed)));
}

async fn replaces_late(seed: u64) {
    let mut story = Story::begin_under(seed, Shape::small()).await;
    tokio::time::sleep(seconds(5)).await;
    story.accepted(Ask::Create).await;
    tokio::time::sleep(seconds(120)).await;
    story.arm("call.replace", Fault::RequestLate);
    story.arm("call.replace", Fault::Refused);
    (0..30).for_each(|_| story.arm("call.stop", Fault::RequestLost));
    story.accepted(Ask::Restart).await;
    while story.tenant(W).await.unwrap().generation != Generation(1) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    story.accepted(Ask::Stop).await;
    tokio::time::sleep(seconds(1800)).await;
    let story = story.ends_well().await;
    assert_eq!(story.tenant(W).await.unwrap().state(), WorkspaceState::Stopped, "{}", story.words());
}

/// B5. Before: the alarm of a restored database ended once as many launches had been made as were lost, and the sweeps
/// removed what the backup lacked, with its volumes.
#[test]
fn b5_a_restored_control_plane_removes_nothing_until_its_alarm_is_ended() {
    in_a_world(async {
        let mut story = Story::with_one_that_runs(Shape::small()).await;
        let pair = story.pair.clone();
        let (lost, admitted) = (Pair::workspace(2), Pair::workspace(3));
        // one is admitted when the backup is made, and launched then
        story.arm("store.begin_launch", Fault::Delay);
        let request = story.request(Ask::Create, admitted);
        assert!(matches!(pair.client(0).ask(request).await, Heard::Accepted));
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(story.engine(admitted).await.unwrap().phase, Phase::Admitted, "{}", story.words());
        let backup = pair.control.backup();
        let request = story.request(Ask::Create, lost);
        assert!(matches!(pair.client(0).ask(request).await, Heard::Accepted));
        story.accepted(Ask::Restart).await;
        tokio::time::sleep(seconds(300)).await;
        let before: Vec<_> = pair.cloud.machines().iter().map(|machine| machine.id).collect();
        assert_eq!(before.len(), 3, "{}", story.words());
        // its tenant is away, so nobody tells what was lost
        pair.tenants[0].network.cut(seconds(4 * 3600));
        pair.restore_control(backup).await;
        tokio::time::sleep(seconds(3600)).await;
        let after: Vec<_> = pair.cloud.machines().iter().map(|machine| machine.id).collect();
        assert_eq!(after, before, "something was touched: {}", story.words());
        assert!(pair.cloud.volume_owners().contains(&lost));
        assert_eq!(pair.control.database().alarms().await.unwrap().len(), 1, "{}", story.words());
        for workspace in [W, admitted] {
            let held = story.engine(workspace).await.unwrap();
            assert_eq!((held.reason, held.generation), (Some(Reason::UnknownLaunch), Generation(1)));
        }
        let engine = pair.control.replica(0).engine;
        let orphans = engine.orphans().await.unwrap().unwrap();
        assert_eq!(
            (orphans.instances.len(), &orphans.workspaces[..]),
            (3, &[(pair.tenants[0].organization, lost)][..])
        );
        engine.end_alarm(&orphans).await.unwrap();
        // one is removed in a pass
        tokio::time::sleep(seconds(1800)).await;
        assert!(!pair.cloud.volume_owners().contains(&lost), "{}", story.words());
        // nothing is launched before its tenant is back
        assert_eq!(pair.cloud.machines().len(), 0, "{}", story.words());
        tokio::time::sleep(seconds(3 * 3600)).await;
        for workspace in [W, admitted] {
            // however long the alarm stood, and the tenant was away
            let served = story.engine(workspace).await.unwrap();
            assert_eq!((served.phase, served.reason), (Phase::Up, None), "{}", story.words());
        }
    });
}

/// Before: a control plane that was put back launched, and gave up, what had been stopped or deleted since its backup, before
/// its tenant had told that again.
#[test]
fn a_restored_control_plane_launches_nothing_before_its_tenant_has_agreed() {
    in_a_world(async {
        let mut story = Story::begin(Shape::small()).await;
        let pair = story.pair.clone();
        let (stopped, deleted) = (Pair::workspace(2), Pair::workspace(3));
        // all are admitted when the backup is made
        for workspace in [W, stopped, deleted] {
            story.arm("store.begin_launch", Fault::Delay);
            let request = story.request(Ask::Create, workspace);
            assert!(matches!(pair.client(0).ask(request).await, Heard::Accepted));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let backup = pair.control.backup();
        for (ask, workspace) in [(Ask::Stop, stopped), (Ask::Delete, deleted)] {
            let request = story.request(ask, workspace);
            assert!(matches!(pair.client(0).ask(request).await, Heard::Accepted));
        }
        // longer than any deadline
        tokio::time::sleep(seconds(3600)).await;
        for workspace in [W, stopped, deleted] {
            pair.cloud.vanish(workspace);
        }
        let launches = pair.cloud.launches();
        pair.tenants[0].network.cut(seconds(1800));
        pair.restore_control(backup).await;
        tokio::time::sleep(seconds(1500)).await;
        assert_eq!(pair.cloud.launches(), launches, "{}", story.words());
        for workspace in [W, stopped, deleted] {
            let held = story.engine(workspace).await.unwrap();
            assert_eq!((held.desired, held.reason), (Desired::Running, None), "{}", story.words());
        }
        // once they have agreed, it launches what is wanted, and that only
        tokio::time::sleep(seconds(900)).await;
        assert_eq!(story.tenant(W).await.unwrap().state(), WorkspaceState::Running, "{}", story.words());
        assert_eq!(
            story.tenant(stopped).await.unwrap().state(),
            WorkspaceState::Stopped,
            "{}",
            story.words()
        );
        assert_eq!(story.engine(deleted).await.unwrap().phase, Phase::Gone, "{}", story.words());
        assert_eq!(pair.cloud.launches(), launches + 1, "{}", story.words());
        story.ends_well().await;
    });
}

/// Before: the time under the alarm counted once the provider was silent for a moment, so that what waited was given up.
#[test]
fn a_provider_that_is_away_under_an_alarm_ends_no_wish() {
    in_a_world(async {
        let mut story = Story::with_one_that_runs(Shape::small()).await;
        let pair = story.pair.clone();
        let lost = Pair::workspace(2);
        let backup = pair.control.backup();
        let request = story.request(Ask::Create, lost);
        assert!(matches!(pair.client(0).ask(request).await, Heard::Accepted));
        tokio::time::sleep(seconds(300)).await;
        // its tenant tells of it again, and an operator takes the time that the runbook wants
        pair.restore_control(backup).await;
        let waits = async || {
            let record = story.engine(lost).await.unwrap();
            let waits = (record.phase, record.desired, record.reason);
            let expected = (Phase::Admitted, Desired::Running, Some(Reason::UnknownLaunch));
            assert_eq!(waits, expected, "{}", story.words());
        };
        tokio::time::sleep(seconds(3000)).await;
        waits().await;
        pair.cloud.set_weather(Weather::Away, None, seconds(120));
        tokio::time::sleep(seconds(300)).await;
        waits().await;
        let engine = pair.control.replica(0).engine;
        engine.end_alarm(&engine.orphans().await.unwrap().unwrap()).await.unwrap();
        let story = story.ends_well().await;
        assert_eq!(story.tenant(lost).await.unwrap().state(), WorkspaceState::Running, "{}", story.words());
    });
}

/// What is told again is refused for as long as there is no room for it, and not for good.
#[test]
fn what_is_told_again_and_refused_is_granted_later() {
    in_a_world(async {
        let mut story = Story::with_one_that_runs(Shape::small()).await;
        story.accepted(Ask::Stop).await;
        tokio::time::sleep(seconds(120)).await;
        let backup = story.pair.control.backup();
        story.accepted(Ask::Start).await;
        tokio::time::sleep(seconds(120)).await;
        story.pair.restore_control(backup).await;
        story.set_account(|account| Account { standing: Standing::Suspended, ..account }).await;
        tokio::time::sleep(seconds(300)).await;
        let waits = story.tenant(W).await.unwrap().pending.is_some();
        assert!(waits, "its start waits to be told: {}", story.words());
        story.set_account(|account| Account { standing: Standing::Good, ..account }).await;
        let story = story.ends_well().await;
        assert_eq!(story.tenant(W).await.unwrap().state(), WorkspaceState::Running, "{}", story.words());
    });
}

/// Before: nobody waited for what a restored control plane lacks and refuses for now: its machine and its volumes were removed
/// once the alarm was ended. A suspended organisation's machines don't run, and its data stays.
#[test]
fn what_a_restored_control_plane_lacks_and_refuses_for_now_keeps_its_data() {
    for standing in [Standing::Good, Standing::Suspended] {
        in_a_world(async move {
            let mut story = Story::with_one_that_runs(Shape::small()).await;
            let pair = story.pair.clone();
            let lost = Pair::workspace(2);
            let backup = pair.control.backup();
            let request = story.request(Ask::Create, lost);
            assert!(matches!(pair.client(0).ask(request).await, Heard::Accepted));
            tokio::time::sleep(seconds(300)).await;
            pair.restore_control(backup).await;
            // the limit was lowered since
            let limited = |workspaces| Limits { workspaces, ..Limits::default() };
            story.set_account(|account| Account { standing, limits: limited(Some(1)), ..account }).await;
            tokio::time::sleep(seconds(600)).await;
            assert!(story.tenant(lost).await.unwrap().pending.is_some(), "{}", story.words());
            let engine = pair.control.replica(0).engine;
            let orphans = engine.orphans().await.unwrap().unwrap();
            assert_eq!(orphans.awaited, [(pair.tenants[0].organization, lost)], "{}", story.words());
            engine.end_alarm(&orphans).await.unwrap();
            tokio::time::sleep(seconds(2 * 3600)).await;
            let of_lost = |machine: &Machine| machine.instance.workspace == lost && machine.is_running();
            let runs = pair.cloud.machines().iter().any(of_lost);
            assert_eq!(runs, standing == Standing::Good, "{}", story.words());
            assert!(pair.cloud.volume_owners().contains(&lost), "{}", story.words());
            story
                .set_account(|account| Account { standing: Standing::Good, limits: limited(None), ..account })
                .await;
            let story = story.ends_well().await;
            assert_eq!(
                story.tenant(lost).await.unwrap().state(),
                WorkspaceState::Running,
                "{}",
                story.words()
            );
        });
    }
}

/// Before: the control plane took the stop for a repeated call of what another process had told it under that number, and the
/// tenant took its answer for a grant: it ran on.
#[test]
fn a_stop_whose_number_another_was_told_by_is_told_anew() {
    in_a_world(async {
        let mut story = Story::with_one_that_runs(Shape::small()).await;
        let intent = story.tenant(W).await.unwrap().intent.next();
        let start = ChangeRequest {
            organization: story.pair.tenants[0].organization,
            workspace: W,
            intent,
            change: Change::Start,
            refusal_is_final: false,
            process: None,
            trace: String::new(),
        };
        story.pair.control.database().change(&start, story.pair.world.now()).await.unwrap();
        story.accepted(Ask::Stop).await;
        tokio::time::sleep(seconds(120)).await;
        assert_eq!(story.tenant(W).await.unwrap().state(), WorkspaceState::Stopped, "{}", story.words());
        let engine = story.engine(W).await.unwrap();
        assert_eq!((engine.desired, engine.intent), (Desired::Stopped, intent.next()));
        story.ends_well().await;
    });
}

/// Before: what ran was replaced, since the backup held it as being stopped.
#[test]
fn what_was_being_stopped_and_runs_again_runs_on_after_a_restore() {
    in_a_world(async {
        let mut story = Story::with_one_that_runs(Shape::small()).await;
        let pair = story.pair.clone();
        story.accepted(Ask::Stop).await;
        let backup = pair.control.backup();
        let held = story.engine(W).await.unwrap();
        assert_eq!(held.desired, Desired::Stopped);
        assert_ne!(held.phase, Phase::Stopped, "{}", story.words());
        tokio::time::sleep(seconds(120)).await;
        story.accepted(Ask::Start).await;
        tokio::time::sleep(seconds(120)).await;
        let launches = pair.cloud.launches();
        pair.restore_control(backup).await;
        let story = story.ends_well().await;
        let found = story.tenant(W).await.unwrap();
        assert_eq!((found.state(), found.generation), (WorkspaceState::Running, Generation(1)));
        assert_eq!(story.pair.cloud.launches(), launches, "{}", story.words());
    });
}

/// Before: a copy that is as far as what was seen of the first was served in its place whenever the first's stream had just ended.
#[test]
fn a_fresh_copy_is_refused_while_the_first_comes_back() {
    in_a_world(async {
        let mut story = Story::with_one_that_runs(Shape::small()).await;
        let (pair, tenant) = (story.pair.clone(), Arc::clone(&story.pair.tenants[0]));
        let first = tenant.last_process().unwrap();
        story.arm("stream.batch", Fault::AnswerLost);
        story.accepted(Ask::Stop).await;
        let is_left = async || {
            while pair.control.is_followed_by(tenant.organization) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        is_left().await;
        let own = pair.world.incarnation();
        let twin = tenant.start_twin(own);
        // that it is served is a violation
        pair.control.is_twin(own, Arc::clone(&twin));
        tokio::time::sleep(seconds(60)).await;
        assert!(pair.control.is_followed_by(tenant.organization) && !twin.is_dead(), "{}", story.words());
        twin.kill();
        // who comes after the first has ended waits no longer than the first would have had
        first.kill();
        is_left().await;
        let ended = tokio::time::Instant::now();
        tenant.start();
        while !pair.control.is_followed_by(tenant.organization) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(ended.elapsed() < seconds(10), "{:?}\n{}", ended.elapsed(), story.words());
        story.ends_well().await;
    });
}

/// A restored control plane tells of a time that its tenant has lost in an earlier restore: whoever watches begins anew once more.
#[test]
fn a_lost_time_that_a_control_plane_remembers_later_ends_watches() {
    in_a_world(async {
        let mut story = Story::with_one_that_runs(Shape::small()).await;
        let (pair, tenant) = (story.pair.clone(), Arc::clone(&story.pair.tenants[0]));
        let (control, data) = (pair.control.backup(), tenant.database().data());
        for ask in [Ask::Stop, Ask::Start] {
            story.accepted(ask).await;
            tokio::time::sleep(seconds(120)).await;
        }
        let remembers = pair.control.backup();
        pair.restore_control(control).await;
        pair.restore_tenant(0, data).await;
        // once all is quiet, whoever watches has been told of that
        pair.pass(tokio::time::Instant::now() + seconds(3 * 3600)).await;
        pair.restore_control(remembers).await;
        tokio::time::sleep(seconds(600)).await;
        let started_over = pair.world.coverage().figure_of("watches that started over");
        assert!(started_over >= 2, "{}", story.words());
        story.ends_well().await;
    });
}

/// Before: a generation was launched again on a disk whose credential both sides had lost, and its agent was refused for ever.
#[test]
fn what_is_launched_again_on_the_disk_of_a_lost_time_gets_another_credential() {
    in_a_world(async {
        let mut story = Story::begin(Shape::small()).await;
        let pair = story.pair.clone();
        story.arm("store.begin_launch", Fault::Delay);
        story.accepted(Ask::Create).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(story.engine(W).await.unwrap().phase, Phase::Admitted, "{}", story.words());
        let (control, tenant) = (pair.control.backup(), pair.tenants[0].database().data());
        tokio::time::sleep(seconds(300)).await;
        assert_eq!(story.tenant(W).await.unwrap().state(), WorkspaceState::Running, "{}", story.words());
        pair.restore_tenant(0, tenant).await;
        pair.restore_control(control).await;
        tokio::time::sleep(seconds(900)).await;
        let engine = pair.control.replica(0).engine;
        let orphans = engine.orphans().await.unwrap().unwrap();
        engine.end_alarm(&orphans).await.unwrap();
        tokio::time::sleep(seconds(3600)).await;
        let found = story.tenant(W).await.unwrap();
        let state = (found.state(), found.generation);
        assert_eq!(state, (WorkspaceState::Running, Generation(1)), "{}", story.words());
        assert!(!found.is_recovered(), "{found:?}");
        story.ends_well().await;
    });
}
