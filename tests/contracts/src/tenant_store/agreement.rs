//! What every store does when a tenant agrees with its provider, after either was put back to an earlier state.

use molecule_domain::error::{Error, ErrorReason};
use molecule_domain::id::{Generation, IncarnationId, IntentNumber, Revision, WorkspaceId};
use molecule_domain::incarnation::Standpoint;
use molecule_domain::instance::InstanceView;
use molecule_domain::lifecycle::{Desired, Phase};
use molecule_domain::tier::Tier;

use super::{ORG, PlainMinter, RESTART, Subject, at, instance, refused, sealed, token};
use molecule_workspace::Workspace;
use molecule_workspace::agent::{Patience, Verdict};
use molecule_workspace::aggregate::{Answer, Change};
use molecule_workspace::agreement::{Met, Minter};
use molecule_workspace::private::SealedParts;
use molecule_workspace::store::{Redeemed, Redemption};
use molecule_workspace::wish::Wish;

pub(super) async fn run<F: Future<Output = Subject>>(store: impl Fn() -> F) {
    what_the_provider_has_lost_is_told_again(store().await).await;
    what_is_told_again_holds_up_no_stop_and_no_deletion(store().await).await;
    what_has_failed_at_the_provider_is_replaced(store().await).await;
    a_deletion_of_what_the_provider_lost_is_done(store().await).await;
    later_wishes_that_the_provider_knows_win(store().await).await;
    a_wish_of_this_start_is_told_whatever_number_it_had(store().await).await;
    what_is_lost_is_found_out_once(store().await).await;
    what_one_side_knows_as_deleted_is_never_launched_by_the_other(store().await).await;
    what_the_tenant_does_not_know_is_taken_back_and_let_be(store().await).await;
    a_watch_from_before_a_restore_begins_anew(store().await).await;
    a_generation_whose_number_the_provider_gave_to_another_is_told_again(store().await).await;
    a_replacement_before_another_is_told_anew(store().await).await;
    private_parts_of_a_replacement_that_gives_way_go_with_it(store().await).await;
    a_restart_of_this_start_brings_a_generation_that_is_new(store().await).await;
    a_wish_that_gives_way_says_so(store().await).await;
    what_is_told_again_has_a_number_of_its_own(store().await).await;
    of_two_unknown_generations_the_later_is_let_be_as_well(store().await).await;
    a_wish_that_was_overtaken_is_not_told_for_ever(store().await).await;
    a_replacement_of_the_backup_that_was_never_granted_is_forgotten(store().await).await;
    a_generation_of_which_only_the_provider_knows_is_recovered(store().await).await;
    an_agent_that_connects_is_recovered_no_more(store().await).await;
    what_only_the_provider_knows_is_left_to_an_agreement(store().await).await;
    another_of_an_id_that_was_refused_is_taken_back(store().await).await;
    whose_agent_is_known_is_not_recovered(store().await).await;
}

