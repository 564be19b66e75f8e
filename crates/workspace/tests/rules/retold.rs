//! What the provider is told again that it had granted, and lost.

use molecule_domain::id::{Generation, IntentNumber, Revision};
use molecule_domain::instance::InstanceView;
use molecule_domain::lifecycle::{AgentHealth, Desired, Phase, Reason};
use molecule_workspace::aggregate::{Answer, Change, Revoke, SideEffects};
use molecule_workspace::agreement::Verdict;
use molecule_workspace::record::{AgentRecord, RequestKey, ToldAgain};
use molecule_workspace::undo::Undo;
use molecule_workspace::{Entry, Wish, Workspace, WorkspaceRecord};

use crate::world::{
    KNOWN, NOW, agree, caused, entry, idle, minted, own, pending, record, replacement, token, view, waiting,
    with,
};

const AS_THE_THIRD: Option<ToldAgain> =
    Some(ToldAgain { lost: Generation(2), by: Generation(3), runs: Generation(2) });

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
        told_again: AS_THE_THIRD,
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
        told_again: AS_THE_THIRD,
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
    let stopped = WorkspaceRecord { desired: Desired::Stopped, phase: Phase::Stopped, reason, ..record() };
    let mut found = with(stopped);
    assert_eq!(agree(&mut found, Some(&suspended), KNOWN, false).0, Verdict::TellAgain);
    assert_eq!((&found.outbox, found.record.reason), (&vec![], reason));
    // the stop was granted all the same: it is told where the provider is put back once more, to before the suspension
    assert_eq!(
        agree(&mut found, Some(&wants(Desired::Running, Phase::Up)), KNOWN, false).0,
        Verdict::TellAgain
    );
    assert_eq!(found.outbox.iter().map(|one| &one.wish).collect::<Vec<_>>(), [&Wish::Stop(None)]);
}

/// The provider has the generation, or has failed, so that what is told again would be another wish: but for the deletion behind it.
#[test]
fn a_deletion_stays_behind_what_is_told_again() {
    let deleted = |before: Entry| {
        let deletes = Entry { generation: before.generation, ..entry(before.number.0 + 1, Wish::Delete) };
        let mut found = waiting(vec![before, deletes]);
        found.record.desired = Desired::Deleted;
        found.record.generation = found.outbox[0].generation;
        found
    };
    let retold = |before| Entry { retold: true, begun: true, ..before };
    let failed = wants(Desired::Stopped, Phase::Failed);
    let failed = InstanceView { intent: IntentNumber(3), ..failed };
    for (what, mut found, instance) in [
        ("a replacement", deleted(retold(replacement(4, 3))), view()),
        (
            "a creation",
            deleted(retold(Entry { wish: Wish::Provision { run: true }, ..replacement(4, 3) })),
            view(),
        ),
        ("a start", deleted(retold(entry(4, Wish::Start))), failed),
    ] {
        let told = |found: &Workspace| -> Vec<_> {
            found.outbox.iter().map(|one| (one.number, one.wish.clone(), one.generation)).collect()
        };
        let before = told(&found);
        let instance = InstanceView { intent: IntentNumber(3), ..instance };
        assert_eq!(agree(&mut found, Some(&instance), KNOWN, false).0, Verdict::Same, "{what}");
        assert_eq!(told(&found), before, "{what}");
    }
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
        let heard = InstanceView { desired: Some(desired), ..third() };
        assert_eq!(agree(&mut found, Some(&heard), KNOWN, false).0, Verdict::Same);
        assert_eq!(found.record.generation, Generation(3));
        // it was lost again, and is told by a fourth, when the provider is put back to after it was heard
        assert_eq!(agree(&mut found, None, KNOWN, false).0, Verdict::TellAgain);
        let heard = InstanceView { desired: Some(Running), ..third() };
        assert_eq!(agree(&mut found, Some(&heard), KNOWN, false).0, Verdict::TellAgain);
        let [told] = &found.outbox[..] else { panic!("{:?}", found.outbox) };
        assert_eq!((&told.wish, told.generation), (&wish, Generation(3)));
        assert_eq!((found.record.generation, found.record.told_again), (Generation(3), AS_THE_THIRD));
    }
}

