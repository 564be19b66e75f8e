//! Set-up and chores: `cargo xtask up | test | lint | static | prepare | bench | soak | mutants`. Whatever these need
//! they get, or say exactly how to get it; whatever they start, they stop.

mod bench;
mod checks;
mod demo;
mod docker;
mod mutants;
mod postgres;
mod queries;
mod shell;
mod suites;
mod tools;
mod up;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Set-up and chores of this repository")]
enum Task {
    /// Start everything, create a demo workspace, show it, and serve until Ctrl-C.
    Up {
        /// The SaaS pair: two control planes over PostgreSQL, and a tenant.
        #[arg(long)]
        saas: bool,
        /// End after the demo.
        #[arg(long)]
        exit: bool,
    },
    /// Get what the tests need and run all of them.
    Test {
        /// Arguments for `cargo test`.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Formatting, clippy, dependencies' licences, the API's style and compatibility.
    Lint,
    /// Build the static binaries that go into workspaces.
    Static,
    /// Check the queries' offline data against the migrations, or write it anew.
    Prepare {
        /// Only check.
        #[arg(long)]
        check: bool,
    },
    /// Measure against the raw Engine API, pgbench, or a limit.
    #[command(subcommand)]
    Bench(Bench),
    /// The long form of the searching tests.
    Soak {
        /// Random lives per property.
        #[arg(long, default_value_t = 20_000)]
        cases: u32,
        /// Simulated lives of the whole pair.
        #[arg(long, default_value_t = 1_000_000)]
        lives: u64,
        /// The seed of the first of them.
        #[arg(long, default_value_t = 1)]
        first: u64,
    },
    /// Test the tests of the pure crates: plant bugs. Without a command it is `mutants all`.
    #[command(args_conflicts_with_subcommands = true)]
    Mutants {
        #[command(subcommand)]
        what: Option<Mutants>,
        #[command(flatten)]
        all: All,
    },
}

#[derive(Debug, clap::Args)]
struct All {
    /// Which of how many, as in 0/8.
    #[arg(long)]
    shard: Option<String>,
    /// Only those whose name holds this.
    #[arg(long)]
    only: Option<String>,
    /// Judge anew what no test has caught of the code and the tests as they are, too.
    #[arg(long)]
    again: bool,
}

#[derive(Debug, Subcommand)]
enum Mutants {
    /// Plant the bugs of a list that are in other crates, one by one, and keep in tests/mutants what was found; each must be
    /// caught.
    Suspects {
        /// Only those whose name holds this.
        only: Option<String>,
        /// Judge anew what no test has caught of the code and the tests as they are, too.
        #[arg(long)]
        again: bool,
    },
    /// Compile every mutant of the pure crates, and the listed bugs, into one build, judge each by the tests, and keep in
    /// tests/mutants what was found of the code and the tests as they are. It goes on where it was ended.
    All(All),
    /// Sum up, by file, what all shards have found of the code and the tests as they are; fail where too little is caught
    /// or a survivor has no reason.
    Report,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// From `CreateWorkspace` to the entrypoint's first instruction.
    Create {
        /// Sequential creates on each side.
        #[arg(long, default_value_t = 20)]
        rounds: u32,
    },
    /// Admissions against pgbench, steady workspaces, watchers, and what forwarding adds.
    Controlplane,
    /// From the daemon's word that a container has died to the moment at which the engine begins to store that.
    Crash {
        /// Kills, one after another.
        #[arg(long, default_value_t = 200)]
        kills: u32,
    },
}

fn main() -> anyhow::Result<()> {
    shell::enter_repository()?;
    match Task::parse() {
        Task::Up { saas, exit } => up::run(saas, exit),
        Task::Test { arguments } => checks::test(&arguments),
        Task::Lint => checks::lint(),
        Task::Static => tools::build_static(),
        Task::Prepare { check } => {
            queries::build(!check, &postgres::Postgres::ensure("prepare")?, &tools::python_tools()?)
        }
        Task::Bench(Bench::Create { rounds }) => bench::create(rounds),
        Task::Bench(Bench::Controlplane) => bench::controlplane(),
        Task::Bench(Bench::Crash { kills }) => bench::crash(kills),
        Task::Mutants { what, all } => match what.unwrap_or(Mutants::All(all)) {
            Mutants::Suspects { only, again } => mutants::suspects(only.as_deref(), again),
            Mutants::All(All { shard, only, again }) => {
                mutants::all(shard.as_deref(), only.as_deref(), again)
            }
            Mutants::Report => mutants::report(),
        },
        Task::Soak { cases, lives, first } => checks::soak(cases, lives, first),
    }
}
