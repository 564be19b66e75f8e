//! Which database this is. A database knows the cluster and the place in it that it was put into use in; one that finds
//! itself elsewhere was copied or moved, and which of the two, only a person can say.

use std::fmt;
use std::str::FromStr;

use molecule_domain::Timestamp;
use molecule_provisioner::store::StoreError;
use molecule_provisioner::store::codec::corrupt;
use sqlx::PgConnection;

use crate::Database;
use crate::accounts::{Audit, keep_audit};
use crate::sqlstate::store_error;

const SETTING: &str = "database_identity";

/// A database's place, by PostgreSQL's word. A copy has another; a standby that was promoted has the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseIdentity {
    /// The cluster's `system_identifier`: `initdb` makes it up.
    pub system_identifier: String,
    /// The database's oid within the cluster: `CREATE DATABASE` gives it out.
    pub oid: i64,
}

impl fmt::Display for DatabaseIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.system_identifier, self.oid)
    }
}

/// The text is no identity.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("an identity is written SYSTEM_IDENTIFIER/OID")]
pub struct NoIdentity;

impl FromStr for DatabaseIdentity {
    type Err = NoIdentity;

    fn from_str(text: &str) -> Result<Self, NoIdentity> {
        let (system_identifier, oid) = text.split_once('/').ok_or(NoIdentity)?;
        Ok(Self {
            system_identifier: system_identifier.to_owned(),
            oid: oid.parse().map_err(|_| NoIdentity)?,
        })
    }
}

/// Where a database was put into use, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identities {
    /// As the database itself holds it.
    pub stored: DatabaseIdentity,
    /// As the server says it now.
    pub actual: DatabaseIdentity,
}

impl Identities {
    /// Whether the database is where it was put into use.
    pub fn agree(&self) -> bool {
        self.stored == self.actual
    }
}

/// What the server says of the database that this connection is to.
pub(crate) async fn actual(db: &mut PgConnection) -> Result<DatabaseIdentity, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT system_identifier::text AS "system_identifier!",
             (SELECT oid::bigint FROM pg_database WHERE datname = current_database()) AS "oid!"
           FROM pg_control_system()"#,
    )
    .fetch_one(db)
    .await?;
    Ok(DatabaseIdentity { system_identifier: row.system_identifier, oid: row.oid })
}

/// Both identities. A database that holds none is new: it is put into use where it is.
pub(crate) async fn identities(db: &mut PgConnection) -> Result<Identities, StoreError> {
    let actual = actual(db).await.map_err(store_error)?;
    let stored = async |db: &mut PgConnection| {
        let stored = sqlx::query_scalar!("SELECT value FROM settings WHERE name = $1", SETTING);
        stored.fetch_optional(db).await.map_err(store_error)
    };
    let mut found = stored(db).await?;
    if found.is_none() {
        sqlx::query!(
            "INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING",
            SETTING,
            actual.to_string(),
        )
        .execute(&mut *db)
        .await
        .map_err(store_error)?;
        found = stored(db).await?;
    }
    let stored = found.and_then(|text| text.parse().ok());
    let stored = stored.ok_or_else(|| corrupt(format!("the setting {SETTING}")))?;
    Ok(Identities { stored, actual })
}

impl Database {
    /// Where the database was put into use, and where it is.
    pub async fn identities(&self) -> Result<Identities, StoreError> {
        let mut db = self.pool.acquire().await.map_err(store_error)?;
        identities(&mut db).await
    }

    /// Puts the database into use where it is, if that is where the operator has seen it.
    pub async fn adopt(
        &self,
        seen: &DatabaseIdentity,
        audit: &Audit,
        now: Timestamp,
    ) -> Result<Identities, StoreError> {
        let once = || async {
            let mut tx = self.begin().await?;
            let found = identities(&mut tx).await?;
            if found.actual != *seen || found.agree() {
                return Ok(found);
            }
            sqlx::query!("UPDATE settings SET value = $2 WHERE name = $1", SETTING, seen.to_string())
                .execute(&mut *tx)
                .await
                .map_err(store_error)?;
            keep_audit(&mut tx, audit, None, now).await?;
            tx.commit().await.map_err(store_error)?;
            Ok(Identities { stored: found.actual.clone(), actual: found.actual })
        };
        self.transactions.run("adopt", once).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_comes_back_from_its_text() {
        let identity = DatabaseIdentity { system_identifier: "7712484710880220219".to_owned(), oid: 16_384 };
        assert_eq!(identity.to_string().parse::<DatabaseIdentity>().unwrap(), identity);
        for wrong in ["", "77", "77/", "77/x"] {
            assert!(wrong.parse::<DatabaseIdentity>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_copy_in_another_cluster_is_another_although_its_oid_is_the_same() {
        let stored: DatabaseIdentity = "7421/16384".parse().unwrap();
        let agree =
            |actual: &str| Identities { stored: stored.clone(), actual: actual.parse().unwrap() }.agree();
        assert_eq!(["7421/16384", "7422/16384", "7421/16385"].map(agree), [true, false, false]);
    }
}
