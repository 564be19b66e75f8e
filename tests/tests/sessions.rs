//! What tells that one side of the pair was put back to a backup, or runs twice: the control plane's incarnations over
//! real PostgreSQL, and the one process of each tenant that is served.

use std::time::{Duration, Instant};

use molecule_domain::error::{Error, ErrorReason};
use molecule_domain::incarnation::{MAX_PREDECESSORS, RETURN};
use molecule_proto::controlplane::v1 as wire;
use molecule_service_kit::status::from_status;
use molecule_tests::controlplane::{Customer, Installation, Replica};
use molecule_tests::postgres::execute;

const CONTROL_PLANE: &str = env!("CARGO_BIN_EXE_controlplane-under-test");
/// How long a process that is not heard counts as living, and a little.
const PAST_A_SESSION: Duration = Duration::from_secs(32);

/// A process of a tenant, as its own database has it.
#[derive(Clone)]
struct Process {
    customer: Customer,
    incarnation: String,
    address: &'static str,
}

impl Process {
    async fn new(replica: &Replica, token: &str, address: &'static str) -> Self {
        let customer = replica.customer(token).await.unwrap();
        Self { customer, incarnation: uuid::Uuid::new_v4().to_string(), address }
    }

    fn standpoint(&self, revision: u64) -> wire::Standpoint {
        wire::Standpoint { incarnation: self.incarnation.clone(), revision, time: None }
    }

    async fn meet_having(
        &self,
        revision: u64,
        seen: Option<wire::Standpoint>,
    ) -> Result<wire::MeetResponse, Error> {
        let request = wire::MeetRequest {
            tenant: Some(self.standpoint(revision)),
            seen,
            address: self.address.to_owned(),
            ..wire::MeetRequest::default()
        };
        self.customer.clone().meet(request).await.map(tonic::Response::into_inner).map_err(from_status)
    }

    /// Meets as the successor of another one, which it saw at a revision, after as many other starts as a process ever names.
    async fn meet_after(&self, other: &Self, ended_at: u64) -> Result<wire::MeetResponse, Error> {
        let between =
            || wire::Standpoint { incarnation: uuid::Uuid::new_v4().to_string(), ..self.standpoint(5) };
        let mut predecessors = vec![other.standpoint(ended_at)];
        predecessors.resize_with(MAX_PREDECESSORS, between);
        predecessors.reverse();
        let request = wire::MeetRequest {
            tenant: Some(self.standpoint(5)),
            address: self.address.to_owned(),
            predecessors,
            ..wire::MeetRequest::default()
        };
        self.customer.clone().meet(request).await.map(tonic::Response::into_inner).map_err(from_status)
    }

    async fn meet(&self, revision: u64) -> Result<wire::MeetResponse, Error> {
        self.meet_having(revision, None).await
    }

    async fn watch(&self) -> Result<tonic::Streaming<wire::WatchInstancesResponse>, Error> {
        let request = wire::WatchInstancesRequest {
            tenant: Some(self.standpoint(0)),
            ..wire::WatchInstancesRequest::default()
        };
        self.customer
            .clone()
            .watch_instances(request)
            .await
            .map(tonic::Response::into_inner)
            .map_err(from_status)
    }

    /// Asks for a change of a workspace that there is not: `WORKSPACE_NOT_FOUND` says that the caller is served.
    async fn change(&self, revision: u64) -> Error {
        self.change_having(revision, None).await
    }

    async fn change_having(&self, revision: u64, seen: Option<wire::Standpoint>) -> Error {
        let request = wire::StartWorkspaceRequest {
            workspace_id: uuid::Uuid::new_v4().to_string(),
            intent: 1,
            tenant: Some(self.standpoint(revision)),
            seen,
            refusal_is_final: false,
        };
        from_status(self.customer.clone().start_workspace(request).await.unwrap_err())
    }
}

