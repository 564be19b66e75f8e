//! What is kept: records, launches, alarms, segments, events.

use std::sync::Arc;
use std::time::Duration;

use molecule_domain::event::Actor;
use molecule_domain::id::{LaunchSeq, Revision, WorkspaceId};
use molecule_domain::lifecycle::{Phase, Reason};

use super::{BACKEND, Numbers, ORG, ask, at, claim, claim_one, commit, created, fresh, outcome, up};
use molecule_provisioner::admission::Change;
use molecule_provisioner::model::{AttemptState, EventDetail};
use molecule_provisioner::outcome::{Fact, Outcome};
use molecule_provisioner::shown::Shown;
use molecule_provisioner::store::{Alarm, Store, WHOLE};

pub(super) async fn run<F: Future<Output = Arc<dyn Store>>>(numbers: Numbers, make: impl Fn() -> F) {
    a_record_comes_back_as_it_went_in(fresh(&make).await).await;
    launch_numbers_rise_and_attempts_are_reused(fresh(&make).await).await;
    an_alarm_stands_until_it_is_ended(fresh(&make).await).await;
    segments_open_and_close_with_facts(fresh(&make).await).await;
    what_is_gone_is_dropped_and_its_segments_stay(fresh(&make).await).await;
    revisions_rise_with_what_is_visible(fresh(&make).await).await;
    if numbers == Numbers::NeverBehindTheClock {
        numbers_are_never_behind_the_clock(fresh(&make).await).await;
    }
    events_are_told_in_order_and_pruned(fresh(&make).await).await;
    commits_wake(fresh(&make).await).await;
}

async fn a_record_comes_back_as_it_went_in(store: Arc<dyn Store>) {
    let record = up(&*store).await;
    assert_eq!(record.phase, Phase::Up);
    assert!(record.sealed_token.is_some(), "what is lost on its way up is launched again with its token");
    assert_eq!(record.endpoint.as_ref().map(|e| e.port), Some(8000));
    assert_eq!(store.get(ORG, record.workspace).await.unwrap(), Some(record.clone()));
    assert_eq!(store.changed_after(ORG, Revision(0), 10).await.unwrap(), [Shown::from(record)]);
}

async fn launch_numbers_rise_and_attempts_are_reused(store: Arc<dyn Store>) {
    let first = created(&*store).await;
    let claimed = claim_one(&*store, at(1)).await;
    let begun =
        store.begin_launch(&claimed.lease, claimed.record.wanted(), "here", at(1), at(11)).await.unwrap();
    let again =
        store.begin_launch(&claimed.lease, claimed.record.wanted(), "there", at(2), at(12)).await.unwrap();
    let (begun, again) = (begun.attempt.unwrap(), again.attempt.unwrap());
    assert_eq!((&begun.token, begun.seq), (&again.token, again.seq), "a retry is the same attempt");
    assert_eq!(
        (begun.placement.as_str(), again.placement.as_str()),
        ("here", "here"),
        "and stays where it was placed"
    );
    assert_eq!(again.call_until, at(12));
    assert!(begun.token.len() <= 64);

    let resolved = Outcome { attempt: Some(AttemptState::Resolved), ..outcome(&first) };
    let kept = Outcome { due_at: Some(at(2)), ..resolved };
    commit(&*store, &claimed, at(2), kept).await;
    let claimed = claim_one(&*store, at(3)).await;
    let other = store
        .begin_launch(&claimed.lease, claimed.record.wanted(), "there", at(3), at(13))
        .await
        .unwrap()
        .attempt
        .unwrap();
    assert_eq!(other.placement, "there");
    assert_ne!(other.token, begun.token);
    assert!(other.seq > begun.seq);
    // after a restore from a backup it is above all that was given out before
    assert!(begun.seq.0 >= at(1).micros(), "a launch's number is never behind the clock");
    let known = [begun.seq, other.seq].map(|seq| (seq, first.workspace));
    let asked =
        [known[0], known[1], (other.seq, WorkspaceId::generate()), (other.seq.next(), first.workspace)];
    assert_eq!(store.launched(&asked).await.unwrap(), known.into(), "it knows what it has launched");
    assert_eq!(store.launched(&[]).await.unwrap().len(), 0);
}

