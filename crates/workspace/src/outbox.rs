//! How wishes that wait for the provider follow each other.
//!
//! The provider needs wishes in their order, each until it is answered definitely. Only an entry of which no call was
//! ever begun may be composed with the next one: of any other the provider may know already.

use crate::wish::Wish;

/// What becomes of the last entry and a new wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Composition {
    /// The new wish follows as an entry of its own.
    Followed,
    /// One entry stands for both. Whatever either brought (spec, token, session reset) is in it.
    Composed(Wish),
    /// The two cancel each other out: nothing was asked of the provider.
    Nothing,
}

/// Composes a new wish with the last entry, if there is one. `begun` says whether a call of the last was begun.
///
/// | last, untold | Start | Stop | Stop with a cause | Replace | Delete |
/// |---|---|---|---|---|---|
/// | Provision | Provision that runs | Provision that does not run | followed | Provision of the new spec | nothing |
/// | Start | Start | Stop | followed | Replace | Delete |
/// | Stop | Start | Stop | followed | Replace | Delete |
/// | Stop with a cause | followed | followed | followed | followed | followed |
/// | Replace | Replace that runs | Replace that does not run | followed | Replace of the new spec | Delete |
/// | Delete | followed | followed | followed | followed | Delete |
///
/// A cause is a fact that the provider must hear, so what carries one is never composed. A workspace is provisioned
/// once, and nothing is accepted after a deletion, so what "followed" says of those does not happen.
pub fn compose(last: &Wish, begun: bool, new: &Wish) -> Composition {
    use Composition::{Composed, Followed, Nothing};
    let has_cause = |wish: &Wish| matches!(wish, Wish::Stop(Some(_)));
    if begun || has_cause(last) || has_cause(new) {
        return Followed;
    }
    match (last, new) {
        (Wish::Provision { .. }, Wish::Start) => Composed(Wish::Provision { run: true }),
        (Wish::Provision { .. }, Wish::Stop(_)) => Composed(Wish::Provision { run: false }),
        (Wish::Provision { .. }, Wish::Replace { run, .. }) => Composed(Wish::Provision { run: *run }),
        (Wish::Provision { .. }, Wish::Delete) => Nothing,
        (Wish::Start | Wish::Stop(_), Wish::Start | Wish::Stop(_) | Wish::Replace { .. } | Wish::Delete) => {
            Composed(new.clone())
        }
        (Wish::Replace { reset_session, .. }, Wish::Start) => {
            Composed(Wish::Replace { run: true, reset_session: *reset_session })
        }
        (Wish::Replace { reset_session, .. }, Wish::Stop(_)) => {
            Composed(Wish::Replace { run: false, reset_session: *reset_session })
        }
        (Wish::Replace { reset_session: before, .. }, Wish::Replace { run, reset_session }) => {
            Composed(Wish::Replace { run: *run, reset_session: *before || *reset_session })
        }
        (Wish::Replace { .. } | Wish::Delete, Wish::Delete) => Composed(Wish::Delete),
        (_, Wish::Provision { .. }) | (Wish::Delete, _) => Followed,
    }
}

#[cfg(test)]
mod tests {
    use molecule_domain::lifecycle::Reason;

    use super::Composition::{Composed, Followed, Nothing};
    use super::*;

    const fn replace(run: bool, reset_session: bool) -> Wish {
        Wish::Replace { run, reset_session }
    }

    fn caused() -> Wish {
        Wish::Stop(Some((Reason::AgentNotConnected, "why".to_owned())))
    }

    fn all() -> Vec<Wish> {
        let mut all = vec![Wish::Start, Wish::Stop(None), caused(), Wish::Delete];
        for run in [false, true] {
            all.push(Wish::Provision { run });
            all.extend([replace(run, false), replace(run, true)]);
        }
        all
    }

    /// Every pair in which the last entry is untold. What is not listed follows.
    fn expected(last: &Wish, new: &Wish) -> Composition {
        let (start, stop, delete) = (Wish::Start, Wish::Stop(None), Wish::Delete);
        let mut table = vec![];
        for run in [false, true] {
            let provision = Wish::Provision { run };
            table.extend([
                (provision.clone(), start.clone(), Composed(Wish::Provision { run: true })),
                (provision.clone(), stop.clone(), Composed(Wish::Provision { run: false })),
                (provision.clone(), delete.clone(), Nothing),
            ]);
            for new_run in [false, true] {
                for reset in [false, true] {
                    let new = replace(new_run, reset);
                    table.push((provision.clone(), new.clone(), Composed(Wish::Provision { run: new_run })));
                    table.push((start.clone(), new.clone(), Composed(new.clone())));
                    table.push((stop.clone(), new.clone(), Composed(new.clone())));
                    for before in [false, true] {
                        let both = Composed(replace(new_run, before || reset));
                        table.push((replace(run, before), new.clone(), both));
                    }
                }
            }
            for reset in [false, true] {
                let last = replace(run, reset);
                table.push((last.clone(), start.clone(), Composed(replace(true, reset))));
                table.push((last.clone(), stop.clone(), Composed(replace(false, reset))));
                table.push((last, delete.clone(), Composed(Wish::Delete)));
            }
        }
        for last in [&start, &stop] {
            for new in [&start, &stop, &delete] {
                table.push((last.clone(), new.clone(), Composed(new.clone())));
            }
        }
        table.push((delete.clone(), delete, Composed(Wish::Delete)));
        let found = table.into_iter().find(|(a, b, _)| a == last && b == new);
        found.map_or(Followed, |(.., composition)| composition)
    }

    #[test]
    fn an_untold_entry_is_composed_by_the_table() {
        for last in all() {
            for new in all() {
                assert_eq!(compose(&last, false, &new), expected(&last, &new), "{last:?}, {new:?}");
            }
        }
    }

    #[test]
    fn what_the_provider_may_know_is_followed() {
        // a call that was begun and one whose answer never came are the same here: the provider may have heard it
        for last in all() {
            for new in all() {
                assert_eq!(compose(&last, true, &new), Followed, "{last:?}, {new:?}");
            }
        }
    }

    #[test]
    fn a_composed_wish_wants_what_the_last_one_wanted() {
        for last in all() {
            for new in all() {
                if let Composed(wish) = compose(&last, false, &new) {
                    assert_eq!(wish.desired(), new.desired(), "{last:?}, {new:?}");
                }
            }
        }
    }
}
