//! Trace context as text (W3C Trace Context, <https://www.w3.org/TR/trace-context/>): carried by headers, and stored with
//! what was asked for, so that whoever takes it up later, in whichever process, goes on with the same trace.

use std::collections::HashMap;

use opentelemetry::Context;
use opentelemetry::global::get_text_map_propagator;
use opentelemetry::propagation::Extractor;
use opentelemetry::trace::TraceContextExt;
use tracing::{Instrument, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The header.
pub const HEADER: &str = "traceparent";

/// The current span's context; empty where nothing is traced.
pub fn current() -> String {
    let mut carrier: HashMap<String, String> = HashMap::new();
    let context = Span::current().context();
    get_text_map_propagator(|propagator| propagator.inject_context(&context, &mut carrier));
    carrier.remove(HEADER).unwrap_or_default()
}

/// Does something within a span, and ends that with it. A span that is merely entered may live much longer: HTTP clients
/// keep the span in which they connected for as long as the connection lives, and it would not be told of before.
pub async fn within<F: Future>(span: Span, what: F) -> F::Output {
    let done = what.instrument(span.clone()).await;
    span.context().span().end();
    done
}

/// Makes a new span, which was not entered yet, a child of what a text names; an empty or malformed one changes nothing.
pub fn continue_from(span: &Span, traceparent: &str) {
    if traceparent.is_empty() {
        return;
    }
    let carrier = HashMap::from([(HEADER.to_owned(), traceparent.to_owned())]);
    set_parent(span, &carrier);
}

/// The same from the headers of a call.
pub fn continue_from_headers(span: &Span, headers: &http::HeaderMap) {
    if headers.contains_key(HEADER) {
        set_parent(span, &Headers(headers));
    }
}

fn set_parent(span: &Span, carrier: &dyn Extractor) {
    let context: Context = get_text_map_propagator(|propagator| propagator.extract(carrier));
    // fails where nothing is traced
    let _ = span.set_parent(context);
}

struct Headers<'a>(&'a http::HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}
