//! A database of a test's own, on the server that `cargo xtask test` starts.

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
        let server = std::env::var("MOLECULE_TEST_POSTGRES").context(
            "MOLECULE_TEST_POSTGRES is not set: run the tests through `cargo xtask test`, which starts PostgreSQL",
        )?;
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

    /// A copy of it beside it, as `pg_dump` and `pg_restore` make one: another database with the same rows. Nobody may
    /// be connected.
    pub async fn copy(&self) -> anyhow::Result<Self> {
        let name = format!("molecule_test_{}", uuid::Uuid::new_v4().simple());
        execute(&self.server, format!("CREATE DATABASE {name} TEMPLATE {}", self.name)).await?;
        Ok(Self { server: self.server.clone(), name })
    }

    /// Puts the rows of a copy in its place, under its name, as an operator restores a backup.
    pub async fn put_back(&self, copy: Self) -> anyhow::Result<()> {
        execute(&self.server, format!("DROP DATABASE {} WITH (FORCE)", self.name)).await?;
        execute(&self.server, format!("CREATE DATABASE {} TEMPLATE {}", self.name, copy.name)).await
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

/// Runs a statement without parameters.
pub async fn execute(url: &str, statement: String) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await?;
    connection.close().await?;
    Ok(())
}
