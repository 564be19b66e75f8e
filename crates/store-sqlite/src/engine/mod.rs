//! The engine's store.

mod parts;
mod rows;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use async_trait::async_trait;
use molecule_domain::id::{Generation, LaunchSeq, LeaseOwner, OrganizationId, Revision, WorkspaceId};
use molecule_domain::limits::Amounts;
use molecule_domain::{Error, Timestamp};
use molecule_provisioner::admission::{self, Account, ChangeRequest, ProvisionRequest};
use molecule_provisioner::model::{Claimed, Event, EventDetail, InstanceRecord, Lease, Segment, Wanted};
use molecule_provisioner::outcome::{self, Outcome};
use molecule_provisioner::reconciler::orphans::Launched;
use molecule_provisioner::shown::{Columns, Shown};
use molecule_provisioner::store::codec::actor;
use molecule_provisioner::store::{
    Alarm, Expectations, Expected, Hold, Room, Store, StoreError, UNREADABLE_PAUSE, WHOLE,
};
use molecule_provisioner::wakes::Wakes;
use sqlx::Sqlite;
use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;
use tracing::warn;

use self::parts::{admit, begun, held, highest_launch, tell};
use self::rows::{InstanceRow, account, add_usage, find, leave, next_revision, save};
use crate::Database;
use crate::codec::{from_text, id, json, number, text, unavailable};

/// The most rows that are dropped in one transaction: all others that write wait for it.
const PRUNED: u32 = 2_000;

/// A statement that gives no rows.
type Statement = Query<'static, Sqlite, SqliteArguments>;

/// The engine's store over an open database.
#[derive(Clone, Debug)]
pub struct EngineStore(Database);

impl EngineStore {
    /// The engine's store in this database.
    pub const fn new(database: Database) -> Self {
        Self(database)
    }
}

#[async_trait]
impl Store for EngineStore {
    async fn provision(
        &self,
        request: &ProvisionRequest,
        now: Timestamp,
    ) -> Result<InstanceRecord, StoreError> {
        let mut tx = self.0.begin().await?;
        if let Some(row) = find(&mut tx, request.workspace).await? {
            let record = row.into_record()?;
            if record.organization == request.organization {
                return Ok(record);
            }
            return Err(admission::workspace_taken(request.workspace).into());
        }
        let account = account(&mut tx, request.organization, now).await?;
        let admitted = admission::provision(&account, request, now)?;
        let record = admit(&mut tx, admitted, now).await?;
        self.0.commit_engine(tx, request.organization).await?;
        Ok(record)
    }

    async fn change(&self, request: &ChangeRequest, now: Timestamp) -> Result<InstanceRecord, StoreError> {
        let mut tx = self.0.begin().await?;
        let before = find(&mut tx, request.workspace).await?.map(InstanceRow::into_record).transpose()?;
        let before = before
            .filter(|record| record.organization == request.organization)
            .ok_or_else(|| Error::workspace_not_found(request.workspace))?;
        let account = account(&mut tx, request.organization, now).await?;
        let Some(admitted) = admission::change(&account, &before, request, now)? else { return Ok(before) };
        let record = admit(&mut tx, admitted, now).await?;
        self.0.commit_engine(tx, request.organization).await?;
        Ok(record)
    }

    async fn get(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
    ) -> Result<Option<InstanceRecord>, StoreError> {
        let mut db = self.0.reader.acquire().await.map_err(unavailable)?;
        let record = find(&mut db, workspace).await?.map(InstanceRow::into_record).transpose()?;
        Ok(record.filter(|record| record.organization == organization))
    }

    async fn changed_after(
        &self,
        organization: OrganizationId,
        after: Revision,
        limit: u32,
    ) -> Result<Vec<Shown>, StoreError> {
        let owner = organization.to_string();
        let rows = sqlx::query!(
            "SELECT workspace_id, backend, desired, intent, generation, wanted_generation, spec, phase, phase_since,
                 reason, message, endpoint, attempt_number, revision, created_at
             FROM instances WHERE organization_id = ? AND revision > ? ORDER BY revision LIMIT ?",
            owner,
            after.0,
            limit,
        )
        .fetch_all(&self.0.reader)
        .await
        .map_err(unavailable)?;
        let shown = rows.into_iter().map(|row| {
            Shown::try_from(Columns {
                workspace: id(&row.workspace_id)?,
                organization,
                backend: row.backend,
                desired: row.desired,
                intent: row.intent,
                generation: row.generation,
                wanted_generation: row.wanted_generation,
                spec: row.spec,
                phase: row.phase,
                phase_since: Timestamp::from_micros(row.phase_since),
                reason: row.reason,
                message: row.message,
                endpoint: row.endpoint,
                attempt: row.attempt_number,
                revision: row.revision,
                created_at: Timestamp::from_micros(row.created_at),
            })
        });
        shown.collect()
    }

