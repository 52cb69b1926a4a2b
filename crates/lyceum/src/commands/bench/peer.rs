//! The other side: a process that takes one JSON object a line and answers with one.
//!
//! The script comes with this program (`bench/peers/`); the Python that has PyTorch does not.

use super::works::{Training, Work};
use crate::failure::{Exit, Failure};
use lyceum_models::batch::{Input, Target};
use lyceum_nn::weights::read_safetensors;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The peer's side of each benchmark.
pub const TRAIN: &str = include_str!("../../../../../bench/peers/pytorch_train.py");
pub const TRUST: &str = include_str!("../../../../../bench/peers/pytorch_trust.py");
pub const ENCODER: &str = include_str!("../../../../../bench/peers/encoder.py");
/// Peers started so far.
static STARTED: AtomicUsize = AtomicUsize::new(0);
/// Steps over which the losses of both sides must agree.
const CHECKED_STEPS: usize = 50;

/// A running peer; it ends with this value.
pub struct Peer {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    /// What it said of itself when it started.
    pub about: Value,
    folder: std::path::PathBuf,
}

/// The largest differences between losses at the same step. Rounding alone leads two right trajectories
/// apart, the farther the longer: f64 tells how far each side was led.
pub struct Agreement {
    /// Ours to the peer's.
    pub difference: f64,
    /// Ours to the peer's in f64.
    pub own_rounding: f64,
    /// The peer's to its own in f64.
    pub peer_rounding: f64,
}

