//! What this replica is to its database: whether the database is in use where it is, and which incarnation of the control
//! plane all replicas over it are. Whatever changes something at a provider runs only while the database is in use.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use molecule_domain::error::{Error, ErrorReason, Result};
use molecule_domain::id::IncarnationId;
use molecule_provisioner::store::StoreError;
use molecule_store_postgres::{Database, Identities, Membership, Place};
use tokio::sync::{Notify, RwLock, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How late an adoption, or another replica's new incarnation, is heard of.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// How long a look may take before the connection counts as broken.
const LOOK_LIMIT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_secs(1);

/// What is known of the database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The control plane's incarnation; `None` while this replica has no place among those that serve.
    pub(crate) incarnation: Option<IncarnationId>,
    /// The identities of a database that is not in use where it is.
    pub(crate) foreign: Option<Identities>,
}

impl Standing {
    /// Refuses what changes something while the database is not in use.
    pub(crate) fn in_use(&self) -> Result<()> {
        let Some(Identities { stored, actual }) = &self.foreign else { return Ok(()) };
        Err(Error::new(
            ErrorReason::DatabaseNotAdopted,
            format!(
                "the control plane's database was moved or copied: it was put into use as {stored} and is {actual} now. It \
                 is read, and nothing is changed or launched, until an operator says that this one is in charge: see \
                 `molecule admin database show`, then `molecule admin database adopt`"
            ),
        ))
    }

    /// The incarnation that tenants meet.
    pub(crate) fn met(&self) -> Result<IncarnationId> {
        self.in_use()?;
        self.incarnation.ok_or_else(|| {
            Error::new(
                ErrorReason::StoreUnavailable,
                "this replica is joining its database again; try again in a moment",
            )
            .with_retry_after(PAUSE)
        })
    }

    /// Whether those who were told `before` must hear this.
    pub(crate) fn differs(&self, before: &Self) -> bool {
        self.foreign != before.foreign
            || (self.incarnation.is_some() && self.incarnation != before.incarnation)
    }
}

/// The place of this replica, kept by [`Keeper::keep`].
#[derive(Clone, Debug)]
pub(crate) struct Places {
    standing: watch::Receiver<Standing>,
    look: Arc<Notify>,
    duties: Arc<RwLock<()>>,
}

/// Keeps a replica's place.
pub(crate) struct Keeper {
    database: Database,
    membership: Option<Membership>,
    published: watch::Sender<Standing>,
    look: Arc<Notify>,
    duties: Arc<RwLock<()>>,
}

/// Takes a place for the first time.
pub(crate) async fn join(database: &Database) -> anyhow::Result<(Places, Keeper)> {
    let (published, standing) = watch::channel(Standing::default());
    let (look, duties) = (Arc::<Notify>::default(), Arc::<RwLock<()>>::default());
    let places = Places { standing, look: Arc::clone(&look), duties: Arc::clone(&duties) };
    let mut keeper = Keeper { database: database.clone(), membership: None, published, look, duties };
    // whoever has the lock alone may be between two steps
    let mut tries = 0;
    while let Err(error) = keeper.look().await {
        tries += 1;
        if tries == 5 {
            return Err(error).context("the replica finds no place over its database");
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok((places, keeper))
}

impl Keeper {
    /// Looks again and again, until cancelled.
    pub(crate) async fn keep(mut self, cancel: CancellationToken) {
        let mut pause = LOOK_EVERY;
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
                () = self.look.notified() => {}
            }
            pause = match self.look().await {
                Ok(()) => LOOK_EVERY,
                Err(error) => {
                    warn!(
                        error = &error as &dyn std::error::Error,
                        "this replica has lost its place over the database; joining again"
                    );
                    self.membership = None;
                    self.published.send_modify(|standing| standing.incarnation = None);
                    PAUSE
                }
            };
        }
    }

    async fn look(&mut self) -> Result<(), StoreError> {
        let looked = tokio::time::timeout(LOOK_LIMIT, async {
            let mut membership = match self.membership.take() {
                Some(membership) => membership,
                None => self.database.join().await?,
            };
            let place = membership.look().await?;
            Ok::<_, StoreError>((membership, place))
        });
        let (membership, place) =
            looked.await.map_err(|elapsed| StoreError::Unavailable(Box::new(elapsed)))??;
        let standing = match place {
            Place::Member(incarnation) => Standing { incarnation: Some(incarnation), foreign: None },
            Place::Foreign(identities) => Standing { incarnation: None, foreign: Some(identities) },
        };
        self.publish(&standing);
        if self.published.borrow().foreign.is_some() {
            // what launches was told to end, and may not go on over the database that this turned into
            drop(self.duties.write().await);
        }
        membership.allow();
        self.membership = Some(membership);
        Ok(())
    }

    fn publish(&self, new: &Standing) {
        let changed = self.published.send_if_modified(|standing| {
            let changed = standing != new;
            standing.clone_from(new);
            changed
        });
        match (&new.foreign, new.incarnation) {
            _ if !changed => {}
            (Some(Identities { stored, actual }), _) => warn!(
                %stored, %actual,
                "NOT ADOPTED: this database was put into use elsewhere, so it was moved or copied. It is read, and nothing \
                 is changed, launched, stopped or removed. If it has moved, and nothing serves the one that it was, say so \
                 with `molecule admin database adopt`"
            ),
            (None, Some(incarnation)) => {
                info!(%incarnation, "the control plane's incarnation over this database");
            }
            (None, None) => {}
        }
    }
}

