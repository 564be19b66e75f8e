//! The channel between a tenant and the control plane: calls and a stream of changes, over a network that loses, delays,
//! repeats and reorders, to replicas that are dead or frozen at times.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use molecule_domain::error::{Error, ErrorCode, ErrorReason, Result};
use molecule_domain::id::{IncarnationId, IntentNumber, OrganizationId, Revision, WorkspaceId};
use molecule_domain::incarnation::Standpoint;
use molecule_domain::instance::InstanceView;
use molecule_domain::lifecycle::Phase;
use molecule_domain::{Clock, Timestamp};
use molecule_provisioner::admission::{ChangeRequest, ProvisionRequest};
use molecule_provisioner::backend::{CallError, LogChunk, LogOptions};
use molecule_provisioner::watch::Cursors as FeedCursors;
use molecule_tenant::provider::{Changes, Greeting, Mode, Provider, ProviderInfo, Standpoints};
use molecule_workspace::agreement::Met;
use molecule_workspace::store::Cursors;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::backend::KIND;
use crate::clocks::ProcessClock;
use crate::faults::Fault;
use crate::network::{Call, Network, Reply, Said, unavailable};
use crate::oracle::{Oracle, short};
use crate::process::Process;
use crate::refusals::is_refusal;
use crate::violation::Violation;
use crate::world::lock;

/// How long a tenant waits for an answer.
const DEADLINE: Duration = Duration::from_secs(20);
/// How long a tenant listens to a stream that says nothing: a living one says so every few seconds.
const SILENCE: Duration = Duration::from_secs(20);
/// How often a stream that has nothing to say says that it lives: less often than in production, where nobody counts the
/// steps.
const BEAT: Duration = Duration::from_secs(25);
/// How often a call that nobody took is made again.
const TRIES: u32 = 4;
/// So many calls a day are more than any tenant has to make.
const MOST_CALLS: u32 = 20_000;

/// The control plane as a tenant's process reaches it.
pub struct Remote {
    organization: OrganizationId,
    network: Arc<Network>,
    oracle: Arc<Oracle>,
    process: Arc<Process>,
    clock: Arc<ProcessClock>,
    away: AtomicBool,
    heard: Mutex<Timestamp>,
    stream: Mutex<Option<Stream>>,
}

struct Stream {
    at: Cursors,
    batches: mpsc::UnboundedReceiver<Result<(Changes, Timestamp)>>,
    from: Arc<Process>,
}

fn denied() -> Error {
    Error::new(ErrorReason::Unauthenticated, "the token is not known")
}

fn unreadable() -> Error {
    Error::internal("the control plane sent an instance with an unknown phase")
}

/// What is answered in place of the control plane.
fn answered_with(fault: Fault) -> Option<Error> {
    match fault {
        Fault::NotFound => Some(Error::new(ErrorReason::WorkspaceNotFound, "there is no such workspace")),
        _ => None,
    }
}

impl Remote {
    /// The control plane as this process reaches it.
    pub fn new(
        organization: OrganizationId,
        network: Arc<Network>,
        oracle: Arc<Oracle>,
        process: Arc<Process>,
        clock: Arc<ProcessClock>,
    ) -> Arc<Self> {
        let heard = Mutex::new(clock.now());
        Arc::new(Self {
            organization,
            network,
            oracle,
            process,
            clock,
            away: AtomicBool::new(false),
            heard,
            stream: Mutex::default(),
        })
    }

    async fn call(&self, call: Call, standpoints: Standpoints) -> Result<Said> {
        self.process.is_let().await;
        let over = call.key().map(|(workspace, number)| {
            self.oracle.under_way(workspace, number, true);
            Over(&self.oracle, workspace, number)
        });
        let result = tokio::time::timeout(DEADLINE, self.tries(&call, standpoints)).await;
        drop(over);
        self.process.is_let().await;
        match result {
            Ok(result) => result,
            Err(_) => {
                Err(Error::new(ErrorReason::DeadlineExceeded, "the control plane did not answer in time"))
            }
        }
    }

