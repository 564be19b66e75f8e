//! What the engine and the services expect of their stores and backends: a suite for each seam, which every implementation
//! runs against its real database or provider.

pub mod backend;
pub mod engine_store;
pub mod tenant_store;
pub mod tenants;
