//! What any store must do that tenants call over a network.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use molecule_domain::Timestamp;
use molecule_domain::error::ErrorReason;
use molecule_domain::id::{IncarnationId, IntentNumber, LaunchSeq, LeaseOwner, OrganizationId, WorkspaceId};
use molecule_domain::lifecycle::Phase;
use molecule_domain::limits::{Limits, Standing};
use molecule_provisioner::admission::{Account, Change, ChangeRequest, ProvisionRequest};
use molecule_provisioner::model::InstanceRecord;
use molecule_provisioner::outcome::Outcome;
use molecule_provisioner::samples::provision;
use molecule_provisioner::store::{Awaited, Hold, RefusedWish, Room, Store, StoreError, Tenants};

use crate::engine_store::{BACKEND, LEASE, ORG, at};

/// The service over a store, as tenants meet it.
#[async_trait]
pub trait Service: Send + Sync {
    /// Begins anew.
    async fn begins(&self, now: Timestamp);
    /// Serves a process of a tenant's. Whether the tenant has agreed with this start of the service.
    async fn meets(&self, organization: OrganizationId, process: IncarnationId) -> bool;
    /// A process that is served says that it has agreed, for the so manieth time, and of which wishes that it has still to tell.
    async fn agrees(
        &self,
        organization: OrganizationId,
        process: (IncarnationId, i64),
        waiting: &[(WorkspaceId, IntentNumber)],
        now: Timestamp,
    );
}

/// One store, by its three sides.
pub struct Subject {
    /// The engine's.
    pub store: Arc<dyn Store>,
    /// The tenants'.
    pub tenants: Arc<dyn Tenants>,
    /// The service's.
    pub service: Arc<dyn Service>,
}

/// Runs every case on a store of its own; panics at the first that fails.
pub async fn run<F>(make: impl Fn() -> F)
where
    F: Future<Output = Subject>,
{
    what_was_refused_is_refused_for_good(fresh(&make).await).await;
    a_grant_that_came_first_holds(fresh(&make).await).await;
    another_process_may_use_the_number_again(fresh(&make).await).await;
    nothing_is_launched_before_its_tenant_has_agreed(fresh(&make).await).await;
    what_waits_to_be_told_is_held_until_it_is_heard(fresh(&make).await).await;
    an_agreement_has_everything_looked_at(fresh(&make).await).await;
    time_counts_from_the_first_agreement(fresh(&make).await).await;
    what_is_told_again_is_awaited_until_it_is_heard(fresh(&make).await).await;
    a_refused_creation_takes_all_with_it_that_waits(fresh(&make).await).await;
    what_was_heard_is_not_waited_for_once_its_record_is_dropped(fresh(&make).await).await;
}

async fn fresh<F>(make: &impl Fn() -> F) -> Subject
where
    F: Future<Output = Subject>,
{
    let subject = make().await;
    subject.store.set_account(ORG, Account::default()).await.unwrap();
    subject.service.begins(at(0)).await;
    subject
}

/// The first wish for a new workspace.
fn first_wish() -> ProvisionRequest {
    ProvisionRequest { intent: IntentNumber(1), ..provision(WorkspaceId::generate()) }
}

impl Subject {
    /// How many workspaces there may be.
    async fn limited(&self, workspaces: i64) {
        let account = self.store.account(ORG, at(1)).await.unwrap();
        let limits = Limits { workspaces: Some(workspaces), ..account.limits };
        self.store.set_account(ORG, Account { limits, ..account }).await.unwrap();
    }

    async fn refuse(
        &self,
        workspace: WorkspaceId,
        intent: i64,
        error: &StoreError,
    ) -> Option<InstanceRecord> {
        self.refuse_to(None, workspace, intent, error, at(2)).await
    }

    async fn refuse_to(
        &self,
        process: Option<IncarnationId>,
        workspace: WorkspaceId,
        intent: i64,
        error: &StoreError,
        now: Timestamp,
    ) -> Option<InstanceRecord> {
        let StoreError::Refused(error) = error else { panic!("{error:?}") };
        let (reason, message) = (error.reason, error.message.clone());
        let (intent, creates) = (IntentNumber(intent), false);
        let refused = RefusedWish { organization: ORG, workspace, intent, process, creates, reason, message };
        self.tenants.refuse(&refused, now).await.unwrap()
    }

