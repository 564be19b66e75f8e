//! Clients: they wish, wait, lose patience, go away, and ask again under the same key.

use std::sync::Arc;
use std::time::Duration;

use molecule_domain::Timestamp;
use molecule_domain::error::{Error, ErrorCode, ErrorReason, StoredWish};
use molecule_domain::id::{IntentNumber, WorkspaceId};
use molecule_domain::spec::{CONFIG_FILE, PrivateParts, WorkspaceSpec};
use molecule_domain::tier::Tier;
use molecule_tenant::spec_update::SpecUpdate;
use molecule_tenant::workspaces::Create;
use molecule_workspace::record::{RequestKey, WorkspaceRecord};
use molecule_workspace::store::Conditions;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::asked::{Asked, updated};
use crate::oracle::Oracle;
use crate::tenant::{Serving, Tenant};
use crate::wished::MARK;
use crate::world::World;

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // as in the use cases
pub enum Ask {
    Create,
    Stop,
    Start,
    Restart,
    Delete,
    /// A new spec, or private parts: which of their fields, by number.
    Update(u64),
}

/// One request, complete: a repeated one is equal to it.
#[derive(Clone, Debug)]
pub struct Request {
    /// What.
    pub ask: Ask,
    /// Of which workspace.
    pub workspace: WorkspaceId,
    /// Its own number, which is written into what it sets.
    pub number: u64,
    /// Whether it carries a key.
    pub keyed: bool,
    /// Whether it carries the etag that the client saw last.
    pub etag: bool,
    /// How long the client waits before it goes away.
    pub patience: Duration,
    /// How often it asks again where it does not know what became of it.
    pub repeats: u32,
}

/// What a client has heard.
#[derive(Debug)]
pub enum Heard {
    /// It is granted, or goes on.
    Accepted,
    /// Nothing of it is stored.
    Nothing(Error),
    /// Nobody said anything.
    Silence,
}

/// A client of a tenant.
#[derive(Clone, Debug)]
pub struct Client {
    /// The world.
    pub world: Arc<World>,
    /// Who learns of what clients hear.
    pub oracle: Arc<Oracle>,
    /// The tenant.
    pub tenant: Arc<Tenant>,
}

impl Client {
    /// Asks, and asks again where that is its nature.
    pub async fn ask(&self, request: Request) -> Heard {
        self.world.coverage().figure("asked");
        let mut last = Heard::Silence;
        for attempt in 0..=request.repeats {
            if attempt > 0 {
                let pause = self.world.rng().seconds(1, 60);
                tokio::time::sleep(pause).await;
            }
            let Some(serving) = self.find().await else { continue };
            last = self.once(&serving, &request).await;
            self.world.tell("client", 90, || {
                let (ask, workspace) = (request.ask, request.workspace);
                match &last {
                    Heard::Accepted => format!("hears that {ask:?} of {workspace} is accepted"),
                    Heard::Nothing(error) => {
                        format!("hears that {ask:?} of {workspace} is not stored: {error}")
                    }
                    Heard::Silence => format!("hears nothing of {ask:?} of {workspace}"),
                }
            });
            match &last {
                Heard::Silence => {}
                Heard::Nothing(error) if error.code() == ErrorCode::Unavailable => {}
                _ => return last,
            }
        }
        last
    }

    /// The tenant's process, where there is one; waits a little for it.
    async fn find(&self) -> Option<Serving> {
        for _ in 0..4 {
            if let Some(serving) = self.tenant.serving() {
                return Some(serving);
            }
            tokio::time::sleep(Duration::from_secs(20)).await;
        }
        None
    }