    /// Again where nobody took it.
    async fn tries(&self, call: &Call, standpoints: Standpoints) -> Result<Said> {
        let mut tries = 1;
        loop {
            match self.once(call, standpoints).await {
                Err(error) if error.code() == ErrorCode::Unavailable && tries < TRIES => {
                    tokio::time::sleep(Duration::from_millis(50) * 2_u32.pow(tries)).await;
                    tries += 1;
                }
                result => return result,
            }
        }
    }

    async fn once(&self, call: &Call, standpoints: Standpoints) -> Result<Said> {
        let from = (self.organization, standpoints);
        let network = &self.network;
        if network.is_cut() {
            return std::future::pending().await;
        }
        let step = call.step();
        let world = &network.world;
        if network.calls.fetch_add(1, Ordering::Relaxed) == MOST_CALLS {
            let what = format!("tenant {} has called {MOST_CALLS} times", short(self.organization));
            world.violated(Violation::new("nothing is asked for ever", what));
        }
        if network.calls.load(Ordering::Relaxed) > MOST_CALLS {
            return std::future::pending().await;
        }
        let fault = world.fault_at(&self.process.name, step);
        let (sender, receiver) = oneshot::channel();
        let mut sender = Some(sender);
        let mut after = network.delay();
        match fault {
            Some(Fault::Unreachable) => {
                tokio::time::sleep(after).await;
                return Err(unavailable("the connection was refused"));
            }
            Some(Fault::Denied) => {
                tokio::time::sleep(after).await;
                return Err(denied());
            }
            Some(Fault::RequestLost) => return std::future::pending().await,
            Some(Fault::RequestLate) => after = world.rng().seconds(21, 900),
            Some(Fault::Reordered) => after = world.rng().millis(500, 19_000),
            Some(Fault::Repeated) => {
                let again = world.rng().millis(0, 600_000);
                network.deliver(from, call.clone(), again, None);
            }
            Some(Fault::AnswerLost) => sender = None,
            Some(Fault::CrashBefore) => return self.process.crash().await,
            // those are of the answer
            None
            | Some(
                Fault::AnswerLate | Fault::Unreadable | Fault::CrashAfter | Fault::Refused | Fault::NotFound,
            ) => {}
            Some(other) => world.does_nothing(other, step),
        }
        // what was granted is granted again
        let is_granted =
            call.key().is_some_and(|(workspace, number)| self.oracle.has_granted(workspace, number));
        let result = if fault == Some(Fault::Refused) && !is_granted {
            tokio::time::sleep(after).await;
            self.refused(call, standpoints).await
        } else if let Some(error) = fault.filter(|_| !is_granted).and_then(answered_with) {
            tokio::time::sleep(after).await;
            Err(error)
        } else {
            let nobody_listens = sender.is_none();
            network.deliver(from, call.clone(), after, sender);
            if nobody_listens {
                return std::future::pending().await;
            }
            // a replica that died meanwhile does not answer, and its connection breaks
            receiver.await.unwrap_or_else(|_| Err(unavailable("the connection broke")))
        };
        if fault == Some(Fault::CrashAfter) {
            return self.process.crash().await;
        }
        if fault == Some(Fault::AnswerLate) {
            let late = world.rng().seconds(1, 40);
            tokio::time::sleep(late).await;
        } else {
            let back = network.delay();
            tokio::time::sleep(back).await;
        }
        if network.is_cut() {
            return std::future::pending().await;
        }
        if fault == Some(Fault::Unreadable) && result.is_ok() {
            return Err(unreadable());
        }
        let refuses = match &result {
            Err(error) => is_refusal(error.reason),
            // the answer to a first wish with what is deleted is as good as a refusal
            Ok(Said { reply: Reply::Instance(view), .. }) => {
                view.phase == Phase::Gone || call.key().is_some_and(|(_, number)| view.intent < number)
            }
            Ok(_) => false,
        };
        if let Some((workspace, number)) = call.key().filter(|_| refuses) {
            self.oracle.provider_refused(workspace, number);
            // now and then a copy of what was refused is still on its way
            if result.is_err() && world.may_stray(&self.process.name) {
                let late = world.rng().seconds(60, 1_800);
                network.deliver(from, call.clone(), late, None);
            }
        }
        result
    }

