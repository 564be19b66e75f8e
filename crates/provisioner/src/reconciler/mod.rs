//! Brings what is in line with what is wanted: plans with a pure function, executes one step at a time.

pub mod comparison;
pub mod driver;
mod effects;
pub mod execute;
mod launch;
pub mod orphans;
pub mod plan;
pub mod sweeper;
