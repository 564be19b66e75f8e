//! What an update changes of a spec.

use std::time::Duration;

use molecule_domain::Violations;
use molecule_domain::error::{Error, ErrorReason, Result};
use molecule_domain::spec::{PrivateParts, WorkspaceSpec};
use molecule_workspace::{Entry, Workspace};

/// The parts of a spec that an update replaces.
#[derive(Clone, Debug, Default)]
pub struct SpecUpdate {
    /// The new spec; only the fields that are named count.
    pub spec: WorkspaceSpec,
    /// Likewise.
    pub private: PrivateParts,
    /// Names of fields, as in the API.
    pub fields: Vec<String>,
}

impl SpecUpdate {
    fn names(&self, field: &str) -> bool {
        self.fields.iter().any(|named| named == "*" || named == field)
    }
}

/// Whether a changed spec needs another instance.
pub(crate) fn is_another_instance(before: &WorkspaceSpec, after: &WorkspaceSpec) -> bool {
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

/// Takes over the fields that the update names.
pub(crate) fn merge(spec: &mut WorkspaceSpec, private: &mut PrivateParts, update: &SpecUpdate) -> Result<()> {
    let mut violations = Violations::default();
    for field in update.fields.iter().filter(|field| *field != "*" && !SPEC_FIELDS.contains(&field.as_str()))
    {
        violations.add("update_mask", format!("there is no field {field:?}; use {}", SPEC_FIELDS.join(", ")));
    }
    violations.require(!update.fields.is_empty(), "update_mask", "names at least one field of spec, or is *");
    violations.into_result()?;
    let WorkspaceSpec { name, runtime, tier, labels, parent, role, env, mount, readiness } =
        update.spec.clone();
    let new_private = update.private.clone();
    macro_rules! take {
        ($($field:literal => $slot:expr, $value:expr;)*) => { $(if update.names($field) { $slot = $value; })* };
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

/// What waits for the provider's answer, and may be taken back.
pub(crate) struct Waiting<'a> {
    found: &'a Workspace,
    wishes: Vec<&'a Entry>,
}

impl<'a> Waiting<'a> {
    pub(crate) fn of(found: &'a Workspace) -> Self {
        Self { found, wishes: found.outbox.iter().filter(|entry| entry.may_be_refused()).collect() }
    }

    /// Refuses an update that makes `now`, which the private parts are, to `after`, where it sets a field to what one of these
    /// has set it to: were that one refused, the field would be taken back although somebody else has asked for it. What asks for
    /// nothing but what is so by the only one of them shares its answer.
    pub(crate) fn refuse_overlap(
        &self,
        now: &PrivateParts,
        after: (&WorkspaceSpec, &PrivateParts),
        update: &SpecUpdate,
    ) -> Result<()> {
        let asks_for_nothing = self.found.record.spec == *after.0 && now == after.1;
        if self.wishes.is_empty() || asks_for_nothing && self.wishes.len() == 1 {
            return Ok(());
        }
        let mut both = Vec::new();
        macro_rules! compare {
            ($($name:literal => $field:ident;)*) => {
                $(if update.names($name) && self.wishes.iter().any(|entry| {
                    entry.spec.$field != entry.undo.spec.$field && entry.spec.$field == after.0.$field
                }) {
                    both.push($name);
                })*
            };
        }
        compare! {
            "name" => name;
            "runtime" => runtime;
            "tier" => tier;
            "labels" => labels;
            "parent_workspace_id" => parent;
            "role" => role;
            "env" => env;
            "mount" => mount;
            "readiness" => readiness;
        }
        // what is sealed anew differs from all that was sealed before, whatever it says
        let granted = self.found.clone().if_refused().private;
        let sealed = &self.found.private;
        macro_rules! compare_sealed {
            ($($name:literal => $part:ident;)*) => {
                $(if update.names($name) && sealed.$part != granted.$part && now.$part == after.1.$part {
                    both.push($name);
                })*
            };
        }
        compare_sealed! {
            "config_files" => config_files;
            "secrets" => secrets;
        }
        if both.is_empty() {
            return Ok(());
        }
        let fields = both.join(", ");
        let message = format!(
            "an earlier request sets {fields} to the same and may be refused yet; ask again once it is answered, or without \
             {fields}"
        );
        Err(Error::new(ErrorReason::ChangeInProgress, message).with_retry_after(Duration::from_secs(1)))
    }
}

#[cfg(test)]
mod tests {
    use molecule_domain::Timestamp;
    use molecule_domain::id::{IncarnationId, OrganizationId, WorkspaceId};
    use molecule_domain::lifecycle::Readiness;
    use molecule_workspace::Wish;
    use molecule_workspace::aggregate::{Change, NewWorkspace, SealedToken};
    use molecule_workspace::private::SealedParts;

    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1);

    fn spec(name: &str, role: &str) -> WorkspaceSpec {
        WorkspaceSpec { name: name.into(), role: role.into(), ..WorkspaceSpec::default() }
    }

    fn parts(secret: &str) -> PrivateParts {
        let secrets = [("key".to_owned(), secret.to_owned())].into();
        PrivateParts { secrets, ..PrivateParts::default() }
    }

    /// A granted workspace, and what its private parts are.
    struct Updated {
        workspace: Workspace,
        parts: PrivateParts,
        /// How often something was sealed: no two are alike.
        sealed: u8,
    }

    impl Updated {
        fn granted(name: &str, role: &str, secret: &str) -> Self {
            let token = SealedToken { sealed: Vec::new(), hash: Vec::new() };
            let new = NewWorkspace {
                workspace: WorkspaceId::generate(),
                organization: OrganizationId::SELF_HOSTED,
                spec: spec(name, role),
                readiness: Readiness::Agent,
                private: SealedParts::default(),
                token,
                trace: String::new(),
            };
            let (mut workspace, _) = Workspace::create(&new, None, NOW, IncarnationId::generate(), None);
            workspace.outbox.clear();
            Self { workspace, parts: parts(secret), sealed: 0 }
        }

        /// What is said to an update of these fields.
        fn is_refused(&self, asked: &WorkspaceSpec, secret: &str, fields: &[&str]) -> Result<()> {
            let (update, spec, parts) = self.merged(asked, secret, fields);
            Waiting::of(&self.workspace).refuse_overlap(&self.parts, (&spec, &parts), &update)
        }

        fn merged(
            &self,
            asked: &WorkspaceSpec,
            secret: &str,
            fields: &[&str],
        ) -> (SpecUpdate, WorkspaceSpec, PrivateParts) {
            let fields = fields.iter().map(|&field| field.to_owned()).collect();
            let update = SpecUpdate { spec: asked.clone(), private: parts(secret), fields };
            let (mut spec, mut parts) = (self.workspace.record.spec.clone(), self.parts.clone());
            merge(&mut spec, &mut parts, &update).unwrap();
            (update, spec, parts)
        }

        /// Stores an update with a wish of its own, of which a call is begun, or without one.
        fn update(mut self, asked: &WorkspaceSpec, secret: &str, fields: &[&str], replaces: bool) -> Self {
            self.is_refused(asked, secret, fields).unwrap();
            let (_, spec, parts) = self.merged(asked, secret, fields);
            let private = (parts != self.parts).then(|| {
                self.sealed += 1;
                SealedParts { secrets: vec![self.sealed], ..self.workspace.private.clone() }
            });
            let wish = replaces.then_some(Wish::Replace { run: true, reset_session: false });
            let change = Change { wish, spec: Some((spec, Readiness::Agent)), private, ..Change::default() };
            self.workspace.change(change, None, NOW, IncarnationId::generate());
            self.workspace.outbox.iter_mut().for_each(|entry| entry.begun = true);
            Self { parts, ..self }
        }
    }

    /// Each of several wishes may be refused by itself.
    #[test]
    fn who_asks_for_what_waits_in_several_wishes_asks_again() {
        let one = || Updated::granted("ant", "digs", "old").update(&spec("bee", ""), "", &["name"], true);
        one().is_refused(&spec("bee", ""), "", &["name"]).unwrap();
        let two = one().update(&spec("", "flies"), "", &["role"], true);
        assert!(two.is_refused(&spec("bee", ""), "", &["name"]).is_err());
        // what it asks for was so before them
        two.is_refused(&spec("", ""), "old", &["secrets"]).unwrap();
    }

    #[test]
    fn who_asks_for_some_of_what_waits_and_for_more_asks_again() {
        let granted = || Updated::granted("ant", "digs", "old");
        let waits = granted().update(&spec("bee", ""), "new", &["name", "secrets"], true);
        let asked = spec("bee", "flies");
        let refused = waits.is_refused(&asked, "new", &["name", "role", "secrets"]).unwrap_err();
        assert_eq!(refused.reason, ErrorReason::ChangeInProgress);
        assert!(refused.message.contains("sets name, secrets to the same"), "{refused}");
        assert!(waits.is_refused(&asked, "new", &["*"]).is_err());
        // all of it waits, and is answered together
        waits.is_refused(&asked, "new", &["name", "secrets"]).unwrap();
        // nothing of it does
        waits.is_refused(&asked, "new", &["role"]).unwrap();
        waits.is_refused(&spec("cow", "flies"), "old", &["*"]).unwrap();
        granted().is_refused(&asked, "new", &["*"]).unwrap();
    }

    /// What waits is taken back with its refusal wherever a field still is as it set it, or is so again.
    #[test]
    fn who_asks_for_what_an_earlier_wish_has_set_asks_again_whatever_was_set_since() {
        let waits = || Updated::granted("ant", "digs", "old").update(&spec("bee", ""), "new", &["*"], true);
        let since = waits().update(&spec("cow", ""), "", &["name"], false);
        assert!(since.is_refused(&spec("bee", ""), "", &["name"]).is_err());
        // what asks for what it was before all that is not taken back by either
        since.is_refused(&spec("ant", ""), "", &["name"]).unwrap();
        // another one that waits has set it back to that
        let back = waits().update(&spec("ant", ""), "", &["name"], true);
        assert!(back.is_refused(&spec("ant", "flies"), "", &["name", "role"]).is_err());
        // what is sealed anew is nobody else's
        let sealed = waits().update(&spec("", ""), "newer", &["secrets"], true);
        sealed.is_refused(&spec("", ""), "new", &["secrets"]).unwrap();
        assert!(sealed.is_refused(&spec("cow", ""), "newer", &["name", "secrets"]).is_err());
    }

    /// What is stored is there when all that waits was refused.
    #[test]
    fn what_was_accepted_beside_a_wish_outlives_its_refusal() {
        let waits = Updated::granted("ant", "digs", "old").update(&spec("bee", ""), "", &["name"], true);
        let since = waits.update(&spec("cow", ""), "", &["name"], false);
        let again = since.update(&spec("ant", ""), "", &["name"], false);
        assert_eq!(again.workspace.if_refused().record.spec.name, "ant");
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
        merge(&mut spec, &mut private, &update(&["name"])).unwrap();
        assert_eq!((spec.name.as_str(), spec.role.as_str()), ("new", "old"));
        assert!(merge(&mut spec, &mut private, &update(&[])).is_err());
        assert!(merge(&mut spec, &mut private, &update(&["nmae"])).is_err());
        merge(&mut spec, &mut private, &update(&["*"])).unwrap();
        assert_eq!(spec.role, "");
    }
}
