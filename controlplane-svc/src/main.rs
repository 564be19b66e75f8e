//! The program. See the library for what it does.

use std::process::ExitCode;

use controlplane_svc::app::{self, Hooks};
use controlplane_svc::config::Config;
use molecule_service_kit::program;

fn main() -> ExitCode {
    program::run("controlplane-svc", Config::from_process(), |config, cancel| {
        app::run(config, Hooks::default(), cancel)
    })
}