    async fn change(
        &self,
        record: &InstanceRecord,
        intent: i64,
        change: Change,
    ) -> Result<InstanceRecord, StoreError> {
        let request = ChangeRequest {
            organization: ORG,
            workspace: record.workspace,
            intent: IntentNumber(intent),
            change,
            refusal_is_final: true,
            process: None,
            trace: String::new(),
        };
        self.store.change(&request, at(3)).await
    }

    /// Agreements of a process, of which each is numbered by its second.
    async fn agrees(&self, process: IncarnationId, waiting: &[(WorkspaceId, IntentNumber)], now: Timestamp) {
        let number = now.micros() / 1_000_000;
        self.service.agrees(ORG, (process, number), waiting, now).await;
    }

    async fn created(&self) -> InstanceRecord {
        self.store.provision(&first_wish(), at(1)).await.unwrap()
    }

    /// The provider confirms that nothing is left of one.
    async fn ends(&self, workspace: WorkspaceId, now: Timestamp) {
        let claimed = self.store.claim(BACKEND, LeaseOwner::generate(), now, LEASE, Room::of_each(100)).await;
        let one = claimed.unwrap().into_iter().find(|one| one.record.workspace == workspace).unwrap();
        let planned_for = one.record.wanted();
        let outcome = Outcome { planned_for, phase: Some(Phase::Gone), ..Outcome::default() };
        self.store.commit(&one.lease, now, &outcome, true).await.unwrap();
    }

    /// What is said of each record, which fall due at once again.
    async fn holds(&self, second: i64) -> Vec<(WorkspaceId, Hold)> {
        let now = at(second);
        let claimed = self.store.claim(BACKEND, LeaseOwner::generate(), now, LEASE, Room::of_each(100)).await;
        let mut holds = Vec::new();
        for one in claimed.unwrap() {
            let outcome =
                Outcome { planned_for: one.record.wanted(), due_at: Some(now), ..Outcome::default() };
            self.store.commit(&one.lease, now, &outcome, true).await.unwrap();
            holds.push((one.record.workspace, one.hold));
        }
        holds.sort_unstable_by_key(|(workspace, _)| *workspace);
        holds
    }
}

fn error_of<T: std::fmt::Debug>(result: Result<T, StoreError>) -> StoreError {
    result.expect_err("it is refused")
}

/// A call that is heard late is refused as the one before it was, whatever has become possible since.
async fn what_was_refused_is_refused_for_good(subject: Subject) {
    subject.limited(0).await;
    let request = first_wish();
    let first = error_of(subject.store.provision(&request, at(1)).await);
    assert!(subject.refuse(request.workspace, 1, &first).await.is_none());
    // the first word is the last
    let other = StoreError::Refused(molecule_domain::Error::new(ErrorReason::QuotaExceeded, "another word"));
    assert!(subject.refuse(request.workspace, 1, &other).await.is_none());
    subject.limited(10).await;
    let again = error_of(subject.store.provision(&request, at(2)).await);
    assert!(matches!(&again, StoreError::Refused(error) if error.reason == ErrorReason::QuotaExceeded));
    assert_eq!(again.to_string(), first.to_string());
    let anew = ProvisionRequest { intent: IntentNumber(2), ..request };
    let record = subject.store.provision(&anew, at(2)).await.unwrap();
    assert_eq!(record.intent, IntentNumber(2));

    let stopped = subject.change(&record, 3, Change::Stop(None)).await.unwrap();
    assert!(subject.refuse(record.workspace, 4, &first).await.is_none());
    // an older refusal that is heard later takes nothing back
    assert!(subject.refuse(record.workspace, 3, &first).await.is_some());
    error_of(subject.change(&record, 4, Change::Start).await);
    assert_eq!(subject.store.get(ORG, record.workspace).await.unwrap().unwrap(), stopped);
    // what stops and ends is never refused
    let granted = subject.change(&record, 4, Change::Stop(None)).await.unwrap();
    assert_eq!(granted.intent, IntentNumber(4));
    // and what was granted under a number is what any call with that number is answered
    assert_eq!(subject.change(&record, 4, Change::Start).await.unwrap(), granted);
    subject.change(&record, 5, Change::Start).await.unwrap();
    // a repeated call of what was granted is answered as before
    assert_eq!(subject.change(&record, 3, Change::Stop(None)).await.unwrap().intent, IntentNumber(5));
}

async fn a_grant_that_came_first_holds(subject: Subject) {
    let record = subject.created().await;
    let refusal = StoreError::Refused(molecule_domain::Error::new(ErrorReason::WrongState, "no"));
    assert_eq!(subject.refuse(record.workspace, 1, &refusal).await, Some(record.clone()));
    let started = subject.change(&record, 2, Change::Start).await.unwrap();
    assert_eq!(subject.refuse(record.workspace, 2, &refusal).await, Some(started));
    subject.change(&record, 3, Change::Start).await.unwrap();
}

