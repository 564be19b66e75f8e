//! Stories that must end well, told step by step without chance. Each says what it showed at the revision before the
//! outbox, in which a tenant kept one wish per workspace and overwrote it.

use std::sync::Arc;
use std::time::Duration;

use molecule_domain::error::{Error, ErrorReason, StoredWish};
use molecule_domain::id::{Generation, Revision, WorkspaceId};
use molecule_domain::lifecycle::{AgentHealth, Desired, Phase, Reason, WorkspaceState};
use molecule_domain::limits::{Limits, Standing};
use molecule_provisioner::admission::{Account, Change, ChangeRequest};
use molecule_provisioner::model::InstanceRecord;
use molecule_provisioner::store::Store;
use molecule_sim::client::{Ask, Heard, Request};
use molecule_sim::cloud::Flavour;
use molecule_sim::faults::{Armed, Fault};
use molecule_sim::life::in_a_world;
use molecule_sim::pair::{Pair, Shape};
use molecule_sim::weather::Weather;
use molecule_sim::world::World;
use molecule_workspace::record::WorkspaceRecord;
use molecule_workspace::store::TenantStore;

/// A pair under a clear sky.
struct Story {
    pair: Pair,
    requests: u64,
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The first workspace of a story.
const W: WorkspaceId = Pair::workspace(1);

impl Story {
    /// Begins at the very start of all processes.
    async fn begin_at_once(shape: Shape) -> Self {
        Self::begin_under(1, shape).await
    }

    /// Begins under a seed, which says how long what is delayed takes.
    async fn begin_under(seed: u64, shape: Shape) -> Self {
        let world = Arc::new(World::new(seed, true, true));
        Self { pair: Pair::start(world, &shape).await, requests: 0 }
    }

    async fn begin(shape: Shape) -> Self {
        let story = Self::begin_at_once(shape).await;
        tokio::time::sleep(seconds(5)).await;
        story
    }

    /// Begins with a workspace that runs.
    async fn with_one_that_runs(shape: Shape) -> Self {
        let mut story = Self::begin(shape).await;
        story.accepted(Ask::Create).await;
        tokio::time::sleep(seconds(120)).await;
        assert_eq!(story.tenant(W).await.unwrap().state(), WorkspaceState::Running, "{}", story.words());
        story
    }

    fn words(&self) -> String {
        self.pair.world.story().words().to_owned()
    }

    fn request(&mut self, ask: Ask, workspace: WorkspaceId) -> Request {
        self.requests += 1;
        let number = self.requests;
        Request { ask, workspace, number, keyed: true, etag: false, patience: seconds(60), repeats: 0 }
    }

    async fn ask(&mut self, ask: Ask) -> Heard {
        let request = self.request(ask, W);
        self.pair.client(0).ask(request).await
    }

    async fn accepted(&mut self, ask: Ask) {
        let heard = self.ask(ask).await;
        assert!(matches!(heard, Heard::Accepted), "{ask:?}: {heard:?}\n{}", self.words());
    }

    /// Asks, and does not wait.
    fn ask_beside(&mut self, ask: Ask) -> tokio::task::JoinHandle<Heard> {
        let (client, request) = (self.pair.client(0), self.request(ask, W));
        tokio::spawn(async move { client.ask(request).await })
    }

    fn freeze(&self, lasts: Duration) {
        for place in 0..self.pair.control.places() {
            self.pair.control.replica(place).process.freeze(lasts);
        }
    }

    fn arm(&self, step: &'static str, fault: Fault) {
        self.pair.world.arm(Armed { step, skip: 0, fault });
    }

    async fn tenant(&self, workspace: WorkspaceId) -> Option<WorkspaceRecord> {
        let tenant = &self.pair.tenants[0];
        tenant.database().get(tenant.organization, workspace).await.unwrap()
    }

    async fn engine(&self, workspace: WorkspaceId) -> Option<InstanceRecord> {
        let organization = self.pair.tenants[0].organization;
        self.pair.control.database().get(organization, workspace).await.unwrap()
    }

    /// Lets half an hour pass, then everything must be as it was wished.
    async fn ends_well(self) -> Self {
        tokio::time::sleep(seconds(1800)).await;
        self.pair.check().await;
        let violations = self.pair.world.violations();
        assert!(violations.is_empty(), "{violations:#?}\n{}", self.words());
        self
    }

