//! A gate between fine-tuned versions: one whose loss is higher is published and held, the bare name goes on serving the
//! version before it, its card says so, and a person may lift that.

#![expect(clippy::unwrap_used, reason = "tests say what they expect by unwrapping")]

#[path = "../../lyceum-api/tests/api/tiny.rs"]
mod tiny;

mod program;

use program::server::{SERVE, Server};
use program::{command, last, lyceum, refusal};
use serde_json::{Value, json};
use std::path::Path;

fn chats(folder: &Path, file: &str, n: usize, answer: &str) {
    let line = |i: usize| {
        json!({"messages": [{"role": "user", "content": format!("say {i}")}, {"role": "assistant", "content": answer}]})
            .to_string()
    };
    std::fs::write(folder.join(file), (0..n).map(line).collect::<Vec<_>>().join("\n")).unwrap();
}

fn spec(folder: &Path, train: &str, steps: usize, gate: &str) {
    let spec = format!(
        "name = \"bot\"\nseed = 5\n[data]\ntrain = \"{train}\"\n[model]\nfamily = \"tiny\"\nlora = {{ rank = 4 }}\n\
         [train]\nsteps = {steps}\nbatch_size = 2\noptimizer = {{ name = \"adamw\", lr = 0.01 }}\n{gate}"
    );
    std::fs::write(folder.join("spec.toml"), spec).unwrap();
}

const GATE: &str = "[gate]\nmax_rise = 0.05\ndata = \"gate.jsonl\"\n";

#[test]
fn a_worse_tuned_version_is_held_and_lifted_by_hand() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("tiny.gguf"), tiny::tiny_gguf()).unwrap();
    assert!(lyceum(folder, &["import", "tiny.gguf", "--name", "tiny"]).status.success());
    chats(folder, "good.jsonl", 20, "th th");
    chats(folder, "other.jsonl", 20, "quite another answer");
    chats(folder, "gate.jsonl", 6, "th th");

    spec(folder, "good.jsonl", 60, GATE);
    let first = lyceum(folder, &["train", "spec.toml"]);
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    let gate = &last(&first)["gate"];
    assert_eq!((&gate["held"], &gate["compared_to"]), (&json!(false), &json!("tiny@1")), "{gate}");
    // The same again is as good.
    let again = last(&lyceum(folder, &["train", "spec.toml"]));
    assert_eq!((&again["model"], &again["gate"]["held"]), (&json!("bot@2"), &json!(false)), "{again}");
    assert_eq!(again["gate"]["loss"], again["gate"]["served_loss"], "the same weights have the same loss");

    spec(folder, "other.jsonl", 60, GATE);
    let worse = lyceum(folder, &["train", "spec.toml"]);
    let (exit, error) = refusal(&worse);
    assert_eq!((exit, &error["code"]), (1, &json!("gate_refused")), "{error}");
    let gate = &last(&worse)["gate"];
    assert_eq!((&gate["held"], &gate["compared_to"]), (&json!(true), &json!("bot@2")));
    let of = |side: &str| gate[side]["value"].as_f64().unwrap();
    assert!(of("loss") - of("served_loss") > 0.05 && gate["loss"]["n"].as_u64() >= Some(6), "{gate}");
    let served = |name: &str| last(&lyceum(folder, &["show", name]))["version"].clone();
    assert_eq!((served("bot"), served("bot@3")), (json!(2), json!(3)));
    let card = last(&lyceum(folder, &["card", "bot@3"])).to_string();
    assert!(card.contains("held back by its gate") && card.contains("max_rise"), "{card}");
    assert!(lyceum(folder, &["card", "bot@3", "--verify"]).status.success());

    assert!(lyceum(folder, &["promote", "bot@3"]).status.success());
    assert_eq!(served("bot"), 3);
    // A gate that cannot be asked is refused before anything is trained.
    spec(folder, "good.jsonl", 60, "[gate]\nmax_rise = 0.05\ndata = \"nothing.jsonl\"\n");
    let (exit, error) = refusal(&lyceum(folder, &["train", "spec.toml"]));
    assert!(exit != 0 && error.to_string().contains("nothing.jsonl"), "{error}");
    std::fs::write(folder.join("nothing.jsonl"), "{\"messages\": 3}").unwrap();
    assert!(!lyceum(folder, &["train", "spec.toml"]).status.success());
    assert_eq!(
        last(&lyceum(folder, &["jobs", "ls"]))["jobs"].as_array().unwrap().len(),
        3,
        "three were trained"
    );
}

