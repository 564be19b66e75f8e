//! What a newer version has stored harms nobody, and is not lost.

use std::time::Duration;

use molecule_domain::error::Error;
use molecule_domain::id::{IntentNumber, LeaseOwner, OrganizationId, Revision};
use molecule_domain::lifecycle::{Desired, Reason};
use molecule_domain::limits::{Limits, Permits, Standing};
use molecule_provisioner::admission::{Account, Change, ChangeRequest};
use molecule_provisioner::outcome::Outcome;
use molecule_provisioner::shown::Shown;
use molecule_provisioner::store::{Room, Store};
use molecule_store_postgres::accounts::Changes;
use molecule_tests::postgres::execute;

use crate::support::{Opened, at, created, operator, request};

/// A newer version has written what this one can't read: only that record is left to others, and its instance is no orphan.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_a_newer_version_harms_nobody() {
    let Opened { scratch, accounts, store, .. } = Opened::new().await;
    store.set_account(OrganizationId::SELF_HOSTED, Account::default()).await.unwrap();
    let request = || request(OrganizationId::SELF_HOSTED);
    let (newer, known) = (request(), request());
    let before = store.provision(&newer, at(1)).await.unwrap().revision;
    store.provision(&known, at(1)).await.unwrap();
    let newer = newer.workspace;
    let write = async |what: String| execute(&scratch.url(), what).await.unwrap();
    let set_phase = |phase| format!("UPDATE instances SET phase = '{phase}' WHERE workspace_id = '{newer}'");
    write(set_phase("Hibernating")).await;
    write(format!("UPDATE instances SET reason = 'TooCold' WHERE workspace_id = '{}'", known.workspace))
        .await;
    let claim = async |second| {
        let (owner, lease) = (LeaseOwner::generate(), Duration::from_secs(60));
        let claimed = store.claim("memory", owner, at(second), lease, Room::of_each(10)).await.unwrap();
        claimed.into_iter().map(|one| (one.record.workspace, one.record.reason)).collect::<Vec<_>>()
    };
    assert_eq!(claim(2).await, [(known.workspace, None)]);
    // whoever lists or watches is shown what can be read of it: left out, it would pass for absent
    let shown = store.changed_after(OrganizationId::SELF_HOSTED, Revision(0), 10).await.unwrap();
    let known_of = |one: &Shown| (one.view.workspace, one.view.in_unknown_state, one.view.desired);
    let expected = [(newer, true, Some(Desired::Running)), (known.workspace, false, Some(Desired::Running))];
    assert_eq!(
        (shown[0].view.revision, shown.iter().map(known_of).collect::<Vec<_>>()),
        (before, expected.to_vec())
    );
    assert_eq!(shown[0].view.runtime, "demo");
    assert_eq!(accounts.recount().await.unwrap(), []);
    write(format!("UPDATE instances SET spec = '[]' WHERE workspace_id = '{newer}'")).await;
    write(format!("UPDATE instance_events SET actor = 'Robot' WHERE workspace_id = '{newer}'")).await;
    assert_eq!(accounts.recount().await.unwrap(), [], "what can't be counted is not compared");
    let spec = format!("(SELECT spec FROM instances WHERE workspace_id = '{}')", known.workspace);
    write(format!("UPDATE instances SET spec = {spec} WHERE workspace_id = '{newer}'")).await;
    let events = store.events_after(OrganizationId::SELF_HOSTED, 0, 10).await.unwrap();
    assert_eq!(events.len(), 2, "an unknown actor keeps nothing from being told");
    let expected = store.expectations("memory").await.unwrap().instances;
    let phase = expected.iter().find(|one| one.workspace == newer).map(|one| one.phase);
    assert_eq!((expected.len(), phase), (2, Some(None)));
    // it keeps nobody else from being stopped with the organisation
    let suspended = accounts.suspend(OrganizationId::SELF_HOSTED, &operator("suspend"), at(2)).await.unwrap();
    assert_eq!(suspended.account.standing, Standing::Suspended);
    let stopped = store.get(OrganizationId::SELF_HOSTED, known.workspace).await.unwrap().unwrap();
    assert_eq!((stopped.desired, stopped.reason), (Desired::Stopped, Some(Reason::OrganizationSuspended)));
    // its lease was given back, and whoever can read it claims it
    write(set_phase("Admitted")).await;
    assert_eq!(claim(3).await, [], "it is left to others for a while");
    assert_eq!(claim(8).await, [(newer, None)]);
}

