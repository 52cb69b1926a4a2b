//! Choices over HTTP, made by the server's worker: the winner is served, a stopped server's choice begins anew, a
//! running one can be cancelled, and `choose` and `jobs` tell the same story at the command line.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "tests say what they expect by unwrapping")]

#[path = "program/client.rs"]
mod client;

use client::Client;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

struct Server {
    process: Child,
    client: Client,
    /// Held: a server that cannot write its lines ends.
    _stdout: BufReader<ChildStdout>,
}

fn lyceum(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lyceum"));
    command.current_dir(folder).args(arguments).env("LYCEUM_DATA_DIR", folder.join("data"));
    command.env("LYCEUM_THREADS", "1").env("LYCEUM_CONFIG", folder.join("none.toml")).env("NO_COLOR", "1");
    command
}

impl Server {
    /// `key`: none at the first start, which prints one.
    fn start(folder: &Path, key: Option<String>) -> Self {
        let mut command = lyceum(folder, &["serve", "--port", "0", "--json"]);
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let line: Value = serde_json::from_str(&line).unwrap();
        let address = line["url"].as_str().unwrap().trim_start_matches("http://").to_owned();
        let key = key.unwrap_or_else(|| line["key"].as_str().unwrap().to_owned());
        Self { process, client: Client { address, key }, _stdout: stdout }
    }

    /// Asks for a selection until `done` says so.
    #[track_caller]
    fn wait(&self, id: &str, done: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let found = self.get(&format!("/v1/model_selections/{id}"));
            if done(&found) {
                return found;
            }
            assert!(begun.elapsed() < Duration::from_secs(120), "{found}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn interrupt(mut self) -> String {
        assert!(
            Command::new("kill").args(["-INT", &self.process.id().to_string()]).status().unwrap().success()
        );
        self.process.wait().unwrap();
        std::mem::take(&mut self.client.key)
    }
}

impl std::ops::Deref for Server {
    type Target = Client;
    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-INT", &self.process.id().to_string()]).status();
        let _ = self.process.wait();
    }
}

/// A line parts these rows.
fn rows(n: usize) -> String {
    let row = |i: usize| {
        let (a, b) = ((i * 37 % 101) as f64 / 50.0 - 1.0, (i * 53 % 97) as f64 / 48.0 - 1.0);
        format!("{a},{b},{}\n", if a + b > 0.0 { "up" } else { "down" })
    };
    format!("a,b,label\n{}", (0..n).map(row).collect::<String>())
}

#[test]
fn a_choice_over_http_is_made_served_cancelled_and_outlives_its_server() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), None);
    let (train, test) =
        (server.bring("user_data", "rows.csv", &rows(300)), server.bring("user_data", "test.csv", &rows(40)));
    let body = |name: &str, epochs: usize, minutes: f64| {
        json!({
            "name": name, "task": "classification", "seeds": 2, "concurrency": 2,
            "data": { "train": train, "test": test, "target": "label", "valid_fraction": 0.3 },
            "candidates": [{ "family": "mlp", "hidden": [] }, { "family": "mlp", "hidden": [8] }],
            "train": { "epochs": epochs, "batch_size": 16, "optimizer": { "name": "adam", "lr": 0.02 } },
            "budget": { "minutes": minutes },
        })
    };
    let asked = server.post("/v1/model_selections", &body("side", 10, 0.5));
    let id = asked["id"].as_str().unwrap().to_owned();
    let found = server.wait(&id, |found| found["status"] == "done" || found["status"] == "failed");
    assert_eq!(found["recommendation"]["model"], "side@1", "{found}");
    assert_eq!(found["test"]["metrics"]["test_accuracy"]["n"], 40);
    let bill = &found["bill"];
    let (seconds, most) = (bill["cpu_seconds"].as_u64().unwrap(), bill["cpu_seconds_max"].as_u64().unwrap());
    assert!(most == 30 && (1..=30).contains(&seconds), "{bill}");
    let answer = server.post("/v1/models/side:predict", &json!({ "instances": [{ "a": 0.9, "b": 0.9 }] }));
    assert_eq!(answer["predictions"][0]["label"], "up");

    // Long enough to be stopped in its middle; the next server begins it anew.
    let asked = server.post("/v1/model_selections", &body("long", 100_000, 5.0));
    let long = asked["id"].as_str().unwrap().to_owned();
    server.wait(&long, |found| found["status"] == "running");
    let key = server.interrupt();
    let job = long.replace("sel_", "job_");
    let listed = lyceum(folder.path(), &["jobs", "ls", "--json"]).output().unwrap();
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let row = listed["jobs"].as_array().unwrap().iter().find(|row| row["id"] == job).unwrap().clone();
    assert_eq!((&row["kind"], &row["status"]), (&json!("choose"), &json!("interrupted")), "{row}");
    let server = Server::start(folder.path(), Some(key));
    server.wait(&long, |found| found["status"] == "running" && found["attempt"] == 2);
    server.post(&format!("/v1/model_selections/{long}/cancel"), &json!({}));
    let ended = server.wait(&long, |found| found["status"] == "cancelled");
    assert_eq!(ended["error"]["message"], "cancelled");

    // Data that cannot be read is told, and the choice before it can be asked for again at the command line.
    let mut wrong = body("wrong", 1, 0.5);
    wrong["data"]["target"] = json!("nothing");
    let asked = server.post("/v1/model_selections", &wrong);
    let failed = server.wait(asked["id"].as_str().unwrap(), |found| found["status"] == "failed");
    assert!(failed["error"]["message"].as_str().unwrap().contains("nothing"), "{failed}");
    let again =
        lyceum(folder.path(), &["jobs", "resume", &id.replace("sel_", "job_"), "--json"]).output().unwrap();
    let again: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(again["recommendation"], found["recommendation"]);
}
