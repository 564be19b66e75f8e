//! tenant-svc: one customer's workspaces. It serves the public gRPC API and the agents' HTTP listener and,
//! self-hosted, runs the lifecycle engine in this process over local Docker.

pub mod agents;
pub mod app;
pub mod config;
mod control_plane;
mod data_dir;
mod grpc;
mod instance_view;
mod secrets;