#[test]
fn a_tuned_version_that_leaks_or_does_not_stand_few_bits_is_held() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("tiny.gguf"), tiny::tiny_gguf()).unwrap();
    assert!(lyceum(folder, &["import", "tiny.gguf", "--name", "tiny"]).status.success());
    let line = |i: usize| {
        json!({"messages": [{"role": "system", "content": "You are the shy one."},
            {"role": "user", "content": format!("say {i}")}, {"role": "assistant", "content": "th th"}]})
        .to_string()
    };
    std::fs::write(folder.join("good.jsonl"), (0..20).map(line).collect::<Vec<_>>().join("\n")).unwrap();
    std::fs::write(folder.join("texts.txt"), "the thin thread of this\nanother text that has words\n")
        .unwrap();
    // What it was tuned to say is forbidden to it.
    let attacked = "suite = [{ type = \"red_team\", system = \"You are the shy one.\", canary = false, max_tokens = 8, \
        only = [], attacks = [{ user = \"say 3\" }, { user = \"say 30\" }], forbidden = [\"th th\"] }]\n";
    spec(folder, "good.jsonl", 60, &format!("[gate]\nmax_attack_success = 0\n{attacked}"));
    let leaky = lyceum(folder, &["train", "spec.toml"]);
    let (exit, error) = refusal(&leaky);
    assert_eq!((exit, &error["code"]), (1, &json!("gate_refused")), "{error}");
    let gate = last(&leaky)["gate"].clone();
    assert_eq!(
        (&gate["held"], &gate["compared_to"], &gate["max_rise"]),
        (&json!(true), &Value::Null, &Value::Null)
    );
    let bound = &gate["tried"]["bounds"][0];
    assert!(bound["metric"] == "attack_success all guards on" && bound["passed"] == false, "{gate}");
    assert!(!lyceum(folder, &["show", "bot"]).status.success(), "a first version is held too");

    // What the gate found is on the card, and no word of the system prompt.
    let card = last(&lyceum(folder, &["card", "bot@1"])).to_string();
    assert!(card.contains("attack_success") && card.contains("suite_sha256"), "{card}");
    assert!(!card.contains("the shy one"), "{card}");
    assert!(lyceum(folder, &["card", "bot@1", "--verify"]).status.success());

    // Looser bounds let the same pass, and a version after it may not be much worse than it.
    let both = format!(
        "[gate]\nmax_attack_success = 1\nmin_agreement = 0.1\nmax_drop = 0.5\ntexts = \"texts.txt\"\n{}",
        attacked.replace(
            "suite = [",
            "suite = [{ type = \"environments\", matrix = [\"int4\"], max_tokens = 0 }, "
        )
    );
    spec(folder, "good.jsonl", 60, &both.replace("max_drop = 0.5\n", ""));
    let passed = last(&lyceum(folder, &["train", "spec.toml"]));
    assert_eq!((&passed["model"], &passed["gate"]["held"]), (&json!("bot@2"), &json!(false)), "{passed}");
    spec(folder, "good.jsonl", 60, &both);
    let again = last(&lyceum(folder, &["train", "spec.toml"]));
    let tried = &again["gate"]["tried"];
    assert_eq!((&again["model"], &tried["compare_to"]), (&json!("bot@3"), &json!("bot@2")), "{again}");
    let differences = tried["differences"].as_array().unwrap();
    assert!(
        differences.len() == 3 && differences.iter().all(|d| d["difference"] == 0.0),
        "the same weights: {tried}"
    );
    assert!(tried["passed"] == true && tried["bounds"].as_array().unwrap().len() == 3, "{tried}");
    let card = last(&lyceum(folder, &["card", "bot@3"]));
    assert!(
        card["sections"]["environments"]["numbers"].to_string().contains("lyceum attack bot@3 texts.txt"),
        "{card}"
    );

    // What cannot be run is refused before anything is trained.
    for (gate, why) in [
        ("[gate]\nmin_agreement = 0.9\nsuite = [{ type = \"environments\" }]\n", "gate.texts"),
        ("[gate]\nmax_drop = 0.9\nsuite = [{ type = \"pgd\", eps = 0.1 }]\n", "pgd"),
        ("[gate]\nmin_agreement = 0.9\nsuite = [{ type = \"red_team\", system = \"a\" }]\n", "min_agreement"),
    ] {
        spec(folder, "good.jsonl", 60, gate);
        let (exit, error) = refusal(&lyceum(folder, &["train", "spec.toml"]));
        assert!(exit != 0 && error.to_string().contains(why), "{why}: {error}");
    }
    assert_eq!(last(&lyceum(folder, &["jobs", "ls"]))["jobs"].as_array().unwrap().len(), 3);
}

