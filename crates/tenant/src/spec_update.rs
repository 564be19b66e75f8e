//! What an update changes of a spec.

use molecule_domain::Violations;
use molecule_domain::error::Result;
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

#[cfg(test)]
mod tests {
    use super::*;

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
