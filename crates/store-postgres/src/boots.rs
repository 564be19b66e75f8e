//! What machines told of boots that failed.

use molecule_domain::id::{Generation, WorkspaceId};
use molecule_provisioner::store::StoreError;

use crate::Database;
use crate::sqlstate::store_error;

/// A report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootReport {
    /// What failed, for people.
    pub message: String,
    /// The last lines of the machine's log.
    pub log_tail: String,
}

impl Database {
    /// Keeps the first report of a generation. Whether there is such a workspace.
    pub async fn keep_boot_report(
        &self,
        workspace: WorkspaceId,
        generation: Generation,
        report: &BootReport,
    ) -> Result<bool, StoreError> {
        let found = sqlx::query!(
            "INSERT INTO boot_reports (workspace_id, generation, message, log_tail)
             SELECT workspace_id, $2, $3, $4 FROM instances WHERE workspace_id = $1
             ON CONFLICT (workspace_id, generation) DO UPDATE SET at = boot_reports.at",
            workspace.as_uuid(),
            i64::from(generation.0),
            report.message,
            report.log_tail,
        )
        .execute(&self.pool)
        .await
        .map_err(store_error)?;
        Ok(found.rows_affected() == 1)
    }

    /// What was reported of a generation.
    pub async fn boot_report(
        &self,
        workspace: WorkspaceId,
        generation: Generation,
    ) -> Result<Option<BootReport>, StoreError> {
        sqlx::query_as!(
            BootReport,
            "SELECT message, log_tail FROM boot_reports WHERE workspace_id = $1 AND generation = $2",
            workspace.as_uuid(),
            i64::from(generation.0),
        )
        .fetch_optional(&self.pool)
        .await
        .map_err(store_error)
    }
}
