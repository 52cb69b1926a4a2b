//! The commands as scripts use them: what stands on stdout, the last line of stderr, the exit code.

#![expect(clippy::unwrap_used, reason = "tests say what they expect by unwrapping")]

mod program;

use program::{points, side};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::LazyLock;

/// One folder with a data file, a spec and a trained model, shared by the tests that only read it.
static TRAINED: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    write_rows(folder.path(), 120);
    std::fs::write(folder.path().join("spec.toml"), SPEC).unwrap();
    let done = last_line(&lyceum(folder.path(), &["train", "spec.toml", "--json"]));
    assert_eq!(done["event"], "done", "{done}");
    assert_eq!(done["model"], "points@1");
    folder
});

const SPEC: &str = r#"
name = "points"
task = "classification"
seed = 3
[data]
train = "rows.csv"
valid_fraction = 0.25
target = "label"
[model]
family = "mlp"
hidden = [16]
[train]
epochs = 20
batch_size = 8
optimizer = { name = "adam", lr = 0.02 }
"#;

/// Two groups of points that a line parts.
fn write_rows(folder: &Path, n: usize) {
    std::fs::write(folder.join("rows.csv"), points(n, ["x", "y"], side)).unwrap();
}

fn lyceum(folder: &Path, arguments: &[&str]) -> Output {
    program::command(folder, arguments).output().unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}")))
        .collect()
}

#[track_caller]
fn last_line(output: &Output) -> Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {stderr}", output.status);
    lines(output).pop().expect("a line")
}

/// The error's fields and the exit code.
#[track_caller]
fn error(output: &Output) -> (i32, Value) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let last = stderr.lines().last().unwrap_or_default();
    let error: Value = serde_json::from_str(last).unwrap_or_else(|_| panic!("not JSON: {stderr}"));
    assert!(output.stdout.is_empty(), "an error leaves stdout empty");
    for field in ["code", "message", "why", "fix"] {
        assert!(error["error"][field].is_string(), "{field} in {error}");
    }
    (output.status.code().unwrap(), error["error"].clone())
}

#[test]
fn training_says_progress_evaluations_checkpoints_and_done() {
    let folder = tempfile::tempdir().unwrap();
    write_rows(folder.path(), 60);
    std::fs::write(folder.path().join("spec.toml"), SPEC.replace("epochs = 20", "epochs = 2")).unwrap();
    let output = lyceum(folder.path(), &["train", "spec.toml", "--json", "--name", "other", "--seed", "9"]);
    let done = last_line(&output);
    let lines = lines(&output);
    let of = |event: &str| lines.iter().filter(|line| line["event"] == event).collect::<Vec<_>>();
    for field in ["step", "epoch", "loss", "lr", "samples_per_s", "eta_s"] {
        assert!(of("progress")[0][field].is_number(), "{field}");
    }
    assert!(of("eval")[0]["metrics"]["valid_loss"]["value"].is_number());
    assert!(Path::new(of("checkpoint")[0]["path"].as_str().unwrap()).exists());
    assert_eq!(done["model"], "other@1");
    let path = Path::new(done["path"].as_str().unwrap());
    assert_eq!(path, folder.path().join("data/models/other/1"));
    assert!(path.join("model.safetensors").exists() && path.join("manifest.json").exists());
    for report in ["metrics", "baseline", "strong_baseline"] {
        let metric = &done[report]["valid_accuracy"];
        assert!(
            metric["value"].is_number() && metric["ci95"][1].is_number() && metric["n"].is_number(),
            "{done}"
        );
    }
    // The job's log has every step, and the list knows that it is done.
    let job = done["job"].as_str().unwrap();
    let logs = lyceum(folder.path(), &["jobs", "logs", job]);
    let steps =
        String::from_utf8_lossy(&logs.stdout).lines().filter(|line| line.contains("\"progress\"")).count();
    assert_eq!(steps as u64, done["steps"].as_u64().unwrap());
    let jobs = last_line(&lyceum(folder.path(), &["jobs", "ls", "--json"]));
    assert_eq!(jobs["jobs"][0]["status"], "done");
    // Resuming what is done says the same line again.
    assert_eq!(last_line(&lyceum(folder.path(), &["jobs", "resume", job, "--json"])), done);
    // Equal runs give equal files.
    let again = last_line(&lyceum(
        folder.path(),
        &["train", "spec.toml", "--json", "--name", "other", "--seed", "9"],
    ));
    let weights =
        |done: &Value| std::fs::read(Path::new(done["path"].as_str().unwrap()).join("model.safetensors"));
    assert_eq!(again["model"], "other@2");
    assert_eq!(weights(&again).unwrap(), weights(&done).unwrap());
}

