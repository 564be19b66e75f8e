//! A tenant-svc as a real process, with a client.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures::StreamExt;
use molecule_proto::tenant::v1::watch_workspaces_response::Event as WatchEvent;
use molecule_proto::tenant::v1::workspace_service_client::WorkspaceServiceClient;
use molecule_proto::tenant::v1::{
    CreateWorkspaceRequest, DeleteWorkspaceRequest, GetWorkspaceRequest, ListWorkspaceEventsRequest,
    WatchWorkspacesRequest,
};
use molecule_proto::workspace::v1::{Event, Workspace, WorkspaceSpec, WorkspaceState};
use molecule_service_kit::client::Bearer;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::images::{docker, static_binary};
use crate::leftovers;
use crate::process::{LOG_FILTER, Process, end_of, runtimes};

/// A client with its token.
pub type Client = WorkspaceServiceClient<InterceptedService<Channel, Bearer>>;

/// How a tenant-svc is started.
#[derive(Clone, Debug)]
pub struct Setup {
    program: PathBuf,
    /// Its own range of networks: `10.214.N.0/24`.
    subnet: u8,
    env: Vec<(String, String)>,
    data: PathBuf,
    port: u16,
}

/// A running tenant-svc. Dropping it kills it.
#[derive(Debug)]
pub struct Tenant {
    process: Process,
    /// How it was started.
    pub setup: Setup,
    /// A client of it.
    pub client: Client,
}

impl Setup {
    /// A tenant in a network of its own, on the daemon that the environment names; what an earlier run left
    /// there is removed. `program` is the `tenant-under-test` binary.
    pub async fn new(program: &str, folder: &Path, subnet: u8) -> anyhow::Result<Self> {
        leftovers::remove(&docker().await?, &format!("10.214.{subnet}.")).await?;
        Self::on_any_daemon(program, folder, subnet)
    }

    /// The same, on a daemon that the caller knows to be clean.
    pub fn on_any_daemon(program: &str, folder: &Path, subnet: u8) -> anyhow::Result<Self> {
        let free = crate::ports::free()?;
        let setup =
            Self { program: program.into(), subnet, env: Vec::new(), data: folder.join("data"), port: free };
        Ok(setup)
    }

