//! The container of an instance: what it is made of, and the steps of its launch.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use bollard::Docker;
use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigLogConfig, Mount, MountType, PortBinding, RestartPolicy,
    RestartPolicyNameEnum,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, DownloadFromContainerOptionsBuilder, StartContainerOptions,
    UploadToContainerOptionsBuilder,
};
use futures::TryStreamExt;
use molecule_domain::id::InstallationId;
use molecule_domain::launch::Mount as WorkspaceMount;
use molecule_domain::lifecycle::Reason;
use molecule_domain::network::NetworkSpec;
use molecule_domain::sandbox::{self, CA_FILE, CONFIGS, TOKEN_FILE, Volume, WORKSPACE};
use molecule_provisioner::backend::{CallError, LaunchRequest};

use crate::archive::Archive;
use crate::client::{Problem, refused, unknown};
use crate::image::ImageInfo;
use crate::{DockerBackend, names, volume};

impl DockerBackend {
    /// Network, volumes, container, bootstrap token, start: each step finds what an earlier try has done.
    pub(crate) async fn launch_container(&self, request: &LaunchRequest) -> Result<(), CallError> {
        let docker = self.client.get().await?;
        let Some(image) = self.images.known(&request.spec.image) else {
            return Err(unknown("the image was not prepared, or is no longer there"));
        };
        let network = self
            .step("docker.ensure_network", || self.networks.ensure(docker, request.instance.organization))
            .await?;
        let init = self.init.ensure(docker, &image.id).await?;

        let volumes = volumes(request);
        if let Some(found) = self.find(&request.instance).await? {
            if !found.ours {
                return Err(refused(
                    Reason::NameTaken,
                    format!(
                        "a container {} that is not ours is on this Docker host; remove it, or create another \
                         workspace",
                        names::container(&request.instance)
                    ),
                ));
            }
            if found.token != request.token {
                return Err(unknown("a container of another launch has the name"));
            }
            if found.status != "created" {
                return Ok(());
            }
            return self.finish(docker, request, &image, &volumes, &found.id).await;
        }
        self.make_volumes(docker, request, &volumes).await?;
        let body = create_body(
            self.settings.installation,
            self.settings.publish,
            request,
            &image,
            &volumes,
            &network.name,
            &init,
        );
        let id = self.create(docker, request, body, &network.name).await?;
        self.finish(docker, request, &image, &volumes, &id).await
    }

    async fn make_volumes(
        &self,
        docker: &Docker,
        request: &LaunchRequest,
        volumes: &[Volume],
    ) -> Result<(), CallError> {
        if request.spec.reset_session {
            for volume in volumes.iter().filter(|volume| volume.session) {
                self.step("docker.reset_session", || volume::remove(docker, &volume.name)).await?;
            }
        }
        let labels = names::volume_labels(self.settings.installation, request);
        self.step("docker.make_volumes", || {
            let make = |volume: &Volume| {
                volume::ensure(docker, self.settings.installation, volume.name.clone(), labels.clone())
            };
            futures::future::try_join_all(volumes.iter().map(make))
        })
        .await
        .map(drop)
    }

    async fn create(
        &self,
        docker: &Docker,
        request: &LaunchRequest,
        body: ContainerCreateBody,
        network: &str,
    ) -> Result<String, CallError> {
        let name = names::container(&request.instance);
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        let create = || async {
            docker.create_container(Some(options.clone()), body.clone()).await.map_err(Problem::from)
        };
        let created = match self.steps.run("docker.create_container", create).await {
            Ok(created) => created,
            Err(injected) => return Err(unknown(injected.to_string())),
        };
        match created {
            Ok(created) => Ok(created.id),
            Err(Problem::Conflict(_)) => match self.find(&request.instance).await? {
                Some(found) if found.ours && found.token == request.token => Ok(found.id),
                Some(found) if found.ours => Err(unknown("a container of another launch has the name")),
                Some(_) => Err(refused(
                    Reason::NameTaken,
                    format!("a container {name} that is not ours has its name"),
                )),
                None => Err(unknown("its name was taken a moment ago; trying again")),
            },
            Err(Problem::NotFound(message)) => {
                // Image, network or init volume went away under us: look at all of them again.
                self.images.forget(&request.spec.image);
                self.networks.forget(network).await;
                self.init.forget().await;
                Err(unknown(format!("something that it needs is gone: {message}")))
            }
            Err(problem) => Err(problem.into_call_error("make the container")),
        }
    }