#[test]
fn a_trained_model_is_listed_shown_measured_asked_exported_and_imported() {
    let folder = TRAINED.path();
    let ls = last_line(&lyceum(folder, &["ls", "--json"]));
    let model = ls["models"].as_array().unwrap().iter().find(|model| model["name"] == "points").unwrap();
    assert_eq!((model["version"].as_u64(), model["family"].as_str()), (Some(1), Some("mlp")));
    for field in ["task", "params", "bytes", "sha256", "created"] {
        assert!(!model[field].is_null(), "{field}");
    }
    let show = last_line(&lyceum(folder, &["show", "points", "--json"]));
    assert_eq!(show["sha256"], model["sha256"]);
    assert!(show["metrics"]["valid_accuracy"]["value"].as_f64().unwrap() > 0.8, "{show}");
    let text = String::from_utf8(lyceum(folder, &["show", "points@1"]).stdout).unwrap();
    assert!(text.contains("valid_accuracy") && text.contains("majority"), "{text}");

    let eval = last_line(&lyceum(folder, &["eval", "points", "rows.csv", "--json"]));
    assert_eq!(eval["model"], "points@1");
    assert!(eval["metrics"]["accuracy"]["value"].as_f64() > eval["baseline"]["accuracy"]["value"].as_f64());

    let rows = lines(&lyceum(folder, &["predict", "points", "rows.csv", "--json"]));
    assert_eq!(rows.len(), 120);
    assert_eq!(rows[7]["row"], 7);
    let label = rows[7]["output"].as_str().unwrap();
    assert!(rows[7]["probabilities"][label].as_f64().unwrap() >= 0.5);
    // The same row at another door.
    let line = std::fs::read_to_string(folder.join("rows.csv")).unwrap().lines().nth(8).unwrap().to_owned();
    let cells: Vec<&str> = line.split(',').collect();
    let row = format!("{{\"x\":{},\"y\":{}}}", cells[0], cells[1]);
    let asked = last_line(&lyceum(folder, &["run", "points", &row, "--json"]));
    assert_eq!(asked["output"], rows[7]["output"]);
    let gap =
        asked["probabilities"][label].as_f64().unwrap() - rows[7]["probabilities"][label].as_f64().unwrap();
    assert!(gap.abs() < 1e-6, "{gap}");

    let out = folder.join("exported");
    let out = out.to_str().unwrap();
    let exported = last_line(&lyceum(
        folder,
        &["export", "points", "--format", "safetensors", "--output", out, "--json"],
    ));
    assert_eq!(exported["event"], "done");
    assert_eq!(error(&lyceum(folder, &["export", "points", "--output", out, "--json"])).0, 5);
    let other = tempfile::tempdir().unwrap();
    let imported = last_line(&lyceum(other.path(), &["import", out, "--name", "copy", "--json"]));
    assert_eq!((imported["model"].as_str(), &imported["sha256"]), (Some("copy@1"), &model["sha256"]));
    let again = last_line(&lyceum(other.path(), &["import", out, "--name", "copy", "--json"]));
    assert_eq!((again["model"].as_str(), &again["already_there"]), (Some("copy@1"), &Value::Bool(true)));
    let (_, empty) = error(&lyceum(other.path(), &["import", ".", "--json"]));
    assert!(empty["why"].as_str().unwrap().contains("config.json"), "{empty}");
    // The weights alone are the same model again, where a spec says what they are.
    let weights = Path::new(out).join("model.safetensors");
    let weights = weights.to_str().unwrap();
    let (code, alone) = error(&lyceum(folder, &["import", weights, "--json"]));
    assert_eq!((code, alone["code"].as_str()), (1, Some("not_a_model")));
    assert!(alone["fix"].as_str().unwrap().contains("--spec"), "{alone}");
    let spec = folder.join("spec.toml");
    let adopted = ["import", weights, "--spec", spec.to_str().unwrap(), "--name", "adopted", "--json"];
    let adopted = last_line(&lyceum(other.path(), &adopted));
    assert_eq!((adopted["model"].as_str(), &adopted["sha256"]), (Some("adopted@1"), &model["sha256"]));
    let measured = last_line(&lyceum(other.path(), &["show", "adopted", "--json"]));
    assert_eq!(measured["metrics"], show["metrics"]);
    let wrong = SPEC.replace("hidden = [16]", "hidden = [17]");
    std::fs::write(folder.join("wrong.toml"), wrong).unwrap();
    let wrong = folder.join("wrong.toml");
    let (code, wrong) =
        error(&lyceum(other.path(), &["import", weights, "--spec", wrong.to_str().unwrap(), "--json"]));
    assert_eq!((code, wrong["code"].as_str()), (2, Some("model")), "{wrong}");
    assert_eq!(last_line(&lyceum(other.path(), &["rm", "adopted@1", "--json"]))["model"], "adopted@1");
    // A flipped byte is found before anything is registered.
    let weights = Path::new(out).join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let (code, damaged) = error(&lyceum(other.path(), &["import", out, "--json"]));
    assert_eq!((code, damaged["code"].as_str()), (1, Some("not_a_model")));
    assert_eq!(last_line(&lyceum(other.path(), &["rm", "copy@1", "--json"]))["model"], "copy@1");
    assert_eq!(last_line(&lyceum(other.path(), &["ls", "--json"]))["models"], Value::Array(vec![]));
}

