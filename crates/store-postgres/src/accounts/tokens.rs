//! Tenants' tokens: hashes only, several live at once.

use molecule_domain::Timestamp;
use molecule_domain::error::{Error, ErrorReason};
use molecule_domain::id::{OrganizationId, Revision, TokenId};
use molecule_provisioner::store::StoreError;
use time::OffsetDateTime;
use uuid::Uuid;

use super::audit::{Audit, keep};
use super::organizations::load;
use super::{Accounts, Holder, Token};
use crate::codec::{column, moment};
use crate::sessions::session;
use crate::sqlstate::store_error;

struct TokenRow {
    token_id: Uuid,
    organization_id: Uuid,
    name: String,
    created_at: OffsetDateTime,
    revoked_at: Option<OffsetDateTime>,
}

impl From<TokenRow> for Token {
    fn from(row: TokenRow) -> Self {
        Self {
            id: TokenId::from_uuid(row.token_id),
            organization: OrganizationId::from_uuid(row.organization_id),
            name: row.name,
            created_at: moment(row.created_at),
            revoked_at: row.revoked_at.map(moment),
        }
    }
}

impl Accounts {
    /// Keeps the hash of a new token.
    pub async fn issue_token(
        &self,
        organization: OrganizationId,
        name: &str,
        hash: &[u8],
        audit: &Audit,
        now: Timestamp,
    ) -> Result<Token, StoreError> {
        let id = TokenId::generate();
        let once = || async {
            let mut tx = self.0.begin().await?;
            load(&mut tx, organization, now).await?;
            let token = sqlx::query_as!(
                TokenRow,
                "INSERT INTO tokens (token_id, organization_id, name, hash, created_at) VALUES ($1, $2, $3, $4, $5)
                 RETURNING token_id, organization_id, name, created_at, revoked_at",
                id.as_uuid(),
                organization.as_uuid(),
                name,
                hash,
                column(now),
            )
            .fetch_one(&mut *tx)
            .await
            .map_err(store_error)?;
            keep(&mut tx, audit, Some(organization), now).await?;
            tx.commit().await.map_err(store_error)?;
            Ok(token.into())
        };
        self.0.transactions.run("issue_token", once).await
    }

    /// An organisation's tokens, oldest first.
    pub async fn tokens(
        &self,
        organization: OrganizationId,
        now: Timestamp,
    ) -> Result<Vec<Token>, StoreError> {
        let mut db = self.0.pool.acquire().await.map_err(store_error)?;
        load(&mut db, organization, now).await?;
        let rows = sqlx::query_as!(
            TokenRow,
            "SELECT token_id, organization_id, name, created_at, revoked_at FROM tokens
             WHERE organization_id = $1 ORDER BY token_id",
            organization.as_uuid(),
        )
        .fetch_all(&mut *db)
        .await
        .map_err(store_error)?;
        Ok(rows.into_iter().map(Token::from).collect())
    }

    /// Makes a token worth nothing from now on.
    pub async fn revoke_token(
        &self,
        organization: OrganizationId,
        token: TokenId,
        audit: &Audit,
        now: Timestamp,
    ) -> Result<Token, StoreError> {
        let once = || async {
            let mut tx = self.0.begin().await?;
            let revoked = sqlx::query_as!(
                TokenRow,
                "UPDATE tokens SET revoked_at = COALESCE(revoked_at, $3) WHERE token_id = $1 AND organization_id = $2
                 RETURNING token_id, organization_id, name, created_at, revoked_at",
                token.as_uuid(),
                organization.as_uuid(),
                column(now),
            )
            .fetch_optional(&mut *tx)
            .await
            .map_err(store_error)?;
            let revoked = revoked.ok_or_else(|| {
                Error::new(ErrorReason::TokenNotFound, format!("the organisation has no token {token}"))
            })?;
            keep(&mut tx, audit, Some(organization), now).await?;
            tx.commit().await.map_err(store_error)?;
            Ok(revoked.into())
        };
        self.0.transactions.run("revoke_token", once).await
    }

    /// Whose live token has this hash.
    pub async fn holder(&self, hash: &[u8]) -> Result<Option<Holder>, StoreError> {
        let holder = sqlx::query!(
            r#"SELECT t.organization_id, o.plan, o.backend, o.allowed_agent_hosts, o.revision,
                 s.incarnation AS "incarnation?", s.address AS "address?", s.until AS "until?",
                 clock_timestamp() AS "now!"
               FROM tokens t JOIN organizations o USING (organization_id)
                 LEFT JOIN tenant_sessions s USING (organization_id)
               WHERE t.hash = $1 AND t.revoked_at IS NULL AND o.deleted_at IS NULL"#,
            hash,
        )
        .fetch_optional(&self.0.pool)
        .await
        .map_err(store_error)?;
        Ok(holder.map(|row| Holder {
            organization: OrganizationId::from_uuid(row.organization_id),
            plan: row.plan,
            backend: row.backend,
            allowed_agent_hosts: row.allowed_agent_hosts,
            session: session(row.incarnation, row.address, row.until),
            revision: Revision(row.revision),
            now: moment(row.now),
        }))
    }
}
