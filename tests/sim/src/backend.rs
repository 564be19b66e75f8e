//! The provider as one replica reaches it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use molecule_domain::id::{LaunchSeq, OrganizationId, WorkspaceId};
use molecule_domain::launch::LaunchSpec;
use molecule_domain::lifecycle::Reason;
use molecule_provisioner::backend::{
    Backend, CallError, LaunchRequest, LogChunk, LogOptions, OwnedResource, PostMortem, PrepareRequest,
    Prepared, Progress, Refusal,
};
use molecule_provisioner::model::InstanceRef;
use molecule_provisioner::observation::OwnedInstance;

use crate::cloud::{Cloud, Flavour, LAG};
use crate::process::Process;
use crate::weather::Weather;

/// The kind of the one backend.
pub const KIND: &str = "cloud";

/// The provider as a process reaches it.
#[derive(Debug)]
pub struct CloudBackend {
    /// The provider.
    pub cloud: Arc<Cloud>,
    /// Who asks.
    pub process: Arc<Process>,
}

impl CloudBackend {
    /// The way there, and the pause on the way back.
    async fn way(&self) -> Result<Duration, CallError> {
        self.process.is_let().await;
        self.cloud.way().await
    }

    async fn back(&self, pause: Duration) {
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        self.process.is_let().await;
    }
}

#[async_trait]
impl Backend for CloudBackend {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn visibility_lag(&self) -> Duration {
        match self.cloud.flavour {
            Flavour::Containers => Duration::ZERO,
            Flavour::Machines => LAG,
        }
    }

    fn gather(&self) -> Duration {
        match self.cloud.flavour {
            Flavour::Containers => Duration::ZERO,
            Flavour::Machines => Duration::from_millis(200),
        }
    }

    async fn prepare(&self, request: &PrepareRequest<'_>) -> Prepared {
        let pause = match self.way().await {
            Ok(pause) => pause,
            Err(error) => return Prepared::Unknown(error.to_string()),
        };
        let workspace = Some(request.instance.workspace);
        let is = |weather| self.cloud.is(weather, workspace);
        let refused = |reason, message: &str| Refusal { reason, message: message.to_owned() };
        let prepared = if request.is_placed() {
            Prepared::Ready(String::new())
        } else if is(Weather::NoImage) {
            Prepared::Refused(refused(Reason::ImageUnavailable, "there is no such image"))
        } else if is(Weather::NoNetwork) {
            Prepared::Refused(refused(Reason::NetworkUnavailable, "there is no network for it"))
        } else if is(Weather::Preparing) {
            Prepared::InProgress("the image is on its way".to_owned())
        } else if request.attempt.is_some() && is(Weather::Quota) {
            // a place that had no room is remembered
            Prepared::NoRoom(refused(Reason::ProviderQuota, "the account's limit was reached"))
        } else if request.attempt.is_some() && is(Weather::Full) {
            Prepared::NoRoom(refused(Reason::NoCapacity, "no place has room"))
        } else {
            Prepared::Ready(String::new())
        };
        self.back(pause).await;
        prepared
    }

    async fn launch(&self, request: &LaunchRequest) -> Result<(), CallError> {
        let pause = self.way().await?;
        let result = self.cloud.launch(request);
        self.back(pause).await;
        result
    }

    async fn attach(&self, found: &OwnedInstance, _spec: &LaunchSpec) -> Result<(), CallError> {
        let pause = self.way().await?;
        self.cloud.attach(&found.instance, found.seq);
        self.back(pause).await;
        Ok(())
    }

    async fn start(&self, instance: &InstanceRef, seq: LaunchSeq) -> Result<(), CallError> {
        let pause = self.way().await?;
        let result = self.cloud.start(instance, seq);
        self.back(pause).await;
        result
    }

    async fn stop(
        &self,
        instance: &InstanceRef,
        seq: LaunchSeq,
        _grace: Duration,
    ) -> Result<Progress, CallError> {
        let pause = self.way().await?;
        let down = self.cloud.stop(instance, seq);
        self.back(pause).await;
        let Some(down) = down else { return Ok(Progress::Done) };
        match self.cloud.flavour {
            Flavour::Containers => {
                tokio::time::sleep(down.since(self.process.world().now())).await;
                Ok(Progress::Done)
            }
            Flavour::Machines => Ok(Progress::InProgress),
        }
    }

    async fn remove(&self, instance: &InstanceRef, seq: LaunchSeq) -> Result<Progress, CallError> {
        let pause = self.way().await?;
        self.cloud.remove(instance, seq);
        self.back(pause).await;
        Ok(match self.cloud.flavour {
            Flavour::Containers => Progress::Done,
            Flavour::Machines => Progress::InProgress,
        })
    }

    async fn purge(&self, _organization: OrganizationId, workspace: WorkspaceId) -> Result<(), CallError> {
        let pause = self.way().await?;
        let result = self.cloud.purge(workspace);
        self.back(pause).await;
        result
    }

    async fn list_instances(&self) -> Result<Vec<OwnedInstance>, CallError> {
        let pause = self.way().await?;
        let listed = self.cloud.list(None);
        self.back(pause).await;
        Ok(listed)
    }

    async fn find_instances(&self, wanted: &[InstanceRef]) -> Result<Vec<OwnedInstance>, CallError> {
        let pause = self.way().await?;
        let listed = self.cloud.list(Some(wanted));
        self.back(pause).await;
        Ok(listed)
    }

    async fn list_resources(&self) -> Result<Vec<OwnedResource>, CallError> {
        let pause = self.way().await?;
        let volumes = self.cloud.volumes().into_iter();
        let listed = volumes.map(|((workspace, name), (organization, seq))| OwnedResource {
            organization,
            workspace,
            name: format!("ws-{workspace}-{name}"),
            seq,
        });
        let listed = listed.collect();
        self.back(pause).await;
        Ok(listed)
    }

    async fn post_mortem(&self, instance: &InstanceRef, seq: LaunchSeq) -> Result<PostMortem, CallError> {
        let pause = self.way().await?;
        let end = self.cloud.end_of(instance, seq);
        self.back(pause).await;
        Ok(match end {
            Some((code, init_failed)) => PostMortem {
                exit_code: Some(code),
                init_failure: init_failed.then(|| "the bundle could not be fetched".to_owned()),
                ..PostMortem::default()
            },
            None => PostMortem::default(),
        })
    }

    async fn logs(
        &self,
        _instance: &InstanceRef,
        _options: LogOptions,
    ) -> Result<BoxStream<'static, Result<LogChunk, CallError>>, CallError> {
        Ok(futures::stream::empty().boxed())
    }

    async fn hints(&self) -> Result<BoxStream<'static, WorkspaceId>, CallError> {
        let hints = self.cloud.hints();
        Ok(futures::stream::unfold(hints, |mut hints| async move { Some((hints.recv().await?, hints)) })
            .boxed())
    }
}