#[test]
fn errors_have_their_codes_places_and_exit_codes() {
    let folder = TRAINED.path();
    let (code, missing) = error(&lyceum(folder, &["show", "pionts", "--json"]));
    assert_eq!((code, missing["code"].as_str()), (3, Some("model_not_found")));
    assert!(missing["fix"].as_str().unwrap().contains("points"), "{missing}");
    let (code, version) = error(&lyceum(folder, &["show", "points@9", "--json"]));
    assert_eq!(code, 3);
    assert!(version["why"].as_str().unwrap().contains("versions 1"), "{version}");
    assert_eq!(error(&lyceum(folder, &["show", "../points", "--json"])).0, 2);
    assert_eq!(error(&lyceum(folder, &["eval", "points", "nothing.csv", "--json"])).0, 3);
    assert_eq!(error(&lyceum(folder, &["train", "nothing.toml", "--json"])).0, 3);
    assert_eq!(error(&lyceum(folder, &["ls", "--flag", "--json"])).0, 2);
    assert_eq!(
        error(&lyceum(folder, &["jobs", "resume", "job_00000000000000000000000000000000", "--json"])).0,
        3
    );

    std::fs::write(folder.join("bad.toml"), SPEC.replace("lr = 0.02", "lr = -1, beta = 2")).unwrap();
    let (code, spec) = error(&lyceum(folder, &["train", "bad.toml", "--json"]));
    assert_eq!(
        (code, spec["key"].as_str(), spec["line"].as_u64()),
        (2, Some("train.optimizer.lr"), Some(15))
    );
    assert_eq!(spec["others"][0]["fix"], "did you mean `betas`?");

    std::fs::write(folder.join("holes.csv"), "x,y,label\n1,2,above\n1,two,below\n,1,below\n").unwrap();
    std::fs::write(folder.join("holes.toml"), SPEC.replace("rows.csv", "holes.csv")).unwrap();
    std::fs::write(folder.join("lost.toml"), SPEC.replace("rows.csv", "lost.csv")).unwrap();
    let (code, lost) = error(&lyceum(folder, &["train", "lost.toml", "--json"]));
    assert_eq!((code, lost["file"].as_str()), (3, Some("lost.csv")));
    let before = last_line(&lyceum(folder, &["ls", "--json"]));
    let (code, data) = error(&lyceum(folder, &["train", "holes.toml", "--json"]).stderr_only());
    assert_eq!((code, data["line"].as_u64().is_some()), (1, true), "{data}");
    assert_eq!(last_line(&lyceum(folder, &["ls", "--json"])), before);
}

