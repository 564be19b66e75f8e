//! The program. See the library for what it does.

use std::process::ExitCode;

use molecule_service_kit::program;
use tenant_svc::app::{self, Hooks};
use tenant_svc::config::Config;

fn main() -> ExitCode {
    program::run("tenant-svc", Config::from_process(), |config, cancel| {
        app::run(config, Hooks::default(), cancel)
    })
}
