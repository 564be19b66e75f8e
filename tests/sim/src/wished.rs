//! What was wished of one workspace, and what follows from it.

use std::collections::{BTreeMap, BTreeSet};

use molecule_domain::Timestamp;
use molecule_domain::id::{IntentNumber, OrganizationId};
use molecule_domain::lifecycle::Desired;
use molecule_domain::spec::{CONFIG_FILE, PrivateParts, WorkspaceSpec};
use molecule_domain::tier::Tier;
use molecule_workspace::Wish;

use crate::coverage::WishKind;
use crate::restored::Base;
use crate::suspension::Suspension;

/// The variable whose value says which update set it.
pub const MARK: &str = "MARK";

/// What an update may set, each on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // as in the spec
pub enum Field {
    Name,
    Tier,
    Environment,
    Label,
    Secret,
    Config,
}

/// Every field with its value, as text.
pub type Fields = BTreeMap<Field, String>;

/// A spec and private parts as fields.
pub fn fields_of(spec: &WorkspaceSpec, private: &PrivateParts) -> Fields {
    let text = |found: Option<&String>| found.cloned().unwrap_or_default();
    let config = private.config_files.get(CONFIG_FILE);
    BTreeMap::from([
        (Field::Name, spec.name.clone()),
        (Field::Tier, spec.tier.to_string()),
        (Field::Environment, text(spec.env.get(MARK))),
        (Field::Label, text(spec.labels.get("mark"))),
        (Field::Secret, text(private.secrets.get(MARK))),
        (Field::Config, config.map_or_else(String::new, |file| String::from_utf8_lossy(file).into_owned())),
    ])
}

/// A wish as it was stored.
#[derive(Clone, Debug)]
pub struct SeenWish {
    /// The number of the change.
    pub number: IntentNumber,
    /// What it asks of the provider; `None` where the provider need not know.
    pub wish: Option<Wish>,
    /// The fields that it sets.
    pub sets: Fields,
    /// The client's key.
    pub request: Option<String>,
    /// When it was stored, by the true clock.
    pub at: Timestamp,
    /// Whether the provider refused it.
    pub refused: bool,
}

/// The kind of a wish.
pub const fn kind_of(wish: &Wish) -> WishKind {
    match wish {
        Wish::Provision { .. } => WishKind::Provision,
        Wish::Start => WishKind::Start,
        Wish::Stop(None) => WishKind::Stop,
        Wish::Stop(Some(_)) => WishKind::StopWithCause,
        Wish::Replace { .. } => WishKind::Replace,
        Wish::Delete => WishKind::Delete,
    }
}

/// All that was wished of one workspace.
#[derive(Clone, Debug)]
pub struct Wished {
    /// Whose it is.
    pub organization: OrganizationId,
    /// In the order in which they were stored.
    pub wishes: Vec<SeenWish>,
    /// The numbers of which a call was begun, with the tier that it carries where it launches something.
    pub(crate) begun: BTreeMap<IntentNumber, Option<Tier>>,
    /// The numbers of which a call is under way.
    pub(crate) under_way: BTreeSet<IntentNumber>,
    /// The refusals that the provider gave, by number.
    pub(crate) refusals: BTreeSet<IntentNumber>,
    /// The numbers of the changes that the engine has granted, and what was wanted then.
    pub(crate) granted: BTreeMap<IntentNumber, Desired>,
    /// What holds from before its tenant's database was set back, where it was.
    pub(crate) base: Option<Base>,
    /// The suspension that has stopped it since the last grant, where one has.
    pub(crate) suspension: Option<Suspension>,
    /// Whether its creation was answered as not stored.
    pub denied: bool,
    /// When it was created under the id of one whose creation was refused.
    pub(crate) again_at: Option<Timestamp>,
    /// The number that the control plane was put back to, where that lost a suspension of which the tenant may hear yet.
    pub(crate) unheard_suspension: Option<IntentNumber>,
    /// Whether it was to be deleted, and its data to go, before its tenant's database was set back to a time without that.
    pub(crate) was_deleted: bool,
}

/// What a workspace must be.
#[derive(Clone, Debug, PartialEq)]
pub struct Expected {
    /// What is wanted; `None` where nothing ever was.
    pub desired: Option<Desired>,
    /// Why it must have failed, where its tenant said so.
    pub failed_for: Option<molecule_domain::lifecycle::Reason>,
    /// The suspension that has stopped it, where one has.
    pub(crate) suspension: Option<Suspension>,
    /// Every field.
    pub fields: Fields,
    /// Since when.
    pub since: Timestamp,
}

impl Wished {
    /// The wishes that an entry of this number tells: those since the last one of which a call was begun.
    pub(crate) fn told_as(&mut self, number: IntentNumber) -> impl Iterator<Item = &mut SeenWish> {
        let before = self.begun.range(..number).next_back().map(|(before, _)| *before).unwrap_or_default();
        let told = self.wishes.iter_mut();
        told.filter(move |wish| wish.number > before && wish.number <= number && wish.wish.is_some())
    }

    /// Nothing was wished of it yet.
    pub(crate) const fn new(organization: OrganizationId) -> Self {
        Self {
            organization,
            wishes: Vec::new(),
            begun: BTreeMap::new(),
            under_way: BTreeSet::new(),
            refusals: BTreeSet::new(),
            granted: BTreeMap::new(),
            base: None,
            suspension: None,
            denied: false,
            again_at: None,
            unheard_suspension: None,
            was_deleted: false,
        }
    }

    /// Whether its tenant's database was set back.
    pub const fn was_set_back(&self) -> bool {
        self.base.is_some()
    }

    /// What follows from all that was wished and not refused.
    pub fn expected(&self) -> Expected {
        let mut expected = Expected {
            desired: None,
            failed_for: None,
            suspension: None,
            fields: Fields::new(),
            since: Timestamp::default(),
        };
        if let Some(base) = self.base {
            expected.desired = base.desired;
            expected.failed_for = base.failed_for;
            expected.since = base.since;
        }
        for wish in self.wishes.iter().filter(|wish| !wish.refused) {
            self.add(wish, &mut expected);
        }
        if expected.desired.is_some_and(|desired| desired != Desired::Deleted) && self.suspension.is_some() {
            (expected.desired, expected.suspension) = (Some(Desired::Stopped), self.suspension);
        }
        if self.base.is_some_and(|base| base.desired == Some(Desired::Deleted)) {
            expected.desired = Some(Desired::Deleted);
        }
        if self.base.is_none() && self.wishes.first().is_none_or(|first| first.refused) {
            expected.desired = None;
        }
        expected
    }

    /// What follows from one more wish.
    fn add(&self, wish: &SeenWish, expected: &mut Expected) {
        expected.fields.extend(wish.sets.clone());
        let Some(asked) = &wish.wish else { return };
        if self.base.is_some_and(|base| base.has_agreed && wish.number <= base.intent) {
            // what the engine had granted before the restore is newer, and with this one its fields give way
            wish.sets.keys().for_each(|field| drop(expected.fields.remove(field)));
            return;
        }
        expected.desired = Some(asked.desired());
        expected.failed_for = match asked {
            Wish::Stop(Some((reason, _))) => Some(*reason),
            Wish::Stop(None) => expected.failed_for,
            _ => None,
        };
        expected.since = wish.at;
    }
}
