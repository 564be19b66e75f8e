//! What a refusal takes back.

use molecule_domain::error::ErrorReason;
use molecule_domain::id::{Generation, IntentNumber};
use molecule_domain::launch::Mount;
use molecule_domain::lifecycle::{Desired, Readiness};
use molecule_domain::spec::WorkspaceSpec;
use molecule_domain::tier::Tier;
use molecule_workspace::aggregate::{Answer, Change, Refusal, Revoke, SideEffects};
use molecule_workspace::private::SealedParts;
use molecule_workspace::undo::Undo;
use molecule_workspace::{Entry, Wish, Workspace, WorkspaceRecord};

use crate::world::{
    NOW, entry, event, own, pending, replacement, sealed, spec, start_id, waiting, went, with, workspace_id,
};

fn refuse(found: &mut Workspace, number: i64) -> SideEffects {
    let refusal = Refusal { reason: ErrorReason::InvalidField, message: "no".to_owned() };
    found.answered(IntentNumber(number), &Answer::Refused(refusal), NOW, own())
}

fn taken_back(generation: u32, message: &str, request: &str) -> SideEffects {
    SideEffects {
        visible: true,
        events: vec![event("taken_back", generation, message)],
        forget_requests: vec![request.to_owned()],
        ..SideEffects::default()
    }
}

/// Every field is another than in [`spec`].
fn other() -> WorkspaceSpec {
    WorkspaceSpec {
        name: "baker".to_owned(),
        runtime: "other".to_owned(),
        tier: Tier::T3,
        labels: [("shift".to_owned(), "night".to_owned())].into(),
        parent: Some(workspace_id(2)),
        role: "bakes".to_owned(),
        env: [("OVEN".to_owned(), "hot".to_owned())].into(),
        mount: Mount::ReadOnly("/recipes".to_owned()),
        readiness: Some(Readiness::Process),
    }
}

/// A replacement that brought generation 3, all of [`other`], other private parts and another readiness.
fn change_of_all() -> Entry {
    let one = replacement(4, 3);
    let undo = Undo { private: Some(sealed("before")), ..one.undo.clone() };
    Entry { spec: other(), undo, ..one }
}

fn changed(outbox: Vec<Entry>) -> Workspace {
    let mut found = waiting(outbox);
    found.record.spec = other();
    found.record.readiness = Readiness::Process;
    found
}

#[test]
fn a_workspace_whose_creation_is_refused_is_deleted() {
    let mut found = waiting(vec![entry(4, Wish::Provision { run: true }), entry(5, Wish::Start)]);
    let before = found.record.clone();
    let message = "it was refused: no";
    let effects = SideEffects {
        visible: true,
        events: vec![event("deleted", 2, message)],
        revoke: Revoke::All,
        forget_requests: vec!["request 4".to_owned(), "request 5".to_owned()],
        ..SideEffects::default()
    };
    assert_eq!(refuse(&mut found, 4), effects);
    let record = WorkspaceRecord { refused: true, ..went(before, message) };
    assert_eq!(found, with(record));
}

#[test]
fn a_wish_that_changed_nothing_but_what_is_wanted_leaves_the_rest() {
    let start = entry(4, Wish::Start);
    let undo = Undo { desired: Desired::Stopped, ..start.undo.clone() };
    let mut found = waiting(vec![Entry { undo, ..start }]);
    let before = found.record.clone();
    let message = "the start was refused, and is taken back: no";
    assert_eq!(refuse(&mut found, 4), taken_back(2, message, "request 4"));
    assert_eq!(found, with(WorkspaceRecord { desired: Desired::Stopped, pending: None, ..before }));
}

#[test]
fn all_that_a_wish_changed_is_taken_back() {
    let mut found = changed(vec![change_of_all()]);
    let before = found.record.clone();
    let message = "the replace was refused, and is taken back: no";
    assert_eq!(refuse(&mut found, 4), taken_back(3, message, "request 4"));
    let record = WorkspaceRecord {
        spec: spec(),
        readiness: Readiness::Agent,
        generation: Generation(2),
        pending: None,
        ..before
    };
    assert_eq!(found, Workspace { private: sealed("before"), ..with(record) });
}

#[test]
fn what_was_asked_for_since_stays() {
    let mut found = changed(vec![change_of_all()]);
    found.record.spec.name = "brewer".to_owned();
    refuse(&mut found, 4);
    assert_eq!(found.record.spec, WorkspaceSpec { name: "brewer".to_owned(), ..spec() });
}