    async fn events_after(
        &self,
        organization: OrganizationId,
        after: i64,
        limit: u32,
    ) -> Result<Vec<Event>, StoreError> {
        let organization = organization.to_string();
        let rows = sqlx::query!(
            "SELECT * FROM instance_events WHERE organization_id = ? AND event_id > ? ORDER BY event_id LIMIT ?",
            organization,
            after,
            limit,
        )
        .fetch_all(&self.0.reader)
        .await
        .map_err(unavailable)?;
        let events = rows.into_iter().map(|row| {
            Ok(Event {
                id: row.event_id,
                workspace: id(&row.workspace_id)?,
                at: Timestamp::from_micros(row.at),
                detail: EventDetail {
                    kind: row.kind.into(),
                    actor: actor(&row.actor),
                    generation: Generation(number(row.generation)?),
                    reason: row.reason.and_then(|reason| from_text(&reason, "reason").ok()),
                    message: row.message,
                    exit_code: row.exit_code.map(number).transpose()?,
                    log_tail: row.log_tail,
                },
            })
        });
        events.collect()
    }

    async fn claim(
        &self,
        backend: &str,
        owner: LeaseOwner,
        now: Timestamp,
        lease: Duration,
        room: Room,
    ) -> Result<Vec<Claimed>, StoreError> {
        let mut tx = self.0.begin().await?;
        let until = now + lease;
        let (owner_text, now_micros, until_micros) = (owner.to_string(), now.micros(), until.micros());
        let rows = sqlx::query_as!(
            InstanceRow,
            "UPDATE instances SET lease_owner = ?, lease_epoch = lease_epoch + 1, lease_until = ?, due_at = ?
             WHERE workspace_id IN (
                 WITH waiting AS (
                     SELECT workspace_id, organization_id, due_at, lease_until,
                         desired = 'Running' AND generation = wanted_generation
                             AND phase IN ('Admitted', 'Launching') AS launching,
                         desired <> 'Running' OR generation < wanted_generation AS to_end
                     FROM instances WHERE backend = ? AND due_at IS NOT NULL
                 ), held AS (
                     SELECT organization_id, launching, COUNT(*) AS held FROM waiting
                     WHERE lease_until > ? GROUP BY organization_id, launching
                 ), turns AS (
                     SELECT workspace_id, launching, to_end, due_at, COALESCE(held, 0) + row_number()
                         OVER (PARTITION BY organization_id, launching ORDER BY to_end DESC, due_at) AS turn
                     FROM waiting LEFT JOIN held USING (organization_id, launching)
                     WHERE due_at <= ? AND lease_until <= ?
                 ), places AS (
                     SELECT workspace_id, launching, row_number()
                         OVER (PARTITION BY launching ORDER BY turn, to_end DESC, due_at) AS place
                     FROM turns
                 )
                 SELECT workspace_id FROM places WHERE place <= CASE WHEN launching THEN ? ELSE ? END
             )
             RETURNING *",
            owner_text,
            until_micros,
            until_micros,
            backend,
            now_micros,
            now_micros,
            now_micros,
            room.launches,
            room.others,
        )
        .fetch_all(&mut *tx)
        .await
        .map_err(unavailable)?;
        let mut claimed = Vec::with_capacity(rows.len());
        for row in rows {
            let (epoch, workspace) = (row.lease_epoch, row.workspace_id.clone());
            let record = match row.into_record() {
                Ok(record) => record,
                Err(error) => {
                    warn!(workspace, %error, "a record can't be read, as if of a newer version; it is left alone");
                    leave(&mut tx, &workspace, now + UNREADABLE_PAUSE).await?;
                    continue;
                }
            };
            claimed.push(Claimed {
                lease: Lease { workspace: record.workspace, owner, epoch, until },
                record,
                // its only tenant is in this process
                hold: Hold::None,
            });
        }
        // Claiming changes nothing that somebody waits for.
        tx.commit().await.map_err(unavailable)?;
        Ok(claimed)
    }