/// The generation by which the second is told again, which waits for what an operator decides.
fn third() -> InstanceView {
    InstanceView {
        intent: IntentNumber(4),
        generation: Generation(3),
        wanted_generation: Generation(3),
        desired: Some(Desired::Running),
        phase: Phase::Admitted,
        launched: false,
        reason: Some(Reason::UnknownLaunch),
        revision: Revision(60),
        ..view()
    }
}

/// The wrong backup was put back, which lacks the workspace: an instance of what is lost runs on, unknown, until that is known.
#[test]
fn what_the_wrong_backup_was_told_restarts_nothing_of_what_runs() {
    let granted = || {
        let mut found = idle();
        assert_eq!(agree(&mut found, None, KNOWN, false).0, Verdict::TellAgain);
        let effects = found.answered(IntentNumber(4), &Answer::Granted(third()), NOW, own());
        assert_eq!((found.outbox.len(), found.record.told_again), (0, AS_THE_THIRD));
        assert_eq!(effects.revoke, Revoke::Before(Generation(2)), "its credential is in use");
        found
    };
    let mut found = granted();
    let heard = found.reported(Generation(2), NOW, |agent| agent.active_tasks = 9);
    assert!(heard.is_some(), "its agent is heard");
    let news = InstanceView { revision: Revision(61), message: "waits".to_owned(), ..third() };
    found.take_over(&news, NOW, own(), &mut SideEffects::default());
    assert_eq!((found.record.agent.active_tasks, found.record.agent.generation), (9, Generation(2)));
    let right = InstanceView { intent: IntentNumber(3), ..view() };
    assert_eq!(agree(&mut found, Some(&right), KNOWN, false).0, Verdict::TellAgain);
    let told: Vec<_> = found.outbox.iter().map(|one| (&one.wish, one.generation)).collect();
    assert_eq!(told, [(&Wish::Start, Generation(2))]);
    assert_eq!((found.record.generation, found.record.told_again), (Generation(2), None));

    // it has failed before it was launched: nothing says that the second is over
    let mut found = granted();
    let mut effects = SideEffects::default();
    let failed = InstanceView { phase: Phase::Failed, revision: Revision(61), ..third() };
    found.take_over(&failed, NOW, own(), &mut effects);
    assert_eq!((effects.revoke, found.record.told_again), (Revoke::Before(Generation(2)), AS_THE_THIRD));

    // once the third is launched, what is left of the second is over
    for phase in [Phase::Launching, Phase::Up] {
        let mut found = granted();
        let mut effects = SideEffects::default();
        let launched = InstanceView { phase, launched: true, revision: Revision(61), ..third() };
        found.take_over(&launched, NOW, own(), &mut effects);
        assert_eq!((effects.revoke, found.record.told_again), (Revoke::Before(Generation(3)), None));
        assert_eq!(found.record.agent.health, AgentHealth::NotConnected);
        assert_eq!(found.reported(Generation(2), NOW, |_| {}), None);
        assert_eq!(agree(&mut found, Some(&right), KNOWN, false).0, Verdict::TellAgain);
        assert_eq!(found.outbox[0].wish, Wish::Replace { run: true, reset_session: false });
    }

    // a client's replacement waited when it was lost: what runs is of the generation before
    let mut found = waiting(vec![replacement(4, 3)]);
    assert_eq!(agree(&mut found, None, KNOWN, false).0, Verdict::TellAgain);
    let fourth = InstanceView { intent: IntentNumber(5), generation: Generation(4), ..third() };
    let fourth = InstanceView { wanted_generation: Generation(4), ..fourth };
    let effects = found.answered(IntentNumber(5), &Answer::Granted(fourth), NOW, own());
    assert_eq!(effects.revoke, Revoke::Before(Generation(2)), "its credential is in use");
    assert!(found.reported(Generation(2), NOW, |_| {}).is_some());
    let told = ToldAgain { lost: Generation(3), by: Generation(4), runs: Generation(2) };
    assert_eq!(found.record.told_again, Some(told));
    for other in [1, 5] {
        assert_eq!(found.reported(Generation(other), NOW, |_| {}), None, "no instance of {other} may run");
    }

    // that it was launched at last is nothing that a client sees
    let third_is_up = InstanceView { launched: true, phase: Phase::Up, reason: None, ..third() };
    let mut found = with(WorkspaceRecord {
        intent: IntentNumber(4),
        answered: IntentNumber(4),
        generation: Generation(3),
        highest: Generation(3),
        instance_generation: Generation(3),
        agent: AgentRecord::default(),
        told_again: AS_THE_THIRD,
        ..record()
    });
    let (verdict, effects) = agree(&mut found, Some(&third_is_up), KNOWN, false);
    assert_eq!((verdict, effects.visible, found.record.told_again), (Verdict::Same, false, None));

    // a client has asked for another since
    let mut found = granted();
    let wish = Some(Wish::Replace { run: true, reset_session: false });
    let token = Some(token());
    found.change(Change { wish, token, ..Change::default() }, None::<&RequestKey>, NOW, own());
    found.outbox.clear();
    found.record.answered = IntentNumber(5);
    assert_eq!(agree(&mut found, Some(&right), KNOWN, false).0, Verdict::TellAgain);
    assert_eq!(found.outbox[0].wish, Wish::Replace { run: true, reset_session: false });
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
    // where a wish waits it says what is wanted
    let mut waits = waiting(vec![entry(6, Wish::Start)]);
    let third = InstanceView { wanted_generation: Generation(3), ..unknown.clone() };
    assert_eq!(agree(&mut waits, Some(&third), KNOWN, true).0, Verdict::Adopt);
    assert_eq!((waits.outbox.len(), waits.record.wanted_is_unknown), (1, false));
    let before = InstanceView { intent: IntentNumber(4), ..wants(Desired::Running, Phase::Up) };
    let mut found = adopted.clone();
    assert_eq!(agree(&mut found, Some(&before), KNOWN, false).0, Verdict::TellAgain);
    assert_eq!((found.record.desired, &found.outbox[0].wish), (Desired::Running, &Wish::Start));
    // once its words are known, it says itself what it is to be
    let known = InstanceView { desired: Some(Desired::Running), in_unknown_state: false, ..unknown };
    assert_eq!(agree(&mut adopted, Some(&known), KNOWN, false).0, Verdict::Same);
    assert_eq!((adopted.record.desired, adopted.record.wanted_is_unknown), (Desired::Running, false));
}

