//! What can go wrong at a step, and which steps there are.

/// What is done to one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// It does not happen, and whoever takes it hears of an unknown outcome.
    Fail,
    /// It happens, and whoever takes it hears of an unknown outcome.
    LoseReply,
    /// It happens twice.
    Repeat,
    /// It waits for up to two and a half minutes.
    Delay,
    /// It happens, and whoever takes it waits until it goes away itself.
    Unheard,
    /// Its process is frozen for up to ten minutes.
    Freeze,
    /// Its process dies before it.
    CrashBefore,
    /// Its process dies right after it.
    CrashAfter,
    /// A call's request never arrives.
    RequestLost,
    /// A call's request arrives when nobody waits for it any more.
    RequestLate,
    /// A call is overtaken by those after it.
    Reordered,
    /// A call arrives again, later.
    Repeated,
    /// A call's answer never arrives.
    AnswerLost,
    /// A call's answer arrives when nobody waits for it any more.
    AnswerLate,
    /// A call is not taken by anybody.
    Unreachable,
    /// A call's credential is not taken, as while a token is being rotated.
    Denied,
    /// A wish is refused for good, for a reason that is listed.
    Refused,
    /// The control plane says that it has no such workspace: it may have lost it.
    NotFound,
    /// The answer holds a word that its reader does not know: the speaker is of a newer version.
    Unreadable,
}

/// What can be done to a step of the engine's.
pub const ENGINE_FAULTS: [Fault; 7] = [
    Fault::Fail,
    Fault::LoseReply,
    Fault::Repeat,
    Fault::Delay,
    Fault::Freeze,
    Fault::CrashBefore,
    Fault::CrashAfter,
];

/// What can be done to a transaction of the control plane's that is no step of the engine's.
pub const CONTROL_FAULTS: [Fault; 6] =
    [Fault::Fail, Fault::LoseReply, Fault::Delay, Fault::Freeze, Fault::CrashBefore, Fault::CrashAfter];

/// What can be done to a transaction of a tenant's. Its database is a file of its own: what it has stored, it knows.
pub const TENANT_FAULTS: [Fault; 5] =
    [Fault::Fail, Fault::Delay, Fault::Freeze, Fault::CrashBefore, Fault::CrashAfter];

/// What can be done besides to a transaction that a request makes: its client goes away while it commits.
const UNHEARD: ([Fault; 1], [&str; 2]) = ([Fault::Unheard], ["tenant.create", "tenant.change"]);

/// What can be done where something is only read.
pub const READ_FAULTS: [Fault; 4] = [Fault::Fail, Fault::Delay, Fault::Freeze, Fault::CrashBefore];

/// What can be done to a call between the two. What crashes is the tenant: before it is made, or when its answer comes.
pub const CALL_FAULTS: [Fault; 11] = [
    Fault::CrashBefore,
    Fault::CrashAfter,
    Fault::Denied,
    Fault::RequestLost,
    Fault::RequestLate,
    Fault::Reordered,
    Fault::Repeated,
    Fault::AnswerLost,
    Fault::AnswerLate,
    Fault::Unreachable,
    Fault::Unreadable,
];

/// What can be answered to a wish besides. A deletion of what is not there is done, and what is not there can be created.
const WISH_ANSWERS: ([Fault; 1], [&str; 5]) =
    ([Fault::Refused], ["call.provision", "call.start", "call.stop", "call.replace", "call.delete"]);
const WISHES_NOT_FOUND: ([Fault; 1], [&str; 3]) =
    ([Fault::NotFound], ["call.start", "call.stop", "call.replace"]);

/// What can be done to a stream, and to a batch of changes that a replica tells a tenant. What crashes is the tenant that
/// opens one, and the replica that tells.
pub const STREAM_FAULTS: [Fault; 7] = [
    Fault::CrashBefore,
    Fault::CrashAfter,
    Fault::AnswerLost,
    Fault::AnswerLate,
    Fault::Unreachable,
    Fault::Denied,
    Fault::Unreadable,
];

/// The engine's steps.
pub const ENGINE_STEPS: [&str; 31] = [
    "backend.find",
    "backend.list",
    "backend.list_resources",
    "backend.prepare",
    "backend.launch",
    "backend.attach",
    "backend.start",
    "backend.stop",
    "backend.remove",
    "backend.purge",
    "backend.post_mortem",
    "sweep.remove",
    "sweep.purge",
    "store.begin_launch",
    "commit.settle",
    "commit.wait",
    "commit.await_end",
    "commit.rest",
    "commit.stopping",
    "commit.look_again",
    "commit.refused",
    "commit.retry_later",
    "commit.attached",
    "commit.starting",
    "commit.started",
    "commit.preparing",
    "commit.no_room",
    "commit.launched",
    "commit.crashed",
    "commit.crash_loop",
    "commit.gone",
];

