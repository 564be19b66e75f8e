//! The store in memory passes the suite that every store must pass.

use std::sync::Arc;

use molecule_contracts::tenant_store;
use molecule_workspace::store::TenantStore;
use molecule_workspace::store::memory::MemoryStore;

#[tokio::test]
async fn the_memory_store_keeps_the_contract() {
    tenant_store::run(|| async { Arc::new(MemoryStore::default()) as Arc<dyn TenantStore> }).await;
}
