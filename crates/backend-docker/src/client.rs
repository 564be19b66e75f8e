//! The connection to the daemon, and what its errors mean.

use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use molecule_domain::lifecycle::Reason;
use molecule_provisioner::backend::{CallError, Refusal};
use tokio::sync::OnceCell;

const DEFAULT_SOCKET: &str = "unix:///var/run/docker.sock";
/// A call that takes longer than any deadline of the engine's is dropped by the engine, not by this.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(600);

/// Connects on first use and agrees on an API version with the daemon then.
pub(crate) struct Client {
    host: Option<String>,
    docker: OnceCell<Docker>,
}

impl Client {
    pub(crate) fn new(host: Option<String>) -> Self {
        Self { host, docker: OnceCell::new() }
    }

    pub(crate) async fn get(&self) -> Result<&Docker, CallError> {
        self.docker.get_or_try_init(|| self.connect()).await
    }

    async fn connect(&self) -> Result<Docker, CallError> {
        let host = self.host.as_deref().unwrap_or(DEFAULT_SOCKET);
        let docker = Docker::connect_with_host(host).map_err(|error| {
            unknown(format!("the Docker daemon's address {host:?} is of no use: {error}"))
        })?;
        let docker = docker.with_timeout(CLIENT_TIMEOUT).negotiate_version().await;
        docker.map_err(|error| unknown(format!("the Docker daemon at {host} does not answer: {error}")))
    }
}

/// What a daemon's error means.
#[derive(Debug)]
pub(crate) enum Problem {
    /// Nothing was to be done.
    NotModified,
    /// What the call names is not there.
    NotFound(String),
    /// A name is taken, or the thing is in use.
    Conflict(String),
    /// The daemon will not do it, now or later.
    BadRequest(String),
    /// Anything else proves nothing.
    Unknown(String),
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::DockerResponseServerError { status_code, message } => match status_code {
                304 => Self::NotModified,
                400 => Self::BadRequest(message),
                404 => Self::NotFound(message),
                409 => Self::Conflict(message),
                _ => Self::Unknown(format!("{status_code}: {message}")),
            },
            other => Self::Unknown(other.to_string()),
        }
    }
}

impl Problem {
    /// The engine's view of it; `doing` says what was tried.
    pub(crate) fn into_call_error(self, doing: &str) -> CallError {
        match self {
            Self::BadRequest(message) => CallError::Refused(Refusal {
                reason: Reason::LaunchRefused,
                message: format!("Docker refuses to {doing}: {message}"),
            }),
            Self::NotModified => unknown(format!("could not {doing}: nothing to do")),
            Self::NotFound(message) | Self::Conflict(message) | Self::Unknown(message) => {
                unknown(format!("could not {doing}: {message}"))
            }
        }
    }
}

/// Nothing is known.
pub(crate) fn unknown(message: impl Into<String>) -> CallError {
    CallError::Unknown(message.into())
}

/// A definite no with its reason.
pub(crate) fn refused(reason: Reason, message: impl Into<String>) -> CallError {
    CallError::Refused(Refusal { reason, message: message.into() })
}
