//! The subnets that organisations' networks have.

use molecule_domain::id::OrganizationId;
use molecule_domain::network::NetworkSpec;
use molecule_provisioner::store::StoreError;

use crate::Database;
use crate::sqlstate::store_error;

impl Database {
    /// The organisation's network; where it has none, the first of `candidates` that no other has.
    pub async fn network(
        &self,
        organization: OrganizationId,
        candidates: impl Iterator<Item = NetworkSpec> + Send,
    ) -> Result<Option<NetworkSpec>, StoreError> {
        let stored = async || {
            sqlx::query_as!(
                NetworkSpec,
                "SELECT name, subnet, gateway FROM networks WHERE organization_id = $1",
                organization.as_uuid(),
            )
            .fetch_optional(&self.pool)
            .await
            .map_err(store_error)
        };
        if let Some(stored) = stored().await? {
            return Ok(Some(stored));
        }
        let taken = sqlx::query_scalar!("SELECT subnet FROM networks").fetch_all(&self.pool).await;
        let taken = taken.map_err(store_error)?;
        for candidate in candidates.filter(|candidate| !taken.contains(&candidate.subnet)) {
            let added = sqlx::query!(
                "INSERT INTO networks (organization_id, name, subnet, gateway) VALUES ($1, $2, $3, $4)
                 ON CONFLICT DO NOTHING",
                organization.as_uuid(),
                candidate.name,
                candidate.subnet,
                candidate.gateway,
            )
            .execute(&self.pool)
            .await
            .map_err(store_error)?;
            if added.rows_affected() == 1 {
                return Ok(Some(candidate));
            }
            // another replica was quicker, with this organisation or with this subnet
            if let Some(stored) = stored().await? {
                return Ok(Some(stored));
            }
        }
        Ok(None)
    }

    /// An organisation has this network at the provider, and nobody else its subnet.
    pub async fn found_network(
        &self,
        organization: OrganizationId,
        network: &NetworkSpec,
    ) -> Result<(), StoreError> {
        let once = || async {
            let mut tx = self.begin().await?;
            sqlx::query!(
                "DELETE FROM networks WHERE subnet = $2 AND organization_id <> $1",
                organization.as_uuid(),
                network.subnet,
            )
            .execute(&mut *tx)
            .await
            .map_err(store_error)?;
            sqlx::query!(
                "INSERT INTO networks (organization_id, name, subnet, gateway) VALUES ($1, $2, $3, $4)
                 ON CONFLICT (organization_id) DO UPDATE
                     SET name = excluded.name, subnet = excluded.subnet, gateway = excluded.gateway",
                organization.as_uuid(),
                network.name,
                network.subnet,
                network.gateway,
            )
            .execute(&mut *tx)
            .await
            .map_err(store_error)?;
            tx.commit().await.map_err(store_error)
        };
        self.transactions.run("found_network", once).await
    }

    /// Organisations that are deleted and whose network has not been confirmed gone.
    pub async fn networks_left(&self) -> Result<Vec<OrganizationId>, StoreError> {
        let left = sqlx::query_scalar!(
            "SELECT n.organization_id FROM networks n JOIN organizations o USING (organization_id)
             WHERE o.deleted_at IS NOT NULL",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(store_error)?;
        Ok(left.into_iter().map(OrganizationId::from_uuid).collect())
    }

    /// An organisation's network is gone: its subnet may be given out again.
    pub async fn forget_network(&self, organization: OrganizationId) -> Result<(), StoreError> {
        sqlx::query!("DELETE FROM networks WHERE organization_id = $1", organization.as_uuid())
            .execute(&self.pool)
            .await
            .map_err(store_error)?;
        Ok(())
    }
}
