//! Models that a client brings to a server, or has it pull: the binary with a URL and a key alone. What is refused leaves
//! nothing there, and each model that comes is in the audit log.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "tests say what they expect by unwrapping")]

#[path = "../../lyceum-hub/tests/pull/server.rs"]
#[allow(dead_code, reason = "the hub's own tests ask more of it")]
mod hub;
mod program;
#[path = "../../lyceum-api/tests/api/tiny.rs"]
mod tiny;

use hub::{COMMIT, Manners};
use program::server::{SERVE, Server, send};
use program::{command, points, side};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A server, and a client's folder that has a model of each kind.
struct House {
    /// Ends before its folder goes.
    server: Server,
    folder: tempfile::TempDir,
    client: tempfile::TempDir,
}

impl House {
    fn new(serve: impl FnOnce(&mut Command)) -> Self {
        let (folder, client) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut command = command(folder.path(), &SERVE);
        serve(&mut command);
        let server = Server::start(command, None);
        std::fs::write(client.path().join("tiny.gguf"), tiny::tiny_gguf()).unwrap();
        program::encoder::folder(&client.path().join("bert"), "bert");
        House { server, folder, client }
    }

    fn command(&self, arguments: &[&str], key: &str) -> Command {
        let mut command = command(self.client.path(), &[arguments, &["--url", &self.server.url]].concat());
        command.env("LYCEUM_API_KEY", key);
        command
    }

    fn ask(&self, arguments: &[&str]) -> Output {
        self.command(arguments, &self.server.key).arg("--json").output().unwrap()
    }

    #[track_caller]
    fn done(&self, arguments: &[&str]) -> Value {
        program::done(&self.ask(arguments))
    }

    fn refused(&self, arguments: &[&str]) -> (i32, String, Value) {
        let (exit, error) = program::refusal(&self.ask(arguments));
        (exit, error["code"].as_str().unwrap().to_owned(), error)
    }

    /// The status, and the error's code, field and words.
    fn post(&self, body: &Value) -> (u16, String, String) {
        let answer = self.server.send("POST", "/v1/models", "application/json", body.to_string().as_bytes());
        let error = serde_json::from_str::<Value>(&answer.1).unwrap()["error"].clone();
        let text = |field: &str| error[field].as_str().unwrap_or_default().to_owned();
        (answer.0, text("code"), format!("{}: {}", text("param"), text("message")))
    }

    fn files(&self) -> usize {
        self.server.get("/v1/files")["data"].as_array().unwrap().len()
    }

    /// Entries of a kind in the audit log, the newest first, whose chain holds.
    fn audited(&self, kind: &str) -> Vec<Value> {
        let log = program::done(&program::lyceum(self.folder.path(), &["audit", "ls", "--limit", "100"]));
        program::done(&program::lyceum(self.folder.path(), &["audit", "verify"]));
        log["entries"].as_array().unwrap().iter().filter(|entry| entry["type"] == kind).cloned().collect()
    }
}

