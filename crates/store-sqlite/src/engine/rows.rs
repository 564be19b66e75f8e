//! Rows of the engine's tables, and how they become records.

use molecule_domain::Timestamp;
use molecule_domain::id::{
    AttemptNumber, Generation, IntentNumber, LaunchSeq, OrganizationId, Revision, WorkspaceId,
};
use molecule_domain::limits::{Amounts, Limits};
use molecule_provisioner::admission::{Account, LAUNCH_WINDOW};
use molecule_provisioner::model::{Attempt, InstanceRecord, Lease};
use molecule_provisioner::store::StoreError;
use sqlx::SqliteConnection;

use crate::codec::{
    Terms, corrupt, from_json, from_text, id, json, known_reasons, number, text, unavailable,
};

/// A row of `instances`.
pub(super) struct InstanceRow {
    pub(super) workspace_id: String,
    pub(super) organization_id: String,
    pub(super) desired: String,
    pub(super) intent: i64,
    pub(super) generation: i64,
    pub(super) wanted_generation: i64,
    pub(super) spec: String,
    pub(super) sealed_token: Option<Vec<u8>>,
    pub(super) phase: String,
    pub(super) phase_since: i64,
    pub(super) reason: Option<String>,
    pub(super) message: String,
    pub(super) endpoint: Option<String>,
    pub(super) restarts: i64,
    pub(super) up_since: Option<i64>,
    pub(super) failures: i64,
    pub(super) charge_id: String,
    pub(super) running_counted: i64,
    pub(super) revision: i64,
    pub(super) due_at: Option<i64>,
    pub(super) attempt_number: Option<i64>,
    pub(super) attempt_seq: Option<i64>,
    pub(super) attempt_token: Option<String>,
    pub(super) attempt_state: Option<String>,
    pub(super) attempt_call_until: Option<i64>,
    pub(super) attempt_unsure_until: Option<i64>,
    pub(super) attempt_created_at: Option<i64>,
    pub(super) attempt_placement: Option<String>,
    pub(super) trace: String,
    pub(super) created_at: i64,
    pub(super) lease_owner: Option<String>,
    pub(super) lease_epoch: i64,
    pub(super) lease_until: i64,
    pub(super) backend: String,
}

impl InstanceRow {
    pub(super) fn into_record(self) -> Result<InstanceRecord, StoreError> {
        let attempt = match (self.attempt_number, self.attempt_seq, self.attempt_token, self.attempt_state) {
            (Some(attempt_number), Some(seq), Some(token), Some(state)) => Some(Attempt {
                number: AttemptNumber(number(attempt_number)?),
                seq: LaunchSeq(seq),
                token,
                // rows of an earlier version had no choice
                placement: self.attempt_placement.unwrap_or_default(),
                state: from_text(&state, "attempt state")?,
                call_until: moment(self.attempt_call_until)?,
                unsure_until: moment(self.attempt_unsure_until)?,
                created_at: moment(self.attempt_created_at)?,
            }),
            _ => None,
        };
        Ok(InstanceRecord {
            workspace: id(&self.workspace_id)?,
            organization: id(&self.organization_id)?,
            backend: self.backend,
            desired: from_text(&self.desired, "desired state")?,
            intent: IntentNumber(self.intent),
            generation: Generation(number(self.generation)?),
            wanted_generation: Generation(number(self.wanted_generation)?),
            spec: from_json(&self.spec, "launch spec")?,
            sealed_token: self.sealed_token,
            phase: from_text(&self.phase, "phase")?,
            phase_since: Timestamp::from_micros(self.phase_since),
            // one that only a newer version knows is told by its message alone
            reason: self.reason.and_then(|reason| from_text(&reason, "reason").ok()),
            message: self.message,
            endpoint: self.endpoint.map(|endpoint| from_json(&endpoint, "endpoint")).transpose()?,
            restarts: number(self.restarts)?,
            up_since: self.up_since.map(Timestamp::from_micros),
            failures: number(self.failures)?,
            charge: id(&self.charge_id)?,
            running_counted: self.running_counted != 0,
            revision: Revision(self.revision),
            due_at: self.due_at.map(Timestamp::from_micros),
            attempt,
            trace: self.trace,
            created_at: Timestamp::from_micros(self.created_at),
        })
    }