    /// From a container that was made to one that runs.
    async fn finish(
        &self,
        docker: &Docker,
        request: &LaunchRequest,
        image: &Arc<ImageInfo>,
        volumes: &[Volume],
        id: &str,
    ) -> Result<(), CallError> {
        let owner = owner_of(docker, id, &image.user).await?;
        let folders = volumes.iter().filter(|volume| volume.path == CONFIGS || owner != (0, 0));
        for volume in folders {
            let packed = pack(Some(request).filter(|_| volume.path == CONFIGS), owner)
                .map_err(|error| unknown(format!("the bootstrap token could not be packed: {error}")))?;
            let Some(packed) = packed else { continue };
            let options = UploadToContainerOptionsBuilder::default().path(&volume.path).build();
            self.step("docker.upload", || async {
                let body = bollard::body_full(packed.clone().into());
                let uploaded = docker.upload_to_container(id, Some(options.clone()), body).await;
                uploaded.map_err(|error| Problem::from(error).into_call_error("upload the bootstrap token"))
            })
            .await?;
        }
        self.step("docker.start", || async {
            match docker.start_container(id, None::<StartContainerOptions>).await.map_err(Problem::from) {
                Ok(()) | Err(Problem::NotModified) => Ok(()),
                Err(problem) => {
                    // A network that was made anew has another id than the one the container was made with.
                    if matches!(&problem, Problem::NotFound(message) if message.contains("network")) {
                        self.networks.forget(&network_name(request, self.settings.installation)).await;
                    }
                    Err(problem.into_call_error("start the container"))
                }
            }
        })
        .await
    }

