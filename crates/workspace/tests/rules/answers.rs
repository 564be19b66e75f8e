//! What the provider's answers, and its silence, make of the wishes that wait.

use molecule_domain::error::ErrorReason;
use molecule_domain::id::{IntentNumber, Revision};
use molecule_domain::instance::InstanceView;
use molecule_domain::lifecycle::Phase;
use molecule_workspace::aggregate::{Answer, Refusal, Revoke, SideEffects};
use molecule_workspace::{Entry, Wish, Workspace, WorkspaceRecord};

use crate::world::{NOW, entry, event, own, pending, replacement, second, view, waiting, went, with};

fn refused() -> Answer {
    Answer::Refused(Refusal { reason: ErrorReason::InvalidField, message: "no".to_owned() })
}

/// The provider's word of a time before: the mirror learns nothing from it.
fn granted() -> Answer {
    Answer::Granted(InstanceView { desired: None, revision: Revision(49), ..view() })
}

fn answer(found: &mut Workspace, number: i64, answer: &Answer) -> SideEffects {
    found.answered(IntentNumber(number), answer, NOW, own())
}

fn visible() -> SideEffects {
    SideEffects { visible: true, ..SideEffects::default() }
}

/// A stop, a start and a deletion.
fn three() -> Workspace {
    let begun = Entry { begun: true, ..entry(4, Wish::Stop(None)) };
    let mut found = waiting(vec![begun, entry(5, Wish::Start), entry(6, Wish::Delete)]);
    found.record.pending = Some(pending(4, "busy"));
    found
}

#[test]
fn a_wish_that_is_granted_is_done_and_so_is_what_came_before() {
    for (number, left, waits) in [(4, 2, Some(pending(5, ""))), (5, 1, Some(pending(6, ""))), (6, 0, None)] {
        let (mut found, before) = (three(), three());
        assert_eq!(answer(&mut found, number, &granted()), visible());
        let record =
            WorkspaceRecord { answered: IntentNumber(number), pending: waits, ..before.record.clone() };
        let outbox = before.outbox[3 - left..].to_vec();
        assert_eq!(found, Workspace { record, outbox, ..before }, "{number}");
    }
}

#[test]
fn an_answer_to_what_waits_no_longer_changes_nothing() {
    for late in [granted(), refused(), Answer::NotFound] {
        let mut found = three();
        assert_eq!(answer(&mut found, 3, &late), SideEffects::default(), "{late:?}");
        assert_eq!(found, three(), "{late:?}");
    }
}

#[test]
fn the_mirror_learns_from_a_grant() {
    let mut found = three();
    let booting = InstanceView { phase: Phase::Booting, ..view() };
    let effects = answer(&mut found, 3, &Answer::Granted(booting));
    assert!(effects.visible);
    assert_eq!((found.record.phase, found.outbox.len()), (Phase::Booting, 3));
}

#[test]
fn what_the_provider_does_not_have_is_deleted() {
    let (mut found, before) = (three(), three());
    let message = "deleted; the provider has nothing of it";
    let events = vec![event("deleted", 2, message)];
    let effects = SideEffects { revoke: Revoke::All, events, ..visible() };
    assert_eq!(answer(&mut found, 6, &Answer::NotFound), effects);
    let record = WorkspaceRecord { answered: IntentNumber(6), ..went(before.record, message) };
    assert_eq!(found, with(record));
    // the first time counts
    let mut found = three();
    found.record.deleted_at = Some(second(50));
    answer(&mut found, 6, &Answer::NotFound);
    assert_eq!(found.record.deleted_at, Some(second(50)));
}

#[test]
fn of_what_the_provider_does_not_have_only_the_deletion_is_told() {
    let (mut found, before) = (three(), three());
    assert_eq!(answer(&mut found, 5, &Answer::NotFound), visible());
    let outbox = vec![before.outbox[0].clone(), before.outbox[2].clone()];
    assert_eq!(found, Workspace { outbox, ..before });
    let mut found = waiting(vec![entry(4, Wish::Stop(None)), entry(5, Wish::Start)]);
    let before = found.clone();
    assert_eq!(answer(&mut found, 4, &Answer::NotFound), SideEffects::default());
    assert_eq!(found, before);
}

#[test]
fn what_stands_is_not_refused() {
    for wish in [Wish::Stop(None), Wish::Delete] {
        let mut found = waiting(vec![entry(4, wish), entry(5, Wish::Delete)]);
        let before = found.clone();
        assert_eq!(answer(&mut found, 4, &refused()), SideEffects::default());
        assert_eq!(found, before);
    }
}

#[test]
fn what_is_told_again_and_refused_gives_way_where_the_next_wish_needs_none_of_it() {
    let retold = |entry| Entry { retold: true, ..entry };
    let replace = || retold(replacement(4, 3));
    let provision = || retold(entry(4, Wish::Provision { run: true }));
    let stop = |number| entry(number, Wish::Stop(None));
    let (start, delete) = (entry(5, Wish::Start), entry(6, Wish::Delete));
    for (what, outbox, gives_way) in [
        ("nothing follows", vec![replace()], false),
        ("nothing follows a stop", vec![retold(stop(4))], false),
        ("a stop follows", vec![replace(), stop(5)], true),
        ("a start follows", vec![replace(), start.clone()], false),
        ("a stop follows later", vec![replace(), start.clone(), stop(6)], false),
        ("it is deleted in the end", vec![replace(), start.clone(), delete.clone()], true),
        ("a first instance is stopped", vec![provision(), stop(5)], false),
        ("a first instance is deleted", vec![provision(), start, delete], true),
    ] {
        let mut found = waiting(outbox);
        let mut expected = found.clone();
        if gives_way {
            expected.outbox.remove(0);
            expected.record.pending = Some(pending(5, ""));
        }
        let effects = SideEffects { visible: gives_way, ..SideEffects::default() };
        assert_eq!(answer(&mut found, 4, &refused()), effects, "{what}");
        assert_eq!(found, expected, "{what}");
    }
    // one that stands behind another is known by its place
    let mut found = waiting(vec![stop(3), replace(), stop(5)]);
    answer(&mut found, 4, &refused());
    assert_eq!(found.outbox, [stop(3), stop(5)]);
}

#[test]
fn why_a_wish_waits_is_seen_once() {
    let mut found = waiting(vec![entry(4, Wish::Stop(None)), entry(5, Wish::Start)]);
    for (number, cause, visible, known) in [
        (3, "gone already", false, ""),
        (4, "busy", true, "busy"),
        (4, "busy", false, "busy"),
        (3, "gone already", false, "busy"),
        (5, "no answer", true, "no answer"),
    ] {
        let effects = SideEffects { visible, ..SideEffects::default() };
        assert_eq!(found.call_failed(IntentNumber(number), cause), effects, "{number}, {cause}");
        assert_eq!(found.record.pending, Some(pending(4, known)), "{number}, {cause}");
    }
}
