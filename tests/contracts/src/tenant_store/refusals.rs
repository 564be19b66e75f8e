//! What every store does where the provider refuses a wish: it is taken back, and nothing else.

use molecule_domain::id::{Generation, IntentNumber, WorkspaceId};
use molecule_domain::instance::InstanceView;
use molecule_domain::lifecycle::{Desired, Phase, Readiness, Reason};

use super::{ORG, RESTART, Subject, at, instance, key, new_workspace, refused, sealed};
use molecule_workspace::aggregate::{Answer, Change};
use molecule_workspace::private::SealedParts;
use molecule_workspace::store::Conditions;
use molecule_workspace::wish::Wish;

pub(super) async fn run<F: Future<Output = Subject>>(store: impl Fn() -> F) {
    a_refused_replacement_is_taken_back_whole(store().await).await;
    a_refusal_spares_what_was_asked_for_since(store().await).await;
    what_follows_a_refused_replacement_is_told_without_it(store().await).await;
    secrets_of_a_refused_update_are_not_kept_by_a_later_one_of_config(store().await).await;
    what_asks_for_the_same_again_shares_the_answer(store().await).await;
    stop_and_delete_are_never_taken_back(store().await).await;
    a_stop_stands_whatever_it_was_composed_with(store().await).await;
    who_asked_for_a_stop_waits_for_that_and_not_for_what_follows(store().await).await;
    the_id_of_a_refused_creation_is_free_again(store().await).await;
    a_refused_creation_that_runs_after_all_is_deleted(store().await).await;
    a_refused_replacement_that_runs_after_all_is_taken_over(store().await).await;
    a_refused_start_that_runs_after_all_is_told_again_where_it_is_lost(store().await).await;
    a_refusal_goes_back_to_what_the_provider_gave_up_meanwhile(store().await).await;
    a_refusal_takes_back_no_label_that_was_set_between_composed_wishes(store().await).await;
    a_refusal_that_nobody_waits_for_can_be_read(store().await).await;
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
    assert_eq!((now.private, now.record.pending), (sealed("private first"), None));
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
    assert_eq!((now.record.generation, now.private), (Generation(3), sealed("private 3")));
    assert!(store.knows_token(workspace, 3).await);
    let second = store.begins(workspace).await.unwrap();
    assert_eq!(second.generation, Generation(3), "a generation that was refused is not used again");
    store.0.answered(workspace, second.number, &refused(), at(5)).await.unwrap();
    let now = store.0.load(ORG, workspace).await.unwrap().unwrap();
    assert_eq!((now.record.generation, now.private), (Generation(1), sealed("private first")));
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

async fn secrets_of_a_refused_update_are_not_kept_by_a_later_one_of_config(store: Subject) {
    let workspace = store.up().await.workspace;
    let first = store.sets(workspace, |private| private.secrets = b"refused".to_vec()).await;
    store.begins(workspace).await.unwrap();
    let second = store.sets(workspace, |private| private.config_files = b"asked for since".to_vec()).await;
    store.0.answered(workspace, first, &refused(), at(4)).await.unwrap();
    let expected = SealedParts { config_files: b"asked for since".to_vec(), ..sealed("private first") };
    assert_eq!(store.0.load(ORG, workspace).await.unwrap().unwrap().private, expected);
    store.begins(workspace).await.unwrap();
    store.0.answered(workspace, second, &refused(), at(5)).await.unwrap();
    let now = store.0.load(ORG, workspace).await.unwrap().unwrap();
    assert_eq!((now.private, now.record.generation), (sealed("private first"), Generation(1)));
}

/// An update that had no answer in time is sent again, and finds what it asks for in the record: it is not granted yet.
async fn what_asks_for_the_same_again_shares_the_answer(store: Subject) {
    let same = |found: &molecule_workspace::Workspace| {
        let spec = Some((found.record.spec.clone(), found.record.readiness));
        Ok(Change { spec, ..Change::default() })
    };
    let asks = async |workspace, id: &str| {
        store.0.change(ORG, workspace, &key(id), at(3), Box::new(same)).await.unwrap().number
    };
    let workspace = store.up().await.workspace;
    assert_eq!(asks(workspace, "granted").await, None, "nothing waits");
    let first = store.asks(workspace, RESTART).await.number;
    assert_eq!(asks(workspace, "untold").await, first);
    let entry = store.begins(workspace).await.unwrap();
    assert_eq!(asks(workspace, "begun").await, first);
    store.labels(workspace).await;
    store.0.answered(workspace, entry.number, &refused(), at(4)).await.unwrap();
    let known = async |id: &str| store.0.replayed(ORG, &key(id).key.unwrap()).await.unwrap();
    assert_eq!((known("untold").await, known("begun").await), (None, None), "a failure isn't bound");
    assert_eq!(known("granted").await.map(|stored| stored.number), Some(None));
    // no refusal takes a stop back, so there is nothing to wait for
    store.asks(workspace, Wish::Stop(None)).await;
    assert_eq!(asks(workspace, "stopped").await, None);
}

/// A plain restart that waits behind an update of the tier must not bring the tier that was refused.
async fn what_follows_a_refused_replacement_is_told_without_it(store: Subject) {
    let up = store.up().await;
    let first = store.asks(up.workspace, RESTART).await.number.unwrap();
    store.begins(up.workspace).await.unwrap();
    let restart = |_: &molecule_workspace::Workspace| Ok(Change { wish: Some(RESTART), ..Change::default() });
    let on = Conditions::default();
    store.0.change(ORG, up.workspace, &on, at(3), Box::new(restart)).await.unwrap();
    let record = store.0.answered(up.workspace, first, &refused(), at(4)).await.unwrap().unwrap();
    assert_eq!(record.spec, up.spec);
    let second = store.begins(up.workspace).await.unwrap();
    assert_eq!((second.generation, second.spec), (Generation(3), up.spec));
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

async fn a_stop_stands_whatever_it_was_composed_with(store: Subject) {
    let stop = Wish::Stop(None);
    let composed = [
        vec![stop.clone(), RESTART],
        vec![RESTART, stop.clone()],
        vec![stop.clone(), Wish::Start],
        vec![RESTART, stop.clone(), RESTART],
        vec![Wish::Start, stop.clone(), Wish::Start, RESTART],
    ];
    for wishes in composed {
        let workspace = store.up().await.workspace;
        for wish in &wishes {
            store.asks(workspace, wish.clone()).await;
        }
        let entry = store.begins(workspace).await.unwrap();
        assert_eq!(store.outbox(workspace).await.len(), 1, "{wishes:?}");
        let refused = store.0.answered(workspace, entry.number, &refused(), at(5)).await.unwrap().unwrap();
        assert_eq!((refused.desired, refused.generation), (Desired::Stopped, Generation(1)), "{wishes:?}");
        assert_eq!(store.outbox(workspace).await, [Wish::Stop(None)], "{wishes:?}");
    }

    // one that follows holds it
    let workspace = store.up().await.workspace;
    for wish in [Wish::Stop(None), RESTART] {
        store.asks(workspace, wish).await;
    }
    let first = store.begins(workspace).await.unwrap();
    store.asks(workspace, RESTART).await;
    store.0.answered(workspace, first.number, &refused(), at(5)).await.unwrap();
    assert_eq!(store.outbox(workspace).await, [RESTART]);
    let second = store.begins(workspace).await.unwrap();
    let refused = store.0.answered(workspace, second.number, &refused(), at(6)).await.unwrap().unwrap();
    assert_eq!(refused.desired, Desired::Stopped);
    assert_eq!(store.outbox(workspace).await, [Wish::Stop(None)]);
}

/// The stop stands if the restart is refused, so no refusal is the answer to it.
async fn who_asked_for_a_stop_waits_for_that_and_not_for_what_follows(store: Subject) {
    let workspace = store.up().await.workspace;
    let stop = store.asks_on(workspace, &key("stop"), Wish::Stop(None)).await.unwrap().number;
    let restart = store.asks_on(workspace, &key("restart"), RESTART).await.unwrap().number;
    assert!(stop.is_some() && stop < restart, "{stop:?}, {restart:?}");
    let waits = async |id: &str| store.0.replayed(ORG, &key(id).key.unwrap()).await.unwrap();
    let number = async |id: &str| waits(id).await.map(|stored| stored.number);
    assert_eq!((number("stop").await, number("restart").await), (Some(stop), Some(restart)));
    let entry = store.begins(workspace).await.unwrap();
    assert_eq!(Some(entry.number), restart, "they are told as one");
    store.0.answered(workspace, entry.number, &refused(), at(5)).await.unwrap();
    let stands = store.begins(workspace).await.unwrap();
    assert_eq!((number("stop").await, number("restart").await), (Some(Some(stands.number)), None));
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
        InstanceView { desired: Some(Desired::Running), ..instance(&created, IntentNumber(1), Phase::Up, 9) };
    let mirrored = store.0.mirror(ORG, std::slice::from_ref(&late), &[], at(9)).await.unwrap();
    assert_eq!(mirrored.wishes, [created.workspace], "somebody has to tell it");
    let (record, entry) = store.0.begin_call(created.workspace).await.unwrap().unwrap();
    assert_eq!((entry.wish, entry.number, record.desired), (Wish::Delete, IntentNumber(2), Desired::Deleted));
    assert_ne!(record.phase, Phase::Gone);
    let gone =
        InstanceView { desired: Some(Desired::Deleted), ..instance(&record, entry.number, Phase::Gone, 11) };
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

/// An earlier call of it was heard late, and granted: it holds like any other should the provider be put back.
async fn a_refused_start_that_runs_after_all_is_told_again_where_it_is_lost(store: Subject) {
    let up = store.up().await;
    let workspace = up.workspace;
    let stop = store.asks(workspace, Wish::Stop(None)).await.number.unwrap();
    store.begins(workspace).await.unwrap();
    let stopped = InstanceView { desired: Some(Desired::Stopped), ..instance(&up, stop, Phase::Stopped, 5) };
    store.0.answered(workspace, stop, &Answer::Granted(stopped.clone()), at(5)).await.unwrap();
    let start = store.asks(workspace, Wish::Start).await.number.unwrap();
    store.begins(workspace).await.unwrap();
    store.0.answered(workspace, start, &refused(), at(6)).await.unwrap();
    store.0.mirror(ORG, &[instance(&up, start, Phase::Up, 9)], &[], at(9)).await.unwrap();
    let record = store.0.get(ORG, workspace).await.unwrap().unwrap();
    assert_eq!((record.desired, record.answered), (Desired::Running, start));
    let agreed = store.meets(&[stopped], false).await;
    assert_eq!(agreed.told_again, [workspace]);
    let again = store.begins(workspace).await.unwrap();
    assert!(again.wish == Wish::Start && again.number > start && !again.may_be_refused(), "{again:?}");
}

/// A start waits while the stream tells that the provider gave the launch up, and is refused for that.
async fn a_refusal_goes_back_to_what_the_provider_gave_up_meanwhile(store: Subject) {
    let up = store.up().await;
    let number = store.asks(up.workspace, Wish::Start).await.number.unwrap();
    store.begins(up.workspace).await.unwrap();
    let failed =
        InstanceView { desired: Some(Desired::Stopped), ..instance(&up, IntentNumber(1), Phase::Failed, 5) };
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
