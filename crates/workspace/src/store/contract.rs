//! The suite that every store passes: what is asked for is kept until the provider has answered it, what it refuses is
//! taken back, and watchers hear of both.

mod agreement;

use std::sync::Arc;

use molecule_domain::Timestamp;
use molecule_domain::error::{Error, ErrorReason};
use molecule_domain::id::{Generation, IncarnationId, IntentNumber, OrganizationId, Revision, WorkspaceId};
use molecule_domain::incarnation::Standpoint;
use molecule_domain::instance::InstanceView;
use molecule_domain::lifecycle::{AgentHealth, Desired, Phase, Readiness, Reason};
use molecule_domain::spec::WorkspaceSpec;

use super::{Conditions, Redeemed, Redemption, StoreError, Stored, TenantStore};
use crate::agent::{Patience, Verdict};
use crate::aggregate::{Answer, Change, NewWorkspace, Refusal, SealedToken};
use crate::agreement::{Agreed, Met, Minter};
use crate::record::{RequestKey, WorkspaceRecord};
use crate::wish::{Entry, Wish};

const ORG: OrganizationId = OrganizationId::SELF_HOSTED;

/// Some second of a test's.
pub fn at(second: i64) -> Timestamp {
    Timestamp::from_micros(second * 1_000_000)
}

/// A workspace to be created; its token's hash is `hash 1` and the workspace's id.
pub fn new_workspace(workspace: WorkspaceId) -> NewWorkspace {
    NewWorkspace {
        workspace,
        organization: ORG,
        spec: spec("first"),
        readiness: Readiness::Agent,
        private: b"private first".to_vec(),
        token: token(workspace, 1),
        trace: String::new(),
    }
}

fn spec(name: &str) -> WorkspaceSpec {
    WorkspaceSpec { name: name.to_owned(), ..WorkspaceSpec::default() }
}

fn token(workspace: WorkspaceId, generation: u32) -> SealedToken {
    SealedToken {
        sealed: format!("sealed {generation}").into_bytes(),
        hash: format!("hash {generation} {workspace}").into_bytes(),
    }
}

/// What the provider says of an instance.
pub fn instance(record: &WorkspaceRecord, intent: IntentNumber, phase: Phase, revision: i64) -> InstanceView {
    InstanceView {
        workspace: record.workspace,
        organization: record.organization,
        desired: record.desired,
        intent,
        generation: record.generation,
        wanted_generation: record.generation,
        runtime: record.spec.runtime.clone(),
        tier: record.spec.tier,
        phase,
        phase_since: at(revision),
        reason: None,
        message: phase.to_string(),
        endpoint: None,
        revision: Revision(revision),
    }
}

fn key(id: &str) -> Conditions {
    Conditions { key: Some(RequestKey { id: id.to_owned(), fingerprint: b"f".to_vec() }), etag: None }
}

fn refused() -> Answer {
    let error = Refusal { reason: ErrorReason::QuotaExceeded, message: "too many".to_owned() };
    Answer::Refused(error)
}

/// Makes tokens and sealed parts that tests can read.
#[derive(Debug)]
pub struct PlainMinter;

impl Minter for PlainMinter {
    fn mint(&self, workspace: WorkspaceId, generation: Generation) -> SealedToken {
        let hash = format!("again {generation} {workspace}").into_bytes();
        SealedToken { sealed: format!("sealed again {generation}").into_bytes(), hash }
    }

    fn no_private_parts(&self, _workspace: WorkspaceId) -> Vec<u8> {
        b"nothing private".to_vec()
    }
}

/// A store under test, with short ways to ask.
struct Subject(Arc<dyn TenantStore>);

impl Subject {
    async fn created(&self) -> WorkspaceRecord {
        let new = new_workspace(WorkspaceId::generate());
        self.0.create(&new, None, at(1)).await.unwrap().record
    }

    /// A workspace that is up, and of which the provider knows all.
    async fn up(&self) -> WorkspaceRecord {
        let created = self.created().await;
        self.0.begin_call(created.workspace).await.unwrap();
        let answer = Answer::Granted(instance(&created, IntentNumber(1), Phase::Up, 2));
        self.0.answered(created.workspace, IntentNumber(1), &answer, at(2)).await.unwrap().unwrap()
    }

    /// Meets a provider that has these instances. `lost` says whether the provider has seen a start of this tenant that
    /// the store doesn't hold.
    async fn meets(&self, has: &[InstanceView], lost: bool) -> Agreed {
        let provider = Standpoint { incarnation: IncarnationId::generate(), revision: Revision(1) };
        let other = Standpoint { incarnation: IncarnationId::generate(), revision: Revision(1) };
        let met = Met { provider, seen: if lost { vec![other] } else { Vec::new() } };
        self.0.agree(ORG, &met, has, &PlainMinter, at(50)).await.unwrap()
    }