    /// The control plane refuses a wish, for a reason of its own.
    async fn refused(&self, call: &Call, standpoints: Standpoints) -> Result<Said> {
        let (control, organization) = (&self.network.control, self.organization);
        control.heard(organization, standpoints)?;
        let Some((workspace, intent)) = call.key() else { return Err(unavailable("nothing was asked")) };
        let replica = control.some_replica().ok_or_else(|| unavailable("no replica is there"))?;
        let refusal = Error::new(ErrorReason::WrongState, "it can't be done in this state");
        let (is_final, process) = match call {
            Call::Provision(request) => (request.refusal_is_final, request.process),
            Call::Change(request) => (request.refusal_is_final, request.process),
            _ => (false, None),
        };
        if !is_final {
            return Err(refusal);
        }
        let (wish, creates) = ((organization, workspace, intent), matches!(call, Call::Provision(_)));
        let granted =
            replica.instances.settled(&*replica.store, wish, process, creates, Err(refusal)).await?;
        let heard = control.as_heard(replica.place, organization, InstanceView::from(granted));
        let at = replica.clock.now();
        Ok(Said { reply: Reply::Instance(Box::new(heard)), at })
    }

    /// An instance, with its times by this process's clock.
    fn view(&self, instance: InstanceView, at: Timestamp) -> InstanceView {
        let ahead = self.clock.now().micros() - at.micros();
        let phase_since = Timestamp::from_micros(instance.phase_since.micros() + ahead);
        InstanceView { phase_since, ..instance }
    }

    async fn instance(&self, call: Call, standpoints: Standpoints) -> Result<InstanceView> {
        let said = self.call(call, standpoints).await?;
        match said.reply {
            Reply::Instance(instance) => Ok(self.view(*instance, said.at)),
            _ => Err(Error::internal("the control plane answered without an instance")),
        }
    }

    async fn next(&self, after: Cursors, standpoints: Standpoints) -> Result<Changes> {
        let stream = lock(&self.stream).take().filter(|stream| stream.at == after && !stream.from.is_dead());
        let mut stream = match stream {
            Some(stream) => stream,
            None => self.open(after, standpoints).await?,
        };
        let ended = || unavailable("the control plane's stream has ended; connecting again");
        let batch = tokio::select! {
            biased;
            batch = stream.batches.recv() => batch.ok_or_else(ended)?,
            () = self.silence(&stream.from) => return Err(ended()),
            () = self.beat(&stream.from) => {
                *lock(&self.stream) = Some(stream);
                return Ok(Changes::default());
            }
        };
        // what was sent while nothing got through comes once it does, or not at all
        let carried = tokio::time::timeout(SILENCE, self.network.becomes(false)).await;
        let (mut changes, at) = carried.map_err(|_| ended()).and(batch)?;
        changes.instances = changes.instances.into_iter().map(|one| self.view(one, at)).collect();
        stream.at = match changes.restarted_after_event {
            Some(event) => Cursors { revision: Revision(0), event },
            None => Cursors {
                revision: changes.instances.last().map_or(after.revision, |last| last.revision),
                event: changes.events.last().map_or(after.event, |last| last.id),
            },
        };
        *lock(&self.stream) = Some(stream);
        Ok(changes)
    }

    /// Waits until a stream says that it lives.
    async fn beat(&self, from: &Process) {
        loop {
            tokio::time::sleep(BEAT).await;
            if !self.network.is_cut() && from.is_well() {
                return;
            }
        }
    }

