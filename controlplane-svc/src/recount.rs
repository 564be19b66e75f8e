//! Once an hour, what organisations use is counted anew from their instances: a counter that disagrees is a bug,
//! and an alarm.

use std::time::Duration;

use molecule_domain::Clock;
use molecule_domain::id::LeaseOwner;
use molecule_provisioner::store::Store;
use molecule_store_postgres::accounts::Accounts;
use molecule_store_postgres::engine::EngineStore;
use molecule_telemetry::metrics;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

const EVERY: Duration = Duration::from_secs(3600);
/// How late the count may be where the replica that made the last one is gone.
const LOOK_EVERY: Duration = Duration::from_secs(300);

/// Counts until cancelled; all replicas together once an hour.
pub(crate) async fn run(
    accounts: Accounts,
    store: EngineStore,
    clock: &dyn Clock,
    cancel: CancellationToken,
) {
    let mut counted = None;
    loop {
        let now = clock.now();
        // the role is this hour's: under a new name each time, nobody can prolong it
        match store.lead("recount", LeaseOwner::generate(), now, now + EVERY).await {
            Ok(true) => {
                count(&accounts).await;
                counted = Some(now);
            }
            // another replica has counted since: what this one found is over, and the gauge keeps what it was told last
            Ok(false) if counted.is_some_and(|counted| now.since(counted) >= EVERY) => {
                metrics::quota_drift(0);
                counted = None;
            }
            Ok(false) => {}
            Err(error) => warn!(%error, "the store does not say who counts"),
        }
        if cancel.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_none() {
            return;
        }
    }
}

async fn count(accounts: &Accounts) {
    match accounts.recount().await {
        Ok(drifts) if drifts.is_empty() => {
            metrics::quota_drift(0);
            info!("every organisation's counters agree with its instances");
        }
        Ok(drifts) => {
            metrics::quota_drift(drifts.len());
            for drift in drifts {
                error!(
                    organization = %drift.organization, counted = ?drift.counted, actual = ?drift.actual,
                    "the counters of an organisation are not what its instances add up to: a bug; its limits are \
                     judged by wrong figures until they are corrected"
                );
            }
        }
        Err(error) => warn!(error = &error as &dyn std::error::Error, "the instances could not be counted"),
    }
}
