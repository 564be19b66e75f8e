//! What each wish asks for.

use molecule_domain::lifecycle::Desired;
use molecule_workspace::{Entry, Wish};

use crate::world::{caused, entry};

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
