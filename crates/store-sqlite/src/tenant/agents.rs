//! Agents: their credentials, and what they tell.

use molecule_domain::Timestamp;
use molecule_domain::id::{Generation, OrganizationId, WorkspaceId};
use molecule_domain::lifecycle::{AgentHealth, Phase};
use molecule_provisioner::model::EventDetail;
use molecule_provisioner::store::StoreError;

use super::model::{AgentRecord, WorkspaceRecord};
use super::{TenantStore, load_existing, save, save_quietly, tell};
use crate::codec::{id, number, unavailable};
use crate::commit;

/// A bootstrap token that somebody redeems.
#[derive(Clone, Debug)]
pub struct Redemption {
    /// The token's hash.
    pub token_hash: Vec<u8>,
    /// The nonce that came with it.
    pub nonce: String,
}

/// What became of a redemption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redeemed {
    /// The credential is this generation's; the same for the same nonce.
    Granted(WorkspaceId, Generation),
    /// There is no such token, or its generation is over.
    Unknown,
    /// Another nonce came first, or the credential is in use: somebody else has the token.
    Refused(WorkspaceId, Generation),
}

impl TenantStore {
    /// Redeems a bootstrap token: the first nonce wins, until the credential is first used.
    /// `credential_hash` is the hash of the credential that a generation gets for a nonce.
    pub async fn redeem(
        &self,
        redemption: &Redemption,
        credential_hash: impl FnOnce(WorkspaceId, Generation) -> Vec<u8> + Send,
    ) -> Result<Redeemed, StoreError> {
        let mut tx = self.0.begin().await?;
        let row = sqlx::query!(
            r#"SELECT workspace_id, generation AS "generation!", nonce, used_at FROM credentials WHERE token_hash = ?"#,
            redemption.token_hash,
        )
        .fetch_optional(&mut *tx)
        .await
        .map_err(unavailable)?;
        let Some(row) = row else { return Ok(Redeemed::Unknown) };
        let (workspace, generation) = (id(&row.workspace_id)?, Generation(number(row.generation)?));
        let another = row.nonce.as_ref().is_some_and(|nonce| *nonce != redemption.nonce);
        if another || row.used_at.is_some() {
            return Ok(Redeemed::Refused(workspace, generation));
        }
        let hash = credential_hash(workspace, generation);
        sqlx::query!(
            "UPDATE credentials SET nonce = ?, credential_hash = ? WHERE token_hash = ?",
            redemption.nonce,
            hash,
            redemption.token_hash,
        )
        .execute(&mut *tx)
        .await
        .map_err(unavailable)?;
        tx.commit().await.map_err(unavailable)?;
        Ok(Redeemed::Granted(workspace, generation))
    }

    /// Whose credential this is, by its hash. Its first use ends the bootstrap token's worth.
    pub async fn authenticate(
        &self,
        credential_hash: &[u8],
        now: Timestamp,
    ) -> Result<Option<(WorkspaceId, Generation)>, StoreError> {
        let row = sqlx::query!(
            r#"SELECT workspace_id, generation AS "generation!", used_at FROM credentials WHERE credential_hash = ?"#,
            credential_hash,
        )
        .fetch_optional(&self.0.reader)
        .await
        .map_err(unavailable)?;
        let Some(row) = row else { return Ok(None) };
        if row.used_at.is_none() {
            let (mut tx, now) = (self.0.begin().await?, now.micros());
            sqlx::query!(
                "UPDATE credentials SET used_at = ? WHERE credential_hash = ? AND used_at IS NULL",
                now,
                credential_hash,
            )
            .execute(&mut *tx)
            .await
            .map_err(unavailable)?;
            tx.commit().await.map_err(unavailable)?;
        }
        Ok(Some((id(&row.workspace_id)?, Generation(number(row.generation)?))))
    }

    /// The nonce that a generation's credential was made for.
    pub async fn nonce_of(
        &self,
        workspace: WorkspaceId,
        generation: Generation,
    ) -> Result<Option<String>, StoreError> {
        let workspace = workspace.to_string();
        let nonce = sqlx::query_scalar!(
            "SELECT nonce FROM credentials WHERE workspace_id = ? AND generation = ?",
            workspace,
            generation.0,
        )
        .fetch_optional(&self.0.reader)
        .await
        .map_err(unavailable)?;
        Ok(nonce.flatten())
    }

    /// Takes over what an agent tells. Watchers see a change of its health or card, not every heartbeat.
    /// `None` where the generation that speaks is not the one that is up.
    pub async fn agent_told(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
        generation: Generation,
        now: Timestamp,
        update: impl FnOnce(&mut AgentRecord) + Send,
    ) -> Result<Option<WorkspaceRecord>, StoreError> {
        let mut tx = self.0.begin().await?;
        let mut record = load_existing(&mut tx, organization, workspace).await?;
        let over = generation != record.generation
            || matches!(record.phase, Phase::Gone | Phase::Failed | Phase::Stopped);
        if over {
            return Ok(None);
        }
        let before = record.agent.clone();
        record.agent.last_seen = Some(now);
        record.agent.generation = generation;
        update(&mut record.agent);
        if record.agent.health == before.health && record.agent.card == before.card {
            save_quietly(&mut tx, &record).await?;
            tx.commit().await.map_err(unavailable)?;
            return Ok(Some(record));
        }
        if let Some(detail) = event_of(&record, before.health) {
            tell(&mut tx, organization, workspace, now, &detail).await?;
        }
        save(&mut tx, &mut record, now).await?;
        commit(tx, &self.0.tenant_commits).await?;
        Ok(Some(record))
    }
}

fn event_of(record: &WorkspaceRecord, before: AgentHealth) -> Option<EventDetail> {
    use molecule_domain::lifecycle::Reason;
    use molecule_provisioner::model::Actor;
    let (kind, reason, message) = match (before, record.agent.health) {
        (before, after) if before == after => return None,
        (AgentHealth::NotConnected, AgentHealth::Healthy) => ("agent_connected", None, "the agent connected"),
        (_, AgentHealth::Healthy) => ("agent_recovered", None, "the agent is well again"),
        (_, AgentHealth::Errors) => {
            ("agent_errors", Some(Reason::AgentErrors), "the agent reports too many errors")
        }
        (_, AgentHealth::Silent) => ("agent_silent", Some(Reason::AgentSilent), "the agent is silent"),
        (_, AgentHealth::NotConnected) => return None,
    };
    Some(EventDetail {
        kind: kind.into(),
        actor: Actor::Agent,
        generation: record.generation,
        reason,
        message: message.to_owned(),
        exit_code: None,
        log_tail: String::new(),
    })
}
