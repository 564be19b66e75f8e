//! What clients were promised: every wish as it was stored, what became of it, and what each workspace must be in the
//! end. It learns from what passes through the store and from what clients hear, and never from the rules under test.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use molecule_domain::Timestamp;
use molecule_domain::error::Error;
use molecule_domain::id::{IntentNumber, OrganizationId, WorkspaceId};
use molecule_domain::lifecycle::Desired;
use molecule_workspace::{Entry, Wish};
use tokio::sync::mpsc;

use crate::asked::{Asked, StoredAs, Stores};
use crate::coverage::{Told, WishKind};
use crate::restored::{Base, Sides};
use crate::violation::Violation;
use crate::wished::{SeenWish, Wished, kind_of};
use crate::world::{World, lock};

/// What clients may take for granted once they hear that a request is refused.
const REFUSED_FOR_GOOD: &str = "what was answered as refused is not done later";
/// What they may take for granted once they hear that one is accepted.
const AS_ASKED: &str = "an accepted wish is stored as it was asked";

/// What clients were promised.
#[derive(Debug)]
pub struct Oracle {
    pub(crate) world: Arc<World>,
    /// Where it is told that a tenant has given a workspace up.
    given_up: Mutex<Option<mpsc::UnboundedSender<(OrganizationId, WorkspaceId)>>>,
    pub(crate) all: Mutex<BTreeMap<WorkspaceId, Wished>>,
    /// The requests of which something was stored. What a restore loses was stored all the same.
    stores: Mutex<Stores>,
    /// The calls that are under way now, and the most that ever were.
    calls: Mutex<(usize, usize)>,
}

impl Oracle {
    /// Nothing was promised yet.
    pub fn new(world: Arc<World>) -> Arc<Self> {
        Arc::new(Self {
            world,
            given_up: Mutex::default(),
            all: Mutex::default(),
            stores: Mutex::default(),
            calls: Mutex::default(),
        })
    }

    /// The workspaces that their tenants give up, from now on.
    pub fn given_up(&self) -> mpsc::UnboundedReceiver<(OrganizationId, WorkspaceId)> {
        let (sender, receiver) = mpsc::unbounded_channel();
        *lock(&self.given_up) = Some(sender);
        receiver
    }

    /// All that was wished.
    pub fn wished(&self) -> BTreeMap<WorkspaceId, Wished> {
        lock(&self.all).clone()
    }

    /// Whose a workspace is.
    pub fn owner(&self, workspace: WorkspaceId) -> Option<OrganizationId> {
        lock(&self.all).get(&workspace).map(|wished| wished.organization)
    }

    /// The workspaces of an organisation that may still be there.
    pub fn workspaces(&self, organization: OrganizationId) -> Vec<WorkspaceId> {
        let all = lock(&self.all);
        let mine = all.iter().filter(|(_, wished)| {
            wished.organization == organization
                && wished.expected().desired.is_some_and(|d| d != Desired::Deleted)
        });
        mine.map(|(workspace, _)| *workspace).collect()
    }

    /// The workspaces of an organisation that are being deleted, or were.
    pub fn deleted(&self, organization: OrganizationId) -> Vec<WorkspaceId> {
        let all = lock(&self.all);
        let mine = all.iter().filter(|(_, wished)| {
            wished.organization == organization && wished.expected().desired == Some(Desired::Deleted)
        });
        mine.map(|(workspace, _)| *workspace).collect()
    }

