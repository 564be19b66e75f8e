//! Around every call: a span with a request id, a bound on calls in flight, a deadline, and a net for panics.
//!
//! One service does all of it, because their order matters: the span sees what the others answer, a call that
//! is shed costs nothing else, and the deadline covers the handler only. tonic's own layers would answer
//! other codes: its load shed `RESOURCE_EXHAUSTED`, its timeout CANCELLED.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use molecule_domain::error::{Error, ErrorReason, StoredWish};
use molecule_telemetry::{metrics, trace};
use tokio::sync::Semaphore;
use tonic::body::Body;
use tower::{Layer, Service};
use tracing::{Span, info_span};

use crate::status::to_status;

/// What every call is held to.
#[derive(Clone, Debug)]
pub struct Guard {
    in_flight: Arc<Semaphore>,
    default_deadline: Duration,
    /// Paths of the methods that there are: callers may ask for any other, and each would be measured by itself.
    methods: Arc<HashSet<String>>,
}

impl Guard {
    /// At most so many calls at once; a call without a deadline of its own has this one.
    pub fn new(in_flight: usize, default_deadline: Duration) -> Self {
        Self { in_flight: Arc::new(Semaphore::new(in_flight)), default_deadline, methods: Arc::default() }
    }

    /// The same, measuring these methods (`/package.Service/Method`) by name and all others together.
    #[must_use]
    pub fn measuring(self, methods: impl IntoIterator<Item = String>) -> Self {
        Self { methods: Arc::new(methods.into_iter().collect()), ..self }
    }

    /// The name that a call is measured under.
    fn measured<'a>(&self, path: &'a str) -> &'a str {
        if self.methods.contains(path) { path } else { "other" }
    }
}

/// When a call is broken off. Every guarded request has it among its extensions.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(pub tokio::time::Instant);

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Guarded { inner, guard: self.clone() }
    }
}

/// A guarded service.
#[derive(Clone, Debug)]
pub struct Guarded<S> {
    inner: S,
    guard: Guard,
}

impl<S> Service<http::Request<Body>> for Guarded<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        // the clone that was polled ready is the one to be called
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let guard = self.guard.clone();
        let method = request.uri().path().to_owned();
        let span = info_span!(
            "rpc",
            otel.name = method,
            otel.kind = "server",
            method,
            request_id = request_id(&request),
            code = tracing::field::Empty,
            ms = tracing::field::Empty,
        );
        trace::continue_from_headers(&span, request.headers());
        let call = async move {
            let began = Instant::now();
            // Held until the answer begins: a stream that goes on does not count as in flight.
            let Ok(_permit) = guard.in_flight.try_acquire() else {
                let error =
                    Error::new(ErrorReason::Overloaded, "too many calls are in flight; try again shortly");
                let shed = answer(&error.with_retry_after(Duration::from_millis(500)));
                return Ok(finish(shed, guard.measured(&method), began));
            };
            let deadline = deadline(request.headers()).map_or(guard.default_deadline, earlier);
            let ends_at = tokio::time::Instant::now() + deadline;
            request.extensions_mut().insert(Deadline(ends_at));
            let handled = AssertUnwindSafe(inner.call(request)).catch_unwind();
            let response = match tokio::time::timeout_at(ends_at, handled).await {
                Ok(Ok(result)) => result?,
                Ok(Err(_panic)) => answer(&unfinished(Error::internal("a handler panicked"))),
                Err(_) => {
                    let passed = Error::new(ErrorReason::DeadlineExceeded, "the call's deadline passed");
                    answer(&unfinished(passed))
                }
            };
            Ok(finish(response, guard.measured(&method), began))
        };
        Box::pin(trace::within(span, call))
    }
}

/// The caller's own request id where it sends one that is fit to be logged.
fn request_id(request: &http::Request<Body>) -> String {
    let sent = request.headers().get("x-request-id").and_then(|value| value.to_str().ok());
    match sent.filter(|id| (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic())) {
        Some(id) => id.to_owned(),
        None => uuid::Uuid::new_v4().to_string(),
    }
}

/// The error of a call that was broken off: what it had stored by then stays.
fn unfinished(error: Error) -> Error {
    Error { stored: StoredWish::Unknown, ..error }
}

fn answer(error: &Error) -> http::Response<Body> {
    to_status(error).into_http()
}

fn finish(response: http::Response<Body>, method: &str, began: Instant) -> http::Response<Body> {
    let code = response.headers().get("grpc-status").and_then(|code| code.to_str().ok()).unwrap_or("0");
    let span = Span::current();
    span.record("code", code);
    span.record("ms", u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
    metrics::rpc(method, code, began.elapsed());
    tracing::debug!("answered");
    response
}

/// Strictly before tonic's own timer, which would answer CANCELLED.
fn earlier(asked: Duration) -> Duration {
    asked.saturating_sub((asked / 10).min(Duration::from_millis(10)))
}

/// The caller's `grpc-timeout`: up to eight digits and a unit
/// (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).
fn deadline(headers: &http::HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use tower::{ServiceExt, service_fn};

    use super::*;

    async fn code_of<F>(
        guard: Guard,
        timeout: Option<&str>,
        handler: impl Fn() -> F + Clone + Send + 'static,
    ) -> String
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let service = guard.layer(service_fn(move |_: http::Request<Body>| {
            let handled = handler();
            async move {
                handled.await;
                Ok::<_, std::convert::Infallible>(http::Response::new(Body::default()))
            }
        }));
        let mut request = http::Request::new(Body::default());
        if let Some(timeout) = timeout {
            request.headers_mut().insert("grpc-timeout", timeout.parse().unwrap());
        }
        let response = service.oneshot(request).await.unwrap();
        response.headers().get("grpc-status").map_or("0", |code| code.to_str().unwrap()).to_owned()
    }

    fn guard(in_flight: usize) -> Guard {
        Guard::new(in_flight, Duration::from_secs(60))
    }

    #[tokio::test(start_paused = true)]
    async fn a_passed_deadline_is_deadline_exceeded() {
        let slow = || tokio::time::sleep(Duration::from_secs(3));
        assert_eq!(code_of(guard(1), Some("2S"), slow).await, "4");
        assert_eq!(code_of(guard(1), Some("4S"), slow).await, "0");
        let slower = || tokio::time::sleep(Duration::from_secs(61));
        assert_eq!(code_of(guard(1), None, slower).await, "4");
    }

    #[tokio::test]
    async fn too_many_calls_are_unavailable_and_a_panic_is_internal() {
        assert_eq!(code_of(guard(0), None, || async {}).await, "14");
        assert_eq!(code_of(guard(1), None, || async { panic!("in a test") }).await, "13");
    }

    #[test]
    fn only_known_methods_are_measured_by_name() {
        let guard = guard(1).measuring(["/a.Service/Method".to_owned()]);
        assert_eq!(guard.measured("/a.Service/Method"), "/a.Service/Method");
        assert_eq!(guard.measured("/a.Service/Invented-1"), "other");
    }

    #[test]
    fn timeouts_are_read_as_the_protocol_has_them() {
        let read = |text: &str| {
            deadline(&http::HeaderMap::from_iter([("grpc-timeout".parse().unwrap(), text.parse().unwrap())]))
        };
        assert_eq!(read("100m"), Some(Duration::from_millis(100)));
        assert_eq!(read("2M"), Some(Duration::from_secs(120)));
        for bad in ["", "5", "S", "-1S", "123456789S", "5X"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
