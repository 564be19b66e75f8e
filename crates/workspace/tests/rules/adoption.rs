//! Wishes that give way to later ones of which the provider had heard, or get numbers above those.

use molecule_domain::id::{Generation, IntentNumber, Revision};
use molecule_domain::incarnation::Incarnation;
use molecule_domain::instance::InstanceView;
use molecule_domain::lifecycle::Desired;
use molecule_domain::spec::WorkspaceSpec;
use molecule_domain::tier::Tier;
use molecule_workspace::aggregate::{Revoke, SideEffects};
use molecule_workspace::agreement::{Meetings, Verdict};
use molecule_workspace::record::AgentRecord;
use molecule_workspace::undo::Undo;
use molecule_workspace::{Entry, Wish, Workspace, WorkspaceRecord};

use crate::world::{
    KNOWN, NOW, agent, agree, entry, event, idle, minted, own, pending, replacement, sealed, spec, start_id,
    terms, view, waiting, with,
};

fn baker() -> WorkspaceSpec {
    WorkspaceSpec { name: "baker".to_owned(), ..spec() }
}

/// A wish that made [`baker`] of the workspace.
fn renames(entry: Entry) -> Entry {
    Entry { spec: baker(), ..entry }
}

/// A wish that found it so.
fn as_baker(entry: Entry) -> Entry {
    let undo = Undo { spec: baker(), generation: Generation(3), ..entry.undo };
    Entry { spec: baker(), generation: Generation(3), undo, ..entry }
}

fn has(intent: i64, wanted: u32) -> InstanceView {
    InstanceView { intent: IntentNumber(intent), wanted_generation: Generation(wanted), ..view() }
}

/// What any record of the provider's makes worthless, and watchers see.
fn visible() -> SideEffects {
    SideEffects { visible: true, revoke: Revoke::Before(Generation(2)), ..SideEffects::default() }
}

/// What is told of a wish that gives way.
fn given_way(number: i64, name: &str, generation: u32) -> SideEffects {
    let message = format!(
        "the {name} is not carried out: after a restore it turned out that something else was asked for later"
    );
    SideEffects {
        events: vec![event("taken_back", generation, &message)],
        forget_requests: vec![format!("request {number}")],
        taken_back: vec![IntentNumber(number)],
        ..visible()
    }
}

#[test]
fn a_wish_gives_way_silently_where_what_was_asked_for_later_is_the_same() {
    let start_of = |generation| Entry { generation: Generation(generation), ..entry(4, Wish::Start) };
    let stopped = Wish::Replace { run: false, reset_session: false };
    let stopped = Entry { wish: stopped, ..replacement(4, 3) };
    for (what, wish, wanted, told, taken_back) in [
        ("a start", start_of(2), 2, false, false),
        ("a start of a generation that was not", start_of(3), 2, false, false),
        ("a stop", entry(4, Wish::Stop(None)), 2, true, false),
        ("a generation that is wanted", replacement(4, 3), 3, false, false),
        ("a generation before that", replacement(4, 3), 4, false, false),
        ("a generation that is not to run", stopped, 3, true, false),
        ("a generation that it has not heard of", replacement(4, 3), 2, true, true),
    ] {
        let mut found = waiting(vec![renames(wish.clone())]);
        found.record.spec = baker();
        let before = found.record.clone();
        let effects = if told { given_way(4, wish.wish.name(), before.generation.0) } else { visible() };
        assert_eq!(
            agree(&mut found, Some(&has(9, wanted)), KNOWN, false),
            (Verdict::Adopt, effects),
            "{what}"
        );
        let record = WorkspaceRecord {
            spec: if taken_back { spec() } else { baker() },
            intent: IntentNumber(9),
            answered: IntentNumber(9),
            generation: Generation(wanted),
            highest: before.highest.max(Generation(wanted)),
            desired: Desired::Running,
            instance_revision: Revision(51),
            pending: None,
            ..before
        };
        assert_eq!(found, with(record), "{what}");
    }
}

#[test]
fn a_later_generation_is_adopted_with_what_it_is_made_of() {
    let mut found = idle();
    let other = InstanceView { runtime: "other".to_owned(), tier: Tier::T3, ..has(3, 3) };
    assert_eq!(agree(&mut found, Some(&other), KNOWN, false), (Verdict::Adopt, visible()));
    let record = WorkspaceRecord {
        spec: WorkspaceSpec { runtime: "other".to_owned(), tier: Tier::T3, ..spec() },
        generation: Generation(3),
        highest: Generation(3),
        instance_revision: Revision(51),
        ..idle().record
    };
    assert_eq!(found, with(record));
    // the wish that has its number there was another
    let mut found = waiting(vec![entry(4, Wish::Start), entry(5, Wish::Start)]);
    assert_eq!(agree(&mut found, Some(&has(4, 3)), KNOWN, false).0, Verdict::Adopt);
    let left = Entry { generation: Generation(3), ..entry(5, Wish::Start) };
    assert_eq!((found.outbox, found.record.answered), (vec![left], IntentNumber(4)));
}

