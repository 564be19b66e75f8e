//! The use cases: what clients may do with workspaces.

use std::path::PathBuf;
use std::sync::Arc;

use molecule_domain::error::{Error, ErrorReason, Result};
use molecule_domain::id::{Generation, IntentNumber, OrganizationId, WorkspaceId};
use molecule_domain::launch::Mount;
use molecule_domain::lifecycle::{Desired, Phase, Reason};
use molecule_domain::seal::token_context;
use molecule_domain::spec::{PrivateParts, SpecRules, WorkspaceSpec};
use molecule_domain::{Clock, Violations};
use molecule_service_kit::seal::Aes;
use molecule_service_kit::token;
use molecule_store_sqlite::tenant::model::{Intent, RequestKey, WorkspaceRecord};
use molecule_store_sqlite::tenant::{ChangeIntent, NewWorkspace, TenantStore};
use molecule_telemetry::trace;
use secrecy::ExposeSecret;
use tracing::warn;

use crate::provisioning::Forwarder;

/// The use cases over their parts.
#[derive(Clone)]
pub(crate) struct Workspaces {
    pub(crate) organization: OrganizationId,
    pub(crate) store: TenantStore,
    pub(crate) forwarder: Forwarder,
    pub(crate) rules: Arc<SpecRules>,
    pub(crate) roots: Arc<[PathBuf]>,
    pub(crate) key: Arc<Aes>,
    pub(crate) clock: Arc<dyn Clock>,
}

/// A workspace to be created.
#[derive(Debug)]
pub(crate) struct Create {
    pub(crate) key: Option<RequestKey>,
    pub(crate) workspace: Option<WorkspaceId>,
    pub(crate) spec: WorkspaceSpec,
    pub(crate) private: PrivateParts,
    pub(crate) validate_only: bool,
}

/// What goes with every change.
#[derive(Debug, Default)]
pub(crate) struct Conditions {
    pub(crate) key: Option<RequestKey>,
    pub(crate) etag: Option<IntentNumber>,
}

/// The parts of a spec that an update replaces.
#[derive(Debug, Default)]
pub(crate) struct SpecUpdate {
    pub(crate) spec: WorkspaceSpec,
    pub(crate) private: PrivateParts,
    /// Names of fields, as in the API.
    pub(crate) fields: Vec<String>,
}

impl Workspaces {
    pub(crate) async fn create(&self, create: Create) -> Result<WorkspaceRecord> {
        self.check(&create.spec, &create.private)?;
        let workspace = create.workspace.unwrap_or_else(WorkspaceId::generate);
        let (sealed_token, token_hash) = self.mint(workspace, Generation(1));
        let new = NewWorkspace {
            workspace,
            organization: self.organization,
            readiness: self.rules.readiness(&create.spec),
            spec: create.spec,
            private: self.seal(workspace, &create.private)?,
            sealed_token,
            token_hash,
            trace: trace::current(),
        };
        if create.validate_only {
            return Ok(preview(&new, self.clock.now()));
        }
        self.forwarder.provisioning.ready()?;
        let (record, _) = self.store.create(&new, create.key.as_ref(), self.clock.now()).await?;
        self.forwarder.forward(record).await
    }

    pub(crate) async fn get(&self, workspace: WorkspaceId) -> Result<WorkspaceRecord> {
        let found = self.store.get(self.organization, workspace).await?;
        found.ok_or_else(|| Error::workspace_not_found(workspace))
    }

    pub(crate) async fn stop(&self, workspace: WorkspaceId, on: Conditions) -> Result<WorkspaceRecord> {
        let stored = self.store_change(workspace, on, |record| {
            refuse_deleting(record)?;
            Ok(intent(Intent::Stop(None)))
        });
        self.forwarder.forward_soon(stored.await?).await
    }

