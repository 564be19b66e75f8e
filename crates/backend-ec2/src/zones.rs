//! Which zone each subnet is in. That never changes.

use std::sync::{Arc, Mutex, PoisonError};

use molecule_domain::id::OrganizationId;

use crate::Ec2Backend;
use crate::problem::Problem;

/// A subnet and its zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subnet {
    pub(crate) id: String,
    pub(crate) zone: String,
}

/// The subnets of the setting, once they are known.
#[derive(Debug, Default)]
pub(crate) struct Zones(Mutex<Option<Arc<[Subnet]>>>);

impl Ec2Backend {
    /// The subnets, in the order of the setting.
    pub(crate) async fn subnets(&self, organization: OrganizationId) -> Result<Arc<[Subnet]>, Problem> {
        if let Some(known) = &*self.zones.0.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(Arc::clone(known));
        }
        let wanted = &self.settings.subnets;
        let describe = || self.client.describe_subnets().set_subnet_ids(Some(wanted.clone())).send();
        let found = self.call(Some(organization), "ec2.describe_subnets", describe).await?;
        let zone_of = |id: &String| {
            let subnet = found.subnets().iter().find(|subnet| subnet.subnet_id() == Some(id))?;
            Some(Subnet { id: id.clone(), zone: subnet.availability_zone()?.to_owned() })
        };
        let subnets: Option<Arc<[Subnet]>> = wanted.iter().map(zone_of).collect();
        let subnets = subnets
            .ok_or_else(|| Problem::Unknown("EC2 leaves out a subnet that was asked for".to_owned()))?;
        *self.zones.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&subnets));
        Ok(subnets)
    }
}
