//! The domain's errors on the wire, and back: the one place where `tonic::Status` is made.
//!
//! Every status carries `google.rpc.ErrorInfo{reason, domain}` (<https://google.aip.dev/193>), and what else
//! its reason has: wrong fields, passed limits, when to try again. Its metadata say what is stored of what was asked for:
//! `stored` is `nothing`, which is what this call has stored, so that it may be made again freely; `wish`, which goes on for
//! the `workspace_id` beside it; or `unknown` where the call was broken off while it stored.

use std::collections::HashMap;
use std::time::Duration;

use molecule_domain::error::{Error, ErrorCode, ErrorReason, LimitViolation, StoredWish};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, PreconditionViolation, QuotaViolation, StatusExt};
use tracing::{debug, error};

/// The domain of every `ErrorInfo`.
pub const ERROR_DOMAIN: &str = "molecule";

/// The key of what is stored, among an `ErrorInfo`'s metadata.
const STORED: &str = "stored";
const NOTHING: &str = "nothing";
const UNKNOWN: &str = "unknown";
const WISH: &str = "wish";
const WORKSPACE_ID: &str = "workspace_id";

/// The wire's code.
pub const fn code(code: ErrorCode) -> Code {
    match code {
        ErrorCode::InvalidArgument => Code::InvalidArgument,
        ErrorCode::NotFound => Code::NotFound,
        ErrorCode::AlreadyExists => Code::AlreadyExists,
        ErrorCode::FailedPrecondition => Code::FailedPrecondition,
        ErrorCode::ResourceExhausted => Code::ResourceExhausted,
        ErrorCode::Aborted => Code::Aborted,
        ErrorCode::OutOfRange => Code::OutOfRange,
        ErrorCode::Unauthenticated => Code::Unauthenticated,
        ErrorCode::PermissionDenied => Code::PermissionDenied,
        ErrorCode::Unavailable => Code::Unavailable,
        ErrorCode::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorCode::Unimplemented => Code::Unimplemented,
        ErrorCode::Internal => Code::Internal,
    }
}

/// The status of an error. This is where errors are handled, so this is where their causes are logged.
pub fn to_status(error: &Error) -> Status {
    let mut details = ErrorDetails::new();
    // for programs, which should not have to read sentences
    let limits =
        error.limits.iter().map(|v| (v.limit.to_string(), format!("{} {} {}", v.cap, v.used, v.asked)));
    let mut metadata = limits.collect::<HashMap<_, _>>();
    match error.stored {
        StoredWish::Nothing => drop(metadata.insert(STORED.to_owned(), NOTHING.to_owned())),
        StoredWish::GoesOn(workspace) => {
            metadata.insert(STORED.to_owned(), WISH.to_owned());
            metadata.insert(WORKSPACE_ID.to_owned(), workspace.to_string());
        }
        StoredWish::Unknown => drop(metadata.insert(STORED.to_owned(), UNKNOWN.to_owned())),
    }
    details.set_error_info(error.reason.as_str(), ERROR_DOMAIN, metadata);
    if !error.fields.is_empty() {
        let fields = error.fields.iter().map(|v| FieldViolation::new(v.field.clone(), v.description.clone()));
        details.set_bad_request(fields.collect::<Vec<_>>());
    }
    if !error.limits.is_empty() {
        let limits = error.limits.iter().map(|v| {
            let description =
                format!("limit {}: {} used, {} asked, {} allowed", v.limit, v.used, v.asked, v.cap);
            QuotaViolation::new(v.limit.clone(), description)
        });
        details.set_quota_failure(limits.collect::<Vec<_>>());
    }
    if error.code() == ErrorCode::FailedPrecondition {
        let violation = PreconditionViolation::new(error.reason.as_str(), "", error.message.clone());
        details.set_precondition_failure(vec![violation]);
    }
    if let Some(after) = error.retry_after {
        details.set_retry_info(Some(after));
    }
    if error.code() != ErrorCode::Internal {
        debug!(reason = error.reason.as_str(), message = error.message, "refused");
        return Status::with_error_details(code(error.code()), error.message.clone(), details);
    }
    let request_id = uuid::Uuid::new_v4().to_string();
    error!(request_id, error = error as &dyn std::error::Error, "internal error");
    details.set_request_info(request_id.clone(), "");
    Status::with_error_details(
        Code::Internal,
        format!("internal error; see the log for {request_id}"),
        details,
    )
}

