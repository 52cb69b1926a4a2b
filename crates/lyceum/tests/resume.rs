//! `kill -9` at five moments of a run, each followed by `lyceum jobs resume`: the weights are those of the run
//! that was never stopped, byte for byte. One model of each family, with accumulation and early stopping on.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping")]

use serde_json::Value;
use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const KILLS: usize = 5;
/// Early stopping watches, and is too patient to end a run; its state must survive all the same.
const TRAIN: &str = "batch_size = 8\naccumulate = 3\ngrad_clip = 1.0\ncheckpoint_every = 3\neval_every = 4\n\
                     early_stopping = { metric = \"valid_loss\", patience = 1000 }\n\
                     optimizer = { name = \"adamw\", lr = 3e-3 }\nschedule = { name = \"cosine\", warmup_steps = 5 }\n";

fn lyceum(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lyceum"));
    command.args(arguments).args(["--json", "--threads", "1", "--data-dir"]).arg(folder);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The `done` line.
fn done(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_default();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(last).unwrap()
}

fn weights(done: &Value) -> Vec<u8> {
    std::fs::read(Path::new(done["path"].as_str().unwrap()).join("model.safetensors")).unwrap()
}

fn table(columns: usize) -> String {
    let mut text = (0..columns).map(|c| format!("x{c},")).collect::<String>() + "label\n";
    for row in 0..90 {
        for column in 0..columns {
            write!(text, "{},", ((row * 31 + column * 17) % 23) as f64 / 7.0 - 1.0).unwrap();
        }
        writeln!(text, "{}", ["no", "yes"][(row * 5 / 3) % 2]).unwrap();
    }
    text
}

fn check(name: &str, file: &str, content: &str, head: &str) {
    check_with(name, (file, content), head, "");
}

/// `train` joins the lines of `[train]`.
fn check_with(name: &str, (file, content): (&str, &str), head: &str, train: &str) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(file), content).unwrap();
    let spec = folder.path().join("spec.toml");
    std::fs::write(
        &spec,
        format!("name = \"{name}\"\nseed = 3\n{head}\n[train]\nsteps = 60\n{TRAIN}{train}"),
    )
    .unwrap();
    let spec = spec.to_str().unwrap();

    let straight = folder.path().join("straight");
    let started = Instant::now();
    let wanted = done(&lyceum(&straight, &["train", spec]).output().unwrap());
    let whole = started.elapsed();

    let broken = folder.path().join("broken");
    let mut child = lyceum(&broken, &["train", spec]).spawn().unwrap();
    let mut job = None;
    for kill in 0..KILLS {
        // Somewhere in the run, another place each time; a run that has ended is not killed any more.
        std::thread::sleep(
            whole.mul_f64(0.15 + 0.13 * ((kill * 7 + name.len()) % 5) as f64) + Duration::from_millis(3),
        );
        child.kill().unwrap();
        child.wait().unwrap();
        let listed = lyceum(&broken, &["jobs", "ls"]).output().unwrap();
        let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
        let Some(id) = listed["jobs"][0]["id"].as_str() else {
            // Killed before the job was written: it starts over.
            child = lyceum(&broken, &["train", spec]).spawn().unwrap();
            continue;
        };
        job = Some(id.to_owned());
        child = lyceum(&broken, &["jobs", "resume", id]).spawn().unwrap();
    }
    child.wait().unwrap();
    let job = job.expect("a kill left a job behind");
    let found = done(&lyceum(&broken, &["jobs", "resume", &job]).output().unwrap());
    assert_eq!(found["steps"], wanted["steps"], "{name}: steps");
    assert!(weights(&found) == weights(&wanted), "{name}: the weights differ from those of the straight run");
}

const TABLE: &str =
    "task = \"classification\"\n[data]\ntrain = \"a.csv\"\ntarget = \"label\"\nvalid_fraction = 0.2\n";

#[test]
fn a_perceptron_resumes_to_the_same_weights() {
    let head = format!("{TABLE}[model]\nfamily = \"mlp\"\nhidden = [16]\ndropout = 0.2\n");
    check("mlp", "a.csv", &table(6), &head);
}

/// Attacks start from random points and noise is drawn: all of it follows from the seed and the step.
#[test]
fn training_against_changes_resumes_to_the_same_weights() {
    let head = format!("{TABLE}[model]\nfamily = \"mlp\"\nhidden = [16]\ndropout = 0.2\n");
    for (name, robust) in [
        ("adversarial", "method = \"adversarial\", eps = 0.1, steps = 5"),
        ("trades", "method = \"trades\", eps = 0.1, beta = 3.0"),
        ("noise", "method = \"noise\", std = 0.25"),
    ] {
        check_with(name, ("a.csv", &table(6)), &head, &format!("robust = {{ {robust} }}\n"));
    }
}

