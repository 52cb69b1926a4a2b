//! From a hub on this machine to an answer: pull, ls, show, embed, export, import, rm.

#![expect(clippy::unwrap_used, reason = "tests say what they expect by unwrapping")]

mod program;
#[path = "../../lyceum-hub/tests/pull/server.rs"]
#[allow(dead_code, reason = "the hub's own tests ask more of it")]
mod server;

use safetensors::SafeTensors;
use serde_json::Value;
use server::{COMMIT, Manners, Server};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};

/// The files of a tiny encoder in Hugging Face's layout, as a hub has them.
fn files() -> BTreeMap<String, (Vec<u8>, bool)> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/encoder");
    let file = std::fs::read(fixtures.join("bert.safetensors")).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&file).unwrap();
    let config = metadata.metadata().as_ref().unwrap()["config"].clone();
    let all = SafeTensors::deserialize(&file).unwrap();
    let weights = all.iter().filter(|(name, _)| !name.starts_with("test."));
    let modules = "[{\"type\": \"sentence_transformers.models.Transformer\"}, \
                   {\"type\": \"sentence_transformers.models.Pooling\"}, \
                   {\"type\": \"sentence_transformers.models.Normalize\"}]";
    BTreeMap::from([
        ("config.json".to_owned(), (config.into_bytes(), false)),
        ("tokenizer.json".to_owned(), (std::fs::read(fixtures.join("tokenizer.json")).unwrap(), false)),
        ("modules.json".to_owned(), (modules.into(), false)),
        ("1_Pooling/config.json".to_owned(), (b"{\"pooling_mode_mean_tokens\": true}".to_vec(), false)),
        ("model.safetensors".to_owned(), (safetensors::serialize(weights, None).unwrap(), true)),
        ("pytorch_model.bin".to_owned(), (b"\x80".to_vec(), true)),
    ])
}

struct Desk {
    dir: tempfile::TempDir,
    server: Server,
}

impl Desk {
    fn lyceum(&self, arguments: &[&str], stdin: &str) -> Output {
        let mut command = program::command(self.dir.path(), arguments);
        command.env("HF_HOME", self.dir.path().join("hf"));
        command.env("HF_ENDPOINT", &self.server.url).env_remove("HF_TOKEN").env_remove("HF_HUB_OFFLINE");
        command.env_remove("HF_HUB_CACHE").env("NO_PROXY", "127.0.0.1");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let output = self.lyceum(arguments, "");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {errors}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn refused(&self, arguments: &[&str], exit: i32) -> Value {
        let output = self.lyceum(arguments, "");
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(exit), "{arguments:?}: {text}");
        serde_json::from_str::<Value>(text.lines().last().unwrap()).unwrap()["error"].clone()
    }
}