    /// The same with another variable in its environment.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// The same with data of its own, beside those of another tenant in one folder.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.data.set_file_name(name);
        self
    }

    /// Where its data are.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Its API's address.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The gateway of its workspaces' network.
    pub fn gateway(&self) -> String {
        format!("10.214.{}.1", self.subnet)
    }

    /// Its clients' token.
    pub fn token(&self) -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(self.data.join("token"))?.trim().to_owned())
    }

    fn spawn(&self) -> anyhow::Result<Process> {
        let mut command = Command::new(&self.program);
        command
            .env("TENANT_DATA_DIR", &self.data)
            .env("TENANT_LISTEN", self.address())
            .env("TENANT_NETWORK_POOL", format!("10.214.{}.0/24", self.subnet))
            .env("TENANT_WORKSPACE_INIT", static_binary("workspace-init")?)
            .env("RUNTIMES_FILE", runtimes())
            .env("TENANT_LOG", LOG_FILTER)
            .envs(self.env.iter().map(|(name, value)| (name, value)));
        Process::start(&mut command, &self.data.with_extension("log"))
    }

    /// Starts it and waits until it answers.
    pub async fn start(&self) -> anyhow::Result<Tenant> {
        let mut process = self.spawn()?;
        let began = Instant::now();
        loop {
            process.lives()?;
            if let (Ok(token), Ok(channel)) = (self.token(), self.channel().await) {
                let client = client(channel, &token)?;
                return Ok(Tenant { process, setup: self.clone(), client });
            }
            if began.elapsed() > Duration::from_secs(20) {
                bail!("tenant-svc does not answer: {}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A connection to it.
    pub async fn channel(&self) -> anyhow::Result<Channel> {
        Ok(Channel::from_shared(format!("http://{}", self.address()))?.connect().await?)
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        end_of(&self.data.with_extension("log"))
    }

    /// Its whole log.
    pub fn whole_log(&self) -> String {
        std::fs::read_to_string(self.data.with_extension("log")).unwrap_or_default()
    }
}

/// A client with this token.
pub fn client(channel: Channel, token: &str) -> anyhow::Result<Client> {
    let bearer = Bearer::new(&token.to_owned().into()).context("no token")?;
    Ok(WorkspaceServiceClient::with_interceptor(channel, bearer))
}

/// A plain spec.
pub fn spec(name: &str, runtime: &str) -> WorkspaceSpec {
    WorkspaceSpec { name: name.to_owned(), runtime: runtime.to_owned(), ..WorkspaceSpec::default() }
}

impl Tenant {
    /// Creates a workspace.
    pub async fn create(&mut self, spec: WorkspaceSpec) -> Result<Workspace, Status> {
        let request = CreateWorkspaceRequest { spec: Some(spec), ..CreateWorkspaceRequest::default() };
        let created = self.client.create_workspace(request).await?.into_inner().workspace;
        created.ok_or_else(|| Status::internal("no workspace"))
    }

    /// A workspace as it is.
    pub async fn get(&mut self, id: &str) -> Result<Workspace, Status> {
        let found = self.client.get_workspace(GetWorkspaceRequest { workspace_id: id.to_owned() }).await?;
        found.into_inner().workspace.ok_or_else(|| Status::internal("no workspace"))
    }

    /// Deletes a workspace and waits until it is gone.
    pub async fn delete(&mut self, id: &str) -> anyhow::Result<()> {
        let request =
            DeleteWorkspaceRequest { workspace_id: id.to_owned(), ..DeleteWorkspaceRequest::default() };
        self.client.delete_workspace(request).await?;
        self.reaches(id, WorkspaceState::Deleted).await.map(drop)
    }

    /// Waits until a workspace is in a state, by a watch.
    pub async fn reaches(&mut self, id: &str, state: WorkspaceState) -> anyhow::Result<Workspace> {
        self.until(id, &format!("{state:?}"), |workspace| workspace.state() == state).await
    }

    /// Waits until a workspace is as wanted, by a watch.
    pub async fn until(
        &mut self,
        id: &str,
        what: &str,
        wanted: impl Fn(&Workspace) -> bool,
    ) -> anyhow::Result<Workspace> {
        let mut last = None;
        let wait = async {
            // where the database was put back, it is looked at anew, since a watch says nothing of what is deleted, and the
            // watch begins with a snapshot, since what has not changed since then has a revision of before
            for begins_anew in [false, true] {
                let now = self.get(id).await?;
                let after_revision = if begins_anew { 0 } else { now.revision };
                if wanted(&now) {
                    return Ok(now);
                }
                last = Some(now);
                let filter = format!("workspace_id = {id}");
                let request = WatchWorkspacesRequest { after_revision, filter };
                let mut stream = match self.client.watch_workspaces(request).await {
                    Err(status) if status.code() == Code::OutOfRange => continue,
                    opened => opened?.into_inner(),
                };
                while let Some(message) = stream.next().await {
                    let message = match message {
                        Err(status) if status.code() == Code::OutOfRange => break,
                        message => message?,
                    };
                    if let Some(WatchEvent::Change(workspace) | WatchEvent::Snapshot(workspace)) =
                        message.event
                    {
                        if wanted(&workspace) {
                            return Ok(workspace);
                        }
                        last = Some(workspace);
                    }
                }
            }
            bail!("the watch ended")
        };
        match tokio::time::timeout(Duration::from_secs(90), wait).await {
            Ok(result) => result,
            Err(_) => bail!("{id} did not become {what}; it is {last:#?}\n{}", self.setup.log()),
        }
    }

    /// The events of a workspace, newest first.
    pub async fn events(&mut self, id: &str) -> Result<Vec<Event>, Status> {
        let request = ListWorkspaceEventsRequest {
            workspace_id: id.to_owned(),
            ..ListWorkspaceEventsRequest::default()
        };
        Ok(self.client.list_workspace_events(request).await?.into_inner().events)
    }

    /// Waits until the process has ended by itself.
    pub async fn ends(&mut self) -> anyhow::Result<()> {
        self.process.ends().await
    }

    /// Ends it and removes all that it has on the machine's daemon, its network included.
    pub async fn finish(self) -> anyhow::Result<()> {
        let subnets = format!("10.214.{}.", self.setup.subnet);
        self.stop().await?;
        leftovers::remove(&docker().await?, &subnets).await
    }

    /// Kills it, as kill -9 does, and starts it again on the same data.
    pub async fn replace(&mut self) -> anyhow::Result<()> {
        self.process.signal("KILL")?;
        self.process.ends().await?;
        let setup = self.setup.clone();
        *self = setup.start().await?;
        Ok(())
    }

    /// Tells it to end, and waits.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.process.stop().await
    }
}
