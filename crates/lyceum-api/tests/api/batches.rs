//! `/v1/batches`: every line answered once and billed once, whatever happens in between.

use crate::client::{Answer, Client};
use crate::files::form;
use crate::house::House;
use crate::openai;
use lyceum_engine::EngineLimits;
use lyceum_store::batches;
use lyceum_store::ledger::{Class, Entry, Outcome, entries};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{BatchId, Project};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

const BOUNDARY: &str = "9a4e1c7d20b85f36";

/// Brings a file for `purpose`.
pub async fn bring(client: &Client, purpose: &str, name: &str, bytes: &[u8]) -> Answer {
    let kind = format!("multipart/form-data; boundary={BOUNDARY}");
    let body = form(BOUNDARY, &[("purpose", None, purpose.as_bytes()), ("file", Some(name), bytes)]);
    client.send("POST", "/v1/files", &[("content-type", kind.as_str())], body).await
}

pub fn line(id: &str, url: &str, body: &Value) -> String {
    json!({"custom_id": id, "method": "POST", "url": url, "body": body}).to_string()
}

/// Completions `line-0`, `line-1`, … of 12 tokens.
pub fn poems(n: usize) -> String {
    let body =
        |i: usize| json!({"model": "poet", "prompt": "abc", "max_tokens": 12, "seed": i, "ignore_eos": true});
    (0..n).map(|i| line(&format!("line-{i}"), "/v1/completions", &body(i)) + "\n").collect()
}