    /// Stops a workspace for a reason of its own: it has failed.
    pub(crate) async fn fail(
        &self,
        workspace: WorkspaceId,
        seen: IntentNumber,
        reason: Reason,
        message: String,
    ) -> Result<WorkspaceRecord> {
        let on = Conditions { key: None, etag: Some(seen) };
        let stored = self.store_change(workspace, on, |record| {
            refuse_deleting(record)?;
            Ok(intent(Intent::Stop(Some((reason, message)))))
        });
        self.forwarder.forward_soon(stored.await?).await
    }

    pub(crate) async fn start(&self, workspace: WorkspaceId, on: Conditions) -> Result<WorkspaceRecord> {
        self.change(workspace, on, |record| {
            refuse_deleting(record)?;
            if record.phase == Phase::Failed {
                return Err(Error::new(
                    ErrorReason::WrongState,
                    format!("workspace {workspace} has FAILED; restart it, or delete it"),
                ));
            }
            Ok(intent(Intent::Start))
        })
        .await
    }

    pub(crate) async fn restart(
        &self,
        workspace: WorkspaceId,
        on: Conditions,
        reset_session: bool,
    ) -> Result<WorkspaceRecord> {
        self.change(workspace, on, |record| {
            refuse_deleting(record)?;
            Ok(self.replacement(record, true, reset_session))
        })
        .await
    }

    pub(crate) async fn delete(&self, workspace: WorkspaceId, on: Conditions) -> Result<WorkspaceRecord> {
        let found = self.get(workspace).await?;
        if found.is_deleting() && on.etag.is_none() {
            return Ok(found);
        }
        let stored = self.store_change(workspace, on, |_| Ok(intent(Intent::Delete))).await?;
        self.forwarder.forward_soon(stored).await
    }

    pub(crate) async fn update(
        &self,
        workspace: WorkspaceId,
        on: Conditions,
        update: SpecUpdate,
        validate_only: bool,
    ) -> Result<WorkspaceRecord> {
        let sealed =
            self.store.private(workspace).await?.ok_or_else(|| Error::workspace_not_found(workspace))?;
        let mut private = self.open(workspace, &sealed)?;
        let before = private.clone();
        let decide = |record: &WorkspaceRecord| {
            refuse_deleting(record)?;
            let mut spec = record.spec.clone();
            merge(&mut spec, &mut private, update)?;
            self.check(&spec, &private)?;
            let readiness = self.rules.readiness(&spec);
            let replaces = private != before || is_another_instance(&record.spec, &spec);
            let mut change = if replaces {
                self.replacement(record, record.desired == Desired::Running, false)
            } else {
                ChangeIntent { intent: None, spec: None, private: None, token: None, trace: trace::current() }
            };
            change.private = Some(self.seal(workspace, &private)?);
            change.spec = Some((spec, readiness));
            Ok(change)
        };
        if validate_only {
            let mut record = self.get(workspace).await?;
            let change = decide(&record)?;
            if let Some((spec, readiness)) = change.spec {
                (record.spec, record.readiness) = (spec, readiness);
            }
            return Ok(record);
        }
        self.change(workspace, on, decide).await
    }

    /// A change that needs an answer now: the provider may refuse it.
    async fn change(
        &self,
        workspace: WorkspaceId,
        on: Conditions,
        decide: impl FnOnce(&WorkspaceRecord) -> Result<ChangeIntent> + Send,
    ) -> Result<WorkspaceRecord> {
        self.forwarder.provisioning.ready()?;
        let stored = self.store_change(workspace, on, decide).await?;
        self.forwarder.forward(stored).await
    }

    async fn store_change(
        &self,
        workspace: WorkspaceId,
        on: Conditions,
        decide: impl FnOnce(&WorkspaceRecord) -> Result<ChangeIntent> + Send,
    ) -> Result<WorkspaceRecord> {
        let now = self.clock.now();
        Ok(self.store.change(self.organization, workspace, on.etag, on.key.as_ref(), now, decide).await?)
    }

    fn replacement(&self, record: &WorkspaceRecord, run: bool, reset_session: bool) -> ChangeIntent {
        let token = self.mint(record.workspace, record.generation.next());
        let intent = Some(Intent::Replace { run, reset_session });
        ChangeIntent { intent, spec: None, private: None, token: Some(token), trace: trace::current() }
    }