    async fn asks(&self, workspace: WorkspaceId, wish: Wish) -> Stored {
        self.asks_on(workspace, &Conditions::default(), wish).await.unwrap()
    }

    async fn asks_on(
        &self,
        workspace: WorkspaceId,
        on: &Conditions,
        wish: Wish,
    ) -> Result<Stored, StoreError> {
        let decide = move |found: &crate::Workspace| {
            found.refuse_deleting()?;
            let generation = found.next_generation();
            let replaces = matches!(wish, Wish::Replace { .. });
            let named = format!("generation {generation}");
            Ok(Change {
                token: wish.launches().then(|| token(workspace, generation.0)),
                spec: replaces.then(|| (spec(&named), Readiness::Process)),
                private: replaces.then(|| format!("private {generation}").into_bytes()),
                wish: Some(wish),
                trace: String::new(),
            })
        };
        self.0.change(ORG, workspace, on, at(3), Box::new(decide)).await
    }

    async fn labels(&self, workspace: WorkspaceId) -> WorkspaceRecord {
        let decide = |found: &crate::Workspace| {
            let mut spec = found.record.spec.clone();
            spec.labels.insert("team".to_owned(), "blue".to_owned());
            Ok(Change { spec: Some((spec, found.record.readiness)), ..Change::default() })
        };
        let on = Conditions::default();
        self.0.change(ORG, workspace, &on, at(3), Box::new(decide)).await.unwrap().record
    }

    async fn begins(&self, workspace: WorkspaceId) -> Option<Entry> {
        self.0.begin_call(workspace).await.unwrap().map(|(_, entry)| entry)
    }

    async fn outbox(&self, workspace: WorkspaceId) -> Vec<Wish> {
        let found = self.0.load(ORG, workspace).await.unwrap().unwrap();
        found.outbox.into_iter().map(|entry| entry.wish).collect()
    }

    async fn knows_token(&self, workspace: WorkspaceId, generation: u32) -> bool {
        let redemption = Redemption { token_hash: token(workspace, generation).hash, nonce: "n".to_owned() };
        let hash = move |_, _| format!("credential {generation} {workspace}").into_bytes();
        self.0.redeem(&redemption, Box::new(hash)).await.unwrap() != Redeemed::Unknown
    }
}

const RESTART: Wish = Wish::Replace { run: true, reset_session: false };

/// Runs the suite; `make` makes an empty store.
pub async fn run<F>(make: impl Fn() -> F)
where
    F: Future<Output = Arc<dyn TenantStore>>,
{
    let store = async || Subject(make().await);
    a_restart_that_was_begun_is_not_lost_by_a_stop(store().await).await;
    what_was_never_begun_is_composed(store().await).await;
    a_creation_that_was_begun_is_deleted_after_its_answer(store().await).await;
    a_creation_that_was_never_begun_is_deleted_at_once(store().await).await;
    a_label_that_changes_meanwhile_changes_no_wish(store().await).await;
    a_refused_replacement_is_taken_back_whole(store().await).await;
    a_refusal_spares_what_was_asked_for_since(store().await).await;
    stop_and_delete_are_never_taken_back(store().await).await;
    the_id_of_a_refused_creation_is_free_again(store().await).await;
    a_refused_creation_that_runs_after_all_is_deleted(store().await).await;
    a_refused_replacement_that_runs_after_all_is_taken_over(store().await).await;
    an_answer_tells_what_is_wanted_though_its_record_is_known(store().await).await;
    what_the_provider_gave_up_stays_given_up_where_an_older_answer_follows(store().await).await;
    a_refusal_goes_back_to_what_the_provider_gave_up_meanwhile(store().await).await;
    a_refusal_takes_back_no_label_that_was_set_between_composed_wishes(store().await).await;
    a_refusal_that_nobody_waits_for_can_be_read(store().await).await;
    an_old_word_of_the_provider_changes_no_wish(store().await).await;
    private_parts_are_decided_on_inside_the_transaction(store().await).await;
    what_waits_can_be_seen(store().await).await;
    requests_are_repeatable(store().await).await;
    a_token_is_redeemed_by_one_nonce(store().await).await;
    an_agent_is_judged_as_it_is_in_the_transaction(store().await).await;
    an_early_registration_stays(store().await).await;
    history_is_kept_for_a_day(store().await).await;
    agreement::run(store).await;
}

