//! Sealing: what must not be stored in clear text is stored as this makes it.

/// Makes bytes unreadable for whoever has the database but not the key.
pub trait Sealer: Send + Sync + 'static {
    /// Seals `plain`, bound to `context`: it opens only under the same one.
    fn seal(&self, plain: &[u8], context: &str) -> Vec<u8>;

    /// Opens what [`Sealer::seal`] made; `None` where it was changed, moved or sealed with another key.
    fn open(&self, sealed: &[u8], context: &str) -> Option<Vec<u8>>;
}

/// The context that a workspace's bootstrap token is sealed in.
pub fn token_context(workspace: crate::id::WorkspaceId, generation: crate::id::Generation) -> String {
    format!("bootstrap-token/{workspace}/{generation}")
}