#[test]
fn a_wish_whose_number_is_higher_waits_on() {
    // of the two with lower numbers one is granted; what the other has set, later wishes go back beyond
    let first = renames(replacement(4, 3));
    let first = Entry { undo: Undo { desired: Desired::Stopped, ..first.undo.clone() }, ..first };
    let next = as_baker(entry(5, Wish::Start));
    let mut found = waiting(vec![first, next]);
    found.record.spec = baker();
    let before = found.record.clone();
    let effects = given_way(4, "replace", 3);
    assert_eq!(agree(&mut found, Some(&has(5, 2)), KNOWN, false), (Verdict::Adopt, effects));
    let left = entry(5, Wish::Start);
    let left = Entry { undo: Undo { desired: Desired::Stopped, ..left.undo.clone() }, ..left };
    let record = WorkspaceRecord {
        spec: spec(),
        answered: IntentNumber(5),
        generation: Generation(2),
        instance_revision: Revision(51),
        pending: Some(pending(5, "")),
        ..before
    };
    assert_eq!(found, Workspace { outbox: vec![left], ..with(record) });
}

#[test]
fn a_generation_that_waits_on_keeps_what_it_is_made_of() {
    let mut found = waiting(vec![entry(4, Wish::Start), replacement(6, 3)]);
    let before = found.record.clone();
    let other = InstanceView { runtime: "other".to_owned(), tier: Tier::T3, ..has(5, 2) };
    assert_eq!(agree(&mut found, Some(&other), KNOWN, false), (Verdict::Adopt, visible()));
    let record = WorkspaceRecord {
        answered: IntentNumber(5),
        instance_revision: Revision(51),
        pending: Some(pending(6, "")),
        ..before
    };
    assert_eq!(found, Workspace { outbox: vec![replacement(6, 3)], ..with(record) });
}

#[test]
fn another_verdict_stands_though_wishes_gave_way() {
    // the generation that waits has a number that the provider has given to another wish
    let mut found = waiting(vec![entry(4, Wish::Start), replacement(5, 3)]);
    assert_eq!(agree(&mut found, Some(&has(5, 2)), KNOWN, false).0, Verdict::TellAgain);
    assert_eq!(found.outbox[0].number, IntentNumber(6));
}

/// This start began after the last agreement, so its wishes were never told.
fn untold() -> Meetings {
    Meetings { held: vec![Incarnation { id: own(), begins_at: Revision(0) }], ..Meetings::default() }
}

fn agree_untold(found: &mut Workspace, instance: &InstanceView, set_back: bool) -> (Verdict, SideEffects) {
    found.agree(Some(instance), KNOWN, &terms(&untold(), set_back), NOW)
}

fn pair() -> Workspace {
    waiting(vec![replacement(4, 3), Entry { generation: Generation(3), ..entry(5, Wish::Start) }])
}

#[test]
fn wishes_that_were_never_told_get_numbers_and_generations_above_those_given_to_others() {
    let mut found = pair();
    let before = found.clone();
    let other = InstanceView { generation: Generation(3), desired: Some(Desired::Stopped), ..has(4, 3) };
    let (sealed_token, hash) = minted(4);
    let effects = SideEffects {
        add_tokens: vec![(Generation(4), hash)],
        revoke: Revoke::Before(Generation(3)),
        ..visible()
    };
    assert_eq!(agree_untold(&mut found, &other, true), (Verdict::Same, effects));
    let [first, next] = &before.outbox[..] else { panic!() };
    let undo = Undo { desired: Desired::Stopped, ..first.undo.clone() };
    let (number, generation) = (IntentNumber(5), Generation(4));
    let outbox = vec![
        Entry { number, generation, sealed_token, undo, ..first.clone() },
        Entry { number: IntentNumber(6), generation, ..next.clone() },
    ];
    let record = WorkspaceRecord {
        intent: IntentNumber(6),
        answered: IntentNumber(4),
        generation,
        highest: generation,
        instance_generation: Generation(3),
        instance_revision: Revision(51),
        agent: AgentRecord { card: agent().card, ..AgentRecord::default() },
        ..before.record
    };
    assert_eq!(found, Workspace { outbox, ..with(record) });
}

#[test]
fn a_generation_above_those_given_to_others_stays() {
    let mut found = waiting(vec![replacement(4, 4)]);
    assert_eq!(agree_untold(&mut found, &has(4, 3), true).1.add_tokens, []);
    let expected = Entry { number: IntentNumber(5), ..replacement(4, 4) };
    assert_eq!(found.outbox, [expected]);
    assert_eq!((found.record.generation, found.record.highest), (Generation(4), Generation(4)));
}

