//! A workspace that runs, what its provider says of it, and what may wait for the provider.

use molecule_domain::Timestamp;
use molecule_domain::event::{Actor, EventDetail};
use molecule_domain::id::{Generation, IncarnationId, IntentNumber, OrganizationId, Revision, WorkspaceId};
use molecule_domain::instance::{Endpoint, InstanceView};
use molecule_domain::lifecycle::{AgentHealth, Desired, Phase, Readiness, Reason};
use molecule_domain::spec::WorkspaceSpec;
use molecule_domain::tier::Tier;
use molecule_workspace::aggregate::{SealedToken, SideEffects};
use molecule_workspace::agreement::{KnownAgents, Meetings, Minter, Terms, Verdict};
use molecule_workspace::private::SealedParts;
use molecule_workspace::record::{AgentRecord, Pending, RequestKey};
use molecule_workspace::undo::Undo;
use molecule_workspace::{Entry, Wish, Workspace, WorkspaceRecord};

/// The moment at which what is tested happens.
pub(crate) const NOW: Timestamp = second(100);

pub(crate) const fn second(second: i64) -> Timestamp {
    Timestamp::from_micros(second * 1_000_000)
}

pub(crate) fn workspace_id(number: u8) -> WorkspaceId {
    format!("00000000-0000-7000-8000-0000000000{number:02x}").parse().unwrap()
}

pub(crate) fn start_id(number: u8) -> IncarnationId {
    format!("00000000-0000-7000-8000-0000000001{number:02x}").parse().unwrap()
}

/// The start of the tenant that speaks.
pub(crate) fn own() -> IncarnationId {
    start_id(1)
}

pub(crate) fn spec() -> WorkspaceSpec {
    WorkspaceSpec {
        name: "cook".to_owned(),
        runtime: "demo".to_owned(),
        tier: Tier::T2,
        role: "cooks".to_owned(),
        ..WorkspaceSpec::default()
    }
}

pub(crate) fn endpoint() -> Endpoint {
    Endpoint { host: "10.0.0.2".to_owned(), port: 8000 }
}

pub(crate) fn agent() -> AgentRecord {
    AgentRecord {
        generation: Generation(2),
        health: AgentHealth::Healthy,
        last_seen: Some(second(20)),
        error_rate: 0.25,
        sample_error: "a burnt cake".to_owned(),
        active_tasks: 1,
        current_task: "baking".to_owned(),
        uptime_seconds: 7,
        card: Some("{}".to_owned()),
    }
}

/// One whose second generation is up since second 10, and whose third wish was the last and is granted.
pub(crate) fn record() -> WorkspaceRecord {
    WorkspaceRecord {
        workspace: workspace_id(1),
        organization: OrganizationId::SELF_HOSTED,
        spec: spec(),
        readiness: Readiness::Agent,
        intent: IntentNumber(3),
        answered: IntentNumber(3),
        generation: Generation(2),
        highest: Generation(2),
        desired: Desired::Running,
        phase: Phase::Up,
        phase_since: second(10),
        reason: None,
        message: "up".to_owned(),
        wanted_is_unknown: false,
        in_unknown_state: false,
        instance_generation: Generation(2),
        instance_revision: Revision(50),
        endpoint: Some(endpoint()),
        agent: agent(),
        recovered: None,
        told_again: None,
        refused: false,
        pending: None,
        trace: "of wish 3".to_owned(),
        created_at: second(1),
        updated_at: second(15),
        deleted_at: None,
        revision: Revision(40),
    }
}

/// The same with nothing that waits.
pub(crate) fn idle() -> Workspace {
    with(record())
}

/// Config files and secrets of which both say the same.
pub(crate) fn sealed(text: &str) -> SealedParts {
    SealedParts { config_files: text.as_bytes().to_vec(), secrets: text.as_bytes().to_vec() }
}

pub(crate) fn with(record: WorkspaceRecord) -> Workspace {
    Workspace { record, private: sealed("private"), outbox: Vec::new() }
}

/// A record that is gone.
pub(crate) fn gone() -> WorkspaceRecord {
    WorkspaceRecord {
        desired: Desired::Deleted,
        phase: Phase::Gone,
        phase_since: second(30),
        message: "deleted".to_owned(),
        endpoint: None,
        deleted_at: Some(second(30)),
        ..record()
    }
}