/// Transactions of the control plane's store that are no steps of the engine's.
pub const CONTROL_STEPS: [&str; 12] = [
    "control.provision",
    "control.change",
    "control.refuse",
    "control.suspend",
    "control.agree",
    "control.claim",
    "control.changed_after",
    "control.wake",
    "control.lead",
    "control.raise_alarm",
    "control.end_alarm",
    "control.prune",
];

/// What replicas read.
pub const CONTROL_READS: [&str; 6] = [
    "control.get",
    "control.events_after",
    "control.next_due",
    "control.expectations",
    "control.launched",
    "control.alarms",
];

/// Transactions of a tenant's store.
pub const TENANT_STEPS: [&str; 16] = [
    "tenant.replayed",
    "tenant.meetings",
    "tenant.agree",
    "tenant.create",
    "tenant.change",
    "tenant.waiting",
    "tenant.begin_call",
    "tenant.answered",
    "tenant.call_failed",
    "tenant.mirror",
    "tenant.restart_mirror",
    "tenant.get",
    "tenant.redeem",
    "tenant.agent_reported",
    "tenant.judge_agent",
    "tenant.prune",
];

/// What a tenant's process reads.
pub const TENANT_READS: [&str; 7] = [
    "tenant.cursors",
    "tenant.load",
    "tenant.list",
    "tenant.snapshot",
    "tenant.changes_after",
    "tenant.events",
    "tenant.authenticate",
];

/// Steps that few lives come to: faults wait for them more often.
pub const RARE_STEPS: [&str; 18] = [
    "backend.post_mortem",
    "sweep.remove",
    "sweep.purge",
    "commit.rest",
    "commit.refused",
    "commit.preparing",
    "commit.no_room",
    "commit.starting",
    "commit.crashed",
    "commit.crash_loop",
    "commit.await_end",
    "commit.started",
    "tenant.waiting",
    "tenant.restart_mirror",
    "tenant.judge_agent",
    "control.suspend",
    "control.raise_alarm",
    "control.end_alarm",
];

/// Steps that next to no life comes to.
pub const RAREST_STEPS: [&str; 3] = ["sweep.purge", "commit.rest", "commit.crash_loop"];

/// Calls from a tenant to the control plane.
pub const CALL_STEPS: [&str; 8] = [
    "call.meet",
    "call.inventory",
    "call.agree",
    "call.provision",
    "call.start",
    "call.stop",
    "call.replace",
    "call.delete",
];

/// Batches of changes.
pub const STREAM_STEPS: [&str; 2] = ["stream.open", "stream.batch"];

/// A fault that waits for its step.
#[derive(Clone, Copy, Debug)]
pub struct Armed {
    /// The step.
    pub step: &'static str,
    /// How often the step is taken before that.
    pub skip: u32,
    /// The fault.
    pub fault: Fault,
}

/// Which faults can meet which steps.
const TABLE: [(&[Fault], &[&str]); 10] = [
    (&ENGINE_FAULTS, &ENGINE_STEPS),
    (&CONTROL_FAULTS, &CONTROL_STEPS),
    (&TENANT_FAULTS, &TENANT_STEPS),
    (&UNHEARD.0, &UNHEARD.1),
    (&READ_FAULTS, &CONTROL_READS),
    (&READ_FAULTS, &TENANT_READS),
    (&CALL_FAULTS, &CALL_STEPS),
    (&WISH_ANSWERS.0, &WISH_ANSWERS.1),
    (&WISHES_NOT_FOUND.0, &WISHES_NOT_FOUND.1),
    (&STREAM_FAULTS, &STREAM_STEPS),
];

/// Every step that a fault can meet.
pub fn all_steps() -> impl Iterator<Item = &'static str> {
    let first = |place: usize, step: &str| !TABLE[..place].iter().any(|(_, steps)| steps.contains(&step));
    let all = TABLE.into_iter().enumerate();
    all.flat_map(move |(place, (_, steps))| steps.iter().copied().filter(move |step| first(place, step)))
}

/// Every fault that can meet every step.
pub fn all_pairs() -> impl Iterator<Item = (Fault, &'static str)> {
    TABLE.into_iter().flat_map(|(faults, steps)| {
        steps.iter().flat_map(move |step| faults.iter().map(move |fault| (*fault, *step)))
    })
}

/// Whether a fault does something at a step.
pub fn can_meet(fault: Fault, step: &str) -> bool {
    TABLE.into_iter().any(|(faults, steps)| faults.contains(&fault) && steps.contains(&step))
}
