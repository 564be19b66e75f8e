//! Suspension: everything of an organisation's is to stop, by the same reconciler that stops anything else.
//!
//! It is two transactions and more, since instances are locked before their organisation: first the standing, so that nothing is
//! admitted from then on, then what is to run, in batches. Who dies in between has left a standing and no stops:
//! [`finish_suspensions`](Accounts::finish_suspensions) makes them, and so does another suspension.

use molecule_domain::Timestamp;
use molecule_domain::id::OrganizationId;
use molecule_domain::lifecycle::Desired;
use molecule_domain::limits::Standing;
use molecule_provisioner::admission;
use molecule_provisioner::store::StoreError;
use molecule_provisioner::store::codec::text;
use sqlx::PgConnection;
use tracing::warn;
use uuid::Uuid;

use super::audit::{Audit, keep};
use super::organizations::load;
use super::{Accounts, Organization};
use crate::engine::rows::{InstanceRow, instance_rows};
use crate::engine::write::{self, Beside};
use crate::sqlstate::store_error;

/// How many instances are locked, and told to stop, in one transaction.
const BATCH: i64 = 50;

impl Accounts {
    /// Suspends an organisation: what runs is to stop, but for what a newer version has written and this one can't read.
    /// That is told to stop where a replica of the newer version finishes the suspension.
    pub async fn suspend(
        &self,
        organization: OrganizationId,
        audit: &Audit,
        now: Timestamp,
    ) -> Result<Organization, StoreError> {
        let once = || async {
            let mut tx = self.0.begin().await?;
            sqlx::query!(
                "UPDATE organizations SET standing = $2 WHERE organization_id = $1",
                organization.as_uuid(),
                text(Standing::Suspended),
            )
            .execute(&mut *tx)
            .await
            .map_err(store_error)?;
            keep(&mut tx, audit, Some(organization), now).await?;
            // says where there is no such organisation
            load(&mut tx, organization, now).await?;
            self.0.commit(tx, organization).await
        };
        self.0.transactions.run("suspend", once).await?;
        self.stop_all(organization, now).await?;
        self.get(organization, now).await
    }

    /// Stops what is still to run of organisations that are suspended: where that was cut short, or where a record could
    /// not be read. One of which that fails keeps no other waiting; the first error is returned.
    pub async fn finish_suspensions(&self, now: Timestamp) -> Result<(), StoreError> {
        let unfinished = sqlx::query_scalar!(
            "SELECT organization_id FROM organizations WHERE standing = $1 AND EXISTS (
                 SELECT 1 FROM instances
                 WHERE instances.organization_id = organizations.organization_id AND desired = $2)",
            text(Standing::Suspended),
            text(Desired::Running),
        )
        .fetch_all(&self.0.pool)
        .await
        .map_err(store_error)?;
        let mut all = Ok(());
        for organization in unfinished {
            let organization = OrganizationId::from_uuid(organization);
            let one = self.stop_all(organization, now).await;
            if let Err(error) = &one {
                warn!(%organization, %error, "what is left to run of a suspended organisation could not be stopped");
            }
            all = all.and(one);
        }
        all
    }

    /// Tells all that is to run of a suspended organisation's to stop.
    async fn stop_all(&self, organization: OrganizationId, now: Timestamp) -> Result<(), StoreError> {
        let mut after = Uuid::nil();
        loop {
            let once = || self.stop_some(organization, after, now);
            match self.0.transactions.run("stop_suspended", once).await? {
                Some(last) => after = last,
                None => return Ok(()),
            }
        }
    }

    /// Tells the first few behind a workspace to stop; the last of these. `None` where there is no more to do.
    async fn stop_some(
        &self,
        organization: OrganizationId,
        after: Uuid,
        now: Timestamp,
    ) -> Result<Option<Uuid>, StoreError> {
        let mut tx = self.0.begin().await?;
        let rows = running(&mut tx, organization, after).await?;
        let last = rows.last().map(|row| row.workspace_id);
        // it may have been suspended no longer than this, and something have been started since
        if last.is_none() || !is_suspended(&mut tx, organization).await? {
            return Ok(None);
        }
        for row in rows {
            let workspace = row.workspace_id;
            let before = match row.into_record() {
                Ok(before) => before,
                Err(error) => {
                    warn!(
                        %workspace, %error,
                        "a record can't be read, as if of a newer version, so it is not told to stop; a replica of that \
                         version tells it"
                    );
                    continue;
                }
            };
            let admitted = admission::suspend(&before, now);
            let mut record = admitted.record;
            let beside = Beside { visible: true, event: Some(&admitted.event), ..Beside::default() };
            write::update(&mut tx, &mut record, &beside, now).await?;
        }
        self.0.commit(tx, organization).await?;
        Ok(last)
    }
}

/// The first few of an organisation's behind a workspace that are to run, locked until the transaction ends.
async fn running(
    db: &mut PgConnection,
    organization: OrganizationId,
    after: Uuid,
) -> Result<Vec<InstanceRow>, StoreError> {
    let rows = instance_rows!(
        "SELECT ",
        " FROM instances WHERE organization_id = $1 AND desired = $2 AND workspace_id > $3
         ORDER BY workspace_id LIMIT $4 FOR UPDATE",
        organization.as_uuid(),
        text(Desired::Running),
        after,
        BATCH,
    );
    rows.fetch_all(db).await.map_err(store_error)
}

/// Whether an organisation is suspended; its row is locked until the transaction ends.
async fn is_suspended(db: &mut PgConnection, organization: OrganizationId) -> Result<bool, StoreError> {
    let standing = sqlx::query_scalar!(
        "SELECT standing FROM organizations WHERE organization_id = $1 FOR NO KEY UPDATE",
        organization.as_uuid(),
    )
    .fetch_optional(db)
    .await
    .map_err(store_error)?;
    Ok(standing == Some(text(Standing::Suspended)))
}
