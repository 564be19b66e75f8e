//! Names and labels of everything that is made on a daemon.

use std::collections::HashMap;

use molecule_domain::id::{Generation, InstallationId, LaunchSeq, OrganizationId, WorkspaceId};
use molecule_provisioner::backend::LaunchRequest;
use molecule_provisioner::model::InstanceRef;

pub(crate) const INSTALLATION: &str = "ai.molecule.installation";
pub(crate) const ORGANIZATION: &str = "ai.molecule.organization";
pub(crate) const WORKSPACE: &str = "ai.molecule.workspace";
pub(crate) const GENERATION: &str = "ai.molecule.generation";
pub(crate) const LAUNCH: &str = "ai.molecule.launch";
pub(crate) const TOKEN: &str = "ai.molecule.launch-token";
pub(crate) const AGENT_PORT: &str = "ai.molecule.agent-port";
pub(crate) const SHARED: &str = "ai.molecule.shared";

pub(crate) type Labels = HashMap<String, String>;

pub(crate) fn container(instance: &InstanceRef) -> String {
    format!("ws-{}-{}", instance.workspace, instance.generation)
}

pub(crate) fn volume(workspace: WorkspaceId, name: &str) -> String {
    format!("ws-{workspace}-{name}")
}

/// The labels of a workspace's volume.
pub(crate) fn volume_labels(installation: InstallationId, request: &LaunchRequest) -> Labels {
    [
        (INSTALLATION, installation.to_string()),
        (ORGANIZATION, request.instance.organization.to_string()),
        (WORKSPACE, request.instance.workspace.to_string()),
        (LAUNCH, request.seq.to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// The labels of an instance's container.
pub(crate) fn container_labels(installation: InstallationId, request: &LaunchRequest) -> Labels {
    let mut labels = volume_labels(installation, request);
    labels.insert(GENERATION.to_owned(), request.instance.generation.to_string());
    labels.insert(TOKEN.to_owned(), request.token.clone());
    labels.insert(AGENT_PORT.to_owned(), request.spec.agent_port.to_string());
    labels
}

pub(crate) fn is_ours(labels: &Labels, installation: InstallationId) -> bool {
    labels.get(INSTALLATION).is_some_and(|owner| *owner == installation.to_string())
}

pub(crate) fn seq(labels: &Labels) -> Option<LaunchSeq> {
    labels.get(LAUNCH)?.parse().ok().map(LaunchSeq)
}

pub(crate) fn owner(labels: &Labels) -> Option<(OrganizationId, WorkspaceId)> {
    Some((labels.get(ORGANIZATION)?.parse().ok()?, labels.get(WORKSPACE)?.parse().ok()?))
}

pub(crate) fn generation(labels: &Labels) -> Option<Generation> {
    labels.get(GENERATION)?.parse().ok().map(Generation)
}

/// The list filter for what is this installation's own.
pub(crate) fn ours_filter(installation: InstallationId) -> HashMap<String, Vec<String>> {
    HashMap::from([("label".to_owned(), vec![format!("{INSTALLATION}={installation}")])])
}

/// The list filter for the containers of one launch.
pub(crate) fn launch_filter(
    installation: InstallationId,
    instance: &InstanceRef,
    seq: LaunchSeq,
) -> HashMap<String, Vec<String>> {
    let labels = [
        format!("{INSTALLATION}={installation}"),
        format!("{WORKSPACE}={}", instance.workspace),
        format!("{GENERATION}={}", instance.generation),
        format!("{LAUNCH}={seq}"),
    ];
    HashMap::from([("label".to_owned(), labels.to_vec())])
}
