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
