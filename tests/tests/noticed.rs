//! A runtime that ends, is killed, or is taken away is noticed by the daemon's word, and not by the next sweep, which is an hour
//! away here: what is missed is never seen.

use std::time::{Duration, Instant};

use anyhow::Context;
use bollard::errors::Error;
use bollard::query_parameters::{
    InspectContainerOptions, KillContainerOptions, RemoveContainerOptionsBuilder,
};
use futures::future::join_all;
use http_body_util::Full;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::TokioExecutor;
use molecule_proto::workspace::v1::{Workspace, WorkspaceState};
use molecule_tests::images::docker;
use molecule_tests::stand::{Mode, Programs, Stand};
use molecule_tests::tenant::spec;
use serde_json::json;

const PROGRAMS: Programs = Programs {
    tenant: env!("CARGO_BIN_EXE_tenant-under-test"),
    control_plane: env!("CARGO_BIN_EXE_controlplane-under-test"),
};
const WORKSPACES: usize = 10;
const ROUNDS: u32 = 5;
/// How often a workspace is asked for before it is given up, every 100 ms: well before the next sweep.
const TURNS: u32 = 6000;

/// What happens to a container.
#[derive(Clone, Copy, Debug)]
enum End {
    Crash,
    Kill,
    Removal,
}

impl End {
    async fn come_over(self, workspace: &Workspace) -> anyhow::Result<()> {
        let container = format!("ws-{}-{}", workspace.workspace_id, workspace.generation);
        match self {
            Self::Crash => crash(workspace, &container).await?,
            Self::Kill => docker().await?.kill_container(&container, None::<KillContainerOptions>).await?,
            Self::Removal => {
                let options = RemoveContainerOptionsBuilder::default().force(true).build();
                match docker().await?.remove_container(&container, Some(options)).await {
                    // the daemon's client is told so where the removal goes on without it
                    Ok(()) | Err(Error::DockerResponseServerError { status_code: 409, .. }) => {}
                    Err(error) => return Err(error).context("remove the container"),
                }
            }
        }
        Ok(())
    }

    /// The event that tells of it.
    const fn told_as(self) -> &'static str {
        match self {
            Self::Crash | Self::Kill => "exited",
            Self::Removal => "vanished",
        }
    }
}

/// Asks an agent to end itself, again and again until its container is no longer the running one that it was.
async fn crash(workspace: &Workspace, container: &str) -> anyhow::Result<()> {
    let end = json!({ "params": { "message": { "parts": [{ "text": "end yourself" }] } } });
    let url = format!("{}/", workspace.agent.clone().unwrap_or_default().url);
    let before = running(container).await?.context("nothing runs that could crash")?;
    for _ in 0..100 {
        let request = hyper::Request::post(&url).header("content-type", "application/json");
        let request = request.body(Full::new(bytes::Bytes::from(end.to_string())))?;
        // it ends before it answers
        let answer = HttpClient::builder(TokioExecutor::new()).build_http().request(request).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        if running(container).await?.as_ref() != Some(&before) {
            return Ok(());
        }
        eprintln!("{container} still runs: {answer:?}");
    }
    anyhow::bail!("{container} does not end itself")
}

/// Which container runs under a name, and since when.
async fn running(container: &str) -> anyhow::Result<Option<(Option<String>, Option<String>)>> {
    let inspected = docker().await?.inspect_container(container, None::<InspectContainerOptions>).await;
    match inspected {
        Ok(found) => {
            let state = found.state.unwrap_or_default();
            Ok(state.running.unwrap_or_default().then_some((found.id, state.started_at)))
        }
        Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The number of a workspace's last event.
async fn last_event(tenant: &mut Stand, id: &str) -> anyhow::Result<u64> {
    Ok(tenant.events(id).await?.first().map_or(0, |event| event.event_id))
}

/// Waits until a later event tells of the end, and the workspace runs again.
async fn runs_again(tenant: &mut Stand, id: &str, end: End, after: u64) -> anyhow::Result<Workspace> {
    for _ in 0..TURNS {
        let events = tenant.events(id).await?;
        let is_told = events.iter().any(|event| event.kind == end.told_as() && event.event_id > after);
        let now = tenant.get(id).await?;
        if is_told && now.state() == WorkspaceState::Running {
            return Ok(now);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (events, now) = (tenant.events(id).await?, tenant.get(id).await?);
    let newer: Vec<_> = events.into_iter().filter(|event| event.event_id > after).collect();
    anyhow::bail!("{id}: {end:?} was not noticed: {now:#?}, since then {newer:#?}")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_crash_kill_and_removal_is_noticed_without_a_sweep() {
    let folder = tempfile::tempdir().unwrap();
    let steps = folder.path().join("steps");
    let noted = steps.display().to_string();
    let env =
        [("TEST_SWEEP_EVERY", "3600"), ("TENANT_RESTART_BUDGET", "1000"), ("TEST_STEPS", noted.as_str())];
    let mut tenant = Stand::start(PROGRAMS, Mode::SelfHosted, 47, &env).await.unwrap();
    let mut all = Vec::new();
    for _ in 0..WORKSPACES {
        all.push(tenant.create(spec("noticed", "demo")).await.unwrap());
    }
    for workspace in &mut all {
        *workspace = tenant.reaches(&workspace.workspace_id, WorkspaceState::Running).await.unwrap();
    }
    // each sweep begins with a list of all there is; a new stream of events has one made, too
    let sweeps = || std::fs::read_to_string(&steps).unwrap().matches("backend.list ").count();
    // one at the start, and one once the daemon's events are followed
    let began = Instant::now();
    while sweeps() < 2 {
        assert!(began.elapsed() < Duration::from_secs(20), "the daemon's events are not followed");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (swept, mut noticed) = (sweeps(), 0);
    for _ in 0..ROUNDS {
        for end in [End::Crash, End::Kill, End::Removal] {
            let mut before = Vec::new();
            for workspace in &all {
                before.push(last_event(&mut tenant, &workspace.workspace_id).await.unwrap());
            }
            let ended = join_all(all.iter().map(|workspace| end.come_over(workspace))).await;
            ended.into_iter().collect::<anyhow::Result<Vec<()>>>().unwrap();
            for (workspace, before) in all.iter_mut().zip(before) {
                let id = workspace.workspace_id.clone();
                *workspace = runs_again(&mut tenant, &id, end, before).await.unwrap();
                noticed += 1;
            }
        }
    }
    assert_eq!(noticed, 50 * 3);
    assert_eq!(sweeps(), swept, "nothing was found by a sweep");
    for workspace in all {
        tenant.delete(&workspace.workspace_id).await.unwrap();
    }
    tenant.finish().await.unwrap();
}
