//! What every store does with wishes: what is asked for is kept until the provider has answered it.

use molecule_domain::id::{Generation, IntentNumber, Revision};
use molecule_domain::instance::InstanceView;
use molecule_domain::lifecycle::{Desired, Phase};

use super::{ORG, RESTART, Subject, at, instance, refused, sealed};
use molecule_workspace::aggregate::Answer;
use molecule_workspace::wish::Wish;

pub(super) async fn run<F: Future<Output = Subject>>(store: impl Fn() -> F) {
    a_restart_that_was_begun_is_not_lost_by_a_stop(store().await).await;
    what_was_never_begun_is_composed(store().await).await;
    what_may_have_been_heard_is_followed(store().await).await;
    a_creation_that_was_begun_is_deleted_after_its_answer(store().await).await;
    a_creation_that_was_never_begun_is_deleted_at_once(store().await).await;
    a_label_that_changes_meanwhile_changes_no_wish(store().await).await;
    an_answer_tells_what_is_wanted_though_its_record_is_known(store().await).await;
    what_the_provider_gave_up_stays_given_up_where_an_older_answer_follows(store().await).await;
    an_old_word_of_the_provider_changes_no_wish(store().await).await;
    a_word_that_is_not_known_changes_no_wish(store().await).await;
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
    // the stop that is in it stands, under a number that is new
    assert_eq!((now.record.desired, now.private), (Desired::Stopped, sealed("private first")));
    assert_eq!(store.outbox(workspace).await, [Wish::Stop(None)]);
    assert!(store.begins(workspace).await.unwrap().number > entry.number);
}

/// Every pair, with a call of the earlier wish that is out, and with one whose answer never came.
async fn what_may_have_been_heard_is_followed(store: Subject) {
    let provision = Wish::Provision { run: true };
    // after a deletion nothing is accepted
    for last in [provision, Wish::Start, Wish::Stop(None), RESTART] {
        for new in [Wish::Start, Wish::Stop(None), RESTART, Wish::Delete] {
            for answer_never_came in [false, true] {
                let workspace = if matches!(last, Wish::Provision { .. }) {
                    store.created().await.workspace
                } else {
                    let workspace = store.up().await.workspace;
                    store.asks(workspace, last.clone()).await;
                    workspace
                };
                let number = store.begins(workspace).await.unwrap().number;
                if answer_never_came {
                    store.0.call_failed(workspace, number, "no answer", at(5)).await.unwrap();
                }
                store.asks(workspace, new.clone()).await;
                let outbox = store.outbox(workspace).await;
                assert_eq!(outbox, [last.clone(), new.clone()], "answer never came: {answer_never_came}");
            }
        }
    }
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

/// The stream was quicker than the answer, and brought the same record while the wish still waited.
async fn an_answer_tells_what_is_wanted_though_its_record_is_known(store: Subject) {
    let created = store.created().await;
    store.0.begin_call(created.workspace).await.unwrap();
    let failed = InstanceView {
        desired: Some(Desired::Stopped),
        ..instance(&created, IntentNumber(1), Phase::Failed, 5)
    };
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
    let failed =
        InstanceView { desired: Some(Desired::Stopped), ..instance(&wanted, number, Phase::Failed, 6) };
    store.0.mirror(ORG, &[failed], &[], at(5)).await.unwrap();
    let answer = Answer::Granted(instance(&wanted, number, Phase::Admitted, 5));
    let record = store.0.answered(workspace, number, &answer, at(6)).await.unwrap().unwrap();
    assert_eq!((record.desired, record.phase), (Desired::Stopped, Phase::Failed));
    // a wish that the provider has not heard is not touched by that
    let number = store.asks(workspace, RESTART).await.number.unwrap();
    store.begins(workspace).await.unwrap();
    let again = InstanceView {
        desired: Some(Desired::Stopped),
        ..instance(&record, IntentNumber(number.0 - 1), Phase::Failed, 7)
    };
    store.0.mirror(ORG, &[again], &[], at(7)).await.unwrap();
    assert_eq!(store.0.get(ORG, workspace).await.unwrap().unwrap().desired, Desired::Running);
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
    let given_up =
        InstanceView { desired: Some(Desired::Stopped), ..instance(&stopped, number, Phase::Failed, 7) };
    store.0.mirror(ORG, &[given_up], &[], at(7)).await.unwrap();
    assert_eq!(store.0.get(ORG, workspace).await.unwrap().unwrap().phase, Phase::Failed);
    assert_eq!(store.0.cursors(ORG).await.unwrap().revision, Revision(7));
}

/// The provider is of a newer version, and wants something that this one does not know.
async fn a_word_that_is_not_known_changes_no_wish(store: Subject) {
    let up = store.up().await;
    let workspace = up.workspace;
    let stop = store.asks(workspace, Wish::Stop(None)).await.number.unwrap();
    store.begins(workspace).await.unwrap();
    let stopped = InstanceView { desired: Some(Desired::Stopped), ..instance(&up, stop, Phase::Stopped, 5) };
    store.0.answered(workspace, stop, &Answer::Granted(stopped.clone()), at(5)).await.unwrap();
    let unknown = InstanceView { desired: None, revision: Revision(6), ..stopped };
    store.0.mirror(ORG, &[unknown], &[], at(6)).await.unwrap();
    let record = store.0.get(ORG, workspace).await.unwrap().unwrap();
    assert_eq!((record.desired, record.instance_revision), (Desired::Stopped, Revision(6)));
}