    async fn once(&self, serving: &Serving, request: &Request) -> Heard {
        let asked_at = self.world.now();
        let (sender, receiver) = oneshot::channel();
        let gone = CancellationToken::new();
        let still = gone.clone();
        // every other client says how long it waits; the others go away without a word
        let workspaces = if request.number.is_multiple_of(2) {
            serving.workspaces.answering_before(Instant::now() + request.patience)
        } else {
            serving.workspaces.clone()
        };
        let (asked, process) = (request.clone(), Arc::clone(&serving.process));
        serving.process.spawn(async move {
            process.is_let().await;
            let handling = Box::pin(handle(&workspaces, &asked));
            let handled = still.run_until_cancelled(Asked::by(&asked).handled(handling)).await;
            process.is_let().await;
            if let Some(result) = handled {
                let _ = sender.send(result);
            }
        });
        // whoever goes away takes the call with it
        let _gone = gone.drop_guard();
        let Ok(Ok(result)) = tokio::time::timeout(request.patience, receiver).await else {
            return Heard::Silence;
        };
        match result {
            Ok(_) => self.accepted(request, asked_at),
            Err(error) if error.stored == StoredWish::Nothing => {
                let key = request.keyed.then(|| key_of(request));
                let creates = request.ask == Ask::Create;
                self.oracle.heard_nothing_is_stored(request.workspace, creates, key.as_deref(), &error);
                self.world.coverage().figure(match error.code() {
                    _ if error.reason == ErrorReason::ChangeInProgress => "refused beside another update",
                    ErrorCode::ResourceExhausted => "refused for quota",
                    ErrorCode::Aborted => "refused for a stale etag",
                    ErrorCode::FailedPrecondition => "refused for its state",
                    ErrorCode::Unavailable => "refused while away",
                    _ => "refused for another reason",
                });
                Heard::Nothing(error)
            }
            // nobody knows: that promises nothing, and may be asked again under its key
            Err(error) if error.stored == StoredWish::Unknown => {
                self.world.coverage().figure("answered as unknown");
                Heard::Silence
            }
            Err(_) => {
                self.world.coverage().figure("answered as stored and going on");
                self.accepted(request, asked_at)
            }
        }
    }

    fn accepted(&self, request: &Request, asked_at: Timestamp) -> Heard {
        self.oracle.heard_accepted(request.workspace, &Asked::by(request), asked_at);
        Heard::Accepted
    }
}

fn key_of(request: &Request) -> String {
    format!("request {}", request.number)
}

/// A spec with its private parts, as the request of this number makes it.
pub(crate) fn made(number: u64) -> (WorkspaceSpec, PrivateParts) {
    let mark = format!("by request {number}");
    let spec = WorkspaceSpec {
        name: mark.clone(),
        runtime: if number % 5 == 4 { "process" } else { "agent" }.to_owned(),
        tier: Tier::ALL[usize::try_from(number % 3).unwrap_or(0)],
        labels: [("mark".to_owned(), mark.clone())].into(),
        env: [(MARK.to_owned(), mark.clone())].into(),
        ..WorkspaceSpec::default()
    };
    let private = PrivateParts {
        config_files: [(CONFIG_FILE.to_owned(), mark.clone().into_bytes())].into(),
        secrets: [(MARK.to_owned(), mark)].into(),
    };
    (spec, private)
}

/// What the API's handler does.
async fn handle(
    workspaces: &molecule_tenant::Workspaces,
    request: &Request,
) -> Result<WorkspaceRecord, Error> {
    let workspace = request.workspace;
    let fingerprint = format!("{:?} {workspace} {}", request.ask, request.number).into_bytes();
    let key = request.keyed.then(|| RequestKey { id: key_of(request), fingerprint });
    let (spec, private) = made(request.number);
    if request.ask == Ask::Create {
        let create = Create { key, workspace: Some(workspace), spec, private, validate_only: false };
        return workspaces.create(create).await;
    }
    let etag: Option<IntentNumber> = if request.etag {
        // a read that gets no answer says nothing of the change
        let unread = |error: Error| Error { stored: StoredWish::Unknown, ..error };
        let seen = workspaces.get(workspace).await.map_err(unread)?.intent;
        // the client thinks for a moment, and may find that it has seen something old
        tokio::time::sleep(Duration::from_millis(request.number % 7 * 300)).await;
        Some(seen)
    } else {
        None
    };
    let on = Conditions { key, etag };
    match request.ask {
        Ask::Create | Ask::Stop => workspaces.stop(workspace, on).await,
        Ask::Start => workspaces.start(workspace, on).await,
        Ask::Restart => workspaces.restart(workspace, on, request.number.is_multiple_of(2)).await,
        Ask::Delete => workspaces.delete(workspace, on).await,
        Ask::Update(number) => {
            let fields = updated(number).map(|(_, name)| name.to_owned()).collect();
            let update = SpecUpdate { spec, private, fields };
            workspaces.update(workspace, on, update, false).await
        }
    }
}
