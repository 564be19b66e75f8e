//! Which process of each organisation's tenant is served, and how far its processes were seen to be.

use std::time::Duration;

use molecule_domain::Timestamp;
use molecule_domain::id::{Generation, IncarnationId, OrganizationId, Revision, WorkspaceId};
use molecule_domain::incarnation::{Incarnation, Session, Standpoint, check_session, is_behind};
use molecule_provisioner::store::StoreError;
use molecule_provisioner::store::codec::corrupt;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::Database;
use crate::codec::{column, moment};
use crate::engine::organization_not_found;
use crate::sqlstate::store_error;

/// How long a process counts as living after it was last heard.
pub const SESSION: Duration = Duration::from_secs(30);
/// How many standpoints of an organisation's tenant are kept once it has agreed, which acknowledges them all.
const KEPT: i64 = 40;
/// How many recovered workspaces are listed.
const LISTED: i64 = 1000;

/// A process of a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Whose.
    pub organization: OrganizationId,
    /// Where its database stands.
    pub standpoint: Standpoint,
    /// Its predecessors over the same database, newest first, each as it was when it ended.
    pub predecessors: Vec<Standpoint>,
    /// Where an operator finds it: what it says at a meeting, else where its connection comes from.
    pub address: String,
}

/// A standpoint, and when it was last heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Seen {
    pub standpoint: Standpoint,
    pub at: Timestamp,
}

/// A workspace that its tenant runs as recovered after a restore of its own database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Recovered {
    pub organization: OrganizationId,
    pub workspace: WorkspaceId,
    pub generation: Generation,
}

/// What a process that is met is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meeting {
    /// The organisation's last revision.
    pub revision: Revision,
    /// The time, by the database's clock.
    pub now: Timestamp,
    /// What was seen of the tenant before this meeting, newest first.
    pub seen: Vec<Seen>,
    /// Whether this database is behind what the process has seen of it.
    pub behind: bool,
    /// Whether the tenant has agreed with the newest start of the control plane.
    pub agreed: bool,
}

/// A session from its columns, where there is one, without what a successor has to know.
pub(crate) fn session(
    incarnation: Option<Uuid>,
    address: Option<String>,
    until: Option<OffsetDateTime>,
) -> Option<Session> {
    Some(Session {
        incarnation: IncarnationId::from_uuid(incarnation?),
        address: address?,
        until: moment(until?),
        left_at: None,
        seen: Revision::default(),
    })
}

impl Database {
    /// Serves a process from now on, or refuses it; what was seen of its database before, and of this one by it.
    /// `recovered` are the workspaces that it runs as recovered.
    pub async fn meet(
        &self,
        process: &Process,
        seen: Option<&Standpoint>,
        recovered: &[WorkspaceId],
    ) -> Result<Meeting, StoreError> {
        let once = || async {
            let mut tx = self.begin().await?;
            let organization = process.organization;
            let (revision, now) = serve(&mut tx, process, None).await?;
            let before = standpoints(&mut tx, organization).await?;
            let behind = match seen {
                Some(seen) => is_behind(&held(&mut tx, seen.incarnation).await?, revision, seen),
                None => false,
            };
            note(&mut tx, &[(organization, process.standpoint)], now).await?;
            note_predecessors(&mut tx, process, now).await?;
            note_recovered(&mut tx, organization, recovered).await?;
            let agreed = has_agreed(&mut tx, organization).await?;
            tx.commit().await.map_err(store_error)?;
            Ok(Meeting { revision, now, seen: before, behind, agreed })
        };
        self.transactions.run("meet", once).await
    }

