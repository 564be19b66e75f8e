//! Between the wire's nouns and the domain's, for both services and both directions.

use molecule_domain::Timestamp;
use molecule_domain::error::{Error, ErrorReason, Result};
use molecule_domain::event::{Actor, EventDetail};
use molecule_domain::id::{Generation, WorkspaceId};
use molecule_domain::lifecycle::{Desired, Phase, Reason};
use molecule_domain::tier::Tier;
use molecule_proto::controlplane::v1::InstancePhase;
use molecule_proto::workspace::v1 as wire;

use crate::token;

/// A moment.
pub fn time(at: Timestamp) -> prost_types::Timestamp {
    let (seconds, micros) = (at.micros().div_euclid(1_000_000), at.micros().rem_euclid(1_000_000));
    prost_types::Timestamp { seconds, nanos: i32::try_from(micros).unwrap_or(0) * 1000 }
}

/// A moment back; none is the epoch.
pub fn moment(time: Option<prost_types::Timestamp>) -> Timestamp {
    let time = time.unwrap_or_default();
    Timestamp::from_micros(time.seconds.saturating_mul(1_000_000) + i64::from(time.nanos) / 1000)
}

/// A duration.
pub fn duration(length: std::time::Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(length).unwrap_or_default()
}

/// Stands for what was shown: the first half of its SHA-256.
pub fn etag(shown: &impl prost::Message) -> String {
    let mut text = token::sha256_hex(&shown.encode_to_vec());
    text.truncate(32);
    text
}

/// Whether what was shown is what there is now. An empty etag comes of a call that only asks, and confirms nothing.
pub fn confirms(etag: &str, now: &str) -> Result<bool> {
    match etag {
        "" => Ok(false),
        etag if etag == now => Ok(true),
        _ => Err(Error::new(
            ErrorReason::StaleEtag,
            "what would be removed has changed since it was shown, so nothing is; look at it again, and confirm that",
        )),
    }
}

/// A workspace's id that must be there.
pub fn workspace_id(text: &str) -> Result<WorkspaceId> {
    text.parse().map_err(|_| Error::field("workspace_id", format!("{text:?} is not a UUID")))
}

/// A tier; unspecified is the default.
pub fn tier(wire: i32) -> Option<Tier> {
    match wire::Tier::try_from(wire).ok()? {
        wire::Tier::Unspecified => Some(Tier::default()),
        wire::Tier::T1 => Some(Tier::T1),
        wire::Tier::T2 => Some(Tier::T2),
        wire::Tier::T3 => Some(Tier::T3),
        wire::Tier::T4 => Some(Tier::T4),
    }
}

/// A tier on the wire.
pub const fn tier_to_wire(tier: Tier) -> wire::Tier {
    match tier {
        Tier::T1 => wire::Tier::T1,
        Tier::T2 => wire::Tier::T2,
        Tier::T3 => wire::Tier::T3,
        Tier::T4 => wire::Tier::T4,
    }
}

/// What is wanted, on the wire.
pub const fn desired_to_wire(desired: Desired) -> wire::DesiredState {
    match desired {
        Desired::Running => wire::DesiredState::Running,
        Desired::Stopped => wire::DesiredState::Stopped,
        Desired::Deleted => wire::DesiredState::Deleted,
    }
}

/// What is wanted; `None` where it is unspecified or from a later version.
pub fn desired(wire: i32) -> Option<Desired> {
    match wire::DesiredState::try_from(wire).ok()? {
        wire::DesiredState::Unspecified => None,
        wire::DesiredState::Running => Some(Desired::Running),
        wire::DesiredState::Stopped => Some(Desired::Stopped),
        wire::DesiredState::Deleted => Some(Desired::Deleted),
    }
}

/// An instance's phase on the wire.
pub const fn phase_to_wire(phase: Phase) -> InstancePhase {
    match phase {
        Phase::Admitted => InstancePhase::Admitted,
        Phase::Launching => InstancePhase::Launching,
        Phase::Booting => InstancePhase::Booting,
        Phase::Up => InstancePhase::Up,
        Phase::Stopping => InstancePhase::Stopping,
        Phase::Stopped => InstancePhase::Stopped,
        Phase::Gone => InstancePhase::Gone,
        Phase::Failed => InstancePhase::Failed,
    }
}

/// An instance's phase; `None` where it is unspecified or from a later version.
pub fn phase(wire: i32) -> Option<Phase> {
    let phase = InstancePhase::try_from(wire).ok()?;
    Phase::ALL.into_iter().find(|known| phase_to_wire(*known) == phase)
}

/// A reason on the wire.
pub fn reason_to_wire(reason: Option<Reason>) -> wire::Reason {
    let named = reason.and_then(|reason| wire::Reason::from_str_name(&format!("REASON_{reason}")));
    named.unwrap_or(wire::Reason::Unspecified)
}

/// A reason; `None` where it is unspecified or from a later version.
pub fn reason(wire: i32) -> Option<Reason> {
    let reason = wire::Reason::try_from(wire).ok()?;
    Reason::ALL.iter().copied().find(|known| reason_to_wire(Some(*known)) == reason)
}

/// An event on the wire.
pub fn event_to_wire(id: i64, workspace: WorkspaceId, at: Timestamp, detail: EventDetail) -> wire::Event {
    wire::Event {
        event_id: u64::try_from(id).unwrap_or(0),
        workspace_id: workspace.to_string(),
        time: Some(time(at)),
        kind: detail.kind.into_owned(),
        actor: detail.actor.as_str().to_owned(),
        generation: detail.generation.0,
        reason: reason_to_wire(detail.reason).into(),
        message: detail.message,
        exit_code: detail.exit_code,
        log_tail: detail.log_tail,
    }
}

/// What an event tells.
pub fn event(wire: wire::Event) -> EventDetail {
    EventDetail {
        actor: Actor::ALL.into_iter().find(|actor| actor.as_str() == wire.actor).unwrap_or(Actor::Engine),
        kind: wire.kind.into(),
        generation: Generation(wire.generation),
        reason: reason(wire.reason),
        message: wire.message,
        exit_code: wire.exit_code,
        log_tail: wire.log_tail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_comes_back() {
        for known in Reason::ALL {
            assert_eq!(reason(reason_to_wire(Some(*known)).into()), Some(*known), "{known}");
        }
        for known in Phase::ALL {
            assert_eq!(phase(phase_to_wire(known).into()), Some(known));
        }
        for known in Tier::ALL {
            assert_eq!(tier(tier_to_wire(known).into()), Some(known));
        }
        for known in [Desired::Running, Desired::Stopped, Desired::Deleted] {
            assert_eq!(desired(desired_to_wire(known).into()), Some(known));
        }
        assert_eq!((phase(99), tier(99), reason(99), desired(99)), (None, None, None, None));
        let at = Timestamp::from_micros(-1_234_567);
        assert_eq!(moment(Some(time(at))), at);
    }

    #[test]
    fn an_event_comes_back() {
        let detail = EventDetail {
            kind: "exited".into(),
            actor: Actor::Operator,
            generation: Generation(3),
            reason: Some(Reason::CrashLoop),
            message: "m".to_owned(),
            exit_code: Some(7),
            log_tail: "t".to_owned(),
        };
        let there = event_to_wire(1, WorkspaceId::generate(), Timestamp::default(), detail.clone());
        assert_eq!(event(there), detail);
    }
}
