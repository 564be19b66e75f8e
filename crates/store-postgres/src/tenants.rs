//! What tenants and this database have agreed on: nothing is launched for a tenant before it has agreed with the control plane's
//! newest start, and what was refused stays refused.

use std::collections::HashMap;

use async_trait::async_trait;
use molecule_domain::Timestamp;
use molecule_domain::error::{Error, ErrorReason};
use molecule_domain::id::{IncarnationId, IntentNumber, OrganizationId, WorkspaceId};
use molecule_provisioner::admission::Change;
use molecule_provisioner::model::InstanceRecord;
use molecule_provisioner::store::codec::corrupt;
use molecule_provisioner::store::{Hold, LastAgreement, Part, RefusedWish, StoreError, Tenants};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::codec::{column, moment};
use crate::engine::rows::{InstanceRow, account_locked, find, find_locked};
use crate::engine::{EngineStore, await_no_more};
use crate::sessions::forget;
use crate::sqlstate::store_error;
use crate::{Database, Process};

/// What a tenant says when it has agreed with the control plane, or a part of it.
#[derive(Clone, Debug)]
pub struct Agreement {
    /// The start of the control plane with which it has agreed.
    pub with: IncarnationId,
    /// The process's own number for it.
    pub number: i64,
    /// Workspaces of which wishes wait to be told, each with the number of the last.
    pub waiting: Vec<(WorkspaceId, IntentNumber)>,
    /// Whether this is the first part: what was agreed before is forgotten with the last one.
    pub begins: bool,
    /// Whether this is the last part: the two have agreed.
    pub ends: bool,
}

/// Whose tenants may know more than this database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// Organisations whose tenants have still to agree with the control plane's newest start.
    pub without_agreement: Vec<OrganizationId>,
    /// Organisations that this database does not know: their tenants can't call.
    pub unknown: Vec<OrganizationId>,
}

impl Database {
    /// Who has not agreed with the control plane's newest start: of the organisations whose tenants have met it before, and of
    /// these, which own something that no record explains. One that was deleted here has nothing to tell.
    pub async fn without_agreement(&self, owners: &[OrganizationId]) -> Result<Missing, StoreError> {
        let owners: Vec<Uuid> = owners.iter().map(|owner| *owner.as_uuid()).collect();
        let rows = sqlx::query!(
            r#"SELECT these.organization_id AS "organization_id!", o.organization_id IS NOT NULL AS "is_known!"
               FROM (
                   SELECT organization_id FROM tenant_sessions UNION SELECT unnest($1::uuid[])
               ) AS these (organization_id)
               LEFT JOIN organizations o USING (organization_id) LEFT JOIN tenant_sessions s USING (organization_id)
               WHERE o.deleted_at IS NULL AND (s.agreed_with IS NULL OR s.agreed_with IS DISTINCT FROM (
                   SELECT incarnation FROM control_plane_incarnations ORDER BY number DESC LIMIT 1
               )) ORDER BY these.organization_id"#,
            &owners,
        )
        .fetch_all(&self.pool)
        .await
        .map_err(store_error)?;
        let mut missing = Missing::default();
        for row in rows {
            let of = if row.is_known { &mut missing.without_agreement } else { &mut missing.unknown };
            of.push(OrganizationId::from_uuid(row.organization_id));
        }
        Ok(missing)
    }