async fn what_the_provider_has_lost_is_told_again(store: Subject) {
    let up = store.up().await;
    let workspace = up.workspace;
    let replace = Wish::Replace { run: true, reset_session: false };
    let number = store.asks(workspace, replace).await.number.unwrap();
    store.0.begin_call(workspace).await.unwrap();
    let third = Wish::Stop(None);
    let before = instance(&up, IntentNumber(1), Phase::Up, 2);
    let replaced =
        InstanceView { generation: Generation(2), wanted_generation: Generation(2), ..before.clone() };
    let answer = Answer::Granted(InstanceView { intent: number, revision: Revision(3), ..replaced.clone() });
    store.0.answered(workspace, number, &answer, at(3)).await.unwrap();
    store.asks(workspace, third).await;

    // it knows neither the replacement nor the stop that waits: what runs is stopped, and replaced by what both came to
    let agreed = store.meets(&[before], false).await;
    assert_eq!((agreed.set_back, &agreed.told_again[..]), (false, &[workspace][..]));
    let Workspace { record, outbox, .. } = store.0.load(ORG, workspace).await.unwrap().unwrap();
    let [stop, entry] = &outbox[..] else { panic!("{outbox:?}") };
    assert_eq!((&stop.wish, stop.number.next()), (&Wish::Stop(None), entry.number));
    assert_eq!(entry.wish, Wish::Replace { run: false, reset_session: false });
    assert_eq!((entry.generation, entry.number), (Generation(3), record.intent));
    assert!(!entry.sealed_token.is_empty() && !entry.may_be_refused());
    let redemption = |hash: Vec<u8>| Redemption { token_hash: hash, nonce: "nonce".to_owned() };
    let again = format!("again 3 {workspace}").into_bytes();
    for (generation, hash) in [(2, token(workspace, 2).hash), (3, again)] {
        let redeemed = store.0.redeem(&redemption(hash.clone()), Box::new(move |_, _| hash)).await.unwrap();
        assert_eq!(
            redeemed,
            Redeemed::Granted(workspace, Generation(generation)),
            "whichever instance there is has its token"
        );
    }

    // it has nothing of it at all
    let agreed = store.meets(&[], false).await;
    assert_eq!(agreed.told_again, [workspace]);
    let loaded = store.0.load(ORG, workspace).await.unwrap().unwrap();
    let wishes: Vec<_> = loaded.outbox.iter().map(|entry| entry.wish.clone()).collect();
    assert_eq!(wishes, [Wish::Provision { run: false }]);
    assert_eq!(loaded.outbox[0].generation, Generation(4));
    // a refusal takes nothing back of what was granted before
    store.0.answered(workspace, loaded.outbox[0].number, &refused(), at(51)).await.unwrap();
    assert_eq!(store.0.load(ORG, workspace).await.unwrap().unwrap().outbox.len(), 1);
}

/// What is told again is refused, and waits; a stop or a deletion behind it does not.
async fn what_is_told_again_holds_up_no_stop_and_no_deletion(store: Subject) {
    for wish in [Wish::Stop(None), Wish::Delete] {
        let up = store.up().await;
        let workspace = up.workspace;
        let number = store.asks(workspace, RESTART).await.number.unwrap();
        store.begins(workspace).await.unwrap();
        let second = InstanceView {
            generation: Generation(2),
            wanted_generation: Generation(2),
            ..instance(&up, number, Phase::Up, 5)
        };
        store.0.answered(workspace, number, &Answer::Granted(second), at(5)).await.unwrap();
        store.meets(&[instance(&up, IntentNumber(1), Phase::Up, 2)], false).await;
        let again = store.begins(workspace).await.unwrap();
        assert_eq!((again.retold, again.generation), (true, Generation(3)));
        store.0.answered(workspace, again.number, &refused(), at(51)).await.unwrap();
        assert_eq!(store.outbox(workspace).await, [Wish::Replace { run: true, reset_session: false }]);
        // a restart lies between that and a deletion, and counts as begun after a restart of the process
        let mut between = store.0.load(ORG, workspace).await.unwrap().unwrap();
        for wish in [RESTART, Wish::Delete] {
            between.outbox.iter_mut().for_each(|entry| entry.begun = true);
            let change = Change { wish: Some(wish), ..Change::default() };
            between.change(change, None, at(52), IncarnationId::generate());
        }
        between.answered(again.number, &refused(), at(52), IncarnationId::generate());
        let left: Vec<_> = between.outbox.iter().map(|entry| entry.retold).collect();
        assert_eq!(left, [false, false]);

        store.asks(workspace, wish.clone()).await;
        store.0.answered(workspace, again.number, &refused(), at(52)).await.unwrap();
        assert_eq!(store.outbox(workspace).await, [wish]);
    }
}

