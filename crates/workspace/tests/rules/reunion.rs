//! The store in memory: agreements after a restore.

use std::collections::BTreeMap;

use molecule_domain::error::ErrorReason;
use molecule_domain::id::{Generation, Revision};
use molecule_domain::incarnation::Standpoint;
use molecule_domain::instance::InstanceView;
use molecule_domain::lifecycle::{Desired, Phase};
use molecule_workspace::agreement::{Agreed, Met};
use molecule_workspace::store::memory::MemoryStore;
use molecule_workspace::store::{Cursors, Redemption, TenantStore};

use crate::memory::{MINE, at, instance, opened, reason, running};
use crate::world::{Mint, own, second, start_id, workspace_id};

/// The provider has seen a start of which this database holds nothing.
fn met(start: u8, revision: i64) -> Met {
    let standpoint = |start, revision| Standpoint { incarnation: start_id(start), revision };
    let provider = standpoint(100, Revision(70));
    Met { provider, seen: vec![standpoint(start, Revision(revision))], agreed: true }
}

async fn agree(store: &MemoryStore, met: &Met, inventory: &[InstanceView], now: i64) -> Agreed {
    store.agree(MINE, met, inventory, &Mint, second(now)).await.unwrap()
}

/// The agent of this one has redeemed its token.
async fn connected(store: &MemoryStore, number: u8) {
    running(store, number, second(10)).await;
    let token_hash = format!("hash {number}").into_bytes();
    let redemption = Redemption { token_hash, nonce: "a".to_owned() };
    store.redeem(&redemption, Box::new(|_, _| b"credential".to_vec())).await.unwrap();
}

#[tokio::test]
async fn a_database_that_was_put_back_takes_back_what_only_the_provider_knows() {
    let store = opened();
    connected(&store, 1).await;
    running(&store, 2, second(11)).await;
    let ending = |number, revision| InstanceView {
        desired: Some(Desired::Deleted),
        phase: Phase::Stopping,
        ..instance(number, revision)
    };
    let inventory = [instance(1, 60), instance(2, 61), instance(3, 62), ending(4, 63)];
    let agreed = agree(&store, &met(9, 500), &inventory, 20).await;
    let expected = Agreed {
        set_back: true,
        // of the second's agent nothing is known: its token may have been redeemed in the time that is lost
        recovered: vec![workspace_id(2), workspace_id(3)],
        ..Agreed::default()
    };
    assert_eq!(agreed, expected);
    let load = async |number| store.load(MINE, workspace_id(number)).await.unwrap();
    let recovered = async |number| load(number).await.unwrap().record.recovered;
    assert_eq!(recovered(1).await, None);
    assert_eq!(recovered(2).await, Some(Generation(1)));
    assert_eq!(recovered(3).await, Some(Generation(1)));
    assert_eq!(load(4).await, None);
    assert_eq!(store.cursors(MINE).await.unwrap(), Cursors { revision: Revision(63), event: 0 });
    let (meetings, _) = store.meetings(MINE).await.unwrap();
    assert_eq!((meetings.agreed_in, meetings.provider), (Some(own()), Some(start_id(100))));
    assert_eq!(meetings.acknowledged, BTreeMap::from([(start_id(9), Revision(500))]));
    assert!(!agree(&store, &met(9, 500), &inventory, 21).await.set_back, "that is no news any more");
    // it is as it would be on its first day
    agree(&store, &met(9, 500), &[], 22).await;
    assert_eq!(store.cursors(MINE).await.unwrap(), Cursors::default());
}

#[tokio::test]
async fn who_watched_in_the_time_that_is_lost_begins_anew() {
    let store = opened();
    let before = running(&store, 1, second(10)).await.revision;
    let inventory = [instance(1, 50)];
    agree(&store, &met(9, 500), &inventory, 20).await;
    let newest = async || store.meetings(MINE).await.unwrap().1;
    // its agent is not known any more, and then all is forgotten
    assert_eq!(newest().await, at(second(20)).next());
    let watched = store.changes_after(MINE, before, 9).await;
    assert_eq!(reason(watched), ErrorReason::RevisionTooOld);
    let last = newest().await;
    for (start, lost, rises) in [(8, last.0 - 1, false), (7, last.0, false), (6, last.0 + 1, true)] {
        let agreed = agree(&store, &met(start, lost), &inventory, 20).await;
        assert_eq!((agreed.set_back, newest().await > last), (true, rises), "{lost}");
        assert_eq!(store.changes_after(MINE, last, 9).await.is_err(), rises, "{lost}");
    }
}
