//! A provider in memory: quick enough for simulations, and held to the same contract as the others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use molecule_domain::id::{Generation, InstallationId, LaunchSeq, OrganizationId, WorkspaceId};
use molecule_domain::launch::LaunchSpec;
use molecule_domain::lifecycle::Reason;
use molecule_domain::{Clock, Timestamp};
use tokio::sync::Notify;

use super::{
    Backend, CallError, LaunchRequest, LogChunk, LogOptions, OwnedResource, PostMortem, PrepareRequest,
    Prepared, Progress, Refusal,
};
use crate::model::{Endpoint, InstanceRef};
use crate::observation::{InstanceState, OwnedInstance};

/// An image that is never there.
pub const MISSING_IMAGE: &str = "missing";

/// What several installations share: the daemon, or the account.
#[derive(Debug, Default)]
pub struct Host {
    state: Mutex<HostState>,
    hinted: Notify,
}

#[derive(Debug, Default)]
struct HostState {
    instances: BTreeMap<InstanceRef, HostInstance>,
    volumes: BTreeMap<(WorkspaceId, &'static str), (InstallationId, OrganizationId, LaunchSeq)>,
    /// Every time that a process was started, by instance.
    starts: Vec<(InstanceRef, LaunchSeq)>,
    troubles: BTreeSet<Trouble>,
    /// How late launches take effect after their call seemed lost.
    late: Option<Duration>,
    /// An instance that can't be removed.
    stuck: Option<InstanceRef>,
    /// How long stopping and removing takes, where the answer does not wait for it.
    slow: Option<Duration>,
    /// What is stopped or removed, until when, and its state then; `None` is gone.
    ending: Vec<(Timestamp, InstanceRef, Option<InstanceState>)>,
    postponed: Vec<(Timestamp, InstallationId, LaunchRequest)>,
    /// What the next stream of hints tells before it ends, or the one that is open.
    hints: Vec<WorkspaceId>,
}

/// What a host can be told to do wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// No call gets an answer, and none has an effect.
    Away,
    /// A launch makes its instance, but does not start it, and seems lost.
    Half,
    /// There is no room for a launch.
    Full,
    /// Volumes can't be removed.
    Unpurgeable,
}

#[derive(Clone, Debug)]
struct HostInstance {
    /// `None` is a stranger's.
    owner: Option<InstallationId>,
    token: String,
    owned: OwnedInstance,
}

/// A provider in memory, as one installation sees it.
#[derive(Clone)]
pub struct MemoryBackend {
    host: Arc<Host>,
    installation: InstallationId,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for MemoryBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryBackend").field("installation", &self.installation).finish_non_exhaustive()
    }
}

impl Host {
    fn lock(&self) -> MutexGuard<'_, HostState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins or ends a trouble.
    pub fn set(&self, trouble: Trouble, is: bool) {
        let troubles = &mut self.lock().troubles;
        if is {
            troubles.insert(trouble)
        } else {
            troubles.remove(&trouble)
        };
    }

    /// This instance can't be removed from now on.
    pub fn stick(&self, instance: InstanceRef) {
        self.lock().stuck = Some(instance);
    }

    /// Ends all troubles.
    pub fn clear(&self) {
        let mut state = self.lock();
        state.troubles.clear();
        (state.late, state.slow) = (None, None);
    }

    /// From now on a launch seems lost and takes effect so much later; `None` ends that.
    pub fn set_late(&self, late: Option<Duration>) {
        self.lock().late = late;
    }

    /// From now on stopping and removing takes so long, and its answer does not wait for it.
    pub fn set_slow(&self, slow: Option<Duration>) {
        self.lock().slow = slow;
    }

    /// There is something new on a workspace: the stream of hints that is open tells it, and else the next one, which ends then.
    pub fn hint(&self, workspace: WorkspaceId) {
        self.lock().hints.push(workspace);
        self.hinted.notify_one();
    }

    async fn next_hint(&self) -> WorkspaceId {
        loop {
            let hint = self.lock().hints.pop();
            match hint {
                Some(workspace) => return workspace,
                None => self.hinted.notified().await,
            }
        }
    }

