//! Organisations on PostgreSQL: their tokens, their suspension, their counters.

use std::sync::Arc;
use std::time::Duration;

use molecule_domain::error::{Error, ErrorReason};
use molecule_domain::id::{LeaseOwner, OrganizationId, Revision};
use molecule_domain::lifecycle::{Desired, Phase, Reason};
use molecule_domain::limits::Standing;
use molecule_provisioner::outcome::Outcome;
use molecule_provisioner::store::{Room, Store};
use molecule_store_postgres::accounts::Accounts;
use molecule_tests::postgres::execute;
use sqlx::Connection;

use crate::support::{Opened, assert_no_retries, at, created, operator, request, until_locks_are_waited_for};

async fn holder(accounts: &Accounts, hash: &[u8]) -> Option<OrganizationId> {
    accounts.holder(hash).await.unwrap().map(|holder| holder.organization)
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_live_side_by_side_and_die_one_by_one() {
    let Opened { scratch: _scratch, accounts, .. } = Opened::new().await;
    let org = created(&accounts).await;
    let old = accounts.issue_token(org, "old", b"old", &operator("issue"), at(1)).await.unwrap();
    accounts.issue_token(org, "new", b"new", &operator("issue"), at(2)).await.unwrap();
    assert_eq!(holder(&accounts, b"old").await, Some(org));
    assert_eq!(holder(&accounts, b"new").await, Some(org));
    assert_eq!(holder(&accounts, b"wrong").await, None);
    let foreign = accounts.revoke_token(OrganizationId::generate(), old.id, &operator("revoke"), at(3)).await;
    assert_eq!(Error::from(foreign.unwrap_err()).reason, ErrorReason::TokenNotFound);
    let revoked = accounts.revoke_token(org, old.id, &operator("revoke"), at(3)).await.unwrap();
    assert_eq!(revoked.revoked_at, Some(at(3)));
    assert_eq!(holder(&accounts, b"old").await, None);
    assert_eq!(holder(&accounts, b"new").await, Some(org));
    assert_eq!(accounts.tokens(org, at(4)).await.unwrap().len(), 2);
    let told = accounts.audit_events(Some(org), None, 10).await.unwrap();
    let actions: Vec<_> = told.iter().map(|event| event.action.as_str()).collect();
    assert_eq!(actions, ["revoke", "issue", "issue", "create"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_organisation_is_stopped_and_one_in_use_stays() {
    let Opened { scratch: _scratch, accounts, store, .. } = Opened::new().await;
    let org = created(&accounts).await;
    for _ in 0..3 {
        store.provision(&request(org), at(1)).await.unwrap();
    }
    // a step that was planned before, and comes to its end after it
    let owner = LeaseOwner::generate();
    let lease = Duration::from_secs(60);
    let planned = store.claim("memory", owner, at(1), lease, Room::of_each(1)).await.unwrap().remove(0);
    let before = store.changed_after(org, Revision(0), 10).await.unwrap();
    let suspended = accounts.suspend(org, &operator("suspend"), at(2)).await.unwrap();
    assert_eq!(suspended.account.standing, Standing::Suspended);
    let after = store.changed_after(org, before[2].view.revision, 10).await.unwrap();
    assert_eq!(after.len(), 3, "each has a revision of its own behind the last");
    let stale = Outcome {
        planned_for: planned.record.wanted(),
        phase: Some(Phase::Launching),
        message: Some("launching".to_owned()),
        ..Outcome::default()
    };
    store.commit(&planned.lease, at(3), &stale, true).await.unwrap();
    let after = [after, store.changed_after(org, Revision(0), 10).await.unwrap()].concat();
    for shown in &after {
        let record = store.get(org, shown.view.workspace).await.unwrap().unwrap();
        assert_eq!((record.desired, record.reason), (Desired::Stopped, Some(Reason::OrganizationSuspended)));
        assert_eq!((record.phase, record.message.contains("suspended")), (Phase::Admitted, true));
        assert!(record.due_at.is_some_and(|due| due <= at(3)));
    }
    let revisions: std::collections::HashSet<_> = after.iter().map(|shown| shown.view.revision).collect();
    assert_eq!(revisions.len(), 3);
    let told = store.events_after(org, 0, 10).await.unwrap();
    let kinds: Vec<_> = told.iter().map(|event| event.detail.kind.as_ref()).collect();
    assert_eq!(kinds, ["admitted", "admitted", "admitted", "suspended", "suspended", "suspended"]);
    let refused = store.provision(&request(org), at(3)).await.unwrap_err();
    assert_eq!(Error::from(refused).reason, ErrorReason::NotInGoodStanding);
    let in_use = accounts.delete(org, &operator("delete"), at(4)).await.unwrap_err();
    assert_eq!(Error::from(in_use).reason, ErrorReason::OrganizationInUse);
    assert_eq!(accounts.get(org, at(5)).await.unwrap().account.used.workspaces, 3);
}

/// What is started while its organisation is being suspended holds its instance's lock and waits for the organisation's: in the
/// order of all locks, so that neither waits for the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspension_keeps_the_order_of_locks() {
    let Opened { scratch, database, accounts, store, .. } = Opened::new().await;
    let org = created(&accounts).await;
    let started = request(org);
    store.provision(&started, at(1)).await.unwrap();
    let connect = async || sqlx::PgConnection::connect(&scratch.url()).await.unwrap();
    let lock_organization = "SELECT 1 FROM organizations WHERE organization_id = $1 FOR UPDATE";
    let desire = "UPDATE instances SET desired = $2 WHERE workspace_id = $1";
    sqlx::query(desire)
        .bind(started.workspace.as_uuid())
        .bind("Stopped")
        .execute(&mut connect().await)
        .await
        .unwrap();

    // one that starts it has the organisation's lock, which the suspension waits for
    let (mut starting, mut stepping) = (connect().await, connect().await);
    let mut starting = starting.begin().await.unwrap();
    sqlx::query(desire)
        .bind(started.workspace.as_uuid())
        .bind("Running")
        .execute(&mut *starting)
        .await
        .unwrap();
    sqlx::query(lock_organization).bind(org.as_uuid()).execute(&mut *starting).await.unwrap();
    let suspending = tokio::spawn({
        let accounts = accounts.clone();
        async move { accounts.suspend(org, &operator("suspend"), at(2)).await }
    });
    until_locks_are_waited_for(&scratch, 1).await;
    // a step of the engine's waits for the instance, and then for the organisation
    let step = tokio::spawn({
        let scratch = Arc::clone(&scratch);
        async move {
            let mut step = stepping.begin().await?;
            let lock = "SELECT 1 FROM instances WHERE workspace_id = $1 FOR UPDATE";
            sqlx::query(lock).bind(started.workspace.as_uuid()).execute(&mut *step).await?;
            until_locks_are_waited_for(&scratch, 1).await;
            sqlx::query(lock_organization).bind(org.as_uuid()).execute(&mut *step).await?;
            step.commit().await
        }
    });
    until_locks_are_waited_for(&scratch, 2).await;
    starting.commit().await.unwrap();

    step.await.unwrap().unwrap();
    assert_eq!(suspending.await.unwrap().unwrap().account.standing, Standing::Suspended);
    let stopped = store.get(org, started.workspace).await.unwrap().unwrap();
    assert_eq!((stopped.desired, stopped.reason), (Desired::Stopped, Some(Reason::OrganizationSuspended)));
    assert_no_retries(&database);
}

/// A replica dies between the two parts of a suspension: a later look stops what was left to run, and only that.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspension_that_was_cut_short_is_finished() {
    let Opened { scratch, accounts, store, .. } = Opened::new().await;
    let mut made = Vec::new();
    for _ in 0..2 {
        made.push(created(&accounts).await);
    }
    let (cut, other) = (made[0], made[1]);
    // more than one batch
    for _ in 0..120 {
        store.provision(&request(cut), at(1)).await.unwrap();
    }
    store.provision(&request(other), at(1)).await.unwrap();
    let unread = store.provision(&request(cut), at(1)).await.unwrap().workspace;
    for written in [
        format!("UPDATE organizations SET standing = 'Suspended' WHERE organization_id = '{cut}'"),
        format!("UPDATE instances SET phase = 'Hibernating' WHERE workspace_id = '{unread}'"),
    ] {
        execute(&scratch.url(), written).await.unwrap();
    }
    let running = async || {
        let count = "SELECT COUNT(*)::text FROM instances WHERE desired = 'Running'";
        scratch.text(count).await.unwrap()
    };
    assert_eq!(running().await, "122");
    accounts.finish_suspensions(at(2)).await.unwrap();
    assert_eq!(running().await, "2", "the other organisation's, and what this version can't read");
    assert_eq!(store.account(other, at(3)).await.unwrap().standing, Standing::Good);
    let told = store.events_after(cut, 0, 1000).await.unwrap();
    let suspended = || told.iter().filter(|event| event.detail.kind == "suspended").count();
    assert_eq!(suspended(), 120);
    // once more finds nothing to do, and so does another suspension
    accounts.finish_suspensions(at(3)).await.unwrap();
    accounts.suspend(cut, &operator("suspend"), at(3)).await.unwrap();
    assert_eq!(store.events_after(cut, 0, 1000).await.unwrap().len(), told.len());
}

/// One that can't be stopped keeps no other suspended organisation running.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspension_that_fails_keeps_no_other_from_being_finished() {
    let Opened { scratch, accounts, store, .. } = Opened::new().await;
    let mut made = Vec::new();
    for _ in 0..2 {
        made.push(created(&accounts).await);
        store.provision(&request(made[made.len() - 1]), at(1)).await.unwrap();
    }
    let write = async |what: String| execute(&scratch.url(), what).await.unwrap();
    write(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$".to_owned(),
    )
    .await;
    // whichever comes first
    for fails in &made {
        write("UPDATE organizations SET standing = 'Suspended'".to_owned()).await;
        write("UPDATE instances SET desired = 'Running'".to_owned()).await;
        write(format!(
            "CREATE TRIGGER refuses BEFORE UPDATE ON instances FOR EACH ROW WHEN (OLD.organization_id = '{fails}')
                 EXECUTE FUNCTION refuse()"
        ))
        .await;
        accounts.finish_suspensions(at(2)).await.unwrap_err();
        let running =
            "SELECT string_agg(organization_id::text, ' ') FROM instances WHERE desired = 'Running'";
        assert_eq!(scratch.text(running).await.unwrap(), fails.to_string());
        write("DROP TRIGGER refuses ON instances".to_owned()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_that_drift_are_found() {
    let Opened { scratch, accounts, store, .. } = Opened::new().await;
    let org = created(&accounts).await;
    store.provision(&request(org), at(1)).await.unwrap();
    store.provision(&request(org), at(1)).await.unwrap();
    assert_eq!(accounts.recount().await.unwrap(), []);
    execute(&scratch.url(), "UPDATE organizations SET used_disk_gib = used_disk_gib + 1".to_owned())
        .await
        .unwrap();
    let drifts = accounts.recount().await.unwrap();
    assert_eq!(
        (drifts[0].organization, drifts[0].counted.disk_gib, drifts[0].actual.disk_gib),
        (org, 21, 20)
    );
}
