//! What the tests of the services share: images made from scratch, daemons that fail, services as processes.

pub mod broken;
pub mod cluster;
pub mod controlplane;
pub mod daemon;
pub mod ec2;
pub mod images;
pub mod knife;
pub mod leftovers;
pub mod otlp;
pub mod ports;
pub mod postgres;
mod process;
pub mod raw;
pub mod runbook;
pub mod seed;
pub mod stand;
pub mod tenant;
pub mod throwaway;
pub mod tls;