    /// A new bootstrap token: sealed for the launcher, and its hash for us.
    fn mint(&self, workspace: WorkspaceId, generation: Generation) -> (Vec<u8>, Vec<u8>) {
        let token = token::generate("boot");
        let sealed = self.key.seal(token.expose_secret().as_bytes(), &token_context(workspace, generation));
        (sealed, token::hash(token.expose_secret()))
    }

    fn seal(&self, workspace: WorkspaceId, private: &PrivateParts) -> Result<Vec<u8>> {
        let plain = serde_json::to_vec(private).map_err(Error::internal)?;
        Ok(self.key.seal(&plain, &private_context(workspace)))
    }

    /// Opens a workspace's config files and secrets.
    pub(crate) fn open(&self, workspace: WorkspaceId, sealed: &[u8]) -> Result<PrivateParts> {
        let plain = self.key.open(sealed, &private_context(workspace));
        let plain =
            plain.ok_or_else(|| Error::internal("secrets can't be unsealed: seal.key is not their key"))?;
        serde_json::from_slice(&plain).map_err(Error::internal)
    }

    fn check(&self, spec: &WorkspaceSpec, private: &PrivateParts) -> Result<()> {
        self.rules.check(spec, private)?;
        let nature = self.forwarder.provisioning.nature();
        let binds = nature.capabilities.iter().any(|one| one == "mount.host_path");
        if spec.mount != Mount::None && !binds {
            return Err(Error::field(
                "spec.mount.host_path",
                "workspaces of this server can't bind folders of a host; GetServerInfo would declare mount.host_path",
            ));
        }
        check_mount(&spec.mount, &self.roots)
    }
}

fn private_context(workspace: WorkspaceId) -> String {
    format!("private/{workspace}")
}

fn intent(intent: Intent) -> ChangeIntent {
    ChangeIntent { intent: Some(intent), spec: None, private: None, token: None, trace: trace::current() }
}

fn refuse_deleting(record: &WorkspaceRecord) -> Result<()> {
    if record.is_deleting() {
        return Err(Error::new(
            ErrorReason::WorkspaceDeleted,
            format!("workspace {} is deleted or being deleted; create another", record.workspace),
        ));
    }
    Ok(())
}

/// Whether a changed spec needs another instance.
fn is_another_instance(before: &WorkspaceSpec, after: &WorkspaceSpec) -> bool {
    before.runtime != after.runtime
        || before.tier != after.tier
        || before.env != after.env
        || before.mount != after.mount
}

/// The fields of a spec that an update can name.
const SPEC_FIELDS: [&str; 11] = [
    "name",
    "runtime",
    "tier",
    "labels",
    "parent_workspace_id",
    "role",
    "config_files",
    "env",
    "secrets",
    "mount",
    "readiness",
];

fn merge(spec: &mut WorkspaceSpec, private: &mut PrivateParts, update: SpecUpdate) -> Result<()> {
    let SpecUpdate { spec: new, private: new_private, fields } = update;
    let all = fields.iter().any(|field| field == "*");
    let has = |name: &str| all || fields.iter().any(|field| field == name);
    let mut violations = Violations::default();
    for field in fields.iter().filter(|field| *field != "*" && !SPEC_FIELDS.contains(&field.as_str())) {
        violations.add("update_mask", format!("there is no field {field:?}; use {}", SPEC_FIELDS.join(", ")));
    }
    violations.require(!fields.is_empty(), "update_mask", "names at least one field of spec, or is *");
    violations.into_result()?;
    let WorkspaceSpec { name, runtime, tier, labels, parent, role, env, mount, readiness } = new;
    macro_rules! take {
        ($($field:literal => $slot:expr, $value:expr;)*) => { $(if has($field) { $slot = $value; })* };
    }
    take! {
        "name" => spec.name, name;
        "runtime" => spec.runtime, runtime;
        "tier" => spec.tier, tier;
        "labels" => spec.labels, labels;
        "parent_workspace_id" => spec.parent, parent;
        "role" => spec.role, role;
        "env" => spec.env, env;
        "mount" => spec.mount, mount;
        "readiness" => spec.readiness, readiness;
        "config_files" => private.config_files, new_private.config_files;
        "secrets" => private.secrets, new_private.secrets;
    }
    Ok(())
}

