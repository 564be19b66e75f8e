//! What a client wants of the provider, and the entry of the outbox that carries it there.

use molecule_domain::Timestamp;
use molecule_domain::id::{Generation, GroupId, IncarnationId, IntentNumber};
use molecule_domain::instance::InstanceView;
use molecule_domain::lifecycle::{Desired, Reason};
use molecule_domain::spec::WorkspaceSpec;
use serde::{Deserialize, Serialize};

use crate::undo::Undo;

/// What the provider is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wish {
    /// A first instance; `run` is false where it was stopped before the provider was told.
    Provision {
        /// Whether it is to run.
        run: bool,
    },
    /// Let it run: the same generation on the same disk.
    Start,
    /// Stop it and keep its disk; with a cause it has FAILED for that.
    Stop(Option<(Reason, String)>),
    /// A new generation.
    Replace {
        /// Whether it is to run.
        run: bool,
        /// Whether its session is discarded.
        reset_session: bool,
    },
    /// Take it away with all it holds.
    Delete,
}

impl Wish {
    /// What is wanted once it is granted.
    pub const fn desired(&self) -> Desired {
        match self {
            Self::Provision { run: true } | Self::Start | Self::Replace { run: true, .. } => Desired::Running,
            Self::Provision { run: false } | Self::Stop(_) | Self::Replace { run: false, .. } => {
                Desired::Stopped
            }
            Self::Delete => Desired::Deleted,
        }
    }

    /// Whether a refusal of the provider's takes it back. Stop and Delete stand until they are done.
    pub const fn may_be_refused(&self) -> bool {
        !matches!(self, Self::Stop(_) | Self::Delete)
    }

    /// Whether it brings a generation of its own, with a bootstrap token.
    pub const fn launches(&self) -> bool {
        matches!(self, Self::Provision { .. } | Self::Replace { .. })
    }

    /// Its name, for events, logs and tables.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Provision { .. } => "provision",
            Self::Start => "start",
            Self::Stop(_) => "stop",
            Self::Replace { .. } => "replace",
            Self::Delete => "delete",
        }
    }
}

/// A wish on its way to the provider. All that a call for it needs is here: a repeated call asks for the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its number: with the workspace's id the key that makes the call repeatable.
    pub number: IntentNumber,
    /// What is asked for.
    pub wish: Wish,
    /// The generation that it brings, or that it is about.
    pub generation: Generation,
    /// The spec to launch, where it brings a generation.
    pub spec: WorkspaceSpec,
    /// The bootstrap token of that generation, sealed.
    #[serde(skip)]
    pub sealed_token: Vec<u8>,
    /// Wishes of one group may be told as one.
    pub group: Option<GroupId>,
    /// When it was asked for.
    pub asked_at: Timestamp,
    /// The start of the tenant in which it was asked for.
    pub asked_in: IncarnationId,
    /// The trace that it belongs to; empty where nothing is traced.
    pub trace: String,
    /// The request ids that asked for it: forgotten if it is refused.
    pub requests: Vec<String>,
    /// What a refusal goes back to.
    pub undo: Undo,
    /// Whether it tells again what the provider had granted, and lost. No refusal takes that back.
    pub retold: bool,
    /// Whether a call of it was, or may have been, begun. A store that was opened anew takes that for granted.
    #[serde(skip)]
    pub begun: bool,
}

impl Entry {
    /// Whether a refusal of the provider's takes it back.
    pub const fn may_be_refused(&self) -> bool {
        !self.retold && self.wish.may_be_refused()
    }

    /// By which number the answer to a request is waited for, where the request asked for this wish. A stop that the wish was composed
    /// of has its own: if the wish is refused, the stop stands.
    pub fn awaited_by(&self, request: &str) -> Option<IntentNumber> {
        let asks = |requests: &[String]| requests.iter().any(|known| known == request);
        let stop = self.undo.stops.last().filter(|_| asks(&self.undo.stop_requests));
        asks(&self.requests).then(|| stop.copied().unwrap_or(self.number))
    }

    /// Whether what the provider has shows that another wish was told under this one's number, as by a process over a copy of
    /// this database: the provider took this one for a repeated call of that. That it does not run proves nothing, since an
    /// instance that was granted may have been given up, or its organisation be suspended.
    pub fn is_contradicted_by(&self, instance: &InstanceView) -> bool {
        let ends = instance.is_ending();
        self.number == instance.intent
            && match self.wish {
                Wish::Provision { .. } | Wish::Start => false,
                Wish::Stop(_) => !ends && instance.desired == Some(Desired::Running),
                Wish::Replace { .. } => !ends && instance.wanted_generation != self.generation,
                Wish::Delete => !ends && instance.desired.is_some(),
            }
    }

    /// Whether the provider's answer shows that it took this wish for one that it was told before. It has done later ones, as where
    /// another process told them over a copy of this database; or what is created again is there after all, as an earlier call was
    /// heard late or another backup was put back. A deletion is final whoever asked for it.
    pub fn is_taken_for_another(&self, instance: &InstanceView) -> bool {
        let knows_more =
            instance.intent > self.number && !(self.wish == Wish::Delete && instance.is_ending());
        let creates_again = self.retold && matches!(self.wish, Wish::Provision { .. });
        knows_more || creates_again && instance.intent < self.number || self.is_contradicted_by(instance)
    }
}