/// The provider was put back while a stop and a deletion waited.
async fn a_deletion_of_what_the_provider_lost_is_done(store: Subject) {
    let workspace = store.up().await.workspace;
    let stop = store.asks(workspace, Wish::Stop(None)).await.number.unwrap();
    store.begins(workspace).await.unwrap();
    store.0.answered(workspace, stop, &Answer::NotFound, at(5)).await.unwrap();
    assert_eq!(store.outbox(workspace).await, [Wish::Stop(None)], "it waits until both sides have agreed");
    let delete = store.asks(workspace, Wish::Delete).await.number.unwrap();
    store.0.answered(workspace, stop, &Answer::NotFound, at(6)).await.unwrap();
    assert_eq!(store.outbox(workspace).await, [Wish::Delete]);
    let record = store.0.answered(workspace, delete, &Answer::NotFound, at(7)).await.unwrap().unwrap();
    assert_eq!(record.phase, Phase::Gone);
}

/// What runs, or is on its way down, is started: nothing of it need be taken away.
async fn what_has_failed_at_the_provider_is_replaced(store: Subject) {
    let replace = Wish::Replace { run: true, reset_session: false };
    for (phase, wish, generation) in [
        (Phase::Failed, replace, Generation(2)),
        (Phase::Up, Wish::Start, Generation(1)),
        (Phase::Stopping, Wish::Start, Generation(1)),
        (Phase::Stopped, Wish::Start, Generation(1)),
    ] {
        let up = store.up().await;
        let number = store.asks(up.workspace, Wish::Start).await.number.unwrap();
        store.begins(up.workspace).await.unwrap();
        let started = Answer::Granted(instance(&up, number, Phase::Up, 5));
        store.0.answered(up.workspace, number, &started, at(5)).await.unwrap();
        let has =
            InstanceView { desired: Some(Desired::Stopped), ..instance(&up, IntentNumber(1), phase, 2) };
        store.meets(&[has], false).await;
        let again = store.begins(up.workspace).await.unwrap();
        assert_eq!((again.wish, again.generation), (wish, generation), "{phase}");
    }
}

async fn later_wishes_that_the_provider_knows_win(store: Subject) {
    let up = store.up().await;
    let workspace = up.workspace;
    let later = InstanceView {
        desired: Some(Desired::Stopped),
        intent: IntentNumber(4),
        generation: Generation(3),
        wanted_generation: Generation(3),
        ..instance(&up, IntentNumber(4), Phase::Stopped, 9)
    };
    let agreed = store.meets(&[later], true).await;
    assert_eq!((agreed.set_back, &agreed.adopted[..]), (true, &[workspace][..]));
    let record = store.0.get(ORG, workspace).await.unwrap().unwrap();
    assert_eq!(
        (record.desired, record.phase, record.generation),
        (Desired::Stopped, Phase::Stopped, Generation(3))
    );
    assert_eq!((record.intent, record.pending), (IntentNumber(4), None));
    let next = store.asks(workspace, Wish::Start).await;
    assert_eq!(next.number, Some(IntentNumber(5)));
}

/// Asked for after the restore and before the provider could be met: told under a number of its own.
async fn a_wish_of_this_start_is_told_whatever_number_it_had(store: Subject) {
    let up = store.up().await;
    let workspace = up.workspace;
    assert_eq!(store.asks(workspace, Wish::Stop(None)).await.number, Some(IntentNumber(2)));
    let earlier: IncarnationId = "00000000-0000-7000-8000-000000000000".parse().unwrap();
    let provider = Standpoint { incarnation: IncarnationId::generate(), revision: Revision(1) };
    let met = Met {
        provider,
        seen: vec![Standpoint { incarnation: earlier, revision: Revision(99) }],
        agreed: true,
    };
    let has = instance(&up, IntentNumber(6), Phase::Up, 9);
    let agreed = store.0.agree(ORG, &met, &[has], &PlainMinter, at(50)).await.unwrap();
    assert!(agreed.set_back);
    let (record, entry) = store.0.begin_call(workspace).await.unwrap().unwrap();
    assert_eq!(
        (entry.number, entry.wish, record.intent),
        (IntentNumber(7), Wish::Stop(None), IntentNumber(7))
    );
    assert_eq!(record.desired, Desired::Stopped);
}

