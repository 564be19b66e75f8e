//! What can go wrong, and the exit code that says so.

use std::fmt;

use tonic::Code;
use tonic_types::StatusExt;

/// A command that did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What was typed can't be meant.
    Usage(String),
    /// The server said no.
    Status(Box<tonic::Status>),
    /// The server can't be reached.
    Unreachable(String),
    /// What was waited for has FAILED.
    Failed(String),
    /// It was not done in time.
    TooLong(String),
    /// Anything else.
    Other(String),
}

impl Failure {
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
            Self::Status(status) => match status.code() {
                Code::NotFound => 4,
                Code::Unavailable => 3,
                _ => 1,
            },
            Self::Failed(_) => 5,
            Self::TooLong(_) => 6,
            Self::Other(_) => 1,
        }
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = match self {
            Self::Status(status) => status,
            Self::Usage(text)
            | Self::Unreachable(text)
            | Self::Failed(text)
            | Self::TooLong(text)
            | Self::Other(text) => return f.write_str(text),
        };
        let fields = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
        if fields.is_empty() {
            f.write_str(status.message())?;
        } else {
            f.write_str("the request is not valid:")?;
            for field in fields {
                write!(f, "\n  {}: {}", field.field, field.description)?;
            }
        }
        if let Some(info) = status.get_details_error_info() {
            write!(f, " ({})", info.reason)?;
        }
        if status.code() == Code::Unauthenticated {
            write!(f, "\n  say where the token is with --token-file")?;
        }
        Ok(())
    }
}
