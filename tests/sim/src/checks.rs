//! What must hold once all is calm.

use std::collections::BTreeMap;
use std::time::Duration;

use molecule_domain::Timestamp;
use molecule_domain::id::{OrganizationId, WorkspaceId};
use molecule_domain::lifecycle::{Desired, Phase, Reason, WorkspaceState};
use molecule_domain::limits::Amounts;
use molecule_domain::tier::Tier;
use molecule_provisioner::admission::Account;
use molecule_provisioner::model::InstanceRecord;
use molecule_provisioner::store::Store;
use molecule_workspace::record::{Pending, WorkspaceRecord};
use molecule_workspace::store::TenantStore;
use molecule_workspace::{Entry, Workspace};

use crate::control::LostFailure;
use crate::explain::{UNSEEN, explains, reach};
use crate::inside::Stretch;
use crate::machine::Machine;
use crate::pair::Pair;
use crate::tenant::{CONNECT, RULES};
use crate::tenant_store::open_private;
use crate::tiling::{is_explained, is_logged};
use crate::violation::Violation;
use crate::wished::{Expected, Fields, Wished, fields_of};
use crate::world::Concerned;

/// One workspace from all sides.
struct Seen<'a> {
    id: WorkspaceId,
    organization: Option<OrganizationId>,
    tenant: Option<Workspace>,
    engine: Option<InstanceRecord>,
    machines: Vec<&'a Machine>,
    expected: Option<Expected>,
    wished: Option<&'a Wished>,
    /// Its failure that was lost when the control plane's database was put back.
    lost_failure: Option<LostFailure>,
    /// Whether its tenant's database was set back.
    set_back: bool,
    /// Whether its organisation has all that it may have.
    full: bool,
}

impl Seen<'_> {
    /// Whether its tenant tells it again to a control plane that has lost it and has no room for it, and says so. What the
    /// provider has of it stays as it is then.
    fn waits_for_room(&self) -> bool {
        let is_down =
            |record: &InstanceRecord| matches!(record.phase, Phase::Gone | Phase::Stopped | Phase::Failed);
        let is_down = self.engine.as_ref().is_none_or(is_down);
        let waits = |workspace: &Workspace| {
            let told = |pending: &Pending| pending.cause.contains("is over the limit");
            // what is to run is held until that is told, whatever its record says; a stop needs no room
            let may_wait =
                |first: &Entry| first.retold && (is_down || first.wish.desired() == Desired::Running);
            workspace.outbox.first().is_some_and(may_wait)
                && workspace.record.pending.as_ref().is_some_and(told)
        };
        self.full && self.tenant.as_ref().is_some_and(waits)
    }
}

fn is_full(account: &Account) -> bool {
    let (limits, used) = (&account.limits, &account.used);
    // the largest tier that is asked for
    let most = RULES.tiers.resources(Tier::ALL[2]);
    let most = Amounts::of_workspace(&most, RULES.disk_gib);
    let reached = |cap: Option<i64>, used: i64, asked: i64| cap.is_some_and(|cap| used + asked > cap);
    reached(limits.running_workspaces, used.running_workspaces, most.running_workspaces)
        || reached(limits.workspaces, used.workspaces, most.workspaces)
        || reached(limits.memory_mib, used.memory_mib, most.memory_mib)
        || reached(limits.milli_cpus, used.milli_cpus, most.milli_cpus)
        || reached(limits.disk_gib, used.disk_gib, most.disk_gib)
}

