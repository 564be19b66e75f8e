//! What is built or fetched for the chores, below `target/`.

use std::path::{Path, PathBuf};

use crate::shell::{cargo, command, install, is_there, run, say, succeeds};

/// The target that static binaries are built for; it must be named, or the flag would reach build scripts.
const STATIC_TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds workspace-init and the demo agent so that they run in an empty image.
pub(crate) fn build_static() -> anyhow::Result<()> {
    say("building the static binaries");
    let arguments = [
        "build",
        "--locked",
        "--profile",
        "init",
        "--target",
        STATIC_TARGET,
        "-p",
        "workspace-init",
        "-p",
        "demo-agent",
    ];
    run(cargo(&arguments).env("RUSTFLAGS", "-C target-feature=+crt-static"))
}

/// A static binary.
pub(crate) fn static_binary(name: &str) -> PathBuf {
    Path::new("target").join(STATIC_TARGET).join("init").join(name)
}

/// Imports the demo images into the daemon.
pub(crate) fn import_images() -> anyhow::Result<()> {
    say("importing the demo images");
    run(&mut command("target/debug/import-images", &[]))
}

/// A tool from crates.io, installed below `target/tools`.
pub(crate) fn cargo_tool(program: &str, arguments: &[&str]) -> anyhow::Result<PathBuf> {
    let path = std::env::current_dir()?.join("target/tools/bin").join(program);
    if !path.exists() {
        say(&format!("installing {program}"));
        let install = ["install", "--quiet", "--locked", "--debug", "--root", "target/tools"];
        run(&mut cargo(&[&install[..], arguments].concat()))?;
    }
    Ok(path)
}

/// The folder of Python tools from `PyPI`: buf, grpcio for a client that isn't ours, moto for an
/// EC2 that isn't, parsers for what is in `deploy/`.
pub(crate) fn python_tools() -> anyhow::Result<PathBuf> {
    let folder = std::env::current_dir()?.join("target/tools/python");
    let complete = folder.join("complete-2");
    if !complete.exists() {
        if !is_there("python3") {
            install(&["python3", "python3-venv"], "Python")?;
        }
        let path = folder.display().to_string();
        if !succeeds(&mut command("python3", &["-m", "venv", "--clear", &path])) {
            install(&["python3-venv"], "Python's venv")?;
            run(&mut command("python3", &["-m", "venv", "--clear", &path]))?;
        }
        say("installing buf, grpcio, moto and parsers");
        let pip = folder.join("bin/pip");
        run(&mut command(
            pip,
            &[
                "install",
                "--quiet",
                "buf-bin==1.*",
                "grpcio==1.*",
                "grpcio-reflection==1.*",
                "moto[ec2,ssm,server]==5.*",
                "python-hcl2==8.*",
                "pyyaml==6.*",
            ],
        ))?;
        std::fs::write(complete, "")?;
    }
    Ok(folder.join("bin"))
}
