//! A provider whose answers are given in advance.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use molecule_domain::id::{LaunchSeq, OrganizationId, WorkspaceId};
use molecule_domain::launch::LaunchSpec;
use molecule_provisioner::backend::{
    Backend, CallError, LaunchRequest, LogChunk, LogOptions, OwnedResource, PostMortem, PrepareRequest,
    Prepared, Progress,
};
use molecule_provisioner::model::InstanceRef;
use molecule_provisioner::observation::OwnedInstance;

/// The provider in memory, of which one answer can be given in advance.
pub(crate) struct Answers {
    memory: Arc<dyn Backend>,
    pub(crate) next: Mutex<Next>,
}

#[derive(Default)]
pub(crate) struct Next {
    pub(crate) prepared: Option<Prepared>,
    /// Of the next call that is no look and no `prepare`: it has no effect.
    pub(crate) error: Option<CallError>,
    pub(crate) told: Option<PostMortem>,
    /// A launch gets no answer from now on.
    pub(crate) launches_hang: bool,
    /// Looks get no answer from now on.
    pub(crate) is_silent: bool,
}

impl Answers {
    pub(crate) fn of(memory: Arc<dyn Backend>) -> Self {
        Self { memory, next: Mutex::default() }
    }

    fn answer(&self) -> Result<(), CallError> {
        self.next.lock().unwrap().error.take().map_or(Ok(()), Err)
    }
}

#[async_trait]
impl Backend for Answers {
    fn kind(&self) -> &'static str {
        self.memory.kind()
    }
    fn visibility_lag(&self) -> Duration {
        self.memory.visibility_lag()
    }
    async fn prepare(&self, request: &PrepareRequest<'_>) -> Prepared {
        let prepared = self.next.lock().unwrap().prepared.take();
        match prepared {
            Some(prepared) => prepared,
            None => self.memory.prepare(request).await,
        }
    }
    async fn launch(&self, request: &LaunchRequest) -> Result<(), CallError> {
        self.answer()?;
        let hangs = self.next.lock().unwrap().launches_hang;
        if hangs {
            std::future::pending::<()>().await;
        }
        self.memory.launch(request).await
    }
    async fn attach(&self, found: &OwnedInstance, spec: &LaunchSpec) -> Result<(), CallError> {
        self.answer()?;
        self.memory.attach(found, spec).await
    }
    async fn start(&self, instance: &InstanceRef, seq: LaunchSeq) -> Result<(), CallError> {
        self.answer()?;
        self.memory.start(instance, seq).await
    }
    async fn stop(
        &self,
        instance: &InstanceRef,
        seq: LaunchSeq,
        grace: Duration,
    ) -> Result<Progress, CallError> {
        self.answer()?;
        self.memory.stop(instance, seq, grace).await
    }
    async fn remove(&self, instance: &InstanceRef, seq: LaunchSeq) -> Result<Progress, CallError> {
        self.answer()?;
        self.memory.remove(instance, seq).await
    }
    async fn purge(&self, organization: OrganizationId, workspace: WorkspaceId) -> Result<(), CallError> {
        self.answer()?;
        self.memory.purge(organization, workspace).await
    }
    async fn list_instances(&self) -> Result<Vec<OwnedInstance>, CallError> {
        let is_silent = self.next.lock().unwrap().is_silent;
        if is_silent {
            std::future::pending::<()>().await;
        }
        self.memory.list_instances().await
    }
    async fn list_resources(&self) -> Result<Vec<OwnedResource>, CallError> {
        self.memory.list_resources().await
    }
    async fn post_mortem(&self, instance: &InstanceRef, seq: LaunchSeq) -> Result<PostMortem, CallError> {
        self.answer()?;
        let told = self.next.lock().unwrap().told.take();
        match told {
            Some(told) => Ok(told),
            None => self.memory.post_mortem(instance, seq).await,
        }
    }
    async fn logs(
        &self,
        instance: &InstanceRef,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<LogChunk, CallError>>, CallError> {
        self.memory.logs(instance, options).await
    }
    async fn hints(&self) -> Result<BoxStream<'static, WorkspaceId>, CallError> {
        self.memory.hints().await
    }
}
