//! Writes a record with all that changes beside it, in one statement: the organisation's counters, the event, the
//! usage segment, the launch.
//!
//! Revisions and event numbers are the organisation's counters, but never behind the clock: after a restore from a
//! backup, what is new is still above every cursor that was ever given out.

use molecule_domain::Timestamp;
use molecule_domain::id::Revision;
use molecule_domain::limits::Amounts;
use molecule_provisioner::model::{EventDetail, InstanceRecord};
use molecule_provisioner::store::StoreError;
use molecule_provisioner::store::codec::{json, known_reasons, text};
use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::codec::column;
use crate::sqlstate::{is_taken, store_error};

/// What changes beside the record.
#[derive(Debug, Default)]
pub(crate) struct Beside<'a> {
    /// On top of what the organisation uses.
    pub(crate) asked: Amounts,
    /// Watchers see a difference: the record gets a revision.
    pub(crate) visible: bool,
    pub(crate) event: Option<&'a EventDetail>,
    pub(crate) launch: bool,
    pub(crate) open_segment: Option<Timestamp>,
    pub(crate) close_segment: Option<Timestamp>,
    /// The generation that the segment is of.
    pub(crate) segment_generation: u32,
    /// Gives the lease back.
    pub(crate) release: bool,
}

struct Columns {
    desired: String,
    spec: String,
    phase: String,
    phase_since: OffsetDateTime,
    reason: Option<String>,
    endpoint: Option<String>,
    up_since: Option<OffsetDateTime>,
    due_at: Option<OffsetDateTime>,
    attempt_number: Option<i64>,
    attempt_seq: Option<i64>,
    attempt_token: Option<String>,
    attempt_state: Option<String>,
    attempt_call_until: Option<OffsetDateTime>,
    attempt_unsure_until: Option<OffsetDateTime>,
    attempt_created_at: Option<OffsetDateTime>,
    attempt_placement: Option<String>,
}

impl Columns {
    fn of(record: &InstanceRecord) -> Result<Self, StoreError> {
        let attempt = record.attempt.as_ref();
        Ok(Self {
            desired: text(record.desired),
            spec: json(&record.spec)?,
            phase: text(record.phase),
            phase_since: column(record.phase_since),
            reason: record.reason.map(text),
            endpoint: record.endpoint.as_ref().map(json).transpose()?,
            up_since: record.up_since.map(column),
            due_at: record.due_at.map(column),
            attempt_number: attempt.map(|a| i64::from(a.number.0)),
            attempt_seq: attempt.map(|a| a.seq.0),
            attempt_token: attempt.map(|a| a.token.clone()),
            attempt_state: attempt.map(|a| text(a.state)),
            attempt_call_until: attempt.map(|a| column(a.call_until)),
            attempt_unsure_until: attempt.map(|a| column(a.unsure_until)),
            attempt_created_at: attempt.map(|a| column(a.created_at)),
            attempt_placement: attempt.map(|a| a.placement.clone()),
        })
    }
}

/// Inserts a new record, which is always visible, told of and a launch.
pub(super) async fn insert(
    db: &mut PgConnection,
    record: &mut InstanceRecord,
    asked: Amounts,
    event: &EventDetail,
    now: Timestamp,
) -> Result<(), StoreError> {
    let columns = Columns::of(record)?;
    let revision = sqlx::query_scalar!(
        "WITH o AS (
             UPDATE organizations SET revision = GREATEST(revision + 1, $26), events = GREATEST(events + 1, $26),
                 used_workspaces = used_workspaces + $18, used_disk_gib = used_disk_gib + $19,
                 used_running_workspaces = used_running_workspaces + $20,
                 used_milli_cpus = used_milli_cpus + $21, used_memory_mib = used_memory_mib + $22
             WHERE organization_id = $2 RETURNING revision, events
         ), l AS (
             INSERT INTO launches (organization_id, at, workspace_id) VALUES ($2, $17, $1)
         ), e AS (
             INSERT INTO instance_events (organization_id, event_id, workspace_id, at, kind, actor, generation,
                 message, log_tail)
             SELECT $2, o.events, $1, $17, $23, $24, $6, $25, '' FROM o
         )
         INSERT INTO instances (workspace_id, organization_id, backend, desired, intent, generation,
             wanted_generation, spec, sealed_token, phase, phase_since, message, restarts, failures, charge_id,
             running_counted, revision, due_at, created_at, trace)
         SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, o.revision, $17, $17, $27 FROM o
         RETURNING revision",
        record.workspace.as_uuid(),
        record.organization.as_uuid(),
        record.backend,
        columns.desired,
        record.intent.0,
        i64::from(record.generation.0),
        i64::from(record.wanted_generation.0),
        columns.spec,
        record.sealed_token,
        columns.phase,
        columns.phase_since,
        record.message,
        i64::from(record.restarts),
        i64::from(record.failures),
        record.charge.as_uuid(),
        record.running_counted,
        column(now),
        asked.workspaces,
        asked.disk_gib,
        asked.running_workspaces,
        asked.milli_cpus,
        asked.memory_mib,
        event.kind.as_ref(),
        text(event.actor),
        event.message,
        now.micros(),
        record.trace,
    )
    .fetch_one(db)
    .await
    // another request for the same workspace was quicker: that one is to be found
    .map_err(|error| if is_taken(&error) { StoreError::LostRace(Box::new(error)) } else { store_error(error) })?;
    record.revision = Revision(revision);
    Ok(())
}

