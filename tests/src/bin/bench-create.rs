//! Measures creates through tenant-svc against the same work through the raw Engine API, alternating in one
//! run. Both are timed until the entrypoint's first instruction, which says so itself; both make the same
//! volumes, upload one archive, publish one port, create and start. A second series, on a service that notes when
//! each of its steps begins, tells where the time goes. Prints tables in Markdown.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Context;
use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig, Mount, MountType, PortBinding, VolumeCreateRequest};
use bollard::query_parameters::{
    CreateContainerOptions, LogsOptionsBuilder, RemoveContainerOptionsBuilder, RemoveVolumeOptions,
    StartContainerOptions, UploadToContainerOptionsBuilder,
};
use futures::StreamExt;
use molecule_domain::clock::{Clock, SystemClock};
use molecule_tests::images::{Kind, docker};
use molecule_tests::leftovers;
use molecule_tests::tenant::{Client, Setup, spec};

const SUBNET: u8 = 99;
const CONCURRENT: usize = 20;
const BATCHES: usize = 5;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let rounds: usize = std::env::args().nth(1).context("bench-create ROUNDS")?.parse()?;
    let docker = docker().await?;
    clear(&docker).await?;
    let folder = tempfile::tempdir()?;
    let program = std::env::current_exe()?.with_file_name("tenant-svc");
    let setup =
        Setup::new(&program.display().to_string(), folder.path(), SUBNET).await?.with("TENANT_LOG", "warn");
    let tenant = setup.start().await?;
    // the first create makes the network and workspace-init's volume, once per machine
    let (id, ..) = ours(&docker, &mut tenant.client.clone()).await?;
    let network = network_of(&docker, &id).await?;

    let (mut answered, mut service, mut raw_side) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (_, call, all) = ours(&docker, &mut tenant.client.clone()).await?;
        answered.push(call);
        service.push(all);
        raw_side.push(raw(&docker, &network).await?.total());
    }
    let (mut service_rates, mut raw_rates) = (Vec::new(), Vec::new());
    for _ in 0..BATCHES {
        let began = Instant::now();
        let creates = (0..CONCURRENT).map(|_| {
            let (docker, mut client) = (docker.clone(), tenant.client.clone());
            tokio::spawn(async move { ours(&docker, &mut client).await })
        });
        for create in creates.collect::<Vec<_>>() {
            create.await??;
        }
        service_rates.push(rate(began));
        let began = Instant::now();
        let creates = (0..CONCURRENT).map(|_| {
            let (docker, network) = (docker.clone(), network.clone());
            tokio::spawn(async move { raw(&docker, &network).await })
        });
        for create in creates.collect::<Vec<_>>() {
            create.await??;
        }
        raw_rates.push(rate(began));
    }
    drop(tenant);
    clear(&docker).await?;
    let (our_stages, raw_stages) = stages(&docker, rounds).await?;
    clear(&docker).await?;

    println!("| {rounds} creates, one after another | through tenant-svc | raw Engine API | ratio | added |");
    println!("|---|---|---|---|---|");
    for (name, share) in [("p50", 0.5), ("p95", 0.95)] {
        let (a, b) = (percentile(&mut service, share), percentile(&mut raw_side, share));
        println!("| {name} | {a:.0} ms | {b:.0} ms | {:.2} | {:.0} ms |", a / b, a - b);
    }
    println!("| of it until CreateWorkspace answers, p50 | {:.1} ms | | | |", percentile(&mut answered, 0.5));
    println!();
    println!("| stage, p50 | through tenant-svc | raw Engine API | added |");
    println!("|---|---|---|---|");
    for (stage, name) in STAGES.iter().enumerate() {
        let of =
            |marks: &[Marks]| percentile(&mut marks.iter().map(|m| m.stage(stage)).collect::<Vec<_>>(), 0.5);
        let (a, b) = (of(&our_stages), of(&raw_stages));
        println!("| {name} | {a:.1} ms | {b:.1} ms | {:.1} ms |", a - b);
    }
    println!();
    println!("| {CONCURRENT} creates at once | through tenant-svc | raw Engine API | ratio |");
    println!("|---|---|---|---|");
    let (a, b) = (percentile(&mut service_rates, 0.5), percentile(&mut raw_rates, 0.5));
    println!("| containers per second, median of {BATCHES} | {a:.1} | {b:.1} | {:.2} |", a / b);
    Ok(())
}