#[test]
fn a_stop_that_came_with_what_is_refused_is_told() {
    let one = change_of_all();
    let (stops, stop_requests) = (vec![IntentNumber(4)], vec!["request for the stop".to_owned()]);
    let undo = Undo { stops, stop_requests, ..one.undo.clone() };
    // whoever asked for the stop, and did not hear the answer, may ask again and hear that it stands
    let requests = vec!["request for the stop".to_owned(), "request 4".to_owned()];
    let one = Entry { number: IntentNumber(5), asked_in: start_id(9), requests, undo, ..one };
    let mut found = changed(vec![one]);
    let before = found.record.clone();
    let message = "the replace was refused, and is taken back; the stop that came with it stands: no";
    assert_eq!(refuse(&mut found, 5), taken_back(3, message, "request 4"));
    let record = WorkspaceRecord {
        spec: spec(),
        readiness: Readiness::Agent,
        generation: Generation(2),
        intent: IntentNumber(6),
        desired: Desired::Stopped,
        pending: Some(pending(100, "")),
        ..before
    };
    let stop = Entry {
        asked_at: NOW,
        asked_in: start_id(9),
        trace: "of wish 4".to_owned(),
        requests: vec!["request for the stop".to_owned()],
        ..entry(6, Wish::Stop(None))
    };
    assert_eq!(found, Workspace { private: sealed("before"), outbox: vec![stop], ..with(record) });
}

#[test]
fn a_stop_that_came_with_what_is_refused_is_held_by_the_wish_that_follows() {
    let one = entry(4, Wish::Start);
    let (stops, stop_requests) = (vec![IntentNumber(3)], vec!["request 3".to_owned()]);
    let requests = vec!["request 3".to_owned(), "request 4".to_owned()];
    let one = Entry { undo: Undo { stops, stop_requests, ..one.undo.clone() }, requests, ..one };
    let next = entry(5, Wish::Start);
    let next = Entry { undo: Undo { stops: vec![IntentNumber(5)], ..next.undo.clone() }, ..next };
    let mut found = waiting(vec![one, next.clone()]);
    let before = found.record.clone();
    let message = "the start was refused, and is taken back; the stop that came with it stands: no";
    assert_eq!(refuse(&mut found, 4), taken_back(2, message, "request 4"));
    let undo = Undo {
        desired: Desired::Stopped,
        stops: vec![IntentNumber(5), IntentNumber(3)],
        stop_requests: vec!["request 3".to_owned()],
        ..next.undo.clone()
    };
    // whoever asks for that stop again waits for what tells it
    let requests = vec!["request 5".to_owned(), "request 3".to_owned()];
    let record = WorkspaceRecord { pending: Some(pending(5, "")), ..before };
    assert_eq!(found, Workspace { outbox: vec![Entry { undo, requests, ..next }], ..with(record) });
}

#[test]
fn a_wish_that_follows_goes_back_to_what_was_before_both() {
    let stopped = |entry: Entry| {
        let undo = Undo { desired: Desired::Stopped, ..entry.undo };
        Entry { undo, ..entry }
    };
    let next = replacement(5, 4);
    let undo = Undo {
        spec: other(),
        readiness: Readiness::Process,
        generation: Generation(3),
        private: Some(sealed("between")),
        ..next.undo.clone()
    };
    let asked = WorkspaceSpec { name: "brewer".to_owned(), ..other() };
    let next = Entry { spec: asked.clone(), undo, ..next };
    let mut found = changed(vec![stopped(change_of_all()), next.clone()]);
    found.record.spec.clone_from(&asked);
    let before = found.clone();
    refuse(&mut found, 4);
    let left = WorkspaceSpec { name: "brewer".to_owned(), ..spec() };
    let undo = Undo {
        spec: spec(),
        desired: Desired::Stopped,
        generation: Generation(2),
        private: Some(sealed("before")),
        ..next.undo.clone()
    };
    let outbox = vec![Entry { spec: left.clone(), undo, ..next }];
    // it brings a generation of its own, and what makes that ready
    let record = WorkspaceRecord { spec: left, pending: Some(pending(5, "")), ..before.record };
    assert_eq!(found, Workspace { record, outbox, private: before.private });
}

#[test]
fn a_wish_that_follows_is_about_the_generation_before() {
    let next = Entry { generation: Generation(3), ..entry(5, Wish::Stop(None)) };
    let undo = Undo { spec: other(), generation: Generation(3), ..next.undo.clone() };
    let mut found = changed(vec![change_of_all(), Entry { undo, ..next }]);
    refuse(&mut found, 4);
    assert_eq!((found.record.generation, found.record.readiness), (Generation(2), Readiness::Agent));
    assert_eq!(found.outbox, [entry(5, Wish::Stop(None))]);
    assert_eq!(found.record.desired, Desired::Stopped);
}

