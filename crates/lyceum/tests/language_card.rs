//! Cards of an imported language model: measured through the engine, verified, and in every form.

#![expect(clippy::unwrap_used, reason = "tests say what they expect by unwrapping")]

#[path = "../../lyceum-api/tests/api/tiny.rs"]
mod tiny;

mod program;

use program::{last, lyceum};

#[test]
fn an_imported_model_is_measured_and_its_card_verified() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("tiny.gguf"), tiny::tiny_gguf()).unwrap();
    assert!(lyceum(folder, &["import", "tiny.gguf", "--name", "tiny"]).status.success());
    let before = last(&lyceum(folder, &["card", "tiny"]));
    let missing = before["sections"]["cost"]["not_evaluated"].to_string();
    assert!(missing.contains("lyceum card tiny@1 --measure"), "{missing}");
    let after = last(&lyceum(folder, &["card", "tiny", "--measure"]));
    let numbers = after["sections"]["cost"]["numbers"].as_array().unwrap();
    for name in ["time to the first token", "tokens read per second", "tokens generated per second"] {
        let number = numbers
            .iter()
            .find(|number| number["name"] == name)
            .unwrap_or_else(|| panic!("{name}: {numbers:?}"));
        let [low, value, high] =
            [&number["ci95"][0], &number["value"], &number["ci95"][1]].map(|x| x.as_f64().unwrap());
        assert!(low <= value && value <= high && value > 0.0 && number["n"] == 6, "{number}");
    }
    assert!(!after["sections"]["cost"]["not_evaluated"].to_string().contains("--measure"));
    let verified = lyceum(folder, &["card", "tiny", "--verify"]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    std::fs::write(folder.join("old.json"), before.to_string()).unwrap();
    let old = lyceum(folder, &["card", "tiny", "--verify", "old.json"]);
    assert!(!old.status.success(), "more is known now than the old card says");
    let html = lyceum(folder, &["card", "tiny", "--out", "card.html"]);
    assert!(
        html.status.success()
            && std::fs::read_to_string(folder.join("card.html")).unwrap().contains("tiny@1")
    );
}