/// The provider was put back as well: it has seen less of the time that is lost here than it had when the two agreed. And
/// whoever began to watch anew goes on, whatever more it sees of that time.
async fn what_is_lost_is_found_out_once(store: Subject) {
    let up = store.up().await;
    let lost: IncarnationId = "00000000-0000-7000-8000-000000000000".parse().unwrap();
    let watched_until = store.0.snapshot(ORG).await.unwrap().1;
    let mut watched_again_from = None;
    for (seen, set_back) in [(99, true), (50, false), (60, false), (99, false), (100, true)] {
        let provider = Standpoint { incarnation: IncarnationId::generate(), revision: Revision(1) };
        let met = Met {
            provider,
            seen: vec![Standpoint { incarnation: lost, revision: Revision(seen) }],
            agreed: true,
        };
        let has = instance(&up, IntentNumber(1), Phase::Up, 2);
        let agreed = store.0.agree(ORG, &met, &[has], &PlainMinter, at(50)).await.unwrap();
        assert_eq!(agreed.set_back, set_back, "it had seen {seen}");
        assert!(store.0.changes_after(ORG, watched_until, 10).await.is_err(), "whoever watched begins anew");
        let from = match watched_again_from {
            Some(from) => from,
            None => store.0.snapshot(ORG).await.unwrap().1,
        };
        watched_again_from = Some(from);
        assert!(store.0.changes_after(ORG, from, 10).await.is_ok(), "and goes on then: {seen}");
    }
}

async fn what_one_side_knows_as_deleted_is_never_launched_by_the_other(store: Subject) {
    let (first, second) = (store.up().await, store.up().await);
    let ended =
        InstanceView { desired: Some(Desired::Deleted), ..instance(&first, IntentNumber(3), Phase::Gone, 9) };
    let number = store.asks(second.workspace, Wish::Delete).await.number.unwrap();
    let gone = InstanceView { desired: Some(Desired::Deleted), ..instance(&second, number, Phase::Gone, 9) };
    store.0.answered(second.workspace, number, &Answer::Granted(gone), at(9)).await.unwrap();

    let again = instance(&second, IntentNumber(1), Phase::Up, 2);
    let agreed = store.meets(&[again, ended], false).await;
    assert_eq!(
        (&agreed.told_again[..], &agreed.adopted[..]),
        (&[second.workspace][..], &[first.workspace][..])
    );
    let record = store.0.get(ORG, first.workspace).await.unwrap().unwrap();
    assert_eq!((record.phase, record.desired), (Phase::Gone, Desired::Deleted));
    let (record, entry) = store.0.begin_call(second.workspace).await.unwrap().unwrap();
    assert_eq!((entry.wish, record.phase == Phase::Gone), (Wish::Delete, false));
}

async fn what_the_tenant_does_not_know_is_taken_back_and_let_be(store: Subject) {
    let known = store.up().await;
    let stranger = WorkspaceId::generate();
    let has = |workspace, revision| InstanceView {
        workspace,
        ..instance(&known, IntentNumber(3), Phase::Up, revision)
    };
    let of_known = InstanceView { intent: IntentNumber(1), ..has(known.workspace, 2) };
    let agreed = store.meets(&[of_known.clone(), has(stranger, 3)], true).await;
    assert_eq!(agreed.recovered, [known.workspace, stranger], "of neither is the agent's credential known");
    let patience = Patience {
        connect: std::time::Duration::from_secs(1),
        silence: std::time::Duration::from_secs(1),
        since: at(0),
    };
    for workspace in [known.workspace, stranger] {
        let record = store.0.get(ORG, workspace).await.unwrap().unwrap();
        assert!(record.is_recovered() && record.pending.is_none(), "{record:?}");
        assert_eq!(record.state(), molecule_domain::lifecycle::WorkspaceState::Running);
        let verdict = store.0.judge_agent(ORG, workspace, &patience, at(9999)).await.unwrap();
        assert_eq!(verdict, Verdict::Fine);
    }
    assert_eq!(store.0.waiting().await.unwrap(), [], "nothing is asked of the provider");
    let loaded = store.0.load(ORG, stranger).await.unwrap().unwrap();
    assert_eq!((loaded.private, loaded.record.intent), (sealed("nothing private"), IntentNumber(3)));
    // another meeting finds what is known already
    assert_eq!(store.meets(&[of_known, has(stranger, 3)], false).await.told_again, []);
    // a new generation is like any other
    store.asks(stranger, Wish::Replace { run: true, reset_session: false }).await;
    let (_, entry) = store.0.begin_call(stranger).await.unwrap().unwrap();
    let replaced = InstanceView {
        generation: entry.generation,
        wanted_generation: entry.generation,
        ..has(stranger, 9)
    };
    let record =
        store.0.answered(stranger, entry.number, &Answer::Granted(replaced), at(60)).await.unwrap().unwrap();
    assert!(!record.is_recovered());
}

