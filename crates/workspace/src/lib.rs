//! A workspace as its tenant holds it, and the rules by which it changes. The rules are pure: a [store](store) loads a
//! [`Workspace`](aggregate::Workspace), lets it decide inside the transaction, and saves what it became.
//!
//! Three parties change a workspace: a client, who [wishes](wish) something; the provider, whose word the
//! [mirror] takes over; and the agent, which [reports](agent). What the provider has still to be told is the workspace's
//! [outbox]. Where either side was put back to an earlier state, the two come to an [agreement].

pub mod agent;
pub mod aggregate;
pub mod agreement;
pub mod kinship;
pub mod mirror;
pub mod outbox;
pub mod private;
pub mod record;
pub mod store;
pub mod undo;
pub mod wish;

pub use aggregate::Workspace;
pub use record::WorkspaceRecord;
pub use wish::{Entry, Wish};
