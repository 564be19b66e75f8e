//! The machine image: which it is, and the name of its root disk.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use molecule_domain::Timestamp;
use molecule_domain::id::OrganizationId;
use serde::{Deserialize, Serialize};

use crate::Ec2Backend;
use crate::problem::Problem;

/// How long an answer is good for: an SSM parameter may be pointed at another image.
const REMEMBERED: Duration = Duration::from_secs(300);

/// A machine image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Image {
    pub(crate) id: String,
    /// What its root disk is called: EC2 encrypts that disk only where it is named.
    pub(crate) root_device: String,
}

/// Looks the image up now and then.
#[derive(Debug)]
pub(crate) struct Images {
    parameters: aws_sdk_ssm::Client,
    known: Mutex<Option<(Timestamp, Image)>>,
}

impl Images {
    pub(crate) fn new(parameters: aws_sdk_ssm::Client) -> Self {
        Self { parameters, known: Mutex::default() }
    }

    fn known(&self, now: Timestamp) -> Option<Image> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().filter(|(at, _)| now.since(*at) < REMEMBERED).map(|(_, image)| image.clone())
    }

    /// It can't be launched from: look again.
    pub(crate) fn forget(&self) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Ec2Backend {
    /// The image that the setting names.
    pub(crate) async fn image(&self, organization: OrganizationId) -> Result<Image, Problem> {
        if let Some(known) = self.images.known(self.clock.now()) {
            return Ok(known);
        }
        let named = &self.settings.image;
        let id = if named.starts_with("ami-") {
            named.clone()
        } else {
            let get = || self.images.parameters.get_parameter().name(named).send();
            let got = self.call(Some(organization), "ssm.get_parameter", get).await?;
            let value = got.parameter().and_then(|parameter| parameter.value());
            value
                .map(str::to_owned)
                .ok_or_else(|| Problem::NoImage(format!("the SSM parameter {named} is empty")))?
        };
        let describe = || self.client.describe_images().image_ids(&id).send();
        let found = self.call(Some(organization), "ec2.describe_image", describe).await?;
        let root = found.images().first().and_then(|image| image.root_device_name());
        let root_device = root.ok_or_else(|| Problem::NoImage(format!("EC2 has no image {id}")))?.to_owned();
        let image = Image { id, root_device };
        *self.images.known.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((self.clock.now(), image.clone()));
        Ok(image)
    }
}
