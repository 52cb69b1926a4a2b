//! What stands before every use case: keys, bodies, idempotency, health, the document.

use crate::client::Client;
use crate::house::House;
use lyceum_api::Access;
use lyceum_service::models;
use lyceum_store::keys;
use lyceum_store::tenancy::Act;
use lyceum_store::tenancy::admin_keys::{self, AdminKey};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{KeyScope, Project};
use lyceum_types::limits;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A path of the table or of the document with its parameters all alike; `{model}:predict` is the table's `{id}`.
fn plain(path: &str) -> String {
    let part = |part: &str| match part.split_once('}') {
        Some(_) if part.starts_with('{') => "{}".to_owned(),
        _ => part.to_owned(),
    };
    path.split('/').map(part).collect::<Vec<_>>().join("/")
}

/// A URL that the path matches.
fn filled(path: &str) -> String {
    let mut url = String::new();
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').unwrap();
        url += before;
        url += if name == "version" { "1" } else { "flowers" };
        rest = after;
    }
    url + rest
}

/// Method, URL and access of everything that the document has; what it asks of a key is the table's word.
pub async fn routes(house: &House) -> Vec<(String, String, Access)> {
    let table: BTreeMap<(String, Option<String>), Access> = lyceum_api::routes(house.service.clone())
        .into_iter()
        .map(|route| ((plain(route.path), route.method.map(|method| method.to_string())), route.access))
        .collect();
    let document = house.client.get("/openapi.json").await.json();
    let mut all = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let method = method.to_uppercase();
            let own = table.get(&(plain(path), Some(method.clone())));
            let access = *own
                .or_else(|| table.get(&(plain(path), None)))
                .unwrap_or_else(|| panic!("{method} {path} is not in the table"));
            all.push((method, filled(path), access));
        }
    }
    // The others ask for the models that they delete.
    let models = ["/v1/models/flowers", "/v1/models/pull"];
    all.sort_by_key(|(method, path, _)| method == "DELETE" && models.contains(&path.as_str()));
    all
}

