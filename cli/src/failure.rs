//! What can go wrong, and the exit code that says so.

use std::fmt;

use molecule_domain::error::StoredWish;
use molecule_service_kit::status::stored;
use tonic::Code;
use tonic_types::StatusExt;

/// A command that did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What was typed can't be meant.
    Usage(String),
    /// The server said no.
    Status(Box<tonic::Status>),
    /// The server said no to a change, some of which may be stored all the same.
    Change(Box<tonic::Status>),
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
            Self::Status(status) | Self::Change(status) => match status.code() {
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

/// The answer to a change.
pub(crate) fn changed<T>(answer: Result<tonic::Response<T>, tonic::Status>) -> Result<T, Failure> {
    answer.map(tonic::Response::into_inner).map_err(|status| Failure::Change(Box::new(status)))
}

/// What is left of a change that was refused or not done in time. How a wish is taken back stands in the message.
fn what_is_stored(left: StoredWish) -> String {
    match left {
        StoredWish::Nothing => "Nothing is stored: the call may be made again.".to_owned(),
        StoredWish::Unknown => {
            "It is not known whether this is stored: look with `molecule list` before you make the call again.".to_owned()
        }
        StoredWish::GoesOn(workspace) => format!("Follow it with `molecule get {workspace}`."),
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
            Self::Status(status) | Self::Change(status) => status,
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
        match stored(status) {
            Some(left) if matches!(self, Self::Change(_)) => write!(f, "\n{}", what_is_stored(left)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use molecule_domain::error::{Error, ErrorReason};
    use molecule_domain::id::WorkspaceId;
    use molecule_service_kit::status::to_status;

    use super::*;

    #[test]
    fn a_refused_change_says_what_is_stored_and_a_refused_read_does_not() {
        let (nothing, goes_on) = ("Nothing is stored", "Follow it");
        let mut error = Error::new(ErrorReason::StoreUnavailable, "the database does not answer");
        let read = Failure::from(to_status(&error)).to_string();
        assert!(!read.contains(nothing), "{read}");
        let change = Failure::Change(Box::new(to_status(&error)));
        assert_eq!(change.code(), 3);
        assert!(change.to_string().ends_with("the call may be made again."), "{change}");
        let workspace = WorkspaceId::generate();
        error.stored = StoredWish::GoesOn(workspace);
        let change = Failure::Change(Box::new(to_status(&error))).to_string();
        assert!(change.contains(goes_on) && !change.contains(nothing), "{change}");
        assert!(change.contains(&format!("`molecule get {workspace}`")), "{change}");
        error.stored = StoredWish::Unknown;
        let change = Failure::Change(Box::new(to_status(&error))).to_string();
        assert!(change.contains("not known whether") && change.contains("`molecule list`"), "{change}");
        // one that is not ours says neither
        let change = Failure::Change(Box::new(tonic::Status::unavailable("x"))).to_string();
        assert!(!change.contains("stored"), "{change}");
    }
}
