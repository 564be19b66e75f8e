//! What any service here needs around its own logic: errors on the wire, guards around calls, health and
//! reflection, tokens and sealing, telemetry, shutdown.

pub mod auth;
pub mod client;
pub mod guard;
pub mod page;
pub mod program;
pub mod seal;
pub mod server;
pub mod settings;
pub mod shutdown;
pub mod status;
pub mod streams;
pub mod telemetry;
pub mod token;
pub mod wire;
