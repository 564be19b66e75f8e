//! What each wish asks for.

use molecule_domain::id::{Generation, IntentNumber};
use molecule_domain::instance::InstanceView;
use molecule_domain::lifecycle::{Desired, Phase};
use molecule_workspace::{Entry, Wish};

use crate::world::{caused, entry, view};

#[test]
fn each_wish_has_its_name_its_end_and_its_rights() {
    let replace = |run| Wish::Replace { run, reset_session: true };
    for (wish, desired, refusable, launches, name) in [
        (Wish::Provision { run: true }, Desired::Running, true, true, "provision"),
        (Wish::Provision { run: false }, Desired::Stopped, true, true, "provision"),
        (Wish::Start, Desired::Running, true, false, "start"),
        (Wish::Stop(None), Desired::Stopped, false, false, "stop"),
        (caused(), Desired::Stopped, false, false, "stop"),
        (replace(true), Desired::Running, true, true, "replace"),
        (replace(false), Desired::Stopped, true, true, "replace"),
        (Wish::Delete, Desired::Deleted, false, false, "delete"),
    ] {
        assert_eq!((wish.desired(), wish.launches(), wish.name()), (desired, launches, name), "{wish:?}");
        assert_eq!(wish.may_be_refused(), refusable, "{wish:?}");
        let entry = entry(4, wish);
        assert_eq!(entry.may_be_refused(), refusable, "{entry:?}");
        let retold = Entry { retold: true, ..entry };
        assert!(!retold.may_be_refused(), "{retold:?}");
    }
}

#[test]
fn what_the_provider_has_may_show_that_another_wish_was_told() {
    let (up, replace) = (view(), Wish::Replace { run: true, reset_session: false });
    let wants = |desired| InstanceView { desired, ..view() };
    let (stopped, unknown) = (wants(Some(Desired::Stopped)), wants(None));
    let ending = wants(Some(Desired::Deleted));
    let third = InstanceView { wanted_generation: Generation(3), ..view() };
    for (wish, instance, contradicted) in [
        (Wish::Stop(None), &up, true),
        (caused(), &up, true),
        (Wish::Stop(None), &stopped, false),
        (Wish::Stop(None), &unknown, false),
        (Wish::Stop(None), &ending, false),
        (replace.clone(), &third, true),
        (replace.clone(), &up, false),
        // it was given up since
        (replace.clone(), &stopped, false),
        (replace, &InstanceView { wanted_generation: Generation(3), ..ending.clone() }, false),
        (Wish::Start, &stopped, false),
        (Wish::Start, &third, false),
        (Wish::Provision { run: true }, &third, false),
        (Wish::Delete, &up, true),
        (Wish::Delete, &stopped, true),
        (Wish::Delete, &unknown, false),
        (Wish::Delete, &ending, false),
    ] {
        let of_number = |number| entry(number, wish.clone()).is_contradicted_by(instance);
        assert_eq!([2, 3, 4].map(of_number), [false, contradicted, false], "{wish:?}, {instance:?}");
    }
}

/// Numbers are compared with the third wish.
#[test]
fn an_answer_may_show_that_a_wish_was_taken_for_another() {
    let running = InstanceView { intent: IntentNumber(3), desired: Some(Desired::Running), ..view() };
    let ending = InstanceView { phase: Phase::Gone, ..running.clone() };
    let stop = || Wish::Stop(None);
    let provision = || Wish::Provision { run: true };
    for (wish, retold, instance, taken) in [
        // it has done later ones, or others under the number
        (Wish::Start, false, &running, [true, false, false]),
        (stop(), false, &running, [true, true, false]),
        (Wish::Delete, false, &ending, [false, false, false]),
        (stop(), false, &ending, [true, false, false]),
        // what is created again is there
        (provision(), true, &running, [true, false, true]),
        (provision(), false, &running, [true, false, false]),
        (Wish::Start, true, &running, [true, false, false]),
    ] {
        let of_number =
            |number| Entry { retold, ..entry(number, wish.clone()) }.is_taken_for_another(instance);
        assert_eq!([2, 3, 4].map(of_number), taken, "{wish:?}, {retold}, {instance:?}");
    }
}
