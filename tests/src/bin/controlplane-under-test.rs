//! controlplane-svc [under the knife](molecule_tests::knife).

use controlplane_svc::app::{Hooks, run};
use controlplane_svc::config::{Config, Startup};
use molecule_service_kit::{shutdown, telemetry};
use molecule_tests::knife;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Startup::Run(config) = Config::from_process()? else { return Ok(()) };
    telemetry::start(config.log_format, &config.log_filter).map_err(anyhow::Error::msg)?;
    let hooks = Hooks { steps: knife::steps(), policy: Some(knife::impatient()) };
    run(*config, hooks, shutdown::on_signal()?).await
}
