//! What goes wrong between a service and its database.

use std::time::Duration;

use crate::Error;
use crate::id::WorkspaceId;
use crate::lifecycle::IllegalTransition;

/// Why a store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The lease has ended or went to another.
    #[error("the lease on workspace {0} is lost")]
    LeaseLost(WorkspaceId),
    /// Another intent was stored since the step was planned: it is planned anew.
    #[error("something else was asked for of workspace {0} since")]
    Overtaken(WorkspaceId),
    /// The rules refuse it.
    #[error(transparent)]
    Refused(#[from] Error),
    /// A bug: the outcome does not go with the record.
    #[error(transparent)]
    Illegal(#[from] IllegalTransition),
    /// The database does not answer or fails.
    #[error("the store is unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Another transaction came in between, and nothing was done. Stores try such again by themselves.
    #[error("the store is too busy")]
    LostRace(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The tables were made by another revision of this program.
    #[error(
        "the tables were made by an unreleased revision of this program (migration {migration} is another one), and such are \
         not carried along: begin with an empty database, or an empty data directory"
    )]
    OtherTables {
        /// The first migration that differs.
        migration: i64,
    },
    /// What is stored can't be understood.
    #[error("the store holds {what} that can't be read")]
    Corrupt {
        /// What it is.
        what: String,
    },
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        use crate::ErrorReason;
        match error {
            StoreError::Refused(error) => error,
            StoreError::Unavailable(_) | StoreError::LostRace(_) => {
                Self::new(ErrorReason::StoreUnavailable, "the database does not answer; try again")
                    .with_retry_after(Duration::from_secs(1))
                    .with_source(error)
            }
            other => Self::internal(other),
        }
    }
}
