//! The channel to another service of ours: TLS, keepalive, a deadline for every call, and retries within a budget.

use std::str::FromStr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use molecule_telemetry::trace;
use secrecy::{ExposeSecret, SecretString};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Uri};
use tonic::{Code, Request, Status};

/// How long a call without a deadline of its caller's may take.
pub const DEADLINE: Duration = Duration::from_secs(20);
/// How long making a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);
const TRIES: u32 = 4;

/// An address that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// It is no URL of a service.
    #[error("{0:?} is not a URL of a service: it must begin with https:// or http:// and name a host")]
    Url(String),
    /// Plain text would leave the machine.
    #[error("{0} is not encrypted and not this machine: use https://, or allow plain text explicitly")]
    Plain(String),
    /// The authority can't be used.
    #[error("the authority can't be used")]
    Tls(#[source] tonic::transport::Error),
}

/// A channel that connects when it is first used, and again whenever it must.
///
/// Several addresses, separated by commas, are replicas of one service that calls are spread over. `authority` is
/// the only authority to be trusted, as PEM; `None` are the system's. Plain text goes to the loopback only, unless
/// `allow_plain`.
pub fn channel(urls: &str, authority: Option<&str>, allow_plain: bool) -> Result<Channel, ChannelError> {
    let endpoints = urls.split(',').map(|url| endpoint(url.trim(), authority, allow_plain));
    let mut endpoints = endpoints.collect::<Result<Vec<_>, _>>()?;
    if endpoints.len() == 1
        && let Some(only) = endpoints.pop()
    {
        return Ok(only.connect_lazy());
    }
    Ok(Channel::balance_list(endpoints.into_iter()))
}

/// Whether [`channel`] could use these.
pub fn check_url(urls: &str, allow_plain: bool) -> Result<(), ChannelError> {
    urls.split(',').try_for_each(|url| parse(url.trim(), allow_plain).map(drop))
}

fn parse(url: &str, allow_plain: bool) -> Result<(Uri, String), ChannelError> {
    let bad = || ChannelError::Url(url.to_owned());
    let uri = Uri::from_str(url).map_err(|_| bad())?;
    let host = uri.host().ok_or_else(bad)?.to_owned();
    match uri.scheme_str() {
        Some("https") => Ok((uri, host)),
        Some("http") if allow_plain || is_loopback(&host) => Ok((uri, host)),
        Some("http") => Err(ChannelError::Plain(url.to_owned())),
        _ => Err(bad()),
    }
}

fn endpoint(url: &str, authority: Option<&str>, allow_plain: bool) -> Result<Endpoint, ChannelError> {
    let (uri, host) = parse(url, allow_plain)?;
    let endpoint = Endpoint::from(uri.clone())
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(Duration::from_secs(30)))
        .http2_keep_alive_interval(Duration::from_secs(15))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true);
    if uri.scheme_str() != Some("https") {
        return Ok(endpoint);
    }
    let tls = ClientTlsConfig::new().domain_name(host);
    let tls = match authority {
        Some(pem) => tls.ca_certificate(Certificate::from_pem(pem)),
        None => tls.with_native_roots(),
    };
    endpoint.tls_config(tls).map_err(ChannelError::Tls)
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Adds a bearer token to every call.
#[derive(Clone)]
pub struct Bearer(MetadataValue<Ascii>);

impl Bearer {
    /// With this token; `None` where it holds what no header can.
    pub fn new(token: &SecretString) -> Option<Self> {
        let mut value: MetadataValue<Ascii> = format!("Bearer {}", token.expose_secret()).parse().ok()?;
        value.set_sensitive(true);
        Some(Self(value))
    }
}

impl std::fmt::Debug for Bearer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bearer(..)")
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        if let Ok(context) = trace::current().parse::<MetadataValue<Ascii>>()
            && !context.is_empty()
        {
            request.metadata_mut().insert(trace::HEADER, context);
        }
        Ok(request)
    }
}

/// Bounds retries to a share of calls, so that a service that is down is not asked many times as often: every
/// call adds a tenth of a retry, up to ten.
#[derive(Debug)]
pub struct RetryBudget(AtomicI64);

const WHOLE: i64 = 10;
const FULL: i64 = 10 * WHOLE;

impl Default for RetryBudget {
    fn default() -> Self {
        Self(AtomicI64::new(FULL))
    }
}

impl RetryBudget {
    fn earn(&self) {
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some((left + 1).min(FULL)));
    }

    fn spend(&self) -> bool {
        let spent = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            (left >= WHOLE).then_some(left - WHOLE)
        });
        spent.is_ok()
    }

    /// Makes a repeatable call, again where the answer is UNAVAILABLE and the budget lasts.
    pub async fn call<T, F>(&self, call: impl Fn() -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        self.earn();
        let mut tries = 1;
        loop {
            match call().await {
                Err(status) if status.code() == Code::Unavailable && tries < TRIES && self.spend() => {
                    tokio::time::sleep(PAUSE * 2_u32.pow(tries)).await;
                    tries += 1;
                }
                result => return result,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[allow(clippy::disallowed_methods)] // what a server that knows nothing of ours answers
    fn http_status(code: Code) -> Status {
        Status::new(code, "in a test")
    }

    #[tokio::test]
    async fn plain_text_stays_on_the_machine() {
        for good in ["http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1", "https://api.example"] {
            assert!(channel(good, None, false).is_ok(), "{good}");
        }
        assert!(matches!(channel("http://10.0.0.1:1", None, false), Err(ChannelError::Plain(_))));
        assert!(channel("http://10.0.0.1:1", None, true).is_ok());
        for bad in ["", "api.example", "ftp://x", "https://"] {
            assert!(channel(bad, None, true).is_err(), "{bad}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn retries_are_for_what_is_unavailable_and_have_a_budget() {
        let (budget, calls) = (RetryBudget::default(), AtomicU32::new(0));
        let fails = |code| {
            let calls = &calls;
            move || async move {
                calls.fetch_add(1, Ordering::Relaxed);
                Err::<(), _>(http_status(code))
            }
        };
        let _ = budget.call(fails(Code::NotFound)).await;
        assert_eq!(calls.swap(0, Ordering::Relaxed), 1);
        for _ in 0..100 {
            let _ = budget.call(fails(Code::Unavailable)).await;
        }
        // a hundred first tries, ten retries at once, and a tenth of a retry earned by each call
        let made = calls.load(Ordering::Relaxed);
        assert!((119..=121).contains(&made), "{made}");
    }
}
