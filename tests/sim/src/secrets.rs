//! Seals by writing the context beside what is sealed: enough to tell whether it opens where it should.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use molecule_domain::id::{Generation, WorkspaceId};
use molecule_domain::seal::{Sealer, token_context};
use molecule_tenant::private;
use molecule_workspace::aggregate::SealedToken;
use molecule_workspace::agreement::Minter;
use molecule_workspace::private::SealedParts;

/// Opens only under the context that it was sealed under.
#[derive(Clone, Copy, Debug)]
pub struct Seal;

impl Sealer for Seal {
    fn seal(&self, plain: &[u8], context: &str) -> Vec<u8> {
        let mut sealed = Vec::with_capacity(context.len() + 1 + plain.len());
        sealed.extend_from_slice(context.as_bytes());
        sealed.push(0);
        sealed.extend_from_slice(plain);
        sealed
    }

    fn open(&self, sealed: &[u8], context: &str) -> Option<Vec<u8>> {
        let rest = sealed.strip_prefix(context.as_bytes())?;
        rest.strip_prefix(&[0]).map(<[u8]>::to_vec)
    }
}

/// A tenant's secrets: tokens are numbered, so that each is another.
#[derive(Clone, Debug, Default)]
pub struct Mint(Arc<AtomicU64>);

/// The hash by which a token, or a credential, is known.
pub fn hash_of(value: &str) -> Vec<u8> {
    let mut hash = b"hash of ".to_vec();
    hash.extend_from_slice(value.as_bytes());
    hash
}

impl Sealer for Mint {
    fn seal(&self, plain: &[u8], context: &str) -> Vec<u8> {
        Seal.seal(plain, context)
    }

    fn open(&self, sealed: &[u8], context: &str) -> Option<Vec<u8>> {
        Seal.open(sealed, context)
    }
}

impl Minter for Mint {
    fn mint(&self, workspace: WorkspaceId, generation: Generation) -> SealedToken {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        let token = format!("token {number} of {workspace}/{generation}");
        let sealed = Seal.seal(token.as_bytes(), &token_context(workspace, generation));
        SealedToken { sealed, hash: hash_of(&token) }
    }

    fn no_private_parts(&self, workspace: WorkspaceId) -> SealedParts {
        private::nothing(&Seal, workspace)
    }
}
