//! An instance as the control plane tells of it, in this tenant's terms.

use molecule_domain::Timestamp;
use molecule_domain::error::Result;
use molecule_domain::id::{Generation, IntentNumber, OrganizationId, Revision};
use molecule_domain::instance::{Endpoint, InstanceView};
use molecule_domain::lifecycle::Phase;
use molecule_proto::controlplane::v1 as wire;
use molecule_service_kit::wire::{desired, moment, phase, reason, tier, workspace_id};

/// `at` says what the control plane's clock showed as it told this, and `now` is this tenant's. What a later version may
/// say and this one doesn't know is left open: a mirror must not stop for it.
pub(crate) fn instance_view(
    instance: wire::Instance,
    at: Option<&wire::Standpoint>,
    organization: OrganizationId,
    now: Timestamp,
) -> Result<InstanceView> {
    let known = (desired(instance.desired_state), phase(instance.phase));
    let theirs = at.and_then(|at| at.time);
    let ahead = theirs.map_or(0, |theirs| now.micros().saturating_sub(moment(Some(theirs)).micros()));
    // by this tenant's own clock, like all that it is compared with
    let phase_since = Timestamp::from_micros(moment(instance.phase_time).micros().saturating_add(ahead));
    Ok(InstanceView {
        workspace: workspace_id(&instance.workspace_id)?,
        organization,
        desired: known.0,
        intent: IntentNumber(signed(instance.intent)),
        generation: Generation(instance.generation),
        wanted_generation: Generation(instance.wanted_generation.max(instance.generation)),
        runtime: instance.runtime,
        tier: tier(instance.tier).unwrap_or_default(),
        phase: known.1.unwrap_or(Phase::Booting),
        phase_since,
        reason: reason(instance.reason),
        message: instance.message,
        endpoint: instance.endpoint.map(|endpoint| Endpoint {
            host: endpoint.host,
            port: u16::try_from(endpoint.port).unwrap_or_default(),
        }),
        launched: instance.launched,
        in_unknown_state: !matches!(known, (Some(_), Some(_))),
        revision: Revision(signed(instance.revision)),
    })
}

/// A number that the wire carries unsigned.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use molecule_domain::id::WorkspaceId;
    use molecule_domain::lifecycle::Desired;
    use molecule_proto::workspace::v1::DesiredState;
    use molecule_service_kit::wire::time;

    use super::*;

    fn second(second: i64) -> Timestamp {
        Timestamp::from_micros(second * 1_000_000)
    }

    fn told() -> wire::Instance {
        wire::Instance {
            workspace_id: WorkspaceId::generate().to_string(),
            desired_state: DesiredState::Running.into(),
            phase: wire::InstancePhase::Stopped.into(),
            phase_time: Some(time(second(900))),
            message: "told".to_owned(),
            ..wire::Instance::default()
        }
    }

    /// A tenant judges by its own clock how long something has been so.
    #[test]
    fn times_are_by_the_clock_of_whoever_hears_them() {
        let at = wire::Standpoint { time: Some(time(second(1000))), ..wire::Standpoint::default() };
        for (now, since) in [(1000, 900), (1300, 1200), (800, 700)] {
            let view = instance_view(told(), Some(&at), OrganizationId::SELF_HOSTED, second(now)).unwrap();
            assert_eq!(view.phase_since, second(since), "its own clock shows {now}");
        }
        let view = instance_view(told(), None, OrganizationId::SELF_HOSTED, second(1300)).unwrap();
        assert_eq!(view.phase_since, second(900));
    }

    #[test]
    fn what_a_later_version_says_is_left_open() {
        let view = |told| instance_view(told, None, OrganizationId::SELF_HOSTED, second(0)).unwrap();
        let known = view(told());
        assert_eq!((known.desired, known.phase), (Some(Desired::Running), Phase::Stopped));
        let unknown = view(wire::Instance { phase: 99, desired_state: 99, reason: 99, tier: 99, ..told() });
        assert_eq!((unknown.desired, unknown.phase, unknown.reason), (None, Phase::Booting, None));
        assert!(unknown.in_unknown_state && !known.in_unknown_state);
        let ending =
            view(wire::Instance { phase: 99, desired_state: DesiredState::Deleted.into(), ..told() });
        assert!(ending.in_unknown_state && ending.is_ending(), "what is wanted is known");
    }
}
