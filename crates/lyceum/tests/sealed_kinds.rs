//! Every kind of job inside of an encrypted project: whole tunings, preferences, gates and cascades end in the bytes and answers
//! of the same in a clear project, tunings with differential privacy end at all (their noise is drawn anew), and nothing
//! of any is in a byte of the data folder.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test says what it expects by unwrapping")]

#[path = "../../lyceum-api/tests/api/families.rs"]
mod families;
mod program;
#[path = "program/sealed.rs"]
mod sealed;
#[path = "../../lyceum-api/tests/api/tiny.rs"]
mod tiny;

use lyceum_store::models;
use lyceum_store::registry::{Act, Actor};
use lyceum_store::vault;
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{ModelRef, Project};
use program::server::Server;
use sealed::{CANARY, found, pieces, project, run, serve, text_of, with_store};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const JOBS: &str = "/v1/fine_tuning/jobs";

/// A folder with `tiny` and `whole`, whom everyone may ask.
fn with_models() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    std::fs::create_dir(path.join("tmp")).unwrap();
    std::fs::write(path.join("tiny.gguf"), tiny::tiny_gguf()).unwrap();
    run(path, &["import", "tiny.gguf", "--name", "tiny"]);
    // Every weight is learnt of what came as safetensors.
    let llama = families::folder(path, families::FAMILIES[0]);
    run(path, &["import", llama.to_str().unwrap(), "--name", "whole"]);
    for name in ["tiny", "whole"] {
        run(path, &["admin", "shares", "add", name, "--everyone"]);
    }
    run(path, &["admin", "master-key", "create", path.join("master.key").to_str().unwrap()]);
    folder
}

fn lines(n: usize, line: impl Fn(usize) -> Value) -> String {
    (0..n).map(|i| line(i).to_string()).collect::<Vec<_>>().join("\n")
}

fn user(i: usize) -> Value {
    json!({"role": "user", "content": format!("say {i} {CANARY}")})
}

fn chats(n: usize, answer: &str) -> String {
    lines(n, |i| json!({"messages": [user(i), {"role": "assistant", "content": answer}]}))
}

fn pairs() -> String {
    let said = |text: &str| json!([{"role": "assistant", "content": text}]);
    lines(20, |i| {
        json!({"input": {"messages": [user(i)]}, "preferred_output": said("th th"),
        "non_preferred_output": said(&format!("no {i}"))})
    })
}

fn label(i: usize) -> &'static str {
    if i < 30 { CANARY } else { "high" }
}

fn text(i: usize) -> String {
    format!("{} {i} {CANARY}", if i < 30 { "low" } else { "up" })
}

/// What was made, by name, and what it answers.
#[derive(Debug, Default, PartialEq)]
struct Made {
    /// Of whole tuning, preferences and both versions behind the gate.
    weights: Vec<Vec<u8>>,
    answers: Vec<Value>,
    /// What the gate said of its second version.
    gate: Value,
    /// The definition of the cascade and how it was measured.
    cascade: Value,
}

struct World<'a> {
    folder: &'a Path,
    server: Server,
    project: Project,
}

