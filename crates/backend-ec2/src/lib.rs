//! The [`Backend`] over Amazon EC2: one machine per generation, and one data disk per workspace that outlives its
//! machines. Tags tell whose they are: nothing without this installation's own is ever touched.
//!
//! EC2 has no names that could be taken twice. What keeps a launch from making two machines is its `ClientToken`: one
//! per attempt, stored before the call, with everything else that the call is made of (the [placement]).

mod boot;
mod budget;
mod disks;
mod images;
mod launch;
mod machines;
mod placement;
mod problem;
mod settings;
mod tags;
mod zones;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_ec2::Client;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures::StreamExt;
use futures::stream::BoxStream;
use molecule_domain::Clock;
use molecule_domain::id::{InstallationId, LaunchSeq, OrganizationId, WorkspaceId};
use molecule_domain::launch::LaunchSpec;
use molecule_provisioner::backend::{
    Backend, CallError, LaunchRequest, LogChunk, LogOptions, OwnedResource, PostMortem, PrepareRequest,
    Prepared, Progress,
};
use molecule_provisioner::faults::Steps;
use molecule_provisioner::model::InstanceRef;
use molecule_provisioner::observation::OwnedInstance;

pub use self::boot::{BootDesk, BootReport};
use self::budget::Budget;
use self::machines::Machine;
use self::problem::{Problem, unknown};
pub use self::settings::{MachineTypes, Settings};

/// Output that is kept of a machine that ended.
const CONSOLE_TAIL: usize = 8 << 10;

/// The backend over one account and region.
pub struct Ec2Backend {
    settings: Settings,
    installation: InstallationId,
    client: Client,
    images: images::Images,
    zones: zones::Zones,
    shortages: placement::Shortages,
    budget: Budget,
    desk: Arc<dyn BootDesk>,
    clock: Arc<dyn Clock>,
    steps: Steps,
}

impl std::fmt::Debug for Ec2Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ec2Backend").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Ec2Backend {
    /// A backend with credentials, region and endpoints as the AWS SDK finds them. No call is made yet.
    pub async fn new(
        settings: Settings,
        installation: InstallationId,
        desk: Arc<dyn BootDesk>,
        clock: Arc<dyn Clock>,
        steps: Steps,
    ) -> Self {
        let config = aws_config::load_defaults(BehaviorVersion::latest()).await;
        Self::with(&config, settings, installation, desk, clock, steps)
    }

    /// The same with the SDK's configuration as it is given, but for its patience.
    pub fn with(
        config: &SdkConfig,
        settings: Settings,
        installation: InstallationId,
        desk: Arc<dyn BootDesk>,
        clock: Arc<dyn Clock>,
        steps: Steps,
    ) -> Self {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(settings.call_timeout / 2)
            .operation_attempt_timeout(settings.call_timeout)
            .build();
        // what is tried again is the engine's to decide: it knows what a second call means
        let config = config.clone().into_builder();
        let config = config.timeout_config(timeouts).retry_config(RetryConfig::disabled()).build();
        Self {
            client: Client::new(&config),
            images: images::Images::new(aws_sdk_ssm::Client::new(&config)),
            zones: zones::Zones::default(),
            shortages: placement::Shortages::default(),
            budget: Budget::new(settings.calls_per_second, settings.call_burst),
            settings,
            installation,
            desk,
            clock,
            steps,
        }
    }

    /// One call to the provider, when its organisation's turn comes. `None` is the installation's own.
    async fn call<T, E, F>(
        &self,
        organization: Option<OrganizationId>,
        step: &'static str,
        call: impl Fn() -> F,
    ) -> Result<T, Problem>
    where
        F: Future<Output = Result<T, E>>,
        E: Into<Problem>,
    {
        self.budget.turn(organization).await;
        let result = match self.steps.run(step, call).await {
            Ok(result) => result.map_err(Into::into),
            Err(injected) => Err(Problem::Unknown(injected.to_string())),
        };
        if let Err(Problem::Throttled(_)) = &result {
            self.budget.throttled();
        }
        result
    }

    /// A machine of an instance: of all its launches, for people who want to read its console.
    async fn of(&self, instance: &InstanceRef) -> Result<Option<Machine>, CallError> {
        self.machine(instance, tags::of_instance(self.installation, instance)).await
    }

    /// The machine of a launch.
    async fn of_launch(&self, instance: &InstanceRef, seq: LaunchSeq) -> Result<Option<Machine>, CallError> {
        self.machine(instance, tags::of_launch(self.installation, instance, seq)).await
    }

    /// What a machine has written to its console.
    async fn output_of(&self, organization: OrganizationId, found: &Machine) -> Result<Vec<u8>, CallError> {
        let read = || self.client.get_console_output().instance_id(&found.id).send();
        let read = self.call(Some(organization), "ec2.console", read).await;
        let read = read.map_err(|problem| problem.into_retry("read the machine's console"))?;
        let text: String = read.output().unwrap_or_default().split_whitespace().collect();
        let decoded = BASE64_STANDARD.decode(text);
        decoded.map_err(|error| unknown(format!("the console can't be decoded: {error}")))
    }

    async fn machine(
        &self,
        instance: &InstanceRef,
        filters: Vec<aws_sdk_ec2::types::Filter>,
    ) -> Result<Option<Machine>, CallError> {
        let found = self.describe(Some(instance.organization), filters).await;
        Ok(found.map_err(|problem| problem.into_call_error("look at the machine"))?.into_iter().next())
    }
}

