//! What goes wrong on the way, by seed: answers are lost after the effect, calls are delayed, throttled, fail before and
//! after the effect, and find no capacity.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State as Extracted;
use axum::http::{HeaderMap, Response, StatusCode};

use super::form::{Answer, Form};
use super::front::{Shared, State};

/// How it treats its callers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// Of a hundred calls, how many go wrong.
    pub faults: usize,
    /// How long a machine may be hidden after its launch.
    pub lag: Duration,
    /// How long it is pending.
    pub pending: Duration,
}

/// What befalls a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    LoseAnswer,
    Delay,
    Throttle,
    FailBefore,
    FailAfter,
    NoCapacity,
}

/// One call: counted, met with what the dice say, and done.
pub(super) async fn answer(
    Extracted(shared): Extracted<Arc<Shared>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let header =
        |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let authorization = header("authorization");
    let form = Form::parse(&body);
    let fault = {
        let mut state = shared.lock();
        if state.away {
            return cut_off();
        }
        let action = form.get("Action").to_owned();
        *state.calls.entry(action.clone()).or_default() += 1;
        fault(&mut state, &action)
    };
    let early = match fault {
        Some(Fault::Throttle) => Some(Answer::error(503, "RequestLimitExceeded", "Request limit exceeded.")),
        Some(Fault::FailBefore) => {
            Some(Answer::error(500, "InternalError", "An internal error has occurred"))
        }
        Some(Fault::NoCapacity) => Some(Answer::error(
            500,
            "InsufficientInstanceCapacity",
            "We currently do not have sufficient capacity",
        )),
        Some(Fault::Delay) => {
            tokio::time::sleep(Duration::from_millis(20)).await;
            None
        }
        _ => None,
    };
    if let Some(early) = early {
        return written(early, "text/xml");
    }
    let target = header("x-amz-target");
    let done = if target.is_empty() {
        shared.handle(&form, &body, &authorization).await
    } else {
        let headers = [("x-amz-target", target.clone()), ("content-type", header("content-type"))];
        shared.cloud.other(&body, &authorization, &headers).await
    };
    match (done, fault) {
        (Ok(_), Some(Fault::LoseAnswer)) => cut_off(),
        (Ok(_), Some(Fault::FailAfter)) => {
            written(Answer::error(500, "InternalError", "An internal error has occurred"), "text/xml")
        }
        (Ok(answer), _) if target.is_empty() => written(answer, "text/xml"),
        (Ok(answer), _) => written(answer, "application/x-amz-json-1.1"),
        (Err(error), _) => written(Answer::error(500, "InternalError", &error.to_string()), "text/xml"),
    }
}

fn fault(state: &mut State, action: &str) -> Option<Fault> {
    if state.dice.below(100) >= state.weather.faults {
        return None;
    }
    let all = [
        Fault::LoseAnswer,
        Fault::Delay,
        Fault::Throttle,
        Fault::FailBefore,
        Fault::FailAfter,
        Fault::NoCapacity,
    ];
    let fault = *state.dice.pick(&all);
    (fault != Fault::NoCapacity || action == "RunInstances").then_some(fault)
}

fn written(answer: Answer, kind: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(answer.xml));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Ok(kind) = kind.parse() {
        response.headers_mut().insert("content-type", kind);
    }
    response
}

/// An answer that ends before it has said anything.
fn cut_off() -> Response<Body> {
    let nothing = futures::stream::once(async { Err::<Bytes, _>(std::io::Error::other("cut off")) });
    Response::new(Body::from_stream(nothing))
}
