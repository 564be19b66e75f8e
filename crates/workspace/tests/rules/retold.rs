//! What the provider is told again that it had granted, and lost.

use molecule_domain::id::{Generation, IntentNumber, Revision};
use molecule_domain::instance::InstanceView;
use molecule_domain::lifecycle::{Desired, Phase, Reason};
use molecule_workspace::aggregate::{Revoke, SideEffects};
use molecule_workspace::agreement::Verdict;
use molecule_workspace::undo::Undo;
use molecule_workspace::{Entry, Wish, Workspace, WorkspaceRecord};

use crate::world::{
    KNOWN, NOW, agree, caused, entry, idle, minted, pending, record, replacement, view, waiting, with,
};

/// The provider has granted the second wish, and lost the third.
fn put_back() -> InstanceView {
    InstanceView { intent: IntentNumber(2), ..view() }
}

fn wants(desired: Desired, phase: Phase) -> InstanceView {
    InstanceView { desired: Some(desired), phase, ..put_back() }
}

#[test]
fn all_that_was_granted_and_all_that_waits_is_told_as_one() {
    let mut found = waiting(vec![entry(4, Wish::Start), entry(5, Wish::Stop(None))]);
    let before = found.record.clone();
    let (sealed_token, hash) = minted(3);
    let add_tokens = vec![(Generation(3), hash)];
    let effects = SideEffects { visible: true, add_tokens, ..SideEffects::default() };
    assert_eq!(agree(&mut found, None, KNOWN, false), (Verdict::TellAgain, effects));
    let one = entry(6, Wish::Provision { run: false });
    let one = Entry {
        generation: Generation(3),
        sealed_token,
        asked_at: before.pending.clone().unwrap().since,
        trace: "of wish 5".to_owned(),
        requests: vec!["request 4".to_owned(), "request 5".to_owned()],
        undo: Undo { desired: Desired::Stopped, ..one.undo.clone() },
        retold: true,
        begun: true,
        ..one
    };
    let record = WorkspaceRecord {
        intent: IntentNumber(6),
        generation: Generation(3),
        highest: Generation(3),
        ..before
    };
    assert_eq!(found, Workspace { outbox: vec![one], ..with(record) });
}

#[test]
fn a_generation_that_was_lost_is_replaced() {
    let mut found = idle();
    let before = InstanceView {
        generation: Generation(1),
        wanted_generation: Generation(1),
        desired: Some(Desired::Stopped),
        ..put_back()
    };
    let (sealed_token, hash) = minted(3);
    let effects = SideEffects {
        visible: true,
        add_tokens: vec![(Generation(3), hash)],
        revoke: Revoke::Before(Generation(1)),
        ..SideEffects::default()
    };
    assert_eq!(agree(&mut found, Some(&before), KNOWN, false), (Verdict::TellAgain, effects));
    let one = entry(4, Wish::Replace { run: true, reset_session: false });
    let one = Entry {
        generation: Generation(3),
        sealed_token,
        asked_at: NOW,
        trace: "of wish 3".to_owned(),
        requests: vec![],
        retold: true,
        begun: true,
        ..one
    };
    let record = WorkspaceRecord {
        intent: IntentNumber(4),
        generation: Generation(3),
        highest: Generation(3),
        instance_generation: Generation(1),
        instance_revision: Revision(51),
        pending: Some(pending(100, "")),
        ..record()
    };
    assert_eq!(found, Workspace { outbox: vec![one], ..with(record) });
}

