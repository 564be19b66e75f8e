//! A life: a day of wishes and faults under one seed, and what must hold in the end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::client::{Ask, Request};
use crate::cloud::Flavour;
use crate::coverage::Coverage;
use crate::faults::{Armed, Fault};
use crate::operator;
use crate::pair::{Pair, Shape};
use crate::readers;
use crate::rng::Rng;
use crate::trouble;
use crate::violation::Violation;
use crate::world::{World, panicked};

/// How long a life is.
pub const DAY: Duration = Duration::from_secs(24 * 3600);
/// Over how long the wishes are spread.
const WISHES_FOR: Duration = Duration::from_secs(45 * 1800);
/// How many wishes a tenant stores in a life, at least.
pub const WISHES: u64 = 20;
/// How many faults happen in a life, at least.
pub const FAULTS: u64 = 10;
/// How long after the last fault everything must be as it was wished.
pub const PATIENCE: Duration = Duration::from_secs(30 * 60);

/// Whether databases are set back to an earlier state in a life.
pub const RESTORES: bool = true;

/// What became of a life.
#[derive(Debug)]
pub struct Lived {
    /// Its seed.
    pub seed: u64,
    /// The number that stands for its story.
    pub hash: u64,
    /// Its story in words, where they were kept.
    pub words: String,
    /// What it has met.
    pub coverage: Coverage,
    /// The rules that were broken.
    pub violations: Vec<Violation>,
}

impl Lived {
    /// Whether a rule was broken.
    pub fn broke_a_rule(&self) -> bool {
        !self.violations.is_empty()
    }
}

/// Runs something in a world of its own, in which no real time passes.
pub fn in_a_world<F: Future>(what: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime without I/O can be built").block_on(what)
}

/// Leads a life. It keeps its story's words where `told` is set, and is one without faults where `faults` isn't.
pub fn lead(seed: u64, told: bool, faults: bool) -> Lived {
    let led = catch_unwind(AssertUnwindSafe(|| live(seed, told, faults)));
    led.unwrap_or_else(|panic| Lived {
        seed,
        hash: 0,
        words: String::new(),
        coverage: Coverage::default(),
        violations: vec![panicked(&*panic)],
    })
}

fn live(seed: u64, told: bool, faults: bool) -> Lived {
    in_a_world(async move {
        let world = Arc::new(World::new(seed, !faults, told));
        let shape = shape(&mut world.rng());
        world.tell("life", seed, || format!("seed {seed}: {shape:?}"));
        let pair = Pair::start(Arc::clone(&world), &shape).await;
        day(&pair, faults).await;
        pair.check().await;
        pair.control.end();
        let (hash, words) = {
            let story = world.story();
            (story.hash(), story.words().to_owned())
        };
        let violations = world.violations();
        let coverage = world.coverage().clone();
        Lived { seed, hash, words, coverage, violations }
    })
}

fn shape(rng: &mut Rng) -> Shape {
    let skew = |rng: &mut Rng, most: u64| {
        let skew = i64::try_from(rng.below(2 * most)).unwrap_or(0);
        skew - i64::try_from(most).unwrap_or(0)
    };
    let tenants = *rng.pick(&[1, 1, 1, 2, 3]);
    let replicas = *rng.pick(&[1, 2, 2, 3]);
    Shape {
        tenants: (0..tenants).map(|_| skew(rng, 90_000_000)).collect(),
        replicas: (0..replicas).map(|_| skew(rng, 1_500_000)).collect(),
        flavour: *rng.pick(&[Flavour::Containers, Flavour::Machines]),
        shuffles: rng.once_in(2),
        cap: Some(i64::try_from(rng.between(3, 6)).unwrap_or(3)),
        caps_resources: rng.once_in(3),
    }
}

/// A day in episodes: a few wishes and a few faults close together, hours apart.
async fn day(pair: &Pair, faults: bool) {
    let began = Instant::now();
    let world = &pair.world;
    let episodes = world.rng().between(9, 10);
    react(pair);
    let operators = pair.clone();
    pair.world.spawn(async move { operator::attend_to_alarms(&operators).await });
    let mut number = 0;
    for episode in 0..episodes {
        let slot = WISHES_FOR / u32::try_from(episodes).unwrap_or(1);
        let at = began + slot * u32::try_from(episode).unwrap_or(0) + world.rng().seconds(0, 1800);
        pair.pass(at).await;
        world.tell("life", episode, || format!("episode {episode}"));
        let mut first = true;
        let wishes = if episode == 0 { 4 } else { world.rng().between(2, 3) };
        for _ in 0..wishes {
            number += 1;
            let after = if episode == 0 || first { Duration::ZERO } else { delay(&mut world.rng()) };
            first = false;
            wish(pair, number, after, episode == 0);
        }
        if faults {
            let troubles = world.rng().between(1, 2);
            for _ in 0..troubles {
                let (pair, after) = (pair.clone(), delay(&mut world.rng()));
                let busy = world.busy();
                world.spawn(async move {
                    tokio::time::sleep(after).await;
                    drop(busy);
                    trouble::happens(&pair).await;
                });
            }
        }
        // what follows from it takes its time; the next episode may come before that
        let rest = world.rng().seconds(30, 600);
        tokio::time::sleep(rest).await;
    }
    // some were refused, or came to nobody
    while world.coverage().figure_of("wishes") < WISHES {
        number += 1;
        wish(pair, number, Duration::ZERO, false);
        let pause = world.rng().seconds(20, 120);
        tokio::time::sleep(pause).await;
    }
    if faults {
        // some did not come to their step
        while world.coverage().figure_of("faults") < FAULTS {
            trouble::happens(pair).await;
            let pause = world.rng().seconds(10, 60);
            tokio::time::sleep(pause).await;
        }
    }
    let last = (began + DAY - Duration::from_secs(45 * 60)).max(Instant::now());
    pair.pass(last).await;
    trouble::ends(pair).await;
    // in parts: what a deadline brings about has its time as well
    let ended = Instant::now();
    for part in 1..=3 {
        pair.pass(ended + PATIENCE / 3 * part).await;
    }
}

