//! How a restored database shows itself. Each start of a service appends a random id, its incarnation, to the service's
//! own database, with the revision at which it begins. The other side remembers which incarnation it last saw, and at
//! which revision: a database that doesn't hold that was put back to an earlier state.

use std::time::Duration;

use crate::Timestamp;
use crate::error::{Error, ErrorReason};
use crate::id::{IncarnationId, Revision};

/// One start of a service, as its database holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incarnation {
    /// Its id.
    pub id: IncarnationId,
    /// The highest revision that was given out before it.
    pub begins_at: Revision,
}

/// Where a service's database stands, as the service says it or as the other side last heard it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standpoint {
    /// The start that speaks.
    pub incarnation: IncarnationId,
    /// The highest revision that was given out.
    pub revision: Revision,
}

/// Whether a database is behind what the other side has seen of it. `held` are its incarnations in the order in which
/// they began; the revision at which one begins ends the one before. `current` is its highest revision now.
pub fn is_behind(held: &[Incarnation], current: Revision, seen: &Standpoint) -> bool {
    let Some(place) = held.iter().position(|one| one.id == seen.incarnation) else { return true };
    let end = held.get(place + 1).map_or(current, |next| next.begins_at);
    seen.revision > end
}

/// Which process of a tenant the control plane serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The process.
    pub incarnation: IncarnationId,
    /// Where an operator finds it.
    pub address: String,
    /// Until when it counts as living if nothing is heard of it.
    pub until: Timestamp,
    /// When its last stream ended: it may have gone, or be about to open another.
    pub left_at: Option<Timestamp>,
    /// The highest revision that was seen of it.
    pub seen: Revision,
}

/// What the starts before the last one were when they ended, newest first: the last few, and the last few that stored anything,
/// which any number of starts that came to nothing must not push out; [`MAX_PREDECESSORS`] at most. `held` are a database's starts
/// in the order in which they began.
pub fn predecessors(held: &[Incarnation]) -> Vec<Standpoint> {
    let ended = held.windows(2).rev();
    let (mut named, mut stored) = (0, 0);
    let chosen = ended.filter(|two| {
        let has_stored = two[1].begins_at > two[0].begins_at;
        let is_chosen = named < PREDECESSORS || has_stored && stored < PREDECESSORS;
        named += 1;
        stored += usize::from(has_stored);
        is_chosen
    });
    chosen.map(|two| Standpoint { incarnation: two[0].id, revision: two[1].begins_at }).collect()
}

/// How many predecessors of either kind a process names.
const PREDECESSORS: usize = 10;

/// The most predecessors that a process names.
pub const MAX_PREDECESSORS: usize = 2 * PREDECESSORS;

/// Refuses more predecessors than a process names.
pub fn check_predecessors(named: usize) -> Result<(), Error> {
    if named > MAX_PREDECESSORS {
        return Err(Error::field("predecessors", format!("must have at most {MAX_PREDECESSORS} entries")));
    }
    Ok(())
}

/// How long a process whose stream has ended, as where a proxy was restarted, has to open another before a successor is served.
pub const RETURN: Duration = Duration::from_secs(3);