fn names_both(refused: &Error, one: &Process, other: &Process) {
    assert_eq!(refused.reason, ErrorReason::TenantAlreadyServed, "{refused}");
    for named in [&one.incarnation, &other.incarnation, one.address] {
        assert!(refused.message.contains(named), "{named} is not in: {refused}");
    }
}

/// The control plane's own incarnation, as a tenant hears it: once more where the replica joins its database anew just then.
async fn incarnation_of(replica: &Replica, token: &str) -> String {
    let mut customer = replica.customer(token).await.unwrap();
    for _ in 0..100 {
        let watched = customer.watch_instances(wire::WatchInstancesRequest::default()).await;
        let first = match watched {
            Ok(stream) => stream.into_inner().message().await.map(|first| first.expect("a first message")),
            Err(status) => Err(status),
        };
        match first {
            Ok(first) => {
                let at = first.control_plane;
                return at.expect("every message says where the database stands").incarnation;
            }
            Err(status) if status.code() == tonic::Code::Unavailable => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(status) => panic!("{status}"),
        }
    }
    panic!("the replica does not say its incarnation")
}

/// What a stream ends with.
async fn end_of(mut stream: tonic::Streaming<wire::WatchInstancesResponse>) -> Error {
    let ends = async {
        loop {
            if let Err(status) = stream.message().await {
                return from_status(status);
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ends).await.expect("the stream ends")
}

async fn until<F: Future<Output = bool>>(what: &str, limit: Duration, holds: impl Fn() -> F) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < limit, "not {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_of_a_tenant_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::new(CONTROL_PLANE, folder.path(), 31).await.unwrap();
    let replica = installation.start("one").await.unwrap();
    let (_, token) = installation.organization(&replica, wire::Limits::default()).await.unwrap();
    let (_, others_token) = installation.organization(&replica, wire::Limits::default()).await.unwrap();
    let first = Process::new(&replica, &token, "first.example:7070").await;
    let second = Process::new(&replica, &token, "second.example:7070").await;

    let met = first.meet(7).await.unwrap();
    assert_eq!(met.seen, [], "nothing was seen before the first meeting");
    let stream = first.watch().await.unwrap();
    // the second is refused whatever it asks for, and told of both
    let refused = second.meet(5).await.unwrap_err();
    names_both(&refused, &first, &second);
    assert!(refused.message.contains(second.address), "{refused}");
    names_both(&second.watch().await.unwrap_err(), &first, &second);
    names_both(&second.change(5).await, &first, &second);
    assert_eq!(first.change(8).await.reason, ErrorReason::WorkspaceNotFound);
    // what it asks for may rest on what another start of the control plane held, or on what this one has lost
    let control_plane = met.control_plane.clone().unwrap();
    assert_eq!(
        first.change_having(8, Some(control_plane.clone())).await.reason,
        ErrorReason::WorkspaceNotFound
    );
    let another = wire::Standpoint { incarnation: uuid::Uuid::new_v4().to_string(), ..control_plane.clone() };
    let ahead = wire::Standpoint { revision: control_plane.revision + 1, ..control_plane };
    for seen in [another, ahead] {
        let refused = first.change_having(8, Some(seen)).await;
        assert!(
            refused.reason == ErrorReason::StoreUnavailable && refused.message.contains("meet it"),
            "{refused}"
        );
    }
    // another organisation's is its own
    let other = Process::new(&replica, &others_token, "other.example:7070").await;
    other.meet(1).await.unwrap();
    // a caller that names no database, as people's tools do, is let through
    let mut anonymous = second.customer.clone();
    let request = wire::StartWorkspaceRequest {
        workspace_id: uuid::Uuid::new_v4().to_string(),
        intent: 1,
        tenant: None,
        seen: None,
        refusal_is_final: false,
    };
    let refused = from_status(anonymous.start_workspace(request).await.unwrap_err());
    assert_eq!(refused.reason, ErrorReason::WorkspaceNotFound);

    // an open stream is a sign of life: past what one meeting is good for
    tokio::time::sleep(PAST_A_SESSION).await;
    names_both(&second.meet(5).await.unwrap_err(), &first, &second);
    // a newer stream of the first's: the end of the older one ends nothing
    let newer = first.watch().await.unwrap();
    drop(stream);
    tokio::time::sleep(Duration::from_secs(1)).await;
    names_both(&second.meet(5).await.unwrap_err(), &first, &second);
    names_both(&second.meet_after(&first, 8).await.unwrap_err(), &first, &second);
    // once it has ended, for whatever reason, the first has its time to open another; then a successor that holds all that was
    // seen of it is served; whoever is behind that may be a copy, and waits
    drop(newer);
    tokio::time::sleep(Duration::from_secs(1)).await;
    names_both(&second.meet(5).await.unwrap_err(), &first, &second);
    names_both(&second.meet_after(&first, 8).await.unwrap_err(), &first, &second);
    let back = first.watch().await.unwrap();
    tokio::time::sleep(RETURN).await;
    names_both(&second.meet_after(&first, 8).await.unwrap_err(), &first, &second);
    drop(back);
    tokio::time::sleep(RETURN).await;
    names_both(&second.meet(5).await.unwrap_err(), &first, &second);
    names_both(&second.meet_after(&first, 7).await.unwrap_err(), &first, &second);
    until("served after the first's stream has ended", Duration::from_secs(10), || {
        let (first, second) = (first.clone(), second.clone());
        async move { second.meet_after(&first, 8).await.is_ok() }
    })
    .await;
    names_both(&first.change(8).await, &second, &first);

    // what is told of before: the first, as far as its calls have told
    let met = second.meet(6).await.unwrap();
    let of_both = |met: &wire::MeetResponse| {
        let both =
            |one: &&wire::Standpoint| [&first, &second].iter().any(|it| it.incarnation == one.incarnation);
        met.seen.iter().filter(both).map(|one| (one.incarnation.clone(), one.revision)).collect::<Vec<_>>()
    };
    assert_eq!(of_both(&met), [(second.incarnation.clone(), 5), (first.incarnation.clone(), 8)]);
    assert!(met.seen.iter().all(|seen| seen.time.is_some()));

    // without a stream, a process is served until its session has run out
    names_both(&first.meet(8).await.unwrap_err(), &second, &first);
    tokio::time::sleep(PAST_A_SESSION).await;
    let back = first.meet(3).await.unwrap();
    assert_eq!(
        of_both(&back),
        [(second.incarnation.clone(), 6), (first.incarnation.clone(), 8)],
        "one that comes back is told of itself, and of more than it has"
    );

    // what can't be read names its field
    let wrong = wire::MeetRequest {
        tenant: Some(wire::Standpoint { incarnation: "second".to_owned(), ..Default::default() }),
        ..wire::MeetRequest::default()
    };
    let refused = from_status(second.customer.clone().meet(wrong).await.unwrap_err());
    assert_eq!(refused.fields[0].field, "tenant.incarnation", "{refused}");
    let nobody = second.customer.clone().meet(wire::MeetRequest::default()).await.unwrap_err();
    assert_eq!(from_status(nobody).fields[0].field, "tenant");
    replica.stop().await.unwrap();
    installation.finish().await.unwrap();
}

/// A process that is known has its time to come back where it is the control plane that goes away.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_is_known_again_after_a_drain_and_after_an_outage() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::new(CONTROL_PLANE, folder.path(), 39).await.unwrap();
    let (one, two) = (installation.start("one").await.unwrap(), installation.start("two").await.unwrap());
    let (_, token) = installation.organization(&one, wire::Limits::default()).await.unwrap();
    let mut first = Process::new(&one, &token, "first.example:7070").await;
    let mut second = Process::new(&two, &token, "second.example:7070").await;
    first.meet(1).await.unwrap();
    let stream = first.watch().await.unwrap();
    one.stop().await.unwrap();
    assert_eq!(end_of(stream).await.reason, ErrorReason::Draining);
    // past the grace of a stream that a process ends itself
    tokio::time::sleep(Duration::from_secs(3)).await;
    names_both(&second.meet(1).await.unwrap_err(), &first, &second);
    first.customer = two.customer(&token).await.unwrap();
    first.meet(1).await.unwrap();
    let _stream = first.watch().await.unwrap();
    two.signal("KILL").unwrap();
    tokio::time::sleep(PAST_A_SESSION).await;

    let three = installation.start("three").await.unwrap();
    for process in [&mut first, &mut second] {
        process.customer = three.customer(&token).await.unwrap();
    }
    names_both(&second.meet(1).await.unwrap_err(), &first, &second);
    // one that was not met since then asks for nothing: what it knows may be old
    let refused = first.change(1).await;
    assert_eq!(refused.reason, ErrorReason::WorkspaceNotFound, "it is the one that is known: {refused}");
    first.meet(1).await.unwrap();
    // who was never met, or not last, meets first
    let execute = "UPDATE tenant_sessions SET until = now(), stream = NULL".to_owned();
    molecule_tests::postgres::execute(&installation.database.url(), execute).await.unwrap();
    let refused = second.change(1).await;
    assert!(refused.message.contains("meet it first"), "{refused}");
    second.meet(1).await.unwrap();
    let refused = first.change(1).await;
    names_both(&refused, &second, &first);
    three.stop().await.unwrap();
    installation.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_share_an_incarnation_and_a_restart_begins_another() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::new(CONTROL_PLANE, folder.path(), 32).await.unwrap();
    let one = installation.start("one").await.unwrap();
    let (_, token) = installation.organization(&one, wire::Limits::default()).await.unwrap();
    let first = incarnation_of(&one, &token).await;
    let two = installation.start("two").await.unwrap();
    assert_eq!(incarnation_of(&two, &token).await, first, "two replicas are one control plane");
    // one after the other, as versions are changed: the control plane has not been away
    one.stop().await.unwrap();
    let three = installation.start("three").await.unwrap();
    assert_eq!(incarnation_of(&three, &token).await, first);
    two.stop().await.unwrap();
    let process = Process::new(&three, &token, "tenant.example:7070").await;
    assert_eq!(process.meet(1).await.unwrap().control_plane.unwrap().incarnation, first);
    three.stop().await.unwrap();
    let four = installation.start("four").await.unwrap();
    let second = incarnation_of(&four, &token).await;
    assert_ne!(second, first, "nobody was left over the database");

    // a failover: all connections break under a replica that goes on, and its streams end
    let process = Process { customer: four.customer(&token).await.unwrap(), ..process };
    process.meet(1).await.unwrap();
    let mut stream = process.watch().await.unwrap();
    let heard = stream.message().await.unwrap().unwrap().control_plane.unwrap();
    assert_eq!(heard.incarnation, second);
    installation.database.outage(Duration::from_secs(2)).await.unwrap();
    let ended = end_of(stream).await;
    assert!(ended.retry_after.is_some(), "{ended}");
    until("in another incarnation", Duration::from_secs(20), || {
        let (process, second) = (process.clone(), second.clone());
        async move {
            let met = process.meet(1).await;
            met.is_ok_and(|met| met.control_plane.unwrap().incarnation != second)
        }
    })
    .await;
    four.stop().await.unwrap();
    installation.finish().await.unwrap();
}

