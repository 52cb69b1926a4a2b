//! An encrypted project: what it keeps reads as it was, is in no byte of the data folder, and is gone when its key is; and
//! models that one project shares with others.

use crate::batches::bring;
use crate::client::{Client, ok, text_of};
use crate::house::House;
use crate::language::import_tiny;
use lyceum_engine::EngineLimits;
use lyceum_service::card::seal;
use lyceum_store::models::shares::{Share, With, share};
use lyceum_store::tenancy::Act;
use lyceum_store::vault::MasterKey;
use lyceum_store::{Layout, Store};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{KeyScope, Project};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

const ALL: &str = "/v1/organization/projects";
const CANARY: &str = "zaunkönig-77";

/// A server with a master key, whose imported model everyone may ask.
async fn house(outside: &Path) -> (House, String) {
    let dir = tempfile::tempdir().unwrap();
    let master = MasterKey::create(&outside.join("master.key")).unwrap();
    let id = master.id().to_owned();
    let store = Store::open(Layout::new(dir.path()), Timestamp::now()).await.unwrap().unlocked(master);
    let house = House::of(store, dir, EngineLimits::default()).await;
    import_tiny(&house).await;
    house.publish_table("points").await;
    let act = Act::of_command_line(Timestamp::now());
    for name in ["tiny", "points"] {
        let all =
            Share { owner: Project::default_project(), name: name.parse().unwrap(), with: With::Everyone };
        share(house.service.store(), &all, &act).await.unwrap();
    }
    (house, id)
}

async fn account(admin: &Client, project: &str) -> Client {
    let made = ok(&admin.post(&format!("{ALL}/{project}/service_accounts"), &json!({"name": "bot"})).await);
    Client { key: Some(text_of(&made["api_key"]["value"])), ..admin.clone() }
}

/// Files below a folder that contain a word.
fn found(folder: &Path, word: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(self::found(&path, word));
        } else if std::fs::read(&path).unwrap_or_default().windows(word.len()).any(|bytes| bytes == word) {
            found.push(path);
        }
    }
    found
}

