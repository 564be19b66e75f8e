//! Commits of one replica wake the others: NOTIFY after the commit, many organisations in one, and LISTEN. What
//! is lost while a connection is down is made up for by waking everybody once it is back.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use molecule_domain::id::OrganizationId;
use molecule_provisioner::wakes::Wakes;
use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

const CHANNEL: &str = "molecule_commits";
/// How many organisations may wait to be told of; beyond that, others find out by looking.
const WAITING: usize = 4096;
const PAUSE: Duration = Duration::from_secs(1);

/// Tells other replicas.
#[derive(Clone, Debug)]
pub(crate) struct Notifier(mpsc::Sender<OrganizationId>);

impl Notifier {
    /// Tells and listens until cancelled.
    pub(crate) fn start(pool: PgPool, wakes: Arc<Wakes>, cancel: CancellationToken) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        tokio::spawn(cancel.clone().run_until_cancelled_owned(tell(pool.clone(), receiver)));
        tokio::spawn(cancel.run_until_cancelled_owned(listen(pool, wakes)));
        Self(sender)
    }

    /// Something of an organisation's was committed.
    pub(crate) fn tell(&self, organization: OrganizationId) {
        let _ = self.0.try_send(organization);
    }
}

async fn tell(pool: PgPool, mut receiver: mpsc::Receiver<OrganizationId>) {
    let mut batch = Vec::new();
    // while one batch is under way, the next gathers
    while receiver.recv_many(&mut batch, WAITING).await > 0 {
        let distinct: HashSet<OrganizationId> = batch.drain(..).collect();
        let payloads: Vec<String> = distinct.iter().map(ToString::to_string).collect();
        let told = sqlx::query!(
            r#"SELECT pg_notify($1, payload) AS "told: ()" FROM unnest($2::text[]) AS payload"#,
            CHANNEL,
            &payloads,
        )
        .fetch_all(&pool)
        .await;
        if let Err(error) = told {
            debug!(%error, "other replicas are not told; they find out by looking");
        }
    }
}

async fn listen(pool: PgPool, wakes: Arc<Wakes>) {
    loop {
        if let Err(error) = listen_once(&pool, &wakes).await {
            if pool.is_closed() {
                return;
            }
            warn!(%error, "commits of other replicas are not heard; trying again");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn listen_once(pool: &PgPool, wakes: &Wakes) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(CHANNEL).await?;
    wakes.all();
    loop {
        match listener.try_recv().await? {
            Some(notification) => match notification.payload().parse() {
                Ok(organization) => wakes.committed(organization),
                Err(_) => wakes.all(),
            },
            // it was away, and has come back
            None => wakes.all(),
        }
    }
}
