//! A rolling upgrade: some replicas are of a newer version and store and say words that the other replicas, and tenants of the
//! older version, do not know, until those are upgraded as well.

use std::collections::BTreeSet;
use std::sync::Arc;

use molecule_domain::id::OrganizationId;
use molecule_domain::instance::InstanceView;
use molecule_domain::lifecycle::{Desired, Phase};

use crate::control::ControlPlane;
use crate::pair::Pair;
use crate::world::lock;

/// The phases that a newer version may have another word for. What is deleted is so in every version.
const RENAMED: [Phase; 5] = [Phase::Launching, Phase::Up, Phase::Stopping, Phase::Stopped, Phase::Failed];

/// Who is of which version, and what the newer one says that the older does not know.
#[derive(Clone, Debug)]
pub(crate) struct Upgrade {
    newer: BTreeSet<usize>,
    older: BTreeSet<OrganizationId>,
    phases: Vec<Phase>,
    /// Whether what is wanted of such a workspace has a new word as well.
    and_desired: bool,
}

impl ControlPlane {
    /// An instance as a tenant hears of it from the replica of a place.
    pub(crate) fn as_heard(&self, place: usize, by: OrganizationId, view: InstanceView) -> InstanceView {
        let upgrade = lock(&self.upgrade);
        let Some(upgrade) = upgrade.as_ref().filter(|upgrade| upgrade.is_unreadable(place, by, &view)) else {
            return view;
        };
        self.world.coverage().figure("instances in words that their reader does not know");
        let desired = view.desired.filter(|_| !upgrade.and_desired);
        // as the tenant's reader of the wire leaves open what it does not know
        InstanceView { desired, phase: Phase::Booting, reason: None, in_unknown_state: true, ..view }
    }

    /// Whether everybody is of one version.
    pub(crate) fn is_of_one_version(&self) -> bool {
        lock(&self.upgrade).is_none()
    }
}

impl Upgrade {
    fn is_unreadable(&self, place: usize, by: OrganizationId, view: &InstanceView) -> bool {
        // what a newer replica has stored, an older one can't read; what a newer one says, an older tenant can't
        (!self.newer.contains(&place) || self.older.contains(&by))
            && view.desired != Some(Desired::Deleted)
            && self.phases.contains(&view.phase)
    }
}

/// Some replicas are upgraded now, and each tenant after a while.
pub(crate) fn begins(pair: &Pair) {
    if !pair.control.is_of_one_version() {
        return;
    }
    let world = &pair.world;
    let upgrade = {
        let mut rng = world.rng();
        let places = pair.control.places();
        let first = usize::try_from(rng.below(places as u64)).unwrap_or(0);
        let newer = (0..places).filter(|place| *place == first || rng.once_in(2)).collect();
        let phases = RENAMED.into_iter().filter(|_| rng.once_in(2)).collect();
        let older = pair.tenants.iter().map(|tenant| tenant.organization).collect();
        Upgrade { newer, older, phases, and_desired: rng.once_in(2) }
    };
    world.tell("operator", 68, || format!("UPGRADES replicas: {upgrade:?}"));
    world.coverage().trouble("upgrade");
    for place in &upgrade.newer {
        pair.control.replica(*place).process.kill();
    }
    *lock(&pair.control.upgrade) = Some(upgrade);
    for tenant in 0..pair.tenants.len() {
        let (pair, after) = (pair.clone(), world.rng().seconds(60, 2 * 3600));
        Arc::clone(world).spawn(async move {
            tokio::time::sleep(after).await;
            upgraded(&pair, tenant);
        });
    }
}

/// A tenant is upgraded, where it is not.
fn upgraded(pair: &Pair, tenant: usize) {
    let tenant = &pair.tenants[tenant];
    {
        let mut slot = lock(&pair.control.upgrade);
        let Some(upgrade) = slot.as_mut() else { return };
        if !upgrade.older.remove(&tenant.organization) {
            return;
        }
        if upgrade.older.is_empty() {
            let newer = slot.take().map(|upgrade| upgrade.newer).unwrap_or_default();
            for place in (0..pair.control.places()).filter(|place| !newer.contains(place)) {
                pair.control.replica(place).process.kill();
            }
        }
    }
    pair.world.tell("operator", 69, || format!("UPGRADES tenant {}", tenant.organization));
    if let Some(process) = tenant.last_process() {
        process.kill();
    }
}

/// Whoever is not upgraded is upgraded now.
pub(crate) fn ends(pair: &Pair) {
    (0..pair.tenants.len()).for_each(|tenant| upgraded(pair, tenant));
}