impl Pair {
    /// Checks everything.
    pub async fn check(&self) {
        let database = self.control.database();
        let (machines, log) = (self.cloud.machines(), self.cloud.log());
        let wished = self.oracle.wished();
        let mut engine: BTreeMap<WorkspaceId, InstanceRecord> = BTreeMap::new();
        for tenant in &self.tenants {
            for record in database.records(tenant.organization) {
                engine.insert(record.workspace, record);
            }
        }
        let mut ids: Vec<WorkspaceId> = wished.keys().copied().collect();
        ids.extend(engine.keys());
        ids.extend(machines.iter().map(|machine| machine.instance.workspace));
        let volumes = self.cloud.volume_owners();
        ids.extend(&volumes);
        ids.sort_unstable();
        ids.dedup();
        for id in ids {
            let organization = wished.get(&id).map(|wished| wished.organization);
            let organization = organization.or_else(|| engine.get(&id).map(|record| record.organization));
            let seen = Seen {
                id,
                organization,
                tenant: self.at_tenant(organization, id).await,
                engine: engine.get(&id).cloned(),
                machines: machines.iter().filter(|machine| machine.instance.workspace == id).collect(),
                expected: wished.get(&id).map(Wished::expected),
                lost_failure: self.control.lost_failure(id),
                set_back: wished.get(&id).is_some_and(Wished::was_set_back),
                wished: wished.get(&id),
                full: match organization {
                    Some(of) => database.account(of, self.world.now()).await.is_ok_and(|of| is_full(&of)),
                    None => false,
                },
            };
            let is_unrecorded = seen.engine.as_ref().is_none_or(|record| record.phase == Phase::Gone);
            if volumes.contains(&seen.id) && is_unrecorded && !seen.waits_for_room() {
                self.broken("nothing is leaked", &seen, "its volumes are left");
            }
            self.check_workspace(&seen);
            self.check_segments(&seen, &log).await;
        }
        self.check_watchers().await;
    }

    async fn at_tenant(&self, organization: Option<OrganizationId>, id: WorkspaceId) -> Option<Workspace> {
        let organization = organization?;
        let tenant = self.tenants.iter().find(|tenant| tenant.organization == organization)?;
        tenant.database().load(organization, id).await.ok().flatten()
    }

    fn broken(&self, rule: &'static str, seen: &Seen<'_>, what: impl Into<String>) {
        let engine = seen.engine.as_ref().map(|record| {
            format!(
                "engine: {} for {:?} ({}), {:?} by {}, generation {} of {}, message {:?}",
                record.phase,
                record.reason,
                record.phase_since,
                record.desired,
                record.intent,
                record.generation,
                record.wanted_generation,
                record.message
            )
        });
        let tenant = seen.tenant.as_ref().map(|workspace| {
            let record = &workspace.record;
            format!(
                "tenant: {:?} ({} for {:?}), {:?} by {}, answered {}, generation {}, outbox {:?}, agent {:?}",
                record.state(),
                record.phase,
                record.reason,
                record.desired,
                record.intent,
                record.answered,
                record.generation,
                workspace.outbox.iter().map(|e| (e.number, e.wish.name())).collect::<Vec<_>>(),
                record.agent.health
            )
        });
        let machines: Vec<_> =
            seen.machines.iter().map(|m| (m.id, m.instance.generation, m.seq, m.is_running())).collect();
        let what = format!(
            "{} {}; expected {:?}; {}; {}; machines {machines:?}",
            seen.id,
            what.into(),
            seen.expected.as_ref().map(|expected| (expected.desired, expected.failed_for)),
            tenant.unwrap_or_else(|| "tenant: nothing".to_owned()),
            engine.unwrap_or_else(|| "engine: nothing".to_owned()),
        );
        self.world.violated(Violation::new(rule, what));
    }

    fn end(&self, name: &'static str) {
        *self.world.coverage().ends.entry(name).or_default() += 1;
    }