/// The error in a status of another service of ours. What is not ours counts as that service being unavailable,
/// or else as a fault of its own.
pub fn from_status(status: Status) -> Error {
    let details = status.get_error_details();
    let info = details.error_info().filter(|info| info.domain == ERROR_DOMAIN);
    let known = info.and_then(|info| ErrorReason::named(&info.reason));
    let Some(reason) = known else {
        let reason = match status.code() {
            Code::Unavailable | Code::Cancelled | Code::Unknown => ErrorReason::ControlPlaneUnavailable,
            Code::DeadlineExceeded => ErrorReason::DeadlineExceeded,
            _ => return Error::internal(status),
        };
        let error = Error::new(reason, "the service behind this one does not answer; try again");
        return error.with_retry_after(Duration::from_secs(1)).with_source(status);
    };
    let mut error = Error::new(reason, status.message());
    let fields = details.bad_request().map_or(&[][..], |bad| &bad.field_violations);
    error.fields = fields
        .iter()
        .map(|v| molecule_domain::error::FieldViolation {
            field: v.field.clone(),
            description: v.description.clone(),
        })
        .collect();
    error.limits = info.map_or_else(Vec::new, |info| info.metadata.iter().filter_map(limit).collect());
    error.limits.sort_by(|a, b| a.limit.cmp(&b.limit));
    error.stored = stored(&status).unwrap_or_default();
    error.retry_after = details.retry_info().and_then(|info| info.retry_delay);
    error
}

/// What a status says is stored of what was asked for; `None` where it does not say so, as one that is not ours.
pub fn stored(status: &Status) -> Option<StoredWish> {
    let info = status.get_details_error_info().filter(|info| info.domain == ERROR_DOMAIN)?;
    match info.metadata.get(STORED)?.as_str() {
        NOTHING => Some(StoredWish::Nothing),
        UNKNOWN => Some(StoredWish::Unknown),
        WISH => info.metadata.get(WORKSPACE_ID)?.parse().ok().map(StoredWish::GoesOn),
        _ => None,
    }
}

fn limit((name, numbers): (&String, &String)) -> Option<LimitViolation> {
    if [STORED, WORKSPACE_ID].contains(&name.as_str()) {
        return None;
    }
    let mut numbers = numbers.split(' ').map(str::parse);
    let mut next = || numbers.next()?.ok();
    Some(LimitViolation { limit: name.clone().into(), cap: next()?, used: next()?, asked: next()? })
}

#[cfg(test)]
mod tests {
    use molecule_domain::id::WorkspaceId;

    use super::*;

    #[test]
    fn every_reason_goes_over_the_wire_and_back() {
        for reason in ErrorReason::ALL {
            let status = to_status(&Error::new(*reason, "what happened"));
            assert_eq!(status.code(), code(reason.code()));
            let info = status.get_details_error_info().expect("every status has its reason");
            assert_eq!((info.reason.as_str(), info.domain.as_str()), (reason.as_str(), ERROR_DOMAIN));
            assert_eq!(from_status(status).reason, *reason);
        }
    }

    #[test]
    fn wrong_fields_are_named() {
        let status = to_status(&Error::field("spec.name", "is empty"));
        let bad = status.get_details_bad_request().unwrap();
        assert_eq!(bad.field_violations[0].field, "spec.name");
    }

    #[test]
    fn what_a_refusal_says_comes_back() {
        let mut error = Error::new(ErrorReason::QuotaExceeded, "too much");
        error.limits = vec![LimitViolation { limit: "memory_mib".into(), cap: 512, used: 256, asked: 512 }];
        error.retry_after = Some(Duration::from_secs(3));
        let back = from_status(to_status(&error));
        assert_eq!((back.message.as_str(), &back.limits), ("too much", &error.limits));
        assert_eq!(back.retry_after, error.retry_after);
        let back = from_status(to_status(&Error::field("spec.name", "is empty")));
        assert_eq!(back.fields[0].field, "spec.name");
    }

    #[test]
    fn what_is_stored_is_said_beside_the_limits_and_comes_back() {
        let mut error = Error::new(ErrorReason::QuotaExceeded, "too much");
        error.limits = vec![LimitViolation { limit: "workspaces".into(), cap: 1, used: 1, asked: 1 }];
        for stored_wish in
            [StoredWish::Nothing, StoredWish::Unknown, StoredWish::GoesOn(WorkspaceId::generate())]
        {
            error.stored = stored_wish;
            let status = to_status(&error);
            let metadata = status.get_details_error_info().unwrap().metadata;
            match stored_wish {
                StoredWish::Nothing => assert_eq!(metadata["stored"], "nothing"),
                StoredWish::Unknown => assert_eq!(metadata["stored"], "unknown"),
                StoredWish::GoesOn(workspace) => {
                    assert_eq!(metadata["stored"], "wish");
                    assert_eq!(metadata["workspace_id"], workspace.to_string());
                }
            }
            assert_eq!(stored(&status), Some(stored_wish));
            let back = from_status(status);
            assert_eq!((back.stored, &back.limits), (stored_wish, &error.limits));
        }
        assert_eq!(stored(&Status::unavailable("x")), None, "a stranger does not say");
    }

    #[test]
    fn a_strangers_status_says_nothing_of_ours() {
        let reason = |status: Status| from_status(status).reason;
        assert_eq!(reason(Status::unavailable("x")), ErrorReason::ControlPlaneUnavailable);
        assert_eq!(reason(Status::unimplemented("x")), ErrorReason::Internal);
    }

    #[test]
    fn an_internal_error_tells_nothing_but_where_to_look() {
        let status = to_status(&Error::internal("the password is hunter2"));
        assert!(!status.message().contains("hunter2"));
        let id = status.get_details_request_info().unwrap().request_id;
        assert!(status.message().contains(&id));
    }
}
