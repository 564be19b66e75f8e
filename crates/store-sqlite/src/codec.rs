//! Between columns and types, and between the database's errors and the store's.

use molecule_provisioner::store::StoreError;
pub(crate) use molecule_provisioner::store::codec::{
    Terms, corrupt, from_json, from_text, id, json, known_reasons, number, text,
};
use tracing::warn;

/// One of several that are read. What can't be understood, as if a newer version had written it, is left out, and said in the
/// log: it keeps nobody from the others.
pub(crate) fn readable<T>(read: Result<T, StoreError>) -> Option<Result<T, StoreError>> {
    match read {
        Err(StoreError::Corrupt { what, .. }) => {
            warn!(what, "left out, since it can't be read: a newer version may have written it");
            None
        }
        read => Some(read),
    }
}

/// `SQLite` gives no race an error of its own here, as writes are serial; so what it reports is always trouble.
pub(crate) fn unavailable(error: sqlx::Error) -> StoreError {
    StoreError::Unavailable(Box::new(error))
}
