//! Who works on what, and what is written of it.

use std::sync::Arc;

use molecule_domain::id::{Generation, LeaseOwner, OrganizationId, WorkspaceId};
use molecule_domain::lifecycle::{Desired, Phase};

use super::{
    BACKEND, LEASE, ORG, OTHER, ask, at, claim, claim_one, commit, created, fresh, outcome, provision,
};
use molecule_provisioner::admission::{Change, ProvisionRequest};
use molecule_provisioner::model::{AttemptState, InstanceRecord};
use molecule_provisioner::outcome::{Fact, Outcome};
use molecule_provisioner::store::{Room, Store, StoreError};

const ANY: Room = Room::of_each(100);

pub(super) async fn run<F: Future<Output = Arc<dyn Store>>>(make: impl Fn() -> F) {
    one_holder_at_a_time(fresh(&make).await).await;
    backends_are_apart(fresh(&make).await).await;
    a_lost_lease_writes_nothing(fresh(&make).await).await;
    a_stale_plan_writes_only_facts(fresh(&make).await).await;
    a_session_is_reset_once(fresh(&make).await).await;
    a_wake_during_a_lease_is_not_lost(fresh(&make).await).await;
    a_launch_that_was_overtaken_is_not_begun(fresh(&make).await).await;
    of_an_illegal_decision_the_facts_are_written(fresh(&make).await).await;
    one_process_has_a_role(fresh(&make).await).await;
    organizations_take_turns(fresh(&make).await).await;
    launches_and_others_have_room_of_their_own(fresh(&make).await).await;
}

async fn one_holder_at_a_time(store: Arc<dyn Store>) {
    for _ in 0..20 {
        created(&*store).await;
    }
    let claims = (0..8).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            store.claim(BACKEND, LeaseOwner::generate(), at(1), LEASE, Room::of_each(5)).await.unwrap()
        })
    });
    let mut held = std::collections::HashSet::new();
    for claim in claims.collect::<Vec<_>>() {
        for claimed in claim.await.unwrap() {
            assert!(held.insert(claimed.record.workspace), "claimed twice");
        }
    }
    held.extend(claim(&*store, at(1)).await.into_iter().map(|claimed| claimed.record.workspace));
    assert_eq!(held.len(), 20);
    assert!(claim(&*store, at(30)).await.is_empty());
    assert_eq!(store.next_due(BACKEND, at(30), ANY).await.unwrap(), Some(at(61)));
    assert_eq!(claim(&*store, at(61)).await.len(), 20, "leases end");
}

async fn backends_are_apart(store: Arc<dyn Store>) {
    let record = created(&*store).await;
    let elsewhere = ProvisionRequest { backend: "other".to_owned(), ..provision(WorkspaceId::generate()) };
    let other = store.provision(&elsewhere, at(5)).await.unwrap();
    assert_eq!(store.next_due("other", at(1), ANY).await.unwrap(), Some(at(5)));
    let claimed = claim(&*store, at(9)).await;
    assert_eq!(claimed.iter().map(|c| c.record.workspace).collect::<Vec<_>>(), [record.workspace]);
    let expected = store.expectations("other").await.unwrap();
    assert_eq!(expected.instances.iter().map(|e| e.workspace).collect::<Vec<_>>(), [other.workspace]);
    assert_eq!(store.next_due("third", at(1), ANY).await.unwrap(), None);
}

async fn a_lost_lease_writes_nothing(store: Arc<dyn Store>) {
    let record = created(&*store).await;
    let slept = claim_one(&*store, at(1)).await;
    let next = claim_one(&*store, at(100)).await;
    let write = Outcome { phase: Some(Phase::Failed), ..outcome(&record) };
    assert!(next.lease.epoch > slept.lease.epoch, "each lease has a later number");
    for lease in [slept.lease, molecule_provisioner::model::Lease { epoch: next.lease.epoch, ..slept.lease }]
    {
        let result = store.commit(&lease, at(101), &write, true).await;
        assert!(matches!(result, Err(StoreError::LeaseLost(_))), "{result:?}");
        let result = store.begin_launch(&lease, record.wanted(), "", at(101), at(110)).await;
        assert!(matches!(result, Err(StoreError::LeaseLost(_))), "{result:?}");
    }
    let late = store.commit(&next.lease, at(160), &write, true).await;
    assert!(matches!(late, Err(StoreError::LeaseLost(_))), "a lease that has run out still wrote");
    assert_eq!(store.get(ORG, record.workspace).await.unwrap(), Some(next.record));
}

