//! Choices over HTTP, made by the server's worker: the winner is served, a stopped server's choice begins anew, a
//! running one can be cancelled, and `choose` and `jobs` tell the same story at the command line.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "tests say what they expect by unwrapping")]

mod program;

use program::server::{SERVE, Server};
use program::{command, points};
use serde_json::{Value, json};
use std::path::Path;

fn serve(folder: &Path, key: Option<String>) -> Server {
    Server::start(command(folder, &SERVE), key)
}

/// The selection when `done` says so.
#[track_caller]
fn wait(server: &Server, id: &str, done: impl Fn(&Value) -> bool) -> Value {
    server.wait(&format!("/v1/model_selections/{id}"), done)
}

/// A line parts these rows.
fn rows(n: usize) -> String {
    points(n, ["a", "b"], |a, b| if a + b > 0.0 { "up" } else { "down" })
}

#[test]
fn a_choice_over_http_is_made_served_cancelled_and_outlives_its_server() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path(), None);
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
    let found = wait(&server, &id, |found| found["status"] == "done" || found["status"] == "failed");
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
    wait(&server, &long, |found| found["status"] == "running");
    let key = server.end("-INT");
    let job = long.replace("sel_", "job_");
    let listed = command(folder.path(), &["jobs", "ls", "--json"]).output().unwrap();
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let row = listed["jobs"].as_array().unwrap().iter().find(|row| row["id"] == job).unwrap().clone();
    assert_eq!((&row["kind"], &row["status"]), (&json!("choose"), &json!("interrupted")), "{row}");
    let server = serve(folder.path(), Some(key));
    wait(&server, &long, |found| found["status"] == "running" && found["attempt"] == 2);
    server.post(&format!("/v1/model_selections/{long}/cancel"), &json!({}));
    let ended = wait(&server, &long, |found| found["status"] == "cancelled");
    assert_eq!(ended["error"]["message"], "cancelled");

    // Data that cannot be read is told, and the choice before it can be asked for again at the command line.
    let mut wrong = body("wrong", 1, 0.5);
    wrong["data"]["target"] = json!("nothing");
    let asked = server.post("/v1/model_selections", &wrong);
    let failed = wait(&server, asked["id"].as_str().unwrap(), |found| found["status"] == "failed");
    assert!(failed["error"]["message"].as_str().unwrap().contains("nothing"), "{failed}");
    let again =
        command(folder.path(), &["jobs", "resume", &id.replace("sel_", "job_"), "--json"]).output().unwrap();
    let again: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(again["recommendation"], found["recommendation"]);
}
