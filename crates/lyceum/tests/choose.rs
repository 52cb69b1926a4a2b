//! `lyceum choose` as scripts use it: measured rows, a recommendation that limits change, a version that serves, and
//! a plain word when a limit leaves nothing.

#![expect(clippy::unwrap_used, reason = "tests say what they expect by unwrapping")]

mod program;

use serde_json::Value;
use std::path::Path;
use std::process::Output;

/// A ring in two of thirteen columns: a line cannot part it, and thirteen features are too many for exact Shapley
/// values of a net.
fn write_rows(path: &Path, n: usize, first: usize) {
    let names: Vec<String> = (0..13).map(|i| format!("x{i}")).collect();
    let mut text = format!("{},label\n", names.join(","));
    for row in first..first + n {
        let value = |column: usize| {
            let state = (row * 13 + column + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let mixed = (state ^ (state >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            ((mixed ^ (mixed >> 32)) % 20_001) as f64 / 10_000.0 - 1.0
        };
        let values: Vec<f64> = (0..13).map(value).collect();
        let label = if values[0] * values[0] + values[1] * values[1] < 0.64 { "in" } else { "out" };
        text += &values.iter().map(f64::to_string).collect::<Vec<_>>().join(",");
        text += &format!(",{label}\n");
    }
    std::fs::write(path, text).unwrap();
}

const SPEC: &str = r#"
name = "ring"
task = "classification"
seed = 1
seeds = 2
concurrency = 2
candidates = [{ family = "mlp", hidden = [] }, { family = "mlp", hidden = [32] }]
[data]
train = "rows.csv"
valid_fraction = 0.4
test = "test.csv"
target = "label"
[train]
epochs = 40
batch_size = 16
optimizer = { name = "adam", lr = 0.01 }
[budget]
minutes = 0.5
"#;

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_rows(&folder.path().join("rows.csv"), 700, 0);
    write_rows(&folder.path().join("test.csv"), 200, 700);
    folder
}

fn lyceum(folder: &Path, arguments: &[&str]) -> Output {
    // Trials run beside each other.
    program::command(folder, arguments).env("LYCEUM_THREADS", "2").output().unwrap()
}

fn choose(folder: &Path, limits: &str, more: &[&str]) -> (Output, Vec<Value>) {
    std::fs::write(folder.join("choose.toml"), format!("{SPEC}{limits}")).unwrap();
    let output = lyceum(folder, &[&["choose", "choose.toml", "--json"], more].concat());
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let lines =
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}")));
    (output, lines.collect())
}

#[track_caller]
fn done(output: &Output, lines: &[Value]) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let done = lines.last().unwrap().clone();
    assert_eq!(done["event"], "done");
    done
}

