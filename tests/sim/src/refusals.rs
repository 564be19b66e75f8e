//! Which answers take a wish back, written down for the simulation by itself. An answer that is none of these leaves the wish
//! waiting: it may have been heard, or be granted later.

use molecule_domain::error::ErrorReason;

/// Whether the control plane has decided, so that asking again can't help.
pub(crate) const fn is_refusal(reason: ErrorReason) -> bool {
    // Whatever else is answered says nothing of the wish: of what is not found, the control plane may have lost what it had
    // granted; a token that is being rotated comes to be known; a tenant that is served twice is one again soon.
    matches!(
        reason,
        // more than the organisation may use, or something that it may not have
        ErrorReason::QuotaExceeded
            | ErrorReason::NotInGoodStanding
            | ErrorReason::NotInPlan
            // what the workspace is, and what was asked, do not go together, and will not
            | ErrorReason::WrongState
            | ErrorReason::WorkspaceDeleted
            | ErrorReason::WorkspaceExists
            | ErrorReason::InvalidField
            | ErrorReason::NotSupported
    )
}
