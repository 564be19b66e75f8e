//! `molecule`: people's way to their workspaces.
//!
//! Exit codes: 0 done; 1 refused or failed; 2 wrong usage; 3 the server can't be reached; 4 not found;
//! 5 the workspace FAILED while it was waited for; 6 waited too long.

mod admin;
mod client;
mod commands;
mod failure;
mod output;
mod spec;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::spec::{Clear, Parts};

/// Workspaces for AI agents.
#[derive(Debug, Parser)]
#[command(name = "molecule", version)]
struct Cli {
    /// Address of tenant-svc's API.
    #[arg(long, global = true, env = "MOLECULE_SERVER", default_value = "http://127.0.0.1:7070")]
    server: String,
    /// File that holds the token; by default it is looked for in the data directory of a tenant-svc here.
    #[arg(long, global = true, env = "MOLECULE_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// How to print.
    #[arg(short, long, global = true, value_enum, default_value_t)]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

/// Tables for people, JSON for programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    #[default]
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Tenant(TenantCommand),
    /// Show what a SaaS tenant's organisation may use, and uses.
    Quota(admin::Quota),
    /// What operators of a control plane do.
    Admin(admin::Admin),
}

/// What is asked of tenant-svc.
#[derive(Debug, Subcommand)]
enum TenantCommand {
    /// Create a workspace.
    Create(Box<Create>),
    /// Change a workspace: its instance is replaced where what is launched changes.
    ///
    /// Only what is given changes. Labels, config files, the environment and secrets are each replaced as a whole: with one
    /// --env, that variable is the whole environment. A new name, role, parent, readiness or new labels leave the instance
    /// as it runs; anything else replaces it by a new one on the same disk. A stopped workspace stays stopped.
    Update(Box<Update>),
    /// Show a workspace.
    Get { id: String },
    /// List workspaces.
    List {
        /// Conditions, such as: state = RUNNING AND labels.team = "blue"
        #[arg(long, default_value = "")]
        filter: String,
        /// Also those deleted in the last 30 days.
        #[arg(long)]
        deleted: bool,
        /// Only those that were found after a restore, running or stopped, and wait for an update, a restart or a delete.
        #[arg(long)]
        recovered: bool,
    },
    /// Show workspaces as they change.
    Watch {
        #[arg(long, default_value = "")]
        filter: String,
        /// Resume after this revision.
        #[arg(long, default_value_t = 0)]
        after: u64,
    },
    /// Show what happened to a workspace, newest first.
    Events { id: String },
    /// Print the output of a workspace's runtime.
    Logs {
        id: String,
        /// Go on with what comes.
        #[arg(short, long)]
        follow: bool,
        /// Start with so many of the last lines.
        #[arg(long, default_value_t = 0)]
        tail: i32,
    },
    /// Stop a workspace and keep its disk.
    Stop(OnOne),
    /// Start a stopped workspace.
    Start(OnOne),
    /// Replace a workspace's instance by a new one on the same disk.
    Restart {
        #[command(flatten)]
        on: OnOne,
        /// Discard the runtime's session.
        #[arg(long)]
        reset_session: bool,
    },
    /// Delete a workspace and all it holds.
    Delete(OnOne),
    /// Show the alarm of a self-hosted server, under which nothing is removed, and what would be removed once it is ended.
    Alarms {
        #[command(subcommand)]
        what: Option<Alarms>,
    },
    /// List the runtimes.
    Runtimes,
    /// Show what the server is and can do.
    Info,
    /// Send a message to a workspace's agent and print its answer.
    Send { id: String, text: String },
}

#[derive(Debug, Subcommand)]
enum Alarms {
    /// Say what would be removed, or end the alarm: then it is.
    Clear(Confirmed),
}

/// What a person has seen, and confirms.
#[derive(Debug, Args)]
struct Confirmed {
    /// Do it. ETAG stands for what was listed, and is printed below it; if that has changed since, nothing is done.
    #[arg(long, value_name = "ETAG", value_parser = NonEmptyStringValueParser::new())]
    confirm: Option<String>,
}

impl Confirmed {
    /// The etag; empty where nothing is confirmed.
    fn etag(self) -> String {
        self.confirm.unwrap_or_default()
    }
}

#[derive(Debug, Args)]
struct Create {
    /// A name for people.
    name: String,
    /// The runtime, as `molecule runtimes` lists it.
    #[arg(long)]
    runtime: String,
    /// T1 to T4.
    #[arg(long, default_value = "T2")]
    tier: String,
    #[command(flatten)]
    parts: Parts,
    /// The id that it shall have: a UUID.
    #[arg(long, default_value = "")]
    id: String,
    /// Makes the call repeatable; by default one is made up.
    #[arg(long)]
    request_id: Option<String>,
    #[command(flatten)]
    wait: Wait,
}

#[derive(Debug, Args)]
struct Update {
    id: String,
    /// A name for people.
    #[arg(long)]
    name: Option<String>,
    /// The runtime, as `molecule runtimes` lists it.
    #[arg(long)]
    runtime: Option<String>,
    /// T1 to T4.
    #[arg(long)]
    tier: Option<String>,
    #[command(flatten)]
    parts: Parts,
    /// Take away all that was given of this before; may be repeated.
    #[arg(long, value_enum)]
    clear: Vec<Clear>,
    /// Refuse unless the workspace still has this one; `molecule get` shows it.
    #[arg(long, default_value = "")]
    etag: String,
    /// Makes the call repeatable; by default one is made up.
    #[arg(long)]
    request_id: Option<String>,
    #[command(flatten)]
    wait: Wait,
}

#[derive(Debug, Args)]
struct OnOne {
    id: String,
    #[command(flatten)]
    wait: Wait,
}

#[derive(Clone, Copy, Debug, Args)]
struct Wait {
    /// Wait until it is done, and show its progress.
    #[arg(long)]
    wait: bool,
    /// How many seconds to wait at most.
    #[arg(long, default_value_t = 600)]
    timeout: u64,
}

impl Wait {
    const fn limit(self) -> Option<Duration> {
        if self.wait { Some(Duration::from_secs(self.timeout)) } else { None }
    }
}

/// Does what this process's arguments say; its exit code.
#[tokio::main(flavor = "current_thread")]
pub async fn run() -> ExitCode {
    match commands::run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("molecule: {failure}");
            ExitCode::from(failure.code())
        }
    }
}
