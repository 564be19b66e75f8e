//! What the engine's transactions share.

use molecule_domain::Timestamp;
use molecule_domain::id::LaunchSeq;
use molecule_provisioner::admission::Admitted;
use molecule_provisioner::model::{EventDetail, InstanceRecord, Lease};
use molecule_provisioner::reconciler::orphans::Launched;
use molecule_provisioner::store::StoreError;
use sqlx::SqliteConnection;

use super::rows::{add_usage, find, next_revision, save};
use crate::codec::{text, unavailable};

pub(super) async fn tell(
    db: &mut SqliteConnection,
    record: &InstanceRecord,
    at: Timestamp,
    detail: &EventDetail,
) -> Result<(), StoreError> {
    let (organization, workspace) = (record.organization.to_string(), record.workspace.to_string());
    let (actor, reason, at) = (text(detail.actor), detail.reason.map(text), at.micros());
    let kind = detail.kind.as_ref();
    sqlx::query!(
        "INSERT INTO instance_events
             (organization_id, workspace_id, at, kind, actor, generation, reason, message, exit_code, log_tail)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        organization,
        workspace,
        at,
        kind,
        actor,
        detail.generation.0,
        reason,
        detail.message,
        detail.exit_code,
        detail.log_tail,
    )
    .execute(db)
    .await
    .map_err(unavailable)?;
    Ok(())
}

pub(super) async fn admit(
    db: &mut SqliteConnection,
    admitted: Admitted,
    now: Timestamp,
) -> Result<InstanceRecord, StoreError> {
    let Admitted { mut record, asked, launch, event } = admitted;
    if launch {
        let (organization, at) = (record.organization.to_string(), now.micros());
        sqlx::query!("INSERT INTO launches (organization_id, at) VALUES (?, ?)", organization, at)
            .execute(&mut *db)
            .await
            .map_err(unavailable)?;
    }
    record.revision = next_revision(db, record.organization).await?;
    add_usage(db, record.organization, asked).await?;
    save(db, &record).await?;
    tell(db, &record, now, &event).await?;
    Ok(record)
}

/// The record under a lease that still holds.
pub(super) async fn held(
    db: &mut SqliteConnection,
    lease: &Lease,
    now: Timestamp,
) -> Result<InstanceRecord, StoreError> {
    match find(db, lease.workspace).await? {
        Some(row) if row.is_held_by(lease, now) => row.into_record(),
        _ => Err(StoreError::LeaseLost(lease.workspace)),
    }
}

/// The highest launch number that was given out, or that this database answers for.
pub(super) async fn highest_launch(db: &mut SqliteConnection) -> Result<LaunchSeq, StoreError> {
    let highest = sqlx::query_scalar!(r#"SELECT MAX(launch) AS "highest: i64" FROM launched"#);
    highest.fetch_one(db).await.map(|highest| LaunchSeq(highest.unwrap_or(0))).map_err(unavailable)
}

/// From now on this database answers for a launch.
pub(super) async fn begun(
    db: &mut SqliteConnection,
    (launch, workspace): Launched,
    now: Timestamp,
) -> Result<(), StoreError> {
    let (workspace, now) = (workspace.to_string(), now.micros());
    sqlx::query!(
        "INSERT INTO launched (launch, workspace_id, at) VALUES (?, ?, ?)
         ON CONFLICT (launch, workspace_id) DO UPDATE SET at = MAX(at, excluded.at)",
        launch.0,
        workspace,
        now,
    )
    .execute(db)
    .await
    .map_err(unavailable)?;
    Ok(())
}