/// A database that is put back while the control plane is away: the tenant that met the later one meets another.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_put_back_shows_itself() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::new(CONTROL_PLANE, folder.path(), 33).await.unwrap();
    let replica = installation.start("one").await.unwrap();
    let (organization, token) = installation.organization(&replica, wire::Limits::default()).await.unwrap();
    let process = Process::new(&replica, &token, "tenant.example:7070").await;
    process.meet(1).await.unwrap();
    replica.stop().await.unwrap();
    let backup = installation.database.copy().await.unwrap();

    let replica = installation.start("two").await.unwrap();
    let process = Process { customer: replica.customer(&token).await.unwrap(), ..process };
    let later = process.meet(2).await.unwrap().control_plane.unwrap();
    let behind = "was put back to an earlier state";
    process.meet_having(2, Some(later.clone())).await.unwrap();
    assert!(!replica.whole_log().contains(behind), "{}", replica.whole_log());
    replica.stop().await.unwrap();

    installation.database.put_back(backup).await.unwrap();
    let replica = installation.start("three").await.unwrap();
    let process = Process { customer: replica.customer(&token).await.unwrap(), ..process };
    // what was put back stands elsewhere in the cluster, and waits for an operator's word
    let refused = process.meet_having(3, Some(later.clone())).await.unwrap_err();
    assert_eq!(refused.reason, ErrorReason::DatabaseNotAdopted, "{refused}");
    let mut operator = replica.operator().await.unwrap();
    let identity = wire::GetDatabaseIdentityRequest {};
    let identity = operator.get_database_identity(identity).await.unwrap().into_inner();
    operator.adopt_database(wire::AdoptDatabaseRequest { actual: identity.actual }).await.unwrap();
    until("adopted", Duration::from_secs(10), || {
        let (process, later) = (process.clone(), later.clone());
        async move {
            let met = process.meet_having(3, Some(later.clone())).await;
            met.is_ok_and(|met| met.control_plane.unwrap().incarnation != later.incarnation)
        }
    })
    .await;
    let log = replica.whole_log();
    let told = log.lines().find(|line| line.contains(behind)).expect("it is told");
    for named in [&organization, &later.incarnation, &later.revision.to_string()] {
        assert!(told.contains(named.as_str()), "{named} is not in: {told}");
    }
    replica.stop().await.unwrap();
    installation.finish().await.unwrap();
}

