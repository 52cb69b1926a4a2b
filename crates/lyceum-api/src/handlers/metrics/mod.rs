//! `GET /metrics`: Prometheus' text format. No label holds a tenant, a model, a key or anything that a client sent.

mod as_vllm;

use crate::Api;
use crate::error::ErrorBody;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use lyceum_service::meter::Figures;
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
    family(
        &mut out,
        "lyceum_http_requests_total",
        "counter",
        "Requests answered, and 499 of clients that left before.",
    );
    for ((method, route, status), finished) in &finished {
        let labels = format!("method=\"{method}\",route=\"{route}\",status=\"{status}\"");
        line(&mut out, "lyceum_http_requests_total", &labels, finished.requests as f64);
    }
    family(&mut out, "lyceum_http_request_seconds_sum", "counter", "Seconds until answers began.");
    for ((method, route, status), finished) in &finished {
        let labels = format!("method=\"{method}\",route=\"{route}\",status=\"{status}\"");
        line(&mut out, "lyceum_http_request_seconds_sum", &labels, finished.seconds);
    }
    ledger(&mut out, &api.service.ledger().figures());
    family(&mut out, "lyceum_login_failures_total", "counter", "Requests whose key was refused.");
    for (code, count) in lyceum_service::standing::login_failures(&api.service) {
        line(&mut out, "lyceum_login_failures_total", &format!("code=\"{code}\""), count as f64);
    }
    family(
        &mut out,
        "lyceum_guard_flagged_total",
        "counter",
        "Findings that guard policies report and leave as they are.",
    );
    for (direction, kind, count) in api.service.flagged().counts() {
        let labels = format!("direction=\"{direction}\",kind=\"{kind}\"");
        line(&mut out, "lyceum_guard_flagged_total", &labels, count as f64);
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
    as_vllm::write(&mut out, api.service.engine());
    if let Some(bytes) = resident_bytes() {
        let name = "process_resident_memory_bytes";
        family(&mut out, name, "gauge", "Memory that the process holds.");
        line(&mut out, name, "", bytes as f64);
    }
    out
}

fn ledger(out: &mut String, figures: &Figures) {
    let counts = figures.totals.counts;
    for (name, help, value) in [
        ("lyceum_ledger_entries_total", "Entries written to the ledger.", figures.totals.entries as f64),
        ("lyceum_ledger_input_tokens_total", "Input tokens of written entries.", counts.input_tokens as f64),
        (
            "lyceum_ledger_output_tokens_total",
            "Output tokens of written entries.",
            counts.output_tokens as f64,
        ),
        ("lyceum_ledger_passes_total", "Rows and passes of written entries.", counts.passes as f64),
        (
            "lyceum_ledger_discarded_tokens_total",
            "Tokens that were made and are not charged: behind a stop text.",
            figures.discarded_tokens as f64,
        ),
        (
            "lyceum_ledger_guards_forgotten_total",
            "Pieces of work that were dropped without an end; anything but 0 is a fault.",
            figures.n_forgotten as f64,
        ),
        (
            "lyceum_ledger_overrun_total",
            "Entries that cost more than was put aside; anything but 0 is a fault.",
            figures.totals.n_over as f64,
        ),
        (
            "lyceum_ledger_failed_commits_total",
            "Groups of entries that the database did not take at once.",
            figures.n_failed_commits as f64,
        ),
        (
            "lyceum_ledger_failed_spool_lines_total",
            "Lines that the spool did not take.",
            figures.n_failed_spool_lines as f64,
        ),
    ] {
        family(out, name, "counter", help);
        line(out, name, "", value);
    }
    for (name, help, value) in [
        ("lyceum_ledger_open", "Pieces of work under way.", figures.n_open as f64),
        ("lyceum_ledger_pending", "Entries that wait to be written.", figures.n_pending as f64),
        ("lyceum_ledger_spool_bytes", "Bytes of the spool.", figures.spool_bytes as f64),
        (
            "lyceum_usage_delta_tokens",
            "Tokens that the engine counted and the ledger does not know of; anything but 0 is a fault.",
            figures.delta_tokens as f64,
        ),
    ] {
        family(out, name, "gauge", help);
        line(out, name, "", value);
    }
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
