//! What every service's `main` does: settings, or their mistakes; logs; a runtime; a signal that ends it.

use std::fmt::Display;
use std::process::ExitCode;

use tokio_util::sync::CancellationToken;

use crate::settings::ConfigError;
use crate::telemetry::LogFormat;
use crate::{shutdown, telemetry};

/// Settings that can't be started with (`EX_CONFIG` of `sysexits.h`).
const BAD_SETTINGS: u8 = 78;

/// What the process was asked to do.
#[derive(Debug)]
pub enum Startup<C> {
    /// Run.
    Run(Box<C>),
    /// Print this and end.
    Print(String),
}

/// How a service's settings say that it logs.
pub trait Logs {
    /// How logs look, and what is logged.
    fn logs(&self) -> (LogFormat, &str);
}

/// Runs a service until it ends or a signal ends it.
pub fn run<C, F, E>(
    name: &str,
    startup: Result<Startup<C>, ConfigError>,
    service: impl FnOnce(C, CancellationToken) -> F,
) -> ExitCode
where
    C: Logs,
    F: Future<Output = Result<(), E>>,
    E: Display,
{
    let config = match startup {
        Ok(Startup::Run(config)) => *config,
        Ok(Startup::Print(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{name}: {error}");
            return ExitCode::from(BAD_SETTINGS);
        }
    };
    let (format, filter) = config.logs();
    let ended = telemetry::start(format, filter).and_then(|()| {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        runtime.block_on(async {
            let cancel = shutdown::on_signal().map_err(|error| error.to_string())?;
            // with the causes
            service(config, cancel).await.map_err(|error| format!("{error:#}"))
        })
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{name}: {problem}");
            ExitCode::FAILURE
        }
    }
}