    /// Keeps what a tenant's process says when it has agreed. With the last part, everything of the organisation's is looked at.
    pub async fn agree(
        &self,
        process: &Process,
        agreement: &Agreement,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let once = || async {
            let organization = process.organization.as_uuid();
            let mut tx = self.begin().await?;
            let own = process.standpoint.incarnation;
            let served = sqlx::query!(
                "SELECT agreement_of, agreement, agreement_ended FROM tenant_sessions
                 WHERE organization_id = $1 AND incarnation = $2 FOR UPDATE",
                organization,
                own.as_uuid(),
            )
            .fetch_optional(&mut *tx)
            .await
            .map_err(store_error)?;
            let Some(served) = served else {
                let message = "this process of the tenant's is not the one that the control plane met last";
                return Err(Error::new(ErrorReason::StoreUnavailable, message).into());
            };
            let last = served.agreement_of.map(|of| LastAgreement {
                process: IncarnationId::from_uuid(of),
                number: served.agreement,
                ended: served.agreement_ended,
            });
            let part = LastAgreement::judge(last, own, agreement.number, agreement.begins)?;
            if part == Part::Late {
                return Ok(());
            }
            sqlx::query!(
                "UPDATE tenant_sessions SET agreement_of = $2, agreement = $7, agreement_ended = $4,
                     -- time counts from the first agreement with a start of the control plane
                     agreed_at = CASE
                         WHEN $4::boolean AND agreed_first IS DISTINCT FROM $3 THEN $6 ELSE agreed_at
                     END,
                     agreed_first = CASE WHEN $4::boolean THEN $3 ELSE agreed_first END,
                     agreed_with = CASE WHEN $4::boolean THEN $3 WHEN $5::boolean THEN NULL ELSE agreed_with END
                 WHERE organization_id = $1",
                organization,
                own.as_uuid(),
                agreement.with.as_uuid(),
                agreement.ends,
                part == Part::First,
                column(now),
                agreement.number,
            )
            .execute(&mut *tx)
            .await
            .map_err(store_error)?;
            if agreement.ends {
                forget(&mut tx, process.organization).await?;
            }
            // in the one order of all locks: instances, and then what is their organisation's
            if agreement.ends {
                let told: Vec<Uuid> =
                    agreement.waiting.iter().map(|(workspace, _)| *workspace.as_uuid()).collect();
                // the time of what was held until now begins: nothing was tried of it meanwhile
                sqlx::query!(
                    "WITH released AS (
                         SELECT i.workspace_id FROM instances i JOIN tenant_waiting w USING (organization_id, workspace_id)
                         WHERE organization_id = $1 AND w.intent > i.intent AND (w.is_old OR $3)
                             AND w.workspace_id <> ALL($4)
                             AND i.phase IN ('Admitted', 'Launching', 'Booting', 'Stopping')
                     )
                     UPDATE instances SET due_at = $2, phase_since = CASE
                         WHEN workspace_id IN (SELECT workspace_id FROM released) THEN $2 ELSE phase_since
                     END
                     WHERE workspace_id IN (
                         SELECT workspace_id FROM instances
                         WHERE organization_id = $1 AND phase <> 'Gone'
                             AND (due_at > $2 OR workspace_id IN (SELECT workspace_id FROM released))
                         ORDER BY workspace_id FOR UPDATE
                     )",
                    organization,
                    column(now),
                    part == Part::First,
                    &told,
                )
                .execute(&mut *tx)
                .await
                .map_err(store_error)?;
            }
            if part == Part::First {
                // nothing is without protection until the last part is heard
                sqlx::query!(
                    "UPDATE tenant_waiting SET is_old = true WHERE organization_id = $1",
                    organization
                )
                .execute(&mut *tx)
                .await
                .map_err(store_error)?;
            }
            let workspaces: Vec<Uuid> =
                agreement.waiting.iter().map(|(workspace, _)| *workspace.as_uuid()).collect();
            let numbers: Vec<i64> = agreement.waiting.iter().map(|(_, number)| number.0).collect();
            sqlx::query!(
                "INSERT INTO tenant_waiting (organization_id, workspace_id, intent)
                 SELECT $1, workspace_id, MAX(intent) FROM unnest($2::uuid[], $3::bigint[]) AS w (workspace_id, intent)
                 GROUP BY workspace_id
                 ON CONFLICT (organization_id, workspace_id) DO UPDATE SET intent = excluded.intent, is_old = false",
                organization,
                &workspaces,
                &numbers,
            )
            .execute(&mut *tx)
            .await
            .map_err(store_error)?;
            if agreement.ends {
                sqlx::query!(
                    "DELETE FROM tenant_waiting WHERE organization_id = $1 AND is_old",
                    organization
                )
                .execute(&mut *tx)
                .await
                .map_err(store_error)?;
            }
            self.commit(tx, process.organization).await
        };
        self.transactions.run("agree", once).await
    }
}

/// Whether these may be launched, as far as their tenants' agreements go. Of whose tenant was never met there is no word.
pub(crate) async fn holds(pool: &PgPool, workspaces: &[Uuid]) -> Result<HashMap<Uuid, Hold>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT i.workspace_id, newest.at AS began, s.agreed_at,
               s.agreed_with IS NOT DISTINCT FROM newest.incarnation AND NOT EXISTS (
                   SELECT 1 FROM tenant_waiting w
                   WHERE w.organization_id = i.organization_id AND w.workspace_id = i.workspace_id
                       AND w.intent > i.intent
               ) AS "released!"
           FROM instances i JOIN tenant_sessions s USING (organization_id) CROSS JOIN (
               SELECT incarnation, at FROM control_plane_incarnations ORDER BY number DESC LIMIT 1
           ) AS newest
           WHERE i.workspace_id = ANY($1)"#,
        workspaces,
    )
    .fetch_all(pool)
    .await
    .map_err(store_error)?;
    let holds = rows.into_iter().map(|row| {
        let hold = match row.agreed_at {
            Some(at) if row.released => Hold::Released(moment(at)),
            _ => Hold::Held(moment(row.began)),
        };
        (row.workspace_id, hold)
    });
    Ok(holds.collect())
}

