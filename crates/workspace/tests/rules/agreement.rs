//! What an agreement makes of a workspace of which both sides know the same, or only one side knows.

use std::time::Duration;

use molecule_domain::event::EventDetail;
use molecule_domain::id::{Generation, IntentNumber, Revision};
use molecule_domain::instance::InstanceView;
use molecule_domain::lifecycle::{Desired, Phase, Readiness, Reason};
use molecule_domain::spec::WorkspaceSpec;
use molecule_domain::tier::Tier;
use molecule_workspace::agent::{Patience, Verdict as Judged, judge};
use molecule_workspace::aggregate::{Revoke, SideEffects};
use molecule_workspace::agreement::{Agreed, KnownAgents, Meetings, Verdict};
use molecule_workspace::record::AgentRecord;
use molecule_workspace::{Entry, Wish, Workspace, WorkspaceRecord};

use crate::world::{
    KNOWN, NOW, agent, agree, entry, event, gone, idle, own, pending, record, replacement, sealed, second,
    terms, view, waiting, with, workspace_id,
};

/// What any record of the provider's makes worthless.
fn revoked() -> SideEffects {
    SideEffects { revoke: Revoke::Before(Generation(2)), ..SideEffects::default() }
}

fn visible() -> SideEffects {
    SideEffects { visible: true, ..revoked() }
}

fn deleting() -> WorkspaceRecord {
    WorkspaceRecord { desired: Desired::Deleted, phase: Phase::Stopping, ..record() }
}

#[test]
fn where_both_know_the_same_nothing_is_seen() {
    // the provider's revisions may be lower than before: it was put back, too
    let same = InstanceView { revision: Revision(7), ..view() };
    let mut found = idle();
    assert_eq!(agree(&mut found, Some(&same), KNOWN, false), (Verdict::Same, revoked()));
    assert_eq!(found, with(WorkspaceRecord { instance_revision: Revision(7), ..record() }));
    // nor is that a wish was granted
    let asked =
        |answered| WorkspaceRecord { intent: IntentNumber(5), answered: IntentNumber(answered), ..record() };
    let granted = InstanceView { intent: IntentNumber(5), ..view() };
    let mut found = with(asked(3));
    assert_eq!(agree(&mut found, Some(&granted), KNOWN, false), (Verdict::Same, revoked()));
    assert_eq!(found, with(WorkspaceRecord { instance_revision: Revision(51), ..asked(5) }));
}

#[test]
fn what_the_provider_says_is_news_all_the_same() {
    let booting = InstanceView { phase: Phase::Booting, revision: Revision(7), ..view() };
    let mut found = idle();
    assert_eq!(agree(&mut found, Some(&booting), KNOWN, false), (Verdict::Same, visible()));
    let expected = WorkspaceRecord { phase: Phase::Booting, instance_revision: Revision(7), ..record() };
    assert_eq!(found, with(expected));
}

#[test]
fn what_the_provider_has_not_heard_of_waits() {
    let mut found = waiting(vec![entry(4, Wish::Provision { run: true })]);
    found.record.answered = IntentNumber(0);
    let before = found.clone();
    assert_eq!(agree(&mut found, None, KNOWN, false), (Verdict::Same, SideEffects::default()));
    assert_eq!(found, before);
    let mut found = with(gone());
    assert_eq!(agree(&mut found, None, KNOWN, false), (Verdict::Same, SideEffects::default()));
    assert_eq!(found, with(gone()));
}

#[test]
fn what_only_the_provider_knows_is_taken_back_as_it_runs() {
    let instance = InstanceView {
        intent: IntentNumber(7),
        generation: Generation(3),
        wanted_generation: Generation(3),
        runtime: "other".to_owned(),
        tier: Tier::T3,
        ..view()
    };
    let spec = WorkspaceSpec {
        name: "recovered-000000000001".to_owned(),
        runtime: "other".to_owned(),
        tier: Tier::T3,
        ..WorkspaceSpec::default()
    };
    let record = WorkspaceRecord {
        spec,
        intent: IntentNumber(7),
        answered: IntentNumber(7),
        generation: Generation(3),
        highest: Generation(3),
        instance_generation: Generation(3),
        instance_revision: Revision(51),
        agent: AgentRecord::default(),
        recovered: Some(Generation(3)),
        trace: String::new(),
        created_at: NOW,
        updated_at: NOW,
        revision: Revision(0),
        readiness: Readiness::Agent,
        ..record()
    };
    let message = "found at the provider after a restore, and taken back as it runs";
    let told = EventDetail { reason: Some(Reason::Recovered), ..event("recovered", 3, message) };
    let effects = SideEffects {
        visible: true,
        events: vec![told],
        revoke: Revoke::Before(Generation(3)),
        ..SideEffects::default()
    };
    let found = Workspace { private: sealed("no parts"), ..with(record) };
    let meetings = Meetings::default();
    let taken = Workspace::take_back(&instance, &terms(&meetings, true), NOW);
    assert_eq!(taken, (found.clone(), effects.clone()));
    // so is another of an id whose creation was refused, but for when that was
    let mut other = with(WorkspaceRecord { refused: true, ..gone() });
    assert_eq!(agree(&mut other, Some(&instance), KNOWN, true), (Verdict::TakeBack, effects));
    let record = WorkspaceRecord { created_at: second(1), ..found.record };
    assert_eq!(other, Workspace { record, ..found });
}

