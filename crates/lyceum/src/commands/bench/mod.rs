//! `lyceum bench`: our work, and a peer's, in turn on the same machine. Here training steps; `trust` has
//! explanations, private steps, attacks and accounting, `llm` language models, `encoder` vectors of texts.
//!
//! A work is warmed up on both sides, then rounds alternate ours and theirs, so that a machine whose speed
//! drifts drifts for both. Before the speed, the same answer: where the peer gives its start weights, the
//! losses of fifty steps must agree. Nothing here is a test: times belong to benchmarks.

mod encoder;
mod gateway;
mod http;
mod ledger;
mod llm;
mod memory;
mod peer;
mod random;
mod reliability;
mod requests;
mod server;
mod serving;
mod trust;
mod works;

use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use clap::{Args, Subcommand};
use encoder::EncoderBench;
use ledger::LedgerBench;
use llm::LlmBench;
use lyceum_types::control::Control;
use peer::{Peer, TRAIN};
use reliability::ReliabilityBench;
use requests::RequestsBench;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use trust::TrustBench;
use works::{WORKS, Work, Worker};

#[derive(Debug, Args)]
pub struct Bench {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Debug, Subcommand)]
enum Kind {
    /// Training steps and the matrix product
    Train(TrainBench),
    /// Explanations, private steps, attacks and privacy accounting
    Trust(TrustBench),
    /// Prompts read and tokens made by a language model of real sizes
    Llm(LlmBench),
    /// Vectors of texts by an encoder
    Encoder(EncoderBench),
    /// Settlements that are on the disk, and the wait for a key and a reservation
    Ledger(LedgerBench),
    /// What a server keeps under load
    Reliability(ReliabilityBench),
    /// Short requests a second through one server, and how soon it is ready
    Requests(RequestsBench),
}

#[derive(Debug, Args)]
struct TrainBench {
    /// What to compare with: pytorch=PATH, a Python that has it
    #[arg(long, value_name = "NAME=PATH")]
    peer: Option<String>,
    /// Only these works: a name, or a name and a precision (mlp:f32)
    #[arg(long, value_name = "WORK")]
    only: Vec<String>,
    /// Also the peak memory of each training run, in processes of their own
    #[arg(long, requires = "peer")]
    memory: bool,
    /// Rounds, each one measurement of both sides
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Where the result is written as JSON too
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Bench {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let control = context.control.clone();
        let is_json = context.is_json();
        let data_dir = context.config.data_dir.value.clone();
        let served = match self.kind {
            Kind::Reliability(bench) => bench.measure(&control, is_json).await,
            Kind::Requests(bench) => bench.measure(&control, is_json).await,
            here => here.measured_here(control, data_dir, is_json).await,
        };
        if is_json {
            output::json_line(&served?);
        } else {
            served?;
        }
        Ok(())
    }
}

impl Kind {
    /// In this process, on a thread that may block.
    async fn measured_here(
        self,
        control: Control,
        data_dir: PathBuf,
        is_json: bool,
    ) -> Result<Value, Failure> {
        let measure = move || match self {
            Kind::Train(bench) => bench.measure(&control, is_json),
            Kind::Trust(bench) => bench.measure(&control, is_json),
            Kind::Llm(bench) => bench.measure(&control, is_json),
            Kind::Encoder(bench) => bench.measure(&control, is_json),
            Kind::Ledger(bench) => bench.measure(&control, &data_dir, is_json),
            Kind::Reliability(_) | Kind::Requests(_) => {
                unreachable!("a server is measured from outside: bug")
            }
        };
        tokio::task::spawn_blocking(measure)
            .await
            .map_err(|error| Failure::internal("the benchmark broke off", &error))?
    }
}

impl TrainBench {
    fn measure(&self, control: &Control, is_json: bool) -> Result<Value, Failure> {
        let unknown = self.only.iter().find(|name| WORKS.iter().all(|w| !w.is_called(name)));
        if let Some(name) = unknown {
            let known: Vec<String> =
                WORKS.iter().map(|w| format!("{}:{}", w.name, w.precision_name())).collect();
            let why = format!("there are {}", known.join(", "));
            return Err(Failure::usage(format!("no work is called {name:?}"), why, "name one of them"));
        }
        let mut peer = self.peer.as_deref().map(|named| Peer::start(named, TRAIN)).transpose()?;
        let mut rows = Vec::new();
        for work in WORKS.iter().filter(|w| self.only.is_empty() || self.only.iter().any(|n| w.is_called(n)))
        {
            control.check().map_err(|_| Failure::interrupted("nothing was written"))?;
            let mut row = self.one(work, peer.as_mut())?;
            if let Some(peer) = self.peer.as_deref().filter(|_| self.memory && work.is_trained) {
                row["peak_rss_bytes"] = memory::measure(work, peer)?;
            }
            if !is_json {
                output::note(format!("{} {}: {}", work.name, work.precision_name(), summary(&row)));
            }
            rows.push(row);
        }
        let report = report(&rows, peer.as_ref(), self.out.as_deref())?;
        if !is_json {
            table(&rows);
        }
        Ok(report)
    }

