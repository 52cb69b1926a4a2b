//! `kill -9` of a server in the middle of a batch, three times: every line has one answer and one entry in the ledger.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping")]

use lyceum_store::ledger::{Class, Entry, Outcome, entries};
use lyceum_store::{Layout, Store};
use lyceum_types::clock::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

const LINES: usize = 300;
const BOUNDARY: &str = "7c2b9e5f10a3d846";

fn lyceum(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lyceum"));
    command.args(arguments).args(["--json", "--data-dir"]).arg(folder.join("data")).current_dir(folder);
    command.stdin(Stdio::null());
    command
}

fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A server, and the key of its first start.
#[expect(clippy::zombie_processes, reason = "who gets it kills it and waits")]
fn serve(folder: &Path, key: &mut String) -> (Child, String) {
    let mut child = lyceum(folder, &["serve", "--port", "0"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut address = String::new();
    loop {
        let mut line = String::new();
        assert_ne!(reader.read_line(&mut line).unwrap(), 0, "the server has ended");
        let event: Value = serde_json::from_str(&line).unwrap();
        if event["event"] == "listening" {
            address = event["url"].as_str().unwrap().trim_start_matches("http://").to_owned();
            if let Some(shown) = event["key"].as_str() {
                *key = shown.to_owned();
            }
        }
        if event["event"] == "ready" {
            return (child, address);
        }
    }
}

struct Client<'a> {
    address: &'a str,
    key: &'a str,
}

impl Client<'_> {
    fn ask(&self, method: &str, path: &str, (kind, body): (&str, &str)) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\ncontent-type: {kind}\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{body}",
            self.address,
            self.key,
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
        body.to_owned()
    }

    fn json(&self, method: &str, path: &str, body: &str) -> Value {
        serde_json::from_str(&self.ask(method, path, ("application/json", body))).unwrap()
    }
}

fn begin(client: &Client<'_>) -> String {
    let line = |i: usize| {
        let body = json!({"model": "poet", "prompt": "ab", "max_tokens": 16, "ignore_eos": true, "seed": i});
        json!({"custom_id": format!("line-{i}"), "method": "POST", "url": "/v1/completions", "body": body})
            .to_string()
    };
    let text: Vec<String> = (0..LINES).map(line).collect();
    let field = |name: &str, text: &str| {
        format!("--{BOUNDARY}\r\ncontent-disposition: form-data; name={name}\r\n\r\n{text}\r\n")
    };
    let form = field("\"purpose\"", "batch") + &field("\"file\"; filename=\"batch.jsonl\"", &text.join("\n"));
    let form = format!("{form}--{BOUNDARY}--\r\n");
    let kind = format!("multipart/form-data; boundary={BOUNDARY}");
    let file: Value = serde_json::from_str(&client.ask("POST", "/v1/files", (&kind, &form))).unwrap();
    let body =
        json!({"input_file_id": file["id"], "endpoint": "/v1/completions", "completion_window": "24h"});
    client.json("POST", "/v1/batches", &body.to_string())["id"].as_str().unwrap().to_owned()
}

#[test]
fn a_batch_survives_kills_of_its_server() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("text.txt"), "abcd abcd dcba abcd \n".repeat(200)).unwrap();
    let spec = "name = \"poet\"\ntask = \"language_modeling\"\nseed = 1\n[data]\ntrain = \"text.txt\"\nvalid_fraction = 0.2\n\
        tokenizer = \"char\"\n[model]\nfamily = \"transformer\"\nvariant = \"decoder\"\nd_model = 16\nnhead = 2\nnum_layers = 1\n\
        dim_feedforward = 32\ncontext = 32\npositional = \"learned\"\n[train]\nsteps = 2\nbatch_size = 4\n";
    std::fs::write(folder.join("spec.toml"), spec).unwrap();
    done(&lyceum(folder, &["train", "spec.toml"]).output().unwrap());

    let mut key = String::new();
    let (mut server, mut address) = serve(folder, &mut key);
    let id = begin(&Client { address: &address, key: &key });
    let path = folder.join(format!("data/batches/{id}/done.jsonl"));
    for kill in 1..=3 {
        while std::fs::read_to_string(&path).map_or(0, |text| text.lines().count()) < kill * 40 {
            std::thread::sleep(Duration::from_micros(200));
        }
        server.kill().unwrap();
        server.wait().unwrap();
        assert!(path.exists(), "it was killed before the batch ended");
        (server, address) = serve(folder, &mut key);
    }
    let client = Client { address: &address, key: &key };
    let batch = loop {
        let batch = client.json("GET", &format!("/v1/batches/{id}"), "");
        if batch["status"] == "completed" {
            break batch;
        }
        assert!(["in_progress", "finalizing"].contains(&batch["status"].as_str().unwrap()), "{batch}");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(batch["request_counts"], json!({"total": LINES, "completed": LINES, "failed": 0}));
    let output = batch["output_file_id"].as_str().unwrap();
    let output = client.ask("GET", &format!("/v1/files/{output}/content"), ("application/json", ""));
    let answered: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ids: BTreeSet<&str> = answered.iter().map(|line| line["custom_id"].as_str().unwrap()).collect();
    assert_eq!((answered.len(), ids.len()), (LINES, LINES), "a line is answered once");
    let told: u64 = answered.iter().map(|line| tokens(&line["response"]["body"]["usage"])).sum();
    assert_eq!(told, tokens(&batch["usage"]));

    let killed = Command::new("kill").args(["-INT", &server.id().to_string()]).status().unwrap();
    assert!(killed.success() && server.wait().unwrap().success());
    let billed = ledger(&folder.join("data"));
    let of_batch: Vec<&Entry> = billed.iter().filter(|entry| entry.request.class == Class::Batch).collect();
    let requests: BTreeSet<&str> = of_batch.iter().map(|entry| entry.request.id.as_str()).collect();
    assert_eq!((of_batch.len(), requests.len()), (LINES, LINES), "a line is billed once");
    assert!(of_batch.iter().all(|entry| entry.outcome == Outcome::Completed), "{of_batch:?}");
    let charged: u64 =
        of_batch.iter().map(|entry| entry.counts.input_tokens + entry.counts.output_tokens).sum();
    assert_eq!(charged, told, "what the answers tell is what is billed");
}

fn ledger(data: &Path) -> Vec<Entry> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = Store::open(Layout::new(data), Timestamp::now()).await.unwrap();
        let span = (Timestamp::from_millis(0), Timestamp::from_millis(i64::MAX));
        entries::list(&store, "default", span, "", 10_000).await.unwrap()
    })
}

fn tokens(usage: &Value) -> u64 {
    usage["total_tokens"].as_u64().unwrap()
}