const MINUTE: Duration = Duration::from_secs(60);

/// Its agent's token was brought by a replacement that this database has lost.
#[test]
fn what_is_taken_back_while_it_is_replaced_is_left_alone_when_the_replacement_is_up() {
    let meetings = Meetings::default();
    let replaced = InstanceView {
        generation: Generation(3),
        wanted_generation: Generation(4),
        phase: Phase::Stopping,
        ..view()
    };
    let (mut found, _) = Workspace::take_back(&replaced, &terms(&meetings, true), NOW);
    let revision = Revision(replaced.revision.0 + 1);
    let up =
        InstanceView { generation: Generation(4), phase: Phase::Up, phase_since: NOW, revision, ..replaced };
    found.take_over(&up, NOW, own(), &mut SideEffects::default());
    let patience = Patience { connect: MINUTE, silence: MINUTE, since: NOW };
    assert!(found.record.is_recovered(), "{:?}", found.record);
    assert_eq!(judge(&found.record, &patience, second(100_000)), Judged::Fine);
}

#[test]
fn a_deletion_is_done_where_the_provider_has_nothing_left() {
    let mut found = with(deleting());
    let message = "deleted; the provider has nothing of it";
    let effects = SideEffects {
        visible: true,
        revoke: Revoke::All,
        events: vec![event("deleted", 2, message)],
        ..SideEffects::default()
    };
    assert_eq!(agree(&mut found, None, KNOWN, false), (Verdict::Deleted, effects));
    let record = WorkspaceRecord {
        phase: Phase::Gone,
        phase_since: NOW,
        message: message.to_owned(),
        endpoint: None,
        deleted_at: Some(NOW),
        ..deleting()
    };
    assert_eq!(found, with(record));
}

#[test]
fn what_the_provider_deletes_is_not_wanted_any_more() {
    let mut found = waiting(vec![entry(4, Wish::Start)]);
    let before = found.record.clone();
    let ending = InstanceView {
        desired: Some(Desired::Deleted),
        phase: Phase::Stopping,
        phase_since: second(30),
        message: "stopping".to_owned(),
        ..view()
    };
    let message =
        "the start is not carried out: after a restore it turned out that something else was asked for later";
    let effects = SideEffects {
        events: vec![event("taken_back", 2, message)],
        forget_requests: vec!["request 4".to_owned()],
        taken_back: vec![IntentNumber(4)],
        ..visible()
    };
    let unknown = KnownAgents::default();
    assert_eq!(agree(&mut found, Some(&ending), unknown, true), (Verdict::Deleted, effects));
    let record = WorkspaceRecord {
        answered: IntentNumber(4),
        desired: Desired::Deleted,
        phase: Phase::Stopping,
        phase_since: second(30),
        message: "stopping".to_owned(),
        instance_revision: Revision(51),
        agent: AgentRecord { card: agent().card, ..AgentRecord::default() },
        pending: None,
        ..before
    };
    assert_eq!(found, with(record), "nor is its agent missed");
}

#[test]
fn of_what_both_delete_only_the_phase_is_taken_over() {
    let ending = InstanceView { desired: Some(Desired::Deleted), phase: Phase::Stopping, ..view() };
    let mut found = with(deleting());
    let verdict = agree(&mut found, Some(&ending), KnownAgents::default(), true).0;
    assert_eq!((verdict, found.record.recovered), (Verdict::Same, None));
}

#[test]
fn a_generation_of_whose_agent_nothing_is_known_counts_as_recovered() {
    let known = |running, wanted| KnownAgents { running, wanted };
    let (first, second, third) = (Some(Generation(1)), Some(Generation(2)), Some(Generation(3)));
    for (what, agents, set_back, intent, before, expected) in [
        ("put back, and the wanted one is not known", known(true, false), true, 3, None, third),
        ("put back, and the running one is not known", known(false, true), true, 3, None, second),
        ("put back, and all are known", KNOWN, true, 3, None, None),
        ("put back before", KNOWN, true, 3, first, first),
        ("not put back", known(false, false), false, 3, None, None),
        ("granted what it has not heard of", known(false, false), false, 4, None, third),
        ("granted what is known", KNOWN, false, 4, first, first),
    ] {
        let instance =
            InstanceView { intent: IntentNumber(intent), wanted_generation: Generation(3), ..view() };
        let asked = WorkspaceRecord { generation: Generation(3), highest: Generation(3), ..record() };
        let mut found = with(WorkspaceRecord { recovered: before, ..asked });
        let verdict = if intent > 3 { Verdict::Adopt } else { Verdict::Same };
        assert_eq!(agree(&mut found, Some(&instance), agents, set_back).0, verdict, "{what}");
        assert_eq!(found.record.recovered, expected, "{what}");
    }
}

