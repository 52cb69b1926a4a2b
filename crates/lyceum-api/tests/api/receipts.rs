//! Signed privacy receipts: what they say is what happened, and nobody can change it.

use crate::batches::{self, bring};
use crate::client::{Answer, Client};
use crate::house::House;
use crate::language::import_tiny;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lyceum_engine::EngineLimits;
use lyceum_service::receipts::check;
use lyceum_store::models::shares::{Share, With, share};
use lyceum_store::tenancy::Act;
use lyceum_store::vault::MasterKey;
use lyceum_store::{Layout, Store};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{KeyScope, Project};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const WISH: (&str, &str) = ("x-privacy-receipt", "true");
const EVENT: &str = "event: privacy_receipt\ndata: ";

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub async fn asked(client: &Client, path: &str, body: &Value) -> Answer {
    client.send("POST", path, &[WISH, ("content-type", "application/json")], body.to_string()).await
}

/// The receipt of an answer, whose signature and hashes hold.
#[track_caller]
pub fn receipt(answer: &Answer, body: &Value) -> Value {
    let header = answer.header("x-privacy-receipt");
    let (receipt, said): (Value, &[u8]) = match header {
        Some(header) => {
            (serde_json::from_slice(&STANDARD.decode(header).unwrap()).unwrap(), answer.body.as_slice())
        }
        None => {
            let (said, rest) = answer.text().split_once(EVENT).unwrap_or_else(|| panic!("{}", answer.text()));
            let event: Value = serde_json::from_str(rest.lines().next().unwrap()).unwrap();
            assert_eq!(event["choices"], json!([]), "who reads chunks reads one of no choices");
            (event["privacy_receipt"].clone(), said.as_bytes())
        }
    };
    check(&receipt).unwrap();
    assert_eq!(receipt["request_sha256"], sha256(body.to_string().as_bytes()).as_str());
    assert_eq!(receipt["answer_sha256"], sha256(said).as_str());
    assert_eq!(receipt["answer_bytes"], said.len());
    assert_eq!(receipt["request"], answer.header("x-request-id").unwrap());
    assert_eq!(receipt["status"], answer.status);
    receipt
}

