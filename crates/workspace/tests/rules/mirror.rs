//! What the provider's word makes of a workspace.

use std::time::Duration;

use molecule_domain::id::{Generation, IntentNumber, Revision};
use molecule_domain::instance::{Endpoint, InstanceView};
use molecule_domain::lifecycle::{AgentHealth, Desired, Phase, Reason};
use molecule_domain::spec::WorkspaceSpec;
use molecule_domain::tier::Tier;
use molecule_workspace::aggregate::{Revoke, SideEffects};
use molecule_workspace::record::AgentRecord;
use molecule_workspace::undo::Undo;
use molecule_workspace::{Entry, Wish, Workspace, WorkspaceRecord};

use crate::world::{
    NOW, agent, entry, gone, idle, own, pending, record, replacement, second, spec, view, waiting, with,
};

fn take(found: &mut Workspace, instance: &InstanceView) -> SideEffects {
    let mut effects = SideEffects::default();
    found.take_over(instance, NOW, own(), &mut effects);
    effects
}

/// What becomes of a record whose wishes are all granted.
fn taken(record: WorkspaceRecord, instance: &InstanceView) -> WorkspaceRecord {
    let mut found = with(record);
    take(&mut found, instance);
    found.record
}

fn old(revision: i64) -> InstanceView {
    InstanceView { revision: Revision(revision), ..view() }
}

/// A replica of an older version left it open, and another says more of the same revision.
#[test]
fn a_state_that_was_left_open_is_taken_over_once_it_is_known() {
    let open = InstanceView {
        phase: Phase::Booting,
        in_unknown_state: true,
        message: "asleep".to_owned(),
        ..view()
    };
    let mut found = idle();
    take(&mut found, &open);
    let left_open = "in a state that this version does not know: asleep";
    assert_eq!((found.record.phase, found.record.message.as_str()), (Phase::Booting, left_open));
    assert!(found.record.in_unknown_state);
    for says_nothing_new in [&open, &old(50)] {
        let before = found.clone();
        assert_eq!(take(&mut found, says_nothing_new), SideEffects::default());
        assert_eq!(found, before);
    }
    assert!(take(&mut found, &view()).visible);
    assert_eq!((found.record.phase, found.record.message.as_str()), (Phase::Up, "up"));
    assert!(!found.record.in_unknown_state);
    assert_eq!(take(&mut found, &view()), SideEffects::default(), "what is known is not news");
}

#[test]
fn news_is_taken_over() {
    let elsewhere = Some(Endpoint { host: "10.0.0.3".to_owned(), port: 8001 });
    let news = InstanceView {
        phase: Phase::Booting,
        phase_since: second(30),
        reason: Some(Reason::Restarting),
        message: "booting".to_owned(),
        endpoint: elsewhere.clone(),
        ..view()
    };
    let mut found = idle();
    let revoke = Revoke::Before(Generation(2));
    assert_eq!(take(&mut found, &news), SideEffects { visible: true, revoke, ..SideEffects::default() });
    let expected = WorkspaceRecord {
        phase: Phase::Booting,
        phase_since: second(30),
        reason: Some(Reason::Restarting),
        message: "booting".to_owned(),
        endpoint: elsewhere,
        instance_revision: Revision(51),
        ..record()
    };
    assert_eq!(found, with(expected));
    // the same again, and what is older, is none
    let before = found.clone();
    for revision in [51, 50] {
        let late = InstanceView { phase: Phase::Launching, revision: Revision(revision), ..news.clone() };
        assert_eq!(take(&mut found, &late), SideEffects::default());
        assert_eq!(found, before);
    }
}

#[test]
fn whose_credentials_end_already_is_not_narrowed() {
    for (before, after) in [
        (Revoke::None, Revoke::Before(Generation(2))),
        (Revoke::Before(Generation(9)), Revoke::Before(Generation(9))),
        (Revoke::All, Revoke::All),
    ] {
        let mut effects = SideEffects { revoke: before, ..SideEffects::default() };
        idle().take_over(&view(), NOW, own(), &mut effects);
        assert_eq!(effects.revoke, after);
    }
}

#[test]
fn what_is_gone_leaves_nothing_to_be_told() {
    let mut found = waiting(vec![entry(4, Wish::Delete)]);
    let ended = InstanceView {
        desired: Some(Desired::Deleted),
        intent: IntentNumber(4),
        phase: Phase::Gone,
        phase_since: second(30),
        message: "deleted".to_owned(),
        endpoint: None,
        ..view()
    };
    let before = found.record.clone();
    let effects = SideEffects { visible: true, revoke: Revoke::All, ..SideEffects::default() };
    assert_eq!(take(&mut found, &ended), effects);
    let expected = WorkspaceRecord {
        phase: Phase::Gone,
        phase_since: second(30),
        message: "deleted".to_owned(),
        instance_revision: Revision(51),
        endpoint: None,
        agent: AgentRecord { card: agent().card, ..AgentRecord::default() },
        pending: None,
        deleted_at: Some(NOW),
        ..before
    };
    assert_eq!(found, with(expected));
    let deleted_at = Some(second(40));
    assert_eq!(taken(WorkspaceRecord { deleted_at, ..record() }, &ended).deleted_at, deleted_at);
}