/// Training says events before it fails; only stderr is looked at.
trait StderrOnly {
    fn stderr_only(self) -> Output;
}

impl StderrOnly for Output {
    fn stderr_only(mut self) -> Output {
        self.stdout.clear();
        self
    }
}

#[test]
fn people_read_three_lines_of_an_error() {
    let output = lyceum(TRAINED.path(), &["show", "digts"]);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "error: model \"digts\" not found\n  why: this data folder has no such model\n  fix: lyceum ls shows what is there\n"
    );
}

#[test]
fn keys_are_made_listed_and_revoked() {
    let folder = tempfile::tempdir().unwrap();
    let key =
        last_line(&lyceum(folder.path(), &["keys", "create", "--scope", "inference,metrics", "--json"]));
    assert!(key["key"].as_str().unwrap().starts_with("sk-"));
    assert_eq!(key["scopes"], serde_json::json!(["inference", "metrics"]));
    assert!(key["expires_at"].is_null());
    let id = key["id"].as_str().unwrap();
    assert_eq!(last_line(&lyceum(folder.path(), &["keys", "revoke", id, "--json"]))["id"], id);
    let keys = last_line(&lyceum(folder.path(), &["keys", "ls", "--json"]));
    assert_eq!(keys["keys"][0]["status"], "revoked");
    assert!(!keys.to_string().contains(key["key"].as_str().unwrap()));
    assert_eq!(error(&lyceum(folder.path(), &["keys", "create", "--scope", "root", "--json"])).0, 2);
}

#[test]
fn administration_is_done_on_the_folder_and_told_in_json() {
    let folder = tempfile::tempdir().unwrap();
    let ask = |words: &str| {
        let words: Vec<&str> = words.split_whitespace().chain(["--json"]).collect();
        lyceum(folder.path(), &words)
    };
    let say = |words: &str| last_line(&ask(words));
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{value}")).to_owned();
    let project = text(&say("admin projects create team")["id"]);
    say(&format!("admin projects rename {project} crew"));
    assert_eq!(say("admin projects ls")["projects"][1]["name"], "crew");
    let user = text(&say("admin users add Ada --email ada@example.org --role owner")["id"]);
    say(&format!("admin users role {user} member --project {project}"));
    assert_eq!(say(&format!("admin users ls --project {project}"))["users"][0]["project_role"], "member");
    let bot = say(&format!("admin service-accounts create {project} bot"));
    assert!(text(&bot["key"]).starts_with("sk-"));
    let key = text(&say(&format!("keys create --project {project} --owner {user}"))["id"]);
    let next = say(&format!("keys rotate {key} --overlap 1h --project {project}"));
    assert_ne!(text(&next["id"]), key);
    let keys = say(&format!("keys ls --project {project}"));
    assert_eq!(keys["keys"].as_array().unwrap().len(), 3, "{keys}");
    let limit = say(&format!("admin limits set {project} --api-key {key} --requests-per-minute 3"));
    assert_eq!((limit["requests_per_minute"].as_u64(), &limit["tokens_per_minute"]), (Some(3), &Value::Null));
    say(&format!("admin limits set {project} --tokens-per-minute 9"));
    say(&format!("admin limits rm {project} --key {key}"));
    assert_eq!(say(&format!("admin limits ls {project}"))["limits"].as_array().unwrap().len(), 1);
    assert_eq!(
        say(&format!("admin models deny {project} a b@2"))["model_ids"],
        serde_json::json!(["a", "b@2"])
    );
    assert_eq!(say(&format!("admin models all {project}"))["mode"], Value::Null);
    let zero = say(&format!("admin retention zero_data_retention --project {project}"));
    assert_eq!(zero["retention_type"], "zero_data_retention");
    let admin = say("admin keys create --name ci --scope organization.read --expires 1h");
    assert!(text(&admin["key"]).starts_with("sk-admin-"));
    let rotated = say(&format!("admin keys rotate {} --overlap 5m", text(&admin["id"])));
    say(&format!("admin keys revoke {}", text(&rotated["id"])));
    assert_eq!(say("admin keys ls")["keys"].as_array().unwrap().len(), 1);
    say(&format!("admin projects archive {project}"));
    let (code, archived) = error(&ask(&format!("admin projects rename {project} x")));
    assert_eq!((code, archived["code"].as_str()), (5, Some("project_archived")));
    let other = say("admin organizations create theirs");
    let foreign = format!("admin projects rename {project} x --org {}", text(&other["id"]));
    assert_eq!(error(&ask(&foreign)).0, 3, "a project of another organisation");
    assert_eq!(error(&ask("admin users role user_x owner")).0, 2);
    // A key of an organisation is of its only project, by the organisation's id or name; of none that is not there.
    let key = say(&format!("keys create --org {}", text(&other["id"])));
    let theirs = |words: &str| say(words)["keys"].as_array().unwrap().len();
    assert_eq!((theirs("keys ls --org theirs"), theirs("keys ls --org default")), (1, 0));
    assert_eq!(
        error(&ask(&format!("keys revoke {}", text(&key["id"])))).0,
        3,
        "it is not of this organisation"
    );
    say(&format!("keys revoke {} --org theirs", text(&key["id"])));
    say("admin projects create second --org theirs");
    let (code, several) = error(&ask("keys create --org theirs"));
    assert!(code == 2 && several["message"].as_str().unwrap().contains("several"), "{several}");
    for words in
        ["keys create", "keys ls", "admin keys create", "admin users ls", "admin projects ls", "audit ls"]
    {
        let (code, missing) = error(&ask(&format!("{words} --org nobody")));
        assert_eq!((code, missing["code"].as_str()), (3, Some("not_found")), "{words}: {missing}");
    }

    let verified = say("audit verify");
    let entries = say("audit ls --limit 500");
    assert_eq!(verified["entries"], entries["entries"].as_array().unwrap().len());
    assert_eq!(verified["head"], entries["entries"][0]["hash"]);
    let head = text(&verified["head"]);
    say(&format!("audit verify --head {head}"));
    let (code, broken) = error(&ask(&format!("audit verify --head {}", "0".repeat(64))));
    assert_eq!((code, broken["code"].as_str()), (1, Some("audit_broken")));
    let (code, no_hash) = error(&ask("audit verify --head deadbeef"));
    assert_eq!((code, no_hash["code"].as_str()), (2, Some("usage")), "{no_hash}");
}