/// The same within one incarnation and under replicas that go on: each finds that it has looked more often than the database
/// holds, whatever was written since.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_go_back_under_a_replica_begin_another_incarnation() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::new(CONTROL_PLANE, folder.path(), 34).await.unwrap();
    let (one, two) = (installation.start("one").await.unwrap(), installation.start("two").await.unwrap());
    let (organization, token) = installation.organization(&one, wire::Limits::default()).await.unwrap();
    // past a look of each
    let looked = "SELECT COUNT(*) FROM control_plane_replicas WHERE looks > 1";
    until("both have looked", Duration::from_secs(20), || {
        let database = &installation.database;
        async move { database.number(looked).await.is_ok_and(|looked| looked == 2) }
    })
    .await;
    let first = incarnation_of(&one, &token).await;
    let process = Process::new(&one, &token, "tenant.example:7070").await;
    let stream = process.watch().await.unwrap();
    let put_back = format!(
        "UPDATE control_plane_replicas SET looks = 1;
         UPDATE organizations SET revision = revision + 1000 WHERE organization_id = '{organization}'"
    );
    execute(&installation.database.url(), put_back).await.unwrap();
    // the database has answered all along: it is the incarnation that ends the stream
    let ended = end_of(stream).await;
    assert!(ended.message.contains("meet it again"), "{ended}");
    until("another incarnation", Duration::from_secs(10), || {
        let (process, first) = (process.clone(), first.clone());
        async move { process.meet(1).await.unwrap().control_plane.unwrap().incarnation != first }
    })
    .await;
    let second = incarnation_of(&one, &token).await;
    until("the other replica follows", Duration::from_secs(10), || {
        let second = second.clone();
        let (two, token) = (&two, &token);
        async move { incarnation_of(two, token).await == second }
    })
    .await;
    let begun = "SELECT COUNT(*) FROM control_plane_incarnations";
    assert_eq!(installation.database.number(begun).await.unwrap(), 2, "one for both");
    one.stop().await.unwrap();
    two.stop().await.unwrap();
    installation.finish().await.unwrap();
}
