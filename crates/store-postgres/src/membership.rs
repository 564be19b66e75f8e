//! A replica among those that share the database. Each holds an advisory lock on a connection of its own, shared. One
//! that finds itself alone begins a new incarnation of the control plane; the others go by the newest. A connection that
//! breaks (a failover, a restore) takes the lock along, and the replica joins anew.

use std::sync::{Arc, Mutex, PoisonError};

use molecule_domain::id::IncarnationId;
use molecule_provisioner::store::StoreError;
use sqlx::{Connection, PgConnection};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::Database;
use crate::identity::{DatabaseIdentity, Identities, actual, identities};
use crate::sqlstate::store_error;

/// "molecule", as a number: locks of ours and of others on one database must not be taken for each other.
const LOCK: i64 = 0x6d6f_6c65_6375_6c65;

/// What a replica is to its database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// One of those that serve it, in this incarnation of the control plane.
    Member(IncarnationId),
    /// A reader only: the database is not where it was put into use.
    Foreign(Identities),
}

/// A connection that holds a replica's place.
#[derive(Debug)]
pub struct Membership {
    db: PgConnection,
    expected: Arc<Mutex<Option<DatabaseIdentity>>>,
    found: Option<DatabaseIdentity>,
    locked: bool,
    /// Names its row among the replicas'.
    replica: Uuid,
    /// How often it has looked since it joined.
    looks: i64,
    /// When it last looked, by the database's clock.
    looked_at: OffsetDateTime,
}

impl Database {
    /// Connects for a place. [`Membership::look`] takes it.
    pub async fn join(&self) -> Result<Membership, StoreError> {
        Ok(Membership {
            db: PgConnection::connect_with(&self.options).await.map_err(store_error)?,
            expected: Arc::clone(&self.expected),
            found: None,
            locked: false,
            replica: Uuid::nil(),
            looks: 0,
            looked_at: OffsetDateTime::UNIX_EPOCH,
        })
    }
}

impl Membership {
    /// Takes the place, or looks whether it still is what it was. To be called again every few seconds.
    pub async fn look(&mut self) -> Result<Place, StoreError> {
        let found = identities(&mut self.db).await?;
        self.found = Some(found.actual.clone());
        if !found.agree() {
            self.leave().await?;
            return Ok(Place::Foreign(found));
        }
        if !self.locked {
            return Ok(Place::Member(self.enter().await?));
        }
        let before = self.looked_at;
        let place = if self.counts_on().await? {
            self.stored().await?.ok_or_else(nothing_begun)?
        } else {
            // it was put back to an earlier state under this connection
            self.count_anew().await?;
            self.begin(Some(before)).await?
        };
        Ok(Place::Member(place))
    }

    /// Lets other connections of this process to the database that the last look found, and to no other. To be called
    /// once whatever must not go on there has ended.
    pub fn allow(&self) {
        (*self.expected.lock().unwrap_or_else(PoisonError::into_inner)).clone_from(&self.found);
    }

