//! The settings of the EC2 backend, and of what machines ask for when they boot.

use std::net::SocketAddr;
use std::time::Duration;

use molecule_backend_ec2::{MachineTypes, Settings};
use molecule_domain::tier::Tier;
use molecule_service_kit::client::check_url;
use molecule_service_kit::settings::{Setting, Values, setting};

/// The settings, as [`read`] finds them.
pub(super) const SETTINGS: [Setting; 14] = [
    setting(
        "CONTROLPLANE_EC2_IMAGE",
        None,
        "machine image: ami-…, or the name of an SSM parameter that holds one",
    ),
    setting(
        "CONTROLPLANE_EC2_SUBNETS",
        None,
        "subnets of machines, separated by commas, best one in each zone",
    ),
    setting("CONTROLPLANE_EC2_SECURITY_GROUPS", None, "security groups of machines, separated by commas"),
    setting("CONTROLPLANE_EC2_INSTANCE_PROFILE", None, "instance profile of machines; none needs none"),
    setting(
        "CONTROLPLANE_EC2_TYPES_T1",
        None,
        "types for tier 1, the preferred first; default: t3a, t3, t2.micro",
    ),
    setting("CONTROLPLANE_EC2_TYPES_T2", None, "types for tier 2; default: t3a, t3, t2.small"),
    setting("CONTROLPLANE_EC2_TYPES_T3", None, "types for tier 3; default: t3a, t3, t2.medium"),
    setting("CONTROLPLANE_EC2_TYPES_T4", None, "types for tier 4; default: t3a, t3, t2.large"),
    setting("CONTROLPLANE_EC2_ROOT_GIB", Some("20"), "root disk of machines, in GiB"),
    setting("CONTROLPLANE_EC2_KMS_KEY", None, "KMS key of disks; default: the account's own for EBS"),
    setting(
        "CONTROLPLANE_EC2_CALLS_PER_SECOND",
        Some("10"),
        "calls to EC2 per second that this replica makes, at most",
    ),
    setting(
        "CONTROLPLANE_BOOT_LISTEN",
        Some("127.0.0.1:7090"),
        "where machines fetch workspace-init and report, over HTTP",
    ),
    setting(
        "CONTROLPLANE_BOOT_URL",
        None,
        "the same as machines reach it: https://… of what stands before it",
    ),
    setting("CONTROLPLANE_BOOT_ALLOW_PLAIN", None, "1 allows an http:// address for machines"),
];

/// The EC2 side of a replica.
#[derive(Clone, Debug)]
pub struct Ec2 {
    /// How the backend is set up; where workspace-init is fetched is filled in once it is read.
    pub(crate) settings: Settings,
    /// Where machines are served.
    pub(crate) boot_listen: SocketAddr,
    /// The same as machines reach it, without a slash at its end.
    pub(crate) boot_url: String,
}

/// Reads the settings; what is missing or wrong is told in `problems`.
pub(super) fn read(values: &Values, problems: &mut Vec<String>) -> Option<Ec2> {
    let list = |name: &str| -> Vec<String> {
        let listed = values.get(name).unwrap_or_default().split(',').map(str::trim);
        listed.filter(|one| !one.is_empty()).map(str::to_owned).collect()
    };
    let before = problems.len();
    for (name, why) in [
        ("CONTROLPLANE_EC2_IMAGE", "machines are made from it"),
        ("CONTROLPLANE_EC2_SUBNETS", "machines go there"),
        ("CONTROLPLANE_EC2_SECURITY_GROUPS", "they are what keeps organisations' machines apart"),
        ("CONTROLPLANE_BOOT_URL", "machines fetch workspace-init there"),
    ] {
        if values.get(name).is_none() {
            problems.push(format!("{name} is not set, and CONTROLPLANE_BACKENDS names ec2: {why}"));
        }
    }
    let boot_url = values.get("CONTROLPLANE_BOOT_URL").unwrap_or("https://unset").trim_end_matches('/');
    if let Err(error) = check_url(boot_url, values.get("CONTROLPLANE_BOOT_ALLOW_PLAIN") == Some("1")) {
        problems.push(format!("CONTROLPLANE_BOOT_URL: {error} (CONTROLPLANE_BOOT_ALLOW_PLAIN=1)"));
    }
    let mut types = MachineTypes::default();
    for tier in Tier::ALL {
        let named = list(&format!("CONTROLPLANE_EC2_TYPES_T{}", tier.number()));
        if !named.is_empty() {
            types.0[usize::from(tier.number() - 1)] = named;
        }
    }
    let root_gib = values.parse::<i32>("CONTROLPLANE_EC2_ROOT_GIB", problems);
    let calls_per_second = values.parse::<f64>("CONTROLPLANE_EC2_CALLS_PER_SECOND", problems);
    if root_gib.is_some_and(|gib| gib < 1) {
        problems.push("CONTROLPLANE_EC2_ROOT_GIB must be at least 1".to_owned());
    }
    if calls_per_second.is_some_and(|calls| !(0.1..=1000.0).contains(&calls)) {
        problems.push("CONTROLPLANE_EC2_CALLS_PER_SECOND must be 0.1 to 1000".to_owned());
    }
    let boot_listen = values.parse("CONTROLPLANE_BOOT_LISTEN", problems);
    if problems.len() > before {
        return None;
    }
    let calls_per_second = calls_per_second?;
    let settings = Settings {
        image: values.get("CONTROLPLANE_EC2_IMAGE")?.to_owned(),
        subnets: list("CONTROLPLANE_EC2_SUBNETS"),
        security_groups: list("CONTROLPLANE_EC2_SECURITY_GROUPS"),
        instance_profile: values.get("CONTROLPLANE_EC2_INSTANCE_PROFILE").map(str::to_owned),
        types,
        root_gib: root_gib?,
        kms_key: values.get("CONTROLPLANE_EC2_KMS_KEY").map(str::to_owned),
        init_url: String::new(),
        init_sha256: String::new(),
        calls_per_second,
        call_burst: calls_per_second * 5.0,
        call_timeout: Duration::from_secs(20),
        visibility_lag: Duration::from_secs(60),
    };
    Some(Ec2 { settings, boot_listen: boot_listen?, boot_url: boot_url.to_owned() })
}