#[test]
fn an_agent_is_known_by_the_tokens_that_are_held() {
    let (running, wanted) = (Generation(2), Generation(3));
    let known = |running, wanted| KnownAgents { running, wanted };
    let (none, tokens): (&[_], _) = (&[], [(running, false), (wanted, false)]);
    for (what, launched, held, expected) in [
        ("none is held", true, none, known(false, false)),
        ("both are", true, &[(running, true), (wanted, false)], KNOWN),
        ("the first was redeemed", true, &[(running, true)], known(true, false)),
        ("it may have been, in a time that is lost", true, &tokens, known(false, true)),
        ("nothing was launched that could", false, &tokens, KNOWN),
        ("another was redeemed", true, &[(Generation(1), true)], known(false, false)),
        ("another is held", false, &[(Generation(1), false)], known(false, false)),
    ] {
        let instance = InstanceView { launched, generation: running, wanted_generation: wanted, ..view() };
        assert_eq!(KnownAgents::of(&instance, held), expected, "{what}");
    }
}

#[test]
fn what_was_agreed_is_counted_by_verdict() {
    let recovered = WorkspaceRecord {
        workspace: workspace_id(2),
        recovered: Some(Generation(2)),
        pending: Some(pending(4, "")),
        ..record()
    };
    let taken_back = SideEffects { taken_back: vec![IntentNumber(4)], ..SideEffects::default() };
    let (one, two) = (workspace_id(1), workspace_id(2));
    for (verdict, told_again, adopted) in [
        (Verdict::TellAgain, true, false),
        (Verdict::DeleteAgain, true, false),
        (Verdict::Adopt, false, true),
        (Verdict::Deleted, false, true),
        (Verdict::Same, false, false),
        (Verdict::TakeBack, false, false),
    ] {
        let mut agreed = Agreed::default();
        let waits = Workspace { outbox: vec![entry(4, Wish::Start), entry(5, Wish::Stop(None))], ..idle() };
        agreed.add(&waits, verdict, &taken_back);
        agreed.add(&with(recovered.clone()), verdict, &SideEffects::default());
        let both = |counted| if counted { vec![one, two] } else { vec![] };
        let expected = Agreed {
            set_back: false,
            told_again: both(told_again),
            adopted: both(adopted),
            recovered: vec![two],
            taken_back: vec![(one, IntentNumber(4))],
            waiting: vec![(one, IntentNumber(5))],
        };
        assert_eq!(agreed, expected, "{verdict:?}");
    }
}

/// The provider is told of what it has lost once more, and that this has still to be heard: what is left of it there stays.
#[test]
fn what_the_provider_has_lost_waits_to_be_heard() {
    let mut found = idle();
    let (verdict, effects) = agree(&mut found, None, KNOWN, false);
    assert_eq!(verdict, Verdict::TellAgain);
    let mut agreed = Agreed::default();
    agreed.add(&found, verdict, &effects);
    assert_eq!(agreed.waiting, [(workspace_id(1), found.record.intent)]);
}

/// With the first deletion that is heard it is gone.
#[test]
fn the_first_deletion_is_the_last_that_has_to_be_heard() {
    let mut agreed = Agreed::default();
    let waits = [entry(4, Wish::Start), entry(5, Wish::Delete), entry(6, Wish::Delete)];
    agreed.add(&Workspace { outbox: waits.to_vec(), ..idle() }, Verdict::Same, &SideEffects::default());
    assert_eq!(agreed.waiting, [(workspace_id(1), IntentNumber(5))]);
}

/// A process over a copy of the database gave the replacement's number to another wish: told under that number, it would be
/// taken for that one for ever, and the deletion behind it would never be told.
#[test]
fn a_deletion_behind_a_replacement_whose_number_another_wish_has_is_told() {
    let behind = |wishes: &[Wish]| {
        let wishes = wishes.iter().zip(5..).map(|(wish, number)| entry(number, wish.clone()));
        let begun = |entry: Entry| Entry { begun: true, generation: Generation(3), ..entry };
        let mut found = waiting(std::iter::once(replacement(4, 3)).chain(wishes).map(begun).collect());
        found.record.desired = Desired::Deleted;
        found
    };
    // the other was a stop
    let has = InstanceView { intent: IntentNumber(4), desired: Some(Desired::Stopped), ..view() };
    for wishes in [&[Wish::Delete][..], &[Wish::Stop(None), Wish::Delete]] {
        let mut found = behind(wishes);
        assert!(found.outbox[0].is_contradicted_by(&has));
        agree(&mut found, Some(&has), KNOWN, true);
        assert!(!found.outbox.iter().any(|entry| entry.is_contradicted_by(&has)), "{wishes:?}");
        let numbers: Vec<_> = found.outbox.iter().map(|entry| entry.number.0).collect();
        assert_eq!(numbers, (5..).take(wishes.len() + 1).collect::<Vec<_>>(), "{wishes:?}");
        assert_eq!(found.outbox.last().map(|last| &last.wish), Some(&Wish::Delete), "{wishes:?}");
    }
}
