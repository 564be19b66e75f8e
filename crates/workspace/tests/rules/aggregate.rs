//! What a client's requests make of a workspace.

use molecule_domain::error::ErrorReason;
use molecule_domain::id::{Generation, IntentNumber, OrganizationId, Revision};
use molecule_domain::lifecycle::{Desired, Phase, Readiness};
use molecule_domain::spec::WorkspaceSpec;
use molecule_workspace::aggregate::{Change, NewWorkspace, Revoke, SideEffects};
use molecule_workspace::record::AgentRecord;
use molecule_workspace::undo::Undo;
use molecule_workspace::{Entry, Wish, Workspace, WorkspaceRecord};

use crate::world::{
    NOW, caused, entry, event, gone, idle, key, own, pending, record, replacement, sealed, spec, token,
    waiting, went, with, workspace_id,
};

fn change(wish: Wish) -> Change {
    Change { wish: Some(wish), trace: "of the change".to_owned(), ..Change::default() }
}

fn ask(found: &mut Workspace, change: Change) -> SideEffects {
    found.change(change, Some(&key("request")), NOW, own())
}

const SEEN: SideEffects = SideEffects {
    visible: true,
    events: Vec::new(),
    add_tokens: Vec::new(),
    revoke: Revoke::None,
    forget_requests: Vec::new(),
    taken_back: Vec::new(),
};

fn renamed(name: &str) -> WorkspaceSpec {
    WorkspaceSpec { name: name.to_owned(), ..spec() }
}

#[test]
fn a_new_workspace_waits_to_be_provisioned() {
    let new = NewWorkspace {
        workspace: workspace_id(1),
        organization: OrganizationId::SELF_HOSTED,
        spec: spec(),
        readiness: Readiness::Process,
        private: sealed("private"),
        token: token(),
        trace: "of the creation".to_owned(),
    };
    let expected = |number| {
        let record = WorkspaceRecord {
            readiness: Readiness::Process,
            intent: IntentNumber(number),
            answered: IntentNumber(0),
            generation: Generation(1),
            highest: Generation(1),
            phase: Phase::Admitted,
            phase_since: NOW,
            message: "admitted".to_owned(),
            instance_generation: Generation(1),
            instance_revision: Revision(0),
            endpoint: None,
            agent: AgentRecord::default(),
            pending: Some(pending(100, "")),
            trace: "of the creation".to_owned(),
            created_at: NOW,
            updated_at: NOW,
            revision: Revision(0),
            ..record()
        };
        let provision = entry(number, Wish::Provision { run: true });
        let undo =
            Undo { readiness: Readiness::Process, generation: Generation(1), ..provision.undo.clone() };
        let provision = Entry {
            generation: Generation(1),
            sealed_token: b"sealed".to_vec(),
            asked_at: NOW,
            trace: "of the creation".to_owned(),
            requests: vec!["request".to_owned()],
            undo,
            ..provision
        };
        let effects = SideEffects { add_tokens: vec![(Generation(1), b"hash".to_vec())], ..SEEN };
        (Workspace { outbox: vec![provision], ..with(record) }, effects)
    };
    assert_eq!(Workspace::create(&new, Some(&key("request")), NOW, own(), None), expected(1));
    let refused = WorkspaceRecord { refused: true, ..gone() };
    let again = Workspace::create(&new, Some(&key("request")), NOW, own(), Some(&refused));
    assert_eq!(again, expected(4), "its number is above those that were refused");
}

#[test]
fn a_replacement_brings_the_generation_that_waits_untold_or_the_next() {
    let begun = |entry| Entry { begun: true, ..entry };
    for (what, outbox, expected) in [
        ("nothing waits", vec![], 6),
        ("a start waits", vec![entry(4, Wish::Start)], 6),
        ("a replacement waits", vec![replacement(4, 3)], 3),
        ("a provision waits", vec![entry(4, Wish::Provision { run: true })], 2),
        ("a replacement may be known", vec![begun(replacement(4, 3))], 6),
        ("a start may be known", vec![begun(entry(4, Wish::Start))], 6),
        ("the last one counts", vec![replacement(4, 3), entry(5, Wish::Start)], 6),
    ] {
        let mut found = waiting(outbox);
        found.record.highest = Generation(5);
        assert_eq!(found.next_generation(), Generation(expected), "{what}");
    }
}

#[test]
fn nothing_more_is_asked_of_what_is_being_deleted() {
    assert!(idle().refuse_deleting().is_ok());
    let refused = with(gone()).refuse_deleting().unwrap_err();
    let id = workspace_id(1);
    let message = format!("workspace {id} is deleted or being deleted; create another");
    assert_eq!((refused.reason, refused.message), (ErrorReason::WorkspaceDeleted, message));
}

