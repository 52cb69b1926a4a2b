//! A gate between versions: what is worse under attack is published and held, the bare name goes on serving the
//! version before it, and a person may lift that.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping")]

mod program;

use program::server::{SERVE, Server};
use program::{command, last, lyceum, refusal};
use serde_json::{Value, json};
use std::path::Path;

/// One column that is right of 85 % of the rows and that no small change turns, and twenty that together are right of
/// nearly all and that a small change turns (Tsipras et al. 2019, "Robustness may be at odds with accuracy").
fn write_rows(path: &Path, n: u64, seed: u64) {
    let mut state = seed;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / (1u64 << 31) as f64
    };
    let mut text = "strong".to_owned();
    (0..20).for_each(|i| text += &format!(",weak{i}"));
    text += ",label\n";
    for row in 0..n {
        let sign = if row % 2 == 0 { 1.0 } else { -1.0 };
        let strong = if uniform() < 0.85 { sign } else { -sign };
        text += &format!("{strong}");
        (0..20).for_each(|_| text += &format!(",{:.4}", 0.15 * sign + 0.6 * (uniform() + uniform() - 1.0)));
        text += if sign > 0.0 { ",yes\n" } else { ",no\n" };
    }
    std::fs::write(path, text).unwrap();
}

fn write_spec(folder: &Path, robust: &str, more: &str) {
    let spec = format!(
        "name = \"gated\"\ntask = \"classification\"\nseed = 3\n[data]\ntrain = \"train.csv\"\ntest = \"test.csv\"\n\
         target = \"label\"\n[model]\nfamily = \"mlp\"\nhidden = [16]\n[train]\nepochs = 20\nbatch_size = 40\n\
         precision = \"f32\"\noptimizer = {{ name = \"adam\", lr = 0.01 }}\n{robust}\n{more}"
    );
    std::fs::write(folder.join("spec.toml"), spec).unwrap();
}

const ROBUST: &str = "robust = { method = \"adversarial\", eps = 0.5, steps = 5 }";
const JOBS: &str = "/v1/fine_tuning/jobs";
const GATE: &str =
    "[gate]\nmax_drop = 0.05\nrows = 200\nsuite = [{ type = \"pgd\", eps = 0.5, steps = 10 }]\n";

#[test]
fn what_is_worse_under_attack_is_held_and_the_name_goes_on_serving_the_version_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_rows(&folder.join("train.csv"), 600, 1);
    write_rows(&folder.join("test.csv"), 300, 2);
    write_spec(folder, ROBUST, GATE);
    let first = lyceum(folder, &["train", "spec.toml"]);
    let done = last(&first);
    assert!(first.status.success(), "{done}");
    assert_eq!(
        (&done["model"], &done["gate"]["held"]),
        (&"gated@1".into(), &false.into()),
        "nothing to compare"
    );

    write_spec(folder, "", GATE);
    let second = lyceum(folder, &["train", "spec.toml"]);
    let done = last(&second);
    assert_eq!(
        (&done["event"], &done["model"], &done["gate"]["held"]),
        (&"done".into(), &"gated@2".into(), &true.into())
    );
    assert_eq!(done["gate"]["compared_to"], "gated@1");
    let worst = &done["gate"]["differences"][0];
    assert!(worst["difference"].as_f64().unwrap() < -0.2, "{done}");
    assert!(worst["metric"].as_str().unwrap().starts_with("robust_accuracy pgd"), "{worst}");
    let (code, error) = refusal(&second);
    assert_eq!((code, &error["code"]), (1, &"gate_refused".into()), "{error}");
    assert!(error["message"].as_str().unwrap().contains("goes on serving gated@1"), "{error}");

    // Every door says so, and the number serves it.
    let listed = last(&lyceum(folder, &["ls"]));
    assert_eq!(listed["models"][0]["held"], Value::Null);
    assert_eq!(listed["models"][1]["held"], done["gate"]["why"]);
    let version = |name: &str| last(&lyceum(folder, &["show", name]))["version"].clone();
    assert_eq!(
        (version("gated"), version("gated@latest"), version("gated@2")),
        (1.into(), 1.into(), 2.into())
    );
    let facts = |name: &str| {
        let card = last(&lyceum(folder, &["card", name]));
        let found =
            card["sections"]["identity"]["facts"].as_array().unwrap_or_else(|| panic!("{card}")).clone();
        let measured = card["sections"]["robustness"]["numbers"].as_array().unwrap().len();
        (found.iter().find(|fact| fact["name"] == "held back by its gate").cloned(), measured)
    };
    let (held, measured) = facts("gated@2");
    assert_eq!(held.unwrap()["value"], done["gate"]["why"]);
    assert_eq!(measured, 2, "what the gate found stands on the card");

    // The job says the same when it is asked again, and a person may lift it.
    let again = lyceum(folder, &["jobs", "resume", done["job"].as_str().unwrap()]);
    assert_eq!((last(&again), refusal(&again).0), (done.clone(), 1));
    assert_eq!(refusal(&lyceum(folder, &["promote", "gated"])).0, 2);
    assert_eq!(refusal(&lyceum(folder, &["promote", "gated@9"])).0, 3);
    let promoted = last(&lyceum(folder, &["promote", "gated@2"]));
    assert_eq!((&promoted["was_held"], &promoted["served"]), (&done["gate"]["why"], &"gated@2".into()));
    assert_eq!(version("gated"), 2);
    assert_eq!(facts("gated@2").0, None, "a new card is issued");
}