#[test]
fn a_model_that_is_brought_answers_there_and_leaves_no_file() {
    let house = House::new(|_| {});
    let near = program::done(&program::lyceum(house.client.path(), &["import", "tiny.gguf"]));
    let far = house.done(&["import", "tiny.gguf"]);
    let mut expected = near.clone();
    expected.as_object_mut().unwrap().remove("path");
    assert_eq!(far, expected, "the words of a command where the data is, but for the place");
    assert_eq!(house.done(&["import", "tiny.gguf"])["already_there"], true);
    let answer = house.done(&["run", "tiny", "the canary", "--max-tokens", "4"]);
    assert_eq!(answer["usage"]["completion_tokens"], 4, "{answer}");
    let laid_out =
        house.done(&["import", "tiny.gguf", "--name", "org/short", "--context", "8", "--quant", "q8_0"]);
    assert_eq!((&laid_out["context"], &laid_out["quant"]), (&8.into(), &"q8_0".into()), "{laid_out}");

    let far = house.done(&["import", "bert", "--name", "words"]);
    assert_eq!((&far["model"], &far["family"]), (&"words@1".into(), &"bert".into()), "{far}");
    program::done(&program::lyceum(house.client.path(), &["import", "bert", "--name", "words"]));
    let near = program::done(&program::lyceum(house.client.path(), &["embed", "words", "the cat"]));
    let far = house.done(&["embed", "words", "the cat"]);
    assert_eq!(embedding(&far), embedding(&near), "{far}");
    // What a folder that was exported says of itself stays said.
    house.done(&["export", "words", "--output", "again"]);
    assert_eq!(house.done(&["import", "again"])["already_there"], true);

    // A model that was trained here.
    let spec = "name = \"points\"\ntask = \"classification\"\n[data]\ntrain = \"rows.csv\"\nvalid_fraction = 0.25\n\
                target = \"label\"\n[model]\nfamily = \"mlp\"\nhidden = [4]\n[train]\nsteps = 5\nbatch_size = 8\n";
    std::fs::write(house.client.path().join("rows.csv"), points(60, ["x", "y"], side)).unwrap();
    std::fs::write(house.client.path().join("points.toml"), spec).unwrap();
    program::done(&program::lyceum(house.client.path(), &["train", "points.toml"]));
    program::done(&program::lyceum(house.client.path(), &["export", "points", "--output", "points"]));
    let far = house.done(&["import", "points"]);
    assert_eq!((&far["model"], &far["already_there"]), (&"points@1".into(), &false.into()), "{far}");
    assert_eq!(house.done(&["import", "points"])["already_there"], true);
    let near = ["predict", "points", "rows.csv"];
    let near = program::lyceum(house.client.path(), &near).stdout;
    let far = house.ask(&["predict", "points", "rows.csv", "--without", "label"]).stdout;
    let outputs = |lines: &[u8]| -> Vec<Value> {
        let text = String::from_utf8(lines.to_vec()).unwrap();
        text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["output"].clone()).collect()
    };
    assert_eq!((outputs(&near).len(), outputs(&near)), (60, outputs(&far)));

    // The same weights bare: what else the model is stands in the spec and its data, which are here.
    let bare = ["import", "points/model.safetensors", "--spec", "points.toml", "--name", "bare"];
    let far = house.done(&bare);
    assert_eq!((&far["model"], &far["already_there"]), (&"bare@1".into(), &false.into()), "{far}");
    assert_eq!(house.done(&bare)["already_there"], true);
    let far = house.ask(&["predict", "bare", "rows.csv", "--without", "label"]).stdout;
    assert_eq!(outputs(&near), outputs(&far));
    let (exit, code, error) = house.refused(&[&bare[..], &["--quant", "q8_0"]].concat());
    assert_eq!((exit, code.as_str()), (2, "usage"), "{error}");

    assert_eq!(house.files(), 0, "what was brought went with its import");
    let log = house.audited("model.imported");
    let told: Vec<&str> = log.iter().rev().map(|entry| entry["resource"].as_str().unwrap()).collect();
    assert_eq!(told, ["tiny@1", "org/short@1", "words@1", "points@1", "bare@1"], "{log:?}");
    assert!(log.iter().all(|entry| entry["actor"].as_str().unwrap().starts_with("key_")), "{log:?}");
    let trained = program::lyceum(house.client.path(), &["audit", "ls"]);
    assert!(
        String::from_utf8_lossy(&trained.stdout).contains("model.trained"),
        "a job's version is told too"
    );
}