#[test]
fn it_has_failed_where_it_did_or_is_told_to_and_nothing_replaces_it() {
    let (start, stop, cause) = (entry(4, Wish::Start), entry(4, Wish::Stop(None)), entry(4, caused()));
    for (what, phase, outbox, expected) in [
        ("it runs", Phase::Up, vec![], false),
        ("it failed", Phase::Failed, vec![], true),
        ("a start that can't help", Phase::Failed, vec![start], true),
        ("it is replaced", Phase::Failed, vec![replacement(4, 3)], false),
        ("a stop", Phase::Up, vec![stop], false),
        ("a stop with a cause", Phase::Up, vec![cause.clone()], true),
        ("replaced after that", Phase::Up, vec![cause.clone(), replacement(5, 3)], false),
        ("replaced, and then that", Phase::Failed, vec![replacement(4, 3), cause], true),
    ] {
        let mut found = waiting(outbox);
        found.record.phase = phase;
        assert_eq!(found.has_failed(), expected, "{what}");
    }
}

#[test]
fn what_the_provider_need_not_know_is_set_at_once() {
    let mut found = idle();
    let change = Change {
        wish: None,
        spec: Some((renamed("baker"), Readiness::Process)),
        private: Some(sealed("other")),
        token: None,
        trace: "of the change".to_owned(),
    };
    assert_eq!(ask(&mut found, change), SEEN);
    let expected = WorkspaceRecord {
        spec: renamed("baker"),
        readiness: Readiness::Process,
        intent: IntentNumber(4),
        trace: "of the change".to_owned(),
        ..record()
    };
    assert_eq!(found, Workspace { private: sealed("other"), ..with(expected) });
}

/// What a first wish is stored as.
fn stored(number: i64, wish: Wish) -> Entry {
    Entry {
        sealed_token: vec![],
        asked_at: NOW,
        trace: "of the change".to_owned(),
        requests: vec!["request".to_owned()],
        ..entry(number, wish)
    }
}

#[test]
fn a_wish_waits_for_the_provider() {
    let mut found = idle();
    assert_eq!(ask(&mut found, change(Wish::Stop(None))), SEEN);
    let expected = WorkspaceRecord {
        intent: IntentNumber(4),
        desired: Desired::Stopped,
        pending: Some(pending(100, "")),
        trace: "of the change".to_owned(),
        ..record()
    };
    let outbox = vec![stored(4, Wish::Stop(None))];
    assert_eq!(found, Workspace { outbox, ..with(expected) });
}

#[test]
fn a_replacement_brings_the_next_generation_and_knows_what_was_before() {
    let mut found = idle();
    found.record.highest = Generation(5);
    let wish = Wish::Replace { run: false, reset_session: true };
    let asked = Change {
        spec: Some((renamed("baker"), Readiness::Process)),
        private: Some(sealed("other")),
        token: Some(token()),
        ..change(wish.clone())
    };
    let effects = SideEffects { add_tokens: vec![(Generation(6), b"hash".to_vec())], ..SEEN };
    assert_eq!(ask(&mut found, asked), effects);
    let expected = WorkspaceRecord {
        spec: renamed("baker"),
        readiness: Readiness::Process,
        intent: IntentNumber(4),
        generation: Generation(6),
        highest: Generation(6),
        desired: Desired::Stopped,
        pending: Some(pending(100, "")),
        trace: "of the change".to_owned(),
        ..record()
    };
    let first = stored(4, wish);
    let undo = Undo { private: Some(sealed("private")), ..first.undo.clone() };
    let first = Entry {
        generation: Generation(6),
        spec: renamed("baker"),
        sealed_token: b"sealed".to_vec(),
        undo,
        ..first
    };
    assert_eq!(found, Workspace { private: sealed("other"), outbox: vec![first], ..with(expected) });
}

#[test]
fn a_wish_that_may_be_known_is_followed() {
    let mut found = waiting(vec![Entry { begun: true, ..entry(4, Wish::Stop(None)) }]);
    found.record.pending = Some(pending(4, "busy"));
    let before = found.clone();
    assert_eq!(ask(&mut found, change(Wish::Start)), SEEN);
    let next = stored(5, Wish::Start);
    let undo = Undo { desired: Desired::Stopped, ..next.undo.clone() };
    let record = WorkspaceRecord {
        intent: IntentNumber(5),
        desired: Desired::Running,
        trace: "of the change".to_owned(),
        ..before.record
    };
    let outbox = [before.outbox, vec![Entry { undo, ..next }]].concat();
    assert_eq!(found, Workspace { outbox, ..with(record) }, "and it is known still why the first waits");
}

