//! Asks tenant-svc for the bundle.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use molecule_domain::bundle::{Bundle, BundleRequest};
use ureq::Agent;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

use crate::Error;

/// How long tenant-svc may be away before this gives up; the engine starts the instance again then.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE_BASE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// An HTTP client that trusts the bundled roots, or only the pinned CA.
pub(crate) fn agent(ca: Option<&Path>) -> Result<Agent, Error> {
    let roots = match ca {
        None => RootCerts::WebPki,
        Some(path) => {
            let bad = |cause: String| Error::BadCa { path: path.to_owned(), cause };
            let pem = std::fs::read(path).map_err(|error| bad(error.to_string()))?;
            let mut certificates = Vec::new();
            for item in parse_pem(&pem) {
                if let PemItem::Certificate(certificate) = item.map_err(|error| bad(error.to_string()))? {
                    certificates.push(certificate);
                }
            }
            if certificates.is_empty() {
                return Err(bad("there is no certificate in it".to_owned()));
            }
            RootCerts::new_with_certs(&certificates)
        }
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = TlsConfig::builder().unversioned_rustls_crypto_provider(provider).root_certs(roots).build();
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(20)))
        // a proxy meant for the runtime must not see the bundle
        .proxy(None)
        .tls_config(tls)
        .build();
    Ok(config.into())
}

/// The bundle, for a bootstrap token with a nonce or for a credential without.
pub(crate) fn bundle(agent: &Agent, url: &str, token: &str, nonce: Option<String>) -> Result<Bundle, Error> {
    let request =
        serde_json::to_vec(&BundleRequest { nonce }).map_err(|e| Error::BadBundle(e.to_string()))?;
    let started = Instant::now();
    let mut pause = PAUSE_BASE;
    loop {
        match ask(agent, url, token, &request) {
            Err(error) if is_passing(&error) && started.elapsed() + pause < PATIENCE => {
                eprintln!("workspace-init: {error}; trying again");
                std::thread::sleep(pause);
                pause = (pause * 2).min(PAUSE_MAX);
            }
            result => return result,
        }
    }
}

fn is_passing(error: &Error) -> bool {
    match error {
        Error::Unreachable { .. } => true,
        Error::Refused { status, .. } => *status >= 500 || *status == 429,
        _ => false,
    }
}

fn ask(agent: &Agent, url: &str, token: &str, request: &[u8]) -> Result<Bundle, Error> {
    let unreachable =
        |cause: ureq::Error| Error::Unreachable { url: url.to_owned(), cause: cause.to_string() };
    let mut response = agent
        .post(format!("{}/bootstrap", url.trim_end_matches('/')))
        .header("authorization", format!("Bearer {token}"))
        .header("content-type", "application/json")
        .send(request)
        .map_err(unreachable)?;
    let status = response.status().as_u16();
    let body = response.body_mut().with_config().limit(16 << 20).read_to_vec().map_err(unreachable)?;
    if status != 200 {
        let message = String::from_utf8_lossy(&body[..body.len().min(500)]).trim().to_owned();
        return Err(Error::Refused { status, message });
    }
    serde_json::from_slice(&body).map_err(|error| Error::BadBundle(error.to_string()))
}
