//! The database's errors, as the store's: the one place that knows SQLSTATE
//! (<https://www.postgresql.org/docs/15/errcodes-appendix.html>).

use molecule_provisioner::store::StoreError;

/// `serialization_failure`, `deadlock_detected`, `lock_not_available`: this transaction did nothing, and may
/// well succeed when it is tried again.
const LOST_RACES: [&str; 3] = ["40001", "40P01", "55P03"];
const UNIQUE_VIOLATION: &str = "23505";

fn has_state(error: &sqlx::Error, states: &[&str]) -> bool {
    let state = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    state.is_some_and(|state| states.contains(&state.as_ref()))
}

/// What a store says of it.
pub(crate) fn store_error(error: sqlx::Error) -> StoreError {
    if has_state(&error, &LOST_RACES) {
        return StoreError::LostRace(Box::new(error));
    }
    StoreError::Unavailable(Box::new(error))
}

/// Something unique is there already.
pub(crate) fn is_taken(error: &sqlx::Error) -> bool {
    has_state(error, &[UNIQUE_VIOLATION])
}
