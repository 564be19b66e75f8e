//! Follows the provider: the two meet and agree, then every record and event of the provider's is taken over into the
//! store, which wakes the watchers.

use std::collections::BTreeSet;
use std::time::Duration;

use molecule_domain::error::{Error, ErrorReason, Result};
use molecule_domain::id::Revision;
use molecule_domain::incarnation::{RETURN, Standpoint, predecessors};
use molecule_domain::instance::InstanceView;
use molecule_provisioner::policy::spread;
use molecule_workspace::agreement::{Meetings, Met};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::outbox::Outbox;
use crate::provider::{Changes, Greeting, Standpoints};

/// What may be waited before asking a provider again that did not answer: it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Not even a provider that asks for it is asked again sooner than this.
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);
/// Over how long those are spread at least that have lost their provider in the same moment.
const SPREAD: Duration = Duration::from_secs(1);
/// How often the provider hears how far this tenant's database is, while that changes.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// How soon the provider is asked again for states that this tenant was told of and does not know: another replica of its may
/// say more of them.
const ASK_AGAIN_EVERY: Duration = Duration::from_secs(300);
/// So many recovered workspaces the provider is told of.
const MOST_RECOVERED: usize = 1000;

/// What became of a batch of the provider's.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Taken {
    /// It is in the store.
    Over,
    /// Another start of the provider speaks, which has to be met.
    AnotherSpeaks,
    /// The provider knows more, or less, than this tenant has seen of it.
    Doubted,
}

impl Outbox {
    /// Follows the provider for as long as this is polled.
    pub async fn follow(&self) {
        let (mut failures, mut doubted, mut doubts) = (0, false, 0);
        loop {
            let began = Instant::now();
            let followed = self.follow_once(&mut failures, &mut doubted).await;
            self.agreement.lose_sight();
            let Err(error) = followed else {
                // one doubt after another is no reason to agree without a pause
                doubts = if doubted && began.elapsed() < LONGEST_PAUSE { doubts + 1 } else { 0 };
                if doubts > 1 {
                    tokio::time::sleep(pause(None, doubts - 1, self.seed())).await;
                }
                continue;
            };
            failures += 1;
            // once for an outage, not at every attempt
            if failures == 1 && is_soon_served(&error) {
                info!("the provider serves the process before this one still, and this one soon");
            } else if failures == 1 {
                warn!(error = &error as &dyn std::error::Error, "the provider can't be followed");
            }
            tokio::time::sleep(pause(error.retry_after, failures, self.seed())).await;
        }
    }

    /// Meets the provider and follows it until it does not answer, speaks as another start, or is found to know more or
    /// less than this tenant has seen of it: `doubted` then, so that the two agree whatever they say of themselves.
    async fn follow_once(&self, failures: &mut u32, doubted: &mut bool) -> Result<()> {
        let standpoints = self.meet(*doubted).await?;
        *doubted = false;
        if std::mem::take(failures) > 0 {
            info!("the provider answers again");
        }
        let (mut told, mut told_at) = (standpoints.own.revision, Instant::now());
        let mut asked_at = None;
        loop {
            if asked_at.is_none_or(|at: Instant| at.elapsed() >= ASK_AGAIN_EVERY) {
                self.ask_what_is_open(&standpoints).await?;
                asked_at = Some(Instant::now());
            }
            let taken = match self.next_changes(standpoints).await? {
                // once there is something, it is taken over whole: whoever is to hear of it is told
                Some(changes) => self.take_over(changes, standpoints).await?,
                None => Taken::Doubted,
            };
            if taken != Taken::Over {
                *doubted = taken == Taken::Doubted;
                return Ok(());
            }
            if standpoints.seen.is_some() && told_at.elapsed() >= TELL_EVERY {
                told = self.tell_standpoint(told).await?;
                told_at = Instant::now();
            }
        }
    }