    /// Whether this lease still holds on the row.
    pub(super) fn is_held_by(&self, lease: &Lease, now: Timestamp) -> bool {
        self.lease_owner.as_deref() == Some(lease.owner.to_string().as_str())
            && self.lease_epoch == lease.epoch
            && now.micros() < self.lease_until
    }
}

/// Gives the lease of a record back that this version can't read.
pub(super) async fn leave(
    db: &mut SqliteConnection,
    workspace: &str,
    due_at: Timestamp,
) -> Result<(), StoreError> {
    let due_at = due_at.micros();
    sqlx::query!(
        "UPDATE instances SET lease_owner = NULL, lease_until = 0, due_at = ? WHERE workspace_id = ?",
        due_at,
        workspace,
    )
    .execute(db)
    .await
    .map_err(unavailable)?;
    Ok(())
}

fn moment(micros: Option<i64>) -> Result<Timestamp, StoreError> {
    micros.map(Timestamp::from_micros).ok_or_else(|| corrupt("an attempt without its times"))
}

/// The row of a workspace.
pub(super) async fn find(
    db: &mut SqliteConnection,
    workspace: WorkspaceId,
) -> Result<Option<InstanceRow>, StoreError> {
    let workspace = workspace.to_string();
    sqlx::query_as!(InstanceRow, "SELECT * FROM instances WHERE workspace_id = ?", workspace)
        .fetch_optional(db)
        .await
        .map_err(unavailable)
}

/// Writes everything of a record but its lease. A reason of a newer version was read as none, and stays for as long as nothing
/// else is said.
pub(super) async fn save(db: &mut SqliteConnection, record: &InstanceRecord) -> Result<(), StoreError> {
    let workspace = record.workspace.to_string();
    let organization = record.organization.to_string();
    let (desired, phase) = (text(record.desired), text(record.phase));
    let (spec, reason) = (json(&record.spec)?, record.reason.map(text));
    let known = json(&known_reasons())?;
    let endpoint = record.endpoint.as_ref().map(json).transpose()?;
    let (phase_since, created_at) = (record.phase_since.micros(), record.created_at.micros());
    let (up_since, due_at) = (record.up_since.map(Timestamp::micros), record.due_at.map(Timestamp::micros));
    let charge = record.charge.to_string();
    let attempt = record.attempt.as_ref();
    let attempt_number = attempt.map(|a| i64::from(a.number.0));
    let attempt_seq = attempt.map(|a| a.seq.0);
    let attempt_token = attempt.map(|a| a.token.clone());
    let attempt_state = attempt.map(|a| text(a.state));
    let attempt_call_until = attempt.map(|a| a.call_until.micros());
    let attempt_unsure_until = attempt.map(|a| a.unsure_until.micros());
    let attempt_created_at = attempt.map(|a| a.created_at.micros());
    let attempt_placement = attempt.map(|a| a.placement.clone());
    sqlx::query!(
        "INSERT INTO instances (workspace_id, organization_id, desired, intent, generation, wanted_generation, spec,
             sealed_token, phase, phase_since, reason, message, endpoint, restarts, up_since, failures, charge_id,
             running_counted, revision, due_at, attempt_number, attempt_seq, attempt_token, attempt_state,
             attempt_call_until, attempt_unsure_until, attempt_created_at, attempt_placement, created_at, backend,
             trace)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (workspace_id) DO UPDATE SET
             desired = excluded.desired, intent = excluded.intent, generation = excluded.generation,
             wanted_generation = excluded.wanted_generation, spec = excluded.spec,
             sealed_token = excluded.sealed_token, phase = excluded.phase, phase_since = excluded.phase_since,
             reason = CASE
                 WHEN excluded.reason IS NULL AND excluded.message = instances.message
                     AND instances.reason NOT IN (SELECT value FROM json_each(?)) THEN instances.reason
                 ELSE excluded.reason
             END, message = excluded.message, endpoint = excluded.endpoint,
             restarts = excluded.restarts, up_since = excluded.up_since, failures = excluded.failures,
             running_counted = excluded.running_counted, revision = excluded.revision, due_at = excluded.due_at,
             attempt_number = excluded.attempt_number, attempt_seq = excluded.attempt_seq,
             attempt_token = excluded.attempt_token, attempt_state = excluded.attempt_state,
             attempt_call_until = excluded.attempt_call_until,
             attempt_unsure_until = excluded.attempt_unsure_until,
             attempt_created_at = excluded.attempt_created_at,
             attempt_placement = excluded.attempt_placement, trace = excluded.trace",
        workspace,
        organization,
        desired,
        record.intent.0,
        record.generation.0,
        record.wanted_generation.0,
        spec,
        record.sealed_token,
        phase,
        phase_since,
        reason,
        record.message,
        endpoint,
        record.restarts,
        up_since,
        record.failures,
        charge,
        record.running_counted,
        record.revision.0,
        due_at,
        attempt_number,
        attempt_seq,
        attempt_token,
        attempt_state,
        attempt_call_until,
        attempt_unsure_until,
        attempt_created_at,
        attempt_placement,
        created_at,
        record.backend,
        record.trace,
        known,
    )
    .execute(db)
    .await
    .map_err(unavailable)?;
    Ok(())
}

