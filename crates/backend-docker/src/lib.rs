//! The [`Backend`] over a Docker Engine (API 1.41, Engine 20.10, or later).
//!
//! One container per generation, named `ws-<workspace>-<generation>`; volumes per workspace; one network per
//! organisation. Labels tell whose they are: nothing without this installation's own is ever touched.

mod archive;
mod canary;
mod client;
mod container;
mod hints;
mod image;
mod init;
mod names;
mod network;
mod observe;
mod pool;
mod volume;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bollard::query_parameters::{
    InspectContainerOptions, ListContainersOptionsBuilder, LogsOptionsBuilder, RemoveContainerOptionsBuilder,
    StartContainerOptions, StopContainerOptionsBuilder,
};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use molecule_domain::id::{InstallationId, LaunchSeq, OrganizationId, WorkspaceId};
use molecule_domain::network::NetworkSpec;
use molecule_provisioner::backend::{
    Backend, CallError, LaunchRequest, LogChunk, LogOptions, OwnedResource, PostMortem, PrepareRequest,
    Prepared, Progress,
};
use molecule_provisioner::faults::Steps;
use molecule_provisioner::model::InstanceRef;
use molecule_provisioner::observation::OwnedInstance;

use self::client::{Client, Problem, unknown};
pub use self::network::NetworkDirectory;
pub use self::pool::{Pool, Subnet};

/// How the backend is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `unix://…` or `tcp://…`; `None` is the local default socket.
    pub docker_host: Option<String>,
    /// Whose resources these are.
    pub installation: InstallationId,
    /// The static workspace-init binary.
    pub workspace_init: PathBuf,
    /// The host's address that agents' ports are published on; `None` reaches agents at their containers'
    /// own addresses and publishes nothing.
    pub publish: Option<IpAddr>,
}

/// The backend over one Docker Engine.
pub struct DockerBackend {
    settings: Settings,
    client: Client,
    images: image::Images,
    networks: network::Networks,
    init: init::InitVolume,
    last_event: Arc<hints::LastEvent>,
    steps: Steps,
}

impl std::fmt::Debug for DockerBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DockerBackend").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl DockerBackend {
    /// A backend that connects when it is first used, so that it may be made before the daemon is up.
    pub fn new(settings: Settings, directory: Arc<dyn NetworkDirectory>, steps: Steps) -> Self {
        Self {
            client: Client::new(settings.docker_host.clone()),
            images: image::Images::default(),
            networks: network::Networks::new(settings.installation, directory),
            init: init::InitVolume::new(settings.workspace_init.clone()),
            last_event: Arc::default(),
            settings,
            steps,
        }
    }

    /// Makes sure that an organisation's network is there.
    pub async fn ensure_network(&self, organization: OrganizationId) -> Result<NetworkSpec, CallError> {
        let docker = self.client.get().await?;
        self.networks.ensure(docker, organization).await
    }

    /// Takes an organisation's network away, once the organisation has nothing left.
    pub async fn remove_network(&self, organization: OrganizationId) -> Result<(), CallError> {
        let docker = self.client.get().await?;
        self.networks.remove(docker, organization).await
    }

    /// A container of ours by name, with its labels; a stranger's is an error.
    async fn find(&self, instance: &InstanceRef) -> Result<Option<Found>, CallError> {
        let docker = self.client.get().await?;
        let name = names::container(instance);
        match docker.inspect_container(&name, None::<InspectContainerOptions>).await.map_err(Problem::from) {
            Err(Problem::NotFound(_)) => Ok(None),
            Err(problem) => Err(problem.into_call_error("look at the container")),
            Ok(inspected) => {
                let labels =
                    inspected.config.as_ref().and_then(|config| config.labels.clone()).unwrap_or_default();
                let id = inspected.id.clone().ok_or_else(|| unknown("a container without an id"))?;
                let state = inspected.state.as_ref();
                Ok(Some(Found {
                    id,
                    ours: names::is_ours(&labels, self.settings.installation),
                    token: labels.get(names::TOKEN).cloned().unwrap_or_default(),
                    seq: names::seq(&labels),
                    status: state.and_then(|s| s.status).map(|s| s.to_string()).unwrap_or_default(),
                    exit_code: state.and_then(|s| s.exit_code).and_then(|code| i32::try_from(code).ok()),
                    oom_killed: state.and_then(|s| s.oom_killed).unwrap_or_default(),
                    error: state.and_then(|s| s.error.clone()).unwrap_or_default(),
                }))
            }
        }
    }

    /// The same, without strangers'.
    async fn find_ours(&self, instance: &InstanceRef) -> Result<Option<Found>, CallError> {
        Ok(self.find(instance).await?.filter(|found| found.ours))
    }

    /// The same, of one launch only.
    async fn find_launch(&self, instance: &InstanceRef, seq: LaunchSeq) -> Result<Option<Found>, CallError> {
        Ok(self.find_ours(instance).await?.filter(|found| found.seq == Some(seq)))
    }
}

/// A container as it was found by name.
struct Found {
    id: String,
    ours: bool,
    token: String,
    seq: Option<LaunchSeq>,
    status: String,
    exit_code: Option<i32>,
    oom_killed: bool,
    error: String,
}

