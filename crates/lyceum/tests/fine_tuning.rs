//! Trainings over HTTP, made by the server's worker: the tuned model and its checkpoints are served at once, and a job
//! that was paused, whose process was killed and whose server was killed ends in the bytes of one that never stopped.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "tests say what they expect by unwrapping")]

mod program;
#[path = "../../lyceum-api/tests/api/tiny.rs"]
mod tiny;

use program::command;
use program::server::{SERVE, Server, send};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const JOBS: &str = "/v1/fine_tuning/jobs";

fn serve(folder: &Path, key: Option<String>) -> Server {
    Server::start(command(folder, &SERVE), key)
}

/// The job when `done` says so.
#[track_caller]
fn wait(server: &Server, id: &str, done: impl Fn(&Value) -> bool) -> Value {
    server.wait(&format!("{JOBS}/{id}"), done)
}

/// Waits until the job's log has a step beyond this one.
fn wait_step(server: &Server, id: &str, beyond: u64) {
    let begun = Instant::now();
    loop {
        let events = server.get(&format!("{JOBS}/{id}/events?limit=5"));
        let steps = events["data"].as_array().unwrap().iter().filter_map(|e| e["data"]["step"].as_u64());
        if steps.max().is_some_and(|step| step > beyond) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{events}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn chats(n: usize) -> String {
    let line = |i: usize| {
        json!({"messages": [{"role": "user", "content": format!("say {i}")}, {"role": "assistant", "content": "th th"}]})
            .to_string()
    };
    (0..n).map(line).collect::<Vec<_>>().join("\n")
}

/// A folder with the model `tiny`.
fn with_model() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tiny.gguf"), tiny::tiny_gguf()).unwrap();
    let done = command(folder.path(), &["import", "tiny.gguf", "--name", "tiny"]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    folder
}

fn weights(folder: &Path, model: &Value) -> Vec<u8> {
    let name = model.as_str().unwrap().replace(':', "%3A");
    let path: PathBuf = folder.join("data/models").join(name).join("1/adapter_model.safetensors");
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Which lines made a tuned model answer so, over HTTP and at the command line; and how well its losses tell them.
fn lines_behind(server: &Server, folder: &Path, model: &str) {
    let asked = json!({"model": model, "messages": [{"role": "user", "content": "say 3"}], "completion": "th th",
        "method": "tracin"});
    let why = server.post("/v1/explanations", &asked);
    assert_eq!((&why["object"], &why["n_rows"]), (&json!("row_influence"), &json!(40)), "{why}");
    assert_eq!((&why["target"]["text"], &why["usage"]["forward_passes"]), (&json!("th th"), &json!(2 * 41)));
    let steps: Vec<&Value> =
        why["checkpoints"].as_array().unwrap().iter().map(|kept| &kept["step"]).collect();
    assert_eq!(steps, [&json!(3980), &json!(4000)]);
    let rows = why["rows"]["lowered_loss"].as_array().unwrap();
    assert!(!rows.is_empty() && rows.iter().all(|row| row["label"] == "th th"), "{why}");
    let list = server.get(&format!("/v1/models/{model}/explanation_methods"));
    let methods = list["data"].as_array().unwrap();
    assert_eq!(methods.iter().find(|m| m["method"] == "tracin").unwrap()["supported"], true);
    let told = |arguments: &[&str]| -> Value {
        let done = command(folder, arguments).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        serde_json::from_slice(&done.stdout).unwrap()
    };
    let said = ["--input", "say 3", "--completion", "th th", "--method", "tracin", "--json"];
    let again = told(&[&["explain", model][..], &said].concat());
    assert_eq!(again["rows"], why["rows"]);
    let others = json!({"messages": [{"role": "user", "content": "say 99"}, {"role": "assistant", "content": "no no"}]});
    std::fs::write(folder.join("in.jsonl"), chats(40)).unwrap();
    std::fs::write(folder.join("out.jsonl"), format!("{others}\n").repeat(20)).unwrap();
    let audit = ["privacy", "audit", model, "--members", "in.jsonl", "--others", "out.jsonl", "--json"];
    let found = told(&audit);
    let auc = found["auc"]["value"].as_f64().unwrap();
    assert!(found["attack"] == "loss_over_base" && auc > 0.999, "{found}");
    assert!(found["epsilon_claimed"].is_null() && found["canaries"].is_null());
}

#[test]
fn a_tuned_model_and_its_checkpoints_are_served_and_every_interruption_ends_in_the_same_bytes() {
    let folder = with_model();
    let server = serve(folder.path(), None);
    for arguments in [
        &["prices", "set", "*", "--training", "3", "--training-row", "5"][..],
        &["budgets", "set", "1000", "--project", "default"][..],
    ] {
        assert!(command(folder.path(), arguments).status().unwrap().success());
    }
    let (train, valid) = (
        server.bring("fine-tune", "chats.jsonl", &chats(40)),
        server.bring("fine-tune", "valid.jsonl", &chats(4)),
    );
    let body = json!({"model": "tiny", "training_file": train, "validation_file": valid, "seed": 5, "suffix": "bot",
        "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 200, "batch_size": 2}}}});
    let id = |job: &Value| job["id"].as_str().unwrap().to_owned();
    let is_done = |job: &Value| job["status"] == "succeeded";
    let whole = wait(&server, &id(&server.post(JOBS, &body)), is_done);
    let model = &whole["fine_tuned_model"];
    assert!(model.as_str().unwrap().starts_with("ft:tiny:default:bot:"), "{whole}");
    assert_eq!(whole["trained_tokens"], whole["lyceum"]["estimated_tokens"]);
    let say = |model: &Value| {
        let chat = json!({"model": model, "messages": [{"role": "user", "content": "say 3"}], "temperature": 0,
            "max_tokens": 4});
        server.post("/v1/chat/completions", &chat)["choices"][0]["message"]["content"].clone()
    };
    assert_eq!(say(model), "th th", "it has learnt");
    assert_ne!(say(&json!("tiny")), "th th");
    lines_behind(&server, folder.path(), model.as_str().unwrap());
    let list = server.get(&format!("{JOBS}/{}/checkpoints", id(&whole)));
    let checkpoints = list["data"].as_array().unwrap();
    assert_eq!(checkpoints.len(), 2, "{list}");
    assert_eq!(
        (&checkpoints[0]["fine_tuned_model_checkpoint"], &checkpoints[0]["step_number"]),
        (model, &json!(4000))
    );
    assert_eq!(checkpoints[1]["step_number"], 3980);
    assert!(
        checkpoints[1]["metrics"]["valid_loss"].is_f64() && checkpoints[1]["metrics"]["train_loss"].is_f64()
    );
    let name = &checkpoints[1]["fine_tuned_model_checkpoint"];
    assert_eq!(name, &json!(format!("{}:ckpt-step-3980", model.as_str().unwrap())));
    assert_eq!(say(name), "th th");
    assert!(weights(folder.path(), name) != weights(folder.path(), model));
    let result = whole["result_files"][0].as_str().unwrap();
    assert_eq!(server.get(&format!("/v1/files/{result}"))["purpose"], "fine-tune-results");
    let (_, table) = server.send("GET", &format!("/v1/files/{result}/content"), "", b"");
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(
        (lines[0], lines.len()),
        (
            "step,train_loss,train_mean_token_accuracy,valid_loss,valid_mean_token_accuracy,valid_perplexity",
            4001
        ),
        "{}",
        lines[1]
    );
    assert!(lines[1].starts_with("1,") && lines[1].ends_with(",,,"), "{}", lines[1]);
    let last: Vec<f64> = lines[4000].split(',').map(|number| number.parse().unwrap()).collect();
    let metrics = &checkpoints[0]["metrics"];
    assert_eq!((last[0], &json!(last[3])), (4000.0, &metrics["valid_loss"]), "{metrics}");
    assert_eq!((last[2], &metrics["train_mean_token_accuracy"]), (1.0, &json!(1.0)), "{metrics}");
    let (status, told) =
        server.send("GET", &format!("{JOBS}/{}/events?stream=true", id(&whole)), "application/json", b"");
    assert!(
        status == 200 && told.contains("successfully completed") && told.contains("data: [DONE]"),
        "{told}"
    );

    // Paused and resumed; then its process is killed; then the server, with the process.
    let job = id(&server.post(JOBS, &body));
    wait_step(&server, &job, 30);
    server.post(&format!("{JOBS}/{job}/pause"), &json!({}));
    let paused = wait(&server, &job, |job| job["status"] == "paused");
    assert!(paused["lyceum"]["step"].as_u64().unwrap() < 4000, "{paused}");
    let begun = Instant::now();
    while !server.children().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(20), "its process ends");
        std::thread::sleep(Duration::from_millis(5));
    }
    server.post(&format!("{JOBS}/{job}/resume"), &json!({}));
    wait(&server, &job, |job| job["status"] == "running" && job["lyceum"]["attempt"] == 2);
    let begun = Instant::now();
    let child = loop {
        if let [child] = server.children()[..] {
            break child;
        }
        assert!(begun.elapsed() < Duration::from_secs(20));
    };
    assert!(send("-9", child));
    wait(&server, &job, |job| job["lyceum"]["attempt"] == 3);
    let children = server.children();
    let key = server.end("-9");
    for child in children {
        assert!(send("-9", child));
    }
    let server = serve(folder.path(), Some(key));
    let ended = wait(&server, &job, is_done);
    assert!(ended["lyceum"]["attempt"].as_u64().unwrap() >= 4, "{ended}");
    assert!(
        weights(folder.path(), &ended["fine_tuned_model"]) == weights(folder.path(), model),
        "bit for bit"
    );

    // A job spec of a family that is trained from the start, and a job that is cancelled in its middle.
    let rows: String = (0..60).map(|i| format!("{i},{}\n", if i < 30 { "low" } else { "high" })).collect();
    let rows = server.bring("fine-tune", "rows.csv", &format!("a,label\n{rows}"));
    let spec = json!({"name": "side", "task": "classification", "data": {"target": "label"}, "model": {"hidden": [4]},
        "train": {"epochs": 20, "batch_size": 4, "optimizer": {"name": "adam", "lr": 0.02}}});
    let method = json!({"type": "train", "train": {"spec": spec}});
    let trained = server.post(JOBS, &json!({"model": "mlp", "training_file": rows, "method": method}));
    assert_eq!(wait(&server, &id(&trained), is_done)["fine_tuned_model"], "side@1");
    let mut long = body.clone();
    long["method"]["supervised"]["hyperparameters"]["n_epochs"] = json!(100_000);
    let long = id(&server.post(JOBS, &long));
    wait_step(&server, &long, 1);
    // Its checkpoints are served while it runs.
    let begun = Instant::now();
    let running = loop {
        let list = server.get(&format!("{JOBS}/{long}/checkpoints"));
        if let Some(first) = list["data"].get(0) {
            break first.clone();
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{list}");
        std::thread::sleep(Duration::from_millis(50));
    };
    let name = running["fine_tuned_model_checkpoint"].as_str().unwrap();
    assert!(name.ends_with(&format!(":ckpt-step-{}", running["step_number"])), "{running}");
    let chat = json!({"model": name, "messages": [{"role": "user", "content": "say 3"}], "max_tokens": 4});
    assert_eq!(server.post("/v1/chat/completions", &chat)["model"], json!(format!("{name}@1")));
    assert_eq!(server.get(&format!("{JOBS}/{long}"))["status"], "running");
    server.post(&format!("{JOBS}/{long}/cancel"), &json!({}));
    let begun = Instant::now();
    while server.get(&format!("{JOBS}/{long}"))["status"] != "cancelled" {
        assert!(begun.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(50));
    }

    // Whatever was killed on the way, each is paid for once: what the tokenizer counts in its examples, and what was
    // trained until it was cancelled.
    let cancelled = server.get(&format!("{JOBS}/{long}"));
    let steps = cancelled["lyceum"]["step"].as_u64().unwrap();
    let rows = ledger(folder.path());
    let ids = [id(&whole), job, id(&trained), long];
    assert_eq!(rows.keys().cloned().collect::<Vec<_>>(), sorted(&ids), "{rows:?}");
    let count = |body: Value| server.post("/tokenize", &body)["count"].as_u64().unwrap();
    let answer = count(json!({"model": "tiny", "prompt": "th th", "add_special_tokens": false}));
    let an_epoch: u64 = (0..40)
        .map(|i| {
            count(json!({"model": "tiny", "messages": [{"role": "user", "content": format!("say {i}")}]}))
        })
        // The token that ends a turn and the template's line break.
        .map(|prompt| prompt + answer + 2)
        .sum();
    for (id, outcome) in [(&ids[0], "completed"), (&ids[1], "completed")] {
        let row = &rows[id];
        assert_eq!((&row["training_tokens"], &row["outcome"]), (&json!(200 * an_epoch), &json!(outcome)));
        assert_eq!(row["cost_usd"], json!(usd(3 * 200 * an_epoch)));
        assert_eq!(server.get(&format!("{JOBS}/{id}"))["trained_tokens"], row["training_tokens"]);
    }
    let row = &rows[&ids[2]];
    assert_eq!((&row["training_rows"], &row["cost_usd"]), (&json!(20 * 60), &json!(usd(20 * 60 * 5))));
    let row = &rows[&ids[3]];
    let tokens = row["training_tokens"].as_u64().unwrap();
    assert_eq!((&row["outcome"], &cancelled["trained_tokens"]), (&json!("cancelled"), &json!(tokens)));
    // The row of a job tells its step once a second; the bill tells the last.
    assert!(tokens * 20 >= steps * an_epoch / 2 && tokens < 100_000 * an_epoch, "{tokens} in {steps} steps");
    let budgets = command(folder.path(), &["--json", "budgets", "list"]).output().unwrap();
    let budget = serde_json::from_slice::<Value>(&budgets.stdout).unwrap()["budgets"][0].clone();
    let spent: f64 = rows.values().map(|row| row["cost_usd"].as_f64().unwrap()).sum();
    assert_eq!(budget["reserved_usd"], json!(0.0), "{budget}");
    assert!((budget["spent_usd"].as_f64().unwrap() - spent).abs() < 1e-9, "{budget}");
}

/// The rows of jobs in the ledger, by their jobs; no job has two.
fn ledger(folder: &Path) -> BTreeMap<String, Value> {
    let done = command(folder, &["--json", "usage", "--by", "request"]).output().unwrap();
    let lines = String::from_utf8(done.stdout).unwrap();
    let rows = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut found = BTreeMap::new();
    for row in rows.filter(|row| row["route"] == JOBS) {
        assert!(found.insert(row["request"].as_str().unwrap().to_owned(), row).is_none());
    }
    found
}

fn sorted(ids: &[String]) -> Vec<String> {
    let mut ids = ids.to_vec();
    ids.sort();
    ids
}

fn usd(millionths: u64) -> f64 {
    millionths as f64 / 1e6
}

#[test]
fn the_openai_package_tunes() {
    let python = std::env::var("LYCEUM_PYTHON").unwrap_or_else(|_| "python3".into());
    let has_it = Command::new(&python).args(["-c", "import openai; openai.OpenAI.fine_tuning"]).output();
    if !has_it.is_ok_and(|output| output.status.success()) {
        println!("skipped: {python} has no openai package (LYCEUM_PYTHON names another)");
        return;
    }
    let folder = with_model();
    let server = serve(folder.path(), None);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/fine_tuning.py");
    let mut command = Command::new(&python);
    command.args([script, "tiny"]).env("OPENAI_API_KEY", &server.key);
    command.env("OPENAI_BASE_URL", format!("http://{}/v1", server.address));
    let output = command.output().unwrap();
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.ends_with("done\n"), "{said}\n{complained}");
}

/// The card of a private fine-tune says what its job's report says, and ε is computed again where it is verified.
fn card_promises(server: &Server, model: &str, report: &Value) {
    let card = server.get(&format!("/v1/models/{model}/card"));
    let section = &card["sections"]["privacy"];
    let fact = |name: &str| {
        let found = section["facts"].as_array().unwrap().iter().find(|fact| fact["name"] == name);
        found.unwrap_or_else(|| panic!("{name}: {section}"))["value"].as_str().unwrap().to_owned()
    };
    let number =
        |name: &str| section["numbers"].as_array().unwrap().iter().find(|n| n["name"] == name).unwrap();
    assert_eq!(number("epsilon")["value"], report["epsilon"]);
    assert_eq!(number("epsilon, lower bound")["value"], report["audit"]["epsilon_lower"]);
    assert_eq!(fact("δ"), report["delta"].to_string());
    assert!(fact("accountant").starts_with("pld: ") && fact("neighbours").ends_with("of one example"));
    let event = &report["events"][0];
    assert_eq!(fact("ledger"), format!("q {} sigma {} steps {}", event["q"], event["sigma"], event["steps"]));
    assert!(!card.to_string().contains("no noise") && !card.to_string().contains("it has the same weights"));
    let verified = server.post(&format!("/v1/models/{model}/card/verify"), &json!({"card": card}));
    let checks = verified["checks"].as_array().unwrap();
    let again = checks.iter().find(|check| check["name"] == "epsilon").unwrap();
    assert!(verified["verified"] == true && again["detail"].to_string().contains("again"), "{verified}");
}

#[test]
fn a_private_job_is_quoted_spends_of_its_file_and_promises_what_its_model_keeps() {
    let folder = with_model();
    let server = serve(folder.path(), None);
    let lines = chats(60);
    let file = server.bring("fine-tune", "chats.jsonl", &lines);
    let body = json!({"model": "tiny", "training_file": file, "seed": 5, "suffix": "quiet",
        "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 4, "batch_size": 6}}},
        "privacy": {"type": "dp_sgd", "target_epsilon": 6, "target_delta": 1e-3, "max_grad_norm": 1.0,
            "unit": {"type": "example"}, "accountant": "pld", "public": ["rows"], "audit": {"canaries": 100}}});
    let made = server.post(JOBS, &body);
    let id = made["id"].as_str().unwrap().to_owned();
    let quote = &made["lyceum"]["privacy"];
    let epsilon = quote["epsilon"].as_f64().unwrap();
    assert!(epsilon <= 6.0 && epsilon > 5.9 && quote["q"] == 0.1 && quote["steps"] == 40, "{made}");
    let done = wait(&server, &id, |job| job["status"] == "succeeded");
    assert!(done["trained_tokens"].is_null() && done["lyceum"]["estimated_tokens"].is_u64(), "{done}");
    let model = done["fine_tuned_model"].as_str().unwrap().to_owned();

    let told = server.get(&format!("{JOBS}/{id}/privacy"));
    assert_eq!((&told["object"], &told["quote"]), (&json!("fine_tuning.job.privacy"), quote));
    let spent = &told["ledger"][0];
    assert_eq!(
        (&spent["q"], &spent["sigma"], &spent["steps"]),
        (&json!(0.1), &quote["sigma"], &json!(40)),
        "{told}"
    );
    let guarantee = &told["guarantee"];
    assert_eq!((&guarantee["epsilon"], &guarantee["unit"]), (&quote["epsilon"], &json!("example")));
    assert_eq!(guarantee["randomness"], "os_key");
    assert_eq!((&told["composition"][0]["jobs"], &guarantee["audit"]["canaries"]), (&json!(1), &json!(100)));
    assert!(guarantee["audit"]["membership_auc"]["value"].is_f64(), "{guarantee}");
    // The adapter and its checkpoint say the same of themselves.
    let checkpoints = server.get(&format!("{JOBS}/{id}/checkpoints"));
    let earlier = checkpoints["data"][1]["fine_tuned_model_checkpoint"].as_str().unwrap().to_owned();
    for name in [&model, &earlier] {
        let of_model = server.get(&format!("/v1/models/{name}/privacy"));
        assert_eq!(
            (&of_model["guarantee"]["epsilon"], &of_model["composition"][0]["jobs"]),
            (&quote["epsilon"], &json!(1))
        );
    }
    assert!(server.get("/v1/models/tiny/privacy")["guarantee"].is_null(), "the base promises nothing");
    card_promises(&server, &model, guarantee);
    let events = server.get(&format!("{JOBS}/{id}/events?limit=100"));
    let messages: Vec<&str> =
        events["data"].as_array().unwrap().iter().filter_map(|event| event["message"].as_str()).collect();
    assert!(
        messages.iter().any(|message| message.contains("at ε = 5.9") || message.contains("at ε = 6.0")),
        "{messages:?}"
    );
    assert!(messages.iter().any(|message| message.contains("privacy ledger")), "{messages:?}");
    assert!(!events.to_string().contains("training loss="), "the loss of private lines is not told");

    // How much one line counts is what the noise hides; what an audit may say stands beside it.
    let why = json!({"model": model, "prompt": "say 3", "completion": "th", "method": "tracin"});
    let (status, refused) =
        server.send("POST", "/v1/explanations", "application/json", why.to_string().as_bytes());
    assert!(status == 400 && refused.contains("differential privacy"), "{refused}");
    std::fs::write(folder.path().join("in.jsonl"), &lines).unwrap();
    let audit = ["privacy", "audit", &model, "--members", "in.jsonl", "--others", "in.jsonl", "--json"];
    let audit = command(folder.path(), &audit).output().unwrap();
    let audit: Value = serde_json::from_slice(&audit.stdout).unwrap();
    let auc = audit["auc"]["value"].as_f64().unwrap();
    assert!((auc - 0.5).abs() < 1e-9 && audit["canaries"]["canaries"] == 100, "{audit}");

    // Which models saw a line: of a private one, that it was among those that were drawn from.
    let saw = |wanted: Value| {
        let mut body = wanted;
        body["file"] = json!(file);
        server.post("/v1/privacy/saw", &body)
    };
    let one = saw(json!({"row": 7}));
    assert_eq!(
        (&one["rows"][0]["models"][0]["sight"], &one["rows"][0]["row"]),
        (&json!("drawn"), &json!(7)),
        "{one}"
    );
    assert_eq!(saw(json!({"text": "say 7"}))["rows"], one["rows"]);
    std::fs::write(folder.path().join("chats.jsonl"), &lines).unwrap();
    let asked = command(folder.path(), &["privacy", "saw", "chats.jsonl", "7", "--json"]).output().unwrap();
    let here: Value = serde_json::from_slice(&asked.stdout).unwrap();
    assert_eq!(here["rows"], one["rows"]);

    // What the file may lose is used up: the next job does not come to be.
    let sha256 = quote["data_sha256"].as_str().unwrap();
    let budget = json!({"data_sha256": sha256, "epsilon": 7.0, "delta": 1e-3});
    assert_eq!(server.post("/v1/privacy/budgets", &budget)["ledger"].as_array().unwrap().len(), 1);
    let (status, refused) = server.send("POST", JOBS, "application/json", body.to_string().as_bytes());
    assert!(status == 409 && refused.contains("privacy_budget_exceeded"), "{status} {refused}");
    only_with_noise(&server, &file);
}

/// What has a budget is not trained on without noise, by any method and in no place of a job.
fn only_with_noise(server: &Server, file: &str) {
    let other = server.bring("fine-tune", "other.jsonl", &chats(9));
    let pairs = json!({"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 1}}});
    let spec =
        json!({"type": "train", "train": {"spec": {"model": {"lora": {"rank": 2}}, "train": {"steps": 2}}}});
    for (train, valid, method, param) in [
        (file, None, json!({"type": "supervised"}), "training_file"),
        (&other, Some(file), json!({"type": "supervised"}), "validation_file"),
        (file, None, pairs, "training_file"),
        (file, None, spec, "training_file"),
    ] {
        let body =
            json!({"model": "tiny", "training_file": train, "validation_file": valid, "method": method});
        let (status, refused) = server.send("POST", JOBS, "application/json", body.to_string().as_bytes());
        let refused: Value = serde_json::from_str(&refused).unwrap();
        let error = &refused["error"];
        assert_eq!(
            (status, &error["code"], &error["param"]),
            (400, &json!("privacy_required"), &json!(param)),
            "{error}"
        );
        assert!(
            error["message"].as_str().unwrap().contains("chats.jsonl has a privacy budget, ε = 7"),
            "{error}"
        );
    }
    let choice =
        json!({"task": "classification", "data": file, "target": "label", "budget": {"minutes": 0.1}});
    let (status, refused) =
        server.send("POST", "/v1/model_selections", "application/json", choice.to_string().as_bytes());
    assert!(
        status == 400 && refused.contains("privacy_required") && refused.contains("data.train"),
        "{refused}"
    );

    // A job without noise that came before its file's budget is told by whatever says what jobs come to together.
    let job = json!({"model": "tiny", "training_file": other, "seed": 1, "method": {"type": "supervised",
        "supervised": {"hyperparameters": {"n_epochs": 1, "batch_size": 3}}}});
    let id = server.post(JOBS, &job)["id"].as_str().unwrap().to_owned();
    let done = wait(server, &id, |job| job["status"] == "succeeded");
    let sha256 = server.post("/v1/privacy/saw", &json!({"file": other, "row": 1}))["data_sha256"].clone();
    let budget =
        server.post("/v1/privacy/budgets", &json!({"data_sha256": sha256, "epsilon": 3.0, "delta": 1e-3}));
    assert_eq!(budget["unprotected"], json!([id]), "{budget}");
    let model = done["fine_tuned_model"].as_str().unwrap();
    for path in [format!("{JOBS}/{id}/privacy"), format!("/v1/models/{model}/privacy")] {
        let of = &server.get(&path)["composition"][0];
        assert_eq!((&of["jobs"], &of["unprotected"]), (&json!(0), &json!(1)), "{path}: {of}");
        assert!(of["statement"].as_str().unwrap().contains("no ε holds"), "{of}");
    }
}

#[test]
fn a_preview_of_conversations_is_the_same_here_and_from_a_server() {
    let folder = with_model();
    let server = serve(folder.path(), None);
    let elsewhere = tempfile::tempdir().unwrap();
    let spec = "name = \"bot\"\nseed = 3\n[data]\ntrain = \"chats.jsonl\"\nvalid_fraction = 0.25\n[model]\n\
        family = \"tiny\"\nlora = { rank = 4 }\n[train]\nepochs = 1\nbatch_size = 4\n";
    for place in [folder.path(), elsewhere.path()] {
        std::fs::write(place.join("chats.jsonl"), chats(20)).unwrap();
        std::fs::write(place.join("spec.toml"), spec).unwrap();
    }
    let told = |place: &Path, arguments: &[&str]| {
        let mut command = command(place, &[&["preview", "spec.toml", "--rows", "2"], arguments].concat());
        let done = command.env("LYCEUM_API_KEY", &server.key).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    };
    for how in [&[][..], &["--json"], &["--part", "valid", "--json"]] {
        let far = told(elsewhere.path(), &[how, &["--url", &server.url]].concat());
        assert_eq!(far, told(folder.path(), how), "{how:?}");
    }
    let shown = told(folder.path(), &[]);
    assert!(shown.contains("stand in [brackets]") && shown.contains("[th]"), "{shown}");
    assert!(shown.ends_with("of them learnt\n"), "{shown}");
    assert!(!elsewhere.path().join("data").exists());
}
