//! Who may stand above whom.

use molecule_domain::Error;
use molecule_domain::id::WorkspaceId;
use molecule_domain::lifecycle::Desired;
use molecule_workspace::WorkspaceRecord;
use molecule_workspace::kinship::check_parent;

use crate::world::{record, workspace_id};

fn above(id: u8) -> WorkspaceRecord {
    WorkspaceRecord { workspace: workspace_id(id), ..record() }
}

fn refusal(parent: WorkspaceId, above: &[WorkspaceRecord]) -> Option<String> {
    let refused = |error: Error| {
        let [violation] = &error.fields[..] else { panic!("{error:?}") };
        assert_eq!(violation.field, "spec.parent_workspace_id");
        violation.description.clone()
    };
    check_parent(workspace_id(1), parent, above).err().map(refused)
}

#[test]
fn a_parent_is_there_and_not_deleted() {
    let parent = workspace_id(2);
    assert_eq!(refusal(parent, &[above(2)]), None);
    assert_eq!(refusal(parent, &[above(2), above(3)]), None);
    let missing = Some(format!("there is no workspace {parent}"));
    assert_eq!(refusal(parent, &[]), missing);
    let deleted = WorkspaceRecord { desired: Desired::Deleted, ..above(2) };
    assert_eq!(refusal(parent, &[deleted]), missing);
}

#[test]
fn nothing_stands_above_itself() {
    let itself = Some("a workspace can't be above itself".to_owned());
    assert_eq!(refusal(workspace_id(1), &[above(2)]), itself);
    assert_eq!(refusal(workspace_id(2), &[above(2), above(3), above(1)]), itself);
}
