//! Zero data retention: what is asked of every route is found nowhere afterwards, neither in the bytes of the data folder
//! (free pages, journals and temporary files included) nor in what the process said nor in a core dump; whether it ends well, is killed or dies.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by unwrapping")]

mod program;
#[path = "../../lyceum-api/tests/api/tiny.rs"]
mod tiny;

use program::client::answer_of;
use program::server::{SERVE, Server};
use serde_json::{Value, json};
use std::io::Read;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Stands in every text that must leave nothing.
const CANARY: &str = "kanarienvogel";
/// Stands in what an ordinary project keeps: the search can find.
const KEPT: &str = "rotkehlchen";

/// Where the system would write a core dump of whatever dies.
fn lyceum(folder: &Path, arguments: &[&str]) -> Command {
    let plain = program::command(folder, arguments);
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -c unlimited; exec \"$0\" \"$@\""]);
    command.arg(plain.get_program()).args(plain.get_args()).current_dir(folder);
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.env("TMPDIR", folder.join("tmp"));
    command
}

#[track_caller]
fn run(folder: &Path, arguments: &[&str]) {
    let output = lyceum(folder, arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What it says goes to `said.N` in the folder.
fn serve(folder: &Path, n: usize, key: Option<String>) -> Server {
    Server::start_telling(lyceum(folder, &SERVE), &folder.join(format!("said.{n}")), key)
}

fn open(server: &Server, path: &str, more: &str, body: &str) -> TcpStream {
    server.open("POST", path, &format!("content-type: application/json\r\n{more}"), body.as_bytes())
}

/// The status, and the body.
fn ask(server: &Server, path: &str, more: &str, body: &Value) -> (u16, String) {
    answer_of(open(server, path, more, &body.to_string()))
}

/// Every file below a folder whose bytes contain the word.
fn found(folder: &Path, word: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(self::found(&path, word));
        } else if std::fs::read(&path).unwrap().windows(word.len()).any(|bytes| bytes == word.as_bytes()) {
            found.push(path);
        }
    }
    found
}

/// The files of what is counted of answers.
fn counts(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder.join("data/drift"));
    entries.into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Everything that may be asked, with a canary in every text; how many were answered, and how many refused.