/// A bound folder must be below an allowed root once every link in it is resolved.
fn check_mount(mount: &Mount, roots: &[PathBuf]) -> Result<()> {
    let (Mount::ReadOnly(path) | Mount::ReadWrite(path)) = mount else { return Ok(()) };
    let refuse = |why: String| Err(Error::field("spec.mount.host_path", why));
    if roots.is_empty() {
        return refuse(
            "this server allows no folders of the host; its operator sets WORKSPACE_ROOTS".to_owned(),
        );
    }
    let canonical = match std::path::Path::new(path).canonicalize() {
        Ok(canonical) => canonical,
        Err(error) => return refuse(format!("{path}: {error}")),
    };
    if canonical != std::path::Path::new(path) {
        return refuse(format!("{path} is a link, or leads over one; use {}", canonical.display()));
    }
    if !canonical.is_dir() {
        return refuse(format!("{path} is not a folder"));
    }
    if !roots.iter().any(|root| canonical.starts_with(root)) {
        warn!(path, "a folder outside the allowed roots was asked for");
        return refuse(format!("{path} is not below one of the allowed roots"));
    }
    Ok(())
}

fn preview(new: &NewWorkspace, now: molecule_domain::Timestamp) -> WorkspaceRecord {
    use molecule_domain::id::Revision;
    WorkspaceRecord {
        workspace: new.workspace,
        organization: new.organization,
        spec: new.spec.clone(),
        readiness: new.readiness,
        intent: IntentNumber(0),
        generation: Generation(0),
        desired: Desired::Running,
        phase: Phase::Admitted,
        phase_since: now,
        reason: None,
        message: "valid; nothing was stored".to_owned(),
        instance_generation: Generation(0),
        instance_revision: Revision(0),
        endpoint: None,
        agent: molecule_store_sqlite::tenant::model::AgentRecord::default(),
        trace: String::new(),
        created_at: now,
        updated_at: now,
        deleted_at: None,
        revision: Revision(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_folder_is_real_and_below_a_root() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap().join("root");
        let inside = root.join("inside");
        std::fs::create_dir_all(&inside).unwrap();
        let outside = folder.path().canonicalize().unwrap().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, root.join("escape")).unwrap();
        let check = |path: &std::path::Path| {
            check_mount(&Mount::ReadWrite(path.display().to_string()), std::slice::from_ref(&root)).is_ok()
        };
        assert!(check(&inside));
        assert!(check(&root));
        assert!(!check(&outside));
        assert!(!check(&root.join("escape")));
        assert!(!check(&root.join("../outside")));
        assert!(!check(&root.join("missing")));
        assert!(check_mount(&Mount::ReadOnly(inside.display().to_string()), &[]).is_err());
    }

    #[test]
    fn an_update_touches_only_what_its_mask_names() {
        let mut spec = WorkspaceSpec { name: "old".into(), role: "old".into(), ..WorkspaceSpec::default() };
        let mut private = PrivateParts::default();
        let update = |fields: &[&str]| SpecUpdate {
            spec: WorkspaceSpec { name: "new".into(), ..WorkspaceSpec::default() },
            private: PrivateParts::default(),
            fields: fields.iter().map(|&f| f.to_owned()).collect(),
        };
        merge(&mut spec, &mut private, update(&["name"])).unwrap();
        assert_eq!((spec.name.as_str(), spec.role.as_str()), ("new", "old"));
        assert!(merge(&mut spec, &mut private, update(&[])).is_err());
        assert!(merge(&mut spec, &mut private, update(&["nmae"])).is_err());
        merge(&mut spec, &mut private, update(&["*"])).unwrap();
        assert_eq!(spec.role, "");
    }
}
