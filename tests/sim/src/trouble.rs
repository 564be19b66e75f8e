//! What comes over the pair: weather at the provider, faults that wait for their step, processes that die or freeze, a
//! network that is cut, machines that end and agents that say nothing.

use std::sync::Arc;
use std::time::Duration;

use molecule_domain::id::WorkspaceId;

use tokio::time::Instant;

use crate::client::{Ask, Request};
use crate::clocks;
use crate::faults::{Armed, Fault, RARE_STEPS, RAREST_STEPS, all_pairs};
use crate::judgement;
use crate::life::RESTORES;
use crate::operator;
use crate::pair::Pair;
use crate::suspension;
use crate::upgrade;
use crate::weather::Weather;
use crate::world::Whom;

/// Something happens.
pub async fn happens(pair: &Pair) {
    let world = &pair.world;
    if RESTORES && world.rng().once_in(20) {
        return operator::restore(pair).await;
    }
    if RESTORES && world.rng().once_in(40) {
        return judgement::is_heard_late(pair);
    }
    if world.rng().once_in(40) {
        return upgrade::begins(pair);
    }
    if world.rng().once_in(40) {
        return clocks::is_set(pair);
    }
    let draw = world.rng().below(100);
    match draw {
        0..42 => arm(pair),
        42..62 => weather(pair),
        62..67 => kill(pair),
        67..74 => freeze(pair),
        74..79 => {
            let lasts = long(pair);
            let tenant = usize::try_from(world.rng().below(pair.tenants.len() as u64)).unwrap_or(0);
            if pair.tenants[tenant].network.cut(lasts) {
                world.coverage().trouble("cut");
                world.is_wrong("cut", Whom::Organization(pair.tenants[tenant].organization), lasts);
            }
        }
        79..83 => {
            if let Some(workspace) = some_machine(pair) {
                world.is_wrong("crash", Whom::Workspace(workspace), Duration::from_secs(60));
                world.tell("cloud", 61, || format!("the process of {workspace} CRASHES"));
                if pair.cloud.crash(workspace) {
                    world.coverage().trouble("crash");
                }
            }
        }
        83..86 => {
            if let Some(workspace) = some_machine(pair) {
                world.is_wrong("vanish", Whom::Workspace(workspace), Duration::from_secs(60));
                world.tell("cloud", 62, || format!("the machine of {workspace} VANISHES"));
                if world.rng().once_in(3) {
                    ask(pair, Ask::Delete, workspace, Duration::ZERO);
                }
                if pair.cloud.vanish(workspace) {
                    world.coverage().trouble("vanish");
                }
            }
        }
        86 => late_launch(pair),
        87..89 => lost_answer(pair),
        89 => twin(pair),
        90..97 => {
            if let Some(workspace) = some_workspace(pair) {
                let lasts = world.rng().seconds(60, 2 * 3600);
                if draw < 94 {
                    world.coverage().trouble("silent");
                    pair.agents.silence(workspace, lasts);
                } else {
                    world.coverage().trouble("failing");
                    pair.agents.fail(workspace, lasts);
                }
            }
        }
        _ => suspension::happens(pair, long(pair)).await,
    }
}

/// A replica is frozen right before it launches something, which is deleted meanwhile: what it launches once it thaws, nobody
/// wants.
fn late_launch(pair: &Pair) {
    let world = &pair.world;
    let Some(workspace) = some_workspace(pair) else { return };
    world.coverage().trouble("late launch");
    world.arm(Armed { step: "backend.launch", skip: 0, fault: Fault::Freeze });
    ask(pair, Ask::Restart, workspace, Duration::ZERO);
    let after = world.rng().seconds(10, 120);
    ask(pair, Ask::Delete, workspace, after);
}

/// A tenant's process dies while the answer to its call is lost, and somebody asks for something else before the wish can be
/// told again.
fn lost_answer(pair: &Pair) {
    let world = &pair.world;
    let Some(workspace) = some_workspace(pair) else { return };
    let owner = pair.oracle.owner(workspace);
    let Some(tenant) = pair.tenants.iter().find(|tenant| Some(tenant.organization) == owner) else { return };
    world.coverage().trouble("lost answer");
    let first = *world.rng().pick(&[Ask::Restart, Ask::Start, Ask::Stop]);
    let second = *world.rng().pick(&[Ask::Stop, Ask::Restart, Ask::Delete]);
    for step in ["call.replace", "call.start", "call.stop"] {
        world.arm(Armed { step, skip: 0, fault: Fault::AnswerLost });
    }
    ask(pair, first, workspace, Duration::ZERO);
    let cut = world.rng().seconds(120, 400);
    let after = world.rng().seconds(20, 60);
    ask(pair, second, workspace, after);
    let (tenant, world) = (Arc::clone(tenant), Arc::clone(world));
    pair.world.spawn(async move {
        tokio::time::sleep(Duration::from_secs(3)).await;
        if tenant.network.cut(cut) {
            world.is_wrong("cut", Whom::Organization(tenant.organization), cut);
        }
        if let Some(process) = tenant.last_process() {
            process.kill();
        }
    });
}

