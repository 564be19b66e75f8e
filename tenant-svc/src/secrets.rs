//! What only the holder of `seal.key` can make: sealed private parts, and bootstrap tokens.

use std::sync::Arc;

use molecule_domain::id::{Generation, WorkspaceId};
use molecule_domain::seal::{Sealer, token_context};
use molecule_service_kit::seal::Aes;
use molecule_service_kit::token;
use molecule_tenant::private;
use molecule_workspace::aggregate::SealedToken;
use molecule_workspace::agreement::Minter;
use molecule_workspace::private::SealedParts;
use secrecy::ExposeSecret;

/// The key of this data directory.
#[derive(Debug)]
pub(crate) struct SealKey(pub(crate) Arc<Aes>);

impl Sealer for SealKey {
    fn seal(&self, plain: &[u8], context: &str) -> Vec<u8> {
        self.0.seal(plain, context)
    }

    fn open(&self, sealed: &[u8], context: &str) -> Option<Vec<u8>> {
        self.0.open(sealed, context)
    }
}

impl Minter for SealKey {
    fn mint(&self, workspace: WorkspaceId, generation: Generation) -> SealedToken {
        let minted = token::generate("boot");
        let sealed = self.0.seal(minted.expose_secret().as_bytes(), &token_context(workspace, generation));
        SealedToken { sealed, hash: token::hash(minted.expose_secret()) }
    }

    fn no_private_parts(&self, workspace: WorkspaceId) -> SealedParts {
        private::nothing(self, workspace)
    }
}
