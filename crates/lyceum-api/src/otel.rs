//! Traces of requests for an OpenTelemetry collector: one server span a request, sent as OTLP over HTTP in JSON
//! (<https://opentelemetry.io/docs/specs/otlp/>), with the caller's trace continued where a `traceparent` header names one
//! (<https://www.w3.org/TR/trace-context/>).
//!
//! A span has the method, the route of the table, the status and the request's id, and nothing that a client wrote: no
//! path, query, header, body or key. A thread of its own sends; where the collector is slow or gone, spans are dropped
//! and counted, and no request waits.

use axum::body::{Body, HttpBody};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use futures_util::StreamExt;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const SPANS_WAITING_MAX: usize = 4096;
const SPANS_SENT_AT_ONCE: usize = 512;
/// How long a span waits for others to go with.
const GATHER: Duration = Duration::from_millis(500);
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Where spans go, in the words of OpenTelemetry's own variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    /// The whole URL, which ends in `/v1/traces`.
    url: String,
    service_name: String,
    headers: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable}: {why}")]
pub struct CollectorError {
    pub variable: &'static str,
    pub why: &'static str,
}

impl Collector {
    /// What the variables say: `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, or `OTEL_EXPORTER_OTLP_ENDPOINT`, to which the path
    /// is added; `OTEL_SERVICE_NAME`; `OTEL_EXPORTER_OTLP_HEADERS`. None where there is no endpoint.
    ///
    /// # Errors
    /// Values that cannot be what they are meant for.
    pub fn of(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, CollectorError> {
        const TRACES: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
        const ALL: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
        const HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";
        let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let (name, url) = match (set(TRACES), set(ALL)) {
            (Some(url), _) => (TRACES, url),
            (None, Some(url)) => (ALL, format!("{}/v1/traces", url.trim_end_matches('/'))),
            (None, None) => return Ok(None),
        };
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(CollectorError { variable: name, why: "must begin with http:// or https://" });
        }
        let mut headers = Vec::new();
        for pair in set(HEADERS).unwrap_or_default().split(',').filter(|pair| !pair.trim().is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(CollectorError { variable: HEADERS, why: "must be name=value, …" });
            };
            headers.push((key.trim().to_owned(), value.trim().to_owned()));
        }
        let service_name = set("OTEL_SERVICE_NAME").unwrap_or_else(|| "lyceum".into());
        Ok(Some(Collector { url, service_name, headers }))
    }
}

/// Takes spans; clones are the same, and without a collector it takes none.
#[derive(Clone, Default)]
pub struct Traces {
    sender: Option<Arc<Sender>>,
}

struct Sender {
    spans: SyncSender<Value>,
    n_dropped: Arc<AtomicU64>,
}

/// Ends the sending when nothing takes spans any more.
pub struct Sending {
    thread: JoinHandle<()>,
}

impl Traces {
    /// Starts the thread that sends.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn to(collector: Collector) -> std::io::Result<(Self, Sending)> {
        let (spans, inbox) = sync_channel(SPANS_WAITING_MAX);
        let n_dropped = Arc::new(AtomicU64::new(0));
        let counted = n_dropped.clone();
        let thread = std::thread::Builder::new()
            .name("otel".into())
            .spawn(move || send_all(&collector, &inbox, &counted))?;
        Ok((Traces { sender: Some(Arc::new(Sender { spans, n_dropped })) }, Sending { thread }))
    }

    /// A span that begins now; None where there is no collector, or the caller's trace is not recorded.
    pub(crate) fn begin(&self, headers: &HeaderMap) -> Option<Span> {
        let sender = self.sender.clone()?;
        let parent = headers.get("traceparent").and_then(|value| value.to_str().ok()).and_then(Parent::read);
        if parent.as_ref().is_some_and(|parent| !parent.is_sampled) {
            return None;
        }
        let (trace, parent) = match parent {
            Some(parent) => (parent.trace, Some(parent.span)),
            None => (random::<16>()?, None),
        };
        let id = random::<8>()?;
        Some(Span { sender, trace, id, parent, began: (SystemTime::now(), Instant::now()), told: None })
    }
}