    /// Lets what was postponed until `now` take effect.
    pub fn deliver(&self, now: Timestamp) {
        let mut state = self.lock();
        let ended: Vec<_> = state.ending.extract_if(.., |(at, ..)| *at <= now).collect();
        for (_, instance, end) in ended {
            match (end, state.instances.get_mut(&instance)) {
                (Some(end), Some(found)) => found.owned.state = end,
                _ => drop(state.instances.remove(&instance)),
            }
        }
        let (due, later) = std::mem::take(&mut state.postponed).into_iter().partition(|(at, ..)| *at <= now);
        state.postponed = later;
        let due: Vec<(Timestamp, InstallationId, LaunchRequest)> = due;
        for (at, installation, request) in due {
            // whatever it answers, nobody is there to hear it
            let _ = state.launch(installation, &request, at);
        }
    }

    /// The process of an instance ends by itself.
    pub fn crash(&self, instance: &InstanceRef, code: i32) {
        if let Some(found) = self.lock().instances.get_mut(instance)
            && !found.owned.state.is_down()
        {
            found.owned.state = InstanceState::Exited(Some(code));
            found.owned.endpoint = None;
        }
    }

    /// Somebody takes an instance away.
    pub fn vanish(&self, instance: &InstanceRef) {
        self.lock().instances.remove(instance);
    }

    /// A stranger makes something of the instance's name.
    pub fn occupy(&self, instance: InstanceRef, clock: &dyn Clock) {
        let owned = OwnedInstance {
            instance,
            seq: LaunchSeq(0),
            state: InstanceState::Running,
            endpoint: None,
            created_at: clock.now(),
        };
        self.lock().instances.insert(instance, HostInstance { owner: None, token: String::new(), owned });
    }

    /// All that is there, whosever it is.
    pub fn instances(&self) -> Vec<OwnedInstance> {
        self.lock().instances.values().map(|found| found.owned.clone()).collect()
    }

    /// The workspaces that have volumes.
    pub fn volume_owners(&self) -> BTreeSet<WorkspaceId> {
        self.lock().volumes.keys().map(|(workspace, _)| *workspace).collect()
    }

    /// How many processes were started for an instance.
    pub fn starts_of(&self, instance: &InstanceRef) -> usize {
        self.lock().starts.iter().filter(|(started, _)| started == instance).count()
    }
}

impl MemoryBackend {
    /// One installation's view of a host.
    pub fn new(host: Arc<Host>, installation: InstallationId, clock: Arc<dyn Clock>) -> Self {
        Self { host, installation, clock }
    }

    fn state(&self) -> Result<MutexGuard<'_, HostState>, CallError> {
        let state = self.host.lock();
        if state.is(Trouble::Away) {
            Err(CallError::Unknown("the provider is away".to_owned()))
        } else {
            Ok(state)
        }
    }
}

impl HostState {
    fn is(&self, trouble: Trouble) -> bool {
        self.troubles.contains(&trouble)
    }

    fn mine(&mut self, installation: InstallationId, instance: &InstanceRef) -> Option<&mut HostInstance> {
        self.instances.get_mut(instance).filter(|found| found.owner == Some(installation))
    }

    fn launch(
        &mut self,
        installation: InstallationId,
        request: &LaunchRequest,
        now: Timestamp,
    ) -> Result<(), CallError> {
        if let Some(found) = self.instances.get(&request.instance) {
            if found.owner != Some(installation) {
                return Err(CallError::Refused(Refusal {
                    reason: Reason::NameTaken,
                    message: "something of a stranger's has its name".to_owned(),
                }));
            }
            if found.token != request.token {
                return Err(CallError::Unknown("an instance of another launch is in the way".to_owned()));
            }
        } else if self.is(Trouble::Full) {
            return Err(CallError::NoRoom(full()));
        } else {
            let owned = OwnedInstance {
                instance: request.instance,
                seq: request.seq,
                state: InstanceState::Created,
                endpoint: None,
                created_at: now,
            };
            let made = HostInstance { owner: Some(installation), token: request.token.clone(), owned };
            self.instances.insert(request.instance, made);
            let (workspace, organization) = (request.instance.workspace, request.instance.organization);
            for name in ["configs", "workspace"] {
                self.volumes.entry((workspace, name)).or_insert((installation, organization, request.seq));
            }
        }
        if self.is(Trouble::Half) {
            return Err(CallError::Unknown("the launch seems lost".to_owned()));
        }
        // A launch that was done stays done: the process may have ended since.
        if self.mine(installation, &request.instance).map(|found| found.owned.state)
            == Some(InstanceState::Created)
        {
            self.run(installation, &request.instance);
        }
        Ok(())
    }

