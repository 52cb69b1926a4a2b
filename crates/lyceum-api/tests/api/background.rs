//! Runs of the background: cancelled, interrupted, bounded; others are served meanwhile.

use crate::house::{House, labels, table, text};
use crate::robustness::finished;
use lyceum_types::limits;
use serde_json::{Value, json};
use std::time::Duration;

/// A run that nobody waits for to end: as many samples as a row may have.
fn endless() -> Value {
    json!({"model": "table", "instances": [[0.1, 0.2]], "labels": ["no"],
        "suite": [{"type": "smoothing", "sigma": 0.25, "n": 1_000_000}, {"type": "smoothing", "sigma": 0.5, "n": 1_000_000},
            {"type": "smoothing", "sigma": 1.0, "n": 1_000_000}]})
}

async fn house() -> House {
    let house = House::new().await;
    let mlp = "family = \"mlp\"\nhidden = [64, 64]";
    house.publish("table", "classification", mlp, table(labels(&["no", "yes"]))).await;
    let lstm = "family = \"lstm\"\nhead = \"last\"\nhidden_size = 5\nembedding_dim = 3";
    house.publish("text", "classification", lstm, text(labels(&["no", "yes"]))).await;
    house
}

async fn status(house: &House, path: &str) -> String {
    house.client.get(path).await.json()["status"].as_str().unwrap().to_owned()
}

async fn until(house: &House, path: &str, wanted: &str) {
    for _ in 0..4000 {
        if status(house, path).await == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{path} never was {wanted}");
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_wait_are_cancelled_and_leave_the_device_to_others() {
    let house = house().await;
    let mut paths = Vec::new();
    for _ in 0..limits::BACKGROUND_RUNS_AT_ONCE + 1 {
        let run = house.client.post("/v1/robustness/runs", &endless()).await.json();
        paths.push(format!("/v1/robustness/runs/{}", run["id"].as_str().unwrap()));
    }
    for path in &paths[..limits::BACKGROUND_RUNS_AT_ONCE] {
        until(&house, path, "in_progress").await;
    }
    let last = paths.last().unwrap();
    assert_eq!(status(&house, last).await, "queued", "there are so many places and no more");
    for _ in 0..20 {
        let body = json!({"instances": [[1, 2]]});
        assert_eq!(house.client.post("/v1/models/table:predict", &body).await.status, 200);
    }
    assert_eq!(status(&house, &paths[0]).await, "in_progress", "answers come between its passes");
    assert_eq!(house.client.get(&format!("{}/failures", paths[0])).await.refused(404).1, "not_found");
    for path in paths.iter().rev() {
        let ended = house.client.post(&format!("{path}/cancel"), &json!({})).await.json();
        assert_eq!((&ended["status"], &ended["results"]), (&json!("cancelled"), &Value::Null), "{ended}");
        assert!(ended["finished_at"].is_number());
        let again = house.client.post(&format!("{path}/cancel"), &json!({})).await.json();
        assert_eq!(again, ended, "a run ends once");
    }
    let few = json!({"model": "table", "instances": [[0.1, 0.2]], "labels": ["no"]});
    let run = house.client.post("/v1/robustness/runs", &few).await.json();
    assert_eq!(finished(&house, &run).await["status"], "completed", "its place is free again");
    assert_eq!(house.client.get("/v1/robustness/runs").await.json()["data"].as_array().unwrap().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_runs_are_refused_and_a_crash_is_told() {
    let house = house().await;
    let mut ids = Vec::new();
    for _ in 0..limits::BACKGROUND_RUNS_MAX {
        let run = house.client.post("/v1/robustness/runs", &endless()).await.json();
        ids.push(run["id"].as_str().unwrap().to_owned());
    }
    let refused = house.client.post("/v1/robustness/runs", &endless()).await;
    assert_eq!(refused.refused(429).1, "overloaded");
    until(&house, &format!("/v1/robustness/runs/{}", ids[0]), "in_progress").await;
    // What a process leaves that dies: documents that say `queued` and `in_progress`, and no lock.
    let folder = house.dir.path().join("runs");
    let copy = |id: &str, to: &str| {
        let text = std::fs::read_to_string(folder.join(format!("{id}.json"))).unwrap();
        std::fs::write(folder.join(format!("{to}.json")), text.replace(id, to)).unwrap();
    };
    let (begun, waiting) = (format!("rob_{}", "0".repeat(32)), format!("rob_{}", "1".repeat(32)));
    copy(&ids[0], &begun);
    copy(ids.last().unwrap(), &waiting);
    for id in [&begun, &waiting] {
        let run = house.client.get(&format!("/v1/robustness/runs/{id}")).await.json();
        assert_eq!(
            (&run["status"], &run["error"]["code"]),
            (&json!("failed"), &json!("interrupted")),
            "{run}"
        );
    }
    let run = house.client.get(&format!("/v1/robustness/runs/{}", ids[0])).await.json();
    assert_eq!(run["status"], "in_progress", "one that is worked on is not called so");
    for id in ids.iter().rev() {
        house.client.post(&format!("/v1/robustness/runs/{id}/cancel"), &json!({})).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_explanation_of_the_background_is_the_one_of_the_foreground() {
    let house = house().await;
    let mut body =
        json!({"model": "text", "input": "good work", "method": "integrated_gradients", "seed": 4});
    let now = house.client.post("/v1/explanations", &body).await.json();
    body["background"] = json!(true);
    let queued = house.client.post("/v1/explanations", &body).await.json();
    assert_eq!((&queued["object"], &queued["status"]), (&json!("explanation"), &json!("queued")), "{queued}");
    assert!(queued.get("attributions").is_none(), "{queued}");
    let path = format!("/v1/explanations/{}", queued["id"].as_str().unwrap());
    until(&house, &path, "completed").await;
    let later = house.client.get(&path).await.json();
    for field in
        ["method", "target", "output", "attributions", "checks", "baseline", "usage", "explained_model"]
    {
        assert_eq!(later[field], now[field], "{field}");
    }
    let house = house.again().await;
    assert_eq!(house.client.get(&path).await.json(), later, "it is kept on disk");

    for (field, value, param) in [
        ("method", json!("linear_shap"), "method"),
        ("model", json!("nobody"), "model"),
        ("granularity", json!("patch:2"), "granularity"),
    ] {
        let mut wrong = body.clone();
        wrong[field] = value;
        let answer = house.client.post("/v1/explanations", &wrong).await;
        assert_eq!(answer.refused(answer.status).0, param, "what cannot be is refused at once");
    }
    let mut slow = body.clone();
    for (field, value) in [
        ("method", json!("shapley_sampling")),
        ("granularity", json!("token")),
        ("n_permutations", json!(6000)),
        ("max_passes", json!(65_536)),
        ("baseline", json!({"type": "zeros"})),
    ] {
        slow[field] = value;
    }
    let queued = house.client.post("/v1/explanations", &slow).await.json();
    let path = format!("/v1/explanations/{}", queued["id"].as_str().unwrap_or_else(|| panic!("{queued}")));
    let ended = house.client.post(&format!("{path}/cancel"), &json!({})).await.json();
    assert_eq!(ended["status"], "cancelled", "{ended}");
}
