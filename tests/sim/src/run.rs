//! Many lives, on as many threads as there are processors, and what they met in all.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::coverage::Coverage;
use crate::life::{Lived, lead};
use crate::world::lock;

/// How often a run says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(15);
/// How many lives that broke a rule are told of.
const TOLD: usize = 3;

/// What many lives have met.
#[derive(Debug, Default)]
pub struct Run {
    /// The first seed.
    pub first: u64,
    /// How many lives there were.
    pub lives: u64,
    /// How long they took.
    pub took: Duration,
    /// What they have met in all.
    pub coverage: Coverage,
    /// The fewest wishes that a tenant stored in one life.
    pub fewest_wishes: u64,
    /// The fewest faults of one life.
    pub fewest_faults: u64,
    /// The lives that broke a rule in a way that nobody knows of, by seed.
    pub broken: Vec<Lived>,
}

/// Leads so many lives from a seed on, on all processors; with `stops`, none after the first that breaks a rule.
pub fn run(first: u64, lives: u64, stops: bool) -> Run {
    let began = Instant::now();
    let next = AtomicU64::new(first);
    let done = AtomicU64::new(0);
    let total =
        Mutex::new(Run { first, lives, fewest_wishes: u64::MAX, fewest_faults: u64::MAX, ..Run::default() });
    let threads = std::thread::available_parallelism().map_or(2, NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut said = Instant::now();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + lives {
                        return;
                    }
                    let lived = lead(seed, false, true);
                    if lived.broke_a_rule() {
                        // at once: a run of hours may end before its end
                        for violation in &lived.violations {
                            println!("seed {seed}: {violation}");
                        }
                        if stops {
                            next.store(u64::MAX / 2, Ordering::Relaxed);
                        }
                    }
                    add(&mut lock(&total), lived);
                    let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                    if said.elapsed() > PROGRESS_EVERY {
                        said = Instant::now();
                        println!("{done} of {lives} lives after {:.0} s", began.elapsed().as_secs_f64());
                    }
                }
            });
        }
    });
    let mut run = total.into_inner().unwrap_or_default();
    run.took = began.elapsed();
    run.broken.sort_by_key(|lived| lived.seed);
    run
}

fn add(run: &mut Run, lived: Lived) {
    run.coverage.add(&lived.coverage);
    let figure = |name| lived.coverage.figure_of(name);
    run.fewest_wishes = run.fewest_wishes.min(figure("wishes"));
    run.fewest_faults = run.fewest_faults.min(figure("faults"));
    if lived.broke_a_rule() {
        run.broken.push(lived);
    }
}

impl Run {
    /// The figures, for people.
    pub fn print(&self) {
        let coverage = &self.coverage;
        let last = self.first + self.lives.saturating_sub(1);
        let seconds = self.took.as_secs_f64();
        println!("{} lives, seeds {}..{last}, {seconds:.1} s", self.lives, self.first);
        println!("fewest of a life: {} stored wishes, {} faults", self.fewest_wishes, self.fewest_faults);
        println!("figures: {:?}", coverage.figures);
        print_ends(&coverage.ends);
        println!("steps: {:?}", coverage.steps);
        println!("troubles: {:?}", coverage.troubles);
        println!("FAILED for: {:?}", coverage.failed);
        println!("suspended while: {:?}", coverage.suspended);
        println!("restored databases: {:?}", coverage.restored);
        print_table("fault and step", coverage.faults.iter().map(|((f, s), n)| ((s, format!("{f:?}")), n)));
        let pairs = coverage.pairs.iter();
        let pairs =
            pairs.map(|((last, new, told), n)| ((format!("{last:?} {told:?}"), format!("{new:?}")), n));
        print_table("last wish and new wish", pairs);
        let transitions = coverage.transitions.iter();
        print_table("from and to phase", transitions.map(|((from, to), n)| ((from, to.to_string()), n)));
    }

    /// The lives that broke a rule, how to lead them again, and the story of the first.
    pub fn print_broken(&self) {
        let mut rules: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for lived in &self.broken {
            for violation in &lived.violations {
                let seeds = rules.entry(violation.rule).or_default();
                if seeds.last() != Some(&lived.seed) {
                    seeds.push(lived.seed);
                }
            }
        }
        for (rule, seeds) in rules {
            println!("{} lives broke the rule that {rule}: {seeds:?}", seeds.len());
        }
        for lived in self.broken.iter().take(TOLD) {
            println!("MOLECULE_SIM_SEED={} MOLECULE_SIM_LIVES=1 leads this life again:", lived.seed);
            for violation in &lived.violations {
                println!("  {violation}");
            }
        }
        if let Some(first) = self.broken.first() {
            let again = lead(first.seed, true, true);
            if again.hash != first.hash {
                println!("seed {} does NOT replay: its story is another one this time", first.seed);
            }
            println!("the story of seed {}:\n{}", first.seed, again.words);
        }
    }
}

/// What workspaces ended as, each with its share of all: FAILED and STOPPED need an explanation, and so are to be few.
fn print_ends(ends: &BTreeMap<&'static str, u64>) {
    let all: u64 = ends.values().sum();
    println!("what {all} workspaces ended as:");
    let print = |name: &str, count: u64| {
        let parts = count * 10_000 / all.max(1);
        println!("  {name:<40} {count:>8} {:>4}.{:02} %", parts / 100, parts % 100);
    };
    let of =
        |kind: &str| ends.iter().filter(|(name, _)| name.starts_with(kind)).map(|(_, count)| count).sum();
    print("FAILED in all", of("failed"));
    print("STOPPED in all", of("stopped"));
    for (name, count) in ends {
        print(name, *count);
    }
}

fn print_table<'a, R: ToString>(name: &str, cells: impl Iterator<Item = ((R, String), &'a u64)>) {
    println!("{name}:");
    let mut rows: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for ((row, column), count) in cells {
        rows.entry(row.to_string()).or_default().push(format!("{column} {count}"));
    }
    for (row, columns) in rows {
        println!("  {row:<24} {}", columns.join(", "));
    }
}