#[test]
fn what_is_told_depends_on_what_the_provider_has() {
    use Desired::{Running, Stopped};
    let lost = |instance| InstanceView { wanted_generation: Generation(1), ..instance };
    let cause = |wish| waiting(vec![entry(4, wish)]);
    let resets = Wish::Replace { run: true, reset_session: true };
    let resets = waiting(vec![Entry { wish: resets, ..replacement(4, 3) }]);
    let stopped = |phase, reason| {
        let message = "it crashed".to_owned();
        with(WorkspaceRecord { desired: Stopped, phase, reason, message, ..record() })
    };
    let (crash, up) = (Some(Reason::CrashLoop), wants(Running, Phase::Up));
    let stop_for = |reason| Wish::Stop(Some((reason, "it crashed".to_owned())));
    let replace = |run, reset_session| Wish::Replace { run, reset_session };
    for (what, mut found, instance, wish, generation) in [
        ("nothing", idle(), None, Wish::Provision { run: true }, 3),
        ("another generation", idle(), Some(lost(put_back())), replace(true, false), 3),
        ("another, of a session to discard", resets, Some(put_back()), replace(true, true), 4),
        (
            "another, to be stopped",
            stopped(Phase::Stopped, None),
            Some(lost(wants(Stopped, Phase::Stopped))),
            replace(false, false),
            3,
        ),
        // it may have had other wishes meanwhile, which must not be heard under numbers that are free again
        ("what is wanted", idle(), Some(put_back()), Wish::Start, 2),
        ("one that has stopped", idle(), Some(wants(Stopped, Phase::Stopped)), Wish::Start, 2),
        ("one that has failed", idle(), Some(wants(Stopped, Phase::Failed)), replace(true, false), 3),
        ("one on its way down", idle(), Some(wants(Stopped, Phase::Stopping)), Wish::Start, 2),
        ("one that was to stop", idle(), Some(wants(Stopped, Phase::Up)), Wish::Start, 2),
        ("one that runs", stopped(Phase::Stopped, None), Some(up.clone()), Wish::Stop(None), 2),
        (
            "one that was stopped for another reason",
            stopped(Phase::Stopped, crash),
            Some(up.clone()),
            Wish::Stop(None),
            2,
        ),
        (
            "one that had failed",
            stopped(Phase::Failed, crash),
            Some(up.clone()),
            stop_for(Reason::CrashLoop),
            2,
        ),
        (
            "one that had failed, and has",
            stopped(Phase::Failed, crash),
            Some(wants(Running, Phase::Failed)),
            Wish::Stop(None),
            2,
        ),
        ("one that is to fail", cause(caused()), Some(up), caused(), 2),
        (
            "one that has stopped and is to fail",
            cause(caused()),
            Some(wants(Stopped, Phase::Stopped)),
            caused(),
            2,
        ),
    ] {
        let number = found.record.intent.next();
        assert_eq!(agree(&mut found, instance.as_ref(), KNOWN, false).0, Verdict::TellAgain, "{what}");
        let [told] = &found.outbox[..] else { panic!("{what}: {:?}", found.outbox) };
        let minted = if wish.launches() { minted(generation).0 } else { vec![] };
        assert_eq!((&told.wish, &told.sealed_token), (&wish, &minted), "{what}");
        let generation = Generation(generation);
        assert_eq!((told.number, told.generation), (number, generation), "{what}");
        assert_eq!((found.record.intent, found.record.highest), (number, generation), "{what}");
    }
}

#[test]
fn a_wish_that_waits_does_not_bring_back_a_generation_that_was_lost() {
    let lost = InstanceView { intent: IntentNumber(3), wanted_generation: Generation(1), ..view() };
    let mut found = waiting(vec![entry(4, Wish::Start)]);
    assert_eq!(agree(&mut found, Some(&lost), KNOWN, false).0, Verdict::TellAgain);
    assert_eq!(found.outbox[0].wish, Wish::Replace { run: true, reset_session: false });
    // but the one that it brings itself it does
    let mut found = waiting(vec![replacement(4, 3)]);
    let before = found.outbox.clone();
    assert_eq!(agree(&mut found, Some(&view()), KNOWN, false).0, Verdict::Same);
    assert_eq!(found.outbox, before);
}