    /// A wish was stored. `last` is the outbox's last entry before it, and whether a call of that was begun.
    pub fn stored(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
        wish: SeenWish,
        last: Option<(WishKind, IntentNumber, bool)>,
    ) {
        self.world.tell(format_args!("tenant {}", short(organization)), 200, || {
            format!(
                "stores wish {} of {workspace}: {} {:?} after {last:?}",
                wish.number,
                wish.wish.as_ref().map_or("-", Wish::name),
                wish.sets.iter().filter(|_| wish.number.0 > 1).collect::<Vec<_>>()
            )
        });
        self.world.coverage().figure("wishes");
        if let (Some(Wish::Stop(Some(_))), Some(given_up)) = (&wish.wish, &*lock(&self.given_up)) {
            // a story has nobody who listens
            let _ = given_up.send((organization, workspace));
        }
        let mut all = lock(&self.all);
        let is_first = !all.contains_key(&workspace);
        let wished = all.entry(workspace).or_insert_with(|| Wished::new(organization));
        if matches!(wish.wish, Some(Wish::Provision { .. })) {
            // its refused predecessor left nothing; this is a new one of the same id
            let (base, again_at) = (wished.base.filter(Base::is_live), (!is_first).then(|| self.world.now()));
            *wished = Wished { base, again_at, ..Wished::new(organization) };
        }
        if let (Some((last, number, begun)), Some(new)) = (last, &wish.wish) {
            let told = match (begun, wished.under_way.contains(&number)) {
                (false, _) => Told::Untold,
                (true, true) => Told::Begun,
                (true, false) => Told::AnswerLost,
            };
            *self.world.coverage().pairs.entry((last, kind_of(new), told)).or_default() += 1;
        }
        wished.wishes.push(wish);
    }

    /// Something was stored for a request: it must be what was asked.
    pub(crate) fn stored_for(&self, workspace: WorkspaceId, asked: &Asked, stored: &StoredAs<'_>) {
        lock(&self.stores).insert(asked.number, workspace);
        if let Some(objection) = asked.objection(stored) {
            let what = format!("{}: {objection}", asked.words(workspace));
            self.world.violated(Violation::new(AS_ASKED, what));
        }
    }

    /// A client hears that its request is granted, or goes on.
    pub(crate) fn heard_accepted(&self, workspace: WorkspaceId, asked: &Asked, asked_at: Timestamp) {
        let is_stored = lock(&self.stores).get(&asked.number) == Some(&workspace);
        if is_stored {
            return;
        }
        if asked.was_so(lock(&self.all).get(&workspace), asked_at) {
            self.world.coverage().figure("deletions of what was being deleted");
        } else {
            let what = format!("{}: nothing is stored of it", asked.words(workspace));
            self.world.violated(Violation::new(AS_ASKED, what));
        }
    }

    /// A tenant's database was set back. What both sides hold in that moment says what must become of each workspace;
    /// numbers begin again, so nothing else from before is compared with what comes.
    pub(crate) fn set_back(&self, organization: OrganizationId, sides: &Sides) {
        let (mut all, now) = (lock(&self.all), self.world.now());
        for workspace in sides.workspaces() {
            all.entry(workspace).or_insert_with(|| Wished::new(organization));
        }
        for (workspace, wished) in all.iter_mut().filter(|(_, wished)| wished.organization == organization) {
            let (base, wishes) = sides.of(*workspace, wished, now);
            let was_deleted = wished.was_deleted || wished.expected().desired == Some(Desired::Deleted);
            *wished = Wished { base: Some(base), wishes, was_deleted, ..Wished::new(organization) };
            wished.suspended_in(sides, *workspace);
            self.world
                .tell("oracle", 300, || format!("holds of {workspace}: {base:?}, and {:?}", wished.wishes));
        }
    }

    /// The control plane's database was set back. Of an organisation whose own was set back before that, and has not agreed
    /// since, and of what it does not know, nobody has what is lost now.
    pub(crate) fn control_set_back(&self, organization: OrganizationId, sides: &Sides) {
        let (mut all, now) = (lock(&self.all), self.world.now());
        for (workspace, wished) in all.iter_mut().filter(|(_, wished)| wished.organization == organization) {
            wished.suspended_in(sides, *workspace);
            let Some(before) = wished.base else { continue };
            if before.has_agreed && sides.tenant_knows_all(*workspace) {
                continue;
            }
            let (base, waiting) = sides.of(*workspace, wished, now);
            wished.base = Some(base);
            for wish in waiting.into_iter().rev() {
                if wished.wishes.iter().all(|known| known.number != wish.number) {
                    wished.wishes.insert(0, wish);
                }
            }
            self.world
                .tell("oracle", 301, || format!("holds of {workspace}: {base:?}, and {:?}", wished.wishes));
        }
    }

