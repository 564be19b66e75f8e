//! A PostgreSQL server: the one that `DATABASE_URL` names, or a private cluster of our own for as long as this
//! runs. Its data stay, so that the next run finds them.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};

use crate::shell::{command, install, is_root, run, say, succeeds};

/// The user that a server runs as where this runs as root, whom it refuses to serve.
const USER: &str = "postgres";

/// A server that answers. Dropping it stops it where this started it.
pub(crate) struct Postgres {
    /// Where to connect, with the right to make databases.
    pub(crate) url: String,
    cluster: Option<Cluster>,
}

struct Cluster {
    programs: PathBuf,
    data: PathBuf,
    /// Held while this uses the cluster: what runs beside it makes another.
    _lock: File,
}

impl Postgres {
    /// Finds a server, or installs and starts one. What has another purpose has other data.
    pub(crate) fn ensure(purpose: &str) -> anyhow::Result<Self> {
        if let Ok(url) = std::env::var("DATABASE_URL") {
            ensure!(url.starts_with("postgres"), "DATABASE_URL is not a PostgreSQL URL: {url}");
            return Ok(Self { url, cluster: None });
        }
        if programs().is_none() {
            install(&["postgresql"], "PostgreSQL")?;
        }
        let programs = programs().context("there are no PostgreSQL programs below /usr/lib/postgresql")?;
        let (folder, lock) = folder(purpose)?;
        let cluster = Cluster { programs, data: folder.join("data"), _lock: lock };
        let password = cluster.initialise()?;
        let port = cluster.start()?;
        Ok(Self {
            url: format!("postgres://{USER}:{password}@127.0.0.1:{port}/postgres"),
            cluster: Some(cluster),
        })
    }

    /// The same server's URL for another database.
    pub(crate) fn url_of(&self, database: &str) -> String {
        match self.url.rsplit_once('/') {
            Some((server, _)) => format!("{server}/{database}"),
            None => self.url.clone(),
        }
    }

    /// The same server's URL for a database that is made anew, whatever it held.
    pub(crate) fn emptied(&self, database: &str) -> anyhow::Result<String> {
        psql(&self.url, &["--command", &format!("DROP DATABASE IF EXISTS {database} WITH (FORCE)")])?;
        psql(&self.url, &["--command", &format!("CREATE DATABASE {database}")])?;
        Ok(self.url_of(database))
    }
}

/// Runs psql against a database.
pub(crate) fn psql(url: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let mut psql = command(program("psql")?, &["--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=1"]);
    let status = psql.args(arguments).arg(url).env("PGOPTIONS", "--client-min-messages=warning").status()?;
    // the URL, which may hold a password, is not shown
    ensure!(status.success(), "psql {arguments:?} ended with {status}");
    Ok(())
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(cluster) = &self.cluster {
            let _ = cluster.stop();
        }
    }
}

impl Cluster {
    /// Makes the cluster where there is none; the password either way.
    fn initialise(&self) -> anyhow::Result<String> {
        let folder = self.data.parent().context("a folder")?;
        let password_file = folder.join("password");
        if self.data.join("PG_VERSION").exists() {
            return Ok(fs::read_to_string(&password_file)?);
        }
        say("making a PostgreSQL cluster");
        // a UUID of the kernel's: 122 random bits
        let password = fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().replace('-', "");
        fs::write(&password_file, &password)?;
        fs::set_permissions(&password_file, fs::Permissions::from_mode(0o600))?;
        own(&password_file)?;
        let password_file = format!("--pwfile={}", password_file.display());
        let arguments =
            ["--username", USER, "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", &password_file];
        let mut initdb = self.program("initdb");
        run(initdb.arg("--pgdata").arg(&self.data).args(arguments).stdout(Stdio::null()))?;
        Ok(password)
    }

    /// Starts the server on a free port of the loopback, which this returns.
    fn start(&self) -> anyhow::Result<u16> {
        // nobody has the lock, so one that runs was left by a run that was killed
        let _ = self.stop();
        say("starting PostgreSQL");
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        // many services and tests connect at once
        let options = format!(
            "-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c max_connections=300"
        );
        let log = self.data.with_file_name("log");
        let mut start = self.program("pg_ctl");
        start.args(["start", "--wait", "--silent", "--pgdata"]).arg(&self.data).arg("--log").arg(&log);
        run(start.arg("--options").arg(options).stdout(Stdio::null()))
            .with_context(|| format!("see {}", log.display()))?;
        Ok(port)
    }

    fn stop(&self) -> anyhow::Result<()> {
        let mut stop = self.program("pg_ctl");
        stop.args(["stop", "--wait", "--silent", "--mode=fast", "--pgdata"]).arg(&self.data);
        ensure!(succeeds(&mut stop), "it does not stop");
        Ok(())
    }

    fn program(&self, name: &str) -> Command {
        let program = self.programs.join(name);
        let mut command = if is_root() {
            let mut as_user = command("runuser", &["-u", USER, "--"]);
            as_user.arg(program);
            as_user
        } else {
            command(program, &[])
        };
        // the user that it runs as need not be able to enter ours
        command.current_dir("/");
        command
    }
}

/// The newest installed version's programs.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    let folders = versions.map(|version| version.path().join("bin"));
    folders.filter(|folder| folder.join("initdb").exists()).max()
}

/// A program of PostgreSQL's, which Debian keeps off the path.
pub(crate) fn program(name: &str) -> anyhow::Result<PathBuf> {
    if programs().is_none() {
        install(&["postgresql"], "PostgreSQL's programs")?;
    }
    Ok(programs().context("there are no PostgreSQL programs below /usr/lib/postgresql")?.join(name))
}

/// Where a cluster of this repository's is that nobody else uses now, and the lock on it: where the server's user may
/// enter, which need not be so here.
fn folder(purpose: &str) -> anyhow::Result<(PathBuf, File)> {
    let mut hasher = DefaultHasher::new();
    std::env::current_dir()?.hash(&mut hasher);
    let above = if is_root() {
        PathBuf::from(format!("/var/tmp/molecule-postgres-{:016x}", hasher.finish()))
    } else {
        std::env::current_dir()?.join("target/postgres")
    };
    fs::create_dir_all(&above)?;
    for number in 1.. {
        let folder = above.join(format!("{purpose}-{number}"));
        fs::create_dir_all(&folder)?;
        let lock = File::create(folder.join("lock"))?;
        if lock.try_lock().is_ok() {
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
            own(&folder)?;
            return Ok((folder, lock));
        }
    }
    bail!("every cluster is in use")
}

/// Gives a file to the user that the server runs as.
fn own(path: &Path) -> anyhow::Result<()> {
    if !is_root() {
        return Ok(());
    }
    let passwd = fs::read_to_string("/etc/passwd")?;
    let line = passwd.lines().find(|line| line.split(':').next() == Some(USER));
    let mut ids = line.context("there is no user postgres")?.split(':').skip(2);
    let mut id = || ids.next().and_then(|id| id.parse().ok());
    let (uid, gid) = (id(), id());
    Ok(chown(path, uid, gid)?)
}
