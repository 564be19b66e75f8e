//! What EC2 does and moto does not, by its documentation, before either:
//!
//! - a `ClientToken` is answered as it was the first time; for other parameters with `IdempotentParameterMismatch`, once
//!   its machine is terminated with `IdempotentInstanceTerminated`
//!   (<https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-idempotency.html>);
//! - what was just launched is not described yet, then pending, and only then running
//!   (<https://docs.aws.amazon.com/ec2/latest/devguide/eventual-consistency.html>);
//! - what is terminated can't be started, what is pending can be neither stopped nor given a disk;
//! - capacity, quota and throttling errors.
//!
//! What goes wrong besides is the [`Weather`]'s.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use molecule_domain::clock::{Clock, Timestamp};
use xmltree::{Element, XMLNode};

use super::cloud::Cloud;
use super::form::{Answer, Form};
use super::weather::{self, Weather};
use crate::seed::Dice;

/// Who signs what the front itself asks; nobody checks signatures here.
pub(super) const AUTHORIZATION: &str =
    "AWS4-HMAC-SHA256 Credential=tests/20260101/us-east-1/ec2/aws4_request, SignedHeaders=host, Signature=0";

/// An EC2 endpoint. Dropping this ends it.
pub struct Front {
    /// Where it is.
    pub url: String,
    /// Subnets and their zones.
    pub subnets: Vec<(String, String)>,
    shared: Arc<Shared>,
    server: tokio::task::JoinHandle<()>,
}

pub(super) struct Shared {
    pub(super) cloud: Cloud,
    state: Mutex<State>,
    /// One launch at a time: two calls with one token must not both find it unused.
    launching: tokio::sync::Mutex<()>,
    clock: Arc<dyn Clock>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) weather: Weather,
    pub(super) dice: Dice,
    pub(super) away: bool,
    /// Types that there is no room for, in every zone or in one.
    full: HashSet<(String, Option<String>)>,
    /// Whether the account has reached its quota.
    over_quota: bool,
    tokens: HashMap<String, Launch>,
    machines: HashMap<String, Machine>,
    pub(super) calls: HashMap<String, usize>,
    violations: Vec<String>,
}

#[derive(Clone, Debug)]
struct Launch {
    form: Form,
    answer: String,
    machine: String,
}

#[derive(Debug)]
struct Machine {
    shown_from: Timestamp,
    running_from: Timestamp,
    /// Its workspace and generation, by its tags.
    whose: (String, String),
    user_data: String,
    terminated: bool,
}

