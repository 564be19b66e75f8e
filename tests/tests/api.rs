//! The API's semantics and conventions, in both modes, against real processes; the containers behind them are real
//! too.

use std::path::PathBuf;
use std::process::Command;

use futures::StreamExt;
use molecule_proto::tenant::v1::watch_workspaces_response::Event;
use molecule_proto::tenant::v1::{
    CreateWorkspaceRequest, DeleteWorkspaceRequest, GetServerInfoRequest, ListRuntimesRequest,
    ListWorkspacesRequest, Mode, StopWorkspaceRequest, StreamWorkspaceLogsRequest, UpdateWorkspaceRequest,
    WatchWorkspacesRequest,
};
use molecule_proto::workspace::v1::{MountAccess, Workspace, WorkspaceMount, WorkspaceSpec, WorkspaceState};
use molecule_tests::in_both_modes;
use molecule_tests::stand::{self, Programs, Stand};
use molecule_tests::tenant::{Tenant, client, spec};
use prost_types::FieldMask;
use tonic::{Code, Status};
use tonic_types::StatusExt;

const PROGRAMS: Programs = Programs {
    tenant: env!("CARGO_BIN_EXE_tenant-under-test"),
    control_plane: env!("CARGO_BIN_EXE_controlplane-under-test"),
};

in_both_modes! {
    PROGRAMS;
    requests_repeat_and_ids_are_the_clients(41),
    lists_have_pages_and_filters(42),
    updates_follow_mask_and_etag(43),
    a_watch_has_no_gap_and_no_duplicate_and_resumes(44),
    nothing_is_open_without_the_token(45),
    output_is_streamed(46),
    a_drained_server_ends_its_streams(47),
    clients_that_are_not_ours_work(48),
    what_a_mode_can_do_it_declares(49),
}

fn reason(status: &Status) -> String {
    let info = status.get_details_error_info().expect("every error has its reason");
    assert_eq!(info.domain, "molecule");
    info.reason
}

async fn clear(tenant: &mut Tenant) {
    let all = tenant.client.list_workspaces(ListWorkspacesRequest::default()).await.unwrap().into_inner();
    for workspace in all.workspaces {
        tenant.delete(&workspace.workspace_id).await.unwrap();
    }
}

async fn create(tenant: &mut Tenant, request: CreateWorkspaceRequest) -> Result<Workspace, Status> {
    Ok(tenant.client.create_workspace(request).await?.into_inner().workspace.unwrap())
}