#[test]
fn numbers_stay_where_none_was_given_to_others() {
    for (what, instance, set_back) in
        [("nothing was lost", has(3, 2), true), ("it was not put back", has(4, 3), false)]
    {
        let mut found = pair();
        assert_eq!(agree_untold(&mut found, &instance, set_back).0, Verdict::Same, "{what}");
        assert_eq!(found.outbox, pair().outbox, "{what}");
        assert_eq!(found.record.answered, IntentNumber(3), "{what}");
    }
}

#[test]
fn what_stands_before_wishes_that_were_never_told_gives_way() {
    let told = Entry { asked_in: start_id(9), ..renames(replacement(4, 3)) };
    let mut found = waiting(vec![told, as_baker(entry(5, Wish::Start))]);
    found.record.spec = baker();
    let before = found.record.clone();
    assert_eq!(agree_untold(&mut found, &has(6, 2), true), (Verdict::Same, given_way(4, "replace", 3)));
    let left = Entry { number: IntentNumber(7), ..entry(5, Wish::Start) };
    let record = WorkspaceRecord {
        spec: spec(),
        intent: IntentNumber(7),
        answered: IntentNumber(6),
        generation: Generation(2),
        instance_revision: Revision(51),
        pending: Some(pending(5, "")),
        ..before
    };
    assert_eq!(found, Workspace { outbox: vec![left], ..with(record) });
}

/// Each of them found what the one before had made: together they go back to what was before the first.
#[test]
fn wishes_that_give_way_leave_nothing_of_each_other() {
    let named = |name: &str| WorkspaceSpec { name: name.to_owned(), ..spec() };
    let first = Entry { spec: named("first"), ..replacement(4, 3) };
    let second = |number| {
        let second = replacement(number, 4);
        let undo = Undo { spec: named("first"), generation: Generation(3), ..second.undo };
        Entry { spec: named("second"), undo, ..second }
    };
    let private = |text| Some(sealed(text));
    let with_private = |entry: Entry, before| Entry { undo: Undo { private: before, ..entry.undo }, ..entry };
    let outbox = vec![with_private(first, private("granted")), with_private(second(5), private("first"))];
    for (what, behind) in [("the provider knows later ones", None), ("one was never told", Some(6))] {
        let mut found = waiting(outbox.clone());
        (found.record.spec, found.record.generation) = (named("second"), Generation(4));
        found.private = sealed("second");
        found.outbox.iter_mut().for_each(|told| told.asked_in = start_id(9));
        if let Some(number) = behind {
            let undo =
                Undo { spec: named("second"), generation: Generation(4), ..entry(number, Wish::Start).undo };
            found.outbox.push(Entry { spec: named("second"), undo, ..replacement(number, 5) });
        }
        agree_untold(&mut found, &has(7, 2), true);
        assert_eq!((found.record.spec.name.as_str(), &found.private), ("cook", &sealed("granted")), "{what}");
        let left: Vec<_> = found.outbox.iter().map(|left| left.spec.name.as_str()).collect();
        assert_eq!(left, vec!["cook"; usize::from(behind.is_some())], "{what}");
    }
}

/// Two processes over copies of one database have each told a wish under the same number.
#[test]
fn a_stop_whose_number_another_was_told_by_gets_one_of_its_own() {
    let stop = || entry(4, Wish::Stop(None));
    for (what, wishes, wanted) in [
        ("it was started", vec![stop()], 2),
        ("and what waits behind it", vec![stop(), entry(5, Wish::Start)], 2),
        ("it was replaced", vec![stop()], 3),
    ] {
        let mut found = waiting(wishes.clone());
        let intent = found.record.intent.next();
        let (verdict, effects) = agree(&mut found, Some(&has(4, wanted)), KNOWN, false);
        assert_eq!((verdict, effects.taken_back), (Verdict::Same, vec![]), "{what}");
        let renumbered = wishes.into_iter().zip(5..).map(|(wish, number)| Entry {
            number: IntentNumber(number),
            generation: Generation(wanted),
            ..wish
        });
        assert_eq!(found.outbox, renumbered.collect::<Vec<_>>(), "{what}");
        let record = &found.record;
        let numbers = (record.intent, record.answered, record.generation);
        assert_eq!(numbers, (intent, IntentNumber(4), Generation(wanted)), "{what}");
    }
    // what it was told itself stays under its number
    let stopped = InstanceView { desired: Some(Desired::Stopped), ..has(4, 2) };
    let mut found = waiting(vec![stop()]);
    assert_eq!(agree(&mut found, Some(&stopped), KNOWN, false).0, Verdict::Same);
    assert_eq!(found.outbox, [stop()]);
}