impl std::fmt::Debug for Front {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Front").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Front {
    /// Puts an endpoint before a cloud. `dice` decides what goes wrong, and `clock` when what was hidden is shown.
    pub async fn before(
        cloud: Cloud,
        weather: Weather,
        dice: Dice,
        clock: Arc<dyn Clock>,
    ) -> anyhow::Result<Self> {
        let state = State {
            weather,
            dice,
            away: false,
            full: HashSet::new(),
            over_quota: false,
            tokens: HashMap::new(),
            machines: HashMap::new(),
            calls: HashMap::new(),
            violations: Vec::new(),
        };
        let launching = tokio::sync::Mutex::default();
        let shared = Arc::new(Shared { cloud, state: Mutex::new(state), launching, clock });
        let body = b"Action=DescribeSubnets&Version=2016-11-15";
        let subnets = shared.cloud.act(&Form::parse(body), body, AUTHORIZATION).await?;
        let subnets = subnets_of(&subnets.xml)?;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let router = Router::new().fallback(weather::answer).with_state(Arc::clone(&shared));
        let server = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { url, subnets, shared, server })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }

    /// From now on it treats its callers so.
    pub fn set_weather(&self, weather: Weather) {
        self.lock().weather = weather;
    }

    /// While away, it closes every connection without an answer, and nothing has an effect.
    pub fn set_away(&self, away: bool) {
        self.lock().away = away;
    }

    /// From now on there is no room for a type, in a zone or in all of them.
    pub fn fill(&self, machine_type: &str, zone: Option<&str>) {
        self.lock().full.insert((machine_type.to_owned(), zone.map(str::to_owned)));
    }

    /// From now on there is room for all again.
    pub fn empty(&self) {
        let mut state = self.lock();
        state.full.clear();
        state.over_quota = false;
    }

    /// From now on the account has reached its quota.
    pub fn set_over_quota(&self) {
        self.lock().over_quota = true;
    }

    /// Fills an account in memory with machines of an installation, numbered from 1.
    pub fn fill_with(&self, installation: &str, count: usize) {
        if let Cloud::Memory(memory) = &self.shared.cloud {
            memory.fill(installation, count);
        }
    }

    /// Every action that was ever asked for.
    pub fn actions(&self) -> Vec<String> {
        self.lock().calls.keys().filter(|action| !action.is_empty()).cloned().collect()
    }

    /// How often an action was asked for.
    pub fn calls(&self, action: &str) -> usize {
        self.lock().calls.get(action).copied().unwrap_or_default()
    }

    /// How many machines there have ever been.
    pub fn launched(&self) -> usize {
        self.lock().machines.len()
    }

    /// Machines that are not terminated.
    pub fn alive(&self) -> Vec<String> {
        let state = self.lock();
        state.machines.iter().filter(|(_, machine)| !machine.terminated).map(|(id, _)| id.clone()).collect()
    }

    /// What the only machine of a workspace's generation was told when it was launched, in base64.
    pub fn user_data(&self, workspace: &str, generation: u32) -> Option<String> {
        let whose = (workspace.to_owned(), generation.to_string());
        let state = self.lock();
        state
            .machines
            .values()
            .find(|machine| machine.whose == whose)
            .map(|machine| machine.user_data.clone())
    }

    /// What should never have happened, and did.
    pub fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }

    /// Disks that are there.
    pub async fn disks(&self) -> anyhow::Result<usize> {
        let body = b"Action=DescribeVolumes&Version=2016-11-15";
        let answer = self.shared.cloud.act(&Form::parse(body), body, AUTHORIZATION).await?;
        Ok(answer.xml.matches("<createTime>").count())
    }

    /// Does something past all rules, as its owner may at any time in the console.
    pub async fn by_hand(&self, body: &str) -> anyhow::Result<String> {
        let form = Form::parse(body.as_bytes());
        let answer = self.shared.cloud.act(&form, body.as_bytes(), AUTHORIZATION).await?;
        anyhow::ensure!(answer.status == 200, "{}", answer.xml);
        self.shared.note_effect(&form);
        Ok(answer.xml)
    }
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What EC2 would answer.
    pub(super) async fn handle(
        &self,
        form: &Form,
        body: &[u8],
        authorization: &str,
    ) -> anyhow::Result<Answer> {
        match form.get("Action") {
            "RunInstances" => self.run(form, body, authorization).await,
            "StartInstances" | "StopInstances" | "AttachVolume" => {
                if let Some(refused) = self.wrong_state(form) {
                    return Ok(refused);
                }
                self.cloud.act(form, body, authorization).await
            }
            "DescribeInstances" => {
                let answer = self.cloud.act(form, body, authorization).await?;
                if answer.status == 200 { self.as_it_is_shown(&answer.xml) } else { Ok(answer) }
            }
            _ => {
                let answer = self.cloud.act(form, body, authorization).await?;
                if answer.status == 200 {
                    self.note_effect(form);
                }
                Ok(answer)
            }
        }
    }

    async fn run(&self, form: &Form, body: &[u8], authorization: &str) -> anyhow::Result<Answer> {
        let _one = self.launching.lock().await;
        let token = form.get("ClientToken").to_owned();
        anyhow::ensure!((1..=64).contains(&token.len()), "a ClientToken has 1 to 64 characters: {token:?}");
        let known = self.lock().tokens.get(&token).cloned();
        if let Some(launch) = known {
            return Ok(self.again(form, &launch));
        }
        if let Some(refused) = self.no_room(form) {
            return Ok(refused);
        }
        let answer = self.cloud.act(form, body, authorization).await?;
        if answer.status != 200 {
            return Ok(answer);
        }
        let machine = text_between(&answer.xml, "instanceId").to_owned();
        let tags: HashMap<String, String> = form.tags("instance").into_iter().collect();
        let tag = |name: &str| tags.get(name).cloned().unwrap_or_default();
        let whose = (tag("ai.molecule.workspace"), tag("ai.molecule.generation"));
        let mut state = self.lock();
        let twice = state.machines.iter().find(|(_, one)| one.whose.0 == whose.0 && !one.terminated);
        if let Some((other, _)) = twice.filter(|_| !whose.0.is_empty()) {
            let told = format!("{machine} was launched while {other} of the same workspace was there");
            state.violations.push(told);
        }
        let (now, weather) = (self.clock.now(), state.weather);
        let hidden = weather.lag.mul_f64(share(&mut state.dice));
        let launched = Machine {
            shown_from: now + hidden,
            running_from: now + hidden + weather.pending.mul_f64(share(&mut state.dice)),
            whose,
            user_data: form.get("UserData").to_owned(),
            terminated: false,
        };
        state.machines.insert(machine.clone(), launched);
        state.tokens.insert(token, Launch { form: form.clone(), answer: answer.xml.clone(), machine });
        Ok(answer)
    }

    /// The answer for a token that was used before.
    fn again(&self, form: &Form, launch: &Launch) -> Answer {
        if launch.form != *form {
            self.lock()
                .violations
                .push(format!("other parameters under one token: {form:?}, {:?}", launch.form));
            return Answer::error(
                400,
                "IdempotentParameterMismatch",
                "Arguments on this idempotent request are inconsistent",
            );
        }
        if self.lock().machines.get(&launch.machine).is_none_or(|machine| machine.terminated) {
            return Answer::error(
                400,
                "IdempotentInstanceTerminated",
                "The instance of this client token is terminated",
            );
        }
        Answer { status: 200, xml: launch.answer.clone() }
    }

    fn no_room(&self, form: &Form) -> Option<Answer> {
        let state = self.lock();
        if state.over_quota {
            let message = "You have requested more vCPU capacity than your current vCPU limit allows";
            return Some(Answer::error(400, "VcpuLimitExceeded", message));
        }
        let (wanted, subnet) = (form.get("InstanceType"), form.get("SubnetId"));
        let full = |zone: Option<&str>| state.full.contains(&(wanted.to_owned(), zone.map(str::to_owned)));
        (full(None) || full(Some(subnet))).then(|| {
            Answer::error(500, "InsufficientInstanceCapacity", "We currently do not have sufficient capacity")
        })
    }

    fn wrong_state(&self, form: &Form) -> Option<Answer> {
        let action = form.get("Action");
        let wanted = match action {
            "AttachVolume" => vec![form.get("InstanceId")],
            _ => form.list("InstanceId"),
        };
        let state = self.lock();
        let now = self.clock.now();
        wanted.into_iter().find_map(|id| {
            let machine = state.machines.get(id)?;
            let pending = now < machine.running_from;
            let told = format!("The instance '{id}' is not in a state from which it can be changed so");
            if machine.terminated || action == "StopInstances" && pending {
                return Some(Answer::error(400, "IncorrectInstanceState", &told));
            }
            (action == "AttachVolume" && pending).then(|| Answer::error(400, "IncorrectState", &told))
        })
    }

    fn note_effect(&self, form: &Form) {
        if form.get("Action") == "TerminateInstances" {
            let mut state = self.lock();
            for id in form.list("InstanceId") {
                if let Some(machine) = state.machines.get_mut(id) {
                    machine.terminated = true;
                }
            }
        }
    }

    /// Without what is hidden still, and with what is pending still.
    fn as_it_is_shown(&self, xml: &str) -> anyhow::Result<Answer> {
        let state = self.lock();
        let now = self.clock.now();
        if !state.machines.values().any(|machine| now < machine.running_from) {
            return Ok(Answer { status: 200, xml: xml.to_owned() });
        }
        let mut root = Element::parse(xml.as_bytes())?;
        for reservation in items(root.get_mut_child("reservationSet")) {
            let Some(set) = reservation.get_mut_child("instancesSet") else { continue };
            set.children.retain(|node| {
                let id = node.as_element().and_then(|item| item.get_child("instanceId")?.get_text());
                let machine = id.and_then(|id| state.machines.get(id.as_ref()));
                machine.is_none_or(|machine| machine.shown_from <= now)
            });
            for item in items(Some(set)) {
                let id = item.get_child("instanceId").and_then(Element::get_text).unwrap_or_default();
                let running = item
                    .get_child("instanceState")
                    .and_then(|state| state.get_child("name")?.get_text())
                    .is_some_and(|name| name == "running");
                if running
                    && state.machines.get(id.as_ref()).is_some_and(|machine| now < machine.running_from)
                {
                    set_text(item.get_mut_child("instanceState"), &[("code", "0"), ("name", "pending")]);
                    if let Some(disks) = item.get_mut_child("blockDeviceMapping") {
                        disks.children.clear();
                    }
                }
            }
        }
        let mut written = Vec::new();
        root.write(&mut written)?;
        Ok(Answer { status: 200, xml: String::from_utf8(written)? })
    }
}