fn embedding(line: &Value) -> Vec<f64> {
    line["embedding"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

#[test]
fn a_model_is_pulled_shown_asked_exported_imported_again_and_removed() {
    let manners = Manners { files: files(), cut: Some(5000), ..Manners::default() };
    let desk = Desk { dir: tempfile::tempdir().unwrap(), server: Server::start(manners) };
    let done = desk.json(&["pull", "hf.co/org/tiny", "--quant", "f32", "--json"]).pop().unwrap();
    assert_eq!((&done["model"], &done["licence"]), (&"org/tiny@1".into(), &"apache-2.0".into()));
    assert_eq!((&done["kind"], &done["context"]), (&"embedding".into(), &20.into()));
    // The same files again are the same version.
    let again = desk.json(&["pull", "org/tiny", "--quant", "f32", "--json"]);
    assert_eq!((&again[0]["bytes_fetched"], &again[1]["model"]), (&0.into(), &"org/tiny@1".into()));

    let listed = desk.json(&["ls", "--json"]).remove(0);
    assert_eq!(
        (&listed["models"][0]["family"], &listed["models"][0]["task"]),
        (&"bert".into(), &"embedding".into())
    );
    let shown = desk.json(&["show", "org/tiny", "--json"]).remove(0);
    assert_eq!(shown["source"], format!("hf.co/org/tiny@{COMMIT}"));
    assert_eq!((&shown["quant"], &shown["licence"]), (&"f32".into(), &"apache-2.0".into()));
    let people = desk.lyceum(&["show", "org/tiny"], "");
    assert!(String::from_utf8(people.stdout).unwrap().contains("makes vectors of texts"));

    let expected: Value = serde_json::from_slice(
        &std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/encoder/texts.json"))
            .unwrap(),
    )
    .unwrap();
    let rows = expected["texts"].as_array().unwrap();
    let mut arguments = vec!["embed", "org/tiny"];
    arguments.extend(rows.iter().map(|row| row["text"].as_str().unwrap()));
    let answers = desk.json(&arguments);
    for (i, (answer, row)) in answers.iter().zip(rows).enumerate() {
        assert_eq!(answer["index"], i);
        let far =
            embedding(answer).iter().zip(embedding(row)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(far < 1e-5, "{row}");
    }
    let piped = desk.lyceum(&["embed", "org/tiny", "--dimensions", "3"], "the cat\nfish\n");
    let piped = String::from_utf8(piped.stdout).unwrap();
    let short: Value = serde_json::from_str(piped.lines().nth(1).unwrap()).unwrap();
    assert_eq!((piped.lines().count(), embedding(&short).len(), &short["index"]), (2, 3, &1.into()));
    assert_eq!(
        desk.refused(&["embed", "org/tiny", &"cat ".repeat(30), "--json"], 1)["code"],
        "context_length_exceeded"
    );

    let exported = desk.json(&["export", "org/tiny", "--output", "out", "--json"]).remove(0);
    assert_eq!(exported["format"], "safetensors");
    assert!(desk.dir.path().join("out/1_Pooling/config.json").is_file());
    let known = desk.json(&["import", "out", "--json"]).remove(0);
    assert_eq!((&known["model"], &known["already_there"]), (&"org/tiny@1".into(), &true.into()));
    let imported = desk.json(&["import", "out", "--name", "org/again", "--json"]).remove(0);
    assert_eq!((&imported["model"], &imported["licence"]), (&"org/again@1".into(), &"apache-2.0".into()));
    assert_eq!(imported["already_there"], false);
    assert_eq!(desk.json(&["show", "org/again@1", "--json"])[0]["source"], shown["source"]);
    std::fs::write(desk.dir.path().join("out/config.json"), "{}").unwrap();
    assert!(
        desk.refused(&["import", "out", "--json"], 1)["message"].as_str().unwrap().contains("config.json")
    );
    assert_eq!(desk.json(&["rm", "org/again@1", "--json"])[0]["model"], "org/again@1");
    assert!(!desk.dir.path().join("data/models/org%2Fagain/1").exists());
}

#[test]
fn what_a_hub_does_not_give_has_its_exit_code_and_its_fix() {
    let manners = Manners { files: files(), ..Manners::default() };
    let desk = Desk { dir: tempfile::tempdir().unwrap(), server: Server::start(manners) };
    let check = |arguments: &[&str], exit: i32, code: &str| {
        let error = desk.refused(arguments, exit);
        assert_eq!(error["code"], code, "{error}");
        assert!(!error["fix"].as_str().unwrap().is_empty());
    };
    check(&["pull", "tiny", "--json"], 2, "usage");
    check(&["pull", "org/nobody", "--json"], 3, "model_not_found");
    check(&["pull", "org/private", "--json"], 4, "denied");
    check(&["pull", "org/tiny:Q8_0", "--json"], 1, "not_a_model");
    desk.server.manners.lock().unwrap().lies = true;
    check(&["pull", "org/tiny", "--json"], 1, "wrong_hash");
    assert_eq!(desk.json(&["ls", "--json"])[0]["models"].as_array().unwrap().len(), 0);
}

#[test]
fn an_adapter_needs_a_base_that_is_here() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/adapters/names.safetensors");
    let file = std::fs::read(path).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&file).unwrap();
    let description = metadata.metadata().as_ref().unwrap()["config"].clone();
    let mut description: Value = serde_json::from_str(&description).unwrap();
    description["base_model_name_or_path"] = "org/base".into();
    let all = SafeTensors::deserialize(&file).unwrap();
    let weights = all.iter().filter(|(name, _)| !name.starts_with("test."));
    let files = BTreeMap::from([
        ("adapter_config.json".to_owned(), (description.to_string().into_bytes(), false)),
        ("adapter_model.safetensors".to_owned(), (safetensors::serialize(weights, None).unwrap(), true)),
    ]);
    let manners = Manners { files, ..Manners::default() };
    let desk = Desk { dir: tempfile::tempdir().unwrap(), server: Server::start(manners) };
    let error = desk.refused(&["pull", "org/tiny", "--json"], 3);
    assert_eq!(error["code"], "base_model_missing");
    assert!(
        error["why"].as_str().unwrap().contains("adds to org/base, which was not pulled here"),
        "{error}"
    );
    assert!(error["fix"].as_str().unwrap().contains("lyceum pull org/base first"), "{error}");
    let error = desk.refused(&["pull", "org/tiny", "--base", "nobody", "--json"], 3);
    assert!(error["message"].as_str().unwrap().contains("the base nobody is not there"), "{error}");
    let error = desk.refused(&["pull", "org/tiny", "--quant", "q8_0", "--json"], 2);
    assert!(error["message"].as_str().unwrap().contains("do not go with an adapter"), "{error}");
}