/// It was still on its way down when the two agreed.
#[test]
fn a_start_of_what_has_failed_since_becomes_a_replacement() {
    let failed = InstanceView { phase: Phase::Failed, desired: Some(Desired::Stopped), ..view() };
    let start = Entry { retold: true, begun: true, ..entry(4, Wish::Start) };
    let mut found = waiting(vec![start.clone()]);
    assert_eq!(agree(&mut found, Some(&failed), KNOWN, false).0, Verdict::TellAgain);
    let again = &found.outbox[0];
    assert_eq!((&again.wish, again.retold), (&Wish::Replace { run: true, reset_session: false }, true));
    assert_eq!((again.number, again.generation), (IntentNumber(5), Generation(3)));
    // what a client asks for is refused instead, and one that was heard is no more in the way
    let asked = Entry { retold: false, ..start.clone() };
    let heard = InstanceView { intent: IntentNumber(4), ..failed.clone() };
    let stopping = InstanceView { phase: Phase::Stopping, ..failed.clone() };
    for (what, start, instance) in
        [("asked for", asked, failed), ("heard", start.clone(), heard), ("on its way down", start, stopping)]
    {
        let mut found = waiting(vec![start.clone()]);
        assert_eq!(agree(&mut found, Some(&instance), KNOWN, false).0, Verdict::Same, "{what}");
        let wishes: Vec<_> = found.outbox.iter().map(|one| (one.number, &one.wish, one.retold)).collect();
        assert_eq!(wishes, [(start.number, &start.wish, start.retold)], "{what}");
    }
}

#[test]
fn the_number_is_one_that_nothing_else_was_told_by() {
    // the provider wants another generation under a number that waits here, too
    let mut found = waiting(vec![replacement(4, 3)]);
    let other = InstanceView { intent: IntentNumber(4), ..view() };
    assert_eq!(agree(&mut found, Some(&other), KNOWN, false).0, Verdict::TellAgain);
    assert_eq!((found.outbox[0].number, found.record.intent), (IntentNumber(5), IntentNumber(5)));
}

#[test]
fn what_is_deleted_here_is_deleted_there() {
    let deleting = |number| WorkspaceRecord {
        desired: Desired::Deleted,
        phase: Phase::Stopping,
        message: "stopping".to_owned(),
        intent: IntentNumber(number),
        ..record()
    };
    for (intent, number) in [(1, 3), (2, 3), (3, 4), (7, 8)] {
        let instance = InstanceView { intent: IntentNumber(intent), ..view() };
        let mut found = with(deleting(3));
        let effects = SideEffects { visible: true, ..SideEffects::default() };
        assert_eq!(agree(&mut found, Some(&instance), KNOWN, true), (Verdict::DeleteAgain, effects));
        let one = entry(number, Wish::Delete);
        let one = Entry {
            asked_at: NOW,
            trace: "of wish 3".to_owned(),
            requests: vec![],
            undo: Undo { desired: Desired::Deleted, ..one.undo.clone() },
            retold: true,
            begun: true,
            ..one
        };
        let record = WorkspaceRecord { pending: Some(pending(100, "")), ..deleting(number) };
        assert_eq!(found, Workspace { outbox: vec![one], ..with(record) }, "{intent}");
    }
}

#[test]
fn a_stop_that_waits_is_told_though_a_suspension_has_stopped_it() {
    let reason = Some(Reason::OrganizationSuspended);
    let suspended = InstanceView { reason, ..wants(Desired::Stopped, Phase::Stopped) };
    let mut found = waiting(vec![entry(4, Wish::Stop(None))]);
    // also where the two agree once more before it is told
    for number in [5, 6] {
        assert_eq!(agree(&mut found, Some(&suspended), KNOWN, false).0, Verdict::TellAgain);
        let told: Vec<_> = found.outbox.iter().map(|one| (one.number, &one.wish)).collect();
        assert_eq!(told, [(IntentNumber(number), &Wish::Stop(None))]);
    }
    // what nobody else has stopped goes on saying why
    let mut found =
        with(WorkspaceRecord { desired: Desired::Stopped, phase: Phase::Stopped, reason, ..record() });
    assert_eq!(agree(&mut found, Some(&suspended), KNOWN, false).0, Verdict::TellAgain);
    assert_eq!((found.outbox, found.record.reason), (vec![], reason));
}

