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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_networks_name_says_whose_it_is() {
        let installation = "01a20500-0000-7000-8000-00000000abcd".parse().unwrap();
        let organization = "01a20500-0000-7000-8000-0000000000ef".parse().unwrap();
        let name = NetworkSpec::name_of(installation, organization);
        assert_eq!(name, "molecule-00000000abcd-0000000000ef");
    }
}