/// A call that was on its way when its process ended is refused as well; but where the database was put back the number may
/// come again.
async fn another_process_may_use_the_number_again(subject: Subject) {
    let (first, second) = (IncarnationId::generate(), IncarnationId::generate());
    let asks =
        |process, request: &ProvisionRequest| ProvisionRequest { process: Some(process), ..request.clone() };
    subject.service.meets(ORG, first).await;
    let request = first_wish();
    let refused = RefusedWish {
        organization: ORG,
        workspace: request.workspace,
        intent: IntentNumber(1),
        process: Some(first),
        creates: true,
        reason: ErrorReason::WrongState,
        message: "no".to_owned(),
    };
    subject.tenants.refuse(&refused, at(2)).await.unwrap();
    for process in [first, second] {
        subject.service.meets(ORG, process).await;
        error_of(subject.store.provision(&asks(first, &request), at(2)).await);
    }
    subject.store.provision(&asks(second, &request), at(2)).await.unwrap();
}

/// Else nothing that is asked for would ever fail under a tenant that agrees over and over.
async fn time_counts_from_the_first_agreement(subject: Subject) {
    let process = IncarnationId::generate();
    let record = subject.created().await;
    subject.service.meets(ORG, process).await;
    for second in [4, 400] {
        subject.agrees(process, &[], at(second)).await;
        assert_eq!(subject.holds(second).await, [(record.workspace, Hold::Released(at(4)))]);
    }
    subject.service.begins(at(500)).await;
    subject.agrees(process, &[], at(600)).await;
    assert_eq!(subject.holds(600).await, [(record.workspace, Hold::Released(at(600)))]);
}

async fn nothing_is_launched_before_its_tenant_has_agreed(subject: Subject) {
    let process = IncarnationId::generate();
    let record = subject.created().await;
    assert_eq!(subject.holds(2).await, [(record.workspace, Hold::None)], "nobody has met the service");
    assert!(!subject.service.meets(ORG, process).await);
    let held = subject.holds(3).await;
    assert!(matches!(held[..], [(_, Hold::Held(_))]), "{held:?}");
    subject.agrees(process, &[], at(4)).await;
    assert_eq!(subject.holds(5).await, [(record.workspace, Hold::Released(at(4)))]);
    assert!(subject.service.meets(ORG, process).await);
    // a process that comes after it goes on with that
    let process = IncarnationId::generate();
    assert!(subject.service.meets(ORG, process).await);
    assert_eq!(subject.holds(6).await, [(record.workspace, Hold::Released(at(4)))]);
    subject.service.begins(at(7)).await;
    let held = subject.holds(8).await;
    assert!(matches!(held[..], [(_, Hold::Held(_))]), "another start: {held:?}");
    assert!(!subject.service.meets(ORG, process).await);
    subject.agrees(process, &[], at(9)).await;
    assert_eq!(subject.holds(9).await, [(record.workspace, Hold::Released(at(9)))]);
}