pub fn changes(method: &str) -> bool {
    method != "GET"
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_but_health_refuses_every_wrong_key() {
    let house = House::new().await;
    house.publish_table("flowers").await;
    house.publish_table("pull").await;
    let past = Some(Timestamp::from_millis(1));
    let store = house.service.store();
    let (_, expired) = house.key(&[KeyScope::Admin], past).await;
    let (revoked_key, revoked) = house.key(&[KeyScope::Admin], None).await;
    let project = Project::default_project();
    keys::revoke(store, &project, &revoked_key.id, Timestamp::now()).await.unwrap();
    let (_, inference) = house.key(&[KeyScope::Inference], None).await;
    let (_, metrics) = house.key(&[KeyScope::Metrics], None).await;
    let (_, everything) = house.key(&[KeyScope::Admin], None).await;
    let secret = |(_, client): (AdminKey, Client)| client.key.unwrap();
    let write = [KeyScope::OrganizationWrite];
    let admin_expired = secret(house.admin("default", &write, past).await);
    let (key, admin_revoked) = house.admin("default", &write, None).await;
    admin_keys::revoke(store, "default", &key.id, &Act::of_command_line(Timestamp::now())).await.unwrap();
    let admin_revoked = admin_revoked.key.unwrap();
    let admin = secret(house.admin("default", &write, None).await);
    let reader = secret(house.admin("default", &[KeyScope::OrganizationRead], None).await);
    let unknown = format!("sk-{}", "0".repeat(48));
    let unknown_admin = format!("sk-admin-{}", "0".repeat(48));
    for (method, path, access) in routes(&house).await {
        let (wrong, right): (Vec<&String>, &String) = match access {
            Access::Open => continue,
            Access::Project(KeyScope::Inference) => (vec![&metrics, &admin], &inference),
            Access::Project(KeyScope::Admin) => (vec![&inference, &metrics, &admin], &everything),
            Access::Project(_) => (vec![&inference, &admin], &metrics),
            Access::Organization if changes(&method) => (vec![&everything, &inference, &reader], &admin),
            Access::Organization => (vec![&everything, &inference], &reader),
        };
        let empty = String::new();
        let mut refused = vec![
            (None, 401, "missing_api_key"),
            (Some(&empty), 401, "missing_api_key"),
            (Some(&unknown), 401, "invalid_api_key"),
            (Some(&unknown_admin), 401, "invalid_api_key"),
            (Some(&expired), 401, "expired_api_key"),
            (Some(&revoked), 401, "revoked_api_key"),
            (Some(&admin_expired), 401, "expired_api_key"),
            (Some(&admin_revoked), 401, "revoked_api_key"),
        ];
        refused.extend(wrong.into_iter().map(|key| (Some(key), 403, "insufficient_permissions")));
        for (key, status, code) in refused {
            let client = Client { key: key.cloned(), ..house.client.clone() };
            let answer = client.send(&method, &path, &[], "{}").await;
            assert_eq!(answer.refused(status).1, code, "{method} {path}");
            assert!(answer.header("x-request-id").is_some_and(|id| id.starts_with("req_")));
        }
        let client = Client { key: Some(right.clone()), ..house.client.clone() };
        let answer = client.send(&method, &path, &[], "{}").await;
        // An object that is not there is told by its handler, so the route is.
        let reached = answer.status != 404 || answer.refused(404).1 == "not_found";
        assert!(reached && !matches!(answer.status, 401 | 403 | 405), "{method} {path}: {}", answer.status);
    }
    let nobody = Client { key: None, ..house.client.clone() };
    for path in ["/health", "/health/live"] {
        assert_eq!(nobody.get(path).await.status, 200, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_lists_every_route_and_no_other() {
    let house = House::new().await;
    let (_, admin) = house.admin("default", &[KeyScope::OrganizationWrite], None).await;
    let listed = routes(&house).await;
    let table = lyceum_api::routes(house.service.clone());
    let open: Vec<&str> =
        table.iter().filter(|route| route.access == Access::Open).map(|route| route.path).collect();
    assert_eq!(open, ["/health", "/health/live", "/docs"], "what anybody may ask");
    for route in table {
        let url = filled(route.path);
        let of_model = |listed: &str| listed.split(':').next() == Some(url.as_str());
        let methods: Vec<&str> = listed
            .iter()
            .filter(|(_, path, _)| *path == url || (route.path == "/v1/models/{id}" && of_model(path)))
            .map(|(method, ..)| method.as_str())
            .collect();
        assert!(!methods.is_empty(), "{} is not in the document", route.path);
        let client = if route.access == Access::Organization { &admin } else { &house.client };
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            if !methods.contains(&method) {
                let answer = client.send(method, &url, &[], "{}").await;
                assert_eq!(
                    answer.refused(405).1,
                    "method_not_allowed",
                    "{method} {url} is not in the document"
                );
            }
        }
    }
    let document = house.client.get("/openapi.json").await.json();
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

/// A megabyte in pieces, behind a head that is enough to refuse the request: the refusal arrives, and the connection
/// is good for the next request.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_reaches_a_client_that_is_still_sending() {
    const PIECE: usize = 64 << 10;
    const PIECES: usize = 16;
    let house = House::new().await;
    let mut stream = TcpStream::connect(house.client.address).await.unwrap();
    for path in ["/v1/files", "/v1/chat/completions"] {
        let length = PIECE * PIECES;
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: test\r\nauthorization: Bearer sk-none\r\ncontent-length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        for _ in 0..PIECES {
            tokio::time::sleep(Duration::from_millis(5)).await;
            stream.write_all(&[b'x'; PIECE]).await.unwrap();
        }
        let mut answer = Vec::new();
        while !String::from_utf8_lossy(&answer).contains("invalid_api_key") {
            assert_ne!(
                stream.read_buf(&mut answer).await.unwrap(),
                0,
                "{}",
                String::from_utf8_lossy(&answer)
            );
        }
        assert!(answer.starts_with(b"HTTP/1.1 401 "), "{}", String::from_utf8_lossy(&answer));
        while !answer.ends_with(b"}") {
            assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0);
        }
    }
}

/// Who asks before it sends is told no, and never asked for the body.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_client_that_waits_to_be_asked_is_not_asked() {
    let house = House::new().await;
    let mut stream = TcpStream::connect(house.client.address).await.unwrap();
    let head = "POST /v1/files HTTP/1.1\r\nhost: test\r\nconnection: close\r\nexpect: 100-continue\r\n\
        content-length: 1000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 401 "), "{}", String::from_utf8_lossy(&answer));
}
