//! Processes of tenants: at most one of each organisation's is served, for as long as it speaks. Two of them would work
//! over copies of one database.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use molecule_domain::Clock;
use molecule_domain::error::{Error, ErrorReason, Result};
use molecule_domain::id::{IncarnationId, OrganizationId, Revision, WorkspaceId};
use molecule_domain::incarnation::{Standpoint, check_session};
use molecule_store_postgres::accounts::Holder;
use molecule_store_postgres::{Database, Meeting, Process, Recovered};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};
use uuid::Uuid;

use crate::membership::Places;

/// How often an open stream prolongs its session: three times in what a session lasts.
const PROLONG_EVERY: Duration = Duration::from_secs(10);
/// How often what was heard of tenants' databases is stored.
const STORE_EVERY: Duration = Duration::from_secs(2);

/// The sessions of all tenants.
#[derive(Debug)]
pub(crate) struct Sessions {
    database: Database,
    places: Places,
    /// What calls have told since it was last stored: a call itself waits for no further round trip.
    heard: Mutex<HashMap<(OrganizationId, IncarnationId), Revision>>,
    ends: TaskTracker,
    /// Cancelled once this replica goes away.
    drain: CancellationToken,
}

impl Sessions {
    pub(crate) fn new(database: Database, places: Places, drain: CancellationToken) -> Arc<Self> {
        Arc::new(Self { database, places, heard: Mutex::default(), ends: TaskTracker::new(), drain })
    }

    /// Serves a process from now on, or refuses it. The control plane's incarnation, and what is told of both databases.
    pub(crate) async fn meet(
        &self,
        process: &Process,
        seen: Option<&Standpoint>,
        recovered: &[WorkspaceId],
    ) -> Result<(IncarnationId, Meeting)> {
        let incarnation = self.places.now().met()?;
        let meeting = self.database.meet(process, seen, recovered).await?;
        if let Some(seen) = seen.filter(|_| meeting.behind) {
            warn!(
                organization = %process.organization, incarnation = %seen.incarnation, revision = %seen.revision,
                "this database was put back to an earlier state: a tenant has seen more of it than it holds"
            );
        }
        Ok((incarnation, meeting))
    }

    /// The instances that run while their tenants have lost what they were launched with.
    pub(crate) async fn recovered(&self) -> Result<Vec<Recovered>> {
        Ok(self.database.recovered().await?)
    }

    /// Lets a change through that the process asks for which is served; by what was read with the caller's token. A
    /// process that is not the one that was met last may work over a database that is behind.
    pub(crate) fn check(&self, holder: &Holder, standpoint: &Standpoint, address: &str) -> Result<()> {
        check_session(holder.session.as_ref(), standpoint.incarnation, &[], address, holder.now)?;
        if holder.session.as_ref().map(|session| session.incarnation) != Some(standpoint.incarnation) {
            return Err(Error::new(
                ErrorReason::StoreUnavailable,
                "this process of the tenant's is not the one that the control plane met last; meet it first",
            )
            .with_retry_after(Duration::from_millis(100)));
        }
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let revision = heard.entry((holder.organization, standpoint.incarnation)).or_default();
        *revision = standpoint.revision.max(*revision);
        Ok(())
    }

    /// Serves a process for as long as what this returns is kept, or refuses it.
    pub(crate) async fn open(self: &Arc<Self>, process: Process) -> Result<OpenSession> {
        self.places.now().met()?;
        let stream = Uuid::new_v4();
        self.database.open_session(&process, stream).await?;
        let (sessions, drain, left_open) = (Arc::clone(self), self.drain.clone(), AtomicBool::new(false));
        Ok(OpenSession { sessions, process, stream, left_open, drain })
    }

    /// Stores what was heard, until cancelled.
    pub(crate) async fn store(&self, clock: &dyn Clock, cancel: CancellationToken) {
        loop {
            let ended = cancel.run_until_cancelled(tokio::time::sleep(STORE_EVERY)).await.is_none();
            let heard = std::mem::take(&mut *self.heard.lock().unwrap_or_else(PoisonError::into_inner));
            let heard: Vec<_> = heard
                .into_iter()
                .map(|((organization, incarnation), revision)| {
                    (organization, Standpoint { incarnation, revision })
                })
                .collect();
            // a database that is not in use is not written to, and what is lost here is told again by the next call
            if !heard.is_empty()
                && self.places.now().in_use().is_ok()
                && let Err(error) = self.database.note_standpoints(&heard, clock.now()).await
            {
                debug!(%error, "how far tenants' databases are was not stored; it is kept for the next time");
                let mut again = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
                for (organization, standpoint) in heard {
                    let revision = again.entry((organization, standpoint.incarnation)).or_default();
                    *revision = standpoint.revision.max(*revision);
                }
            }
            if ended {
                return;
            }
        }
    }

    /// Waits until the ends of all sessions are stored. No more may be opened.
    pub(crate) async fn ended(&self) {
        self.ends.close();
        self.ends.wait().await;
    }
}

/// A session that ends soon after this is dropped, but where it was [left open](Self::leave_open).
#[derive(Debug)]
pub(crate) struct OpenSession {
    sessions: Arc<Sessions>,
    process: Process,
    stream: Uuid,
    left_open: AtomicBool,
    drain: CancellationToken,
}

impl OpenSession {
    /// Leaves the session open at its end: this replica goes away, or the stream, and not the process. Until the session
    /// runs out nobody else is served.
    pub(crate) fn leave_open(&self) {
        self.left_open.store(true, Ordering::Relaxed);
    }

    /// Prolongs the session again and again, until another process is served.
    pub(crate) async fn keep(&self) -> Result<Infallible> {
        loop {
            tokio::time::sleep(PROLONG_EVERY).await;
            let database = &self.sessions.database;
            let prolonged = match database.prolong_session(&self.process).await {
                Ok(true) => Ok(()),
                // another one was served meanwhile: this one may be served again if that has ended
                Ok(false) => database.open_session(&self.process, self.stream).await.map(drop),
                Err(error) => Err(error),
            };
            match prolonged.map_err(Error::from) {
                Ok(()) => {}
                Err(error)
                    if error.reason != ErrorReason::TenantAlreadyServed && error.retry_after.is_some() =>
                {
                    debug!(%error, "a session is prolonged later");
                }
                Err(refused) => return Err(refused),
            }
        }
    }
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        if self.left_open.load(Ordering::Relaxed) || self.drain.is_cancelled() {
            return;
        }
        let (database, process, stream) = (self.sessions.database.clone(), self.process.clone(), self.stream);
        self.sessions.ends.spawn(async move {
            if let Err(error) = database.end_session(&process, stream).await {
                debug!(%error, "a session was not ended; it runs out by itself");
            }
        });
    }
}