    /// The two sides have agreed; the wishes of a workspace that waited have new numbers, each beside its old one.
    pub(crate) fn agreed(
        &self,
        organization: OrganizationId,
        renumbered: &BTreeMap<WorkspaceId, Vec<(IntentNumber, IntentNumber)>>,
    ) {
        let mut all = lock(&self.all);
        for (workspace, wished) in all.iter_mut().filter(|(_, wished)| wished.organization == organization) {
            if let Some(base) = &mut wished.base {
                base.has_agreed = true;
            }
            let Some(numbers) = renumbered.get(workspace) else { continue };
            for wish in &mut wished.wishes {
                // what was composed into an entry has its number
                if let Some((_, new)) = numbers.iter().find(|(old, _)| wish.number <= *old) {
                    wish.number = *new;
                }
            }
        }
    }

    /// A call for an entry was begun.
    pub fn begun(&self, workspace: WorkspaceId, entry: &Entry) {
        if let Some(wished) = lock(&self.all).get_mut(&workspace) {
            let launches = matches!(entry.wish, Wish::Provision { .. } | Wish::Replace { .. });
            wished.begun.insert(entry.number, launches.then_some(entry.spec.tier));
        }
    }

    /// A call is under way, or no longer.
    pub fn under_way(&self, workspace: WorkspaceId, number: IntentNumber, is: bool) {
        let (now, most) = &mut *lock(&self.calls);
        *now = if is { *now + 1 } else { now.saturating_sub(1) };
        *most = (*most).max(*now);
        if let Some(wished) = lock(&self.all).get_mut(&workspace) {
            if is {
                wished.under_way.insert(number);
            } else {
                wished.under_way.remove(&number);
            }
        }
    }

    /// The most calls of all tenants together that were under way at once.
    pub fn most_under_way(&self) -> usize {
        lock(&self.calls).1
    }

    /// The provider's answer to an entry was a refusal.
    pub fn provider_refused(&self, workspace: WorkspaceId, number: IntentNumber) {
        if let Some(wished) = lock(&self.all).get_mut(&workspace) {
            wished.refusals.insert(number);
        }
    }

    /// The tenant took an entry back, with every wish that was composed into it.
    pub fn taken_back(&self, workspace: WorkspaceId, entry: &Entry) {
        let number = entry.number;
        self.world.coverage().figure("wishes taken back");
        if matches!(entry.wish, Wish::Stop(_) | Wish::Delete) {
            let what = format!("wish {number} of {workspace}: {:?}", entry.wish);
            return self.world.violated(Violation::new("a stop and a deletion are never taken back", what));
        }
        let mut all = lock(&self.all);
        let Some(wished) = all.get_mut(&workspace) else { return };
        if !wished.refusals.contains(&number) {
            let what = format!("wish {number} of {workspace} was taken back, and nobody refused it");
            drop(all);
            self.world.violated(Violation::new("only a refusal takes a wish back", what));
            return;
        }
        let creates = |wish: &SeenWish| matches!(wish.wish, Some(Wish::Provision { .. }));
        if wished.told_as(number).any(|wish| creates(wish)) {
            // of what was not created nothing is left that later wishes could be about
            wished.wishes.iter_mut().for_each(|wish| wish.refused = true);
            if let Some(base) = wished.base.as_mut().filter(|base| base.is_live()) {
                base.desired = None;
            }
        }
        // a stop, and a deletion, stand whatever they were composed with
        let stands = |wish: &SeenWish| matches!(wish.wish, Some(Wish::Stop(_) | Wish::Delete));
        for wish in wished.told_as(number).filter(|wish| !stands(wish)) {
            wish.refused = true;
        }
    }

