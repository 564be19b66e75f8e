//! A control plane as real processes over a database of its own, with clients.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bollard::query_parameters::{InspectContainerOptions, ListContainersOptions, ListVolumesOptionsBuilder};
use molecule_proto::controlplane::v1::organization_service_client::OrganizationServiceClient;
use molecule_proto::controlplane::v1::provisioning_service_client::ProvisioningServiceClient;
use molecule_proto::controlplane::v1::{
    CreateOrganizationRequest, IssueTokenRequest, Limits, ListOrganizationsRequest, Organization,
};
use molecule_service_kit::client::Bearer;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

use crate::images::{docker, static_binary};
use crate::leftovers;
use crate::postgres::Scratch;
use crate::process::{LOG_FILTER, Process, end_of, runtimes};
use crate::tenant::Setup;

/// A channel with a token.
pub type Authorized = InterceptedService<Channel, Bearer>;
/// An operator.
pub type Operator = OrganizationServiceClient<Authorized>;
/// A tenant, speaking to the control plane itself.
pub type Customer = ProvisioningServiceClient<Authorized>;

/// The operator's token.
pub const OPERATOR_TOKEN: &str = "operator-token-of-the-tests";

/// What all replicas share.
#[derive(Debug)]
pub struct Installation {
    program: PathBuf,
    folder: PathBuf,
    /// Its own networks: `10.215.N.0/24`, and as many after that as it has organisations.
    subnet: u8,
    organizations: u8,
    /// Its database.
    pub database: Scratch,
    env: Vec<(String, String)>,
}

/// One replica. Dropping it kills it.
#[derive(Debug)]
pub struct Replica {
    process: Process,
    port: u16,
    log: PathBuf,
}

impl Installation {
    /// A database, keys and a range of networks; what an earlier run left on the daemon is removed. `program` is the
    /// `controlplane-under-test` binary.
    pub async fn new(program: &str, folder: &Path, subnet: u8) -> anyhow::Result<Self> {
        Self::in_database(program, folder, subnet, Scratch::new().await?).await
    }

    /// The same in some database.
    pub async fn in_database(
        program: &str,
        folder: &Path,
        subnet: u8,
        database: Scratch,
    ) -> anyhow::Result<Self> {
        Self::for_several(program, folder, subnet, 1, database).await
    }

    /// The same for several organisations, a power of two of which `subnet` is a multiple: networks are given out in the
    /// order of their first launches.
    pub async fn for_several(
        program: &str,
        folder: &Path,
        subnet: u8,
        organizations: u8,
        database: Scratch,
    ) -> anyhow::Result<Self> {
        std::fs::write(folder.join("operators"), format!("tester {OPERATOR_TOKEN}\n"))?;
        std::fs::write(folder.join("seal.key"), [7; 32])?;
        let (program, folder) = (program.into(), folder.to_owned());
        let made = Self { program, folder, subnet, organizations, database, env: Vec::new() };
        made.remove_all().await?;
        Ok(made)
    }

    /// Another control plane over another database, with the keys, operators and networks of this one: what starts where
    /// somebody restores a dump of this one's elsewhere.
    pub fn over(&self, database: Scratch) -> Self {
        Self {
            program: self.program.clone(),
            folder: self.folder.clone(),
            subnet: self.subnet,
            organizations: self.organizations,
            database,
            env: self.env.clone(),
        }
    }

    /// The same with another variable in its replicas' environment.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// The gateway of the one organisation's network, where its tenant listens for agents.
    pub fn gateway(&self) -> String {
        self.gateway_of(0)
    }

    /// The gateway of the network that is given out in this place.
    pub fn gateway_of(&self, place: u8) -> String {
        format!("10.215.{}.1", self.subnet + place)
    }

    /// Starts a replica and waits until it answers.
    pub async fn start(&self, name: &str) -> anyhow::Result<Replica> {
        let port = crate::ports::free()?;
        self.start_at(name, port, &[]).await
    }

    /// Kills a replica and starts it again where it was.
    pub async fn replace(&self, name: &str, replica: &mut Replica) -> anyhow::Result<()> {
        replica.signal("KILL")?;
        replica.ends().await?;
        *replica = self.start_at(name, replica.port, &[]).await?;
        Ok(())
    }