#[async_trait]
impl Backend for Ec2Backend {
    fn kind(&self) -> &'static str {
        "ec2"
    }

    fn visibility_lag(&self) -> Duration {
        self.settings.visibility_lag
    }

    fn streams_logs(&self) -> bool {
        false
    }

    fn gather(&self) -> Duration {
        Duration::from_millis(200)
    }

    async fn prepare(&self, request: &PrepareRequest<'_>) -> Prepared {
        self.place(request).await
    }

    async fn launch(&self, request: &LaunchRequest) -> Result<(), CallError> {
        self.run_instance(request).await
    }

    async fn attach(&self, found: &OwnedInstance, _spec: &LaunchSpec) -> Result<(), CallError> {
        self.attach_disk(&found.instance, found.seq).await
    }

    async fn start(&self, instance: &InstanceRef, seq: LaunchSeq) -> Result<(), CallError> {
        let found = self.of_launch(instance, seq).await?;
        let id = found.ok_or_else(|| unknown("there is no machine of ours to start"))?.id;
        let start = || self.client.start_instances().instance_ids(&id).send();
        let started = self.call(Some(instance.organization), "ec2.start", start).await;
        started.map(drop).map_err(|problem| problem.into_call_error("start the machine"))
    }

    async fn stop(
        &self,
        instance: &InstanceRef,
        seq: LaunchSeq,
        _grace: Duration,
    ) -> Result<Progress, CallError> {
        // The machine's own shutdown gives its processes their time; EC2 takes no wish about it.
        let filters = tags::of_launch(self.installation, instance, seq);
        let found = self.describe(Some(instance.organization), filters).await;
        let found = found.map_err(|problem| problem.into_call_error("look at the machine"))?;
        if found.iter().all(machines::Machine::is_stopped) {
            return Ok(Progress::Done);
        }
        let ids: Vec<String> =
            found.into_iter().filter(|one| !one.is_stopping_or_down()).map(|one| one.id).collect();
        if ids.is_empty() {
            return Ok(Progress::InProgress);
        }
        let stop = || self.client.stop_instances().set_instance_ids(Some(ids.clone())).send();
        match self.call(Some(instance.organization), "ec2.stop", stop).await {
            Ok(_) | Err(Problem::NotFound(_)) => Ok(Progress::InProgress),
            Err(problem) => Err(problem.into_retry("stop the machine")),
        }
    }

    async fn remove(&self, instance: &InstanceRef, seq: LaunchSeq) -> Result<Progress, CallError> {
        let filters = tags::of_launch(self.installation, instance, seq);
        let found = self.describe(Some(instance.organization), filters).await;
        let found = found.map_err(|problem| problem.into_retry("look at the machine"))?;
        if found.is_empty() {
            return Ok(Progress::Done);
        }
        let ids: Vec<String> =
            found.into_iter().filter(|one| !one.is_shutting_down()).map(|one| one.id).collect();
        if ids.is_empty() {
            return Ok(Progress::InProgress);
        }
        let terminate = || self.client.terminate_instances().set_instance_ids(Some(ids.clone())).send();
        match self.call(Some(instance.organization), "ec2.terminate", terminate).await {
            Ok(_) | Err(Problem::NotFound(_)) => Ok(Progress::InProgress),
            Err(problem) => Err(problem.into_retry("terminate the machine")),
        }
    }

    async fn purge(&self, organization: OrganizationId, workspace: WorkspaceId) -> Result<(), CallError> {
        self.delete_disks(organization, workspace).await
    }

    async fn list_instances(&self) -> Result<Vec<OwnedInstance>, CallError> {
        let listed = self.describe(None, tags::of_installation(self.installation)).await;
        owned(listed.map_err(|problem| problem.into_retry("list the machines"))?)
    }

    async fn find_instances(&self, wanted: &[InstanceRef]) -> Result<Vec<OwnedInstance>, CallError> {
        let mut found = Vec::new();
        for some in wanted.chunks(tags::MOST_VALUES) {
            let listed = self.describe(None, tags::of_workspaces(self.installation, some)).await;
            found.extend(listed.map_err(|problem| problem.into_retry("find the machines"))?);
        }
        owned(found)
    }

    async fn list_resources(&self) -> Result<Vec<OwnedResource>, CallError> {
        self.list_disks().await
    }

    async fn post_mortem(&self, instance: &InstanceRef, seq: LaunchSeq) -> Result<PostMortem, CallError> {
        if let Some(report) = self.desk.report(instance).await.map_err(unknown)? {
            return Ok(PostMortem {
                log_tail: report.log_tail,
                init_failure: Some(report.message),
                // user-data runs once in a machine's life
                is_final: true,
                ..PostMortem::default()
            });
        }
        let Some(found) = self.of_launch(instance, seq).await? else { return Ok(PostMortem::default()) };
        let console = self.output_of(instance.organization, &found).await?;
        let tail = &console[console.len().saturating_sub(CONSOLE_TAIL)..];
        let log_tail = String::from_utf8_lossy(tail).into_owned();
        Ok(PostMortem { log_tail, detail: found.why_down, ..PostMortem::default() })
    }

    async fn logs(
        &self,
        _instance: &InstanceRef,
        _options: LogOptions,
    ) -> Result<BoxStream<'static, Result<LogChunk, CallError>>, CallError> {
        Err(unknown("EC2 has no stream of a machine's output; read its console"))
    }

    async fn console(&self, instance: &InstanceRef) -> Result<Option<Vec<u8>>, CallError> {
        match self.of(instance).await? {
            Some(found) => self.output_of(instance.organization, &found).await.map(Some),
            None => Ok(Some(Vec::new())),
        }
    }

    async fn hints(&self) -> Result<BoxStream<'static, WorkspaceId>, CallError> {
        // EC2 tells of changes through EventBridge only; sweeps find them
        Ok(futures::stream::pending().boxed())
    }
}

fn owned(machines: Vec<Machine>) -> Result<Vec<OwnedInstance>, CallError> {
    machines.into_iter().map(|machine| machine.owned().map_err(unknown)).collect()
}
