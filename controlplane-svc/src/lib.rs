//! The control plane: for many organisations, it launches instances over its backends and keeps them as they are
//! wanted, within what each organisation may use. Any number of replicas share one database.

pub mod app;
mod backends;
mod bootstrap;
mod clock;
pub mod config;
mod engines;
mod grpc;
pub mod isolation;
mod membership;
mod networks;
mod plans;
mod recount;
mod sessions;
mod suspensions;
