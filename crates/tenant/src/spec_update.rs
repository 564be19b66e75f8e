//! What an update changes of a spec.

use std::time::Duration;

use molecule_domain::Violations;
use molecule_domain::error::{Error, ErrorReason, Result};
use molecule_domain::spec::{PrivateParts, WorkspaceSpec};

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
pub(crate) fn merge(spec: &mut WorkspaceSpec, private: &mut PrivateParts, update: SpecUpdate) -> Result<()> {
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

/// A spec and the private parts beside it.
pub(crate) type Whole = (WorkspaceSpec, PrivateParts);

/// Refuses an update that has made `now` to `after`, where it asks for some of what waits for the provider's answer, and for more:
/// were the former refused, that would be lost to the latter as well. `granted` is what there is without what waits, which is
/// so many wishes: what asks for nothing but the only one of them shares its answer.
pub(crate) fn refuse_overlap(
    granted: &Whole,
    now: &Whole,
    after: &Whole,
    waiting: usize,
    update: SpecUpdate,
) -> Result<()> {
    if now == after && waiting == 1 {
        return Ok(());
    }
    let mut alone = granted.clone();
    merge(&mut alone.0, &mut alone.1, update)?;
    let mut both = Vec::new();
    macro_rules! compare {
        ($($name:literal => $part:tt.$field:ident;)*) => {
            $(if alone.$part.$field != granted.$part.$field && alone.$part.$field == now.$part.$field {
                both.push($name);
            })*
        };
    }
    compare! {
        "name" => 0.name;
        "runtime" => 0.runtime;
        "tier" => 0.tier;
        "labels" => 0.labels;
        "parent_workspace_id" => 0.parent;
        "role" => 0.role;
        "env" => 0.env;
        "mount" => 0.mount;
        "readiness" => 0.readiness;
        "config_files" => 1.config_files;
        "secrets" => 1.secrets;
    }
    if both.is_empty() {
        return Ok(());
    }
    let fields = both.join(", ");
    let message = format!(
        "an earlier request sets {fields} to the same and may be refused yet; ask again once it is answered, or without {fields}"
    );
    Err(Error::new(ErrorReason::ChangeInProgress, message).with_retry_after(Duration::from_secs(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(name: &str, role: &str, secret: &str) -> Whole {
        let spec = WorkspaceSpec { name: name.into(), role: role.into(), ..WorkspaceSpec::default() };
        let secrets = [("key".to_owned(), secret.to_owned())].into();
        (spec, PrivateParts { secrets, ..PrivateParts::default() })
    }

    /// What becomes of an update of these fields to all of `asked`.
    fn overlap_of(
        granted: &Whole,
        now: &Whole,
        asked: &Whole,
        fields: &[&str],
        waiting: usize,
    ) -> Result<()> {
        let update = SpecUpdate {
            spec: asked.0.clone(),
            private: asked.1.clone(),
            fields: fields.iter().map(|&field| field.to_owned()).collect(),
        };
        let mut after = now.clone();
        merge(&mut after.0, &mut after.1, update.clone())?;
        refuse_overlap(granted, now, &after, waiting, update)
    }

    fn overlap(granted: &Whole, now: &Whole, asked: &Whole, fields: &[&str]) -> Result<()> {
        overlap_of(granted, now, asked, fields, 1)
    }

    /// Each of several wishes may be refused by itself.
    #[test]
    fn who_asks_for_what_waits_in_several_wishes_asks_again() {
        let (granted, now) = (whole("ant", "digs", "old"), whole("bee", "flies", "old"));
        assert!(overlap_of(&granted, &now, &now, &["name"], 2).is_err());
        overlap_of(&granted, &now, &now, &["name"], 1).unwrap();
        // what it asks for was so before them
        overlap_of(&granted, &now, &now, &["secrets"], 2).unwrap();
    }

    #[test]
    fn who_asks_for_some_of_what_waits_and_for_more_asks_again() {
        let (granted, now) = (whole("ant", "digs", "old"), whole("bee", "digs", "new"));
        let asked = whole("bee", "flies", "new");
        let refused = overlap(&granted, &now, &asked, &["name", "role", "secrets"]).unwrap_err();
        assert_eq!(refused.reason, ErrorReason::ChangeInProgress);
        assert!(refused.message.contains("sets name, secrets to the same"), "{refused}");
        assert!(overlap(&granted, &now, &asked, &["*"]).is_err());
        // all of it waits, and is answered together
        overlap(&granted, &now, &asked, &["name", "secrets"]).unwrap();
        // nothing of it does
        overlap(&granted, &now, &asked, &["role"]).unwrap();
        overlap(&granted, &now, &whole("cow", "flies", "old"), &["*"]).unwrap();
        overlap(&now, &now, &asked, &["*"]).unwrap();
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