    /// The engine has granted a change.
    pub fn granted(&self, workspace: WorkspaceId, number: IntentNumber, desired: Desired) {
        let mut all = lock(&self.all);
        let Some(wished) = all.get_mut(&workspace) else { return };
        if desired == Desired::Running && wished.suspension.is_some() {
            self.world.coverage().figure("started again after a suspension");
        }
        wished.granted_after_suspension(number, desired);
        if !wished.begun.contains_key(&number)
            && wished.base.as_mut().is_some_and(|base| base.hears(number, desired))
        {
            self.world.coverage().figure("calls from before a restore granted after it");
            return;
        }
        wished.granted.insert(number, desired);
        let is_refused = wished.told_as(number).any(|wish| wish.refused);
        drop(all);
        if is_refused {
            let what =
                format!("wish {number} of {workspace} was refused, and is granted to another call of it");
            self.world.violated(Violation::new(REFUSED_FOR_GOOD, what));
        }
    }

    /// Whether the provider's answer to an entry was a refusal.
    pub(crate) fn is_refused(&self, workspace: WorkspaceId, number: IntentNumber) -> bool {
        lock(&self.all).get(&workspace).is_some_and(|wished| wished.refusals.contains(&number))
    }

    /// Whether the engine has granted a change.
    pub(crate) fn has_granted(&self, workspace: WorkspaceId, number: IntentNumber) -> bool {
        lock(&self.all).get(&workspace).is_some_and(|wished| wished.granted.contains_key(&number))
    }

    /// The engine launches a workspace as it was wanted under a number.
    pub(crate) fn launches(&self, workspace: WorkspaceId, number: IntentNumber) {
        let later = lock(&self.all).get(&workspace).and_then(|wished| {
            let last = wished.granted.last_key_value().map(|(last, desired)| (*last, *desired));
            last.filter(|(last, desired)| *last > number && *desired != Desired::Running)
        });
        if let Some((last, desired)) = later {
            let what =
                format!("{workspace} is launched for wish {number}; wish {last} was granted: {desired:?}");
            self.world.violated(Violation::new(
                "what was stopped or deleted is not launched after a restore",
                what,
            ));
        }
    }

    /// A client hears that nothing is stored of its request.
    pub fn heard_nothing_is_stored(
        &self,
        workspace: WorkspaceId,
        creates: bool,
        request: Option<&str>,
        error: &Error,
    ) {
        let mut broken = None;
        {
            let mut all = lock(&self.all);
            let Some(wished) = all.get_mut(&workspace) else { return };
            let mine = wished
                .wishes
                .iter()
                .rev()
                .find(|wish| request.is_some() && wish.request.as_deref() == request);
            // one that asks for nothing that does not wait already shares the answer of what waits
            let shares = |wish: &SeenWish| {
                let asks_nothing = wish.wish.is_none() && wish.sets.is_empty();
                asks_nothing && wished.refusals.range(..wish.number).next_back().is_some()
            };
            if let Some(wish) = mine.filter(|wish| !wish.refused && !shares(wish)) {
                broken = Some(format!("wish {} of {workspace} ({:?}): {error}", wish.number, wish.wish));
            }
            if creates && mine.is_some_and(|wish| wish.refused) {
                wished.denied = true;
            }
        }
        if let Some(what) = broken {
            self.world.violated(Violation::new("what a client hears of its wish is true", what));
        }
    }

    /// The control plane has admitted a workspace that it did not have.
    pub fn admitted(&self, workspace: WorkspaceId, number: IntentNumber, desired: Desired) {
        let mut all = lock(&self.all);
        let Some(wished) = all.get_mut(&workspace) else { return };
        if wished.denied {
            let what = format!("{workspace} was not created, as its client was told, and is admitted now");
            drop(all);
            return self.world.violated(Violation::new(REFUSED_FOR_GOOD, what));
        }
        wished.granted_after_suspension(number, desired);
        if !wished.begun.contains_key(&number)
            && wished.base.as_mut().is_some_and(|base| base.hears(number, desired))
        {
            self.world.coverage().figure("calls from before a restore granted after it");
        }
    }
}

/// The last digits of an id, for stories.
pub fn short(organization: OrganizationId) -> u64 {
    organization.as_uuid().as_u64_pair().1
}
