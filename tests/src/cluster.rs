//! A PostgreSQL server of a test's own, whose data directory can be copied and put back.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::ensure;

use crate::postgres::program;

/// The user that a server runs as where a test runs as root, whom it refuses to serve.
const USER: &str = "postgres";

/// A server over a data directory. Dropping it stops it and removes its data.
#[derive(Debug)]
pub struct Cluster {
    folder: tempfile::TempDir,
    port: u16,
}

impl Cluster {
    /// Makes an empty one and starts it. Whoever connects from this machine is trusted.
    pub fn start() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let port = crate::ports::free()?;
        let cluster = Self { folder, port };
        if is_root()? {
            run(Command::new("chown").arg(USER).arg(cluster.folder.path()))?;
        }
        let initdb = ["--username", USER, "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"];
        run(as_user("initdb")?.args(initdb).arg("--pgdata").arg(cluster.data()))?;
        cluster.resume()?;
        Ok(cluster)
    }

    /// The URL of a database on it.
    pub fn url(&self) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/postgres", self.port)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn backup(&self) -> PathBuf {
        self.folder.path().join("backup")
    }

    /// Stops it, as before a copy of its data directory is made.
    pub fn stop(&self) -> anyhow::Result<()> {
        run(as_user("pg_ctl")?.args(["stop", "--wait", "--mode=fast", "--pgdata"]).arg(self.data()))
    }

    /// Starts it again.
    pub fn resume(&self) -> anyhow::Result<()> {
        let options = format!(
            "-p {} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c max_connections=50 -c fsync=off",
            self.port
        );
        let mut start = as_user("pg_ctl")?;
        start.args(["start", "--wait", "--pgdata"]).arg(self.data()).arg("--options").arg(options);
        run(start.arg("--log").arg(self.folder.path().join("log")))
    }

    /// Copies the data directory of the server, which is stopped.
    pub fn back_up(&self) -> anyhow::Result<()> {
        copy(&self.data(), &self.backup())
    }

    /// Puts the copy in the place of the data directory. The server is stopped.
    pub fn put_back(&self) -> anyhow::Result<()> {
        std::fs::remove_dir_all(self.data())?;
        copy(&self.backup(), &self.data())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // one that is stopped already is as well
        let _ = self.stop();
    }
}

/// With owners and modes.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    run(Command::new("cp").arg("--archive").arg(from).arg(to))
}

fn is_root() -> anyhow::Result<bool> {
    Ok(Command::new("id").arg("-u").output()?.stdout == b"0\n")
}

/// A program of PostgreSQL's, as a user that it accepts.
fn as_user(name: &str) -> anyhow::Result<Command> {
    let program = program(name)?;
    let mut command = if is_root()? {
        let mut command = Command::new("runuser");
        command.args(["-u", USER, "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    // the user that it runs as need not be able to enter ours
    command.current_dir("/");
    Ok(command)
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.stdout(Stdio::null()).status()?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}