async fn a_stale_plan_writes_only_facts(store: Arc<dyn Store>) {
    let record = created(&*store).await;
    let claimed = claim_one(&*store, at(1)).await;
    store.begin_launch(&claimed.lease, record.wanted(), "", at(1), at(31)).await.unwrap();
    store.change(&ask(&record, Change::Delete), at(2)).await.unwrap();
    let planned_before = Outcome {
        phase: Some(Phase::Up),
        attempt: Some(AttemptState::Confirmed),
        call_ended: Some(at(3)),
        fact: Some(Fact::Up(at(3))),
        ..outcome(&record)
    };
    let after = commit(&*store, &claimed, at(3), planned_before).await;
    assert_eq!((after.phase, after.desired), (Phase::Launching, Desired::Deleted));
    assert_eq!(
        after.attempt.as_ref().map(|a| (a.state, a.call_until)),
        Some((AttemptState::Confirmed, at(3)))
    );
    assert_eq!(after.up_since, Some(at(3)));
    assert_eq!(after.due_at, Some(at(3)), "it is planned again at once");
}

/// A session is reset by the launch that brings its generation, however many were refused before it; and not again when what
/// it launched has ended by itself.
async fn a_session_is_reset_once(store: Arc<dyn Store>) {
    let mut request = provision(WorkspaceId::generate());
    request.spec.reset_session = true;
    let record = store.provision(&request, at(0)).await.unwrap();
    for (second, state, resets) in [
        (1, AttemptState::Resolved, true),
        (10, AttemptState::Confirmed, false),
        (20, AttemptState::Resolved, false),
    ] {
        let claimed = claim_one(&*store, at(second)).await;
        let begun = store.begin_launch(&claimed.lease, record.wanted(), "", at(second), at(second + 1)).await;
        begun.unwrap();
        let ended = Outcome {
            attempt: Some(state),
            call_ended: Some(at(second)),
            due_at: Some(at(second)),
            ..outcome(&record)
        };
        let after = commit(&*store, &claimed, at(second), ended).await;
        assert_eq!(after.spec.reset_session, resets, "{state:?}");
    }
    // that the old generation was launched says nothing about the next
    let spec = Box::new(request.spec);
    let change = Change::Replace { generation: Generation(2), spec, sealed_token: vec![], run: true };
    let replaced = store.change(&ask(&record, change), at(30)).await.unwrap();
    let claimed = claim_one(&*store, at(30)).await;
    let seen = Outcome { attempt: Some(AttemptState::Confirmed), ..outcome(&replaced) };
    assert!(commit(&*store, &claimed, at(31), seen).await.spec.reset_session);
}

async fn a_wake_during_a_lease_is_not_lost(store: Arc<dyn Store>) {
    let record = created(&*store).await;
    let claimed = claim_one(&*store, at(1)).await;
    store.wake(&[record.workspace], at(2)).await.unwrap();
    assert!(claim(&*store, at(2)).await.is_empty(), "it is held");
    let next_due = async |second| store.next_due(BACKEND, at(second), ANY).await.unwrap();
    assert_eq!(next_due(2).await, Some(at(61)), "nobody can take it before its lease ends");
    assert_eq!(next_due(61).await, Some(at(2)), "it has been due since it was woken");
    let after = commit(&*store, &claimed, at(3), outcome(&record)).await;
    assert_eq!(after.due_at, Some(at(3)));
    let claimed = claim_one(&*store, at(4)).await;
    let after = commit(&*store, &claimed, at(5), outcome(&record)).await;
    assert_eq!(after.due_at, None);
}

async fn a_launch_that_was_overtaken_is_not_begun(store: Arc<dyn Store>) {
    let record = created(&*store).await;
    let claimed = claim_one(&*store, at(1)).await;
    store.change(&ask(&record, Change::Delete), at(2)).await.unwrap();
    let result = store.begin_launch(&claimed.lease, record.wanted(), "", at(3), at(31)).await;
    assert!(matches!(result, Err(StoreError::Overtaken(_))), "{result:?}");
    let now = store.get(ORG, record.workspace).await.unwrap().unwrap();
    assert_eq!((now.phase, now.attempt), (claimed.record.phase, None), "nothing was begun");
}

async fn of_an_illegal_decision_the_facts_are_written(store: Arc<dyn Store>) {
    let record = created(&*store).await;
    let claimed = claim_one(&*store, at(1)).await;
    let stopped = Outcome { phase: Some(Phase::Stopped), ..outcome(&record) };
    let stopped = store.commit(&claimed.lease, at(1), &stopped, false).await.unwrap();
    let illegal = Outcome { phase: Some(Phase::Up), fact: Some(Fact::Up(at(1))), ..outcome(&record) };
    let result = store.commit(&claimed.lease, at(1), &illegal, true).await;
    assert!(matches!(result, Err(StoreError::Illegal(_))), "{result:?}");
    let after = store.get(ORG, record.workspace).await.unwrap().unwrap();
    assert_eq!((after.phase, after.message), (Phase::Stopped, stopped.message));
    assert_eq!(after.up_since, Some(at(1)));
    assert_eq!(store.segments(record.workspace).await.unwrap().len(), 1, "it is up, whatever was decided");
    // the lease is given back, and the same decision is not made again at once
    assert!(claim(&*store, at(2)).await.is_empty());
    assert_eq!(claim(&*store, at(60)).await.len(), 1);
}