/// What is kept, and where.
fn kept(receipt: &Value) -> Vec<(&str, &str)> {
    let all = receipt["kept"].as_array().unwrap().iter();
    all.map(|kept| (kept["what"].as_str().unwrap(), kept["where"].as_str().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_has_a_receipt_where_it_is_asked_for_and_every_changed_word_breaks_it() {
    let house = House::new().await;
    house.publish_poet("poet").await;
    house.publish_table("flowers").await;
    let body = json!({"model": "poet", "prompt": "abc", "max_tokens": 6, "seed": 1});
    let plain = house.client.post("/v1/completions", &body).await;
    assert_eq!((plain.status, plain.header("x-privacy-receipt")), (200, None));
    let answer = asked(&house.client, "/v1/completions", &body).await;
    assert_eq!(answer.json()["choices"], plain.json()["choices"], "the answer itself is the same");
    let whole = receipt(&answer, &body);
    assert_eq!(whole["models"][0]["model"], "poet@1");
    assert!(whole["models"][0]["private"].is_null() && whole["models"][0]["sha256"].is_string());
    assert_eq!((&whole["retention"], &whole["encrypted"]), (&json!("kept"), &json!(false)));
    assert_eq!(kept(&whole), [("ledger_entry", "database")]);
    assert_eq!(whole["kept"][0]["id"], whole["request"], "the ledger's own id");
    for (field, other) in [
        ("retention", json!("nothing")),
        ("encrypted", json!(true)),
        ("kept", json!([])),
        ("answer_sha256", json!(sha256(b""))),
        ("models", json!([])),
        ("issued_at", json!(1)),
    ] {
        let mut changed = whole.clone();
        changed[field] = other;
        assert!(check(&changed).is_err(), "{field}");
        let told =
            house.client.post("/v1/privacy/receipts/verify", &json!({"receipt": changed})).await.json();
        assert_eq!((&told["holds"], &told["signed_by_this_server"]), (&json!(false), &json!(false)));
    }
    let told = house.client.post("/v1/privacy/receipts/verify", &json!({"receipt": whole})).await.json();
    assert_eq!((&told["holds"], &told["signed_by_this_server"]), (&json!(true), &json!(true)), "{told}");

    // A stream has it before its end, and says the same before it.
    let mut streamed = body.clone();
    streamed["stream"] = json!(true);
    let answer = asked(&house.client, "/v1/completions", &streamed).await;
    assert!(answer.text().ends_with("data: [DONE]\n\n"), "{}", answer.text());
    let of_stream = receipt(&answer, &streamed);
    assert_eq!(of_stream["models"], whole["models"]);
    assert_eq!(kept(&of_stream), [("ledger_entry", "database")]);
    // Refusals have one too; routes that make objects say that they have none.
    let unknown = json!({"model": "nobody", "prompt": "abc"});
    assert_eq!(
        receipt(&asked(&house.client, "/v1/completions", &unknown).await, &unknown)["models"],
        json!([])
    );
    // What is stopped before a model reads it names none.
    crate::guard::set(&house, json!({"input": {"action": "block", "types": ["EMAIL_ADDRESS"]}})).await;
    let blocked = json!({"model": "poet", "prompt": "a@b.de"});
    let answer = asked(&house.client, "/v1/completions", &blocked).await;
    assert_eq!((answer.status, receipt(&answer, &blocked)["models"].clone()), (400, json!([])));
    let refused = asked(&house.client, "/v1/model_selections", &json!({})).await.refused(400);
    assert_eq!(refused.1, "unsupported_parameter");
    let refused = house.client.send("GET", "/v1/batches", &[WISH], "").await.refused(400);
    assert_eq!(refused.1, "unsupported_parameter", "a list has none");
    let refused = house.client.send("POST", "/v1/completions", &[("x-privacy-receipt", "yes")], "{}").await;
    assert_eq!(refused.refused(400).1, "invalid_value");
    // What is explained is kept in memory, and is a piece of work of its own.
    let why = json!({"instances": [[1, 2]]});
    let of_why = receipt(&asked(&house.client, "/v1/models/flowers:explain", &why).await, &why);
    assert!(kept(&of_why).contains(&("explanation", "memory")), "{of_why}");
    assert_eq!(of_why["route"], "/v1/models/{id}:explain");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_and_how_long_is_told_and_zero_retention_keeps_nothing() {
    let house = House::new().await;
    import_tiny(&house).await;
    let body = json!({"model": "tiny", "input": "hello", "max_output_tokens": 4, "seed": 1, "store": true});
    let answer = asked(&house.client, "/v1/responses", &body).await;
    let of_response = receipt(&answer, &body);
    assert!(kept(&of_response).contains(&("response", "data_folder")), "{of_response}");
    let ids: Vec<&Value> = of_response["kept"].as_array().unwrap().iter().map(|kept| &kept["id"]).collect();
    assert!(ids.contains(&&answer.json()["id"]));
    let mut streamed = body.clone();
    streamed["stream"] = json!(true);
    let answer = asked(&house.client, "/v1/responses", &streamed).await;
    assert!(kept(&receipt(&answer, &streamed)).contains(&("response", "data_folder")));

    let chat = json!({"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4, "seed": 1});
    let headers = [WISH, ("content-type", "application/json"), ("idempotency-key", "once")];
    let ask = async || house.client.send("POST", "/v1/chat/completions", &headers, chat.to_string()).await;
    let first = receipt(&ask().await, &chat);
    let of_key =
        first["kept"].as_array().unwrap().iter().find(|kept| kept["what"] == "answer_for_idempotency_key");
    let days =
        (of_key.unwrap()["until"].as_i64().unwrap() - first["issued_at"].as_i64().unwrap()) as f64 / 86400.0;
    assert!((days - 1.0).abs() < 0.01, "{days} days");
    let again = receipt(&ask().await, &chat);
    assert_eq!(
        (&again["replayed"], &again["models"], &again["kept"]),
        (&json!(true), &json!([]), &json!([]))
    );

    let (_, admin) = house.admin("default", &[KeyScope::OrganizationWrite], None).await;
    let retention = json!({"retention_type": "zero_data_retention"});
    assert_eq!(admin.post("/v1/organization/projects/default/data_retention", &retention).await.status, 200);
    let mut body = body.clone();
    body.as_object_mut().unwrap().remove("store");
    let of_nothing = receipt(&asked(&house.client, "/v1/responses", &body).await, &body);
    assert_eq!(of_nothing["retention"], "nothing");
    assert_eq!(kept(&of_nothing), [("ledger_entry", "database")], "counts, and no content");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_line_of_a_batch_has_a_receipt_where_its_batch_was_asked_for_with_them() {
    let house = House::new().await;
    house.publish_poet("poet").await;
    let mut text = batches::poems(2);
    text += &batches::line("wrong", "/v1/completions", &json!({"model": "poet", "prompt": "abc", "n": -1}));
    let file = bring(&house.client, "batch", "batch.jsonl", text.as_bytes()).await.json()["id"].clone();
    let body = json!({"input_file_id": file, "endpoint": "/v1/completions", "completion_window": "24h"});
    let made = asked(&house.client, "/v1/batches", &body).await;
    assert_eq!((made.status, made.header("x-privacy-receipt")), (200, None), "{}", made.text());
    assert_eq!(made.json()["privacy_receipts"], true);
    let batch = batches::ended(&house.client, made.json()["id"].as_str().unwrap()).await;
    let mut n = 0;
    for (to, status) in [("output_file_id", 200), ("error_file_id", 400)] {
        let path = format!("/v1/files/{}/content", batch[to].as_str().unwrap());
        for line in house.client.get(&path).await.text().lines() {
            n += 1;
            let told: Value = serde_json::from_str(line).unwrap();
            let receipt = &told["privacy_receipt"];
            check(receipt).unwrap();
            assert_eq!(told.as_object().unwrap().keys().next_back().unwrap(), "privacy_receipt");
            let asked = text.lines().find(|asked| {
                serde_json::from_str::<Value>(asked).unwrap()["custom_id"] == told["custom_id"]
            });
            assert_eq!(receipt["request_sha256"], sha256(asked.unwrap().as_bytes()).as_str());
            // The answer as it stands in the line, byte for byte.
            let (_, rest) = line.split_once("\"body\":").unwrap();
            let (answer, _) = rest.split_once("},\"error\":null,\"privacy_receipt\"").unwrap();
            assert_eq!(receipt["answer_sha256"], sha256(answer.as_bytes()).as_str());
            assert_eq!(receipt["request"], told["response"]["request_id"]);
            assert_eq!((&receipt["status"], &receipt["route"]), (&json!(status), &json!("/v1/completions")));
            assert!(kept(receipt).contains(&("batch_line", "data_folder")), "{receipt}");
            let line = receipt["kept"].as_array().unwrap().iter().find(|kept| kept["what"] == "batch_line");
            let expires_after = json!({"anchor": "file_created_at", "seconds": 30 * 24 * 3600});
            assert_eq!(line.unwrap()["expires_after"], expires_after, "as its files do");
            assert!(!kept(receipt).contains(&("batch_line", "object_store")), "there is none");
            let is_paid = kept(receipt).contains(&("ledger_entry", "database"));
            assert_eq!(is_paid, status == 200);
            assert_eq!(receipt["models"].as_array().unwrap().len(), usize::from(status == 200), "{receipt}");
        }
    }
    assert_eq!(n, 3);
    // Who did not ask for them has lines as they ever were.
    let plain = batches::answered(&house.client, &batches::poems(1), "/v1/completions").await;
    assert_eq!(plain.get("privacy_receipts"), None);
    let line = batches::lines(&house.client, &plain["output_file_id"]).await.remove(0);
    assert_eq!(line.get("privacy_receipt"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_the_background_is_fetched_with_the_receipt_of_its_end() {
    let house = House::new().await;
    import_tiny(&house).await;
    let body = json!({"model": "tiny", "input": "hello", "max_output_tokens": 4, "seed": 1, "background": true,
        "top_logprobs": 2, "include": ["message.output_text.logprobs"]});
    let queued = asked(&house.client, "/v1/responses", &body).await;
    let of_reply = receipt(&queued, &body);
    let path = format!("/v1/responses/{}", queued.json()["id"].as_str().unwrap());
    let fetch = async || house.client.send("GET", &path, &[WISH], "").await;
    let mut answer = fetch().await;
    for _ in 0..2000 {
        if answer.status == 200 {
            break;
        }
        assert_eq!(answer.refused(409).1, "response_not_ended");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        answer = fetch().await;
    }
    assert_eq!(answer.json()["status"], "incomplete", "{}", answer.text());
    // From memory, then from the disk: the same bytes, and the receipt is of them.
    for _ in 0..2 {
        let header = STANDARD.decode(answer.header("x-privacy-receipt").unwrap()).unwrap();
        let told: Value = serde_json::from_slice(&header).unwrap();
        check(&told).unwrap();
        assert_eq!(told["answer_sha256"], sha256(&answer.body).as_str());
        assert_eq!(told["request_sha256"], sha256(body.to_string().as_bytes()).as_str());
        assert_eq!((&told["request"], &told["route"]), (&of_reply["request"], &json!("/v1/responses")));
        assert_eq!(told["models"][0]["model"], "tiny@1");
        assert_eq!(of_reply["models"], json!([]), "nobody had read it when it was queued");
        let mut kept = kept(&told);
        kept.sort();
        assert_eq!(kept, [("ledger_entry", "database"), ("response", "data_folder")]);
        answer = fetch().await;
    }
    assert_eq!(house.client.get(&path).await.header("x-privacy-receipt"), None);
    let stream = house.client.send("GET", &format!("{path}?stream=true"), &[WISH], "").await;
    assert_eq!(stream.refused(400).1, "unsupported_parameter");
    // One that was asked for without says that it has none.
    let plain = house.client.post("/v1/responses", &body).await.json();
    let path = format!("/v1/responses/{}", plain["id"].as_str().unwrap());
    for _ in 0..2000 {
        let answer = house.client.send("GET", &path, &[WISH], "").await;
        if answer.status != 409 {
            assert_eq!(answer.refused(400).1, "no_receipt");
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("it does not end");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_guard_changed_is_counted_by_kind_and_never_told() {
    let house = House::new().await;
    import_tiny(&house).await;
    let (_, admin) = house.admin("default", &[KeyScope::OrganizationWrite], None).await;
    let policy = async |policy: Value| {
        let set = admin.post("/v1/organization/projects/default/guard_policy", &policy).await;
        assert_eq!(set.status, 200, "{}", set.text());
    };
    let content = "write to ann@example.com or bob@example.org, card 4111 1111 1111 1111";
    let mut body = json!({"model": "tiny", "messages": [{"role": "user", "content": content}], "max_tokens": 300,
        "seed": 3, "structured_outputs": {"regex": "cy@example\\.net is mine"}});
    let before = receipt(&asked(&house.client, "/v1/chat/completions", &body).await, &body);
    assert_eq!((&before["guard"]["input"], &before["guard"]["changed"]), (&json!("off"), &json!([])));
    policy(json!({"input": {"action": "mask"}, "output": {"action": "redact"}})).await;
    let expected = json!([
        {"direction": "input", "action": "mask", "type": "CREDIT_CARD", "n": 1},
        {"direction": "input", "action": "mask", "type": "EMAIL_ADDRESS", "n": 2},
        {"direction": "output", "action": "redact", "type": "EMAIL_ADDRESS", "n": 1},
    ]);
    for stream in [false, true] {
        body["stream"] = json!(stream);
        let told = receipt(&asked(&house.client, "/v1/chat/completions", &body).await, &body);
        let mut changed = told["guard"]["changed"].as_array().unwrap().clone();
        changed.sort_by_key(|change| format!("{}{}", change["direction"], change["type"]));
        assert_eq!(Value::from(changed), expected, "stream {stream}");
        assert_ne!(told["guard"]["policy_sha256"], before["guard"]["policy_sha256"]);
        for value in ["ann@", "bob@", "4111 1111", "41111111", "cy@"] {
            assert!(!told.to_string().contains(value), "{value}");
        }
    }
    // The audit log tells the policy that the hash is of.
    let log = admin.get("/v1/organization/audit_logs?event_types[]=project.updated").await.json();
    let written = &log["data"][0]["project.updated"]["changes_requested"]["guard_policy"];
    let told = receipt(&asked(&house.client, "/v1/chat/completions", &body).await, &body);
    let canonical = lyceum_types::card::canonical(written);
    assert_eq!(told["guard"]["policy_sha256"], sha256(canonical.as_bytes()).as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_projects_receipt_names_the_key_that_seals() {
    let outside = tempfile::tempdir().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let master = MasterKey::create(&outside.path().join("master.key")).unwrap();
    let id = master.id().to_owned();
    let store = Store::open(Layout::new(dir.path()), Timestamp::now()).await.unwrap().unlocked(master);
    let house = House::of(store, dir, EngineLimits::default()).await;
    import_tiny(&house).await;
    let all =
        Share { owner: Project::default_project(), name: "tiny".parse().unwrap(), with: With::Everyone };
    share(house.service.store(), &all, &Act::of_command_line(Timestamp::now())).await.unwrap();
    let (_, admin) = house.admin("default", &[KeyScope::OrganizationWrite], None).await;
    let made = json!({"name": "sealed", "external_key_id": id});
    let project =
        admin.post("/v1/organization/projects", &made).await.json()["id"].as_str().unwrap().to_owned();
    let accounts = format!("/v1/organization/projects/{project}/service_accounts");
    let account = admin.post(&accounts, &json!({"name": "bot"})).await.json();
    let key = account["api_key"]["value"].as_str().unwrap().to_owned();
    let client = Client { key: Some(key), ..house.client.clone() };
    let body = json!({"model": "tiny", "input": "hello", "max_output_tokens": 4, "seed": 1});
    let told = receipt(&asked(&client, "/v1/responses", &body).await, &body);
    assert_eq!((&told["encrypted"], &told["sealed_by"]), (&json!(true), &json!(id)));
    for kept in told["kept"].as_array().unwrap() {
        assert_eq!(kept["sealed"], kept["what"] == "response", "{kept}");
    }
    assert_eq!(told["project"], project.as_str());
}
