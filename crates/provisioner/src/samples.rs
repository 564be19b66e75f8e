//! Requests of some kind, for tests.

use molecule_domain::id::{Generation, IntentNumber, OrganizationId, WorkspaceId};
use molecule_domain::launch::{LaunchSpec, Mount};
use molecule_domain::tier::{Resources, Tier};

use crate::admission::ProvisionRequest;

/// A launch of some kind.
pub fn spec() -> LaunchSpec {
    LaunchSpec {
        runtime: "demo".to_owned(),
        image: "demo:1".to_owned(),
        command: Some(vec!["/agent".to_owned()]),
        agent_port: 8000,
        tier: Tier::T2,
        resources: Resources { memory_mib: Some(512), cpu_shares: Some(1024) },
        disk_gib: 10,
        writable_paths: vec!["/tmp".to_owned()],
        rootless: false,
        volumes: vec![],
        mount: Mount::None,
        agents_url: "http://10.0.0.1:7071".to_owned(),
        agents_ca: None,
        reset_session: false,
    }
}

/// A request for a first instance.
pub fn provision(workspace: WorkspaceId) -> ProvisionRequest {
    ProvisionRequest {
        organization: OrganizationId::SELF_HOSTED,
        workspace,
        intent: IntentNumber(0),
        generation: Generation(1),
        run: true,
        backend: "memory".to_owned(),
        spec: spec(),
        sealed_token: b"sealed".to_vec(),
        trace: "of the request".to_owned(),
    }
}
