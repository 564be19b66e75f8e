//! The store in memory passes the suite that every store must pass.

use std::sync::Arc;

use molecule_workspace::store::memory::MemoryStore;
use molecule_workspace::store::{TenantStore, contract};

#[tokio::test]
async fn the_memory_store_keeps_the_contract() {
    contract::run(|| async { Arc::new(MemoryStore::default()) as Arc<dyn TenantStore> }).await;
}
