//! Single statements of the engine's store.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use molecule_domain::Timestamp;
use molecule_domain::id::{
    Generation, IntentNumber, LaunchSeq, LeaseOwner, OrganizationId, Revision, WorkspaceId,
};
use molecule_domain::limits::Standing;
use molecule_provisioner::admission::Account;
use molecule_provisioner::model::{Claimed, Event, EventDetail, Lease, Segment};
use molecule_provisioner::reconciler::orphans::Launched;
use molecule_provisioner::shown::{Columns, Shown};
use molecule_provisioner::store::codec::{actor, from_text, json, number, text};
use molecule_provisioner::store::{
    Alarm, Awaited, Expectations, Expected, Room, StoreError, UNREADABLE_PAUSE,
};
use sqlx::{PgConnection, PgPool};
use tracing::warn;
use uuid::Uuid;

use super::rows::instance_rows;
use crate::Database;
use crate::codec::{column, moment};
use crate::pruning::{PRUNED, in_parts};
use crate::sqlstate::store_error;
use crate::tenants::holds;

pub(super) async fn changed_after(
    pool: &PgPool,
    organization: OrganizationId,
    after: Revision,
    limit: u32,
) -> Result<Vec<Shown>, StoreError> {
    let rows = sqlx::query!(
        "SELECT workspace_id, organization_id, backend, desired, intent, generation, wanted_generation, spec, phase,
             phase_since, reason, message, endpoint, attempt_number, revision, created_at
         FROM instances WHERE organization_id = $1 AND revision > $2 ORDER BY revision LIMIT $3",
        organization.as_uuid(),
        after.0,
        i64::from(limit),
    )
    .fetch_all(pool)
    .await
    .map_err(store_error)?;
    let shown = rows.into_iter().map(|row| {
        Shown::try_from(Columns {
            workspace: WorkspaceId::from_uuid(row.workspace_id),
            organization: OrganizationId::from_uuid(row.organization_id),
            backend: row.backend,
            desired: row.desired,
            intent: row.intent,
            generation: row.generation,
            wanted_generation: row.wanted_generation,
            spec: row.spec,
            phase: row.phase,
            phase_since: moment(row.phase_since),
            reason: row.reason,
            message: row.message,
            endpoint: row.endpoint,
            attempt: row.attempt_number,
            revision: row.revision,
            created_at: moment(row.created_at),
        })
    });
    shown.collect()
}

pub(super) async fn events_after(
    pool: &PgPool,
    organization: OrganizationId,
    after: i64,
    limit: u32,
) -> Result<Vec<Event>, StoreError> {
    let rows = sqlx::query!(
        "SELECT event_id, workspace_id, at, kind, actor, generation, reason, message, exit_code, log_tail
         FROM instance_events WHERE organization_id = $1 AND event_id > $2 ORDER BY event_id LIMIT $3",
        organization.as_uuid(),
        after,
        i64::from(limit),
    )
    .fetch_all(pool)
    .await
    .map_err(store_error)?;
    let events = rows.into_iter().map(|row| {
        Ok(Event {
            id: row.event_id,
            workspace: WorkspaceId::from_uuid(row.workspace_id),
            at: moment(row.at),
            detail: EventDetail {
                kind: row.kind.into(),
                actor: actor(&row.actor),
                generation: Generation(number(row.generation)?),
                reason: row.reason.and_then(|reason| from_text(&reason, "reason").ok()),
                message: row.message,
                exit_code: row.exit_code,
                log_tail: row.log_tail,
            },
        })
    });
    events.collect()
}

pub(super) async fn counters(
    pool: &PgPool,
    organization: OrganizationId,
) -> Result<(Revision, i64), StoreError> {
    let row = sqlx::query!(
        "SELECT revision, events FROM organizations WHERE organization_id = $1",
        organization.as_uuid(),
    )
    .fetch_optional(pool)
    .await
    .map_err(store_error)?;
    Ok(row.map_or((Revision(0), 0), |row| (Revision(row.revision), row.events)))
}