    /// The instances that run while their tenants have lost what they were launched with.
    pub async fn recovered(&self) -> Result<Vec<Recovered>, StoreError> {
        let rows = sqlx::query!(
            "SELECT organization_id, workspace_id, generation FROM instances
             JOIN (
                 SELECT organization_id, unnest(recovered) AS workspace_id FROM tenant_sessions
             ) AS named USING (organization_id, workspace_id)
             WHERE phase <> 'Gone' ORDER BY organization_id, workspace_id LIMIT $1",
            LISTED,
        )
        .fetch_all(&self.pool)
        .await
        .map_err(store_error)?;
        let recovered = rows.into_iter().map(|row| {
            Ok(Recovered {
                organization: OrganizationId::from_uuid(row.organization_id),
                workspace: WorkspaceId::from_uuid(row.workspace_id),
                generation: Generation(u32::try_from(row.generation).map_err(|_| corrupt("a generation"))?),
            })
        });
        recovered.collect()
    }

    /// Serves a process for as long as a stream of its is open, or refuses it. The organisation's last revision.
    pub async fn open_session(&self, process: &Process, stream: Uuid) -> Result<Revision, StoreError> {
        let once = || async {
            let mut tx = self.begin().await?;
            let (revision, now) = serve(&mut tx, process, Some(stream)).await?;
            note(&mut tx, &[(process.organization, process.standpoint)], now).await?;
            tx.commit().await.map_err(store_error)?;
            Ok(revision)
        };
        self.transactions.run("open_session", once).await
    }

    /// Prolongs the session of a process whose stream is open. Whether it still is this process that is served.
    pub async fn prolong_session(&self, process: &Process) -> Result<bool, StoreError> {
        let once = || async {
            let prolonged = sqlx::query!(
                "UPDATE tenant_sessions SET until = clock_timestamp() + $3 * interval '1 second'
                 WHERE organization_id = $1 AND incarnation = $2",
                process.organization.as_uuid(),
                process.standpoint.incarnation.as_uuid(),
                SESSION.as_secs_f64(),
            )
            .execute(&self.pool)
            .await
            .map_err(store_error)?;
            Ok(prolonged.rows_affected() == 1)
        };
        self.transactions.run("prolong_session", once).await
    }

    /// Notes that a process has no stream open, unless another stream or another process has taken its place. The session runs
    /// out by itself, but a successor over the same database need not wait for all of that.
    pub async fn end_session(&self, process: &Process, stream: Uuid) -> Result<(), StoreError> {
        let once = || async {
            sqlx::query!(
                "UPDATE tenant_sessions SET until = clock_timestamp() + $4 * interval '1 second', stream = NULL,
                     left_at = clock_timestamp()
                 WHERE organization_id = $1 AND incarnation = $2 AND stream = $3",
                process.organization.as_uuid(),
                process.standpoint.incarnation.as_uuid(),
                stream,
                SESSION.as_secs_f64(),
            )
            .execute(&self.pool)
            .await
            .map_err(store_error)?;
            Ok(())
        };
        self.transactions.run("end_session", once).await
    }

    /// Keeps how far processes were seen to be, where that is further than before.
    pub async fn note_standpoints(
        &self,
        standpoints: &[(OrganizationId, Standpoint)],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let once = || async {
            let mut db = self.pool.acquire().await.map_err(store_error)?;
            note(&mut db, standpoints, now).await
        };
        self.transactions.run("note_standpoints", once).await
    }
}

