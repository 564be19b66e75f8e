//! The use cases: what clients may do with workspaces.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use molecule_domain::error::{Error, ErrorCode, ErrorReason, Result, StoredWish};
use molecule_domain::id::{Generation, IncarnationId, IntentNumber, OrganizationId, Revision, WorkspaceId};
use molecule_domain::launch::Mount;
use molecule_domain::lifecycle::Desired;
use molecule_domain::seal::Sealer;
use molecule_domain::spec::{PrivateParts, SpecRules, WorkspaceSpec};
use molecule_domain::{Clock, Timestamp};
use molecule_telemetry::trace;
use molecule_workspace::aggregate::{Change, NewWorkspace};
use molecule_workspace::agreement::Minter;
use molecule_workspace::private::SealedParts;
use molecule_workspace::record::{RequestKey, WorkspaceRecord};
use molecule_workspace::store::{Conditions, StoreError, Stored, TenantStore};
use molecule_workspace::{Wish, Workspace};
use tokio::time::Instant;

use crate::mount::check_mount;
use crate::outbox::{Outbox, Told};
use crate::private;
use crate::provider::Provider;
use crate::spec_update::{SpecUpdate, Waiting, is_another_instance, merge};

/// So long before its deadline a request is answered.
const ANSWER_TAKES: Duration = Duration::from_millis(100);

/// Makes what only a key's holder can make.
pub trait Secrets: Sealer + Minter {}

impl<T: Sealer + Minter> Secrets for T {}

/// The use cases over their parts.
#[derive(Clone)]
pub struct Workspaces {
    /// Whose workspaces these are.
    pub organization: OrganizationId,
    /// Where they are kept.
    pub store: Arc<dyn TenantStore>,
    /// Who launches.
    pub provider: Arc<dyn Provider>,
    /// What the provider has still to be told.
    pub outbox: Arc<Outbox>,
    /// What is allowed.
    pub rules: Arc<SpecRules>,
    /// Folders of the host below which workspaces may bind some.
    pub roots: Arc<[PathBuf]>,
    /// Seals what is private.
    pub secrets: Arc<dyn Secrets>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// When a request has to be answered at the latest, where that is bounded.
    pub answer_by: Option<Instant>,
}

impl std::fmt::Debug for Workspaces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workspaces").field("organization", &self.organization).finish_non_exhaustive()
    }
}

/// A workspace to be created.
#[derive(Clone, Debug)]
pub struct Create {
    /// Makes the request repeatable.
    pub key: Option<RequestKey>,
    /// The client's own id for it.
    pub workspace: Option<WorkspaceId>,
    /// What is asked for.
    pub spec: WorkspaceSpec,
    /// Its private part.
    pub private: PrivateParts,
    /// Whether it is only to be checked.
    pub validate_only: bool,
}

impl Workspaces {
    /// The same for a request that is broken off at a deadline: shortly before, its client hears what is known of its
    /// wish.
    #[must_use]
    pub fn answering_before(&self, deadline: Instant) -> Self {
        let left = deadline.saturating_duration_since(Instant::now());
        let answer_by = deadline.checked_sub((left / 10).min(ANSWER_TAKES));
        Self { answer_by, ..self.clone() }
    }

    /// Creates a workspace. An error says whether the wish is stored all the same, and goes on.
    pub async fn create(&self, create: Create) -> Result<WorkspaceRecord> {
        self.check(&create.spec, &create.private)?;
        let workspace = create.workspace.unwrap_or_else(WorkspaceId::generate);
        let new = NewWorkspace {
            workspace,
            organization: self.organization,
            readiness: self.rules.readiness(&create.spec),
            spec: create.spec,
            private: private::seal(&*self.secrets, workspace, &create.private)?,
            token: self.secrets.mint(workspace, Generation(1)),
            trace: trace::current(),
        };
        if create.validate_only {
            return Ok(preview(&new, self.clock.now()));
        }
        if let Some(known) = self.refuse_unless_ready(create.key.as_ref(), DELETE_IT).await? {
            return Ok(known);
        }
        let unheard = self.outbox.unheard(workspace);
        let stored = self.store.create(&new, create.key.as_ref(), self.clock.now()).await;
        let stored = stored.map_err(or_unknown)?;
        unheard.over();
        self.answer_now(stored, DELETE_IT).await
    }

    /// One workspace.
    pub async fn get(&self, workspace: WorkspaceId) -> Result<WorkspaceRecord> {
        let found = self.store.get(self.organization, workspace).await?;
        found.ok_or_else(|| Error::workspace_not_found(workspace))
    }

    /// Stops a workspace and keeps its disk.
    pub async fn stop(&self, workspace: WorkspaceId, on: Conditions) -> Result<WorkspaceRecord> {
        let stored = self.store_change(workspace, &on, |found| {
            found.refuse_deleting()?;
            Ok(wish(Wish::Stop(None)))
        });
        self.answer_soon(stored.await?).await
    }

