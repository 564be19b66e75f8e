//! What happens to instances and workspaces, as it is kept and told.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize};

use crate::id::Generation;
use crate::lifecycle::Reason;
use crate::newer;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventDetail {
    /// What, in one word: for programs.
    pub kind: Cow<'static, str>,
    /// Who caused it; the engine, where only a newer version knows who.
    #[serde(deserialize_with = "known_actor")]
    pub actor: Actor,
    /// In which generation.
    pub generation: Generation,
    /// Why, where there is something to say.
    #[serde(deserialize_with = "newer::known")]
    pub reason: Option<Reason>,
    /// For people.
    pub message: String,
    /// Of a process that ended.
    pub exit_code: Option<i32>,
    /// The last lines of its output.
    pub log_tail: String,
}

fn known_actor<'de, D: Deserializer<'de>>(from: D) -> Result<Actor, D::Error> {
    Ok(newer::known(from)?.unwrap_or(Actor::Engine))
}

/// Who causes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Actor {
    Client,
    Engine,
    Agent,
    Operator,
}

impl Actor {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Client, Self::Engine, Self::Agent, Self::Operator];

    /// In lower case, for the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Engine => "engine",
            Self::Agent => "agent",
            Self::Operator => "operator",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actors_have_the_apis_names() {
        let names = [Actor::Client, Actor::Engine, Actor::Agent, Actor::Operator].map(Actor::as_str);
        assert_eq!(names, ["client", "engine", "agent", "operator"]);
    }
}
