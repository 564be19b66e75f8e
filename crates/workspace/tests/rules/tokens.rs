//! The store in memory: bootstrap tokens, and the credentials that they are redeemed for.

use molecule_domain::id::{Generation, IntentNumber, WorkspaceId};
use molecule_domain::instance::InstanceView;
use molecule_workspace::Wish;
use molecule_workspace::aggregate::{Answer, Change};
use molecule_workspace::store::memory::MemoryStore;
use molecule_workspace::store::{Conditions, Redeemed, Redemption, TenantStore};

use crate::memory::{answer, change, create, instance, opened, running, wish};
use crate::world::{second, token, workspace_id};

/// The hash of what a token is redeemed for names its workspace and generation.
async fn redeem(store: &MemoryStore, token: &str, nonce: &str) -> Redeemed {
    let redemption = Redemption { token_hash: token.as_bytes().to_vec(), nonce: nonce.to_owned() };
    let hash = Box::new(credential);
    store.redeem(&redemption, hash).await.unwrap()
}

fn credential(workspace: WorkspaceId, generation: Generation) -> Vec<u8> {
    format!("credential of {workspace}, {generation}").into_bytes()
}

async fn is_known(store: &MemoryStore, number: u8, generation: u32) -> bool {
    let (workspace, generation) = (workspace_id(number), Generation(generation));
    let hash = credential(workspace, generation);
    let found = store.authenticate(&hash, second(50)).await.unwrap();
    assert!(found.is_none_or(|found| found == (workspace, generation)), "{found:?}");
    found.is_some()
}

#[tokio::test]
async fn the_first_nonce_wins_until_the_credential_is_used() {
    let store = opened();
    create(&store, 1, second(10)).await;
    create(&store, 2, second(11)).await;
    let (workspace, generation) = (workspace_id(2), Generation(1));
    assert_eq!(redeem(&store, "hash 9", "a").await, Redeemed::Unknown);
    for _ in 0..2 {
        assert_eq!(redeem(&store, "hash 2", "a").await, Redeemed::Granted(workspace, generation));
    }
    assert_eq!(redeem(&store, "hash 2", "b").await, Redeemed::Refused(workspace, generation));
    assert!(is_known(&store, 2, 1).await && is_known(&store, 2, 1).await);
    assert_eq!(redeem(&store, "hash 2", "a").await, Redeemed::Refused(workspace, generation));
    assert!(!is_known(&store, 1, 1).await);
    assert_eq!(redeem(&store, "hash 1", "b").await, Redeemed::Granted(workspace_id(1), generation));
}

#[tokio::test]
async fn credentials_end_with_their_generation_and_with_their_workspace() {
    let store = opened();
    for number in [1, 2] {
        running(&store, number, second(10)).await;
        redeem(&store, &format!("hash {number}"), "a").await;
    }
    let replace = Wish::Replace { run: true, reset_session: false };
    let replace = Change { token: Some(token()), ..wish(replace) };
    change(&store, 1, &Conditions::default(), second(20), replace).await.unwrap();
    redeem(&store, "hash", "a").await;
    assert!(is_known(&store, 1, 1).await && is_known(&store, 1, 2).await, "it is not replaced yet");
    let (generation, intent) = (Generation(2), IntentNumber(2));
    let next = InstanceView { generation, wanted_generation: generation, intent, ..instance(1, 51) };
    answer(&store, 1, 2, Answer::Granted(next), second(21)).await.unwrap();
    assert!(!is_known(&store, 1, 1).await && is_known(&store, 1, 2).await);
    assert_eq!(redeem(&store, "hash 1", "a").await, Redeemed::Unknown);
    change(&store, 1, &Conditions::default(), second(22), wish(Wish::Delete)).await.unwrap();
    answer(&store, 1, 3, Answer::NotFound, second(23)).await.unwrap();
    assert!(!is_known(&store, 1, 2).await);
    assert!(is_known(&store, 2, 1).await, "another's is worth what it was");
}
