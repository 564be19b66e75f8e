//! Requests and steps that meet in the database: each limit holds, and none loses what another has stored.

use std::time::Duration;

use molecule_domain::error::ErrorReason;
use molecule_domain::id::{LeaseOwner, Revision};
use molecule_domain::limits::Limits;
use molecule_provisioner::store::{Room, Store, StoreError};
use molecule_store_postgres::Database;
use molecule_store_postgres::accounts::Accounts;
use molecule_store_postgres::engine::EngineStore;
use molecule_tests::postgres::{Scratch, execute};
use sqlx::Connection;
use tokio_util::sync::CancellationToken;

use crate::support::{Opened, at, created, operator, organization, request};

const LOCK_ORGANIZATION: &str = "SELECT 1 FROM organizations WHERE organization_id = $1 FOR UPDATE";

/// A launch of one organisation's waits for its lock, as behind a burst of requests; another's does not wait for that.
#[tokio::test(flavor = "multi_thread")]
async fn launches_do_not_wait_for_another_organizations() {
    let Opened { scratch, database: _, accounts, store, .. } = Opened::new().await;
    let mut claimed = Vec::new();
    for _ in 0..2 {
        let id = created(&accounts).await;
        store.provision(&request(id), at(1)).await.unwrap();
        let owner = LeaseOwner::generate();
        let mine = store.claim("memory", owner, at(2), Duration::from_secs(60), Room::of_each(10)).await;
        claimed.push((id, mine.unwrap().pop().unwrap()));
    }
    let begin = |place: usize| {
        let (store, one) = (store.clone(), claimed[place].1.clone());
        let wanted = one.record.wanted();
        tokio::spawn(async move { store.begin_launch(&one.lease, wanted, "", at(3), at(4)).await })
    };
    let mut busy = sqlx::PgConnection::connect(&scratch.url()).await.unwrap();
    let mut busy = busy.begin().await.unwrap();
    sqlx::query(LOCK_ORGANIZATION).bind(claimed[0].0.as_uuid()).execute(&mut *busy).await.unwrap();
    let waits = begin(0);
    tokio::time::sleep(Duration::from_millis(300)).await;
    // the lock is kept until it has begun
    begin(1).await.unwrap().unwrap();
    assert!(!waits.is_finished(), "it waits for its own organisation");
    busy.rollback().await.unwrap();
    waits.await.unwrap().unwrap();
}

/// Three replicas, a thousand racers, a limit of a hundred: the database itself refuses any commit beyond it, so
/// every prefix of commits is within.
#[tokio::test(flavor = "multi_thread")]
async fn racers_on_three_replicas_get_exactly_the_limit() {
    let (scratch, cancel) = (Scratch::new().await.unwrap(), CancellationToken::new());
    let mut replicas = Vec::new();
    for _ in 0..3 {
        replicas.push(Database::open(&scratch.url(), 20, cancel.clone()).await.unwrap());
    }
    execute(
        &scratch.url(),
        "ALTER TABLE organizations ADD CHECK (used_workspaces <= max_workspaces),
             ADD CHECK (used_memory_mib <= max_memory_mib)"
            .to_owned(),
    )
    .await
    .unwrap();
    let limits = Limits { workspaces: Some(100), memory_mib: Some(100 * 512), ..Limits::default() };
    let accounts = Accounts::new(replicas[0].clone());
    let limited = accounts.create(&organization(limits), &operator("create"), at(0)).await.unwrap().id;
    let other =
        accounts.create(&organization(Limits::default()), &operator("create"), at(0)).await.unwrap().id;
    let racers: Vec<_> = (0..1000)
        .map(|racer| {
            let store = EngineStore::new(replicas[racer % 3].clone());
            tokio::spawn(async move { store.provision(&request(limited), at(1)).await })
        })
        .collect();
    // another organisation does not wait for this one's
    EngineStore::new(replicas[1].clone()).provision(&request(other), at(1)).await.unwrap();
    let mut admitted = 0;
    for racer in racers {
        match racer.await.unwrap() {
            Ok(_) => admitted += 1,
            Err(StoreError::Refused(error)) => {
                assert_eq!(error.reason, ErrorReason::QuotaExceeded);
                assert_eq!(error.limits[0].cap, 100);
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    assert_eq!(admitted, 100);
    let store = EngineStore::new(replicas[2].clone());
    assert_eq!(store.account(limited, at(2)).await.unwrap().used.workspaces, 100);
    // what was refused left nothing behind
    assert_eq!(store.events_after(limited, 0, 1000).await.unwrap().len(), 100);
    assert_eq!(store.changed_after(limited, Revision(0), 1000).await.unwrap().len(), 100);
    assert_eq!(accounts.recount().await.unwrap(), []);
    cancel.cancel();
}
