//! Between columns and types, for any database: plain enums as text, structures as JSON, numbers in bounds.

use molecule_domain::event::Actor;
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

/// Who acted, from text: the engine, where only a newer version knows who.
pub fn actor(text: &str) -> Actor {
    from_text(text, "actor").unwrap_or(Actor::Engine)
}

/// An id from text.
pub fn id<T: std::str::FromStr>(text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|_| corrupt(format!("the id {text:?}")))
}

/// A number that must fit.
pub fn number<T: TryFrom<i64>>(number: i64) -> Result<T, StoreError> {
    T::try_from(number).map_err(|_| corrupt(format!("the number {number}")))
}