#[test]
fn what_is_refused_leaves_nothing_and_strangers_find_no_file() {
    let house = House::new(|command| {
        command.arg("--model-uploads-mib").arg("1");
    });
    let write = |name: &str, bytes: &[u8]| std::fs::write(house.client.path().join(name), bytes).unwrap();
    write("broken.gguf", b"GGUFnothing behind it");
    let (exit, code, error) = house.refused(&["import", "broken.gguf"]);
    assert_eq!((exit, code.as_str()), (1, "not_a_model"), "{error}");
    assert!(!error.to_string().contains("staging"), "no place on the server's disk: {error}");
    assert_eq!(house.refused(&["import", "tiny.gguf", "--context", "99999"]).1, "invalid_value");
    assert_eq!(house.refused(&["import", "tiny.gguf", "--base", "words"]).1, "invalid_value");
    assert_eq!(house.refused(&["import", "rows.csv"]).0, 3);
    write("rows.csv", b"a,b\n");
    assert_eq!(house.refused(&["import", "rows.csv"]).1, "not_a_model");
    assert_eq!(
        house.refused(&["import", "tiny.gguf", "--spec", "x.toml"]).0,
        3,
        "as here: there is no such spec"
    );
    write("large.gguf", &[&b"GGUF"[..], &vec![0; 2 << 20]].concat());
    let (_, code, error) = house.refused(&["import", "large.gguf"]);
    assert_eq!(code, "too_many_bytes", "{error}");
    assert!(error["message"].as_str().unwrap().contains("model_uploads_mib"), "{error}");
    assert_eq!(house.files(), 0, "what was refused was deleted");
    // Who asks nothing but models brings none.
    let made = ["keys", "create", "--scope", "inference"];
    let made = program::done(&program::lyceum(house.folder.path(), &made));
    let key =
        ["key", "secret"].iter().find_map(|field| made[*field].as_str()).unwrap_or_else(|| panic!("{made}"));
    let output = house.command(&["import", "tiny.gguf"], key).arg("--json").output().unwrap();
    assert_eq!(program::refusal(&output).1["code"], "insufficient_permissions");

    let id = house.server.bring("model", "config.json", "{}");
    for path in ["../config.json", "/etc/config.json", "a/../config.json", "run.sh", "", "model.bin"] {
        let (status, code, told) = house.post(&json!({"name": "x", "files": [{"id": id, "path": path}]}));
        assert_eq!((status, code.as_str()), (400, "invalid_path"), "{path}: {told}");
        assert!(told.starts_with("files[0].path"), "{told}");
    }
    let of = |id: &str| json!({"name": "x", "files": [{"id": id, "path": "config.json"}]});
    assert_eq!(house.post(&of("file_00000000000000000000000000000001")).0, 404);
    assert_eq!(house.post(&of("nothing")).0, 404);
    let twice = json!({"name": "x", "files": [{"id": id, "path": "config.json"}, {"id": id, "path": "tokenizer.json"}]});
    assert_eq!(house.post(&twice).1, "invalid_path");
    let other = json!({"name": "x", "files": [{"id": id, "path": "config.json", "sha256": "00"}]});
    assert_eq!(house.post(&other).1, "wrong_hash");
    assert_eq!(house.post(&json!({"files": [{"id": id, "path": "config.json"}, ]})).1, "not_a_model");
    let rows = house.server.bring("user_data", "config.json", "{}");
    assert_eq!(house.post(&of(&rows)).1, "invalid_purpose");
    let training =
        json!({"model": "mlp", "training_file": id, "method": {"type": "train", "train": {"spec": {}}}});
    let (status, told) = house.server.send(
        "POST",
        "/v1/fine_tuning/jobs",
        "application/json",
        training.to_string().as_bytes(),
    );
    assert!(status == 400 && !told.contains("job_"), "{told}");
    assert_eq!(house.server.get("/v1/models")["data"], json!([]));
    assert!(house.audited("model.imported").is_empty());
}

#[test]
fn who_ends_an_import_leaves_no_upload() {
    let house = House::new(|_| {});
    let bytes = [&b"GGUF"[..], &vec![7; 600 << 20]].concat();
    std::fs::write(house.client.path().join("large.gguf"), bytes).unwrap();
    let mut importing = house.command(&["import", "large.gguf"], &house.server.key);
    let importing = importing.stderr(Stdio::piped()).spawn().unwrap();
    let uploads = house.folder.path().join("data/uploads");
    let begun = Instant::now();
    while parts(&uploads) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "no part comes");
        std::thread::sleep(Duration::from_millis(5));
    }
    send("-INT", importing.id());
    let ended = importing.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130), "{}", String::from_utf8_lossy(&ended.stderr));
    assert_eq!((parts(&uploads), house.files()), (0, 0), "its parts went with it");
}

