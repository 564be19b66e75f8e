//! What is old is dropped in parts, each a transaction of its own: however much it is, each part has its time, and what was
//! dropped stays dropped where a later part fails.

use molecule_provisioner::store::StoreError;

use crate::transactions::Transactions;

/// The most rows that one statement drops.
pub(crate) const PRUNED: i64 = 10_000;

/// Drops part after part, of which each says how many rows it dropped, until one was not full.
pub(crate) async fn in_parts<F>(transactions: &Transactions, part: impl Fn() -> F) -> Result<(), StoreError>
where
    F: Future<Output = Result<u64, StoreError>>,
{
    while transactions.run("prune", &part).await? >= PRUNED.unsigned_abs() {}
    Ok(())
}