#[test]
fn what_is_deleted_here_is_deleted_again_where_it_is_alive() {
    let refused = |refused| WorkspaceRecord { refused, ..gone() };
    let of = |intent| InstanceView { intent: IntentNumber(intent), ..view() };
    let stopping = InstanceView { desired: Some(Desired::Deleted), ..view() };
    for (what, before, instance, again) in [
        ("alive", refused(false), view(), Some(4)),
        ("alive, with another wish", refused(false), of(7), Some(8)),
        ("no news", refused(false), old(50), None),
        ("older", refused(false), old(49), None),
        ("being deleted", refused(false), stopping, None),
        ("another of an id that was refused", refused(true), of(4), None),
        ("the refused one, heard late", refused(true), of(3), Some(4)),
        ("the refused one, heard later still", refused(true), of(2), Some(3)),
    ] {
        let mut found = with(before.clone());
        let effects = take(&mut found, &instance);
        let Some(number) = again else {
            assert_eq!((effects, found), (SideEffects::default(), with(before)), "{what}");
            continue;
        };
        assert_eq!(effects, SideEffects { visible: true, ..SideEffects::default() }, "{what}");
        let number = IntentNumber(number);
        let record = WorkspaceRecord {
            intent: number,
            phase: Phase::Stopping,
            message: "being deleted again: the provider had it still".to_owned(),
            instance_revision: Revision(51),
            refused: false,
            deleted_at: None,
            pending: Some(pending(100, "")),
            ..before
        };
        let first = entry(4, Wish::Delete);
        let first = Entry {
            number,
            asked_at: NOW,
            trace: "of wish 3".to_owned(),
            requests: vec![],
            undo: Undo { desired: Desired::Deleted, ..first.undo.clone() },
            retold: true,
            begun: true,
            ..first
        };
        assert_eq!(found, Workspace { outbox: vec![first], ..with(record) }, "{what}");
    }
}

#[test]
fn a_wish_that_turns_out_to_be_granted_counts_as_answered() {
    let answered =
        |number| WorkspaceRecord { intent: IntentNumber(5), answered: IntentNumber(number), ..record() };
    let of = |intent| InstanceView { intent: IntentNumber(intent), ..view() };
    for (intent, expected) in [(2, 3), (3, 3), (4, 4), (5, 5), (9, 5)] {
        let found = taken(answered(3), &of(intent));
        assert_eq!(found.answered, IntentNumber(expected), "{intent}");
    }
    let late = InstanceView { revision: Revision(50), ..of(4) };
    assert_eq!(taken(answered(3), &late).answered, IntentNumber(3), "no news");
    let mut found = waiting(vec![entry(5, Wish::Start)]);
    take(&mut found, &of(4));
    assert_eq!(found.record.answered, IntentNumber(3), "a wish waits");
}

#[test]
fn a_generation_that_was_granted_after_all_is_taken_over() {
    let wants = |generation, intent| InstanceView {
        intent: IntentNumber(intent),
        wanted_generation: Generation(generation),
        runtime: "other".to_owned(),
        tier: Tier::T3,
        ..view()
    };
    let launched = |found: &WorkspaceRecord| {
        (found.generation.0, found.highest.0, found.spec.runtime.clone(), found.spec.tier)
    };
    let (before, other) = (|| "demo".to_owned(), || "other".to_owned());
    for (what, instance, expected) in [
        ("higher", wants(3, 3), (3, 3, other(), Tier::T3)),
        ("lower", wants(1, 3), (1, 2, other(), Tier::T3)),
        ("of a later wish", wants(3, 4), (3, 3, other(), Tier::T3)),
        ("the same", wants(2, 3), (2, 2, before(), Tier::T2)),
        ("of a wish before", wants(3, 2), (2, 2, before(), Tier::T2)),
        ("no news", InstanceView { revision: Revision(50), ..wants(3, 3) }, (2, 2, before(), Tier::T2)),
    ] {
        assert_eq!(launched(&taken(record(), &instance)), expected, "{what}");
    }
    let mut found = waiting(vec![replacement(4, 3)]);
    take(&mut found, &wants(2, 3));
    assert_eq!(launched(&found.record), (3, 3, before(), Tier::T2), "another one waits");
    let mut found = idle();
    take(&mut found, &wants(3, 3));
    assert_eq!(found.record.spec, WorkspaceSpec { runtime: other(), tier: Tier::T3, ..spec() });
}