    /// Lets a stopped workspace run again.
    pub async fn start(&self, workspace: WorkspaceId, on: Conditions) -> Result<WorkspaceRecord> {
        let decide = |found: &Workspace| {
            found.refuse_deleting()?;
            if found.has_failed() {
                return Err(Error::new(
                    ErrorReason::WrongState,
                    format!("workspace {workspace} has FAILED; restart it, or delete it"),
                ));
            }
            Ok(wish(Wish::Start))
        };
        self.change(workspace, on, STOP_IT, decide).await
    }

    /// Replaces a workspace's instance by a new generation, which runs.
    pub async fn restart(
        &self,
        workspace: WorkspaceId,
        on: Conditions,
        reset_session: bool,
    ) -> Result<WorkspaceRecord> {
        let decide = |found: &Workspace| {
            found.refuse_deleting()?;
            let replacement = self.replacement(found, true, reset_session);
            if found.record.recovered.is_none() {
                return Ok(replacement);
            }
            // what it was launched with may be lost, whatever it does now
            let spec = &found.record.spec;
            self.check(spec, &self.open(workspace, &found.private)?)?;
            Ok(Change { spec: Some((spec.clone(), self.rules.readiness(spec))), ..replacement })
        };
        self.change(workspace, on, STOP_IT, decide).await
    }

    /// Deletes a workspace with all it holds.
    pub async fn delete(&self, workspace: WorkspaceId, on: Conditions) -> Result<WorkspaceRecord> {
        let found = self.store.get(self.organization, workspace).await.map_err(or_unknown)?;
        let found = found.ok_or_else(|| Error::workspace_not_found(workspace))?;
        if found.is_deleting() && on.etag.is_none() {
            return Ok(found);
        }
        let stored = self.store_change(workspace, &on, |_| Ok(wish(Wish::Delete))).await?;
        match self.answer_soon(stored).await {
            // its creation was refused, so there is nothing to delete
            Err(refused) => match self.store.get(self.organization, workspace).await {
                Ok(Some(record)) if record.desired == Desired::Deleted => Ok(record),
                _ => Err(refused),
            },
            deleted => deleted,
        }
    }

    /// Changes a workspace's spec; replaces its instance where what is launched changes.
    pub async fn update(
        &self,
        workspace: WorkspaceId,
        on: Conditions,
        update: SpecUpdate,
        validate_only: bool,
    ) -> Result<WorkspaceRecord> {
        let decide = |found: &Workspace| {
            found.refuse_deleting()?;
            let (mut spec, mut parts) = (found.record.spec.clone(), self.open(workspace, &found.private)?);
            let before = parts.clone();
            merge(&mut spec, &mut parts, &update)?;
            self.check(&spec, &parts)?;
            Waiting::of(found).refuse_overlap(&before, (&spec, &parts), &update)?;
            let readiness = self.rules.readiness(&spec);
            let sealed = private::seal_changed(&*self.secrets, workspace, (&found.private, &before), &parts)?;
            let replaces = sealed.is_some() || is_another_instance(&found.record.spec, &spec);
            let mut change = if replaces {
                self.replacement(found, found.record.desired == Desired::Running, false)
            } else {
                Change { trace: trace::current(), ..Change::default() }
            };
            change.private = sealed;
            change.spec = Some((spec, readiness));
            Ok(change)
        };
        if validate_only {
            let found = self.store.load(self.organization, workspace).await?;
            let mut found = found.ok_or_else(|| Error::workspace_not_found(workspace))?;
            if let Some((spec, readiness)) = decide(&found)?.spec {
                (found.record.spec, found.record.readiness) = (spec, readiness);
            }
            return Ok(found.record);
        }
        self.change(workspace, on, UPDATE_IT, decide).await
    }

    /// A change that needs an answer now: the provider may refuse it.
    async fn change(
        &self,
        workspace: WorkspaceId,
        on: Conditions,
        taken_back_by: &str,
        decide: impl FnOnce(&Workspace) -> Result<Change> + Send,
    ) -> Result<WorkspaceRecord> {
        if let Some(known) = self.refuse_unless_ready(on.key.as_ref(), taken_back_by).await? {
            return Ok(known);
        }
        let stored = self.store_change(workspace, &on, decide).await?;
        self.answer_now(stored, taken_back_by).await
    }

    /// Refuses what could not be told now. A repeated request hears what became of it all the same.
    async fn refuse_unless_ready(
        &self,
        key: Option<&RequestKey>,
        taken_back_by: &str,
    ) -> Result<Option<WorkspaceRecord>> {
        let Err(not_ready) = self.outbox.ready(self.answer_by).await else { return Ok(None) };
        let Some(key) = key else { return Err(not_ready) };
        match self.store.replayed(self.organization, key).await.map_err(or_unknown)? {
            None => Err(not_ready),
            Some(Stored { record, number: Some(_) }) => {
                Err(goes_on(record.workspace, taken_back_by, not_ready))
            }
            Some(Stored { record, number: None }) => Ok(Some(record)),
        }
    }

