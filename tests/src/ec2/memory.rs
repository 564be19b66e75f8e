//! The calls that our backend makes, over a few maps: as moto answers them, and as quick as thousands of launches want.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

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
    let items: String = tags
        .iter()
        .map(|(key, value)| format!("<item><key>{key}</key><value>{value}</value></item>"))
        .collect();
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
        let id = self.id("i");
        for mapping in form.forms("BlockDeviceMapping") {
            let disk = Disk {
                zone,
                tags: form.tags("volume"),
                with_machine: mapping.get("Ebs.DeleteOnTermination") == "true",
                attached: Some((id.clone(), mapping.get("DeviceName").to_owned())),
            };
            let name = self.id("vol");
            self.disks.insert(name, disk);
        }
        let machine = Machine { state: (16, "running"), zone, tags: form.tags("instance") };
        self.machines.insert(id.clone(), machine);
        let item = self.item(&id);
        Answer::ok(
            "RunInstances",
            &format!("<reservationId>r-1</reservationId><instancesSet>{item}</instancesSet>"),
        )
    }

    fn item(&self, id: &str) -> String {
        let machine = &self.machines[id];
        let attached = self.disks.iter().filter_map(|(name, disk)| {
            let (at, device) = disk.attached.as_ref()?;
            (at == id).then(|| {
                format!(
                    "<item><deviceName>{device}</deviceName><ebs><volumeId>{name}</volumeId></ebs></item>"
                )
            })
        });
        let (code, state) = machine.state;
        format!(
            "<item><instanceId>{id}</instanceId><instanceState><code>{code}</code><name>{state}</name></instanceState>\
             <privateIpAddress>10.9.9.9</privateIpAddress><launchTime>2026-01-01T00:00:00.000Z</launchTime>\
             <placement><availabilityZone>{}</availabilityZone></placement><rootDeviceName>{ROOT}</rootDeviceName>\
             <blockDeviceMapping>{}</blockDeviceMapping>{}</item>",
            machine.zone,
            attached.collect::<String>(),
            tag_set(&machine.tags)
        )
    }

    fn machines(&self, form: &Form) -> Answer {
        let filters = form.forms("Filter");
        let states = filters.iter().find(|filter| filter.get("Name") == "instance-state-name");
        let states = states.map(|filter| filter.list("Value")).unwrap_or_default();
        let those = self
            .machines
            .iter()
            .filter(|(_, machine)| states.contains(&machine.state.1) && found(form, &machine.tags));
        let items: String = those
            .map(|(id, _)| {
                format!(
                    "<item><reservationId>r-1</reservationId><instancesSet>{}</instancesSet></item>",
                    self.item(id)
                )
            })
            .collect();
        Answer::ok("DescribeInstances", &format!("<reservationSet>{items}</reservationSet>"))
    }

    fn disks(&self, form: &Form) -> Answer {
        let those = self.disks.iter().filter(|(_, disk)| found(form, &disk.tags));
        let items: String = those
            .map(|(id, disk)| {
                let attached = disk.attached.as_ref().map(|(machine, device)| {
                    format!("<item><instanceId>{machine}</instanceId><device>{device}</device><status>attached</status></item>")
                });
                format!(
                    "<item><volumeId>{id}</volumeId><availabilityZone>{}</availabilityZone><status>{}</status>\
                     <createTime>2026-01-01T00:00:00.000Z</createTime><attachmentSet>{}</attachmentSet>{}</item>",
                    disk.zone,
                    if disk.attached.is_some() { "in-use" } else { "available" },
                    attached.unwrap_or_default(),
                    tag_set(&disk.tags)
                )
            })
            .collect();
        Answer::ok("DescribeVolumes", &format!("<volumeSet>{items}</volumeSet>"))
    }

    fn change(&mut self, form: &Form, state: (u16, &'static str)) -> Answer {
        let mut items = String::new();
        for id in form.list("InstanceId") {
            let Some(machine) = self.machines.get_mut(id) else { return Answer::not_found("InstanceID", id) };
            machine.state = state;
            if state.1 == "terminated" {
                let is_here = |disk: &Disk| disk.attached.as_ref().is_some_and(|(at, _)| at == id);
                self.disks.retain(|_, disk| !(disk.with_machine && is_here(disk)));
                self.disks.values_mut().filter(|disk| is_here(disk)).for_each(|disk| disk.attached = None);
            }
            let _ = write!(items, "<item><instanceId>{id}</instanceId></item>");
        }
        Answer::ok(form.get("Action"), &format!("<instancesSet>{items}</instancesSet>"))
    }

    fn attach(&mut self, form: &Form) -> Answer {
        let (id, machine) = (form.get("VolumeId"), form.get("InstanceId"));
        let Some(zone) = self.machines.get(machine).map(|machine| machine.zone) else {
            return Answer::not_found("InstanceID", machine);
        };
        let Some(disk) = self.disks.get_mut(id) else { return Answer::not_found("Volume", id) };
        if disk.attached.is_some() {
            return Answer::error(400, "VolumeInUse", id);
        }
        if disk.zone != zone {
            return Answer::error(400, "InvalidVolume.ZoneMismatch", id);
        }
        disk.attached = Some((machine.to_owned(), form.get("Device").to_owned()));
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