impl Sending {
    /// Waits, within a bound, until what was taken is sent; every [`Traces`] must be gone.
    pub async fn end(self) {
        let joined = tokio::task::spawn_blocking(move || {
            let until = Instant::now() + CLOSE_TIMEOUT;
            while !self.thread.is_finished() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        // An error is a panic of that loop, which has none.
        let _ = joined.await;
    }
}

/// A request under way. It is sent when it is dropped: a stream holds it until its last byte.
pub(crate) struct Span {
    sender: Arc<Sender>,
    trace: String,
    id: String,
    parent: Option<String>,
    began: (SystemTime, Instant),
    told: Option<Value>,
}

impl Span {
    /// What is known of it when its answer begins.
    pub fn answered(&mut self, method: &str, route: &str, status: StatusCode, request: &str) {
        let text = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
        let code = i64::from(status.as_u16()).to_string();
        let is_fault = status.is_server_error();
        self.told = Some(json!({
            "traceId": self.trace, "spanId": self.id, "parentSpanId": self.parent.as_deref().unwrap_or(""),
            "name": format!("{method} {route}"), "kind": 2,
            "attributes": [
                text("http.request.method", method),
                text("http.route", route),
                {"key": "http.response.status_code", "value": {"intValue": code}},
                text("lyceum.request_id", request),
            ],
            "status": if is_fault { json!({"code": 2}) } else { json!({}) },
        }));
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        // A client that left before there was an answer leaves no span: nothing was decided yet.
        let Some(mut told) = self.told.take() else { return };
        let (began, clock) = self.began;
        let start = began.duration_since(UNIX_EPOCH).unwrap_or_default();
        told["startTimeUnixNano"] = start.as_nanos().to_string().into();
        told["endTimeUnixNano"] = (start + clock.elapsed()).as_nanos().to_string().into();
        if self.sender.spans.try_send(told).is_err() {
            self.sender.n_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Holds the span until the answer's last byte, where its length is not known: until its client leaves, at the latest.
pub(crate) fn until_its_end(response: Response, span: Span) -> Response {
    let (parts, body) = response.into_parts();
    if body.size_hint().exact().is_some() {
        return Response::from_parts(parts, body);
    }
    let body = body.into_data_stream().map(move |item| {
        let _held = &span;
        item
    });
    Response::from_parts(parts, Body::from_stream(body))
}

/// What a `traceparent` names: `00-TRACE-SPAN-FLAGS`.
struct Parent {
    trace: String,
    span: String,
    is_sampled: bool,
}

impl Parent {
    /// None for what the specification calls invalid: the request then begins a trace of its own.
    fn read(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('-').collect();
        let [version, trace, span, flags, rest @ ..] = parts.as_slice() else { return None };
        let is_hex = |text: &str, n: usize| {
            text.len() == n && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        };
        let is_known = is_hex(version, 2) && *version != "ff" && (*version != "00" || rest.is_empty());
        let is_some = |text: &str| text.bytes().any(|byte| byte != b'0');
        if !is_known || !is_hex(trace, 32) || !is_hex(span, 16) || !is_hex(flags, 2) {
            return None;
        }
        let is_sampled = u8::from_str_radix(flags, 16).is_ok_and(|flags| flags & 1 == 1);
        (is_some(trace) && is_some(span)).then(|| Parent {
            trace: (*trace).to_owned(),
            span: (*span).to_owned(),
            is_sampled,
        })
    }
}

/// `N` random bytes, hexadecimal; None where the system has none, and then there is no span.
fn random<const N: usize>() -> Option<String> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).ok()?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn send_all(collector: &Collector, inbox: &Receiver<Value>, n_dropped: &AtomicU64) {
    let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(SEND_TIMEOUT)).build().into();
    let mut is_over = false;
    while !is_over {
        let Ok(first) = inbox.recv() else { return };
        let (mut spans, until) = (vec![first], Instant::now() + GATHER);
        while spans.len() < SPANS_SENT_AT_ONCE {
            match inbox.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(span) => spans.push(span),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => {
                    is_over = true;
                    break;
                }
            }
        }
        let n = spans.len() as u64;
        if let Err(error) = send(&agent, collector, spans) {
            let n_dropped = n_dropped.fetch_add(n, Ordering::Relaxed) + n;
            tracing::warn!(%error, n_dropped, "the collector of traces did not take spans");
        }
    }
}

fn send(agent: &ureq::Agent, collector: &Collector, spans: Vec<Value>) -> Result<(), ureq::Error> {
    let text = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
    let resource =
        [text("service.name", &collector.service_name), text("service.version", env!("CARGO_PKG_VERSION"))];
    let body = json!({"resourceSpans": [{
        "resource": {"attributes": resource},
        "scopeSpans": [{"scope": {"name": "lyceum"}, "spans": spans}],
    }]});
    let mut request = agent.post(&collector.url).header("content-type", "application/json");
    for (name, value) in &collector.headers {
        request = request.header(name, value);
    }
    request.send(body.to_string()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_taken_as_the_specification_says() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let valid = format!("00-{trace}-00f067aa0ba902b7-01");
        let read = Parent::read(&valid).unwrap();
        assert_eq!(
            (read.trace.as_str(), read.span.as_str(), read.is_sampled),
            (trace, "00f067aa0ba902b7", true)
        );
        assert!(!Parent::read(&format!("00-{trace}-00f067aa0ba902b7-00")).unwrap().is_sampled);
        assert!(
            Parent::read(&format!("cc-{trace}-00f067aa0ba902b7-01-later")).is_some(),
            "later versions may have more"
        );
        for bad in [
            "".to_owned(),
            format!("ff-{trace}-00f067aa0ba902b7-01"),
            format!("00-{trace}-00f067aa0ba902b7-01-more"),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{trace}-0000000000000000-01"),
            format!("00-{}-00f067aa0ba902b7-01", trace.to_uppercase()),
            format!("00-{trace}-00f067aa0ba902b7"),
        ] {
            assert!(Parent::read(&bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn the_usual_variables_name_the_collector() {
        let of = |pairs: &'static [(&str, &str)]| {
            Collector::of(|name| {
                pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(of(&[]), Ok(None));
        let found = of(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318/"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=b, c = d=e"),
            ("OTEL_SERVICE_NAME", "models"),
        ]);
        let found = found.unwrap().unwrap();
        assert_eq!(
            (found.url.as_str(), found.service_name.as_str()),
            ("http://127.0.0.1:4318/v1/traces", "models")
        );
        assert_eq!(found.headers, [("a".into(), "b".into()), ("c".into(), "d=e".into())]);
        let whole = of(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://c/x")]).unwrap().unwrap();
        assert_eq!(whole.url, "https://c/x");
        assert_eq!(
            of(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "c:4317")]).unwrap_err().variable,
            "OTEL_EXPORTER_OTLP_ENDPOINT"
        );
        let headers = of(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c"), ("OTEL_EXPORTER_OTLP_HEADERS", "a")]);
        assert!(headers.is_err());
    }
}