impl Places {
    /// What is known now.
    pub(crate) fn now(&self) -> Standing {
        self.standing.borrow().clone()
    }

    /// Ends with the first news that those who were told `before` must hear.
    pub(crate) async fn differ_from(&self, before: &Standing) {
        let mut standing = self.standing.clone();
        if standing.wait_for(|now| now.differs(before)).await.is_err() {
            // nobody keeps the place any more: the service ends
            std::future::pending::<()>().await;
        }
    }

    /// Something about the database was changed here: looks at once.
    pub(crate) fn look(&self) {
        self.look.notify_one();
    }

    /// Runs a duty whenever the database is in use, until cancelled or until the duty fails.
    pub(crate) async fn while_in_use<F>(
        &self,
        cancel: &CancellationToken,
        duty: impl Fn(CancellationToken) -> F,
    ) -> anyhow::Result<()>
    where
        F: Future<Output = anyhow::Result<()>>,
    {
        let mut standing = self.standing.clone();
        while !cancel.is_cancelled() {
            let in_use = standing.wait_for(|now| now.foreign.is_none());
            if !matches!(cancel.run_until_cancelled(in_use).await, Some(Ok(_))) {
                break;
            }
            let on_duty = Arc::clone(&self.duties).read_owned().await;
            if self.standing.borrow().foreign.is_some() {
                continue;
            }
            let stop = cancel.child_token();
            let mut running = std::pin::pin!(duty(stop.clone()));
            // nobody keeps the place any more, or the database turned into another one
            let over = async { drop(standing.wait_for(|now| now.foreign.is_some()).await) };
            let ended = tokio::select! {
                ended = &mut running => ended,
                () = over => {
                    stop.cancel();
                    running.await
                }
            };
            drop(on_duty);
            ended?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use molecule_store_postgres::DatabaseIdentity;

    use super::*;

    fn foreign() -> Standing {
        let identity = |oid| DatabaseIdentity { system_identifier: "7".to_owned(), oid };
        Standing { incarnation: None, foreign: Some(Identities { stored: identity(1), actual: identity(2) }) }
    }

    fn member() -> Standing {
        Standing { incarnation: Some(IncarnationId::generate()), foreign: None }
    }

    #[test]
    fn a_copy_is_read_and_not_changed() {
        let refused = foreign().in_use().unwrap_err();
        assert_eq!(refused.reason, ErrorReason::DatabaseNotAdopted);
        for named in ["7/1", "7/2", "molecule admin database adopt"] {
            assert!(refused.message.contains(named), "{refused}");
        }
        assert!(member().in_use().is_ok());
        assert_eq!(Standing::default().met().unwrap_err().reason, ErrorReason::StoreUnavailable);
    }

    #[test]
    fn streams_end_with_another_incarnation_and_outlast_a_broken_connection() {
        let (one, other) = (member(), member());
        assert!(other.differs(&one) && foreign().differs(&one) && one.differs(&foreign()));
        assert!(!one.differs(&one) && !Standing::default().differs(&one));
    }

    #[tokio::test(start_paused = true)]
    async fn a_duty_runs_only_while_the_database_is_in_use() {
        let (published, standing) = watch::channel(foreign());
        let places = Places { standing, look: Arc::default(), duties: Arc::default() };
        let (cancel, running) = (CancellationToken::new(), Arc::new(AtomicU32::new(0)));
        let task = tokio::spawn({
            let (places, cancel, running) = (places.clone(), cancel.clone(), Arc::clone(&running));
            async move {
                let duty = |stop: CancellationToken| {
                    let running = Arc::clone(&running);
                    async move {
                        running.fetch_add(1, Ordering::SeqCst);
                        stop.cancelled().await;
                        tokio::time::sleep(Duration::from_secs(5)).await;
                        running.fetch_sub(1, Ordering::SeqCst);
                        Ok(())
                    }
                };
                places.while_in_use(&cancel, duty).await
            }
        });
        let moment = || tokio::time::sleep(Duration::from_secs(1));
        let expect = |count| assert_eq!(running.load(Ordering::SeqCst), count);
        moment().await;
        expect(0);
        published.send_replace(member());
        moment().await;
        expect(1);
        // a connection that breaks ends no duty
        published.send_modify(|standing| standing.incarnation = None);
        moment().await;
        expect(1);
        published.send_replace(foreign());
        // whoever waits for the duties waits until the last of them has ended
        drop(places.duties.write().await);
        expect(0);
        published.send_replace(member());
        moment().await;
        expect(1);
        cancel.cancel();
        task.await.unwrap().unwrap();
        expect(0);
    }
}