async fn one_process_has_a_role(store: Arc<dyn Store>) {
    let (one, other) = (LeaseOwner::generate(), LeaseOwner::generate());
    assert!(store.lead("sweep", one, at(0), at(10)).await.unwrap());
    assert!(!store.lead("sweep", other, at(5), at(15)).await.unwrap());
    assert!(store.lead("another", other, at(5), at(15)).await.unwrap());
    assert!(store.lead("sweep", one, at(6), at(16)).await.unwrap());
    assert!(!store.lead("sweep", other, at(12), at(22)).await.unwrap(), "it was prolonged");
    assert!(store.lead("sweep", other, at(16), at(26)).await.unwrap());
}

async fn created_by(store: &dyn Store, organization: OrganizationId, count: usize) -> Vec<InstanceRecord> {
    let mut all = Vec::new();
    for _ in 0..count {
        let request = ProvisionRequest { organization, ..provision(WorkspaceId::generate()) };
        all.push(store.provision(&request, at(0)).await.unwrap());
    }
    all
}

/// Which organisations' records are claimed, sorted.
async fn claimed_of(store: &dyn Store, second: i64, room: Room) -> Vec<OrganizationId> {
    let claimed = store.claim(BACKEND, LeaseOwner::generate(), at(second), LEASE, room).await.unwrap();
    let mut owners: Vec<_> = claimed.iter().map(|one| one.record.organization).collect();
    owners.sort_unstable();
    owners
}

/// However much of one organisation's is due, and for however long, another's next is next.
async fn organizations_take_turns(store: Arc<dyn Store>) {
    created_by(&*store, ORG, 20).await;
    let launches = |launches| Room { launches, others: 0 };
    assert_eq!(claimed_of(&*store, 1, launches(4)).await, [ORG; 4]);
    let request = ProvisionRequest { organization: OTHER, ..provision(WorkspaceId::generate()) };
    store.provision(&request, at(2)).await.unwrap();
    store
        .provision(&ProvisionRequest { workspace: WorkspaceId::generate(), ..request }, at(2))
        .await
        .unwrap();
    assert_eq!(claimed_of(&*store, 3, launches(1)).await, [OTHER], "four of the first are held");
    assert_eq!(claimed_of(&*store, 4, launches(3)).await, [ORG, ORG, OTHER]);
    assert_eq!(claimed_of(&*store, 5, launches(30)).await, [ORG; 14]);
    assert_eq!(store.next_due(BACKEND, at(5), ANY).await.unwrap(), Some(at(61)), "all are held");
    // none is held any more: four of the first have been due for longest
    assert_eq!(claimed_of(&*store, 100, launches(2)).await, [ORG, OTHER]);
}

async fn launches_and_others_have_room_of_their_own(store: Arc<dyn Store>) {
    let all = created_by(&*store, ORG, 6).await;
    let booting: Vec<_> = all[..2].iter().map(|record| record.workspace).collect();
    for claimed in claim(&*store, at(1)).await {
        let mut due = Outcome { due_at: Some(at(3)), ..outcome(&claimed.record) };
        if booting.contains(&claimed.record.workspace) {
            let launching = Outcome { phase: Some(Phase::Launching), ..outcome(&claimed.record) };
            store.commit(&claimed.lease, at(1), &launching, false).await.unwrap();
            due = Outcome { phase: Some(Phase::Booting), due_at: Some(at(2)), ..due };
        }
        commit(&*store, &claimed, at(1), due).await;
    }
    store.change(&ask(&all[5], Change::Delete), at(4)).await.unwrap();
    let room = |launches, others| Room { launches, others };
    let claimed = async |second, room| {
        let claimed = store.claim(BACKEND, LeaseOwner::generate(), at(second), LEASE, room).await.unwrap();
        let mut workspaces: Vec<_> = claimed.iter().map(|one| one.record.workspace).collect();
        workspaces.sort_unstable();
        workspaces
    };
    assert_eq!(claimed(5, room(0, 0)).await, []);
    assert_eq!(
        claimed(5, room(0, 1)).await,
        [all[5].workspace],
        "what is to go comes first, though due last"
    );
    assert_eq!(store.next_due(BACKEND, at(5), room(0, 1)).await.unwrap(), Some(at(2)));
    assert_eq!(store.next_due(BACKEND, at(5), room(1, 0)).await.unwrap(), Some(at(3)));
    assert_eq!(claimed(6, room(0, 9)).await, booting);
    let waiting: Vec<_> = all[2..5].iter().map(|record| record.workspace).collect();
    assert_eq!(claimed(6, room(9, 0)).await, waiting);
    // of two organisations on one turn, what is to stop comes before what is only looked at
    let looked_at = claim(&*store, at(70)).await;
    for claimed in looked_at {
        let due_at = booting.contains(&claimed.record.workspace).then_some(at(71));
        commit(&*store, &claimed, at(70), Outcome { due_at, ..outcome(&claimed.record) }).await;
    }
    let others = created_by(&*store, OTHER, 1).await;
    store.change(&ask(&others[0], Change::Stop(None)), at(72)).await.unwrap();
    assert_eq!(claimed(73, room(0, 1)).await, [others[0].workspace]);
}