/// Terms of an organisation's that only a newer version can read: nothing is launched by them, which is no refusal; all else goes
/// on, and so does every other organisation.
#[tokio::test(flavor = "multi_thread")]
async fn an_organisation_of_a_newer_version_harms_nobody() {
    let Opened { scratch, accounts, store, .. } = Opened::new().await;
    let mut made = Vec::new();
    for _ in 0..2 {
        made.push(created(&accounts).await);
    }
    let newer = made[0];
    let unread = [
        "standing = 'Frozen'".to_owned(),
        r#"standing = 'Good', permits = '{"highest_tier":"T9","runtimes":[],"backends":[]}'"#.to_owned(),
        r#"standing = 'Good', permits = '{"highest_tier":null,"runtimes":[],"backends":[],"regions":["eu"]}'"#
            .to_owned(),
    ];
    for unread in unread {
        let (one, other) = (request(newer), request(newer));
        let known = "standing = 'Good', permits = '{\"highest_tier\":null,\"runtimes\":[],\"backends\":[]}'";
        let set = async |terms: &str| {
            let set = format!("UPDATE organizations SET {terms} WHERE organization_id = '{newer}'");
            execute(&scratch.url(), set).await.unwrap();
        };
        set(known).await;
        for request in [&one, &other] {
            store.provision(request, at(1)).await.unwrap();
        }
        set(&unread).await;
        let change = async |workspace, intent, change| {
            let (intent, trace) = (IntentNumber(intent), String::new());
            let organization = newer;
            let request = ChangeRequest {
                organization,
                workspace,
                intent,
                change,
                refusal_is_final: true,
                process: None,
                trace,
            };
            store.change(&request, at(2)).await
        };
        let stopped = change(one.workspace, 2, Change::Stop(None)).await.unwrap();
        assert_eq!(stopped.desired, Desired::Stopped);
        let deleted = change(other.workspace, 2, Change::Delete).await.unwrap();
        assert_eq!(deleted.desired, Desired::Deleted);
        // what is told again is answered
        change(one.workspace, 2, Change::Start).await.unwrap();
        let launches =
            [change(one.workspace, 3, Change::Start).await, store.provision(&request(newer), at(2)).await];
        for launch in launches {
            let error = Error::from(launch.unwrap_err());
            assert!(!error.reason.is_refusal(), "who can read it may grant it: {error:?}");
        }
        assert_ne!(store.account(newer, at(2)).await.unwrap(), Account::default());
        let listed = accounts.list(None, 10, at(2)).await.unwrap();
        assert_eq!(listed.len(), 2);
        let named = Changes { name: Some("another".to_owned()), ..Changes::default() };
        accounts.update(newer, &named, &operator("update"), at(2)).await.unwrap();
        // that would write what can't be read anew, with less
        let limits = Changes { limits: Some((Limits::default(), Permits::default())), ..Changes::default() };
        let limited = accounts.update(newer, &limits, &operator("update"), at(2)).await;
        assert_eq!(limited.is_err(), unread.contains("permits"), "{unread}");
    }
    let suspended = accounts.suspend(newer, &operator("suspend"), at(3)).await.unwrap();
    assert_eq!(suspended.account.standing, Standing::Suspended);
    store.provision(&request(made[1]), at(3)).await.unwrap();
}

/// What a newer version has stored in a row is there when that goes on with it, whatever this one has written meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_newer_version_has_stored_is_not_lost() {
    let Opened { scratch, accounts, store, .. } = Opened::new().await;
    let org = created(&accounts).await;
    let (grown, told) = (request(org), request(org));
    for request in [&grown, &told] {
        store.provision(request, at(1)).await.unwrap();
    }
    for (set, request) in
        [("spec = jsonb_set(spec::jsonb, '{gpus}', '2')::text", &grown), ("reason = 'TooCold'", &told)]
    {
        let set = format!("UPDATE instances SET {set} WHERE workspace_id = '{}'", request.workspace);
        execute(&scratch.url(), set).await.unwrap();
    }
    let (owner, lease) = (LeaseOwner::generate(), Duration::from_secs(60));
    let claimed = store.claim("memory", owner, at(2), lease, Room::of_each(10)).await.unwrap();
    let claimed: Vec<_> = claimed.into_iter().map(|one| (one.record.workspace, one)).collect();
    assert_eq!(claimed.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [told.workspace]);
    let commit = async |message: Option<String>| {
        let planned_for = claimed[0].1.record.wanted();
        let outcome = Outcome { planned_for, message, ..Outcome::default() };
        store.commit(&claimed[0].1.lease, at(3), &outcome, false).await.unwrap();
        let reason = "SELECT COALESCE(MAX(reason), 'none') FROM instances";
        scratch.text(reason).await.unwrap()
    };
    assert_eq!(commit(None).await, "TooCold");
    assert_eq!(commit(Some("something else".to_owned())).await, "none", "something was said anew");
    let gpus = "SELECT COUNT(*) FROM instances WHERE spec::jsonb ->> 'gpus' = '2'";
    assert_eq!(scratch.number(gpus).await.unwrap(), 1);
}
