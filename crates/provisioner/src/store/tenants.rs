//! What a store keeps of tenants that call it over a network, beside their instances: which of their wishes were refused, and
//! whether they have agreed with the service over this store. A tenant that has the engine in its own process needs none of it.

use std::time::Duration;

use async_trait::async_trait;
use molecule_domain::Timestamp;
use molecule_domain::error::{Error, ErrorReason};
use molecule_domain::id::{IncarnationId, IntentNumber, OrganizationId, WorkspaceId};
use molecule_domain::lifecycle::Desired;

use super::StoreError;
use crate::admission::Change;
use crate::model::InstanceRecord;

/// A store that tenants call over a network.
#[async_trait]
pub trait Tenants: Send + Sync + 'static {
    /// Notes that a wish is refused, so that a call of it that is heard late is refused as well. Where another call of it, or
    /// a later wish, was granted meanwhile, nothing is noted, and the record is returned. Whatever waited to be told of the
    /// workspace up to this wish was heard with it, and with a creation what was asked for after it as well. Kept for a month, for
    /// calls of the same process of the tenant's: another one, whose database may have been put back, may use the number again.
    async fn refuse(
        &self,
        refused: &RefusedWish,
        now: Timestamp,
    ) -> Result<Option<InstanceRecord>, StoreError>;
}

/// Which agreement of a tenant's was heard last: its process counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastAgreement {
    /// The process.
    pub process: IncarnationId,
    /// The process's number for it.
    pub number: i64,
    /// Whether all of it was heard.
    pub ended: bool,
}

/// What a part of an agreement is, after what was heard before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// It begins a new one.
    First,
    /// It goes on with one, or repeats a part of it.
    Next,
    /// It is of one that was heard, or that another has taken the place of: a call that comes late.
    Late,
}

impl LastAgreement {
    /// Judges a part of an agreement of this number. `begins` says whether it is the first part.
    pub fn judge(
        last: Option<Self>,
        process: IncarnationId,
        number: i64,
        begins: bool,
    ) -> Result<Part, Error> {
        match last.filter(|last| last.process == process) {
            Some(last) if number < last.number || number == last.number && last.ended => Ok(Part::Late),
            Some(last) if number == last.number => Ok(Part::Next),
            _ if begins => Ok(Part::First),
            _ => {
                let message = "this agreement was not heard from its beginning; agree anew";
                Err(Error::new(ErrorReason::StoreUnavailable, message))
            }
        }
    }
}

/// A wish whose refusal its tenant has heard, or is about to hear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedWish {
    /// Whose.
    pub organization: OrganizationId,
    /// The workspace, which there may not be.
    pub workspace: WorkspaceId,
    /// The number of the wish.
    pub intent: IntentNumber,
    /// The process that asked for it.
    pub process: Option<IncarnationId>,
    /// Whether it asks for the workspace's first instance.
    pub creates: bool,
    /// Why it is refused.
    pub reason: ErrorReason,
    /// The same for people.
    pub message: String,
}

impl RefusedWish {
    /// The last wish of the workspace's that is heard with the refusal: whose creation is refused takes back what was asked for
    /// after it, and tells nothing of that.
    pub const fn heard(&self) -> IntentNumber {
        if self.creates { IntentNumber(i64::MAX) } else { self.intent }
    }

    /// Refuses a call of what was refused, or of what came before that. `change` is `None` for a first instance.
    pub fn check(&self, intent: IntentNumber, change: Option<&Change>) -> Result<(), Error> {
        if change.is_none_or(Change::launches) && intent <= self.intent {
            return Err(Error::new(self.reason, self.message.clone()));
        }
        Ok(())
    }
}

/// Whether what is wanted of an instance may be launched, as far as its tenant's agreement with the service goes: a start of
/// the service may go by a database that was put back to a backup, and has lost a stop or a deletion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hold {
    /// Its tenant is in this process, or has never met the service.
    #[default]
    None,
    /// Not before its tenant has agreed with this start of the service, which began at this moment, and has told what it has to
    /// say of this workspace.
    Held(Timestamp),
    /// They have agreed. Time counts from then at the earliest.
    Released(Timestamp),
}

impl Hold {
    /// A record whose deadlines count from the agreement at the earliest, or from when a stop waits for that no longer.
    #[must_use]
    pub fn count_from_agreement(self, mut record: InstanceRecord, patience: Duration) -> InstanceRecord {
        let from = match self {
            Self::Released(at) => at,
            Self::Held(began) if record.desired == Desired::Stopped => began + patience,
            Self::Held(_) | Self::None => return record,
        };
        record.phase_since = record.phase_since.max(from);
        record
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_an_agreement_is_heard_once_and_in_its_turn() {
        let process = IncarnationId::generate();
        let last = |number, ended| Some(LastAgreement { process, number, ended });
        for (what, last, number, begins, expected) in [
            ("the first of all", None, 1, true, Some(Part::First)),
            ("its second part, without the first", None, 1, false, None),
            ("its second part", last(1, false), 1, false, Some(Part::Next)),
            ("its first part again", last(1, false), 1, true, Some(Part::Next)),
            ("again, once it is over", last(1, true), 1, true, Some(Part::Late)),
            ("the next one", last(1, false), 2, true, Some(Part::First)),
            ("its second part, without the first", last(1, true), 2, false, None),
            ("an earlier one", last(2, false), 1, true, Some(Part::Late)),
        ] {
            assert_eq!(LastAgreement::judge(last, process, number, begins).ok(), expected, "{what}");
        }
        let another = IncarnationId::generate();
        assert_eq!(LastAgreement::judge(last(5, true), another, 1, true).unwrap(), Part::First);
    }
}
