//! Names that move and versions that go, over HTTP.

use crate::client::Client;
use crate::house::House;
use lyceum_types::ids::KeyScope;
use serde_json::{Value, json};

/// A house with three versions of `flowers`, and a client that may ask and change nothing.
async fn house() -> (House, Client) {
    let house = House::new().await;
    for _ in 0..3 {
        house.publish_table("flowers").await;
    }
    let (_, asks) = house.key(&[KeyScope::Inference], None).await;
    let asks = Client { key: Some(asks), ..house.client.clone() };
    (house, asks)
}

async fn set(house: &House, version: u32, body: Value) -> crate::client::Answer {
    house.client.post(&format!("/v1/models/flowers@{version}/aliases"), &body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn aliases_move_back_and_forth_and_their_history_names_the_key() {
    let (house, asks) = house().await;
    let prod = |version: u32, before: Option<u32>| {
        let mut body = json!({"id": "flowers@prod", "object": "model.alias", "alias": "prod",
            "model": format!("flowers@{version}"), "version": version});
        if let Some(before) = before {
            body["before"] = json!(before);
        }
        body
    };
    assert_eq!(set(&house, 1, json!({"alias": "prod", "note": "first"})).await.json(), prod(1, None));
    assert_eq!(set(&house, 2, json!({"alias": "prod"})).await.json(), prod(2, Some(1)));
    assert_eq!(asks.get("/v1/models/flowers@prod").await.json()["root"], "flowers@2");
    let back = "/v1/models/flowers/aliases/prod/rollback";
    assert_eq!(house.client.post(back, &json!({"note": "worse"})).await.json(), prod(1, Some(2)));
    assert_eq!(house.client.post(back, &json!({})).await.refused(404).1, "not_found");
    let mut listed = prod(1, None);
    listed["protected"] = json!(false);
    let list = asks.get("/v1/models/flowers/aliases").await.json();
    assert_eq!(list, json!({"object": "list", "data": [listed]}));
    let history = asks.get("/v1/models/flowers/history").await.json();
    let told: Vec<&str> =
        history["data"].as_array().unwrap().iter().map(|e| e["event"].as_str().unwrap()).collect();
    assert_eq!(told, ["set", "set", "rolled_back"]);
    assert_eq!(
        (&history["data"][0]["note"], &history["data"][2]["note"]),
        (&json!("first"), &json!("worse"))
    );
    assert!(history["data"][0]["actor"].as_str().unwrap().starts_with("key_"), "{history}");
    let gone = house.client.send("DELETE", "/v1/models/flowers/aliases/prod", &[], "").await.json();
    assert_eq!(gone, json!({"id": "flowers@prod", "object": "model.alias", "deleted": true}));
    assert_eq!(asks.get("/v1/models/flowers@prod").await.refused(404).1, "model_not_found");
    // The audit log of the organisation knows the key as well.
    let (_, reader) = house.admin("default", &[KeyScope::OrganizationRead], None).await;
    let log = reader.get("/v1/organization/audit_logs?event_types[]=model_alias.rolled_back").await.json();
    let entry = &log["data"][0];
    assert_eq!(entry["model_alias.rolled_back"]["id"], "flowers@prod");
    assert_eq!(entry["actor"]["api_key"]["id"], history["data"][0]["actor"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_protected_alias_asks_for_an_approval_and_what_has_no_sense_is_refused() {
    let (house, asks) = house().await;
    let protect = json!({"alias": "prod", "protected": true});
    assert_eq!(set(&house, 2, protect.clone()).await.refused(409).1, "not_approved");
    let approved = house.client.post("/v1/models/flowers@2/approve", &json!({"note": "seen"})).await.json();
    assert_eq!(approved, json!({"id": "flowers@2", "object": "model.approval", "approved": true}));
    assert_eq!(set(&house, 2, protect).await.status, 200);
    assert_eq!(set(&house, 1, json!({"alias": "prod"})).await.refused(409).1, "not_approved");
    let lineage = asks.get("/v1/models/flowers@prod/lineage").await.json();
    assert_eq!((&lineage["model"], &lineage["aliases"]), (&json!("flowers@2"), &json!(["prod"])));
    assert_eq!(lineage["approvals"][0]["note"], "seen");
    let promoted = house.client.post("/v1/models/flowers@2/promote", &json!({})).await.json();
    assert_eq!((&promoted["was_held"], &promoted["served"]), (&Value::Null, &json!("flowers@3")));
    let history = house.client.get("/v1/models/flowers/history").await.json();
    let last = history["data"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["event"], &last["version"]), (&json!("promoted"), &json!(2)), "{history}");

    let post = async |path: &str, body: Value| house.client.post(path, &body).await;
    assert_eq!(post("/v1/models/flowers/approve", json!({})).await.refused(400).1, "version_missing");
    assert_eq!(post("/v1/models/flowers@9/approve", json!({})).await.refused(404).1, "model_not_found");
    assert_eq!(post("/v1/models/nobody@1/promote", json!({})).await.refused(404).1, "model_not_found");
    let alias = |alias: &str| json!({ "alias": alias });
    assert_eq!(set(&house, 1, alias("3")).await.refused(400).0, "alias");
    assert_eq!(set(&house, 1, alias("latest")).await.refused(400).0, "alias");
    assert_eq!(set(&house, 1, json!({"alias": "prod", "version": 2})).await.refused(400).0, "version");
    assert_eq!(house.client.get("/v1/models/flowers@1/aliases").await.refused(400).1, "name_wanted");
    for path in ["aliases", "history", "lineage"] {
        let path = format!("/v1/models/nobody/{path}");
        assert_eq!(asks.get(&path).await.refused(404).1, "model_not_found", "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_version_is_gone_and_an_alias_keeps_its_own() {
    let (house, asks) = house().await;
    let predict = async |model: &str| {
        house.client.post(&format!("/v1/models/{model}:predict"), &json!({"instances": [[1, 2]]})).await
    };
    for model in ["flowers@2", "flowers@3"] {
        assert_eq!(predict(model).await.status, 200);
    }
    assert_eq!(house.service.residents().len(), 2);
    set(&house, 1, json!({"alias": "prod"})).await;
    let delete =
        async |client: &Client, id: &str| client.send("DELETE", &format!("/v1/models/{id}"), &[], "").await;
    assert_eq!(delete(&asks, "flowers@3").await.refused(403).1, "insufficient_permissions");
    let gone = delete(&house.client, "flowers@3").await.json();
    assert_eq!(gone, json!({"id": "flowers@3", "object": "model", "deleted": true}));
    assert_eq!(house.service.residents().len(), 1, "it leaves memory");
    assert!(!house.dir.path().join("models/flowers/3").exists());
    assert_eq!(predict("flowers@3").await.refused(404).1, "model_not_found");
    assert_eq!(asks.get("/v1/models/flowers").await.json()["root"], "flowers@2");
    for id in ["flowers@1", "flowers@prod", "flowers"] {
        let refused = delete(&house.client, id).await;
        assert!(refused.text().contains("flowers@1 is what the alias prod points at"), "{}", refused.text());
        assert_eq!(refused.refused(409).1, "aliased", "{id}");
    }
    house.client.send("DELETE", "/v1/models/flowers/aliases/prod", &[], "").await;
    assert_eq!(delete(&house.client, "flowers").await.json()["deleted"], true);
    assert_eq!(asks.get("/v1/models").await.json()["data"], json!([]));
    assert!(house.service.residents().is_empty());
    assert_eq!(delete(&house.client, "flowers").await.refused(404).1, "model_not_found");
    // What happened is still told.
    let history = asks.get("/v1/models/flowers/history").await.json();
    let deleted = history["data"].as_array().unwrap().iter().filter(|e| e["event"] == "deleted").count();
    assert_eq!(deleted, 3);
    let (_, reader) = house.admin("default", &[KeyScope::OrganizationRead], None).await;
    let log = reader.get("/v1/organization/audit_logs?event_types[]=model.deleted").await.json();
    assert_eq!(log["data"].as_array().unwrap().len(), 3);
}