async fn a_restart_that_was_begun_is_not_lost_by_a_stop(store: Subject) {
    let workspace = store.up().await.workspace;
    let restarted = store.asks(workspace, RESTART).await;
    assert_eq!(store.begins(workspace).await.unwrap().number, restarted.number.unwrap());
    let stopped = store.asks(workspace, Wish::Stop(None)).await.record;
    assert_eq!((stopped.generation, stopped.desired), (Generation(2), Desired::Stopped));
    assert_eq!(store.outbox(workspace).await, [RESTART, Wish::Stop(None)]);
    // the same entry again, byte for byte, until it is answered
    let (first, again) = (store.begins(workspace).await.unwrap(), store.begins(workspace).await.unwrap());
    assert_eq!(first, again);
    assert_eq!((first.generation, first.sealed_token.as_slice()), (Generation(2), &b"sealed 2"[..]));
    let answer = Answer::Granted(instance(&stopped, first.number, Phase::Stopping, 3));
    store.0.answered(workspace, first.number, &answer, at(4)).await.unwrap();
    assert_eq!(store.outbox(workspace).await, [Wish::Stop(None)]);
    let third = store.asks(workspace, RESTART).await.record;
    assert_eq!(third.generation, Generation(3), "the stop was never begun, and a restart composes it away");
}

async fn what_was_never_begun_is_composed(store: Subject) {
    let workspace = store.up().await.workspace;
    store.asks(workspace, RESTART).await;
    let again = store.asks(workspace, RESTART).await.record;
    assert_eq!(again.generation, Generation(2), "the provider was never told of generation 2");
    let stopped = store.asks(workspace, Wish::Stop(None)).await;
    assert_eq!(store.outbox(workspace).await, [Wish::Replace { run: false, reset_session: false }]);
    let entry = store.begins(workspace).await.unwrap();
    assert_eq!((Some(entry.number), entry.generation), (stopped.number, Generation(2)));
    assert_eq!(entry.spec.name, "generation 2");
    store.0.answered(workspace, entry.number, &refused(), at(5)).await.unwrap();
    let now = store.0.load(ORG, workspace).await.unwrap().unwrap();
    assert_eq!((now.record.spec.name.as_str(), now.record.generation), ("first", Generation(1)));
    assert_eq!((now.record.desired, now.private.as_slice()), (Desired::Running, &b"private first"[..]));
}

async fn a_creation_that_was_begun_is_deleted_after_its_answer(store: Subject) {
    let created = store.created().await;
    let workspace = created.workspace;
    store.begins(workspace).await.unwrap();
    let deleting = store.asks(workspace, Wish::Delete).await;
    assert_eq!(store.outbox(workspace).await, [Wish::Provision { run: true }, Wish::Delete]);
    let answer = Answer::Granted(instance(&created, IntentNumber(1), Phase::Admitted, 2));
    let record = store.0.answered(workspace, IntentNumber(1), &answer, at(4)).await.unwrap().unwrap();
    assert!(record.is_deleting(), "the provider's older word does not undo the wish");
    let number = store.begins(workspace).await.unwrap().number;
    assert_eq!(Some(number), deleting.number);
    let gone = store.0.answered(workspace, number, &Answer::NotFound, at(5)).await.unwrap().unwrap();
    assert_eq!((gone.phase, gone.deleted_at), (Phase::Gone, Some(at(5))));
    assert!(!store.knows_token(workspace, 1).await);
}

async fn a_creation_that_was_never_begun_is_deleted_at_once(store: Subject) {
    let workspace = store.created().await.workspace;
    let before = store.0.snapshot(ORG).await.unwrap().1;
    let deleted = store.asks(workspace, Wish::Delete).await;
    assert_eq!((deleted.record.phase, deleted.number), (Phase::Gone, None));
    assert_eq!(store.begins(workspace).await, None);
    assert_eq!(store.0.waiting().await.unwrap(), []);
    let told = store.0.changes_after(ORG, before, 10).await.unwrap();
    assert_eq!(told.last().map(|last| last.phase), Some(Phase::Gone));
}

async fn a_label_that_changes_meanwhile_changes_no_wish(store: Subject) {
    let workspace = store.up().await.workspace;
    let restarted = store.asks(workspace, RESTART).await;
    let number = store.begins(workspace).await.unwrap().number;
    let labelled = store.labels(workspace).await;
    assert!(labelled.intent > number, "the etag changes");
    assert_eq!(store.begins(workspace).await.unwrap().number, number);
    let answer = Answer::Granted(instance(&restarted.record, number, Phase::Stopping, 3));
    let record = store.0.answered(workspace, number, &answer, at(4)).await.unwrap().unwrap();
    assert_eq!((record.pending, record.generation), (None, Generation(2)));
    assert_eq!(record.spec.labels.len(), 1);
    assert_eq!(store.begins(workspace).await, None);
}