fn share(dice: &mut Dice) -> f64 {
    f64::from(u16::try_from(dice.below(1001)).unwrap_or(0)) / 1000.0
}

fn items(set: Option<&mut Element>) -> impl Iterator<Item = &mut Element> {
    set.into_iter().flat_map(|set| set.children.iter_mut().filter_map(XMLNode::as_mut_element))
}

fn set_text(element: Option<&mut Element>, texts: &[(&str, &str)]) {
    let Some(element) = element else { return };
    for (name, text) in texts {
        if let Some(child) = element.get_mut_child(*name) {
            child.children = vec![XMLNode::Text((*text).to_owned())];
        }
    }
}

fn text_between<'a>(xml: &'a str, tag: &str) -> &'a str {
    let after = xml.split(&format!("<{tag}>")).nth(1).unwrap_or_default();
    after.split('<').next().unwrap_or_default()
}

fn subnets_of(xml: &str) -> anyhow::Result<Vec<(String, String)>> {
    let mut root = Element::parse(xml.as_bytes())?;
    let text = |item: &Element, name: &str| {
        item.get_child(name).and_then(Element::get_text).unwrap_or_default().into_owned()
    };
    let found = items(root.get_mut_child("subnetSet"));
    Ok(found.map(|item| (text(item, "subnetId"), text(item, "availabilityZone"))).collect())
}
