//! Organisations come, change and go.

use molecule_domain::Timestamp;
use molecule_domain::error::{Error, ErrorReason};
use molecule_domain::id::OrganizationId;
use molecule_domain::limits::{Amounts, Limits, Permits};
use molecule_provisioner::admission::{Account, LAUNCH_WINDOW};
use molecule_provisioner::store::StoreError;
use molecule_provisioner::store::codec::{Terms, from_json, json, text};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::audit::{Audit, keep};
use super::{Accounts, Changes, Organization};
use crate::codec::{column, moment};
use crate::engine::organization_not_found;
use crate::sqlstate::{is_taken, store_error};

struct OrganizationRow {
    organization_id: Uuid,
    name: String,
    plan: String,
    backend: String,
    allowed_agent_hosts: Vec<String>,
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
    created_at: OffsetDateTime,
    launches: i64,
}

impl From<OrganizationRow> for Organization {
    fn from(row: OrganizationRow) -> Self {
        let Terms { standing, permits, .. } = Terms::read(&row.standing, &row.permits);
        Self {
            id: OrganizationId::from_uuid(row.organization_id),
            name: row.name,
            plan: row.plan,
            backend: row.backend,
            allowed_agent_hosts: row.allowed_agent_hosts,
            account: Account {
                standing,
                permits,
                limits: Limits {
                    workspaces: row.max_workspaces,
                    disk_gib: row.max_disk_gib,
                    running_workspaces: row.max_running_workspaces,
                    milli_cpus: row.max_milli_cpus,
                    memory_mib: row.max_memory_mib,
                    launches_per_hour: row.max_launches_per_hour,
                },
                used: Amounts {
                    workspaces: row.used_workspaces,
                    disk_gib: row.used_disk_gib,
                    running_workspaces: row.used_running_workspaces,
                    milli_cpus: row.used_milli_cpus,
                    memory_mib: row.used_memory_mib,
                },
                launches: row.launches,
            },
            created_at: moment(row.created_at),
        }
    }
}

/// Refuses to write over permits that only a newer version can read.
async fn check_permits(db: &mut PgConnection, organization: OrganizationId) -> Result<(), StoreError> {
    let stored = sqlx::query_scalar!(
        "SELECT permits FROM organizations WHERE organization_id = $1 FOR NO KEY UPDATE",
        organization.as_uuid(),
    )
    .fetch_optional(db)
    .await
    .map_err(store_error)?;
    if stored.is_some_and(|stored| from_json::<Permits>(&stored, "permits").is_err()) {
        let message = "the organisation's limits hold something that a newer version has stored, and this version would lose it; \
                       set them through a control plane of that version";
        return Err(Error::new(ErrorReason::WrongState, message).into());
    }
    Ok(())
}

async fn select(
    db: &mut PgConnection,
    one: Option<OrganizationId>,
    after: Option<OrganizationId>,
    limit: u32,
    now: Timestamp,
) -> Result<Vec<Organization>, StoreError> {
    let rows = sqlx::query_as!(
        OrganizationRow,
        r#"SELECT organization_id, name, plan, backend, allowed_agent_hosts, standing, permits, max_workspaces,
             max_disk_gib, max_running_workspaces, max_milli_cpus, max_memory_mib, max_launches_per_hour,
             used_workspaces, used_disk_gib, used_running_workspaces, used_milli_cpus, used_memory_mib, created_at,
             (SELECT COUNT(*) FROM launches l WHERE l.organization_id = o.organization_id AND l.at > $4) AS "launches!"
         FROM organizations o
         WHERE deleted_at IS NULL AND ($1::uuid IS NULL OR organization_id = $1)
             AND ($2::uuid IS NULL OR organization_id > $2)
         ORDER BY organization_id LIMIT $3"#,
        one.map(|id| *id.as_uuid()),
        after.map(|id| *id.as_uuid()),
        i64::from(limit),
        column(now - LAUNCH_WINDOW),
    )
    .fetch_all(db)
    .await
    .map_err(store_error)?;
    Ok(rows.into_iter().map(Organization::from).collect())
}

/// One organisation, or an error that says that there is none.
pub(super) async fn load(
    db: &mut PgConnection,
    organization: OrganizationId,
    now: Timestamp,
) -> Result<Organization, StoreError> {
    let found = select(db, Some(organization), None, 1, now).await?.pop();
    found.ok_or_else(|| organization_not_found(organization).into())
}

impl Accounts {
    /// Makes an organisation.
    pub async fn create(
        &self,
        new: &Organization,
        audit: &Audit,
        now: Timestamp,
    ) -> Result<Organization, StoreError> {
        let limits = new.account.limits;
        let once = || async {
            let mut tx = self.0.begin().await?;
            sqlx::query!(
                "INSERT INTO organizations (organization_id, name, plan, backend, allowed_agent_hosts, standing,
                     permits, max_workspaces, max_disk_gib, max_running_workspaces, max_milli_cpus, max_memory_mib,
                     max_launches_per_hour, created_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
                new.id.as_uuid(),
                new.name,
                new.plan,
                new.backend,
                &new.allowed_agent_hosts,
                text(new.account.standing),
                json(&new.account.permits)?,
                limits.workspaces,
                limits.disk_gib,
                limits.running_workspaces,
                limits.milli_cpus,
                limits.memory_mib,
                limits.launches_per_hour,
                column(now),
            )
            .execute(&mut *tx)
            .await
            .map_err(|error| {
                if is_taken(&error) {
                    let message =
                        format!("there is, or was, an organisation {}; choose another id, or leave it out", new.id);
                    return Error::new(ErrorReason::OrganizationExists, message).into();
                }
                store_error(error)
            })?;
            keep(&mut tx, audit, Some(new.id), now).await?;
            let made = load(&mut tx, new.id, now).await?;
            tx.commit().await.map_err(store_error)?;
            Ok(made)
        };
        self.0.transactions.run("create_organization", once).await
    }

