//! Between columns and types, for any database: plain enums as text, structures as JSON, numbers in bounds.

use molecule_domain::event::Actor;
use molecule_domain::lifecycle::Reason;
use molecule_domain::limits::{Permits, Standing};
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

/// What an organisation may launch, as far as this version can read it.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Whether it may launch: one that only a newer version knows admits nothing.
    pub standing: Standing,
    /// What it may launch at all: what only a newer version can read permits nothing.
    pub permits: Permits,
    /// What can't be read.
    unreadable: Option<String>,
}

impl Terms {
    /// What is stored of them.
    pub fn read(standing: &str, permits: &str) -> Self {
        let (standing, permits) = (from_text(standing, "standing"), from_json(permits, "permits"));
        let errors = [standing.as_ref().err(), permits.as_ref().err()];
        let errors: Vec<_> = errors.into_iter().flatten().map(ToString::to_string).collect();
        let unreadable = Some(errors.join(", ")).filter(|errors| !errors.is_empty());
        Self {
            standing: standing.unwrap_or(Standing::Suspended),
            permits: permits.unwrap_or_else(|_: StoreError| Permits {
                runtimes: vec![ONLY_NEWER.to_owned()],
                backends: vec![ONLY_NEWER.to_owned()],
                ..Permits::default()
            }),
            unreadable,
        }
    }

    /// Fails where something can't be read: nothing may be launched by these. That is no refusal, which would be the last word:
    /// who can read them may grant what was asked for.
    pub fn check(&self) -> Result<(), StoreError> {
        let unreadable = self.unreadable.as_ref();
        unreadable.map_or(Ok(()), |what| Err(corrupt(format!("the organisation's terms: {what}"))))
    }
}

/// In place of names that can't be read: no runtime and no backend has this one.
const ONLY_NEWER: &str = "(what only a newer version can read)";

/// Who acted, from text: the engine, where only a newer version knows who.
pub fn actor(text: &str) -> Actor {
    from_text(text, "actor").unwrap_or(Actor::Engine)
}

/// The reasons that this version knows, in text. Another one was written by a newer version, and is read as none.
pub fn known_reasons() -> Vec<String> {
    Reason::ALL.iter().map(text).collect()
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
    use molecule_domain::tier::Tier;

    use super::*;

    #[test]
    fn what_only_a_newer_version_can_read_of_an_organisation_launches_nothing() {
        let permits = json(&Permits::default()).unwrap();
        let known = Terms::read("Good", &permits);
        assert!(known.check().is_ok());
        assert_eq!((known.standing, known.permits), (Standing::Good, Permits::default()));
        let unknown = Terms::read("Frozen", &permits);
        assert!(unknown.check().is_err());
        assert_eq!(unknown.standing, Standing::Suspended);
        let unreadable = Terms::read("Good", r#"{"highest_tier":"T9","runtimes":[],"backends":[]}"#);
        assert!(unreadable.check().is_err());
        for (runtime, backend) in [("demo", "docker"), ("demo", ONLY_NEWER), (ONLY_NEWER, "docker")] {
            assert!(unreadable.permits.check(runtime, Tier::T1, backend).is_err(), "{runtime}, {backend}");
        }
    }

    #[test]
    fn every_reason_is_known_by_its_text() {
        let known = known_reasons();
        assert_eq!(known.len(), Reason::ALL.len());
        for (reason, text) in Reason::ALL.iter().zip(known) {
            assert_eq!(from_text::<Reason>(&text, "reason").unwrap(), *reason);
        }
    }
}
