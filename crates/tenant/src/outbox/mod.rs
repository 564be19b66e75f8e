//! Tells the provider what clients wish. One task does all the telling, so of each workspace one wish is told at a time,
//! under its own number, until it is answered definitely; a request that asks for something waits for that task's word
//! and may go away at any time.

mod agreement;
mod queue;
mod telling;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use molecule_domain::Clock;
use molecule_domain::error::{Error, ErrorReason, Result};
use molecule_domain::id::{IncarnationId, IntentNumber, OrganizationId, WorkspaceId};
use molecule_domain::incarnation::Standpoint;
use molecule_domain::spec::SpecRules;
use molecule_telemetry::trace;
use molecule_workspace::agreement::Minter;
use molecule_workspace::record::WorkspaceRecord;
use molecule_workspace::store::{Stored, TenantStore};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, info_span, warn};

use crate::provider::Provider;
use agreement::Agreement;
use queue::Queue;

/// How many workspaces' wishes are told at once.
const CONCURRENCY: usize = 16;
/// The pause before the backlog is read again where the store gave no answer.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// How long a request waits for the provider's answer to its wish.
const PATIENCE: Duration = Duration::from_secs(30);
/// Over how long a backlog is spread once the provider answers again.
const SPREAD: Duration = Duration::from_secs(2);

/// What has become of a wish by now.
#[derive(Debug)]
pub enum Told {
    /// The provider has granted it.
    Granted(Box<WorkspaceRecord>),
    /// The provider has refused it, and it is taken back.
    Refused(Error),
    /// It is stored, and is told again: the provider did not give a definite answer.
    Waits(Error),
}

/// What an outbox is made from.
pub struct Parts {
    /// The organisation whose wishes these are.
    pub organization: OrganizationId,
    /// The start of the tenant that this is.
    pub own: IncarnationId,
    /// Where they are kept.
    pub store: Arc<dyn TenantStore>,
    /// What the wishes are told to.
    pub provider: Arc<dyn Provider>,
    /// What is launched for a spec.
    pub rules: Arc<SpecRules>,
    /// Makes tokens for what is told again.
    pub minter: Arc<dyn Minter>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("organization", &self.organization).finish_non_exhaustive()
    }
}

/// The outbox of all workspaces of a tenant.
pub struct Outbox {
    pub(crate) store: Arc<dyn TenantStore>,
    pub(crate) provider: Arc<dyn Provider>,
    pub(crate) rules: Arc<SpecRules>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) organization: OrganizationId,
    pub(crate) minter: Arc<dyn Minter>,
    /// The start of this tenant that speaks.
    pub(crate) own: IncarnationId,
    pub(crate) agreement: Agreement,
    queue: Mutex<Queue>,
    woken: Notify,
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox").field("organization", &self.organization).finish_non_exhaustive()
    }
}