async fn a_watch_from_before_a_restore_begins_anew(store: Subject) {
    let up = store.up().await;
    store.meets(&[instance(&up, IntentNumber(1), Phase::Up, 2)], true).await;
    // from before the backup, and from the time between that and the restore
    for last in [1, at(49).micros()] {
        let refused = store.0.changes_after(ORG, Revision(last), 10).await.unwrap_err();
        assert_eq!(Error::from(refused).reason, ErrorReason::RevisionTooOld, "after {last}");
    }
    let (_, newest) = store.0.snapshot(ORG).await.unwrap();
    assert_eq!(store.0.changes_after(ORG, newest, 10).await.unwrap(), [], "one that begins now goes on");
}

/// A stop was told before the two had agreed, under the number that a restart had before the provider was put back.
async fn a_generation_whose_number_the_provider_gave_to_another_is_told_again(store: Subject) {
    let up = store.up().await;
    let workspace = up.workspace;
    let restart = store.asks(workspace, RESTART).await.number.unwrap();
    store.begins(workspace).await.unwrap();
    let second = InstanceView {
        generation: Generation(2),
        wanted_generation: Generation(2),
        ..instance(&up, restart, Phase::Up, 5)
    };
    store.0.answered(workspace, restart, &Answer::Granted(second), at(5)).await.unwrap();
    let stop = store.asks(workspace, Wish::Stop(None)).await.number.unwrap();
    store.begins(workspace).await.unwrap();
    let first = InstanceView { desired: Some(Desired::Stopped), ..instance(&up, stop, Phase::Stopped, 6) };
    let agreed = store.meets(&[first], false).await;
    assert_eq!(agreed.told_again, [workspace], "it has the stop, and not the generation");
    let again = store.begins(workspace).await.unwrap();
    assert_eq!(again.wish, Wish::Replace { run: false, reset_session: false });
    assert_eq!(again.generation, Generation(3), "whose token is its own");
    assert!(again.number > stop, "a call under the stop's number would be taken for a repeated one");
}

/// Two replacements wait, and the number of the first was given to another wish: neither must wait for ever.
async fn a_replacement_before_another_is_told_anew(store: Subject) {
    let up = store.up().await;
    let workspace = up.workspace;
    let first = store.asks(workspace, RESTART).await.number.unwrap();
    store.begins(workspace).await.unwrap();
    store.asks(workspace, RESTART).await;
    let other = instance(&up, first, Phase::Up, 6);
    let agreed = store.meets(std::slice::from_ref(&other), false).await;
    assert_eq!(agreed.taken_back, []);
    let entry = store.begins(workspace).await.unwrap();
    assert!(entry.number > first && !entry.is_contradicted_by(&other), "{entry:?}");
    assert_eq!(store.outbox(workspace).await, [RESTART, RESTART]);
}

/// What it set is taken back, and what the one behind it set is not.
async fn private_parts_of_a_replacement_that_gives_way_go_with_it(store: Subject) {
    let up = store.up().await;
    let workspace = up.workspace;
    store.sets(workspace, |private| private.secrets = b"given way".to_vec()).await;
    store.begins(workspace).await.unwrap();
    store.sets(workspace, |private| private.config_files = b"asked for since".to_vec()).await;
    let other = instance(&up, IntentNumber(3), Phase::Up, 9);
    store.meets(&[other], false).await;
    let expected = SealedParts { config_files: b"asked for since".to_vec(), ..sealed("private first") };
    assert_eq!(store.0.load(ORG, workspace).await.unwrap().unwrap().private, expected);
}

