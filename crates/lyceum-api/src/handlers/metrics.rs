//! `GET /metrics`: Prometheus' text format.

use crate::Api;
use crate::error::ErrorBody;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use std::fmt::Write;
use std::sync::atomic::Ordering;

/// Counts of requests, and what waits in the engine.
#[utoipa::path(get, path = "/metrics", tag = "operations", responses(
    (status = 200, body = String, content_type = "text/plain"), (status = 401, body = ErrorBody)))]
pub async fn metrics(State(api): State<Api>) -> Response {
    let text = text(&api);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

fn text(api: &Api) -> String {
    let mut out = String::new();
    let finished = api.counters.finished();
    family(&mut out, "lyceum_http_requests_total", "counter", "Requests answered.");
    for ((method, route, status), finished) in &finished {
        let labels = format!("method=\"{method}\",route=\"{route}\",status=\"{status}\"");
        line(&mut out, "lyceum_http_requests_total", &labels, finished.requests as f64);
    }
    family(&mut out, "lyceum_http_request_seconds_sum", "counter", "Seconds until answers began.");
    for ((method, route, status), finished) in &finished {
        let labels = format!("method=\"{method}\",route=\"{route}\",status=\"{status}\"");
        line(&mut out, "lyceum_http_request_seconds_sum", &labels, finished.seconds);
    }
    family(&mut out, "lyceum_login_failures_total", "counter", "Requests whose key was refused.");
    for (code, count) in lyceum_service::standing::login_failures(&api.service) {
        line(&mut out, "lyceum_login_failures_total", &format!("code=\"{code}\""), count as f64);
    }
    let load = api.service.engine().load();
    for (name, help, value) in [
        (
            "lyceum_http_requests_in_flight",
            "Requests under way.",
            api.counters.in_flight.load(Ordering::Relaxed) as f64,
        ),
        ("lyceum_models_loaded", "Versions in memory.", api.service.residents().len() as f64),
        ("lyceum_predictions_queued", "Predictions that wait in the engine.", load.predictions_queued as f64),
        ("lyceum_sequences", "Sequences that wait or run in the engine.", load.sequences as f64),
        ("lyceum_kv_pages_used", "Pages of keys and values that sequences hold.", load.kv_pages_used as f64),
    ] {
        family(&mut out, name, "gauge", help);
        line(&mut out, name, "", value);
    }
    if let Some(bytes) = resident_bytes() {
        let name = "process_resident_memory_bytes";
        family(&mut out, name, "gauge", "Memory that the process holds.");
        line(&mut out, name, "", bytes as f64);
    }
    out
}

/// None where the system does not say.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
}

fn family(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(out: &mut String, name: &str, labels: &str, value: f64) {
    let _ = match labels {
        "" => writeln!(out, "{name} {value}"),
        labels => writeln!(out, "{name}{{{labels}}} {value}"),
    };
}
