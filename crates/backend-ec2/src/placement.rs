//! Where a launch goes and what it is made of, chosen once per attempt and stored with it: a retry sends the same
//! bytes, whatever has become of the settings since.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use molecule_domain::Timestamp;
use molecule_domain::launch::Mount;
use molecule_domain::lifecycle::Reason;
use molecule_provisioner::backend::{CallError, PrepareRequest, Prepared, Refusal};
use serde::{Deserialize, Serialize};

use crate::Ec2Backend;
use crate::images::Image;
use crate::zones::Subnet;

/// How long a type is not asked for again in a zone that had none.
const SHORTAGE: Duration = Duration::from_secs(180);

/// Everything about a launch that is not the workspace's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Placement {
    pub(crate) machine_type: String,
    pub(crate) subnet: String,
    pub(crate) zone: String,
    pub(crate) image: Image,
    pub(crate) security_groups: Vec<String>,
    pub(crate) instance_profile: Option<String>,
    pub(crate) root_gib: i32,
    pub(crate) kms_key: Option<String>,
    /// Whether the data disk is made with the machine; else the one that there is will be attached.
    pub(crate) new_disk: bool,
    pub(crate) init_url: String,
    pub(crate) init_sha256: String,
}

/// What there was no room for, where, and until when it is not asked for again.
#[derive(Debug, Default)]
pub(crate) struct Shortages(Mutex<HashMap<(String, String), (Timestamp, Refusal)>>);

impl Shortages {
    /// Remembers that a zone has no room for a type.
    pub(crate) fn note(&self, machine_type: &str, zone: &str, refusal: &Refusal, now: Timestamp) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        noted.retain(|_, (until, _)| now < *until);
        noted.insert((machine_type.to_owned(), zone.to_owned()), (now + SHORTAGE, refusal.clone()));
    }

    fn of(&self, machine_type: &str, zone: &str, now: Timestamp) -> Option<Refusal> {
        let noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = noted.get(&(machine_type.to_owned(), zone.to_owned()));
        found.filter(|(until, _)| now < *until).map(|(_, refusal)| refusal.clone())
    }

    /// The first type and subnet with room, the types in their order, the subnets beginning at `spread`. `Err` is
    /// what the last of them lacked.
    fn choose<'a>(
        &self,
        types: &'a [String],
        subnets: &'a [Subnet],
        spread: usize,
        now: Timestamp,
    ) -> Result<(&'a String, &'a Subnet), Refusal> {
        let mut lacking = Refusal {
            reason: Reason::NoCapacity,
            message:
                "no subnet of the settings is in the zone of the workspace's disk; its operators must add one"
                    .to_owned(),
        };
        for machine_type in types {
            for n in 0..subnets.len() {
                let subnet = &subnets[(spread + n) % subnets.len()];
                match self.of(machine_type, &subnet.zone, now) {
                    None => return Ok((machine_type, subnet)),
                    Some(refusal) => lacking = refusal,
                }
            }
        }
        Err(lacking)
    }
}

impl Ec2Backend {
    /// Chooses type, zone and image; nothing is made.
    pub(crate) async fn place(&self, request: &PrepareRequest<'_>) -> Prepared {
        if request.is_placed() {
            return Prepared::Ready(String::new());
        }
        if request.spec.mount != Mount::None {
            return Prepared::Refused(Refusal {
                reason: Reason::LaunchRefused,
                message: "a machine has no folders of the host's; leave workspace_access out".to_owned(),
            });
        }
        let organization = request.instance.organization;
        let found = async {
            let image = self.image(organization).await?;
            let subnets = self.subnets(organization).await?;
            // a first launch as well: the store that asks for it may have been put back to before an earlier one
            let disk = self.data_disk(organization, request.instance.workspace).await?;
            Ok((image, subnets, disk))
        };
        let (image, subnets, disk) = match found.await {
            Ok(found) => found,
            Err(problem) => {
                let problem: crate::Problem = problem;
                return match problem.into_call_error("prepare the launch") {
                    CallError::Refused(refusal) => Prepared::Refused(refusal),
                    CallError::NoRoom(refusal) => Prepared::NoRoom(refusal),
                    CallError::Unknown(cause) => Prepared::Unknown(cause),
                };
            }
        };
        let fits = |subnet: &&Subnet| disk.as_ref().is_none_or(|disk| disk.zone == subnet.zone);
        let subnets: Vec<Subnet> = subnets.iter().filter(fits).cloned().collect();
        let spread = request.instance.workspace.as_uuid().as_u128() % 997;
        let spread = usize::try_from(spread).unwrap_or_default();
        let types = self.settings.types.of(request.spec.tier);
        let (machine_type, subnet) = match self.shortages.choose(types, &subnets, spread, self.clock.now()) {
            Ok(chosen) => chosen,
            Err(refusal) => return Prepared::NoRoom(refusal),
        };
        let placement = Placement {
            machine_type: machine_type.clone(),
            subnet: subnet.id.clone(),
            zone: subnet.zone.clone(),
            image,
            security_groups: self.settings.security_groups.clone(),
            instance_profile: self.settings.instance_profile.clone(),
            root_gib: self.settings.root_gib,
            kms_key: self.settings.kms_key.clone(),
            new_disk: disk.is_none(),
            init_url: self.settings.init_url.clone(),
            init_sha256: self.settings.init_sha256.clone(),
        };
        match serde_json::to_string(&placement) {
            Ok(text) => Prepared::Ready(text),
            Err(error) => Prepared::Unknown(format!("the placement can't be written: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(id: &str, zone: &str) -> Subnet {
        Subnet { id: id.to_owned(), zone: zone.to_owned() }
    }

    #[test]
    fn a_shortage_is_of_a_type_in_a_zone_and_passes() {
        let shortages = Shortages::default();
        let types = ["big", "bigger"].map(str::to_owned);
        let subnets = [subnet("one", "a"), subnet("two", "b")];
        let began = Timestamp::from_micros(1);
        let choose_at = |spread, now| {
            shortages.choose(&types, &subnets, spread, now).map(|(t, s)| (t.clone(), s.id.clone()))
        };
        let choose = |spread| choose_at(spread, began);
        let is = |t: &str, s: &str| Ok((t.to_owned(), s.to_owned()));
        assert_eq!(choose(0), is("big", "one"));
        assert_eq!(choose(1), is("big", "two"));
        let refusal = Refusal { reason: Reason::NoCapacity, message: "none".to_owned() };
        shortages.note("big", "a", &refusal, began);
        assert_eq!(choose(0), is("big", "two"));
        shortages.note("big", "b", &refusal, began);
        assert_eq!(choose(0), is("bigger", "one"));
        shortages.note("bigger", "a", &refusal, began);
        shortages.note("bigger", "b", &refusal, began);
        assert_eq!(choose(0), Err(refusal));
        assert_eq!(choose_at(0, began + SHORTAGE), is("big", "one"));
    }
}
