//! What the store in memory tells of besides what any store does.

use molecule_domain::Timestamp;
use molecule_domain::id::{OrganizationId, WorkspaceId};
use molecule_provisioner::admission::ProvisionRequest;
use molecule_provisioner::samples::provision;
use molecule_provisioner::store::Store;
use molecule_provisioner::store::memory::MemoryStore;

use crate::world::ORG;

#[tokio::test]
async fn a_record_is_found_whosever_it_is() {
    let (store, now) = (MemoryStore::default(), Timestamp::from_micros(1));
    for organization in [ORG, OrganizationId::generate()] {
        let request = ProvisionRequest { organization, ..provision(WorkspaceId::generate()) };
        let record = store.provision(&request, now).await.unwrap();
        assert_eq!(store.find(record.workspace), Some(record));
    }
    assert_eq!(store.find(WorkspaceId::generate()), None);
}