pub(super) async fn claim(
    pool: &PgPool,
    backend: &str,
    owner: LeaseOwner,
    now: Timestamp,
    lease: Duration,
    room: Room,
) -> Result<Vec<Claimed>, StoreError> {
    let until = now + lease;
    let rows = instance_rows!(
        "WITH held AS (
             SELECT organization_id, launching, COUNT(*) AS held FROM instances
             WHERE backend = $3 AND lease_owner IS NOT NULL AND lease_until > $4
             GROUP BY organization_id, launching
         ), turns AS (
             SELECT workspace_id, launching, to_end, due_at, COALESCE(held, 0) + row_number()
                 OVER (PARTITION BY organization_id, launching ORDER BY to_end DESC, due_at) AS turn
             FROM instances LEFT JOIN held USING (organization_id, launching)
             WHERE backend = $3 AND due_at <= $4 AND lease_until <= $4
         ), places AS (
             SELECT workspace_id, launching, row_number()
                 OVER (PARTITION BY launching ORDER BY turn, to_end DESC, due_at) AS place
             FROM turns
         ), chosen AS MATERIALIZED (
             SELECT workspace_id FROM instances
             WHERE workspace_id IN (
                 SELECT workspace_id FROM places
                 WHERE place <= CASE WHEN launching THEN $5::bigint ELSE $6::bigint END
             ) AND due_at <= $4 AND lease_until <= $4
             FOR UPDATE SKIP LOCKED
         )
         UPDATE instances SET lease_owner = $1, lease_epoch = lease_epoch + 1, lease_until = $2, due_at = $2
         WHERE workspace_id IN (SELECT workspace_id FROM chosen)
         RETURNING ",
        "",
        owner.as_uuid(),
        column(until),
        backend,
        column(now),
        i64::from(room.launches),
        i64::from(room.others),
    )
    .fetch_all(pool)
    .await
    .map_err(store_error)?;
    let ids: Vec<Uuid> = rows.iter().map(|row| row.workspace_id).collect();
    let mut holds = match holds(pool, &ids).await {
        Ok(holds) => holds,
        Err(error) => {
            leave(pool, &ids, owner, now + UNREADABLE_PAUSE).await?;
            return Err(error);
        }
    };
    let mut unreadable = Vec::new();
    let claimed = rows.into_iter().filter_map(|row| {
        let (epoch, id) = (row.lease_epoch, row.workspace_id);
        let record = row.into_record().inspect_err(|error| {
            warn!(workspace = %id, %error, "a record can't be read, as if of a newer version; it is left to others");
            unreadable.push(id);
        });
        let record = record.ok()?;
        let hold = holds.remove(&id).unwrap_or_default();
        Some(Claimed { lease: Lease { workspace: record.workspace, owner, epoch, until }, record, hold })
    });
    let claimed = claimed.collect();
    if !unreadable.is_empty()
        && let Err(error) = leave(pool, &unreadable, owner, now + UNREADABLE_PAUSE).await
    {
        warn!(%error, "their leases could not be given back, and end by themselves");
    }
    Ok(claimed)
}

/// Gives the leases of records back that this version can't read.
async fn leave(
    pool: &PgPool,
    workspaces: &[Uuid],
    owner: LeaseOwner,
    due_at: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE instances SET lease_owner = NULL, lease_until = '1970-01-01 00:00:00Z', due_at = $3
         WHERE workspace_id IN (
             SELECT workspace_id FROM instances WHERE workspace_id = ANY($1) AND lease_owner = $2
             ORDER BY workspace_id FOR UPDATE
         )",
        workspaces,
        owner.as_uuid(),
        column(due_at),
    )
    .execute(pool)
    .await
    .map_err(store_error)?;
    Ok(())
}

pub(super) async fn next_due(
    pool: &PgPool,
    backend: &str,
    now: Timestamp,
    room: Room,
) -> Result<Option<Timestamp>, StoreError> {
    let (launches, others) = (room.launches > 0, room.others > 0);
    // Two questions, because each has its index: what is free and longest due, and else what is held.
    let due = sqlx::query_scalar!(
        r#"SELECT due_at AS "due!" FROM instances
           WHERE backend = $1 AND due_at IS NOT NULL AND lease_until <= $2
               AND CASE WHEN launching THEN $3::boolean ELSE $4::boolean END
           ORDER BY due_at LIMIT 1"#,
        backend,
        column(now),
        launches,
        others,
    )
    .fetch_optional(pool)
    .await
    .map_err(store_error)?;
    if let Some(due) = due {
        return Ok(Some(moment(due)));
    }
    let held = sqlx::query_scalar!(
        r#"SELECT MIN(GREATEST(due_at, lease_until)) AS "due" FROM instances
           WHERE backend = $1 AND due_at IS NOT NULL
               AND CASE WHEN launching THEN $2::boolean ELSE $3::boolean END"#,
        backend,
        launches,
        others,
    )
    .fetch_one(pool)
    .await
    .map_err(store_error)?;
    Ok(held.map(moment))
}

