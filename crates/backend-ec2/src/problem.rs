//! What EC2's errors mean (<https://docs.aws.amazon.com/ec2/latest/devguide/errors-overview.html>).

use aws_sdk_ec2::config::http::HttpResponse;
use aws_sdk_ec2::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use molecule_domain::lifecycle::Reason;
use molecule_provisioner::backend::{CallError, Refusal};
use tracing::error;

/// A call that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// No room for it there, now.
    NoCapacity(String),
    /// The account has reached a limit.
    Quota(String),
    /// Too many calls: nothing was done.
    Throttled(String),
    /// The credentials don't permit it.
    Unauthorized(String),
    /// There is no such image.
    NoImage(String),
    /// There is no such machine or disk.
    NotFound(String),
    /// Not in its present state.
    State(String),
    /// The machine that this token launched is terminated.
    Over(String),
    /// A definite no to what was asked.
    Invalid(String),
    /// No answer, or none that can be relied on.
    Unknown(String),
}

impl Problem {
    fn of(code: &str, message: &str, status: u16) -> Self {
        let told = format!("{code}: {message}");
        match code {
            "InsufficientInstanceCapacity"
            | "InsufficientHostCapacity"
            | "InsufficientCapacityOnHost"
            | "InsufficientReservedInstanceCapacity"
            | "InsufficientVolumeCapacity"
            | "InsufficientAddressCapacity"
            | "InsufficientFreeAddressesInSubnet"
            | "ReservationCapacityExceeded"
            // the zone does not have the type
            | "Unsupported" => Self::NoCapacity(told),
            "InstanceLimitExceeded"
            | "VcpuLimitExceeded"
            | "MaxSpotInstanceCountExceeded"
            | "VolumeLimitExceeded"
            | "MaxIOPSLimitExceeded"
            | "NetworkInterfaceLimitExceeded"
            | "ResourceLimitExceeded" => Self::Quota(told),
            "RequestLimitExceeded" | "Throttling" | "ThrottlingException" | "RequestThrottled"
            | "TooManyRequestsException" | "EC2ThrottledException" | "SlowDown" => Self::Throttled(told),
            "UnauthorizedOperation" | "AuthFailure" | "AccessDenied" | "AccessDeniedException"
            | "InvalidClientTokenId" | "MissingAuthenticationToken" | "SignatureDoesNotMatch"
            | "OptInRequired" | "Blocked" | "PendingVerification" => Self::Unauthorized(told),
            "IdempotentInstanceTerminated" => Self::Over(told),
            _ if code.starts_with("InvalidAMIID.") || code == "ParameterNotFound" => Self::NoImage(told),
            _ if code.ends_with(".NotFound") && !code.starts_with("InvalidS") && !code.starts_with("InvalidG") => {
                Self::NotFound(told)
            }
            "IncorrectInstanceState" | "IncorrectState" | "VolumeInUse" | "InvalidVolume.ZoneMismatch"
            // an earlier call with this token asked for something else: it may have been heard
            | "IdempotentParameterMismatch"
            // they are renewed
            | "RequestExpired" | "ExpiredToken" | "ExpiredTokenException" => Self::State(told),
            _ if (400..500).contains(&status) => Self::Invalid(told),
            _ => Self::Unknown(told),
        }
    }

    /// The engine's view, for what may be given up: `doing` says what was tried.
    pub(crate) fn into_call_error(self, doing: &str) -> CallError {
        match self {
            Self::NoCapacity(told) => {
                no_room(Reason::NoCapacity, format!("EC2 has no room to {doing} ({told})"))
            }
            Self::Quota(told) => no_room(
                Reason::ProviderQuota,
                format!(
                    "a limit of the operator's AWS account does not let us {doing}; they can have it raised ({told})"
                ),
            ),
            Self::Over(told) => {
                no_room(Reason::Restarting, format!("could not {doing}; trying anew ({told})"))
            }
            Self::Unauthorized(told) => {
                error!(
                    doing,
                    told,
                    "the control plane's AWS credentials don't permit this; see deploy/ec2 for its policy"
                );
                refused(
                    Reason::LaunchRefused,
                    format!(
                        "the control plane may not {doing}; its operators must permit it, then restart the workspace"
                    ),
                )
            }
            Self::NoImage(told) => refused(
                Reason::ImageUnavailable,
                format!(
                    "the machine image can't be used; its operators must set another, then restart the workspace ({told})"
                ),
            ),
            Self::Invalid(told) => refused(Reason::LaunchRefused, format!("EC2 refuses to {doing}: {told}")),
            other => other.into_retry(doing),
        }
    }