/// It was asked for after the restore and before the two had met; the provider has further generations.
async fn a_restart_of_this_start_brings_a_generation_that_is_new(store: Subject) {
    let up = store.up().await;
    let workspace = up.workspace;
    store.asks(workspace, RESTART).await;
    let later = InstanceView {
        generation: Generation(3),
        wanted_generation: Generation(4),
        ..instance(&up, IntentNumber(6), Phase::Up, 9)
    };
    let agreed = store.meets(&[later], true).await;
    assert_eq!((agreed.told_again, agreed.taken_back), (Vec::new(), Vec::new()));
    let (record, entry) = store.0.begin_call(workspace).await.unwrap().unwrap();
    assert_eq!((entry.number, entry.generation, entry.wish), (IntentNumber(7), Generation(5), RESTART));
    assert_eq!((record.generation, record.highest), (Generation(5), Generation(5)));
    let redemption =
        Redemption { token_hash: PlainMinter.mint(workspace, Generation(5)).hash, nonce: "nonce".to_owned() };
    let redeemed = store.0.redeem(&redemption, Box::new(|_, _| b"credential".to_vec())).await.unwrap();
    assert_eq!(
        redeemed,
        Redeemed::Granted(workspace, Generation(5)),
        "its token is the one that it is launched with"
    );
}

/// What was told in the time that is lost came after it.
async fn a_wish_that_gives_way_says_so(store: Subject) {
    let up = store.up().await;
    let workspace = up.workspace;
    // it agreed in this start, so the wish may have been told
    store.meets(&[instance(&up, IntentNumber(1), Phase::Up, 2)], false).await;
    let stop = store.asks(workspace, Wish::Stop(None)).await.number.unwrap();
    let later = InstanceView { tier: Tier::T4, ..instance(&up, IntentNumber(6), Phase::Up, 9) };
    let agreed = store.meets(&[later], true).await;
    assert_eq!(agreed.adopted, [workspace]);
    assert_eq!(agreed.taken_back, [(workspace, stop)]);
    let record = store.0.get(ORG, workspace).await.unwrap().unwrap();
    assert_eq!((record.desired, record.intent), (Desired::Running, IntentNumber(6)));
    assert_eq!(record.spec.tier, Tier::T4, "it runs as the provider has it");
    assert_eq!(store.outbox(workspace).await, []);
    let events = store.0.events(workspace, None, 10).await.unwrap();
    let told = events.iter().find(|event| event.detail.kind == "taken_back").expect("an event tells of it");
    assert!(told.detail.message.contains("the stop is not carried out"), "{told:?}");
}

/// The database was put back, and nothing else shows it: the provider had not heard how far this tenant was.
async fn a_generation_of_which_only_the_provider_knows_is_recovered(store: Subject) {
    let up = store.up().await;
    let third = Generation(3);
    let later = InstanceView {
        generation: third,
        wanted_generation: third,
        ..instance(&up, IntentNumber(6), Phase::Up, 9)
    };
    let agreed = store.meets(&[later], false).await;
    assert_eq!((agreed.adopted, agreed.recovered), (vec![up.workspace], vec![up.workspace]));
    let record = store.0.get(ORG, up.workspace).await.unwrap().unwrap();
    assert_eq!((record.recovered, record.generation), (Some(third), third));
}

async fn an_agent_that_connects_is_recovered_no_more(store: Subject) {
    let up = store.up().await;
    let workspace = up.workspace;
    assert!(store.knows_token(workspace, 1).await, "a token that was redeemed after the backup, or not yet");
    for phase in [Phase::Launching, Phase::Stopped, Phase::Failed, Phase::Up] {
        let unredeemed = store.up().await;
        store.meets(&[instance(&unredeemed, IntentNumber(1), phase, 3)], true).await;
        let record = store.0.get(ORG, unredeemed.workspace).await.unwrap().unwrap();
        assert_eq!(record.recovered, Some(Generation(1)), "whatever it does now: {phase}");
        assert_eq!(record.is_recovered(), phase == Phase::Up);
        assert_eq!(record.has_lost_config(), phase != Phase::Launching, "it is listed");
    }
    let agreed = store.meets(&[instance(&up, IntentNumber(1), Phase::Up, 3)], true).await;
    assert!(!agreed.recovered.contains(&workspace), "its credential is in this database");
    let launched = store.created().await;
    let admitted = instance(&launched, IntentNumber(1), Phase::Admitted, 4);
    store.meets(&[admitted], true).await;
    let record = store.0.get(ORG, launched.workspace).await.unwrap().unwrap();
    assert_eq!(record.recovered, None, "nothing was launched that could have used its token");
}

