//! Secret tokens: made at random, kept as hashes, compared in constant time.

use aws_lc_rs::{digest, hmac, rand};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

/// A new token of 256 random bits, with a prefix that says what it is for.
pub fn generate(prefix: &str) -> SecretString {
    let mut bytes = [0_u8; 32];
    fill(&mut bytes);
    format!("{prefix}_{}", BASE64_URL_SAFE_NO_PAD.encode(bytes)).into()
}

/// Random bytes from the operating system.
///
/// # Panics
/// Where the operating system has none: nothing secret can be made then.
pub fn fill(bytes: &mut [u8]) {
    assert!(rand::fill(bytes).is_ok(), "the operating system gives no random bytes");
}

/// What is kept of a token. A token is random enough for a plain hash.
pub fn hash(token: impl AsRef<[u8]>) -> Vec<u8> {
    digest::digest(&digest::SHA256, token.as_ref()).as_ref().to_vec()
}

/// The SHA-256 of some bytes, in hexadecimal.
pub fn sha256_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    hash(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A token that can be made again from a key and what it is for.
pub fn derive(key: &[u8], prefix: &str, context: &str) -> SecretString {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let tag = hmac::sign(&key, context.as_bytes());
    format!("{prefix}_{}", BASE64_URL_SAFE_NO_PAD.encode(tag.as_ref())).into()
}

/// Whether two tokens are one, without telling how much of them is.
pub fn equal(a: &SecretString, b: &str) -> bool {
    hash(a.expose_secret()).ct_eq(&hash(b)).into()
}

/// The token of an `authorization` header.
pub fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_what_sha256sum_says() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sha256_hex(b""), empty);
    }

    #[test]
    fn tokens_are_compared_whole() {
        let token = generate("t");
        assert!(equal(&token, token.expose_secret()));
        assert!(!equal(&token, &token.expose_secret()[..20]));
        assert_ne!(generate("t").expose_secret(), token.expose_secret());
    }

    #[test]
    fn a_derived_token_comes_again_and_only_so() {
        let derived = |key: &[u8], context| derive(key, "c", context).expose_secret().to_owned();
        assert_eq!(derived(b"k", "a"), derived(b"k", "a"));
        assert_ne!(derived(b"k", "a"), derived(b"k", "b"));
        assert_ne!(derived(b"k", "a"), derived(b"l", "a"));
    }

    #[test]
    fn bearer_tokens_are_found() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer("bearer  abc "), Some("abc"));
        assert_eq!(bearer("Basic abc"), None);
        assert_eq!(bearer("Bearer "), None);
    }
}