async fn requests_repeat_and_ids_are_the_clients(mut tenant: Stand) {
    let id = uuid::Uuid::new_v4().to_string();
    let request = CreateWorkspaceRequest {
        request_id: "one".into(),
        workspace_id: id.clone(),
        spec: Some(spec("a", "demo")),
        validate_only: false,
    };
    // checked, and nothing stored
    let checked =
        create(&mut tenant, CreateWorkspaceRequest { validate_only: true, ..request.clone() }).await.unwrap();
    assert_eq!(checked.generation, 0);
    assert_eq!(tenant.get(&id).await.unwrap_err().code(), Code::NotFound);

    let first = create(&mut tenant, request.clone()).await.unwrap();
    assert_eq!(first.workspace_id, id);
    let again = create(&mut tenant, request.clone()).await.unwrap();
    assert_eq!((again.workspace_id.as_str(), again.generation), (id.as_str(), 1));

    let mut other = request.clone();
    other.spec = Some(spec("b", "demo"));
    let reused = create(&mut tenant, other).await.unwrap_err();
    assert_eq!((reused.code(), reason(&reused).as_str()), (Code::AlreadyExists, "REQUEST_ID_REUSED"));
    let taken = create(&mut tenant, CreateWorkspaceRequest { request_id: "two".into(), ..request })
        .await
        .unwrap_err();
    assert_eq!((taken.code(), reason(&taken).as_str()), (Code::AlreadyExists, "WORKSPACE_EXISTS"));

    // a failure isn't bound: the same request_id works once the request is right
    let wrong = CreateWorkspaceRequest {
        request_id: "three".into(),
        spec: Some(spec("c", "no-such-runtime")),
        ..CreateWorkspaceRequest::default()
    };
    let refused = create(&mut tenant, wrong.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let fields = refused.get_details_bad_request().unwrap().field_violations;
    assert_eq!(fields[0].field, "spec.runtime");
    assert!(fields[0].description.contains("claude-code"), "{fields:?}");
    create(&mut tenant, CreateWorkspaceRequest { spec: Some(spec("c", "demo")), ..wrong }).await.unwrap();

    // deletion is final, repeatable, and legal at once
    tenant.delete(&id).await.unwrap();
    let stop = StopWorkspaceRequest { workspace_id: id.clone(), ..Default::default() };
    let late = tenant.client.stop_workspace(stop).await.unwrap_err();
    assert_eq!((late.code(), reason(&late).as_str()), (Code::FailedPrecondition, "WORKSPACE_DELETED"));
    let deleted = tenant.get(&id).await.unwrap();
    assert_eq!(deleted.state(), WorkspaceState::Deleted);
    assert!(deleted.delete_time.is_some());
    let missing =
        DeleteWorkspaceRequest { workspace_id: uuid::Uuid::new_v4().to_string(), ..Default::default() };
    assert_eq!(tenant.client.delete_workspace(missing.clone()).await.unwrap_err().code(), Code::NotFound);
    let allowed = DeleteWorkspaceRequest { allow_missing: true, ..missing };
    assert!(tenant.client.delete_workspace(allowed).await.unwrap().into_inner().workspace.is_none());
    clear(&mut tenant).await;
    tenant.finish().await.unwrap();
}

async fn lists_have_pages_and_filters(mut tenant: Stand) {
    let mut made = Vec::new();
    for n in 0..5 {
        let mut spec = spec(&format!("w{n}"), "demo");
        spec.labels.insert("parity".into(), if n % 2 == 0 { "even" } else { "odd" }.into());
        made.push(tenant.create(spec).await.unwrap().workspace_id);
    }
    let mut seen = Vec::new();
    let mut request = ListWorkspacesRequest { page_size: 2, ..Default::default() };
    loop {
        let page = tenant.client.list_workspaces(request.clone()).await.unwrap().into_inner();
        assert!(page.workspaces.len() <= 2);
        seen.extend(page.workspaces.into_iter().map(|workspace| workspace.workspace_id));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(seen, made);

    // a token belongs to its list and arguments, and to nobody who changes it
    let page = tenant.client.list_workspaces(ListWorkspacesRequest { page_size: 2, ..Default::default() });
    let token = page.await.unwrap().into_inner().next_page_token;
    for (page_token, filter) in [(format!("{token}x"), ""), (token, "name = w1")] {
        let request = ListWorkspacesRequest { page_token, filter: filter.into(), ..Default::default() };
        let status = tenant.client.list_workspaces(request).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "INVALID_PAGE_TOKEN"));
    }
    for (filter, count) in
        [("labels.parity = even", 3), ("labels.parity != even AND name = \"w1\"", 1), ("state = DELETED", 0)]
    {
        let request = ListWorkspacesRequest { filter: filter.into(), ..Default::default() };
        let found = tenant.client.list_workspaces(request).await.unwrap().into_inner().workspaces;
        assert_eq!(found.len(), count, "{filter}");
    }
    let wrong = ListWorkspacesRequest { filter: "colour = red".into(), ..Default::default() };
    let status = tenant.client.list_workspaces(wrong).await.unwrap_err();
    assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, "filter");
    clear(&mut tenant).await;
    let deleted = ListWorkspacesRequest { show_deleted: true, ..Default::default() };
    assert_eq!(tenant.client.list_workspaces(deleted).await.unwrap().into_inner().workspaces.len(), 5);
    tenant.finish().await.unwrap();
}

