//! Peak memory of a training run: a fresh process for each side, so that nothing is counted twice.

use super::peer::{Peer, TRAIN};
use super::works::Work;
use crate::failure::Failure;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

/// Bytes that each side's process had at its peak, and those of the peer before it had a model. The peer
/// runs eagerly: compiling would count its compiler too.
pub fn measure(work: &Work, peer: &str) -> Result<Value, Failure> {
    let mut process = Peer::start(peer, TRAIN)?;
    let started = process.about["rss_bytes"].clone();
    let peak = process.peak_memory(work)?;
    drop(process);
    Ok(json!({ "ours": own_peak(work)?, "peer": peak, "peer_before": started }))
}

fn own_peak(work: &Work) -> Result<u64, Failure> {
    let program = std::env::current_exe().map_err(|e| Failure::file("find", Path::new("lyceum"), &e))?;
    let only = format!("{}:{}", work.name, work.precision_name());
    let threads = lyceum_kernels::pool::threads().to_string();
    let found = Command::new(&program)
        .args(["bench", "train", "--only", &only, "--rounds", "1", "--json", "--threads", &threads])
        .output()
        .map_err(|error| Failure::file("run", &program, &error))?;
    let report: Value = serde_json::from_slice(&found.stdout).map_err(|error| {
        Failure::internal(format!("{only} in a process of its own gave no report"), &error)
    })?;
    let peak = report["machine"]["peak_rss_bytes"].as_u64();
    peak.ok_or_else(|| {
        Failure::usage(
            "this system does not say how much memory a process had",
            "there is no /proc/self/status",
            "leave --memory out",
        )
    })
}
