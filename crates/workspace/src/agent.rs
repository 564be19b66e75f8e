//! What an agent reports, and what its silence means.

use std::time::Duration;

use molecule_domain::Timestamp;
use molecule_domain::event::{Actor, EventDetail};
use molecule_domain::id::{Generation, IncarnationId};
use molecule_domain::lifecycle::{AgentHealth, Phase, Readiness, Reason};

use crate::aggregate::{Change, SideEffects, Workspace};
use crate::record::{AgentRecord, RequestKey, WorkspaceRecord};
use crate::wish::Wish;

/// How long agents are waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// From UP until the agent connects.
    pub connect: Duration,
    /// Between two heartbeats.
    pub silence: Duration,
    /// When this process began to listen: nobody could be heard before.
    pub since: Timestamp,
}

/// What is to be done about an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Fine,
    /// It did not connect in time: its workspace fails.
    NeverConnected,
    /// It has fallen silent: its workspace is degraded.
    Silent,
}

/// Judges the agent of the generation that runs, by this tenant's own clock. A workspace about which the provider has
/// still something to hear, or of which another generation is wanted, is not judged; nor is one that was found running
/// after a restore, whose agent can't be heard.
pub fn judge(record: &WorkspaceRecord, patience: &Patience, now: Timestamp) -> Verdict {
    if record.phase != Phase::Up
        || record.is_recovered()
        || record.generation != record.instance_generation
        || record.pending.is_some()
        // nothing is done about it, and its agent may be one of a time that is lost
        || record.reason == Some(Reason::UnknownLaunch)
        || record.desired != molecule_domain::lifecycle::Desired::Running
    {
        return Verdict::Fine;
    }
    let silent = |since: Timestamp, limit| now.since(since.max(patience.since)) > limit;
    match record.agent.health {
        AgentHealth::NotConnected
            if record.readiness == Readiness::Agent && silent(record.phase_since, patience.connect) =>
        {
            Verdict::NeverConnected
        }
        AgentHealth::Healthy | AgentHealth::Errors
            if record.agent.last_seen.is_some_and(|seen| silent(seen, patience.silence)) =>
        {
            Verdict::Silent
        }
        _ => Verdict::Fine,
    }
}

impl Workspace {
    /// Takes what the agent of a generation reports; `None` where that generation is over. While a replacement waits, the
    /// one that runs is heard, until an agent of the later one was. Watchers see a change of its health or card, not every
    /// heartbeat.
    pub fn reported(
        &mut self,
        generation: Generation,
        now: Timestamp,
        update: impl FnOnce(&mut AgentRecord),
    ) -> Option<SideEffects> {
        let record = &mut self.record;
        // what is known of the generation before says nothing of one that was heard of by its agent first
        let ended = matches!(record.phase, Phase::Failed | Phase::Stopped);
        let may_run = generation == record.instance_generation
            || record.told_again.is_some_and(|told| told.may_run(generation));
        let runs = may_run && generation >= record.agent.generation;
        let over = !(runs || generation == record.generation)
            || record.phase == Phase::Gone
            || ended && record.instance_generation == generation;
        if over {
            return None;
        }
        // its credential is known after all
        let found = record.recovered.take_if(|recovered| *recovered == generation).is_some();
        let before = record.agent.clone();
        record.agent.last_seen = Some(now);
        record.agent.generation = generation;
        update(&mut record.agent);
        let visible = found || record.agent.health != before.health || record.agent.card != before.card;
        let events = health_event(record, before.health).into_iter().collect();
        Some(SideEffects { visible, events, ..SideEffects::default() })
    }

    /// Judges the agent, and does what follows: a workspace whose agent never connected is stopped for that.
    pub fn judged(
        &mut self,
        patience: &Patience,
        now: Timestamp,
        own: IncarnationId,
    ) -> (Verdict, SideEffects) {
        let verdict = judge(&self.record, patience, now);
        let effects = match verdict {
            Verdict::Fine => SideEffects::default(),
            Verdict::Silent => {
                let before = self.record.agent.health;
                self.record.agent.health = AgentHealth::Silent;
                let events = health_event(&self.record, before).into_iter().collect();
                SideEffects { visible: true, events, ..SideEffects::default() }
            }
            Verdict::NeverConnected => {
                let message = format!(
                    "its instance is up, but its agent did not connect within {:?}; look at its output, then restart it",
                    patience.connect
                );
                let wish = Some(Wish::Stop(Some((Reason::AgentNotConnected, message))));
                let trace = self.record.trace.clone();
                self.change(Change { wish, trace, ..Change::default() }, None::<&RequestKey>, now, own)
            }
        };
        (verdict, effects)
    }
}

fn health_event(record: &WorkspaceRecord, before: AgentHealth) -> Option<EventDetail> {
    let (kind, reason, message) = match (before, record.agent.health) {
        (before, after) if before == after => return None,
        (AgentHealth::NotConnected, AgentHealth::Healthy) => ("agent_connected", None, "the agent connected"),
        (_, AgentHealth::Healthy) => ("agent_recovered", None, "the agent is well again"),
        (_, AgentHealth::Errors) => {
            ("agent_errors", Some(Reason::AgentErrors), "the agent reports too many errors")
        }
        (_, AgentHealth::Silent) => ("agent_silent", Some(Reason::AgentSilent), "the agent is silent"),
        (_, AgentHealth::NotConnected) => return None,
    };
    Some(EventDetail {
        kind: kind.into(),
        actor: Actor::Agent,
        generation: record.agent.generation,
        reason,
        message: message.to_owned(),
        exit_code: None,
        log_tail: String::new(),
    })
}
