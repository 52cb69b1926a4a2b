//! `lyceum pii` and `lyceum admin guard`: texts on this machine, and a policy that is kept.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by unwrapping")]

mod program;

use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output};

fn lyceum(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lyceum"));
    command.current_dir(folder).args(arguments).env("LYCEUM_DATA_DIR", folder.join("data"));
    command.env("LYCEUM_CONFIG", folder.join("none.toml")).env("NO_COLOR", "1").env("LYCEUM_THREADS", "1");
    command.output().unwrap()
}

#[track_caller]
fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn a_file_is_analysed_and_made_anonymous_without_a_data_folder() {
    let dir = tempfile::tempdir().unwrap();
    let text = "Grüße an a@b.de und c@d.de, a@b.de; ".repeat(4000);
    std::fs::write(dir.path().join("letter.txt"), &text).unwrap();
    std::fs::write(dir.path().join("key"), "0123456789abcdef").unwrap();
    let lines = said(&lyceum(dir.path(), &["pii", "analyze", "letter.txt", "--json", "--show"]));
    let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&first["entity_type"], &first["start"], &first["end"], &first["text"]),
        (&json!("EMAIL_ADDRESS"), &json!(9), &json!(15), &json!("a@b.de"))
    );
    assert_eq!(lines.lines().count(), 12_000);
    let anonymous =
        said(&lyceum(dir.path(), &["pii", "anonymize", "letter.txt", "--operator", "placeholder"]));
    let expected = "Grüße an <EMAIL_ADDRESS_1> und <EMAIL_ADDRESS_2>, <EMAIL_ADDRESS_1>; ".repeat(4000);
    assert_eq!(anonymous, expected, "read in parts");
    let hash = ["pii", "anonymize", "letter.txt", "--operator", "hash", "--key-file", "key"];
    assert!(!said(&lyceum(dir.path(), &hash)).contains("a@b.de"));
    for wrong in [
        &["pii", "anonymize", "letter.txt", "--operator", "hash"][..],
        &["pii", "analyze", "letter.txt", "--entities", "PERSON"],
        &["pii", "analyze", "letter.txt", "--threshold", "2"],
    ] {
        let output = lyceum(dir.path(), wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("fix"), "{wrong:?}");
    }
    assert!(!dir.path().join("data").exists());
}

#[test]
fn names_are_found_by_a_model_and_stand_in_a_policy() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    program::encoder::folder(&dir.join("tagger"), "bert_tokens");
    said(&lyceum(dir, &["import", "tagger", "--name", "names", "--quant", "f32"]));
    std::fs::write(dir.join("letter.txt"), "The cat eats fish. a@b.de").unwrap();
    let looking = ["--ner-model", "names", "--threshold", "0.3"];
    let asked = |command: &[&str]| lyceum(dir, &[&["pii"], command, &looking].concat());
    // `transformers`' pipeline takes each of these words for somebody (fixtures/encoder/names.json).
    let lines = said(&asked(&["analyze", "letter.txt", "--json", "--show"]));
    let found: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let named = |kind: &str| found.iter().filter(|f| f["entity_type"] == kind).count();
    assert!(named("PERSON") >= 1 && named("EMAIL_ADDRESS") == 1, "{lines}");
    assert!(
        found.iter().any(|f| f["entity_type"] == "PERSON" && f["text"].as_str().unwrap().contains("cat"))
    );
    let anonymous = said(&asked(&["anonymize", "letter.txt"]));
    assert!(anonymous.contains("<PERSON>") && anonymous.contains("<EMAIL_ADDRESS>"), "{anonymous}");
    assert!(!anonymous.contains("cat") && !anonymous.contains("a@b.de"), "{anonymous}");
    let persons = said(&asked(&["analyze", "letter.txt", "--entities", "PERSON", "--json"]));
    assert!(!persons.contains("EMAIL_ADDRESS") && persons.contains("PERSON"), "{persons}");

    let guard = |extra: &[&str]| lyceum(dir, &[&["admin", "guard", "default", "--json"], extra].concat());
    let set = said(&guard(&["--input", "mask", "--types", "PERSON", "--ner-model", "names"]));
    let set: Value = serde_json::from_str(&set).unwrap();
    assert_eq!((&set["ner_model"], &set["input"]["types"]), (&json!("names"), &json!(["PERSON"])));
    for (wrong, why) in [
        (&["--no-ner-model"][..], "PERSON takes a model"),
        (&["--ner-model", "nobody"], "nobody"),
        (&["--no-ner-model", "--ner-model", "names"], "cannot be used with"),
    ] {
        let output = guard(wrong);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && stderr.contains(why), "{wrong:?}: {stderr}");
    }
    let off: Value = serde_json::from_str(&said(&guard(&["--input", "off", "--no-ner-model"]))).unwrap();
    assert_eq!((&off["ner_model"], &off["input"]["action"]), (&Value::Null, &json!("off")));
}

#[test]
fn a_policy_is_set_and_shown() {
    let dir = tempfile::tempdir().unwrap();
    let guard = |extra: &[&str]| {
        let mut arguments = vec!["admin", "guard", "default", "--json"];
        arguments.extend(extra);
        serde_json::from_str::<Value>(&said(&lyceum(dir.path(), &arguments))).unwrap()
    };
    assert_eq!(guard(&[])["input"]["action"], "off");
    guard(&["--input", "mask", "--types", "EMAIL_ADDRESS,IBAN_CODE", "--threshold", "0.7"]);
    let holds = guard(&["--output", "block"]);
    let input = json!({"action": "mask", "threshold": 0.7, "types": ["EMAIL_ADDRESS", "IBAN_CODE"]});
    assert_eq!((&holds["input"]["types"], &holds["output"]["action"]), (&input["types"], &json!("block")));
    assert_eq!(holds["input"]["action"], "mask");
    let alone = lyceum(dir.path(), &["admin", "guard", "default", "--types", "EMAIL_ADDRESS"]);
    assert_eq!(alone.status.code(), Some(2));
}