/// Somebody else has made it at the provider, who tells of it between two agreements.
async fn what_only_the_provider_knows_is_left_to_an_agreement(store: Subject) {
    let known = store.up().await;
    let other = InstanceView {
        workspace: WorkspaceId::generate(),
        ..instance(&known, IntentNumber(1), Phase::Up, 9)
    };
    let gone = InstanceView { phase: Phase::Gone, workspace: WorkspaceId::generate(), ..other.clone() };
    for (what, instance, unknown) in [
        ("known", instance(&known, IntentNumber(1), Phase::Up, 8), false),
        ("gone", gone, false),
        ("other", other.clone(), true),
    ] {
        let mirrored = store.0.mirror(ORG, &[instance], &[], at(40)).await.unwrap();
        assert_eq!((mirrored.unknown, mirrored.wishes), (unknown, vec![]), "{what}");
    }
    store.meets(std::slice::from_ref(&other), false).await;
    let mirrored = store.0.mirror(ORG, &[other], &[], at(41)).await.unwrap();
    assert!(!mirrored.unknown, "it is known now");
}

/// Its creation was refused, a backup was taken, and then another was created under the same id, which runs.
async fn another_of_an_id_that_was_refused_is_taken_back(store: Subject) {
    let first = store.created().await;
    let workspace = first.workspace;
    store.begins(workspace).await.unwrap();
    store.0.answered(workspace, IntentNumber(1), &refused(), at(2)).await.unwrap();
    let second =
        InstanceView { desired: Some(Desired::Running), ..instance(&first, IntentNumber(2), Phase::Up, 9) };
    // whichever is heard first
    store.0.mirror(ORG, std::slice::from_ref(&second), &[], at(40)).await.unwrap();
    assert_eq!(store.0.waiting().await.unwrap(), [], "nothing is deleted");
    let agreed = store.meets(std::slice::from_ref(&second), true).await;
    assert_eq!((&agreed.recovered[..], &agreed.told_again[..]), (&[workspace][..], &[][..]));
    let found = store.0.load(ORG, workspace).await.unwrap().unwrap();
    assert!(found.record.is_recovered() && !found.record.refused, "{found:?}");
    assert_eq!((found.record.intent, found.record.phase), (IntentNumber(2), Phase::Up));
    assert_eq!((found.outbox.len(), found.private), (0, sealed("nothing private")));
    assert_eq!(found.record.created_at, first.created_at);
    // a late copy of what was refused is another matter
    let denied = store.created().await;
    store.begins(denied.workspace).await.unwrap();
    store.0.answered(denied.workspace, IntentNumber(1), &refused(), at(2)).await.unwrap();
    let late = instance(&denied, IntentNumber(1), Phase::Up, 10);
    assert_eq!(store.meets(&[second, late], true).await.told_again, [denied.workspace]);
    assert_eq!(store.outbox(denied.workspace).await, [Wish::Delete]);
}

/// The provider has done a later wish than this database holds, and nothing was put back: a call that was refused was heard
/// late.
async fn whose_agent_is_known_is_not_recovered(store: Subject) {
    let up = store.up().await;
    assert!(store.knows_token(up.workspace, 1).await);
    let agreed = store.meets(&[instance(&up, IntentNumber(4), Phase::Up, 9)], false).await;
    assert_eq!((&agreed.adopted[..], &agreed.recovered[..]), (&[up.workspace][..], &[][..]));
    assert_eq!(store.0.get(ORG, up.workspace).await.unwrap().unwrap().recovered, None);
}

