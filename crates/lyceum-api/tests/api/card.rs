//! The card of a version over HTTP: its three forms, and what verification notices.

use crate::house::House;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_card_comes_as_it_is_accepted_and_a_changed_one_is_refused() {
    let house = House::new().await;
    house.publish_table("flowers").await;
    let client = &house.client;
    let path = "/v1/models/flowers/card";
    let verify = |body: Value| async move { client.post("/v1/models/flowers/card/verify", &body).await };
    assert_eq!(verify(json!({})).await.refused(404).1, "not_found");
    let nothing = client.send("POST", "/v1/models/flowers/card/verify", &[], "").await;
    assert_eq!(nothing.refused(404).1, "not_found", "an empty body says what an empty object says");

    let card = client.get(path).await.json();
    assert_eq!((&card["object"], &card["model"]), (&"model_card".into(), &"flowers@1".into()));
    let sections = card["sections"].as_object().unwrap();
    assert_eq!(sections.len(), 10);
    for (name, section) in sections {
        let n: usize =
            ["facts", "numbers", "not_evaluated"].iter().map(|f| section[*f].as_array().unwrap().len()).sum();
        assert!(n > 0, "{name}");
    }
    for (accept, media, begin) in [
        ("text/markdown", "text/markdown", "# Model card: flowers@1"),
        ("text/html", "text/html", "<!doctype html>"),
    ] {
        let answer = client.send("GET", path, &[("accept", accept)], "").await;
        assert!(answer.header("content-type").is_some_and(|found| found.starts_with(media)), "{accept}");
        assert!(answer.text().starts_with(begin) && answer.text().contains("not_evaluated"), "{accept}");
    }
    let refused = client.send("GET", path, &[("accept", "image/png")], "").await;
    assert_eq!(refused.refused(400).1, "not_acceptable");
    assert_eq!(client.get("/v1/models/nobody/card").await.refused(404).1, "model_not_found");

    assert_eq!(verify(json!({})).await.json()["verified"], true);
    assert_eq!(verify(json!({"card": card})).await.json()["verified"], true);
    let mut forged = card.clone();
    forged["sections"]["cost"]["numbers"][0]["value"] = json!(2.0);
    let found = verify(json!({"card": forged})).await.json();
    assert_eq!(found["verified"], false, "{found}");
    assert_eq!(verify(json!({"card": 5})).await.json()["verified"], false);
    assert_eq!(verify(json!({"cart": 5})).await.refused(400).0, "cart");

    let weights = house.dir.path().join("models/flowers/1/model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let found = verify(json!({})).await.json();
    let failed: Vec<&str> = found["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|check| check["state"] == "failed")
        .filter_map(|check| check["name"].as_str())
        .collect();
    assert_eq!(failed, ["files", "weights and probes"], "{found}");
}

/// The checks of a verification that failed.
fn failed(found: &Value) -> Vec<&str> {
    let checks = found["checks"].as_array().unwrap().iter();
    checks.filter(|check| check["state"] == "failed").filter_map(|check| check["name"].as_str()).collect()
}

fn fact<'a>(card: &'a Value, section: &str, name: &str) -> &'a str {
    let facts = card["sections"][section]["facts"].as_array().unwrap();
    let found = facts.iter().find(|fact| fact["name"] == name);
    found.unwrap_or_else(|| panic!("{name}: {facts:?}"))["value"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_imported_model_and_an_adapter_have_cards_that_say_what_nobody_knows() {
    let house = crate::language::house().await;
    let adapter = crate::adapters::peft(&house, "bot", 3);
    crate::adapters::bring(&house, "bot", "tiny", adapter).await.unwrap();
    let client = &house.client;
    let card = client.get("/v1/models/tiny/card").await.json();
    assert_eq!(card["model"], "tiny@1");
    let licence = fact(&card, "identity", "licence, as the files or their hub state it");
    assert_eq!(licence, "apache-2.0 (stated, not checked by this program)");
    assert!(fact(&card, "identity", "architecture").starts_with("2 layers, hidden size 32"));
    assert!(fact(&card, "identity", "types of its tensors, as served").contains("q8_0"));
    assert!(fact(&card, "explainability", "methods that apply").contains("leave_one_out"));
    for (name, section) in card["sections"].as_object().unwrap() {
        let missing = section["not_evaluated"].as_array().unwrap();
        assert!(name == "identity" || !missing.is_empty(), "{name} knows everything");
    }
    // The same card again, bit for bit, and in the other forms.
    assert_eq!(client.get("/v1/models/tiny/card").await.json(), card);
    let text = client.send("GET", "/v1/models/tiny/card", &[("accept", "text/markdown")], "").await;
    assert!(text.text().contains("apache-2.0"), "{}", text.text());
    let of_adapter = client.get("/v1/models/bot/card").await.json();
    let parents = fact(&of_adapter, "identity", "parents");
    let sha256 = fact(&card, "identity", "sha256 of the weights");
    assert_eq!(parents, format!("tiny@1 (weights with sha256 {sha256})"));
    for model in ["tiny", "bot"] {
        let found = client.post(&format!("/v1/models/{model}/card/verify"), &json!({})).await.json();
        assert_eq!((&found["verified"], failed(&found)), (&json!(true), vec![]), "{found}");
    }
    let mut forged = card.clone();
    forged["sections"]["identity"]["facts"][0]["value"] = json!("huge@1");
    let found = client.post("/v1/models/tiny/card/verify", &json!({ "card": forged })).await.json();
    assert_eq!(failed(&found), ["signature", "contents"], "{found}");
    for (file, model) in [("bot/1/adapter_model.safetensors", "bot"), ("tiny/1/model.gguf", "tiny")] {
        let path = house.dir.path().join("models").join(file);
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let found = client.post(&format!("/v1/models/{model}/card/verify"), &json!({})).await.json();
        assert_eq!(failed(&found), ["files", "weights and probes"], "{model}: {found}");
    }
}