async fn a_refused_replacement_is_taken_back_whole(store: Subject) {
    let workspace = store.up().await.workspace;
    let changed = store.asks_on(workspace, &key("key"), RESTART).await.unwrap();
    assert!(store.knows_token(workspace, 1).await);
    let number = store.begins(workspace).await.unwrap().number;
    store.0.answered(workspace, number, &refused(), at(4)).await.unwrap();
    let now = store.0.load(ORG, workspace).await.unwrap().unwrap();
    assert_eq!((now.record.spec.name.as_str(), now.record.readiness), ("first", Readiness::Agent));
    assert_eq!((now.record.generation, now.record.desired), (Generation(1), Desired::Running));
    assert_eq!((now.private.as_slice(), now.record.pending), (&b"private first"[..], None));
    assert!(store.knows_token(workspace, 1).await, "the generation that runs keeps its credential");
    assert!(store.knows_token(workspace, 2).await, "a call of it may be heard late");
    let events = store.0.events(workspace, None, 10).await.unwrap();
    assert!(events[0].detail.kind == "taken_back" && events[0].detail.message.contains("too many"));
    // a failure isn't bound
    let again = store.asks_on(workspace, &key("key"), RESTART).await.unwrap();
    assert_ne!(again.number, changed.number);
}

async fn a_refusal_spares_what_was_asked_for_since(store: Subject) {
    let workspace = store.up().await.workspace;
    let first = store.asks(workspace, RESTART).await.number.unwrap();
    store.begins(workspace).await.unwrap();
    store.labels(workspace).await;
    store.asks(workspace, RESTART).await;
    store.0.answered(workspace, first, &refused(), at(4)).await.unwrap();
    let now = store.0.load(ORG, workspace).await.unwrap().unwrap();
    assert_eq!((now.record.generation, now.private.as_slice()), (Generation(3), &b"private 3"[..]));
    assert!(store.knows_token(workspace, 3).await);
    let second = store.begins(workspace).await.unwrap();
    assert_eq!(second.generation, Generation(3), "a generation that was refused is not used again");
    store.0.answered(workspace, second.number, &refused(), at(5)).await.unwrap();
    let now = store.0.load(ORG, workspace).await.unwrap().unwrap();
    assert_eq!((now.record.generation, now.private.as_slice()), (Generation(1), &b"private first"[..]));
    assert_eq!(now.record.desired, Desired::Running);

    let workspace = store.up().await.workspace;
    let restart = store.asks(workspace, RESTART).await.number.unwrap();
    store.begins(workspace).await.unwrap();
    store.asks(workspace, Wish::Stop(None)).await;
    store.labels(workspace).await;
    let now = store.0.answered(workspace, restart, &refused(), at(4)).await.unwrap().unwrap();
    assert_eq!((now.generation, now.desired), (Generation(1), Desired::Stopped));
    assert_eq!((now.spec.name.as_str(), now.spec.labels.len()), ("first", 1));
    let stop = store.begins(workspace).await.unwrap();
    assert_eq!((stop.wish, stop.generation), (Wish::Stop(None), Generation(1)));
}

async fn stop_and_delete_are_never_taken_back(store: Subject) {
    for wish in [Wish::Stop(None), Wish::Stop(Some((Reason::AgentSilent, "why".into()))), Wish::Delete] {
        let workspace = store.up().await.workspace;
        let number = store.asks(workspace, wish.clone()).await.number.unwrap();
        store.begins(workspace).await.unwrap();
        let now = store.0.answered(workspace, number, &refused(), at(4)).await.unwrap().unwrap();
        assert_eq!((now.desired, store.outbox(workspace).await), (wish.desired(), vec![wish]));
    }
}

async fn the_id_of_a_refused_creation_is_free_again(store: Subject) {
    let new = new_workspace(WorkspaceId::generate());
    let on = key("create");
    let created = store.0.create(&new, on.key.as_ref(), at(1)).await.unwrap();
    store.0.begin_call(new.workspace).await.unwrap();
    let left =
        store.0.answered(new.workspace, created.number.unwrap(), &refused(), at(2)).await.unwrap().unwrap();
    assert_eq!((left.phase, left.pending, left.refused), (Phase::Gone, None, true));
    assert_eq!(store.0.list(ORG, false, None, 10).await.unwrap(), []);
    let again = store.0.create(&new, on.key.as_ref(), at(3)).await.unwrap();
    assert_eq!((again.number, again.record.phase), (Some(IntentNumber(2)), Phase::Admitted));
    assert_eq!((again.record.created_at, again.record.deleted_at), (at(3), None));
}

