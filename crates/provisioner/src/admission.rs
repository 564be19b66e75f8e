//! Requests become stored intent. Pure: a store loads, calls one of these, and writes, in one transaction.

use std::time::Duration;

use molecule_domain::Timestamp;
use molecule_domain::error::{Error, ErrorReason, Result};
use molecule_domain::id::{
    ChargeId, Generation, IncarnationId, IntentNumber, OrganizationId, Revision, WorkspaceId,
};
use molecule_domain::launch::LaunchSpec;
use molecule_domain::lifecycle::{Desired, Phase, Reason};
use molecule_domain::limits::{Amounts, Counted, LimitCheck, Limits, Permits, Standing};

use crate::model::{Actor, EventDetail, InstanceRecord};

/// Asks for the first instance of a workspace. Repeatable: the workspace's id is the key.
#[derive(Clone, Debug)]
pub struct ProvisionRequest {
    /// Whose workspace.
    pub organization: OrganizationId,
    /// Which.
    pub workspace: WorkspaceId,
    /// The number of the wish.
    pub intent: IntentNumber,
    /// The generation to launch; above 1 where the engine has lost a workspace that its tenant still has.
    pub generation: Generation,
    /// Whether it is to run. One that was stopped before it was told of is not.
    pub run: bool,
    /// The kind of the backend that it goes to, and stays on.
    pub backend: String,
    /// What to launch.
    pub spec: LaunchSpec,
    /// The bootstrap token, sealed for [`molecule_domain::seal::token_context`].
    pub sealed_token: Vec<u8>,
    /// Whether its tenant takes a refusal for the last word: then no other call of the wish is granted after it.
    pub refusal_is_final: bool,
    /// The process of its tenant that asks; `None` where the caller names none.
    pub process: Option<IncarnationId>,
    /// The trace that it belongs to; empty where nothing is traced.
    pub trace: String,
}

/// Asks for a change of an instance. Repeatable: the workspace's id and the number are the key.
#[derive(Clone, Debug)]
pub struct ChangeRequest {
    /// Whose workspace.
    pub organization: OrganizationId,
    /// Which.
    pub workspace: WorkspaceId,
    /// Rises with every change that the tenant asks for; one that is not above the last is a replay.
    pub intent: IntentNumber,
    /// What to change.
    pub change: Change,
    /// Whether its tenant takes a refusal for the last word: then no other call of the wish is granted after it.
    pub refusal_is_final: bool,
    /// The process of its tenant that asks; `None` where the caller names none.
    pub process: Option<IncarnationId>,
    /// The trace that it belongs to; empty where nothing is traced.
    pub trace: String,
}

/// A change of what is wanted.
#[derive(Clone, Debug)]
pub enum Change {
    /// Let it run: the same generation on the same disk.
    Start,
    /// Stop it and keep its disk. With a cause, it has FAILED for that.
    Stop(Option<(Reason, String)>),
    /// Replace it by a new generation.
    Replace {
        /// The new generation: above the wanted one. One that the engine was never told of may lie between.
        generation: Generation,
        /// What to launch.
        spec: Box<LaunchSpec>,
        /// The new generation's bootstrap token, sealed.
        sealed_token: Vec<u8>,
        /// Whether it is also to run. A changed spec of a stopped workspace is not.
        run: bool,
    },
    /// Take it away with all it holds.
    Delete,
}

impl Change {
    /// Whether an instance may be launched for it. What stops or ends one is never refused.
    pub const fn launches(&self) -> bool {
        !matches!(self, Self::Stop(_) | Self::Delete)
    }
}

/// What an organisation may use and uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// The caps.
    pub limits: Limits,
    /// What may be launched at all.
    pub permits: Permits,
    /// Whether it may launch.
    pub standing: Standing,
    /// What is counted now.
    pub used: Amounts,
    /// Launches that were admitted within [`LAUNCH_WINDOW`].
    pub launches: i64,
}

impl Account {
    /// What is counted now.
    pub const fn counted(&self) -> Counted {
        Counted { amounts: self.used, launches: self.launches }
    }
}

/// How long an admitted launch counts against `launches_per_hour`.
pub const LAUNCH_WINDOW: Duration = Duration::from_secs(3600);

