//! The suite that every store passes: what is asked for is kept until the provider has answered it, what it refuses is
//! taken back, and watchers hear of both.

mod agents;
mod agreement;
mod refusals;
mod requests;
mod wishes;

use std::sync::Arc;

use molecule_domain::Timestamp;
use molecule_domain::error::ErrorReason;
use molecule_domain::id::{Generation, IncarnationId, IntentNumber, OrganizationId, Revision, WorkspaceId};
use molecule_domain::incarnation::Standpoint;
use molecule_domain::instance::InstanceView;
use molecule_domain::lifecycle::{Phase, Readiness};
use molecule_domain::spec::WorkspaceSpec;

use molecule_workspace::aggregate::{Answer, Change, NewWorkspace, Refusal, SealedToken};
use molecule_workspace::agreement::{Agreed, Met, Minter};
use molecule_workspace::private::SealedParts;
use molecule_workspace::record::{RequestKey, WorkspaceRecord};
use molecule_workspace::store::{Conditions, Redeemed, Redemption, StoreError, Stored, TenantStore};
use molecule_workspace::wish::{Entry, Wish};

const ORG: OrganizationId = OrganizationId::SELF_HOSTED;

/// Some second of a test's.
pub fn at(second: i64) -> Timestamp {
    Timestamp::from_micros(second * 1_000_000)
}

/// A workspace to be created; its token's hash is `hash 1` and the workspace's id.
pub fn new_workspace(workspace: WorkspaceId) -> NewWorkspace {
    NewWorkspace {
        workspace,
        organization: ORG,
        spec: spec("first"),
        readiness: Readiness::Agent,
        private: sealed("private first"),
        token: token(workspace, 1),
        trace: String::new(),
    }
}

/// Config files and secrets of which both say the same.
fn sealed(text: &str) -> SealedParts {
    SealedParts { config_files: text.as_bytes().to_vec(), secrets: text.as_bytes().to_vec() }
}

fn spec(name: &str) -> WorkspaceSpec {
    WorkspaceSpec { name: name.to_owned(), ..WorkspaceSpec::default() }
}

fn token(workspace: WorkspaceId, generation: u32) -> SealedToken {
    SealedToken {
        sealed: format!("sealed {generation}").into_bytes(),
        hash: format!("hash {generation} {workspace}").into_bytes(),
    }
}

/// What the provider says of an instance.
pub fn instance(record: &WorkspaceRecord, intent: IntentNumber, phase: Phase, revision: i64) -> InstanceView {
    InstanceView {
        workspace: record.workspace,
        organization: record.organization,
        desired: Some(record.desired),
        intent,
        generation: record.generation,
        wanted_generation: record.generation,
        runtime: record.spec.runtime.clone(),
        tier: record.spec.tier,
        phase,
        phase_since: at(revision),
        reason: None,
        message: phase.to_string(),
        endpoint: None,
        launched: phase != Phase::Admitted,
        in_unknown_state: false,
        revision: Revision(revision),
    }
}

fn key(id: &str) -> Conditions {
    Conditions { key: Some(RequestKey { id: id.to_owned(), fingerprint: b"f".to_vec() }), etag: None }
}

fn refused() -> Answer {
    let error = Refusal { reason: ErrorReason::QuotaExceeded, message: "too many".to_owned() };
    Answer::Refused(error)
}

/// Makes tokens and sealed parts that tests can read.
#[derive(Debug)]
pub struct PlainMinter;

impl Minter for PlainMinter {
    fn mint(&self, workspace: WorkspaceId, generation: Generation) -> SealedToken {
        let hash = format!("again {generation} {workspace}").into_bytes();
        SealedToken { sealed: format!("sealed again {generation}").into_bytes(), hash }
    }

    fn no_private_parts(&self, _workspace: WorkspaceId) -> SealedParts {
        sealed("nothing private")
    }
}

/// A store under test, with short ways to ask.
struct Subject(Arc<dyn TenantStore>);

impl Subject {
    async fn created(&self) -> WorkspaceRecord {
        let new = new_workspace(WorkspaceId::generate());
        self.0.create(&new, None, at(1)).await.unwrap().record
    }