    /// One organisation.
    pub async fn get(
        &self,
        organization: OrganizationId,
        now: Timestamp,
    ) -> Result<Organization, StoreError> {
        let mut db = self.0.pool.acquire().await.map_err(store_error)?;
        load(&mut db, organization, now).await
    }

    /// Organisations in order of their ids.
    pub async fn list(
        &self,
        after: Option<OrganizationId>,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<Organization>, StoreError> {
        let mut db = self.0.pool.acquire().await.map_err(store_error)?;
        select(&mut db, None, after, limit, now).await
    }

    /// Changes an organisation.
    pub async fn update(
        &self,
        organization: OrganizationId,
        changes: &Changes,
        audit: &Audit,
        now: Timestamp,
    ) -> Result<Organization, StoreError> {
        let limits = changes.limits.as_ref();
        let cap = |of: fn(&Limits) -> Option<i64>| limits.and_then(|(limits, _)| of(limits));
        let permits = limits.map(|(_, permits)| json(permits)).transpose()?;
        let once = || async {
            let mut tx = self.0.begin().await?;
            if limits.is_some() {
                check_permits(&mut tx, organization).await?;
            }
            let changed = sqlx::query!(
                "UPDATE organizations SET name = COALESCE($2, name), plan = COALESCE($3, plan),
                     backend = COALESCE($4, backend),
                     allowed_agent_hosts = COALESCE($5, allowed_agent_hosts), standing = COALESCE($6, standing),
                     permits = COALESCE($7, permits),
                     max_workspaces = CASE WHEN $7::text IS NULL THEN max_workspaces ELSE $8 END,
                     max_disk_gib = CASE WHEN $7::text IS NULL THEN max_disk_gib ELSE $9 END,
                     max_running_workspaces = CASE WHEN $7::text IS NULL THEN max_running_workspaces ELSE $10 END,
                     max_milli_cpus = CASE WHEN $7::text IS NULL THEN max_milli_cpus ELSE $11 END,
                     max_memory_mib = CASE WHEN $7::text IS NULL THEN max_memory_mib ELSE $12 END,
                     max_launches_per_hour = CASE WHEN $7::text IS NULL THEN max_launches_per_hour ELSE $13 END
                 WHERE organization_id = $1 AND deleted_at IS NULL",
                organization.as_uuid(),
                changes.name.as_deref(),
                changes.plan.as_deref(),
                changes.backend.as_deref(),
                changes.allowed_agent_hosts.as_deref(),
                changes.standing.map(text),
                permits,
                cap(|l| l.workspaces),
                cap(|l| l.disk_gib),
                cap(|l| l.running_workspaces),
                cap(|l| l.milli_cpus),
                cap(|l| l.memory_mib),
                cap(|l| l.launches_per_hour),
            )
            .execute(&mut *tx)
            .await
            .map_err(store_error)?;
            if changed.rows_affected() == 0 {
                return Err(organization_not_found(organization).into());
            }
            keep(&mut tx, audit, Some(organization), now).await?;
            let changed = load(&mut tx, organization, now).await?;
            tx.commit().await.map_err(store_error)?;
            Ok(changed)
        };
        self.0.transactions.run("update_organization", once).await
    }

    /// Deletes an organisation that has nothing at a provider, and makes its tokens worth nothing.
    pub async fn delete(
        &self,
        organization: OrganizationId,
        audit: &Audit,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let once = || async {
            let mut tx = self.0.begin().await?;
            let found = sqlx::query!(
                "UPDATE organizations SET deleted_at = $2 WHERE organization_id = $1 AND deleted_at IS NULL",
                organization.as_uuid(),
                column(now),
            )
            .execute(&mut *tx)
            .await
            .map_err(store_error)?;
            if found.rows_affected() == 0 {
                return Err(organization_not_found(organization).into());
            }
            // the row is locked now, so nothing can be admitted in between
            let left = sqlx::query_scalar!(
                r#"SELECT COUNT(*) AS "count!" FROM instances WHERE organization_id = $1 AND phase <> 'Gone'"#,
                organization.as_uuid(),
            )
            .fetch_one(&mut *tx)
            .await
            .map_err(store_error)?;
            if left > 0 {
                return Err(Error::new(
                    ErrorReason::OrganizationInUse,
                    format!(
                        "the organisation still has {left} workspaces that are not confirmed gone; delete them first"
                    ),
                )
                .into());
            }
            // nobody can be heard any more about what it was awaited for
            sqlx::query!("DELETE FROM tenant_waiting WHERE organization_id = $1", organization.as_uuid())
                .execute(&mut *tx)
                .await
                .map_err(store_error)?;
            sqlx::query!(
                "UPDATE tokens SET revoked_at = $2 WHERE organization_id = $1 AND revoked_at IS NULL",
                organization.as_uuid(),
                column(now),
            )
            .execute(&mut *tx)
            .await
            .map_err(store_error)?;
            keep(&mut tx, audit, Some(organization), now).await?;
            tx.commit().await.map_err(store_error)
        };
        self.0.transactions.run("delete_organization", once).await
    }
}