async fn batch_ended(client: &Client, id: &str) -> Value {
    for _ in 0..600 {
        let batch = ok(&client.get(&format!("/v1/batches/{id}")).await);
        if batch["status"] == "completed" {
            return batch;
        }
        assert_ne!(batch["status"], "failed", "{batch}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the batch does not end")
}

/// Keeps something of everything that a project may keep: ids of an answer, a file and a batch.
async fn keep_everything(client: &Client) -> (String, String, String) {
    let asked =
        json!({"model": "tiny", "input": CANARY, "max_output_tokens": 4, "metadata": {"about": CANARY}});
    let answer = ok(&client.post("/v1/responses", &asked).await);
    let file =
        ok(&bring(client, "user_data", &format!("{CANARY}.txt"), CANARY.repeat(9_000).as_bytes()).await);
    let line = json!({"custom_id": CANARY, "method": "POST", "url": "/v1/chat/completions", "body": {"model": "tiny",
        "messages": [{"role": "user", "content": CANARY}], "max_tokens": 4}});
    let input = ok(&bring(client, "batch", "in.jsonl", format!("{line}\n").repeat(1).as_bytes()).await);
    let asked = json!({"input_file_id": input["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h",
        "metadata": {"about": CANARY}});
    let batch = ok(&client.post("/v1/batches", &asked).await);
    let background = json!({"model": "tiny", "messages": [{"role": "user", "content": CANARY}], "completion": CANARY,
        "background": true});
    let run = client.post("/v1/explanations", &background).await;
    assert!(matches!(run.status, 200 | 202), "{}", run.text());
    let once = json!({"model": "tiny", "prompt": CANARY, "max_tokens": 4, "echo": true}).to_string();
    let headers = [("content-type", "application/json"), ("idempotency-key", "one")];
    let first = client.send("POST", "/v1/completions", &headers, once.clone()).await;
    let again = client.send("POST", "/v1/completions", &headers, once).await;
    assert_eq!((ok(&first), first.body), (ok(&again), again.body));
    let upload = json!({"bytes": 5, "filename": format!("{CANARY}.txt"), "mime_type": "text/plain",
        "purpose": "user_data"});
    ok(&client.post("/v1/uploads", &upload).await);
    (text_of(&answer["id"]), text_of(&file["id"]), text_of(&batch["id"]))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_encrypted_project_keeps_is_found_in_no_byte_and_erased_with_its_key() {
    let outside = tempfile::tempdir().unwrap();
    let (house, master) = house(outside.path()).await;
    let admin = house.admin("default", &[KeyScope::OrganizationWrite], None).await.1;
    let wrong = admin.post(ALL, &json!({"name": "x", "external_key_id": "ekey_other"})).await;
    assert_eq!(wrong.refused(400), ("external_key_id".into(), "unknown_key".into()));
    let made = ok(&admin.post(ALL, &json!({"name": "sealed", "external_key_id": master})).await);
    assert_eq!(made["external_key_id"], json!(master));
    let id = text_of(&made["id"]);
    let client = account(&admin, &id).await;

    let (answer, file, batch) = keep_everything(&client).await;
    let ended = batch_ended(&client, &batch).await;
    assert_eq!(ended["metadata"]["about"], CANARY);
    let output = client.get(&format!("/v1/files/{}/content", text_of(&ended["output_file_id"]))).await;
    assert!(output.text().contains(&json!(CANARY).to_string()), "{}", output.text());
    let content = client.get(&format!("/v1/files/{file}/content")).await;
    assert_eq!(content.body, CANARY.repeat(9_000).as_bytes());
    assert_eq!(ok(&client.get(&format!("/v1/files/{file}")).await)["filename"], format!("{CANARY}.txt"));
    assert_eq!(ok(&client.get(&format!("/v1/responses/{answer}")).await)["metadata"]["about"], CANARY);
    // A job of its rows, which a worker would make: what is asked is sealed like the rows.
    let rows =
        json!({"messages": [{"role": "user", "content": CANARY}, {"role": "assistant", "content": "th"}]});
    let rows = ok(&bring(&client, "fine-tune", "rows.jsonl", format!("{rows}\n").repeat(8).as_bytes()).await);
    let train = json!({"model": "tiny", "training_file": rows["id"], "metadata": {"about": CANARY}});
    let job = ok(&client.post("/v1/fine_tuning/jobs", &train).await);
    let job = ok(&client.get(&format!("/v1/fine_tuning/jobs/{}", text_of(&job["id"]))).await);
    assert_eq!(job["metadata"]["about"], CANARY);
    let wrong = bring(&client, "fine-tune", "rows.csv", format!("a,b\n{CANARY},\n").as_bytes()).await;
    let spec = json!({"task": "classification", "data": {"target": "c"}});
    let train = json!({"model": "mlp", "training_file": ok(&wrong)["id"],
        "method": {"type": "train", "train": {"spec": spec}}});
    assert_eq!(client.post("/v1/fine_tuning/jobs", &train).await.status, 400);
    for word in [CANARY.as_bytes(), json!(CANARY).to_string().as_bytes(), &b"zaunk"[..]] {
        assert_eq!(found(house.dir.path(), word), Vec::<PathBuf>::new());
    }

    // A project beside it keeps the same in plain bytes: the search can find.
    let plain = ok(&admin.post(ALL, &json!({"name": "plain"})).await);
    assert_eq!(plain["external_key_id"], Value::Null);
    let beside = account(&admin, &text_of(&plain["id"])).await;
    keep_everything(&beside).await;
    assert!(!found(house.dir.path(), b"zaunk").is_empty());

    let refused = admin.post(&format!("{ALL}/{}/erase", text_of(&plain["id"])), &json!({})).await;
    assert_eq!(refused.refused(400).1, "not_encrypted");
    // What cannot be brought back is not done by a request that says something else.
    for (body, param) in [
        (json!({"confirm": "proj_other"}), "confirm"),
        (json!({"confirm": 5}), "confirm"),
        (json!({"confirmation": id}), "confirmation"),
        (json!("yes"), ""),
    ] {
        let refused = admin.post(&format!("{ALL}/{id}/erase"), &body).await;
        assert_eq!(refused.refused(400).0, param, "{body}");
    }
    let refused = admin.post(&format!("{ALL}/{id}/erase"), &json!([id])).await.refused(400);
    assert_eq!(refused.1, "invalid_type", "a list confirms nothing");
    assert_eq!(client.get(&format!("/v1/responses/{answer}")).await.status, 200, "nothing was erased");
    let receipt = ok(&admin.post(&format!("{ALL}/{id}/erase"), &json!({"confirm": id})).await);
    seal::check(&receipt).unwrap();
    assert_eq!((&receipt["project"], &receipt["erased"]["responses"]), (&json!(id), &json!(1)));
    assert!(receipt["erased"]["files"].as_u64() >= Some(3), "{receipt}");
    let mut forged = receipt.clone();
    forged["erased"]["files"] = json!(0);
    assert!(seal::check(&forged).is_err());
    assert_eq!(ok(&admin.post(&format!("{ALL}/{id}/erase"), &json!({})).await), receipt, "once");
    assert_eq!(client.get(&format!("/v1/responses/{answer}")).await.status, 403);
    let told = ok(&admin.get(&format!("{ALL}/{id}")).await);
    assert_eq!((&told["status"], &told["external_key_id"]), (&json!("archived"), &Value::Null));
    let at = Project { tenant: "default".into(), id };
    assert!(house.service.store().keyring().of(&at).is_err());
    assert_eq!(beside.get("/v1/models").await.status, 200, "others go on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_model_is_asked_by_others_and_stays_its_owners() {
    let outside = tempfile::tempdir().unwrap();
    let (house, _) = house(outside.path()).await;
    let admin = house.admin("default", &[KeyScope::OrganizationWrite], None).await.1;
    let project = text_of(&ok(&admin.post(ALL, &json!({"name": "team"})).await)["id"]);
    let client = account(&admin, &project).await;
    let listed = ok(&client.get("/v1/models").await);
    for id in ["tiny", "tiny@1", "points"] {
        assert!(listed["data"].as_array().unwrap().iter().any(|model| model["id"] == id), "{id}: {listed}");
    }
    let chat = json!({"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4, "seed": 1});
    let said = |answer: Value| answer["choices"].clone();
    let ours = said(ok(&house.client.post("/v1/chat/completions", &chat).await));
    assert_eq!(said(ok(&client.post("/v1/chat/completions", &chat).await)), ours);
    assert_eq!(house.service.languages().len(), 1, "it is in memory once");
    let asked = json!({"instances": [{"a": 1, "b": 2}]});
    ok(&client.post("/v1/models/points:predict", &asked).await);
    // Neither project sees what the other asked, and the one that is given it cannot touch it.
    assert!(ok(&client.get("/v1/residents").await)["data"].as_array().unwrap().is_empty());
    assert_eq!(client.send("DELETE", "/v1/residents/tiny", &[], "").await.refused(400).1, "shared_model");
    assert_eq!(client.get("/v1/models/points/card").await.refused(400).1, "shared_model");
    for path in ["/v1/models/points/lineage", "/v1/models/points/history"] {
        assert_eq!(client.get(path).await.status, 404, "{path}");
    }
    let only = json!({"mode": "allow_list", "model_ids": ["tiny"]});
    ok(&admin.post(&format!("{ALL}/{project}/model_permissions"), &only).await);
    assert_eq!(client.post("/v1/models/points:predict", &asked).await.status, 403);
}