fn everything(server: &Server) -> (usize, usize) {
    let n = std::cell::Cell::new(0);
    let word = || {
        n.set(n.get() + 1);
        format!("{CANARY} {}", n.get())
    };
    let messages = || json!([{"role": "system", "content": word()}, {"role": "user", "content": word()}]);
    let chat = |more: Value| {
        let mut body = json!({"model": "tiny", "messages": messages(), "max_tokens": 6, "user": word(),
            "metadata": {"about": word()}});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        ("/v1/chat/completions", body)
    };
    let question = json!([{"name": "q", "type": "predicate", "instructions": word()}]);
    let asked = [
        chat(json!({})),
        chat(json!({"stream": true})),
        chat(json!({"stop": [word()], "explain": {}})),
        chat(json!({"tools": [{"type": "function", "function": {"name": "f", "description": word(),
            "parameters": {"type": "object", "properties": {}}}}]})),
        chat(json!({"temperature": word()})),
        chat(json!({ word(): 1 })),
        chat(json!({"model": CANARY})),
        ("/v1/completions", json!({"model": "tiny", "prompt": word(), "max_tokens": 6, "echo": true})),
        ("/v1/completions", json!({"model": "tiny", "prompt": word(), "max_tokens": 4, "explain": {}})),
        ("/v1/responses", json!({"model": "tiny", "input": word(), "store": false, "max_output_tokens": 6})),
        ("/v1/responses", json!({"model": "tiny", "input": word(), "store": true, "max_output_tokens": 6})),
        ("/v1/responses", json!({"model": "tiny", "input": word(), "background": true})),
        ("/v1/decisions", json!({"model": "tiny", "input": word(), "questions": question})),
        ("/v1/models/points:predict", json!({"instances": [{"x": word(), "y": 1}]})),
        ("/v1/models/points:predict", json!({"instances": [{"x": 1, "y": 1, CANARY: 3}]})),
        ("/v1/explanations", json!({"model": "tiny", "messages": messages(), "completion": word()})),
        ("/v1/explanations", json!({"model": "points", "features": {"x": 1, "y": 2, CANARY: 1}})),
        (
            "/v1/explanations",
            json!({"model": "tiny", "prompt": word(), "completion": word(), "background": true}),
        ),
        ("/tokenize", json!({"model": "tiny", "prompt": word()})),
        ("/v1/embeddings", json!({"model": "tiny", "input": word()})),
        ("/v1/pii/analyze", json!({"text": format!("{CANARY}@example.com")})),
        (
            "/v1/pii/anonymize",
            json!({"text": format!("{CANARY}@example.com"), "anonymizers": {"DEFAULT": {"type": "placeholder"}}}),
        ),
        ("/v1/pii/deanonymize", json!({"text": word(), "restore": CANARY})),
        ("/v1/rerank", json!({"model": "tiny", "query": word(), "documents": [word()]})),
        (
            "/v1/batches",
            json!({"input_file_id": CANARY, "endpoint": "/v1/chat/completions", "completion_window": "24h",
            "metadata": {"about": word()}}),
        ),
        (
            "/v1/uploads",
            json!({"filename": CANARY, "purpose": "batch", "bytes": 5, "mime_type": "text/plain"}),
        ),
        ("/v1/fine_tuning/jobs", json!({"model": "tiny", "training_file": CANARY, "suffix": "x"})),
        ("/v1/model_selections", json!({"data": CANARY, "target": word()})),
        ("/v1/moderations", json!({"input": [word(), format!("{CANARY}@example.com")]})),
        ("/v1/models/points:explain", json!({"instances": [{"x": word(), "y": 1}]})),
        (
            "/v2/models/points/infer",
            json!({"inputs": [{"name": CANARY, "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}),
        ),
        (
            "/v1/cascades",
            json!({"name": "router", "small": "points", "large": "tiny", "data": CANARY, "instructions": word()}),
        ),
        (
            "/v1/robustness/runs",
            json!({"model": "points", "instances": [[1, 2]], "labels": [CANARY],
            "suite": [{"type": "smoothing", "sigma": 0.25, "n": 100}]}),
        ),
        ("/v1/privacy/saw", json!({"file": CANARY, "text": word()})),
        ("/v1/privacy/audits", json!({"model": "points", "members": CANARY, "others": CANARY})),
        ("/v1/privacy/budgets", json!({"data_sha256": CANARY, "epsilon": 1, "delta": 1e-5})),
    ];
    let (mut answered, mut refused) = (0, 0);
    for (i, (path, body)) in asked.iter().enumerate() {
        for more in [String::new(), format!("idempotency-key: {CANARY}-{i}\r\n")] {
            let (status, answer) = ask(server, path, &more, body);
            assert!(
                status == 200 || (400..500).contains(&status) || status == 501,
                "{path}: {status} {answer}"
            );
            if status == 200 { answered += 1 } else { refused += 1 }
        }
    }
    // A file, whose name and bytes are refused.
    let form = format!(
        "--b\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nuser_data\r\n--b\r\ncontent-disposition: \
         form-data; name=\"file\"; filename=\"{CANARY}.csv\"\r\n\r\n{CANARY},b\n1,2\n\r\n--b--\r\n"
    );
    let (status, answer) =
        server.send("POST", "/v1/files", "multipart/form-data; boundary=b", form.as_bytes());
    assert!(status == 400 && answer.contains("zero_data_retention"), "{status} {answer}");
    // A body that is no JSON, and a client that leaves.
    let broken = format!("{{\"model\": \"{CANARY}");
    open(server, "/v1/chat/completions", "", &broken).read_to_string(&mut String::new()).unwrap();
    drop(long_answer(server));
    (answered, refused)
}

/// An answer that is under way.
fn long_answer(server: &Server) -> TcpStream {
    let body = json!({"model": "tiny", "messages": [{"role": "user", "content": CANARY}], "stream": true,
        "ignore_eos": true, "max_tokens": 400, "seed": 1});
    let mut answer = open(server, "/v1/chat/completions", "", &body.to_string());
    answer.read_exact(&mut [0; 300]).unwrap();
    answer
}

/// A line of the log is a JSON object where that is asked for, and a request's line has the id that its answer has.
#[test]
fn the_log_is_json_where_it_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    std::fs::create_dir(path.join("tmp")).unwrap();
    let mut command = lyceum(path, &SERVE);
    command.env("LYCEUM_LOG_FORMAT", "json");
    let server = Server::start_telling(command, &path.join("said"), None);
    let mut answer = String::new();
    server.open("GET", "/v1/models", "", b"").read_to_string(&mut answer).unwrap();
    let id = answer.lines().find_map(|line| line.strip_prefix("x-request-id: ")).unwrap().to_owned();
    server.end("-INT");
    let said = std::fs::read_to_string(path.join("said")).unwrap();
    let lines: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let answered = lines.iter().find(|line| line["message"] == "answered").unwrap();
    assert_eq!((&answered["status"], &answered["level"]), (&json!(200), &json!("INFO")));
    assert_eq!((&answered["span"]["id"], &answered["span"]["route"]), (&json!(id), &json!("/v1/models")));
    assert!(answered["timestamp"].is_string() && answered["ms"].is_number());
}

#[test]
fn what_a_project_with_zero_retention_asks_is_found_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    std::fs::create_dir(path.join("tmp")).unwrap();
    std::fs::write(path.join("tiny.gguf"), tiny::tiny_gguf()).unwrap();
    let row = |i: usize| format!("{},{},{}\n", i % 7, i % 5, if i % 7 > 3 { "a" } else { "b" });
    std::fs::write(path.join("rows.csv"), format!("x,y,label\n{}", (0..60).map(row).collect::<String>()))
        .unwrap();
    let spec = "name = \"points\"\ntask = \"classification\"\n[data]\ntrain = \"rows.csv\"\ntarget = \"label\"\n\
        valid_fraction = 0.2\n[model]\nfamily = \"mlp\"\nhidden = [4]\n[train]\nepochs = 1\n";
    std::fs::write(path.join("spec.toml"), spec).unwrap();
    run(path, &["import", "tiny.gguf", "--name", "tiny"]);
    run(path, &["train", "spec.toml"]);

    // An ordinary project first: what it keeps is found.
    let server = serve(path, 0, None);
    let kept = json!({"model": "tiny", "input": KEPT, "max_output_tokens": 4});
    assert_eq!(ask(&server, "/v1/responses", "", &kept).0, 200);
    let key = server.end("-INT");
    assert!(!found(&path.join("data"), KEPT).is_empty(), "the search finds what is kept");
    assert_eq!(counts(path).len(), 1, "and counts of answers");

    run(path, &["admin", "retention", "zero_data_retention", "--project", "default"]);
    for (n, signal) in [(1, "-INT"), (2, "-9"), (3, "-ABRT")] {
        let server = serve(path, n, Some(key.clone()));
        let (answered, refused) = everything(&server);
        // What has an Idempotency-Key would have to be kept: all of it is refused.
        assert!(answered >= 10 && refused >= 30, "{answered} answered, {refused} refused");
        assert_eq!(
            counts(path),
            Vec::<PathBuf>::new(),
            "what was counted before is gone, and no lock is taken"
        );
        let under_way = (signal != "-INT").then(|| long_answer(&server));
        server.end(signal);
        drop(under_way);
        assert_eq!(counts(path), Vec::<PathBuf>::new(), "counts of answers after {signal}");
        // The data folder, temporary files, and where the process ran.
        assert_eq!(found(path, CANARY), Vec::<PathBuf>::new(), "after {signal}");
        let said = std::fs::read_to_string(path.join(format!("said.{n}"))).unwrap();
        let lines: Vec<&str> = said.lines().filter(|line| line.contains(CANARY)).collect();
        assert_eq!(lines, Vec::<&str>::new(), "after {signal}");
    }
}