/// The next launch number, as [`next_launch`](molecule_provisioner::outcome::next_launch) has it, for a launch that may begin.
/// A transaction of its own: its row would make all launches wait for whoever holds it.
pub(super) async fn next_launch(pool: &PgPool, now: Timestamp) -> Result<LaunchSeq, StoreError> {
    let next = sqlx::query_scalar!(
        "UPDATE launch_numbers SET highest = GREATEST(highest + 1, $1) RETURNING highest",
        now.micros(),
    );
    next.fetch_one(pool).await.map(LaunchSeq).map_err(store_error)
}

/// Whether a launch of a workspace's is live, so that none may begin.
pub(super) async fn is_launched(pool: &PgPool, workspace: WorkspaceId) -> Result<bool, StoreError> {
    let live = sqlx::query_scalar!(
        r#"SELECT attempt_state IS DISTINCT FROM 'Resolved' AND attempt_seq IS NOT NULL AS "live!"
           FROM instances WHERE workspace_id = $1"#,
        workspace.as_uuid(),
    );
    Ok(live.fetch_optional(pool).await.map_err(store_error)?.unwrap_or(false))
}

/// Keeps that a launch begins.
pub(super) async fn add_launched(
    db: &mut PgConnection,
    launch: LaunchSeq,
    workspace: WorkspaceId,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO launched (launch, workspace_id, at) VALUES ($1, $2, $3)",
        launch.0,
        workspace.as_uuid(),
        column(now),
    )
    .execute(db)
    .await
    .map_err(store_error)?;
    Ok(())
}

pub(super) async fn launched(pool: &PgPool, launches: &[Launched]) -> Result<HashSet<Launched>, StoreError> {
    if launches.is_empty() {
        return Ok(HashSet::new());
    }
    let numbers: Vec<i64> = launches.iter().map(|(launch, _)| launch.0).collect();
    let workspaces: Vec<Uuid> = launches.iter().map(|(_, workspace)| *workspace.as_uuid()).collect();
    let moments: Vec<_> =
        launches.iter().map(|(launch, _)| column(Timestamp::from_micros(launch.0))).collect();
    // of a whole workspace this answers for what was launched before it was told to
    let rows = sqlx::query!(
        r#"SELECT asked.launch AS "launch!", asked.workspace_id AS "workspace_id!"
           FROM UNNEST($1::bigint[], $2::uuid[], $3::timestamptz[]) AS asked (launch, workspace_id, at)
           WHERE EXISTS (
               SELECT 1 FROM launched l WHERE l.launch = asked.launch AND l.workspace_id = asked.workspace_id
           ) OR EXISTS (
               SELECT 1 FROM launched l
               WHERE l.launch = 0 AND l.workspace_id = asked.workspace_id AND l.at >= asked.at
           )"#,
        &numbers,
        &workspaces,
        &moments,
    )
    .fetch_all(pool)
    .await
    .map_err(store_error)?;
    Ok(rows
        .into_iter()
        .map(|row| (LaunchSeq(row.launch), WorkspaceId::from_uuid(row.workspace_id)))
        .collect())
}

pub(super) async fn raise_alarm(pool: &PgPool, alarm: &Alarm) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO alarms (backend, raised_at, message) VALUES ($1, $2, $3) ON CONFLICT (backend) DO NOTHING",
        alarm.backend,
        column(alarm.raised_at),
        alarm.message,
    )
    .execute(pool)
    .await
    .map_err(store_error)?;
    Ok(())
}

pub(super) async fn alarms(pool: &PgPool) -> Result<Vec<Alarm>, StoreError> {
    let rows = sqlx::query!("SELECT backend, raised_at, message FROM alarms ORDER BY backend")
        .fetch_all(pool)
        .await
        .map_err(store_error)?;
    let alarm = |backend, raised_at, message| Alarm { backend, raised_at: moment(raised_at), message };
    Ok(rows.into_iter().map(|row| alarm(row.backend, row.raised_at, row.message)).collect())
}

pub(super) async fn end_alarm(
    pool: &PgPool,
    backend: &str,
    launches: &[Launched],
    now: Timestamp,
) -> Result<(), StoreError> {
    let numbers: Vec<i64> = launches.iter().map(|(launch, _)| launch.0).collect();
    let workspaces: Vec<Uuid> = launches.iter().map(|(_, workspace)| *workspace.as_uuid()).collect();
    sqlx::query!(
        "WITH ended AS (DELETE FROM alarms WHERE backend = $1)
         INSERT INTO launched (launch, workspace_id, at)
         SELECT launch, workspace_id, $4 FROM UNNEST($2::bigint[], $3::uuid[]) AS these (launch, workspace_id)
         ON CONFLICT (launch, workspace_id) DO UPDATE SET at = GREATEST(launched.at, excluded.at)",
        backend,
        &numbers,
        &workspaces,
        column(now),
    )
    .execute(pool)
    .await
    .map_err(store_error)?;
    Ok(())
}

