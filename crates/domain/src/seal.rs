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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Generation;

    #[test]
    fn a_token_is_bound_to_its_generation() {
        let workspace = "01a20500-0000-7000-8000-00000000abcd".parse().unwrap();
        let context = token_context(workspace, Generation(2));
        assert_eq!(context, "bootstrap-token/01a20500-0000-7000-8000-00000000abcd/2");
    }
}
