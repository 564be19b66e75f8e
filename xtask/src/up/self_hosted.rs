//! One machine: tenant-svc over local Docker.

use std::process::Command;

use super::{Demo, RUNTIMES, SERVER, Service, Services, Stop, folder};
use crate::shell::say;
use crate::tools::static_binary;

pub(super) fn run(exit: bool, stop: &Stop) -> anyhow::Result<()> {
    let demo = Demo { data: folder().join("molecule-data") };
    say("starting tenant-svc, self-hosted");
    let mut command = Command::new("target/debug/tenant-svc");
    command
        .env("TENANT_DATA_DIR", &demo.data)
        .env("TENANT_LISTEN", SERVER)
        .env("TENANT_WORKSPACE_INIT", static_binary("workspace-init"))
        .env("RUNTIMES_FILE", RUNTIMES)
        .env("TENANT_LOG", "warn,tenant_svc=info");
    let mut services = Services::default();
    services.add(Service::start("tenant-svc", &mut command)?).answers(|| demo.molecule(&["info"]), stop)?;
    demo.play(services, exit, stop, |id| {
        demo.how_to_go_on(id);
        Ok(())
    })
}
