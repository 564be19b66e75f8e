//! What a machine is told when it first boots: a script for cloud-init, with the bootstrap token and addresses, and
//! nothing else that is secret.

use std::fmt::Write as _;

use async_trait::async_trait;
use molecule_domain::sandbox;
use molecule_provisioner::backend::LaunchRequest;
use molecule_provisioner::model::InstanceRef;

use crate::placement::Placement;

/// The part that is the same for all.
const SCRIPT: &str = include_str!("boot.sh");

/// Why a machine did not come up, in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootReport {
    /// What failed, for people.
    pub message: String,
    /// The last lines of its log, without secrets.
    pub log_tail: String,
}

/// Where machines report that they did not come up.
#[async_trait]
pub trait BootDesk: Send + Sync + 'static {
    /// The address that a machine reports to: the same for every launch of a generation, and only its own.
    fn report_url(&self, instance: &InstanceRef) -> String;

    /// What was reported of an instance, or why that can't be told.
    async fn report(&self, instance: &InstanceRef) -> Result<Option<BootReport>, String>;
}

/// The script for a launch: equal requests give equal bytes.
pub(crate) fn user_data(request: &LaunchRequest, placement: &Placement, report_url: &str) -> String {
    let spec = &request.spec;
    let mut script = String::from("#!/bin/sh\n# Boots one workspace. Made by molecule's control plane.\n");
    let token = request.bootstrap_token.as_ref().map_or("", |token| token.expose());
    for (name, value) in [
        ("WORKSPACE", request.instance.workspace.to_string().as_str()),
        ("GENERATION", request.instance.generation.to_string().as_str()),
        ("TOKEN", token),
        ("CA", spec.agents_ca.as_deref().unwrap_or_default()),
        ("IMAGE", &spec.image),
        ("NEW_DISK", if placement.new_disk { "yes" } else { "no" }),
        ("INIT_URL", &placement.init_url),
        ("INIT_SHA256", &placement.init_sha256),
        ("REPORT_URL", report_url),
        ("TOKEN_FILE", sandbox::TOKEN_FILE),
        ("CA_FILE", sandbox::CA_FILE),
    ] {
        let _ = writeln!(script, "{name}={}", quoted(value));
    }
    let volumes = sandbox::volumes(spec);
    let names = |session: bool| {
        let those = volumes.iter().filter(|volume| volume.session || !session);
        those.map(|volume| quoted(&volume.name)).collect::<Vec<_>>().join(" ")
    };
    let _ = writeln!(script, "volumes() {{ printf '%s\\n' {}; }}", names(false));
    let reset = if spec.reset_session { names(true) } else { String::new() };
    let _ = writeln!(script, "discarded() {{ printf '%s\\n' {reset}; }}");
    let _ = writeln!(script, "run() {{\n  docker run {} \"$@\"\n}}", flags(request).join(" "));
    match &spec.command {
        Some(command) => {
            let words: Vec<_> = command.iter().map(|word| quoted(word)).collect();
            let _ = writeln!(script, "start() {{ run \"$@\" {}; }}", words.join(" "));
        }
        None => script.push_str("start() { with_image_command run \"$@\"; }\n"),
    }
    script + SCRIPT
}

/// The flags of `docker run`, which are what [`sandbox`] says. `$DATA` is the data disk's folder.
fn flags(request: &LaunchRequest) -> Vec<String> {
    let spec = &request.spec;
    let port = spec.agent_port;
    let mut flags: Vec<String> = [
        "--detach",
        "--init",
        // the machine may be rebooted, or stopped and started
        "--restart unless-stopped",
        "--security-opt no-new-privileges",
        "--cap-drop ALL",
    ]
    .map(str::to_owned)
    .into();
    flags.push(format!("--pids-limit {}", sandbox::PIDS_LIMIT));
    flags.push(format!("--publish {port}:{port}"));
    flags.push(format!(
        "--name {}",
        quoted(&format!("ws-{}-{}", request.instance.workspace, request.instance.generation))
    ));
    flags.extend(sandbox::capabilities(spec).iter().map(|one| format!("--cap-add {one}")));
    flags.extend(sandbox::LOG_ROTATION.map(|(option, value)| format!("--log-opt {option}={value}")));
    let environment = sandbox::environment(request.instance.workspace, spec);
    flags.extend(
        environment.iter().map(|(name, value)| format!("--env {}", quoted(&format!("{name}={value}")))),
    );
    if spec.tier.read_only_root() {
        flags.push("--read-only".to_owned());
    }
    let in_memory = sandbox::in_memory(spec);
    flags.extend(
        in_memory.iter().map(|path| format!("--tmpfs {}", quoted(&format!("{path}:{}", sandbox::TMPFS)))),
    );
    for volume in sandbox::volumes(spec) {
        let target = quoted(&format!("/{},dst={}", volume.name, volume.path));
        flags.push(format!("--mount type=bind,src=\"$DATA\"{target}"));
    }
    flags.push(format!("--mount type=bind,src=\"$INIT_FOLDER\",dst={},readonly", sandbox::INIT_FOLDER));
    flags.push(format!("--entrypoint {}", sandbox::INIT));
    flags
}

/// A word of the shell's that stands for exactly this.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_words_are_what_they_were() {
        for word in ["", "plain", "two words", "it's", "$HOME `id` \"x\" \\", "line\nline", "-n"] {
            let script = format!("printf %s {}", quoted(word));
            let said = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(said.stdout).unwrap(), word);
        }
    }
}
