//! Every cell that a whole run must fill, and those that can't occur, each with its reason. A cell that is listed here and
//! occurs all the same fails the run as well: then its reason is wrong.

use std::collections::BTreeMap;

use molecule_domain::lifecycle::{Phase, Reason};

use crate::coverage::{Coverage, Restored, Told, WishKind};
use crate::faults::{all_pairs, all_steps};
use crate::life::RESTORES;
use crate::weather::Weather;

/// How many lives fill every cell but the rare ones; of fewer, empty cells are told and fail nothing.
pub const WHOLE_RUN: u64 = 20_000;
/// How many lives fill the rare ones as well.
const LONG_RUN: u64 = 1_000_000;

/// What comes over a life beside weather and faults at steps.
const TROUBLES: [&str; 18] = [
    "kill",
    "freeze",
    "cut",
    "crash",
    "vanish",
    "late launch",
    "late judgement",
    "upgrade",
    "control clock set back",
    "control clock set forward",
    "clock set back",
    "clock set forward",
    "lost answer",
    "twin",
    "silent",
    "failing",
    "suspension",
    "restore",
];

/// What must come of it now and then.
const FIGURES: [&str; 15] = [
    "agreed after being set back",
    "agreed by telling again",
    "agreed by adopting",
    "agreed by recovering",
    "calls of refused wishes heard again",
    "records held until their tenants had agreed",
    "started again after a suspension",
    "outcomes of stale plans",
    "instances in words that their reader does not know",
    "alarms raised",
    "alarms ended",
    "leases lost",
    "watches that started over",
    "watches compared with a list at once",
    "watches compared with a list in a quiet moment",
];

/// Why a pair of wishes can't meet, where it can't.
fn pair_cannot(last: WishKind, new: WishKind) -> Option<&'static str> {
    use WishKind::{Delete, Provision, Start, StopWithCause};
    match (last, new) {
        (_, Provision) => Some("a workspace is provisioned once: the wish is the first of its outbox"),
        (_, StopWithCause) => {
            Some("an agent is judged only where the provider knows all: the outbox is empty")
        }
        (Delete, Delete) => None,
        (Delete, _) => Some("nothing is accepted after a deletion"),
        (StopWithCause, Start) => Some("a start of what has failed is refused before it is stored"),
        _ => None,
    }
}

/// Why a legal transition does not occur, where it doesn't.
fn transition_cannot(from: Phase, to: Phase) -> Option<&'static str> {
    use Phase::{Admitted, Failed, Up};
    match (from, to) {
        (from, to) if from == to => Some("it is no change"),
        (Up, Admitted) => Some("a replacement takes what is UP to STOPPING first"),
        (Failed, Admitted) => Some(
            "a replacement takes what failed to STOPPING first, and giving up while being replaced wants STOPPED",
        ),
        _ => None,
    }
}

/// Whether a transition is met by so few lives, one of ten thousand, that only a long run must meet it.
const fn is_rare(from: Phase, to: Phase) -> bool {
    // what is stopped is stored as STOPPING before the call, until that has ended; but a restored database may not know of it
    matches!((from, to), (Phase::Up | Phase::Admitted, Phase::Booting))
}

/// Why nothing FAILED for a reason, where nothing does.
const fn failure_cannot(reason: Reason) -> Option<&'static str> {
    match reason {
        Reason::AgentSilent | Reason::AgentErrors => Some("it is DEGRADED for that, not FAILED"),
        Reason::Restarting => Some("it is what a start after a crash says, until it is up or given up"),
        Reason::OrganizationSuspended => {
            Some("what its suspension stops is STOPPED for that, or FAILED for what hindered it")
        }
        Reason::Recovered => Some("it is what a tenant says of what it took back as it runs"),
        Reason::UnknownLaunch => Some("it is what is said of one that nothing is done about"),
        _ => None,
    }
}