#[async_trait]
impl Backend for DockerBackend {
    fn kind(&self) -> &'static str {
        "docker"
    }

    fn visibility_lag(&self) -> Duration {
        // The Engine's lists show what its calls have done.
        Duration::ZERO
    }

    async fn prepare(&self, request: &PrepareRequest<'_>) -> Prepared {
        match self.client.get().await {
            Ok(docker) => self.images.prepare(docker, &request.spec.image).await,
            Err(error) => Prepared::Unknown(error.to_string()),
        }
    }

    async fn launch(&self, request: &LaunchRequest) -> Result<(), CallError> {
        self.launch_container(request).await
    }

    async fn start(&self, instance: &InstanceRef, seq: LaunchSeq) -> Result<(), CallError> {
        let docker = self.client.get().await?;
        let found = self.find_launch(instance, seq).await?;
        let found = found.ok_or_else(|| unknown("there is no container of ours to start"))?;
        match docker.start_container(&found.id, None::<StartContainerOptions>).await.map_err(Problem::from) {
            Ok(()) | Err(Problem::NotModified) => Ok(()),
            Err(problem) => Err(problem.into_call_error("start the container")),
        }
    }

    async fn stop(
        &self,
        instance: &InstanceRef,
        seq: LaunchSeq,
        grace: Duration,
    ) -> Result<Progress, CallError> {
        let docker = self.client.get().await?;
        let Some(found) = self.find_launch(instance, seq).await? else { return Ok(Progress::Done) };
        let seconds = i32::try_from(grace.as_secs()).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::default().t(seconds).build();
        match docker.stop_container(&found.id, Some(options)).await.map_err(Problem::from) {
            Ok(()) | Err(Problem::NotModified | Problem::NotFound(_)) => Ok(Progress::Done),
            Err(problem) => Err(problem.into_call_error("stop the container")),
        }
    }

    async fn remove(&self, instance: &InstanceRef, seq: LaunchSeq) -> Result<Progress, CallError> {
        let docker = self.client.get().await?;
        // By labels and then by id: an orphan may have any name, and whatever takes its name is another's.
        let filter = names::launch_filter(self.settings.installation, instance, seq);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filter).build();
        let listed = docker.list_containers(Some(options)).await;
        let listed = listed.map_err(|error| Problem::from(error).into_call_error("list the containers"))?;
        let mut progress = Progress::Done;
        for id in listed.into_iter().filter_map(|container| container.id) {
            let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
            match docker.remove_container(&id, Some(options)).await.map_err(Problem::from) {
                Ok(()) | Err(Problem::NotFound(_)) => {}
                // "removal … is already in progress": the next look tells
                Err(Problem::Conflict(message)) if message.contains("in progress") => {
                    progress = Progress::InProgress;
                }
                Err(problem) => return Err(problem.into_call_error("remove the container")),
            }
        }
        Ok(progress)
    }

    async fn purge(&self, _organization: OrganizationId, workspace: WorkspaceId) -> Result<(), CallError> {
        let docker = self.client.get().await?;
        volume::purge(docker, self.settings.installation, workspace, &self.steps).await
    }

    async fn list_instances(&self) -> Result<Vec<OwnedInstance>, CallError> {
        let docker = self.client.get().await?;
        let options = ListContainersOptionsBuilder::default()
            .all(true)
            .filters(&names::ours_filter(self.settings.installation))
            .build();
        let listed = docker.list_containers(Some(options)).await;
        let listed = listed.map_err(|error| Problem::from(error).into_call_error("list the containers"))?;
        listed.iter().map(|summary| observe::owned_instance(summary, self.settings.publish)).collect()
    }

    async fn list_resources(&self) -> Result<Vec<OwnedResource>, CallError> {
        let docker = self.client.get().await?;
        volume::list(docker, self.settings.installation).await
    }

    async fn post_mortem(&self, instance: &InstanceRef, seq: LaunchSeq) -> Result<PostMortem, CallError> {
        let Some(found) = self.find_launch(instance, seq).await? else { return Ok(PostMortem::default()) };
        let options = LogOptions { follow: false, tail: Some(observe::LOG_TAIL_LINES) };
        let chunks: Vec<LogChunk> = self.logs(instance, options).await?.try_collect().await?;
        Ok(observe::post_mortem(found.exit_code, found.oom_killed, &found.error, &chunks))
    }

    async fn logs(
        &self,
        instance: &InstanceRef,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<LogChunk, CallError>>, CallError> {
        let docker = self.client.get().await?.clone();
        let Some(found) = self.find_ours(instance).await? else {
            return Ok(futures::stream::empty().boxed());
        };
        let tail = options.tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string());
        let query = LogsOptionsBuilder::default()
            .stdout(true)
            .stderr(true)
            .follow(options.follow)
            .tail(&tail)
            .build();
        let stream = docker.logs(&found.id, Some(query)).map(|chunk| match chunk {
            Ok(output) => Ok(LogChunk {
                stderr: matches!(output, bollard::container::LogOutput::StdErr { .. }),
                data: output.into_bytes().to_vec(),
            }),
            Err(error) => Err(Problem::from(error).into_call_error("read the container's output")),
        });
        Ok(stream.boxed())
    }

    async fn hints(&self) -> Result<BoxStream<'static, WorkspaceId>, CallError> {
        let docker = self.client.get().await?.clone();
        Ok(hints::hints(docker, self.settings.installation, Arc::clone(&self.last_event)))
    }
}
