//! What a record says by itself.

use molecule_domain::id::Generation;
use molecule_domain::lifecycle::{AgentHealth, Desired, Phase, ProvisioningPhase, WorkspaceState};
use molecule_workspace::WorkspaceRecord;

use crate::world::record;

#[test]
fn what_another_generation_is_to_replace_is_on_its_way_out() {
    let admitted = WorkspaceState::Provisioning(ProvisioningPhase::Admitted);
    for (generation, instance, phase, expected) in [
        (2, 2, Phase::Up, WorkspaceState::Running),
        (3, 2, Phase::Up, admitted),
        (3, 2, Phase::Failed, admitted),
        (2, 2, Phase::Failed, WorkspaceState::Failed),
        (2, 3, Phase::Up, WorkspaceState::Running),
        (3, 2, Phase::Gone, WorkspaceState::Deleted),
    ] {
        let (generation, instance_generation) = (Generation(generation), Generation(instance));
        let found = WorkspaceRecord { generation, instance_generation, phase, ..record() };
        assert_eq!(found.state(), expected, "{generation}, {instance_generation}, {phase}");
    }
}

#[test]
fn the_agent_of_what_was_found_after_a_restore_is_not_judged() {
    let mut found = record();
    found.agent.health = AgentHealth::NotConnected;
    assert_eq!(found.state(), WorkspaceState::Provisioning(ProvisioningPhase::Connecting));
    found.recovered = Some(Generation(2));
    assert_eq!(found.state(), WorkspaceState::Running);
}

#[test]
fn what_was_found_after_a_restore_lacks_its_configuration_even_when_it_has_ended() {
    for phase in Phase::ALL {
        let of = |recovered| WorkspaceRecord { recovered, phase, ..record() };
        for other in [None, Some(Generation(1))] {
            assert!(!of(other).is_recovered() && !of(other).has_lost_config(), "{phase}, {other:?}");
        }
        let found = of(Some(Generation(2)));
        let runs = matches!(phase, Phase::Booting | Phase::Up);
        let ended = matches!(phase, Phase::Stopped | Phase::Failed);
        assert_eq!((found.is_recovered(), found.has_lost_config()), (runs, runs || ended), "{phase}");
    }
}

#[test]
fn what_is_gone_or_wanted_so_is_being_deleted() {
    for (desired, phase, expected) in [
        (Desired::Running, Phase::Up, false),
        (Desired::Stopped, Phase::Stopped, false),
        (Desired::Deleted, Phase::Up, true),
        (Desired::Running, Phase::Gone, true),
        (Desired::Deleted, Phase::Gone, true),
    ] {
        let found = WorkspaceRecord { desired, phase, ..record() };
        assert_eq!(found.is_deleting(), expected, "{desired:?}, {phase}");
    }
}