fn rate(began: Instant) -> f64 {
    f64::from(u32::try_from(CONCURRENT).unwrap_or(u32::MAX)) / began.elapsed().as_secs_f64()
}

fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let place = ((values.len() - 1) as f64 * share).round() as usize;
    values[place]
}

/// A create through the service: its id, milliseconds until the answer, and until the first instruction.
async fn ours(docker: &Docker, client: &mut Client) -> anyhow::Result<(String, f64, f64)> {
    let (began, from) = (Instant::now(), SystemClock.now());
    let request = molecule_proto::tenant::v1::CreateWorkspaceRequest {
        spec: Some(spec("bench", "demo-stamp")),
        ..Default::default()
    };
    let created = client.create_workspace(request).await?.into_inner().workspace.context("no workspace")?;
    let answered = began.elapsed().as_secs_f64() * 1000.0;
    let at = began_at(docker, &format!("ws-{}-1", created.workspace_id)).await?;
    Ok((created.workspace_id, answered, milliseconds(from.micros(), at)))
}

#[allow(clippy::cast_precision_loss)]
fn milliseconds(from: i64, to: i64) -> f64 {
    (to - from) as f64 / 1000.0
}

/// What a create goes through, each from its beginning to the next one's.
const STAGES: [&str; 5] = [
    "intent, admission, claim, plan, launch stored",
    "volumes",
    "create the container",
    "upload the archive",
    "start until the first instruction (with init and bundle)",
];

/// When each stage of a create began, and when the last ended, in microseconds.
struct Marks([i64; 6]);

impl Marks {
    fn stage(&self, stage: usize) -> f64 {
        milliseconds(self.0[stage], self.0[stage + 1])
    }

    fn total(&self) -> f64 {
        milliseconds(self.0[0], self.0[5])
    }
}

/// Creates on both sides with the beginning of each stage.
async fn stages(docker: &Docker, rounds: usize) -> anyhow::Result<(Vec<Marks>, Vec<Marks>)> {
    let folder = tempfile::tempdir()?;
    let steps = folder.path().join("steps");
    let program = std::env::current_exe()?.with_file_name("tenant-under-test");
    let setup = Setup::new(&program.display().to_string(), folder.path(), SUBNET).await?;
    let setup = setup.with("TENANT_LOG", "warn").with("TEST_STEPS", steps.display().to_string());
    let tenant = setup.start().await?;
    let (id, ..) = ours(docker, &mut tenant.client.clone()).await?;
    let network = network_of(docker, &id).await?;
    let (mut service, mut raw_side) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let from = SystemClock.now().micros();
        let (id, ..) = ours(docker, &mut tenant.client.clone()).await?;
        let at = began_at(docker, &format!("ws-{id}-1")).await?;
        // the last step is noted when its call has returned, which is after the first instruction
        tokio::time::sleep(Duration::from_millis(200)).await;
        let noted = std::fs::read_to_string(&steps)?;
        let mark = |step: &str| {
            let of_step = noted.lines().rev().find_map(|line| line.strip_prefix(step)?.trim().parse().ok());
            of_step.filter(|began| *began >= from).with_context(|| format!("no step {step} was noted"))
        };
        service.push(Marks([
            from,
            mark("docker.make_volumes ")?,
            mark("docker.create_container ")?,
            mark("docker.upload ")?,
            mark("docker.start ")?,
            at,
        ]));
        raw_side.push(raw(docker, &network).await?);
    }
    Ok((service, raw_side))
}