#[test]
fn a_gate_that_cannot_compare_is_refused_before_the_training() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_rows(&folder.join("train.csv"), 200, 1);
    write_rows(&folder.join("test.csv"), 60, 2);
    write_spec(folder, "", "");
    let gate = "max_drop=0.1,rows=40,suite=suite.json";
    std::fs::write(folder.join("suite.json"), "[{\"type\":\"corruptions\"}]").unwrap();
    // The first version has nothing beside it.
    let done = last(&lyceum(folder, &["train", "spec.toml", "--gate", gate]));
    assert_eq!((&done["model"], &done["gate"]["compared_to"]), (&"gated@1".into(), &Value::Null));
    let output = lyceum(folder, &["train", "spec.toml", "--gate", gate]);
    let (code, error) = refusal(&output);
    assert_eq!((code, error["key"].as_str().unwrap()), (1, "suite[0].type"), "{error}");
    assert!(!String::from_utf8_lossy(&output.stdout).contains("\"progress\""), "it was not trained");
    let jobs = last(&lyceum(folder, &["jobs", "ls"]));
    assert_eq!(jobs["jobs"][1]["status"], "failed", "{jobs}");
    for (flag, word) in [
        ("max_drop=2", "between 0 and 1"),
        ("data=x.csv", "max_drop is missing"),
        ("max_drop=0.1,suit=x", "none of max_drop"),
        ("max_drop=0.1,suite=none.json", "suite"),
    ] {
        let (code, error) = refusal(&lyceum(folder, &["train", "spec.toml", "--gate", flag]));
        assert!(code == 2 || code == 3, "{error}");
        assert!(error.to_string().contains(word), "{flag}: {error}");
    }
    // What is no worse passes, under the command line's gate too.
    std::fs::write(folder.join("suite.json"), "[{\"type\":\"fgsm\",\"eps\":0.1}]").unwrap();
    let done = last(&lyceum(folder, &["train", "spec.toml", "--gate", gate]));
    assert_eq!((&done["model"], &done["gate"]["held"]), (&"gated@2".into(), &false.into()), "{done}");
    assert_eq!(last(&lyceum(folder, &["show", "gated"]))["version"], 2);
}

