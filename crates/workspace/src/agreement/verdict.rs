//! The rule by which the two sides agree about one workspace.

use molecule_domain::id::{Generation, IntentNumber};
use molecule_domain::instance::InstanceView;

/// What is to be done about one workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: both know the same, or what waits in the outbox brings it about.
    Same,
    /// The provider has done later wishes, which win.
    Adopt,
    /// The provider has lost wishes that it had granted: it is told what they came to.
    TellAgain,
    /// The provider knows it as deleted, or has nothing of one that was being deleted.
    Deleted,
    /// The tenant knows it as deleted, and the provider doesn't.
    DeleteAgain,
    /// The tenant doesn't know it, or only an earlier one of its id whose creation was refused.
    TakeBack,
}

/// The state of a workspace at its tenant, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) intent: IntentNumber,
    pub(super) answered: IntentNumber,
    pub(super) generation: Generation,
    /// The number of the last wish that waits and brings this generation.
    pub(super) brought_by: Option<IntentNumber>,
    pub(super) deleting: bool,
    pub(super) gone: bool,
    /// Whether its creation was refused: its id is free for another.
    pub(super) refused: bool,
}

/// The same at the provider.
#[derive(Clone, Copy, Debug)]
pub(super) struct Has {
    pub(super) intent: IntentNumber,
    pub(super) generation: Generation,
    pub(super) deleting: bool,
}

/// The rule. `deleting` includes what is gone.
pub(super) fn verdict(held: Option<Held>, has: Option<Has>) -> Verdict {
    match (held, has) {
        (None, Some(has)) if !has.deleting => Verdict::TakeBack,
        (None, _) => Verdict::Same,
        // another was created under that id, in the time that this database has lost
        (Some(held), Some(has)) if held.refused && has.intent > held.intent && !has.deleting => {
            Verdict::TakeBack
        }
        (Some(held), Some(has)) if held.deleting && !has.deleting => {
            // a deletion that waits and is newer than what the provider did is told anyway
            if held.gone || held.answered == held.intent || has.intent >= held.intent {
                Verdict::DeleteAgain
            } else {
                Verdict::Same
            }
        }
        (Some(held), None) if held.deleting => {
            if held.gone || held.answered < held.intent {
                Verdict::Same
            } else {
                Verdict::Deleted
            }
        }
        (Some(held), Some(_)) if held.deleting => Verdict::Same,
        (Some(_), Some(has)) if has.deleting => Verdict::Deleted,
        (Some(held), None) if held.answered == IntentNumber(0) => Verdict::Same,
        (Some(_), None) => Verdict::TellAgain,
        (Some(held), Some(has)) if has.intent > held.intent || has.generation > held.generation => {
            Verdict::Adopt
        }
        (Some(held), Some(has)) if has.intent < held.answered => Verdict::TellAgain,
        // a generation that it has lost, or that a wish brings whose number it has given to another
        (Some(held), Some(has))
            if has.generation < held.generation
                && held.brought_by.is_none_or(|number| number <= has.intent) =>
        {
            Verdict::TellAgain
        }
        (Some(_), Some(_)) => Verdict::Same,
    }
}

impl Has {
    pub(super) fn of(instance: &InstanceView) -> Self {
        Self {
            intent: instance.intent,
            generation: instance.wanted_generation,
            deleting: instance.is_ending(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(intent: i64, answered: i64, generation: u32, deleting: bool, gone: bool) -> Held {
        let (intent, answered) = (IntentNumber(intent), IntentNumber(answered));
        Held {
            intent,
            answered,
            generation: Generation(generation),
            brought_by: None,
            deleting,
            gone,
            refused: false,
        }
    }

    fn has(intent: i64, generation: u32, deleting: bool) -> Has {
        Has { intent: IntentNumber(intent), generation: Generation(generation), deleting }
    }

    #[test]
    fn the_two_sides_agree_by_this_table() {
        use Verdict::{Adopt, DeleteAgain, Deleted, Same, TakeBack, TellAgain};
        let (alive, deleting, gone) = (
            |intent, answered| Some(held(intent, answered, 2, false, false)),
            |intent, answered| Some(held(intent, answered, 2, true, false)),
            Some(held(5, 5, 2, true, true)),
        );
        let refused = gone.map(|gone| Held { refused: true, ..gone });
        let brings = |number, intent, answered| {
            let brought_by = Some(IntentNumber(number));
            Some(Held { brought_by, ..held(intent, answered, 2, false, false) })
        };
        let runs = |intent, generation| Some(has(intent, generation, false));
        let ends = |intent| Some(has(intent, 2, true));
        let table = [
            // only one side knows it
            (None, None, Same),
            (None, runs(5, 2), TakeBack),
            (None, ends(5), Same),
            (alive(5, 5), None, TellAgain),
            (alive(6, 5), None, TellAgain),
            (alive(1, 0), None, Same),
            (deleting(5, 5), None, Deleted),
            (deleting(6, 5), None, Same),
            (gone, None, Same),
            // both know it, and want it
            (alive(5, 5), runs(5, 2), Same),
            (alive(7, 5), runs(5, 2), Same),
            // the same where those after 5 were refused, and 6 was granted in a time that this database has lost
            (alive(7, 5), runs(6, 2), Same),
            (alive(7, 5), runs(7, 2), Same),
            (alive(7, 5), runs(8, 2), Adopt),
            (alive(5, 5), runs(5, 3), Adopt),
            (alive(5, 5), runs(4, 2), TellAgain),
            (alive(7, 5), runs(4, 1), TellAgain),
            // the last generation waits to be told, or was lost, or its wish's number is another's there
            (brings(6, 7, 5), runs(5, 1), Same),
            (alive(5, 5), runs(5, 1), TellAgain),
            (alive(7, 5), runs(6, 1), TellAgain),
            (brings(6, 7, 5), runs(6, 1), TellAgain),
            (brings(6, 7, 5), runs(8, 1), Adopt),
            // one side knows it as deleted
            (alive(5, 5), ends(6), Deleted),
            (alive(7, 5), ends(3), Deleted),
            (deleting(5, 5), runs(4, 2), DeleteAgain),
            (deleting(5, 5), runs(9, 2), DeleteAgain),
            (deleting(6, 5), runs(5, 2), Same),
            (deleting(6, 5), runs(6, 2), DeleteAgain),
            (gone, runs(4, 2), DeleteAgain),
            (gone, runs(9, 3), DeleteAgain),
            // its creation was refused: a late copy of that was granted, or another was created since
            (refused, runs(5, 1), DeleteAgain),
            (refused, runs(6, 1), TakeBack),
            (refused, ends(6), Same),
            (refused, None, Same),
            // both do
            (deleting(5, 5), ends(5), Same),
            (gone, ends(5), Same),
        ];
        for (held, has, expected) in table {
            assert_eq!(verdict(held, has), expected, "{held:?}, {has:?}");
        }
    }
}
