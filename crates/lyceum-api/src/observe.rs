//! Around every request: an id, a line in the log without any content, a count for `/metrics`.

use crate::Api;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use lyceum_service::guard::flags::{self, Flags};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tracing::Instrument;

pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// What the project's guard reports and leaves as it is: `input:EMAIL_ADDRESS=2, output:IBAN_CODE=1`.
pub const GUARD_FLAGGED: HeaderName = HeaderName::from_static("x-guard-flagged");

/// Counts since the start.
#[derive(Debug, Default)]
pub struct Counters {
    pub in_flight: AtomicU64,
    /// By method, route and status. Routes are those of the table, so the map is bounded.
    finished: Mutex<BTreeMap<(String, String, u16), Finished>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Finished {
    pub requests: u64,
    /// Until the answer's head was ready; a stream goes on after it.
    pub seconds: f64,
}

impl Counters {
    fn count(&self, method: &str, route: &str, status: u16, seconds: f64) {
        let mut finished = self.finished.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let entry = finished.entry((method.to_owned(), route.to_owned(), status)).or_default();
        entry.requests += 1;
        entry.seconds += seconds;
    }

    pub fn finished(&self) -> BTreeMap<(String, String, u16), Finished> {
        self.finished.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }
}

/// A client that left before the head of its answer; the number is nginx's.
const LEFT: u16 = 499;

/// A request without an answer yet; it counts once, also when it is dropped because its client left.
struct UnderWay<'a> {
    counters: &'a Counters,
    called: [&'a str; 2],
    span: &'a tracing::Span,
    began: Instant,
    status: u16,
}

impl<'a> UnderWay<'a> {
    fn new(counters: &'a Counters, called: [&'a str; 2], span: &'a tracing::Span) -> Self {
        counters.in_flight.fetch_add(1, Ordering::Relaxed);
        UnderWay { counters, called, span, began: Instant::now(), status: LEFT }
    }

    fn answered(mut self, status: u16) {
        self.status = status;
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let UnderWay { counters, called: [method, route], status, .. } = *self;
        counters.in_flight.fetch_sub(1, Ordering::Relaxed);
        let seconds = self.began.elapsed().as_secs_f64();
        counters.count(method, route, status, seconds);
        let told = if status == LEFT { "its client left" } else { "answered" };
        self.span.in_scope(|| tracing::info!(status, ms = seconds * 1e3, "{told}"));
    }
}

/// What a request is called in the log, in its answer and in the ledger.
#[derive(Clone, Debug)]
pub struct RequestId(pub String);

impl RequestId {
    pub fn new() -> Self {
        RequestId(format!("req_{}", uuid::Uuid::now_v7().simple()))
    }
}

pub async fn observe(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let RequestId(id) = RequestId::new();
    request.extensions_mut().insert(RequestId(id.clone()));
    let method = request.method().as_str().to_owned();
    let matched = request.extensions().get::<MatchedPath>();
    let route = matched.map_or_else(|| "unmatched".to_owned(), |path| path.as_str().to_owned());
    let span = tracing::info_span!("request", id = %id, method = %method, route = %route);
    #[cfg(feature = "otel")]
    let traced = api.traces.begin(request.headers());
    let under_way = UnderWay::new(&api.counters, [&method, &route], &span);
    let flags = Arc::new(Flags::default());
    let work = flags::scope(flags.clone(), next.run(request));
    let mut response = work.instrument(span.clone()).await;
    under_way.answered(response.status().as_u16());
    // Of a stream what came in: its head leaves before anything is said.
    let flagged: Vec<String> =
        flags.counts().iter().map(|(direction, kind, n)| format!("{direction}:{kind}={n}")).collect();
    if let (false, Ok(value)) = (flagged.is_empty(), HeaderValue::from_str(&flagged.join(", "))) {
        response.headers_mut().insert(GUARD_FLAGGED, value);
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    #[cfg(feature = "otel")]
    if let Some(mut traced) = traced {
        traced.answered(&method, &route, response.status(), &id);
        response = crate::otel::until_its_end(response, traced);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_counts_once_whether_it_is_answered_or_left() {
        let (counters, span) = (Counters::default(), tracing::Span::none());
        let begin = || UnderWay::new(&counters, ["POST", "/v1/completions"], &span);
        let (answered, left) = (begin(), begin());
        assert_eq!(counters.in_flight.load(Ordering::Relaxed), 2);
        answered.answered(200);
        drop(left);
        assert_eq!(counters.in_flight.load(Ordering::Relaxed), 0);
        let counted: Vec<(u16, u64)> = counters
            .finished()
            .iter()
            .map(|((_, _, status), finished)| (*status, finished.requests))
            .collect();
        assert_eq!(counted, [(200, 1), (LEFT, 1)]);
    }
}
