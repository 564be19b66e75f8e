//! What happened, in words and as one number: equal seeds give equal stories.

use std::fmt::{Display, Write};
use std::time::Duration;

/// A story as it grows.
#[derive(Debug)]
pub struct Story {
    hash: u64,
    words: Option<String>,
    scratch: String,
}

impl Story {
    /// An empty story, which keeps its words where `told` is set.
    pub const fn new(told: bool) -> Self {
        Self {
            hash: 0xcbf2_9ce4_8422_2325,
            words: if told { Some(String::new()) } else { None },
            scratch: String::new(),
        }
    }

    /// Adds what somebody did at a time.
    pub fn tell<T: Display>(&mut self, at: Duration, who: impl Display, code: u64, what: impl FnOnce() -> T) {
        self.mix(u64::try_from(at.as_micros()).unwrap_or(u64::MAX));
        self.mix(code);
        self.scratch.clear();
        // writing to a string does not fail
        let _ = write!(self.scratch, "{who}");
        for place in 0..self.scratch.len() {
            self.mix(u64::from(self.scratch.as_bytes()[place]));
        }
        if let Some(words) = &mut self.words {
            let (seconds, millis) = (at.as_secs(), at.subsec_millis());
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            let _ = writeln!(
                words,
                "{hours:02}:{minutes:02}:{:02}.{millis:03} {:<10} {}",
                seconds % 60,
                self.scratch,
                what()
            );
        }
    }

    const fn mix(&mut self, number: u64) {
        self.hash = (self.hash ^ number).wrapping_mul(0x0100_0000_01b3).rotate_left(17);
    }

    /// The number that stands for all of it.
    pub const fn hash(&self) -> u64 {
        self.hash
    }

    /// The words, where they were kept.
    pub fn words(&self) -> &str {
        self.words.as_deref().unwrap_or_default()
    }
}
