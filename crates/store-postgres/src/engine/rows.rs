//! Rows of the engine's tables, and how they become records.

use molecule_domain::Timestamp;
use molecule_domain::id::{
    AttemptNumber, ChargeId, Generation, IntentNumber, LaunchSeq, OrganizationId, Revision, WorkspaceId,
};
use molecule_domain::limits::{Amounts, Limits};
use molecule_provisioner::admission::{Account, LAUNCH_WINDOW};
use molecule_provisioner::model::{Attempt, InstanceRecord, Lease};
use molecule_provisioner::store::StoreError;
use molecule_provisioner::store::codec::{Terms, corrupt, from_json, from_text, number};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::codec::{column, moment};
use crate::sqlstate::store_error;

/// A row of `instances`.
pub(crate) struct InstanceRow {
    pub(crate) workspace_id: Uuid,
    pub(crate) organization_id: Uuid,
    pub(crate) backend: String,
    pub(crate) desired: String,
    pub(crate) intent: i64,
    pub(crate) generation: i64,
    pub(crate) wanted_generation: i64,
    pub(crate) spec: String,
    pub(crate) sealed_token: Option<Vec<u8>>,
    pub(crate) phase: String,
    pub(crate) phase_since: OffsetDateTime,
    pub(crate) reason: Option<String>,
    pub(crate) message: String,
    pub(crate) endpoint: Option<String>,
    pub(crate) restarts: i64,
    pub(crate) up_since: Option<OffsetDateTime>,
    pub(crate) failures: i64,
    pub(crate) charge_id: Uuid,
    pub(crate) running_counted: bool,
    pub(crate) revision: i64,
    pub(crate) due_at: Option<OffsetDateTime>,
    pub(crate) attempt_number: Option<i64>,
    pub(crate) attempt_seq: Option<i64>,
    pub(crate) attempt_token: Option<String>,
    pub(crate) attempt_state: Option<String>,
    pub(crate) attempt_call_until: Option<OffsetDateTime>,
    pub(crate) attempt_unsure_until: Option<OffsetDateTime>,
    pub(crate) attempt_created_at: Option<OffsetDateTime>,
    pub(crate) attempt_placement: Option<String>,
    pub(crate) trace: String,
    pub(crate) created_at: OffsetDateTime,
    pub(crate) lease_owner: Option<Uuid>,
    pub(crate) lease_epoch: i64,
    pub(crate) lease_until: OffsetDateTime,
}

impl InstanceRow {
    pub(crate) fn into_record(self) -> Result<InstanceRecord, StoreError> {
        let time = |at: Option<OffsetDateTime>| {
            at.map(moment).ok_or_else(|| corrupt("an attempt without its times"))
        };
        let attempt = match (self.attempt_number, self.attempt_seq, self.attempt_token, self.attempt_state) {
            (Some(attempt_number), Some(seq), Some(token), Some(state)) => Some(Attempt {
                number: AttemptNumber(number(attempt_number)?),
                seq: LaunchSeq(seq),
                token,
                // rows of an earlier version had no choice
                placement: self.attempt_placement.unwrap_or_default(),
                state: from_text(&state, "attempt state")?,
                call_until: time(self.attempt_call_until)?,
                unsure_until: time(self.attempt_unsure_until)?,
                created_at: time(self.attempt_created_at)?,
            }),
            _ => None,
        };
        Ok(InstanceRecord {
            workspace: WorkspaceId::from_uuid(self.workspace_id),
            organization: OrganizationId::from_uuid(self.organization_id),
            backend: self.backend,
            desired: from_text(&self.desired, "desired state")?,
            intent: IntentNumber(self.intent),
            generation: Generation(number(self.generation)?),
            wanted_generation: Generation(number(self.wanted_generation)?),
            spec: from_json(&self.spec, "launch spec")?,
            sealed_token: self.sealed_token,
            phase: from_text(&self.phase, "phase")?,
            phase_since: moment(self.phase_since),
            // one that only a newer version knows is told by its message alone
            reason: self.reason.and_then(|reason| from_text(&reason, "reason").ok()),
            message: self.message,
            endpoint: self.endpoint.map(|endpoint| from_json(&endpoint, "endpoint")).transpose()?,
            restarts: number(self.restarts)?,
            up_since: self.up_since.map(moment),
            failures: number(self.failures)?,
            charge: ChargeId::from_uuid(self.charge_id),
            running_counted: self.running_counted,
            revision: Revision(self.revision),
            due_at: self.due_at.map(moment),
            attempt,
            trace: self.trace,
            created_at: moment(self.created_at),
        })
    }

    /// Whether this lease still holds on the row.
    pub(crate) fn is_held_by(&self, lease: &Lease, now: Timestamp) -> bool {
        self.lease_owner.as_ref() == Some(lease.owner.as_uuid())
            && self.lease_epoch == lease.epoch
            && now < moment(self.lease_until)
    }
}

