//! Private jobs through the command line: the calculator, a guarantee in the `done` line, a budget that stops
//! the job that would pass it, and `kill -9` with the same weights and the same ledger after it.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping")]

mod program;

use program::{points, refusal, side};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn lyceum(folder: &Path, data_dir: &str, arguments: &[&str]) -> Command {
    let mut command = program::command(folder, arguments);
    command.args(["--json", "--data-dir", data_dir]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn write(folder: &Path, steps: u64) {
    std::fs::write(folder.join("rows.csv"), points(200, ["x", "y"], side)).unwrap();
    let spec = format!(
        "name = \"points\"\ntask = \"classification\"\nseed = 3\n[data]\ntrain = \"rows.csv\"\ntarget = \"label\"\n\
         standardize = false\ncolumns = {{ x = \"number\", y = \"number\" }}\n[model]\nfamily = \"mlp\"\n\
         hidden = [16]\n[train]\nsteps = {steps}\nbatch_size = 20\ncheckpoint_every = 50\n\
         optimizer = {{ name = \"sgd\", lr = 0.5 }}\n[privacy]\ntype = \"dp_sgd\"\nsigma = 2.0\n\
         target_delta = 1e-4\nmax_grad_norm = 1.0\npublic = [\"rows\", \"labels\"]\ninsecure_seed = 5\n"
    );
    std::fs::write(folder.join("spec.toml"), spec).unwrap();
}

#[test]
fn the_calculator_has_the_contracts_shape() {
    let folder = tempfile::tempdir().unwrap();
    let setting = ["privacy", "epsilon", "--q", "0.01", "--sigma", "1", "--steps", "1000", "--delta", "1e-5"];
    let of = |accountant: &str| {
        let mut arguments = setting.to_vec();
        arguments.extend(["--accountant", accountant]);
        program::done(&lyceum(folder.path(), "d", &arguments).output().unwrap())
    };
    let (rdp, pld) = (of("rdp"), of("pld"));
    assert!((rdp["epsilon"].as_f64().unwrap() - 2.1014).abs() < 1e-3 && rdp["order"].is_f64());
    assert!((pld["epsilon"].as_f64().unwrap() - 1.8282).abs() < 1e-3 && pld.get("order").is_none());
    assert_eq!((&pld["accountant"], &pld["adjacency"]), (&"pld".into(), &"add_remove_one".into()));
    let target = ["privacy", "sigma", "--epsilon", "2", "--q", "0.01", "--steps", "1000", "--delta", "1e-5"];
    let sigma =
        program::done(&lyceum(folder.path(), "d", &target).output().unwrap())["sigma"].as_f64().unwrap();
    assert!((0.9..1.0).contains(&sigma));
    let wrong = ["privacy", "epsilon", "--q", "2", "--sigma", "1", "--steps", "1", "--delta", "1e-5"];
    let (code, error) = refusal(&lyceum(folder.path(), "d", &wrong).output().unwrap());
    assert_eq!((code, &error["code"]), (2, &"usage".into()));
}

#[test]
fn a_budget_stops_the_job_that_would_pass_it() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder, 100);
    let run = |arguments: &[&str]| lyceum(folder, "d", arguments).output().unwrap();
    program::done(&run(&["privacy", "budget", "rows.csv", "--epsilon", "2.5", "--delta", "1e-4"]));
    let done = program::done(&run(&["train", "spec.toml"]));
    let report = &done["privacy"];
    assert!(report["epsilon"].as_f64().unwrap() < 2.5 && report["randomness"] == "insecure_seed", "{report}");
    assert_eq!((&report["events"][0]["steps"], &report["events"][0]["q"]), (&100.into(), &0.1.into()));
    let asked = ["explain", "points", "--input", "[0.5, 0.5]", "--method", "tracin"];
    let (_, error) = refusal(&run(&asked));
    assert_eq!(error["code"], "unsupported_method", "{error}");
    assert!(error["message"].as_str().unwrap().contains("what its noise hides"), "{error}");
    let ledger = program::done(&run(&["privacy", "ledger"]));
    let account = &ledger["data"][0];
    assert_eq!((account["ledger"].as_array().unwrap().len(), &account["budget"]), (1, &2.5.into()));
    assert_eq!(account["epsilon"], report["epsilon"]);
    let audit =
        program::done(&run(&["privacy", "audit", "points", "--members", "rows.csv", "--others", "rows.csv"]));
    let auc = audit["auc"]["value"].as_f64().unwrap();
    assert!((auc - 0.5).abs() < 1e-9 && audit["auc"]["n"] == 400, "{audit}");
    assert_eq!(audit["epsilon_claimed"], report["epsilon"]);
    let measured = program::done(&run(&["eval", "points", "rows.csv"]));
    let missing = measured["baseline_missing"].as_str().unwrap();
    assert!(missing.contains("is private") && !missing.contains("train it again"), "{missing}");
    let (code, error) = refusal(&run(&["train", "spec.toml"]));
    assert_eq!((code, &error["code"]), (6, &"privacy_budget_exceeded".into()), "{error}");
    assert_eq!(program::done(&run(&["privacy", "ledger"])), ledger, "a job that did not start took nothing");
}

