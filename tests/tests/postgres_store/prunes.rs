//! What is old is dropped, and what is gone costs nothing.

use molecule_provisioner::store::Store;
use molecule_tests::postgres::execute;

use crate::support::{Opened, at, created, request};

/// Much that is old: a prune that can't come to its end gets on all the same, and the next one goes on from there.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_old_is_dropped_in_parts() {
    let Opened { scratch, accounts, store, .. } = Opened::new().await;
    let org = created(&accounts).await;
    for old in [
        format!(
            "INSERT INTO instance_events (organization_id, event_id, workspace_id, at, kind, actor, generation, message,
                 log_tail)
             SELECT '{org}', number, '{org}', to_timestamp(number), 'old', 'Provider', 1, '', ''
             FROM generate_series(1, 25000) number"
        ),
        format!(
            "INSERT INTO launches (organization_id, at, workspace_id)
             SELECT '{org}', to_timestamp(number), '{org}' FROM generate_series(1, 25000) number"
        ),
        format!(
            "INSERT INTO launched (launch, workspace_id, at)
             SELECT number, '{org}', to_timestamp(number) FROM generate_series(1, 25000) number"
        ),
        "INSERT INTO audit_events (at, actor, action, message)
         SELECT to_timestamp(number), '', 'old', '' FROM generate_series(1, 25000) number"
            .to_owned(),
        // as where the time does not suffice
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'slow'; END $$".to_owned(),
        "CREATE TRIGGER slow BEFORE DELETE ON instance_events FOR EACH ROW WHEN (OLD.event_id = 20500)
             EXECUTE FUNCTION refuse()"
            .to_owned(),
    ] {
        execute(&scratch.url(), old).await.unwrap();
    }
    store.provision(&request(org), at(1)).await.unwrap();
    let left = async |table| scratch.text(table).await.unwrap();
    store.prune(at(0)).await.unwrap_err();
    assert_eq!(left("SELECT COUNT(*)::text FROM instance_events").await, "5001");
    execute(&scratch.url(), "DROP TRIGGER slow ON instance_events".to_owned()).await.unwrap();
    store.prune(at(0)).await.unwrap();
    let counted =
        "SELECT (SELECT COUNT(*) FROM instance_events) || ' ' || (SELECT COUNT(*) FROM launches) || ' '
         || (SELECT COUNT(*) FROM launched)";
    assert_eq!(left(counted).await, "1 1 0");
    accounts.prune(at(0)).await.unwrap();
    let told = accounts.audit_events(None, None, 10).await.unwrap();
    assert_eq!(told.iter().map(|event| event.action.as_str()).collect::<Vec<_>>(), ["create"]);
}

/// A sweep reads what should be at its backend, every few seconds, and not what is gone.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_gone_is_not_read_by_each_sweep() {
    let Opened { scratch, accounts, store, .. } = Opened::new().await;
    let org = created(&accounts).await;
    let there = store.provision(&request(org), at(1)).await.unwrap().workspace;
    let columns = "organization_id, backend, desired, intent, generation, wanted_generation, spec, phase_since, message,
         restarts, failures, running_counted, revision, created_at";
    for statement in [
        format!(
            "INSERT INTO instances (workspace_id, charge_id, phase, {columns})
             SELECT gen_random_uuid(), gen_random_uuid(), 'Gone', {columns}
             FROM instances, generate_series(1, 5000) WHERE workspace_id = '{there}'"
        ),
        "ANALYZE instances".to_owned(),
    ] {
        execute(&scratch.url(), statement).await.unwrap();
    }
    let expected = store.expectations("memory").await.unwrap().instances;
    assert_eq!(expected.iter().map(|one| one.workspace).collect::<Vec<_>>(), [there]);
    let plan = "EXPLAIN SELECT * FROM instances WHERE phase <> 'Gone' AND backend = 'memory'";
    let plan = scratch.text(plan).await.unwrap();
    assert!(plan.starts_with("Index Scan using instances_by_backend"), "{plan}");
}
