//! The time that all replicas share: the database's. A replica whose own clock is wrong would otherwise end others'
//! leases early, or its own late.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use molecule_domain::{Clock, Timestamp};
use molecule_provisioner::store::StoreError;
use molecule_store_postgres::Database;
use tokio_util::sync::CancellationToken;
use tracing::debug;

const EVERY: Duration = Duration::from_secs(60);

/// The database's clock, read now and then and carried on by this machine's monotonic one.
#[derive(Debug)]
pub(crate) struct DatabaseClock(Mutex<(Instant, Timestamp)>);

impl DatabaseClock {
    /// Reads it for the first time.
    pub(crate) async fn read(database: &Database) -> Result<Self, StoreError> {
        Ok(Self(Mutex::new(measure(database).await?)))
    }

    /// Reads it again and again, until cancelled.
    pub(crate) async fn keep(&self, database: Database, cancel: CancellationToken) {
        while cancel.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
            match measure(&database).await {
                Ok(read) => *self.0.lock().unwrap_or_else(PoisonError::into_inner) = read,
                Err(error) => debug!(%error, "the database does not tell the time; carrying on"),
            }
        }
    }
}

/// When it was read, and what it said: half the round trip is taken for its way back.
async fn measure(database: &Database) -> Result<(Instant, Timestamp), StoreError> {
    let asked = Instant::now();
    let told = database.now().await?;
    Ok((asked + asked.elapsed() / 2, told))
}

impl Clock for DatabaseClock {
    fn now(&self) -> Timestamp {
        let (read, told) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told + read.elapsed()
    }
}