/// The account of an organisation; one without a row has no caps and uses nothing.
pub(super) async fn account(
    db: &mut SqliteConnection,
    organization: OrganizationId,
    now: Timestamp,
) -> Result<Account, StoreError> {
    let organization = organization.to_string();
    let from = (now - LAUNCH_WINDOW).micros();
    let launches = sqlx::query_scalar!(
        "SELECT COUNT(*) FROM launches WHERE organization_id = ? AND at > ?",
        organization,
        from,
    )
    .fetch_one(&mut *db)
    .await
    .map_err(unavailable)?;
    let row = sqlx::query!("SELECT * FROM accounts WHERE organization_id = ?", organization)
        .fetch_optional(db)
        .await
        .map_err(unavailable)?;
    let Some(row) = row else { return Ok(Account { launches, ..Account::default() }) };
    let Terms { standing, permits, .. } = Terms::read(&row.standing, &row.permits);
    Ok(Account {
        standing,
        limits: Limits {
            workspaces: row.max_workspaces,
            disk_gib: row.max_disk_gib,
            running_workspaces: row.max_running_workspaces,
            milli_cpus: row.max_milli_cpus,
            memory_mib: row.max_memory_mib,
            launches_per_hour: row.max_launches_per_hour,
        },
        permits,
        launches,
        used: Amounts {
            workspaces: row.used_workspaces,
            disk_gib: row.used_disk_gib,
            running_workspaces: row.used_running_workspaces,
            milli_cpus: row.used_milli_cpus,
            memory_mib: row.used_memory_mib,
        },
    })
}

/// Adds to what an organisation uses.
pub(super) async fn add_usage(
    db: &mut SqliteConnection,
    organization: OrganizationId,
    more: Amounts,
) -> Result<(), StoreError> {
    if more == Amounts::default() {
        return Ok(());
    }
    let organization = organization.to_string();
    sqlx::query!(
        "UPDATE accounts SET used_workspaces = used_workspaces + ?, used_disk_gib = used_disk_gib + ?,
             used_running_workspaces = used_running_workspaces + ?, used_milli_cpus = used_milli_cpus + ?,
             used_memory_mib = used_memory_mib + ?
         WHERE organization_id = ?",
        more.workspaces,
        more.disk_gib,
        more.running_workspaces,
        more.milli_cpus,
        more.memory_mib,
        organization,
    )
    .execute(db)
    .await
    .map_err(unavailable)?;
    Ok(())
}

/// Raises the organisation's revision, within the transaction that changes something.
pub(super) async fn next_revision(
    db: &mut SqliteConnection,
    organization: OrganizationId,
) -> Result<Revision, StoreError> {
    let organization = organization.to_string();
    sqlx::query_scalar!(
        "INSERT INTO accounts (organization_id, revision, standing) VALUES (?, 1, 'Good')
         ON CONFLICT (organization_id) DO UPDATE SET revision = revision + 1
         RETURNING revision",
        organization,
    )
    .fetch_one(db)
    .await
    .map(Revision)
    .map_err(unavailable)
}
