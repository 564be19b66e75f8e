//! What EC2 says of machines.

use aws_sdk_ec2::types::{Filter, Instance, InstanceStateName};
use molecule_domain::Timestamp;
use molecule_domain::id::OrganizationId;
use molecule_provisioner::model::{Endpoint, InstanceRef};
use molecule_provisioner::observation::{InstanceState, OwnedInstance};

use crate::disks::DATA_DEVICE;
use crate::problem::Problem;
use crate::{Ec2Backend, tags};

/// Machines on one page of Describe, at most.
const PAGE: i32 = 1000;

/// A machine of ours.
pub(crate) struct Machine {
    pub(crate) id: String,
    /// Why it went down, in EC2's words.
    pub(crate) why_down: Option<String>,
    told: Instance,
}

impl Machine {
    fn of(told: Instance) -> Option<Self> {
        let why = told.state_reason().and_then(|reason| reason.message()).map(str::to_owned);
        Some(Self { id: told.instance_id()?.to_owned(), why_down: why.filter(|why| !why.is_empty()), told })
    }

    fn state(&self) -> Option<&InstanceStateName> {
        self.told.state().and_then(|state| state.name())
    }

    pub(crate) fn is_shutting_down(&self) -> bool {
        matches!(self.state(), Some(InstanceStateName::ShuttingDown | InstanceStateName::Terminated))
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.state() == Some(&InstanceStateName::Stopped)
    }

    pub(crate) fn is_stopping_or_down(&self) -> bool {
        self.is_shutting_down() || self.is_stopped() || self.state() == Some(&InstanceStateName::Stopping)
    }

    fn has_disk(&self, device: &str) -> bool {
        self.told.block_device_mappings().iter().any(|mapping| mapping.device_name() == Some(device))
    }

    /// As the engine sees it, or what is wrong with its tags.
    pub(crate) fn owned(&self) -> Result<OwnedInstance, String> {
        let broken =
            |what: &str| format!("the machine {} has this installation's tag and no {what}", self.id);
        let tags = self.told.tags();
        let (organization, workspace, seq) = tags::owner(tags).ok_or_else(|| broken("owner"))?;
        let generation = tags::generation(tags).ok_or_else(|| broken("generation"))?;
        let state = match self.state() {
            Some(InstanceStateName::Pending) => InstanceState::Starting,
            Some(InstanceStateName::Running) if self.has_disk(DATA_DEVICE) => InstanceState::Running,
            Some(InstanceStateName::Running) => InstanceState::Unattached,
            Some(InstanceStateName::Stopping) => InstanceState::Stopping,
            Some(InstanceStateName::ShuttingDown) => InstanceState::Removing,
            Some(InstanceStateName::Stopped) => InstanceState::Exited(None),
            other => return Err(format!("the machine {} is in no known state: {other:?}", self.id)),
        };
        let endpoint = (state == InstanceState::Running).then(|| {
            let host = self.told.private_ip_address()?.to_owned();
            Some(Endpoint { host, port: tags::agent_port(tags)? })
        });
        Ok(OwnedInstance {
            instance: InstanceRef { organization, workspace, generation },
            seq,
            state,
            endpoint: endpoint.flatten(),
            created_at: self.created_at().ok_or_else(|| broken("launch time"))?,
        })
    }

    /// When it was made. Its launch time moves with every start; its root disk was attached once.
    fn created_at(&self) -> Option<Timestamp> {
        let root = self.told.root_device_name();
        let mapping = self.told.block_device_mappings().iter().find(|one| one.device_name() == root);
        let attached = mapping.and_then(|mapping| mapping.ebs()?.attach_time());
        let micros = |time: &aws_sdk_ec2::primitives::DateTime| i64::try_from(time.as_nanos() / 1000).ok();
        let times = [attached, self.told.launch_time()].into_iter().flatten();
        times.filter_map(micros).min().map(Timestamp::from_micros)
    }
}

impl Ec2Backend {
    /// The machines that these filters find, page by page, whole or not at all. Terminated ones are gone.
    pub(crate) async fn describe(
        &self,
        organization: Option<OrganizationId>,
        mut filters: Vec<Filter>,
    ) -> Result<Vec<Machine>, Problem> {
        filters.push(tags::not_terminated());
        let mut found = Vec::new();
        let mut next: Option<String> = None;
        loop {
            let describe = || {
                let call = self.client.describe_instances().set_filters(Some(filters.clone()));
                call.max_results(PAGE).set_next_token(next.clone()).send()
            };
            let page = self.call(organization, "ec2.describe", describe).await?;
            let machines = page.reservations.unwrap_or_default().into_iter();
            let machines = machines.flat_map(|reservation| reservation.instances.unwrap_or_default());
            for told in machines {
                found.push(
                    Machine::of(told)
                        .ok_or_else(|| Problem::Unknown("a machine without an id".to_owned()))?,
                );
            }
            next = page.next_token.filter(|token| !token.is_empty());
            if next.is_none() {
                // a machine whose termination the filter has not heard of yet
                found.retain(|machine| machine.state() != Some(&InstanceStateName::Terminated));
                return Ok(found);
            }
        }
    }
}
