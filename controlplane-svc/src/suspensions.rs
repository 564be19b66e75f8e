//! A suspension is stored before what it stops: where a replica died in between, the others go on with it.

use std::time::Duration;

use molecule_domain::Clock;
use molecule_store_postgres::accounts::Accounts;
use tokio_util::sync::CancellationToken;
use tracing::warn;

const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Stops what is left to run of suspended organisations, until cancelled.
pub(crate) async fn run(accounts: Accounts, clock: &dyn Clock, cancel: CancellationToken) {
    loop {
        if let Err(error) = accounts.finish_suspensions(clock.now()).await {
            let error = &error as &dyn std::error::Error;
            warn!(
                error,
                "what is left to run of suspended organisations could not be stopped; trying again later"
            );
        }
        if cancel.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_none() {
            return;
        }
    }
}