    /// Waits until nothing was heard of a stream for too long. What lives says so every few seconds.
    async fn silence(&self, from: &Process) {
        loop {
            tokio::select! {
                biased;
                () = self.network.becomes(true) => {}
                () = from.freezes() => {}
            }
            let heard_again = async {
                self.network.becomes(false).await;
                from.is_let().await;
            };
            if tokio::time::timeout(SILENCE, heard_again).await.is_err() {
                return;
            }
        }
    }

    async fn open(&self, after: Cursors, standpoints: Standpoints) -> Result<Stream> {
        let network = &self.network;
        let world = Arc::clone(&network.world);
        let fault = world.fault_at(&self.process.name, "stream.open");
        let pause = network.delay();
        tokio::time::sleep(pause).await;
        match fault {
            Some(Fault::Unreachable) => return Err(unavailable("the connection was refused")),
            Some(Fault::AnswerLost) => {
                tokio::time::sleep(SILENCE).await;
                return Err(unavailable("the stream never began"));
            }
            Some(Fault::AnswerLate) => {
                let late = world.rng().seconds(1, 19);
                tokio::time::sleep(late).await;
            }
            Some(Fault::Unreadable) => return Err(unreadable()),
            Some(Fault::Denied) => return Err(denied()),
            Some(Fault::CrashBefore) => return self.process.crash().await,
            None | Some(Fault::CrashAfter) => {}
            Some(other) => world.does_nothing(other, "stream.open"),
        }
        if network.is_cut() {
            tokio::time::sleep(SILENCE).await;
            return Err(unavailable("nothing gets through"));
        }
        let replica = network.control.some_replica().ok_or_else(|| unavailable("no replica is there"))?;
        let organization = self.organization;
        let (sender, batches) = mpsc::unbounded_channel();
        let from = Arc::clone(&replica.process);
        let process = Arc::clone(&from);
        let network = Arc::clone(network);
        let name = self.process.name.clone();
        let open = network.control.open_stream(organization, standpoints, &replica, &network)?;
        if fault == Some(Fault::CrashAfter) {
            // the replica's end of it goes with the connection
            return self.process.crash().await;
        }
        from.spawn(async move {
            // the session ends with this task
            let _open = open;
            let clock = Arc::clone(&replica.clock);
            let (revision, event) = network.control.database().counters(organization);
            let incarnation = network.control.incarnation();
            let mut cursors = FeedCursors { revision: after.revision, event: after.event };
            // a first word comes at once
            let mut first = Changes { incarnation, ..Changes::default() };
            if after.revision > revision || after.event > event {
                cursors = FeedCursors { revision: Revision(0), event };
                first.restarted_after_event = Some(event);
            }
            if sender.send(Ok((first, clock.now()))).is_err() {
                return;
            }
            let mut follower = replica.feed.follow(organization, cursors);
            loop {
                let batch = tokio::select! {
                    biased;
                    () = sender.closed() => return,
                    batch = follower.next() => batch,
                };
                process.is_let().await;
                let Ok(batch) = batch else {
                    let _ = sender.send(Err(unavailable("the store gives no answer")));
                    return;
                };
                let pause = network.delay();
                let heard = |record| {
                    network.control.as_heard(replica.place, organization, InstanceView::from(record))
                };
                let changes = Changes {
                    instances: batch.instances.into_iter().map(heard).collect(),
                    events: batch.events,
                    restarted_after_event: None,
                    incarnation,
                };
                let fault = world.fault_at(&name, "stream.batch");
                let told = match fault {
                    Some(Fault::AnswerLate) => {
                        let late = world.rng().seconds(1, 300);
                        tokio::time::sleep(late).await;
                        Ok(())
                    }
                    // what is sent on a stream comes, or the stream ends
                    Some(Fault::AnswerLost | Fault::Unreachable) => return,
                    Some(Fault::Unreadable) => Err(unreadable()),
                    Some(Fault::Denied) => Err(denied()),
                    Some(Fault::CrashBefore) => process.crash().await,
                    None | Some(Fault::CrashAfter) => {
                        tokio::time::sleep(pause).await;
                        Ok(())
                    }
                    Some(other) => {
                        world.does_nothing(other, "stream.batch");
                        Ok(())
                    }
                };
                // who lags says what its clock shows once it speaks
                let message = told.map(|()| (changes, clock.now()));
                if sender.send(message).is_err() {
                    return;
                }
                if fault == Some(Fault::CrashAfter) {
                    return process.crash().await;
                }
            }
        });
        Ok(Stream { at: after, batches, from })
    }
}

