//! Takes over what the provider says of an instance: the same way from an engine in this process and from a control
//! plane.

use molecule_domain::Timestamp;
use molecule_domain::id::IncarnationId;
use molecule_domain::instance::InstanceView;
use molecule_domain::lifecycle::{AgentHealth, Phase};

use crate::aggregate::{Revoke, SideEffects, Workspace};
use crate::record::{AgentRecord, WorkspaceRecord};

impl Workspace {
    /// Takes over a record of the provider's. What is older than what is known changes nothing, so it may come twice and
    /// late. What is deleted here is never taken over as alive: an earlier call was heard late, and it is deleted again. But
    /// another one of an id that was refused is for the two to agree about.
    pub fn take_over(
        &mut self,
        instance: &InstanceView,
        now: Timestamp,
        own: IncarnationId,
        effects: &mut SideEffects,
    ) {
        let says_more = self.record.in_unknown_state && !instance.in_unknown_state;
        let known = self.record.instance_revision;
        let is_news = instance.revision > known || says_more && instance.revision == known;
        if self.record.phase == Phase::Gone {
            let is_another = self.record.refused && instance.intent > self.record.intent;
            if is_news && !instance.is_ending() && !is_another {
                self.record.instance_revision = instance.revision;
                self.delete_again(Some(instance), own, now, effects);
                self.refresh_pending();
            }
            return;
        }
        let record = &mut self.record;
        if is_news && self.outbox.is_empty() {
            // heard late: should the provider lose it, it is told again like whatever else was granted
            record.answered = record.answered.max(instance.intent.min(record.intent));
        }
        let is_settled = instance.intent >= record.answered && self.outbox.is_empty();
        if is_settled && is_news && instance.wanted_generation != record.generation {
            // a replacement whose refusal took it back was heard again, and granted, perhaps before the last wish; or one that
            // was told again after a restore gave way to a later wish
            record.generation = instance.wanted_generation;
            record.highest = record.highest.max(record.generation);
            record.spec.runtime.clone_from(&instance.runtime);
            record.spec.tier = instance.tier;
        }
        if let Some(desired) = instance.desired
            && instance.intent >= record.answered
            && instance.revision >= record.instance_revision
        {
            // What is wanted is the tenant's to say until the provider has heard the last wish. What the provider made of
            // those before is what a refusal of the next goes back to.
            record.wanted_is_unknown = false;
            match self.outbox.iter_mut().find(|entry| entry.number > instance.intent) {
                Some(next) => next.undo.desired = desired,
                None if record.desired != desired => {
                    record.desired = desired;
                    effects.visible = true;
                }
                None => {}
            }
        }
        if !is_news {
            return;
        }
        effects.visible = true;
        record.told_again.take_if(|told| instance.launched && instance.generation > told.runs);
        if agent_is_over(record, instance) {
            record.agent = AgentRecord { card: record.agent.card.take(), ..AgentRecord::default() };
        }
        record.instance_revision = instance.revision;
        record.instance_generation = instance.generation;
        record.phase = instance.phase;
        record.phase_since = instance.phase_since;
        record.reason = instance.reason;
        record.in_unknown_state = instance.in_unknown_state;
        record.message = if instance.in_unknown_state {
            format!("in a state that this version does not know: {}", instance.message)
        } else {
            instance.message.clone()
        };
        record.endpoint.clone_from(&instance.endpoint);
        if instance.phase == Phase::Gone {
            record.deleted_at = record.deleted_at.or(Some(now));
            self.outbox.clear();
            record.pending = None;
            effects.revoke = Revoke::All;
        } else if effects.revoke == Revoke::None {
            // an older generation speaks no longer
            effects.revoke = Revoke::Before(record.oldest_that_runs());
        }
    }
}

/// Whether what the agent last reported is of an instance that is no more. An agent may register before this hears that
/// its instance is up, or that there is one; otherwise what was reported before the instance went down is over.
fn agent_is_over(record: &WorkspaceRecord, instance: &InstanceView) -> bool {
    let agent = &record.agent;
    let begins = |phase| matches!(phase, Phase::Admitted | Phase::Launching);
    let is_first = record.instance_generation != instance.generation || begins(record.phase);
    let is_down = !matches!(instance.phase, Phase::Booting | Phase::Up);
    let went_down = is_down && !(is_first && begins(instance.phase));
    let before = agent.last_seen.is_none_or(|seen| seen < instance.phase_since);
    let is_of_what_runs_on = record.told_again.is_some_and(|told| told.may_run(agent.generation));
    agent.health != AgentHealth::NotConnected
        && (agent.generation < instance.generation && !is_of_what_runs_on
            || agent.generation == instance.generation && went_down && before)
}
