//! The volumes of workspaces.

use std::collections::HashMap;

use bollard::Docker;
use bollard::models::VolumeCreateRequest;
use bollard::query_parameters::{ListVolumesOptionsBuilder, RemoveVolumeOptions};
use molecule_domain::id::{InstallationId, LaunchSeq, WorkspaceId};
use molecule_domain::lifecycle::Reason;
use molecule_provisioner::backend::{CallError, OwnedResource};
use molecule_provisioner::faults::Steps;

use crate::client::{Problem, refused, unknown};
use crate::names::{self, Labels};

/// Makes a volume where it is missing. One of the same name that is not ours is left alone.
pub(crate) async fn ensure(
    docker: &Docker,
    installation: InstallationId,
    name: String,
    labels: Labels,
) -> Result<(), CallError> {
    let workspace = labels.get(names::WORKSPACE).cloned();
    let request = VolumeCreateRequest {
        name: Some(name.clone()),
        labels: Some(labels),
        ..VolumeCreateRequest::default()
    };
    let made = docker.create_volume(request).await;
    let made = made.map_err(|error| Problem::from(error).into_call_error("make a volume"))?;
    if names::is_ours(&made.labels, installation) && made.labels.get(names::WORKSPACE) == workspace.as_ref() {
        return Ok(());
    }
    Err(refused(
        Reason::NameTaken,
        format!(
            "a volume {name} that is not ours is on this Docker host; remove it, or create another workspace"
        ),
    ))
}

/// Removes one volume; succeeds where it is gone.
pub(crate) async fn remove(docker: &Docker, name: &str) -> Result<(), CallError> {
    match docker.remove_volume(name, None::<RemoveVolumeOptions>).await.map_err(Problem::from) {
        Ok(()) | Err(Problem::NotFound(_)) => Ok(()),
        Err(problem) => Err(problem.into_call_error("remove a volume")),
    }
}

/// All volumes of this installation's workspaces.
pub(crate) async fn list(
    docker: &Docker,
    installation: InstallationId,
) -> Result<Vec<OwnedResource>, CallError> {
    list_filtered(docker, names::ours_filter(installation)).await
}

/// Removes all volumes of a workspace, and asks again whether they are gone.
pub(crate) async fn purge(
    docker: &Docker,
    installation: InstallationId,
    workspace: WorkspaceId,
    steps: &Steps,
) -> Result<(), CallError> {
    let mut filter = names::ours_filter(installation);
    if let Some(labels) = filter.get_mut("label") {
        labels.push(format!("{}={workspace}", names::WORKSPACE));
    }
    for volume in list_filtered(docker, filter.clone()).await? {
        let name = &volume.name;
        steps
            .run("docker.remove_volume", || remove(docker, name))
            .await
            .map_err(|injected| unknown(injected.to_string()))??;
    }
    match list_filtered(docker, filter).await?.first() {
        None => Ok(()),
        Some(left) => Err(unknown(format!("the volume {} is still there", left.name))),
    }
}

async fn list_filtered(
    docker: &Docker,
    filter: HashMap<String, Vec<String>>,
) -> Result<Vec<OwnedResource>, CallError> {
    let options = ListVolumesOptionsBuilder::default().filters(&filter).build();
    let listed = docker.list_volumes(Some(options)).await;
    let listed = listed.map_err(|error| Problem::from(error).into_call_error("list the volumes"))?;
    let volumes = listed.volumes.unwrap_or_default().into_iter();
    volumes
        .map(|volume| {
            let owner = names::owner(&volume.labels);
            let (organization, workspace) = owner
                .ok_or_else(|| unknown(format!("the labels of volume {} can't be read", volume.name)))?;
            let seq = names::seq(&volume.labels).unwrap_or(LaunchSeq(0));
            Ok(OwnedResource { organization, workspace, name: volume.name, seq })
        })
        .collect()
}
