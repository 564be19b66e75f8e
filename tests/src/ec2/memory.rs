//! The calls that our backend makes, over a few maps: as moto answers them, and as quick as thousands of launches want.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use molecule_domain::id::OrganizationId;

use super::form::{Answer, Form};

const ZONES: [&str; 2] = ["us-east-1a", "us-east-1b"];
const ROOT: &str = "/dev/xvda";

/// An account in memory.
#[derive(Debug, Default)]
pub struct Memory(Mutex<Account>);

#[derive(Debug, Default)]
struct Account {
    made: u64,
    machines: BTreeMap<String, Machine>,
    disks: BTreeMap<String, Disk>,
}

#[derive(Debug)]
struct Machine {
    state: (u16, &'static str),
    zone: &'static str,
    tags: Vec<(String, String)>,
    /// Devices and the disks that are attached as them.
    disks: Vec<(String, String)>,
}

#[derive(Debug)]
struct Disk {
    zone: &'static str,
    tags: Vec<(String, String)>,
    with_machine: bool,
    /// Machine and device.
    attached: Option<(String, String)>,
}

impl Memory {
    /// Fills it with machines as a control plane would have launched them: workspace, launch and all are numbers.
    pub(super) fn fill(&self, installation: &str, count: usize) {
        let mut account = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for n in 1..=count {
            let tags = [
                ("ai.molecule.installation", installation.to_owned()),
                ("ai.molecule.organization", OrganizationId::SELF_HOSTED.to_string()),
                ("ai.molecule.workspace", uuid::Uuid::from_u128(n as u128).to_string()),
                ("ai.molecule.generation", "1".to_owned()),
                ("ai.molecule.launch", n.to_string()),
                ("ai.molecule.agent-port", "8000".to_owned()),
            ];
            let tags: Vec<_> = tags.map(|(key, value)| (key.to_owned(), value)).into();
            let disks = vec![(ROOT.to_owned(), true), ("/dev/sdf".to_owned(), false)];
            account.make(ZONES[0], tags.clone(), &tags, disks);
        }
    }

    pub(super) fn act(&self, form: &Form) -> Answer {
        let mut account = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let action = form.get("Action");
        match action {
            "DescribeSubnets" => subnets(form),
            "DescribeImages" => Answer::ok(
                action,
                &format!(
                    "<imagesSet><item><imageId>ami-memory</imageId><rootDeviceName>{ROOT}</rootDeviceName></item></imagesSet>"
                ),
            ),
            "RunInstances" => account.run(form),
            "DescribeInstances" => account.machines(form),
            "DescribeVolumes" => account.disks(form),
            "TerminateInstances" => account.change(form, (48, "terminated")),
            "StopInstances" => account.change(form, (80, "stopped")),
            "StartInstances" => account.change(form, (16, "running")),
            "AttachVolume" => account.attach(form),
            "DeleteVolume" => account.delete_disk(form),
            other => Answer::error(400, "InvalidAction", other),
        }
    }
}

fn subnets(form: &Form) -> Answer {
    let mut items = String::new();
    for (n, zone) in ZONES.iter().enumerate() {
        let _ = write!(
            items,
            "<item><subnetId>subnet-{n}</subnetId><availabilityZone>{zone}</availabilityZone></item>"
        );
    }
    Answer::ok(form.get("Action"), &format!("<subnetSet>{items}</subnetSet>"))
}

fn tag_set(tags: &[(String, String)]) -> String {
    let mut items = String::new();
    for (key, value) in tags {
        let _ = write!(items, "<item><key>{key}</key><value>{value}</value></item>");
    }
    format!("<tagSet>{items}</tagSet>")
}

/// Whether all filters on tags find these.
fn found(form: &Form, tags: &[(String, String)]) -> bool {
    form.forms("Filter").iter().all(|filter| {
        let Some(key) = filter.get("Name").strip_prefix("tag:") else { return true };
        let values = filter.list("Value");
        tags.iter().any(|(name, value)| name == key && values.contains(&value.as_str()))
    })
}

fn item(id: &str, machine: &Machine) -> String {
    let mut attached = String::new();
    for (device, name) in &machine.disks {
        let _ = write!(
            attached,
            "<item><deviceName>{device}</deviceName><ebs><volumeId>{name}</volumeId></ebs></item>"
        );
    }
    let (code, state) = machine.state;
    format!(
        "<item><instanceId>{id}</instanceId><instanceState><code>{code}</code><name>{state}</name></instanceState>\
         <privateIpAddress>10.9.9.9</privateIpAddress><launchTime>2026-01-01T00:00:00.000Z</launchTime>\
         <placement><availabilityZone>{}</availabilityZone></placement><rootDeviceName>{ROOT}</rootDeviceName>\
         <blockDeviceMapping>{attached}</blockDeviceMapping>{}</item>",
        machine.zone,
        tag_set(&machine.tags)
    )
}

impl Account {
    fn id(&mut self, kind: &str) -> String {
        self.made += 1;
        format!("{kind}-{:017x}", self.made)
    }

