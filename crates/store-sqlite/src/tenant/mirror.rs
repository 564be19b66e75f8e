//! Takes over what the provider says.

use molecule_domain::Timestamp;
use molecule_domain::id::{OrganizationId, Revision};
use molecule_domain::instance::{Event, InstanceView};
use molecule_domain::store::StoreError;
use molecule_workspace::aggregate::SideEffects;
use molecule_workspace::store::{Cursors, Mirrored};

use super::SqliteStore;
use super::rows::add_event;
use crate::codec::{readable, unavailable};

impl SqliteStore {
    pub(super) async fn read_cursors(&self, organization: OrganizationId) -> Result<Cursors, StoreError> {
        let organization = organization.to_string();
        let row = sqlx::query!(
            "SELECT instance_cursor, event_cursor FROM tenant_state WHERE organization_id = ?",
            organization,
        )
        .fetch_optional(&self.database.reader)
        .await
        .map_err(unavailable)?;
        Ok(row.map_or_else(Cursors::default, |row| Cursors {
            revision: Revision(row.instance_cursor),
            event: row.event_cursor,
        }))
    }

    pub(super) async fn take_over(
        &self,
        organization: OrganizationId,
        instances: &[InstanceView],
        events: &[Event],
        now: Timestamp,
    ) -> Result<Mirrored, StoreError> {
        let (mut tx, mut mirrored) = (self.database.begin().await?, Mirrored::default());
        let mut passed_over = false;
        for instance in instances {
            let Some(found) = readable(self.load_workspace(&mut tx, instance.workspace, false).await) else {
                passed_over = true;
                continue;
            };
            let Some(before) = found? else {
                mirrored.unknown |= !instance.is_ending();
                continue;
            };
            let (mut after, mut effects) = (before.clone(), SideEffects::default());
            after.take_over(instance, now, self.own, &mut effects);
            if before.outbox.is_empty() && !after.outbox.is_empty() {
                mirrored.wishes.push(instance.workspace);
            }
            if after != before {
                self.save(&mut tx, &before, after, effects, now).await?;
            }
        }
        for event in events {
            add_event(&mut tx, organization, event.workspace, event.at, &event.detail).await?;
        }
        let owner = organization.to_string();
        let revision = instances.last().map_or(0, |last| last.revision.0);
        let event = events.last().map_or(0, |last| last.id);
        sqlx::query!(
            "INSERT INTO tenant_state (organization_id, instance_cursor, event_cursor, passed_over) VALUES (?, ?, ?, ?)
             ON CONFLICT (organization_id) DO UPDATE SET
                 instance_cursor = MAX(instance_cursor, excluded.instance_cursor),
                 event_cursor = MAX(event_cursor, excluded.event_cursor),
                 passed_over = MAX(passed_over, excluded.passed_over)",
            owner,
            revision,
            event,
            passed_over,
        )
        .execute(&mut *tx)
        .await
        .map_err(unavailable)?;
        self.commit(tx).await?;
        Ok(mirrored)
    }

    pub(super) async fn follow_anew(
        &self,
        organization: OrganizationId,
        event: i64,
    ) -> Result<(), StoreError> {
        let owner = organization.to_string();
        let mut tx = self.database.begin().await?;
        for query in [
            sqlx::query!(
                "UPDATE tenant_state SET instance_cursor = 0, event_cursor = ? WHERE organization_id = ?",
                event,
                owner,
            ),
            sqlx::query!(
                "UPDATE workspaces SET record = json_set(record, '$.instance_revision', 0) WHERE organization_id = ?",
                owner,
            ),
        ] {
            query.execute(&mut *tx).await.map_err(unavailable)?;
        }
        tx.commit().await.map_err(unavailable)
    }
}
