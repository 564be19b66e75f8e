//! Once an hour, what organisations use is counted anew from their instances: a counter that disagrees is a bug,
//! and an alarm.

use std::time::Duration;

use molecule_domain::id::LeaseOwner;
use molecule_domain::{Clock, Timestamp};
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
    let mut turns = Turns::default();
    loop {
        let now = clock.now();
        // the role is this hour's: under a new name each time, nobody can prolong it
        match store.lead("recount", LeaseOwner::generate(), now, now + EVERY).await {
            Ok(leads) => match turns.next(leads, now) {
                Turn::Count => count(&accounts).await,
                Turn::Forget => metrics::quota_drift(0),
                Turn::Rest => {}
            },
            Err(error) => warn!(%error, "the store does not say who counts"),
        }
        if cancel.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_none() {
            return;
        }
    }
}

/// When this replica has counted.
#[derive(Debug, Default)]
struct Turns(Option<Timestamp>);

#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Count,
    /// Another replica has counted since: what this one found is over, and its gauge would keep it.
    Forget,
    Rest,
}

impl Turns {
    fn next(&mut self, leads: bool, now: Timestamp) -> Turn {
        if leads {
            self.0 = Some(now);
            return Turn::Count;
        }
        if self.0.is_some_and(|counted| now.since(counted) >= EVERY) {
            self.0 = None;
            return Turn::Forget;
        }
        Turn::Rest
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_replica_has_found_ends_with_another_ones_count() {
        let mut turns = Turns::default();
        let minute = |minute: i64| Timestamp::from_micros(minute * 60_000_000);
        for (leads, at, turn) in [
            (false, 0, Turn::Rest),
            (true, 5, Turn::Count),
            (false, 10, Turn::Rest),
            (false, 64, Turn::Rest),
            (false, 65, Turn::Forget),
            (false, 70, Turn::Rest),
            (true, 120, Turn::Count),
            (true, 180, Turn::Count),
        ] {
            assert_eq!(turns.next(leads, minute(at)), turn, "at minute {at}");
        }
    }
}
