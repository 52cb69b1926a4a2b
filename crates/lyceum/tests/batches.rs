//! `kill -9` of a server in the middle of a batch, three times: every line has one answer and one entry in the ledger.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping")]

mod program;

use lyceum_store::ledger::{Class, Entry, Outcome, entries};
use lyceum_store::{Layout, Store};
use lyceum_types::clock::Timestamp;
use program::client::Client;
use program::server::{SERVE, Server};
use program::{command, lyceum};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

const LINES: usize = 300;

fn begin(client: &Client) -> String {
    let line = |i: usize| {
        let body = json!({"model": "poet", "prompt": "ab", "max_tokens": 16, "ignore_eos": true, "seed": i});
        json!({"custom_id": format!("line-{i}"), "method": "POST", "url": "/v1/completions", "body": body})
            .to_string()
    };
    let text: Vec<String> = (0..LINES).map(line).collect();
    let file = client.bring("batch", "batch.jsonl", &text.join("\n"));
    let body = json!({"input_file_id": file, "endpoint": "/v1/completions", "completion_window": "24h"});
    client.post("/v1/batches", &body)["id"].as_str().unwrap().to_owned()
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
    program::done(&lyceum(folder, &["train", "spec.toml"]));

    let serve = |key: Option<String>| Server::start(command(folder, &SERVE), key);
    let mut server = serve(None);
    let id = begin(&server);
    let path = folder.join(format!("data/batches/{id}/done.jsonl"));
    for kill in 1..=3 {
        while std::fs::read_to_string(&path).map_or(0, |text| text.lines().count()) < kill * 40 {
            std::thread::sleep(Duration::from_micros(200));
        }
        let key = server.end("-9");
        assert!(path.exists(), "it was killed before the batch ended");
        server = serve(Some(key));
    }
    let batch = server.wait(&format!("/v1/batches/{id}"), |batch| batch["status"] == "completed");
    assert_eq!(batch["request_counts"], json!({"total": LINES, "completed": LINES, "failed": 0}));
    let output = batch["output_file_id"].as_str().unwrap();
    let (_, output) = server.send("GET", &format!("/v1/files/{output}/content"), "application/json", b"");
    let answered: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ids: BTreeSet<&str> = answered.iter().map(|line| line["custom_id"].as_str().unwrap()).collect();
    assert_eq!((answered.len(), ids.len()), (LINES, LINES), "a line is answered once");
    let told: u64 = answered.iter().map(|line| tokens(&line["response"]["body"]["usage"])).sum();
    assert_eq!(told, tokens(&batch["usage"]));

    server.end("-INT");
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
