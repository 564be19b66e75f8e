//! Who did what.

use molecule_domain::Timestamp;
use molecule_domain::id::OrganizationId;
use molecule_provisioner::store::StoreError;
use sqlx::PgConnection;

use super::Accounts;
use crate::codec::{column, moment};
use crate::pruning::{PRUNED, in_parts};
use crate::sqlstate::store_error;

/// Who is about to do something, and why.
#[derive(Clone, Debug)]
pub struct Audit {
    /// The operator's name.
    pub actor: String,
    /// What is done, in one word.
    pub action: &'static str,
    /// For people.
    pub message: String,
}

/// Something that an operator did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEvent {
    /// Ascending.
    pub id: i64,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// What, in one word.
    pub action: String,
    /// To which organisation.
    pub organization: Option<OrganizationId>,
    /// For people.
    pub message: String,
}

/// Keeps an audit event, within the transaction of what it tells of.
pub(crate) async fn keep(
    db: &mut PgConnection,
    audit: &Audit,
    organization: Option<OrganizationId>,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO audit_events (at, actor, action, organization_id, message) VALUES ($1, $2, $3, $4, $5)",
        column(now),
        audit.actor,
        audit.action,
        organization.map(|organization| *organization.as_uuid()),
        audit.message,
    )
    .execute(db)
    .await
    .map_err(store_error)?;
    Ok(())
}

impl Accounts {
    /// Keeps an audit event of something that changed no account.
    pub async fn audit(
        &self,
        audit: &Audit,
        organization: Option<OrganizationId>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut db = self.0.pool.acquire().await.map_err(store_error)?;
        keep(&mut db, audit, organization, now).await
    }

    /// Drops audit events of before a moment.
    pub async fn prune(&self, before: Timestamp) -> Result<(), StoreError> {
        let part = || async {
            let dropped = sqlx::query!(
                "DELETE FROM audit_events WHERE event_id = ANY(ARRAY(
                     SELECT event_id FROM audit_events WHERE at < $1 ORDER BY at LIMIT $2 FOR UPDATE SKIP LOCKED))",
                column(before),
                PRUNED,
            );
            Ok(dropped.execute(&self.0.pool).await.map_err(store_error)?.rows_affected())
        };
        in_parts(&self.0.transactions, part).await
    }

    /// Audit events of one organisation or of all, newest first, before an id.
    pub async fn audit_events(
        &self,
        organization: Option<OrganizationId>,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<AuditEvent>, StoreError> {
        let rows = sqlx::query!(
            "SELECT event_id, at, actor, action, organization_id, message FROM audit_events
             WHERE ($1::uuid IS NULL OR organization_id = $1) AND event_id < $2 ORDER BY event_id DESC LIMIT $3",
            organization.map(|organization| *organization.as_uuid()),
            before.unwrap_or(i64::MAX),
            i64::from(limit),
        )
        .fetch_all(&self.0.pool)
        .await
        .map_err(store_error)?;
        let events = rows.into_iter().map(|row| AuditEvent {
            id: row.event_id,
            at: moment(row.at),
            actor: row.actor,
            action: row.action,
            organization: row.organization_id.map(OrganizationId::from_uuid),
            message: row.message,
        });
        Ok(events.collect())
    }
}