    fn run(&mut self, form: &Form) -> Answer {
        let subnet = form.get("SubnetId").strip_prefix("subnet-").and_then(|n| n.parse::<usize>().ok());
        let Some(zone) = subnet.and_then(|n| ZONES.get(n)).copied() else {
            return Answer::not_found("SubnetID", form.get("SubnetId"));
        };
        if form.get("ImageId") != "ami-memory" {
            return Answer::not_found("AMIID", form.get("ImageId"));
        }
        let mappings = form.forms("BlockDeviceMapping");
        let disks = mappings.iter().map(|mapping| {
            let with_machine = mapping.get("Ebs.DeleteOnTermination") == "true";
            (mapping.get("DeviceName").to_owned(), with_machine)
        });
        let id = self.make(zone, form.tags("instance"), &form.tags("volume"), disks.collect());
        let item = item(&id, &self.machines[&id]);
        Answer::ok(
            "RunInstances",
            &format!("<reservationId>r-1</reservationId><instancesSet>{item}</instancesSet>"),
        )
    }

    fn make(
        &mut self,
        zone: &'static str,
        tags: Vec<(String, String)>,
        disk_tags: &[(String, String)],
        disks: Vec<(String, bool)>,
    ) -> String {
        let id = self.id("i");
        let mut machine = Machine { state: (16, "running"), zone, tags, disks: Vec::new() };
        for (device, with_machine) in disks {
            let name = self.id("vol");
            let attached = Some((id.clone(), device.clone()));
            self.disks.insert(name.clone(), Disk { zone, tags: disk_tags.to_vec(), with_machine, attached });
            machine.disks.push((device, name));
        }
        self.machines.insert(id.clone(), machine);
        id
    }

    fn machines(&self, form: &Form) -> Answer {
        let filters = form.forms("Filter");
        let states = filters.iter().find(|filter| filter.get("Name") == "instance-state-name");
        let states = states.map(|filter| filter.list("Value")).unwrap_or_default();
        let from = form.get("NextToken").to_owned();
        let page: usize = form.get("MaxResults").parse().unwrap_or(usize::MAX);
        let mut those = self
            .machines
            .range(from..)
            .filter(|(_, machine)| states.contains(&machine.state.1) && found(form, &machine.tags))
            .peekable();
        let mut items = String::new();
        for (id, machine) in those.by_ref().take(page) {
            let item = item(id, machine);
            let _ = write!(
                items,
                "<item><reservationId>r-1</reservationId><instancesSet>{item}</instancesSet></item>"
            );
        }
        let next = those.peek().map(|(id, _)| format!("<nextToken>{id}</nextToken>")).unwrap_or_default();
        Answer::ok("DescribeInstances", &format!("<reservationSet>{items}</reservationSet>{next}"))
    }

    fn disks(&self, form: &Form) -> Answer {
        let filters = form.forms("Filter");
        let free = filters.iter().any(|filter| filter.get("Name") == "status");
        let those = self.disks.iter().filter(|(_, disk)| !(free && disk.attached.is_some()));
        let those = those.filter(|(_, disk)| found(form, &disk.tags));
        let mut items = String::new();
        for (id, disk) in those {
            let attached = disk.attached.as_ref().map(|(machine, device)| {
                format!(
                    "<item><instanceId>{machine}</instanceId><device>{device}</device><status>attached</status></item>"
                )
            });
            let _ = write!(
                items,
                "<item><volumeId>{id}</volumeId><availabilityZone>{}</availabilityZone><status>{}</status>\
                 <createTime>2026-01-01T00:00:00.000Z</createTime><attachmentSet>{}</attachmentSet>{}</item>",
                disk.zone,
                if disk.attached.is_some() { "in-use" } else { "available" },
                attached.unwrap_or_default(),
                tag_set(&disk.tags)
            );
        }
        Answer::ok("DescribeVolumes", &format!("<volumeSet>{items}</volumeSet>"))
    }

    fn change(&mut self, form: &Form, state: (u16, &'static str)) -> Answer {
        let mut items = String::new();
        for id in form.list("InstanceId") {
            let Some(machine) = self.machines.get_mut(id) else { return Answer::not_found("InstanceID", id) };
            machine.state = state;
            if state.1 == "terminated" {
                for (_, name) in std::mem::take(&mut machine.disks) {
                    if self.disks.get(&name).is_some_and(|disk| disk.with_machine) {
                        self.disks.remove(&name);
                    } else if let Some(disk) = self.disks.get_mut(&name) {
                        disk.attached = None;
                    }
                }
            }
            let _ = write!(items, "<item><instanceId>{id}</instanceId></item>");
        }
        Answer::ok(form.get("Action"), &format!("<instancesSet>{items}</instancesSet>"))
    }

    fn attach(&mut self, form: &Form) -> Answer {
        let (id, machine) = (form.get("VolumeId"), form.get("InstanceId"));
        let Some(at) = self.machines.get_mut(machine) else {
            return Answer::not_found("InstanceID", machine);
        };
        let Some(disk) = self.disks.get_mut(id) else { return Answer::not_found("Volume", id) };
        if disk.attached.is_some() {
            return Answer::error(400, "VolumeInUse", id);
        }
        if disk.zone != at.zone {
            return Answer::error(400, "InvalidVolume.ZoneMismatch", id);
        }
        disk.attached = Some((machine.to_owned(), form.get("Device").to_owned()));
        at.disks.push((form.get("Device").to_owned(), id.to_owned()));
        Answer::ok("AttachVolume", &format!("<volumeId>{id}</volumeId><status>attached</status>"))
    }

    fn delete_disk(&mut self, form: &Form) -> Answer {
        let id = form.get("VolumeId");
        match self.disks.get(id) {
            None => return Answer::not_found("Volume", id),
            Some(disk) if disk.attached.is_some() => return Answer::error(400, "VolumeInUse", id),
            Some(_) => {}
        }
        self.disks.remove(id);
        Answer::ok("DeleteVolume", "<return>true</return>")
    }
}
