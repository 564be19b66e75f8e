//! What is admitted, refused, and counted.

use std::sync::Arc;

use molecule_domain::error::ErrorReason;
use molecule_domain::id::{Generation, IntentNumber, Revision, WorkspaceId};
use molecule_domain::launch::LaunchSpec;
use molecule_domain::lifecycle::{Desired, Phase, Reason};
use molecule_domain::limits::{Amounts, Limits, Permits, Standing};
use molecule_domain::tier::Tier;

use super::{
    BACKEND, ORG, OTHER, ask, at, claim, claim_one, commit, created, fresh, outcome, provision, reason, up,
};
use molecule_provisioner::admission::{Account, Change, ChangeRequest, ProvisionRequest};
use molecule_provisioner::model::InstanceRecord;
use molecule_provisioner::outcome::{Fact, Outcome};
use molecule_provisioner::samples::spec;
use molecule_provisioner::store::{Store, StoreError};

pub(super) async fn run<F: Future<Output = Arc<dyn Store>>>(make: impl Fn() -> F) {
    a_replayed_provision_is_one_record(fresh(&make).await).await;
    a_replayed_change_changes_nothing(fresh(&make).await).await;
    a_generation_that_is_ahead_is_accepted(fresh(&make).await).await;
    a_start_of_what_is_stopped_is_admitted_anew(fresh(&make).await).await;
    a_judgement_about_what_is_stopped_is_kept(fresh(&make).await).await;
    limits_hold_under_racers(fresh(&make).await).await;
    a_refused_admission_writes_nothing(fresh(&make).await).await;
    what_is_counted_follows_the_life(fresh(&make).await).await;
    launches_within_the_hour_are_counted(fresh(&make).await).await;
    a_plan_is_kept(fresh(&make).await).await;
    organizations_are_apart(fresh(&make).await).await;
}

async fn a_replayed_provision_is_one_record(store: Arc<dyn Store>) {
    let request = provision(WorkspaceId::generate());
    let first = store.provision(&request, at(0)).await.unwrap();
    let second = store.provision(&request, at(5)).await.unwrap();
    assert_eq!(first, second);
    assert_eq!(store.account(ORG, at(0)).await.unwrap().used.workspaces, 1);
    assert_eq!(store.events_after(ORG, 0, 10).await.unwrap().len(), 1);
}

async fn a_replayed_change_changes_nothing(store: Arc<dyn Store>) {
    let record = created(&*store).await;
    let stop = ask(&record, Change::Stop(None));
    let first = store.change(&stop, at(1)).await.unwrap();
    assert_eq!((first.desired, first.intent), (Desired::Stopped, IntentNumber(1)));
    assert_eq!(store.change(&stop, at(9)).await.unwrap(), first);
    let unknown = ChangeRequest { workspace: WorkspaceId::generate(), ..stop };
    assert_eq!(reason(store.change(&unknown, at(9)).await), ErrorReason::WorkspaceNotFound);
}

/// One that this side was never told of, or has lost, may lie between.
async fn a_generation_that_is_ahead_is_accepted(store: Arc<dyn Store>) {
    let record = created(&*store).await;
    let replaced = |generation| Change::Replace {
        generation: Generation(generation),
        spec: Box::new(spec()),
        sealed_token: vec![],
        run: true,
    };
    assert_eq!(reason(store.change(&ask(&record, replaced(1)), at(1)).await), ErrorReason::WrongState);
    let ahead = store.change(&ask(&record, replaced(7)), at(1)).await.unwrap();
    assert_eq!((ahead.generation, ahead.wanted_generation), (Generation(1), Generation(7)));
    let lost = ProvisionRequest { generation: Generation(5), ..provision(WorkspaceId::generate()) };
    let lost = store.provision(&lost, at(1)).await.unwrap();
    assert_eq!((lost.generation, lost.wanted_generation), (Generation(5), Generation(5)));
}

