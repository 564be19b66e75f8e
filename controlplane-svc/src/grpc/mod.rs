//! The two gRPC APIs: wire to domain, one use, domain to wire. Who calls is decided before.

mod callers;
mod convert;
mod database;
mod organizations;
mod orphans;
mod peers;
mod provisioning;
mod watch;

use std::sync::Arc;

use molecule_domain::Clock;
use molecule_domain::error::{Error, Result};
use molecule_domain::launch::LaunchSpec;
use molecule_domain::runtime::RuntimeRegistry;
use molecule_domain::tier::{Tier, TierTable};
use molecule_proto::controlplane::v1::organization_service_server::OrganizationServiceServer;
use molecule_proto::controlplane::v1::provisioning_service_server::ProvisioningServiceServer;
use molecule_provisioner::Instances;
use molecule_provisioner::watch::Feed;
use molecule_service_kit::auth::{Authenticated, identity};
use molecule_service_kit::seal::Aes;
use molecule_service_kit::status::to_status;
use molecule_store_postgres::Database;
use molecule_store_postgres::accounts::Accounts;
use molecule_store_postgres::engine::EngineStore;
use tokio_util::sync::CancellationToken;
use tonic::{Response, Status};

pub(crate) use self::callers::Callers;
use self::callers::{OperatorsOnly, TenantsOnly};
use self::organizations::OrganizationApi;
use self::provisioning::ProvisioningApi;
use crate::engines::Engines;
use crate::membership::Places;
use crate::plans::Plans;
use crate::sessions::Sessions;

/// The largest request: a spec with an authority's certificate.
const MAX_REQUEST: usize = 256 << 10;

/// What the APIs stand on.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) engines: Engines,
    pub(crate) instances: Instances,
    pub(crate) store: EngineStore,
    pub(crate) feed: Arc<Feed>,
    pub(crate) accounts: Accounts,
    pub(crate) runtimes: Arc<RuntimeRegistry>,
    pub(crate) tiers: Arc<TierTable>,
    pub(crate) plans: Arc<Plans>,
    pub(crate) disk_gib: i64,
    pub(crate) database: Database,
    pub(crate) places: Places,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) key: Arc<Aes>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) drain: CancellationToken,
}

impl Parts {
    /// Who asks for a change, where anything may be changed: a database that is not in use is read only.
    fn changing<I: Clone + Send + Sync + 'static>(&self, extensions: &tonic::Extensions) -> Result<I> {
        let caller = identity(extensions)?;
        self.places.now().in_use()?;
        Ok(caller)
    }

    /// A launch of a runtime, by name. An unknown one is refused: nothing is guessed.
    fn launch_spec(&self, runtime: &str, tier: Tier, field: &str) -> Result<LaunchSpec> {
        let known = self.runtimes.get(runtime).ok_or_else(|| {
            let known = self.runtimes.names();
            Error::field(field, format!("the control plane has no runtime {runtime:?}; known are: {known}"))
        })?;
        Ok(LaunchSpec::of(runtime, known, tier, &self.tiers, self.disk_gib))
    }

    /// Which backend new workspaces of an organisation go to.
    fn backend_of(&self, chosen: &str, plan: &str) -> Result<&'static str> {
        let chosen =
            if chosen.is_empty() { self.plans.get(plan).map_or("", |plan| &plan.backend) } else { chosen };
        Ok(self.engines.choose(chosen)?.backend_kind())
    }
}

/// The tenants' API, which only tenants reach.
pub(crate) fn provisioning(
    parts: Parts,
    callers: Arc<Callers>,
) -> Authenticated<ProvisioningServiceServer<ProvisioningApi>, TenantsOnly> {
    let server =
        ProvisioningServiceServer::new(ProvisioningApi(parts)).max_decoding_message_size(MAX_REQUEST);
    Authenticated::new(server, Arc::new(TenantsOnly(callers)))
}

/// The operators' API, which only operators reach.
pub(crate) fn organizations(
    parts: Parts,
    callers: Arc<Callers>,
) -> Authenticated<OrganizationServiceServer<OrganizationApi>, OperatorsOnly> {
    let server =
        OrganizationServiceServer::new(OrganizationApi(parts)).max_decoding_message_size(MAX_REQUEST);
    Authenticated::new(server, Arc::new(OperatorsOnly(callers)))
}

type Answer<T> = std::result::Result<Response<T>, Status>;

fn answer<T>(result: Result<T>) -> Answer<T> {
    result.map(Response::new).map_err(|error| to_status(&error))
}