async fn an_alarm_stands_until_it_is_ended(store: Arc<dyn Store>) {
    let alarm = |second, message: &str| Alarm {
        backend: BACKEND.to_owned(),
        raised_at: at(second),
        message: message.to_owned(),
    };
    let elsewhere = Alarm { backend: "zzz".to_owned(), ..alarm(1, "elsewhere") };
    store.raise_alarm(&alarm(1, "first")).await.unwrap();
    store.raise_alarm(&alarm(2, "again")).await.unwrap();
    store.raise_alarm(&elsewhere).await.unwrap();
    assert_eq!(store.alarms().await.unwrap(), [alarm(1, "first"), elsewhere.clone()]);
    // whatever is launched meanwhile
    up(&*store).await;
    assert_eq!(store.alarms().await.unwrap().len(), 2);

    let launches = [(LaunchSeq(7), WorkspaceId::generate()), (LaunchSeq(7), WorkspaceId::generate())];
    assert_eq!(store.launched(&launches).await.unwrap().len(), 0);
    store.end_alarm(BACKEND, &launches, at(3)).await.unwrap();
    store.end_alarm(BACKEND, &launches, at(4)).await.unwrap();
    assert_eq!(store.alarms().await.unwrap(), [elsewhere]);
    assert_eq!(store.launched(&launches).await.unwrap(), launches.into(), "it answers for them now");
    store.raise_alarm(&alarm(5, "once more")).await.unwrap();
    assert_eq!(store.alarms().await.unwrap().len(), 2);

    // of a whole workspace it answers for what was launched until then, and for nothing that comes after
    let (whole, other) = (WorkspaceId::generate(), WorkspaceId::generate());
    let launch = |second, workspace| (LaunchSeq(at(second).micros()), workspace);
    let asked = [launch(2, whole), launch(6, whole), launch(9, whole), launch(2, other)];
    store.end_alarm(BACKEND, &[(WHOLE, whole)], at(6)).await.unwrap();
    store.prune(at(1)).await.unwrap();
    assert_eq!(store.launched(&asked).await.unwrap(), [asked[0], asked[1]].into());
    store.end_alarm(BACKEND, &[(WHOLE, whole)], at(9)).await.unwrap();
    store.end_alarm(BACKEND, &[(WHOLE, whole)], at(7)).await.unwrap();
    assert_eq!(store.launched(&asked).await.unwrap(), [asked[0], asked[1], asked[2]].into());
}

async fn segments_open_and_close_with_facts(store: Arc<dyn Store>) {
    let record = up(&*store).await;
    let next = at(50) + Duration::from_micros(1);
    let segments = || async {
        let segments = store.segments(record.workspace).await.unwrap();
        segments.into_iter().map(|s| (s.from, s.until)).collect::<Vec<_>>()
    };
    assert_eq!(segments().await, [(at(2), None)]);
    for (second, fact, expected) in [
        (10, Fact::Up(at(10)), vec![(at(2), None)]),
        (20, Fact::Down(at(20)), vec![(at(2), Some(at(20)))]),
        (30, Fact::Down(at(30)), vec![(at(2), Some(at(20)))]),
        (40, Fact::Up(at(40)), vec![(at(2), Some(at(20))), (at(40), None)]),
        (50, Fact::Down(at(50)), vec![(at(2), Some(at(20))), (at(40), Some(at(50)))]),
        // the clock stepped back: nothing is billed twice
        (60, Fact::Up(at(45)), vec![(at(2), Some(at(20))), (at(40), Some(at(50))), (at(50), None)]),
        (70, Fact::Down(at(46)), vec![(at(2), Some(at(20))), (at(40), Some(at(50))), (at(50), Some(at(50)))]),
        // no two begin at once
        (
            80,
            Fact::Up(at(46)),
            vec![(at(2), Some(at(20))), (at(40), Some(at(50))), (at(50), Some(at(50))), (next, None)],
        ),
    ] {
        store.wake(&[record.workspace], at(second)).await.unwrap();
        let claimed = claim_one(&*store, at(second)).await;
        commit(&*store, &claimed, at(second), Outcome { fact: Some(fact), ..outcome(&record) }).await;
        assert_eq!(segments().await, expected, "after {fact:?}");
    }
}

/// A month after it is gone a record is dropped, but what it used is billed.
async fn what_is_gone_is_dropped_and_its_segments_stay(store: Arc<dyn Store>) {
    let (kept, gone) = (up(&*store).await, up(&*store).await);
    store.wake(&[gone.workspace], at(10)).await.unwrap();
    let claimed = claim_one(&*store, at(10)).await;
    let last = Outcome {
        phase: Some(Phase::Gone),
        fact: Some(Fact::Down(at(10))),
        attempt: Some(AttemptState::Resolved),
        ..outcome(&gone)
    };
    commit(&*store, &claimed, at(10), last).await;
    let launches = [&kept, &gone].map(|record| (record.attempt.as_ref().unwrap().seq, record.workspace));
    let left = || async {
        let records = store.changed_after(ORG, Revision(0), 10).await.unwrap();
        (records.len(), store.launched(&launches).await.unwrap().len())
    };
    store.prune(at(10)).await.unwrap();
    assert_eq!(left().await, (2, 2));
    store.prune(at(11)).await.unwrap();
    assert_eq!(left().await, (1, 1), "what is not gone stays, however old it is");
    assert_eq!(store.segments(gone.workspace).await.unwrap().len(), 1);
}