    /// A workspace that is up, and of which the provider knows all.
    async fn up(&self) -> WorkspaceRecord {
        let created = self.created().await;
        self.0.begin_call(created.workspace).await.unwrap();
        let answer = Answer::Granted(instance(&created, IntentNumber(1), Phase::Up, 2));
        self.0.answered(created.workspace, IntentNumber(1), &answer, at(2)).await.unwrap().unwrap()
    }

    /// Meets a provider that has these instances. `lost` says whether the provider has seen a start of this tenant that
    /// the store doesn't hold.
    async fn meets(&self, has: &[InstanceView], lost: bool) -> Agreed {
        let provider = Standpoint { incarnation: IncarnationId::generate(), revision: Revision(1) };
        let other = Standpoint { incarnation: IncarnationId::generate(), revision: Revision(1) };
        let seen = if lost { vec![other] } else { Vec::new() };
        let met = Met { provider, seen, agreed: true };
        self.0.agree(ORG, &met, has, &PlainMinter, at(50)).await.unwrap()
    }

    async fn asks(&self, workspace: WorkspaceId, wish: Wish) -> Stored {
        self.asks_on(workspace, &Conditions::default(), wish).await.unwrap()
    }

    async fn asks_on(
        &self,
        workspace: WorkspaceId,
        on: &Conditions,
        wish: Wish,
    ) -> Result<Stored, StoreError> {
        let decide = move |found: &molecule_workspace::Workspace| {
            found.refuse_deleting()?;
            let generation = found.next_generation();
            let replaces = matches!(wish, Wish::Replace { .. });
            let named = format!("generation {generation}");
            Ok(Change {
                token: wish.launches().then(|| token(workspace, generation.0)),
                spec: replaces.then(|| (spec(&named), Readiness::Process)),
                private: replaces.then(|| sealed(&format!("private {generation}"))),
                wish: Some(wish),
                trace: String::new(),
            })
        };
        self.0.change(ORG, workspace, on, at(3), Box::new(decide)).await
    }

    /// Asks for a replacement that sets some of the private parts; its number.
    async fn sets(&self, workspace: WorkspaceId, set: fn(&mut SealedParts)) -> IntentNumber {
        let decide = move |found: &molecule_workspace::Workspace| {
            let mut private = found.private.clone();
            set(&mut private);
            let token = Some(token(workspace, found.next_generation().0));
            Ok(Change { wish: Some(RESTART), private: Some(private), token, ..Change::default() })
        };
        let on = Conditions::default();
        self.0.change(ORG, workspace, &on, at(3), Box::new(decide)).await.unwrap().number.unwrap()
    }

    async fn labels(&self, workspace: WorkspaceId) -> WorkspaceRecord {
        let decide = |found: &molecule_workspace::Workspace| {
            let mut spec = found.record.spec.clone();
            spec.labels.insert("team".to_owned(), "blue".to_owned());
            Ok(Change { spec: Some((spec, found.record.readiness)), ..Change::default() })
        };
        let on = Conditions::default();
        self.0.change(ORG, workspace, &on, at(3), Box::new(decide)).await.unwrap().record
    }

    async fn begins(&self, workspace: WorkspaceId) -> Option<Entry> {
        self.0.begin_call(workspace).await.unwrap().map(|(_, entry)| entry)
    }

    async fn outbox(&self, workspace: WorkspaceId) -> Vec<Wish> {
        let found = self.0.load(ORG, workspace).await.unwrap().unwrap();
        found.outbox.into_iter().map(|entry| entry.wish).collect()
    }

    async fn knows_token(&self, workspace: WorkspaceId, generation: u32) -> bool {
        let redemption = Redemption { token_hash: token(workspace, generation).hash, nonce: "n".to_owned() };
        let hash = move |_, _| format!("credential {generation} {workspace}").into_bytes();
        self.0.redeem(&redemption, Box::new(hash)).await.unwrap() != Redeemed::Unknown
    }
}

const RESTART: Wish = Wish::Replace { run: true, reset_session: false };

/// Runs the suite; `make` makes an empty store.
pub async fn run<F>(make: impl Fn() -> F)
where
    F: Future<Output = Arc<dyn TenantStore>>,
{
    let store = async || Subject(make().await);
    wishes::run(&store).await;
    refusals::run(&store).await;
    requests::run(&store).await;
    agents::run(&store).await;
    agreement::run(store).await;
}