#[test]
fn a_convolutional_network_resumes_to_the_same_weights() {
    let head = format!(
        "{TABLE}input = {{ type = \"image\", shape = [1, 6, 6], scale = 1.0 }}\n[model]\nfamily = \"cnn\"\n\
         conv = [{{ channels = 4, kernel = 3, norm = \"batch\", pool = 2 }}]\n"
    );
    check("cnn", "a.csv", &table(36), &head);
}

#[test]
fn recurrent_networks_resume_to_the_same_weights() {
    for family in ["rnn", "lstm", "gru"] {
        let head = format!(
            "{TABLE}input = {{ type = \"series\", channels = 2 }}\n[model]\nfamily = \"{family}\"\n\
             hidden_size = 8\nnum_layers = 2\ndropout = 0.2\n"
        );
        check(family, "a.csv", &table(12), &head);
    }
}

#[test]
fn a_transformer_decoder_resumes_to_the_same_weights() {
    let text = "the cat sat on the mat and the dog sat on the log; ".repeat(30);
    let head = "task = \"language_modeling\"\n[data]\ntrain = \"a.txt\"\nvalid_fraction = 0.2\ntokenizer = \"char\"\n\
                [model]\nfamily = \"transformer\"\nvariant = \"decoder\"\nd_model = 16\nnhead = 2\nnum_layers = 2\n\
                dim_feedforward = 32\ncontext = 16\nnorm_first = true\ndropout = 0.1\n";
    check("decoder", "a.txt", &text, head);
}

#[test]
fn a_transformer_encoder_resumes_to_the_same_weights() {
    let rows: String =
        (0..90).map(|i| format!("{} went home,{}\n", ["ann", "bob"][i % 2], ["a", "b"][i % 2])).collect();
    let head = format!(
        "{TABLE}input = {{ type = \"text\", max_tokens = 24 }}\ntokenizer = \"byte\"\n[model]\nfamily = \"transformer\"\n\
         variant = \"encoder\"\nd_model = 16\nnhead = 2\nnum_layers = 1\ndim_feedforward = 32\ncontext = 24\n"
    );
    check("encoder", "a.csv", &format!("text,label\n{rows}"), &head);
}

#[test]
fn a_transformer_of_both_resumes_to_the_same_weights() {
    let rows: String =
        (0..90).map(|i| format!("{{\"source\":\"{i}+{}\",\"target\":\"{}\"}}\n", i % 7, i + i % 7)).collect();
    let head = "task = \"sequence_to_sequence\"\n[data]\ntrain = \"a.jsonl\"\nvalid_fraction = 0.2\n\
                tokenizer = \"char\"\n[model]\nfamily = \"transformer\"\nvariant = \"encoder_decoder\"\nd_model = 16\n\
                nhead = 2\nnum_layers = 1\ndim_feedforward = 32\ncontext = 12\ndropout = 0.1\n";
    check("pair", "a.jsonl", &rows, head);
}

#[test]
fn a_training_is_paused_and_goes_on_when_it_is_asked_to() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.csv"), table(6)).unwrap();
    let spec = folder.path().join("spec.toml");
    let text = format!(
        "name = \"slow\"\nseed = 3\n{TABLE}[model]\nfamily = \"mlp\"\nhidden = [16]\n[train]\nsteps = 4000000\n\
         batch_size = 8\ncheckpoint_every = 1000\n"
    );
    std::fs::write(&spec, text).unwrap();
    let data = folder.path().join("data");
    let job = || {
        let listed = lyceum(&data, &["jobs", "ls"]).output().unwrap();
        serde_json::from_slice::<Value>(&listed.stdout).unwrap()["jobs"][0].clone()
    };
    let begun = Instant::now();
    let until = |is_so: &dyn Fn(&Value) -> bool| loop {
        let found = job();
        if is_so(&found) {
            return found;
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "{found}");
        std::thread::sleep(Duration::from_millis(50));
    };
    let mut child = lyceum(&data, &["train", spec.to_str().unwrap()]).stderr(Stdio::null()).spawn().unwrap();
    let running = until(&|job| job["step"].as_u64() > Some(0));
    let id = running["id"].as_str().unwrap();
    let asked = lyceum(&data, &["jobs", "pause", id]).output().unwrap();
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    child.wait().unwrap();
    let paused = job();
    assert_eq!(paused["status"], "paused");
    let mut child = lyceum(&data, &["jobs", "resume", id]).stderr(Stdio::null()).spawn().unwrap();
    until(&|job| job["step"].as_u64() > paused["step"].as_u64());
    assert!(lyceum(&data, &["jobs", "cancel", id]).output().unwrap().status.success());
    child.wait().unwrap();
    let again = lyceum(&data, &["jobs", "pause", "job_00000000000000000000000000000000"]).output().unwrap();
    assert_eq!(again.status.code(), Some(3), "no such job");
}
