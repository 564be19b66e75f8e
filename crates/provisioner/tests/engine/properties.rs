//! Random lives: whatever is asked and whatever happens, the rules hold at every moment, and once it is calm
//! everything is as it was asked for.

use molecule_domain::id::WorkspaceId;
use molecule_provisioner::faults::Fault;
use molecule_provisioner::observation::{Observation, Snapshot};
use molecule_provisioner::reconciler::plan::{Action, plan};
use proptest::prelude::*;

use crate::world::{Op, World};

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => Just(Op::Create),
        2 => Just(Op::Stop),
        2 => Just(Op::Start),
        2 => Just(Op::Restart),
        1 => Just(Op::ChangeSpec),
        1 => Just(Op::Delete),
        2 => Just(Op::Crash),
        1 => Just(Op::Vanish),
        1 => Just(Op::ProviderAway),
        2 => Just(Op::ProviderBack),
        1 => Just(Op::LaunchesLate),
        1 => Just(Op::LaunchesHalf),
        1 => Just(Op::NoRoom),
    ]
}

fn fault() -> impl Strategy<Value = Option<(usize, Fault)>> {
    let kind = prop_oneof![Just(Fault::FailBefore), Just(Fault::LoseReply), Just(Fault::Repeat)];
    proptest::option::of((0_usize..12, kind))
}

fn in_a_world<F: Future<Output = ()>>(test: F) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(test);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn any_life_converges(
        life in proptest::collection::vec((0_usize..3, op(), 0_usize..6, fault()), 1..40),
    ) {
        in_a_world(async {
            let mut world = World::new();
            let workspaces: Vec<_> = (0..3).map(|_| WorkspaceId::generate()).collect();
            for (which, op, ticks, fault) in life {
                world.faults.arm(fault);
                world.ask(workspaces[which], op).await;
                for _ in 0..ticks {
                    world.tick().await;
                }
                world.sweep().await;
            }
            world.settle().await;
            world.check_settled().await;
        });
    }

    #[test]
    fn plans_are_functions_and_unknown_moves_nothing(
        life in proptest::collection::vec((op(), 0_usize..4), 1..20),
        silence in 0_i64..100_000,
    ) {
        in_a_world(async {
            let mut world = World::new();
            let workspace = WorkspaceId::generate();
            world.ask(workspace, Op::Create).await;
            for (op, ticks) in life {
                world.ask(workspace, op).await;
                for _ in 0..ticks {
                    world.tick().await;
                }
                let record = world.record(workspace).await.unwrap();
                let now = molecule_domain::Clock::now(&*world.clock)
                    + std::time::Duration::from_secs(silence.unsigned_abs());
                let policy = &world.executor.policy;
                let lag = std::time::Duration::ZERO;
                let unknown = Observation::Unknown("silence".to_owned());
                let action = plan(&record, &unknown, policy, lag, now);
                // giving up is a note in the store: whatever follows from it needs a sighting
                assert!(
                    matches!(action, Action::AwaitProvider(_) | Action::Settle(_) | Action::Rest),
                    "an action on Unknown that is more than a note: {action:?}"
                );
                let seen = Snapshot::new(now, Ok(world.host.instances())).observe(&record);
                let twice = [0, 1].map(|_| format!("{:?}", plan(&record, &seen, policy, lag, now)));
                assert_eq!(twice[0], twice[1]);
            }
        });
    }
}

/// `SOAK_CASES` asks for a longer search.
fn cases() -> u32 {
    std::env::var("SOAK_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(200)
}