    fn check_workspace(&self, seen: &Seen<'_>) {
        let live = seen.engine.as_ref().filter(|record| record.phase != Phase::Gone);
        let kept = seen.tenant.as_ref().filter(|workspace| workspace.record.phase != Phase::Gone);
        let running = seen.machines.iter().filter(|machine| machine.is_running()).count();
        if running > 1 {
            self.broken("nothing is doubled", seen, format!("{running} machines run"));
        }
        if live.is_none() && !seen.machines.is_empty() && !seen.waits_for_room() {
            self.broken("nothing is leaked", seen, "a machine is left");
        }
        if let Some(live) = live {
            for stray in seen.machines.iter().filter(|machine| !is_explained(machine, live)) {
                self.broken(
                    "nothing is leaked",
                    seen,
                    format!("machine {} is not what its record says", stray.id),
                );
            }
            if seen.machines.len() > 1 || live.up_since.is_some() && seen.machines.is_empty() {
                self.broken("nothing is leaked", seen, "its machines are not the one that its record says");
            }
        }
        if seen.wished.is_some_and(|wished| wished.denied) && live.is_some() {
            self.broken("what was answered as not stored never runs", seen, "it is at the engine");
        }
        if seen.waits_for_room() {
            let was_launched = self.cloud.log().iter().any(|stretch| stretch.instance.workspace == seen.id);
            let was_deleted = seen.wished.is_some_and(|wished| wished.was_deleted);
            if was_launched && !was_deleted && !self.cloud.volume_owners().contains(&seen.id) {
                self.broken("what is told again keeps its data", seen, "its volumes are gone");
            }
            return self.end("waits for room after a restore");
        }
        match (kept, live) {
            (Some(kept), Some(live)) => self.check_agreement(seen, kept, live),
            (None, Some(_)) => self.broken("both sides agree", seen, "its tenant does not know it"),
            (Some(_), None) => self.broken("both sides agree", seen, "the engine does not know it"),
            (None, None) => {}
        }
        match seen.expected.as_ref().map(|expected| (expected, expected.desired)) {
            None | Some((_, None)) => {
                if kept.is_some() || live.is_some() {
                    self.broken("no wish is lost", seen, "nothing is wished of it");
                }
                self.end("refused");
            }
            Some((_, Some(Desired::Deleted))) => {
                if kept.is_some() || live.is_some() {
                    self.broken("no wish is lost", seen, "it was to be deleted");
                }
                self.end("deleted");
            }
            Some((expected, Some(desired))) => match kept {
                None => self.broken("no wish is lost", seen, format!("it is wanted {desired:?}")),
                Some(kept) => self.check_wish(seen, expected, desired, kept),
            },
        }
    }

    fn check_agreement(&self, seen: &Seen<'_>, kept: &Workspace, live: &InstanceRecord) {
        let record = &kept.record;
        if !kept.outbox.is_empty() {
            self.broken("nothing is stuck", seen, "its outbox is not empty");
        }
        if live.phase.is_transient() {
            self.broken("nothing is stuck", seen, "it is on its way");
        }
        let generations = (record.generation, record.instance_generation);
        if generations != (live.wanted_generation, live.generation) || live.is_being_replaced() {
            self.broken("both sides agree", seen, "on the generation");
        }
        if live.running_counted != (live.phase == Phase::Up) {
            self.broken(
                "quota is given back",
                seen,
                "what does not run is counted as running, or the reverse",
            );
        }
        if record.desired != live.desired {
            self.broken("both sides agree", seen, "on what is wanted");
        }
        if (record.phase, record.reason, &record.endpoint) != (live.phase, live.reason, &live.endpoint)
            || record.instance_revision != live.revision
        {
            self.broken("both sides agree", seen, "on the phase");
        }
        let spec = RULES.launch_spec(&record.spec, live.spec.reset_session);
        // what a recovered one was launched with may be lost
        let is_recovered = record.recovered == Some(record.generation);
        if !is_recovered && spec.as_ref() != Some(&live.spec) {
            self.broken("both sides agree", seen, "on the spec");
        }
    }

