//! How the backend is set up.

use std::time::Duration;

use molecule_domain::tier::Tier;

/// Instance types for each tier, the preferred ones first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineTypes(pub [Vec<String>; 4]);

impl Default for MachineTypes {
    /// Burstable types of the tier's memory or the next larger, from three families, so that a family that is out of
    /// stock has another behind it (<https://aws.amazon.com/ec2/instance-types/t3/>).
    fn default() -> Self {
        let sizes = ["micro", "small", "medium", "large"];
        Self(sizes.map(|size| ["t3a", "t3", "t2"].map(|family| format!("{family}.{size}")).to_vec()))
    }
}

impl MachineTypes {
    /// Those of a tier.
    pub fn of(&self, tier: Tier) -> &[String] {
        &self.0[usize::from(tier.number() - 1)]
    }
}

/// How the backend is set up. What a launch was made of is stored with it, so all of this may change at any time.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The image: `ami-…`, or the name of an SSM parameter that holds one.
    pub image: String,
    /// Where machines go; the zones are looked up.
    pub subnets: Vec<String>,
    /// What may reach them, and what they may reach.
    pub security_groups: Vec<String>,
    /// The instance profile of machines, by name; none needs none.
    pub instance_profile: Option<String>,
    /// What machines are made of, by tier.
    pub types: MachineTypes,
    /// The root disk, in GiB.
    pub root_gib: i32,
    /// A KMS key for disks; none is the account's default one.
    pub kms_key: Option<String>,
    /// Where machines fetch workspace-init.
    pub init_url: String,
    /// Its SHA-256, in hexadecimal.
    pub init_sha256: String,
    /// Calls per second to this account and region.
    pub calls_per_second: f64,
    /// Calls that may be made at once after a quiet time.
    pub call_burst: f64,
    /// How long one call may take.
    pub call_timeout: Duration,
    /// How long Describe may go on showing what was before: an absence is believed only after this. EC2 names no bound
    /// (<https://docs.aws.amazon.com/ec2/latest/devguide/eventual-consistency.html>).
    pub visibility_lag: Duration,
}
