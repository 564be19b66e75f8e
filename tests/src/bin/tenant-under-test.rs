//! tenant-svc [under the knife](molecule_tests::knife).

use std::process::ExitCode;

use tenant_svc::app::{self, Hooks};
use tenant_svc::config::Config;

use molecule_service_kit::program;
use molecule_tests::knife;

fn main() -> ExitCode {
    let hooks = Hooks { steps: knife::steps(), policy: Some(knife::impatient()) };
    program::run("tenant-under-test", Config::from_process(), |config, cancel| {
        app::run(config, hooks, cancel)
    })
}