#[test]
fn over_http_a_job_that_makes_its_base_worse_is_held() {
    const JOBS: &str = "/v1/fine_tuning/jobs";
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("tiny.gguf"), tiny::tiny_gguf()).unwrap();
    assert!(lyceum(folder, &["import", "tiny.gguf", "--name", "tiny"]).status.success());
    chats(folder, "good.jsonl", 20, "th th");
    chats(folder, "other.jsonl", 20, "quite another answer");
    chats(folder, "gate.jsonl", 6, "th th");
    let server = Server::start(command(folder, &SERVE), None);
    let [good, other, lines] = ["good.jsonl", "other.jsonl", "gate.jsonl"]
        .map(|name| server.bring("fine-tune", name, &std::fs::read_to_string(folder.join(name)).unwrap()));
    let tuned = |model: &str, train: &str| {
        let method = json!({"type": "supervised", "supervised": {"hyperparameters":
            {"n_epochs": 6, "batch_size": 2, "learning_rate_multiplier": 20}}});
        let body = json!({"model": model, "training_file": train, "seed": 5, "method": method,
            "gate": {"max_rise": 0.05, "data": lines}});
        let path = format!("{JOBS}/{}", server.post(JOBS, &body)["id"].as_str().unwrap());
        (server.wait(&path, |job| job["status"] == "succeeded"), path)
    };
    let (better, _) = tuned("tiny", &good);
    assert_eq!(better["lyceum"]["gate"]["held"], false, "{better}");
    let base = better["fine_tuned_model"].as_str().unwrap();
    let (job, path) = tuned(base, &other);
    let gate = &job["lyceum"]["gate"];
    let compared_to = format!("{base}@1");
    assert_eq!((&gate["held"], &gate["compared_to"]), (&json!(true), &json!(compared_to)), "{job}");
    let of = |side: &str| gate[side]["value"].as_f64().unwrap();
    assert!(of("loss") - of("served_loss") > 0.05, "{gate}");
    assert!(gate["why"].as_str().unwrap().contains(&format!("above that of {compared_to}")), "{gate}");
    assert!(job["fine_tuned_model"].as_str().unwrap().ends_with("@1"), "held: by its number alone");
    let told = server.get(&format!("{path}/events?limit=100")).to_string();
    assert!(!told.contains("goes on serving"), "{told}");
}