    async fn next_due(
        &self,
        backend: &str,
        now: Timestamp,
        room: Room,
    ) -> Result<Option<Timestamp>, StoreError> {
        let (now, launches, others) = (now.micros(), room.launches > 0, room.others > 0);
        let due = sqlx::query_scalar!(
            r#"SELECT MIN(CASE WHEN lease_until > ? THEN MAX(due_at, lease_until) ELSE due_at END) AS "due: i64"
               FROM instances WHERE due_at IS NOT NULL AND backend = ?
                   AND CASE WHEN desired = 'Running' AND generation = wanted_generation
                           AND phase IN ('Admitted', 'Launching') THEN ? ELSE ? END"#,
            now,
            backend,
            launches,
            others,
        )
        .fetch_one(&self.0.reader)
        .await
        .map_err(unavailable)?;
        Ok(due.map(Timestamp::from_micros))
    }

    async fn begin_launch(
        &self,
        lease: &Lease,
        planned_for: Wanted,
        placement: &str,
        now: Timestamp,
        call_until: Timestamp,
    ) -> Result<InstanceRecord, StoreError> {
        let mut tx = self.0.begin().await?;
        let mut record = held(&mut tx, lease, now).await?;
        let next = outcome::next_launch(highest_launch(&mut tx).await?, now);
        let began = outcome::begin_launch(&mut record, planned_for, next, placement, now, call_until)?;
        if began.new_attempt {
            begun(&mut tx, (next, record.workspace), now).await?;
        }
        if began.visible {
            record.revision = next_revision(&mut tx, record.organization).await?;
        }
        save(&mut tx, &record).await?;
        self.0.commit_engine(tx, record.organization).await?;
        Ok(record)
    }

    async fn commit(
        &self,
        lease: &Lease,
        now: Timestamp,
        outcome: &Outcome,
        release: bool,
    ) -> Result<InstanceRecord, StoreError> {
        let mut tx = self.0.begin().await?;
        let mut record = held(&mut tx, lease, now).await?;
        let generation = record.generation;
        let effects = outcome::apply(&mut record, outcome, lease, release, now);
        let (organization, workspace) = (record.organization.to_string(), record.workspace.to_string());
        if let Some(until) = effects.close_segment.map(Timestamp::micros) {
            sqlx::query!(
                "UPDATE segments SET until_at = MAX(?, from_at) WHERE workspace_id = ? AND until_at IS NULL",
                until,
                workspace,
            )
            .execute(&mut *tx)
            .await
            .map_err(unavailable)?;
        }
        if let Some(from) = effects.open_segment.map(Timestamp::micros) {
            sqlx::query!(
                "INSERT INTO segments (organization_id, workspace_id, generation, from_at)
                 SELECT ?, ?, ?, MAX(?, COALESCE(MAX(until_at), 0), COALESCE(MAX(from_at) + 1, 0))
                 FROM segments WHERE workspace_id = ?",
                organization,
                workspace,
                generation.0,
                from,
                workspace,
            )
            .execute(&mut *tx)
            .await
            .map_err(unavailable)?;
        }
        add_usage(&mut tx, record.organization, Amounts::default().minus(effects.released)).await?;
        if effects.visible {
            record.revision = next_revision(&mut tx, record.organization).await?;
        }
        if let Some(detail) = &effects.event {
            tell(&mut tx, &record, now, detail).await?;
        }
        save(&mut tx, &record).await?;
        if release {
            sqlx::query!(
                "UPDATE instances SET lease_owner = NULL, lease_until = 0 WHERE workspace_id = ?",
                workspace,
            )
            .execute(&mut *tx)
            .await
            .map_err(unavailable)?;
        }
        self.0.commit_engine(tx, record.organization).await?;
        effects.illegal.map_or(Ok(record), |illegal| Err(illegal.into()))
    }