#[test]
fn over_http_a_gate_judges_on_files_that_were_brought() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let server = Server::start(command(folder, &SERVE), None);
    let [train, test] = [("train.csv", 600, 1), ("test.csv", 300, 2)].map(|(name, n, seed)| {
        write_rows(&folder.join(name), n, seed);
        server.bring("fine-tune", name, &std::fs::read_to_string(folder.join(name)).unwrap())
    });
    let trained = |robust: Value| {
        let mut spec = json!({"name": "gated", "task": "classification", "data": {"target": "label"},
            "model": {"hidden": [16]},
            "train": {"epochs": 20, "batch_size": 40, "precision": "f32", "optimizer": {"name": "adam", "lr": 0.01}},
            "gate": {"max_drop": 0.05, "rows": 200, "data": test, "suite": [{"type": "pgd", "eps": 0.5, "steps": 10}]}});
        if !robust.is_null() {
            spec["train"]["robust"] = robust;
        }
        let body = json!({"model": "mlp", "training_file": train, "seed": 3,
            "method": {"type": "train", "train": {"spec": spec}}});
        let job = server.post(JOBS, &body);
        let path = format!("{JOBS}/{}", job["id"].as_str().unwrap());
        let job = server.wait(&path, |job| job["status"] == "succeeded");
        (job, server.get(&format!("{path}/events")))
    };
    let (first, events) = trained(json!({"method": "adversarial", "eps": 0.5, "steps": 5}));
    let gate = &first["lyceum"]["gate"];
    assert_eq!((&first["fine_tuned_model"], &gate["held"]), (&json!("gated@1"), &json!(false)), "{first}");
    let told = "Its gate let it pass: there was no version to compare it with";
    assert_eq!(events["data"][1]["message"], told);

    let (second, events) = trained(Value::Null);
    let gate = &second["lyceum"]["gate"];
    assert_eq!((&second["fine_tuned_model"], &gate["held"]), (&json!("gated@2"), &json!(true)), "{second}");
    assert_eq!(gate["compared_to"], "gated@1");
    assert!(gate["differences"][0]["difference"].as_f64().unwrap() < -0.2, "{gate}");
    let message = events["data"][1]["message"].as_str().unwrap();
    assert!(message.starts_with("Its gate holds gated@2: robust_accuracy pgd"), "{message}");
    assert_eq!(server.get("/v1/models/gated")["root"], "gated@1");
    let card = server.get("/v1/models/gated@2/card").to_string();
    assert!(card.contains("held back by its gate") && card.contains("rows of file_"), "{card}");
    let alias = |body: &Value| {
        let body = body.to_string();
        server.send("POST", "/v1/models/gated@2/aliases", "application/json", body.as_bytes())
    };
    let (status, refused) = alias(&json!({"alias": "prod"}));
    assert!(status == 409 && refused.contains("\"held\""), "{refused}");
    server.post("/v1/models/gated@2/promote", &json!({}));
    assert_eq!(
        (alias(&json!({"alias": "prod"})).0, &server.get("/v1/models/gated")["root"]),
        (200, &json!("gated@2"))
    );
}

/// A training of `tried` whose gate takes seconds, as its job's id.
#[cfg(target_os = "linux")]
fn ask_slow(server: &Server, (train, test): (&str, &str)) -> String {
    let suite = json!([{"type": "pgd", "eps": 0.001, "steps": 1500, "restarts": 8}]);
    let spec = json!({"name": "tried", "task": "classification", "data": {"target": "label"},
        "model": {"hidden": [16]},
        "train": {"epochs": 4, "batch_size": 40, "precision": "f32", "optimizer": {"name": "adam", "lr": 0.01}},
        "gate": {"max_drop": 1, "rows": 200, "data": test, "suite": suite}});
    let body = json!({"model": "mlp", "training_file": train, "seed": 3,
        "method": {"type": "train", "train": {"spec": spec}}});
    server.post(JOBS, &body)["id"].as_str().unwrap().to_owned()
}

/// Waits until an attempt has taken its last step, and a little more: its gate has begun then.
#[cfg(target_os = "linux")]
fn wait_for_gate(server: &Server, path: &str, attempt: u64) {
    server.wait(path, |job| {
        let job = &job["lyceum"];
        job["attempt"].as_u64() >= Some(attempt) && job["step"] == job["total_steps"]
    });
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert_eq!(server.get(path)["status"], "running", "its gate is slower than that");
}

