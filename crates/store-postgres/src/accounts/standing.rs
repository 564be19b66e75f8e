//! Suspension: everything of an organisation's is to stop, by the same reconciler that stops anything else.

use molecule_domain::Timestamp;
use molecule_domain::id::OrganizationId;
use molecule_domain::lifecycle::{Desired, Reason};
use molecule_domain::limits::Standing;
use molecule_provisioner::model::Actor;
use molecule_provisioner::store::StoreError;
use molecule_provisioner::store::codec::text;

use super::audit::{Audit, keep};
use super::organizations::load;
use super::{Accounts, Organization};
use crate::codec::column;
use crate::sqlstate::store_error;

const MESSAGE: &str = "the organisation is suspended: being stopped, its data is kept";

impl Accounts {
    /// Suspends an organisation: what runs is to stop.
    pub async fn suspend(
        &self,
        organization: OrganizationId,
        audit: &Audit,
        now: Timestamp,
    ) -> Result<Organization, StoreError> {
        let once = || async {
            let mut tx = self.0.begin().await?;
            let (id, running) = (organization.as_uuid(), text(Desired::Running));
            // the instances' locks come before the organisation's, as everywhere
            sqlx::query!(
                "SELECT workspace_id FROM instances WHERE organization_id = $1 AND desired = $2
                 ORDER BY workspace_id FOR UPDATE",
                id,
                running,
            )
            .fetch_all(&mut *tx)
            .await
            .map_err(store_error)?;
            sqlx::query!(
                "UPDATE organizations SET standing = $2 WHERE organization_id = $1",
                id,
                text(Standing::Suspended),
            )
            .execute(&mut *tx)
            .await
            .map_err(store_error)?;
            // What was admitted between the two is seen by this statement, as the organisation's lock was waited
            // for. Each instance gets a revision and an event number of its own.
            sqlx::query!(
                "WITH running AS (
                     SELECT workspace_id, generation, row_number() OVER (ORDER BY workspace_id) AS n,
                         COUNT(*) OVER () AS total
                     FROM instances WHERE organization_id = $1 AND desired = $2
                 ), o AS (
                     UPDATE organizations SET revision = GREATEST(revision, $8) + (SELECT COUNT(*) FROM running),
                         events = GREATEST(events, $8) + (SELECT COUNT(*) FROM running)
                     WHERE organization_id = $1 RETURNING revision, events
                 ), e AS (
                     INSERT INTO instance_events (organization_id, event_id, workspace_id, at, kind, actor,
                         generation, reason, message, log_tail)
                     SELECT $1, o.events - r.total + r.n, r.workspace_id, $3, 'suspended', $4, r.generation, $5, $6, ''
                     FROM running r, o
                 )
                 UPDATE instances i SET desired = $7, reason = $5, message = $6, due_at = $3, failures = 0,
                     revision = o.revision - r.total + r.n
                 FROM running r, o WHERE i.workspace_id = r.workspace_id",
                id,
                running,
                column(now),
                text(Actor::Operator),
                text(Reason::OrganizationSuspended),
                MESSAGE,
                text(Desired::Stopped),
                now.micros(),
            )
            .execute(&mut *tx)
            .await
            .map_err(store_error)?;
            keep(&mut tx, audit, Some(organization), now).await?;
            let suspended = load(&mut tx, organization, now).await?;
            self.0.commit(tx, organization).await?;
            Ok(suspended)
        };
        self.0.transactions.run("suspend", once).await
    }
}