impl World<'_> {
    fn done(&self, body: &Value) -> Value {
        let id = text_of(&self.server.post(JOBS, body), "id");
        self.server.wait(&format!("{JOBS}/{id}"), |job| job["status"] == "succeeded")
    }

    fn weights(&self, name: &str, file: &str) -> Vec<u8> {
        with_store(self.folder, async |store| {
            let found = models::resolve(&store, &self.project, &name.parse::<ModelRef>().unwrap()).await;
            let bytes = found.unwrap().dir.join(file).read().unwrap();
            store.close().await;
            bytes
        })
    }

    /// What a model says to its first line.
    fn say(&self, model: &Value) -> Value {
        let chat = json!({"model": model, "messages": [user(3)], "temperature": 0, "max_tokens": 4, "logprobs": true});
        self.server.post("/v1/chat/completions", &chat)["choices"].clone()
    }

    /// The job that tunes the next `bot` behind a gate, and what that said.
    fn gated(&self, [train, lines]: [&str; 2]) -> (Value, Value) {
        let spec = json!({"name": "bot", "model": {"lora": {}}, "gate": {"data": lines, "max_rise": 0.05},
            "train": {"epochs": 8, "batch_size": 2, "optimizer": {"name": "adamw", "lr": 0.01}}});
        let job = self.done(&json!({"model": "tiny", "training_file": train, "seed": 5,
            "method": {"type": "train", "train": {"spec": spec}}}));
        (job["fine_tuned_model"].clone(), job["lyceum"]["gate"].clone())
    }

    fn tuned(&self, made: &mut Made) {
        let bring = |name: &str, text: &str| self.server.bring("fine-tune", name, text);
        let good = bring("chats.jsonl", &chats(20, "th th"));
        let few = json!({"n_epochs": 2, "batch_size": 10});
        let whole = json!({"model": "whole", "training_file": good, "seed": 5, "method": {"type": "supervised",
            "supervised": {"hyperparameters": few, "lora": false}}});
        let dpo = json!({"model": "tiny", "training_file": bring("pairs.jsonl", &pairs()), "seed": 5,
            "method": {"type": "dpo", "dpo": {"hyperparameters": few, "lora": {"rank": 4}}}});
        for (body, file) in [(whole, "model.safetensors"), (dpo, "adapter_model.safetensors")] {
            let model = self.done(&body)["fine_tuned_model"].clone();
            made.weights.push(self.weights(model.as_str().unwrap(), file));
            made.answers.push(self.say(&model));
        }
        let other = bring("other.jsonl", &chats(20, "quite another answer"));
        let lines = bring("gate.jsonl", &chats(6, "th th"));
        let (model, gate) = self.gated([&good, &lines]);
        assert_eq!((&model, &gate["held"]), (&json!("bot@1"), &json!(false)), "{gate}");
        let (model, gate) = self.gated([&other, &lines]);
        assert_eq!((&model, &gate["held"]), (&json!("bot@2"), &json!(true)), "{gate}");
        made.gate = json!([gate["loss"], gate["served_loss"]]);
        let held = self.say(&json!("bot"));
        for version in ["bot@1", "bot@2"] {
            made.weights.push(self.weights(version, "adapter_model.safetensors"));
            made.answers.push(self.say(&json!(version)));
        }
        assert_eq!(held, made.answers[2], "the bare name goes on serving the first");
        with_store(self.folder, async |store| {
            let act = Act { actor: Actor::User("test".into()), note: String::new(), now: Timestamp::now() };
            models::promote(&store, &self.project, &"bot".parse().unwrap(), 2, &act).await.unwrap();
            store.close().await;
        });
        assert_eq!(self.say(&json!("bot")), made.answers[3], "promoted");
    }

    fn cascaded(&self, made: &mut Made) {
        let row = |i: usize| format!("{},{}\n", text(i), label(i));
        let rows = (0..60).map(row).fold("text,label\n".to_owned(), |text, row| text + &row);
        let file = self.server.bring("fine-tune", "rows.csv", &rows);
        for (name, size) in [("little", 2), ("big", 6)] {
            let spec = json!({"name": name, "task": "classification",
                "data": {"target": "label", "input": {"type": "text", "max_tokens": 32}},
                "model": {"hidden_size": size, "embedding_dim": 3, "head": "last"},
                "train": {"epochs": 2, "batch_size": 10, "optimizer": {"name": "adam", "lr": 0.02}}});
            let asked = json!({"model": "lstm", "training_file": file, "seed": 5,
                "method": {"type": "train", "train": {"spec": spec}}});
            assert_eq!(self.done(&asked)["fine_tuned_model"], format!("{name}@1"));
        }
        let held = lines(60, |i| json!({"input": format!("{} too", text(i)), "label": label(i)}));
        let data = self.server.bring("user_data", "held.jsonl", &held);
        let asked = json!({"name": "router", "small": "little", "large": "big", "data": data, "alpha": 0.3, "seed": 1});
        let id = text_of(&self.server.post("/v1/cascades", &asked), "id");
        let path = format!("/v1/cascades/{id}");
        let cascade = self.server.wait(&path, |cascade| cascade["status"] == "completed");
        let shares = |report: &Value| {
            let all = report["shares"].as_object().unwrap().iter();
            all.map(|(name, share)| json!([name, share["value"], share["n"]])).collect::<Vec<_>>()
        };
        let mut definition = cascade["definition"].clone();
        for member in ["small", "large"] {
            // A manifest has the time of its training.
            definition[member].as_object_mut().unwrap().remove("manifest_sha256").unwrap();
        }
        made.cascade = json!([definition, shares(&cascade["report"])]);
        for i in [3, 29, 50] {
            let question = json!({"model": "router", "input": text(i),
                "questions": [{"type": "choice", "instructions": "Which?", "choices": [{"value": CANARY}, {"value": "high"}]}]});
            let answer = self.server.post("/v1/decisions", &question);
            let (routed, small) = (&answer["cascade"], &answer["cascade"]["small"]["labels"]);
            made.answers.push(json!([answer["answers"], routed["answered_by"], routed["member"], small]));
        }
    }

    /// Its noise is drawn anew each time: it ends, says what it promises, and forgets the key of its noise.
    fn private(&self) -> PathBuf {
        let file = self.server.bring("fine-tune", "private.jsonl", &chats(20, "th th"));
        let asked = json!({"model": "tiny", "training_file": file, "seed": 5,
            "privacy": {"type": "dp_sgd", "sigma": 1.0, "target_delta": 1e-3, "max_grad_norm": 1.0, "public": ["rows"]},
            "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 10},
                "lora": {"rank": 4}}}});
        let done = self.done(&asked);
        let told = self.server.get(&format!("{JOBS}/{}/privacy", text_of(&done, "id")));
        assert!(told["guarantee"]["epsilon"].as_f64().is_some_and(|epsilon| epsilon > 1.0), "{told}");
        assert_eq!(
            self.say(&done["fine_tuned_model"])[0]["finish_reason"].as_str().map(str::is_empty),
            Some(false)
        );
        let folder = with_store(self.folder, async |store| {
            let id = text_of(&done, "id").parse().unwrap();
            let folder = vault::job_folder(&store, &self.project, &id).unwrap().path().to_owned();
            store.close().await;
            folder
        });
        let checkpoints: Vec<_> = std::fs::read_dir(folder.join("checkpoints")).unwrap().flatten().collect();
        assert!(!checkpoints.is_empty());
        for checkpoint in checkpoints {
            assert!(!checkpoint.path().join("noise.json").exists(), "the key of its noise is gone");
        }
        folder
    }
}