async fn limits_hold_under_racers(store: Arc<dyn Store>) {
    let limits = Limits { workspaces: Some(7), ..Limits::default() };
    store.set_account(ORG, Account { limits, ..Account::default() }).await.unwrap();
    let racers = (0..40).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.provision(&provision(WorkspaceId::generate()), at(0)).await })
    });
    let mut admitted = 0;
    for racer in racers.collect::<Vec<_>>() {
        match racer.await.unwrap() {
            Ok(_) => admitted += 1,
            Err(StoreError::Refused(error)) => assert_eq!(error.reason, ErrorReason::QuotaExceeded),
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(admitted, 7);
    assert_eq!(store.account(ORG, at(0)).await.unwrap().used.workspaces, 7);
}

async fn a_refused_admission_writes_nothing(store: Arc<dyn Store>) {
    store.set_account(ORG, Account { standing: Standing::Suspended, ..Account::default() }).await.unwrap();
    let request = provision(WorkspaceId::generate());
    assert_eq!(reason(store.provision(&request, at(0)).await), ErrorReason::NotInGoodStanding);
    assert_eq!(store.get(ORG, request.workspace).await.unwrap(), None);
    assert_eq!(store.account(ORG, at(0)).await.unwrap().used, Amounts::default());
    assert!(store.events_after(ORG, 0, 10).await.unwrap().is_empty());
    assert!(claim(&*store, at(1)).await.is_empty());
}

async fn what_is_counted_follows_the_life(store: Arc<dyn Store>) {
    let whole = spec().amounts();
    let used = || async { store.account(ORG, at(0)).await.unwrap().used };
    let record = up(&*store).await;
    assert_eq!(used().await, whole);

    // stopping counts until the provider confirms it
    let record = store.change(&ask(&record, Change::Stop(None)), at(3)).await.unwrap();
    assert_eq!(used().await, whole);
    let claimed = claim_one(&*store, at(4)).await;
    let down = Outcome { phase: Some(Phase::Stopped), fact: Some(Fact::Down(at(4))), ..outcome(&record) };
    let record = commit(&*store, &claimed, at(4), down).await;
    assert_eq!(used().await, whole.allocated_part());

    // starting again asks again
    let limits = Limits { running_workspaces: Some(0), ..Limits::default() };
    store.set_account(ORG, Account { limits, ..Account::default() }).await.unwrap();
    let start = ask(&record, Change::Start);
    assert_eq!(reason(store.change(&start, at(5)).await), ErrorReason::QuotaExceeded);
    store.set_account(ORG, Account::default()).await.unwrap();
    let record = store.change(&start, at(5)).await.unwrap();
    assert_eq!(used().await, whole);

    // deletion gives back all of it, once, when it is confirmed
    let record = store.change(&ask(&record, Change::Delete), at(6)).await.unwrap();
    assert_eq!(used().await, whole);
    let claimed = claim_one(&*store, at(7)).await;
    let gone = Outcome { phase: Some(Phase::Gone), fact: Some(Fact::Down(at(7))), ..outcome(&record) };
    let gone = commit(&*store, &claimed, at(7), gone).await;
    assert_eq!((used().await, gone.sealed_token), (Amounts::default(), None));
    let deleted = store.change(&ask(&record, Change::Start), at(8)).await;
    assert_eq!(reason(deleted), ErrorReason::WorkspaceDeleted);
    assert!(store.expectations(BACKEND).await.unwrap().instances.is_empty());
}

async fn launches_within_the_hour_are_counted(store: Arc<dyn Store>) {
    let limits = Limits { launches_per_hour: Some(2), ..Limits::default() };
    store.set_account(ORG, Account { limits, ..Account::default() }).await.unwrap();
    let first = created(&*store).await;
    store.provision(&provision(WorkspaceId::generate()), at(1)).await.unwrap();
    let third = provision(WorkspaceId::generate());
    assert_eq!(reason(store.provision(&third, at(2)).await), ErrorReason::QuotaExceeded);
    let replace = Change::Replace {
        generation: Generation(2),
        spec: Box::new(spec()),
        sealed_token: b"sealed".to_vec(),
        run: true,
    };
    let restart = ask(&first, replace);
    assert_eq!(reason(store.change(&restart, at(2)).await), ErrorReason::QuotaExceeded);
    store.change(&ask(&first, Change::Stop(None)), at(3)).await.expect("a stop is no launch");
    assert_eq!(store.account(ORG, at(3)).await.unwrap().launches, 2);
    assert_eq!(store.account(ORG, at(3600)).await.unwrap().launches, 1);
    store.provision(&third, at(3600)).await.expect("the first was an hour ago");
    for (before, launches) in [(1, 2), (3600, 1)] {
        store.prune(at(before)).await.unwrap();
        assert_eq!(store.account(ORG, at(3600)).await.unwrap().launches, launches, "the later ones are kept");
    }
}

async fn a_plan_is_kept(store: Arc<dyn Store>) {
    let permits = Permits {
        highest_tier: Some(Tier::T2),
        runtimes: vec!["demo".to_owned()],
        backends: vec![BACKEND.to_owned()],
    };
    let account = Account { permits: permits.clone(), ..Account::default() };
    store.set_account(ORG, account).await.unwrap();
    assert_eq!(store.account(ORG, at(0)).await.unwrap().permits, permits);
    let record = created(&*store).await;
    let elsewhere = ProvisionRequest { backend: "other".to_owned(), ..provision(WorkspaceId::generate()) };
    assert_eq!(reason(store.provision(&elsewhere, at(1)).await), ErrorReason::NotInPlan);
    let larger = Change::Replace {
        generation: Generation(2),
        spec: Box::new(LaunchSpec { tier: Tier::T3, ..spec() }),
        sealed_token: vec![],
        run: false,
    };
    assert_eq!(reason(store.change(&ask(&record, larger), at(1)).await), ErrorReason::QuotaExceeded);
}

async fn organizations_are_apart(store: Arc<dyn Store>) {
    let record = created(&*store).await;
    let other = OTHER;
    assert_eq!(store.get(other, record.workspace).await.unwrap(), None);
    assert!(store.changed_after(other, Revision(0), 10).await.unwrap().is_empty());
    assert!(store.events_after(other, 0, 10).await.unwrap().is_empty());
    let theirs = ChangeRequest { organization: other, ..ask(&record, Change::Delete) };
    assert_eq!(reason(store.change(&theirs, at(1)).await), ErrorReason::WorkspaceNotFound);
    let taken = ProvisionRequest { organization: other, ..provision(record.workspace) };
    assert_eq!(reason(store.provision(&taken, at(1)).await), ErrorReason::WorkspaceExists);
}

/// Stopped, by its own wish, at the second 2.
async fn stopped(store: &dyn Store) -> InstanceRecord {
    let record = created(store).await;
    let record = store.change(&ask(&record, Change::Stop(None)), at(1)).await.unwrap();
    let claimed = claim_one(store, at(2)).await;
    commit(store, &claimed, at(2), Outcome { phase: Some(Phase::Stopped), ..outcome(&record) }).await
}

/// So that its deadline begins with the wish.
async fn a_start_of_what_is_stopped_is_admitted_anew(store: Arc<dyn Store>) {
    let record = stopped(&*store).await;
    let started = store.change(&ask(&record, Change::Start), at(9)).await.unwrap();
    assert_eq!((started.phase, started.phase_since), (Phase::Admitted, at(9)));
    let record = stopped(&*store).await;
    let change = Change::Replace {
        generation: Generation(2),
        spec: Box::new(spec()),
        sealed_token: b"sealed".to_vec(),
        run: true,
    };
    let replaced = store.change(&ask(&record, change), at(9)).await.unwrap();
    assert_eq!((replaced.phase, replaced.phase_since), (Phase::Stopping, at(9)));
}

/// Heard by a store that was put back to when the workspace was stopped.
async fn a_judgement_about_what_is_stopped_is_kept(store: Arc<dyn Store>) {
    let record = stopped(&*store).await;
    let judged = Change::Stop(Some((Reason::AgentNotConnected, "no agent".to_owned())));
    let judged = store.change(&ask(&record, judged), at(9)).await.unwrap();
    assert_eq!((judged.phase, judged.reason), (Phase::Failed, Some(Reason::AgentNotConnected)));
}