fn embedding(line: &Value) -> Vec<f32> {
    line["embedding"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

/// Parts of uploads that lie below a folder.
fn parts(folder: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let count = |entry: std::fs::DirEntry| match entry.path().is_dir() {
        true => parts(&entry.path()),
        false => usize::from(entry.file_name().to_string_lossy().starts_with("part_")),
    };
    entries.flatten().map(count).sum()
}

/// A hub with the tiny encoder.
fn hub() -> hub::Server {
    let folder = tempfile::tempdir().unwrap();
    program::encoder::folder(folder.path(), "bert");
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    let files = BTreeMap::from([
        ("config.json".to_owned(), (read("config.json"), false)),
        ("tokenizer.json".to_owned(), (read("tokenizer.json"), false)),
        ("model.safetensors".to_owned(), (read("model.safetensors"), true)),
    ]);
    let token = Some("hf_servers".to_owned());
    hub::Server::start(Manners { files, token, ..Manners::default() })
}

#[test]
fn a_server_pulls_from_its_own_hub_where_its_operator_allows_it() {
    let hub = hub();
    let cache = tempfile::tempdir().unwrap();
    let configure = |command: &mut Command| {
        command.env("HF_ENDPOINT", &hub.url).env("HF_TOKEN", "hf_servers").env("NO_PROXY", "127.0.0.1");
        command.env("HF_HOME", cache.path()).env_remove("HF_HUB_CACHE").env_remove("HF_HUB_OFFLINE");
    };
    let house = House::new(configure);
    let (_, code, error) = house.refused(&["pull", "org/tiny"]);
    assert_eq!(code, "pull_not_allowed", "{error}");
    assert!(error["message"].as_str().unwrap().contains("--allow-pull"), "{error}");
    assert!(hub.asked.lock().unwrap().is_empty(), "nobody was asked");

    let house = House::new(|command| {
        configure(command);
        command.arg("--allow-pull");
    });
    // The client's own variables go nowhere.
    let mut pull = house.command(&["pull", "org/tiny", "--quant", "f32"], &house.server.key);
    pull.env("HF_ENDPOINT", "http://127.0.0.1:9").env("HF_TOKEN", "hf_clients").arg("--json");
    let done = program::done(&pull.output().unwrap());
    assert_eq!((&done["model"], &done["quant"]), (&"org/tiny@1".into(), &"f32".into()), "{done}");
    assert_eq!((&done["licence"], &done["already_there"]), (&"apache-2.0".into(), &false.into()));
    assert!(hub.asked.lock().unwrap().iter().all(|asked| asked.token.as_deref() != Some("hf_clients")));
    let lineage = house.done(&["lineage", "org/tiny"]);
    assert!(lineage.to_string().contains(&format!("hf.co/org/tiny@{COMMIT}")), "{lineage}");
    assert!(house.done(&["embed", "org/tiny", "the cat"])["embedding"].is_array());
    assert_eq!(house.done(&["pull", "org/tiny", "--quant", "f32"])["already_there"], true);
    assert_eq!(house.refused(&["pull", "org/nobody"]).0, 3);
    assert_eq!(house.refused(&["pull", "http://127.0.0.1:9/x"]).1, "invalid_value");
    let with_address = json!({"ref": "org/tiny", "endpoint": "http://127.0.0.1:9"}).to_string();
    let answer = house.server.send("POST", "/v1/models/pull", "application/json", with_address.as_bytes());
    assert_eq!(answer.0, 400, "a request names no address: {}", answer.1);

    // Events tell how far it is, and the last is the model.
    let body = json!({"ref": "org/tiny", "name": "other", "stream": true}).to_string();
    let (status, events) = house.server.send("POST", "/v1/models/pull", "application/json", body.as_bytes());
    assert_eq!(status, 200, "{events}");
    let events: Vec<Value> =
        events.lines().filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok()).collect();
    assert_eq!(events.last().unwrap()["id"], "other@1", "{events:?}");
    assert!(
        events.iter().rev().skip(1).all(|event| event["object"] == "model.import.progress"),
        "{events:?}"
    );
    let body = json!({"ref": "org/tiny", "name": "third"}).to_string();
    let (status, whole) = house.server.send("POST", "/v1/models/pull", "application/json", body.as_bytes());
    assert_eq!((status, whole.contains("\"third@1\"")), (200, true), "{whole}");
    // A model that is called as the route is.
    house.done(&["import", "tiny.gguf", "--name", "pull"]);
    assert_eq!(house.done(&["show", "pull"])["root"], "pull@1");
    assert_eq!(house.audited("model.imported").len(), 4);
    hub.manners.lock().unwrap().lies = true;
    std::fs::remove_dir_all(cache.path().join("hub")).unwrap();
    assert_eq!(house.refused(&["pull", "org/tiny", "--name", "fourth"]).1, "wrong_hash");
}
