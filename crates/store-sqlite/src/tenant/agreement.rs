//! The starts of this tenant, and its agreements with the provider.

use std::collections::{BTreeMap, HashSet};

use molecule_domain::Timestamp;
use molecule_domain::id::{Generation, IncarnationId, IntentNumber, OrganizationId, Revision, WorkspaceId};
use molecule_domain::incarnation::Incarnation;
use molecule_domain::instance::InstanceView;
use molecule_domain::lifecycle::Phase;
use molecule_domain::store::StoreError;
use molecule_workspace::Workspace;
use molecule_workspace::agreement::{Agreed, KnownAgents, Meetings, Met, Minter, Terms};
use molecule_workspace::store::next_revision;
use sqlx::SqliteConnection;

use super::SqliteStore;
use super::rows::add_row;
use crate::Database;
use crate::codec::{corrupt, id, readable, unavailable};

/// How many starts are kept that have stored nothing, as where their port was taken; of others each may be the one that a
/// provider has seen.
const KEPT: i64 = 1000;

/// Stores a new start. What an earlier one has passed over of the provider's changes is taken over once more, should this
/// version be one that can read it.
pub(super) async fn begin(database: &Database, own: IncarnationId, now: Timestamp) -> Result<(), StoreError> {
    let (own, now) = (own.to_string(), now.micros());
    let mut tx = database.begin().await?;
    for query in [
        sqlx::query!(
            "INSERT INTO incarnations (incarnation, place, begins_at, started_at)
             SELECT ?, COALESCE((SELECT MAX(place) FROM incarnations), 0) + 1,
                 COALESCE((SELECT MAX(revision) FROM tenant_state), 0), ?",
            own,
            now,
        ),
        sqlx::query!(
            "DELETE FROM incarnations WHERE place <= (SELECT MAX(place) FROM incarnations) - ?
                 AND incarnation NOT IN (SELECT agreed_in FROM tenant_state WHERE agreed_in IS NOT NULL)
                 AND begins_at = (SELECT MIN(next.begins_at) FROM incarnations next WHERE next.place > incarnations.place)",
            KEPT
        ),
        sqlx::query!("UPDATE tenant_state SET instance_cursor = 0, passed_over = 0 WHERE passed_over = 1"),
    ] {
        query.execute(&mut *tx).await.map_err(unavailable)?;
    }
    tx.commit().await.map_err(unavailable)
}

fn incarnation(text: &str) -> Result<IncarnationId, StoreError> {
    text.parse().map_err(|_| corrupt("the id of a start"))
}

async fn load_meetings(
    db: &mut SqliteConnection,
    organization: OrganizationId,
) -> Result<(Meetings, Revision), StoreError> {
    let organization = organization.to_string();
    let rows = sqlx::query!("SELECT incarnation, begins_at FROM incarnations ORDER BY place")
        .fetch_all(&mut *db)
        .await
        .map_err(unavailable)?;
    let held = rows.iter().map(|row| {
        Ok(Incarnation { id: incarnation(&row.incarnation)?, begins_at: Revision(row.begins_at) })
    });
    let held = held.collect::<Result<Vec<_>, StoreError>>()?;
    let rows = sqlx::query!("SELECT incarnation, revision FROM acknowledged")
        .fetch_all(&mut *db)
        .await
        .map_err(unavailable)?;
    let acknowledged = rows.iter().map(|row| Ok((incarnation(&row.incarnation)?, Revision(row.revision))));
    let acknowledged = acknowledged.collect::<Result<BTreeMap<_, _>, StoreError>>()?;
    let state = sqlx::query!(
        "SELECT revision, agreed_in, provider FROM tenant_state WHERE organization_id = ?",
        organization,
    )
    .fetch_optional(&mut *db)
    .await
    .map_err(unavailable)?;
    let Some(state) = state else {
        return Ok((Meetings { held, acknowledged, ..Meetings::default() }, Revision(0)));
    };
    let agreed_in = state.agreed_in.as_deref().map(incarnation).transpose()?;
    let provider = state.provider.as_deref().map(incarnation).transpose()?;
    Ok((Meetings { held, acknowledged, agreed_in, provider }, Revision(state.revision)))
}

impl SqliteStore {
    pub(super) async fn read_meetings(
        &self,
        organization: OrganizationId,
    ) -> Result<(Meetings, Revision), StoreError> {
        let mut db = self.database.reader.acquire().await.map_err(unavailable)?;
        load_meetings(&mut db, organization).await
    }

