//! Usage segments beside the phases as they are committed, and beside the provider's own log: what is UP has an open one of
//! its generation from the commit at which it came up to the one at which it was found down, and nothing else has.

use std::time::Duration;

use molecule_domain::Timestamp;
use molecule_domain::lifecycle::Phase;
use molecule_provisioner::model::{InstanceRecord, Segment};

use crate::inside::Stretch;
use crate::machine::Machine;

/// How long a look takes at most; what it finds is dated to when it began.
const A_LOOK: Duration = Duration::from_secs(60);
/// What a replica saw is committed under the lease under which it looked: no longer after it than this, and a look that is
/// shared may come a little before that.
const LOOKS_FOR: Duration = Duration::from_secs(120 + 60);
/// How far the clock of a replica may be away from the true time.
const SKEW: Duration = Duration::from_secs(2);

/// The segments of a workspace as they were at its last commit: how many, and the last one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tiled {
    count: usize,
    last: Option<Segment>,
}

impl Tiled {
    /// The segments of a workspace.
    pub(crate) fn of(segments: &[Segment]) -> Self {
        Self { count: segments.len(), last: segments.last().cloned() }
    }

    /// What is wrong with the segments once a record was committed, where something is. `is_up` says whether the
    /// provider has the machine up that the record is about.
    pub(crate) fn objection(
        &self,
        segments: &[Segment],
        record: &InstanceRecord,
        is_up: bool,
        now: Timestamp,
        off: Duration,
    ) -> Option<String> {
        let open = segments.last().filter(|last| last.until.is_none());
        match (record.phase, open) {
            // it was found down by a plan for an older wish, which writes facts and decides nothing; or something runs in its
            // place that a restored database does not know
            (Phase::Up, None) if !is_up => {}
            (Phase::Up, None) => return Some("it is UP, and no segment is open".to_owned()),
            (Phase::Up, Some(open)) if open.generation != record.generation => {
                return Some(format!("generation {} is UP, and {open:?} is open", record.generation));
            }
            // it came up while something else was asked for, which is told by a look for an older wish as well
            (Phase::Admitted | Phase::Launching, Some(open))
                if is_up && open.generation == record.generation => {}
            // it came up, or is on its way down, while something else is wanted
            (Phase::Up | Phase::Booting | Phase::Stopping | Phase::Failed, _) | (_, None) => {}
            (phase, Some(open)) => return Some(format!("it is {phase}, and {open:?} is open")),
        }
        let is_now = |at: Timestamp| at <= now + SKEW + off && at + SKEW + off + LOOKS_FOR >= now;
        let earlier = self.last.as_ref();
        let before = self.count.checked_sub(1).and_then(|place| segments.get(place));
        let closed = match (earlier, before) {
            (None, None) => None,
            (Some(earlier), Some(before)) if earlier == before => None,
            (Some(earlier), Some(before)) if earlier.until.is_none() => {
                let closed = Segment { until: None, ..before.clone() };
                if closed != *earlier {
                    return Some(format!("{earlier:?} became {before:?}"));
                }
                before.until
            }
            (earlier, before) => return Some(format!("{earlier:?} became {before:?}")),
        };
        if let Some(until) = closed.filter(|until| !is_now(*until)) {
            return Some(format!("one is closed at {until}, and it is {now}"));
        }
        match segments.get(self.count..) {
            None | Some([]) => None,
            Some([new]) => {
                let after = before.and_then(|before| before.until);
                // a clock that stepped back bills nothing twice
                let is_right =
                    is_now(new.from) && (before.is_none() || after.is_some_and(|after| after <= new.from));
                (!is_right).then(|| format!("{new:?} is opened after {before:?}, and it is {now}"))
            }
            Some(new) => Some(format!("{new:?} are opened at once")),
        }
    }
}

/// What is wrong with a segment beside the provider's log, where something is: it begins while a machine of its generation is
/// up. That its end is the provider's as well comes with priced usage.
pub(crate) fn is_logged(
    segment: &Segment,
    log: &[Stretch],
    id: molecule_domain::id::WorkspaceId,
    off: Duration,
) -> bool {
    let was_up =
        |one: &&Stretch| one.instance.workspace == id && one.instance.generation == segment.generation;
    log.iter().filter(was_up).any(|one| {
        one.from <= segment.from + SKEW + off + A_LOOK
            && one.until.is_none_or(|until| until + SKEW + off + LOOKS_FOR >= segment.from)
    })
}

/// Whether a machine is what its workspace's record says: the one of its live launch, up or not as that says.
pub(crate) fn is_explained(machine: &Machine, record: &InstanceRecord) -> bool {
    machine.instance.generation == record.generation
        && record.live_attempt().map(|attempt| attempt.seq) == Some(machine.seq)
        && record.up_since.is_some() == machine.is_running()
}
