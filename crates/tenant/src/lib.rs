//! What a tenant does: its use cases, the outbox that tells the provider what clients wish, the mirror that takes over
//! what the provider says, and the watch over agents. It stands on two seams, the
//! [store](molecule_workspace::store::TenantStore) and the [provider](provider::Provider), and knows no transport.

pub mod embedded;
pub mod liveness;
pub mod mirror;
pub mod outbox;
pub mod private;
pub mod provider;
pub mod spec_update;
pub mod workspaces;

mod mount;

pub use outbox::Outbox;
pub use provider::Provider;
pub use workspaces::Workspaces;