    fn check_wish(&self, seen: &Seen<'_>, expected: &Expected, desired: Desired, kept: &Workspace) {
        let record = &kept.record;
        let fields = fields_of(&record.spec, &open_private(seen.id, &kept.private));
        let is_field = |field: &_| !seen.set_back || expected.fields.contains_key(field);
        let fields: Fields = fields.into_iter().filter(|(field, _)| is_field(field)).collect();
        if fields != expected.fields {
            let what = format!("its fields are {fields:?}, and were to be {:?}", expected.fields);
            self.broken("no wish is lost", seen, what);
        }
        let state = record.state();
        let as_machine = seen.machines.iter().find(|machine| machine.is_running());
        match (desired, state) {
            (_, WorkspaceState::Failed) => self.check_failure(seen, expected, desired, record),
            (Desired::Running, WorkspaceState::Running) => {
                self.end("running");
                let as_wished = as_machine.is_some_and(|machine| {
                    machine.instance.generation == record.generation
                        && seen
                            .engine
                            .as_ref()
                            .is_some_and(|engine| engine.spec.resources == machine.spec.resources)
                });
                if !as_wished {
                    self.broken("what is RUNNING runs", seen, "no machine, or another one");
                }
            }
            (Desired::Running, WorkspaceState::Degraded) => {
                let since = self.world.now() - Duration::from_secs(2 * 3600);
                let explained = self.world.was_wrong(
                    &["silent", "failing"],
                    &self.concerned(seen, since, self.world.now()),
                    since,
                    self.world.now(),
                );
                self.end("degraded");
                if !explained {
                    self.broken("no wish is lost", seen, "it is DEGRADED, and nothing explains it");
                }
            }
            (Desired::Stopped, WorkspaceState::Stopped) => {
                let is_shown = record.reason == Some(Reason::OrganizationSuspended);
                self.end(if is_shown { "stopped by a suspension" } else { "stopped as wished" });
                if is_shown != expected.suspension.is_some_and(|suspension| suspension.is_shown) {
                    let what = format!("it is STOPPED for {:?}", record.reason);
                    self.broken("what a suspension stops says so, and nothing else does", seen, what);
                }
                if as_machine.is_some() {
                    self.broken("what is STOPPED is stopped", seen, "a machine runs");
                }
            }
            // it had failed, the control plane was put back to before that, and heard again what its tenant held
            (Desired::Running, WorkspaceState::Stopped)
                if record.desired == Desired::Stopped
                    && seen.lost_failure.is_some_and(|lost| lost.restored_at > expected.since) =>
            {
                self.end("failed, which was lost in a restore");
            }
            _ => self.broken("no wish is lost", seen, format!("it is {state:?}")),
        }
    }

    fn check_failure(
        &self,
        seen: &Seen<'_>,
        expected: &Expected,
        desired: Desired,
        record: &WorkspaceRecord,
    ) {
        self.end(if desired == Desired::Running {
            "failed, was to run"
        } else {
            "failed, was to be stopped"
        });
        if seen.machines.iter().any(|machine| machine.is_running()) {
            self.broken("what is FAILED is stopped", seen, "a machine runs");
        }
        if expected.failed_for.is_some() && expected.failed_for == record.reason {
            // its tenant gave it up for that; that the agent had a reason not to connect is looked at below
            if desired == Desired::Running {
                self.broken("no wish is lost", seen, "it failed before the last wish");
            }
        }
        let Some(reason) = record.reason else {
            self.broken("no failure is unexplained", seen, "it has no reason");
            return;
        };
        // the tenant's clock may be minutes away from the true time, and the replicas' are not
        let failed_at = seen.engine.as_ref().map_or(record.phase_since, |engine| engine.phase_since);
        // what its tenant told again after a restore failed before that, or fails anew for the time that was lost
        let told_again = seen.lost_failure.filter(|lost| {
            lost.is_told_again(failed_at)
                || failed_at > lost.restored_by && self.were_apart_until(seen, failed_at)
        });
        let moments = [Some(failed_at), told_again.map(|lost| lost.failed_at)];
        if !moments.into_iter().flatten().any(|failed_at| self.explains_failure(seen, reason, failed_at)) {
            self.broken("no failure is unexplained", seen, format!("{reason} at {failed_at}"));
        }
    }

