//! Counts what organisations use anew, from their instances alone, and compares: the counters must agree.

use std::collections::{HashMap, HashSet};

use futures::TryStreamExt;
use molecule_domain::id::OrganizationId;
use molecule_domain::launch::LaunchSpec;
use molecule_domain::limits::Amounts;
use molecule_provisioner::store::StoreError;
use molecule_provisioner::store::codec::from_json;
use tracing::warn;

use super::Accounts;
use crate::sqlstate::store_error;

/// An organisation whose counters are not what its instances add up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drift {
    /// Whose.
    pub organization: OrganizationId,
    /// What the counters say.
    pub counted: Amounts,
    /// What the instances add up to.
    pub actual: Amounts,
}

impl Accounts {
    /// Compares all counters with all instances, at one moment; but not those of an organisation that has an instance which
    /// only a newer version can read.
    pub async fn recount(&self) -> Result<Vec<Drift>, StoreError> {
        let mut tx = self.0.begin().await?;
        sqlx::query!("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            .execute(&mut *tx)
            .await
            .map_err(store_error)?;
        let (mut actual, mut not_counted) = (HashMap::<_, Amounts>::new(), HashSet::new());
        // one row for many instances alike
        let mut rows = sqlx::query!(
            r#"SELECT organization_id, spec, running_counted, COUNT(*) AS "count!" FROM instances
               WHERE phase <> 'Gone' GROUP BY organization_id, spec, running_counted"#,
        )
        .fetch(&mut *tx);
        while let Some(row) = rows.try_next().await.map_err(store_error)? {
            let organization = OrganizationId::from_uuid(row.organization_id);
            let Ok(spec) = from_json::<LaunchSpec>(&row.spec, "launch spec") else {
                warn!(%organization, "an instance of a newer version can't be counted, so its organisation is not compared");
                not_counted.insert(organization);
                continue;
            };
            let whole = spec.amounts();
            let one = if row.running_counted { whole } else { whole.allocated_part() };
            let sum = actual.entry(organization).or_default();
            *sum = sum.plus(one.times(row.count));
        }
        drop(rows);
        let counters = sqlx::query!(
            "SELECT organization_id, used_workspaces, used_disk_gib, used_running_workspaces, used_milli_cpus,
                 used_memory_mib FROM organizations",
        )
        .fetch_all(&mut *tx)
        .await
        .map_err(store_error)?;
        let drifts = counters.into_iter().filter_map(|row| {
            let organization = OrganizationId::from_uuid(row.organization_id);
            let counted = Amounts {
                workspaces: row.used_workspaces,
                disk_gib: row.used_disk_gib,
                running_workspaces: row.used_running_workspaces,
                milli_cpus: row.used_milli_cpus,
                memory_mib: row.used_memory_mib,
            };
            let actual = actual.get(&organization).copied().unwrap_or_default();
            (counted != actual && !not_counted.contains(&organization)).then_some(Drift {
                organization,
                counted,
                actual,
            })
        });
        Ok(drifts.collect())
    }
}
