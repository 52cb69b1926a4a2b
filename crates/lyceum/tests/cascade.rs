//! A cascade from the command line: made of two trained models, shown, refused where its rows were trained on, and in the
//! way of who deletes a member.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping")]

#[path = "../../lyceum-api/tests/api/tiny.rs"]
mod tiny;

mod program;

use program::{last, lyceum, refusal};
use serde_json::json;
use std::path::Path;

/// Two numbers; `far` where their sum, seen through noise, is above zero.
fn rows(n: u64, seed: u64) -> Vec<(f64, f64, &'static str)> {
    let mut state = seed;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / (1u64 << 31) as f64 * 2.0 - 1.0
    };
    (0..n)
        .map(|_| {
            let (a, b, noise) = (uniform(), uniform(), uniform());
            (a, b, if a + b + 0.8 * noise > 0.0 { "far" } else { "near" })
        })
        .collect()
}

fn train(folder: &Path, name: &str, hidden: &str) {
    let spec = format!(
        "name = \"{name}\"\ntask = \"classification\"\nseed = 3\n[data]\ntrain = \"train.csv\"\ntarget = \"label\"\n[model]\n\
         family = \"mlp\"\nhidden = {hidden}\n[train]\nepochs = 10\nbatch_size = 40\nprecision = \"f32\"\n"
    );
    std::fs::write(folder.join("spec.toml"), spec).unwrap();
    let done = lyceum(folder, &["train", "spec.toml"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn a_cascade_is_made_shown_and_keeps_its_members() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut csv = "a,b,label\n".to_owned();
    rows(300, 1).iter().for_each(|(a, b, label)| csv += &format!("{a},{b},{label}\n"));
    std::fs::write(folder.join("train.csv"), csv).unwrap();
    let line =
        |(a, b, label): &(f64, f64, &str)| json!({"input": {"a": a, "b": b}, "label": label}).to_string();
    let lines: Vec<String> = rows(400, 2).iter().map(line).collect();
    std::fs::write(folder.join("rows.jsonl"), lines.join("\n")).unwrap();
    train(folder, "little", "[]");
    train(folder, "big", "[32]");
    let create =
        ["cascade", "create", "router", "--small", "little", "--large", "big", "--data", "rows.jsonl"];
    let done = lyceum(folder, &[&create[..], &["--alpha", "0.15"]].concat());
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let made = last(&done);
    assert_eq!(made["model"], "router@1");
    assert_eq!(made["report"]["shares"]["answered_by_small_and_wrong"]["n"], 200);
    // What is promised holds over the draw of the rows: one split may lie above it, the mean of several hardly.
    let mut wrong = 0.0;
    for seed in ["0", "1", "2", "3", "4"] {
        let more = ["--alpha", "0.15", "--seed", seed, "--escalated", "answer"];
        let split = last(&lyceum(folder, &[&create[..2], &["splits"], &create[3..], &more].concat()));
        let value = |name: &str| split["report"]["shares"][name]["value"].as_f64().unwrap();
        assert!(value("answered_by_small") > 0.3, "{split}");
        wrong += value("answered_by_small_and_wrong") / 5.0;
    }
    assert!(wrong < 0.15 + 0.03, "{wrong}");
    let shown = last(&lyceum(folder, &["show", "router"]));
    assert_eq!((&shown["family"], &shown["definition"]), (&json!("cascade"), &made["definition"]));
    assert_eq!(last(&lyceum(folder, &["ls"]))["models"].as_array().unwrap().len(), 3 + 5);
    // The same again is the next version with the same thresholds.
    let again = last(&lyceum(folder, &[&create[..], &["--alpha", "0.15"]].concat()));
    assert_eq!(
        (&again["model"], &again["definition_sha256"]),
        (&json!("router@2"), &made["definition_sha256"])
    );
    let (exit, error) = refusal(&lyceum(folder, &["rm", "little@1"]));
    assert!(exit != 0 && error.to_string().contains("the cascade"), "{error}");
    for (command, words) in [
        (vec!["export", "router"], "is a cascade"),
        (vec!["card", "router"], "is a cascade"),
        (vec!["predict", "router", "train.csv"], "is a cascade"),
        ([&create[..], &["--alpha", "0.001"]].concat(), "at least 999"),
        ([&create[..], &["--instructions", "x", "--labels", "far,odd"]].concat(), "not a label"),
    ] {
        let (exit, error) = refusal(&lyceum(folder, &command));
        assert!(exit != 0 && error.to_string().contains(words), "{command:?}: {error}");
    }
    // What is refused is told by the option that says it, with what to say instead.
    std::fs::write(folder.join("tiny.gguf"), tiny::tiny_gguf()).unwrap();
    for name in ["one", "two"] {
        assert!(lyceum(folder, &["import", "tiny.gguf", "--name", name]).status.success());
    }
    let of =
        |small, large| ["cascade", "create", "c", "--small", small, "--large", large, "--data", "rows.jsonl"];
    for (command, option, fix) in [
        (of("one", "two"), "--labels", "--labels yes,no"),
        (of("little", "little"), "--large", "another model with --large"),
    ] {
        let (exit, error) = refusal(&lyceum(folder, &command));
        assert!(exit != 0 && error["key"] == option, "{command:?}: {error}");
        assert!(error["fix"].as_str().unwrap().contains(fix), "{error}");
    }
    for version in
        ["splits@1", "splits@2", "splits@3", "splits@4", "splits@5", "router@1", "router@2", "little@1"]
    {
        assert!(lyceum(folder, &["rm", version]).status.success(), "{version}");
    }
}
