//! The `SQLite` store keeps the contract that every store keeps.

use std::sync::Arc;

use molecule_contracts::engine_store;
use molecule_provisioner::store::Store;
use molecule_store_sqlite::Database;
use molecule_store_sqlite::engine::EngineStore;

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_store_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    engine_store::run(|| async move {
        let name = format!("{}.db", uuid::Uuid::new_v4());
        let database = Database::open(&path.join(name)).await.expect("opens");
        Arc::new(EngineStore::new(database)) as Arc<dyn Store>
    })
    .await;
}