/// A call of it that was lost on the way is heard at last, and granted.
async fn a_refused_creation_that_runs_after_all_is_deleted(store: Subject) {
    let created = store.created().await;
    store.0.begin_call(created.workspace).await.unwrap();
    store.0.answered(created.workspace, IntentNumber(1), &refused(), at(2)).await.unwrap();
    let late =
        InstanceView { desired: Desired::Running, ..instance(&created, IntentNumber(1), Phase::Up, 9) };
    let wishes = store.0.mirror(ORG, std::slice::from_ref(&late), &[], at(9)).await.unwrap();
    assert_eq!(wishes, [created.workspace], "somebody has to tell it");
    let (record, entry) = store.0.begin_call(created.workspace).await.unwrap().unwrap();
    assert_eq!((entry.wish, entry.number, record.desired), (Wish::Delete, IntentNumber(2), Desired::Deleted));
    assert_ne!(record.phase, Phase::Gone);
    let gone = InstanceView { desired: Desired::Deleted, ..instance(&record, entry.number, Phase::Gone, 11) };
    let record =
        store.0.answered(record.workspace, entry.number, &Answer::Granted(gone), at(11)).await.unwrap();
    assert_eq!(record.unwrap().phase, Phase::Gone);
    store.0.mirror(ORG, &[late], &[], at(12)).await.unwrap();
    assert_eq!(store.0.waiting().await.unwrap(), [], "old news");
}

/// A first call of it was lost on the way, and is heard after a later one was refused.
async fn a_refused_replacement_that_runs_after_all_is_taken_over(store: Subject) {
    let up = store.up().await;
    let workspace = up.workspace;
    let number = store.asks(workspace, RESTART).await.number.unwrap();
    store.begins(workspace).await.unwrap();
    let back = store.0.answered(workspace, number, &refused(), at(4)).await.unwrap().unwrap();
    assert_eq!(back.generation, Generation(1));
    let late = InstanceView {
        generation: Generation(2),
        wanted_generation: Generation(2),
        ..instance(&up, number, Phase::Up, 9)
    };
    store.0.mirror(ORG, &[late], &[], at(9)).await.unwrap();
    let record = store.0.get(ORG, workspace).await.unwrap().unwrap();
    assert_eq!((record.generation, record.instance_generation), (Generation(2), Generation(2)));
    assert!(store.knows_token(workspace, 2).await, "its agent is known");
    let next = store.asks(workspace, RESTART).await.record;
    assert_eq!(next.generation, Generation(3));
}

/// The stream was quicker than the answer, and brought the same record while the wish still waited.
async fn an_answer_tells_what_is_wanted_though_its_record_is_known(store: Subject) {
    let created = store.created().await;
    store.0.begin_call(created.workspace).await.unwrap();
    let failed =
        InstanceView { desired: Desired::Stopped, ..instance(&created, IntentNumber(1), Phase::Failed, 5) };
    store.0.mirror(ORG, std::slice::from_ref(&failed), &[], at(5)).await.unwrap();
    let answer = Answer::Granted(failed);
    let record = store.0.answered(created.workspace, IntentNumber(1), &answer, at(6)).await.unwrap().unwrap();
    assert_eq!((record.desired, record.phase), (Desired::Stopped, Phase::Failed));
}

/// The stream brought what the provider did after it had granted the wish, and the grant itself comes after that.
async fn what_the_provider_gave_up_stays_given_up_where_an_older_answer_follows(store: Subject) {
    let workspace = store.up().await.workspace;
    let restarted = store.asks(workspace, RESTART).await;
    let (wanted, number) = (restarted.record, restarted.number.unwrap());
    store.begins(workspace).await.unwrap();
    let failed = InstanceView { desired: Desired::Stopped, ..instance(&wanted, number, Phase::Failed, 6) };
    store.0.mirror(ORG, &[failed], &[], at(5)).await.unwrap();
    let answer = Answer::Granted(instance(&wanted, number, Phase::Admitted, 5));
    let record = store.0.answered(workspace, number, &answer, at(6)).await.unwrap().unwrap();
    assert_eq!((record.desired, record.phase), (Desired::Stopped, Phase::Failed));
    // a wish that the provider has not heard is not touched by that
    let number = store.asks(workspace, RESTART).await.number.unwrap();
    store.begins(workspace).await.unwrap();
    let again = InstanceView {
        desired: Desired::Stopped,
        ..instance(&record, IntentNumber(number.0 - 1), Phase::Failed, 7)
    };
    store.0.mirror(ORG, &[again], &[], at(7)).await.unwrap();
    assert_eq!(store.0.get(ORG, workspace).await.unwrap().unwrap().desired, Desired::Running);
}

