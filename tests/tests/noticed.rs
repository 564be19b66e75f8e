//! A runtime that ends, is killed, or is taken away is noticed by the daemon's word, and not by the next sweep, which is an hour
//! away here: what is missed is never seen.

use std::time::Duration;

use bollard::query_parameters::{KillContainerOptions, RemoveContainerOptionsBuilder};
use futures::future::join_all;
use http_body_util::Full;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::TokioExecutor;
use molecule_proto::tenant::v1::RestartWorkspaceRequest;
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
            Self::Crash => {
                let end = json!({ "params": { "message": { "parts": [{ "text": "end yourself" }] } } });
                let url = format!("{}/", workspace.agent.clone().unwrap_or_default().url);
                let request = hyper::Request::post(url).header("content-type", "application/json");
                let request = request.body(Full::new(bytes::Bytes::from(end.to_string())))?;
                // it ends before it answers
                let _ = HttpClient::builder(TokioExecutor::new()).build_http().request(request).await;
            }
            Self::Kill => docker().await?.kill_container(&container, None::<KillContainerOptions>).await?,
            Self::Removal => {
                let options = RemoveContainerOptionsBuilder::default().force(true).build();
                docker().await?.remove_container(&container, Some(options)).await?;
            }
        }
        Ok(())
    }

    /// The event that tells of it, and how many of these the generation has by then.
    const fn told_as(self) -> (&'static str, usize) {
        match self {
            Self::Crash => ("exited", 1),
            Self::Kill => ("exited", 2),
            Self::Removal => ("vanished", 1),
        }
    }
}

/// Waits until a workspace runs again, and its events tell of the end.
async fn runs_again(tenant: &mut Stand, id: &str, end: End) -> anyhow::Result<Workspace> {
    let (kind, count) = end.told_as();
    for _ in 0..600 {
        let now = tenant.get(id).await?;
        let events = tenant.events(id).await?;
        let told = events.iter().filter(|event| event.kind == kind && event.generation == now.generation);
        if told.count() >= count && now.state() == WorkspaceState::Running {
            return Ok(now);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("{id}: {end:?} was not noticed: {:#?}", tenant.events(id).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_crash_kill_and_removal_is_noticed_without_a_sweep() {
    let env = [("TEST_SWEEP_EVERY", "3600")];
    let mut tenant = Stand::start(PROGRAMS, Mode::SelfHosted, 47, &env).await.unwrap();
    let mut all = Vec::new();
    for _ in 0..WORKSPACES {
        all.push(tenant.create(spec("noticed", "demo")).await.unwrap());
    }
    for workspace in &mut all {
        *workspace = tenant.reaches(&workspace.workspace_id, WorkspaceState::Running).await.unwrap();
    }
    let mut noticed = 0;
    for round in 1..=ROUNDS {
        for end in [End::Crash, End::Kill, End::Removal] {
            let ended = join_all(all.iter().map(|workspace| end.come_over(workspace))).await;
            ended.into_iter().collect::<anyhow::Result<Vec<()>>>().unwrap();
            for workspace in &mut all {
                *workspace = runs_again(&mut tenant, &workspace.workspace_id, end).await.unwrap();
                noticed += 1;
            }
        }
        // a new generation has a budget of its own
        for workspace in &mut all {
            let workspace_id = workspace.workspace_id.clone();
            let restart = RestartWorkspaceRequest { workspace_id, ..RestartWorkspaceRequest::default() };
            tenant.client.restart_workspace(restart).await.unwrap();
        }
        for workspace in &mut all {
            let generation = round + 1;
            let runs =
                |now: &Workspace| now.generation == generation && now.state() == WorkspaceState::Running;
            let id = workspace.workspace_id.clone();
            *workspace = tenant.until(&id, "RUNNING again", runs).await.unwrap();
        }
    }
    assert_eq!(noticed, 50 * 3);
    for workspace in all {
        tenant.delete(&workspace.workspace_id).await.unwrap();
    }
    tenant.finish().await.unwrap();
}