/// A wish that waits since the second that has its number, and that found the workspace as it is in [`record`].
pub(crate) fn entry(number: i64, wish: Wish) -> Entry {
    Entry {
        number: IntentNumber(number),
        generation: Generation(2),
        spec: spec(),
        sealed_token: if wish.launches() { b"sealed before".to_vec() } else { Vec::new() },
        wish,
        group: None,
        asked_at: second(number),
        asked_in: own(),
        trace: format!("of wish {number}"),
        requests: vec![format!("request {number}")],
        undo: Undo {
            spec: spec(),
            readiness: Readiness::Agent,
            desired: Desired::Running,
            generation: Generation(2),
            private: None,
            stops: Vec::new(),
            stop_requests: Vec::new(),
        },
        retold: false,
        begun: false,
    }
}

/// A replacement that waits, and brings this generation.
pub(crate) fn replacement(number: i64, generation: u32) -> Entry {
    Entry {
        generation: Generation(generation),
        ..entry(number, Wish::Replace { run: true, reset_session: false })
    }
}

pub(crate) fn caused() -> Wish {
    Wish::Stop(Some((Reason::AgentNotConnected, "it did not connect".to_owned())))
}

pub(crate) fn pending(second_asked: i64, cause: &str) -> Pending {
    Pending { since: second(second_asked), cause: cause.to_owned() }
}

/// A record that went right now, for what its message says.
pub(crate) fn went(before: WorkspaceRecord, message: &str) -> WorkspaceRecord {
    WorkspaceRecord {
        desired: Desired::Deleted,
        phase: Phase::Gone,
        phase_since: NOW,
        message: message.to_owned(),
        endpoint: None,
        pending: None,
        deleted_at: Some(NOW),
        ..before
    }
}

/// A workspace of which these wishes wait.
pub(crate) fn waiting(outbox: Vec<Entry>) -> Workspace {
    let mut found = idle();
    for entry in &outbox {
        found.record.generation = found.record.generation.max(entry.generation);
        found.record.intent = entry.number;
        found.record.desired = entry.wish.desired();
        found.record.trace.clone_from(&entry.trace);
    }
    found.record.highest = found.record.generation;
    found.record.pending = outbox.first().map(|first| pending(first.asked_at.micros() / 1_000_000, ""));
    Workspace { outbox, ..found }
}

/// What the provider says of [`record`], as news.
pub(crate) fn view() -> InstanceView {
    InstanceView {
        workspace: workspace_id(1),
        organization: OrganizationId::SELF_HOSTED,
        desired: Some(Desired::Running),
        intent: IntentNumber(3),
        generation: Generation(2),
        wanted_generation: Generation(2),
        runtime: "demo".to_owned(),
        tier: Tier::T2,
        phase: Phase::Up,
        phase_since: second(10),
        reason: None,
        message: "up".to_owned(),
        endpoint: Some(endpoint()),
        launched: true,
        in_unknown_state: false,
        revision: Revision(51),
    }
}

pub(crate) fn event(kind: &'static str, generation: u32, message: &str) -> EventDetail {
    EventDetail {
        kind: kind.into(),
        actor: Actor::Engine,
        generation: Generation(generation),
        reason: None,
        message: message.to_owned(),
        exit_code: None,
        log_tail: String::new(),
    }
}

pub(crate) fn key(id: &str) -> RequestKey {
    RequestKey { id: id.to_owned(), fingerprint: b"fingerprint".to_vec() }
}

pub(crate) fn token() -> SealedToken {
    SealedToken { sealed: b"sealed".to_vec(), hash: b"hash".to_vec() }
}

/// Mints tokens that tell what they are for.
pub(crate) struct Mint;

impl Minter for Mint {
    fn mint(&self, _: WorkspaceId, generation: Generation) -> SealedToken {
        let (sealed, hash) = minted(generation.0);
        SealedToken { sealed, hash }
    }

    fn no_private_parts(&self, _: WorkspaceId) -> SealedParts {
        sealed("no parts")
    }
}

pub(crate) fn minted(generation: u32) -> (Vec<u8>, Vec<u8>) {
    (format!("sealed for {generation}").into_bytes(), format!("hash for {generation}").into_bytes())
}

/// The database knows all of its agents.
pub(crate) const KNOWN: KnownAgents = KnownAgents { running: true, wanted: true };

/// Terms under which this start has told nothing yet; `set_back` is whether the tenant's database was.
pub(crate) fn terms(meetings: &Meetings, set_back: bool) -> Terms<'_> {
    Terms { meetings, revision: Revision(40), seen: &[], set_back, own: own(), minter: &Mint }
}

/// Agrees about a workspace, of whose wishes any may have been told.
pub(crate) fn agree(
    found: &mut Workspace,
    instance: Option<&InstanceView>,
    agents: KnownAgents,
    set_back: bool,
) -> (Verdict, SideEffects) {
    found.agree(instance, agents, &terms(&Meetings::default(), set_back), NOW)
}
