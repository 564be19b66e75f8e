//! Agents: their credentials, and what they report.

use molecule_domain::Timestamp;
use molecule_domain::error::Error;
use molecule_domain::id::{Generation, OrganizationId, WorkspaceId};
use molecule_domain::store::StoreError;
use molecule_workspace::agent::{Patience, Verdict};
use molecule_workspace::record::WorkspaceRecord;
use molecule_workspace::store::{CredentialHash, Redeemed, Redemption, Report};

use super::SqliteStore;
use crate::codec::{id, number, unavailable};

impl SqliteStore {
    pub(super) async fn redeem_token(
        &self,
        redemption: &Redemption,
        credential_hash: CredentialHash<'_>,
    ) -> Result<Redeemed, StoreError> {
        let mut tx = self.database.begin().await?;
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

    pub(super) async fn whose_credential(
        &self,
        credential_hash: &[u8],
        now: Timestamp,
    ) -> Result<Option<(WorkspaceId, Generation)>, StoreError> {
        let row = sqlx::query!(
            r#"SELECT workspace_id, generation AS "generation!", used_at FROM credentials WHERE credential_hash = ?"#,
            credential_hash,
        )
        .fetch_optional(&self.database.reader)
        .await
        .map_err(unavailable)?;
        let Some(row) = row else { return Ok(None) };
        if row.used_at.is_none() {
            let (mut tx, now) = (self.database.begin().await?, now.micros());
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

    pub(super) async fn take_report(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
        generation: Generation,
        now: Timestamp,
        report: Report<'_>,
    ) -> Result<Option<WorkspaceRecord>, StoreError> {
        let mut tx = self.database.begin().await?;
        let before = self.load_workspace(&mut tx, workspace, false).await?;
        let before = before.filter(|found| found.record.organization == organization);
        let before = before.ok_or_else(|| Error::workspace_not_found(workspace))?;
        let mut after = before.clone();
        let Some(effects) = after.reported(generation, now, report) else { return Ok(None) };
        let visible = effects.visible;
        let saved = self.save(&mut tx, &before, after, effects, now).await?;
        if visible {
            self.commit(tx).await?;
        } else {
            tx.commit().await.map_err(unavailable)?;
        }
        Ok(Some(saved))
    }

    pub(super) async fn judge(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
        patience: &Patience,
        now: Timestamp,
    ) -> Result<Verdict, StoreError> {
        let mut tx = self.database.begin().await?;
        let before = self.load_workspace(&mut tx, workspace, false).await?;
        let before = before.filter(|found| found.record.organization == organization);
        let before = before.ok_or_else(|| Error::workspace_not_found(workspace))?;
        let mut after = before.clone();
        let (verdict, effects) = after.judged(patience, now, self.own);
        if verdict != Verdict::Fine {
            self.save(&mut tx, &before, after, effects, now).await?;
            self.commit(tx).await?;
        }
        Ok(verdict)
    }
}
