//! What any backend must do.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use molecule_domain::id::{AttemptNumber, Generation, LaunchSeq, OrganizationId, WorkspaceId};
use molecule_domain::launch::LaunchSpec;
use molecule_domain::lifecycle::Reason;

use molecule_provisioner::backend::{
    Backend, BootstrapToken, CallError, LaunchRequest, PrepareRequest, Prepared, Progress,
};
use molecule_provisioner::model::{Attempt, InstanceRef};
use molecule_provisioner::observation::{InstanceState, OwnedInstance};

/// A backend under test, with hands on the provider behind it.
#[async_trait]
pub trait Subject: Sync {
    /// The backend.
    fn backend(&self) -> Arc<dyn Backend>;
    /// The same provider, as another installation sees it.
    fn other_installation(&self) -> Arc<dyn Backend>;
    /// What runs until it is stopped.
    fn spec(&self) -> LaunchSpec;
    /// What can't be launched for want of its image, and where.
    async fn impossible(&self) -> (Arc<dyn Backend>, LaunchSpec);
    /// Lets a stranger have the instance's name, or something as like it as the provider allows. Tells whether the
    /// name is taken by that.
    async fn occupy(&self, instance: &InstanceRef) -> bool;
    /// Whether what the stranger has is untouched; takes it away.
    async fn stranger_is_untouched(&self, instance: &InstanceRef) -> bool;
    /// Backends whose provider fails, by the name of how.
    async fn broken(&self) -> Vec<(&'static str, Arc<dyn Backend>)>;
}

/// Runs every case; panics at the first that fails.
pub async fn run(subject: &dyn Subject) {
    launching_twice_gives_one_instance(subject).await;
    the_life_of_an_instance(subject).await;
    taking_away_what_is_gone_succeeds(subject).await;
    another_launch_is_not_touched(subject).await;
    a_strangers_instance_is_never_touched(subject).await;
    another_installations_are_invisible(subject).await;
    an_impossible_image_is_refused(subject).await;
    errors_are_never_absence(subject).await;
}

fn request(subject: &dyn Subject, seq: i64) -> LaunchRequest {
    let instance = InstanceRef {
        organization: OrganizationId::SELF_HOSTED,
        workspace: WorkspaceId::generate(),
        generation: Generation(1),
    };
    let attempt = AttemptNumber(1);
    LaunchRequest {
        instance,
        attempt,
        seq: LaunchSeq(seq),
        token: Attempt::token_of(instance.workspace, instance.generation, LaunchSeq(seq)),
        placement: String::new(),
        spec: subject.spec(),
        bootstrap_token: Some(BootstrapToken::new("for-the-contract".to_owned())),
    }
}

async fn find(backend: &dyn Backend, instance: &InstanceRef) -> Option<OwnedInstance> {
    let listed = backend.list_instances().await.expect("the provider lists");
    let mut found = listed.into_iter().filter(|one| one.instance == *instance);
    let first = found.next();
    assert!(found.next().is_none(), "one instance stands twice in the list");
    first
}

async fn reaches(
    backend: &dyn Backend,
    instance: &InstanceRef,
    wanted: fn(InstanceState) -> bool,
) -> OwnedInstance {
    for _ in 0..600 {
        if let Some(found) = find(backend, instance).await.filter(|found| wanted(found.state)) {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{instance:?} did not reach the wanted state: {:?}", find(backend, instance).await);
}

fn is_running(state: InstanceState) -> bool {
    state == InstanceState::Running
}

async fn prepared(backend: &dyn Backend, request: &LaunchRequest) -> Prepared {
    let request = PrepareRequest { instance: request.instance, spec: &request.spec, attempt: None };
    for _ in 0..600 {
        match backend.prepare(&request).await {
            Prepared::InProgress(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            end => return end,
        }
    }
    panic!("preparing did not end");
}

/// Launches it and waits until it is up; tells how, so that it can be launched again.
async fn launched(backend: &dyn Backend, request: LaunchRequest) -> LaunchRequest {
    let prepared = prepared(backend, &request).await;
    let Prepared::Ready(placement) = prepared else { panic!("not ready: {prepared:?}") };
    let request = LaunchRequest { placement, ..request };
    backend.launch(&request).await.expect("the launch succeeds");
    reaches(backend, &request.instance, is_running).await;
    request
}

async fn reaches_absence(backend: &dyn Backend, instance: &InstanceRef) {
    for _ in 0..600 {
        if find(backend, instance).await.is_none() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{instance:?} is still there: {:?}", find(backend, instance).await);
}

async fn has_resources(backend: &dyn Backend, instance: &InstanceRef) -> bool {
    let listed = backend.list_resources().await.expect("the provider lists resources");
    listed.iter().any(|one| one.workspace == instance.workspace)
}

/// A provider may need more than one call until nothing is left, but each says so.
async fn purged(backend: &dyn Backend, request: &LaunchRequest) {
    for _ in 0..100 {
        match backend.purge(request.instance.organization, request.instance.workspace).await {
            Ok(()) => return,
            Err(CallError::Unknown(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(refused) => panic!("the rest can't be removed: {refused}"),
        }
    }
    panic!("the rest is still there");
}

async fn cleared(backend: &dyn Backend, request: &LaunchRequest) {
    backend.remove(&request.instance, request.seq).await.expect("the instance can be removed");
    reaches_absence(backend, &request.instance).await;
    purged(backend, request).await;
    assert!(!has_resources(backend, &request.instance).await, "something is left behind");
}

async fn launching_twice_gives_one_instance(subject: &dyn Subject) {
    let backend = subject.backend();
    let request = launched(&*backend, request(subject, 1)).await;
    let first = reaches(&*backend, &request.instance, is_running).await;
    // as after a lost reply: the second call adopts what the first one made
    backend.launch(&request).await.expect("the launch succeeds again");
    let second = reaches(&*backend, &request.instance, is_running).await;
    assert_eq!(first.created_at, second.created_at, "the second launch made another instance");
    assert_eq!((second.seq, second.instance), (request.seq, request.instance));
    backend.remove(&request.instance, request.seq).await.expect("the instance can be removed");
    reaches_absence(&*backend, &request.instance).await;
    assert!(has_resources(&*backend, &request.instance).await, "its disk, which stays, is not listed");
    cleared(&*backend, &request).await;
}

async fn the_life_of_an_instance(subject: &dyn Subject) {
    let backend = subject.backend();
    let request = launched(&*backend, request(subject, 2)).await;
    let instance = &request.instance;
    let up = reaches(&*backend, instance, is_running).await;
    assert!(up.endpoint.is_some(), "an instance that is up has an endpoint");
    backend.start(instance, request.seq).await.expect("starting what runs succeeds");
    backend.stop(instance, request.seq, Duration::from_secs(2)).await.expect("it stops");
    let down = reaches(&*backend, instance, InstanceState::is_down).await;
    assert!(matches!(down.state, InstanceState::Exited(_)), "{down:?}");
    let stopped = backend.stop(instance, request.seq, Duration::from_secs(2)).await;
    assert_eq!(stopped, Ok(Progress::Done), "stopping what is down is done");
    assert!(backend.post_mortem(instance, request.seq).await.is_ok());
    backend.start(instance, request.seq).await.expect("it starts again");
    let again = reaches(&*backend, instance, is_running).await;
    assert_eq!((again.created_at, again.seq), (up.created_at, up.seq), "a start keeps the instance");
    cleared(&*backend, &request).await;
}

async fn taking_away_what_is_gone_succeeds(subject: &dyn Subject) {
    let backend = subject.backend();
    let request = request(subject, 3);
    let stopped = backend.stop(&request.instance, request.seq, Duration::from_secs(1)).await;
    assert_eq!(stopped, Ok(Progress::Done), "stopping what is gone is done");
    cleared(&*backend, &request).await;
    let removed = backend.remove(&request.instance, request.seq).await;
    assert_eq!(removed, Ok(Progress::Done), "removing what is gone is done");
    cleared(&*backend, &request).await;
}

async fn another_launch_is_not_touched(subject: &dyn Subject) {
    let backend = subject.backend();
    let request = launched(&*backend, request(subject, 5)).await;
    backend.remove(&request.instance, LaunchSeq(4)).await.expect("nothing of that launch is there");
    let stopped = backend.stop(&request.instance, LaunchSeq(4), Duration::from_secs(1)).await;
    stopped.expect("nothing of that launch runs");
    assert!(backend.start(&request.instance, LaunchSeq(4)).await.is_err(), "nothing of it can be started");
    let found = find(&*backend, &request.instance).await.expect("the wrong launch was taken away");
    assert_eq!(found.state, InstanceState::Running, "the wrong launch was stopped");
    cleared(&*backend, &request).await;
}

async fn a_strangers_instance_is_never_touched(subject: &dyn Subject) {
    let backend = subject.backend();
    let request = request(subject, 6);
    let taken = subject.occupy(&request.instance).await;
    assert_eq!(find(&*backend, &request.instance).await, None, "a stranger's is listed as ours");
    if taken {
        let Prepared::Ready(placement) = prepared(&*backend, &request).await else { panic!("not ready") };
        let error = backend.launch(&LaunchRequest { placement, ..request.clone() }).await;
        let error = error.expect_err("the name is taken");
        assert!(matches!(&error, CallError::Refused(r) if r.reason == Reason::NameTaken), "{error:?}");
    } else {
        launched(&*backend, request.clone()).await;
    }
    backend.stop(&request.instance, request.seq, Duration::ZERO).await.ok();
    backend.remove(&request.instance, request.seq).await.ok();
    assert!(subject.stranger_is_untouched(&request.instance).await, "a stranger's was touched");
    reaches_absence(&*backend, &request.instance).await;
    purged(&*backend, &request).await;
}

async fn another_installations_are_invisible(subject: &dyn Subject) {
    let (ours, other) = (subject.backend(), subject.other_installation());
    let request = launched(&*ours, request(subject, 7)).await;
    assert_eq!(find(&*other, &request.instance).await, None);
    assert!(!has_resources(&*other, &request.instance).await);
    other.stop(&request.instance, request.seq, Duration::ZERO).await.ok();
    other.remove(&request.instance, request.seq).await.ok();
    other.purge(request.instance.organization, request.instance.workspace).await.ok();
    let found = find(&*ours, &request.instance).await.expect("another installation took it away");
    assert_eq!(found.state, InstanceState::Running, "another installation stopped it");
    ours.remove(&request.instance, request.seq).await.expect("the instance can be removed");
    reaches_absence(&*ours, &request.instance).await;
    assert!(has_resources(&*ours, &request.instance).await, "its disk was taken");
    cleared(&*ours, &request).await;
}

async fn an_impossible_image_is_refused(subject: &dyn Subject) {
    let (backend, spec) = subject.impossible().await;
    let request = LaunchRequest { spec, ..request(subject, 9) };
    // a provider finds out when it is asked, or before
    let refusal = match prepared(&*backend, &request).await {
        Prepared::Refused(refusal) => refusal,
        Prepared::Ready(placement) => match backend.launch(&LaunchRequest { placement, ..request }).await {
            Err(CallError::Refused(refusal)) => refusal,
            other => panic!("not refused: {other:?}"),
        },
        other => panic!("not refused: {other:?}"),
    };
    assert_eq!(refusal.reason, Reason::ImageUnavailable);
    assert!(!refusal.message.is_empty());
}

async fn errors_are_never_absence(subject: &dyn Subject) {
    let ours = subject.backend();
    let request = launched(&*ours, request(subject, 8)).await;
    for (how, broken) in subject.broken().await {
        let listed = tokio::time::timeout(Duration::from_secs(3), broken.list_instances()).await;
        assert!(!matches!(listed, Ok(Ok(_))), "{how}: a failing provider gave a list: {listed:?}");
        let resources = tokio::time::timeout(Duration::from_secs(3), broken.list_resources()).await;
        assert!(!matches!(resources, Ok(Ok(_))), "{how}: a failing provider listed resources");
        let purge = broken.purge(request.instance.organization, request.instance.workspace);
        for (call, result) in [
            ("stop", broken.stop(&request.instance, request.seq, Duration::ZERO)),
            ("remove", broken.remove(&request.instance, request.seq)),
            ("purge", Box::pin(async { purge.await.map(|()| Progress::Done) })),
        ] {
            let result = tokio::time::timeout(Duration::from_secs(3), result).await;
            assert!(!matches!(result, Ok(Ok(_))), "{how}: {call} claims success");
            assert!(!matches!(result, Ok(Err(CallError::Refused(_)))), "{how}: {call} claims a definite no");
        }
    }
    cleared(&*ours, &request).await;
}
