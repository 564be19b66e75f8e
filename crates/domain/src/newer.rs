//! Reads documents that a newer version has written as far as this one can: a word that it does not know says nothing.

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};

#[derive(Deserialize)]
#[serde(untagged)]
enum Word<T> {
    Known(T),
    Unknown(IgnoredAny),
}

/// A word that may be missing, and is read as missing where only a newer version knows it.
pub fn known<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    Ok(match Option::<Word<T>>::deserialize(from)? {
        Some(Word::Known(word)) => Some(word),
        Some(Word::Unknown(_)) | None => None,
    })
}

#[cfg(test)]
mod tests {
    use crate::event::{Actor, EventDetail};
    use crate::id::Generation;
    use crate::lifecycle::Reason;

    #[test]
    fn words_of_a_newer_version_say_nothing() {
        let event = EventDetail {
            kind: "failed".into(),
            actor: Actor::Agent,
            generation: Generation(1),
            reason: Some(Reason::CrashLoop),
            message: "why".to_owned(),
            exit_code: None,
            log_tail: String::new(),
        };
        let written = serde_json::to_value(&event).unwrap();
        let read = |field: &str, word: &str| {
            let mut written = written.clone();
            written[field] = word.into();
            serde_json::from_value::<EventDetail>(written).unwrap()
        };
        assert_eq!(serde_json::from_value::<EventDetail>(written.clone()).unwrap(), event);
        assert_eq!(read("reason", "TooCold"), EventDetail { reason: None, ..event.clone() });
        assert_eq!(read("actor", "Robot"), EventDetail { actor: Actor::Engine, ..event });
    }
}
