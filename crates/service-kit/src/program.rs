//! What every service's `main` does: settings, or their mistakes; logs; a runtime; a signal that ends it.

use std::fmt::Display;
use std::process::ExitCode;

use tokio_util::sync::CancellationToken;

use crate::settings::ConfigError;
use crate::telemetry::Observed;
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

/// How a service's settings say what it tells of itself.
pub trait Observable {
    /// What it tells, and how.
    fn observed(&self) -> &Observed;
}

/// Runs a service until it ends or a signal ends it.
pub fn run<C, F, E>(
    name: &'static str,
    startup: Result<Startup<C>, ConfigError>,
    service: impl FnOnce(C, CancellationToken) -> F,
) -> ExitCode
where
    C: Observable,
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
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let ended = runtime.map_err(|error| error.to_string()).and_then(|runtime| {
        runtime.block_on(async {
            let cancel = shutdown::on_signal().map_err(|error| error.to_string())?;
            let metrics = config.observed().metrics;
            let telemetry = telemetry::start(name, config.observed())?;
            let served = async {
                match metrics {
                    None => Ok(()),
                    Some(listen) => telemetry.serve(listen, cancel.clone()).await.map_err(|error| {
                        cancel.cancel();
                        format!("metrics can't be served at {listen}: {error}")
                    }),
                }
            };
            let ended = async {
                let ended = service(config, cancel.clone()).await;
                cancel.cancel();
                // with the causes
                ended.map_err(|error| format!("{error:#}"))
            };
            let (served, ended) = tokio::join!(served, ended);
            telemetry.end().await;
            ended.and(served)
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
