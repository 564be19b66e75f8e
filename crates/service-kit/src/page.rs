//! Page tokens: sealed, so that they are opaque and a changed one is refused, and bound to the list and its
//! arguments (<https://google.aip.dev/158>).

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use molecule_domain::error::{Error, ErrorReason, Result};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::seal::Aes;

const DEFAULT_SIZE: u32 = 50;
const MAX_SIZE: u32 = 1000;

/// How many to return for what was asked.
pub fn size(asked: i32) -> Result<u32> {
    match u32::try_from(asked) {
        Ok(0) => Ok(DEFAULT_SIZE),
        Ok(size) => Ok(size.min(MAX_SIZE)),
        Err(_) => Err(Error::field("page_size", "must not be negative")),
    }
}

/// A token for the page behind `place`. `list` says which list with which arguments.
pub fn token(key: &Aes, list: &str, place: &impl Serialize) -> Result<String> {
    let place = serde_json::to_vec(place).map_err(Error::internal)?;
    Ok(BASE64_URL_SAFE_NO_PAD.encode(key.seal(&place, &context(list))))
}

/// The place in a token; none in an empty one.
pub fn place<T: DeserializeOwned>(key: &Aes, list: &str, token: &str) -> Result<Option<T>> {
    if token.is_empty() {
        return Ok(None);
    }
    let opened =
        BASE64_URL_SAFE_NO_PAD.decode(token).ok().and_then(|sealed| key.open(&sealed, &context(list)));
    let place = opened.and_then(|place| serde_json::from_slice(&place).ok());
    place.map(Some).ok_or_else(|| {
        Error::new(
            ErrorReason::InvalidPageToken,
            "page_token is not one that this list gave out for these arguments; start over without it",
        )
    })
}

fn context(list: &str) -> String {
    format!("page-token/{list}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_untouched_token_of_the_same_list_is_taken() {
        let key = Aes::new(&Aes::generate_key()).unwrap();
        let given = token(&key, "a", &7_i64).unwrap();
        assert_eq!(place::<i64>(&key, "a", &given).unwrap(), Some(7));
        assert_eq!(place::<i64>(&key, "a", "").unwrap(), None);
        for (list, token) in
            [("b", given.clone()), ("a", format!("{given}A")), ("a", "%".into()), ("a", given[1..].into())]
        {
            let error = place::<i64>(&key, list, &token).unwrap_err();
            assert_eq!(error.reason, ErrorReason::InvalidPageToken, "{token}");
        }
    }

    #[test]
    fn sizes_have_bounds() {
        assert_eq!((size(0).unwrap(), size(7).unwrap(), size(5000).unwrap()), (50, 7, 1000));
        assert!(size(-1).is_err());
    }
}
