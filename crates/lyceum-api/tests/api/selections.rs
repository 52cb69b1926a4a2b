//! What choices found, over HTTP, and the queue of those that are asked for. That one is made and its winner served is
//! the binary's test, which has a worker.

use crate::files::bring;
use crate::house::House;
use lyceum_store::jobs::{self, Kind};
use lyceum_store::ledger::Counts;
use lyceum_store::selections;
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{Project, SelectionId};
use lyceum_types::limits;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn kept_choices_are_given() {
    let house = House::new().await;
    assert_eq!(
        house.client.get("/v1/model_selections").await.json(),
        json!({ "object": "list", "data": [] })
    );
    let id = SelectionId::from_bits(7);
    let document = json!({ "id": id.as_str(), "object": "model_selection", "status": "done", "rows": [] });
    let project = Project::default_project();
    selections::save(house.service.store(), &project, &id, document.to_string().as_bytes()).unwrap();
    assert_eq!(house.client.get("/v1/model_selections").await.json()["data"], json!([document]));
    assert_eq!(house.client.get(&format!("/v1/model_selections/{id}")).await.json(), document);
    for unknown in ["sel_00000000000000000000000000000000", "..%2Flyceum.db"] {
        assert_eq!(
            house.client.get(&format!("/v1/model_selections/{unknown}")).await.status,
            404,
            "{unknown}"
        );
    }
    let cancel = house.client.post(&format!("/v1/model_selections/{id}/cancel"), &json!({})).await;
    assert_eq!(cancel.refused(409).1, "selection_over");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_choice_is_paid_by_its_seconds_and_no_more_than_its_minutes() {
    let house = House::new().await;
    let (client, store) = (&house.client, house.service.store());
    crate::ledger::priced(&house).await;
    let file = bring(client, "rows.csv", b"a,label\n1,x\n2,y\n").await;
    let body = json!({
        "name": "chosen", "task": "classification", "data": file, "target": "label", "candidates": "auto",
        "budget": { "minutes": 2 },
    });
    let asked = client.post("/v1/model_selections", &body).await.json();
    let most = asked["bill"]["cpu_seconds_max"].as_u64().unwrap();
    assert!(most >= 120 && most.is_multiple_of(120), "{asked}");
    assert_eq!(asked["bill"]["usd_max"], json!(most as f64 * 6e-6));
    let id: SelectionId = asked["id"].as_str().unwrap().parse().unwrap();
    let (project, now) = (Project::default_project(), Timestamp::now());
    let claim = jobs::claim_waiting(store, &project, &id.job(), "test", now).await.unwrap();
    claim.count(Counts { cpu_seconds: 50, ..Counts::default() });
    selections::save(store, &project, &id, json!({ "id": id.as_str() }).to_string().as_bytes()).unwrap();
    jobs::finish_done_with(store, &claim, "{}", now).await.unwrap();
    let found = client.get(&format!("/v1/model_selections/{id}")).await.json();
    assert_eq!((&found["bill"]["cpu_seconds"], &found["bill"]["usd"]), (&json!(50), &json!(0.0003)));
    let row = &crate::ledger::rows(&house).await[id.job().as_str()];
    assert_eq!((row.cost, row.counts.cpu_seconds, &*row.request.model), (300, 50, "chosen"));
}

#[tokio::test(flavor = "multi_thread")]
async fn language_models_are_named_among_the_candidates() {
    let house = House::new().await;
    crate::language::import_tiny(&house).await;
    house.import_encoder("bert").await;
    let client = &house.client;
    let file = bring(client, "rows.csv", b"text,label\na,x\nb,y\n").await;
    let body = |model: &str| {
        json!({
            "name": "chosen", "task": "classification", "data": file, "target": "label",
            "candidates": [{ "model": model }], "question": { "instructions": "Which?" }, "budget": { "minutes": 1 },
        })
    };
    let asked = client.post("/v1/model_selections", &body("tiny")).await;
    assert_eq!(asked.status, 200, "{}", asked.text());
    assert_eq!(asked.json()["spec"]["imported"][0]["model"], "tiny");
    assert_eq!(client.post("/v1/model_selections", &body("nobody")).await.refused(404).1, "model_not_found");
    assert_eq!(client.post("/v1/model_selections", &body("bert")).await.refused(422).1, "unsupported_model");
    let mut unasked = body("tiny");
    unasked.as_object_mut().unwrap().remove("question");
    assert_eq!(client.post("/v1/model_selections", &unasked).await.refused(400).0, "question");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_choice_waits_and_is_cancelled() {
    let house = House::new().await;
    let client = &house.client;
    let file = bring(client, "rows.csv", b"a,label\n1,x\n2,y\n").await;
    let test = bring(client, "held.tsv", b"a\tlabel\n1\tx\n").await;
    let body = json!({
        "name": "chosen", "task": "classification", "data": file, "target": "label", "candidates": "auto",
        "limits": { "parameters": 100 }, "budget": { "minutes": 1 },
    });
    let asked = client.post("/v1/model_selections", &body).await;
    assert_eq!(asked.status, 200, "{}", asked.text());
    let asked = asked.json();
    assert_eq!(asked["status"], "queued");
    assert_eq!(asked["spec"]["data"]["train"], format!("{file}/rows.csv"));
    assert_eq!(asked["spec"]["data"]["valid_fraction"], 0.25);
    let id = asked["id"].as_str().unwrap();
    assert_eq!(client.get(&format!("/v1/model_selections/{id}")).await.json(), asked);
    let whole = json!({
        "task": "classification", "candidates": [{ "family": "mlp", "hidden": [] }], "budget": { "minutes": 1 },
        "data": { "train": file, "test": test, "target": "label", "folds": 2 },
    });
    let second = client.post("/v1/model_selections", &whole).await.json();
    assert!(second["name"].as_str().unwrap().starts_with("choice-"), "{second}");
    let ids =
        |list: Value| list["data"].as_array().unwrap().iter().map(|s| s["id"].clone()).collect::<Vec<_>>();
    let listed = client.get("/v1/model_selections").await.json();
    assert_eq!(ids(listed), [second["id"].clone(), asked["id"].clone()]);

    let cancelled = client.post(&format!("/v1/model_selections/{id}/cancel"), &json!({})).await.json();
    assert_eq!(cancelled["status"], "cancelled");
    client.post(&format!("/v1/model_selections/{id}/cancel"), &json!({})).await.refused(409);
    // A process that died in the middle: what it left waits for the next one.
    let (store, project) = (house.service.store(), Project::default_project());
    let job = second["id"].as_str().unwrap().parse::<SelectionId>().unwrap().job();
    let claim = jobs::claim_waiting(store, &project, &job, "test", Timestamp::now()).await.unwrap();
    let path = format!("/v1/model_selections/{}", second["id"].as_str().unwrap());
    assert_eq!(client.get(&path).await.json()["status"], "running");
    assert_eq!(client.post(&format!("{path}/cancel"), &json!({})).await.json()["cancel_requested"], true);
    drop(claim);
    let left = client.get(&path).await.json();
    assert_eq!((&left["status"], &left["attempt"]), (&json!("queued"), &json!(1)));
    let next = jobs::next_waiting(store, Kind::Choose, None, Timestamp::now()).await.unwrap().unwrap();
    assert_eq!(next.id, job);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_chosen_is_refused_at_its_field() {
    let house = House::new().await;
    let client = &house.client;
    let file = bring(client, "rows.csv", b"a,label\n1,x\n2,y\n").await;
    let base = json!({
        "task": "classification", "data": file, "target": "label", "candidates": "auto", "budget": { "minutes": 1 },
    });
    let with = |pointer: &str, value: Value| {
        let mut body = base.clone();
        match value {
            Value::Null => drop(body.as_object_mut().unwrap().remove(pointer)),
            value => body[pointer] = value,
        }
        body
    };
    let cases = [
        (with("data", Value::Null), 400, "data"),
        (with("data", json!("file_00000000000000000000000000000000")), 400, "data.train"),
        (with("data", json!("../lyceum.db")), 400, "data.train"),
        (with("data", json!({ "train": file, "test": "/etc/passwd", "folds": 2 })), 400, "data.test"),
        (with("data", json!(7)), 400, "data"),
        (with("data", json!({ "train": file, "target": "label", "folds": 2 })), 400, "target"),
        (with("budget", Value::Null), 400, "budget"),
        (with("budget", json!({ "minutes": 100_000 })), 400, "budget.minutes"),
        (with("candidates", json!([{ "family": "mpl" }])), 400, "candidates[0].family"),
        (with("limits", json!({ "latency": 3 })), 400, "limits.latency"),
        (with("models", json!([])), 400, "models"),
        (with("task", json!("language_modeling")), 501, "task"),
        (with("privacy", json!({ "target_epsilon": 3 })), 501, "privacy"),
    ];
    for (body, status, param) in cases {
        assert_eq!(client.post("/v1/model_selections", &body).await.refused(status).0, param, "{body}");
    }
    assert_eq!(client.get("/v1/model_selections").await.json()["data"], json!([]));
    for _ in 0..limits::SELECTIONS_UNFINISHED_MAX {
        assert_eq!(client.post("/v1/model_selections", &base).await.status, 200);
    }
    client.post("/v1/model_selections", &base).await.refused(429);
}