async fn what_waits_to_be_told_is_held_until_it_is_heard(subject: Subject) {
    let process = IncarnationId::generate();
    let (one, two, three) = (subject.created().await, subject.created().await, subject.created().await);
    subject.service.meets(ORG, process).await;
    let waiting = [(one.workspace, IntentNumber(3)), (two.workspace, IntentNumber(2))];
    subject.agrees(process, &waiting, at(4)).await;
    let held = |holds: Vec<(WorkspaceId, Hold)>| {
        holds
            .into_iter()
            .filter(|(_, hold)| matches!(hold, Hold::Held(_)))
            .map(|(id, _)| id)
            .collect::<Vec<_>>()
    };
    assert_eq!(held(subject.holds(5).await), [one.workspace, two.workspace]);
    // the last one counts
    subject.change(&one, 2, Change::Start).await.unwrap();
    assert_eq!(held(subject.holds(6).await), [one.workspace, two.workspace]);
    // and whatever is kept no longer, that is
    subject.store.prune(at(1)).await.unwrap();
    assert_eq!(held(subject.holds(6).await), [one.workspace, two.workspace]);
    subject.change(&one, 3, Change::Start).await.unwrap();
    assert_eq!(held(subject.holds(7).await), [two.workspace]);
    // what is refused was heard
    let refusal = StoreError::Refused(molecule_domain::Error::new(ErrorReason::WrongState, "no"));
    subject.refuse_to(Some(process), two.workspace, 2, &refusal, at(7)).await;
    assert_eq!(held(subject.holds(8).await), []);
    // and its time begins only now: nothing was tried while it was held
    let now = subject.store.get(ORG, two.workspace).await.unwrap().unwrap();
    assert_eq!(now.phase_since, at(7));
    // and stays so when nothing is known of the refusal any more
    subject.store.prune(at(9)).await.unwrap();
    assert_eq!(held(subject.holds(8).await), []);
    // what was heard is not waited for again because a call of before is heard late
    subject.service.agrees(ORG, (process, 4), &waiting, at(8)).await;
    assert_eq!(held(subject.holds(8).await), []);
    // an agreement takes the place of the one before
    let since = async |workspace| subject.store.get(ORG, workspace).await.unwrap().unwrap().phase_since;
    let before = [since(one.workspace).await, since(three.workspace).await];
    subject.agrees(process, &[(three.workspace, IntentNumber(9))], at(9)).await;
    assert_eq!(held(subject.holds(9).await), [three.workspace]);
    subject
        .agrees(process, &[(one.workspace, IntentNumber(3)), (three.workspace, IntentNumber(9))], at(10))
        .await;
    assert_eq!(held(subject.holds(10).await), [three.workspace]);
    assert_eq!([since(one.workspace).await, since(three.workspace).await], before);
    // what that sets free begins its time, and no other
    subject.agrees(process, &[], at(11)).await;
    assert_eq!(held(subject.holds(11).await), []);
    assert_eq!([since(one.workspace).await, since(three.workspace).await], [before[0], at(11)]);
}

/// Its record may be dropped, and its id be given to another one, whose wishes are counted from one.
async fn what_was_heard_is_not_waited_for_once_its_record_is_dropped(subject: Subject) {
    let process = IncarnationId::generate();
    let (one, two) = (subject.created().await, subject.created().await);
    subject.service.meets(ORG, process).await;
    let waiting = [&one, &two].map(|record| (record.workspace, IntentNumber(5)));
    subject.agrees(process, &waiting, at(3)).await;
    subject.change(&one, 5, Change::Stop(None)).await.unwrap();
    subject.change(&one, 6, Change::Delete).await.unwrap();
    // of the other what was waited for is the last that is heard
    subject.change(&two, 5, Change::Delete).await.unwrap();
    subject.ends(one.workspace, at(4)).await;
    subject.ends(two.workspace, at(4) + LEASE).await;
    subject.store.prune(at(100)).await.unwrap();
    for record in [&one, &two] {
        let stored = subject.store.get(ORG, record.workspace).await.unwrap();
        assert_eq!(stored, None, "its record is dropped");
    }
    let awaited = subject.store.expectations(BACKEND).await.unwrap().awaited;
    assert_eq!(awaited, HashMap::new());
}