    fn run(&mut self, installation: InstallationId, instance: &InstanceRef) {
        let Some(found) = self.mine(installation, instance) else { return };
        if matches!(found.owned.state, InstanceState::Running | InstanceState::Unattached) {
            return;
        }
        // as where a disk is made with the first instance, and attached to those that follow it
        if found.owned.state == InstanceState::Created && instance.generation != Generation(1) {
            found.owned.state = InstanceState::Unattached;
            return;
        }
        found.owned.state = InstanceState::Running;
        found.owned.endpoint = Some(Endpoint { host: "127.0.0.1".to_owned(), port: 8000 });
        let seq = found.owned.seq;
        self.starts.push((*instance, seq));
    }

    /// Begins to stop or remove what is there, or does so.
    fn end(
        &mut self,
        found: InstanceRef,
        meanwhile: InstanceState,
        end: Option<InstanceState>,
        now: Timestamp,
    ) -> Progress {
        let Some(one) = self.instances.get_mut(&found) else { return Progress::Done };
        one.owned.endpoint = None;
        if let Some(slow) = self.slow {
            if one.owned.state != meanwhile {
                one.owned.state = meanwhile;
                self.ending.retain(|(_, instance, _)| *instance != found);
                self.ending.push((now + slow, found, end));
            }
            return Progress::InProgress;
        }
        match end {
            Some(end) => one.owned.state = end,
            None => drop(self.instances.remove(&found)),
        }
        Progress::Done
    }

    fn attach(&mut self, installation: InstallationId, instance: &InstanceRef) {
        let Some(found) = self.mine(installation, instance) else { return };
        if found.owned.state == InstanceState::Unattached {
            found.owned.state = InstanceState::Starting;
            self.run(installation, instance);
        }
    }
}

fn full() -> Refusal {
    Refusal { reason: Reason::NoCapacity, message: "there is no room for it".to_owned() }
}

#[async_trait]
impl Backend for MemoryBackend {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn visibility_lag(&self) -> Duration {
        Duration::ZERO
    }

    async fn prepare(&self, request: &PrepareRequest<'_>) -> Prepared {
        match self.state() {
            Err(error) => Prepared::Unknown(error.to_string()),
            Ok(_) if request.spec.image == MISSING_IMAGE => Prepared::Refused(Refusal {
                reason: Reason::ImageUnavailable,
                message: format!("there is no image {:?}", request.spec.image),
            }),
            Ok(_) => Prepared::Ready(String::new()),
        }
    }

    async fn launch(&self, request: &LaunchRequest) -> Result<(), CallError> {
        let mut state = self.state()?;
        let now = self.clock.now();
        if let Some(late) = state.late {
            state.postponed.push((now + late, self.installation, request.clone()));
            return Err(CallError::Unknown("the launch seems lost".to_owned()));
        }
        state.launch(self.installation, request, now)
    }

    async fn attach(&self, found: &OwnedInstance, _spec: &LaunchSpec) -> Result<(), CallError> {
        self.state()?.attach(self.installation, &found.instance);
        Ok(())
    }

    async fn start(&self, instance: &InstanceRef, seq: LaunchSeq) -> Result<(), CallError> {
        let mut state = self.state()?;
        if state.mine(self.installation, instance).is_none_or(|found| found.owned.seq != seq) {
            return Err(CallError::Unknown("there is no such instance".to_owned()));
        }
        // a machine keeps no place while it is stopped
        let is_down =
            state.mine(self.installation, instance).is_some_and(|found| found.owned.state.is_down());
        if is_down && state.is(Trouble::Full) {
            return Err(CallError::NoRoom(full()));
        }
        state.run(self.installation, instance);
        Ok(())
    }