    /// One row of the result.
    fn one(&self, work: &Work, mut peer: Option<&mut Peer>) -> Result<Value, Failure> {
        let mut ours = Worker::new(work);
        let mut row = json!({ "work": work.name, "precision": work.precision_name(), "unit": "s" });
        if let Some(peer) = peer.as_deref_mut() {
            if work.is_trained && work.precision_name() == "f32" {
                let found = peer.check(work)?;
                row["loss_difference"] = Value::from(found.difference);
                row["loss_rounding"] = json!({ "ours": found.own_rounding, "peer": found.peer_rounding });
            }
            match peer.prepare(work) {
                Ok(mode) => row["peer_mode"] = Value::from(mode),
                Err(reason) => {
                    row["peer_error"] = Value::from(reason);
                    return Ok(row);
                }
            }
        }
        for _ in 0..3 {
            ours.seconds(work.steps_a_round);
        }
        let (mut mine, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.rounds.max(1) {
            let own = ours.seconds(work.steps_a_round);
            mine.push(own);
            if let Some(peer) = peer.as_deref_mut() {
                let other = peer.run(work)?;
                theirs.push(other);
                ratios.push(other / own);
            }
        }
        row["ours"] = Value::from(median(&mut mine));
        row["rounds"] = Value::from(mine.len());
        if let Some(share) = ours.share_of_peak(self.rounds) {
            row["share_of_peak"] = Value::from(share);
        }
        if !ratios.is_empty() {
            row["peer"] = Value::from(median(&mut theirs));
            row["ratio"] = Value::from(median(&mut ratios));
            row["spread"] = json!([ratios.first(), ratios.last()]);
        }
        Ok(row)
    }
}

/// All rows beside the machine that gave them, also in a file where one is named.
fn report(rows: &[Value], peer: Option<&Peer>, out: Option<&Path>) -> Result<Value, Failure> {
    let report = json!({ "event": "done", "rows": rows, "machine": machine(peer) });
    if let Some(path) = out {
        let text = serde_json::to_string_pretty(&report).expect("a report is plain data: bug");
        std::fs::write(path, text + "\n").map_err(|error| Failure::file("write", path, &error))?;
    }
    Ok(report)
}

/// Sorts, and gives the middle one.
fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

fn machine(peer: Option<&Peer>) -> Value {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find(|l| l.starts_with("model name")).and_then(|l| l.split_once(": "));
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    json!({
        "cpu": model.map_or("unknown", |(_, name)| name),
        "path": lyceum_kernels::cpu::path().name(),
        "bf16_instructions": lyceum_kernels::cpu::has_bf16(),
        "threads": lyceum_kernels::pool::threads(),
        "load": load.split_whitespace().next().unwrap_or_default(),
        "peak_rss_bytes": peak_rss(),
        "peer": peer.map(|p| p.about.clone()),
    })
}

/// The most memory that this process had.
fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

fn milliseconds(value: &Value) -> String {
    value.as_f64().map_or_else(String::new, |s| format!("{:.2} ms", s * 1e3))
}

/// Ours beside the peer's, of which what it had before it had a model.
fn megabytes(peaks: &Value) -> String {
    let mega = |name: &str| peaks[name].as_f64().map(|bytes| format!("{:.0}", bytes / 1e6));
    match (mega("ours"), mega("peer"), mega("peer_before")) {
        (Some(ours), Some(peer), Some(before)) => format!("{ours} / {peer} ({before}) MB"),
        _ => String::new(),
    }
}

fn summary(row: &Value) -> String {
    let ratio = row["ratio"].as_f64().map_or_else(String::new, |r| format!(", {r:.2}× the peer"));
    format!("{}{ratio}", milliseconds(&row["ours"]))
}

fn table(rows: &[Value]) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let spread = &row["spread"];
            let bounds = match (spread[0].as_f64(), spread[1].as_f64()) {
                (Some(low), Some(high)) => format!("{low:.2}–{high:.2}"),
                _ => text(&row["peer_error"]),
            };
            vec![
                text(&row["work"]),
                text(&row["precision"]),
                milliseconds(&row["ours"]),
                milliseconds(&row["peer"]),
                row["ratio"].as_f64().map_or_else(String::new, |r| format!("{r:.2}")),
                bounds,
                row["share_of_peak"].as_f64().map_or_else(String::new, |s| format!("{:.0} %", s * 100.0)),
                row["loss_difference"].as_f64().map_or_else(String::new, |d| format!("{d:.1e}")),
                megabytes(&row["peak_rss_bytes"]),
            ]
        })
        .collect();
    let header =
        ["work", "precision", "ours", "peer", "ratio", "spread", "of peak", "loss difference", "memory"];
    output::table(&header, &cells);
}
