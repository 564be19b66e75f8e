//! Organisations, their tokens, and what operators did. Each change and its audit event are one transaction.

mod audit;
mod organizations;
mod recount;
mod standing;
mod tokens;

use molecule_domain::Timestamp;
use molecule_domain::id::{OrganizationId, Revision, TokenId};
use molecule_domain::incarnation::Session;
use molecule_provisioner::admission::Account;

pub(crate) use self::audit::keep as keep_audit;
pub use self::audit::{Audit, AuditEvent};
pub use self::recount::Drift;
use crate::Database;

/// The accounts in an open database.
#[derive(Clone, Debug)]
pub struct Accounts(pub(crate) Database);

impl Accounts {
    /// The accounts in this database.
    pub const fn new(database: Database) -> Self {
        Self(database)
    }
}

/// A customer's organisation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Organization {
    /// Its id.
    pub id: OrganizationId,
    /// For people.
    pub name: String,
    /// The name of its plan; may be empty.
    pub plan: String,
    /// Which backend its new workspaces go to; empty where that is the plan's or the service's to say.
    pub backend: String,
    /// Hosts that its workspaces may be told to reach.
    pub allowed_agent_hosts: Vec<String>,
    /// What it may use, and uses.
    pub account: Account,
    /// When it was made.
    pub created_at: Timestamp,
}

/// New values of an organisation; `None` stays.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)] // as in Organization
pub struct Changes {
    pub name: Option<String>,
    pub plan: Option<String>,
    pub backend: Option<String>,
    pub allowed_agent_hosts: Option<Vec<String>>,
    pub limits: Option<(molecule_domain::limits::Limits, molecule_domain::limits::Permits)>,
    pub standing: Option<molecule_domain::limits::Standing>,
}

/// Whose token it is, and where that organisation's workspaces may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The organisation.
    pub organization: OrganizationId,
    /// As in [`Organization`].
    pub plan: String,
    /// As in [`Organization`].
    pub backend: String,
    /// As in [`Organization`].
    pub allowed_agent_hosts: Vec<String>,
    /// Which process of the organisation's tenant is served, or was served last.
    pub session: Option<Session>,
    /// The organisation's last revision.
    pub revision: Revision,
    /// When this was read, by the database's clock.
    pub now: Timestamp,
}

/// A tenant's token, without the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its id.
    pub id: TokenId,
    /// Whose it is.
    pub organization: OrganizationId,
    /// What it is for, for people.
    pub name: String,
    /// Since when.
    pub created_at: Timestamp,
    /// From when it is worth nothing.
    pub revoked_at: Option<Timestamp>,
}
