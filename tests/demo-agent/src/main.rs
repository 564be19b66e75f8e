//! A small agent for demonstrations and tests. It does what agents do: registers, sends heartbeats, answers
//! A2A messages. `demo-agent drop UID COMMAND…` is an entrypoint that chowns its volumes and drops to a user,
//! as real images' do; `demo-agent exit CODE` ends at once;
//! `demo-agent probe HOST:PORT` ends well if HTTP is spoken there; `demo-agent stamp` says when it began.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => serve(),
        ["drop", uid, command @ ..] => drop_to(uid.parse()?, command),
        ["stamp"] => stamp(),
        ["probe", address] => probe(address),
        ["exit", code] => {
            eprintln!("the demo agent ends with {code}, as it was told");
            std::process::exit(code.parse()?)
        }
        other => bail!("unknown arguments: {other:?}"),
    }
}

/// Says when it began, for benchmarks, and stays.
#[allow(clippy::disallowed_methods)] // the moment itself is what is measured
fn stamp() -> anyhow::Result<()> {
    let began = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    println!("began {}", began.as_micros());
    loop {
        std::thread::park();
    }
}

/// Asks something at an address for an HTTP answer; fails unless one comes.
fn probe(address: &str) -> anyhow::Result<()> {
    let address = address.parse().context("HOST:PORT")?;
    let mut stream = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(3))?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = [0; 4];
    std::io::Read::read_exact(&mut stream, &mut answer)?;
    anyhow::ensure!(&answer == b"HTTP", "an answer, but not HTTP");
    Ok(())
}

/// Gives `/configs` and `/workspace` to a user and becomes a command of theirs.
fn drop_to(uid: u32, command: &[&str]) -> anyhow::Result<()> {
    for folder in ["/configs", "/workspace"] {
        give(folder.as_ref(), uid).with_context(|| format!("chown {folder}"))?;
    }
    let (program, arguments) = command.split_first().context("nothing to become")?;
    Err(Command::new(program).args(arguments).gid(uid).uid(uid).exec().into())
}

fn give(path: &std::path::Path, uid: u32) -> std::io::Result<()> {
    std::os::unix::fs::lchown(path, Some(uid), Some(uid))?;
    if path.is_dir() {
        for entry in std::fs::read_dir(path)? {
            give(&entry?.path(), uid)?;
        }
    }
    Ok(())
}

struct Agent {
    id: String,
    platform: String,
    token: String,
    began: Instant,
    answered: AtomicU64,
}

#[tokio::main(flavor = "current_thread")]
async fn serve() -> anyhow::Result<()> {
    let agent = Arc::new(Agent {
        id: std::env::var("WORKSPACE_ID").context("WORKSPACE_ID")?,
        platform: std::env::var("PLATFORM_URL").context("PLATFORM_URL")?,
        token: std::fs::read_to_string("/configs/.auth_token").context("/configs/.auth_token")?,
        began: Instant::now(),
        answered: AtomicU64::new(0),
    });
    let config = std::fs::read_to_string("/configs/config.yaml").context("/configs/config.yaml")?;
    println!("the demo agent of workspace {} begins with:\n{config}", agent.id);
    std::io::stdout().flush()?;
    // what a runtime must be able to write
    std::fs::write("/workspace/.demo", &agent.id).or_else(|error| match error.kind() {
        std::io::ErrorKind::ReadOnlyFilesystem => Ok(()),
        _ => Err(error),
    })?;
    std::fs::write("/tmp/.demo", &agent.id).context("/tmp")?;

    let listener = tokio::net::TcpListener::bind("0.0.0.0:8000").await.context("port 8000")?;
    let routes = Router::new()
        .route("/", post(message))
        .route("/.well-known/agent-card.json", get(async || Json(card())))
        .route(
            "/environment",
            get(async || Json(std::env::vars().collect::<std::collections::BTreeMap<_, _>>())),
        )
        .with_state(Arc::clone(&agent));
    tokio::spawn(speak(agent));
    // PID 1's child gets the signal; ending at once is all there is to do
    let ended = async {
        let mut signal =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).expect("signals");
        signal.recv().await;
    };
    axum::serve(listener, routes).with_graceful_shutdown(ended).await?;
    Ok(())
}

fn card() -> Value {
    json!({ "name": "demo", "description": "answers what it is told", "version": "1", "skills": [] })
}

/// Answers an A2A `message/send` with what it was told.
async fn message(State(agent): State<Arc<Agent>>, Json(request): Json<Value>) -> Json<Value> {
    let count = agent.answered.fetch_add(1, Ordering::Relaxed) + 1;
    let said = request["params"]["message"]["parts"][0]["text"].as_str().unwrap_or_default();
    if said == "end yourself" {
        println!("the demo agent ends, as it was told");
        std::process::exit(3);
    }
    let text = format!("message {count} from the demo agent: you said {said:?}");
    Json(json!({
        "jsonrpc": "2.0",
        "id": request["id"],
        "result": {
            "kind": "message",
            "role": "agent",
            "messageId": format!("{}-{count}", agent.id),
            "parts": [{ "kind": "text", "text": text }],
        },
    }))
}

/// Registers once, then sends heartbeats.
async fn speak(agent: Arc<Agent>) {
    if std::env::var_os("DEMO_SILENT").is_some() {
        return;
    }
    let every = std::env::var("DEMO_HEARTBEAT_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(30);
    let register = json!({ "id": agent.id, "url": "http://127.0.0.1:8000", "agent_card": card() });
    if let Err(error) = tell(&agent, "/registry/register", &register).await {
        eprintln!("not registered: {error:#}");
    }
    loop {
        tokio::time::sleep(Duration::from_secs(every)).await;
        let heartbeat = json!({
            "workspace_id": agent.id,
            "error_rate": std::env::var("DEMO_ERROR_RATE").ok().and_then(|r| r.parse::<f64>().ok()).unwrap_or(0.0),
            "sample_error": "",
            "active_tasks": 0,
            "current_task": "",
            "uptime_seconds": agent.began.elapsed().as_secs(),
        });
        if let Err(error) = tell(&agent, "/registry/heartbeat", &heartbeat).await {
            eprintln!("no heartbeat: {error:#}");
        }
    }
}

async fn tell(agent: &Agent, path: &str, body: &Value) -> anyhow::Result<()> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let request = hyper::Request::post(format!("{}{path}", agent.platform))
        .header("authorization", format!("Bearer {}", agent.token.trim()))
        .header("x-workspace-id", &agent.id)
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body.to_string())))?;
    let response = client.request(request).await?;
    let status = response.status();
    let answer = response.into_body().collect().await?.to_bytes();
    if !status.is_success() {
        bail!("{path}: {status}: {}", String::from_utf8_lossy(&answer));
    }
    Ok(())
}
