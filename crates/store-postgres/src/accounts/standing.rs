//! Suspension: everything of an organisation's is to stop, by the same reconciler that stops anything else.

use molecule_domain::Timestamp;
use molecule_domain::id::OrganizationId;
use molecule_domain::lifecycle::Desired;
use molecule_domain::limits::Standing;
use molecule_provisioner::admission;
use molecule_provisioner::store::StoreError;
use molecule_provisioner::store::codec::text;
use sqlx::PgConnection;
use tracing::warn;

use super::audit::{Audit, keep};
use super::organizations::load;
use super::{Accounts, Organization};
use crate::engine::rows::{InstanceRow, instance_rows};
use crate::engine::write::{self, Beside};
use crate::sqlstate::store_error;

impl Accounts {
    /// Suspends an organisation: what runs is to stop, but for what a newer version has written and this one can't read.
    /// That is told to stop where a replica of the newer version suspends the organisation once more.
    pub async fn suspend(
        &self,
        organization: OrganizationId,
        audit: &Audit,
        now: Timestamp,
    ) -> Result<Organization, StoreError> {
        let once = || async {
            let mut tx = self.0.begin().await?;
            // the instances' locks come before the organisation's, as everywhere
            running(&mut tx, organization).await?;
            sqlx::query!(
                "UPDATE organizations SET standing = $2 WHERE organization_id = $1",
                organization.as_uuid(),
                text(Standing::Suspended),
            )
            .execute(&mut *tx)
            .await
            .map_err(store_error)?;
            // what was admitted between the two is seen now, as the organisation's lock was waited for
            for row in running(&mut tx, organization).await? {
                let workspace = row.workspace_id;
                let before = match row.into_record() {
                    Ok(before) => before,
                    Err(error) => {
                        warn!(
                            %workspace, %error,
                            "a record can't be read, as if of a newer version, so it is not told to stop; suspend its \
                             organisation once more by a replica of that version"
                        );
                        continue;
                    }
                };
                let admitted = admission::suspend(&before, now);
                let mut record = admitted.record;
                let beside = Beside { visible: true, event: Some(&admitted.event), ..Beside::default() };
                write::update(&mut tx, &mut record, &beside, now).await?;
            }
            keep(&mut tx, audit, Some(organization), now).await?;
            let suspended = load(&mut tx, organization, now).await?;
            self.0.commit(tx, organization).await?;
            Ok(suspended)
        };
        self.0.transactions.run("suspend", once).await
    }
}

/// What of an organisation's is to run, locked until the transaction ends.
async fn running(
    db: &mut PgConnection,
    organization: OrganizationId,
) -> Result<Vec<InstanceRow>, StoreError> {
    let rows = instance_rows!(
        "SELECT ",
        " FROM instances WHERE organization_id = $1 AND desired = $2 ORDER BY workspace_id FOR UPDATE",
        organization.as_uuid(),
        text(Desired::Running),
    );
    rows.fetch_all(db).await.map_err(store_error)
}
