//! Who reads and changes nothing: clients that list, look at events and have an update checked, and operators that look at
//! one instance. What they hear may be an error; that they are answered changes nothing.

use molecule_domain::id::WorkspaceId;
use molecule_tenant::spec_update::SpecUpdate;
use molecule_workspace::store::Conditions;

use crate::client::made;
use crate::pair::Pair;

/// Somebody looks at a workspace, from both sides.
pub(crate) fn look(pair: &Pair, tenant: usize, workspace: WorkspaceId, number: u64) {
    let organization = pair.tenants[tenant].organization;
    if let Some(serving) = pair.tenants[tenant].serving() {
        let workspaces = serving.workspaces;
        serving.process.spawn(async move {
            let store = &workspaces.store;
            let _ = store.list(organization, number.is_multiple_of(2), None, 10).await;
            let _ = store.events(workspace, None, 10).await;
            let (spec, private) = made(number);
            let update = SpecUpdate { spec, private, fields: vec!["labels".to_owned()] };
            let _ = workspaces.update(workspace, Conditions::default(), update, true).await;
        });
    }
    if let Some(replica) = pair.control.some_replica() {
        let instances = replica.instances;
        replica.process.spawn(async move {
            let _ = instances.get(organization, workspace).await;
        });
    }
}