/// What admission writes.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// The record as it becomes. Its revision is the store's to set.
    pub record: InstanceRecord,
    /// What is counted from now on, on top.
    pub asked: Amounts,
    /// Whether this counts as a launch.
    pub launch: bool,
    /// What happened.
    pub event: EventDetail,
}

fn event(kind: &'static str, generation: Generation, message: impl Into<String>) -> EventDetail {
    EventDetail {
        kind: kind.into(),
        actor: Actor::Client,
        generation,
        reason: None,
        message: message.into(),
        exit_code: None,
        log_tail: String::new(),
    }
}

/// Decides about a first instance. A store answers a replay from its record before it asks this.
pub fn provision(account: &Account, request: &ProvisionRequest, now: Timestamp) -> Result<Admitted> {
    let whole = request.spec.amounts();
    let asked = if request.run { whole } else { whole.allocated_part() };
    let launches = i64::from(request.run);
    judge(account, &request.spec, &request.backend, Counted { amounts: asked, launches })?;
    let generation = request.generation;
    let record = InstanceRecord {
        workspace: request.workspace,
        organization: request.organization,
        backend: request.backend.clone(),
        desired: if request.run { Desired::Running } else { Desired::Stopped },
        intent: request.intent,
        generation,
        wanted_generation: generation,
        spec: request.spec.clone(),
        sealed_token: Some(request.sealed_token.clone()),
        phase: Phase::Admitted,
        phase_since: now,
        reason: None,
        message: "admitted".to_owned(),
        endpoint: None,
        restarts: 0,
        up_since: None,
        failures: 0,
        charge: ChargeId::generate(),
        running_counted: request.run,
        revision: Revision::default(),
        due_at: Some(now),
        attempt: None,
        trace: request.trace.clone(),
        created_at: now,
    };
    Ok(Admitted { record, asked, launch: request.run, event: event("admitted", generation, "admitted") })
}

/// What admission says to a launch.
fn judge(account: &Account, spec: &LaunchSpec, backend: &str, asked: Counted) -> Result<()> {
    account.permits.check(&spec.runtime, spec.tier, backend)?;
    account.limits.admit(account.standing, &account.counted(), &asked)
}

/// What [`provision`] would say to so many workspaces of this kind at once, with every limit that is set.
pub fn preview(
    account: &Account,
    spec: &LaunchSpec,
    backend: &str,
    count: u32,
) -> (Result<()>, Vec<LimitCheck>) {
    let count = i64::from(count);
    let asked = Counted { amounts: spec.amounts().times(count), launches: count };
    (judge(account, spec, backend, asked), account.limits.checks(&account.counted(), &asked))
}

