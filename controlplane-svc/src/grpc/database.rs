//! Where the database was put into use, where it is, and an operator's word that it has moved.

use molecule_domain::error::{Error, Result};
use molecule_proto::controlplane::v1 as wire;
use molecule_store_postgres::DatabaseIdentity;
use molecule_store_postgres::accounts::Audit;
use tracing::info;

use super::Parts;
use super::callers::Operator;

fn to_wire(identity: &DatabaseIdentity) -> wire::DatabaseIdentity {
    wire::DatabaseIdentity {
        system_identifier: identity.system_identifier.clone(),
        // PostgreSQL's oids have 32 bits
        oid: u32::try_from(identity.oid).unwrap_or_default(),
    }
}

pub(super) async fn show(parts: &Parts) -> Result<wire::GetDatabaseIdentityResponse> {
    let found = parts.database.identities().await?;
    Ok(wire::GetDatabaseIdentityResponse {
        stored: Some(to_wire(&found.stored)),
        actual: Some(to_wire(&found.actual)),
        adopted: found.agree(),
    })
}

pub(super) async fn adopt(
    parts: &Parts,
    operator: Operator,
    request: wire::AdoptDatabaseRequest,
) -> Result<wire::AdoptDatabaseResponse> {
    let seen = request.actual.ok_or_else(|| {
        Error::field("actual", "must be the identity that GetDatabaseIdentity tells as `actual`")
    })?;
    let seen = DatabaseIdentity { system_identifier: seen.system_identifier, oid: i64::from(seen.oid) };
    let before = parts.database.identities().await?;
    let message = format!("from {} to {seen}", before.stored);
    let audit = Audit { actor: operator.0, action: "adopt_database", message };
    let found = parts.database.adopt(&seen, &audit, parts.clock.now()).await?;
    if found.actual != seen {
        let problem =
            format!("is {seen}, and this database is {}: ask GetDatabaseIdentity again", found.actual);
        return Err(Error::field("actual", problem));
    }
    info!(from = %before.stored, to = %seen, by = audit.actor, "the database is adopted");
    parts.places.look();
    Ok(wire::AdoptDatabaseResponse { stored: Some(to_wire(&found.stored)) })
}