    /// The same for what is never given up.
    pub(crate) fn into_retry(self, doing: &str) -> CallError {
        match self {
            Self::Throttled(told) => unknown(format!("could not {doing} yet: too many calls ({told})")),
            Self::Unauthorized(told) => {
                error!(
                    doing,
                    told,
                    "the control plane's AWS credentials don't permit this; see deploy/ec2 for its policy"
                );
                unknown(format!("the control plane may not {doing}; its operators must permit it"))
            }
            Self::NoCapacity(told)
            | Self::Quota(told)
            | Self::NoImage(told)
            | Self::NotFound(told)
            | Self::State(told)
            | Self::Over(told)
            | Self::Invalid(told)
            | Self::Unknown(told) => unknown(format!("could not {doing}: {told}")),
        }
    }
}

impl<E: ProvideErrorMetadata + std::error::Error + 'static> From<SdkError<E, HttpResponse>> for Problem {
    fn from(error: SdkError<E, HttpResponse>) -> Self {
        if let SdkError::ServiceError(answered) = &error
            && let Some(code) = answered.err().code()
        {
            let message = answered.err().message().unwrap_or_default();
            return Self::of(code, message, answered.raw().status().as_u16());
        }
        Self::Unknown(DisplayErrorContext(&error).to_string())
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

fn no_room(reason: Reason, message: String) -> CallError {
    CallError::NoRoom(Refusal { reason, message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_told_apart() {
        let of = |code, status| Problem::of(code, "words", status);
        assert!(matches!(of("InsufficientInstanceCapacity", 500), Problem::NoCapacity(_)));
        assert!(matches!(of("VcpuLimitExceeded", 400), Problem::Quota(_)));
        assert!(matches!(of("RequestLimitExceeded", 503), Problem::Throttled(_)));
        assert!(matches!(of("UnauthorizedOperation", 403), Problem::Unauthorized(_)));
        assert!(matches!(of("InvalidAMIID.NotFound", 400), Problem::NoImage(_)));
        assert!(matches!(of("InvalidInstanceID.NotFound", 400), Problem::NotFound(_)));
        assert!(matches!(of("InvalidVolume.NotFound", 400), Problem::NotFound(_)));
        assert!(matches!(of("InvalidSubnetID.NotFound", 400), Problem::Invalid(_)));
        assert!(matches!(of("InvalidGroup.NotFound", 400), Problem::Invalid(_)));
        assert!(matches!(of("IdempotentParameterMismatch", 400), Problem::State(_)));
        assert!(matches!(of("InternalError", 500), Problem::Unknown(_)));
        assert!(matches!(of("NobodyKnows", 503), Problem::Unknown(_)));
    }

    #[test]
    fn what_may_have_happened_is_never_a_definite_no() {
        for problem in [
            Problem::State(String::new()),
            Problem::Unknown(String::new()),
            Problem::Throttled(String::new()),
        ] {
            assert!(matches!(problem.into_call_error("launch"), CallError::Unknown(_)));
        }
    }

    #[test]
    fn what_is_told_to_tenants_does_not_name_the_account() {
        let told = "UnauthorizedOperation: arn:aws:iam::123456789012:role/secret may not".to_owned();
        assert!(!Problem::Unauthorized(told.clone()).into_call_error("launch").to_string().contains("1234"));
        assert!(!Problem::Unauthorized(told).into_retry("stop").to_string().contains("1234"));
    }
}
