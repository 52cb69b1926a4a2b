//! `lyceum choose` among a model that is trained here and language models that exist: measured by the same rows and
//! columns, limited by the same limits, taken by the same rule.

#![expect(clippy::unwrap_used, reason = "tests say what they expect by unwrapping")]

#[path = "../../lyceum-api/tests/api/tiny.rs"]
mod tiny;

mod program;

use program::{last, lyceum, refusal};
use serde_json::{Value, json};
use std::path::Path;

const SPEC: &str = r#"
name = "praise"
task = "classification"
seed = 1
seeds = 2
concurrency = 2
candidates = [CANDIDATES]
[data]
train = "rows.jsonl"
valid_fraction = 0.4
test = "test.jsonl"
target = "label"
input = { type = "text" }
unseen = "other"
[train]
epochs = 12
batch_size = 8
optimizer = { name = "adam", lr = 0.02 }
[question]
instructions = "Is it praise?"
descriptions = { no = "it blames" }
[budget]
minutes = 2
[prices]
usd_per_cpu_hour = 0.05
"#;
const TRAINED: &str = r#"{ family = "gru", hidden_size = 8, embedding_dim = 8 }"#;

/// Rows whose one word says the label.
fn write_rows(path: &Path, n: usize, first: usize) {
    let line = |i: usize| {
        let yes = (i * 7) % 3 == 0;
        let word = if yes { "great" } else { "bad" };
        json!({ "text": format!("a {word} day {}", i % 10), "label": if yes { "yes" } else { "no" } })
            .to_string()
    };
    std::fs::write(path, (first..first + n).map(line).collect::<Vec<_>>().join("\n")).unwrap();
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_rows(&folder.path().join("rows.jsonl"), 60, 0);
    write_rows(&folder.path().join("test.jsonl"), 20, 60);
    std::fs::write(folder.path().join("tiny.gguf"), tiny::tiny_gguf()).unwrap();
    let done = lyceum(folder.path(), &["import", "tiny.gguf", "--name", "tiny"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    folder
}

fn choose(folder: &Path, candidates: &str, limits: &str) -> std::process::Output {
    let spec = SPEC.replace("CANDIDATES", candidates);
    std::fs::write(folder.join("choose.toml"), format!("{spec}{limits}")).unwrap();
    lyceum(folder, &["choose", "choose.toml"])
}

fn row<'d>(document: &'d Value, name: &str) -> &'d Value {
    let rows = document["rows"].as_array().unwrap();
    rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("{name}: {document}"))
}

#[test]
fn a_trained_model_and_a_language_model_are_measured_alike() {
    let folder = folder();
    let candidates = format!("{TRAINED}, {{ model = \"tiny\" }}, {{ model = \"tiny@1\", shots = 2 }}");
    let done = choose(folder.path(), &candidates, "");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let found = last(&done);
    for name in ["gru-8", "tiny", "tiny-1-2-shot"] {
        let row = row(&found, name);
        assert_eq!((&row["standing"], &row["quality"]["n"]), (&json!("finalist"), &json!(24)), "{row}");
        for measured in [
            "/latency/p95_ms",
            "/latency_loaded/p95_ms",
            "/cpu_seconds_per_1k",
            "/usd_per_1k",
            "/ram_bytes",
            "/disk_bytes",
            "/parameters",
            "/operations",
            "/ece/value",
            "/robustness/accuracy/value",
            "/explainability/measured/comprehensiveness_over_random/value",
        ] {
            assert!(row.pointer(measured).is_some_and(Value::is_number), "{name} {measured}: {row}");
        }
    }
    let (zero, shown) = (row(&found, "tiny"), row(&found, "tiny-1-2-shot"));
    assert_eq!((&zero["family"], &zero["lineage"]["model"]), (&json!("llama"), &json!("tiny@1")));
    assert_eq!(zero["lineage"]["licence"], "apache-2.0");
    assert_eq!(zero["ask"]["instructions"], "Is it praise?");
    assert_eq!(
        zero["ask"]["choices"],
        json!([{ "value": "no", "description": "it blames" }, { "value": "yes" }])
    );
    let words = shown["ask"]["instructions"].as_str().unwrap();
    assert!(words.starts_with("Is it praise?\n\nExamples:\n\nText: a bad day"), "{words}");
    assert!(shown["operations"].as_u64() > zero["operations"].as_u64(), "examples are read too");
    assert_eq!(found["recommendation"]["candidate"], "gru-8", "{}", found["recommendation"]["sentence"]);
    assert_eq!(found["recommendation"]["model"], "praise@1");
    assert_eq!(found["pairs"].as_array().unwrap().len(), 10, "three candidates and two baselines");
    assert!(found["test"]["metrics"]["test_accuracy"]["value"].as_f64().unwrap() > 0.9, "{}", found["test"]);
}

#[test]
fn a_model_that_exists_is_recommended_with_its_question_and_limits_exclude_it() {
    let folder = folder();
    let done = choose(folder.path(), "{ model = \"tiny\", name = \"plain\" }, { model = \"nobody\" }", "");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let found = last(&done);
    let taken = &found["recommendation"];
    assert_eq!((&taken["candidate"], &taken["model"]), (&json!("plain"), &json!("tiny@1")));
    assert_eq!(taken["ask"]["type"], "choice");
    assert_eq!(found["test"]["metrics"]["test_accuracy"]["n"], 20);
    let nobody = row(&found, "nobody");
    assert_eq!(nobody["standing"], "failed", "{nobody}");
    for (limits, words) in [
        ("[limits]\nparameters = 1000\n", "parameters"),
        ("[limits]\nexplainability = \"exact\"\n", "no exact method"),
        ("[limits]\nram_bytes = 1000\n", "ram_bytes"),
        ("[limits]\nrobust_accuracy = 1.0\n", "robust_accuracy"),
    ] {
        let (exit, error) = refusal(&choose(folder.path(), "{ model = \"tiny\" }", limits));
        assert!(exit != 0 && error.to_string().contains(words), "{limits}: {error}");
    }
}

#[test]
fn what_cannot_be_asked_is_refused_before_anything_runs() {
    let folder = folder();
    let refused = |text: String, words: &str| {
        std::fs::write(folder.path().join("choose.toml"), &text).unwrap();
        let (exit, error) = refusal(&lyceum(folder.path(), &["choose", "choose.toml"]));
        assert!(exit != 0 && error.to_string().contains(words), "{words}: {error}");
    };
    let plain = SPEC.replace("CANDIDATES", "{ model = \"tiny\" }");
    refused(plain.replace("instructions = \"Is it praise?\"", ""), "instructions");
    refused(plain.replace("\"tiny\" }", "\"tiny\", head = \"linear\" }"), "linear head");
    refused(plain.replace("\"tiny\" }", "\"tiny\", lora = { rank = 4 } }"), "adapters that a race tunes");
    refused(plain.replace("\"classification\"", "\"regression\""), "cannot be raced at numbers");
    refused(plain.replace("{ type = \"text\" }", "{ type = \"tabular\" }"), "one column of texts");
}
