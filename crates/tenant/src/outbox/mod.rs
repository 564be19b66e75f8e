//! Tells the provider what clients wish. One task does all the telling, so of each workspace one wish is told at a time,
//! under its own number, until it is answered definitely; a request that asks for something waits for that task's word
//! and may go away at any time.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use molecule_domain::error::{Error, ErrorReason, Result};
use molecule_domain::id::{IncarnationId, IntentNumber, OrganizationId, Revision, WorkspaceId};
use molecule_domain::incarnation::Standpoint;
use molecule_domain::instance::InstanceView;
use molecule_domain::lifecycle::Phase;
use molecule_domain::spec::SpecRules;
use molecule_domain::{Clock, Timestamp};
use molecule_provisioner::admission::{Change, ChangeRequest, ProvisionRequest};
use molecule_telemetry::trace;
use molecule_workspace::aggregate::{Answer, Refusal};
use molecule_workspace::agreement::Minter;
use molecule_workspace::record::WorkspaceRecord;
use molecule_workspace::store::{Stored, TenantStore};
use molecule_workspace::{Entry, Wish};
use tokio::sync::{Notify, RwLock, RwLockReadGuard, RwLockWriteGuard, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, info_span, warn};

use crate::provider::{Provider, Standpoints};
use crate::queue::Queue;

/// How many workspaces' wishes are told at once.
const CONCURRENCY: usize = 16;
/// The pause before the backlog is read again where the store gave no answer.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// How long a request waits for the provider's answer to its wish.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a request waits for the two sides to agree, as they do when either of them begins.
const AGREEMENT: Duration = Duration::from_secs(5);
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
    /// Whose workspaces.
    pub organization: OrganizationId,
    /// The start of the tenant that this is.
    pub own: IncarnationId,
    /// Where they are kept.
    pub store: Arc<dyn TenantStore>,
    /// Who is told.
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