/// Ends a call in the oracle's book, however it ends.
struct Over<'a>(&'a Oracle, WorkspaceId, IntentNumber);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.under_way(self.1, self.2, false);
    }
}

#[async_trait]
impl Provider for Remote {
    fn info(&self) -> ProviderInfo {
        ProviderInfo { mode: Mode::Saas, backend: KIND.to_owned(), capabilities: Vec::new() }
    }

    fn ready(&self) -> Result<()> {
        if self.away.load(Ordering::Relaxed) {
            return Err(
                unavailable("the control plane does not answer").with_retry_after(Duration::from_secs(5))
            );
        }
        Ok(())
    }

    fn age(&self, now: Timestamp) -> Duration {
        now.since(*lock(&self.heard))
    }

    async fn meet(&self, _organization: OrganizationId, greeting: Greeting) -> Result<Option<Met>> {
        let met = match self.call(Call::Meet(greeting.predecessors), greeting.standpoints).await {
            Ok(Said { reply: Reply::Met(met), .. }) => Ok(Some(met)),
            Ok(_) => Err(Error::internal("the control plane did not say where its database stands")),
            Err(error) => Err(error),
        };
        self.away.store(met.is_err(), Ordering::Relaxed);
        met
    }

    async fn inventory(&self, _organization: OrganizationId, met: &Standpoint) -> Result<Vec<InstanceView>> {
        // who reads says nothing of itself
        let own = Standpoint { incarnation: IncarnationId::from_uuid(Uuid::nil()), revision: Revision(0) };
        let said = self.call(Call::Inventory, Standpoints { own, seen: None }).await?;
        match said.reply {
            Reply::Inventory(_, shown) if shown != Some(met.incarnation) => {
                Err(Error::new(ErrorReason::ControlPlaneUnavailable, "another control plane than was met"))
            }
            Reply::Inventory(all, _) => Ok(all.into_iter().map(|one| self.view(one, said.at)).collect()),
            _ => Err(Error::internal("the control plane did not say what there is")),
        }
    }

    async fn agree(
        &self,
        _organization: OrganizationId,
        standpoints: Standpoints,
        number: i64,
        waiting: &[(WorkspaceId, IntentNumber)],
    ) -> Result<()> {
        let said = self.call(Call::Agree(number, waiting.to_vec()), standpoints).await?;
        match said.reply {
            Reply::Agreed => Ok(()),
            _ => Err(Error::internal("the control plane did not say that it has agreed")),
        }
    }

    async fn provision(&self, request: &ProvisionRequest, standpoints: Standpoints) -> Result<InstanceView> {
        self.instance(Call::Provision(Box::new(request.clone())), standpoints).await
    }

    async fn change(&self, request: &ChangeRequest, standpoints: Standpoints) -> Result<InstanceView> {
        self.instance(Call::Change(Box::new(request.clone())), standpoints).await
    }

    async fn changes(
        &self,
        _organization: OrganizationId,
        after: Cursors,
        standpoints: Standpoints,
    ) -> Result<Changes> {
        self.process.is_let().await;
        let changes = self.next(after, standpoints).await;
        self.process.is_let().await;
        self.away.store(changes.is_err(), Ordering::Relaxed);
        if changes.is_ok() {
            *lock(&self.heard) = self.clock.now();
        }
        changes
    }

    async fn logs(
        &self,
        _organization: OrganizationId,
        _workspace: WorkspaceId,
        _options: LogOptions,
    ) -> Result<BoxStream<'static, Result<LogChunk, CallError>>> {
        Err(Error::new(ErrorReason::NotSupported, "nothing writes here"))
    }
}
