//! The lifecycle engine that both services run.
//!
//! The engine owns *instances*: it stores what is wanted, looks at what the provider has, and takes one
//! idempotent step after another until the two agree. It takes no input but its store, so a restart and
//! normal work are one path.
//!
//! - [`admission`] turns requests into stored intent, [`outcome`] turns results into stored state: both are
//!   pure, so every store applies the same rules inside its own transaction.
//! - [`reconciler`] plans (pure) and executes (effects).
//! - [`backend`] and [`store`] are the seams. The suites that any implementation must pass are in the crate `molecule-contracts`.

pub mod admission;
pub mod backend;
pub mod engine;
pub mod faults;
pub mod instances;
pub mod model;
pub mod observation;
pub mod outcome;
pub mod policy;
pub mod reconciler;
#[cfg(feature = "test-util")]
pub mod samples;
pub mod shown;
pub mod store;
pub mod wakes;
pub mod watch;

pub use engine::Engine;
pub use instances::Instances;
