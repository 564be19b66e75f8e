//! The engine's own implementations pass the suites that any other must pass.

use std::sync::Arc;

use async_trait::async_trait;
use molecule_contracts::backend::{self as contract, Subject};
use molecule_contracts::engine_store::Numbers;
use molecule_contracts::{engine_store, tenants};
use molecule_domain::Timestamp;
use molecule_domain::clock::{Clock, SystemClock};
use molecule_domain::id::{IncarnationId, InstallationId, IntentNumber, OrganizationId, WorkspaceId};
use molecule_domain::launch::LaunchSpec;
use molecule_provisioner::backend::Backend;
use molecule_provisioner::backend::memory::{Host, MISSING_IMAGE, MemoryBackend, Trouble};
use molecule_provisioner::model::InstanceRef;
use molecule_provisioner::observation::InstanceState;
use molecule_provisioner::samples;
use molecule_provisioner::store::memory::MemoryStore;
use molecule_provisioner::store::{Store, Tenants};

#[tokio::test]
async fn the_memory_store_keeps_the_contract() {
    engine_store::run(Numbers::NeverBehindTheClock, || async {
        Arc::new(MemoryStore::default()) as Arc<dyn Store>
    })
    .await;
}

struct MemoryService(Arc<MemoryStore>);

#[async_trait]
impl tenants::Service for MemoryService {
    async fn begins(&self, now: Timestamp) {
        self.0.begin(IncarnationId::generate(), now);
    }

    async fn meets(&self, organization: OrganizationId, _process: IncarnationId) -> bool {
        self.0.meet(organization)
    }

    async fn agrees(
        &self,
        organization: OrganizationId,
        process: (IncarnationId, i64),
        waiting: &[(WorkspaceId, IntentNumber)],
        now: Timestamp,
    ) {
        self.0.agree(organization, process, waiting, now);
    }
}

#[tokio::test]
async fn the_memory_store_keeps_the_contract_with_tenants() {
    tenants::run(|| async {
        let store = Arc::new(MemoryStore::default());
        tenants::Subject {
            store: Arc::clone(&store) as Arc<dyn Store>,
            tenants: Arc::clone(&store) as Arc<dyn Tenants>,
            service: Arc::new(MemoryService(store)),
        }
    })
    .await;
}

struct Memory(Arc<Host>, InstallationId);

impl Memory {
    fn on(host: &Arc<Host>, installation: InstallationId) -> Arc<dyn Backend> {
        Arc::new(MemoryBackend::new(Arc::clone(host), installation, Arc::new(SystemClock)))
    }
}

#[async_trait]
impl Subject for Memory {
    fn backend(&self) -> Arc<dyn Backend> {
        Self::on(&self.0, self.1)
    }

    fn other_installation(&self) -> Arc<dyn Backend> {
        Self::on(&self.0, InstallationId::generate())
    }

    fn spec(&self) -> LaunchSpec {
        samples::spec()
    }

    async fn impossible(&self) -> (Arc<dyn Backend>, LaunchSpec) {
        (self.backend(), LaunchSpec { image: MISSING_IMAGE.to_owned(), ..samples::spec() })
    }

    async fn occupy(&self, instance: &InstanceRef) -> bool {
        self.0.occupy(*instance, &SystemClock);
        true
    }

    async fn stranger_is_untouched(&self, instance: &InstanceRef) -> bool {
        let found = self.0.instances().into_iter().find(|one| one.instance == *instance);
        self.0.vanish(instance);
        found.is_some_and(|found| {
            found.state == InstanceState::Running && found.created_at <= SystemClock.now()
        })
    }

    async fn broken(&self) -> Vec<(&'static str, Arc<dyn Backend>)> {
        let away = Arc::new(Host::default());
        away.set(Trouble::Away, true);
        vec![("away", Self::on(&away, self.1))]
    }
}

#[tokio::test]
async fn the_memory_backend_conforms() {
    contract::run(&Memory(Arc::default(), InstallationId::generate())).await;
}