    async fn expectations(&self, backend: &str) -> Result<Expectations, StoreError> {
        let mut tx = self.0.reader.begin().await.map_err(unavailable)?;
        let rows = sqlx::query!(
            "SELECT workspace_id, organization_id, generation, phase, up_since, due_at, attempt_seq, attempt_state
             FROM instances WHERE phase <> 'Gone' AND backend = ?",
            backend,
        )
        .fetch_all(&mut *tx)
        .await
        .map_err(unavailable)?;
        let instances = rows.into_iter().map(|row| {
            let live = row.attempt_state.as_deref() != Some("Resolved");
            Ok(Expected {
                organization: id(&row.organization_id)?,
                workspace: id(&row.workspace_id)?,
                generation: Generation(number(row.generation)?),
                seq: row.attempt_seq.filter(|_| live).map(LaunchSeq),
                phase: from_text(&row.phase, "phase").ok(),
                up: row.up_since.is_some(),
                settled: row.due_at.is_none(),
            })
        });
        // its only tenant is in this process, and tells this database what it holds itself
        Ok(Expectations { instances: instances.collect::<Result<_, StoreError>>()?, awaited: HashMap::new() })
    }

    async fn launched(&self, launches: &[Launched]) -> Result<HashSet<Launched>, StoreError> {
        if launches.is_empty() {
            return Ok(HashSet::new());
        }
        let numbers = json(&launches.iter().map(|(launch, _)| launch.0).collect::<Vec<_>>())?;
        let rows = sqlx::query!(
            "SELECT launch, workspace_id, at FROM launched
             WHERE launch = 0 OR launch IN (SELECT value FROM json_each(?))",
            numbers,
        )
        .fetch_all(&self.0.reader)
        .await
        .map_err(unavailable)?;
        let held = rows
            .into_iter()
            .map(|row| Ok(((LaunchSeq(row.launch), id(&row.workspace_id)?), Timestamp::from_micros(row.at))));
        let held = held.collect::<Result<HashMap<Launched, Timestamp>, StoreError>>()?;
        let is_known = |(launch, workspace): &Launched| {
            let whole = held.get(&(WHOLE, *workspace));
            held.contains_key(&(*launch, *workspace)) || whole.is_some_and(|at| launch.0 <= at.micros())
        };
        Ok(launches.iter().filter(|launch| is_known(launch)).copied().collect())
    }

    async fn raise_alarm(&self, alarm: &Alarm) -> Result<(), StoreError> {
        let mut tx = self.0.begin().await?;
        let raised_at = alarm.raised_at.micros();
        sqlx::query!(
            "INSERT INTO alarms (backend, raised_at, message) VALUES (?, ?, ?) ON CONFLICT (backend) DO NOTHING",
            alarm.backend,
            raised_at,
            alarm.message,
        )
        .execute(&mut *tx)
        .await
        .map_err(unavailable)?;
        tx.commit().await.map_err(unavailable)
    }

    async fn alarms(&self) -> Result<Vec<Alarm>, StoreError> {
        let rows = sqlx::query!("SELECT backend, raised_at, message FROM alarms ORDER BY alarms.backend")
            .fetch_all(&self.0.reader)
            .await
            .map_err(unavailable)?;
        let alarms = rows.into_iter().map(|row| Alarm {
            backend: row.backend,
            raised_at: Timestamp::from_micros(row.raised_at),
            message: row.message,
        });
        Ok(alarms.collect())
    }

    async fn end_alarm(
        &self,
        backend: &str,
        launches: &[Launched],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut tx = self.0.begin().await?;
        sqlx::query!("DELETE FROM alarms WHERE backend = ?", backend)
            .execute(&mut *tx)
            .await
            .map_err(unavailable)?;
        for launch in launches {
            begun(&mut tx, *launch, now).await?;
        }
        tx.commit().await.map_err(unavailable)
    }

    async fn lead(
        &self,
        role: &str,
        owner: LeaseOwner,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut tx = self.0.begin().await?;
        let (owner, now, until) = (owner.to_string(), now.micros(), until.micros());
        let taken = sqlx::query!(
            "INSERT INTO roles (role, owner, until) VALUES (?, ?, ?)
             ON CONFLICT (role) DO UPDATE SET owner = excluded.owner, until = excluded.until
             WHERE roles.owner = excluded.owner OR roles.until <= ?",
            role,
            owner,
            until,
            now,
        )
        .execute(&mut *tx)
        .await
        .map_err(unavailable)?;
        tx.commit().await.map_err(unavailable)?;
        Ok(taken.rows_affected() > 0)
    }

    async fn wake(&self, workspaces: &[WorkspaceId], now: Timestamp) -> Result<(), StoreError> {
        let mut tx = self.0.begin().await?;
        let now = now.micros();
        for workspace in workspaces {
            let workspace = workspace.to_string();
            sqlx::query!(
                "UPDATE instances SET due_at = MIN(COALESCE(due_at, ?), ?) WHERE workspace_id = ? AND phase <> 'Gone'",
                now,
                now,
                workspace,
            )
            .execute(&mut *tx)
            .await
            .map_err(unavailable)?;
        }
        tx.commit().await.map_err(unavailable)?;
        self.0.engine_wakes.woken();
        Ok(())
    }