/// Two processes of a tenant run over copies of one database, for as long as all else is well.
fn twin(pair: &Pair) {
    let place = usize::try_from(pair.world.rng().below(pair.tenants.len() as u64)).unwrap_or(0);
    if !pair.is_whole() {
        return;
    }
    let lasts = pair.world.rng().seconds(40, 600);
    let (pair, ends) = (pair.clone(), Instant::now() + lasts);
    Arc::clone(&pair.world).spawn(async move {
        let tenant = &pair.tenants[place];
        let Some(first) = tenant.last_process().filter(|first| !first.is_dead()) else { return };
        if !pair.has_agreed() {
            return;
        }
        let incarnation = pair.world.incarnation();
        let process = tenant.start_twin(incarnation);
        pair.control.is_twin(incarnation, Arc::clone(&process));
        pair.world.coverage().trouble("twin");
        // whoever is served keeps being served for a while after it was last heard, but for one whose end was seen
        let is_served = || pair.is_whole() && pair.control.is_followed_by(tenant.organization);
        while Instant::now() < ends && !first.is_dead() && is_served() {
            tokio::select! {
                biased;
                () = first.death() => {}
                () = tokio::time::sleep(Duration::from_secs(2)) => {}
            }
        }
        process.kill();
    });
}

/// A client asks for something beside all others.
pub(crate) fn ask(pair: &Pair, ask: Ask, workspace: WorkspaceId, after: Duration) {
    let owner = pair.oracle.owner(workspace);
    let tenant = pair.tenants.iter().position(|tenant| Some(tenant.organization) == owner);
    let (client, busy) = (pair.client(tenant.unwrap_or(0)), pair.world.busy());
    let number = pair.world.number();
    let patience = Duration::from_secs(40);
    let request = Request { ask, workspace, number, keyed: true, etag: false, patience, repeats: 1 };
    pair.world.spawn(async move {
        let _busy = busy;
        tokio::time::sleep(after).await;
        client.ask(request).await;
    });
}

/// Minutes, and now and then hours.
fn long(pair: &Pair) -> Duration {
    let mut rng = pair.world.rng();
    if rng.once_in(12) { rng.seconds(3600, 4 * 3600) } else { rng.seconds(20, 1500) }
}

fn arm(pair: &Pair) {
    let mut rng = pair.world.rng();
    let is_rare = rng.once_in(2);
    let rare: &[&str] = if rng.once_in(2) { &RAREST_STEPS } else { &RARE_STEPS };
    let all: Vec<_> = all_pairs().filter(|(_, step)| !is_rare || rare.contains(step)).collect();
    let (fault, step) = *rng.pick(&all);
    let skip = if is_rare { 0 } else { u32::try_from(rng.below(4)).unwrap_or(0) };
    drop(rng);
    if pair.world.armed() < 16 {
        pair.world.arm(Armed { step, skip, fault });
    }
}

fn weather(pair: &Pair) {
    let lasts = long(pair);
    let weather = *pair.world.rng().pick(&Weather::ALL);
    let of_one = matches!(weather, Weather::CrashLoop | Weather::InitFails | Weather::Taken)
        || pair.world.rng().once_in(3) && !matches!(weather, Weather::Away | Weather::Hangs | Weather::Slow);
    let workspace = if of_one { some_workspace(pair) } else { None };
    if weather == Weather::Doubles {
        // nobody launches twice without a reason
        let fault = *pair.world.rng().pick(&[Fault::Repeat, Fault::LoseReply]);
        pair.world.arm(Armed { step: "backend.launch", skip: 0, fault });
    }
    pair.cloud.set_weather(weather, workspace, lasts);
}

fn kill(pair: &Pair) {
    let places = pair.control.places();
    let all = places + pair.tenants.len();
    let one = usize::try_from(pair.world.rng().below(all as u64)).unwrap_or(0);
    let process = match one.checked_sub(places) {
        None => Some(pair.control.replica(one).process),
        Some(tenant) => pair.tenants[tenant].last_process(),
    };
    if process.is_some_and(|process| process.kill()) {
        pair.world.coverage().trouble("kill");
    }
}

fn freeze(pair: &Pair) {
    let places = pair.control.places();
    let all = places + pair.tenants.len();
    let one = usize::try_from(pair.world.rng().below(all as u64)).unwrap_or(0);
    let lasts = pair.world.rng().seconds(5, 900);
    let process = match one.checked_sub(places) {
        None => Some(pair.control.replica(one).process),
        Some(tenant) => pair.tenants[tenant].last_process(),
    };
    if process.is_some_and(|process| process.freeze(lasts)) {
        pair.world.coverage().trouble("freeze");
    }
}

fn some_machine(pair: &Pair) -> Option<WorkspaceId> {
    let machines = pair.cloud.machines();
    let booting_too = pair.world.rng().once_in(2);
    let running: Vec<_> = machines.iter().filter(|machine| machine.is_running() || booting_too).collect();
    if running.is_empty() { None } else { Some(pair.world.rng().pick(&running).instance.workspace) }
}

fn some_workspace(pair: &Pair) -> Option<WorkspaceId> {
    let tenant = usize::try_from(pair.world.rng().below(pair.tenants.len() as u64)).unwrap_or(0);
    let all = pair.oracle.workspaces(pair.tenants[tenant].organization);
    if all.is_empty() { None } else { Some(*pair.world.rng().pick(&all)) }
}

/// No fault waits any more, and what is wrong comes to its end; returns once everything is well.
pub async fn ends(pair: &Pair) {
    pair.world.disarm();
    pair.world.ends();
    upgrade::ends(pair);
    suspension::ends(pair).await;
    loop {
        let clears = pair
            .cloud
            .clears_at()
            .max(Some(pair.control.clocks_agree_at()))
            .map(|at| at.since(pair.world.now()))
            .max(pair.agents.clears_at().map(|at| at.duration_since(Instant::now())))
            .filter(|left| !left.is_zero());
        if pair.is_whole() && clears.is_none() {
            break;
        }
        let wait = clears.unwrap_or_default().max(Duration::from_secs(20));
        pair.pass(Instant::now() + wait).await;
    }
    pair.world.tell("life", 64, || "the last fault is over");
}