    async fn store_change(
        &self,
        workspace: WorkspaceId,
        on: &Conditions,
        decide: impl FnOnce(&Workspace) -> Result<Change> + Send,
    ) -> Result<Stored> {
        let now = self.clock.now();
        let unheard = self.outbox.unheard(workspace);
        let stored = self.store.change(self.organization, workspace, on, now, Box::new(decide)).await;
        let stored = stored.map_err(or_unknown)?;
        unheard.over();
        Ok(stored)
    }

    /// What the client hears of a wish that the provider may refuse.
    async fn answer_now(&self, stored: Stored, taken_back_by: &str) -> Result<WorkspaceRecord> {
        let workspace = stored.record.workspace;
        match self.outbox.tell(stored, self.answer_by).await {
            Told::Granted(record) => Ok(*record),
            Told::Refused(error) => Err(error),
            Told::Waits(error) => Err(goes_on(workspace, taken_back_by, error)),
        }
    }

    /// What the client hears of a wish that may wait: where the provider is away, it is told later.
    async fn answer_soon(&self, stored: Stored) -> Result<WorkspaceRecord> {
        let record = stored.record.clone();
        if self.outbox.is_ready() {
            match self.outbox.tell(stored, self.answer_by).await {
                Told::Granted(record) => return Ok(*record),
                Told::Refused(error) => return Err(error),
                Told::Waits(_) => {}
            }
        } else {
            self.outbox.tell_later(&stored).await;
        }
        // what was stored holds, whether it can be read again or not
        let now = self.store.get(self.organization, record.workspace).await;
        Ok(now.ok().flatten().unwrap_or(record))
    }

    fn replacement(&self, found: &Workspace, run: bool, reset_session: bool) -> Change {
        let token = self.secrets.mint(found.record.workspace, found.next_generation());
        let wish = Some(Wish::Replace { run, reset_session });
        Change { wish, token: Some(token), trace: trace::current(), ..Change::default() }
    }

    /// Opens a workspace's config files and secrets.
    pub fn open(&self, workspace: WorkspaceId, sealed: &SealedParts) -> Result<PrivateParts> {
        private::open(&*self.secrets, workspace, sealed)
    }

    fn check(&self, spec: &WorkspaceSpec, private: &PrivateParts) -> Result<()> {
        self.rules.check(spec, private)?;
        let binds = self.provider.info().capabilities.iter().any(|one| one == "mount.host_path");
        if spec.mount != Mount::None && !binds {
            return Err(Error::field(
                "spec.mount.host_path",
                "workspaces of this server can't bind folders of a host; GetServerInfo would declare mount.host_path",
            ));
        }
        check_mount(&spec.mount, &self.roots)
    }
}

/// A store that does not answer may have stored the wish, now or when the request was first made.
fn or_unknown(error: StoreError) -> Error {
    let refused = matches!(error, StoreError::Refused(_));
    let error = Error::from(error);
    if refused { error } else { Error { stored: StoredWish::Unknown, ..error } }
}

/// How clients get rid of what is stored and will be carried out.
const DELETE_IT: &str = "delete the workspace if it is not wanted any more";
const STOP_IT: &str = "stop the workspace if it is not to run";
const UPDATE_IT: &str = "update the workspace again to change that back";

/// The error of a wish that is stored and goes on: it says so, and how the wish is taken back.
fn goes_on(workspace: WorkspaceId, taken_back_by: &str, error: Error) -> Error {
    let reason = match error.code() {
        ErrorCode::Unavailable | ErrorCode::DeadlineExceeded => error.reason,
        // what is wrong between the services is not the client's to mend
        _ => ErrorReason::ControlPlaneUnavailable,
    };
    let message = format!(
        "{}. The request is stored for workspace {workspace} and will be carried out; {taken_back_by}",
        error.message.trim_end_matches('.')
    );
    let retry_after = error.retry_after.unwrap_or(Duration::from_secs(5));
    Error {
        stored: StoredWish::GoesOn(workspace),
        ..Error::new(reason, message).with_retry_after(retry_after).with_source(error)
    }
}

fn wish(wish: Wish) -> Change {
    Change { wish: Some(wish), trace: trace::current(), ..Change::default() }
}

fn preview(new: &NewWorkspace, now: Timestamp) -> WorkspaceRecord {
    let (workspace, _) = Workspace::create(new, None, now, IncarnationId::generate(), None);
    WorkspaceRecord {
        intent: IntentNumber(0),
        generation: Generation(0),
        in_unknown_state: false,
        instance_generation: Generation(0),
        revision: Revision(0),
        message: "valid; nothing was stored".to_owned(),
        pending: None,
        trace: String::new(),
        ..workspace.record
    }
}