#[test]
fn the_model_that_is_enough_is_measured_taken_and_registered() {
    let folder = folder();
    let (output, lines) = choose(folder.path(), "", &["--svg", "front.svg"]);
    let done = done(&output, &lines);
    let taken = &done["recommendation"];
    assert_eq!(taken["candidate"], "mlp-32", "{}", taken["sentence"]);
    assert_eq!(taken["model"], "ring@1");
    assert!(taken["sentence"].as_str().unwrap().starts_with("mlp-32 is taken"), "{taken}");
    let row = |name: &str| {
        let mut rows = lines.iter().filter(|line| line["event"] == "row");
        rows.rfind(|row| row["name"] == name).unwrap_or_else(|| panic!("no row of {name}")).clone()
    };
    let (net, line) = (row("mlp-32"), row("linear"));
    for field in ["parameters", "operations", "ram_bytes", "disk_bytes", "training_seconds"] {
        assert!(net[field].as_f64().unwrap() > 0.0, "{field}: {net}");
    }
    assert_eq!(line["parameters"], 28);
    assert_eq!(line["operations"], 2 * 13 * 2);
    for latency in ["latency", "latency_loaded"] {
        assert!(net[latency]["p50_ms"].as_f64().unwrap() <= net[latency]["p95_ms"].as_f64().unwrap());
    }
    assert_eq!(net["quality"]["n"], 280);
    assert!(net["quality"]["value"].as_f64().unwrap() > line["quality"]["value"].as_f64().unwrap());
    assert!(net["robustness"]["accuracy"]["value"].as_f64().unwrap() <= 1.0);
    assert_eq!(line["explainability"]["level"], "exact");
    assert_eq!(row("majority baseline")["standing"], "baseline");
    assert_eq!(row("logistic baseline")["standing"], "baseline");
    // Four rows are compared, each with each; the test part was opened for the winner.
    assert_eq!(done["pairs"].as_array().unwrap().len(), 6);
    assert_eq!(done["test"]["metrics"]["test_accuracy"]["n"], 200);
    assert!(done["not_evaluated"].as_array().unwrap().iter().any(|n| n["what"] == "usd_per_1k"), "{done}");

    let svg = std::fs::read_to_string(folder.path().join("front.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("<title") && svg.contains("mlp-32 (taken)"), "{svg}");
    let kept: Value =
        serde_json::from_slice(&std::fs::read(done["path"].as_str().unwrap()).unwrap()).unwrap();
    assert_eq!(kept["recommendation"], *taken);
    // The registered version is an ordinary one.
    let measured = lyceum(folder.path(), &["eval", "ring", "test.csv", "--json"]);
    let measured: Value = serde_json::from_slice(&measured.stdout).unwrap();
    assert_eq!(measured["metrics"]["accuracy"], done["test"]["metrics"]["test_accuracy"]);
}

#[test]
fn limits_on_complexity_and_explainability_change_the_winner_and_say_why_the_other_is_out() {
    let folder = folder();
    for (limits, limit) in [
        ("[limits]\nparameters = 100\n", "parameters"),
        ("[limits]\nexplainability = \"exact\"\n", "explainability"),
    ] {
        let (output, lines) = choose(folder.path(), limits, &["--no-register"]);
        let done = done(&output, &lines);
        assert_eq!(done["recommendation"]["candidate"], "linear", "{limits}");
        assert_eq!(done["recommendation"]["model"], Value::Null);
        let rows = done["rows"].as_array().unwrap();
        let net = rows.iter().find(|row| row["name"] == "mlp-32").unwrap();
        assert_eq!(net["standing"], "excluded");
        assert!(net["why"].as_str().unwrap().starts_with(limit), "{net}");
    }
}

#[test]
fn a_limit_that_leaves_nothing_is_named_with_by_how_much() {
    let folder = folder();
    let (output, lines) = choose(folder.path(), "[limits]\nparameters = 14\nlatency_ms_p95 = 1000\n", &[]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(lines.last().unwrap()["recommendation"], Value::Null);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let error: Value = serde_json::from_str(stderr.lines().last().unwrap()).unwrap();
    assert_eq!(error["error"]["code"], "no_candidate");
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.contains("all 2 break parameters"), "{message}");
    assert!(
        message.contains("the nearest is linear (parameters: 28, 14 allowed: 2 times as much)"),
        "{message}"
    );
}

#[test]
fn a_document_with_slips_says_all_of_them() {
    let folder = folder();
    let limits = "[limits]\nparamters = 100\nexplainability = \"exakt\"\n";
    std::fs::write(folder.path().join("choose.toml"), format!("{SPEC}{limits}")).unwrap();
    let output = lyceum(folder.path(), &["choose", "choose.toml", "--json"]);
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8_lossy(&output.stderr);
    let error: Value = serde_json::from_str(stderr.lines().last().unwrap()).unwrap();
    assert_eq!(error["error"]["fix"], "did you mean `parameters`?");
    assert_eq!(error["error"]["others"][0]["fix"], "did you mean \"exact\"?");
}
