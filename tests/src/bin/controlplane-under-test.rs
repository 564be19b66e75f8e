//! controlplane-svc [under the knife](molecule_tests::knife).

use std::process::ExitCode;
use std::time::Duration;

use controlplane_svc::app::{self, Hooks};
use controlplane_svc::config::Config;
use molecule_provisioner::policy::Policy;
use molecule_service_kit::program;
use molecule_tests::knife;

fn main() -> ExitCode {
    // replicas outlive each other, so leases run out: short enough to wait for, longer than any call
    let policy = Policy { lease: Duration::from_secs(8), ..knife::impatient() };
    let hooks = Hooks { steps: knife::steps(), policy: Some(policy) };
    program::run("controlplane-under-test", Config::from_process(), |config, cancel| {
        app::run(config, hooks, cancel)
    })
}