/// Why a suspension does not meet what is to run in a phase, where it doesn't.
const fn suspension_cannot(phase: Phase) -> Option<&'static str> {
    match phase {
        Phase::Stopped => Some("what is to run and does not is ADMITTED"),
        Phase::Failed | Phase::Gone => Some("it is not to run"),
        _ => None,
    }
}

/// A cell, its count, and why it must stay empty where it must.
struct Cell {
    name: String,
    count: u64,
    cannot: Option<&'static str>,
    /// Whether only a long run must fill it.
    rare: bool,
}

fn cell(name: String, count: u64, cannot: Option<&'static str>) -> Cell {
    Cell { name, count, cannot, rare: false }
}

fn cells(coverage: &Coverage) -> Vec<Cell> {
    fn count<K: Ord>(of: &BTreeMap<K, u64>, key: &K) -> u64 {
        of.get(key).copied().unwrap_or(0)
    }
    let mut cells = Vec::new();
    for (fault, step) in all_pairs() {
        cells.push(cell(format!("{fault:?} at {step}"), count(&coverage.faults, &(fault, step)), None));
    }
    let listed: Vec<_> = all_steps().collect();
    for step in &listed {
        cells.push(cell(format!("step {step}"), coverage.steps.of(step), None));
    }
    for step in coverage.steps.by_name().keys().filter(|step| !listed.contains(step)) {
        cells.push(cell(
            format!("step {step}, which no list names"),
            coverage.steps.of(step),
            Some("all are listed"),
        ));
    }
    for weather in Weather::ALL {
        cells.push(cell(
            format!("weather {}", weather.name()),
            count(&coverage.troubles, &weather.name()),
            None,
        ));
    }
    for trouble in TROUBLES {
        cells.push(cell(format!("trouble {trouble}"), count(&coverage.troubles, &trouble), None));
    }
    for figure in FIGURES {
        cells.push(cell(format!("figure {figure}"), count(&coverage.figures, &figure), None));
    }
    for last in WishKind::ALL {
        for new in WishKind::ALL {
            for told in Told::ALL {
                let key = (last, new, told);
                let name = format!("{new:?} after {last:?}, {told:?}");
                cells.push(cell(name, count(&coverage.pairs, &key), pair_cannot(last, new)));
            }
        }
    }
    for from in Phase::ALL {
        let legal = Phase::ALL.into_iter().filter(|to| from.may_become(*to));
        for to in legal {
            let name = format!("{from} becomes {to}");
            let rare = is_rare(from, to);
            cells.push(Cell {
                rare,
                ..cell(name, count(&coverage.transitions, &(from, to)), transition_cannot(from, to))
            });
        }
    }
    for reason in Reason::ALL {
        let name = format!("FAILED for {reason}");
        cells.push(cell(name, count(&coverage.failed, &reason.as_str()), failure_cannot(*reason)));
    }
    for phase in Phase::ALL {
        let name = format!("suspended while {phase}");
        cells.push(cell(name, count(&coverage.suspended, &phase), suspension_cannot(phase)));
    }
    for restored in [Restored::Tenant, Restored::ControlPlane] {
        let cannot = (!RESTORES).then_some("databases are not restored yet");
        cells.push(cell(format!("restored: {restored:?}"), count(&coverage.restored, &restored), cannot));
    }
    cells
}

/// The cells that are empty and must not be, after so many lives.
pub fn empty(coverage: &Coverage, lives: u64) -> Vec<String> {
    let must = |cell: &Cell| cell.cannot.is_none() && (!cell.rare || lives >= LONG_RUN);
    let empty = cells(coverage).into_iter().filter(|cell| cell.count == 0 && must(cell));
    empty.map(|cell| format!("{}: it never happened", cell.name)).collect()
}

/// The cells that must be empty and are not.
pub fn filled(coverage: &Coverage) -> Vec<String> {
    let filled = cells(coverage).into_iter().filter(|cell| cell.count > 0);
    let filled = filled.filter_map(|cell| {
        let reason = cell.cannot?;
        Some(format!("{}: it happened {} times, though {reason}", cell.name, cell.count))
    });
    filled.collect()
}
