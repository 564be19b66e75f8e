//! Takes over what the engine says: the same way from an engine in this process and from a control plane.

use molecule_domain::Timestamp;
use molecule_domain::id::{OrganizationId, Revision};
use molecule_domain::lifecycle::{AgentHealth, Phase};
use molecule_provisioner::model::{Event, InstanceView};
use molecule_provisioner::store::StoreError;

use super::model::{AgentRecord, WorkspaceRecord};
use super::{TenantStore, load, save, tell};
use crate::codec::unavailable;
use crate::commit;

impl TenantStore {
    /// How far the engine's changes and events have been taken over.
    pub async fn cursors(&self, organization: OrganizationId) -> Result<(Revision, i64), StoreError> {
        let organization = organization.to_string();
        let row = sqlx::query!(
            "SELECT instance_cursor, event_cursor FROM tenant_state WHERE organization_id = ?",
            organization,
        )
        .fetch_optional(&self.0.reader)
        .await
        .map_err(unavailable)?;
        Ok(row.map_or((Revision(0), 0), |row| (Revision(row.instance_cursor), row.event_cursor)))
    }

    /// Takes over changes and events, in order, with the cursors behind them. What is older than what is
    /// known changes nothing, so it may come twice.
    pub async fn mirror(
        &self,
        organization: OrganizationId,
        instances: &[InstanceView],
        events: &[Event],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut tx = self.0.begin().await?;
        for instance in instances {
            take_over(&mut tx, instance, now).await?;
        }
        for event in events {
            tell(&mut tx, organization, event.workspace, event.at, &event.detail).await?;
        }
        let owner = organization.to_string();
        let revision = instances.last().map_or(0, |last| last.revision.0);
        let event = events.last().map_or(0, |last| last.id);
        sqlx::query!(
            "INSERT INTO tenant_state (organization_id, instance_cursor, event_cursor) VALUES (?, ?, ?)
             ON CONFLICT (organization_id) DO UPDATE SET
                 instance_cursor = MAX(instance_cursor, excluded.instance_cursor),
                 event_cursor = MAX(event_cursor, excluded.event_cursor)",
            owner,
            revision,
            event,
        )
        .execute(&mut *tx)
        .await
        .map_err(unavailable)?;
        commit(tx, &self.0.tenant_commits).await
    }

    /// Follows a provider anew that knows less than it told before: every record of its is news again, and events
    /// are after this one.
    pub async fn restart_mirror(&self, organization: OrganizationId, event: i64) -> Result<(), StoreError> {
        let owner = organization.to_string();
        let mut tx = self.0.begin().await?;
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

    /// Takes over one record that the engine answered with, without moving the cursor.
    pub async fn mirror_answer(
        &self,
        instance: &InstanceView,
        now: Timestamp,
    ) -> Result<WorkspaceRecord, StoreError> {
        let mut tx = self.0.begin().await?;
        take_over(&mut tx, instance, now).await?;
        let record = super::load_existing(&mut tx, instance.organization, instance.workspace).await?;
        commit(tx, &self.0.tenant_commits).await?;
        Ok(record)
    }
}

async fn take_over(
    db: &mut sqlx::SqliteConnection,
    instance: &InstanceView,
    now: Timestamp,
) -> Result<(), StoreError> {
    let Some(mut record) = load(&mut *db, instance.organization, instance.workspace).await? else {
        return Ok(());
    };
    if instance.revision <= record.instance_revision {
        return Ok(());
    }
    if agent_is_over(&record, instance) {
        record.agent = AgentRecord { card: record.agent.card.take(), ..AgentRecord::default() };
    }
    record.instance_revision = instance.revision;
    record.instance_generation = instance.generation;
    // While the engine has not heard the latest, what is wanted is the tenant's to say.
    let workspace = record.workspace.to_string();
    let waits = sqlx::query_scalar!(
        "SELECT COUNT(*) FROM workspaces WHERE workspace_id = ? AND pending IS NOT NULL AND intent > forwarded",
        workspace,
    )
    .fetch_one(&mut *db)
    .await
    .map_err(unavailable)?;
    if waits == 0 {
        record.desired = instance.desired;
    }
    record.phase = instance.phase;
    record.phase_since = instance.phase_since;
    record.reason = instance.reason;
    record.message.clone_from(&instance.message);
    record.endpoint.clone_from(&instance.endpoint);
    if instance.phase == Phase::Gone {
        record.deleted_at = record.deleted_at.or(Some(now));
    }
    // An older generation speaks no longer, and one that is gone not at all.
    let speaks_from = if instance.phase == Phase::Gone { i64::MAX } else { i64::from(instance.generation.0) };
    sqlx::query!("DELETE FROM credentials WHERE workspace_id = ? AND generation < ?", workspace, speaks_from)
        .execute(&mut *db)
        .await
        .map_err(unavailable)?;
    save(db, &mut record, now).await
}

/// Whether what the agent last told is of an instance that is no more. An agent may register before this hears
/// that its instance is up, so only what was told before the instance went down is over.
fn agent_is_over(record: &WorkspaceRecord, instance: &InstanceView) -> bool {
    let agent = &record.agent;
    let down = !matches!(instance.phase, Phase::Booting | Phase::Up);
    let before = agent.last_seen.is_none_or(|seen| seen < instance.phase_since);
    agent.health != AgentHealth::NotConnected && (agent.generation < instance.generation || down && before)
}