    async fn stop(
        &self,
        instance: &InstanceRef,
        seq: LaunchSeq,
        _grace: Duration,
    ) -> Result<Progress, CallError> {
        let mut state = self.state()?;
        let runs = |found: &mut HostInstance| found.owned.seq == seq && !found.owned.state.is_down();
        if !state.mine(self.installation, instance).is_some_and(runs) {
            return Ok(Progress::Done);
        }
        let exited = InstanceState::Exited(Some(143));
        Ok(state.end(*instance, InstanceState::Stopping, Some(exited), self.clock.now()))
    }

    async fn remove(&self, instance: &InstanceRef, seq: LaunchSeq) -> Result<Progress, CallError> {
        let mut state = self.state()?;
        if state.mine(self.installation, instance).is_none_or(|found| found.owned.seq != seq) {
            return Ok(Progress::Done);
        }
        if state.stuck == Some(*instance) {
            return Err(CallError::Unknown("it can't be removed now".to_owned()));
        }
        Ok(state.end(*instance, InstanceState::Removing, None, self.clock.now()))
    }

    async fn purge(&self, _organization: OrganizationId, workspace: WorkspaceId) -> Result<(), CallError> {
        let mut state = self.state()?;
        if state.is(Trouble::Unpurgeable) {
            return Err(CallError::Unknown("its volumes are in use".to_owned()));
        }
        let installation = self.installation;
        state.volumes.retain(|(of, _), (owner, ..)| !(*of == workspace && *owner == installation));
        Ok(())
    }

    async fn list_instances(&self) -> Result<Vec<OwnedInstance>, CallError> {
        let state = self.state()?;
        let mine = state.instances.values().filter(|found| found.owner == Some(self.installation));
        Ok(mine.map(|found| found.owned.clone()).collect())
    }

    async fn list_resources(&self) -> Result<Vec<OwnedResource>, CallError> {
        let state = self.state()?;
        let mine = state.volumes.iter().filter(|(_, (owner, ..))| *owner == self.installation);
        Ok(mine
            .map(|((workspace, name), (_, organization, seq))| OwnedResource {
                organization: *organization,
                workspace: *workspace,
                name: format!("ws-{workspace}-{name}"),
                seq: *seq,
            })
            .collect())
    }

    async fn post_mortem(&self, instance: &InstanceRef, seq: LaunchSeq) -> Result<PostMortem, CallError> {
        let mut state = self.state()?;
        let found = state.mine(self.installation, instance).filter(|found| found.owned.seq == seq);
        let exit_code = match found.map(|found| found.owned.state) {
            Some(InstanceState::Exited(code)) => code,
            _ => None,
        };
        Ok(PostMortem { exit_code, log_tail: "the last line\n".to_owned(), ..PostMortem::default() })
    }

    async fn logs(
        &self,
        instance: &InstanceRef,
        _options: LogOptions,
    ) -> Result<BoxStream<'static, Result<LogChunk, CallError>>, CallError> {
        let started = {
            let mut state = self.state()?;
            state.mine(self.installation, instance).is_some()
        };
        let chunk = LogChunk { stderr: false, data: b"the last line\n".to_vec() };
        let chunks: Vec<_> = started.then_some(Ok(chunk)).into_iter().collect();
        Ok(futures::stream::iter(chunks).boxed())
    }

    async fn hints(&self) -> Result<BoxStream<'static, WorkspaceId>, CallError> {
        let hints = std::mem::take(&mut self.state()?.hints);
        Ok(if hints.is_empty() {
            futures::stream::unfold(Arc::clone(&self.host), async |host| {
                let hint = host.next_hint().await;
                Some((hint, host))
            })
            .boxed()
        } else {
            futures::stream::iter(hints).boxed()
        })
    }
}

#[cfg(test)]
mod tests {
    use molecule_domain::clock::ManualClock;

    use super::*;
    use crate::samples;

    const LAUNCH: LaunchSeq = LaunchSeq(3);

    fn second(second: i64) -> Timestamp {
        Timestamp::from_micros(second * 1_000_000)
    }

    /// A provider at second 100.
    fn provider() -> (Arc<Host>, MemoryBackend) {
        let (host, clock) = (Arc::new(Host::default()), Arc::new(ManualClock::starting_at(second(100))));
        (Arc::clone(&host), MemoryBackend::new(host, InstallationId::generate(), clock))
    }

    fn request() -> LaunchRequest {
        samples::launch(WorkspaceId::generate(), LAUNCH)
    }