    pub(crate) async fn step<T, F>(&self, name: &'static str, effect: impl Fn() -> F) -> Result<T, CallError>
    where
        F: Future<Output = Result<T, CallError>>,
    {
        match self.steps.run(name, effect).await {
            Ok(result) => result,
            Err(injected) => Err(unknown(injected.to_string())),
        }
    }
}

fn network_name(request: &LaunchRequest, installation: InstallationId) -> String {
    NetworkSpec::name_of(installation, request.instance.organization)
}

/// The workspace's volumes by their names on the daemon.
fn volumes(request: &LaunchRequest) -> Vec<Volume> {
    let named = |one: Volume| Volume { name: names::volume(request.instance.workspace, &one.name), ..one };
    sandbox::volumes(&request.spec).into_iter().map(named).collect()
}

/// What workspace-init needs, and the folder's owner where that isn't root. `None` where there is nothing to do.
fn pack(configs_of: Option<&LaunchRequest>, owner: (u64, u64)) -> std::io::Result<Option<Vec<u8>>> {
    let token = configs_of.and_then(|request| request.bootstrap_token.as_ref());
    let ca = configs_of.and_then(|request| request.spec.agents_ca.as_ref());
    if token.is_none() && ca.is_none() && owner == (0, 0) {
        return Ok(None);
    }
    let mut archive = Archive::new();
    if owner != (0, 0) {
        archive.own_root(0o755, owner)?;
    }
    if let Some(token) = token {
        archive.file(TOKEN_FILE, token.expose().as_bytes(), 0o600, owner)?;
    }
    if let Some(ca) = ca {
        archive.file(CA_FILE, ca.as_bytes(), 0o644, owner)?;
    }
    archive.finish().map(Some)
}

/// The numeric ids of the image's user. Names are looked up in the container's own `/etc/passwd`.
async fn owner_of(docker: &Docker, container: &str, user: &str) -> Result<(u64, u64), CallError> {
    let (name, group) = user.split_once(':').unwrap_or((user, ""));
    if name.is_empty() {
        return Ok((0, 0));
    }
    if let Ok(uid) = name.parse() {
        // as the daemon has it: a number without an entry runs in group 0
        return Ok((uid, group.parse().unwrap_or(0)));
    }
    let options = DownloadFromContainerOptionsBuilder::default().path("/etc/passwd").build();
    let packed: Vec<bytes::Bytes> = docker
        .download_from_container(container, Some(options))
        .try_collect()
        .await
        .map_err(|error| Problem::from(error).into_call_error("read the image's users"))?;
    lookup(&packed.concat(), name).ok_or_else(|| {
        refused(Reason::LaunchRefused, format!("the image runs as {name:?}, who is not in its /etc/passwd"))
    })
}

fn lookup(archive: &[u8], name: &str) -> Option<(u64, u64)> {
    let mut archive = tar::Archive::new(archive);
    let mut passwd = String::new();
    let mut entry = archive.entries().ok()?.next()?.ok()?;
    std::io::Read::read_to_string(&mut entry, &mut passwd).ok()?;
    let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn create_body(
    installation: InstallationId,
    publish: Option<IpAddr>,
    request: &LaunchRequest,
    image: &ImageInfo,
    volumes: &[Volume],
    network: &str,
    init_volume: &str,
) -> ContainerCreateBody {
    let spec = &request.spec;
    let command = spec.command.clone().unwrap_or_else(|| image.command.clone());
    let port = format!("{}/tcp", spec.agent_port);
    let environment = sandbox::environment(request.instance.workspace, spec);
    let environment = environment.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    ContainerCreateBody {
        image: Some(image.id.clone()),
        entrypoint: Some(vec![sandbox::INIT.to_owned()]),
        cmd: Some(command),
        env: Some(environment),
        labels: Some(names::container_labels(installation, request)),
        exposed_ports: publish.map(|_| vec![port.clone()]),
        host_config: Some(host_config(publish, request, volumes, network, init_volume, port)),
        ..ContainerCreateBody::default()
    }
}

fn host_config(
    publish: Option<IpAddr>,
    request: &LaunchRequest,
    volumes: &[Volume],
    network: &str,
    init_volume: &str,
    port: String,
) -> HostConfig {
    let spec = &request.spec;
    let read_only = spec.tier.read_only_root();
    let in_memory = || {
        let paths = sandbox::in_memory(spec).into_iter();
        paths.map(|path| (path.to_owned(), sandbox::TMPFS.to_owned())).collect()
    };
    let binding =
        |address: IpAddr| PortBinding { host_ip: Some(address.to_string()), host_port: Some(String::new()) };
    HostConfig {
        mounts: Some(mounts(request, volumes, init_volume)),
        memory: spec.resources.memory_bytes(),
        memory_swap: spec.resources.memory_bytes(),
        nano_cpus: spec.resources.nano_cpus(),
        pids_limit: Some(sandbox::PIDS_LIMIT),
        init: Some(true),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            ..RestartPolicy::default()
        }),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(HashMap::from(
                sandbox::LOG_ROTATION.map(|(option, value)| (option.to_owned(), value.to_owned())),
            )),
        }),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: Some(sandbox::capabilities(spec).iter().map(|&name| name.to_owned()).collect()),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        readonly_rootfs: Some(read_only),
        tmpfs: read_only.then(in_memory),
        network_mode: Some(network.to_owned()),
        port_bindings: publish.map(|address| HashMap::from([(port, Some(vec![binding(address)]))])),
        ..HostConfig::default()
    }
}

fn mounts(request: &LaunchRequest, volumes: &[Volume], init_volume: &str) -> Vec<Mount> {
    let mut mounts: Vec<Mount> = volumes
        .iter()
        .map(|volume| Mount {
            typ: Some(MountType::VOLUME),
            source: Some(volume.name.clone()),
            target: Some(volume.path.clone()),
            ..Mount::default()
        })
        .collect();
    mounts.push(Mount {
        typ: Some(MountType::VOLUME),
        source: Some(init_volume.to_owned()),
        target: Some(sandbox::INIT_FOLDER.to_owned()),
        read_only: Some(true),
        ..Mount::default()
    });
    let bind = match &request.spec.mount {
        WorkspaceMount::None => None,
        WorkspaceMount::ReadOnly(path) => Some((path, true)),
        WorkspaceMount::ReadWrite(path) => Some((path, false)),
    };
    mounts.extend(bind.map(|(path, read_only)| Mount {
        typ: Some(MountType::BIND),
        source: Some(path.clone()),
        target: Some(WORKSPACE.to_owned()),
        read_only: Some(read_only),
        ..Mount::default()
    }));
    mounts
}
