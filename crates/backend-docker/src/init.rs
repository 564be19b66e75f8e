//! workspace-init on the daemon: one shared volume, named by the binary's hash, read-only to all.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;

use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig, Mount, MountType, VolumeCreateRequest};
use bollard::query_parameters::{
    ContainerArchiveInfoOptionsBuilder, CreateContainerOptions, RemoveContainerOptionsBuilder,
    UploadToContainerOptionsBuilder,
};
use molecule_domain::sandbox::{INIT, INIT_FOLDER};
use molecule_provisioner::backend::CallError;
use tokio::sync::Mutex;
use tracing::info;

use crate::archive::Archive;
use crate::client::{Problem, unknown};
use crate::names;

/// Stands after the program in the archive: where it is, the program is whole.
const MARKER: &str = "complete";

/// The volume that holds workspace-init.
pub(crate) struct InitVolume {
    binary: PathBuf,
    ready: Mutex<Option<Arc<str>>>,
}

impl InitVolume {
    pub(crate) fn new(binary: PathBuf) -> Self {
        Self { binary, ready: Mutex::default() }
    }

    /// The daemon says that it is gone.
    pub(crate) async fn forget(&self) {
        *self.ready.lock().await = None;
    }

    /// The volume's name, once it holds the program. `image` is any image that is there: a container is made
    /// of it, never started, to reach into the volume.
    pub(crate) async fn ensure(&self, docker: &Docker, image: &str) -> Result<Arc<str>, CallError> {
        let mut ready = self.ready.lock().await;
        if let Some(name) = &*ready {
            return Ok(Arc::clone(name));
        }
        let program = tokio::fs::read(&self.binary).await.map_err(|error| {
            unknown(format!("workspace-init can't be read at {}: {error}", self.binary.display()))
        })?;
        let mut hasher = DefaultHasher::new();
        program.hash(&mut hasher);
        let name: Arc<str> = format!("molecule-init-{:016x}", hasher.finish()).into();
        let request = VolumeCreateRequest {
            name: Some(name.to_string()),
            labels: Some(HashMap::from([(names::SHARED.to_owned(), "workspace-init".to_owned())])),
            ..VolumeCreateRequest::default()
        };
        let made = docker.create_volume(request).await;
        made.map_err(|error| Problem::from(error).into_call_error("make workspace-init's volume"))?;
        let helper = self.helper(docker, image, &name).await?;
        let filled = fill(docker, &helper, &program).await;
        let options = RemoveContainerOptionsBuilder::default().force(true).build();
        let removed = docker.remove_container(&helper, Some(options)).await;
        filled?;
        removed.map_err(|error| Problem::from(error).into_call_error("remove the helper container"))?;
        info!(volume = &*name, "workspace-init is in place");
        *ready = Some(Arc::clone(&name));
        Ok(name)
    }

    async fn helper(&self, docker: &Docker, image: &str, volume: &str) -> Result<String, CallError> {
        let mount = Mount {
            typ: Some(MountType::VOLUME),
            source: Some(volume.to_owned()),
            target: Some(INIT_FOLDER.to_owned()),
            ..Mount::default()
        };
        let body = ContainerCreateBody {
            image: Some(image.to_owned()),
            entrypoint: Some(vec![INIT.to_owned()]),
            labels: Some(HashMap::from([(names::SHARED.to_owned(), "workspace-init-helper".to_owned())])),
            host_config: Some(HostConfig { mounts: Some(vec![mount]), ..HostConfig::default() }),
            ..ContainerCreateBody::default()
        };
        let made = docker.create_container(None::<CreateContainerOptions>, body).await;
        made.map(|made| made.id)
            .map_err(|error| Problem::from(error).into_call_error("make the helper container"))
    }
}

async fn fill(docker: &Docker, helper: &str, program: &[u8]) -> Result<(), CallError> {
    let marker = format!("{INIT_FOLDER}/{MARKER}");
    let options = ContainerArchiveInfoOptionsBuilder::default().path(&marker).build();
    match docker.get_container_archive_info(helper, Some(options)).await.map_err(Problem::from) {
        Ok(_) => return Ok(()),
        Err(Problem::NotFound(_)) => {}
        Err(problem) => return Err(problem.into_call_error("look into workspace-init's volume")),
    }
    let packed =
        pack(program).map_err(|error| unknown(format!("workspace-init could not be packed: {error}")))?;
    let options = UploadToContainerOptionsBuilder::default().path(INIT_FOLDER).build();
    let uploaded = docker.upload_to_container(helper, Some(options), bollard::body_full(packed.into())).await;
    uploaded.map_err(|error| Problem::from(error).into_call_error("upload workspace-init"))
}

fn pack(program: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut archive = Archive::new();
    archive.file("workspace-init", program, 0o555, (0, 0))?;
    archive.file(MARKER, b"", 0o444, (0, 0))?;
    archive.finish()
}