/// Updates a record. A reason of a newer version was read as none, and stays for as long as nothing else is said.
pub(crate) async fn update(
    db: &mut PgConnection,
    record: &mut InstanceRecord,
    beside: &Beside<'_>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let columns = Columns::of(record)?;
    let event = beside.event;
    let revision = sqlx::query_scalar!(
        r#"WITH o AS (
             UPDATE organizations SET
                 revision = CASE WHEN $28::bigint > 0 THEN GREATEST(revision + 1, $46::bigint) ELSE revision END,
                 events = CASE WHEN $29::bigint > 0 THEN GREATEST(events + 1, $46::bigint) ELSE events END,
                 used_workspaces = used_workspaces + $30, used_disk_gib = used_disk_gib + $31,
                 used_running_workspaces = used_running_workspaces + $32,
                 used_milli_cpus = used_milli_cpus + $33, used_memory_mib = used_memory_mib + $34
             WHERE organization_id = $2
                 AND ($28::bigint + $29::bigint > 0 OR $30::bigint <> 0 OR $31::bigint <> 0 OR $32::bigint <> 0
                     OR $33::bigint <> 0 OR $34::bigint <> 0)
             RETURNING revision, events
         ), l AS (
             INSERT INTO launches (organization_id, at, workspace_id) SELECT $2, $27, $1 WHERE $35::boolean
         ), e AS (
             INSERT INTO instance_events (organization_id, event_id, workspace_id, at, kind, actor, generation,
                 reason, message, exit_code, log_tail)
             SELECT $2, o.events, $1, $27, $36::text, $37::text, $38::bigint, $39::text, $40::text, $41::integer,
                 $42::text
             FROM o WHERE $29::bigint > 0
         ), closed AS (
             UPDATE segments SET until_at = GREATEST($43::timestamptz, from_at)
             WHERE workspace_id = $1 AND until_at IS NULL AND $43::timestamptz IS NOT NULL
         ), opened AS (
             INSERT INTO segments (organization_id, workspace_id, generation, from_at)
             SELECT $2, $1, $45::bigint, GREATEST($44::timestamptz, MAX(before.until_at),
                 MAX(before.from_at) + interval '1 microsecond')
             FROM segments before WHERE before.workspace_id = $1
             HAVING $44::timestamptz IS NOT NULL
         )
         UPDATE instances SET desired = $3, intent = $4, generation = $5, wanted_generation = $6, spec = $7,
             sealed_token = $8, phase = $9, phase_since = $10,
             reason = CASE
                 WHEN $11::text IS NULL AND message = $12 AND reason <> ALL($49::text[]) THEN reason ELSE $11
             END,
             message = $12, endpoint = $13, restarts = $14, up_since = $15, failures = $16, running_counted = $17,
             revision = CASE WHEN $28::bigint > 0 THEN (SELECT o.revision FROM o) ELSE instances.revision END,
             due_at = $18, attempt_number = $19, attempt_seq = $20, attempt_token = $21, attempt_state = $22,
             attempt_call_until = $23, attempt_unsure_until = $24, attempt_created_at = $25,
             attempt_placement = $47, trace = $48,
             lease_owner = CASE WHEN $26::boolean THEN NULL ELSE lease_owner END,
             lease_until = CASE WHEN $26::boolean THEN '1970-01-01 00:00:00Z' ELSE lease_until END
         WHERE workspace_id = $1
         RETURNING revision AS "revision!""#,
        record.workspace.as_uuid(),
        record.organization.as_uuid(),
        columns.desired,
        record.intent.0,
        i64::from(record.generation.0),
        i64::from(record.wanted_generation.0),
        columns.spec,
        record.sealed_token,
        columns.phase,
        columns.phase_since,
        columns.reason,
        record.message,
        columns.endpoint,
        i64::from(record.restarts),
        columns.up_since,
        i64::from(record.failures),
        record.running_counted,
        columns.due_at,
        columns.attempt_number,
        columns.attempt_seq,
        columns.attempt_token,
        columns.attempt_state,
        columns.attempt_call_until,
        columns.attempt_unsure_until,
        columns.attempt_created_at,
        beside.release,
        column(now),
        i64::from(beside.visible),
        i64::from(event.is_some()),
        beside.asked.workspaces,
        beside.asked.disk_gib,
        beside.asked.running_workspaces,
        beside.asked.milli_cpus,
        beside.asked.memory_mib,
        beside.launch,
        event.map(|event| event.kind.as_ref()),
        event.map(|event| text(event.actor)),
        event.map(|event| i64::from(event.generation.0)),
        event.and_then(|event| event.reason).map(text),
        event.map(|event| event.message.as_str()),
        event.and_then(|event| event.exit_code),
        event.map(|event| event.log_tail.as_str()),
        beside.close_segment.map(column),
        beside.open_segment.map(column),
        i64::from(beside.segment_generation),
        now.micros(),
        columns.attempt_placement,
        record.trace,
        &known_reasons(),
    )
    .fetch_one(db)
    .await
    .map_err(store_error)?;
    record.revision = Revision(revision);
    Ok(())
}
