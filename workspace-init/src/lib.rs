//! What a backend starts in every workspace: fetches the workspace's bundle from tenant-svc, writes it, and
//! becomes the image's own entrypoint and command. So nothing secret is in the container's description, and
//! the configuration is there before the runtime starts.

pub mod canary;
mod credential;
mod fetch;
mod files;

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What this ends with when it could not start the runtime (`EX_CONFIG` of `sysexits.h`); backends know it.
pub const FAILED: u8 = 78;

/// Why the runtime could not be started. The message ends up in the workspace's `message`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The backend did not set this variable.
    #[error("the environment variable {0} is missing: this is not how a workspace is started")]
    MissingVariable(&'static str),
    /// There is neither a bootstrap token nor a credential.
    #[error(
        "there is neither a bootstrap token nor a credential in {0}; restart the workspace to get new ones"
    )]
    NoCredential(PathBuf),
    /// tenant-svc did not answer.
    #[error("tenant-svc at {url} can't be reached: {cause}")]
    Unreachable {
        /// Where it was tried.
        url: String,
        /// What happened.
        cause: String,
    },
    /// tenant-svc said no.
    #[error("tenant-svc refuses the bundle ({status}): {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What it said.
        message: String,
    },
    /// The bundle can't be understood.
    #[error("the bundle can't be read: {0}")]
    BadBundle(String),
    /// The pinned CA can't be used.
    #[error("the pinned CA {path} can't be used: {cause}")]
    BadCa {
        /// Where it is.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// A file can't be written.
    #[error("{path} can't be written: {cause}")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// The image says nothing to run.
    #[error("the image has no entrypoint and no command, and its runtime declares none")]
    NothingToRun,
    /// The command can't be run.
    #[error("{command:?} can't be run: {cause}")]
    Exec {
        /// The program.
        command: OsString,
        /// Why.
        cause: std::io::Error,
    },
}

/// Where the configuration is.
const CONFIGS: &str = "/configs";

/// Prepares the workspace and becomes `command`. Returns only in failure.
pub fn run(command: &[OsString]) -> Error {
    match prepare(Path::new(CONFIGS)) {
        Ok(env) => {
            let Some((program, arguments)) = command.split_first() else { return Error::NothingToRun };
            let cause = Command::new(program)
                .args(arguments)
                .envs(env)
                .env_remove("MOLECULE_AGENTS_URL")
                .env_remove("MOLECULE_CA_FILE")
                .exec();
            Error::Exec { command: program.clone(), cause }
        }
        Err(error) => error,
    }
}

/// Fetches the bundle and writes its files; the rest is the environment.
fn prepare(configs: &Path) -> Result<std::collections::BTreeMap<String, String>, Error> {
    let url = variable("MOLECULE_AGENTS_URL")?;
    let ca = std::env::var_os("MOLECULE_CA_FILE").map(PathBuf::from);
    let agent = fetch::agent(ca.as_deref())?;
    let folder = files::Configs::new(configs);
    let ask = |secret: &str, nonce| fetch::bundle(&agent, &url, secret, nonce);
    let bundle = credential::bundle(&folder, ask)?.ok_or_else(|| Error::NoCredential(configs.to_owned()))?;
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
    for file in &bundle.files {
        folder.write(&home, file)?;
    }
    Ok(bundle.env)
}

fn variable(name: &'static str) -> Result<String, Error> {
    std::env::var(name).map_err(|_| Error::MissingVariable(name))
}
