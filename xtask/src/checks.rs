//! The checks: lint and test, and what they stand on.

use std::process::Command;

use crate::docker::Docker;
use crate::postgres::Postgres;
use crate::shell::{cargo, command, install, is_there, run, say};
use crate::tools::{build_static, cargo_tool, import_images, python_tools, static_binary};

/// Everything that can be said without running the services.
pub(crate) fn lint() -> anyhow::Result<()> {
    say("rustfmt");
    run(&mut cargo(&["fmt", "--all", "--check"]))?;
    say("clippy");
    run(&mut cargo(&["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    let deny = cargo_tool("cargo-deny", &["cargo-deny"])?;
    say("cargo deny");
    run(&mut command(deny, &["--all-features", "check", "licenses", "bans", "sources"]))?;
    let tools = python_tools()?;
    say("deploy/, by its syntax");
    run(&mut command(tools.join("python"), &["tests/python/deploy.py"]))?;
    let buf = tools.join("buf");
    say("buf");
    run(command(&buf, &["lint"]).current_dir("proto"))?;
    run(command(&buf, &["breaking", "--against", "v1.binpb"]).current_dir("proto"))
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
    prepare(true, &postgres)?;
    say("building");
    run(&mut cargo(&["build", "--locked", "--workspace", "--all-targets"]))?;
    build_static()?;
    import_images()?;
    let python = python_tools()?;
    say("testing");
    let mut test = cargo(&["test", "--locked", "--workspace"]);
    // the tests on real Docker wait more than they work
    test.args(arguments).env("MOLECULE_PYTHON_TOOLS", python).env("RUST_TEST_THREADS", "4");
    test.env("MOLECULE_TEST_POSTGRES", &postgres.url);
    run(with_static_binaries(&mut test)?)
}

/// The searching tests for longer, and the sweeps whole.
pub(crate) fn soak(cases: u32) -> anyhow::Result<()> {
    let _docker = Docker::ensure()?;
    say(&format!("{cases} random lives per property"));
    let mut test =
        cargo(&["test", "--locked", "--release", "-p", "molecule-provisioner", "--test", "engine"]);
    run(test.env("SOAK_CASES", cases.to_string()))?;
    run(&mut cargo(&["build", "--locked", "--workspace", "--all-targets"]))?;
    build_static()?;
    import_images()?;
    say("every case of the kill sweep");
    let mut test = cargo(&["test", "--locked", "--workspace", "--test", "crashes"]);
    run(with_static_binaries(test.env("SOAK", "1").env("RUST_TEST_THREADS", "4"))?)
}

/// Checks the queries' offline data against the migrations, or writes it anew.
pub(crate) fn prepare(check: bool, postgres: &Postgres) -> anyhow::Result<()> {
    let features = ["--no-default-features", "--features", "sqlite,postgres,rustls,sqlx-toml", "sqlx-cli"];
    let sqlx = cargo_tool("cargo-sqlx", &features)?;
    say("sqlx's offline data");
    let folder = std::env::current_dir()?.join("target/sqlx");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder)?;
    let sqlite = format!("sqlite://{}", folder.join("store-sqlite.db").display());
    let postgres = postgres.url_of("molecule_prepare");
    for (folder, database) in [("crates/store-sqlite", sqlite), ("crates/store-postgres", postgres)] {
        let sqlx = |arguments: &[&str]| {
            let mut command = command(&sqlx, &["sqlx"]);
            command.args(arguments).env("DATABASE_URL", &database).env("SQLX_OFFLINE", "false");
            run(command.current_dir(folder))
        };
        sqlx(&["database", "drop", "-y", "--force"]).or_else(|_| sqlx(&["database", "drop", "-y"]))?;
        sqlx(&["database", "create"])?;
        sqlx(&["migrate", "run"])?;
        if check { sqlx(&["prepare", "--check"])? } else { sqlx(&["prepare"])? }
    }
    Ok(())
}

/// Tells tests where the static binaries are.
pub(crate) fn with_static_binaries(command: &mut Command) -> anyhow::Result<&mut Command> {
    let folder = static_binary("").canonicalize()?;
    Ok(command.env("MOLECULE_STATIC_BINARIES", folder))
}
