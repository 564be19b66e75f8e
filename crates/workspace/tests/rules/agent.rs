//! Agents' reports, and their silence.

use std::time::Duration;

use molecule_domain::event::{Actor, EventDetail};
use molecule_domain::id::{Generation, IntentNumber};
use molecule_domain::lifecycle::{AgentHealth, Desired, Phase, Readiness, Reason};
use molecule_workspace::agent::{Patience, Verdict, judge};
use molecule_workspace::aggregate::SideEffects;
use molecule_workspace::record::AgentRecord;
use molecule_workspace::{Entry, Wish, Workspace, WorkspaceRecord};

use crate::world::{NOW, agent, entry, idle, own, pending, record, second, with};

const PATIENCE: Patience =
    Patience { connect: Duration::from_secs(60), silence: Duration::from_secs(30), since: second(0) };

const INSTANT: Duration = Duration::from_micros(1);

/// Up since second 10; nobody has connected.
fn unconnected() -> WorkspaceRecord {
    WorkspaceRecord { agent: AgentRecord::default(), ..record() }
}

fn of_health(health: AgentHealth) -> WorkspaceRecord {
    WorkspaceRecord { agent: AgentRecord { health, ..agent() }, ..record() }
}

fn told(kind: &'static str, reason: Option<Reason>, message: &str) -> EventDetail {
    EventDetail {
        kind: kind.into(),
        actor: Actor::Agent,
        generation: Generation(2),
        reason,
        message: message.to_owned(),
        exit_code: None,
        log_tail: String::new(),
    }
}

#[test]
fn an_agent_is_waited_for_until_the_limit_has_passed() {
    let (healthy, errors) = (record(), of_health(AgentHealth::Errors));
    let late = Patience { since: second(40), ..PATIENCE };
    for (what, record, patience, last, then) in [
        ("connects", unconnected(), PATIENCE, second(70), Verdict::NeverConnected),
        ("is heard", healthy.clone(), PATIENCE, second(50), Verdict::Silent),
        ("is heard, with errors", errors, PATIENCE, second(50), Verdict::Silent),
        ("nobody could connect before", unconnected(), late, second(100), Verdict::NeverConnected),
        ("nobody could be heard before", healthy, late, second(70), Verdict::Silent),
    ] {
        assert_eq!(judge(&record, &patience, last), Verdict::Fine, "{what}");
        assert_eq!(judge(&record, &patience, last + INSTANT), then, "{what}");
    }
}

#[test]
fn only_the_agent_of_what_is_to_run_and_runs_is_judged() {
    type Make = fn(WorkspaceRecord) -> WorkspaceRecord;
    let cases: [(&str, Make); 6] = [
        ("booting", |it| WorkspaceRecord { phase: Phase::Booting, ..it }),
        ("recovered", |it| WorkspaceRecord { recovered: Some(Generation(2)), ..it }),
        ("replaced", |it| WorkspaceRecord { generation: Generation(3), ..it }),
        ("pending", |it| WorkspaceRecord { pending: Some(pending(4, "")), ..it }),
        ("unknown", |it| WorkspaceRecord { reason: Some(Reason::UnknownLaunch), ..it }),
        ("stopped", |it| WorkspaceRecord { desired: Desired::Stopped, ..it }),
    ];
    for (what, make) in cases {
        assert_eq!(judge(&make(unconnected()), &PATIENCE, NOW), Verdict::Fine, "{what}");
        assert_eq!(judge(&make(record()), &PATIENCE, NOW), Verdict::Fine, "{what}");
    }
    // another reason, and a restore that was about another generation, change nothing
    let restarted = WorkspaceRecord { reason: Some(Reason::Restarting), ..record() };
    assert_eq!(judge(&restarted, &PATIENCE, NOW), Verdict::Silent);
    let recovered_before = WorkspaceRecord { recovered: Some(Generation(1)), ..record() };
    assert_eq!(judge(&recovered_before, &PATIENCE, NOW), Verdict::Silent);
}

#[test]
fn nothing_more_follows_where_no_agent_is_needed_or_it_is_silent_already() {
    let process = WorkspaceRecord { readiness: Readiness::Process, ..unconnected() };
    assert_eq!(judge(&process, &PATIENCE, NOW), Verdict::Fine);
    assert_eq!(judge(&of_health(AgentHealth::Silent), &PATIENCE, NOW), Verdict::Fine);
    let mut never_seen = record();
    never_seen.agent.last_seen = None;
    assert_eq!(judge(&never_seen, &PATIENCE, NOW), Verdict::Fine);
}

#[test]
fn a_heartbeat_is_kept_and_seen_by_nobody() {
    let mut found = idle();
    found.record.agent.generation = Generation(1);
    let effects = found.reported(Generation(2), NOW, |agent| agent.active_tasks = 4);
    assert_eq!(effects, Some(SideEffects::default()));
    let expected = AgentRecord { last_seen: Some(NOW), active_tasks: 4, ..agent() };
    assert_eq!(found, with(WorkspaceRecord { agent: expected, ..record() }));
}

