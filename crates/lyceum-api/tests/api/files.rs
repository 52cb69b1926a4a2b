//! `/v1/files` as OpenAI's clients use it, and every way that a form is refused.

use crate::client::{Answer, Client};
use crate::house::House;
use lyceum_types::ids::KeyScope;
use serde_json::{Value, json};

const BOUNDARY: &str = "3c9f0a7be5d24c1e";

/// A part of a form: its name, a file name where it is a file, and its bytes.
type Part<'a> = (&'a str, Option<&'a str>, &'a [u8]);

/// A form as clients write it.
pub fn form(boundary: &str, parts: &[Part<'_>]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, file, bytes) in parts {
        let file = file.map_or_else(String::new, |file| format!("; filename=\"{file}\""));
        let head = format!("--{boundary}\r\ncontent-disposition: form-data; name=\"{name}\"{file}\r\n\r\n");
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(bytes);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    body
}

async fn post(client: &Client, parts: &[Part<'_>]) -> Answer {
    send(client, BOUNDARY, parts, &[]).await
}

async fn send(client: &Client, boundary: &str, parts: &[Part<'_>], more: &[(&str, &str)]) -> Answer {
    let kind = format!("multipart/form-data; boundary={boundary}");
    let headers = [&[("content-type", kind.as_str())], more].concat();
    client.send("POST", "/v1/files", &headers, form(boundary, parts)).await
}

/// Brings a table and returns its id.
pub async fn bring(client: &Client, name: &str, bytes: &[u8]) -> String {
    let answer = post(client, &[("purpose", None, b"user_data"), ("file", Some(name), bytes)]).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_comes_is_listed_given_back_and_removed() {
    let house = House::new().await;
    let client = &house.client;
    let empty = json!({ "object": "list", "data": [], "first_id": "", "last_id": "", "has_more": false });
    assert_eq!(client.get("/v1/files").await.json(), empty);
    // Larger than any other body, and bytes that are no text.
    let bytes: Vec<u8> = (0..20u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let id = bring(client, "weights.bin", &bytes).await;
    let file = client.get(&format!("/v1/files/{id}")).await.json();
    assert_eq!(
        (&file["object"], &file["filename"], &file["purpose"], &file["bytes"], &file["status"]),
        (&json!("file"), &json!("weights.bin"), &json!("user_data"), &json!(20 << 20), &json!("processed"))
    );
    assert_eq!(file.get("expires_at"), None);
    let content = client.get(&format!("/v1/files/{id}/content")).await;
    assert_eq!(content.header("content-length"), Some("20971520"));
    assert!(content.body == bytes);
    let second = bring(client, "rows.csv", b"a,b\n1,2\n").await;
    let listed = client.get("/v1/files?limit=1").await.json();
    assert_eq!((&listed["data"][0]["id"], &listed["has_more"]), (&json!(second), &json!(true)));
    let next = client.get(&format!("/v1/files?limit=1&after={second}")).await.json();
    assert_eq!((&next["first_id"], &next["has_more"]), (&json!(id), &json!(false)));
    assert_eq!(client.get("/v1/files?order=asc").await.json()["last_id"], json!(second));
    assert_eq!(client.get("/v1/files?purpose=evals").await.json(), empty);
    for (query, param) in
        [("limit=0", "limit"), ("order=up", "order"), ("after=x", "after"), ("page=2", "page")]
    {
        assert_eq!(client.get(&format!("/v1/files?{query}")).await.refused(400).0, param, "{query}");
    }
    let removed = client.send("DELETE", &format!("/v1/files/{id}"), &[], "").await;
    assert_eq!(removed.json(), json!({ "id": id, "object": "file", "deleted": true }));
    for path in [format!("/v1/files/{id}"), format!("/v1/files/{id}/content"), "/v1/files/..%2Fx".into()] {
        client.get(&path).await.refused(404);
    }
    client.send("DELETE", &format!("/v1/files/{id}"), &[], "").await.refused(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_wrong_form_is_refused_by_name_and_leaves_nothing() {
    let house = House::new().await;
    let client = &house.client;
    let file: Part<'_> = ("file", Some("rows.csv"), b"a\n1\n");
    let user: Part<'_> = ("purpose", None, b"user_data");
    let anchor: Part<'_> = ("expires_after[anchor]", None, b"created_at");
    let seconds = |text: &'static str| -> Part<'static> { ("expires_after[seconds]", None, text.as_bytes()) };
    let cases: [(&[Part<'_>], u16, &str); 14] = [
        (&[file], 400, "purpose"),
        (&[user], 400, "file"),
        (&[("purpose", None, b"games"), file], 400, "purpose"),
        (&[("purpose", None, b"batch"), file], 400, "file"),
        (&[("purpose", None, b"batch_output"), file], 400, "purpose"),
        (&[("purpose", None, b"vision"), file], 400, "file"),
        (&[user, file, file], 400, "file"),
        (&[user, user, file], 400, "purpose"),
        (&[user, ("file", None, b"a\n1\n")], 400, "file"),
        (&[user, ("file", Some("rows.csv"), b"")], 400, "file"),
        (&[user, file, ("model", None, b"x")], 400, "model"),
        (&[user, file, anchor], 400, "expires_after.seconds"),
        (&[user, file, anchor, seconds("60")], 400, "expires_after.seconds"),
        (
            &[user, file, ("expires_after[anchor]", None, b"last_active_at"), seconds("3600")],
            400,
            "expires_after.anchor",
        ),
    ];
    for (parts, status, param) in cases {
        assert_eq!(post(client, parts).await.refused(status).0, param, "{parts:?}");
    }
    client.post("/v1/files", &json!({ "purpose": "user_data" })).await.refused(415);
    let cut = &form(BOUNDARY, &[user, file])[..120];
    let kind = format!("multipart/form-data; boundary={BOUNDARY}");
    let answer = client.send("POST", "/v1/files", &[("content-type", &kind)], cut).await;
    assert_eq!(answer.refused(400).1, "invalid_form");
    assert_eq!(client.get("/v1/files").await.json()["data"], json!([]));
    let kept = post(client, &[file, user, anchor, seconds("3600")]).await.json();
    let lives = kept["expires_at"].as_i64().unwrap() - kept["created_at"].as_i64().unwrap();
    assert_eq!(lives, 3600);
    let staging = std::fs::read_dir(house.dir.path().join("staging")).unwrap().count();
    assert_eq!(staging, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_form_under_one_key_is_one_file_whatever_its_boundary() {
    let house = House::new().await;
    let key = [("idempotency-key", "once")];
    let parts: [Part<'_>; 2] = [("purpose", None, b"evals"), ("file", Some("rows.csv"), b"a\n1\n")];
    let first = send(&house.client, "one", &parts, &key).await;
    let again = send(&house.client, "two", &parts, &key).await;
    assert_eq!((first.status, &first.body), (200, &again.body));
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    let other: [Part<'_>; 2] = [parts[0], ("file", Some("rows.csv"), b"a\n2\n")];
    assert_eq!(send(&house.client, "one", &other, &key).await.refused(409).1, "idempotency_key_reused");
    assert_eq!(house.client.get("/v1/files").await.json()["data"].as_array().map(Vec::len), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_in_the_middle_leaves_nothing() {
    let house = House::new().await;
    let kind = format!("multipart/form-data; boundary={BOUNDARY}");
    let body = form(BOUNDARY, &[("purpose", None, b"user_data"), ("file", Some("x.csv"), &[b'1'; 1 << 20])]);
    use tokio::io::AsyncWriteExt;
    let mut stream = tokio::net::TcpStream::connect(house.client.address).await.unwrap();
    let head = format!(
        "POST /v1/files HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n",
        house.client.key.as_deref().unwrap(),
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&body[..body.len() / 2]).await.unwrap();
    stream.flush().await.unwrap();
    let staging = || std::fs::read_dir(house.dir.path().join("staging")).unwrap().count();
    for _ in 0..200 {
        if staging() > 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(staging() > 0, "the upload has begun");
    drop(stream);
    for _ in 0..500 {
        if staging() == 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(staging(), 0);
    let (_, metrics) = house.key(&[KeyScope::Metrics], None).await;
    let mut stranger = house.client.clone();
    stranger.key = Some(metrics);
    post(&stranger, &[("purpose", None, b"user_data"), ("file", Some("x.csv"), b"1")]).await.refused(403);
    assert_eq!(house.client.get("/v1/files").await.json()["data"], Value::from(Vec::<Value>::new()));
}