/// What the store lacks, and a tenant tells again, is nobody's to remove.
async fn what_is_told_again_is_awaited_until_it_is_heard(subject: Subject) {
    let process = IncarnationId::generate();
    let [granted, refused, deleted, other] =
        [(); 4].map(|()| ProvisionRequest { intent: IntentNumber(7), ..first_wish() });
    subject.service.meets(ORG, process).await;
    let waiting = [&granted, &refused, &deleted].map(|request| (request.workspace, request.intent));
    subject.agrees(process, &waiting, at(4)).await;
    let awaited = async || {
        let awaited = subject.store.expectations(BACKEND).await.unwrap().awaited;
        let is_left =
            |request: &ProvisionRequest| awaited.get(&(ORG, request.workspace)) == Some(&Awaited::Whole);
        [&granted, &refused, &deleted, &other].map(is_left)
    };
    assert_eq!(awaited().await, [true, true, true, false]);
    // what an operator has answered for is kept in mind for as long
    let launch = (LaunchSeq(9), granted.workspace);
    subject.store.end_alarm(BACKEND, &[launch], at(4)).await.unwrap();
    subject.store.prune(at(5)).await.unwrap();
    assert!(subject.store.launched(&[launch]).await.unwrap().contains(&launch));
    // nothing of a suspended organisation's is to run
    let account = subject.store.account(ORG, at(4)).await.unwrap();
    let suspended = Account { standing: Standing::Suspended, ..account.clone() };
    subject.store.set_account(ORG, suspended).await.unwrap();
    let data = subject.store.expectations(BACKEND).await.unwrap().awaited;
    assert_eq!(data.get(&(ORG, granted.workspace)), Some(&Awaited::Data));
    subject.store.set_account(ORG, account).await.unwrap();
    let record = subject.store.provision(&granted, at(5)).await.unwrap();
    // what is granted is not waited for, and a refusal of what came after it begins no time anew
    let refusal = StoreError::Refused(molecule_domain::Error::new(ErrorReason::WrongState, "no"));
    subject.refuse_to(Some(process), granted.workspace, 8, &refusal, at(6)).await;
    assert_eq!(subject.store.get(ORG, granted.workspace).await.unwrap().unwrap().phase_since, at(5));
    assert_eq!(awaited().await, [false, true, true, false]);
    subject.refuse(refused.workspace, 6, &refusal).await;
    assert_eq!(awaited().await, [false, true, true, false], "it says nothing of what was asked for later");
    subject.refuse(refused.workspace, 7, &refusal).await;
    assert_eq!(awaited().await, [false, false, true, false]);
    let gone = InstanceRecord { workspace: deleted.workspace, ..record.clone() };
    // an earlier one says nothing of what was asked for later
    error_of(subject.change(&gone, 6, Change::Delete).await);
    assert_eq!(awaited().await, [false, false, true, false]);
    error_of(subject.change(&gone, 8, Change::Delete).await);
    assert_eq!(awaited().await, [false; 4]);
    // what is there is held, and not awaited
    let is_awaited = async || {
        let awaited = subject.store.expectations(BACKEND).await.unwrap().awaited;
        awaited.contains_key(&(ORG, record.workspace))
    };
    subject.agrees(process, &[(record.workspace, IntentNumber(9))], at(9)).await;
    assert!(!is_awaited().await);
    // nor is what is being deleted already, and is deleted once more
    subject.change(&record, 9, Change::Delete).await.unwrap();
    subject.agrees(process, &[(record.workspace, IntentNumber(10))], at(10)).await;
    subject.change(&record, 10, Change::Delete).await.unwrap();
    let held = subject.holds(11).await;
    assert!(matches!(held[..], [(_, Hold::Released(_))]), "{held:?}");
    // what was gone before the wish that waits is awaited, and what went with it isn't
    let claimed = subject.store.claim(BACKEND, LeaseOwner::generate(), at(12), LEASE, Room::of_each(1)).await;
    let one = claimed.unwrap().pop().unwrap();
    let gone = Outcome { planned_for: one.record.wanted(), phase: Some(Phase::Gone), ..Outcome::default() };
    subject.store.commit(&one.lease, at(12), &gone, true).await.unwrap();
    for (second, number, expected) in [(13, one.record.intent, false), (14, one.record.intent.next(), true)] {
        subject.agrees(process, &[(record.workspace, number)], at(second)).await;
        assert_eq!(is_awaited().await, expected, "{number}");
    }
}

/// What a restored store lacks, and whose creation is refused: its tenant takes back all that was asked for after that.
async fn a_refused_creation_takes_all_with_it_that_waits(subject: Subject) {
    let (process, request) = (IncarnationId::generate(), first_wish());
    subject.service.meets(ORG, process).await;
    subject.agrees(process, &[(request.workspace, IntentNumber(3))], at(4)).await;
    let awaited = async || subject.store.expectations(BACKEND).await.unwrap().awaited.len();
    let refused = RefusedWish {
        organization: ORG,
        workspace: request.workspace,
        intent: request.intent,
        process: Some(process),
        creates: false,
        reason: ErrorReason::WrongState,
        message: "no".to_owned(),
    };
    subject.tenants.refuse(&refused, at(5)).await.unwrap();
    assert_eq!(awaited().await, 1, "a change says nothing of what was asked for after it");
    subject.tenants.refuse(&RefusedWish { creates: true, ..refused }, at(6)).await.unwrap();
    assert_eq!(awaited().await, 0);
}

async fn an_agreement_has_everything_looked_at(subject: Subject) {
    let process = IncarnationId::generate();
    subject.created().await;
    subject.service.meets(ORG, process).await;
    let claimed = subject.store.claim(BACKEND, LeaseOwner::generate(), at(2), LEASE, Room::of_each(1)).await;
    let one = claimed.unwrap().pop().unwrap();
    let later = Outcome { planned_for: one.record.wanted(), due_at: Some(at(500)), ..Outcome::default() };
    subject.store.commit(&one.lease, at(2), &later, true).await.unwrap();
    assert_eq!(subject.holds(3).await, []);
    subject.agrees(process, &[], at(4)).await;
    assert_eq!(subject.holds(4).await.len(), 1);
}
