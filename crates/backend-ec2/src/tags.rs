//! Tags of everything that is made in an account, and the filters that find it again.

use aws_sdk_ec2::types::{Filter, ResourceType, Tag, TagSpecification};
use molecule_domain::id::{Generation, InstallationId, LaunchSeq, OrganizationId, WorkspaceId};
use molecule_provisioner::backend::LaunchRequest;
use molecule_provisioner::model::InstanceRef;

/// The values that one filter may have (<https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Filtering.html>).
pub(crate) const MOST_VALUES: usize = 200;

const INSTALLATION: &str = "ai.molecule.installation";
const ORGANIZATION: &str = "ai.molecule.organization";
const WORKSPACE: &str = "ai.molecule.workspace";
const GENERATION: &str = "ai.molecule.generation";
const LAUNCH: &str = "ai.molecule.launch";
const AGENT_PORT: &str = "ai.molecule.agent-port";

/// The tags of all that one launch makes: machine, disks and network interface.
pub(crate) fn of_request(installation: InstallationId, request: &LaunchRequest) -> Vec<TagSpecification> {
    let InstanceRef { organization, workspace, generation } = request.instance;
    let tags = [
        ("Name", format!("ws-{workspace}-{generation}")),
        (INSTALLATION, installation.to_string()),
        (ORGANIZATION, organization.to_string()),
        (WORKSPACE, workspace.to_string()),
        (GENERATION, generation.to_string()),
        (LAUNCH, request.seq.to_string()),
        (AGENT_PORT, request.spec.agent_port.to_string()),
    ];
    let tags = tags.map(|(key, value)| Tag::builder().key(key).value(value).build());
    [ResourceType::Instance, ResourceType::Volume, ResourceType::NetworkInterface]
        .map(|kind| TagSpecification::builder().resource_type(kind).set_tags(Some(tags.to_vec())).build())
        .to_vec()
}

fn filter(tag: &str, values: Vec<String>) -> Filter {
    Filter::builder().name(format!("tag:{tag}")).set_values(Some(values)).build()
}

pub(crate) fn of_installation(installation: InstallationId) -> Vec<Filter> {
    vec![filter(INSTALLATION, vec![installation.to_string()])]
}

pub(crate) fn of_workspace(installation: InstallationId, workspace: WorkspaceId) -> Vec<Filter> {
    let mut filters = of_installation(installation);
    filters.push(filter(WORKSPACE, vec![workspace.to_string()]));
    filters
}

pub(crate) fn of_workspaces(installation: InstallationId, wanted: &[InstanceRef]) -> Vec<Filter> {
    let mut filters = of_installation(installation);
    filters.push(filter(WORKSPACE, wanted.iter().map(|one| one.workspace.to_string()).collect()));
    filters
}

pub(crate) fn of_instance(installation: InstallationId, instance: &InstanceRef) -> Vec<Filter> {
    let mut filters = of_workspace(installation, instance.workspace);
    filters.push(filter(GENERATION, vec![instance.generation.to_string()]));
    filters
}

pub(crate) fn of_launch(installation: InstallationId, instance: &InstanceRef, seq: LaunchSeq) -> Vec<Filter> {
    let mut filters = of_instance(installation, instance);
    filters.push(filter(LAUNCH, vec![seq.to_string()]));
    filters
}

/// Machines that are there. EC2 goes on showing terminated ones for about an hour.
pub(crate) fn not_terminated() -> Filter {
    let there = ["pending", "running", "stopping", "stopped", "shutting-down"].map(str::to_owned);
    Filter::builder().name("instance-state-name").set_values(Some(there.to_vec())).build()
}

/// Disks that are attached to nothing.
pub(crate) fn not_attached() -> Filter {
    let free = ["available", "error"].map(str::to_owned);
    Filter::builder().name("status").set_values(Some(free.to_vec())).build()
}

fn value<'a>(tags: &'a [Tag], key: &str) -> Option<&'a str> {
    tags.iter().find(|tag| tag.key() == Some(key))?.value()
}

/// Whose something is, and which launch made it.
pub(crate) fn owner(tags: &[Tag]) -> Option<(OrganizationId, WorkspaceId, LaunchSeq)> {
    Some((
        value(tags, ORGANIZATION)?.parse().ok()?,
        value(tags, WORKSPACE)?.parse().ok()?,
        LaunchSeq(value(tags, LAUNCH)?.parse().ok()?),
    ))
}

pub(crate) fn generation(tags: &[Tag]) -> Option<Generation> {
    value(tags, GENERATION)?.parse().ok().map(Generation)
}

pub(crate) fn agent_port(tags: &[Tag]) -> Option<u16> {
    value(tags, AGENT_PORT)?.parse().ok()
}
