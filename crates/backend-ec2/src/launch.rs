//! `RunInstances`: one machine, made of what was stored.

use aws_sdk_ec2::types::{
    BlockDeviceMapping, EbsBlockDevice, HttpTokensState, IamInstanceProfileSpecification,
    InstanceMetadataEndpointState, InstanceMetadataOptionsRequest, InstanceType, ShutdownBehavior,
    VolumeType,
};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use molecule_domain::lifecycle::Reason;
use molecule_provisioner::backend::{CallError, LaunchRequest};

use crate::disks::DATA_DEVICE;
use crate::placement::Placement;
use crate::problem::{Problem, refused, unknown};
use crate::{Ec2Backend, boot, tags};

/// EC2's limit for user-data, before base64.
const MOST_USER_DATA: usize = 16 << 10;

impl Ec2Backend {
    /// Makes the machine, or is told of the one that this token has made.
    pub(crate) async fn run_instance(&self, request: &LaunchRequest) -> Result<(), CallError> {
        let placement: Placement = serde_json::from_str(&request.placement)
            .map_err(|error| unknown(format!("the placement of this launch can't be read: {error}")))?;
        let report_url = self.desk.report_url(&request.instance);
        let user_data = boot::user_data(request, &placement, &report_url);
        if user_data.len() > MOST_USER_DATA {
            return Err(refused(
                Reason::LaunchRefused,
                format!(
                    "what the machine must be told takes {} bytes, and EC2 carries {MOST_USER_DATA}: give \
                     TENANT_AGENT_CA_FILE fewer certificates",
                    user_data.len()
                ),
            ));
        }
        let gib = i32::try_from(request.spec.disk_gib).unwrap_or(i32::MAX);
        let disks = [
            Some(disk(&placement.image.root_device, placement.root_gib, true, &placement)),
            placement.new_disk.then(|| disk(DATA_DEVICE, gib, false, &placement)),
        ];
        let metadata = InstanceMetadataOptionsRequest::builder()
            .http_endpoint(InstanceMetadataEndpointState::Enabled)
            .http_tokens(HttpTokensState::Required)
            .http_put_response_hop_limit(1)
            .build();
        let profile = placement.instance_profile.as_ref();
        let profile = profile.map(|name| IamInstanceProfileSpecification::builder().name(name).build());
        let run = || {
            self.client
                .run_instances()
                .client_token(&request.token)
                .min_count(1)
                .max_count(1)
                .image_id(&placement.image.id)
                .instance_type(InstanceType::from(placement.machine_type.as_str()))
                .subnet_id(&placement.subnet)
                .set_security_group_ids(Some(placement.security_groups.clone()))
                .set_iam_instance_profile(profile.clone())
                .set_block_device_mappings(Some(disks.iter().flatten().cloned().collect()))
                .metadata_options(metadata.clone())
                .instance_initiated_shutdown_behavior(ShutdownBehavior::Stop)
                .set_tag_specifications(Some(tags::of_request(self.installation, request)))
                .user_data(BASE64_STANDARD.encode(&user_data))
                .send()
        };
        let launched = self.call(Some(request.instance.organization), "ec2.run", run).await;
        let Err(problem) = launched else { return Ok(()) };
        if matches!(problem, Problem::NoImage(_)) {
            self.images.forget();
        }
        let quota = matches!(problem, Problem::Quota(_));
        let short = quota || matches!(problem, Problem::NoCapacity(_));
        let error = problem.into_call_error("launch the machine");
        if let (true, CallError::NoRoom(refusal)) = (short, &error) {
            let zones = self.subnets(request.instance.organization).await;
            let zones = zones.unwrap_or_default();
            // a quota is the region's
            let elsewhere = zones.iter().filter(|_| quota).map(|subnet| subnet.zone.as_str());
            for zone in elsewhere.chain([placement.zone.as_str()]) {
                self.shortages.note(&placement.machine_type, zone, refusal, self.clock.now());
            }
        }
        Err(error)
    }
}

fn disk(device: &str, gib: i32, with_machine: bool, placement: &Placement) -> BlockDeviceMapping {
    let disk = EbsBlockDevice::builder()
        .encrypted(true)
        .set_kms_key_id(placement.kms_key.clone())
        .volume_type(VolumeType::Gp3)
        .volume_size(gib)
        .delete_on_termination(with_machine)
        .build();
    BlockDeviceMapping::builder().device_name(device).ebs(disk).build()
}
