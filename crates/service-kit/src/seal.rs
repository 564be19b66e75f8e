//! Sealing with AES-256-GCM: what must not be stored in clear text.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};

use molecule_domain::seal::Sealer;

use crate::token;

/// A key of 256 bits.
pub const KEY_LENGTH: usize = 32;

/// Seals with one key. The context is bound in: a sealed value opens only where it belongs.
pub struct Aes {
    key: RandomizedNonceKey,
    raw: [u8; KEY_LENGTH],
}

impl std::fmt::Debug for Aes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Aes(..)")
    }
}

impl Aes {
    /// Seals with this key; `None` where it isn't 32 bytes long.
    pub fn new(key: &[u8]) -> Option<Self> {
        let raw = key.try_into().ok()?;
        Some(Self { key: RandomizedNonceKey::new(&AES_256_GCM, key).ok()?, raw })
    }

    /// A new random key.
    pub fn generate_key() -> [u8; KEY_LENGTH] {
        let mut key = [0; KEY_LENGTH];
        token::fill(&mut key);
        key
    }

    /// A token that only the holder of this key can make, always the same for the same context.
    pub fn derive_token(&self, prefix: &str, context: &str) -> secrecy::SecretString {
        token::derive(&self.raw, prefix, context)
    }

    /// Seals; nonce first, then the sealed bytes.
    ///
    /// # Panics
    /// Where the operating system has no random bytes, or `plain` is longer than AES-GCM takes (64 GiB).
    pub fn seal(&self, plain: &[u8], context: &str) -> Vec<u8> {
        let mut sealed = plain.to_vec();
        let nonce = self.key.seal_in_place_append_tag(Aad::from(context.as_bytes()), &mut sealed);
        let Ok(nonce) = nonce else { panic!("sealing failed") };
        [nonce.as_ref().as_slice(), &sealed].concat()
    }

    /// Opens; `None` where it was changed, moved or sealed with another key.
    pub fn open(&self, sealed: &[u8], context: &str) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut opened = sealed.to_vec();
        let length = self.key.open_in_place(nonce, Aad::from(context.as_bytes()), &mut opened).ok()?.len();
        opened.truncate(length);
        Some(opened)
    }
}

impl Sealer for Aes {
    fn seal(&self, plain: &[u8], context: &str) -> Vec<u8> {
        Self::seal(self, plain, context)
    }

    fn open(&self, sealed: &[u8], context: &str) -> Option<Vec<u8>> {
        Self::open(self, sealed, context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_key_and_context_open() {
        let aes = Aes::new(&Aes::generate_key()).unwrap();
        let sealed = aes.seal(b"hunter2", "a");
        assert!(!sealed.windows(7).any(|w| w == b"hunter2"));
        assert_eq!(aes.open(&sealed, "a").as_deref(), Some(&b"hunter2"[..]));
        assert_eq!(aes.open(&sealed, "b"), None);
        assert_eq!(Aes::new(&Aes::generate_key()).unwrap().open(&sealed, "a"), None);
        let mut changed = sealed.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert_eq!(aes.open(&changed, "a"), None);
        assert_eq!(aes.open(b"short", "a"), None);
    }
}