/// Refuses a process of a tenant while another one is served: two of them work over copies of one database. One that names
/// what is served as its predecessor, with all that was seen of it, goes on with its database, and waits for [`RETURN`] alone.
pub fn check_session(
    served: Option<&Session>,
    incarnation: IncarnationId,
    predecessors: &[Standpoint],
    address: &str,
    now: Timestamp,
) -> Result<(), Error> {
    let until = |other: &Session| {
        let named = predecessors.iter().find(|one| one.incarnation == other.incarnation);
        let succeeds = named.is_some_and(|one| one.revision >= other.seen);
        let returns = other.left_at.filter(|_| succeeds).map(|left| left + RETURN);
        returns.map_or(other.until, |returns| returns.min(other.until))
    };
    match served {
        Some(other) if other.incarnation != incarnation && until(other) > now => {
            let left = until(other).since(now);
            let message = format!(
                "this organisation is served by the tenant-svc at {} (incarnation {}) for {} more seconds; the one at \
                 {address} (incarnation {incarnation}) is served then, if the first has ended. If it is still running, \
                 the two work over copies of one database: stop one of them",
                other.address,
                other.incarnation,
                left.as_secs().max(1),
            );
            Err(Error::new(ErrorReason::TenantAlreadyServed, message).with_retry_after(left))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(begins: &[i64]) -> Vec<Incarnation> {
        let one = |begins_at| Incarnation { id: IncarnationId::generate(), begins_at: Revision(begins_at) };
        begins.iter().copied().map(one).collect()
    }

    #[test]
    fn a_database_is_behind_where_it_lacks_what_was_seen() {
        let held = held(&[0, 100, 200]);
        let seen = |id, revision| Standpoint { incarnation: id, revision: Revision(revision) };
        let behind = |seen: &Standpoint| is_behind(&held, Revision(250), seen);
        for (place, last) in [(0, 100), (1, 200), (2, 250)] {
            assert!(!behind(&seen(held[place].id, last)), "{place}");
            assert!(behind(&seen(held[place].id, last + 1)), "{place}: beyond its end");
        }
        assert!(behind(&seen(IncarnationId::generate(), 0)), "a start that it does not hold");
        assert!(is_behind(&[], Revision(0), &seen(held[0].id, 0)));
    }

    #[test]
    fn each_start_ends_where_the_next_one_begins() {
        let held = held(&[0, 100, 200]);
        let ended =
            |place: usize, revision| Standpoint { incarnation: held[place].id, revision: Revision(revision) };
        assert_eq!(predecessors(&held), [ended(1, 200), ended(0, 100)]);
        assert_eq!(predecessors(&held[..1]), []);
        let begun = |begins_at: &dyn Fn(i64) -> i64| -> Vec<_> {
            (0..50).map(|n| Incarnation { begins_at: Revision(begins_at(n)), ..held[0] }).collect()
        };
        let revisions =
            |held: &[Incarnation]| predecessors(held).iter().map(|one| one.revision.0).collect::<Vec<_>>();
        assert_eq!(revisions(&begun(&|n| n)), (40..50).rev().collect::<Vec<_>>());
        // twenty that could not serve, as where their port was taken
        let failed = revisions(&begun(&|n| n.min(30)));
        assert_eq!(failed[..10], [30; 10]);
        assert_eq!(failed[10..], (21..=30).rev().collect::<Vec<_>>());
        check_predecessors(failed.len()).unwrap();
        assert!(check_predecessors(failed.len() + 1).is_err(), "no process names so many");
    }

    #[test]
    fn a_second_process_is_refused_while_the_first_lives() {
        let (first, second) = (IncarnationId::generate(), IncarnationId::generate());
        let at = |second: i64| Timestamp::from_micros(second * 1_000_000);
        let session = Session {
            incarnation: first,
            address: "10.0.0.1:7070".into(),
            until: at(30),
            left_at: None,
            seen: Revision(7),
        };
        assert!(check_session(None, second, &[], "b", at(0)).is_ok());
        assert!(check_session(Some(&session), first, &[], "a", at(0)).is_ok());
        assert!(check_session(Some(&session), second, &[], "b", at(30)).is_ok());
        let ended_at = |incarnation, revision| Standpoint { incarnation, revision: Revision(revision) };
        for (predecessors, left_at, waits) in [
            (vec![ended_at(second, 3), ended_at(first, 7)], Some(10), 3),
            (vec![ended_at(first, 8)], Some(10), 3),
            (vec![ended_at(first, 8)], Some(29), 1),
            // a copy that was made before the last word
            (vec![ended_at(first, 6)], Some(10), 20),
            (vec![ended_at(second, 9)], Some(10), 20),
            // it speaks
            (vec![ended_at(first, 7)], None, 20),
        ] {
            let (asks, session) =
                (left_at.unwrap_or(10), Session { left_at: left_at.map(at), ..session.clone() });
            let check = |now| check_session(Some(&session), second, &predecessors, "b", at(now));
            let refused = check(asks).unwrap_err();
            assert_eq!(
                refused.retry_after,
                Some(Duration::from_secs(waits)),
                "{predecessors:?}, {left_at:?}"
            );
            let waits = i64::try_from(waits).unwrap();
            assert!(check(asks + waits - 1).is_err(), "{predecessors:?}, {left_at:?}");
            assert!(check(asks + waits).is_ok(), "{predecessors:?}, {left_at:?}");
        }
        let refused = check_session(Some(&session), second, &[], "10.0.0.2:7070", at(29)).unwrap_err();
        assert_eq!(refused.reason, ErrorReason::TenantAlreadyServed);
        for named in [&first.to_string(), &second.to_string(), "10.0.0.1:7070", "10.0.0.2:7070"] {
            assert!(refused.message.contains(named), "{refused}");
        }
    }
}
