//! Benchmarks: a program of the tests crate measures; this sets up what it needs.

use crate::checks::with_static_binaries;
use crate::docker::Docker;
use crate::shell::{cargo, command, run, say};
use crate::tools::{build_static, import_images};

/// Creates through the service against creates through the raw Engine API.
pub(crate) fn create(rounds: u32) -> anyhow::Result<()> {
    let _docker = Docker::ensure()?;
    say("building");
    run(&mut cargo(&["build", "--locked", "--workspace"]))?;
    run(&mut cargo(&["build", "--locked", "--workspace", "--release"]))?;
    build_static()?;
    import_images()?;
    let mut bench = command("target/release/bench-create", &[&rounds.to_string()]);
    run(with_static_binaries(&mut bench)?)
}
