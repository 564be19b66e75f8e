//! The whole pair under one seed: tenants with their use cases, outbox and mirror; the control plane with its engine; a
//! provider that keeps a true log; and between them a network, clocks and processes that fail in every way a seed asks
//! for. Equal seeds give equal stories.

pub mod agents;
mod asked;
pub mod backend;
mod book;
pub mod cells;
pub mod checks;
pub mod client;
pub mod clocks;
pub mod cloud;
pub mod control;
pub mod coverage;
mod explain;
pub mod faults;
pub mod inside;
mod judgement;
pub mod life;
pub mod machine;
pub mod network;
pub mod operator;
pub mod oracle;
pub mod pair;
pub mod process;
mod readers;
mod refusals;
pub mod replica_store;
mod restored;
pub mod rng;
pub mod run;
pub mod seam;
pub mod secrets;
pub mod story;
mod suspension;
pub mod switch;
pub mod tenant;
pub mod tenant_store;
mod tiling;
pub mod trouble;
mod upgrade;
pub mod violation;
mod watchers;
pub mod weather;
pub mod wished;
pub mod world;

/// A life is made of small allocations: an eighth of its time is gained by an allocator that is quick at these.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
