//! Rules that were broken, and the list of what is known to break them.

use std::fmt;

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule, in a few words.
    pub rule: &'static str,
    /// Who broke it, and how.
    pub what: String,
    /// The finding that this is known by, where it is known.
    pub known: Option<Known>,
}

/// Findings that are not mended yet: B of the engine's review. Nothing but those
/// stands here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Known {
    /// Two machines of one workspace and generation: one of them is invisible.
    B4,
    /// Segments overlap where a clock goes back.
    B9,
}

impl Known {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::B4, Self::B9];
}

impl Violation {
    /// A rule that was broken in a way that nobody knows of.
    pub const fn new(rule: &'static str, what: String) -> Self {
        Self { rule, what, known: None }
    }

    /// The same, where it may be a known one.
    #[must_use]
    pub const fn known_as(mut self, known: Option<Known>) -> Self {
        self.known = known;
        self
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)?;
        if let Some(known) = self.known {
            write!(f, " (known as {known:?})")?;
        }
        Ok(())
    }
}