/// A start waits while the stream tells that the provider gave the launch up, and is refused for that.
async fn a_refusal_goes_back_to_what_the_provider_gave_up_meanwhile(store: Subject) {
    let up = store.up().await;
    let number = store.asks(up.workspace, Wish::Start).await.number.unwrap();
    store.begins(up.workspace).await.unwrap();
    let failed =
        InstanceView { desired: Desired::Stopped, ..instance(&up, IntentNumber(1), Phase::Failed, 5) };
    store.0.mirror(ORG, &[failed], &[], at(5)).await.unwrap();
    assert_eq!(store.0.get(ORG, up.workspace).await.unwrap().unwrap().desired, Desired::Running);
    let record = store.0.answered(up.workspace, number, &refused(), at(6)).await.unwrap().unwrap();
    assert_eq!((record.desired, record.phase), (Desired::Stopped, Phase::Failed));
}

async fn a_refusal_takes_back_no_label_that_was_set_between_composed_wishes(store: Subject) {
    let up = store.up().await;
    store.asks(up.workspace, RESTART).await;
    store.labels(up.workspace).await;
    let number = store.asks(up.workspace, RESTART).await.number.unwrap();
    let entry = store.begins(up.workspace).await.unwrap();
    assert_eq!(entry.number, number, "both are one entry");
    let record = store.0.answered(up.workspace, number, &refused(), at(6)).await.unwrap().unwrap();
    assert_eq!(record.spec.labels.get("team").map(String::as_str), Some("blue"));
    assert_eq!((record.generation, &record.spec.name), (up.generation, &up.spec.name));
}

async fn a_refusal_that_nobody_waits_for_can_be_read(store: Subject) {
    let workspace = store.created().await.workspace;
    store.begins(workspace).await.unwrap();
    let left = store.0.answered(workspace, IntentNumber(1), &refused(), at(2)).await.unwrap().unwrap();
    assert!(left.phase == Phase::Gone && left.message.contains("too many"), "{left:?}");
    let events = store.0.events(workspace, None, 10).await.unwrap();
    assert!(events[0].detail.message.contains("too many"));
}

async fn an_old_word_of_the_provider_changes_no_wish(store: Subject) {
    let up = store.up().await;
    let workspace = up.workspace;
    let number = store.asks(workspace, Wish::Stop(None)).await.number.unwrap();
    store.begins(workspace).await.unwrap();
    // told before the stop was heard
    let before = instance(&up, IntentNumber(1), Phase::Up, 3);
    store.0.mirror(ORG, std::slice::from_ref(&before), &[], at(4)).await.unwrap();
    assert_eq!(store.0.get(ORG, workspace).await.unwrap().unwrap().desired, Desired::Stopped);
    let stopped = store.0.get(ORG, workspace).await.unwrap().unwrap();
    let answer = Answer::Granted(instance(&stopped, number, Phase::Stopping, 5));
    store.0.answered(workspace, number, &answer, at(5)).await.unwrap();
    // comes late, by the stream
    store
        .0
        .mirror(ORG, &[InstanceView { revision: Revision(4), ..before.clone() }], &[], at(6))
        .await
        .unwrap();
    let now = store.0.get(ORG, workspace).await.unwrap().unwrap();
    assert_eq!((now.desired, now.phase), (Desired::Stopped, Phase::Stopping));
    // and even where its revision is higher, it was said of an older wish
    store.0.mirror(ORG, &[InstanceView { revision: Revision(6), ..before }], &[], at(6)).await.unwrap();
    assert_eq!(store.0.get(ORG, workspace).await.unwrap().unwrap().desired, Desired::Stopped);
    // what the provider itself decides since is taken over
    let given_up = InstanceView { desired: Desired::Stopped, ..instance(&stopped, number, Phase::Failed, 7) };
    store.0.mirror(ORG, &[given_up], &[], at(7)).await.unwrap();
    assert_eq!(store.0.get(ORG, workspace).await.unwrap().unwrap().phase, Phase::Failed);
    assert_eq!(store.0.cursors(ORG).await.unwrap().revision, Revision(7));
}