/// What becomes of a wish that nobody was told, and that another one is composed with.
fn composed(last: Entry, wish: Wish, stops: &[i64]) -> Entry {
    let mut requests = last.requests;
    requests.push("request".to_owned());
    let stop_requests = stops.iter().map(|number| requests[usize::from(*number == 5)].clone()).collect();
    let stops = stops.iter().copied().map(IntentNumber).collect();
    Entry {
        number: last.number.next(),
        wish,
        trace: "of the change".to_owned(),
        requests,
        undo: Undo { stops, stop_requests, ..last.undo },
        ..last
    }
}

#[test]
fn wishes_that_nobody_was_told_become_one() {
    let (start, stop) = (Wish::Start, Wish::Stop(None));
    let keeping = |run| Wish::Replace { run, reset_session: false };
    for (last, asked, wish, stops) in [
        (entry(4, stop.clone()), start.clone(), start.clone(), &[4][..]),
        (entry(4, start.clone()), stop.clone(), stop.clone(), &[5]),
        (entry(4, stop.clone()), stop.clone(), stop.clone(), &[4, 5]),
        (entry(4, start.clone()), start.clone(), start, &[]),
        (replacement(4, 3), stop, keeping(false), &[5]),
        (replacement(4, 3), Wish::Delete, Wish::Delete, &[]),
    ] {
        let mut found = waiting(vec![last.clone()]);
        let before = found.clone();
        assert_eq!(ask(&mut found, change(asked.clone())), SEEN);
        let record = WorkspaceRecord {
            intent: IntentNumber(5),
            desired: wish.desired(),
            trace: "of the change".to_owned(),
            ..before.record
        };
        let outbox = vec![composed(last, wish, stops)];
        assert_eq!(found, Workspace { outbox, ..with(record) }, "{asked:?}");
    }
}

#[test]
fn a_replacement_that_is_composed_brings_its_spec_and_its_token() {
    let wish = Wish::Replace { run: true, reset_session: true };
    // the role was set after the wish that waits, and by none
    let meanwhile = WorkspaceSpec { role: "bakes".to_owned(), ..spec() };
    let asked = WorkspaceSpec { name: "baker".to_owned(), ..meanwhile.clone() };
    let told_before = |generation| {
        let last = replacement(4, generation);
        Entry { undo: Undo { private: Some(sealed("first")), ..last.undo.clone() }, ..last }
    };
    for (last, highest, generation, private) in [
        (entry(4, Wish::Start), 5, 6, "private"),
        (told_before(3), 3, 3, "first"),
        (Entry { undo: entry(4, Wish::Start).undo, ..told_before(3) }, 5, 3, "private"),
    ] {
        let mut found = waiting(vec![last.clone()]);
        found.record.spec.clone_from(&meanwhile);
        found.record.highest = Generation(highest);
        let before = found.clone();
        let change = Change {
            spec: Some((asked.clone(), Readiness::Process)),
            private: Some(sealed("other")),
            token: Some(token()),
            ..change(wish.clone())
        };
        let generation = Generation(generation);
        let effects = SideEffects { add_tokens: vec![(generation, b"hash".to_vec())], ..SEEN };
        assert_eq!(ask(&mut found, change), effects);
        let record = WorkspaceRecord {
            spec: asked.clone(),
            readiness: Readiness::Process,
            intent: IntentNumber(5),
            generation,
            highest: Generation(highest).max(generation),
            trace: "of the change".to_owned(),
            ..before.record
        };
        let one = composed(last, wish.clone(), &[]);
        let undo = Undo { spec: meanwhile.clone(), private: Some(sealed(private)), ..one.undo.clone() };
        let one = Entry { generation, spec: asked.clone(), sealed_token: b"sealed".to_vec(), undo, ..one };
        let expected = Workspace { private: sealed("other"), outbox: vec![one], ..with(record) };
        assert_eq!(found, expected, "{generation}");
    }
}

#[test]
fn what_the_provider_was_never_asked_for_is_deleted_at_once() {
    let mut found = waiting(vec![entry(4, Wish::Provision { run: true })]);
    let before = found.clone();
    let message = "it was deleted before the provider was asked for it";
    let effects = SideEffects { revoke: Revoke::All, events: vec![event("deleted", 2, message)], ..SEEN };
    assert_eq!(ask(&mut found, change(Wish::Delete)), effects);
    let record = WorkspaceRecord {
        intent: IntentNumber(5),
        trace: "of the change".to_owned(),
        ..went(before.record, message)
    };
    assert_eq!(found, with(record));
}