    /// One transaction, so that a process that ends in the middle has agreed on nothing.
    pub(super) async fn agree_on_all(
        &self,
        organization: OrganizationId,
        met: &Met,
        inventory: &[InstanceView],
        minter: &dyn Minter,
        now: Timestamp,
    ) -> Result<Agreed, StoreError> {
        let mut tx = self.database.begin().await?;
        let (meetings, revision) = load_meetings(&mut tx, organization).await?;
        let lost = meetings.lost_until(revision, &met.seen);
        let set_back = lost.is_some();
        let terms = Terms { meetings: &meetings, revision, seen: &met.seen, set_back, own: self.own, minter };
        let mut agreed = Agreed { set_back, ..Agreed::default() };
        let has: BTreeMap<_, _> = inventory.iter().map(|instance| (instance.workspace, instance)).collect();
        let owner = organization.to_string();
        let held = sqlx::query_scalar!(
            "SELECT workspace_id FROM workspaces WHERE organization_id = ? ORDER BY created_at, workspace_id",
            owner,
        )
        .fetch_all(&mut *tx)
        .await
        .map_err(unavailable)?;
        let held = held.iter().map(|row| id(row)).collect::<Result<Vec<WorkspaceId>, _>>()?;
        let known: HashSet<WorkspaceId> = held.iter().copied().collect();
        for workspace in &held {
            let Some(found) = readable(self.load_workspace(&mut tx, *workspace, false).await) else {
                // whoever can read it tells what is wanted of it; until then nothing of it is launched or taken away
                agreed.waiting.push((*workspace, IntentNumber(i64::MAX)));
                continue;
            };
            let Some(mut before) = found? else { continue };
            if !before.outbox.is_empty() {
                // one of its wishes may give way, with what it set of the private parts
                let Some(whole) = self.load_workspace(&mut tx, *workspace, true).await? else { continue };
                before = whole;
            }
            let instance = has.get(workspace).copied();
            if before.record.phase == Phase::Gone && instance.is_none_or(InstanceView::is_ending) {
                continue;
            }
            let agents = match instance {
                Some(instance) => known_agents(&mut tx, instance).await?,
                None => KnownAgents::default(),
            };
            let mut after = before.clone();
            let (verdict, effects) = after.agree(instance, agents, &terms, now);
            agreed.add(&after, verdict, &effects);
            if after != before {
                self.save(&mut tx, &before, after, effects, now).await?;
            }
        }
        for instance in inventory.iter().filter(|instance| !instance.is_ending()) {
            if known.contains(&instance.workspace) {
                continue;
            }
            let (after, effects) = Workspace::take_back(instance, &terms, now);
            add_row(&mut tx, organization, instance.workspace, &after.private, now).await?;
            agreed.recovered.push(instance.workspace);
            let before = Workspace { outbox: Vec::new(), ..after.clone() };
            self.save(&mut tx, &before, after, effects, now).await?;
        }
        let cursor = inventory.last().map_or(0, |last| last.revision.0);
        note_agreement(&mut tx, organization, self.own, met, cursor).await?;
        if let Some(lost) = lost {
            forget_watchers(&mut tx, organization, lost, now).await?;
        }
        self.commit(tx).await?;
        Ok(agreed)
    }
}

/// What this database holds of the agents of a workspace.
async fn known_agents(db: &mut SqliteConnection, instance: &InstanceView) -> Result<KnownAgents, StoreError> {
    let workspace = instance.workspace.to_string();
    let rows = sqlx::query!(
        r#"SELECT generation AS "generation: u32", credential_hash IS NOT NULL AS "redeemed: bool"
           FROM credentials WHERE workspace_id = ?"#,
        workspace,
    )
    .fetch_all(db)
    .await
    .map_err(unavailable)?;
    let held: Vec<_> = rows.iter().map(|row| (Generation(row.generation), row.redeemed)).collect();
    Ok(KnownAgents::of(instance, &held))
}

/// Whoever watched in the time that is lost, which ends at the revision `lost`, begins anew, whatever revision it was told
/// last.
async fn forget_watchers(
    db: &mut SqliteConnection,
    organization: OrganizationId,
    lost: Revision,
    now: Timestamp,
) -> Result<(), StoreError> {
    let organization = organization.to_string();
    let state =
        sqlx::query!("SELECT revision, forgotten FROM tenant_state WHERE organization_id = ?", organization,)
            .fetch_one(&mut *db)
            .await
            .map_err(unavailable)?;
    if state.forgotten >= lost.0 {
        // they have begun anew since
        return Ok(());
    }
    let revision = next_revision(Revision(state.revision), now).0;
    sqlx::query!(
        "UPDATE tenant_state SET revision = ?, forgotten = ? WHERE organization_id = ?",
        revision,
        revision,
        organization,
    )
    .execute(db)
    .await
    .map_err(unavailable)?;
    Ok(())
}

async fn note_agreement(
    db: &mut SqliteConnection,
    organization: OrganizationId,
    own: IncarnationId,
    met: &Met,
    cursor: i64,
) -> Result<(), StoreError> {
    let (organization, own, provider) =
        (organization.to_string(), own.to_string(), met.provider.incarnation.to_string());
    sqlx::query!(
        "INSERT INTO tenant_state (organization_id, agreed_in, provider, instance_cursor)
         VALUES (?, ?, ?, ?)
         ON CONFLICT (organization_id) DO UPDATE SET
             agreed_in = excluded.agreed_in, provider = excluded.provider,
             instance_cursor = excluded.instance_cursor",
        organization,
        own,
        provider,
        cursor,
    )
    .execute(&mut *db)
    .await
    .map_err(unavailable)?;
    for seen in &met.seen {
        let incarnation = seen.incarnation.to_string();
        sqlx::query!(
            "INSERT INTO acknowledged (incarnation, revision) VALUES (?, ?)
             ON CONFLICT (incarnation) DO UPDATE SET revision = MAX(revision, excluded.revision)",
            incarnation,
            seen.revision.0,
        )
        .execute(&mut *db)
        .await
        .map_err(unavailable)?;
    }
    Ok(())
}
