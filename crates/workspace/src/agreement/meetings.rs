//! What the two sides say of themselves when they meet, and how a database that was put back shows itself.

use std::collections::BTreeMap;

use molecule_domain::id::{IncarnationId, Revision};
use molecule_domain::incarnation::{Incarnation, Standpoint, is_behind};

/// What a provider says when a process of a tenant's meets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Met {
    /// Where the provider's database stands.
    pub provider: Standpoint,
    /// What the provider had seen of this tenant before, newest first.
    pub seen: Vec<Standpoint>,
    /// Whether the provider holds an agreement of this tenant's with the start that speaks: it launches nothing before.
    pub agreed: bool,
}

/// What a tenant's database holds of its own starts, and of its meetings with the provider.
#[derive(Clone, Debug, Default)]
pub struct Meetings {
    /// Its starts, in the order in which they began; the last one is the one that speaks.
    pub held: Vec<Incarnation>,
    /// What the provider had seen of this tenant when they last agreed: no reason any more to think of a restore.
    pub acknowledged: BTreeMap<IncarnationId, Revision>,
    /// The start in which they last agreed.
    pub agreed_in: Option<IncarnationId>,
    /// The provider's start with which they agreed.
    pub provider: Option<IncarnationId>,
}

impl Meetings {
    /// Whether this database, whose highest revision is `current`, is behind what the provider has seen of it.
    pub fn is_set_back(&self, current: Revision, seen: &[Standpoint]) -> bool {
        self.lost_until(current, seen).is_some()
    }

    /// The highest revision that the provider has seen of what this database has lost, where that is news.
    pub fn lost_until(&self, current: Revision, seen: &[Standpoint]) -> Option<Revision> {
        let is_known = |one: &&Standpoint| {
            self.acknowledged.get(&one.incarnation).is_some_and(|revision| *revision >= one.revision)
        };
        let news = seen.iter().filter(|one| !is_known(one));
        news.filter(|one| is_behind(&self.held, current, one)).map(|one| one.revision).max()
    }

    /// Notes what the provider had seen when the two agreed. The most counts: a provider that was put back itself has
    /// seen less, and may come to see more again than it says now.
    pub fn acknowledge(&mut self, seen: &[Standpoint]) {
        for one in seen {
            let known = self.acknowledged.entry(one.incarnation).or_insert(one.revision);
            *known = one.revision.max(*known);
        }
    }

    /// Whether no wish of a start was ever told: it began after the one in which the two last agreed. One that met the
    /// provider, and ended before they had agreed, told none; of one that the provider has `seen` to go on for longer than
    /// this database, whose highest revision is `current`, nobody knows.
    pub fn has_told_nothing(&self, start: IncarnationId, current: Revision, seen: &[Standpoint]) -> bool {
        let place = |id| self.held.iter().position(|held| held.id == id);
        let agreed = self.agreed_in.map(place);
        let went_on = |one: &Standpoint| one.incarnation == start && is_behind(&self.held, current, one);
        // where the start in which they agreed is not kept any more, nobody knows
        let is_later = |place| agreed.is_none_or(|agreed| agreed.is_some_and(|agreed| place > agreed));
        place(start).is_some_and(is_later) && !seen.iter().any(went_on)
    }

    /// Whether the two have to agree before anything is told.
    pub fn must_agree(&self, current: Revision, met: &Met) -> bool {
        self.agreed_in != self.held.last().map(|own| own.id)
            || self.provider != Some(met.provider.incarnation)
            || !met.agreed
            || self.is_set_back(current, &met.seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restore_is_told_by_what_the_provider_has_seen() {
        let id = |milli: u64| {
            let uuid = format!("{:08x}-{:04x}-7000-8000-000000000000", milli >> 16, milli & 0xffff);
            uuid.parse::<IncarnationId>().unwrap()
        };
        let standpoint =
            |milli, revision| Standpoint { incarnation: id(milli), revision: Revision(revision) };
        let held = |begins: &[(u64, i64)]| {
            let one = |(milli, begins_at): &(u64, i64)| Incarnation {
                id: id(*milli),
                begins_at: Revision(*begins_at),
            };
            begins.iter().map(one).collect::<Vec<_>>()
        };
        // start 1 agreed; a backup was taken at revision 10; start 1 went on to 20, start 2 to 30; then start 3 began
        let mut meetings = Meetings {
            held: held(&[(1, 0), (3, 10)]),
            agreed_in: Some(id(1)),
            provider: Some(id(100)),
            ..Meetings::default()
        };
        let seen = [standpoint(2, 30), standpoint(1, 20)];
        assert!(meetings.is_set_back(Revision(12), &seen));
        let told_nothing = |meetings: &Meetings| {
            let seen = [standpoint(3, 12), standpoint(2, 30)];
            [1, 2, 3, 4].map(|start| meetings.has_told_nothing(id(start), Revision(12), &seen))
        };
        assert_eq!(told_nothing(&meetings), [false, false, true, false]);
        // start 3 met the provider and ended before they agreed: its wishes are still to be told
        meetings.held = held(&[(1, 0), (3, 10), (4, 12)]);
        let seen = [standpoint(3, 12), standpoint(2, 30), standpoint(1, 20)];
        assert_eq!(told_nothing(&meetings), [false, false, true, true]);
        // start 3 went on after the backup: it may have agreed since, and told what waits here
        assert!(!meetings.has_told_nothing(id(3), Revision(12), &[standpoint(3, 13)]));
        // nor is anything known where the start in which they agreed is not kept any more
        let forgotten = Meetings { agreed_in: Some(id(8)), ..meetings.clone() };
        assert_eq!(told_nothing(&forgotten), [false; 4]);
        // a clock that went back says nothing: the order in which they began does
        meetings.held = held(&[(9, 0), (3, 10), (4, 12)]);
        meetings.agreed_in = Some(id(9));
        assert_eq!(told_nothing(&meetings), [false, false, true, true]);
        meetings.held = held(&[(1, 0), (3, 10), (4, 12)]);
        meetings.agreed_in = Some(id(1));
        assert!(meetings.is_set_back(Revision(12), &seen));
        // once they have agreed it is no news any more
        meetings.acknowledge(&seen);
        meetings.agreed_in = Some(id(4));
        let met = Met { provider: standpoint(100, 50), seen: seen.to_vec(), agreed: true };
        assert!(!meetings.must_agree(Revision(12), &met));
        let unsaid = Met { agreed: false, ..met.clone() };
        assert!(meetings.must_agree(Revision(12), &unsaid), "the provider has not heard of it");
        let other = Met { provider: standpoint(101, 50), ..met.clone() };
        assert!(meetings.must_agree(Revision(12), &other), "another start of the provider");
        let further = Met { seen: vec![standpoint(1, 21)], ..met };
        assert!(meetings.must_agree(Revision(12), &further), "it went on after all");
    }
}