/// When the entrypoint began, as it says itself.
async fn began_at(docker: &Docker, container: &str) -> anyhow::Result<i64> {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(60) {
        let options = LogsOptionsBuilder::default().stdout(true).build();
        let mut output = String::new();
        let mut chunks = docker.logs(container, Some(options));
        while let Some(Ok(chunk)) = chunks.next().await {
            output.push_str(&chunk.to_string());
        }
        if let Some(at) = output.lines().find_map(|line| line.strip_prefix("began ")) {
            return Ok(at.trim().parse()?);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    anyhow::bail!("{container} did not begin")
}

async fn network_of(docker: &Docker, workspace: &str) -> anyhow::Result<String> {
    let found = docker.inspect_container(&format!("ws-{workspace}-1"), None).await?;
    let networks = found.network_settings.and_then(|settings| settings.networks).context("no networks")?;
    networks.into_keys().next().context("no network")
}

/// The same work by hand.
async fn raw(docker: &Docker, network: &str) -> anyhow::Result<Marks> {
    let now = || SystemClock.now().micros();
    let from = now();
    let name = format!("bench-raw-{}", uuid::Uuid::new_v4());
    let volumes = ["configs", "workspace"].map(|of| format!("{name}-{of}"));
    let labels = HashMap::from([("bench".to_owned(), "raw".to_owned())]);
    let make = |volume: &String| {
        docker.create_volume(VolumeCreateRequest {
            name: Some(volume.clone()),
            labels: Some(labels.clone()),
            ..VolumeCreateRequest::default()
        })
    };
    let volumes_from = now();
    futures::future::try_join_all(volumes.iter().map(make)).await?;
    let mount = |volume: &String, target: &str| Mount {
        typ: Some(MountType::VOLUME),
        source: Some(volume.clone()),
        target: Some(target.to_owned()),
        ..Mount::default()
    };
    let port = PortBinding { host_ip: Some("127.0.0.1".to_owned()), host_port: Some(String::new()) };
    let body = ContainerCreateBody {
        image: Some(Kind::Stamp.image()),
        labels: Some(labels),
        exposed_ports: Some(vec!["8000/tcp".to_owned()]),
        host_config: Some(HostConfig {
            mounts: Some(vec![mount(&volumes[0], "/configs"), mount(&volumes[1], "/workspace")]),
            memory: Some(512 << 20),
            memory_swap: Some(512 << 20),
            nano_cpus: Some(1_000_000_000),
            pids_limit: Some(512),
            init: Some(true),
            cap_drop: Some(vec!["ALL".to_owned()]),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            network_mode: Some(network.to_owned()),
            port_bindings: Some(HashMap::from([("8000/tcp".to_owned(), Some(vec![port]))])),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let create_from = now();
    let id = docker.create_container(None::<CreateContainerOptions>, body).await?.id;
    let upload_from = now();
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(48);
    header.set_mode(0o600);
    archive.append_data(&mut header, ".bootstrap", &[b'x'; 48][..])?;
    let options = UploadToContainerOptionsBuilder::default().path("/configs").build();
    docker.upload_to_container(&id, Some(options), bollard::body_full(archive.into_inner()?.into())).await?;
    let start_from = now();
    docker.start_container(&id, None::<StartContainerOptions>).await?;
    Ok(Marks([from, volumes_from, create_from, upload_from, start_from, began_at(docker, &id).await?]))
}

async fn clear(docker: &Docker) -> anyhow::Result<()> {
    let filter = HashMap::from([("label".to_owned(), vec!["bench=raw".to_owned()])]);
    let options =
        bollard::query_parameters::ListContainersOptionsBuilder::default().all(true).filters(&filter).build();
    for container in docker.list_containers(Some(options)).await? {
        let options = RemoveContainerOptionsBuilder::default().force(true).build();
        docker.remove_container(&container.id.unwrap_or_default(), Some(options)).await?;
    }
    let options = bollard::query_parameters::ListVolumesOptionsBuilder::default().filters(&filter).build();
    for volume in docker.list_volumes(Some(options)).await?.volumes.unwrap_or_default() {
        docker.remove_volume(&volume.name, None::<RemoveVolumeOptions>).await?;
    }
    leftovers::remove(docker, &format!("10.214.{SUBNET}.")).await?;
    Ok(())
}