/// All kinds of jobs in one project.
fn make(world: &World<'_>) -> Made {
    let mut made = Made::default();
    world.tuned(&mut made);
    world.cascaded(&mut made);
    world.private();
    made
}

#[test]
fn every_kind_of_job_in_an_encrypted_project_ends_as_in_a_clear_one_and_is_in_no_byte() {
    let folder = with_models();
    let world =
        World { folder: folder.path(), server: serve(folder.path(), None), project: project("default") };
    let clear = make(&world);
    let canary = [CANARY.as_bytes().to_vec()];
    assert!(found(&folder.path().join("data"), &canary).len() > 10, "the search finds what is kept");
    drop(world);

    let folder = with_models();
    let path = folder.path();
    let id = text_of(&run(path, &["admin", "projects", "create", "sealed", "--encrypted"]), "id");
    let key = text_of(&run(path, &["admin", "service-accounts", "create", &id, "bot"]), "key");
    let server = serve(path, Some(key));
    let world = World { folder: path, server, project: project(&id) };
    let sealed = make(&world);
    for (i, (sealed, clear)) in sealed.answers.iter().zip(&clear.answers).enumerate() {
        assert_eq!(sealed, clear, "answer {i}");
    }
    assert_eq!((&sealed.gate, &sealed.cascade), (&clear.gate, &clear.cascade));
    assert!(sealed.weights == clear.weights, "bit for bit");
    let mut needles = vec![CANARY.as_bytes().to_vec(), b"base_model.model".to_vec(), b"th th".to_vec()];
    for weights in &sealed.weights {
        let all = pieces(weights);
        let step = all.len().div_ceil(200);
        needles.extend(all.into_iter().step_by(step));
    }
    // What was imported is everybody's, and has the rows of its vocabulary that no line taught.
    let base = path.join("data/models/whole/1/model.safetensors");
    for place in ["data", "tmp"] {
        let mut found = found(&path.join(place), &needles);
        found.retain(|path| *path != base);
        assert_eq!(found, Vec::<PathBuf>::new());
    }
    let said = std::fs::read(path.join("said")).unwrap();
    assert!(!sealed::has(&said, &needles[..1]), "nor in what the server says");
}