async fn updates_follow_mask_and_etag(mut tenant: Stand) {
    let created = tenant.create(spec("before", "demo")).await.unwrap();
    let id = created.workspace_id.clone();
    let up = tenant.reaches(&id, WorkspaceState::Running).await.unwrap();
    let update = |paths: &[&str], etag: &str, spec: WorkspaceSpec| UpdateWorkspaceRequest {
        workspace_id: id.clone(),
        spec: Some(spec),
        update_mask: Some(FieldMask { paths: paths.iter().map(|&path| path.to_owned()).collect() }),
        etag: etag.to_owned(),
        ..Default::default()
    };
    // a name is no reason for another instance
    let renamed =
        tenant.client.update_workspace(update(&["name"], &up.etag, spec("after", "x"))).await.unwrap();
    let renamed = renamed.into_inner().workspace.unwrap();
    assert_eq!((renamed.spec.clone().unwrap().name.as_str(), renamed.generation), ("after", 1));
    assert_eq!(renamed.spec.unwrap().runtime, "demo", "the mask did not name the runtime");

    let stale =
        tenant.client.update_workspace(update(&["name"], &up.etag, spec("late", "x"))).await.unwrap_err();
    assert_eq!((stale.code(), reason(&stale).as_str()), (Code::Aborted, "STALE_ETAG"));
    let unknown = tenant.client.update_workspace(update(&["nmae"], "", spec("x", "x"))).await.unwrap_err();
    assert_eq!(unknown.get_details_bad_request().unwrap().field_violations[0].field, "update_mask");

    // another environment is
    let mut other = spec("x", "x");
    other.env.insert("NEW".into(), "1".into());
    tenant.client.update_workspace(update(&["env"], "", other)).await.unwrap();
    let replaced = tenant
        .until(&id, "RUNNING in generation 2", |w| w.generation == 2 && w.state() == WorkspaceState::Running);
    assert_eq!(replaced.await.unwrap().spec.unwrap().env["NEW"], "1");
    clear(&mut tenant).await;
    tenant.finish().await.unwrap();
}

async fn a_watch_has_no_gap_and_no_duplicate_and_resumes(mut tenant: Stand) {
    let before = tenant.create(spec("before", "demo")).await.unwrap();
    tenant.reaches(&before.workspace_id, WorkspaceState::Running).await.unwrap();
    let mut stream =
        tenant.client.watch_workspaces(WatchWorkspacesRequest::default()).await.unwrap().into_inner();
    let Some(Event::Snapshot(snapshot)) = stream.next().await.unwrap().unwrap().event else {
        panic!("a snapshot first")
    };
    assert_eq!(snapshot.workspace_id, before.workspace_id);
    let Some(Event::Bookmark(bookmark)) = stream.next().await.unwrap().unwrap().event else {
        panic!("then a bookmark")
    };

    let after = tenant.create(spec("after", "demo")).await.unwrap();
    tenant.reaches(&after.workspace_id, WorkspaceState::Running).await.unwrap();
    tenant.delete(&after.workspace_id).await.unwrap();
    let mut live = Vec::new();
    while let Some(message) = stream.next().await {
        if let Some(Event::Change(change)) = message.unwrap().event {
            live.push((change.revision, change.state()));
            if change.state() == WorkspaceState::Deleted {
                break;
            }
        }
    }
    let revisions: Vec<u64> = live.iter().map(|(revision, _)| *revision).collect();
    let in_order = revisions.windows(2).all(|pair| pair[0] < pair[1]) && revisions[0] > bookmark.revision;
    assert!(in_order, "every revision once, in order");

    // resumed from anywhere, the rest is the same: from the history this time
    for skip in [0, 2, revisions.len() - 1] {
        let after_revision = if skip == 0 { bookmark.revision } else { revisions[skip - 1] };
        let request = WatchWorkspacesRequest { after_revision, filter: String::new() };
        let mut stream = tenant.client.watch_workspaces(request).await.unwrap().into_inner();
        let mut resumed = Vec::new();
        while resumed.len() < live.len() - skip {
            if let Some(Event::Change(change)) = stream.next().await.unwrap().unwrap().event {
                resumed.push((change.revision, change.state()));
            }
        }
        assert_eq!(resumed, live[skip..]);
    }
    let future = WatchWorkspacesRequest { after_revision: u64::MAX / 4, filter: String::new() };
    let status = tenant.client.watch_workspaces(future).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::OutOfRange, "REVISION_TOO_OLD"));
    clear(&mut tenant).await;
    tenant.finish().await.unwrap();
}

async fn nothing_is_open_without_the_token(mut tenant: Stand) {
    let channel = tenant.setup.channel().await.unwrap();
    for token in ["wrong", ""] {
        let mut stranger = client(channel.clone(), token).unwrap();
        let status = stranger.list_workspaces(ListWorkspacesRequest::default()).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "UNAUTHENTICATED"));
        assert!(stranger.watch_workspaces(WatchWorkspacesRequest::default()).await.is_err());
    }
    let info = tenant.client.get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner();
    let expected = match tenant.mode {
        stand::Mode::SelfHosted => Mode::SelfHosted,
        stand::Mode::Saas => Mode::Saas,
    };
    assert_eq!((info.mode(), info.backend.as_str()), (expected, "docker"));
    let runtimes = tenant.client.list_runtimes(ListRuntimesRequest { page_size: 3, ..Default::default() });
    let page = runtimes.await.unwrap().into_inner();
    assert_eq!(page.runtimes.len(), 3);
    assert!(!page.next_page_token.is_empty());
    tenant.finish().await.unwrap();
}