/// What still counts as running may leave no room for what replaces it.
#[test]
fn what_runs_and_is_to_be_replaced_and_stopped_is_stopped_first() {
    let before = InstanceView { wanted_generation: Generation(1), ..wants(Desired::Running, Phase::Up) };
    let stopped = WorkspaceRecord { desired: Desired::Stopped, phase: Phase::Stopped, ..record() };
    let mut found = with(stopped);
    // also where the two agree once more before it is told
    for (number, generation) in [(4, 3), (6, 4)] {
        assert_eq!(agree(&mut found, Some(&before), KNOWN, false).0, Verdict::TellAgain);
        let told: Vec<_> = found.outbox.iter().map(|one| (one.number.0, &one.wish, one.retold)).collect();
        let replace = Wish::Replace { run: false, reset_session: false };
        assert_eq!(told, [(number, &Wish::Stop(None), true), (number + 1, &replace, true)]);
        assert_eq!(found.record.intent, IntentNumber(number + 1));
        assert_eq!(found.outbox[1].generation, Generation(generation));
        assert!(found.outbox.iter().all(|one| one.undo.generation == Generation(2)), "{:?}", found.outbox);
    }
}

/// A provider that was put back, and then to a later state, restarts nothing of what runs.
#[test]
fn a_generation_that_the_provider_has_after_all_is_not_told_again() {
    use Desired::{Running, Stopped};
    for (desired, wish) in [(Running, Wish::Start), (Stopped, Wish::Stop(None))] {
        let mut found = with(WorkspaceRecord { desired, ..record() });
        assert_eq!(agree(&mut found, None, KNOWN, false).0, Verdict::TellAgain);
        assert_eq!((found.record.generation, found.record.highest), (Generation(3), Generation(3)));
        let later = InstanceView { intent: IntentNumber(3), ..wants(Running, Phase::Up) };
        assert_eq!(agree(&mut found, Some(&later), KNOWN, false).0, Verdict::TellAgain);
        let [told] = &found.outbox[..] else { panic!("{:?}", found.outbox) };
        assert_eq!((&told.wish, told.generation), (&wish, Generation(2)));
        assert_eq!((found.record.generation, found.record.highest), (Generation(2), Generation(3)));
        // once it was heard it is the generation
        let mut found = with(WorkspaceRecord { desired, ..record() });
        assert_eq!(agree(&mut found, None, KNOWN, false).0, Verdict::TellAgain);
        let heard = InstanceView {
            intent: IntentNumber(4),
            wanted_generation: Generation(3),
            desired: Some(desired),
            ..view()
        };
        assert_eq!(agree(&mut found, Some(&heard), KNOWN, false).0, Verdict::Same);
        assert_eq!(found.record.generation, Generation(3));
    }
}

/// What a later wish came to may be said in a word that this version does not know, and lost by the provider after that.
#[test]
fn what_was_adopted_in_unknown_words_is_told_as_the_provider_had_it_last() {
    let unknown = InstanceView {
        intent: IntentNumber(5),
        desired: None,
        phase: Phase::Booting,
        in_unknown_state: true,
        ..view()
    };
    let stopped = WorkspaceRecord { desired: Desired::Stopped, phase: Phase::Stopped, ..record() };
    let mut adopted = with(stopped);
    assert_eq!(agree(&mut adopted, Some(&unknown), KNOWN, true).0, Verdict::Adopt);
    assert_eq!((adopted.record.desired, adopted.record.wanted_is_unknown), (Desired::Stopped, true));
    let before = InstanceView { intent: IntentNumber(4), ..wants(Desired::Running, Phase::Up) };
    let mut found = adopted.clone();
    assert_eq!(agree(&mut found, Some(&before), KNOWN, false).0, Verdict::TellAgain);
    assert_eq!((found.record.desired, &found.outbox[0].wish), (Desired::Running, &Wish::Start));
    // once its words are known, it says itself what it is to be
    let known = InstanceView { desired: Some(Desired::Running), in_unknown_state: false, ..unknown };
    assert_eq!(agree(&mut adopted, Some(&known), KNOWN, false).0, Verdict::Same);
    assert_eq!((adopted.record.desired, adopted.record.wanted_is_unknown), (Desired::Running, false));
}
