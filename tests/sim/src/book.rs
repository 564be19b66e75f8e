//! What the control plane keeps beside the engine's records, in the same database: its own starts, which process of each
//! tenant it serves, and how far each tenant's database was seen to be.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use molecule_domain::Timestamp;
use molecule_domain::error::{Error, ErrorReason, Result};
use molecule_domain::id::{IncarnationId, OrganizationId, Revision};
use molecule_domain::incarnation::{Incarnation, Session, Standpoint, check_session, is_behind};

use crate::oracle::short;
use crate::process::Process;

/// How long a process counts as living after it was last heard.
const SESSION: Duration = Duration::from_secs(30);

/// The process of a tenant that is served.
#[derive(Clone, Debug)]
struct Served {
    session: Session,
    /// The replica that has a stream of its open, which prolongs the session, and the stream's number.
    stream: Option<(Arc<Process>, u64)>,
}

/// What the control plane keeps of itself and its tenants.
#[derive(Clone, Debug, Default)]
pub(crate) struct Book {
    held: Vec<Incarnation>,
    seen: BTreeMap<OrganizationId, Vec<Standpoint>>,
    served: BTreeMap<OrganizationId, Served>,
}

impl Book {
    /// Another start.
    pub(crate) fn begin(&mut self, id: IncarnationId, begins_at: Revision) {
        self.held.push(Incarnation { id, begins_at });
    }

    /// The start that speaks.
    pub(crate) fn incarnation(&self) -> Option<IncarnationId> {
        self.held.last().map(|last| last.id)
    }

    /// Whether this database is behind what a tenant has seen of it.
    pub(crate) fn is_behind(&self, current: Revision, seen: &Standpoint) -> bool {
        is_behind(&self.held, current, seen)
    }

    /// Refuses a process while another one is served.
    pub(crate) fn check(
        &mut self,
        organization: OrganizationId,
        own: Standpoint,
        predecessors: &[Standpoint],
        now: Timestamp,
    ) -> Result<()> {
        let seen = self.seen.get(&organization).map_or(&[][..], Vec::as_slice);
        let served = self.served.get_mut(&organization).map(|served| {
            if let Some((replica, _)) = &served.stream {
                // a replica prolongs the sessions of its streams for as long as it is well
                let last = replica.ill_since().unwrap_or(now);
                served.session.until = served.session.until.max(last + SESSION);
            }
            let seen = seen.iter().find(|one| one.incarnation == served.session.incarnation);
            served.session.seen = seen.map_or(Revision(0), |one| one.revision);
            &served.session
        });
        check_session(served, own.incarnation, predecessors, &address(organization), now)
    }

    /// What was seen of a tenant, newest first.
    pub(crate) fn seen_of(&self, organization: OrganizationId) -> Vec<Standpoint> {
        self.seen.get(&organization).cloned().unwrap_or_default()
    }

    /// Lets a change through, and takes note of what its caller says of itself.
    pub(crate) fn heard(
        &mut self,
        organization: OrganizationId,
        own: Standpoint,
        now: Timestamp,
    ) -> Result<()> {
        self.check(organization, own, &[], now)?;
        self.is_met(organization, own.incarnation)?;
        self.note(organization, own);
        Ok(())
    }

    /// Refuses a process that is not the one that was met last.
    pub(crate) fn is_met(&self, organization: OrganizationId, process: IncarnationId) -> Result<()> {
        let served = self.served.get(&organization).map(|served| served.session.incarnation);
        if served == Some(process) {
            return Ok(());
        }
        Err(Error::new(ErrorReason::StoreUnavailable, "another process was met last; meet first"))
    }

    /// Serves a process from now on, or refuses it. What was seen of its tenant before, newest first.
    pub(crate) fn meet(
        &mut self,
        organization: OrganizationId,
        own: Standpoint,
        predecessors: &[Standpoint],
        now: Timestamp,
    ) -> Result<Vec<Standpoint>> {
        self.serve(organization, own, predecessors, now, None)?;
        let seen = self.seen.get(&organization).cloned().unwrap_or_default();
        self.note(organization, own);
        let all = self.seen.entry(organization).or_default();
        for ended in predecessors {
            match all.iter_mut().find(|one| one.incarnation == ended.incarnation) {
                Some(known) => known.revision = known.revision.max(ended.revision),
                None => all.push(*ended),
            }
        }
        Ok(seen)
    }

    /// Serves a process for as long as a replica has a stream of its open, or refuses it.
    pub(crate) fn open(
        &mut self,
        organization: OrganizationId,
        own: Standpoint,
        now: Timestamp,
        stream: (Arc<Process>, u64),
    ) -> Result<()> {
        self.serve(organization, own, &[], now, Some(stream))?;
        self.note(organization, own);
        Ok(())
    }

    /// A stream has ended. Where that was noted, a successor over the same database is served soon.
    pub(crate) fn end(&mut self, organization: OrganizationId, stream: u64, is_noted: bool, now: Timestamp) {
        if let Some(served) = self.served.get_mut(&organization)
            && served.stream.as_ref().is_some_and(|(_, number)| *number == stream)
        {
            served.stream = None;
            served.session.until = now + SESSION;
            served.session.left_at = is_noted.then_some(now);
        }
    }

    /// Whether a replica that answers has a stream of the process's open.
    pub(crate) fn is_followed_by(&self, organization: OrganizationId) -> bool {
        let stream = self.served.get(&organization).and_then(|served| served.stream.as_ref());
        stream.is_some_and(|(replica, _)| replica.is_well())
    }

    fn serve(
        &mut self,
        organization: OrganizationId,
        own: Standpoint,
        predecessors: &[Standpoint],
        now: Timestamp,
        stream: Option<(Arc<Process>, u64)>,
    ) -> Result<()> {
        self.check(organization, own, predecessors, now)?;
        let incarnation = own.incarnation;
        let before = self.served.remove(&organization);
        let before = before.filter(|served| served.session.incarnation == incarnation);
        let session = Session {
            incarnation,
            address: address(organization),
            until: now + SESSION,
            left_at: None,
            seen: own.revision,
        };
        let stream = stream.or_else(|| before.and_then(|served| served.stream));
        self.served.insert(organization, Served { session, stream });
        Ok(())
    }

    fn note(&mut self, organization: OrganizationId, own: Standpoint) {
        let seen = self.seen.entry(organization).or_default();
        let mut newest = own;
        if let Some(place) = seen.iter().position(|one| one.incarnation == own.incarnation) {
            newest.revision = newest.revision.max(seen.remove(place).revision);
        }
        seen.insert(0, newest);
    }
}

fn address(organization: OrganizationId) -> String {
    format!("10.0.1.{}:7070", short(organization))
}