async fn private_parts_are_decided_on_inside_the_transaction(store: Subject) {
    let workspace = store.up().await.workspace;
    for n in 0..3 {
        let decide = move |found: &crate::Workspace| {
            let mut private = found.private.clone();
            private.extend(format!(" {n}").bytes());
            Ok(Change { private: Some(private), ..Change::default() })
        };
        store.0.change(ORG, workspace, &Conditions::default(), at(3), Box::new(decide)).await.unwrap();
    }
    let now = store.0.load(ORG, workspace).await.unwrap().unwrap();
    assert_eq!(now.private, b"private first 0 1 2");
}

async fn what_waits_can_be_seen(store: Subject) {
    let first = store.created().await;
    assert_eq!(
        first.pending.as_ref().map(|pending| (pending.since, pending.cause.as_str())),
        Some((at(1), ""))
    );
    let second = store.up().await.workspace;
    store.asks(second, Wish::Stop(None)).await;
    assert_eq!(store.0.waiting().await.unwrap(), [first.workspace, second]);
    store.begins(first.workspace).await.unwrap();
    let revision = store.0.snapshot(ORG).await.unwrap().1;
    for _ in 0..2 {
        store.0.call_failed(first.workspace, IntentNumber(1), "no answer", at(4)).await.unwrap();
    }
    let now = store.0.get(ORG, first.workspace).await.unwrap().unwrap();
    assert_eq!(now.pending.map(|pending| pending.cause).as_deref(), Some("no answer"));
    assert_eq!(store.0.changes_after(ORG, revision, 10).await.unwrap().len(), 1, "a cause is told once");
}

async fn requests_are_repeatable(store: Subject) {
    let new = new_workspace(WorkspaceId::generate());
    let on = key("one");
    let created = store.0.create(&new, on.key.as_ref(), at(1)).await.unwrap();
    let again = store.0.create(&new, on.key.as_ref(), at(2)).await.unwrap();
    assert_eq!(created, again, "the wish still waits, under the same number");
    let other = RequestKey { id: "one".to_owned(), fingerprint: b"other".to_vec() };
    let reason = |error: StoreError| Error::from(error).reason;
    let refused = store.0.create(&new, Some(&other), at(2)).await.unwrap_err();
    assert_eq!(reason(refused), ErrorReason::RequestIdReused);
    let taken = store.0.create(&new, None, at(2)).await.unwrap_err();
    assert_eq!(reason(taken), ErrorReason::WorkspaceExists);
    let stale = Conditions { key: None, etag: Some(IntentNumber(7)) };
    let refused = store.asks_on(new.workspace, &stale, Wish::Stop(None)).await.unwrap_err();
    assert_eq!(reason(refused), ErrorReason::StaleEtag);
    let (parent, child) = (new.workspace, WorkspaceId::generate());
    let below = NewWorkspace {
        spec: WorkspaceSpec { parent: Some(parent), ..spec("child") },
        ..new_workspace(child)
    };
    store.0.create(&below, None, at(3)).await.unwrap();
    let decide = move |found: &crate::Workspace| {
        let spec = WorkspaceSpec { parent: Some(child), ..found.record.spec.clone() };
        Ok(Change { spec: Some((spec, Readiness::Agent)), ..Change::default() })
    };
    let circle =
        store.0.change(ORG, parent, &Conditions::default(), at(4), Box::new(decide)).await.unwrap_err();
    assert_eq!(reason(circle), ErrorReason::InvalidField);
}

async fn a_token_is_redeemed_by_one_nonce(store: Subject) {
    let workspace = store.created().await.workspace;
    let redeem = async |nonce: &str| {
        let redemption = Redemption { token_hash: token(workspace, 1).hash, nonce: nonce.to_owned() };
        store.0.redeem(&redemption, Box::new(|_, _| b"credential".to_vec())).await.unwrap()
    };
    let (granted, refused) =
        (Redeemed::Granted(workspace, Generation(1)), Redeemed::Refused(workspace, Generation(1)));
    assert_eq!(redeem("first").await, granted);
    assert_eq!(redeem("first").await, granted, "init crashed before it stored its credential");
    assert_eq!(redeem("second").await, refused);
    let known = store.0.authenticate(b"credential", at(2)).await.unwrap();
    assert_eq!(known, Some((workspace, Generation(1))));
    assert_eq!(redeem("first").await, refused, "the credential is in use");
    assert_eq!(store.0.authenticate(b"another", at(2)).await.unwrap(), None);
}

