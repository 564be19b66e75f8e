//! EC2 for tests: a moto server behind a [`Front`] of ours that adds what moto lacks, by EC2's documentation, and that
//! turns adversarial by seed. Where moto's speed would be the limit, [`memory`](Cloud::memory) stands in its place.

mod cloud;
mod form;
mod front;
mod memory;
mod moto;
mod weather;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_config::{BehaviorVersion, SdkConfig};
use molecule_backend_ec2::{BootDesk, BootReport, MachineTypes, Settings};
use molecule_provisioner::model::InstanceRef;

pub use self::cloud::Cloud;
pub use self::front::Front;
pub use self::weather::Weather;

/// An SSM parameter that moto has, and that names an image that it has.
pub const IMAGE_PARAMETER: &str = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64";
/// Where nothing is.
pub const NOWHERE: &str = "http://127.0.0.1:9";

/// A desk where nothing is ever reported.
#[derive(Debug)]
pub struct NoReports;

#[async_trait]
impl BootDesk for NoReports {
    fn report_url(&self, _instance: &InstanceRef) -> String {
        NOWHERE.to_owned()
    }

    async fn report(&self, _instance: &InstanceRef) -> Result<Option<BootReport>, String> {
        Ok(None)
    }
}

/// Settings that a front understands.
pub fn settings(front: &Front) -> Settings {
    let subnets = front.subnets.iter().map(|(subnet, _)| subnet.clone()).collect();
    Settings { subnets, ..plain_settings() }
}

/// The same without subnets.
pub fn plain_settings() -> Settings {
    Settings {
        image: IMAGE_PARAMETER.to_owned(),
        subnets: Vec::new(),
        security_groups: Vec::new(),
        instance_profile: None,
        types: MachineTypes::default(),
        root_gib: 8,
        kms_key: None,
        init_url: format!("{NOWHERE}/workspace-init"),
        init_sha256: "0".repeat(64),
        calls_per_second: 1e6,
        call_burst: 1e6,
        call_timeout: Duration::from_secs(4),
        visibility_lag: Duration::from_secs(2),
    }
}

/// The SDK's configuration for an endpoint of ours.
pub async fn sdk(url: &str) -> SdkConfig {
    let credentials = aws_sdk_ec2::config::Credentials::new("tests", "tests", None, None, "tests");
    aws_config::defaults(BehaviorVersion::latest())
        .region("us-east-1")
        .credentials_provider(credentials)
        .endpoint_url(url)
        .load()
        .await
}

/// The same as variables of a process.
pub fn environment(url: &str) -> Vec<(&'static str, String)> {
    vec![
        ("AWS_ENDPOINT_URL", url.to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ACCESS_KEY_ID", "tests".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "tests".to_owned()),
        ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
    ]
}

/// A desk without reports, to be shared.
pub fn no_reports() -> Arc<dyn BootDesk> {
    Arc::new(NoReports)
}
