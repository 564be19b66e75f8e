//! What is old is dropped.

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
