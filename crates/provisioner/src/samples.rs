//! Requests of some kind, and what an engine stands on, for tests.

use molecule_domain::id::{AttemptNumber, Generation, IntentNumber, LaunchSeq, OrganizationId, WorkspaceId};
use molecule_domain::launch::{LaunchSpec, Mount};
use molecule_domain::seal::Sealer;
use molecule_domain::tier::{Resources, Tier};

use crate::admission::ProvisionRequest;
use crate::backend::LaunchRequest;
use crate::model::{Attempt, InstanceRef};

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
        refusal_is_final: false,
        process: None,
        trace: "of the request".to_owned(),
    }
}

/// The launch of a first instance under a number, as the engine asks a backend for it.
pub fn launch(workspace: WorkspaceId, seq: LaunchSeq) -> LaunchRequest {
    let request = provision(workspace);
    let (organization, generation) = (request.organization, request.generation);
    LaunchRequest {
        instance: InstanceRef { organization, workspace, generation },
        attempt: AttemptNumber(1),
        seq,
        token: Attempt::token_of(workspace, generation, seq),
        placement: String::new(),
        spec: request.spec,
        bootstrap_token: None,
    }
}

/// Seals by not sealing: tests that use this look at nothing that is sealed.
#[derive(Clone, Copy, Debug)]
pub struct Unsealed;

impl Sealer for Unsealed {
    fn seal(&self, plain: &[u8], _context: &str) -> Vec<u8> {
        plain.to_vec()
    }

    fn open(&self, sealed: &[u8], _context: &str) -> Option<Vec<u8>> {
        Some(sealed.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_sealed_is_opened_as_it_was_given() {
        let sealed = Unsealed.seal(b"a token", "a context");
        assert_eq!(sealed, b"a token");
        assert_eq!(Unsealed.open(&sealed, "a context"), Some(b"a token".to_vec()));
    }
}