    async fn segments(&self, workspace: WorkspaceId) -> Result<Vec<Segment>, StoreError> {
        let workspace = workspace.to_string();
        let rows = sqlx::query!(
            "SELECT generation, from_at, until_at FROM segments WHERE workspace_id = ? ORDER BY from_at",
            workspace,
        )
        .fetch_all(&self.0.reader)
        .await
        .map_err(unavailable)?;
        rows.into_iter()
            .map(|row| {
                Ok(Segment {
                    generation: Generation(number(row.generation)?),
                    from: Timestamp::from_micros(row.from_at),
                    until: row.until_at.map(Timestamp::from_micros),
                })
            })
            .collect()
    }

    async fn account(&self, organization: OrganizationId, now: Timestamp) -> Result<Account, StoreError> {
        let mut db = self.0.reader.acquire().await.map_err(unavailable)?;
        account(&mut db, organization, now).await
    }

    async fn set_account(&self, organization: OrganizationId, account: Account) -> Result<(), StoreError> {
        let mut tx = self.0.begin().await?;
        let (organization, standing, limits) =
            (organization.to_string(), text(account.standing), account.limits);
        let permits = json(&account.permits)?;
        sqlx::query!(
            "INSERT INTO accounts (organization_id, standing, max_workspaces, max_disk_gib,
                 max_running_workspaces, max_milli_cpus, max_memory_mib, max_launches_per_hour, permits)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
             ON CONFLICT (organization_id) DO UPDATE SET standing = excluded.standing,
                 max_workspaces = excluded.max_workspaces, max_disk_gib = excluded.max_disk_gib,
                 max_running_workspaces = excluded.max_running_workspaces,
                 max_milli_cpus = excluded.max_milli_cpus, max_memory_mib = excluded.max_memory_mib,
                 max_launches_per_hour = excluded.max_launches_per_hour, permits = excluded.permits",
            organization,
            standing,
            limits.workspaces,
            limits.disk_gib,
            limits.running_workspaces,
            limits.milli_cpus,
            limits.memory_mib,
            limits.launches_per_hour,
            permits,
        )
        .execute(&mut *tx)
        .await
        .map_err(unavailable)?;
        tx.commit().await.map_err(unavailable)
    }

    async fn prune(&self, before: Timestamp) -> Result<(), StoreError> {
        let before = before.micros();
        let parts: [fn(i64) -> Statement; 4] = [
            |before| {
                sqlx::query!(
                    "DELETE FROM instance_events WHERE event_id IN (
                         SELECT event_id FROM instance_events WHERE at < ? ORDER BY at LIMIT ?)",
                    before,
                    PRUNED,
                )
            },
            |before| {
                sqlx::query!(
                    "DELETE FROM launches WHERE launch_id IN (
                         SELECT launch_id FROM launches WHERE at < ? ORDER BY at LIMIT ?)",
                    before,
                    PRUNED,
                )
            },
            |before| {
                sqlx::query!(
                    "DELETE FROM instances WHERE workspace_id IN (
                         SELECT workspace_id FROM instances WHERE phase = 'Gone' AND phase_since < ?
                         ORDER BY phase_since LIMIT ?)",
                    before,
                    PRUNED,
                )
            },
            |before| {
                sqlx::query!(
                    "DELETE FROM launched WHERE (launch, workspace_id) IN (
                         SELECT launch, workspace_id FROM launched WHERE at < ? AND NOT EXISTS (
                             SELECT 1 FROM instances WHERE instances.workspace_id = launched.workspace_id)
                         ORDER BY at LIMIT ?)",
                    before,
                    PRUNED,
                )
            },
        ];
        for part in parts {
            loop {
                let mut tx = self.0.begin().await?;
                let dropped = part(before).execute(&mut *tx).await.map_err(unavailable)?.rows_affected();
                tx.commit().await.map_err(unavailable)?;
                if dropped < u64::from(PRUNED) {
                    break;
                }
            }
        }
        Ok(())
    }

    fn wakes(&self) -> &Wakes {
        &self.0.engine_wakes
    }
}
