//! The executor in a world of its own: every step is failed and repeated, and random lives are led.

mod decisions;
mod lease;
mod patience;
mod properties;
mod sweep;
mod sweeper;
mod world;
