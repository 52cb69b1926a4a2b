//! `lyceum attack` of an imported language model: environments over a file of texts, a system prompt under attack, and
//! what is refused; `lyceum drift` asks a server.

#![expect(clippy::unwrap_used, reason = "tests say what they expect by unwrapping")]

#[path = "../../lyceum-api/tests/api/tiny.rs"]
mod tiny;

mod program;

use program::{last, lyceum, refusal};
use serde_json::{Value, json};

#[test]
fn a_language_model_is_compared_in_environments_and_its_system_prompt_attacked() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("tiny.gguf"), tiny::tiny_gguf()).unwrap();
    assert!(lyceum(folder, &["import", "tiny.gguf", "--name", "tiny"]).status.success());
    std::fs::write(folder.join("texts.txt"), "the thin thread of this\n\nanother text that has words\n")
        .unwrap();
    let suite = r#"suite = [
        { type = "environments", reference = "f32", matrix = ["served", "int4"], max_tokens = 4 },
        { type = "red_team", system = "You are brief.", only = ["direct", "tool"], max_tokens = 4 },
    ]"#;
    std::fs::write(folder.join("suite.toml"), suite).unwrap();
    let run = last(&lyceum(folder, &["attack", "tiny", "texts.txt", "--suite", "suite.toml", "--seed", "3"]));
    assert_eq!((&run["model"], &run["n"], &run["seed"]), (&json!("tiny@1"), &json!(2), &json!(3)), "{run}");
    let of = |metric: &str, setting: &str| -> Value {
        let results = run["results"].as_array().unwrap().iter();
        let mut results =
            results.filter(|r| r["metric"] == metric && r["setting"].as_str().unwrap().starts_with(setting));
        results.next().unwrap_or_else(|| panic!("{metric} {setting}: {run}"))["value"].clone()
    };
    assert_eq!(of("kl_mean", "f32"), 0.0);
    assert!(of("kl_mean", "q4_0").as_f64() > of("kl_mean", "served").as_f64());
    assert_eq!(of("told_canary", "guards on"), 0.0);
    assert_eq!(run["failures"].as_array().map(Vec::len), Some(0), "{run}");

    // It stands on the card, each number with the command that computes it again.
    let card = last(&lyceum(folder, &["card", "tiny"]));
    let on_card = |part: &str, name: &str, of: &str| -> Value {
        let numbers = card["sections"][part]["numbers"].as_array().unwrap().iter();
        let mut numbers = numbers.filter(|n| n["name"] == name && n["method"].as_str().unwrap().contains(of));
        numbers.next().unwrap_or_else(|| panic!("{part} {name} {of}: {card}")).clone()
    };
    let four = on_card("environments", "kl_mean", "q4_0");
    assert_eq!((&four["value"], &four["unit"]), (&of("kl_mean", "q4_0"), &json!("nats")));
    assert!(four["method"].as_str().unwrap().contains("2 texts of texts.txt (sha256 "), "{four}");
    let again = "lyceum attack tiny@1 texts.txt --suite suite.toml --seed 3";
    let success = on_card("robustness", "attack_success", "direct");
    assert!(success["recompute"] == again && four["recompute"] == again, "{success}");
    assert_eq!((&success["seed"], &success["interval"]), (&json!(3), &json!("Wilson, 95 %")));
    assert!(!card.to_string().contains("You are brief"), "no text stands on a card");
    let words: Vec<&str> = again.split(' ').skip(1).collect();
    assert_eq!(last(&lyceum(folder, &words))["results"], run["results"], "the command computes it again");
    assert!(lyceum(folder, &["card", "tiny"]).status.success());
    assert!(lyceum(folder, &["card", "tiny", "--verify"]).status.success());
    // Bounds are the exit.
    let gated = |bound: &[&str]| {
        lyceum(folder, &[&["attack", "tiny", "texts.txt", "--suite", "suite.toml"], bound].concat())
    };
    let (exit, error) = refusal(&gated(&["--min-agreement", "1", "--compare-to", "tiny", "--max-drop", "0"]));
    assert!(
        exit == 1 && error["code"] == "gate_refused" && error.to_string().contains("agreement"),
        "{error}"
    );
    assert!(gated(&["--max-attack-success", "1"]).status.success());

    // Nothing to read is needed for chats alone, and something is for places of texts.
    let chats = r#"[{"type": "red_team", "system": "You are brief.", "only": ["direct"], "max_tokens": 2}]"#;
    std::fs::write(folder.join("chats.json"), chats).unwrap();
    assert!(lyceum(folder, &["attack", "tiny", "--suite", "chats.json"]).status.success());
    for (arguments, why) in [
        (&["attack", "tiny"][..], "there is no DATA"),
        (&["attack", "tiny", "--suite", "chats.json", "--min-agreement", "0.9"], "min_agreement"),
        (&["attack", "tiny", "texts.txt", "--suite", "chats.json"], "reads texts"),
        (&["drift", "tiny"], "asks a server"),
    ] {
        let (exit, error) = refusal(&lyceum(folder, arguments));
        assert!(exit != 0 && error.to_string().contains(why), "{arguments:?}: {error}");
    }
}
