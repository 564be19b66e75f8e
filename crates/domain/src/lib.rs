//! Pure types and rules of workspaces. No I/O, no async, no clock of its own: everything here is a
//! function of its arguments, so every rule can be tested by enumeration or by property.

pub mod bundle;
pub mod clock;
pub mod error;
pub mod event;
pub mod filter;
pub mod id;
pub mod incarnation;
pub mod instance;
pub mod launch;
pub mod lifecycle;
pub mod limits;
pub mod network;
pub mod newer;
pub mod runtime;
pub mod sandbox;
pub mod seal;
pub mod spec;
pub mod store;
pub mod tier;

pub use clock::{Clock, Timestamp};
pub use error::{Error, ErrorCode, ErrorReason, Result, Violations};
