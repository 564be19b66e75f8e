//! The checks: lint and test, and what they stand on.

use std::process::Command;

use anyhow::ensure;

use crate::docker::Docker;
use crate::postgres::Postgres;
use crate::shell::{cargo, command, install, is_there, run, say};
use crate::tools::{build_static, cargo_tool, import_images, python_tools, static_binary};
use crate::{demo, queries, suites};

/// Everything that can be said without running the services.
pub(crate) fn lint() -> anyhow::Result<()> {
    say("rustfmt");
    run(&mut cargo(&["fmt", "--all", "--check"]))?;
    // one crate is most of clippy's time and keeps one processor busy: what else is needed is made beside it
    let (clippy, tools) = std::thread::scope(|scope| {
        let tools = scope.spawn(|| anyhow::Ok((cargo_tool("cargo-deny", &["cargo-deny"])?, python_tools()?)));
        say("clippy");
        let arguments = ["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"];
        (run(&mut cargo(&arguments)), tools.join().expect("making tools does not panic"))
    });
    clippy?;
    let (deny, tools) = tools?;
    say("cargo deny");
    run(&mut command(deny, &["--all-features", "check", "licenses", "bans", "sources"]))?;
    say("what the simulation links");
    simulation_links_no_provider()?;
    say("deploy/, by its syntax");
    run(&mut command(tools.join("python"), &["tests/python/deploy.py"]))?;
    let buf = tools.join("buf");
    say("buf");
    run(command(&buf, &["lint"]).current_dir("proto"))?;
    run(command(&buf, &["breaking", "--against", "v1.binpb"]).current_dir("proto"))
}

/// The simulation is built anew for each mutant, within seconds: it links no provider's client.
fn simulation_links_no_provider() -> anyhow::Result<()> {
    let arguments =
        ["tree", "--locked", "-p", "molecule-sim", "--all-features", "--edges", "all", "--prefix", "none"];
    let tree = cargo(&arguments).output()?;
    ensure!(tree.status.success(), "cargo tree: {}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8(tree.stdout)?;
    ensure!(tree.starts_with("molecule-sim "), "cargo tree does not begin with molecule-sim");
    for client in ["bollard", "aws-sdk-ec2"] {
        let links = tree.lines().any(|line| line.split_whitespace().next() == Some(client));
        ensure!(
            !links,
            "molecule-sim links {client}; `cargo tree -p molecule-sim -i {client}` shows by what"
        );
    }
    Ok(())
}

/// Gets what the tests need and runs all of them.
pub(crate) fn test(arguments: &[String]) -> anyhow::Result<()> {
    let _docker = Docker::ensure()?;
    // for a daemon of the tests' own, and for a root in which a machine boots
    for (program, package) in
        [("ip", "iproute2"), ("curl", "curl"), ("mkfs.ext4", "e2fsprogs"), ("losetup", "mount")]
    {
        if !is_there(program) {
            install(&[package], program)?;
        }
    }
    let postgres = Postgres::ensure("test")?;
    let python = python_tools()?;
    queries::build(false, &postgres, &python)?;
    build_static()?;
    import_images()?;
    let statics = static_binary("").canonicalize()?;
    let prepare = |test: &mut Command| {
        test.env("MOLECULE_PYTHON_TOOLS", &python).env("MOLECULE_TEST_POSTGRES", &postgres.url);
        // the tests on real Docker wait more than they work
        test.env("MOLECULE_STATIC_BINARIES", &statics).env("RUST_TEST_THREADS", "4");
    };
    if arguments.is_empty() {
        suites::run_all(prepare)?;
        return demo::check();
    }
    say("testing");
    let mut test = cargo(&["test", "--locked", "--workspace"]);
    prepare(test.args(arguments));
    run(&mut test)
}

/// The searching tests for longer, and the sweeps whole. Simulated lives begin at seed `first`, so that a run goes on where
/// another one ended.
pub(crate) fn soak(cases: u32, lives: u64, first: u64) -> anyhow::Result<()> {
    say(&format!("{lives} simulated lives of the whole pair, from seed {first} on"));
    let mut test = cargo(&["test", "--locked", "--profile", "soak", "-p", "molecule-sim", "--test", "lives"]);
    test.args(["every_life", "--", "--nocapture"]);
    run(test.env("MOLECULE_SIM_SEED", first.to_string()).env("MOLECULE_SIM_LIVES", lives.to_string()))?;

    let _docker = Docker::ensure()?;
    say(&format!("{cases} random lives per property"));
    let mut test =
        cargo(&["test", "--locked", "--profile", "soak", "-p", "molecule-provisioner", "--test", "engine"]);
    run(test.env("SOAK_CASES", cases.to_string()))?;
    run(&mut cargo(&["build", "--locked", "--workspace", "--all-targets"]))?;
    build_static()?;
    import_images()?;
    say("every case of the kill sweep, and ten thousand launches on EC2");
    let mut test = cargo(&["test", "--locked", "--workspace", "--test", "crashes", "--test", "ec2_chaos"]);
    test.env("SOAK", "1").env("RUST_TEST_THREADS", "4").env("MOLECULE_PYTHON_TOOLS", python_tools()?);
    run(with_static_binaries(&mut test)?)
}

/// Tells tests where the static binaries are.
pub(crate) fn with_static_binaries(command: &mut Command) -> anyhow::Result<&mut Command> {
    let folder = static_binary("").canonicalize()?;
    Ok(command.env("MOLECULE_STATIC_BINARIES", folder))
}