#[test]
fn what_the_provider_made_of_a_wish_is_what_is_wanted() {
    let stopped = |intent, revision| InstanceView {
        desired: Some(Desired::Stopped),
        intent: IntentNumber(intent),
        revision: Revision(revision),
        ..view()
    };
    for (what, instance, expected, visible) in [
        ("no news, and as new", stopped(3, 50), Desired::Stopped, true),
        ("no news, and the same", old(50), Desired::Running, false),
        ("older", stopped(3, 49), Desired::Running, false),
        ("of a wish before", stopped(2, 50), Desired::Running, false),
        ("news of a wish before", stopped(2, 51), Desired::Running, true),
        ("nobody knows", InstanceView { desired: None, ..old(50) }, Desired::Running, false),
    ] {
        let mut found = idle();
        assert_eq!(take(&mut found, &instance).visible, visible, "{what}");
        assert_eq!(found.record.desired, expected, "{what}");
    }
}

#[test]
fn while_wishes_wait_it_is_what_a_refusal_goes_back_to() {
    let of = |intent| InstanceView {
        desired: Some(Desired::Stopped),
        intent: IntentNumber(intent),
        revision: Revision(50),
        ..view()
    };
    let [running, stopped] = [Desired::Running, Desired::Stopped];
    for (intent, expected) in
        [(3, [stopped, running, running]), (4, [running, stopped, running]), (5, [running, running, stopped])]
    {
        let mut found = waiting(vec![entry(4, Wish::Start), entry(5, Wish::Start), entry(6, Wish::Start)]);
        assert_eq!(take(&mut found, &of(intent)), SideEffects::default());
        let undone: Vec<_> = found.outbox.iter().map(|entry| entry.undo.desired).collect();
        assert_eq!((&undone[..], found.record.desired), (&expected[..], running), "{intent}");
    }
}

#[test]
fn what_an_agent_reported_is_over_with_its_instance() {
    use Phase::{Admitted, Booting, Failed, Launching, Stopped, Stopping, Up};
    // the generation and phase before, the agent's generation, and the generation and phase since second 30
    for (before, of_agent, after, is_over) in [
        ((2, Up), 2, (2, Up), false),
        ((2, Up), 2, (2, Booting), false),
        ((2, Up), 2, (2, Launching), true),
        ((2, Up), 2, (2, Stopping), true),
        ((2, Up), 2, (2, Stopped), true),
        ((2, Up), 2, (2, Failed), true),
        // the next generation's place is taken
        ((2, Up), 2, (3, Admitted), true),
        ((2, Up), 2, (3, Up), true),
        // its agent was heard first
        ((2, Up), 3, (3, Admitted), false),
        ((2, Up), 3, (3, Launching), false),
        ((2, Up), 3, (3, Up), false),
        ((2, Up), 3, (3, Stopped), true),
        ((2, Up), 3, (2, Stopped), false),
        ((2, Admitted), 2, (2, Launching), false),
        ((2, Launching), 2, (2, Launching), false),
        ((2, Launching), 2, (2, Stopped), true),
        ((2, Stopped), 2, (2, Launching), true),
    ] {
        let generation = Generation(of_agent);
        let agent = AgentRecord { generation, ..agent() };
        let found = WorkspaceRecord {
            instance_generation: Generation(before.0),
            phase: before.1,
            agent: agent.clone(),
            ..record()
        };
        let (generation, phase) = (Generation(after.0), after.1);
        let news = InstanceView { generation, phase, phase_since: second(30), ..view() };
        let fresh = AgentRecord { card: agent.card.clone(), ..AgentRecord::default() };
        let expected = if is_over { fresh } else { agent };
        assert_eq!(taken(found, &news).agent, expected, "{before:?}, {of_agent}, {after:?}");
    }
}

#[test]
fn what_an_agent_reported_after_its_instance_went_down_is_kept() {
    let stopped = InstanceView { phase: Phase::Stopped, phase_since: second(30), ..view() };
    let instant = Duration::from_micros(1);
    for (last_seen, is_over) in [(Some(second(30)), false), (Some(second(30) - instant), true), (None, true)]
    {
        let agent = AgentRecord { last_seen, ..agent() };
        let after = taken(WorkspaceRecord { agent: agent.clone(), ..record() }, &stopped).agent;
        assert_eq!(after != agent, is_over, "{last_seen:?}");
    }
    // of one that never connected there is nothing to forget
    let agent = AgentRecord { health: AgentHealth::NotConnected, ..agent() };
    let after = taken(WorkspaceRecord { agent: agent.clone(), ..record() }, &stopped).agent;
    assert_eq!(after, agent);
}
