//! What a request asked for, in the client's own words: what was stored of it is compared with that, whatever the use case
//! made of it.

use std::collections::BTreeMap;

use molecule_domain::Timestamp;
use molecule_domain::id::WorkspaceId;
use molecule_domain::lifecycle::Desired;
use molecule_workspace::Wish;

use crate::client::{Ask, Request, made};
use crate::wished::{Field, Fields, Wished, fields_of};

tokio::task_local! {
    /// The request that is being handled, for the store that it comes to.
    static ASKED: Asked;
}

/// What a request asked for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// The request's own number.
    pub(crate) number: u64,
    ask: Ask,
    /// The fields that are to be set, with their values.
    sets: Fields,
}

/// What was stored for a request.
pub(crate) struct StoredAs<'a> {
    /// What the provider is to be told.
    pub(crate) wish: Option<&'a Wish>,
    /// Every field before.
    pub(crate) before: &'a Fields,
    /// Every field after.
    pub(crate) after: &'a Fields,
    /// What was wanted before.
    pub(crate) desired: Desired,
}

impl Asked {
    /// What a request asks for.
    pub(crate) fn by(request: &Request) -> Self {
        let (spec, private) = made(request.number);
        let mut sets = fields_of(&spec, &private);
        match request.ask {
            Ask::Create => {}
            Ask::Update(field) => sets.retain(|one, _| updated(field).any(|(field, _)| field == *one)),
            Ask::Stop | Ask::Start | Ask::Restart | Ask::Delete => sets.clear(),
        }
        Self { number: request.number, ask: request.ask, sets }
    }

    /// Handles a request, which the store that it comes to can ask for.
    pub(crate) async fn handled<T>(self, handling: impl Future<Output = T>) -> T {
        ASKED.scope(self, handling).await
    }

    /// The request that is being handled; a judgement about an agent is none.
    pub(crate) fn now() -> Option<Self> {
        ASKED.try_with(Clone::clone).ok()
    }

    /// What is wrong with what was stored, where something is.
    pub(crate) fn objection(&self, stored: &StoredAs<'_>) -> Option<String> {
        let StoredAs { wish, before, after, desired } = *stored;
        let mut wanted = before.clone();
        wanted.extend(self.sets.clone());
        if *after != wanted {
            return Some(format!("its fields are {after:?}, and were to be {wanted:?}"));
        }
        let changed: Vec<Field> = self
            .sets
            .iter()
            .filter(|(field, value)| before.get(field) != Some(value))
            .map(|(f, _)| *f)
            .collect();
        let resets = self.number.is_multiple_of(2);
        let is_right = match (self.ask, wish) {
            (Ask::Create, Some(Wish::Provision { run: true }))
            | (Ask::Stop, Some(Wish::Stop(None)))
            | (Ask::Start, Some(Wish::Start))
            | (Ask::Delete, Some(Wish::Delete)) => true,
            (Ask::Restart, Some(Wish::Replace { run: true, reset_session })) => *reset_session == resets,
            // it runs on, or stays stopped, as another instance
            (Ask::Update(_), Some(Wish::Replace { run, reset_session: false })) => {
                *run == (desired == Desired::Running)
            }
            // names and labels are the tenant's own, and what is so already launches nothing
            (Ask::Update(_), None) => changed.iter().all(|field| matches!(field, Field::Name | Field::Label)),
            _ => false,
        };
        (!is_right).then(|| format!("it is stored as {wish:?}, setting {changed:?}"))
    }

    /// Why a request may be accepted of which nothing was stored, where it may. Every use case but one stores whatever is
    /// asked, be it so already, and a repeated request has its number from the first.
    pub(crate) fn was_so(&self, wished: Option<&Wished>, asked_at: Timestamp) -> bool {
        let desired = wished.and_then(|wished| wished.expected().desired);
        let is_created_since = wished.and_then(|wished| wished.again_at).is_some_and(|at| at >= asked_at);
        match self.ask {
            // what is being deleted, is deleted, or was never created, or was so before another was created under its id
            Ask::Delete => is_created_since || desired.is_none_or(|desired| desired == Desired::Deleted),
            _ => false,
        }
    }

    /// The request in a few words.
    pub(crate) fn words(&self, workspace: WorkspaceId) -> String {
        format!("request {} ({:?} of {workspace})", self.number, self.ask)
    }
}

/// What of each request is known to be stored, by its number.
pub(crate) type Stores = BTreeMap<u64, WorkspaceId>;

/// What an update sets, by its number, and the name of each: one field, or another and the tier, of which there are so few that
/// updates ask for the same.
pub(crate) fn updated(number: u64) -> impl Iterator<Item = (Field, &'static str)> {
    const FIELDS: [(Field, &str); 6] = [
        (Field::Name, "name"),
        (Field::Tier, "tier"),
        (Field::Environment, "env"),
        (Field::Label, "labels"),
        (Field::Secret, "secrets"),
        (Field::Config, "config_files"),
    ];
    let has_tier = number.is_multiple_of(4);
    FIELDS
        .into_iter()
        .zip(0..)
        .filter(move |((field, _), at)| *at == number % 6 || has_tier && *field == Field::Tier)
        .map(|(field, _)| field)
}