/// What has failed is replaced, whether or not it has the generation; but it is not created.
#[test]
fn what_has_failed_is_told_to_be_replaced() {
    let failed = InstanceView { intent: IntentNumber(3), ..wants(Desired::Stopped, Phase::Failed) };
    let replace = |run| Wish::Replace { run, reset_session: false };
    for (wish, verdict, told, number) in [
        (replace(true), Verdict::Same, replace(true), 4),
        (Wish::Provision { run: true }, Verdict::TellAgain, replace(true), 5),
        // it is down
        (replace(false), Verdict::TellAgain, Wish::Stop(None), 5),
        (Wish::Provision { run: false }, Verdict::TellAgain, Wish::Stop(None), 5),
    ] {
        let desired = wish.desired();
        let retold = Entry { retold: true, begun: true, wish: wish.clone(), ..replacement(4, 3) };
        let mut found = waiting(vec![retold]);
        (found.record.told_again, found.record.desired) = (AS_THE_THIRD, desired);
        assert_eq!(agree(&mut found, Some(&failed), KNOWN, false).0, verdict, "{wish:?}");
        let [now] = &found.outbox[..] else { panic!("{wish:?}: {:?}", found.outbox) };
        assert_eq!((&now.wish, now.number), (&told, IntentNumber(number)), "{wish:?}");
    }
    // of what the provider has, however early, nothing is created
    let first = InstanceView { intent: IntentNumber(1), generation: Generation(1), ..view() };
    let first = InstanceView { wanted_generation: Generation(1), ..first };
    let creates = Entry { retold: true, wish: Wish::Provision { run: true }, ..replacement(4, 3) };
    let mut found = waiting(vec![creates]);
    found.record.answered = IntentNumber(1);
    assert_eq!(agree(&mut found, Some(&first), KNOWN, false).0, Verdict::TellAgain);
    assert_eq!(found.outbox[0].wish, replace(true));
}
