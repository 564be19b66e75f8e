//! What the control plane and a tenant's process tell each other of their databases.

use std::net::SocketAddr;

use molecule_domain::Timestamp;
use molecule_domain::error::{Error, Result};
use molecule_domain::id::{IncarnationId, Revision};
use molecule_domain::incarnation::Standpoint;
use molecule_proto::controlplane::v1 as wire;
use molecule_service_kit::auth::identity;
use molecule_service_kit::wire::time;
use molecule_store_postgres::accounts::Holder;
use molecule_store_postgres::{Process, Seen};
use tonic::Request;

use super::Parts;
use super::convert::{signed, unsigned};

const MAX_ADDRESS: usize = 300;

/// Where a database stands, as a message has it; `None` where it does not say so.
pub(super) fn standpoint(said: Option<&wire::Standpoint>, field: &str) -> Result<Option<Standpoint>> {
    let Some(said) = said else { return Ok(None) };
    let incarnation = said.incarnation.parse().map_err(|_| {
        Error::field(format!("{field}.incarnation"), format!("{:?} is not a UUID", said.incarnation))
    })?;
    let revision = Revision(signed(said.revision, &format!("{field}.revision"))?);
    Ok(Some(Standpoint { incarnation, revision }))
}

/// Where a database stands, for a message.
pub(super) fn to_wire(incarnation: IncarnationId, revision: Revision, at: Timestamp) -> wire::Standpoint {
    wire::Standpoint {
        incarnation: incarnation.to_string(),
        revision: unsigned(revision.0),
        time: Some(time(at)),
    }
}

fn seen_to_wire(seen: Seen) -> wire::Standpoint {
    to_wire(seen.standpoint.incarnation, seen.standpoint.revision, seen.at)
}

/// What the other end of the connection is, for messages to operators.
pub(super) fn address(peer: Option<SocketAddr>) -> String {
    peer.map_or_else(|| "an unknown address".to_owned(), |peer| peer.to_string())
}

impl Parts {
    /// Whose change it is, where it may be made: the database is in use, and of the organisation's processes this one
    /// is served.
    pub(super) fn tenant_changing<T>(
        &self,
        request: &Request<T>,
        said: impl Fn(&T) -> Option<&wire::Standpoint>,
    ) -> Result<Holder> {
        let holder: Holder = self.changing(request.extensions())?;
        if let Some(tenant) = standpoint(said(request.get_ref()), "tenant")? {
            self.sessions.check(&holder, &tenant, &address(request.remote_addr()))?;
        }
        Ok(holder)
    }

    /// Where this database stands for an organisation; `None` while that is not known.
    pub(super) fn control_plane(&self, revision: Revision) -> Option<wire::Standpoint> {
        let incarnation = self.places.now().incarnation?;
        Some(to_wire(incarnation, revision, self.clock.now()))
    }

    /// Where it stands after a change that `instance` is the result of.
    pub(super) fn control_plane_after(
        &self,
        holder: &Holder,
        instance: &wire::Instance,
    ) -> Option<wire::Standpoint> {
        let revision = i64::try_from(instance.revision).unwrap_or(i64::MAX);
        self.control_plane(holder.revision.max(Revision(revision)))
    }

    pub(super) async fn meet(&self, request: Request<wire::MeetRequest>) -> Result<wire::MeetResponse> {
        let holder: Holder = identity(request.extensions())?;
        let peer = request.remote_addr();
        let request = request.into_inner();
        let tenant = standpoint(request.tenant.as_ref(), "tenant")?;
        let tenant =
            tenant.ok_or_else(|| Error::field("tenant", "must say where the caller's database stands"))?;
        let seen = standpoint(request.seen.as_ref(), "seen")?;
        if request.address.len() > MAX_ADDRESS {
            return Err(Error::field("address", "must have at most 300 bytes"));
        }
        let address = if request.address.is_empty() { address(peer) } else { request.address };
        let process = Process { organization: holder.organization, standpoint: tenant, address };
        let (incarnation, meeting) = self.sessions.meet(&process, seen.as_ref()).await?;
        Ok(wire::MeetResponse {
            control_plane: Some(to_wire(incarnation, meeting.revision, meeting.now)),
            seen: meeting.seen.into_iter().map(seen_to_wire).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standpoint_comes_back_and_a_wrong_one_names_its_field() {
        let (incarnation, revision) = (IncarnationId::generate(), Revision(7));
        let there = to_wire(incarnation, revision, Timestamp::from_micros(1));
        let back = standpoint(Some(&there), "tenant").unwrap();
        assert_eq!(back, Some(Standpoint { incarnation, revision }));
        assert_eq!(standpoint(None, "tenant").unwrap(), None);
        for (field, wrong) in [
            ("seen.incarnation", wire::Standpoint { incarnation: "first".to_owned(), ..there.clone() }),
            ("seen.revision", wire::Standpoint { revision: u64::MAX, ..there.clone() }),
        ] {
            let refused = standpoint(Some(&wrong), "seen").unwrap_err();
            assert_eq!(refused.fields[0].field, field);
        }
    }
}
