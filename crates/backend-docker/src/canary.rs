//! Finds out from within whether the Docker host keeps workspaces apart: the Engine API can't be asked, so canaries
//! on two organisations' networks try what no workspace may reach.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;

use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{
    CreateContainerOptions, CreateImageOptionsBuilder, InspectContainerOptions, LogsOptionsBuilder,
    RemoveContainerOptionsBuilder, StartContainerOptions, WaitContainerOptions,
};
use futures::{StreamExt, TryStreamExt};
use molecule_domain::id::OrganizationId;
use molecule_provisioner::backend::CallError;

use crate::archive::Archive;
use crate::client::{Problem, unknown};
use crate::{DockerBackend, names};

/// Two organisations that nobody is.
const CANARIES: [OrganizationId; 2] = [
    OrganizationId::from_uuid(uuid::Uuid::from_u128(u128::MAX - 1)),
    OrganizationId::from_uuid(uuid::Uuid::from_u128(u128::MAX)),
];
const REPOSITORY: &str = "molecule-canary";
const PORT: u16 = 8000;

impl DockerBackend {
    /// Makes the canaries' networks: their gateways are addresses that workspaces may try, too.
    pub async fn prepare_canaries(&self) -> Result<(), CallError> {
        for organization in CANARIES {
            self.ensure_network(organization).await?;
        }
        Ok(())
    }

    /// Which of `targets`, and of other organisations' workspaces, a workspace can reach. Something must listen at
    /// each target for this to mean anything.
    pub async fn reachable_from_workspaces(
        &self,
        targets: &[SocketAddr],
    ) -> Result<Vec<SocketAddr>, CallError> {
        let docker = self.client.get().await?;
        let image = self.canary_image(docker).await?;
        let other = self.canary(docker, &image, CANARIES[1], format!("listen {PORT}")).await?;
        let found = self.try_all(docker, &image, &other, targets).await;
        remove(docker, &other).await?;
        found
    }

    async fn try_all(
        &self,
        docker: &Docker,
        image: &str,
        other: &str,
        targets: &[SocketAddr],
    ) -> Result<Vec<SocketAddr>, CallError> {
        let inspected = docker.inspect_container(other, None::<InspectContainerOptions>).await;
        let inspected =
            inspected.map_err(|error| Problem::from(error).into_call_error("look at the canary"))?;
        let networks = inspected.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
        let address = networks.into_values().find_map(|network| network.ip_address?.parse().ok());
        let address = address.ok_or_else(|| unknown("the canary has no address"))?;
        let all = targets.iter().copied().chain([SocketAddr::new(address, PORT)]);
        let words: Vec<String> = all.map(|target| target.to_string()).collect();
        let prober = self.canary(docker, image, CANARIES[0], format!("try {}", words.join(" "))).await?;
        let output = output_of(docker, &prober).await;
        remove(docker, &prober).await?;
        let output = output?;
        if !output.lines().any(|line| line == "done") {
            return Err(unknown(format!("the canary did not finish: {output}")));
        }
        let reached = output.lines().filter_map(|line| line.strip_prefix("reached ")?.parse().ok());
        Ok(reached.collect())
    }

    /// An image of workspace-init alone: no other image need be there.
    async fn canary_image(&self, docker: &Docker) -> Result<String, CallError> {
        let path = &self.settings.workspace_init;
        let program = tokio::fs::read(path).await.map_err(|error| {
            unknown(format!("workspace-init can't be read at {}: {error}", path.display()))
        })?;
        let mut hasher = DefaultHasher::new();
        program.hash(&mut hasher);
        let tag = format!("{:016x}", hasher.finish());
        let name = format!("{REPOSITORY}:{tag}");
        if docker.inspect_image(&name).await.is_ok() {
            return Ok(name);
        }
        let packed = || {
            let mut archive = Archive::new();
            archive.file("workspace-init", &program, 0o555, (0, 0))?;
            archive.finish()
        };
        let packed =
            packed().map_err(|error| unknown(format!("the canary's image can't be packed: {error}")))?;
        let options = CreateImageOptionsBuilder::default().from_src("-").repo(REPOSITORY).tag(&tag).build();
        let imported = docker.create_image(Some(options), Some(bollard::body_full(packed.into())), None);
        imported
            .try_collect::<Vec<_>>()
            .await
            .map_err(|error| Problem::from(error).into_call_error("import the canary's image"))?;
        Ok(name)
    }

    /// Starts a canary as an organisation's workspace would be.
    async fn canary(
        &self,
        docker: &Docker,
        image: &str,
        organization: OrganizationId,
        told: String,
    ) -> Result<String, CallError> {
        let network = self.ensure_network(organization).await?;
        let body = ContainerCreateBody {
            image: Some(image.to_owned()),
            entrypoint: Some(vec!["/workspace-init".to_owned()]),
            env: Some(vec![format!("MOLECULE_CANARY={told}")]),
            labels: Some(HashMap::from([(names::SHARED.to_owned(), "canary".to_owned())])),
            host_config: Some(HostConfig {
                network_mode: Some(network.name),
                cap_drop: Some(vec!["ALL".to_owned()]),
                security_opt: Some(vec!["no-new-privileges".to_owned()]),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let made = docker.create_container(None::<CreateContainerOptions>, body).await;
        let id = made.map_err(|error| Problem::from(error).into_call_error("make a canary"))?.id;
        match docker.start_container(&id, None::<StartContainerOptions>).await {
            Ok(()) => Ok(id),
            Err(error) => {
                remove(docker, &id).await?;
                Err(Problem::from(error).into_call_error("start a canary"))
            }
        }
    }
}

async fn output_of(docker: &Docker, id: &str) -> Result<String, CallError> {
    // its exit code says nothing that its output doesn't
    let _ = docker.wait_container(id, None::<WaitContainerOptions>).next().await;
    let options = LogsOptionsBuilder::default().stdout(true).stderr(true).build();
    let chunks: Vec<_> = docker
        .logs(id, Some(options))
        .try_collect()
        .await
        .map_err(|error| Problem::from(error).into_call_error("read the canary's output"))?;
    Ok(chunks.iter().map(ToString::to_string).collect())
}

async fn remove(docker: &Docker, id: &str) -> Result<(), CallError> {
    let options = RemoveContainerOptionsBuilder::default().force(true).build();
    match docker.remove_container(id, Some(options)).await.map_err(Problem::from) {
        Ok(()) | Err(Problem::NotFound(_)) => Ok(()),
        Err(problem) => Err(problem.into_call_error("remove a canary")),
    }
}