#[test]
fn a_file_with_a_budget_is_not_read_without_noise_and_what_read_it_before_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder, 60);
    let private = std::fs::read_to_string(folder.join("spec.toml")).unwrap();
    let (plain, _) = private.split_once("[privacy]").unwrap();
    std::fs::write(folder.join("plain.toml"), plain.replace("\"points\"", "\"plain\"")).unwrap();
    let choice = "name = \"pick\"\ncandidates = \"auto\"\ntask = \"classification\"\n[data]\ntrain = \"rows.csv\"\ntarget = \"label\"\n\
                  valid_fraction = 0.25\n[budget]\nminutes = 0.2\n";
    std::fs::write(folder.join("choice.toml"), choice).unwrap();
    let run = |arguments: &[&str]| lyceum(folder, "d", arguments).output().unwrap();
    program::done(&run(&["train", "plain.toml"]));
    program::done(&run(&["train", "spec.toml"]));
    assert_eq!(
        program::done(&run(&["privacy", "ledger"]))["data"][0]["unprotected"].as_array().unwrap().len(),
        1,
        "it is told beside what noise took"
    );
    program::done(&run(&["privacy", "budget", "rows.csv", "--epsilon", "9", "--delta", "1e-4"]));
    for arguments in [["train", "plain.toml"], ["choose", "choice.toml"]] {
        let (code, error) = refusal(&run(&arguments));
        assert_eq!((code, &error["code"]), (2, &"privacy_required".into()), "{error}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("rows.csv has a privacy budget, ε = 9 at δ = 0.0001"), "{error}");
        assert!(error["fix"].as_str().unwrap().contains("[privacy]"), "{error}");
    }
    // With noise it is trained on as before: the budget counts the private jobs.
    program::done(&run(&["train", "spec.toml"]));
    let account = program::done(&run(&["privacy", "ledger"]))["data"][0].clone();
    assert_eq!(
        (account["ledger"].as_array().unwrap().len(), account["unprotected"].as_array().unwrap().len()),
        (2, 1)
    );
}

#[test]
fn a_killed_private_job_ends_in_the_same_weights_and_spends_once() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder, 4000);
    let weights = |done: &Value| {
        std::fs::read(folder.join(done["path"].as_str().unwrap()).join("model.safetensors")).unwrap()
    };
    let started = Instant::now();
    let straight = program::done(&lyceum(folder, "straight", &["train", "spec.toml"]).output().unwrap());
    let whole = started.elapsed();
    let mut child = lyceum(folder, "killed", &["train", "spec.toml"]).spawn().unwrap();
    let jobs = folder.join("killed/jobs");
    let has_checkpoint = || {
        let Ok(found) = std::fs::read_dir(&jobs) else { return false };
        found.flatten().any(|job| {
            let kept = std::fs::read_dir(job.path().join("checkpoints"));
            kept.is_ok_and(|kept| kept.flatten().count() > 1)
        })
    };
    while !has_checkpoint() && started.elapsed() < 10 * whole + Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let ledger = |dir: &str| program::done(&lyceum(folder, dir, &["privacy", "ledger"]).output().unwrap());
    let before = ledger("killed");
    assert_eq!(before["data"][0]["ledger"][0]["steps"], 4000, "a job that was killed has spent");
    let found = program::done(&lyceum(folder, "killed", &["jobs", "ls"]).output().unwrap());
    let id = found["jobs"][0]["id"].as_str().unwrap().to_owned();
    let resumed = program::done(&lyceum(folder, "killed", &["jobs", "resume", &id]).output().unwrap());
    assert_eq!(weights(&straight), weights(&resumed));
    assert_eq!(straight["privacy"], resumed["privacy"]);
    assert_eq!(ledger("killed"), before, "and spends nothing twice");
    assert_eq!(ledger("straight")["data"][0]["epsilon"], before["data"][0]["epsilon"]);
}