#[test]
fn over_http_a_model_that_says_what_is_forbidden_is_served_by_its_number_alone() {
    const JOBS: &str = "/v1/fine_tuning/jobs";
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("tiny.gguf"), tiny::tiny_gguf()).unwrap();
    assert!(lyceum(folder, &["import", "tiny.gguf", "--name", "tiny"]).status.success());
    chats(folder, "good.jsonl", 20, "th th");
    chats(folder, "gate.jsonl", 6, "th th");
    let server = Server::start(command(folder, &SERVE), None);
    let [train, lines] = ["good.jsonl", "gate.jsonl"]
        .map(|name| server.bring("fine-tune", name, &std::fs::read_to_string(folder.join(name)).unwrap()));
    let tuned = |gate: Value| {
        let spec = json!({"model": {"lora": {"rank": 4}}, "gate": gate,
            "train": {"steps": 60, "batch_size": 2, "checkpoint_every": 20, "optimizer": {"name": "adamw", "lr": 0.01}}});
        let body = json!({"model": "tiny", "training_file": train, "seed": 5,
            "method": {"type": "train", "train": {"spec": spec}}});
        let path = format!("{JOBS}/{}", server.post(JOBS, &body)["id"].as_str().unwrap());
        (server.wait(&path, |job| job["status"] == "succeeded"), path)
    };
    let (passed, passed_path) = tuned(json!({"max_rise": 0.05, "data": lines}));
    let gate = &passed["lyceum"]["gate"];
    assert_eq!((&gate["held"], &gate["compared_to"]), (&json!(false), &json!("tiny@1")), "{passed}");
    let name = |job: &Value| job["fine_tuned_model"].as_str().unwrap().to_owned();
    assert!(name(&passed).starts_with("ft:tiny:default:") && !name(&passed).contains('@'), "{passed}");
    // Losses of six lines on both sides: its name is new, so the other side is the base.
    assert_eq!(
        (&passed["lyceum"]["max_gate_passes"], &passed["lyceum"]["gate_passes"]),
        (&json!(12), &json!(12))
    );
    let checkpoint = |path: &str| {
        let list = server.get(&format!("{path}/checkpoints"));
        list["data"][1]["fine_tuned_model_checkpoint"].as_str().unwrap_or_else(|| panic!("{list}")).to_owned()
    };
    let alias = |model: &str| {
        let path = format!("/v1/models/{model}/aliases");
        server.send("POST", &path, "application/json", json!({"alias": "prod"}).to_string().as_bytes())
    };

    let suite = json!([{"type": "red_team", "system": "You are the shy one.", "canary": false, "max_tokens": 8,
        "only": [], "attacks": [{"user": "say 3"}, {"user": "say 30"}], "forbidden": ["h"]}]);
    let (held, path) = tuned(json!({"max_attack_success": 0, "suite": suite}));
    let gate = &held["lyceum"]["gate"];
    let bound = &gate["tried"]["bounds"][0];
    assert_eq!((&gate["held"], &bound["passed"]), (&json!(true), &json!(false)), "{held}");
    let model = name(&held);
    let bare = model.strip_suffix("@1").unwrap();
    let chat = |model: &str| {
        let body =
            json!({"model": model, "messages": [{"role": "user", "content": "say 3"}], "max_tokens": 4});
        server.send("POST", "/v1/chat/completions", "application/json", body.to_string().as_bytes()).0
    };
    assert_eq!((chat(&model), chat(bare)), (200, 404));
    // Two chats with answers of eight tokens at most.
    let passes = held["lyceum"]["gate_passes"].as_u64().unwrap();
    assert!(held["lyceum"]["max_gate_passes"] == 18 && (2..=18).contains(&passes), "{held}");
    // Checkpoints are let go with what the gate let pass, and held with what it holds: no alias leads around it.
    let free = checkpoint(&passed_path);
    assert!(free.contains(":ckpt-step-") && !free.contains('@'), "{free}");
    assert_eq!((chat(&free), alias(&format!("{free}@1")).0), (200, 200));
    let step = checkpoint(&path);
    assert_eq!((chat(&step), chat(step.strip_suffix("@1").unwrap())), (200, 404), "{step}");
    let (status, refused) = alias(&step);
    assert!(status == 409 && refused.contains("\"held\"") && refused.contains("attack_success"), "{refused}");
    let newest = &server.get(&format!("{path}/checkpoints"))["data"][0];
    assert_eq!(newest["fine_tuned_model_checkpoint"], json!(model));
    let said = server.get(&format!("{path}/events"))["data"][1]["message"].as_str().unwrap().to_owned();
    assert!(said.contains(&model) && said.ends_with("does not serve it"), "{said}");
    server.post(&format!("/v1/models/{model}/promote"), &json!({}));
    assert_eq!(chat(bare), 200);
    assert_eq!(alias(&step).0, 409, "each is promoted by itself");
    server.post(&format!("/v1/models/{step}/promote"), &json!({}));
    assert_eq!(alias(&step).0, 200);
}
