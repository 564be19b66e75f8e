//! The arguments of `molecule admin` and `molecule quota`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use molecule_proto::controlplane::v1 as wire;

use crate::Confirmed;

/// Where the control plane is.
#[derive(Debug, Args)]
pub(crate) struct ControlPlane {
    /// Address of the control plane's API.
    #[arg(long = "controlplane", env = "CP_PROVISION_URL", default_value = "http://127.0.0.1:7080")]
    pub(super) url: String,
    /// PEM of the only authority trusted for it; by default the system's.
    #[arg(long, env = "CP_CA_FILE")]
    pub(super) ca_file: Option<PathBuf>,
    /// Allow http:// to another machine.
    #[arg(long)]
    pub(super) allow_plain: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Admin {
    #[command(flatten)]
    pub(super) at: ControlPlane,
    /// File that holds the operator's token, alone or after a name.
    #[arg(long, env = "MOLECULE_OPERATOR_TOKEN_FILE")]
    pub(super) operator_token_file: Option<PathBuf>,
    #[command(subcommand)]
    pub(super) what: Do,
}

#[derive(Debug, Subcommand)]
pub(super) enum Do {
    /// Organisations.
    #[command(subcommand)]
    Org(Organizations),
    /// Tokens of organisations' tenants.
    #[command(subcommand)]
    Tokens(Tokens),
    /// Who did what, newest first.
    Audit {
        /// Of one organisation only.
        #[arg(long, default_value = "")]
        org: String,
        /// At most so many.
        #[arg(long, default_value_t = 50)]
        limit: i32,
    },
    /// What is at a provider and no record explains.
    #[command(subcommand)]
    Orphans(Orphans),
    /// The alarms under which nothing is removed, and what would be removed once they are ended.
    Alarms {
        #[command(subcommand)]
        what: Option<Alarms>,
    },
    /// Where the control plane's database is, and whether that is where it was put into use.
    #[command(subcommand)]
    Database(Database),
}

#[derive(Debug, Subcommand)]
pub(super) enum Database {
    /// Show where it was put into use, and where it is.
    Show,
    /// Say that it has moved, and is the one in charge where it is now.
    Adopt {
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Organizations {
    /// Make an organisation.
    Create {
        /// For people.
        name: String,
        /// The id that it shall have: a UUID.
        #[arg(long, default_value = "")]
        id: String,
        /// Its plan, whose limits it gets unless --limit is given.
        #[arg(long, default_value = "")]
        plan: String,
        /// `NAME=NUMBER`, or `highest_tier=T1` to `T4`, `runtimes=A,B` or `backends=A,B`; may be repeated.
        #[arg(long = "limit")]
        limits: Vec<String>,
        /// A host that its workspaces may reach as their tenant-svc; may be repeated.
        #[arg(long = "agent-host")]
        agent_hosts: Vec<String>,
        /// Where its workspaces go.
        #[arg(long, default_value = "")]
        backend: String,
    },
    /// List them.
    List,
    /// Show one.
    Get { id: String },
    /// Change one.
    Update {
        id: String,
        #[arg(long)]
        name: Option<String>,
        /// Its plan, with that plan's limits.
        #[arg(long)]
        plan: Option<String>,
        /// As for create; NAME=none lifts a limit. Others stay.
        #[arg(long = "limit")]
        limits: Vec<String>,
        /// Replaces the allowed hosts; may be repeated.
        #[arg(long = "agent-host")]
        agent_hosts: Vec<String>,
        #[arg(long)]
        backend: Option<String>,
        /// In grace, what runs goes on and nothing new starts.
        #[arg(long)]
        standing: Option<Standing>,
    },
    /// Stop everything of one and let nothing start; data is kept.
    Suspend {
        id: String,
        /// Why, for the audit.
        #[arg(long, default_value = "")]
        message: String,
    },
    /// Good standing again.
    Resume { id: String },
    /// Delete one that has nothing left.
    Delete { id: String },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Standing {
    Good,
    Grace,
}

impl From<Standing> for wire::Standing {
    fn from(standing: Standing) -> Self {
        match standing {
            Standing::Good => Self::Good,
            Standing::Grace => Self::Grace,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Tokens {
    /// Issue one; it is shown this once.
    Issue {
        org: String,
        /// What it is for.
        name: String,
    },
    /// List an organisation's, without the tokens themselves.
    List { org: String },
    /// Make one worth nothing.
    Revoke { org: String, token: String },
}

#[derive(Debug, Subcommand)]
pub(super) enum Orphans {
    /// List them.
    List,
    /// Say what would be removed, or remove it.
    Sweep(Confirmed),
}

#[derive(Debug, Subcommand)]
pub(super) enum Alarms {
    /// Say what would be removed, or end the alarms: then it is.
    Clear(Confirmed),
}

#[derive(Debug, Args)]
pub(crate) struct Quota {
    #[command(flatten)]
    pub(super) at: ControlPlane,
    /// File that holds the organisation's token.
    #[arg(long, env = "MOLECULE_ORG_TOKEN_FILE")]
    pub(super) org_token_file: Option<PathBuf>,
    /// Ask what admission would say to workspaces of this runtime; exits with 1 if it would not admit them.
    #[arg(long, value_name = "RUNTIME")]
    pub(super) preview: Option<String>,
    /// Of this tier.
    #[arg(long, default_value = "T2")]
    pub(super) tier: String,
    /// So many.
    #[arg(long, default_value_t = 1)]
    pub(super) count: u32,
}