/// Whether this start of the tenant and the provider have agreed on what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Agreement {
    /// Not since the provider was last lost from sight.
    Missing,
    /// With the provider as it was last seen; `None` where it shares this tenant's database.
    With(Option<Standpoint>),
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
    /// Whether the provider and this start have agreed; nothing is told before.
    agreement: watch::Sender<Agreement>,
    /// When they last did, by this tenant's clock, in microseconds; 0 where they never did.
    agreed_at: AtomicI64,
    /// Held by every call that is out.
    calls: RwLock<()>,
    /// Rung where an answer shows that the provider knows more than this tenant.
    doubted: Notify,
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
            agreement: watch::Sender::new(Agreement::Missing),
            agreed_at: AtomicI64::new(0),
            calls: RwLock::default(),
            doubted: Notify::new(),
            queue: Mutex::default(),
            woken: Notify::new(),
        })
    }

    /// Whether a wish that is stored now would be told at once.
    pub fn is_ready(&self) -> bool {
        self.provider.ready().is_ok() && self.agreement() != Agreement::Missing
    }

    /// Waits a while until a wish that is stored now would be told at once; why it would not, where it would not. Before
    /// the first agreement it waits for a provider that can't be asked as well: the process before this one may count as
    /// served for a moment.
    pub async fn ready(&self) -> Result<()> {
        let mut agreement = self.agreement.subscribe();
        let agreed = async {
            loop {
                let asked = self.provider.ready();
                if self.agreed_at().is_some() {
                    asked?;
                }
                let now = *agreement.borrow_and_update();
                // the outbox, which is borrowed, holds the sender
                if now != Agreement::Missing || agreement.changed().await.is_err() {
                    return Ok(());
                }
            }
        };
        tokio::time::timeout(AGREEMENT, agreed).await.unwrap_or_else(|_| {
            self.provider.ready()?;
            let message =
                "this tenant-svc and the control plane have not yet agreed on what there is; ask again";
            Err(Error::new(ErrorReason::ControlPlaneUnavailable, message)
                .with_retry_after(Duration::from_secs(1)))
        })
    }

    /// When this start and the provider last agreed, where they did: nothing of what the provider says now was known here
    /// before.
    pub(crate) fn agreed_at(&self) -> Option<Timestamp> {
        let micros = self.agreed_at.load(Ordering::Relaxed);
        (micros != 0).then(|| Timestamp::from_micros(micros))
    }

    /// They agree now on all that there is.
    pub(crate) fn note_agreement(&self, now: Timestamp) {
        self.agreed_at.store(now.micros(), Ordering::Relaxed);
    }

    fn agreement(&self) -> Agreement {
        *self.agreement.borrow()
    }

    /// Nothing is told from now on, until the two have agreed again.
    pub(crate) fn lose_sight(&self) {
        self.agreement.send_replace(Agreement::Missing);
    }

    /// The two have agreed: wishes are told.
    pub(crate) fn set_agreed(&self, provider: Option<Standpoint>) {
        if self.agreed_at().is_none() {
            self.note_agreement(self.clock.now());
        }
        self.agreement.send_replace(Agreement::With(provider));
        self.woken.notify_one();
    }

    /// Keeps how far the provider was seen to be.
    pub(crate) fn note_seen(&self, revision: Revision) {
        self.agreement.send_if_modified(|agreement| {
            if let Agreement::With(Some(seen)) = agreement {
                seen.revision = seen.revision.max(revision);
            }
            false
        });
    }

    /// Gives word of a wish that gave way to another when the two agreed.
    pub(crate) fn answer_taken_back(&self, workspace: WorkspaceId, number: IntentNumber, error: &Error) {
        self.queue().answer_one(workspace, number, || Told::Refused(copy_of(error)));
    }

    /// Waits until no call is out, and lets none out for as long as the answer is kept.
    pub(crate) async fn quiet(&self) -> RwLockWriteGuard<'_, ()> {
        self.calls.write().await
    }

    /// Has the two agree again, whatever either says of itself.
    fn doubt(&self) {
        self.lose_sight();
        self.doubted.notify_one();
    }

    /// Waits until [`doubt`](Self::doubt) is called.
    pub(crate) async fn is_doubted(&self) {
        self.doubted.notified().await;
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn seed(&self) -> u64 {
        self.organization.as_uuid().as_u64_pair().1
    }

    /// Has a wish that was just stored told at once, and waits for what becomes of it.
    pub async fn tell(&self, stored: Stored) -> Told {
        let Some(number) = stored.number else { return Told::Granted(Box::new(stored.record)) };
        let receiver = self.queue().wait_for(stored.record.workspace, number);
        self.woken.notify_one();
        match tokio::time::timeout(PATIENCE, receiver).await {
            Ok(Ok(told)) => told,
            // the sender is dropped only where the task that tells has ended
            Ok(Err(_)) => Told::Waits(draining()),
            Err(_) => Told::Waits(Error::new(
                ErrorReason::DeadlineExceeded,
                "the control plane has not answered yet",
            )),
        }
    }

    /// Has a wish told that nobody waits for.
    pub fn wake(&self, workspace: WorkspaceId) {
        self.queue().wake(workspace);
        self.woken.notify_one();
    }

    /// Tells what is waiting soon: the provider answers again.
    pub fn retry_soon(&self) {
        self.queue().hasten(SPREAD);
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
            if self.agreement() != Agreement::Missing {
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

    /// What an earlier process has left is told a few at a time.
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

    /// Waits until calls may be made, which say what was last seen of the provider. While the answer is kept the two do
    /// not agree anew.
    async fn may_tell(&self) -> Result<(RwLockReadGuard<'_, ()>, Option<Standpoint>)> {
        loop {
            self.ready().await?;
            let out = self.calls.read().await;
            if let Agreement::With(seen) = self.agreement() {
                return Ok((out, seen));
            }
        }
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

    async fn tell_entry(
        &self,
        record: &WorkspaceRecord,
        entry: &Entry,
        seen: Option<Standpoint>,
    ) -> Result<()> {
        let workspace = record.workspace;
        let answer = self.call(record, entry, seen).await;
        if let Ok(instance) = &answer {
            self.note_seen(instance.revision);
        }
        let answer = answer.and_then(|instance| is_of_this_wish(entry, instance));
        let now = self.clock.now();
        match answer {
            Ok(instance) if knows_more(entry, &instance) => {
                self.doubt();
                let message =
                    "the provider has heard of later wishes than this tenant knows of; the two agree first";
                Err(Error::new(ErrorReason::ControlPlaneUnavailable, message))
            }
            Ok(instance) => {
                let answer = Answer::Granted(instance);
                let record = self.store.answered(workspace, entry.number, &answer, now).await?;
                let record = record.ok_or_else(|| Error::workspace_not_found(workspace))?;
                self.queue().answer(workspace, entry.number, || Told::Granted(Box::new(record.clone())));
                Ok(())
            }
            Err(error) if entry.wish == Wish::Delete && error.reason == ErrorReason::WorkspaceNotFound => {
                let record = self.store.answered(workspace, entry.number, &Answer::NotFound, now).await?;
                if let Some(record) = record {
                    self.queue().answer(workspace, entry.number, || Told::Granted(Box::new(record.clone())));
                }
                Ok(())
            }
            Err(error) if entry.may_be_refused() && is_refusal(error.reason) => {
                info!(reason = error.reason.as_str(), message = error.message, "the provider refuses a wish");
                let answer = Answer::Refused(refusal(&error));
                self.store.answered(workspace, entry.number, &answer, now).await?;
                // with a creation all that waits behind it is taken back
                let provision = matches!(entry.wish, Wish::Provision { .. });
                let upto = if provision { IntentNumber(i64::MAX) } else { entry.number };
                self.queue().answer(workspace, upto, || Told::Refused(copy_of(&error)));
                Ok(())
            }
            Err(error) => {
                debug!(error = &error as &dyn std::error::Error, "a wish waits");
                // it may give way to what waits behind it
                let answer = match error.reason {
                    ErrorReason::WorkspaceNotFound => Some(Answer::NotFound),
                    reason if entry.retold && is_refusal(reason) => Some(Answer::Refused(refusal(&error))),
                    _ => None,
                };
                if let Some(answer) = answer {
                    self.store.answered(workspace, entry.number, &answer, now).await?;
                }
                self.store.call_failed(workspace, entry.number, &error.message, now).await?;
                Err(error)
            }
        }
    }

    async fn call(
        &self,
        record: &WorkspaceRecord,
        entry: &Entry,
        seen: Option<Standpoint>,
    ) -> Result<InstanceView> {
        let (organization, workspace, intent) = (record.organization, record.workspace, entry.number);
        let own = Standpoint { incarnation: self.own, revision: record.revision };
        let standpoints = Standpoints { own, seen };
        let launch_spec = |reset| {
            let spec = self.rules.launch_spec(&entry.spec, reset);
            spec.ok_or_else(|| {
                let runtime = &entry.spec.runtime;
                let message =
                    format!("the runtime {runtime:?} is no longer known; add it to the runtimes file again");
                // not WRONG_STATE: the wish stands until the file is mended
                Error::new(ErrorReason::BackendUnavailable, message)
            })
        };
        let sealed_token = entry.sealed_token.clone();
        let change = match &entry.wish {
            Wish::Provision { run } => {
                let request = ProvisionRequest {
                    organization,
                    workspace,
                    intent,
                    generation: entry.generation,
                    run: *run,
                    backend: self.provider.info().backend,
                    spec: launch_spec(false)?,
                    sealed_token,
                    trace: trace::current(),
                };
                return self.provider.provision(&request, standpoints).await;
            }
            Wish::Start => Change::Start,
            Wish::Stop(cause) => Change::Stop(cause.clone()),
            Wish::Delete => Change::Delete,
            Wish::Replace { run, reset_session } => Change::Replace {
                generation: entry.generation,
                spec: Box::new(launch_spec(*reset_session)?),
                sealed_token,
                run: *run,
            },
        };
        let request = ChangeRequest { organization, workspace, intent, change, trace: trace::current() };
        self.provider.change(&request, standpoints).await
    }
}

/// A new workspace whose id was used before: the provider answers with that one, which is deleted, or was asked for by a
/// creation that was refused and then heard late. What is told again was this workspace's all along.
fn is_of_this_wish(entry: &Entry, instance: InstanceView) -> Result<InstanceView> {
    let other = instance.phase == Phase::Gone || instance.intent < entry.number;
    if matches!(entry.wish, Wish::Provision { .. }) && !entry.retold && other {
        return Err(Error::new(
            ErrorReason::WorkspaceExists,
            format!("the id {} was another workspace's; choose another id", instance.workspace),
        ));
    }
    Ok(instance)
}

/// Whether the provider has done later wishes than the one that it was told, as where another process told them over a
/// copy of this database: it took this one for a repeated one. A deletion is final whoever asked for it.
fn knows_more(entry: &Entry, instance: &InstanceView) -> bool {
    instance.intent > entry.number && !(entry.wish == Wish::Delete && instance.is_ending())
}

/// Whether the provider has decided: asking again can't help. Whatever else it says, the wish waits: it may have been
/// heard, or be granted later (a token is being rotated, a key file restored).
const fn is_refusal(reason: ErrorReason) -> bool {
    matches!(
        reason,
        ErrorReason::QuotaExceeded
            | ErrorReason::NotInGoodStanding
            | ErrorReason::NotInPlan
            | ErrorReason::WrongState
            | ErrorReason::InvalidField
            | ErrorReason::WorkspaceExists
            | ErrorReason::WorkspaceDeleted
            | ErrorReason::NotSupported
    )
}

fn draining() -> Error {
    Error::new(ErrorReason::Draining, "this server is going away; ask again")
        .with_retry_after(Duration::from_secs(1))
}

fn refusal(error: &Error) -> Refusal {
    Refusal { reason: error.reason, message: error.message.clone() }
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
