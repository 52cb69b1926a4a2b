//! Spans that a collector of this process receives, as OTLP over HTTP in JSON.

#![expect(clippy::unwrap_used, reason = "tests say what they expect by unwrapping")]

use lyceum_api::otel::Collector;
use lyceum_engine::{Engine, EngineLimits};
use lyceum_service::Service;
use lyceum_store::keys::{self, KeyGrant};
use lyceum_store::{Layout, Store};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{KeyScope, Project};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use tokio::sync::oneshot;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// Answers 200 to all, and gives what came: the path, the headers and the body.
fn collector() -> (SocketAddr, mpsc::Receiver<(String, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (got, all) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut head, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap() == 0 || line == "\r\n" {
                    break;
                }
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                head += &line;
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}").unwrap();
            if got.send((head, String::from_utf8(body).unwrap())).is_err() {
                return;
            }
        }
    });
    (address, all)
}

fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_a_span_of_its_callers_trace_and_tells_nothing_that_was_sent() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(Layout::new(dir.path()), Timestamp::now()).await.unwrap();
    let grant = KeyGrant { name: "test".into(), scopes: vec![KeyScope::Admin], expires_at: None };
    let made = keys::create(&store, &Project::default_project(), grant, Timestamp::now()).await.unwrap();
    let key = made.1.reveal().to_owned();
    let service = Arc::new(Service::new(store, Engine::start(EngineLimits::default()).unwrap()));
    let (to, received) = collector();
    let variable = move |name: &str| match name {
        "OTEL_EXPORTER_OTLP_ENDPOINT" => Some(format!("http://{to}")),
        "OTEL_EXPORTER_OTLP_HEADERS" => Some("x-collector=mine".to_owned()),
        _ => None,
    };
    let collector = Collector::of(variable).unwrap().unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let until = async {
        let _ = stopped.await;
    };
    let server = tokio::spawn(lyceum_api::serve_traced(listener, service, collector, until));
    let answers = tokio::task::spawn_blocking(move || {
        let body = r#"{"model":"canary-model","prompt":"canary-prompt"}"#;
        let n = body.len();
        let of = |flags: &str| {
            format!(
                "POST /v1/completions?canary=query HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\nx-canary: canary-header\r\n\
                 traceparent: 00-{TRACE}-{PARENT}-{flags}\r\ncontent-type: application/json\r\ncontent-length: {n}\r\n\
                 connection: close\r\n\r\n{body}"
            )
        };
        (ask(address, &of("00")), ask(address, &of("01")), key)
    });
    let (unsampled, answer, key) = answers.await.unwrap();
    assert!(unsampled.starts_with("HTTP/1.1 404") && answer.starts_with("HTTP/1.1 404"), "{answer}");
    stop.send(()).unwrap();
    server.await.unwrap().unwrap();

    let (head, body) = received.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(head.starts_with("POST /v1/traces HTTP/1.1") && head.contains("x-collector: mine"), "{head}");
    let told: Value = serde_json::from_str(&body).unwrap();
    let scope = &told["resourceSpans"][0]["scopeSpans"][0];
    let spans = scope["spans"].as_array().unwrap();
    assert_eq!(spans.len(), 1, "who does not record the trace gets no span of it: {body}");
    let span = &spans[0];
    assert_eq!((span["traceId"].as_str(), span["parentSpanId"].as_str()), (Some(TRACE), Some(PARENT)));
    assert_eq!((span["name"].as_str(), span["kind"].as_i64()), (Some("POST /v1/completions"), Some(2)));
    let id = span["spanId"].as_str().unwrap();
    assert!(id.len() == 16 && id != PARENT);
    let of = |key: &str| {
        let found = span["attributes"].as_array().unwrap().iter().find(|attribute| attribute["key"] == key);
        found.map(|attribute| attribute["value"].clone()).unwrap_or_default()
    };
    assert_eq!(of("http.response.status_code")["intValue"], "404");
    let request = of("lyceum.request_id")["stringValue"].as_str().unwrap().to_owned();
    assert!(answer.contains(&format!("x-request-id: {request}")), "{answer}");
    let nanos = |field: &str| span[field].as_str().unwrap().parse::<u128>().unwrap();
    assert!(nanos("startTimeUnixNano") > 1_700_000_000_000_000_000);
    assert!(nanos("endTimeUnixNano") >= nanos("startTimeUnixNano"));
    for secret in ["canary", key.as_str()] {
        assert!(!body.contains(secret), "{secret} in {body}");
    }
    assert!(received.try_recv().is_err());
}