    /// Takes the lock. Who has it alone begins an incarnation, before anybody else can share it.
    async fn enter(&mut self) -> Result<IncarnationId, StoreError> {
        let alone = sqlx::query_scalar!(r#"SELECT pg_try_advisory_lock($1) AS "alone!""#, LOCK)
            .fetch_one(&mut self.db)
            .await
            .map_err(store_error)?;
        let begun = if alone { Some(self.begin(None).await?) } else { None };
        sqlx::query!(r#"SELECT pg_advisory_lock_shared($1) AS "taken: ()""#, LOCK)
            .execute(&mut self.db)
            .await
            .map_err(store_error)?;
        if alone {
            sqlx::query_scalar!(r#"SELECT pg_advisory_unlock($1) AS "given_back!""#, LOCK)
                .fetch_one(&mut self.db)
                .await
                .map_err(store_error)?;
        }
        self.count_anew().await?;
        self.locked = true;
        match begun {
            Some(begun) => Ok(begun),
            None => self.stored().await?.ok_or_else(nothing_begun),
        }
    }

    async fn leave(&mut self) -> Result<(), StoreError> {
        self.locked = false;
        sqlx::query!(r#"SELECT pg_advisory_unlock_all() AS "given_back: ()""#)
            .execute(&mut self.db)
            .await
            .map_err(store_error)?;
        Ok(())
    }

    /// The incarnation that began last.
    async fn stored(&mut self) -> Result<Option<IncarnationId>, StoreError> {
        newest(&mut self.db).await
    }

    /// Begins an incarnation, unless somebody has begun one since that moment; the newest either way.
    async fn begin(&mut self, since: Option<OffsetDateTime>) -> Result<IncarnationId, StoreError> {
        let mut tx = self.db.begin().await.map_err(store_error)?;
        sqlx::query!("LOCK TABLE control_plane_incarnations IN SHARE ROW EXCLUSIVE MODE")
            .execute(&mut *tx)
            .await
            .map_err(store_error)?;
        let begun = sqlx::query_scalar!(
            "SELECT incarnation FROM control_plane_incarnations WHERE at > $1 ORDER BY number DESC LIMIT 1",
            since,
        );
        if let Some(begun) = begun.fetch_optional(&mut *tx).await.map_err(store_error)? {
            return Ok(IncarnationId::from_uuid(begun));
        }
        let incarnation = IncarnationId::generate();
        sqlx::query!(
            "INSERT INTO control_plane_incarnations (incarnation, begins_at, at)
             SELECT $1, COALESCE(MAX(revision), 0), clock_timestamp() FROM organizations",
            incarnation.as_uuid(),
        )
        .execute(&mut *tx)
        .await
        .map_err(store_error)?;
        tx.commit().await.map_err(store_error)?;
        Ok(incarnation)
    }

    /// Counts this look in the database. `false` where that holds another count than this replica does.
    async fn counts_on(&mut self) -> Result<bool, StoreError> {
        let counted = sqlx::query!(
            r#"UPDATE control_plane_replicas SET looks = looks + 1, looked_at = clock_timestamp()
               WHERE replica = $1 RETURNING looks, looked_at"#,
            self.replica,
        )
        .fetch_optional(&mut self.db)
        .await
        .map_err(store_error)?;
        self.looks += 1;
        let Some(counted) = counted.filter(|row| row.looks == self.looks) else { return Ok(false) };
        self.looked_at = counted.looked_at;
        Ok(true)
    }

    /// Begins to count under a new name, and drops the counts of replicas that have gone.
    async fn count_anew(&mut self) -> Result<(), StoreError> {
        (self.replica, self.looks) = (Uuid::now_v7(), 0);
        sqlx::query!("DELETE FROM control_plane_replicas WHERE looked_at < now() - interval '1 day'")
            .execute(&mut self.db)
            .await
            .map_err(store_error)?;
        self.looked_at = sqlx::query_scalar!(
            "INSERT INTO control_plane_replicas (replica, looks, looked_at) VALUES ($1, 0, clock_timestamp())
             RETURNING looked_at",
            self.replica,
        )
        .fetch_one(&mut self.db)
        .await
        .map_err(store_error)?;
        Ok(())
    }
}

async fn newest(db: &mut PgConnection) -> Result<Option<IncarnationId>, StoreError> {
    let newest = sqlx::query_scalar!(
        "SELECT incarnation FROM control_plane_incarnations ORDER BY number DESC LIMIT 1"
    );
    Ok(newest.fetch_optional(db).await.map_err(store_error)?.map(IncarnationId::from_uuid))
}

/// Whoever had the lock alone has gone before it began an incarnation: the next one to join does.
fn nothing_begun() -> StoreError {
    StoreError::LostRace("no incarnation of the control plane has begun over this database".into())
}

/// Refuses a new connection that leads to another database than the last one was looked at: whatever runs in this
/// process runs for that one.
pub(crate) async fn expect(
    db: &mut PgConnection,
    expected: Arc<Mutex<Option<DatabaseIdentity>>>,
) -> Result<(), sqlx::Error> {
    let expected = expected.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let Some(expected) = expected else { return Ok(()) };
    let found = actual(db).await?;
    if found == expected {
        return Ok(());
    }
    let problem =
        format!("the database was {expected} and is {found}; whether it is in use there is not known yet");
    Err(sqlx::Error::Configuration(problem.into()))
}