impl Outbox {
    /// The outbox over a store. It tells nothing until it is [run](Self::run).
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { organization, own, store, provider, rules, minter, clock } = parts;
        Arc::new(Self {
            store,
            provider,
            rules,
            clock,
            organization,
            minter,
            own,
            agreement: Agreement::default(),
            queue: Mutex::default(),
            woken: Notify::new(),
        })
    }

    /// Gives word of a wish that gave way to another when the two agreed.
    pub(crate) fn answer_taken_back(&self, workspace: WorkspaceId, number: IntentNumber, error: &Error) {
        self.queue().answer_one(workspace, number, || Told::Refused(copy_of(error)));
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn seed(&self) -> u64 {
        self.organization.as_uuid().as_u64_pair().1
    }

    /// Has a wish that was just stored told at once, and waits for what becomes of it, until `by` at most.
    pub async fn tell(&self, stored: Stored, by: Option<Instant>) -> Told {
        let Some(number) = stored.number else { return Told::Granted(Box::new(stored.record)) };
        let receiver = self.queue().wait_for(stored.record.workspace, number);
        self.woken.notify_one();
        tokio::select! {
            biased;
            // the sender is dropped only where the task that tells has ended
            told = receiver => told.unwrap_or_else(|_| Told::Waits(draining())),
            why = self.is_away() => {
                self.note_cause(stored.record.workspace, number, &why).await;
                Told::Waits(why)
            }
            () = tokio::time::sleep_until(within(PATIENCE, by)) => Told::Waits(Error::new(
                ErrorReason::DeadlineExceeded,
                "the control plane has not answered yet",
            )),
        }
    }

    /// Has a wish told as soon as the provider can be asked again. Until then it shows why it waits.
    pub async fn tell_later(&self, stored: &Stored) {
        let workspace = stored.record.workspace;
        // first: whoever asked may go away at any time
        self.wake(workspace);
        if let Some(number) = stored.number {
            self.note_cause(workspace, number, &self.why_missing()).await;
        }
    }

    async fn note_cause(&self, workspace: WorkspaceId, number: IntentNumber, why: &Error) {
        let noted = self.store.call_failed(workspace, number, &why.message, self.clock.now()).await;
        if let Err(error) = noted {
            warn!(%workspace, error = &error as &dyn std::error::Error, "the cause of a wait can't be stored");
        }
    }

    /// Has what may have been stored of a workspace looked at, unless this is [over](Unheard::over): a request that goes away
    /// while its transaction commits leaves a wish that it has not seen.
    pub(crate) const fn unheard(&self, workspace: WorkspaceId) -> Unheard<'_> {
        Unheard { outbox: self, workspace }
    }

    /// Has a wish told that nobody waits for.
    pub fn wake(&self, workspace: WorkspaceId) {
        self.queue().wake(workspace);
        self.woken.notify_one();
    }

    /// The two have agreed: wishes are told to the provider as it was seen here.
    pub(crate) fn set_agreed(&self, provider: Option<Standpoint>) {
        if self.agreement.is_missing() {
            self.retry_soon();
        }
        self.agreement.set(provider, &*self.clock);
        self.woken.notify_one();
    }

    /// Has all that waits told soon, and spread: other tenants may have waited for the same provider.
    pub fn retry_soon(&self) {
        self.queue().spread(SPREAD);
        self.woken.notify_one();
    }

    /// Tells what is waiting, until cancelled.
    pub async fn run(&self, cancel: CancellationToken) {
        cancel.run_until_cancelled(self.tell_all()).await;
        self.queue().close(draining);
    }

    async fn tell_all(&self) {
        let mut calls = FuturesUnordered::new();
        let mut loaded = false;
        loop {
            loaded = loaded || self.load_backlog().await;
            let mut next = None;
            if !self.agreement.is_missing() {
                let mut queue = self.queue();
                while calls.len() < CONCURRENCY
                    && let Some(workspace) = queue.take_due()
                {
                    calls.push(self.tell_workspace(workspace));
                }
                if calls.len() < CONCURRENCY {
                    next = queue.next_due();
                }
            }
            if !loaded {
                next = Some(Instant::now() + FIRST_PAUSE);
            }
            let wait = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(()) = calls.next(), if !calls.is_empty() => {}
                () = self.woken.notified() => {}
                () = wait => {}
            }
        }
    }

    /// What an earlier process has left is told a few at a time, and spread.
    async fn load_backlog(&self) -> bool {
        match self.store.waiting().await {
            Ok(waiting) => {
                if !waiting.is_empty() {
                    info!(workspaces = waiting.len(), "wishes of an earlier run wait for the provider");
                }
                let mut queue = self.queue();
                for workspace in waiting {
                    queue.wake(workspace);
                }
                queue.spread(SPREAD);
                true
            }
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "the outbox can't be read");
                false
            }
        }
    }

    /// Tells all that waits of one workspace, wish by wish, until one does not get its answer.
    async fn tell_workspace(&self, workspace: WorkspaceId) {
        let failed = loop {
            match self.tell_first(workspace).await {
                Ok(true) => {}
                Ok(false) => break false,
                Err(error) => {
                    self.queue().answer(workspace, IntentNumber(i64::MAX), || Told::Waits(copy_of(&error)));
                    break true;
                }
            }
        };
        self.queue().ended(workspace, failed);
    }

    /// Whether there was a wish to tell. An error says that it waits.
    async fn tell_first(&self, workspace: WorkspaceId) -> Result<bool> {
        let (_out, seen) = self.may_tell().await?;
        let Some((record, entry)) = self.store.begin_call(workspace).await? else {
            self.all_told(workspace).await?;
            return Ok(false);
        };
        let span = info_span!("tell", %workspace, wish = entry.wish.name(), number = %entry.number);
        trace::continue_from(&span, &entry.trace);
        trace::within(span, self.tell_entry(&record, &entry, seen)).await?;
        Ok(true)
    }

    /// Answers those whose wishes were settled without a call of their own: composed with another, say.
    async fn all_told(&self, workspace: WorkspaceId) -> Result<()> {
        match self.store.get(self.organization, workspace).await? {
            Some(record) if record.pending.is_none() => {
                let number = record.intent;
                self.queue().answer(workspace, number, || Told::Granted(Box::new(record.clone())));
            }
            Some(_) => {}
            None => {
                let missing = || Told::Refused(Error::workspace_not_found(workspace));
                self.queue().answer(workspace, IntentNumber(i64::MAX), missing);
            }
        }
        Ok(())
    }
}

/// A wish that is being stored, and that nobody may come to hear of.
pub(crate) struct Unheard<'a> {
    outbox: &'a Outbox,
    workspace: WorkspaceId,
}

impl Unheard<'_> {
    /// Whoever stores it has seen what was stored.
    pub(crate) fn over(self) {
        std::mem::forget(self);
    }
}

impl Drop for Unheard<'_> {
    fn drop(&mut self) {
        self.outbox.wake(self.workspace);
    }
}

/// The end of a wait that a request allows until `by`.
fn within(patience: Duration, by: Option<Instant>) -> Instant {
    let end = Instant::now() + patience;
    by.map_or(end, |by| end.min(by))
}

fn draining() -> Error {
    Error::new(ErrorReason::Draining, "this server is going away; ask again")
        .with_retry_after(Duration::from_secs(1))
}

/// The public part of an error, for several who wait for it.
fn copy_of(error: &Error) -> Error {
    Error {
        fields: error.fields.clone(),
        limits: error.limits.clone(),
        retry_after: error.retry_after,
        ..Error::new(error.reason, error.message.clone())
    }
}
