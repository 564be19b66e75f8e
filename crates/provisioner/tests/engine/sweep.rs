//! The fault sweep: each step of each operation is failed once, loses its reply once, and is repeated once.
//! The steps are those that the executor takes; should they become fewer, the sweep has lost its sight.

use molecule_domain::id::WorkspaceId;
use molecule_domain::lifecycle::Phase;
use molecule_provisioner::faults::Fault;

use crate::world::{Op, World};

struct Case {
    name: &'static str,
    /// Asked for and settled before the sweep begins.
    before: &'static [Op],
    /// Swept.
    op: Op,
    ends_in: Phase,
    generation: u32,
    /// How often a process may have been started in the last generation by the end.
    starts: usize,
    /// The steps of one undisturbed run, at least.
    steps: usize,
}

const CASES: [Case; 8] = [
    Case {
        name: "create",
        before: &[],
        op: Op::Create,
        ends_in: Phase::Up,
        generation: 1,
        starts: 1,
        steps: 7,
    },
    Case {
        name: "stop",
        before: &[Op::Create],
        op: Op::Stop,
        ends_in: Phase::Stopped,
        generation: 1,
        starts: 1,
        steps: 6,
    },
    Case {
        name: "start",
        before: &[Op::Create, Op::Stop],
        op: Op::Start,
        ends_in: Phase::Up,
        generation: 1,
        starts: 2,
        steps: 6,
    },
    Case {
        name: "restart",
        before: &[Op::Create],
        op: Op::Restart,
        ends_in: Phase::Up,
        generation: 2,
        starts: 1,
        steps: 16,
    },
    Case {
        name: "change of spec",
        before: &[Op::Create],
        op: Op::ChangeSpec,
        ends_in: Phase::Up,
        generation: 2,
        starts: 1,
        steps: 16,
    },
    Case {
        name: "change of spec while stopped",
        before: &[Op::Create, Op::Stop],
        op: Op::ChangeSpec,
        ends_in: Phase::Stopped,
        generation: 2,
        starts: 0,
        steps: 6,
    },
    Case {
        name: "delete",
        before: &[Op::Create],
        op: Op::Delete,
        ends_in: Phase::Gone,
        generation: 1,
        starts: 1,
        steps: 7,
    },
    Case {
        name: "delete while stopped",
        before: &[Op::Create, Op::Stop],
        op: Op::Delete,
        ends_in: Phase::Gone,
        generation: 1,
        starts: 1,
        steps: 7,
    },
];

async fn run(case: &Case, fault: Option<(usize, Fault)>) -> (World, WorkspaceId, Vec<&'static str>) {
    let mut world = World::new();
    let workspace = WorkspaceId::generate();
    for op in case.before {
        world.ask(workspace, *op).await;
        world.settle().await;
    }
    world.faults.arm(fault);
    world.ask(workspace, case.op).await;
    for _ in 0..40 {
        world.tick().await;
    }
    let taken = world.faults.taken();
    world.settle().await;
    (world, workspace, taken)
}

#[tokio::test(start_paused = true)]
async fn every_step_may_fail_lose_its_reply_or_come_twice() {
    for case in &CASES {
        let (_, _, steps) = run(case, None).await;
        assert!(steps.len() >= case.steps, "{}: only {} steps are left: {steps:?}", case.name, steps.len());
        for (n, step) in steps.iter().enumerate() {
            for fault in [Fault::FailBefore, Fault::LoseReply, Fault::Repeat] {
                let (world, workspace, _) = run(case, Some((n, fault))).await;
                let what = format!("{}: {fault:?} at step {n} ({step})", case.name);
                let record = world.record(workspace).await.expect(&what);
                assert_eq!((record.phase, record.generation.0), (case.ends_in, case.generation), "{what}");
                assert!(world.starts(workspace, case.generation) <= case.starts, "{what}: started too often");
                world.check_settled().await;
            }
        }
    }
}
