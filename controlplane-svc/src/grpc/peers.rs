//! What the control plane and a tenant's process tell each other of their databases.

use std::net::SocketAddr;
use std::time::Duration;

use molecule_domain::Timestamp;
use molecule_domain::error::{Error, ErrorReason, Result};
use molecule_domain::id::{IncarnationId, IntentNumber, Revision, WorkspaceId};
use molecule_domain::incarnation::{Standpoint, check_predecessors};
use molecule_proto::controlplane::v1 as wire;
use molecule_service_kit::auth::identity;
use molecule_service_kit::wire::time;
use molecule_store_postgres::accounts::Holder;
use molecule_store_postgres::{Agreement, Process, Seen};
use tonic::Request;

use super::Parts;
use super::convert::{signed, unsigned};

const MAX_ADDRESS: usize = 300;
const MAX_RECOVERED: usize = 10_000;
const MAX_WAITING: usize = 2000;

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

/// A request that says where the databases stand.
pub(super) trait Speaker {
    /// Where the caller's database stands.
    fn tenant(&self) -> Option<&wire::Standpoint>;
    /// What the caller has last seen of this one.
    fn seen(&self) -> Option<&wire::Standpoint>;
}

macro_rules! speakers {
    ($($request:ident),* $(,)?) => {
        $(impl Speaker for wire::$request {
            fn tenant(&self) -> Option<&wire::Standpoint> {
                self.tenant.as_ref()
            }

            fn seen(&self) -> Option<&wire::Standpoint> {
                self.seen.as_ref()
            }
        })*
    };
}

speakers!(
    ProvisionWorkspaceRequest,
    UpdateWorkspaceRequest,
    StartWorkspaceRequest,
    StopWorkspaceRequest,
    RestartWorkspaceRequest,
    DeprovisionWorkspaceRequest,
    WatchInstancesRequest,
    AgreeRequest,
);

/// The caller and this control plane have to find out what differs between them.
pub(super) fn meet_again() -> Error {
    Error::new(
        ErrorReason::StoreUnavailable,
        "the control plane has joined its database anew; meet it again, and resume",
    )
    .with_retry_after(Duration::from_millis(100))
}

impl Parts {
    /// Whose change it is, where it may be made: the database is in use and holds what the caller has seen of it, and of
    /// the organisation's processes this one is served.
    pub(super) fn tenant_changing<T: Speaker>(&self, request: &Request<T>) -> Result<Holder> {
        let holder: Holder = self.changing(request.extensions())?;
        self.check_seen(request.get_ref(), &holder)?;
        if let Some(tenant) = standpoint(request.get_ref().tenant(), "tenant")? {
            self.sessions.check(&holder, &tenant, &address(request.remote_addr()))?;
        }
        Ok(holder)
    }

    /// Refuses a caller that has met another start of the control plane, or has seen more than this database holds: what
    /// it asks for may rest on what was lost.
    pub(super) fn check_seen(&self, speaker: &impl Speaker, holder: &Holder) -> Result<()> {
        match standpoint(speaker.seen(), "seen")? {
            Some(seen)
                if self.places.now().incarnation != Some(seen.incarnation)
                    || seen.revision > holder.revision =>
            {
                Err(meet_again())
            }
            _ => Ok(()),
        }
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
        if request.recovered_workspace_ids.len() > MAX_RECOVERED {
            return Err(Error::field("recovered_workspace_ids", "must have at most 10000 entries"));
        }
        let recovered = request.recovered_workspace_ids.iter().map(|id| {
            id.parse::<WorkspaceId>()
                .map_err(|_| Error::field("recovered_workspace_ids", format!("{id:?} is not a UUID")))
        });
        let recovered = recovered.collect::<Result<Vec<_>>>()?;
        check_predecessors(request.predecessors.len())?;
        let predecessors = request.predecessors.iter().map(|said| standpoint(Some(said), "predecessors"));
        let predecessors = predecessors.filter_map(Result::transpose).collect::<Result<Vec<_>>>()?;
        let address = if request.address.is_empty() { address(peer) } else { request.address };
        let process =
            Process { organization: holder.organization, standpoint: tenant, predecessors, address };
        let (incarnation, meeting) = self.sessions.meet(&process, seen.as_ref(), &recovered).await?;
        Ok(wire::MeetResponse {
            control_plane: Some(to_wire(incarnation, meeting.revision, meeting.now)),
            seen: meeting.seen.into_iter().map(seen_to_wire).collect(),
            agreed: meeting.agreed,
        })
    }

    pub(super) async fn agree(&self, request: Request<wire::AgreeRequest>) -> Result<wire::AgreeResponse> {
        let holder = self.tenant_changing(&request)?;
        let address = address(request.remote_addr());
        let request = request.into_inner();
        let required = |said: Option<&wire::Standpoint>, field: &str| {
            standpoint(said, field)?.ok_or_else(|| Error::field(field, "must say where a database stands"))
        };
        let standpoint = required(request.tenant.as_ref(), "tenant")?;
        let with = required(request.seen.as_ref(), "seen")?.incarnation;
        if request.waiting.len() > MAX_WAITING {
            return Err(Error::field(
                "waiting",
                "must have at most 2000 entries; name the others in further calls",
            ));
        }
        let waiting = request.waiting.iter().map(|waiting| {
            let workspace = waiting.workspace_id.parse::<WorkspaceId>().map_err(|_| {
                Error::field("waiting.workspace_id", format!("{:?} is not a UUID", waiting.workspace_id))
            })?;
            Ok((workspace, IntentNumber(signed(waiting.intent, "waiting.intent")?)))
        });
        let waiting = waiting.collect::<Result<Vec<_>>>()?;
        let (begins, named) = (request.offset == 0, request.offset as usize + waiting.len());
        let number = signed(request.number, "number")?;
        let agreement = Agreement { with, number, waiting, begins, ends: named >= request.total as usize };
        let process =
            Process { organization: holder.organization, standpoint, predecessors: Vec::new(), address };
        self.database.agree(&process, &agreement, self.clock.now()).await?;
        Ok(wire::AgreeResponse {})
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
