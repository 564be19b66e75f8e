//! The networks of organisations' workspaces, where they have networks of their own.

use crate::id::{InstallationId, OrganizationId};

/// An organisation's network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkSpec {
    /// Its name at the provider.
    pub name: String,
    /// In CIDR notation.
    pub subnet: String,
    /// The host's address in it.
    pub gateway: String,
}

impl NetworkSpec {
    /// The name that an organisation's network has.
    pub fn name_of(installation: InstallationId, organization: OrganizationId) -> String {
        let tail = |id: &str| id.rsplit('-').next().unwrap_or_default().to_owned();
        format!("molecule-{}-{}", tail(&installation.to_string()), tail(&organization.to_string()))
    }
}