    async fn set_account(&self, change: impl FnOnce(Account) -> Account) {
        let (database, organization) = (self.pair.control.database(), self.pair.tenants[0].organization);
        let account = database.account(organization, self.pair.world.now()).await.unwrap();
        database.set_account(organization, change(account)).await.unwrap();
    }
}

fn goes_on(error: &Error) -> bool {
    matches!(error.stored, StoredWish::GoesOn(_))
}

/// Before: the tenant wanted generation 4 and the control plane had 3; STOPPING for good, and every later restart was
/// refused.
#[test]
fn a_restart_that_nobody_heard_is_followed_by_a_stop() {
    in_a_world(async {
        let mut story = Story::with_one_that_runs(Shape::small()).await;
        story.freeze(seconds(90));
        story.accepted(Ask::Restart).await;
        story.accepted(Ask::Stop).await;
        tokio::time::sleep(seconds(300)).await;
        let (tenant, engine) = (story.tenant(W).await.unwrap(), story.engine(W).await.unwrap());
        assert_eq!(tenant.state(), WorkspaceState::Stopped, "{}", story.words());
        assert_eq!(tenant.generation, engine.wanted_generation);
        story.accepted(Ask::Restart).await;
        let story = story.ends_well().await;
        assert_eq!(story.tenant(W).await.unwrap().state(), WorkspaceState::Running);
    });
}

/// What is asked for at once is told by many calls beside each other, and by no more than so many.
#[test]
fn sixteen_calls_are_out_at_a_time() {
    in_a_world(async {
        let mut story = Story::begin(Shape::small()).await;
        let asked = (1..=40).map(|number| {
            let (client, request) =
                (story.pair.client(0), story.request(Ask::Create, Pair::workspace(number)));
            tokio::spawn(async move { client.ask(request).await })
        });
        for heard in asked.collect::<Vec<_>>() {
            let heard = heard.await.unwrap();
            assert!(matches!(heard, Heard::Accepted), "{heard:?}");
        }
        let story = story.ends_well().await;
        assert_eq!(story.pair.oracle.most_under_way(), 16);
        assert_eq!(story.pair.cloud.machines().iter().filter(|one| one.is_running()).count(), 40);
    });
}

/// Before: PROVISIONING for ever, and each delete was answered `NOT_FOUND`.
#[test]
fn a_create_that_nobody_heard_is_followed_by_a_delete() {
    in_a_world(async {
        let mut story = Story::begin(Shape::small()).await;
        story.freeze(seconds(90));
        story.accepted(Ask::Create).await;
        story.accepted(Ask::Delete).await;
        let story = story.ends_well().await;
        assert_eq!(story.tenant(W).await.unwrap().phase, Phase::Gone);
        assert!(story.pair.cloud.machines().is_empty());
    });
}

#[test]
fn what_is_asked_before_the_two_have_agreed_waits_for_that() {
    in_a_world(async {
        let mut story = Story::begin_at_once(Shape::small()).await;
        story.accepted(Ask::Create).await;
        // and not for ever: nobody answers
        let tenant = Arc::clone(&story.pair.tenants[0]);
        tenant.last_process().unwrap().kill();
        tenant.network.cut(seconds(600));
        while tenant.serving().is_none() {
            tokio::time::sleep(seconds(1)).await;
        }
        let heard = story.ask(Ask::Restart).await;
        assert!(
            matches!(&heard, Heard::Nothing(error) if error.reason == ErrorReason::ControlPlaneUnavailable),
            "{heard:?}"
        );
        let story = story.ends_well().await;
        assert_eq!(story.tenant(W).await.unwrap().state(), WorkspaceState::Running, "{}", story.words());
    });
}

/// A1. Before: the second of two restarts overwrote the first, was refused, and was taken back to a generation that the
/// control plane never had.
#[test]
fn a1_restarts_while_the_control_plane_is_slow_follow_each_other() {
    in_a_world(async {
        let mut story = Story::with_one_that_runs(Shape::small()).await;
        story.arm("call.replace", Fault::RequestLost);
        let first = story.ask_beside(Ask::Restart);
        tokio::time::sleep(seconds(2)).await;
        let second = story.ask_beside(Ask::Restart);
        tokio::time::sleep(seconds(1)).await;
        let stop = story.ask_beside(Ask::Stop);
        for heard in [first, second, stop] {
            assert!(matches!(heard.await.unwrap(), Heard::Accepted), "{}", story.words());
        }
        let story = story.ends_well().await;
        let (tenant, engine) = (story.tenant(W).await.unwrap(), story.engine(W).await.unwrap());
        assert_eq!(tenant.state(), WorkspaceState::Stopped);
        assert_eq!((tenant.generation, engine.generation), (Generation(3), Generation(3)));
    });
}

/// A2. Before: a delete that overtook its create was answered `NOT_FOUND`, which withdrew it; the instance launched and
/// stayed.
#[test]
fn a2_a_delete_that_comes_while_its_create_is_on_the_way_wins() {
    in_a_world(async {
        let mut story = Story::begin(Shape::small()).await;
        story.arm("call.provision", Fault::Reordered);
        let create = story.ask_beside(Ask::Create);
        tokio::time::sleep(Duration::from_millis(100)).await;
        let delete = story.ask_beside(Ask::Delete);
        assert!(matches!(create.await.unwrap(), Heard::Accepted), "{}", story.words());
        assert!(matches!(delete.await.unwrap(), Heard::Accepted), "{}", story.words());
        let story = story.ends_well().await;
        assert_eq!(story.engine(W).await.unwrap().phase, Phase::Gone, "{}", story.words());
        assert_eq!(story.tenant(W).await.unwrap().phase, Phase::Gone);
    });
}

/// A3. Before: the replacement was told again under the label's number, refused, and withdrawn with the credential of
/// the generation that ran.
#[test]
fn a3_a_label_changes_while_a_restart_is_being_told() {
    in_a_world(async {
        let mut story = Story::with_one_that_runs(Shape::small()).await;
        story.arm("call.replace", Fault::AnswerLost);
        let restart = story.ask_beside(Ask::Restart);
        tokio::time::sleep(seconds(1)).await;
        // the fourth field is the labels
        story.accepted(Ask::Update(3)).await;
        assert!(matches!(restart.await.unwrap(), Heard::Accepted), "{}", story.words());
        let story = story.ends_well().await;
        let tenant = story.tenant(W).await.unwrap();
        assert_eq!((tenant.state(), tenant.generation), (WorkspaceState::Running, Generation(2)));
        assert!(tenant.spec.labels["mark"].contains("request 3"), "{:?}", tenant.spec.labels);
    });
}

/// A4. Before: a stop that met a refusal was withdrawn, and the workspace ran on.
#[test]
fn a4_a_stop_and_a_delete_stand_whatever_the_control_plane_says() {
    in_a_world(async {
        let mut story = Story::with_one_that_runs(Shape::small()).await;
        story.arm("call.stop", Fault::Denied);
        story.arm("call.delete", Fault::Denied);
        story.set_account(|account| Account { standing: Standing::Suspended, ..account }).await;
        story.accepted(Ask::Stop).await;
        tokio::time::sleep(seconds(120)).await;
        assert_eq!(story.tenant(W).await.unwrap().state(), WorkspaceState::Stopped, "{}", story.words());
        story.accepted(Ask::Delete).await;
        let story = story.ends_well().await;
        assert_eq!(story.tenant(W).await.unwrap().phase, Phase::Gone);
    });
}

/// The same where the control plane's answer is a refusal that takes other wishes back.
#[test]
fn a_stop_and_a_delete_stand_though_they_are_refused() {
    in_a_world(async {
        let mut story = Story::with_one_that_runs(Shape::small()).await;
        story.arm("call.stop", Fault::Refused);
        story.accepted(Ask::Stop).await;
        tokio::time::sleep(seconds(120)).await;
        assert_eq!(story.tenant(W).await.unwrap().state(), WorkspaceState::Stopped, "{}", story.words());
        story.arm("call.start", Fault::Refused);
        let heard = story.ask(Ask::Start).await;
        assert!(matches!(&heard, Heard::Nothing(error) if !goes_on(error)), "{heard:?}");
        story.arm("call.delete", Fault::Refused);
        story.accepted(Ask::Delete).await;
        let story = story.ends_well().await;
        assert_eq!(story.tenant(W).await.unwrap().phase, Phase::Gone);
    });
}

/// A5. Before: the backlog told a create again beside the call that told it; one was refused and forgotten, the other
/// admitted: an instance that nobody knew.
#[test]
fn a5_one_telling_of_a_workspace_is_out_at_a_time() {
    in_a_world(async {
        let mut story = Story::begin(Shape { cap: Some(0), ..Shape::small() }).await;
        // the call takes its time
        story.arm("call.provision", Fault::Reordered);
        let create = story.ask_beside(Ask::Create);
        tokio::time::sleep(Duration::from_millis(10)).await;
        // the stream comes back, which hastens the backlog, just as the call is under way
        story.pair.tenants[0].serving().unwrap().workspaces.outbox.retry_soon();
        let heard = create.await.unwrap();
        assert!(
            matches!(&heard, Heard::Nothing(error) if error.reason == ErrorReason::QuotaExceeded),
            "{heard:?}"
        );
        let raised = Limits { running_workspaces: Some(1), workspaces: Some(4), ..Limits::default() };
        story.set_account(|account| Account { limits: raised, ..account }).await;
        let story = story.ends_well().await;
        assert!(story.engine(W).await.is_none(), "{}", story.words());
        assert!(story.pair.cloud.machines().is_empty());
    });
}

/// A6. Before: a create that was refused vanished from the list, and stayed with everybody who watched.
#[test]
fn a6_who_watches_sees_a_refused_create_go() {
    in_a_world(async {
        let mut story = Story::begin(Shape { cap: Some(0), ..Shape::small() }).await;
        let heard = story.ask(Ask::Create).await;
        assert!(matches!(&heard, Heard::Nothing(error) if !goes_on(error)), "{heard:?}");
        let tenant = Arc::clone(&story.pair.tenants[0]);
        let changes = tenant.database().changes_after(tenant.organization, Revision(0), 100).await.unwrap();
        let last = changes.iter().rfind(|change| change.workspace == W).expect("a watcher saw it come");
        assert_eq!(last.phase, Phase::Gone, "and sees it go");
        story.ends_well().await;
    });
}

/// A7. Before: a record that was on its way when a wish was granted set what is wanted back.
#[test]
fn a7_an_older_record_does_not_undo_a_newer_wish() {
    in_a_world(async {
        let mut story = Story::with_one_that_runs(Shape::small()).await;
        // the stream lags by minutes: what it tells of the start is old when it comes
        story.accepted(Ask::Stop).await;
        tokio::time::sleep(seconds(60)).await;
        story.arm("stream.batch", Fault::AnswerLate);
        story.accepted(Ask::Start).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        story.accepted(Ask::Stop).await;
        for _ in 0..400 {
            assert_eq!(story.tenant(W).await.unwrap().desired, Desired::Stopped, "{}", story.words());
            tokio::time::sleep(seconds(1)).await;
        }
        let story = story.ends_well().await;
        assert_eq!(story.tenant(W).await.unwrap().state(), WorkspaceState::Stopped);
    });
}

/// A8. Before: after a restore of the tenant's database its numbers were behind the control plane's, and the next stops
/// were answered as replays: granted, and nothing happened.
#[test]
fn a8_wishes_count_after_the_tenants_database_was_restored() {
    in_a_world(async {
        let mut story = Story::with_one_that_runs(Shape::small()).await;
        let tenant = Arc::clone(&story.pair.tenants[0]);
        let backup = tenant.database().data();
        for ask in [Ask::Stop, Ask::Start, Ask::Restart] {
            story.accepted(ask).await;
            tokio::time::sleep(seconds(120)).await;
        }
        story.pair.restore_tenant(0, backup).await;
        tokio::time::sleep(seconds(600)).await;
        story.accepted(Ask::Stop).await;
        let story = story.ends_well().await;
        assert_eq!(story.tenant(W).await.unwrap().state(), WorkspaceState::Stopped);
    });
}

/// What a backup holds as untold was told since, and followed by another wish: that one wins.
#[test]
fn an_old_stop_does_not_win_over_a_later_start_after_a_restore() {
    for ends_soon in [false, true] {
        in_a_world(stops_and_starts(ends_soon));
    }
}

async fn stops_and_starts(ends_soon: bool) {
    let mut story = Story::with_one_that_runs(Shape::small()).await;
    let tenant = Arc::clone(&story.pair.tenants[0]);
    // a process that has not met the control plane yet stores a stop
    tenant.network.cut(seconds(600));
    tenant.last_process().unwrap().kill();
    while tenant.serving().is_none() {
        tokio::time::sleep(seconds(1)).await;
    }
    story.accepted(Ask::Stop).await;
    let backup = tenant.database().data();
    if ends_soon {
        // it ends before it has said how far it came
        while story.engine(W).await.unwrap().desired == Desired::Running {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tenant.last_process().unwrap().kill();
    }
    tokio::time::sleep(seconds(900)).await;
    assert_eq!(story.tenant(W).await.unwrap().state(), WorkspaceState::Stopped, "{}", story.words());
    story.accepted(Ask::Start).await;
    tokio::time::sleep(seconds(120)).await;
    story.pair.restore_tenant(0, backup).await;
    let story = story.ends_well().await;
    assert_eq!(story.engine(W).await.unwrap().phase, Phase::Up, "{}", story.words());
}

/// A replacement is refused as it is told again, and its first call is heard after that, while a stop waits to be told.
#[test]
fn a_replacement_that_is_heard_late_before_a_stop_is_known_to_both() {
    (1..=12).for_each(|seed| in_a_world(replaces_late(seed)));
}

async fn replaces_late(seed: u64) {
    let mut story = Story::begin_under(seed, Shape::small()).await;
    tokio::time::sleep(seconds(5)).await;
    story.accepted(Ask::Create).await;
    tokio::time::sleep(seconds(120)).await;
    story.arm("call.replace", Fault::RequestLate);
    story.arm("call.replace", Fault::Refused);
    (0..30).for_each(|_| story.arm("call.stop", Fault::RequestLost));
    story.accepted(Ask::Restart).await;
    while story.tenant(W).await.unwrap().generation != Generation(1) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    story.accepted(Ask::Stop).await;
    tokio::time::sleep(seconds(1800)).await;
    let story = story.ends_well().await;
    assert_eq!(story.tenant(W).await.unwrap().state(), WorkspaceState::Stopped, "{}", story.words());
}

/// Before: the agent was unknown to the database that was put back, and five minutes later its workspace was stopped for
/// that, since the control plane was away and the two had not agreed.
#[test]
fn nobody_is_judged_before_the_two_have_agreed() {
    in_a_world(async {
        let mut story = Story::begin(Shape::small()).await;
        story.accepted(Ask::Create).await;
        while story.tenant(W).await.unwrap().phase != Phase::Up {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let tenant = Arc::clone(&story.pair.tenants[0]);
        let backup = tenant.database().data();
        tokio::time::sleep(seconds(120)).await;
        assert_eq!(story.tenant(W).await.unwrap().state(), WorkspaceState::Running, "{}", story.words());
        story.pair.restore_tenant(0, backup).await;
        tenant.network.cut(seconds(900));
        tokio::time::sleep(seconds(1800)).await;
        let record = story.tenant(W).await.unwrap();
        assert_eq!(record.state(), WorkspaceState::Running, "{}", story.words());
        assert!(record.is_recovered() && record.desired == Desired::Running, "{record:?}");
        assert_eq!(story.engine(W).await.unwrap().intent, record.intent);
    });
}

/// Before: the call was broken off at its deadline, and its client heard that nobody knew what had become of it.
#[test]
fn who_waits_for_three_seconds_hears_that_a_wish_goes_on() {
    in_a_world(async {
        let mut story = Story::with_one_that_runs(Shape::small()).await;
        story.freeze(seconds(90));
        let request = Request { patience: seconds(3), number: 1000, ..story.request(Ask::Restart, W) };
        let heard = story.pair.client(0).ask(request).await;
        assert!(matches!(heard, Heard::Accepted), "{heard:?}\n{}", story.words());
        assert_eq!(story.tenant(W).await.unwrap().generation, Generation(2));
        let story = story.ends_well().await;
        assert_eq!(story.tenant(W).await.unwrap().state(), WorkspaceState::Running);
    });
}

/// Before: nobody told what was stored in the moment in which the control plane was lost from sight, and its request
/// waited for half a minute.
#[test]
fn who_asks_as_the_control_plane_goes_away_hears_that_soon() {
    in_a_world(async {
        let mut story = Story::begin(Shape::small()).await;
        // the transaction that stores the wish takes a while
        story.arm("tenant.create", Fault::Delay);
        let create = story.ask_beside(Ask::Create);
        tokio::time::sleep(Duration::from_millis(10)).await;
        story.pair.control.replica(0).process.kill();
        while story.tenant(W).await.is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let stored = tokio::time::Instant::now();
        let heard = create.await.unwrap();
        assert!(matches!(heard, Heard::Accepted), "{heard:?}\n{}", story.words());
        assert!(stored.elapsed() <= seconds(6), "{:?}\n{}", stored.elapsed(), story.words());
        story.pair.control.restart(0);
        let story = story.ends_well().await;
        assert_eq!(story.tenant(W).await.unwrap().state(), WorkspaceState::Running);
    });
}

/// Before: the repeated request heard that nothing was stored of the deletion that went on.
#[test]
fn a_deletion_that_is_asked_for_again_of_a_locked_database_is_not_denied() {
    in_a_world(async {
        let mut story = Story::with_one_that_runs(Shape::small()).await;
        let request = story.request(Ask::Delete, W);
        assert!(matches!(story.pair.client(0).ask(request.clone()).await, Heard::Accepted));
        story.arm("tenant.get", Fault::Fail);
        let heard = story.pair.client(0).ask(request).await;
        assert!(matches!(heard, Heard::Silence), "{heard:?}");
        story.ends_well().await;
    });
}

/// B1. Before: the launch took the new generation's token for the old one's, which did not open it: FAILED, with advice
/// about a key.
/// Before: nobody told a wish whose client had gone away while it was being stored, until the tenant was started anew.
#[test]
fn a_wish_is_told_though_its_client_goes_away_while_it_is_stored() {
    in_a_world(async {
        for (ask, step) in [(Ask::Create, "tenant.create"), (Ask::Delete, "tenant.change")] {
            let mut story = match ask {
                Ask::Create => Story::begin(Shape::small()).await,
                _ => Story::with_one_that_runs(Shape::small()).await,
            };
            story.arm(step, Fault::Unheard);
            let request = Request { patience: seconds(1), ..story.request(ask, W) };
            let heard = story.pair.client(0).ask(request).await;
            assert!(matches!(heard, Heard::Silence), "{heard:?}");
            let story = story.ends_well().await;
            let expected = if ask == Ask::Create { WorkspaceState::Running } else { WorkspaceState::Deleted };
            assert_eq!(story.tenant(W).await.unwrap().state(), expected, "{}", story.words());
        }
    });
}

/// Before: a deletion waited for ever behind a wish to which the control plane had no answer.
#[test]
fn a_deletion_does_not_wait_behind_what_gets_no_answer() {
    in_a_world(async {
        let mut story = Story::with_one_that_runs(Shape::small()).await;
        for _ in 0..400 {
            story.arm("call.replace", Fault::Unreachable);
        }
        let restart = story.ask(Ask::Restart).await;
        assert!(!matches!(restart, Heard::Nothing(_)), "{restart:?}");
        story.accepted(Ask::Delete).await;
        tokio::time::sleep(seconds(300)).await;
        assert_eq!(story.tenant(W).await.unwrap().state(), WorkspaceState::Deleted, "{}", story.words());
    });
}

#[test]
fn b1_a_restart_that_comes_before_a_launch_begins() {
    // in some of these worlds the lease outlasts the delay
    (1..=8).for_each(|seed| in_a_world(restarts_before_a_launch_begins(seed)));
}

async fn restarts_before_a_launch_begins(seed: u64) {
    let mut story = Story::begin_under(seed, Shape::small()).await;
    tokio::time::sleep(seconds(5)).await;
    story.arm("store.begin_launch", Fault::Delay);
    story.accepted(Ask::Create).await;
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(story.engine(W).await.unwrap().phase, Phase::Admitted, "{}", story.words());
    story.accepted(Ask::Restart).await;
    let story = story.ends_well().await;
    let tenant = story.tenant(W).await.unwrap();
    assert_eq!((tenant.state(), tenant.generation), (WorkspaceState::Running, Generation(2)));
    assert!(!story.words().contains("FAILED"), "{}", story.words());
}

/// B2. Before: FAILED for good, counted and billed, with a lease that ran out again and again.
#[test]
fn b2_what_has_failed_while_it_was_being_replaced_ends() {
    in_a_world(async {
        let mut story = Story::begin(Shape::small()).await;
        story.pair.cloud.set_weather(Weather::Away, None, seconds(3600));
        story.accepted(Ask::Create).await;
        tokio::time::sleep(seconds(10)).await;
        story.accepted(Ask::Restart).await;
        tokio::time::sleep(seconds(7200)).await;
        let engine = story.engine(W).await.unwrap();
        assert_eq!(engine.phase, Phase::Failed, "{}", story.words());
        assert!(!engine.is_being_replaced() && !engine.running_counted, "{engine:?}");
        story.accepted(Ask::Restart).await;
        let story = story.ends_well().await;
        assert_eq!(story.tenant(W).await.unwrap().state(), WorkspaceState::Running);
    });
}

/// B4. Before: of two machines of one launch one was invisible, and ran on for good.
#[test]
fn b4_a_launch_that_made_two_machines_comes_to_one() {
    in_a_world(async {
        let mut story = Story::begin(Shape { flavour: Flavour::Machines, ..Shape::small() }).await;
        story.pair.cloud.set_weather(Weather::Doubles, None, seconds(60));
        story.arm("backend.launch", Fault::Repeat);
        story.accepted(Ask::Create).await;
        let mut most = 0;
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            most = most.max(story.pair.cloud.machines().len());
        }
        assert_eq!(most, 2, "{}", story.words());
        let story = story.ends_well().await;
        assert_eq!(story.pair.cloud.machines().len(), 1, "{}", story.words());
        assert_eq!(story.tenant(W).await.unwrap().state(), WorkspaceState::Running);
    });
}

/// Before: its bootstrap token was erased once its launch was confirmed, so nothing that took its place could connect.
#[test]
fn what_is_lost_before_its_agent_has_connected_comes_up_again() {
    in_a_world(async {
        let mut story = Story::begin(Shape::small()).await;
        story.accepted(Ask::Create).await;
        for _ in 0..600 {
            if story.engine(W).await.unwrap().phase == Phase::Booting {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(story.pair.cloud.vanish(W), "{}", story.words());
        let story = story.ends_well().await;
        assert_eq!(story.tenant(W).await.unwrap().state(), WorkspaceState::Running, "{}", story.words());
        assert_eq!(story.engine(W).await.unwrap().generation, Generation(1));
    });
}

/// B5. Before: the alarm of a restored database ended once as many launches had been made as were lost, and the sweeps
/// removed what the backup lacked, with its volumes.
#[test]
fn b5_a_restored_control_plane_removes_nothing_until_its_alarm_is_ended() {
    in_a_world(async {
        let mut story = Story::with_one_that_runs(Shape::small()).await;
        let pair = story.pair.clone();
        let (lost, admitted) = (Pair::workspace(2), Pair::workspace(3));
        // one is admitted when the backup is made, and launched then
        story.arm("store.begin_launch", Fault::Delay);
        let request = story.request(Ask::Create, admitted);
        assert!(matches!(pair.client(0).ask(request).await, Heard::Accepted));
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(story.engine(admitted).await.unwrap().phase, Phase::Admitted, "{}", story.words());
        let backup = pair.control.backup();
        let request = story.request(Ask::Create, lost);
        assert!(matches!(pair.client(0).ask(request).await, Heard::Accepted));
        story.accepted(Ask::Restart).await;
        tokio::time::sleep(seconds(300)).await;
        let before: Vec<_> = pair.cloud.machines().iter().map(|machine| machine.id).collect();
        assert_eq!(before.len(), 3, "{}", story.words());
        // its tenant is away, so nobody tells what was lost
        pair.tenants[0].network.cut(seconds(4 * 3600));
        pair.restore_control(backup).await;
        tokio::time::sleep(seconds(3600)).await;
        let after: Vec<_> = pair.cloud.machines().iter().map(|machine| machine.id).collect();
        assert_eq!(after, before, "something was touched: {}", story.words());
        assert!(pair.cloud.volume_owners().contains(&lost));
        assert_eq!(pair.control.database().alarms().await.unwrap().len(), 1, "{}", story.words());
        for workspace in [W, admitted] {
            let held = story.engine(workspace).await.unwrap();
            assert_eq!((held.reason, held.generation), (Some(Reason::UnknownLaunch), Generation(1)));
        }
        let engine = pair.control.replica(0).engine;
        let orphans = engine.orphans().await.unwrap().unwrap();
        assert_eq!(
            (orphans.instances.len(), &orphans.workspaces[..]),
            (3, &[(pair.tenants[0].organization, lost)][..])
        );
        engine.end_alarm(&orphans).await.unwrap();
        // one is removed in a pass
        tokio::time::sleep(seconds(1800)).await;
        assert!(!pair.cloud.volume_owners().contains(&lost), "{}", story.words());
        // nothing is launched before its tenant is back
        assert_eq!(pair.cloud.machines().len(), 0, "{}", story.words());
        tokio::time::sleep(seconds(3 * 3600)).await;
        for workspace in [W, admitted] {
            // however long the alarm stood, and the tenant was away
            let served = story.engine(workspace).await.unwrap();
            assert_eq!((served.phase, served.reason), (Phase::Up, None), "{}", story.words());
        }
    });
}

/// Before: a control plane that was put back launched, and gave up, what had been stopped or deleted since its backup, before
/// its tenant had told that again.
#[test]
fn a_restored_control_plane_launches_nothing_before_its_tenant_has_agreed() {
    in_a_world(async {
        let mut story = Story::begin(Shape::small()).await;
        let pair = story.pair.clone();
        let (stopped, deleted) = (Pair::workspace(2), Pair::workspace(3));
        // all are admitted when the backup is made
        for workspace in [W, stopped, deleted] {
            story.arm("store.begin_launch", Fault::Delay);
            let request = story.request(Ask::Create, workspace);
            assert!(matches!(pair.client(0).ask(request).await, Heard::Accepted));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let backup = pair.control.backup();
        for (ask, workspace) in [(Ask::Stop, stopped), (Ask::Delete, deleted)] {
            let request = story.request(ask, workspace);
            assert!(matches!(pair.client(0).ask(request).await, Heard::Accepted));
        }
        // longer than any deadline
        tokio::time::sleep(seconds(3600)).await;
        for workspace in [W, stopped, deleted] {
            pair.cloud.vanish(workspace);
        }
        let launches = pair.cloud.launches();
        pair.tenants[0].network.cut(seconds(1800));
        pair.restore_control(backup).await;
        tokio::time::sleep(seconds(1500)).await;
        assert_eq!(pair.cloud.launches(), launches, "{}", story.words());
        for workspace in [W, stopped, deleted] {
            let held = story.engine(workspace).await.unwrap();
            assert_eq!((held.desired, held.reason), (Desired::Running, None), "{}", story.words());
        }
        // once they have agreed, it launches what is wanted, and that only
        tokio::time::sleep(seconds(900)).await;
        assert_eq!(story.tenant(W).await.unwrap().state(), WorkspaceState::Running, "{}", story.words());
        assert_eq!(
            story.tenant(stopped).await.unwrap().state(),
            WorkspaceState::Stopped,
            "{}",
            story.words()
        );
        assert_eq!(story.engine(deleted).await.unwrap().phase, Phase::Gone, "{}", story.words());
        assert_eq!(pair.cloud.launches(), launches + 1, "{}", story.words());
        story.ends_well().await;
    });
}

/// Before: the time under the alarm counted once the provider was silent for a moment, so that what waited was given up.
#[test]
fn a_provider_that_is_away_under_an_alarm_ends_no_wish() {
    in_a_world(async {
        let mut story = Story::with_one_that_runs(Shape::small()).await;
        let pair = story.pair.clone();
        let lost = Pair::workspace(2);
        let backup = pair.control.backup();
        let request = story.request(Ask::Create, lost);
        assert!(matches!(pair.client(0).ask(request).await, Heard::Accepted));
        tokio::time::sleep(seconds(300)).await;
        // its tenant tells of it again, and an operator takes the time that the runbook wants
        pair.restore_control(backup).await;
        let waits = async || {
            let record = story.engine(lost).await.unwrap();
            let waits = (record.phase, record.desired, record.reason);
            let expected = (Phase::Admitted, Desired::Running, Some(Reason::UnknownLaunch));
            assert_eq!(waits, expected, "{}", story.words());
        };
        tokio::time::sleep(seconds(3000)).await;
        waits().await;
        pair.cloud.set_weather(Weather::Away, None, seconds(120));
        tokio::time::sleep(seconds(300)).await;
        waits().await;
        let engine = pair.control.replica(0).engine;
        engine.end_alarm(&engine.orphans().await.unwrap().unwrap()).await.unwrap();
        let story = story.ends_well().await;
        assert_eq!(story.tenant(lost).await.unwrap().state(), WorkspaceState::Running, "{}", story.words());
    });
}

/// What is told again is refused for as long as there is no room for it, and not for good.
#[test]
fn what_is_told_again_and_refused_is_granted_later() {
    in_a_world(async {
        let mut story = Story::with_one_that_runs(Shape::small()).await;
        story.accepted(Ask::Stop).await;
        tokio::time::sleep(seconds(120)).await;
        let backup = story.pair.control.backup();
        story.accepted(Ask::Start).await;
        tokio::time::sleep(seconds(120)).await;
        story.pair.restore_control(backup).await;
        story.set_account(|account| Account { standing: Standing::Suspended, ..account }).await;
        tokio::time::sleep(seconds(300)).await;
        let waits = story.tenant(W).await.unwrap().pending.is_some();
        assert!(waits, "its start waits to be told: {}", story.words());
        story.set_account(|account| Account { standing: Standing::Good, ..account }).await;
        let story = story.ends_well().await;
        assert_eq!(story.tenant(W).await.unwrap().state(), WorkspaceState::Running, "{}", story.words());
    });
}

/// B6 and B11. Before: launches that waited took every slot, so that a stop had to wait for all of them; and under load each
/// record was looked at by a call of its own.
#[test]
fn b6_a_stop_does_not_wait_for_launches_and_looks_are_shared() {
    in_a_world(async {
        let mut story =
            Story::with_one_that_runs(Shape { flavour: Flavour::Machines, ..Shape::small() }).await;
        let pair = story.pair.clone();
        let looks = || pair.world.coverage().steps.of("backend.find");
        let before = looks();
        for number in 2..=61 {
            let request = story.request(Ask::Create, Pair::workspace(number));
            assert!(matches!(pair.client(0).ask(request).await, Heard::Accepted));
        }
        story.accepted(Ask::Stop).await;
        tokio::time::sleep(seconds(30)).await;
        let engine = story.engine(W).await.unwrap();
        assert_eq!(engine.phase, Phase::Stopped, "{}", story.words());
        let story = story.ends_well().await;
        assert_eq!(story.pair.cloud.machines().iter().filter(|one| one.is_running()).count(), 60);
        let looks = looks() - before;
        assert!(looks < 120, "{looks} looks for 60 workspaces");
    });
}

/// X. Before: STOPPED might not become UP, so it ran on unbilled, and nothing that was decided about it was stored.
#[test]
fn x_a_start_that_is_asked_for_twice_comes_up() {
    in_a_world(async {
        let mut story = Story::with_one_that_runs(Shape::small()).await;
        story.accepted(Ask::Stop).await;
        tokio::time::sleep(seconds(300)).await;
        assert_eq!(story.engine(W).await.unwrap().phase, Phase::Stopped, "{}", story.words());
        story.arm("commit.starting", Fault::Delay);
        story.accepted(Ask::Start).await;
        tokio::time::sleep(seconds(1)).await;
        story.accepted(Ask::Start).await;
        let story = story.ends_well().await;
        assert_eq!(story.tenant(W).await.unwrap().state(), WorkspaceState::Running);
        assert!(story.engine(W).await.unwrap().up_since.is_some(), "and is billed");
    });
}

/// Before: the agent counted as silent for as long as the process was frozen, and its workspace was stopped for that.
#[test]
fn an_agent_that_a_frozen_tenant_could_not_hear_is_waited_for() {
    in_a_world(async {
        let mut story = Story::begin(Shape::small()).await;
        let pair = story.pair.clone();
        pair.agents.silence(W, seconds(120));
        story.accepted(Ask::Create).await;
        tokio::time::sleep(seconds(60)).await;
        let found = story.tenant(W).await.unwrap();
        assert_eq!((found.phase, found.agent.last_seen), (Phase::Up, None), "{}", story.words());
        assert!(pair.tenants[0].last_process().unwrap().freeze(seconds(1200)));
        tokio::time::sleep(seconds(1300)).await;
        assert_eq!(story.tenant(W).await.unwrap().state(), WorkspaceState::Running, "{}", story.words());
        let story = story.ends_well().await;
        let found = story.tenant(W).await.unwrap();
        assert_eq!((found.state(), found.generation), (WorkspaceState::Running, Generation(1)));
    });
}

/// Before: the agent of what ran was refused for as long as a replacement waited, and was missed once that was refused.
#[test]
fn an_agent_is_heard_while_a_replacement_waits() {
    in_a_world(async {
        let mut story = Story::begin(Shape::small()).await;
        let pair = story.pair.clone();
        pair.agents.silence(W, seconds(120));
        story.accepted(Ask::Create).await;
        tokio::time::sleep(seconds(60)).await;
        story.arm("call.replace", Fault::RequestLost);
        story.arm("call.replace", Fault::Refused);
        let restart = story.ask_beside(Ask::Restart);
        tokio::time::sleep(seconds(1)).await;
        pair.tenants[0].network.cut(seconds(600));
        tokio::time::sleep(seconds(200)).await;
        let found = story.tenant(W).await.unwrap();
        assert!(found.pending.is_some() && found.generation == Generation(2), "{}", story.words());
        assert_eq!(found.agent.health, AgentHealth::Healthy, "{}", story.words());
        assert!(matches!(restart.await.unwrap(), Heard::Accepted), "{}", story.words());
        tokio::time::sleep(seconds(600)).await;
        let found = story.tenant(W).await.unwrap();
        assert_eq!((found.state(), found.generation), (WorkspaceState::Running, Generation(1)));
        story.ends_well().await;
    });
}

/// Before: the control plane took the stop for a repeated call of what another process had told it under that number, and the
/// tenant took its answer for a grant: it ran on.
#[test]
fn a_stop_whose_number_another_was_told_by_is_told_anew() {
    in_a_world(async {
        let mut story = Story::with_one_that_runs(Shape::small()).await;
        let intent = story.tenant(W).await.unwrap().intent.next();
        let start = ChangeRequest {
            organization: story.pair.tenants[0].organization,
            workspace: W,
            intent,
            change: Change::Start,
            refusal_is_final: false,
            trace: String::new(),
        };
        story.pair.control.database().change(&start, story.pair.world.now()).await.unwrap();
        story.accepted(Ask::Stop).await;
        tokio::time::sleep(seconds(120)).await;
        assert_eq!(story.tenant(W).await.unwrap().state(), WorkspaceState::Stopped, "{}", story.words());
        let engine = story.engine(W).await.unwrap();
        assert_eq!((engine.desired, engine.intent), (Desired::Stopped, intent.next()));
        story.ends_well().await;
    });
}

/// Before: what ran was replaced, since the backup held it as being stopped.
#[test]
fn what_was_being_stopped_and_runs_again_runs_on_after_a_restore() {
    in_a_world(async {
        let mut story = Story::with_one_that_runs(Shape::small()).await;
        let pair = story.pair.clone();
        story.accepted(Ask::Stop).await;
        let backup = pair.control.backup();
        let held = story.engine(W).await.unwrap();
        assert_eq!(held.desired, Desired::Stopped);
        assert_ne!(held.phase, Phase::Stopped, "{}", story.words());
        tokio::time::sleep(seconds(120)).await;
        story.accepted(Ask::Start).await;
        tokio::time::sleep(seconds(120)).await;
        let launches = pair.cloud.launches();
        pair.restore_control(backup).await;
        let story = story.ends_well().await;
        let found = story.tenant(W).await.unwrap();
        assert_eq!((found.state(), found.generation), (WorkspaceState::Running, Generation(1)));
        assert_eq!(story.pair.cloud.launches(), launches, "{}", story.words());
    });
}
