//! The tenant's store: what is asked for is kept until the engine knows, and what it refuses is taken back.

use molecule_domain::Timestamp;
use molecule_domain::id::{Generation, OrganizationId, Revision, WorkspaceId};
use molecule_domain::lifecycle::{AgentHealth, Desired, Phase, Readiness};
use molecule_domain::spec::WorkspaceSpec;
use molecule_provisioner::admission::{self, Account};
use molecule_provisioner::model::InstanceView;
use molecule_provisioner::store::contract;
use molecule_store_sqlite::Database;
use molecule_store_sqlite::tenant::model::{Intent, RequestKey};
use molecule_store_sqlite::tenant::{ChangeIntent, NewWorkspace, Redeemed, Redemption, TenantStore};

const ORG: OrganizationId = OrganizationId::SELF_HOSTED;

fn at(second: i64) -> Timestamp {
    Timestamp::from_micros(second * 1_000_000)
}

async fn store(folder: &tempfile::TempDir) -> TenantStore {
    TenantStore::new(Database::open(&folder.path().join("t.db")).await.unwrap())
}

fn new(workspace: WorkspaceId) -> NewWorkspace {
    NewWorkspace {
        workspace,
        organization: ORG,
        spec: WorkspaceSpec { name: "before".into(), ..WorkspaceSpec::default() },
        readiness: Readiness::Agent,
        private: b"private before".to_vec(),
        sealed_token: b"sealed 1".to_vec(),
        token_hash: b"hash 1".to_vec(),
        trace: String::new(),
    }
}

fn replacement() -> ChangeIntent {
    ChangeIntent {
        intent: Some(Intent::Replace { run: false, reset_session: false }),
        spec: Some((WorkspaceSpec { name: "after".into(), ..WorkspaceSpec::default() }, Readiness::Process)),
        private: Some(b"private after".to_vec()),
        token: Some((b"sealed 2".to_vec(), b"hash 2".to_vec())),
        trace: String::new(),
    }
}

fn key() -> RequestKey {
    RequestKey { id: "key".into(), fingerprint: b"f".to_vec() }
}

#[tokio::test]
async fn a_refused_change_is_taken_back_whole() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder).await;
    let workspace = WorkspaceId::generate();
    let (created, fresh) = store.create(&new(workspace), None, at(1)).await.unwrap();
    assert!(fresh);
    store.forwarded(workspace, created.intent).await.unwrap();

    let changed =
        store.change(ORG, workspace, None, Some(&key()), at(2), |_| Ok(replacement())).await.unwrap();
    assert_eq!((changed.generation, changed.desired), (Generation(2), Desired::Stopped));
    assert_eq!(
        store.pending_of(workspace).await.unwrap().unwrap().sealed_token.as_deref(),
        Some(&b"sealed 2"[..])
    );
    store.withdraw(ORG, workspace, changed.intent, at(3)).await.unwrap();

    let now = store.get(ORG, workspace).await.unwrap().unwrap();
    assert_eq!((now.spec.name.as_str(), now.readiness), ("before", Readiness::Agent));
    assert_eq!((now.generation, now.desired), (Generation(1), Desired::Running));
    assert_eq!(store.private(workspace).await.unwrap().unwrap(), b"private before");
    assert!(store.pending_of(workspace).await.unwrap().is_none());
    // the key isn't bound, and the new token opens nothing
    let again = store.change(ORG, workspace, None, Some(&key()), at(4), |_| Ok(replacement())).await.unwrap();
    assert_eq!(again.generation, Generation(2));
    store.withdraw(ORG, workspace, again.intent, at(5)).await.unwrap();
    let redemption = Redemption { token_hash: b"hash 2".to_vec(), nonce: "n".into() };
    assert_eq!(store.redeem(&redemption, |_, _| vec![]).await.unwrap(), Redeemed::Unknown);
}

#[tokio::test]
async fn a_token_is_redeemed_by_one_nonce_until_its_credential_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder).await;
    let workspace = WorkspaceId::generate();
    store.create(&new(workspace), None, at(1)).await.unwrap();
    let with = |nonce: &str| Redemption { token_hash: b"hash 1".to_vec(), nonce: nonce.into() };
    let granted = Redeemed::Granted(workspace, Generation(1));
    let refused = Redeemed::Refused(workspace, Generation(1));
    let redeem = |nonce: &'static str| {
        let (store, with) = (store.clone(), with(nonce));
        async move { store.redeem(&with, |_, _| b"credential".to_vec()).await.unwrap() }
    };
    assert_eq!(redeem("first").await, granted);
    assert_eq!(redeem("first").await, granted, "init crashed before it stored its credential");
    assert_eq!(redeem("second").await, refused);
    let known = store.authenticate(b"credential", at(2)).await.unwrap();
    assert_eq!(known, Some((workspace, Generation(1))));
    assert_eq!(redeem("first").await, refused, "the credential is in use");
    assert_eq!(store.authenticate(b"another", at(2)).await.unwrap(), None);
}

#[tokio::test]
async fn history_is_kept_for_a_day_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder).await;
    for second in 1..=3 {
        store.create(&new_with(second), None, at(second)).await.unwrap();
    }
    assert_eq!(store.changes_after(ORG, Revision(1), 10).await.unwrap().len(), 2);
    store.prune(at(3), at(0)).await.unwrap();
    assert!(store.changes_after(ORG, Revision(1), 10).await.is_err(), "revision 2 is forgotten");
    assert_eq!(store.changes_after(ORG, Revision(2), 10).await.unwrap().len(), 1);
    assert!(store.changes_after(ORG, Revision(4), 10).await.is_err(), "revision 4 has not come");
    assert_eq!(store.snapshot(ORG).await.unwrap().0.len(), 3, "what is there stays");
}

fn new_with(number: i64) -> NewWorkspace {
    NewWorkspace { token_hash: vec![u8::try_from(number).unwrap()], ..new(WorkspaceId::generate()) }
}

#[tokio::test]
async fn an_agent_that_registers_before_its_instance_is_known_up_stays_registered() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder).await;
    let workspace = WorkspaceId::generate();
    let (created, _) = store.create(&new(workspace), None, at(1)).await.unwrap();
    store.forwarded(workspace, created.intent).await.unwrap();
    let admitted = admission::provision(&Account::default(), &contract::provision(workspace), at(1)).unwrap();
    let becomes = |revision, phase| {
        let mut instance = InstanceView::from(admitted.record.clone());
        (instance.revision, instance.phase, instance.phase_since) = (Revision(revision), phase, at(revision));
        let store = store.clone();
        async move { store.mirror_answer(&instance, at(revision)).await.unwrap().agent.health }
    };
    assert_eq!(becomes(2, Phase::Launching).await, AgentHealth::NotConnected);
    let told =
        store.agent_told(ORG, workspace, Generation(1), at(3), |agent| agent.health = AgentHealth::Healthy);
    assert!(told.await.unwrap().is_some());
    assert_eq!(becomes(4, Phase::Booting).await, AgentHealth::Healthy);
    assert_eq!(becomes(5, Phase::Up).await, AgentHealth::Healthy);
    assert_eq!(becomes(6, Phase::Launching).await, AgentHealth::NotConnected, "it ended and starts again");
}
