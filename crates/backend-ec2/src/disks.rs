//! The data disk of a workspace: made with its first machine, attached to those that follow, deleted with the
//! workspace.

use aws_sdk_ec2::types::{Volume, VolumeAttachment, VolumeState};
use molecule_domain::id::{LaunchSeq, OrganizationId, WorkspaceId};
use molecule_provisioner::backend::{CallError, OwnedResource};
use molecule_provisioner::model::InstanceRef;

use crate::problem::{Problem, unknown};
use crate::{Ec2Backend, tags};

/// The device that data disks are attached as.
pub(crate) const DATA_DEVICE: &str = "/dev/sdf";
/// Disks on one page of Describe, at most.
const PAGE: i32 = 500;

/// A data disk and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DataDisk {
    pub(crate) id: String,
    pub(crate) zone: String,
    /// The machine that it is attached to, or is being.
    attachment: Option<String>,
}

impl Ec2Backend {
    async fn disks(
        &self,
        organization: Option<OrganizationId>,
        filters: Vec<aws_sdk_ec2::types::Filter>,
    ) -> Result<Vec<Volume>, Problem> {
        let mut found = Vec::new();
        let mut next: Option<String> = None;
        loop {
            let describe = || {
                let call = self.client.describe_volumes().set_filters(Some(filters.clone()));
                call.max_results(PAGE).set_next_token(next.clone()).send()
            };
            let page = self.call(organization, "ec2.describe_disks", describe).await?;
            let there =
                |disk: &Volume| !matches!(disk.state(), Some(VolumeState::Deleting | VolumeState::Deleted));
            found.extend(page.volumes.unwrap_or_default().into_iter().filter(there));
            next = page.next_token.filter(|token| !token.is_empty());
            if next.is_none() {
                return Ok(found);
            }
        }
    }

    /// The workspace's data disk: what is, or is no more, attached as one; the oldest, should there be two.
    pub(crate) async fn data_disk(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
    ) -> Result<Option<DataDisk>, Problem> {
        let filters = tags::of_workspace(self.installation, workspace);
        let mut found = self.disks(Some(organization), filters).await?;
        found.retain(|disk| disk.attachments().iter().all(|one| one.device() == Some(DATA_DEVICE)));
        found.sort_by_key(|disk| disk.create_time().map(aws_sdk_ec2::primitives::DateTime::as_nanos));
        Ok(found.into_iter().find_map(|disk| {
            let attached = |one: &VolumeAttachment| one.instance_id().map(str::to_owned);
            Some(DataDisk {
                id: disk.volume_id()?.to_owned(),
                zone: disk.availability_zone()?.to_owned(),
                attachment: disk.attachments().first().and_then(attached),
            })
        }))
    }

    /// Attaches the workspace's data disk to its machine. Succeeds where it is.
    pub(crate) async fn attach_disk(&self, instance: &InstanceRef, seq: LaunchSeq) -> Result<(), CallError> {
        let machine = self.of_launch(instance, seq).await?;
        let machine = machine.ok_or_else(|| unknown("the machine is not there any more"))?;
        let (organization, workspace) = (instance.organization, instance.workspace);
        let disk = self.data_disk(organization, workspace).await;
        let disk = disk.map_err(|problem| problem.into_retry("find the data disk"))?;
        let disk = disk.ok_or_else(|| unknown("the workspace's data disk is not to be found"))?;
        match disk.attachment {
            Some(at) if at == machine.id => return Ok(()),
            Some(at) => return Err(unknown(format!("the data disk is still attached to {at}"))),
            None => {}
        }
        let attach = || {
            let call = self.client.attach_volume().volume_id(&disk.id).instance_id(&machine.id);
            call.device(DATA_DEVICE).send()
        };
        let attached = self.call(Some(organization), "ec2.attach", attach).await;
        attached.map(drop).map_err(|problem| problem.into_retry("attach the data disk"))
    }

    /// Deletes all disks of a workspace whose machine is gone. Succeeds once EC2 has none any more.
    pub(crate) async fn delete_disks(
        &self,
        organization: OrganizationId,
        workspace: WorkspaceId,
    ) -> Result<(), CallError> {
        let filters = || tags::of_workspace(self.installation, workspace);
        let list = async || {
            let listed = self.disks(Some(organization), filters()).await;
            listed.map_err(|problem| problem.into_retry("list the disks"))
        };
        for disk in list().await? {
            let Some(id) = disk.volume_id() else { continue };
            if !disk.attachments().is_empty() {
                return Err(unknown(format!("the disk {id} is still attached")));
            }
            let delete = || self.client.delete_volume().volume_id(id).send();
            match self.call(Some(organization), "ec2.delete_disk", delete).await {
                Ok(_) | Err(Problem::NotFound(_)) => {}
                Err(problem) => return Err(problem.into_retry("delete a disk")),
            }
        }
        let left = list().await?.len();
        if left == 0 { Ok(()) } else { Err(unknown(format!("{left} disks are still being deleted"))) }
    }

    /// The disks of the installation's workspaces that are attached to nothing: few, where all is well. What is attached
    /// to a machine is seen with that.
    pub(crate) async fn list_disks(&self) -> Result<Vec<OwnedResource>, CallError> {
        let mut filters = tags::of_installation(self.installation);
        filters.push(tags::not_attached());
        let listed = self.disks(None, filters).await;
        let listed = listed.map_err(|problem| problem.into_retry("list the disks"))?;
        let owned = listed.into_iter().map(|disk| {
            let id = disk.volume_id().unwrap_or_default();
            let owner = tags::owner(disk.tags());
            let (organization, workspace, seq) = owner
                .ok_or_else(|| unknown(format!("the disk {id} has this installation's tag and no owner")))?;
            Ok(OwnedResource { organization, workspace, name: id.to_owned(), seq })
        });
        owned.collect()
    }
}
