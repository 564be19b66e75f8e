//! controlplane-svc [under the knife](molecule_tests::knife).

use std::time::Duration;

use controlplane_svc::app::{Hooks, run};
use controlplane_svc::config::{Config, Startup};
use molecule_provisioner::policy::Policy;
use molecule_service_kit::{shutdown, telemetry};
use molecule_tests::knife;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Startup::Run(config) = Config::from_process()? else { return Ok(()) };
    telemetry::start(config.log_format, &config.log_filter).map_err(anyhow::Error::msg)?;
    // replicas outlive each other, so leases run out: short enough to wait for, longer than any call
    let policy = Policy { lease: Duration::from_secs(8), ..knife::impatient() };
    let hooks = Hooks { steps: knife::steps(), policy: Some(policy) };
    run(*config, hooks, shutdown::on_signal()?).await
}