    /// Asks again for states that were left open: the replica that told of them was of an older version, or this tenant was.
    async fn ask_what_is_open(&self, standpoints: &Standpoints) -> Result<()> {
        let (records, _) = self.store.snapshot(self.organization).await?;
        let open = records.iter().filter(|record| record.in_unknown_state);
        let open: BTreeSet<_> = open.map(|record| record.workspace).collect();
        if open.is_empty() {
            return Ok(());
        }
        let provider = standpoints.seen.unwrap_or(standpoints.own);
        let inventory = self.provider.inventory(self.organization, &provider).await?;
        let cursor = self.store.cursors(self.organization).await?.revision;
        // what is newer than that comes by itself
        let of_open = |one: &InstanceView| open.contains(&one.workspace) && one.revision <= cursor;
        let told: Vec<_> = inventory.into_iter().filter(of_open).collect();
        let mirrored = self.store.mirror(self.organization, &told, &[], self.clock.now()).await?;
        mirrored.wishes.into_iter().for_each(|workspace| self.wake(workspace));
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

    /// Says where this database stands, what it has seen of the provider, and what it runs as recovered.
    async fn greet(&self, meetings: &Meetings, revision: Revision) -> Result<(Standpoint, Option<Met>)> {
        let cursor = self.store.cursors(self.organization).await?.revision;
        let seen = meetings.provider.map(|incarnation| Standpoint { incarnation, revision: cursor });
        let own = Standpoint { incarnation: self.own, revision };
        let (records, _) = self.store.snapshot(self.organization).await?;
        let recovered = records.iter().filter(|record| record.has_lost_config());
        let recovered = recovered.map(|record| record.workspace).take(MOST_RECOVERED).collect();
        let predecessors = predecessors(&meetings.held);
        let greeting = Greeting { standpoints: Standpoints { own, seen }, recovered, predecessors };
        Ok((own, self.provider.meet(self.organization, greeting).await?))
    }

    /// Meets the provider, and agrees with it where that is needed. Wishes are told from then on. Returns where the two
    /// stood.
    async fn meet(&self, doubted: bool) -> Result<Standpoints> {
        let (meetings, revision) = self.store.meetings(self.organization).await?;
        let (own, met) = self.greet(&meetings, revision).await?;
        if let Some(met) = &met
            && (doubted || meetings.must_agree(revision, met))
        {
            // a call that is out may change what the inventory shows
            let _quiet = self.agreement.quiet().await;
            self.agree(own, met, &meetings).await?;
        }
        let seen = met.map(|met| met.provider);
        self.set_agreed(seen);
        Ok(Standpoints { own, seen })
    }

    async fn agree(&self, own: Standpoint, met: &Met, before: &Meetings) -> Result<()> {
        let inventory = self.provider.inventory(self.organization, &met.provider).await?;
        let now = self.clock.now();
        let agreed = self.store.agree(self.organization, met, &inventory, &*self.minter, now).await?;
        let goes_on = before.agreed_in == Some(self.own) && before.provider == Some(met.provider.incarnation);
        if agreed.set_back || !goes_on {
            self.agreement.note_reached(now);
        }
        if agreed.set_back {
            warn!(
                adopted = agreed.adopted.len(),
                recovered = agreed.recovered.len(),
                "this tenant's database was put back to an earlier state; what the provider did since then holds"
            );
        }
        for workspace in &agreed.recovered {
            warn!(%workspace, "recovered: it runs on, but its agent is not known; update it with its config, restart it, or delete it");
        }
        for (workspace, number) in agreed.taken_back {
            let message =
                "after a restore it turned out that something else was asked for later, which holds";
            self.answer_taken_back(workspace, number, &Error::new(ErrorReason::WrongState, message));
        }
        for workspace in agreed.told_again {
            warn!(%workspace, "the provider has lost what it had granted of this workspace, and hears what of it counts");
            self.wake(workspace);
        }
        // an agreement before this one may have ended before it woke anybody
        agreed.waiting.iter().for_each(|(workspace, _)| self.wake(*workspace));
        // last: where this fails the two agree once more, and find nothing that differs
        let standpoints = Standpoints { own, seen: Some(met.provider) };
        let number = self.agreement.next_number();
        self.provider.agree(self.organization, standpoints, number, &agreed.waiting).await
    }

    /// What the provider tells next; `None` where a doubt comes first.
    async fn next_changes(&self, standpoints: Standpoints) -> Result<Option<Changes>> {
        let cursors = self.store.cursors(self.organization).await?;
        tokio::select! {
            biased;
            () = self.agreement.is_doubted() => Ok(None),
            changes = self.provider.changes(self.organization, cursors, standpoints) => changes.map(Some),
        }
    }

    /// Takes over one batch.
    async fn take_over(&self, changes: Changes, standpoints: Standpoints) -> Result<Taken> {
        if changes.incarnation.is_some()
            && changes.incarnation != standpoints.seen.map(|seen| seen.incarnation)
        {
            return Ok(Taken::AnotherSpeaks);
        }
        if let Some(event) = changes.restarted_after_event {
            let cursors = self.store.cursors(self.organization).await?;
            warn!(revision = %cursors.revision, "the provider knows less than it told before, as after a restore");
            self.store.restart_mirror(self.organization, event).await?;
            return Ok(Taken::Doubted);
        }
        if let Some(last) = changes.instances.last() {
            self.agreement.note_seen(last.revision);
        }
        if !changes.instances.is_empty() || !changes.events.is_empty() {
            let now = self.clock.now();
            let mirrored = self.store.mirror(self.organization, &changes.instances, &changes.events, now);
            let mirrored = mirrored.await?;
            for workspace in mirrored.wishes {
                warn!(%workspace, "it is deleted here and ran at the provider after all; it is deleted again");
                self.wake(workspace);
            }
            if mirrored.unknown {
                return Ok(Taken::Doubted);
            }
        }
        Ok(Taken::Over)
    }
}

/// Whether the process before this one has ended, and only its time to come back has not.
fn is_soon_served(error: &Error) -> bool {
    error.reason == ErrorReason::TenantAlreadyServed && error.retry_after.is_some_and(|after| after <= RETURN)
}

/// How long a provider is left alone that gave no answer, or asks to come back `after` a while. All its tenants have lost it
/// in the same moment, so each waits for a time of its own out of all that it may wait for.
fn pause(after: Option<Duration>, failures: u32, seed: u64) -> Duration {
    let part = spread(seed ^ u64::from(failures));
    let doubled = FIRST_PAUSE.saturating_mul(1_u32 << failures.saturating_sub(1).min(16));
    let own = SHORTEST_PAUSE + doubled.clamp(SPREAD, LONGEST_PAUSE).mul_f64(part);
    // who is served in this one's place may be gone sooner
    after.map_or(own, |after| own.min(after.max(SHORTEST_PAUSE) + after.max(SPREAD).mul_f64(part)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the provider said when it went away.
    const SAID: [Option<Duration>; 3] =
        [None, Some(Duration::from_millis(100)), Some(Duration::from_secs(1))];

    #[test]
    fn tenants_that_lose_their_provider_together_come_back_apart() {
        for (after, failures) in
            SAID.into_iter().flat_map(|after| [1, 2, 3].map(|failures| (after, failures)))
        {
            let seed = || molecule_domain::id::OrganizationId::generate().as_uuid().as_u64_pair().1;
            let mut pauses: Vec<_> = (0..1000).map(|_| pause(after, failures, seed()).as_millis()).collect();
            pauses.sort_unstable();
            let together = |from: &u128| pauses.iter().filter(|it| (*from..from + 125).contains(*it)).count();
            let most = pauses.iter().map(together).max().unwrap_or_default();
            assert!(most <= 200, "{after:?}, {failures}: {most} within an eighth of a second");
            assert!(pauses[0] >= 200, "{after:?}, {failures}: {pauses:?}");
        }
    }

    #[test]
    fn a_provider_that_stays_away_is_asked_less_often() {
        let longest = |after, failures| (0..1000).map(|seed| pause(after, failures, seed)).max().unwrap();
        let seconds =
            [1, 2, 3, 4, 5, 6, 40].map(|failures| (longest(None, failures).as_millis() + 500) / 1000);
        assert_eq!(seconds, [1, 1, 2, 4, 8, 10, 10]);
        // and what it asks for holds it back no longer than that
        let asks = longest(Some(Duration::from_secs(300)), 1);
        assert!(asks <= longest(None, 1), "{asks:?}");
    }
}
