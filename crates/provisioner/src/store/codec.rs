//! Between columns and types, for any database: plain enums as text, structures as JSON, numbers in bounds.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::StoreError;

/// What is stored can't be understood.
pub fn corrupt(what: impl Into<String>) -> StoreError {
    StoreError::Corrupt { what: what.into() }
}

/// A plain enum's variant in text.
pub fn text(variant: impl Serialize) -> String {
    match serde_json::to_value(variant) {
        Ok(serde_json::Value::String(text)) => text,
        other => unreachable!("only plain enums are stored so, not {other:?}"),
    }
}

/// A plain enum's variant from text.
pub fn from_text<T: DeserializeOwned>(text: &str, what: &str) -> Result<T, StoreError> {
    serde_json::from_value(serde_json::Value::String(text.to_owned()))
        .map_err(|_| corrupt(format!("{what} {text:?}")))
}

/// A structure as JSON.
pub fn json(value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| corrupt(error.to_string()))
}

/// A structure from JSON.
pub fn from_json<T: DeserializeOwned>(text: &str, what: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| corrupt(format!("{what}: {error}")))
}

/// What can be read before the first that can't, which is of a newer version: who goes on from there asks again, and is told so
/// where nothing comes before it. Nothing is ever left out in between.
pub fn readable<T>(read: impl IntoIterator<Item = Result<T, StoreError>>) -> Result<Vec<T>, StoreError> {
    let mut all = Vec::new();
    for one in read {
        match one {
            Ok(one) => all.push(one),
            Err(error) if all.is_empty() => return Err(error),
            Err(_) => break,
        }
    }
    Ok(all)
}

/// An id from text.
pub fn id<T: std::str::FromStr>(text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|_| corrupt(format!("the id {text:?}")))
}

/// A number that must fit.
pub fn number<T: TryFrom<i64>>(number: i64) -> Result<T, StoreError> {
    T::try_from(number).map_err(|_| corrupt(format!("the number {number}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_ends_before_what_cannot_be_read() {
        let newer = || Err(corrupt("a phase"));
        assert_eq!(readable([Ok(1), Ok(2), newer(), Ok(4)]).unwrap(), [1, 2]);
        assert!(readable([newer(), Ok(4)]).is_err(), "it is no end");
        assert!(readable(std::iter::empty::<Result<i32, StoreError>>()).unwrap().is_empty());
    }
}
