//! Removes what an earlier run that was cut off has left on the daemon. Each test has a subnet of its own, so
//! whatever stands in it is its own from before.

use std::collections::HashMap;

use anyhow::{Context, ensure};
use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::{
    InspectNetworkOptions, ListContainersOptionsBuilder, ListNetworksOptions, ListVolumesOptionsBuilder,
    RemoveContainerOptionsBuilder, RemoveVolumeOptions,
};

const INSTALLATION: &str = "ai.molecule.installation";

/// Removes every installation that has a network within `subnets`, which is a prefix such as `10.213.1.`.
pub async fn remove(docker: &Docker, subnets: &str) -> anyhow::Result<()> {
    for network in docker.list_networks(None::<ListNetworksOptions>).await? {
        let configs = network.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
        if !configs.iter().any(|config| config.subnet.as_deref().is_some_and(|s| s.starts_with(subnets))) {
            continue;
        }
        if let Some(installation) = network.labels.unwrap_or_default().get(INSTALLATION) {
            remove_installation(docker, installation).await?;
        }
        remove_network(docker, &network.name.context("a network without a name")?).await?;
    }
    Ok(())
}

/// Removes a network. Docker Engine 20.10 counts an endpoint for good if a container is removed by force while it starts, as
/// tests do: such a network has nothing in it and can't be removed until the daemon starts anew, so it stays.
async fn remove_network(docker: &Docker, name: &str) -> anyhow::Result<()> {
    match docker.remove_network(name).await {
        Err(Error::DockerResponseServerError { status_code: 403, message })
            if message.contains("has active endpoints") =>
        {
            let found = docker.inspect_network(name, None::<InspectNetworkOptions>).await?;
            let inside = found.containers.unwrap_or_default();
            ensure!(inside.is_empty(), "the network {name} still has {inside:?} in it");
            eprintln!(
                "the daemon miscounts what is in the network {name}: it stays until the daemon starts anew"
            );
            Ok(())
        }
        removed => removed.with_context(|| format!("removing the network {name}")),
    }
}

/// Removes all containers and volumes of an installation.
pub async fn remove_installation(docker: &Docker, installation: &str) -> anyhow::Result<()> {
    let filter = HashMap::from([("label".to_owned(), vec![format!("{INSTALLATION}={installation}")])]);
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filter).build();
    for container in docker.list_containers(Some(options)).await? {
        let options = RemoveContainerOptionsBuilder::default().force(true).build();
        docker.remove_container(&container.id.unwrap_or_default(), Some(options)).await?;
    }
    let options = ListVolumesOptionsBuilder::default().filters(&filter).build();
    for volume in docker.list_volumes(Some(options)).await?.volumes.unwrap_or_default() {
        docker.remove_volume(&volume.name, None::<RemoveVolumeOptions>).await?;
    }
    Ok(())
}

/// The names of all containers and volumes of an installation: what a test that has cleaned up finds empty.
pub async fn of_installation(docker: &Docker, installation: &str) -> anyhow::Result<Vec<String>> {
    let filter = HashMap::from([("label".to_owned(), vec![format!("{INSTALLATION}={installation}")])]);
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filter).build();
    let containers = docker.list_containers(Some(options)).await?;
    let options = ListVolumesOptionsBuilder::default().filters(&filter).build();
    let volumes = docker.list_volumes(Some(options)).await?.volumes.unwrap_or_default();
    let names = containers.into_iter().flat_map(|container| container.names.unwrap_or_default());
    Ok(names.chain(volumes.into_iter().map(|volume| volume.name)).collect())
}
