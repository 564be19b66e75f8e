//! The Docker backend conforms, on a real daemon and beside daemons that fail.

use std::net::Ipv4Addr;
use std::sync::Arc;

use async_trait::async_trait;
use bollard::Docker;
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, InspectContainerOptions, RemoveContainerOptionsBuilder,
    StartContainerOptions,
};
use molecule_backend_docker::{DockerBackend, NetworkDirectory, Settings};
use molecule_contracts::backend as contract;
use molecule_domain::id::{InstallationId, OrganizationId};
use molecule_domain::launch::LaunchSpec;
use molecule_domain::network::NetworkSpec;
use molecule_provisioner::backend::Backend;
use molecule_provisioner::faults::Steps;
use molecule_provisioner::model::InstanceRef;
use molecule_provisioner::samples;
use molecule_tests::broken::{self, Failure};
use molecule_tests::images::{self, Kind};
use molecule_tests::leftovers;

/// The contract's own.
const SUBNETS: [&str; 2] = ["10.213.1.", "10.213.2."];

struct OneNetwork(NetworkSpec);

#[async_trait]
impl NetworkDirectory for OneNetwork {
    async fn network_of(&self, _organization: OrganizationId) -> Result<NetworkSpec, String> {
        Ok(self.0.clone())
    }
}

struct Subject {
    docker: Docker,
    installation: InstallationId,
    folder: tempfile::TempDir,
}

impl Subject {
    fn make(installation: InstallationId, docker_host: Option<String>, subnet: u8) -> Arc<dyn Backend> {
        Arc::new(backend(installation, docker_host, subnet))
    }
}

fn backend(installation: InstallationId, docker_host: Option<String>, subnet: u8) -> DockerBackend {
    let network = NetworkSpec {
        name: NetworkSpec::name_of(installation, OrganizationId::SELF_HOSTED),
        subnet: format!("10.213.{subnet}.0/24"),
        gateway: format!("10.213.{subnet}.1"),
    };
    let settings = Settings {
        docker_host,
        installation,
        workspace_init: images::static_binary("workspace-init").unwrap(),
        publish: Some(Ipv4Addr::LOCALHOST.into()),
    };
    DockerBackend::new(settings, Arc::new(OneNetwork(network)), Steps::default())
}

/// Replicas that need an organisation's network at the same moment make it once, and all go on.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_make_a_network_once() {
    let docker = images::docker().await.unwrap();
    leftovers::remove(&docker, "10.213.3.").await.unwrap();
    for _ in 0..5 {
        let installation = InstallationId::generate();
        let replicas = (0..4).map(|_| {
            tokio::spawn(async move {
                backend(installation, None, 3).ensure_network(OrganizationId::SELF_HOSTED).await
            })
        });
        for replica in replicas.collect::<Vec<_>>() {
            replica.await.unwrap().unwrap();
        }
        leftovers::remove(&docker, "10.213.3.").await.unwrap();
    }
}

#[async_trait]
impl contract::Subject for Subject {
    fn backend(&self) -> Arc<dyn Backend> {
        Self::make(self.installation, None, 1)
    }

    fn other_installation(&self) -> Arc<dyn Backend> {
        Self::make(InstallationId::generate(), None, 2)
    }

    fn spec(&self) -> LaunchSpec {
        // workspace-init waits a minute for a tenant-svc that is not there: long enough to be looked at
        LaunchSpec {
            image: Kind::Root.image(),
            agents_url: "http://127.0.0.1:9".to_owned(),
            agents_ca: None,
            command: None,
            ..samples::spec()
        }
    }

    async fn impossible(&self) -> (Arc<dyn Backend>, LaunchSpec) {
        let image = "localhost:9/there-is/no-such-image:1".to_owned();
        (self.backend(), LaunchSpec { image, ..self.spec() })
    }

    async fn occupy(&self, instance: &InstanceRef) -> bool {
        let name = format!("ws-{}-{}", instance.workspace, instance.generation);
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        let body = ContainerCreateBody {
            image: Some(Kind::Root.image()),
            entrypoint: Some(vec!["/demo-agent".to_owned(), "exit".to_owned(), "0".to_owned()]),
            ..ContainerCreateBody::default()
        };
        self.docker.create_container(Some(options), body).await.unwrap();
        self.docker.start_container(&name, None::<StartContainerOptions>).await.unwrap();
        true
    }

    async fn stranger_is_untouched(&self, instance: &InstanceRef) -> bool {
        let name = format!("ws-{}-{}", instance.workspace, instance.generation);
        let there = self.docker.inspect_container(&name, None::<InspectContainerOptions>).await.is_ok();
        let options = RemoveContainerOptionsBuilder::default().force(true).build();
        self.docker.remove_container(&name, Some(options)).await.ok();
        there
    }

    async fn broken(&self) -> Vec<(&'static str, Arc<dyn Backend>)> {
        let mut broken: Vec<(&'static str, Arc<dyn Backend>)> = Failure::ALL
            .into_iter()
            .map(|failure| {
                let socket = broken::daemon(self.folder.path(), failure).unwrap();
                (
                    failure.name(),
                    Self::make(self.installation, Some(format!("unix://{}", socket.display())), 1),
                )
            })
            .collect();
        let nobody = self.folder.path().join("nobody.sock");
        broken.push((
            "refused",
            Self::make(self.installation, Some(format!("unix://{}", nobody.display())), 1),
        ));
        broken
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_docker_backend_conforms() {
    let docker = images::docker().await.unwrap();
    images::import(&docker, Kind::Root).await.unwrap();
    for subnets in SUBNETS {
        leftovers::remove(&docker, subnets).await.unwrap();
    }
    let installation = InstallationId::generate();
    let subject = Subject { docker, installation, folder: tempfile::tempdir().unwrap() };
    contract::run(&subject).await;
    for subnets in SUBNETS {
        leftovers::remove(&subject.docker, subnets).await.unwrap();
    }
}