async fn an_agent_is_judged_as_it_is_in_the_transaction(store: Subject) {
    let limit = std::time::Duration::from_secs(60);
    let patience = |since| Patience { connect: limit, silence: limit, since: at(since) };
    let judge = async |workspace, patience: Patience, now| {
        store.0.judge_agent(ORG, workspace, &patience, at(now)).await.unwrap()
    };
    let up = store.up().await;
    let workspace = up.workspace;
    assert_eq!(judge(workspace, patience(0), 62).await, Verdict::Fine);
    assert_eq!(judge(workspace, patience(100), 150).await, Verdict::Fine, "nobody was there to be called");
    let report = |health| -> super::Report<'static> { Box::new(move |agent| agent.health = health) };
    let told = store.0.agent_reported(ORG, workspace, Generation(1), at(100), report(AgentHealth::Healthy));
    assert!(told.await.unwrap().is_some());
    assert_eq!(judge(workspace, patience(0), 160).await, Verdict::Fine);
    assert_eq!(judge(workspace, patience(0), 161).await, Verdict::Silent);
    let now = store.0.get(ORG, workspace).await.unwrap().unwrap();
    assert_eq!((now.agent.health, now.agent.last_seen), (AgentHealth::Silent, Some(at(100))));
    assert_eq!(judge(workspace, patience(0), 162).await, Verdict::Fine, "it is told once");

    // a restart that was just asked for is not cancelled by a judgement on the old generation
    let workspace = store.up().await.workspace;
    store.asks(workspace, RESTART).await;
    assert_eq!(judge(workspace, patience(0), 500).await, Verdict::Fine);
    let number = store.begins(workspace).await.unwrap().number;
    let old = InstanceView { generation: Generation(1), ..instance(&up, number, Phase::Up, 3) };
    let answer = Answer::Granted(InstanceView { workspace, ..old });
    store.0.answered(workspace, number, &answer, at(4)).await.unwrap();
    assert_eq!(judge(workspace, patience(0), 500).await, Verdict::Fine);

    let workspace = store.up().await.workspace;
    assert_eq!(judge(workspace, patience(0), 63).await, Verdict::NeverConnected);
    assert!(matches!(store.outbox(workspace).await[..], [Wish::Stop(Some((Reason::AgentNotConnected, _)))]));
}

async fn an_early_registration_stays(store: Subject) {
    let created = store.created().await;
    let workspace = created.workspace;
    store.begins(workspace).await.unwrap();
    let answer = Answer::Granted(instance(&created, IntentNumber(1), Phase::Admitted, 1));
    store.0.answered(workspace, IntentNumber(1), &answer, at(1)).await.unwrap();
    let becomes = async |revision, phase| {
        let view = instance(&created, IntentNumber(1), phase, revision);
        store.0.mirror(ORG, &[view], &[], at(revision)).await.unwrap();
        store.0.get(ORG, workspace).await.unwrap().unwrap().agent.health
    };
    assert_eq!(becomes(2, Phase::Launching).await, AgentHealth::NotConnected);
    let report: super::Report<'_> = Box::new(|agent| agent.health = AgentHealth::Healthy);
    let told = store.0.agent_reported(ORG, workspace, Generation(1), at(3), report).await.unwrap();
    assert!(told.is_some());
    assert_eq!(becomes(4, Phase::Booting).await, AgentHealth::Healthy);
    assert_eq!(becomes(5, Phase::Up).await, AgentHealth::Healthy);
    assert_eq!(becomes(6, Phase::Launching).await, AgentHealth::NotConnected, "it ended and starts again");
    let report: super::Report<'_> = Box::new(|_| {});
    let other = store.0.agent_reported(ORG, workspace, Generation(2), at(7), report).await.unwrap();
    assert_eq!(other, None, "a generation that is not there says nothing");
}

async fn history_is_kept_for_a_day(store: Subject) {
    let mut revisions = Vec::new();
    for second in 1..=3 {
        let new = new_workspace(WorkspaceId::generate());
        revisions.push(store.0.create(&new, None, at(second)).await.unwrap().record.revision);
    }
    assert!(
        revisions.is_sorted() && revisions[0].0 >= at(1).micros(),
        "revisions are never behind the clock"
    );
    assert_eq!(store.0.changes_after(ORG, revisions[0], 10).await.unwrap().len(), 2);
    store.0.prune(at(3), at(0)).await.unwrap();
    assert!(store.0.changes_after(ORG, revisions[0], 10).await.is_err(), "the second change is forgotten");
    assert_eq!(store.0.changes_after(ORG, revisions[1], 10).await.unwrap().len(), 1);
    assert!(store.0.changes_after(ORG, revisions[2].next(), 10).await.is_err(), "it has not come");
    assert_eq!(store.0.snapshot(ORG).await.unwrap().0.len(), 3, "what is there stays");
}