    /// Whether the two could not speak until shortly before.
    fn were_apart_until(&self, seen: &Seen<'_>, then: Timestamp) -> bool {
        let since = then - Duration::from_secs(600) - self.world.off();
        let apart = ["cut", "tenant down", "replica frozen", "replica down"];
        self.world.was_wrong(&apart, &self.concerned(seen, since, then), since, then)
    }

    fn concerned(&self, seen: &Seen<'_>, since: Timestamp, until: Timestamp) -> Concerned {
        let places = self.control.claimants(seen.id, since, until);
        Concerned { workspace: seen.id, organization: seen.organization, places }
    }

    /// Whether something that went wrong explains a failure at this moment.
    fn explains_failure(&self, seen: &Seen<'_>, reason: Reason, failed_at: Timestamp) -> bool {
        let since = failed_at - reach(reason) - self.world.off();
        let until = failed_at + Duration::from_secs(60) + self.world.off();
        let concerned = self.concerned(seen, since, until);
        // what there was no room for, what is in the way, or what boots, is looked at again while somebody looks: nobody did while
        // its replica was frozen or down, or its provider away
        let unwatched = match reason {
            Reason::NoCapacity | Reason::ProviderQuota | Reason::NameTaken | Reason::BootTimeout => {
                let blind = ["replica frozen", "replica down", "away", "hangs"];
                self.world.wrong_from(&blind, &concerned, since, until)
            }
            _ => None,
        };
        let since = unwatched.map_or(since, |from| since.min(from - reach(reason) - self.world.off()));
        self.world.was_wrong(explains(reason), &concerned, since, until)
            || reason == Reason::AgentNotConnected
                && !self.was_up(seen.id, failed_at)
                && self.world.was_wrong(&UNSEEN, &concerned, since, until)
    }

    /// Whether anything of a workspace was up while its agent was waited for, by the provider's own log.
    fn was_up(&self, id: WorkspaceId, failed_at: Timestamp) -> bool {
        let since = failed_at - CONNECT;
        let is_of_then = |one: &Stretch| {
            one.instance.workspace == id
                && one.from <= failed_at
                && one.until.is_none_or(|until| until >= since)
        };
        self.cloud.log().iter().any(is_of_then)
    }

    async fn check_segments(&self, seen: &Seen<'_>, log: &[Stretch]) {
        let (id, engine) = (seen.id, seen.engine.as_ref());
        let segments = self.control.database().segments(id).await.unwrap_or_default();
        for segment in segments.iter().filter(|segment| !is_logged(segment, log, id, self.world.off())) {
            let what = format!("{id}: the provider had nothing up when {segment:?} began");
            self.world.violated(Violation::new("segments tile", what));
        }
        for pair in segments.windows(2) {
            match pair[0].until {
                Some(until) if until <= pair[1].from => {}
                Some(until) => {
                    let by = until.since(pair[1].from);
                    let what = format!("{id}: they overlap by {by:?}: {pair:?}");
                    self.world.violated(Violation::new("segments tile", what));
                }
                None => {
                    let what = format!("{id}: one is open before the last: {pair:?}");
                    self.world.violated(Violation::new("segments tile", what));
                }
            }
        }
        let open = segments.last().is_some_and(|last| last.until.is_none());
        // of what is held only the facts are written
        let held = seen.waits_for_room();
        let is_up = |record: &InstanceRecord| {
            if held { record.up_since.is_some() } else { record.phase == Phase::Up }
        };
        if open != engine.is_some_and(is_up) {
            let what = format!("{id}: open is {open}, and it is {:?}", engine.map(|record| record.phase));
            self.world.violated(Violation::new("segments tile", what));
        }
    }
}
