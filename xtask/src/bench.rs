//! Benchmarks: a program of the tests crate measures; this sets up what it needs.

use crate::checks::with_static_binaries;
use crate::docker::Docker;
use crate::postgres::{self, Postgres};
use crate::shell::{cargo, command, run, say};
use crate::tools::{build_static, import_images};

/// Creates through the service against creates through the raw Engine API.
pub(crate) fn create(rounds: u32) -> anyhow::Result<()> {
    let _docker = Docker::ensure()?;
    build()?;
    let mut bench = command("target/release/bench-create", &[&rounds.to_string()]);
    run(with_static_binaries(&mut bench)?)
}

/// The control plane: what it measures itself against is pgbench on the same server.
pub(crate) fn controlplane() -> anyhow::Result<()> {
    let _docker = Docker::ensure()?;
    let postgres = Postgres::ensure("bench")?;
    build()?;
    let mut bench = command("target/release/bench-controlplane", &[]);
    bench.env("MOLECULE_TEST_POSTGRES", &postgres.url).env("MOLECULE_PGBENCH", postgres::program("pgbench")?);
    run(with_static_binaries(&mut bench)?)
}

/// Kills of containers, and how soon they are known.
pub(crate) fn crash(kills: u32) -> anyhow::Result<()> {
    let _docker = Docker::ensure()?;
    build()?;
    let mut bench = command("target/release/bench-crash", &[&kills.to_string()]);
    run(with_static_binaries(&mut bench)?)
}

fn build() -> anyhow::Result<()> {
    say("building");
    run(&mut cargo(&["build", "--locked", "--workspace"]))?;
    run(&mut cargo(&["build", "--locked", "--workspace", "--release"]))?;
    build_static()?;
    import_images()
}
