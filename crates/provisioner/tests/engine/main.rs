//! The executor in a world of its own: every step is failed and repeated, and random lives are led.

mod admission;
#[path = "../shared/answers.rs"]
mod answers;
mod decisions;
mod executed;
mod lease;
mod memory;
mod outcome;
mod patience;
mod planned;
mod plans;
mod properties;
mod services;
mod sweep;
mod sweeper;
mod told;
mod watch;
mod world;
