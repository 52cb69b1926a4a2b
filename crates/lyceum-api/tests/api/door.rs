//! What stands before every use case: keys, bodies, idempotency, health, the document.

use crate::house::House;
use lyceum_service::models;
use lyceum_store::keys;
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{KeyScope, Project};
use lyceum_types::limits;
use serde_json::{Value, json};

/// Each route of the table with a body that it takes.
fn routes() -> Vec<(&'static str, &'static str, KeyScope)> {
    use KeyScope::{Inference, Metrics};
    vec![
        ("GET", "/ready", Metrics),
        ("GET", "/metrics", Metrics),
        ("GET", "/openapi.json", Metrics),
        ("GET", "/v1/models", Inference),
        ("GET", "/v1/models/flowers", Inference),
        ("POST", "/v1/files", Inference),
        ("GET", "/v1/files", Inference),
        ("GET", "/v1/files/flowers", Inference),
        ("DELETE", "/v1/files/flowers", Inference),
        ("GET", "/v1/files/flowers/content", Inference),
        ("POST", "/v1/completions", Inference),
        ("POST", "/v1/chat/completions", Inference),
        ("POST", "/v1/responses", Inference),
        ("GET", "/v1/responses/flowers", Inference),
        ("DELETE", "/v1/responses/flowers", Inference),
        ("POST", "/v1/responses/flowers/cancel", Inference),
        ("GET", "/v1/responses/flowers/input_items", Inference),
        ("GET", "/v1/residents", Inference),
        ("DELETE", "/v1/residents/flowers", Inference),
        ("POST", "/v1/decisions", Inference),
        ("POST", "/v1/embeddings", Inference),
        ("POST", "/v1/rerank", Inference),
        ("POST", "/tokenize", Inference),
        ("POST", "/detokenize", Inference),
        ("POST", "/v1/models/flowers:predict", Inference),
        ("POST", "/v1/models/flowers:explain", Inference),
        ("GET", "/v1/models/flowers/explanation_methods", Inference),
        ("POST", "/v1/explanations", Inference),
        ("GET", "/v1/explanations/flowers", Inference),
        ("POST", "/v1/explanations/flowers/cancel", Inference),
        ("GET", "/v1/models/flowers/drift", Inference),
        ("GET", "/v1/models/flowers/card", Inference),
        ("POST", "/v1/models/flowers/card/verify", Inference),
        ("POST", "/v1/robustness/runs", Inference),
        ("GET", "/v1/robustness/runs", Inference),
        ("GET", "/v1/robustness/runs/flowers", Inference),
        ("POST", "/v1/robustness/runs/flowers/cancel", Inference),
        ("GET", "/v1/robustness/runs/flowers/failures", Inference),
        ("POST", "/v1/model_selections", Inference),
        ("GET", "/v1/model_selections", Inference),
        ("GET", "/v1/model_selections/flowers", Inference),
        ("POST", "/v1/model_selections/flowers/cancel", Inference),
        ("POST", "/v1/privacy/epsilon", Inference),
        ("POST", "/v1/privacy/sigma", Inference),
        ("POST", "/v1/privacy/budgets", Inference),
        ("GET", "/v1/privacy/budgets", Inference),
        ("GET", "/v1/models/flowers/privacy", Inference),
        ("GET", "/v2/health/live", Metrics),
        ("GET", "/v2/health/ready", Metrics),
        ("GET", "/v2", Inference),
        ("GET", "/v2/models/flowers", Inference),
        ("GET", "/v2/models/flowers/ready", Inference),
        ("POST", "/v2/models/flowers/infer", Inference),
        ("GET", "/v2/models/flowers/versions/1", Inference),
        ("GET", "/v2/models/flowers/versions/1/ready", Inference),
        ("POST", "/v2/models/flowers/versions/1/infer", Inference),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_but_health_refuses_every_wrong_key() {
    let house = House::new().await;
    house.publish_table("flowers").await;
    let (_, expired) = house.key(&[KeyScope::Admin], Some(Timestamp::from_millis(1))).await;
    let (revoked_key, revoked) = house.key(&[KeyScope::Admin], None).await;
    let project = Project::default_project();
    keys::revoke(house.service.store(), &project, &revoked_key.id, Timestamp::now()).await.unwrap();
    let (_, inference) = house.key(&[KeyScope::Inference], None).await;
    let (_, metrics) = house.key(&[KeyScope::Metrics], None).await;
    let unknown = format!("sk-{}", "0".repeat(48));
    for (method, path, needed) in routes() {
        let wrong_scope = if needed == KeyScope::Inference { &metrics } else { &inference };
        let right_scope = if needed == KeyScope::Inference { &inference } else { &metrics };
        for (key, status, code) in [
            (None, 401, "missing_api_key"),
            (Some(&unknown), 401, "invalid_api_key"),
            (Some(&"".to_owned()), 401, "missing_api_key"),
            (Some(&expired), 401, "expired_api_key"),
            (Some(&revoked), 401, "revoked_api_key"),
            (Some(wrong_scope), 403, "insufficient_permissions"),
        ] {
            let mut client = house.client.clone();
            client.key = key.cloned();
            let answer = client.send(method, path, &[], "{}").await;
            assert_eq!(answer.refused(status).1, code, "{method} {path}");
            assert!(answer.header("x-request-id").is_some_and(|id| id.starts_with("req_")));
        }
        let mut client = house.client.clone();
        client.key = Some(right_scope.clone());
        let answer = client.send(method, path, &[], "{}").await;
        // An object that is not there is told by its handler, so the route is.
        let reached = answer.status != 404 || answer.refused(404).1 == "not_found";
        assert!(reached && !matches!(answer.status, 401 | 403 | 405), "{method} {path}: {}", answer.status);
    }
    let mut nobody = house.client.clone();
    nobody.key = None;
    for path in ["/health", "/health/live"] {
        assert_eq!(nobody.get(path).await.status, 200, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_lists_every_route_and_no_other() {
    let house = House::new().await;
    let document = house.client.get("/openapi.json").await.json();
    let mut listed: Vec<(String, String)> = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let path =
                path.replace("{model}", "flowers").replace("{id}", "flowers").replace("{version}", "1");
            listed.push((method.to_uppercase(), path));
        }
    }
    let mut expected: Vec<(String, String)> =
        routes().into_iter().map(|(method, path, _)| (method.into(), path.into())).collect();
    expected.extend([("GET".into(), "/health".into()), ("GET".into(), "/health/live".into())]);
    listed.sort();
    expected.sort();
    assert_eq!(listed, expected);
    assert!(document["components"]["schemas"]["CompletionRequest"]["properties"]["max_tokens"].is_object());
    assert_eq!(document["components"]["schemas"]["CompletionRequest"]["additionalProperties"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_and_urls_that_are_wrong_are_told_why() {
    let house = House::new().await;
    let client = &house.client;
    assert_eq!(client.get("/v1/nothing").await.refused(404).1, "unknown_url");
    assert_eq!(client.send("DELETE", "/v1/completions", &[], "").await.refused(405).1, "method_not_allowed");
    assert_eq!(client.post("/v1/models/flowers:train", &json!({})).await.refused(404).1, "unknown_url");
    assert_eq!(client.post("/v1/models/flowers", &json!({})).await.refused(404).1, "unknown_url");
    let post = |body: String| async move { client.send("POST", "/v1/completions", &[], &body).await };
    assert_eq!(post("{".into()).await.refused(400).1, "invalid_json");
    assert_eq!(post("{\"model\": NaN}".into()).await.refused(400).1, "invalid_json");
    assert_eq!(post("[".repeat(100_000)).await.refused(400).1, "json_too_deep");
    assert_eq!(post("[]".into()).await.refused(400).1, "invalid_type");
    assert_eq!(post("{\"model\":\"a\",\"foo\":1}".into()).await.refused(400).0, "foo");
    let xml = client.send("POST", "/v1/completions", &[("content-type", "text/xml")], "<a/>").await;
    assert_eq!(xml.refused(415).1, "unsupported_media_type");
    let huge = format!("{{\"model\":\"a\",\"prompt\":\"{}\"}}", "x".repeat(limits::BODY_BYTES_MAX));
    assert_eq!(post(huge).await.refused(413).1, "request_too_large");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_gives_the_first_answer_again_and_refuses_another_body() {
    let house = House::new().await;
    house.publish_poet("poet").await;
    let ask = |key: &'static str, body: Value| {
        let client = house.client.clone();
        async move { client.send("POST", "/v1/completions", &[("idempotency-key", key)], &body.to_string()).await }
    };
    // Without a seed each run would differ, and its id does.
    let whole = json!({"model": "poet", "prompt": "abc", "max_tokens": 12});
    let first = ask("one", whole.clone()).await;
    assert_eq!(first.status, 200, "{}", first.text());
    assert_eq!(first.header("idempotent-replayed"), None);
    let second = ask("one", whole.clone()).await;
    assert_eq!((second.status, &second.body), (200, &first.body));
    assert_eq!(second.header("idempotent-replayed"), Some("true"));
    assert_ne!(second.header("x-request-id"), first.header("x-request-id"));
    let other = ask("one", json!({"model": "poet", "prompt": "abd", "max_tokens": 12})).await;
    assert_eq!(other.refused(409).1, "idempotency_key_reused");

    let stream = json!({"model": "poet", "prompt": "abc", "max_tokens": 12, "stream": true});
    let first = ask("two", stream.clone()).await;
    assert_eq!(first.events().last().map(String::as_str), Some("[DONE]"));
    let second = ask("two", stream).await;
    assert_eq!(second.body, first.body);
    assert_eq!(second.header("content-type"), first.header("content-type"));

    let wrong = json!({"model": "nobody", "prompt": "abc"});
    assert_eq!(ask("three", wrong.clone()).await.refused(404), ask("three", wrong).await.refused(404));
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_proves_every_loaded_model_and_metrics_count() {
    let house = House::new().await;
    assert_eq!(house.client.get("/ready").await.json(), json!({"status": "ready", "models": 0}));
    house.publish_table("flowers").await;
    house.publish_poet("poet").await;
    for model in ["flowers", "poet"] {
        let path = format!("/v2/models/{model}/ready");
        assert_eq!(house.client.get(&path).await.json(), json!({"name": model, "ready": true}));
    }
    assert_eq!(house.client.get("/ready").await.json()["models"], 2);
    assert_eq!(house.client.get("/v2/health/ready").await.json(), json!({"ready": true}));
    let metrics = house.client.get("/metrics").await;
    let line = "lyceum_http_requests_total{method=\"GET\",route=\"/ready\",status=\"200\"} 2";
    assert!(metrics.text().contains(line), "{}", metrics.text());
    assert!(metrics.text().contains("lyceum_models_loaded 2"));

    house.publish_table("flowers").await;
    house.publish_table("broken").await;
    std::fs::remove_file(house.dir.path().join("models/broken/1/model.safetensors")).unwrap();
    let failed = models::load_newest(&house.service, &Project::default_project()).await.unwrap();
    assert_eq!(failed.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["broken"]);
    assert_eq!(house.client.get("/ready").await.json()["models"], 3, "flowers@1, flowers@2, poet@1");
    house.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_weights_are_not_served_and_their_place_stays_inside() {
    let house = House::new().await;
    house.publish_table("flowers").await;
    let weights = house.dir.path().join("models/flowers/1/model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let answer = house.client.post("/v1/models/flowers:predict", &json!({"instances": [[1, 2]]})).await;
    assert_eq!(answer.refused(500).1, "internal_error");
    assert!(
        !answer.text().contains("models/flowers") && !answer.text().contains("sha256"),
        "{}",
        answer.text()
    );
}