async fn output_is_streamed(mut tenant: Stand) {
    let created = tenant.create(spec("talks", "demo")).await.unwrap();
    let id = created.workspace_id;
    tenant.reaches(&id, WorkspaceState::Running).await.unwrap();
    let request = StreamWorkspaceLogsRequest { workspace_id: id.clone(), follow: true, tail_lines: 0 };
    let mut stream = tenant.client.stream_workspace_logs(request).await.unwrap().into_inner();
    let mut text = String::new();
    while !text.contains("begins with") {
        text.push_str(&String::from_utf8_lossy(&stream.next().await.unwrap().unwrap().data));
    }
    assert!(text.contains(&id), "{text}");
    clear(&mut tenant).await;
    tenant.finish().await.unwrap();
}

/// A server that drains tells its watchers to go elsewhere.
async fn a_drained_server_ends_its_streams(mut tenant: Stand) {
    let mut stream =
        tenant.client.watch_workspaces(WatchWorkspacesRequest::default()).await.unwrap().into_inner();
    assert!(stream.next().await.unwrap().is_ok());
    let stopped = tokio::spawn(tenant.finish());
    let status = loop {
        match stream.next().await.expect("it ends with a status") {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "DRAINING"));
    stopped.await.unwrap().unwrap();
}

fn python_tool(name: &str) -> PathBuf {
    let folder = std::env::var_os("MOLECULE_PYTHON_TOOLS").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/tools/python/bin"),
        PathBuf::from,
    );
    let tool = folder.join(name);
    assert!(tool.exists(), "{} is missing: run the tests through `cargo xtask test`", tool.display());
    tool
}

/// Python's grpcio and Go's `buf curl` know the API from its reflection alone.
async fn clients_that_are_not_ours_work(mut tenant: Stand) {
    let (address, token) = (tenant.setup.address(), tenant.setup.token().unwrap());
    let python = python_tool("python");
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("python/client.py");
    let (at, secret) = (address.clone(), token.clone());
    let ran =
        tokio::task::spawn_blocking(move || Command::new(python).arg(script).args([at, secret]).output());
    let ran = ran.await.unwrap().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert!(String::from_utf8_lossy(&ran.stdout).contains("WORKSPACE_STATE_RUNNING"), "{ran:?}");

    let buf = python_tool("buf");
    let url = format!("http://{address}/molecule.tenant.v1.WorkspaceService/GetServerInfo");
    let ran = tokio::task::spawn_blocking(move || {
        let header = format!("authorization: Bearer {token}");
        Command::new(buf)
            .args([
                "curl",
                "--protocol",
                "grpc",
                "--http2-prior-knowledge",
                "--header",
                &header,
                "--data",
                "{}",
                &url,
            ])
            .output()
    });
    let ran = ran.await.unwrap().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert!(String::from_utf8_lossy(&ran.stdout).contains("\"mode\":"), "{ran:?}");
    clear(&mut tenant).await;
    tenant.finish().await.unwrap();
}

/// What one mode can't do is declared, and refused by name.
async fn what_a_mode_can_do_it_declares(mut tenant: Stand) {
    let info = tenant.client.get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner();
    assert!(info.capabilities.iter().any(|capability| capability == "logs.stream"));
    let mut bound = spec("bound", "demo");
    bound.mount = Some(WorkspaceMount { access: MountAccess::ReadOnly.into(), host_path: "/srv".into() });
    let refused = tenant.create(bound).await.unwrap_err();
    // no roots are allowed here; where folders can't be bound at all, it says so
    assert_eq!(refused.code(), Code::InvalidArgument);
    let fields = refused.get_details_bad_request().unwrap().field_violations;
    assert_eq!(fields[0].field, "spec.mount.host_path");
    let can = info.capabilities.iter().any(|capability| capability == "mount.host_path");
    assert_eq!(can, tenant.mode == stand::Mode::SelfHosted);
    assert_eq!(can, fields[0].description.contains("WORKSPACE_ROOTS"), "{fields:?}");
    tenant.finish().await.unwrap();
}