async fn input(client: &Client, text: &str) -> String {
    let answer = bring(client, "batch", "batch.jsonl", text.as_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["id"].as_str().unwrap().to_owned()
}

pub async fn begin(client: &Client, text: &str, endpoint: &str) -> String {
    let file = input(client, text).await;
    let body = json!({"input_file_id": file, "endpoint": endpoint, "completion_window": "24h"});
    let answer = client.post("/v1/batches", &body).await;
    assert_eq!(
        (answer.status, answer.json()["status"].as_str()),
        (200, Some("validating")),
        "{}",
        answer.text()
    );
    answer.json()["id"].as_str().unwrap().to_owned()
}

/// The batch when `is_there` holds.
pub async fn wait(client: &Client, id: &str, is_there: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..600 {
        let batch = client.get(&format!("/v1/batches/{id}")).await.json();
        if is_there(&batch) {
            return batch;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{}", client.get(&format!("/v1/batches/{id}")).await.text());
}

pub async fn ended(client: &Client, id: &str) -> Value {
    let over = ["completed", "failed", "expired", "cancelled"];
    wait(client, id, |batch| over.contains(&batch["status"].as_str().unwrap())).await
}

/// A batch of these lines, when it has ended.
pub async fn answered(client: &Client, text: &str, endpoint: &str) -> Value {
    let id = begin(client, text, endpoint).await;
    ended(client, &id).await
}

/// The lines of a file that a batch made.
pub async fn lines(client: &Client, file: &Value) -> Vec<Value> {
    let Some(id) = file.as_str() else { return Vec::new() };
    let about = client.get(&format!("/v1/files/{id}")).await.json();
    assert_eq!(about["purpose"], "batch_output", "{about}");
    assert_eq!(about["expires_at"].as_i64().unwrap() - about["created_at"].as_i64().unwrap(), 30 * 86_400);
    let content = client.get(&format!("/v1/files/{id}/content")).await;
    content.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub fn ids(lines: &[Value]) -> BTreeSet<String> {
    let ids: BTreeSet<String> =
        lines.iter().map(|line| line["custom_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), lines.len(), "a line has one answer");
    ids
}

pub async fn billed(house: &House) -> Vec<Entry> {
    let span = (Timestamp::from_millis(0), Timestamp::from_millis(i64::MAX));
    for _ in 0..200 {
        if house.service.ledger().n_pending() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let all = entries::list(house.service.store(), "default", span, "", 10_000).await.unwrap();
    all.into_iter().filter(|entry| entry.request.class == Class::Batch).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_answered_as_their_route_answers_them_and_billed_as_batch() {
    let house = House::new().await;
    house.publish_poet("poet").await;
    let client = &house.client;
    let url = "/v1/completions";
    let good = json!({"model": "poet", "prompt": "abc", "max_tokens": 5, "seed": 3, "logprobs": 1});
    let wrong = json!({"model": "poet", "prompt": "abc", "temperature": 99});
    let text = [line("a \"quoted\" one", url, &good), line("wrong", url, &wrong), line("again", url, &good)]
        .join("\n");
    let file = input(client, &text).await;
    let metadata = json!({"of": "a test"});
    let asked =
        json!({"input_file_id": file, "endpoint": url, "completion_window": "24h", "metadata": metadata});
    let created = client.post("/v1/batches", &asked).await.json();
    let id = created["id"].as_str().unwrap();
    assert!(id.starts_with("batch_") && created["object"] == "batch" && created["output_file_id"].is_null());
    assert_eq!(created["expires_at"].as_i64().unwrap() - created["created_at"].as_i64().unwrap(), 86_400);
    let batch = ended(client, id).await;
    assert_eq!((&batch["status"], &batch["metadata"]), (&json!("completed"), &metadata), "{batch}");
    assert_eq!(batch["request_counts"], json!({"total": 3, "completed": 2, "failed": 1}));
    assert_eq!((&batch["model"], &batch["errors"]), (&json!("poet"), &Value::Null));
    for at in ["in_progress_at", "finalizing_at", "completed_at"] {
        assert!(batch[at].is_i64(), "{batch}");
    }
    let (output, errors) =
        (lines(client, &batch["output_file_id"]).await, lines(client, &batch["error_file_id"]).await);
    assert_eq!(ids(&output), ["a \"quoted\" one", "again"].map(str::to_owned).into());
    assert_eq!(ids(&errors), ["wrong".to_owned()].into());
    let alone = client.post(url, &good).await.json();
    for line in &output {
        assert!(line["id"].as_str().unwrap().starts_with("batch_req_") && line["error"].is_null());
        let response = &line["response"];
        assert_eq!(response["status_code"], 200);
        assert_eq!(response["body"]["choices"], alone["choices"]);
        assert_eq!(response["body"]["usage"]["total_tokens"], alone["usage"]["total_tokens"]);
        assert!(response["request_id"].as_str().unwrap().starts_with("req_"));
    }
    assert_eq!(errors[0]["response"]["status_code"], 400);
    assert_eq!(errors[0]["response"]["body"]["error"]["param"], "temperature");
    let tokens = alone["usage"]["total_tokens"].as_u64().unwrap();
    assert_eq!(batch["usage"]["total_tokens"].as_u64().unwrap(), 2 * tokens);
    let billed = billed(&house).await;
    let of_ledger: BTreeSet<&str> = billed.iter().map(|entry| entry.request.id.as_str()).collect();
    let of_output = output.iter().map(|line| line["response"]["request_id"].as_str().unwrap()).collect();
    assert_eq!(of_ledger, of_output);
    for entry in &billed {
        assert_eq!((entry.request.route.as_str(), entry.outcome), (url, Outcome::Completed));
        assert_eq!(entry.counts.input_tokens + entry.counts.output_tokens, tokens);
    }
    assert_eq!(house.service.ledger().figures().delta_tokens, 0);
    // A page, and what was made is listed as files.
    let other = begin(client, &poems(1), url).await;
    ended(client, &other).await;
    let page = client.get("/v1/batches?limit=1").await.json();
    assert_eq!((&page["data"][0]["id"], &page["has_more"]), (&json!(other), &json!(true)));
    let page = client.get(&format!("/v1/batches?after={other}")).await.json();
    assert_eq!((&page["first_id"], &page["has_more"]), (&json!(id), &json!(false)));
    let made = client.get("/v1/files?purpose=batch_output").await.json();
    assert_eq!(made["data"].as_array().unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_file_fails_its_batch_line_by_line() {
    let house = House::new().await;
    house.publish_poet("poet").await;
    let client = &house.client;
    let body = |model: &str| json!({"model": model, "prompt": "abc"});
    let text = format!(
        "{}\n{}\n",
        line("a", "/v1/completions", &body("poet")),
        line("b", "/v1/completions", &body("nobody"))
    );
    let id = begin(client, &text, "/v1/completions").await;
    let batch = ended(client, &id).await;
    assert_eq!(batch["status"], "failed");
    assert!(batch["failed_at"].is_i64() && batch["in_progress_at"].is_null());
    let errors = &batch["errors"];
    assert_eq!((&errors["object"], errors["data"].as_array().unwrap().len()), (&json!("list"), 1));
    assert_eq!(
        (&errors["data"][0]["line"], &errors["data"][0]["code"]),
        (&json!(2), &json!("model_not_found"))
    );
    assert_eq!(errors["data"][0]["param"], "/body/model");
    let id = begin(client, &text, "/v1/embeddings").await;
    let batch = ended(client, &id).await;
    let told: Vec<(&Value, &Value)> =
        batch["errors"]["data"].as_array().unwrap().iter().map(|e| (&e["line"], &e["code"])).collect();
    assert_eq!(told, [(&json!(1), &json!("mismatched_url")), (&json!(2), &json!("mismatched_url"))]);
    assert!(billed(&house).await.is_empty());

    let file = input(client, &text).await;
    let refused = async |more: Value, status: u16| {
        let mut body =
            json!({"input_file_id": file, "endpoint": "/v1/completions", "completion_window": "24h"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        client.post("/v1/batches", &body).await.refused(status)
    };
    let named = |(param, code): (String, String), expected: (&str, &str)| {
        assert_eq!((param.as_str(), code.as_str()), expected);
    };
    named(refused(json!({"endpoint": "/v1/moderations"}), 501).await, ("endpoint", "not_implemented"));
    named(refused(json!({"endpoint": "/v1/rerank"}), 400).await, ("endpoint", "invalid_value"));
    named(refused(json!({"completion_window": "1h"}), 400).await, ("completion_window", "invalid_value"));
    named(refused(json!({"input_file_id": "file_0"}), 400).await, ("input_file_id", "file_not_found"));
    let table = crate::files::bring(client, "rows.csv", b"a,b\n1,2\n").await;
    named(refused(json!({"input_file_id": table}), 400).await, ("input_file_id", "invalid_purpose"));
    let after = json!({"output_expires_after": {"anchor": "created_at", "seconds": 5}});
    named(refused(after, 400).await, ("output_expires_after.seconds", "invalid_value"));
    assert_eq!(client.get("/v1/batches/batch_0").await.status, 404);
    assert_eq!(
        client.post(&format!("/v1/batches/{id}/cancel"), &json!({})).await.refused(409).1,
        "batch_over"
    );
}

/// Holds the device until it is dropped.
pub fn hold(house: &House) -> std::sync::mpsc::Sender<()> {
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (holds, held) = std::sync::mpsc::channel();
    let work = move || {
        holds.send(()).unwrap();
        let _ = released.recv();
    };
    house.service.engine().with_device(work).unwrap();
    held.recv().unwrap();
    release
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_cancelled_gives_what_is_answered_and_names_the_rest() {
    let house = House::new().await;
    house.publish_poet("poet").await;
    let client = &house.client;
    // Loaded, so that the lines under way wait for the device alone.
    client.post("/v1/completions", &json!({"model": "poet", "prompt": "a"})).await;
    let held = hold(&house);
    let id = begin(client, &poems(100), "/v1/completions").await;
    wait(client, &id, |batch| batch["status"] == "in_progress").await;
    while house.service.engine().load().sequences < 16 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let cancelling = client.post(&format!("/v1/batches/{id}/cancel"), &json!({})).await.json();
    assert_eq!((&cancelling["status"], cancelling["cancelling_at"].is_i64()), (&json!("cancelling"), true));
    // It is seen within a second; then no further line is begun.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    drop(held);
    let batch = ended(client, &id).await;
    assert_eq!(batch["status"], "cancelled");
    assert!(batch["cancelled_at"].is_i64() && batch["completed_at"].is_null());
    assert_eq!(batch["request_counts"], json!({"total": 100, "completed": 16, "failed": 0}));
    let (output, errors) =
        (lines(client, &batch["output_file_id"]).await, lines(client, &batch["error_file_id"]).await);
    assert_eq!((ids(&output).len(), ids(&errors).len()), (16, 84));
    for line in &errors {
        assert_eq!((&line["response"], &line["error"]["code"]), (&Value::Null, &json!("batch_cancelled")));
    }
    assert_eq!(billed(&house).await.len(), 16);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_goes_on_in_the_next_process_and_no_line_is_paid_twice() {
    let mut house = House::with(EngineLimits::default()).await;
    house.publish_poet("poet").await;
    let n = 400;
    let id = begin(&house.client, &poems(n), "/v1/completions").await;
    for restart in 0..3 {
        let least = 20 * (restart + 1);
        let path = house.dir.path().join(format!("batches/{id}/done.jsonl"));
        while std::fs::read_to_string(&path).map_or(0, |text| text.lines().count()) < least {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        house = house.again().await;
    }
    let client = &house.client;
    let batch = ended(client, &id).await;
    assert_eq!(batch["status"], "completed");
    assert_eq!(batch["request_counts"], json!({"total": n, "completed": n, "failed": 0}));
    let output = lines(client, &batch["output_file_id"]).await;
    assert_eq!(ids(&output), (0..n).map(|i| format!("line-{i}")).collect());
    let billed = billed(&house).await;
    let requests: BTreeSet<&str> = billed.iter().map(|entry| entry.request.id.as_str()).collect();
    assert_eq!(requests.len(), n, "one entry a line");
    assert_eq!(billed.len(), n);
    assert!(
        billed.iter().all(|entry| entry.outcome == Outcome::Completed && entry.counts.output_tokens == 12)
    );
    // Its end is told first.
    while house.dir.path().join(format!("batches/{id}")).exists() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_whose_answer_was_lost_is_asked_again_and_not_paid_again() {
    let house = House::new().await;
    house.publish_poet("poet").await;
    let held = hold(&house);
    let id = begin(&house.client, &poems(8), "/v1/completions").await;
    wait(&house.client, &id, |batch| batch["status"] == "in_progress").await;
    let dir = house.die().await;
    drop(held);
    // There is not room for all lines at once: some are asked again.
    let prefix = format!("req_{}-", id.trim_start_matches("batch_"));
    let house = House::over(dir, EngineLimits { sequences_max: 6, ..EngineLimits::default() }).await;
    let project = Project::default_project();
    ended(&house.client, &id).await;
    let first = billed(&house).await;
    assert_eq!(first.len(), 8);
    // The same batch again, as it stands where a process died behind the ledger and before its answers.
    let batch_id: BatchId = id.parse().unwrap();
    let store = house.service.store();
    let mut row = batches::find(store, &project, &batch_id).await.unwrap();
    let mut document: Value = serde_json::from_str(&row.document).unwrap();
    for field in ["output_file_id", "error_file_id", "ends_as", "completed_at", "finalizing_at"] {
        document[field] = Value::Null;
    }
    document["status"] = "in_progress".into();
    (row.status, row.document) = ("in_progress".into(), document.to_string());
    let file = std::fs::read_dir(house.dir.path().join("files")).unwrap().flatten();
    let input = file.map(|dir| dir.path().join("batch.jsonl")).find(|path| path.exists()).unwrap();
    batches::keep_input(store, &project, &batch_id, &input).unwrap();
    assert!(batches::replace(store, &row, "completed").await.unwrap());
    let batch = ended(&house.client, &id).await;
    assert_eq!(batch["request_counts"], json!({"total": 8, "completed": 8, "failed": 0}));
    assert_eq!(lines(&house.client, &batch["output_file_id"]).await.len(), 8);
    let again = billed(&house).await;
    assert_eq!(again, first, "the work was done twice and is paid for once");
    assert!(again.iter().all(|entry| entry.request.id.starts_with(&prefix)));
    assert_eq!(house.service.ledger().figures().delta_tokens, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_answered_within_the_window_expires() {
    let house = House::new().await;
    house.publish_poet("poet").await;
    let held = hold(&house);
    let id = begin(&house.client, &poems(3), "/v1/completions").await;
    wait(&house.client, &id, |batch| batch["status"] == "in_progress").await;
    let dir = house.die().await;
    let store =
        lyceum_store::Store::open(lyceum_store::Layout::new(dir.path()), Timestamp::now()).await.unwrap();
    let project = Project::default_project();
    let mut row = batches::find(&store, &project, &id.parse().unwrap()).await.unwrap();
    let mut document: Value = serde_json::from_str(&row.document).unwrap();
    document["expires_at"] = 1.into();
    row.document = document.to_string();
    assert!(batches::replace(&store, &row, "in_progress").await.unwrap());
    drop(store);
    let house = House::over(dir, EngineLimits::default()).await;
    let batch = ended(&house.client, &id).await;
    assert_eq!((&batch["status"], batch["expired_at"].is_i64()), (&json!("expired"), true));
    assert!(batch["output_file_id"].is_null());
    let errors = lines(&house.client, &batch["error_file_id"]).await;
    assert_eq!(ids(&errors).len(), 3);
    // What the dead process began must not be answered meanwhile.
    drop(held);
    assert!(errors.iter().all(|line| line["error"]["code"] == "batch_expired"));
    assert!(billed(&house).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_batch_a_key_and_nothing_where_nothing_is_kept() {
    let house = House::new().await;
    house.publish_poet("poet").await;
    let client = &house.client;
    let file = input(client, &poems(1)).await;
    let body =
        json!({"input_file_id": file, "endpoint": "/v1/completions", "completion_window": "24h"}).to_string();
    let ask = || client.send("POST", "/v1/batches", &[("idempotency-key", "once")], &body);
    let (first, second) = (ask().await, ask().await);
    assert_eq!((first.status, &first.body), (200, &second.body));
    let id = first.json()["id"].as_str().unwrap().to_owned();
    ended(client, &id).await;
    assert_eq!(client.get("/v1/batches").await.json()["data"].as_array().unwrap().len(), 1);
    // Another project sees nothing of it.
    let (_, admin) = house.admin("default", &[lyceum_types::ids::KeyScope::OrganizationWrite], None).await;
    let project = admin.post("/v1/organization/projects", &json!({"name": "other"})).await.json();
    let of_project = format!("/v1/organization/projects/{}", project["id"].as_str().unwrap());
    let account = admin.post(&format!("{of_project}/service_accounts"), &json!({"name": "bot"})).await.json();
    let other =
        Client { key: Some(account["api_key"]["value"].as_str().unwrap().to_owned()), ..client.clone() };
    assert_eq!(other.get(&format!("/v1/batches/{id}")).await.status, 404);
    assert_eq!(other.post(&format!("/v1/batches/{id}/cancel"), &json!({})).await.status, 404);
    assert_eq!(other.get("/v1/batches").await.json()["data"], json!([]));
    let stolen = other.post("/v1/batches", &serde_json::from_str(&body).unwrap()).await;
    assert_eq!(stolen.refused(400).1, "file_not_found");
    let none = json!({"retention_type": "zero_data_retention"});
    assert_eq!(admin.post(&format!("{of_project}/data_retention"), &none).await.status, 200);
    let refused = other.post("/v1/batches", &serde_json::from_str(&body).unwrap()).await.refused(400);
    assert_eq!(refused, ("input_file_id".into(), "zero_data_retention".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_openai_package_brings_files_and_asks_batches() {
    let house = House::new().await;
    house.publish_poet("poet").await;
    if let Some(said) = openai::run("files_and_batches.py", "uploads", &house.client, "poet").await {
        assert!(said.starts_with("asked "), "{said}");
    }
}