    fn states(host: &Host) -> Vec<InstanceState> {
        host.instances().iter().map(|found| found.state).collect()
    }

    #[tokio::test]
    async fn a_launch_is_done_once_and_starts_are_counted() {
        let ((host, backend), request) = (provider(), request());
        for _ in 0..2 {
            backend.launch(&request).await.unwrap();
            assert_eq!((states(&host), host.starts_of(&request.instance)), (vec![InstanceState::Running], 1));
        }
        assert_eq!(host.volume_owners(), BTreeSet::from([request.instance.workspace]));
        backend.stop(&request.instance, LAUNCH, Duration::ZERO).await.unwrap();
        backend.launch(&request).await.unwrap();
        assert_eq!(
            states(&host),
            [InstanceState::Exited(Some(143))],
            "a launch that was done starts nothing again"
        );
        backend.start(&request.instance, LAUNCH).await.unwrap();
        assert_eq!((states(&host), host.starts_of(&request.instance)), (vec![InstanceState::Running], 2));
        host.vanish(&request.instance);
        assert_eq!((states(&host), host.volume_owners().len()), (Vec::new(), 1), "its data is still there");
    }

    #[tokio::test]
    async fn a_late_launch_takes_effect_in_its_time() {
        let ((host, backend), request) = (provider(), request());
        host.set_late(Some(Duration::from_secs(30)));
        assert!(backend.launch(&request).await.is_err());
        host.deliver(second(129));
        assert_eq!(states(&host), []);
        host.deliver(second(130));
        assert_eq!(states(&host), [InstanceState::Running]);
        host.deliver(second(131));
        assert_eq!(host.starts_of(&request.instance), 1);
    }

    #[tokio::test]
    async fn a_slow_end_is_under_way_until_it_is_over() {
        let ((host, backend), request) = (provider(), request());
        backend.launch(&request).await.unwrap();
        host.set_slow(Some(Duration::from_secs(10)));
        for _ in 0..2 {
            let stopped = backend.stop(&request.instance, LAUNCH, Duration::ZERO).await;
            assert_eq!((stopped, states(&host)), (Ok(Progress::InProgress), vec![InstanceState::Stopping]));
        }
        host.deliver(second(109));
        assert_eq!(states(&host), [InstanceState::Stopping]);
        host.deliver(second(110));
        assert_eq!(states(&host), [InstanceState::Exited(Some(143))]);
        // what is removed meanwhile is not there as stopped afterwards
        host.clear();
        backend.start(&request.instance, LAUNCH).await.unwrap();
        host.set_slow(Some(Duration::from_secs(10)));
        backend.stop(&request.instance, LAUNCH, Duration::ZERO).await.unwrap();
        assert_eq!(backend.remove(&request.instance, LAUNCH).await, Ok(Progress::InProgress));
        host.deliver(second(110));
        assert_eq!(states(&host), []);
    }

    #[tokio::test]
    async fn slow_ends_are_apart() {
        let ((host, backend), requests) = (provider(), [request(), request()]);
        host.set_slow(Some(Duration::from_secs(10)));
        for request in &requests {
            backend.launch(request).await.unwrap();
            backend.stop(&request.instance, LAUNCH, Duration::ZERO).await.unwrap();
        }
        host.deliver(second(110));
        assert_eq!(states(&host), [InstanceState::Exited(Some(143)); 2]);
    }

    #[tokio::test]
    async fn an_end_is_told_of_its_own_launch() {
        let ((host, backend), request) = (provider(), request());
        backend.launch(&request).await.unwrap();
        let told = async |seq| {
            let told = backend.post_mortem(&request.instance, seq).await.unwrap();
            (told.exit_code, told.log_tail)
        };
        let tail = "the last line\n".to_owned();
        assert_eq!(told(LAUNCH).await, (None, tail.clone()), "it runs");
        host.crash(&request.instance, 3);
        assert_eq!(told(LAUNCH).await, (Some(3), tail.clone()));
        assert_eq!(told(LaunchSeq(4)).await, (None, tail));
        host.crash(&request.instance, 4);
        assert_eq!(told(LAUNCH).await.0, Some(3), "it ended once");
        assert!(format!("{backend:?}").starts_with("MemoryBackend { installation:"), "{backend:?}");
    }
}