/// Lets the rules decide about a process under the lock of its organisation's session. The organisation's last revision,
/// and the time.
async fn serve(
    db: &mut PgConnection,
    process: &Process,
    stream: Option<Uuid>,
) -> Result<(Revision, Timestamp), StoreError> {
    let organization = process.organization.as_uuid();
    let incarnation = process.standpoint.incarnation;
    // a row that can be locked: nobody is served by it yet
    sqlx::query!(
        "INSERT INTO tenant_sessions (organization_id, incarnation, address, until)
         SELECT organization_id, $2, $3, '1970-01-01 00:00:00Z' FROM organizations WHERE organization_id = $1
         ON CONFLICT (organization_id) DO NOTHING",
        organization,
        incarnation.as_uuid(),
        process.address,
    )
    .execute(&mut *db)
    .await
    .map_err(store_error)?;
    // a process whose stream did not end by itself, but with the control plane, has its time to come back after that
    let served = sqlx::query!(
        r#"SELECT incarnation, address, left_at, COALESCE((
                   SELECT revision FROM tenant_standpoints p
                   WHERE p.organization_id = s.organization_id AND p.incarnation = s.incarnation
               ), 0) AS "seen!",
               CASE WHEN stream IS NULL THEN until ELSE GREATEST(until, $2 * interval '1 second' + (
                   SELECT at FROM control_plane_incarnations ORDER BY number DESC LIMIT 1
               )) END AS "until!"
           FROM tenant_sessions s WHERE organization_id = $1 FOR UPDATE"#,
        organization,
        SESSION.as_secs_f64(),
    )
    .fetch_optional(&mut *db)
    .await
    .map_err(store_error)?;
    // asked for apart: the lock may have been waited for
    let row = sqlx::query!(
        r#"SELECT revision, clock_timestamp() AS "now!" FROM organizations WHERE organization_id = $1"#,
        organization,
    )
    .fetch_optional(&mut *db)
    .await
    .map_err(store_error)?;
    let row = row.ok_or_else(|| organization_not_found(process.organization))?;
    let now = moment(row.now);
    let served = served.map(|row| Session {
        incarnation: IncarnationId::from_uuid(row.incarnation),
        address: row.address,
        until: moment(row.until),
        left_at: row.left_at.map(moment),
        seen: Revision(row.seen),
    });
    check_session(served.as_ref(), incarnation, &process.predecessors, &process.address, now)?;
    sqlx::query!(
        "UPDATE tenant_sessions SET incarnation = $2, until = $4, left_at = NULL,
             stream = COALESCE($5, CASE WHEN incarnation = $2 THEN stream END),
             -- what a process says of itself at a meeting outlasts what a connection shows
             address = CASE WHEN $5 IS NOT NULL AND incarnation = $2 THEN address ELSE $3 END
         WHERE organization_id = $1",
        organization,
        incarnation.as_uuid(),
        process.address,
        column(now + SESSION),
        stream,
    )
    .execute(&mut *db)
    .await
    .map_err(store_error)?;
    Ok((Revision(row.revision), now))
}

/// Whether a tenant has agreed with the newest start of the control plane.
async fn has_agreed(db: &mut PgConnection, organization: OrganizationId) -> Result<bool, StoreError> {
    sqlx::query_scalar!(
        r#"SELECT agreed_with IS NOT DISTINCT FROM (
               SELECT incarnation FROM control_plane_incarnations ORDER BY number DESC LIMIT 1
           ) AS "agreed!" FROM tenant_sessions WHERE organization_id = $1"#,
        organization.as_uuid(),
    )
    .fetch_one(db)
    .await
    .map_err(store_error)
}

/// What was seen of an organisation's tenant, newest first.
async fn standpoints(db: &mut PgConnection, organization: OrganizationId) -> Result<Vec<Seen>, StoreError> {
    let rows = sqlx::query!(
        "SELECT incarnation, revision, seen_at FROM tenant_standpoints WHERE organization_id = $1
         ORDER BY seen_at DESC",
        organization.as_uuid(),
    )
    .fetch_all(db)
    .await
    .map_err(store_error)?;
    let seen = rows.into_iter().map(|row| Seen {
        standpoint: Standpoint {
            incarnation: IncarnationId::from_uuid(row.incarnation),
            revision: Revision(row.revision),
        },
        at: moment(row.seen_at),
    });
    Ok(seen.collect())
}

/// One of the control plane's incarnations, and the one that began after it.
async fn held(db: &mut PgConnection, incarnation: IncarnationId) -> Result<Vec<Incarnation>, StoreError> {
    let rows = sqlx::query!(
        "SELECT incarnation, begins_at FROM control_plane_incarnations
         WHERE number >= (SELECT number FROM control_plane_incarnations WHERE incarnation = $1)
         ORDER BY number LIMIT 2",
        incarnation.as_uuid(),
    )
    .fetch_all(db)
    .await
    .map_err(store_error)?;
    let held = rows.into_iter().map(|row| Incarnation {
        id: IncarnationId::from_uuid(row.incarnation),
        begins_at: Revision(row.begins_at),
    });
    Ok(held.collect())
}

