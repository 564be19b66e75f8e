//! From the daemon's lists to the engine's terms.

use std::net::IpAddr;

use bollard::models::{ContainerSummary, ContainerSummaryStateEnum as State};
use molecule_domain::Timestamp;
use molecule_provisioner::backend::{CallError, LogChunk, PostMortem};
use molecule_provisioner::model::{Endpoint, InstanceRef};
use molecule_provisioner::observation::{InstanceState, OwnedInstance};

use crate::client::unknown;
use crate::names;

/// How many lines of output a post-mortem keeps.
pub(crate) const LOG_TAIL_LINES: u32 = 50;
const LOG_TAIL_BYTES: usize = 8 << 10;
/// What workspace-init ends with when it could not start the runtime (`EX_CONFIG` of sysexits.h).
const INIT_FAILED: i32 = 78;
const INIT_PREFIX: &str = "workspace-init: ";

/// One of our containers. A list that holds one that can't be read is no answer at all.
pub(crate) fn owned_instance(
    summary: &ContainerSummary,
    publish: Option<IpAddr>,
) -> Result<OwnedInstance, CallError> {
    let unreadable = || unknown(format!("the labels of container {:?} can't be read", summary.names));
    let labels = summary.labels.as_ref().ok_or_else(unreadable)?;
    let (organization, workspace) = names::owner(labels).ok_or_else(unreadable)?;
    let state = match summary.state {
        Some(State::CREATED) => InstanceState::Created,
        Some(State::RESTARTING) => InstanceState::Starting,
        Some(State::RUNNING | State::PAUSED) => InstanceState::Running,
        Some(State::STOPPING) => InstanceState::Stopping,
        Some(State::REMOVING) => InstanceState::Removing,
        Some(State::EXITED | State::DEAD) => InstanceState::Exited(exit_code(summary.status.as_deref())),
        Some(State::EMPTY) | None => return Err(unreadable()),
    };
    let endpoint = (state == InstanceState::Running).then(|| endpoint(summary, labels, publish)).flatten();
    Ok(OwnedInstance {
        instance: InstanceRef {
            organization,
            workspace,
            generation: names::generation(labels).ok_or_else(unreadable)?,
        },
        seq: names::seq(labels).ok_or_else(unreadable)?,
        state,
        endpoint,
        created_at: Timestamp::from_micros(summary.created.unwrap_or_default().saturating_mul(1_000_000)),
    })
}

fn endpoint(summary: &ContainerSummary, labels: &names::Labels, publish: Option<IpAddr>) -> Option<Endpoint> {
    let port: u16 = labels.get(names::AGENT_PORT)?.parse().ok()?;
    if let Some(host) = publish {
        let published =
            summary.ports.iter().flatten().find(|p| p.private_port == port && p.public_port.is_some())?;
        return Some(Endpoint { host: host.to_string(), port: published.public_port? });
    }
    let networks = summary.network_settings.as_ref()?.networks.as_ref()?;
    let host =
        networks.values().find_map(|network| network.ip_address.clone().filter(|ip| !ip.is_empty()))?;
    Some(Endpoint { host, port })
}

/// From "Exited (137) 3 minutes ago".
fn exit_code(status: Option<&str>) -> Option<i32> {
    status?.split_once('(')?.1.split_once(')')?.0.parse().ok()
}

/// What is to be told of a container that ended.
pub(crate) fn post_mortem(
    exit_code: Option<i32>,
    oom_killed: bool,
    error: &str,
    output: &[LogChunk],
) -> PostMortem {
    let bytes: Vec<u8> = output.iter().flat_map(|chunk| chunk.data.iter().copied()).collect();
    let start = bytes.len().saturating_sub(LOG_TAIL_BYTES);
    let log_tail = String::from_utf8_lossy(&bytes[start..]).into_owned();
    let said = log_tail.lines().rev().find_map(|line| line.strip_prefix(INIT_PREFIX)).map(str::to_owned);
    let init_failure = said.filter(|_| exit_code == Some(INIT_FAILED));
    let detail = if oom_killed {
        Some("it ran out of memory: give it a larger tier".to_owned())
    } else {
        (!error.is_empty()).then(|| error.to_owned())
    };
    PostMortem { exit_code, log_tail, detail, init_failure, is_final: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(text: &str) -> LogChunk {
        LogChunk { stderr: true, data: text.as_bytes().to_vec() }
    }

    #[test]
    fn the_exit_code_is_read_from_the_status() {
        assert_eq!(exit_code(Some("Exited (137) 3 minutes ago")), Some(137));
        assert_eq!(exit_code(Some("Dead")), None);
    }

    #[test]
    fn a_failure_of_init_is_told_by_its_code_and_word() {
        let output = [chunk("hello\nworkspace-init: no answer\n")];
        assert_eq!(post_mortem(Some(78), false, "", &output).init_failure.as_deref(), Some("no answer"));
        assert_eq!(post_mortem(Some(1), false, "", &output).init_failure, None);
    }

    #[test]
    fn a_container_without_our_labels_spoils_the_list() {
        let summary = ContainerSummary { state: Some(State::RUNNING), ..ContainerSummary::default() };
        assert!(owned_instance(&summary, None).is_err());
    }
}