#[cfg(target_os = "linux")]
#[test]
fn over_http_what_a_gate_tries_is_quoted_and_paid_for_once_whatever_ends_it_on_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let server = Server::start(command(folder, &SERVE), None);
    for arguments in [
        &["prices", "set", "mlp", "--training-row", "5", "--pass", "20"][..],
        &["budgets", "set", "1000", "--project", "default"][..],
    ] {
        assert!(command(folder, arguments).status().unwrap().success());
    }
    let [train, test] = [("train.csv", 600, 1), ("test.csv", 300, 2)].map(|(name, n, seed)| {
        write_rows(&folder.join(name), n, seed);
        server.bring("fine-tune", name, &std::fs::read_to_string(folder.join(name)).unwrap())
    });
    let ask = || ask_slow(&server, (&train, &test));
    let path = |id: &str| format!("{JOBS}/{id}");
    let whole = |id: &str| server.wait(&path(id), |job| job["status"] == "succeeded");
    let number = |job: &Value, key: &str| job["lyceum"][key].as_u64().unwrap();
    let usd = |passes: u64, rows: u64| json!((20 * passes + 5 * rows) as f64 / 1e6);
    // Of each model a look at each row, the attack's, what the signs of a masked gradient are read from, and each found row.
    let most = 2 * 200 * (1 + (1 + (1 + 8 * (2 * 1500 + 1)) + 7) + 1);

    // The first has nothing beside it.
    let first = ask();
    let quoted = server.get(&path(&first));
    assert_eq!(number(&quoted, "max_gate_passes"), most, "{quoted}");
    assert_eq!(quoted["lyceum"]["max_cost_usd"], usd(most, 4 * 600), "{quoted}");
    assert!(quoted["lyceum"]["gate_passes"].is_null(), "{quoted}");
    let first = whole(&first);
    assert_eq!(
        (number(&first, "gate_passes"), &first["lyceum"]["cost_usd"]),
        (0, &usd(0, 4 * 600)),
        "{first}"
    );

    let second = whole(&ask());
    assert_eq!(second["lyceum"]["gate"]["compared_to"], "tried@1", "{second}");
    let passes = number(&second, "gate_passes");
    assert!(most / 2 < passes && passes <= most, "{passes} of {most}");
    assert_eq!(second["lyceum"]["cost_usd"], usd(passes, 4 * 600));

    // Killed while it tries, then paused: it tries once more, and what is paid is one trial.
    let id = ask();
    wait_for_gate(&server, &path(&id), 1);
    assert!(program::server::send("-9", server.worker()));
    wait_for_gate(&server, &path(&id), 2);
    server.post(&format!("{}/pause", path(&id)), &json!({}));
    server.wait(&path(&id), |job| job["status"] == "paused");
    server.post(&format!("{}/resume", path(&id)), &json!({}));
    let resumed = whole(&id);
    assert!(number(&resumed, "attempt") >= 3, "{resumed}");
    assert_eq!(
        (number(&resumed, "gate_passes"), &resumed["lyceum"]["cost_usd"]),
        (passes, &usd(passes, 4 * 600))
    );

    // Cancelled while it tries: what was tried until then.
    let id = ask();
    wait_for_gate(&server, &path(&id), 1);
    server.post(&format!("{}/cancel", path(&id)), &json!({}));
    let begun = std::time::Instant::now();
    while server.get(&path(&id))["status"] != "cancelled" {
        assert!(begun.elapsed() < std::time::Duration::from_secs(30));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let cancelled = server.get(&path(&id));
    let tried = number(&cancelled, "gate_passes");
    assert!(0 < tried && tried < passes, "{tried} of {passes}: {cancelled}");
    assert_eq!(cancelled["lyceum"]["cost_usd"], usd(tried, 4 * 600));

    let done = command(folder, &["--json", "usage", "--by", "request"]).output().unwrap();
    let lines = String::from_utf8(done.stdout).unwrap();
    let rows = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let of_jobs: Vec<u64> =
        rows.filter(|row| row["route"] == JOBS).map(|row| row["passes"].as_u64().unwrap()).collect();
    let total: u64 = of_jobs.iter().sum();
    assert_eq!((of_jobs.len(), total), (4, 2 * passes + tried));
    let budgets = command(folder, &["--json", "budgets", "list"]).output().unwrap();
    let budget = serde_json::from_slice::<Value>(&budgets.stdout).unwrap()["budgets"][0].clone();
    assert_eq!(
        (&budget["reserved_usd"], &budget["spent_usd"]),
        (&json!(0.0), &usd(total, 4 * 4 * 600)),
        "{budget}"
    );
}