async fn note(
    db: &mut PgConnection,
    standpoints: &[(OrganizationId, Standpoint)],
    now: Timestamp,
) -> Result<(), StoreError> {
    let mut sorted = standpoints.to_vec();
    // one order for all: two batches must not wait for each other
    sorted.sort_unstable_by_key(|(organization, standpoint)| (*organization, standpoint.incarnation));
    let organizations: Vec<Uuid> = sorted.iter().map(|(organization, _)| *organization.as_uuid()).collect();
    let incarnations: Vec<Uuid> = sorted.iter().map(|(_, seen)| *seen.incarnation.as_uuid()).collect();
    let revisions: Vec<i64> = sorted.iter().map(|(_, seen)| seen.revision.0).collect();
    sqlx::query!(
        "INSERT INTO tenant_standpoints AS s (organization_id, incarnation, revision, seen_at)
         SELECT organization_id, incarnation, revision, $4
         FROM unnest($1::uuid[], $2::uuid[], $3::bigint[]) AS seen (organization_id, incarnation, revision)
         ON CONFLICT (organization_id, incarnation) DO UPDATE
             SET revision = GREATEST(s.revision, excluded.revision), seen_at = GREATEST(s.seen_at, excluded.seen_at)",
        &organizations,
        &incarnations,
        &revisions,
        column(now),
    )
    .execute(db)
    .await
    .map_err(store_error)?;
    Ok(())
}

/// Keeps how a process's predecessors ended: what they stored after their last word is of this database as well.
async fn note_predecessors(
    db: &mut PgConnection,
    process: &Process,
    now: Timestamp,
) -> Result<(), StoreError> {
    let incarnations: Vec<Uuid> = process.predecessors.iter().map(|one| *one.incarnation.as_uuid()).collect();
    let revisions: Vec<i64> = process.predecessors.iter().map(|one| one.revision.0).collect();
    sqlx::query!(
        "INSERT INTO tenant_standpoints AS s (organization_id, incarnation, revision, seen_at)
         SELECT $1, incarnation, MAX(revision), $4
         FROM unnest($2::uuid[], $3::bigint[]) AS ended (incarnation, revision) GROUP BY incarnation
         ON CONFLICT (organization_id, incarnation) DO UPDATE
             SET revision = GREATEST(s.revision, excluded.revision)",
        process.organization.as_uuid(),
        &incarnations,
        &revisions,
        column(now),
    )
    .execute(db)
    .await
    .map_err(store_error)?;
    Ok(())
}

/// Keeps which workspaces a tenant runs as recovered, instead of those before.
async fn note_recovered(
    db: &mut PgConnection,
    organization: OrganizationId,
    recovered: &[WorkspaceId],
) -> Result<(), StoreError> {
    let recovered: Vec<Uuid> = recovered.iter().map(|workspace| *workspace.as_uuid()).collect();
    sqlx::query!(
        "UPDATE tenant_sessions SET recovered = $2 WHERE organization_id = $1 AND recovered <> $2",
        organization.as_uuid(),
        &recovered,
    )
    .execute(db)
    .await
    .map_err(store_error)?;
    Ok(())
}

/// Drops the standpoints that were heard longest ago, beyond those that are kept. The tenant has acknowledged them: of one that
/// has not, each may be all that shows a restore.
pub(crate) async fn forget(db: &mut PgConnection, organization: OrganizationId) -> Result<(), StoreError> {
    sqlx::query!(
        "DELETE FROM tenant_standpoints WHERE organization_id = $1 AND incarnation NOT IN (
             SELECT incarnation FROM tenant_standpoints WHERE organization_id = $1
             ORDER BY seen_at DESC LIMIT $2
         )",
        organization.as_uuid(),
        KEPT,
    )
    .execute(db)
    .await
    .map_err(store_error)?;
    Ok(())
}