#[test]
fn private_parts_that_a_later_wish_replaced_are_that_ones_to_give_back() {
    let before = |entry: Entry, private: Option<&str>| {
        let private = private.map(sealed);
        Entry { undo: Undo { private, ..entry.undo.clone() }, ..entry }
    };
    for (first, later, given_back, now) in [
        (Some("first"), Some("second"), Some("first"), "private"),
        (None, Some("second"), Some("second"), "private"),
        (Some("first"), None, None, "first"),
        (None, None, None, "private"),
    ] {
        let mut found = waiting(vec![before(replacement(4, 3), first), before(replacement(5, 4), later)]);
        refuse(&mut found, 4);
        let given_back = given_back.map(sealed);
        assert_eq!(found.outbox[0].undo.private, given_back, "{first:?}, {later:?}");
        assert_eq!(found.private, sealed(now), "{first:?}, {later:?}");
    }
}

#[test]
fn of_private_parts_those_go_back_that_the_refused_wish_changed() {
    let parts = |config: &str, secrets: &str| SealedParts {
        config_files: config.as_bytes().to_vec(),
        secrets: secrets.as_bytes().to_vec(),
    };
    let changes = |entry: Entry, before: SealedParts| Entry {
        undo: Undo { private: Some(before), ..entry.undo.clone() },
        ..entry
    };
    // the first wish changed the config files; the second the secrets, the third both
    let first = changes(replacement(4, 3), parts("c0", "s0"));
    let second = changes(replacement(5, 4), parts("c1", "s0"));
    let third = changes(replacement(6, 5), parts("c1", "s1"));
    let mut found = waiting(vec![first, second, third]);
    found.private = parts("c2", "s2");
    refuse(&mut found, 4);
    let before: Vec<_> = found.outbox.iter().map(|entry| entry.undo.private.clone()).collect();
    assert_eq!(before, [Some(parts("c0", "s0")), Some(parts("c0", "s1"))]);
    assert_eq!(found.private, parts("c2", "s2"));
    refuse(&mut found, 6);
    assert_eq!(found.private, parts("c0", "s1"));
    refuse(&mut found, 5);
    assert_eq!(found.private, parts("c0", "s0"));
}

#[test]
fn what_makes_it_ready_goes_back_where_it_was_changed() {
    // another wish's refusal changes nothing of it
    let start = entry(4, Wish::Start);
    let undo = Undo { readiness: Readiness::Process, ..start.undo.clone() };
    let mut found = waiting(vec![Entry { undo, ..start }]);
    found.record.readiness = Readiness::Process;
    refuse(&mut found, 4);
    assert_eq!(found.record.readiness, Readiness::Process);
}

#[test]
fn an_instance_finds_nothing_of_what_waits_to_replace_it() {
    let seen = |found: &Workspace, generation| {
        let found = found.clone().as_of(Generation(generation));
        (found.record.spec, found.private)
    };
    // the fourth wish made the other spec of it, the fifth brought other private parts once more, and a stop waits behind
    let first = change_of_all();
    let second = Entry { spec: other(), ..replacement(5, 4) };
    let undo =
        Undo { spec: other(), generation: Generation(3), private: Some(sealed("third")), ..second.undo };
    let stop = Entry { generation: Generation(4), spec: other(), ..entry(6, Wish::Stop(None)) };
    let found =
        Workspace { private: sealed("fourth"), ..changed(vec![first, Entry { undo, ..second }, stop]) };
    assert_eq!(seen(&found, 4), (other(), sealed("fourth")));
    assert_eq!(seen(&found, 3), (other(), sealed("third")));
    assert_eq!(seen(&found, 2), (spec(), sealed("before")));
    // what was set besides stays, and what was granted is in the outbox no more
    let mut found = changed(vec![change_of_all()]);
    found.record.spec.name = "brewer".to_owned();
    assert_eq!(seen(&found, 2).0, WorkspaceSpec { name: "brewer".to_owned(), ..spec() });
    found.outbox.clear();
    assert_eq!(seen(&found, 2), (WorkspaceSpec { name: "brewer".to_owned(), ..other() }, sealed("private")));
}

#[test]
fn only_a_launch_that_may_be_refused_has_an_answer_to_share() {
    let shared = |one: Entry| waiting(vec![one]).shares_answer_of(&Change::default());
    assert_eq!(shared(replacement(4, 3)), Some(IntentNumber(4)));
    // it tells again what was granted
    assert_eq!(shared(Entry { retold: true, ..replacement(4, 3) }), None);
    // that asks for nothing that an update could ask for
    assert_eq!(shared(entry(4, Wish::Start)), None);
}

#[test]
fn nothing_is_left_of_what_may_be_refused_once_it_is() {
    let stop = Entry { generation: Generation(3), spec: other(), ..entry(5, Wish::Stop(None)) };
    let found = changed(vec![change_of_all(), stop]).if_refused();
    assert_eq!((found.record.spec, found.private), (spec(), sealed("before")));
    assert_eq!(found.outbox, [entry(5, Wish::Stop(None))]);
    // what tells again what was granted is not refused
    let retold = Entry { retold: true, ..change_of_all() };
    assert_eq!(changed(vec![retold]).if_refused().record.spec, other());
}
