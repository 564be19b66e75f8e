//! A database of a test's own, on the server that `cargo xtask test` starts.

use std::path::PathBuf;

use anyhow::Context;
use sqlx::{Connection, PgConnection};

/// An empty database. Dropping this drops it.
#[derive(Debug)]
pub struct Scratch {
    server: String,
    name: String,
}

impl Scratch {
    /// Makes one.
    pub async fn new() -> anyhow::Result<Self> {
        Self::on(std::env::var("MOLECULE_TEST_POSTGRES").context(
            "MOLECULE_TEST_POSTGRES is not set: run the tests through `cargo xtask test`, which starts PostgreSQL",
        )?)
        .await
    }

    /// Makes one on a server, which the URL of any database on it names.
    pub async fn on(server: String) -> anyhow::Result<Self> {
        let name = format!("molecule_test_{}", uuid::Uuid::new_v4().simple());
        execute(&server, format!("CREATE DATABASE {name}")).await?;
        Ok(Self { server, name })
    }

    /// Where it is.
    pub fn url(&self) -> String {
        let (server, _) = self.server.rsplit_once('/').unwrap_or((&self.server, ""));
        format!("{server}/{}", self.name)
    }
}

impl Scratch {
    /// Lets nobody in, and puts out who is in, for a while.
    pub async fn outage(&self, length: std::time::Duration) -> anyhow::Result<()> {
        let allow = |allow: bool| {
            execute(&self.server, format!("ALTER DATABASE {} ALLOW_CONNECTIONS {allow}", self.name))
        };
        allow(false).await?;
        let put_out =
            format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}'", self.name);
        execute(&self.server, put_out).await?;
        tokio::time::sleep(length).await;
        allow(true).await
    }

    /// A copy of it beside it, made by `pg_dump` and `pg_restore`: another database with the same rows.
    pub async fn copy(&self) -> anyhow::Result<Self> {
        let name = format!("molecule_test_{}", uuid::Uuid::new_v4().simple());
        execute(&self.server, format!("CREATE DATABASE {name}")).await?;
        let copy = Self { server: self.server.clone(), name };
        restore(&dump(&self.url()).await?, &copy.url()).await?;
        Ok(copy)
    }

    /// Puts the rows of a copy in its place, under its name, as an operator restores a dump.
    pub async fn put_back(&self, copy: Self) -> anyhow::Result<()> {
        let rows = dump(&copy.url()).await?;
        execute(&self.server, format!("DROP DATABASE {} WITH (FORCE)", self.name)).await?;
        execute(&self.server, format!("CREATE DATABASE {}", self.name)).await?;
        restore(&rows, &self.url()).await
    }

    /// The number that a query of one number gives.
    pub async fn number(&self, query: &'static str) -> anyhow::Result<i64> {
        let mut connection = PgConnection::connect(&self.url()).await?;
        Ok(sqlx::query_scalar(query).fetch_one(&mut connection).await?)
    }

    /// The text that a query of one text gives.
    pub async fn text(&self, query: &'static str) -> anyhow::Result<String> {
        let mut connection = PgConnection::connect(&self.url()).await?;
        Ok(sqlx::query_scalar(query).fetch_one(&mut connection).await?)
    }

    /// Every row of every table, as text.
    pub async fn dump(&self) -> anyhow::Result<String> {
        let mut connection = PgConnection::connect(&self.url()).await?;
        let tables: Vec<String> =
            sqlx::query_scalar("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'")
                .fetch_all(&mut connection)
                .await?;
        let mut text = String::new();
        for table in tables {
            let rows = format!("SELECT t::text FROM \"{table}\" t");
            let rows: Vec<String> =
                sqlx::query_scalar(sqlx::AssertSqlSafe(rows)).fetch_all(&mut connection).await?;
            text.extend(rows);
        }
        Ok(text)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let (server, drop) = (self.server.clone(), format!("DROP DATABASE {} WITH (FORCE)", self.name));
        // a runtime can't be entered from within another on the same thread
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(execute(&server, drop))
        });
        if !matches!(dropped.join(), Ok(Ok(()))) {
            eprintln!("the database {} is left over", self.name);
        }
    }
}

/// A dump of a database, in PostgreSQL's own format.
async fn dump(url: &str) -> anyhow::Result<tempfile::NamedTempFile> {
    let file = tempfile::NamedTempFile::new()?;
    let mut dump = tokio::process::Command::new(program("pg_dump")?);
    succeeds(dump.arg("--format=custom").arg("--file").arg(file.path()).arg(url)).await?;
    Ok(file)
}

/// Restores a dump into an empty database.
async fn restore(dump: &tempfile::NamedTempFile, url: &str) -> anyhow::Result<()> {
    let mut restore = tokio::process::Command::new(program("pg_restore")?);
    succeeds(restore.arg("--exit-on-error").arg("--dbname").arg(url).arg(dump.path())).await
}

async fn succeeds(command: &mut tokio::process::Command) -> anyhow::Result<()> {
    let output = command.output().await.with_context(|| format!("{command:?} can't be run"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{command:?} ended with {}: {said}", output.status);
    Ok(())
}

/// A program of the newest PostgreSQL that is installed: Debian keeps them off the path.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let programs = versions.map(|version| version.path().join("bin").join(name));
    programs
        .filter(|program| program.exists())
        .max()
        .with_context(|| format!("there is no {name} below /usr/lib/postgresql: install postgresql"))
}

/// Runs a statement without parameters.
pub async fn execute(url: &str, statement: String) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await?;
    connection.close().await?;
    Ok(())
}
