//! The one error of the services: a reason for programs, a message for people, details, and an internal
//! cause that is logged and never sent.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use crate::id::WorkspaceId;

/// The result of anything that can be refused.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure it is; gRPC's codes, but for those never meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the names are gRPC's own
pub enum ErrorCode {
    InvalidArgument,
    NotFound,
    AlreadyExists,
    FailedPrecondition,
    ResourceExhausted,
    Aborted,
    OutOfRange,
    Unauthenticated,
    PermissionDenied,
    Unavailable,
    DeadlineExceeded,
    Unimplemented,
    Internal,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $text:literal => $code:ident,)*) => {
        /// Why something was refused, for programs: `google.rpc.ErrorInfo.reason`. Each has one code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorReason { $($(#[$doc])* $variant,)* }

        impl ErrorReason {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The reason on the wire, in upper snake case.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The code that goes with it.
            pub const fn code(self) -> ErrorCode {
                match self { $(Self::$variant => ErrorCode::$code,)* }
            }
        }
    };
}

reasons! {
    /// One or more fields are wrong; the violations name them.
    InvalidField = "INVALID_FIELD" => InvalidArgument,
    /// A page token that this server did not give out for these arguments.
    InvalidPageToken = "INVALID_PAGE_TOKEN" => InvalidArgument,
    /// There is no such workspace.
    WorkspaceNotFound = "WORKSPACE_NOT_FOUND" => NotFound,
    /// The workspace's id is taken.
    WorkspaceExists = "WORKSPACE_EXISTS" => AlreadyExists,
    /// The request id was used with another body.
    RequestIdReused = "REQUEST_ID_REUSED" => AlreadyExists,
    /// The workspace is being deleted, or has been.
    WorkspaceDeleted = "WORKSPACE_DELETED" => FailedPrecondition,
    /// What was asked for does not go with the workspace's state.
    WrongState = "WRONG_STATE" => FailedPrecondition,
    /// The organisation may not launch now.
    NotInGoodStanding = "NOT_IN_GOOD_STANDING" => FailedPrecondition,
    /// The organisation's plan does not include what was asked for.
    NotInPlan = "NOT_IN_PLAN" => FailedPrecondition,
    /// There is no such organisation.
    OrganizationNotFound = "ORGANIZATION_NOT_FOUND" => NotFound,
    /// The organisation's id is taken.
    OrganizationExists = "ORGANIZATION_EXISTS" => AlreadyExists,
    /// The organisation still has something at a provider.
    OrganizationInUse = "ORGANIZATION_IN_USE" => FailedPrecondition,
    /// Another process of the organisation's tenant is served: two work over copies of one database.
    TenantAlreadyServed = "TENANT_ALREADY_SERVED" => FailedPrecondition,
    /// The control plane's database was moved or copied, and no operator has said yet that it is the one in charge.
    DatabaseNotAdopted = "DATABASE_NOT_ADOPTED" => FailedPrecondition,
    /// An alarm stands: nothing is removed at the provider until an operator has ended it.
    AlarmStands = "ALARM_STANDS" => FailedPrecondition,
    /// There is no such token.
    TokenNotFound = "TOKEN_NOT_FOUND" => NotFound,
    /// The control plane does not answer.
    ControlPlaneUnavailable = "CONTROL_PLANE_UNAVAILABLE" => Unavailable,
    /// A limit of the organisation would be passed.
    QuotaExceeded = "QUOTA_EXCEEDED" => ResourceExhausted,
    /// The etag is not the current one.
    StaleEtag = "STALE_ETAG" => Aborted,
    /// An earlier request asks for some of the same, and the provider has not answered it yet.
    ChangeInProgress = "CHANGE_IN_PROGRESS" => Aborted,
    /// The revision is older than the history kept.
    RevisionTooOld = "REVISION_TOO_OLD" => OutOfRange,
    /// No valid credential.
    Unauthenticated = "UNAUTHENTICATED" => Unauthenticated,
    /// The credential does not give this right.
    PermissionDenied = "PERMISSION_DENIED" => PermissionDenied,
    /// More is asked than can be served now.
    Overloaded = "OVERLOADED" => Unavailable,
    /// This server is going away.
    Draining = "DRAINING" => Unavailable,
    /// The provider of containers or machines does not answer.
    BackendUnavailable = "BACKEND_UNAVAILABLE" => Unavailable,
    /// The store does not answer.
    StoreUnavailable = "STORE_UNAVAILABLE" => Unavailable,
    /// The caller's deadline passed.
    DeadlineExceeded = "DEADLINE_EXCEEDED" => DeadlineExceeded,
    /// Not in this mode or version.
    NotSupported = "NOT_SUPPORTED" => Unimplemented,
    /// A fault of the service's own.
    Internal = "INTERNAL" => Internal,
}

impl ErrorReason {
    /// The reason that has this text on the wire.
    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|known| known.as_str() == text)
    }

    /// Whether whoever provides has decided about a wish: asking again can't help. Whatever else it says, the wish waits: it
    /// may have been heard, or be granted later (a token is being rotated, a key file restored).
    pub const fn is_refusal(self) -> bool {
        matches!(
            self,
            Self::QuotaExceeded
                | Self::NotInGoodStanding
                | Self::NotInPlan
                | Self::WrongState
                | Self::InvalidField
                | Self::WorkspaceExists
                | Self::WorkspaceDeleted
                | Self::NotSupported
        )
    }
}