pub(super) async fn expectations(pool: &PgPool, backend: &str) -> Result<Expectations, StoreError> {
    // before the records: what is granted in between is in both
    let awaited = awaited(pool).await?;
    let rows = sqlx::query!(
        "SELECT workspace_id, organization_id, generation, phase, up_since, due_at, attempt_seq, attempt_state
         FROM instances WHERE phase <> 'Gone' AND backend = $1",
        backend,
    )
    .fetch_all(pool)
    .await
    .map_err(store_error)?;
    let instances = rows.into_iter().map(|row| {
        let live = row.attempt_state.as_deref() != Some("Resolved");
        Ok(Expected {
            organization: OrganizationId::from_uuid(row.organization_id),
            workspace: WorkspaceId::from_uuid(row.workspace_id),
            generation: Generation(number(row.generation)?),
            seq: row.attempt_seq.filter(|_| live).map(LaunchSeq),
            phase: from_text(&row.phase, "phase").ok(),
            up: row.up_since.is_some(),
            settled: row.due_at.is_none(),
        })
    });
    Ok(Expectations { instances: instances.collect::<Result<_, StoreError>>()?, awaited })
}

/// Workspaces without a record of which wishes wait, as their tenants said when they agreed, that were not heard since.
async fn awaited(pool: &PgPool) -> Result<HashMap<(OrganizationId, WorkspaceId), Awaited>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT w.organization_id, w.workspace_id, o.standing = $1 AS "is_suspended!"
           FROM tenant_waiting w JOIN organizations o USING (organization_id)
           WHERE o.deleted_at IS NULL AND NOT EXISTS (
               SELECT 1 FROM instances i
               WHERE i.workspace_id = w.workspace_id AND i.organization_id = w.organization_id
                   AND (i.phase <> 'Gone' OR i.intent >= w.intent)
           )"#,
        text(Standing::Suspended),
    )
    .fetch_all(pool)
    .await
    .map_err(store_error)?;
    let awaited = rows.into_iter().map(|row| {
        let of = (OrganizationId::from_uuid(row.organization_id), WorkspaceId::from_uuid(row.workspace_id));
        (of, if row.is_suspended { Awaited::Data } else { Awaited::Whole })
    });
    Ok(awaited.collect())
}

/// Awaits nothing more of a workspace up to this wish, which was heard: it is refused, or says that the workspace is to go.
/// The number of the last wish that was waited for, where there was any.
pub(crate) async fn await_no_more(
    db: &mut PgConnection,
    organization: OrganizationId,
    workspace: WorkspaceId,
    intent: IntentNumber,
) -> Result<Option<IntentNumber>, StoreError> {
    let heard = sqlx::query_scalar!(
        "DELETE FROM tenant_waiting WHERE organization_id = $1 AND workspace_id = $2 AND intent <= $3 RETURNING intent",
        organization.as_uuid(),
        workspace.as_uuid(),
        intent.0,
    )
    .fetch_optional(db)
    .await
    .map_err(store_error)?;
    Ok(heard.map(IntentNumber))
}

pub(super) async fn lead(
    pool: &PgPool,
    role: &str,
    owner: LeaseOwner,
    now: Timestamp,
    until: Timestamp,
) -> Result<bool, StoreError> {
    let taken = sqlx::query!(
        "INSERT INTO roles (role, owner, until) VALUES ($1, $2, $3)
         ON CONFLICT (role) DO UPDATE SET owner = excluded.owner, until = excluded.until
         WHERE roles.owner = excluded.owner OR roles.until <= $4",
        role,
        owner.as_uuid(),
        column(until),
        column(now),
    )
    .execute(pool)
    .await
    .map_err(store_error)?;
    Ok(taken.rows_affected() > 0)
}

pub(super) async fn wake(
    pool: &PgPool,
    workspaces: &[WorkspaceId],
    now: Timestamp,
) -> Result<(), StoreError> {
    let ids: Vec<Uuid> = workspaces.iter().map(|workspace| *workspace.as_uuid()).collect();
    sqlx::query!(
        "UPDATE instances SET due_at = $2
         WHERE workspace_id IN (
             SELECT workspace_id FROM instances
             WHERE workspace_id = ANY($1) AND phase <> 'Gone' AND (due_at IS NULL OR due_at > $2)
             ORDER BY workspace_id FOR UPDATE
         )",
        &ids,
        column(now),
    )
    .execute(pool)
    .await
    .map_err(store_error)?;
    Ok(())
}