/// Decides about a change. `None` where it is a replay or changes nothing.
pub fn change(
    account: &Account,
    before: &InstanceRecord,
    request: &ChangeRequest,
    now: Timestamp,
) -> Result<Option<Admitted>> {
    if request.intent <= before.intent {
        return Ok(None);
    }
    let mut record = before.clone();
    record.intent = request.intent;
    record.due_at = Some(now);
    record.failures = 0;
    record.trace.clone_from(&request.trace);
    if before.desired == Desired::Deleted || before.phase == Phase::Gone {
        return match request.change {
            Change::Delete => Ok(None),
            _ => Err(Error::new(
                ErrorReason::WorkspaceDeleted,
                format!("workspace {} is deleted or being deleted; create another", before.workspace),
            )),
        };
    }
    let event = match &request.change {
        Change::Delete => {
            record.desired = Desired::Deleted;
            record.reason = None;
            "being deleted".clone_into(&mut record.message);
            event("delete_requested", record.generation, "deletion asked for")
        }
        Change::Stop(None) => {
            record.desired = Desired::Stopped;
            if record.phase != Phase::Failed {
                record.reason = None;
                "being stopped".clone_into(&mut record.message);
            }
            event("stop_requested", record.generation, "stop asked for")
        }
        Change::Stop(Some((reason, message))) => {
            record.desired = Desired::Stopped;
            record.reason = Some(*reason);
            record.message.clone_from(message);
            if record.phase != Phase::Failed {
                record.phase = Phase::Failed;
                record.phase_since = now;
            }
            EventDetail {
                actor: Actor::Engine,
                reason: Some(*reason),
                ..event("failed", record.generation, message.clone())
            }
        }
        Change::Start => {
            if record.phase == Phase::Failed {
                return Err(Error::new(
                    ErrorReason::WrongState,
                    format!("workspace {} has failed; restart it, or delete it", before.workspace),
                ));
            }
            record.desired = Desired::Running;
            record.restarts = 0;
            record.reason = None;
            "start asked for".clone_into(&mut record.message);
            event("start_requested", record.generation, "start asked for")
        }
        Change::Replace { generation, spec, sealed_token, run } => {
            if *generation <= before.wanted_generation {
                return Err(Error::new(
                    ErrorReason::WrongState,
                    format!(
                        "generation {generation} is not above {}, which is wanted already",
                        before.wanted_generation
                    ),
                ));
            }
            record.wanted_generation = *generation;
            record.spec = LaunchSpec::clone(spec);
            record.sealed_token = Some(sealed_token.clone());
            record.desired = if *run { Desired::Running } else { Desired::Stopped };
            record.reason = None;
            format!("being replaced by generation {generation}").clone_into(&mut record.message);
            if record.phase == Phase::Failed {
                record.phase = Phase::Stopping;
                record.phase_since = now;
            }
            event("replace_requested", *generation, "a new generation was asked for")
        }
    };
    if record.desired == Desired::Running {
        // how long it may take until it runs counts from when that was asked for
        let phase = match (record.phase, record.is_being_replaced()) {
            (Phase::Up | Phase::Stopped, true) | (Phase::Stopping, _) => Some(Phase::Stopping),
            (Phase::Stopped, false) => Some(Phase::Admitted),
            (phase, _) => Some(phase).filter(|phase| phase.is_transient()),
        };
        if let Some(phase) = phase {
            (record.phase, record.phase_since, record.endpoint) = (phase, now, None);
        }
    }
    let asked = asked_by(before, &record);
    let starts = record.desired == Desired::Running && before.desired != Desired::Running;
    let replaces = matches!(request.change, Change::Replace { .. });
    let launch = starts || replaces && record.desired == Desired::Running;
    if launch || grows(&asked) {
        let asked = Counted { amounts: asked, launches: i64::from(launch) };
        judge(account, &record.spec, &record.backend, asked)?;
    } else if replaces {
        account.permits.check(&record.spec.runtime, record.spec.tier, &record.backend)?;
    }
    if record.desired == Desired::Running {
        record.running_counted = true;
    }
    Ok(Some(Admitted { record, asked, launch, event }))
}

/// What becomes of an instance that was to run, where its organisation is suspended.
pub fn suspend(before: &InstanceRecord, now: Timestamp) -> Admitted {
    let message = "the organisation is suspended: being stopped, its data is kept".to_owned();
    let reason = Some(Reason::OrganizationSuspended);
    let detail = event("suspended", before.generation, message.clone());
    let record = InstanceRecord {
        desired: Desired::Stopped,
        reason,
        message,
        due_at: Some(now),
        failures: 0,
        ..before.clone()
    };
    let event = EventDetail { actor: Actor::Operator, reason, ..detail };
    Admitted { record, asked: Amounts::default(), launch: false, event }
}

/// What a change adds to what is counted. The sizes of a replacement count from its admission, as if it
/// stood already; the old sizes are given back with them.
fn asked_by(before: &InstanceRecord, after: &InstanceRecord) -> Amounts {
    let held = counted(before);
    let holds = counted(&InstanceRecord {
        running_counted: before.running_counted || after.desired == Desired::Running,
        ..after.clone()
    });
    holds.minus(held)
}

/// What is counted for a record.
pub fn counted(record: &InstanceRecord) -> Amounts {
    if record.phase == Phase::Gone {
        return Amounts::default();
    }
    let amounts = record.spec.amounts();
    if record.running_counted { amounts } else { amounts.allocated_part() }
}

/// Whether a change that launches nothing asks for more than is held: the numbers of workspaces stay the same then.
const fn grows(asked: &Amounts) -> bool {
    asked.disk_gib > 0 || asked.milli_cpus > 0 || asked.memory_mib > 0
}

/// The workspace's id is another organisation's.
pub fn workspace_taken(workspace: WorkspaceId) -> Error {
    Error::new(
        molecule_domain::ErrorReason::WorkspaceExists,
        format!("the workspace id {workspace} is taken; choose another"),
    )
}
