//! The program. See the library for what it does.

use std::process::ExitCode;

use controlplane_svc::config::{Config, Startup};
use molecule_service_kit::{shutdown, telemetry};

fn main() -> ExitCode {
    let config = match Config::from_process() {
        Ok(Startup::Run(config)) => config,
        Ok(Startup::Print(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("controlplane-svc: {error}");
            return ExitCode::from(78);
        }
    };
    match run(*config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("controlplane-svc: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(config: Config) -> anyhow::Result<()> {
    telemetry::start(config.log_format, &config.log_filter).map_err(anyhow::Error::msg)?;
    let cancel = shutdown::on_signal()?;
    controlplane_svc::app::run(config, controlplane_svc::app::Hooks::default(), cancel).await
}