#[test]
fn the_rest_of_the_commands_speak_json_too() {
    let folder = tempfile::tempdir().unwrap();
    let config = last_line(&lyceum(folder.path(), &["config", "show", "--origin", "--json"]));
    assert_eq!(config["config"]["threads"], serde_json::json!({ "value": "1", "origin": "LYCEUM_THREADS" }));
    let doctor = last_line(&lyceum(folder.path(), &["doctor", "--json"]));
    assert!(doctor["checks"].as_array().unwrap().iter().all(|check| check["ok"] == true), "{doctor}");
    let script = lyceum(folder.path(), &["completions", "bash"]);
    assert!(String::from_utf8_lossy(&script.stdout).contains("_lyceum"));
    let document = last_line(&lyceum(folder.path(), &["openapi", "--json"]));
    assert!(document["paths"]["/v1/chat/completions"]["post"].is_object());
    let help = String::from_utf8(lyceum(folder.path(), &["--help"]).stdout).unwrap();
    assert!(help.contains("130 interrupted") && help.contains("train"), "{help}");
}

#[test]
fn a_killed_training_resumes_to_the_weights_of_the_run_that_was_not() {
    let folder = tempfile::tempdir().unwrap();
    write_rows(folder.path(), 400);
    let spec = SPEC.replace("epochs = 20", "steps = 3000\ncheckpoint_every = 100\naccumulate = 2");
    std::fs::write(folder.path().join("spec.toml"), spec).unwrap();
    let whole = last_line(&lyceum(folder.path(), &["train", "spec.toml", "--json"]));

    let mut child = Command::new(env!("CARGO_BIN_EXE_lyceum"))
        .current_dir(folder.path())
        .args(["train", "spec.toml", "--json", "--data-dir", "killed", "--threads", "2"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let reader = std::io::BufReader::new(child.stdout.take().unwrap());
    let checkpoint =
        std::io::BufRead::lines(reader).map_while(Result::ok).find(|line| line.contains("\"checkpoint\""));
    assert!(checkpoint.is_some(), "the run ended before its first checkpoint");
    child.kill().unwrap();
    child.wait().unwrap();

    let killed = |arguments: &[&str]| {
        let mut all = arguments.to_vec();
        all.extend(["--data-dir", "killed", "--json"]);
        lyceum(folder.path(), &all)
    };
    let jobs = last_line(&killed(&["jobs", "ls"]));
    let job = &jobs["jobs"][0];
    assert_eq!(job["status"], "interrupted", "{jobs}");
    let resumed = killed(&["jobs", "resume", job["id"].as_str().unwrap()]);
    let done = last_line(&resumed);
    assert!(lines(&resumed).iter().any(|line| line["event"] == "resumed"));
    let weights = |done: &Value| {
        std::fs::read(folder.path().join(done["path"].as_str().unwrap()).join("model.safetensors"))
    };
    assert_eq!(weights(&done).unwrap(), weights(&whole).unwrap());
    assert_eq!(done["metrics"], whole["metrics"]);
}

#[test]
fn a_server_says_where_it_listens_and_ends_by_a_signal() {
    use std::io::{BufRead, Read, Write};
    let folder = TRAINED.path();
    let mut child = Command::new(env!("CARGO_BIN_EXE_lyceum"))
        .current_dir(folder)
        .args(["serve", "--port", "0", "--json", "--data-dir", "data"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut reader = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut next = || {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        serde_json::from_str::<Value>(&line).unwrap()
    };
    let listening = next();
    assert_eq!(listening["event"], "listening");
    assert_eq!(next()["event"], "ready");
    let key = listening["key"].as_str().unwrap().to_owned();
    assert!(listening["admin_key"].as_str().unwrap().starts_with("sk-admin-"));
    let address = listening["url"].as_str().unwrap().trim_start_matches("http://").to_owned();
    let ask = |key: &str| {
        let body = "{\"instances\":[{\"x\":0.9,\"y\":0.9}]}";
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        write!(
            stream,
            "POST /v1/models/points:predict HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {key}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let answer = ask(&key);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"above\""), "{answer}");
    assert!(ask("sk-wrong").starts_with("HTTP/1.1 401"));
    // What it has in memory is asked of it alone.
    let port = address.rsplit(':').next().unwrap();
    let of_server = |words: &[&str], key: &str| {
        lyceum(folder, &[words, &["--port", port, "--key", key, "--json"]].concat())
    };
    assert_eq!(last_line(&of_server(&["ps"], &key))["data"], Value::Array(Vec::new()));
    let (code, stopped) = error(&of_server(&["stop", "points"], &key));
    assert_eq!(code, 3, "it is not an imported model");
    assert!(stopped["fix"].as_str().unwrap().starts_with("lyceum ps "), "{stopped}");
    assert_eq!(error(&of_server(&["ps"], "sk-wrong")).0, 4);
    assert_eq!(error(&lyceum(folder, &["ps", "--port", "1", "--key", "sk-a", "--json"])).0, 7);
    // The folder is not locked while it is served.
    assert_eq!(last_line(&lyceum(folder, &["ls", "--json"]))["models"][0]["name"], "points");
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
    assert!(child.wait().unwrap().success());
}

#[test]
fn an_attack_says_what_it_left_and_a_gate_speaks_through_the_exit_code() {
    let folder = TRAINED.path();
    let own = tempfile::tempdir().unwrap();
    let suite = |text: &str| {
        let path = own.path().join("suite.toml");
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let path =
        suite("suite = [{ type = \"pgd\", eps = 0.5, steps = 10 }, { type = \"certificate\", eps = 0.01 }]");
    let attack = |more: &[&str]| {
        let base = ["attack", "points", "rows.csv", "--suite", &path, "--rows", "60", "--json"];
        lyceum(folder, &[&base, more].concat())
    };
    let run = last_line(&attack(&[]));
    assert_eq!(
        (&run["object"], &run["model"], &run["n"]),
        (&"robustness.run".into(), &"points@1".into(), &60.into())
    );
    assert!(run["unit"].as_str().unwrap().contains("standard deviations"), "{}", run["unit"]);
    let value = |i: usize| run["results"][i]["value"].as_f64().unwrap();
    assert!(value(0) > 0.9 && value(1) < value(0), "{}", run["results"]);
    assert!(value(2) > 0.3 && value(2) <= value(0), "what is proved at 0.01 is answered rightly");
    assert_eq!(last_line(&attack(&[]))["results"], run["results"]);
    let gate = last_line(&attack(&["--compare-to", "points@1", "--max-drop", "0"]))["gate"].clone();
    assert_eq!(gate["passed"], true);
    let wrong = suite("suite = [{ type = \"pdg\", eps = 0.5 }]");
    let (code, error) =
        error(&lyceum(folder, &["attack", "points", "rows.csv", "--suite", &wrong, "--json"]));
    assert_eq!(code, 2);
    assert!(error["why"].as_str().unwrap().contains("unknown variant `pdg`"), "{error}");
}

#[test]
fn a_preview_shows_what_training_reads_and_makes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    write_rows(folder.path(), 40);
    std::fs::write(folder.path().join("spec.toml"), SPEC).unwrap();
    let output = lyceum(folder.path(), &["preview", "spec.toml", "--rows", "2", "--json"]);
    let done = last_line(&output);
    let rows = lines(&output);
    assert_eq!((rows.len(), &rows[0]["names"]), (3, &serde_json::json!(["x", "y"])));
    assert!(
        rows[0]["values"][1].is_number() && ["above", "below"].contains(&rows[0]["label"].as_str().unwrap())
    );
    assert_eq!((&done["event"], &done["epoch"]["examples"]), (&Value::from("done"), &Value::from(30)));
    let valid = lines(&lyceum(folder.path(), &["preview", "spec.toml", "--part", "valid", "--json"]));
    assert_eq!(valid.last().unwrap()["epoch"]["examples"], 10);
    assert_eq!(error(&lyceum(folder.path(), &["preview", "spec.toml", "--part", "test", "--json"])).0, 2);

    // A text token by token: what is read only, and what the loss asks for.
    std::fs::write(folder.path().join("rows.jsonl"), "{\"prompt\":\"ab\",\"completion\":\"c\"}\n").unwrap();
    let text = "name = \"t\"\ntask = \"language_modeling\"\n[data]\ntrain = \"rows.jsonl\"\n[model]\n\
        family = \"gru\"\nhidden_size = 4\nnum_layers = 1\nhead = \"next\"\n[train]\nsteps = 1\nbatch_size = 1\n";
    std::fs::write(folder.path().join("text.toml"), text).unwrap();
    let shown = String::from_utf8(lyceum(folder.path(), &["preview", "text.toml"]).stdout).unwrap();
    assert!(shown.contains("a|b|[c]|[<eos>]"), "{shown}");
    let tokens = &lines(&lyceum(folder.path(), &["preview", "text.toml", "--json"]))[0]["tokens"];
    assert_eq!(tokens[1], serde_json::json!({"id": 1, "text": "b", "loss": false}));
    assert_eq!(tokens[2]["loss"], true);
    assert!(!folder.path().join("data").exists(), "a preview leaves nothing");
}

#[test]
fn an_evaluation_compares_with_what_training_knew() {
    let folder = TRAINED.path();
    let text = std::fs::read_to_string(folder.join("rows.csv")).unwrap();
    let of = |label: &str| text.lines().filter(|line| line.ends_with(label)).collect::<Vec<_>>();
    let (above, below) = (of("above"), of("below"));
    let (rare, frequent) = if above.len() < below.len() { (above, below) } else { (below, above) };
    // Mostly the class that was rare in training: a baseline fitted on these rows would be right on most.
    let rows = [vec!["x,y,label"], rare[..9].to_vec(), frequent[..1].to_vec()].concat().join("\n");
    std::fs::write(folder.join("skewed.csv"), rows + "\n").unwrap();
    let eval = last_line(&lyceum(folder, &["eval", "points", "skewed.csv", "--json"]));
    assert_eq!((&eval["baseline_name"], &eval["baseline_missing"]), (&Value::from("majority"), &Value::Null));
    assert_eq!(eval["baseline"]["accuracy"]["value"], 0.1, "{eval}");
}