/// A query for whole rows of `instances`, between its two ends. The columns are named: a replica of this version goes on
/// where a later one has added some, and PostgreSQL refuses to run a prepared `SELECT *` whose answer has changed.
macro_rules! instance_rows {
    ($before:literal, $after:literal, $($argument:expr),* $(,)?) => {
        sqlx::query_as!(
            $crate::engine::rows::InstanceRow,
            $before
                + "workspace_id, organization_id, backend, desired, intent, generation, wanted_generation, spec, \
                 sealed_token, phase, phase_since, reason, message, endpoint, restarts, up_since, failures, \
                 charge_id, running_counted, revision, due_at, attempt_number, attempt_seq, attempt_token, \
                 attempt_state, attempt_call_until, attempt_unsure_until, attempt_created_at, attempt_placement, \
                 trace, created_at, lease_owner, lease_epoch, lease_until"
                + $after,
            $($argument),*
        )
    };
}
pub(crate) use instance_rows;

/// The row of a workspace.
pub(crate) async fn find(
    db: &mut PgConnection,
    workspace: WorkspaceId,
) -> Result<Option<InstanceRow>, StoreError> {
    instance_rows!("SELECT ", " FROM instances WHERE workspace_id = $1", workspace.as_uuid())
        .fetch_optional(db)
        .await
        .map_err(store_error)
}

/// The row of a workspace, locked until the transaction ends.
pub(crate) async fn find_locked(
    db: &mut PgConnection,
    workspace: WorkspaceId,
) -> Result<Option<InstanceRow>, StoreError> {
    instance_rows!("SELECT ", " FROM instances WHERE workspace_id = $1 FOR UPDATE", workspace.as_uuid())
        .fetch_optional(db)
        .await
        .map_err(store_error)
}

/// A row of `organizations`, as far as admission goes.
struct AccountRow {
    standing: String,
    permits: String,
    max_workspaces: Option<i64>,
    max_disk_gib: Option<i64>,
    max_running_workspaces: Option<i64>,
    max_milli_cpus: Option<i64>,
    max_memory_mib: Option<i64>,
    max_launches_per_hour: Option<i64>,
    used_workspaces: i64,
    used_disk_gib: i64,
    used_running_workspaces: i64,
    used_milli_cpus: i64,
    used_memory_mib: i64,
}

impl AccountRow {
    fn terms(&self) -> Terms {
        Terms::read(&self.standing, &self.permits)
    }

    fn into_account(self, launches: i64) -> Account {
        let Terms { standing, permits, .. } = self.terms();
        Account {
            standing,
            permits,
            limits: Limits {
                workspaces: self.max_workspaces,
                disk_gib: self.max_disk_gib,
                running_workspaces: self.max_running_workspaces,
                milli_cpus: self.max_milli_cpus,
                memory_mib: self.max_memory_mib,
                launches_per_hour: self.max_launches_per_hour,
            },
            used: Amounts {
                workspaces: self.used_workspaces,
                disk_gib: self.used_disk_gib,
                running_workspaces: self.used_running_workspaces,
                milli_cpus: self.used_milli_cpus,
                memory_mib: self.used_memory_mib,
            },
            launches,
        }
    }
}

/// The account of an organisation.
pub(crate) async fn account(
    db: &mut PgConnection,
    organization: OrganizationId,
    now: Timestamp,
) -> Result<Option<Account>, StoreError> {
    let row = sqlx::query_as!(
        AccountRow,
        "SELECT standing, permits, max_workspaces, max_disk_gib, max_running_workspaces, max_milli_cpus,
             max_memory_mib, max_launches_per_hour, used_workspaces, used_disk_gib, used_running_workspaces,
             used_milli_cpus, used_memory_mib
         FROM organizations WHERE organization_id = $1 AND deleted_at IS NULL",
        organization.as_uuid(),
    )
    .fetch_optional(&mut *db)
    .await
    .map_err(store_error)?;
    let Some(row) = row else { return Ok(None) };
    let launches = launches(db, organization, now).await?;
    Ok(Some(row.into_account(launches)))
}

/// The account of an organisation, whose row is locked until the transaction ends, and what else is known of its terms.
pub(crate) async fn account_locked(
    db: &mut PgConnection,
    organization: OrganizationId,
    now: Timestamp,
) -> Result<Option<(Account, Terms)>, StoreError> {
    let row = sqlx::query_as!(
        AccountRow,
        "SELECT standing, permits, max_workspaces, max_disk_gib, max_running_workspaces, max_milli_cpus,
             max_memory_mib, max_launches_per_hour, used_workspaces, used_disk_gib, used_running_workspaces,
             used_milli_cpus, used_memory_mib
         FROM organizations WHERE organization_id = $1 AND deleted_at IS NULL FOR NO KEY UPDATE",
        organization.as_uuid(),
    )
    .fetch_optional(&mut *db)
    .await
    .map_err(store_error)?;
    let Some(row) = row else { return Ok(None) };
    // counted only where it is bounded: admission need not know otherwise
    let launches =
        if row.max_launches_per_hour.is_some() { launches(db, organization, now).await? } else { 0 };
    let terms = row.terms();
    Ok(Some((row.into_account(launches), terms)))
}

async fn launches(
    db: &mut PgConnection,
    organization: OrganizationId,
    now: Timestamp,
) -> Result<i64, StoreError> {
    sqlx::query_scalar!(
        r#"SELECT COUNT(*) AS "count!" FROM launches WHERE organization_id = $1 AND at > $2"#,
        organization.as_uuid(),
        column(now - LAUNCH_WINDOW),
    )
    .fetch_one(db)
    .await
    .map_err(store_error)
}