/// A process of a tenant's in a column; whoever names none has this name.
fn named(process: Option<IncarnationId>) -> Uuid {
    process.map_or(Uuid::nil(), |process| *process.as_uuid())
}

/// Refuses a call of a wish that was refused before. To be called under the organisation's lock.
pub(crate) async fn check_refused(
    db: &mut PgConnection,
    organization: OrganizationId,
    workspace: WorkspaceId,
    (intent, process): (IntentNumber, Option<IncarnationId>),
    change: Option<&Change>,
) -> Result<(), StoreError> {
    let row = sqlx::query!(
        "SELECT intent, reason, message FROM tenant_refusals
         WHERE organization_id = $1 AND workspace_id = $2 AND incarnation = $3",
        organization.as_uuid(),
        workspace.as_uuid(),
        named(process),
    )
    .fetch_optional(db)
    .await
    .map_err(store_error)?;
    let Some(row) = row else { return Ok(()) };
    let reason =
        ErrorReason::named(&row.reason).ok_or_else(|| corrupt(format!("the reason {:?}", row.reason)))?;
    let refused = RefusedWish {
        organization,
        workspace,
        intent: IntentNumber(row.intent),
        process,
        creates: change.is_none(),
        reason,
        message: row.message,
    };
    Ok(refused.check(intent, change)?)
}

/// What there is of a workspace before its first instance is admitted.
pub(crate) struct Known {
    pub(crate) instance: bool,
    pub(crate) refusal: bool,
}

/// Asked for at once: an admission waits for each round trip.
pub(crate) async fn what_is_known(
    db: &mut PgConnection,
    organization: OrganizationId,
    workspace: WorkspaceId,
    process: Option<IncarnationId>,
) -> Result<Known, StoreError> {
    sqlx::query_as!(
        Known,
        r#"SELECT EXISTS (SELECT FROM instances WHERE workspace_id = $2) AS "instance!",
               EXISTS (
                   SELECT FROM tenant_refusals
                   WHERE organization_id = $1 AND workspace_id = $2 AND incarnation = $3
               ) AS "refusal!""#,
        organization.as_uuid(),
        workspace.as_uuid(),
        named(process),
    )
    .fetch_one(db)
    .await
    .map_err(store_error)
}

#[async_trait]
impl Tenants for EngineStore {
    async fn refuse(
        &self,
        refused: &RefusedWish,
        now: Timestamp,
    ) -> Result<Option<InstanceRecord>, StoreError> {
        let organization = refused.organization;
        let granted = |row: Option<InstanceRow>| -> Result<Option<InstanceRecord>, StoreError> {
            let record = row.map(InstanceRow::into_record).transpose()?;
            Ok(record.filter(|record| record.organization == organization && record.intent >= refused.intent))
        };
        let once = || async {
            let mut tx = self.0.begin().await?;
            // in this order: whoever grants it holds one of the two locks
            if let Some(record) = granted(find_locked(&mut tx, refused.workspace).await?)? {
                return Ok(Some(record));
            }
            account_locked(&mut tx, organization, now).await?;
            if let Some(record) = granted(find(&mut tx, refused.workspace).await?)? {
                return Ok(Some(record));
            }
            sqlx::query!(
                "INSERT INTO tenant_refusals AS r
                     (organization_id, workspace_id, intent, reason, message, at, incarnation)
                 VALUES ($1, $2, $3, $4, $5, $6, $7)
                 ON CONFLICT (organization_id, workspace_id, incarnation) DO UPDATE
                     SET intent = excluded.intent, reason = excluded.reason, message = excluded.message,
                         at = excluded.at
                     WHERE r.intent < excluded.intent",
                organization.as_uuid(),
                refused.workspace.as_uuid(),
                refused.intent.0,
                refused.reason.as_str(),
                refused.message,
                column(now),
                named(refused.process),
            )
            .execute(&mut *tx)
            .await
            .map_err(store_error)?;
            let waited = await_no_more(&mut tx, organization, refused.workspace, refused.heard()).await?;
            if let Some(waited) = waited {
                // nothing was tried of what was held for it
                sqlx::query!(
                    "UPDATE instances SET phase_since = $3, due_at = $3
                     WHERE workspace_id = $1 AND organization_id = $2 AND intent < $4
                         AND phase IN ('Admitted', 'Launching', 'Booting', 'Stopping')",
                    refused.workspace.as_uuid(),
                    organization.as_uuid(),
                    column(now),
                    waited.0,
                )
                .execute(&mut *tx)
                .await
                .map_err(store_error)?;
            }
            tx.commit().await.map_err(store_error)?;
            Ok(None)
        };
        self.0.transactions.run("refuse", once).await
    }
}