/// The largest difference; NaN where there is one.
fn farthest(a: &[f64], b: &[f64]) -> f64 {
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |m: f64, d| if d > m || d.is_nan() { d } else { m })
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Both may fail when it is gone already, which is what is wanted.
        let _ = writeln!(self.stdin, "{}", json!({ "quit": true }));
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Peer {
    /// `pytorch=PATH`, and the script that it runs.
    pub fn start(named: &str, text: &str) -> Result<Self, Failure> {
        let Some(("pytorch", python)) = named.split_once('=') else {
            let fix = "write --peer pytorch=PATH, the path of a Python that has PyTorch";
            return Err(Failure::usage(format!("no peer is called {named:?}"), "there is pytorch", fix));
        };
        Self::script(python, text, &[])
    }

    /// A script in a Python, with arguments of its own.
    pub fn script(python: &str, text: &str, arguments: &[&str]) -> Result<Self, Failure> {
        // More than one peer may run in a process.
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("lyceum-bench-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).map_err(|error| Failure::file("make", &folder, &error))?;
        let script = folder.join("peer.py");
        std::fs::write(&script, text).map_err(|error| Failure::file("write", &script, &error))?;
        let mut child = Command::new(python)
            .arg(&script)
            .args(arguments)
            .args(["--threads", &lyceum_kernels::pool::threads().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| Failure::file("run", std::path::Path::new(python), &error))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(failed("its pipes are gone"));
        };
        let mut peer = Peer { child, stdin, stdout: BufReader::new(stdout), about: Value::Null, folder };
        peer.about = peer.line()?;
        Ok(peer)
    }

    /// Warms a work up; how the peer does it fastest, or why it cannot.
    pub fn prepare(&mut self, work: &Work) -> Result<String, String> {
        let asked = json!({ "work": work.name, "precision": work.precision_name() });
        let answer = self.ask(&asked).map_err(|failure| failure.message.clone())?;
        match answer["error"].as_str() {
            Some(error) => Err(error.to_owned()),
            None => Ok(answer["mode"].as_str().unwrap_or_default().to_owned()),
        }
    }

    /// Warms up a work that has no precision; how the peer does it fastest.
    pub fn prepare_named(&mut self, work: &str) -> Result<String, Failure> {
        let answer = self.ask(&json!({ "work": work }))?;
        answer["mode"].as_str().map(str::to_owned).ok_or_else(|| failed(&answer.to_string()))
    }

    /// Median seconds of a step of such a work.
    pub fn run_named(&mut self, work: &str, steps: usize) -> Result<f64, Failure> {
        let answer = self.ask(&json!({ "run": work, "steps": steps }))?;
        answer["seconds"].as_f64().ok_or_else(|| failed(&answer.to_string()))
    }

    /// Makes some steps of a work in plain eager mode; the most memory that the process had.
    pub fn peak_memory(&mut self, work: &Work) -> Result<u64, Failure> {
        let asked = json!({ "work": work.name, "precision": work.precision_name(), "compile": false });
        let answer = self.ask(&asked)?;
        answer["peak_rss_bytes"].as_u64().ok_or_else(|| failed(&answer.to_string()))
    }

    /// Median seconds of a step.
    pub fn run(&mut self, work: &Work) -> Result<f64, Failure> {
        let asked =
            json!({ "run": work.name, "precision": work.precision_name(), "steps": work.steps_a_round });
        let answer = self.ask(&asked)?;
        answer["seconds"].as_f64().ok_or_else(|| failed(&answer.to_string()))
    }

    /// Trains from the peer's weights and batches: how far the losses of both sides come apart.
    pub fn check(&mut self, work: &Work) -> Result<Agreement, Failure> {
        let path = self.folder.join(format!("{}.safetensors", work.name));
        let steps = if work.name == "gpt_medium" { 5 } else { CHECKED_STEPS };
        let asked = json!({ "check": work.name, "steps": steps, "path": path.display().to_string() });
        let answer = self.ask(&asked)?;
        let series = |name: &str| -> Result<Vec<f64>, Failure> {
            let found = answer[name].as_array().ok_or_else(|| failed(&answer.to_string()))?;
            Ok(found.iter().map(|loss| loss.as_f64().unwrap_or(f64::NAN)).collect())
        };
        let (theirs, exact) = (series("losses")?, series("losses_exact")?);
        let bytes = std::fs::read(&path).map_err(|error| Failure::file("read", &path, &error))?;
        let tensors = read_safetensors(&bytes).map_err(|error| failed(&error.to_string()))?;
        let mut ours = Training::new(work);
        let params = &mut ours.model.params;
        for id in params.ids().collect::<Vec<_>>() {
            let name = params.name(id).to_owned();
            let tensor = tensors.get(&format!("init.{name}")).ok_or_else(|| failed(&format!("no {name}")))?;
            params.set(id, &tensor.dims, tensor.data.clone()).map_err(|error| failed(&error.to_string()))?;
        }
        let (inputs, targets) = match (tensors.get("batch.input"), tensors.get("batch.target")) {
            (Some(inputs), Some(targets)) => (&inputs.data, &targets.data),
            _ => return Err(failed("its file has no batches")),
        };
        let n = ours.batches.len();
        for (i, batch) in ours.batches.iter_mut().enumerate() {
            let part = |all: &[f32]| all[i * all.len() / n..(i + 1) * all.len() / n].to_vec();
            match &mut batch.input {
                Input::Dense { data, .. } => *data = part(inputs),
                Input::Tokens(tokens) => tokens.ids = part(inputs).iter().map(|&x| x as u32).collect(),
                Input::Pair { .. } => return Err(failed("a pair is no work")),
            }
            let wanted = part(targets).iter().map(|&x| x as i32).collect();
            match &mut batch.target {
                Target::Classes(classes) | Target::Steps(classes) => *classes = wanted,
                Target::Values { .. } | Target::None => return Err(failed("a work has classes")),
            }
        }
        let own: Vec<f64> = theirs.iter().map(|_| f64::from(ours.step())).collect();
        Ok(Agreement {
            difference: farthest(&own, &theirs),
            own_rounding: farthest(&own, &exact),
            peer_rounding: farthest(&theirs, &exact),
        })
    }

    /// One line there, one line back.
    pub fn ask(&mut self, asked: &Value) -> Result<Value, Failure> {
        writeln!(self.stdin, "{asked}").map_err(|error| failed(&error.to_string()))?;
        self.line()
    }

    fn line(&mut self) -> Result<Value, Failure> {
        let mut line = String::new();
        self.stdout.read_line(&mut line).map_err(|error| failed(&error.to_string()))?;
        serde_json::from_str(&line).map_err(|_| failed(&format!("it said {line:?}")))
    }
}

fn failed(why: &str) -> Failure {
    Failure::new(
        Exit::Failed,
        "peer_failed",
        "the peer does not answer",
        why,
        "check that its Python has what its script names",
    )
}
