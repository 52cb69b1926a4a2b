//! `lyceum choose` among a model that is trained here and language models that exist: measured by the same rows and
//! columns, limited by the same limits, taken by the same rule.

#![expect(clippy::unwrap_used, reason = "tests say what they expect by unwrapping")]

#[path = "../../lyceum-api/tests/api/tiny.rs"]
mod tiny;

mod program;

use program::{last, lyceum, refusal};
use serde_json::{Value, json};
use std::path::Path;

/// Of candidates that are trained here.
const TRAIN: &str = r#"[train]
epochs = 12
batch_size = 8
optimizer = { name = "adam", lr = 0.02 }
"#;
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
        let yes = (i * 7).is_multiple_of(3);
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
    let train = if candidates.contains("family") { TRAIN } else { "" };
    std::fs::write(folder.join("choose.toml"), format!("{spec}{train}{limits}")).unwrap();
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
    refused(plain.replace("\"tiny\" }", "\"tiny\", lora = { rank = 4 }, shots = 2 }"), "shown none");
    refused(plain.replace("\"tiny\" }", "\"tiny\", train = { epochs = 2 } }"), "add lora");
    refused(
        plain.replace("\"tiny\" }", "\"tiny\", lora = { rank = 4 }, train = { method = \"dpo\" } }"),
        "preferences two",
    );
    refused(plain.replace("\"classification\"", "\"regression\""), "cannot be raced at numbers");
    refused(format!("{plain}{TRAIN}"), "none is");
    refused(plain.replace("{ type = \"text\" }", "{ type = \"tabular\" }"), "one column of texts");
}

#[test]
fn an_adapter_is_tuned_within_the_race_and_published_when_it_is_taken() {
    let folder = folder();
    let folder = folder.path();
    let candidates = "{ model = \"tiny\" }, { model = \"tiny\", lora = { rank = 4 }, train = { epochs = 6, batch_size = 4, \
                      optimizer = { name = \"adamw\", lr = 0.02 } } }";
    let done = choose(folder, candidates, "");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let found = last(&done);
    let (base, tuned) = (row(&found, "tiny"), row(&found, "tiny-lora-4"));
    assert!(tuned["training_seconds"].as_f64() > Some(0.0) && base["training_seconds"].is_null(), "{tuned}");
    assert!(tuned["parameters"].as_u64() > base["parameters"].as_u64(), "{tuned}");
    assert_eq!(tuned["lineage"]["parents"], json!(["tiny@1"]));
    let value = |row: &Value| row["quality"]["value"].as_f64().unwrap();
    assert!(value(tuned) > 0.9 && value(tuned) > value(base), "{tuned} {base}");
    let taken = &found["recommendation"];
    assert_eq!(
        (&taken["candidate"], &taken["model"]),
        (&json!("tiny-lora-4"), &json!("praise@1")),
        "{taken}"
    );
    assert!(found["test"]["metrics"]["test_accuracy"]["value"].as_f64() > Some(0.9), "{}", found["test"]);
    // What was published answers as what was measured: it is a candidate by its name.
    let again = choose(folder, "{ model = \"praise\" }", "");
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    let again = last(&again);
    assert_eq!(again["recommendation"]["model"], "praise@1");
    assert_eq!(again["test"]["metrics"], found["test"]["metrics"]);
}

const WRITTEN: &str = r#"
name = "sayer"
task = "language_modeling"
seed = 1
concurrency = 2
metric = "METRIC"
candidates = [{ model = "tiny" }, { model = "bot" }]
[data]
train = "lines.jsonl"
valid_fraction = 0.5
test = "test.jsonl"
[budget]
minutes = 2
"#;

#[test]
fn models_that_write_are_compared_on_the_same_lines() {
    let folder = folder();
    let folder = folder.path();
    let lines = |file: &str, first: usize, n: usize| {
        let line = |i: usize| {
            let said = json!([{"role": "user", "content": format!("say {i}")}, {"role": "assistant", "content": "th th"}]);
            json!({ "messages": said }).to_string()
        };
        std::fs::write(folder.join(file), (first..first + n).map(line).collect::<Vec<_>>().join("\n"))
            .unwrap();
    };
    lines("train.jsonl", 0, 20);
    lines("lines.jsonl", 20, 20);
    lines("test.jsonl", 40, 8);
    let tune = "name = \"bot\"\nseed = 5\n[data]\ntrain = \"train.jsonl\"\n[model]\nfamily = \"tiny\"\nlora = { rank = 4 }\n\
                [train]\nsteps = 60\nbatch_size = 2\noptimizer = { name = \"adamw\", lr = 0.01 }\n";
    std::fs::write(folder.join("spec.toml"), tune).unwrap();
    let tuned = lyceum(folder, &["train", "spec.toml"]);
    assert!(tuned.status.success(), "{}", String::from_utf8_lossy(&tuned.stderr));
    let choose = |metric: &str, from: &str, to: &str| {
        let spec = WRITTEN.replace("METRIC", metric).replace(from, to);
        std::fs::write(folder.join("choose.toml"), spec).unwrap();
        lyceum(folder, &["choose", "choose.toml"])
    };
    for metric in ["exact_match", "token_accuracy", "perplexity"] {
        let done = choose(metric, "", "");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let found = last(&done);
        assert_eq!((&found["metric"], &found["method"]["rows"]), (&json!(metric), &json!(10)));
        let (base, tuned) = (row(&found, "tiny"), row(&found, "bot"));
        let value = |row: &Value, name: &str| row["metrics"][name]["value"].as_f64().unwrap();
        assert_eq!((value(tuned, "exact_match"), value(base, "exact_match")), (1.0, 0.0), "{tuned}");
        assert!(value(tuned, "perplexity") < 1.5 && value(base, "perplexity") > 5.0, "{base}");
        assert_eq!(tuned["lineage"]["parents"], json!(["tiny@1"]));
        assert!(tuned["latency"]["p95_ms"].as_f64() > Some(0.0) && tuned["operations"].is_u64(), "{tuned}");
        let taken = &found["recommendation"];
        assert_eq!((&taken["candidate"], &taken["model"]), (&json!("bot"), &json!("bot@1")), "{taken}");
        assert_eq!(found["test"]["metrics"][format!("test_{metric}")]["n"], 8, "{}", found["test"]);
    }
    let tuned = "{ model = \"tiny\", lora = { rank = 4 }, train = { steps = 40, batch_size = 2, optimizer = { name = \"adamw\", \
                 lr = 0.01 } } }";
    let done = choose("perplexity", "{ model = \"bot\" }", tuned);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(last(&done)["recommendation"]["model"], "sayer@1");
    for (from, to, words) in [
        ("{ model = \"bot\" }", "{ family = \"transformer\", variant = \"decoder\" }", "not in this version"),
        ("{ model = \"bot\" }", "{ model = \"bot\", shots = 2 }", "remove shots"),
        ("valid_fraction = 0.5", "folds = 3", "folds"),
        ("valid_fraction = 0.5", "valid_fraction = 0.5\ntarget = \"x\"", "no columns"),
        ("seed = 1", "seed = 1\nseeds = 3", "no seeds"),
        ("[budget]", "[train]\nepochs = 1\n[budget]", "none is"),
        ("[budget]", "[limits]\nrobust_accuracy = 0.5\n[budget]", "robust_accuracy"),
    ] {
        let (exit, error) = refusal(&choose("exact_match", from, to));
        assert!(exit != 0 && error.to_string().contains(words), "{to}: {error}");
    }
}