/// A client reads that its workspace was given up, and asks for something at once.
fn react(pair: &Pair) {
    let (pair, mut given_up) = (pair.clone(), pair.oracle.given_up());
    let world = Arc::clone(&pair.world);
    world.spawn(async move {
        while let Some((organization, workspace)) = given_up.recv().await {
            let number = pair.world.number();
            let tenant = pair.tenants.iter().position(|tenant| tenant.organization == organization);
            let (ask, after) = {
                let mut rng = pair.world.rng();
                let ask = *rng.pick(&[Ask::Stop, Ask::Start, Ask::Restart, Ask::Delete]);
                (ask, if rng.once_in(2) { Duration::ZERO } else { rng.seconds(0, 60) })
            };
            if pair.world.rng().once_in(2) && !pair.world.is_over() {
                let fault = *pair.world.rng().pick(&[Fault::AnswerLost, Fault::RequestLost, Fault::Denied]);
                pair.world.arm(Armed { step: "call.stop", skip: 0, fault });
            }
            let (client, busy) = (pair.client(tenant.unwrap_or(0)), pair.world.busy());
            let request = Request {
                ask,
                workspace,
                number,
                keyed: true,
                etag: false,
                patience: Duration::from_secs(40),
                repeats: 1,
            };
            pair.world.spawn(async move {
                let _busy = busy;
                tokio::time::sleep(after).await;
                client.ask(request).await;
            });
        }
    });
}

/// Together, one after the other, or minutes apart.
fn delay(rng: &mut Rng) -> Duration {
    match rng.below(4) {
        0 => rng.millis(0, 200),
        1 => rng.millis(200, 5_000),
        2 => rng.seconds(5, 60),
        _ => rng.seconds(60, 400),
    }
}

/// A client wishes something, after a while.
fn wish(pair: &Pair, number: u64, after: Duration, first: bool) {
    let (pair, world, busy) = (pair.clone(), Arc::clone(&pair.world), pair.world.busy());
    Arc::clone(&world).spawn(async move {
        let _busy = busy;
        tokio::time::sleep(after).await;
        let (tenant, keyed, etag, patience, repeats, draw) = {
            let mut rng = world.rng();
            let tenant = usize::try_from(rng.below(pair.tenants.len() as u64)).unwrap_or(0);
            let patience = match rng.below(6) {
                0 => rng.millis(1, 400),
                1 => rng.millis(400, 10_000),
                _ => rng.seconds(20, 90),
            };
            let repeats = u32::try_from(rng.below(3)).unwrap_or(0);
            (tenant, !rng.once_in(4), rng.once_in(5), patience, repeats, rng.below(100))
        };
        let there = pair.oracle.workspaces(pair.tenants[tenant].organization);
        let create = first || there.is_empty() || there.len() < 3 && draw < 35 || draw < 8;
        let workspace = if create { Pair::workspace(u128::from(number)) } else { *world.rng().pick(&there) };
        let ask = if create {
            Ask::Create
        } else {
            match world.rng().below(100) {
                0..20 => Ask::Stop,
                20..40 => Ask::Start,
                40..60 => Ask::Restart,
                60..72 => Ask::Delete,
                _ => Ask::Update(number),
            }
        };
        // a repeated request without a key is another request
        let repeats = if keyed { repeats } else { 0 };
        let request = Request { ask, workspace, number, keyed, etag, patience, repeats };
        world.tell("client", 91, || format!("asks tenant {} for {request:?}", tenant + 1));
        pair.client(tenant).ask(request.clone()).await;
        readers::look(&pair, tenant, workspace, number);
        if ask == Ask::Delete && world.rng().once_in(2) {
            // once more, with the etag of what is being deleted
            let request = Request { number: world.number(), etag: true, ..request };
            pair.client(tenant).ask(request).await;
            return;
        }
        // a second thought, right after
        let again = world.rng().below(3);
        if again == 0 && !create {
            let ask = *world.rng().pick(&[Ask::Stop, Ask::Start, Ask::Restart, Ask::Delete]);
            let number = world.number();
            let request = Request { ask, workspace, number, keyed, etag: false, patience, repeats };
            world.tell("client", 91, || format!("asks again: {request:?}"));
            pair.client(tenant).ask(request).await;
        }
    });
}
