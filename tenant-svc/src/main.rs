//! The program. See the library for what it does.

use std::process::ExitCode;

use molecule_service_kit::{shutdown, telemetry};
use tenant_svc::config::{Config, Startup};

fn main() -> ExitCode {
    let config = match Config::from_process() {
        Ok(Startup::Run(config)) => config,
        Ok(Startup::Print(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("tenant-svc: {error}");
            return ExitCode::from(78);
        }
    };
    match run(*config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tenant-svc: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(config: Config) -> anyhow::Result<()> {
    telemetry::start(config.log_format, &config.log_filter).map_err(anyhow::Error::msg)?;
    let cancel = shutdown::on_signal()?;
    tenant_svc::app::run(config, tenant_svc::app::Hooks::default(), cancel).await
}