pub(super) async fn segments(pool: &PgPool, workspace: WorkspaceId) -> Result<Vec<Segment>, StoreError> {
    let rows = sqlx::query!(
        "SELECT generation, from_at, until_at FROM segments WHERE workspace_id = $1 ORDER BY from_at",
        workspace.as_uuid(),
    )
    .fetch_all(pool)
    .await
    .map_err(store_error)?;
    rows.into_iter()
        .map(|row| {
            Ok(Segment {
                generation: Generation(number(row.generation)?),
                from: moment(row.from_at),
                until: row.until_at.map(moment),
            })
        })
        .collect()
}

pub(super) async fn set_account(
    pool: &PgPool,
    organization: OrganizationId,
    account: &Account,
) -> Result<(), StoreError> {
    let limits = account.limits;
    sqlx::query!(
        "INSERT INTO organizations (organization_id, standing, max_workspaces, max_disk_gib,
             max_running_workspaces, max_milli_cpus, max_memory_mib, max_launches_per_hour, permits)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         ON CONFLICT (organization_id) DO UPDATE SET standing = excluded.standing,
             max_workspaces = excluded.max_workspaces, max_disk_gib = excluded.max_disk_gib,
             max_running_workspaces = excluded.max_running_workspaces,
             max_milli_cpus = excluded.max_milli_cpus, max_memory_mib = excluded.max_memory_mib,
             max_launches_per_hour = excluded.max_launches_per_hour, permits = excluded.permits",
        organization.as_uuid(),
        text(account.standing),
        limits.workspaces,
        limits.disk_gib,
        limits.running_workspaces,
        limits.milli_cpus,
        limits.memory_mib,
        limits.launches_per_hour,
        json(&account.permits)?,
    )
    .execute(pool)
    .await
    .map_err(store_error)?;
    Ok(())
}

/// A part of what is old in a table, dropped by the places of its rows, which hold while these are locked. What a replica beside
/// this one has locked is left to it.
macro_rules! part {
    ($database:expr, $before:expr, $delete:literal, $old:literal) => {
        || async {
            let dropped = sqlx::query!(
                $delete
                    + " WHERE ctid = ANY(ARRAY(SELECT ctid FROM "
                    + $old
                    + " LIMIT $2 FOR UPDATE SKIP LOCKED))",
                column($before),
                PRUNED,
            );
            Ok(dropped.execute(&$database.pool).await.map_err(store_error)?.rows_affected())
        }
    };
}

/// What a workspace that is not gone has launched stays, however long ago that was: its disk carries the number of the launch
/// that made it, and what carries a number that is not known raises an alarm. So does that of a workspace which is awaited.
pub(super) async fn prune(database: &Database, before: Timestamp) -> Result<(), StoreError> {
    let transactions = &database.transactions;
    let events =
        part!(database, before, "DELETE FROM instance_events", "instance_events WHERE at < $1 ORDER BY at");
    in_parts(transactions, events).await?;
    let refusals =
        part!(database, before, "DELETE FROM tenant_refusals", "tenant_refusals WHERE at < $1 ORDER BY at");
    in_parts(transactions, refusals).await?;
    let launches = part!(database, before, "DELETE FROM launches", "launches WHERE at < $1 ORDER BY at");
    in_parts(transactions, launches).await?;
    // what is told under a lower number may come, once a record is dropped that was told of all that was waited for
    let heard = || async {
        let heard = sqlx::query!(
            "DELETE FROM tenant_waiting w USING instances i
             WHERE i.workspace_id = w.workspace_id AND i.organization_id = w.organization_id AND w.intent <= i.intent"
        );
        heard.execute(&database.pool).await.map_err(store_error)
    };
    transactions.run("prune", heard).await?;
    let gone = part!(
        database,
        before,
        "DELETE FROM instances",
        "instances WHERE phase = 'Gone' AND phase_since < $1 ORDER BY phase_since"
    );
    in_parts(transactions, gone).await?;
    let launched = part!(
        database,
        before,
        "DELETE FROM launched",
        "launched WHERE at < $1
             AND NOT EXISTS (SELECT 1 FROM instances WHERE instances.workspace_id = launched.workspace_id)
             AND NOT EXISTS (SELECT 1 FROM tenant_waiting WHERE tenant_waiting.workspace_id = launched.workspace_id)
         ORDER BY at"
    );
    in_parts(transactions, launched).await
}
