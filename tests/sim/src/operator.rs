//! What operators do: they put databases back, and look over what no record explains then.

use std::time::Duration;

use molecule_domain::error::Result;
use molecule_domain::id::OrganizationId;
use molecule_domain::limits::Standing;
use molecule_provisioner::admission::Account;
use molecule_provisioner::reconciler::orphans::Orphans;
use molecule_provisioner::store::Store;
use tokio::sync::oneshot;

use crate::client::Ask;
use crate::control::Backup;
use crate::coverage::Restored;
use crate::pair::Pair;
use crate::trouble;
use crate::world::Whom;

/// For how long an agent may be waited for that has connected in a time that is lost: for as long as the network was cut, and then
/// until it is given up.
const CONNECTS: Duration = Duration::from_secs(2 * 3600);

/// A database is set back to what it was a while ago.
pub async fn restore(pair: &Pair) {
    let world = &pair.world;
    let later = world.rng().seconds(60, 3 * 3600);
    let one = usize::try_from(world.rng().below(pair.tenants.len() as u64 + 1)).unwrap_or(0);
    if let Some(tenant) = pair.tenants.get(one) {
        let backup = tenant.database().data();
        tokio::time::sleep(later).await;
        if world.is_over() {
            return;
        }
        world.tell("operator", 65, || format!("RESTORES tenant {}, set back by {later:?}", one + 1));
        *world.coverage().restored.entry(Restored::Tenant).or_default() += 1;
        if tenant.network.is_cut() {
            // where nobody has heard of the time that is lost, nobody can tell that it is
            world.is_wrong("restored unheard", Whom::Organization(tenant.organization), CONNECTS);
        }
        pair.restore_tenant(one, backup).await;
    } else {
        let backup = pair.control.backup();
        tokio::time::sleep(later).await;
        if world.is_over() {
            return;
        }
        restore_control(pair, backup, later).await;
    }
    world.coverage().trouble("restore");
}

/// The control plane's database is set back to a backup that is so old.
pub(crate) async fn restore_control(pair: &Pair, backup: Backup, age: Duration) {
    let world = &pair.world;
    world.is_wrong("restored", Whom::Everybody, Duration::from_secs(60));
    world.tell("operator", 66, || format!("RESTORES the control plane, set back by {age:?}"));
    *world.coverage().restored.entry(Restored::ControlPlane).or_default() += 1;
    let organizations: Vec<_> = pair.tenants.iter().map(|tenant| tenant.organization).collect();
    pair.restore_control(backup).await;
    delete_some_that_are_lost(pair, &organizations);
    for organization in organizations {
        // the operator looks over the accounts
        set_standing(pair, organization, Standing::Good).await;
        if pair.control.is_suspended(organization) {
            pair.control.suspend_in(&pair.control.database(), organization, pair.control.now()).await;
        }
    }
}

/// Somebody deletes what the restored control plane does not know, before the two sides have agreed.
fn delete_some_that_are_lost(pair: &Pair, organizations: &[OrganizationId]) {
    let all = organizations.iter().flat_map(|organization| pair.oracle.workspaces(*organization));
    for workspace in all.filter(|workspace| !pair.control.knows(*workspace)) {
        if pair.world.rng().once_in(3) {
            let after = pair.world.rng().seconds(0, 60);
            trouble::ask(pair, Ask::Delete, workspace, after);
        }
    }
}

/// After a restore of the control plane an alarm stands wherever something was launched that it does not know, and the
/// sweep destroys nothing: an operator looks at what would go, and ends the alarm once all tenants have agreed with the
/// restored control plane.
pub async fn attend_to_alarms(pair: &Pair) {
    loop {
        pair.control.alarm_raised().await;
        while !pair.control.database().alarms().await.unwrap_or_default().is_empty() {
            let pause = pair.world.rng().seconds(60, 900);
            // what is left of before is in the way until then
            pair.world.is_wrong("restored", Whom::Everybody, pause + Duration::from_secs(60));
            tokio::time::sleep(pause).await;
            if pair.is_whole() && pair.has_agreed() {
                end_alarm(pair).await;
            }
        }
    }
}

async fn end_alarm(pair: &Pair) {
    let mut places = 0..pair.control.places();
    let Some(place) = places.find(|place| pair.control.replica(*place).process.is_well()) else { return };
    let replica = pair.control.replica(place);
    // a replica that dies meanwhile answers nothing
    let (sender, receiver) = oneshot::channel::<Result<Option<Orphans>>>();
    let engine = replica.engine.clone();
    replica.process.spawn(async move {
        let looked = async {
            let orphans = engine.orphans().await?;
            if let Some(orphans) = &orphans {
                engine.end_alarm(orphans).await?;
            }
            Ok(orphans)
        };
        // nobody else ends this wait
        let _ = sender.send(looked.await);
    });
    let Ok(Ok(Some(orphans))) = receiver.await else { return };
    pair.world.tell("operator", 67, || format!("ends the alarm: {orphans:?}"));
    pair.world.coverage().figure("alarms ended");
}

/// Changes whether an organisation may launch.
pub(crate) async fn set_standing(pair: &Pair, organization: OrganizationId, standing: Standing) {
    let database = pair.control.database();
    if let Ok(account) = database.account(organization, pair.world.now()).await {
        // the memory store takes any account
        let _ = database.set_account(organization, Account { standing, ..account }).await;
    }
}
