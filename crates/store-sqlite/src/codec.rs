//! Between columns and types, and between the database's errors and the store's.

use molecule_provisioner::store::StoreError;
pub(crate) use molecule_provisioner::store::codec::{
    Terms, corrupt, from_json, from_text, id, json, known_reasons, number, text,
};

/// `SQLite` gives no race an error of its own here, as writes are serial; so what it reports is always trouble.
pub(crate) fn unavailable(error: sqlx::Error) -> StoreError {
    StoreError::Unavailable(Box::new(error))
}