async fn revisions_rise_with_what_is_visible(store: Arc<dyn Store>) {
    let (first, second) = (created(&*store).await, created(&*store).await);
    assert!(Revision(0) < first.revision && first.revision < second.revision);
    let claimed = claim(&*store, at(1)).await;
    for one in &claimed {
        let silent = Outcome { due_at: Some(at(2)), failures: 1, ..outcome(&one.record) };
        commit(&*store, one, at(1), silent).await;
    }
    let revisions = |shown: Vec<Shown>| shown.iter().map(|one| one.view.revision).collect::<Vec<_>>();
    let all = store.changed_after(ORG, Revision(0), 10).await.unwrap();
    assert_eq!(revisions(all), [first.revision, second.revision], "what nobody sees is no revision");
    let stopped = store.change(&ask(&first, Change::Stop(None)), at(3)).await.unwrap();
    assert!(stopped.revision > second.revision);
    let all = store.changed_after(ORG, Revision(0), 10).await.unwrap();
    assert_eq!(revisions(all), [second.revision, stopped.revision]);
    let later = store.changed_after(ORG, second.revision, 10).await.unwrap();
    assert_eq!(later.iter().map(|r| r.view.workspace).collect::<Vec<_>>(), [first.workspace]);
}

/// Of each way to write a record: admitted, changed, launched, and what a step has found.
async fn numbers_are_never_behind_the_clock(store: Arc<dyn Store>) {
    let highest = async || {
        let records = store.changed_after(ORG, Revision(0), 10).await.unwrap();
        let events = store.events_after(ORG, 0, 10).await.unwrap();
        (records.last().unwrap().view.revision, events.last().unwrap().id)
    };
    let record = created(&*store).await;
    let (revision, event) = highest().await;
    assert!(revision.0 >= at(0).micros() && event >= at(0).micros(), "{revision:?} {event}");
    let claimed = claim_one(&*store, at(10)).await;
    let begun = store.begin_launch(&claimed.lease, record.wanted(), "", at(10), at(31)).await.unwrap();
    assert!(begun.revision.0 >= at(10).micros(), "{begun:?}");
    let failed = Outcome {
        phase: Some(Phase::Failed),
        reason: Some(Reason::LaunchTimeout),
        message: Some("late".to_owned()),
        event: Some(EventDetail {
            kind: "failed".into(),
            actor: Actor::Engine,
            generation: record.generation,
            reason: Some(Reason::LaunchTimeout),
            message: "late".to_owned(),
            exit_code: None,
            log_tail: String::new(),
        }),
        ..outcome(&record)
    };
    commit(&*store, &claimed, at(20), failed).await;
    let (revision, event) = highest().await;
    assert!(revision.0 >= at(20).micros() && event >= at(20).micros(), "{revision:?} {event}");
    store.change(&ask(&record, Change::Delete), at(30)).await.unwrap();
    let (revision, event) = highest().await;
    assert!(revision.0 >= at(30).micros() && event >= at(30).micros(), "{revision:?} {event}");
    // what the clock does not raise still rises
    let other = created(&*store).await;
    assert!(other.revision > revision && highest().await == (other.revision, event + 1));
}

async fn events_are_told_in_order_and_pruned(store: Arc<dyn Store>) {
    let record = created(&*store).await;
    let failed = Change::Stop(Some((Reason::AgentNotConnected, "no agent".to_owned())));
    let failed = store.change(&ask(&record, failed), at(50)).await.unwrap();
    assert_eq!((failed.phase, failed.reason), (Phase::Failed, Some(Reason::AgentNotConnected)));
    let events = store.events_after(ORG, 0, 10).await.unwrap();
    let kinds: Vec<_> = events.iter().map(|event| event.detail.kind.as_ref()).collect();
    assert_eq!(kinds, ["admitted", "failed"]);
    assert_eq!(store.events_after(ORG, events[0].id, 10).await.unwrap().len(), 1);
    store.prune(at(10)).await.unwrap();
    assert_eq!(store.events_after(ORG, 0, 10).await.unwrap(), events[1..]);
}

async fn commits_wake(store: Arc<dyn Store>) {
    let mut commits = store.wakes().of(ORG);
    commits.borrow_and_update();
    created(&*store).await;
    tokio::time::timeout(Duration::from_secs(5), commits.changed()).await.expect("woken").expect("open");
}
