//! How a tenant and its provider agree again after either was put back to an earlier state, or after a wish was told
//! whose answer was lost. Of two wishes for one workspace the one with the higher number wins, whichever side holds it.
//! What either side knows as deleted is never launched again by the other. What the provider has and the tenant doesn't
//! know is taken back as it is, and nothing touches it until a person says so.

mod meetings;
mod settle;
mod verdict;

use molecule_domain::id::{Generation, IncarnationId, IntentNumber, Revision, WorkspaceId};
use molecule_domain::incarnation::Standpoint;
use molecule_domain::instance::InstanceView;

use crate::aggregate::{SealedToken, SideEffects, Workspace};
use crate::private::SealedParts;
use crate::wish::Wish;

pub use self::meetings::{Meetings, Met};
pub use self::verdict::Verdict;

/// What came of an agreement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agreed {
    /// Whether the tenant's database was put back to an earlier state.
    pub set_back: bool,
    /// Workspaces of which the provider is told again what it had lost.
    pub told_again: Vec<WorkspaceId>,
    /// Workspaces whose later wishes the provider knew.
    pub adopted: Vec<WorkspaceId>,
    /// Workspaces that the tenant didn't know, or of whose agents it doesn't.
    pub recovered: Vec<WorkspaceId>,
    /// Wishes that give way to later ones of which the provider had heard.
    pub taken_back: Vec<(WorkspaceId, IntentNumber)>,
    /// Workspaces of which wishes wait to be told, each with the number of the last, or of the first deletion: once that is
    /// heard nothing more need be told. Also those that the provider has lost.
    pub waiting: Vec<(WorkspaceId, IntentNumber)>,
}

impl Agreed {
    /// Counts what was agreed about a workspace.
    pub fn add(&mut self, workspace: &Workspace, verdict: Verdict, effects: &SideEffects) {
        let record = &workspace.record;
        let delete = workspace.outbox.iter().find(|entry| entry.wish == Wish::Delete);
        if let Some(last) = delete.or(workspace.outbox.last()) {
            self.waiting.push((record.workspace, last.number));
        }
        self.taken_back.extend(effects.taken_back.iter().map(|number| (record.workspace, *number)));
        match verdict {
            Verdict::TellAgain | Verdict::DeleteAgain => self.told_again.push(record.workspace),
            Verdict::Adopt | Verdict::Deleted => self.adopted.push(record.workspace),
            Verdict::Same | Verdict::TakeBack => {}
        }
        if record.is_recovered() {
            self.recovered.push(record.workspace);
        }
    }
}

/// Makes what a key is needed for.
pub trait Minter: Send + Sync {
    /// A new bootstrap token for a generation.
    fn mint(&self, workspace: WorkspaceId, generation: Generation) -> SealedToken;
    /// No config files and no secrets, sealed.
    fn no_private_parts(&self, workspace: WorkspaceId) -> SealedParts;
}

/// What is known beside a workspace and its instance when the two sides agree.
#[derive(Clone, Copy)]
pub struct Terms<'a> {
    /// What this database holds of its own starts.
    pub meetings: &'a Meetings,
    /// This database's highest revision.
    pub revision: Revision,
    /// What the provider had seen of this tenant.
    pub seen: &'a [Standpoint],
    /// Whether this tenant's database was put back to an earlier state.
    pub set_back: bool,
    /// The start that speaks.
    pub own: IncarnationId,
    /// Makes tokens.
    pub minter: &'a dyn Minter,
}

/// What a tenant's database holds of the agents of a workspace that the provider has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KnownAgents {
    /// Whether it made the credential of the generation that runs, or that may still ask for one.
    pub running: bool,
    /// Whether it made the bootstrap token of the generation that is wanted.
    pub wanted: bool,
}

impl KnownAgents {
    /// By the generations of which the database has a bootstrap token, each with whether it has made a credential for it.
    /// A token that seems unused may have been redeemed in the time that is lost, but where its generation was never launched.
    pub fn of(instance: &InstanceView, held: &[(Generation, bool)]) -> Self {
        Self {
            running: held
                .iter()
                .any(|(known, redeemed)| *known == instance.generation && (*redeemed || !instance.launched)),
            wanted: held.iter().any(|(known, _)| *known == instance.wanted_generation),
        }
    }

    /// The generation of whose agent nothing is known.
    pub(super) const fn lost(self, instance: &InstanceView) -> Option<Generation> {
        if !self.wanted {
            Some(instance.wanted_generation)
        } else if !self.running {
            Some(instance.generation)
        } else {
            None
        }
    }
}
