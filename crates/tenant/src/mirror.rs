//! Follows the provider: the two meet and agree, then every record and event of the provider's is taken over into the
//! store, which wakes the watchers.

use std::time::Duration;

use molecule_domain::error::Result;
use molecule_domain::id::{IncarnationId, Revision};
use molecule_domain::incarnation::Standpoint;
use molecule_provisioner::policy::Policy;
use molecule_workspace::agreement::{Meetings, Met};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::outbox::Outbox;

/// The first pause before asking a provider again that did not answer; it doubles up to [`LONGEST_PAUSE`], and is spread.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How often the provider hears how far this tenant's database is, while that changes.
const TELL_EVERY: Duration = Duration::from_secs(10);

impl Outbox {
    /// Follows the provider for as long as this is polled.
    pub async fn follow(&self) {
        let policy = Policy { backoff_base: FIRST_PAUSE, backoff_max: LONGEST_PAUSE, ..Policy::default() };
        let mut failures = 0;
        loop {
            let Err(error) = self.follow_once(&mut failures).await else { continue };
            failures += 1;
            self.look_again();
            // once for an outage, not at every attempt
            if failures == 1 {
                warn!(error = &error as &dyn std::error::Error, "the provider can't be followed");
            }
            tokio::time::sleep(policy.backoff(failures, self.seed())).await;
        }
    }

    /// Meets the provider and follows it until it does not answer, or speaks as another start.
    async fn follow_once(&self, failures: &mut u32) -> Result<()> {
        let (own, met) = self.meet().await?;
        if std::mem::take(failures) > 0 {
            info!("the provider answers again");
        }
        self.retry_soon();
        let (mut told, mut told_at) = (own.revision, Instant::now());
        while self.take_over(own, met).await? {
            if met.is_some() && told_at.elapsed() >= TELL_EVERY {
                told = self.tell_standpoint(told).await?;
                told_at = Instant::now();
            }
        }
        Ok(())
    }

    /// Tells the provider how far this database is, where it is further than `told`: a restore of what no call has shown
    /// would not be noticed.
    async fn tell_standpoint(&self, told: Revision) -> Result<Revision> {
        let (meetings, revision) = self.store.meetings(self.organization).await?;
        if revision > told {
            self.greet(&meetings, revision).await?;
        }
        Ok(revision)
    }

    /// Says where this database stands, and what it has seen of the provider.
    async fn greet(&self, meetings: &Meetings, revision: Revision) -> Result<(Standpoint, Option<Met>)> {
        let cursor = self.store.cursors(self.organization).await?.revision;
        let seen = meetings.provider.map(|incarnation| Standpoint { incarnation, revision: cursor });
        let own = Standpoint { incarnation: self.own, revision };
        Ok((own, self.provider.meet(self.organization, own, seen).await?))
    }

    /// Meets the provider, and agrees with it where that is needed. Wishes are told from then on. Returns where this
    /// tenant stood, and the provider's start.
    pub async fn meet(&self) -> Result<(Standpoint, Option<IncarnationId>)> {
        let (meetings, revision) = self.store.meetings(self.organization).await?;
        let (own, met) = self.greet(&meetings, revision).await?;
        if let Some(met) = &met
            && meetings.must_agree(revision, met)
        {
            self.set_met(false);
            self.agree(met).await?;
        }
        self.set_met(true);
        Ok((own, met.map(|met| met.provider.incarnation)))
    }

    async fn agree(&self, met: &Met) -> Result<()> {
        let inventory = self.provider.inventory(self.organization).await?;
        let now = self.clock.now();
        let agreed = self.store.agree(self.organization, met, &inventory, &*self.minter, now).await?;
        if agreed.set_back {
            warn!(
                adopted = agreed.adopted.len(),
                recovered = agreed.recovered.len(),
                "this tenant's database was put back to an earlier state; what the provider did since then holds"
            );
        }
        for workspace in &agreed.recovered {
            warn!(%workspace, "recovered: it runs on, but its agent is not known; update it with its config, or delete it");
        }
        for workspace in agreed.told_again {
            warn!(%workspace, "the provider has lost what it had granted of this workspace, and is told again");
            self.wake(workspace);
        }
        Ok(())
    }

    /// Takes over one batch; `false` where another start of the provider speaks, which has to be met.
    async fn take_over(&self, own: Standpoint, met: Option<IncarnationId>) -> Result<bool> {
        let cursors = self.store.cursors(self.organization).await?;
        let changes = self.provider.changes(self.organization, cursors, own).await?;
        if changes.incarnation.is_some() && changes.incarnation != met {
            return Ok(false);
        }
        if let Some(event) = changes.restarted_after_event {
            warn!(revision = %cursors.revision, "the provider knows less than it told before, as after a restore");
            self.store.restart_mirror(self.organization, event).await?;
            return Ok(true);
        }
        if !changes.instances.is_empty() || !changes.events.is_empty() {
            let now = self.clock.now();
            let mirrored = self.store.mirror(self.organization, &changes.instances, &changes.events, now);
            for workspace in mirrored.await? {
                warn!(%workspace, "it is deleted here and ran at the provider after all; it is deleted again");
                self.wake(workspace);
            }
        }
        Ok(true)
    }
}