    /// Starts a replica on a port, with more in its environment.
    pub async fn start_at(&self, name: &str, port: u16, env: &[(&str, String)]) -> anyhow::Result<Replica> {
        let log = self.folder.join(format!("{name}.log"));
        let length = 24 - self.organizations.trailing_zeros();
        let mut command = Command::new(&self.program);
        command
            .env("CONTROLPLANE_LISTEN", format!("127.0.0.1:{port}"))
            .env("DATABASE_URL", self.database.url())
            .env("CONTROLPLANE_OPERATOR_TOKENS_FILE", self.folder.join("operators"))
            .env("CONTROLPLANE_SEAL_KEY_FILE", self.folder.join("seal.key"))
            .env("CONTROLPLANE_NETWORK_POOL", format!("10.215.{}.0/{length}", self.subnet))
            .env("CONTROLPLANE_WORKSPACE_INIT", static_binary("workspace-init")?)
            .env("RUNTIMES_FILE", runtimes())
            .env("CONTROLPLANE_LOG", LOG_FILTER)
            // one organisation has the host for itself, but where a test is about that
            .env("CONTROLPLANE_DOCKER_ISOLATION", "trusted")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .envs(env.iter().map(|(name, value)| (name, value)));
        let mut replica = Replica { process: Process::start(&mut command, &log)?, port, log };
        let began = Instant::now();
        loop {
            replica.process.lives()?;
            if let Ok(mut operator) = replica.operator().await
                && operator.list_organizations(ListOrganizationsRequest::default()).await.is_ok()
            {
                return Ok(replica);
            }
            if began.elapsed() > Duration::from_secs(20) {
                bail!("controlplane-svc does not answer: {}", replica.log());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A tenant of an organisation over these replicas, with a token that its agents' listener needs no more than.
    pub fn tenant(
        &self,
        program: &str,
        replicas: &[&Replica],
        organization: &str,
        token: &str,
    ) -> anyhow::Result<Setup> {
        self.tenant_at(program, replicas, organization, token, 0)
    }

    /// The same for the organisation whose network is given out in this place. Each place's has data of its own.
    pub fn tenant_at(
        &self,
        program: &str,
        replicas: &[&Replica],
        organization: &str,
        token: &str,
        place: u8,
    ) -> anyhow::Result<Setup> {
        let urls: Vec<String> = replicas.iter().map(|replica| replica.url()).collect();
        let agents = format!("{}:7071", self.gateway_of(place));
        let setup = Setup::on_any_daemon(program, &self.folder, self.subnet)?;
        let setup = if place == 0 { setup } else { setup.named(&format!("data-{place}")) };
        Ok(setup
            .with("MOLECULE_ORG_ID", organization)
            .with("MOLECULE_ORG_TOKEN", token)
            .with("CP_PROVISION_URL", urls.join(","))
            .with("TENANT_AGENT_LISTEN", &agents)
            .with("TENANT_AGENT_URL", format!("http://{agents}")))
    }

    /// Makes an organisation whose workspaces may reach its tenant here; its id and a token.
    pub async fn organization(&self, replica: &Replica, limits: Limits) -> anyhow::Result<(String, String)> {
        self.organization_at(replica, limits, 0).await
    }

    /// The same for one whose network is given out in this place.
    pub async fn organization_at(
        &self,
        replica: &Replica,
        limits: Limits,
        place: u8,
    ) -> anyhow::Result<(String, String)> {
        let mut operator = replica.operator().await?;
        let organization = Organization {
            name: "acme".to_owned(),
            limits: Some(limits),
            allowed_agent_hosts: vec![self.gateway_of(place)],
            ..Organization::default()
        };
        let request = CreateOrganizationRequest { organization: Some(organization) };
        let made = operator.create_organization(request).await?.into_inner().organization;
        let organization_id = made.context("no organisation")?.organization_id;
        let request =
            IssueTokenRequest { organization_id: organization_id.clone(), name: "tests".to_owned() };
        let token = operator.issue_token(request).await?.into_inner().secret;
        Ok((organization_id, token))
    }

    /// The filters that show what is its own on the daemon.
    async fn own(&self) -> anyhow::Result<HashMap<String, Vec<String>>> {
        let owner = self.database.text("SELECT value FROM settings WHERE name = 'installation_id'").await?;
        Ok([("label".to_owned(), vec![format!("ai.molecule.installation={owner}")])].into())
    }

    /// Its volumes by name, and when each was made.
    pub async fn volumes(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let options = ListVolumesOptionsBuilder::default().filters(&self.own().await?).build();
        let found = docker().await?.list_volumes(Some(options)).await?.volumes.unwrap_or_default();
        Ok(found.into_iter().map(|one| (one.name, format!("{:?}", one.created_at))).collect())
    }

    /// Its containers by id, and since when each is in which state.
    pub async fn containers(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let filters = self.own().await?;
        let options =
            ListContainersOptions { all: true, filters: Some(filters), ..ListContainersOptions::default() };
        let docker = docker().await?;
        let mut found = BTreeMap::new();
        for container in docker.list_containers(Some(options)).await? {
            let id = container.id.context("a container without an id")?;
            let inspected = docker.inspect_container(&id, None::<InspectContainerOptions>).await?;
            let state = inspected.state.context("a container without a state")?;
            found.insert(id, format!("{:?} since {:?}", state.status, state.started_at));
        }
        Ok(found)
    }

    /// Removes all that it has on the machine's daemon.
    pub async fn finish(self) -> anyhow::Result<()> {
        self.remove_all().await
    }

    async fn remove_all(&self) -> anyhow::Result<()> {
        let docker = docker().await?;
        for place in 0..self.organizations {
            leftovers::remove(&docker, &format!("10.215.{}.", self.subnet + place)).await?;
        }
        Ok(())
    }
}

impl Replica {
    /// The port that it listens on.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its whole log.
    pub fn whole_log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        end_of(&self.log)
    }

    async fn channel(&self) -> anyhow::Result<Channel> {
        Ok(Channel::from_shared(self.url())?.connect().await?)
    }

    /// An operator's client.
    pub async fn operator(&self) -> anyhow::Result<Operator> {
        self.operator_with(OPERATOR_TOKEN).await
    }

    /// An operator's client with some token.
    pub async fn operator_with(&self, token: &str) -> anyhow::Result<Operator> {
        let bearer = Bearer::new(&token.to_owned().into()).context("no token")?;
        Ok(OrganizationServiceClient::with_interceptor(self.channel().await?, bearer))
    }

    /// A tenant's client.
    pub async fn customer(&self, token: &str) -> anyhow::Result<Customer> {
        let bearer = Bearer::new(&token.to_owned().into()).context("no token")?;
        Ok(ProvisioningServiceClient::with_interceptor(self.channel().await?, bearer))
    }

    /// Sends it a signal, by name.
    pub fn signal(&self, signal: &str) -> anyhow::Result<()> {
        self.process.signal(signal)
    }

    /// Waits until it has ended by itself.
    pub async fn ends(&mut self) -> anyhow::Result<()> {
        self.process.ends().await
    }

    /// Tells it to end, and waits.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.process.stop().await
    }
}