/// A field that is wrong, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldViolation {
    /// The field's path, as in the `.proto`: `spec.labels["a b"]`.
    pub field: String,
    /// What is wrong and what would be right.
    pub description: String,
}

/// A limit that would be passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitViolation {
    /// The limit's name: `running_workspaces`, say.
    pub limit: Cow<'static, str>,
    /// The highest allowed value.
    pub cap: i64,
    /// What is in use already.
    pub used: i64,
    /// What was asked for on top.
    pub asked: i64,
}

/// What an error leaves behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoredWish {
    /// Nothing is stored: the request may be made again freely.
    #[default]
    Nothing,
    /// The wish for this workspace is stored, and goes on.
    GoesOn(WorkspaceId),
    /// It is not known whether the wish is stored: the request may be repeated with the request id that it had.
    Unknown,
}

/// An error with public text apart from its internal cause.
#[derive(Debug)]
pub struct Error {
    /// Why, for programs.
    pub reason: ErrorReason,
    /// What happened and what to do, for people.
    pub message: String,
    /// The fields that are wrong, for [`ErrorReason::InvalidField`].
    pub fields: Vec<FieldViolation>,
    /// The limits that would be passed, for [`ErrorReason::QuotaExceeded`].
    pub limits: Vec<LimitViolation>,
    /// When trying again makes sense.
    pub retry_after: Option<Duration>,
    /// Whether what was asked for is stored all the same.
    pub stored: StoredWish,
    /// The cause: logged where the error is handled, never sent.
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error with this reason and message.
    pub fn new(reason: ErrorReason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            fields: Vec::new(),
            limits: Vec::new(),
            retry_after: None,
            stored: StoredWish::Nothing,
            source: None,
        }
    }

    /// A fault of the service's own. The cause stays inside.
    pub fn internal(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::new(ErrorReason::Internal, "internal error").with_source(source)
    }

    /// One wrong field.
    pub fn field(field: impl Into<String>, description: impl Into<String>) -> Self {
        let mut violations = Violations::default();
        violations.add(field, description);
        violations.into_error()
    }

    /// There is no such workspace.
    pub fn workspace_not_found(workspace: impl fmt::Display) -> Self {
        Self::new(ErrorReason::WorkspaceNotFound, format!("there is no workspace {workspace}"))
    }

    /// The kind of failure.
    pub const fn code(&self) -> ErrorCode {
        self.reason.code()
    }

    /// The same error with its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same error with a hint when to try again.
    #[must_use]
    pub const fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as _)
    }
}

/// Collects all that is wrong with a request, so that its author hears it at once.
#[derive(Debug, Default)]
pub struct Violations(Vec<FieldViolation>);

impl Violations {
    /// Notes that `field` is wrong.
    pub fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        self.0.push(FieldViolation { field: field.into(), description: description.into() });
    }

    /// Notes it unless `ok`.
    pub fn require(&mut self, ok: bool, field: &str, description: &str) {
        if !ok {
            self.add(field, description);
        }
    }

    /// `Ok` where nothing is wrong.
    pub fn into_result(self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(self.into_error()) }
    }

    fn into_error(self) -> Error {
        let message = self
            .0
            .iter()
            .map(|violation| format!("{}: {}", violation.field, violation.description))
            .collect::<Vec<_>>()
            .join("; ");
        let mut error = Error::new(ErrorReason::InvalidField, message);
        error.fields = self.0;
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_distinct_upper_snake_case() {
        let mut seen = std::collections::HashSet::new();
        for reason in ErrorReason::ALL {
            let text = reason.as_str();
            assert!(seen.insert(text), "{text} stands twice");
            assert!(text.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'), "{text}");
        }
    }

    #[test]
    fn a_reason_is_found_by_its_text() {
        assert!(ErrorReason::ALL.iter().all(|reason| ErrorReason::named(reason.as_str()) == Some(*reason)));
        assert_eq!(ErrorReason::named("NO_SUCH_REASON"), None);
    }

    /// Whatever is not in this list may still be heard, or granted later: the wish stands.
    #[test]
    fn only_a_stated_list_takes_a_wish_back() {
        let refusals = ErrorReason::ALL.iter().filter(|reason| reason.is_refusal());
        assert_eq!(
            refusals.map(|reason| reason.as_str()).collect::<Vec<_>>(),
            [
                "INVALID_FIELD",
                "WORKSPACE_EXISTS",
                "WORKSPACE_DELETED",
                "WRONG_STATE",
                "NOT_IN_GOOD_STANDING",
                "NOT_IN_PLAN",
                "QUOTA_EXCEEDED",
                "NOT_SUPPORTED",
            ]
        );
    }

    #[test]
    fn all_violations_are_told_at_once() {
        let mut violations = Violations::default();
        violations.add("a", "is empty");
        violations.require(false, "b", "is too long");
        violations.require(true, "c", "is fine");
        let error = violations.into_result().unwrap_err();
        assert_eq!(error.fields.len(), 2);
        assert_eq!(error.message, "a: is empty; b: is too long");
    }

    #[test]
    fn an_error_says_its_message_and_keeps_its_cause() {
        let error = Error::internal("the disk is full");
        assert_eq!(error.to_string(), "internal error");
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        assert_eq!(cause.as_deref(), Some("the disk is full"));
    }
}
