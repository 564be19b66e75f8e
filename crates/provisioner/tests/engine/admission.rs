//! What admission says to each wish, by example: what is stored, what counts, and what is refused.

use molecule_domain::Timestamp;
use molecule_domain::error::{ErrorReason, Result};
use molecule_domain::event::Actor;
use molecule_domain::id::{Generation, IntentNumber, WorkspaceId};
use molecule_domain::launch::LaunchSpec;
use molecule_domain::lifecycle::{Desired, Phase, Reason};
use molecule_domain::limits::{Limits, Standing};
use molecule_domain::tier::Resources;
use molecule_provisioner::admission::{self, Account, Admitted, Change, ChangeRequest};
use molecule_provisioner::model::InstanceRecord;
use molecule_provisioner::samples;

const NOW: Timestamp = Timestamp::from_micros(7_000_000);

/// One that runs, as its second wish asked for.
fn running() -> InstanceRecord {
    let request = samples::provision(WorkspaceId::generate());
    let admitted = admission::provision(&Account::default(), &request, Timestamp::from_micros(1)).unwrap();
    InstanceRecord { intent: IntentNumber(2), phase: Phase::Up, failures: 3, restarts: 2, ..admitted.record }
}

fn asked(
    account: &Account,
    before: &InstanceRecord,
    intent: i64,
    change: Change,
) -> Result<Option<Admitted>> {
    let request = ChangeRequest {
        organization: before.organization,
        workspace: before.workspace,
        intent: IntentNumber(intent),
        change,
        refusal_is_final: false,
        process: None,
        trace: "of the change".to_owned(),
    };
    admission::change(account, before, &request, NOW)
}

fn granted(before: &InstanceRecord, change: Change) -> Admitted {
    asked(&Account::default(), before, 3, change).unwrap().unwrap()
}

fn replace(spec: LaunchSpec, run: bool) -> Change {
    Change::Replace { generation: Generation(2), spec: Box::new(spec), sealed_token: b"new".to_vec(), run }
}

fn full() -> Account {
    let limits = Limits {
        workspaces: Some(1),
        disk_gib: Some(10),
        running_workspaces: Some(1),
        milli_cpus: Some(1000),
        memory_mib: Some(512),
        launches_per_hour: None,
    };
    Account { limits, used: samples::spec().amounts(), ..Account::default() }
}

#[test]
fn a_preview_says_what_admission_says() {
    let spec = samples::spec();
    let empty = Account { used: spec.amounts().times(0), ..full() };
    let (verdict, checks) = admission::preview(&empty, &spec, "docker", 1);
    assert!(verdict.is_ok());
    let told: Vec<_> = checks.iter().map(|check| (check.limit, check.used, check.asked, check.cap)).collect();
    assert_eq!(told[0], ("workspaces", 0, 1, 1));
    assert_eq!((told.len(), told[3]), (5, ("milli_cpus", 0, 1000, 1000)));
    let (verdict, checks) = admission::preview(&empty, &spec, "docker", 2);
    assert_eq!(verdict.unwrap_err().reason, ErrorReason::QuotaExceeded);
    assert!(checks.iter().all(|check| check.asked == 2 * check.cap), "{checks:?}");
}

#[test]
fn a_repeated_wish_changes_nothing() {
    for intent in [1, 2] {
        assert!(asked(&Account::default(), &running(), intent, Change::Delete).unwrap().is_none());
    }
}

#[test]
fn a_wish_begins_anew_what_was_tried_for_the_last() {
    let record = granted(&running(), Change::Stop(None)).record;
    assert_eq!((record.desired, record.intent, record.failures), (Desired::Stopped, IntentNumber(3), 0));
    assert_eq!((record.due_at, &*record.trace), (Some(NOW), "of the change"));
    assert_eq!((record.message.as_str(), record.reason), ("being stopped", None));
}

#[test]
fn a_deletion_is_final() {
    let admitted = granted(&InstanceRecord { reason: Some(Reason::CrashLoop), ..running() }, Change::Delete);
    assert_eq!((admitted.record.desired, admitted.record.reason), (Desired::Deleted, None));
    assert_eq!((admitted.record.message.as_str(), admitted.launch), ("being deleted", false));
    assert_eq!((&*admitted.event.kind, admitted.event.actor), ("delete_requested", Actor::Client));
    for ended in [
        InstanceRecord { desired: Desired::Deleted, ..running() },
        InstanceRecord { phase: Phase::Gone, ..running() },
    ] {
        assert!(asked(&Account::default(), &ended, 3, Change::Delete).unwrap().is_none());
        let refused = asked(&Account::default(), &ended, 3, Change::Start).unwrap_err();
        assert_eq!(refused.reason, ErrorReason::WorkspaceDeleted);
    }
}

