//! The subnets that organisations' networks have.

use molecule_domain::id::OrganizationId;
use molecule_domain::network::NetworkSpec;
use molecule_provisioner::store::StoreError;

use super::SqliteStore;
use crate::codec::unavailable;

impl SqliteStore {
    /// The organisation's network; where it has none, the first of `candidates` that no other has.
    pub async fn network(
        &self,
        organization: OrganizationId,
        candidates: impl IntoIterator<Item = NetworkSpec> + Send,
    ) -> Result<Option<NetworkSpec>, StoreError> {
        let owner = organization.to_string();
        let candidates: Vec<_> = candidates.into_iter().collect();
        let mut tx = self.database.begin().await?;
        let stored = sqlx::query_as!(
            NetworkSpec,
            "SELECT name, subnet, gateway FROM networks WHERE organization_id = ?",
            owner,
        )
        .fetch_optional(&mut *tx)
        .await
        .map_err(unavailable)?;
        if stored.is_some() {
            return Ok(stored);
        }
        for candidate in candidates {
            let added = sqlx::query!(
                "INSERT OR IGNORE INTO networks (organization_id, name, subnet, gateway) VALUES (?, ?, ?, ?)",
                owner,
                candidate.name,
                candidate.subnet,
                candidate.gateway,
            )
            .execute(&mut *tx)
            .await
            .map_err(unavailable)?;
            if added.rows_affected() == 1 {
                tx.commit().await.map_err(unavailable)?;
                return Ok(Some(candidate));
            }
        }
        Ok(None)
    }
}
