//! What one step makes of each answer of the provider's: the whole record, what is told, and the moment of the next step.

mod ends;
mod launches;
mod starts;

use std::sync::Arc;
use std::time::Duration;

use molecule_domain::clock::{Clock, Timestamp};
use molecule_domain::id::{AttemptNumber, Generation, LaunchSeq, LeaseOwner, WorkspaceId};
use molecule_domain::lifecycle::{Phase, Reason};
use molecule_provisioner::backend::{CallError, PostMortem, Prepared, Refusal};
use molecule_provisioner::model::{Actor, Attempt, AttemptState, EventDetail, InstanceRecord};
use molecule_provisioner::store::{Room, Store};

use crate::answers::Answers;
use crate::world::{ORG, Op, World};

const SECOND: Duration = Duration::from_secs(1);

/// One workspace, its provider, and the engine, which takes a step at a time.
struct Stage {
    world: World,
    answers: Arc<Answers>,
    workspace: WorkspaceId,
}

impl Stage {
    async fn admitted() -> Self {
        let mut world = World::new();
        let answers = Arc::new(Answers::of(Arc::clone(&world.executor.backend)));
        world.executor.backend = Arc::clone(&answers) as _;
        let workspace = WorkspaceId::generate();
        world.ask(workspace, Op::Create).await;
        Self { world, answers, workspace }
    }

    async fn up() -> Self {
        let stage = Self::admitted().await;
        stage.step().await;
        assert_eq!(stage.step().await.after.phase, Phase::Up);
        stage
    }

    /// It was stopped, and is to run again.
    async fn to_start() -> Self {
        let mut stage = Self::up().await;
        stage.ask(Op::Stop).await;
        stage.step().await;
        assert_eq!(stage.step().await.after.phase, Phase::Stopped);
        stage.ask(Op::Start).await;
        stage
    }

    async fn ask(&mut self, op: Op) {
        self.world.ask(self.workspace, op).await;
    }

    fn prepares(&self, prepared: Prepared) {
        self.answers.next.lock().unwrap().prepared = Some(prepared);
    }

    fn fails(&self, error: CallError) {
        self.answers.next.lock().unwrap().error = Some(error);
    }

    fn tells(&self, told: PostMortem) {
        self.answers.next.lock().unwrap().told = Some(told);
    }

    /// The next step, a second later.
    async fn step(&self) -> Step {
        self.world.clock.advance(SECOND);
        self.step_now().await
    }

    async fn step_now(&self) -> Step {
        let World { store, executor, clock, .. } = &self.world;
        let (now, owner, lease) = (clock.now(), LeaseOwner::generate(), executor.policy.lease);
        store.wake(&[self.workspace], now).await.unwrap();
        let claimed = store.claim("memory", owner, now, lease, Room::of_each(1)).await.unwrap().remove(0);
        let snapshot = executor.look_at(&[claimed.record.instance()]).await;
        let told = store.events_after(ORG, 0, 100).await.unwrap().len();
        executor.work(&claimed, &snapshot).await;
        let mut events = store.events_after(ORG, 0, 100).await.unwrap().split_off(told);
        let event = events.pop().map(|event| event.detail);
        assert!(events.is_empty(), "one step tells of one thing: {events:?}");
        let after = self.world.record(self.workspace).await.unwrap();
        Step { before: claimed.record, after, event, now }
    }

    /// So long after a moment the next step comes after so many failures.
    fn backoff(&self, failures: u32) -> Duration {
        self.world.executor.policy.backoff(failures, self.workspace.as_uuid().as_u64_pair().1)
    }
}

/// What a step made of a record.
struct Step {
    before: InstanceRecord,
    after: InstanceRecord,
    event: Option<EventDetail>,
    now: Timestamp,
}

impl Step {
    /// Nothing of the record is otherwise, but for its revision, which is the store's.
    fn is(&self, expected: InstanceRecord, event: Option<EventDetail>) {
        let expected = InstanceRecord { revision: self.after.revision, ..expected };
        assert_eq!((self.after.clone(), self.event.clone()), (expected, event));
    }

    /// The first attempt, which was called in this step.
    fn attempt(&self, state: AttemptState, call_until: Timestamp) -> Attempt {
        let (workspace, generation) = (self.before.workspace, self.before.generation);
        let seq = LaunchSeq(self.now.micros());
        Attempt {
            number: AttemptNumber(1),
            seq,
            token: Attempt::token_of(workspace, generation, seq),
            placement: String::new(),
            state,
            call_until,
            unsure_until: self.now,
            created_at: self.now,
        }
    }

    /// The last attempt, of which this is known now.
    fn known(&self, state: AttemptState) -> Option<Attempt> {
        self.before.attempt.clone().map(|attempt| Attempt { state, ..attempt })
    }
}

fn event(kind: &'static str, reason: Option<Reason>, message: &str) -> EventDetail {
    EventDetail {
        kind: kind.into(),
        actor: Actor::Engine,
        generation: Generation(1),
        reason,
        message: message.to_owned(),
        exit_code: None,
        log_tail: String::new(),
    }
}

#[test]
fn an_executor_shows_its_policy() {
    let World { executor, .. } = World::new();
    assert_eq!(format!("{executor:?}"), format!("Executor {{ policy: {:?}, .. }}", executor.policy));
}

fn no_room() -> Refusal {
    Refusal { reason: Reason::NoCapacity, message: "all is taken".to_owned() }
}

fn refusal() -> Refusal {
    Refusal { reason: Reason::LaunchRefused, message: "not like this".to_owned() }
}

fn unknown() -> CallError {
    CallError::Unknown("no answer".to_owned())
}
