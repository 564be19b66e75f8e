//! The backends that the settings name, each with what it needs around it.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use molecule_backend_docker::{DockerBackend, Settings};
use molecule_backend_ec2::Ec2Backend;
use molecule_domain::Clock;
use molecule_domain::id::InstallationId;
use molecule_provisioner::Engine;
use molecule_provisioner::backend::Backend;
use molecule_provisioner::faults::Steps;
use molecule_provisioner::policy::Policy;
use molecule_service_kit::seal::Aes;
use molecule_service_kit::server::listen;
use molecule_store_postgres::Database;
use molecule_store_postgres::engine::EngineStore;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::bootstrap::{self, Bootstrap, Desk, InitBinary};
use crate::config::{BackendKind, Config};
use crate::isolation;
use crate::networks::{self, Networks};

/// What backends are made of.
pub(crate) struct Parts {
    pub(crate) database: Database,
    pub(crate) store: EngineStore,
    pub(crate) installation: InstallationId,
    pub(crate) key: Arc<Aes>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) policy: Policy,
    pub(crate) steps: Steps,
}

/// A backend's engine, and what runs beside it.
pub(crate) struct Launcher {
    pub(crate) engine: Engine,
    companion: Companion,
}

enum Companion {
    Docker { backend: Arc<DockerBackend>, database: Database, require_isolation: bool },
    Ec2 { bootstrap: Box<Bootstrap>, listen: SocketAddr },
}

impl Parts {
    fn engine(&self, backend: Arc<dyn Backend>) -> Engine {
        let store = Arc::new(self.store.clone());
        let (sealer, clock) = (Arc::clone(&self.key), Arc::clone(&self.clock));
        Engine::new(backend, store, sealer, clock, self.policy.clone(), self.steps.clone())
    }

    /// Makes the launcher of one kind. Nothing is launched yet.
    pub(crate) async fn launcher(&self, kind: BackendKind, config: &Config) -> anyhow::Result<Launcher> {
        match kind {
            BackendKind::Docker => self.docker(config),
            BackendKind::Ec2 => self.ec2(config).await,
        }
    }

    fn docker(&self, config: &Config) -> anyhow::Result<Launcher> {
        let pool = config.network_pool.context("CONTROLPLANE_NETWORK_POOL is not set")?;
        let (database, installation) = (self.database.clone(), self.installation);
        let networks = Arc::new(Networks { database: database.clone(), installation, pool });
        let settings = Settings {
            docker_host: config.docker_host.clone(),
            installation,
            workspace_init: config.workspace_init.clone(),
            publish: config.agent_publish,
        };
        let backend = Arc::new(DockerBackend::new(settings, networks, self.steps.clone()));
        let require_isolation = config.docker_isolation;
        Ok(Launcher {
            engine: self.engine(Arc::clone(&backend) as Arc<dyn Backend>),
            companion: Companion::Docker { backend, database, require_isolation },
        })
    }

    async fn ec2(&self, config: &Config) -> anyhow::Result<Launcher> {
        let ec2 = config.ec2.clone().context("there are no settings for EC2")?;
        let init = InitBinary::read(&config.workspace_init)?;
        let settings = molecule_backend_ec2::Settings {
            init_url: init.url(&ec2.boot_url),
            init_sha256: init.sha256.clone(),
            ..ec2.settings
        };
        let desk = Desk { key: Arc::clone(&self.key), base: ec2.boot_url, database: self.database.clone() };
        let (clock, steps) = (Arc::clone(&self.clock), self.steps.clone());
        let backend = Ec2Backend::new(settings, self.installation, Arc::new(desk), clock, steps).await;
        let bootstrap = Bootstrap {
            init,
            key: Arc::clone(&self.key),
            database: self.database.clone(),
            store: self.store.clone(),
            clock: Arc::clone(&self.clock),
        };
        Ok(Launcher {
            engine: self.engine(Arc::new(backend)),
            companion: Companion::Ec2 { bootstrap: Box::new(bootstrap), listen: ec2.boot_listen },
        })
    }
}

impl Launcher {
    /// Runs engine and companion until cancelled; cancels by itself where nothing may be launched. May be run again.
    pub(crate) async fn run(&self, cancel: CancellationToken) -> anyhow::Result<()> {
        match &self.companion {
            Companion::Docker { backend, database, require_isolation } => {
                let away = networks::take_away(database.clone(), backend, cancel.clone());
                let engine = async {
                    if *require_isolation
                        && let Err(not_isolated) = isolation::verify(backend, &cancel).await.transpose()
                    {
                        // what is stored waits for another start; nothing is launched
                        cancel.cancel();
                        return Err(not_isolated.into());
                    }
                    self.engine.run(cancel.clone()).await;
                    Ok(())
                };
                let ((), ended) = tokio::join!(away, engine);
                ended
            }
            Companion::Ec2 { bootstrap, listen: address } => {
                let serve = async {
                    let served = async {
                        let listener = listen(*address).await?;
                        info!(boot = %listener.local_addr()?, "machines are served");
                        anyhow::Ok(bootstrap::serve((**bootstrap).clone(), listener, cancel.clone()).await?)
                    };
                    let served = served.await;
                    cancel.cancel();
                    served.context("machines can't be served")
                };
                let ((), served) = tokio::join!(self.engine.run(cancel.clone()), serve);
                served
            }
        }
    }
}