/// A start was refused and taken back; then the provider was put back to before the stop. A late call of the start must not
/// be taken for the stop that is told again.
async fn what_is_told_again_has_a_number_of_its_own(store: Subject) {
    let up = store.up().await;
    let workspace = up.workspace;
    let stop = store.asks(workspace, Wish::Stop(None)).await.number.unwrap();
    store.begins(workspace).await.unwrap();
    let stopped = InstanceView { desired: Some(Desired::Stopped), ..instance(&up, stop, Phase::Stopped, 5) };
    store.0.answered(workspace, stop, &Answer::Granted(stopped), at(5)).await.unwrap();
    let start = store.asks(workspace, Wish::Start).await.number.unwrap();
    store.begins(workspace).await.unwrap();
    store.0.answered(workspace, start, &refused(), at(6)).await.unwrap();
    store.meets(&[instance(&up, IntentNumber(1), Phase::Up, 2)], false).await;
    let again = store.begins(workspace).await.unwrap();
    assert_eq!(again.wish, Wish::Stop(None));
    assert!(again.number > start, "{again:?}");
}

/// A replacement was under way when the tenant was put back: neither the generation that runs nor the one that follows is
/// known here.
async fn of_two_unknown_generations_the_later_is_let_be_as_well(store: Subject) {
    let up = store.up().await;
    let under_way = InstanceView {
        generation: Generation(2),
        wanted_generation: Generation(3),
        ..instance(&up, IntentNumber(4), Phase::Up, 8)
    };
    store.meets(std::slice::from_ref(&under_way), true).await;
    let replaced = InstanceView { generation: Generation(3), revision: Revision(9), ..under_way };
    store.0.mirror(ORG, &[replaced], &[], at(60)).await.unwrap();
    let record = store.0.get(ORG, up.workspace).await.unwrap().unwrap();
    assert!(record.is_recovered(), "{record:?}");
}

/// A process over a copy of this database has told wishes of its own meanwhile, under the numbers of those that wait here.
async fn a_wish_that_was_overtaken_is_not_told_for_ever(store: Subject) {
    for last in [Wish::Stop(None), Wish::Delete] {
        let up = store.up().await;
        let workspace = up.workspace;
        store.meets(&[instance(&up, IntentNumber(1), Phase::Up, 2)], false).await;
        let restart = store.asks(workspace, RESTART).await.number.unwrap();
        store.begins(workspace).await.unwrap();
        store.asks(workspace, Wish::Start).await;
        let third = store.asks(workspace, last.clone()).await;
        let has = instance(&up, IntentNumber(3), Phase::Up, 9);
        let agreed = store.meets(&[has], true).await;
        assert!(agreed.taken_back.contains(&(workspace, restart)), "{agreed:?}");
        let (record, entry) = store.0.begin_call(workspace).await.unwrap().unwrap();
        assert!(entry.number > IntentNumber(3), "it is heard as a new one: {entry:?}");
        assert_eq!((entry.wish, record.desired), (last, third.record.desired));
        assert_eq!(record.generation, Generation(1), "the restart is not carried out");
    }
}

/// A backup was taken while a replacement waited that was refused later; the provider has done other wishes since.
async fn a_replacement_of_the_backup_that_was_never_granted_is_forgotten(store: Subject) {
    let up = store.up().await;
    // it agreed in this start, so the wish may have been told
    store.meets(&[instance(&up, IntentNumber(1), Phase::Up, 2)], false).await;
    store.asks(up.workspace, RESTART).await;
    store.begins(up.workspace).await.unwrap();
    let later = instance(&up, IntentNumber(7), Phase::Up, 9);
    assert_eq!(store.meets(&[later], true).await.adopted, [up.workspace]);
    let now = store.0.load(ORG, up.workspace).await.unwrap().unwrap();
    assert_eq!((now.record.generation, &now.record.spec.name), (up.generation, &up.spec.name));
    assert!(now.outbox.is_empty() && now.private == sealed("private first"), "{now:?}");
}