#[test]
fn a_stop_with_a_cause_is_a_failure() {
    let cause = Some((Reason::CrashLoop, "its agent is silent".to_owned()));
    let failed = granted(&running(), Change::Stop(cause.clone()));
    assert_eq!((failed.record.desired, failed.record.phase), (Desired::Stopped, Phase::Failed));
    assert_eq!((failed.record.phase_since, failed.record.reason), (NOW, Some(Reason::CrashLoop)));
    assert_eq!(failed.record.message, "its agent is silent");
    assert_eq!((failed.event.actor, failed.event.reason), (Actor::Engine, Some(Reason::CrashLoop)));
    // it has failed since it failed first, and a stop without a cause keeps why
    let again =
        InstanceRecord { intent: IntentNumber(2), phase_since: Timestamp::from_micros(2), ..failed.record };
    let later = granted(&again, Change::Stop(cause)).record;
    assert_eq!((later.phase, later.phase_since), (Phase::Failed, Timestamp::from_micros(2)));
    let kept = granted(&again, Change::Stop(None)).record;
    assert_eq!((kept.reason, kept.message), (Some(Reason::CrashLoop), "its agent is silent".to_owned()));
    let refused = asked(&Account::default(), &again, 3, Change::Start).unwrap_err();
    assert_eq!(refused.reason, ErrorReason::WrongState);
}

#[test]
fn a_start_counts_as_a_launch_where_nothing_was_to_run() {
    let stopped = InstanceRecord {
        desired: Desired::Stopped,
        phase: Phase::Stopped,
        running_counted: false,
        reason: Some(Reason::OrganizationSuspended),
        ..running()
    };
    let started = granted(&stopped, Change::Start);
    assert_eq!(
        (started.launch, started.record.phase, started.record.phase_since),
        (true, Phase::Admitted, NOW)
    );
    assert_eq!((started.record.restarts, started.record.reason), (0, None));
    assert!(started.record.running_counted);
    assert_eq!(started.asked, stopped.spec.amounts().running_part());
    // what runs already asks for nothing
    let again = granted(&running(), Change::Start);
    assert_eq!((again.launch, again.record.phase, again.asked), (false, Phase::Up, again.asked.times(0)));
    let none =
        Account { limits: Limits { launches_per_hour: Some(0), ..Limits::default() }, ..Account::default() };
    assert!(asked(&none, &running(), 3, Change::Start).is_ok());
    assert_eq!(asked(&none, &stopped, 3, Change::Start).unwrap_err().reason, ErrorReason::QuotaExceeded);
}

#[test]
fn a_replacement_is_of_a_later_generation() {
    let replaced = granted(&running(), replace(samples::spec(), true));
    assert_eq!(
        (replaced.record.wanted_generation, replaced.record.generation),
        (Generation(2), Generation(1))
    );
    assert_eq!((replaced.launch, replaced.record.phase), (true, Phase::Stopping));
    assert_eq!(replaced.record.sealed_token.as_deref(), Some(&b"new"[..]));
    assert_eq!(replaced.event.generation, Generation(2));
    let wanted_already = InstanceRecord { wanted_generation: Generation(2), ..running() };
    let refused = asked(&Account::default(), &wanted_already, 3, replace(samples::spec(), true)).unwrap_err();
    assert_eq!(refused.reason, ErrorReason::WrongState);
    let failed = InstanceRecord { phase: Phase::Failed, desired: Desired::Stopped, ..running() };
    let replaced = granted(&failed, replace(samples::spec(), false)).record;
    assert_eq!(
        (replaced.phase, replaced.phase_since, replaced.desired),
        (Phase::Stopping, NOW, Desired::Stopped)
    );
}

/// A replacement that is not to run starts nothing, and still must not grow beyond what its organisation may have.
#[test]
fn what_a_replacement_takes_more_of_is_judged() {
    let same = samples::spec();
    assert!(asked(&full(), &running(), 3, replace(same.clone(), false)).is_ok());
    let resources = same.resources;
    for (limit, larger) in [
        ("disk_gib", LaunchSpec { disk_gib: 11, ..same.clone() }),
        (
            "milli_cpus",
            LaunchSpec { resources: Resources { cpu_shares: Some(2048), ..resources }, ..same.clone() },
        ),
        (
            "memory_mib",
            LaunchSpec { resources: Resources { memory_mib: Some(513), ..resources }, ..same.clone() },
        ),
    ] {
        let refused = asked(&full(), &running(), 3, replace(larger, false)).unwrap_err();
        let limits: Vec<_> = refused.limits.iter().map(|violation| &*violation.limit).collect();
        assert_eq!((refused.reason, limits), (ErrorReason::QuotaExceeded, vec![limit]));
    }
    // who may not launch may still make something smaller of it
    let grace = Account { standing: Standing::Grace, ..full() };
    let smaller = LaunchSpec { disk_gib: 9, ..same };
    let admitted = asked(&grace, &running(), 3, replace(smaller, false)).unwrap().unwrap();
    assert_eq!((admitted.asked.disk_gib, admitted.launch), (-1, false));
}

#[test]
fn what_is_suspended_is_to_stop_and_says_why() {
    let before = InstanceRecord { due_at: None, ..running() };
    let suspended = admission::suspend(&before, NOW);
    let record = suspended.record;
    assert_eq!((record.desired, record.reason), (Desired::Stopped, Some(Reason::OrganizationSuspended)));
    assert!(record.message.contains("suspended"), "{}", record.message);
    assert_eq!((record.due_at, record.failures, record.intent), (Some(NOW), 0, before.intent));
    let event = suspended.event;
    assert_eq!((&*event.kind, event.actor), ("suspended", Actor::Operator));
    assert_eq!((event.reason, suspended.launch), (Some(Reason::OrganizationSuspended), false));
}