#[test]
fn what_an_agent_reports_of_a_generation_that_is_over_is_not_taken() {
    let in_phase = |phase, instance: u32| WorkspaceRecord {
        phase,
        instance_generation: Generation(instance),
        ..record()
    };
    let replaced = |phase, heard: u32| WorkspaceRecord {
        phase,
        generation: Generation(3),
        agent: AgentRecord { generation: Generation(heard), ..agent() },
        ..record()
    };
    for (what, record, generation, taken) in [
        ("what runs while a replacement waits", replaced(Phase::Up, 2), 2, true),
        ("that which is to replace it", replaced(Phase::Up, 2), 3, true),
        ("what ran, after its replacement was heard", replaced(Phase::Up, 3), 2, false),
        ("what has failed before it is replaced", replaced(Phase::Failed, 2), 2, false),
        ("an older generation", record(), 1, false),
        ("a generation that nobody asked for", record(), 3, false),
        ("gone", in_phase(Phase::Gone, 2), 2, false),
        ("gone before", in_phase(Phase::Gone, 1), 2, false),
        ("failed", in_phase(Phase::Failed, 2), 2, false),
        ("stopped", in_phase(Phase::Stopped, 2), 2, false),
        ("the generation before has failed", in_phase(Phase::Failed, 1), 2, true),
        ("the generation before has stopped", in_phase(Phase::Stopped, 1), 2, true),
        ("not heard of by the provider yet", in_phase(Phase::Admitted, 2), 2, true),
    ] {
        let mut found = with(record);
        let before = found.clone();
        let effects = found.reported(Generation(generation), NOW, |agent| agent.active_tasks = 9);
        assert_eq!((effects.is_some(), found != before), (taken, taken), "{what}");
    }
}

#[test]
fn watchers_see_another_health_another_card_and_an_agent_that_is_known_after_all() {
    let seen = |record: WorkspaceRecord, update: fn(&mut AgentRecord)| {
        let mut found = with(record);
        let effects = found.reported(Generation(2), NOW, update).unwrap();
        (effects.visible, found.record.recovered)
    };
    let of_restore = |generation| WorkspaceRecord { recovered: Some(Generation(generation)), ..record() };
    assert_eq!(seen(record(), |agent| agent.health = AgentHealth::Errors), (true, None));
    assert_eq!(seen(record(), |agent| agent.card = None), (true, None));
    assert_eq!(seen(of_restore(2), |_| ()), (true, None));
    assert_eq!(seen(of_restore(1), |_| ()), (false, Some(Generation(1))));
}

#[test]
fn each_change_of_an_agents_health_is_told_in_its_own_words() {
    use AgentHealth::{Errors, Healthy, NotConnected, Silent};
    let connected = told("agent_connected", None, "the agent connected");
    let recovered = told("agent_recovered", None, "the agent is well again");
    let errors = told("agent_errors", Some(Reason::AgentErrors), "the agent reports too many errors");
    let silent = told("agent_silent", Some(Reason::AgentSilent), "the agent is silent");
    for (before, after, expected) in [
        (NotConnected, Healthy, vec![connected]),
        (Silent, Healthy, vec![recovered.clone()]),
        (Errors, Healthy, vec![recovered]),
        (Healthy, Errors, vec![errors.clone()]),
        (NotConnected, Errors, vec![errors]),
        (Healthy, Silent, vec![silent]),
        (Healthy, NotConnected, vec![]),
        (Silent, Silent, vec![]),
    ] {
        let mut found = with(of_health(before));
        let effects = found.reported(Generation(2), NOW, |agent| agent.health = after).unwrap();
        assert_eq!(effects.events, expected, "{before:?}, {after:?}");
    }
}

/// Its agent is heard before the replacement is refused, so that it is not missed after that.
#[test]
fn an_agent_that_connects_while_a_replacement_waits_is_known_when_that_is_refused() {
    let mut found = with(WorkspaceRecord { generation: Generation(3), ..unconnected() });
    let connects = |agent: &mut AgentRecord| agent.health = AgentHealth::Healthy;
    let effects = found.reported(Generation(2), NOW, connects).unwrap();
    assert_eq!(effects.events, [told("agent_connected", None, "the agent connected")]);
    found.record.generation = Generation(2);
    assert_eq!(judge(&found.record, &PATIENCE, NOW), Verdict::Fine);
}

#[test]
fn one_that_is_well_is_left_alone() {
    let mut found = idle();
    assert_eq!(found.judged(&PATIENCE, second(50), own()), (Verdict::Fine, SideEffects::default()));
    assert_eq!(found, idle());
}

#[test]
fn one_that_has_fallen_silent_is_degraded() {
    let mut found = idle();
    let event = told("agent_silent", Some(Reason::AgentSilent), "the agent is silent");
    let effects = SideEffects { visible: true, events: vec![event], ..SideEffects::default() };
    assert_eq!(found.judged(&PATIENCE, NOW, own()), (Verdict::Silent, effects));
    assert_eq!(found, with(of_health(AgentHealth::Silent)));
}

#[test]
fn one_whose_agent_never_connected_is_stopped_for_that() {
    let mut found = with(unconnected());
    let effects = SideEffects { visible: true, ..SideEffects::default() };
    assert_eq!(found.judged(&PATIENCE, NOW, own()), (Verdict::NeverConnected, effects));
    let message =
        "its instance is up, but its agent did not connect within 60s; look at its output, then restart it";
    let wish = Wish::Stop(Some((Reason::AgentNotConnected, message.to_owned())));
    let stop = Entry { asked_at: NOW, trace: "of wish 3".to_owned(), requests: vec![], ..entry(4, wish) };
    let record = WorkspaceRecord {
        intent: IntentNumber(4),
        desired: Desired::Stopped,
        pending: Some(pending(100, "")),
        ..unconnected()
    };
    assert_eq!(found, Workspace { outbox: vec![stop], ..with(record) });
}
