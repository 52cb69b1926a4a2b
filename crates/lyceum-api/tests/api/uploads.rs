//! `/v1/uploads`, and what a file must be for its purpose.

use crate::batches::bring;
use crate::client::{Answer, Client};
use crate::files::form;
use crate::house::House;
use serde_json::{Value, json};

const BOUNDARY: &str = "5d0c3e9b7f1a2846";

async fn part(client: &Client, upload: &str, bytes: &[u8]) -> Answer {
    let kind = format!("multipart/form-data; boundary={BOUNDARY}");
    let body = form(BOUNDARY, &[("data", Some("part"), bytes)]);
    client
        .send("POST", &format!("/v1/uploads/{upload}/parts"), &[("content-type", kind.as_str())], body)
        .await
}

async fn begin(client: &Client, purpose: &str, bytes: usize) -> String {
    let body = json!({"bytes": bytes, "filename": "all.jsonl", "mime_type": "application/jsonl", "purpose": purpose});
    let answer = client.post("/v1/uploads", &body).await;
    assert_eq!(
        (answer.status, answer.json()["status"].as_str()),
        (200, Some("pending")),
        "{}",
        answer.text()
    );
    let body = answer.json();
    assert_eq!(body["expires_at"].as_i64().unwrap() - body["created_at"].as_i64().unwrap(), 3600);
    body["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_become_a_file_with_their_md5() {
    let house = House::new().await;
    let client = &house.client;
    let upload = begin(client, "user_data", 10).await;
    let mut ids = Vec::new();
    for bytes in ["world", "hello"] {
        let answer = part(client, &upload, bytes.as_bytes()).await.json();
        assert_eq!((&answer["object"], &answer["upload_id"]), (&json!("upload.part"), &json!(upload)));
        ids.insert(0, answer["id"].clone());
    }
    assert_eq!(part(client, &upload, b"!").await.refused(400).1, "too_many_bytes");
    let complete = async |body: Value| client.post(&format!("/v1/uploads/{upload}/complete"), &body).await;
    assert_eq!(complete(json!({"part_ids": ids, "md5": "00"})).await.refused(400).1, "wrong_md5");
    assert_eq!(complete(json!({"part_ids": [ids[0]]})).await.refused(400).1, "wrong_number_of_bytes");
    let done = complete(json!({"part_ids": ids, "md5": "fc5e038d38a57032085441e7fe7010b0"})).await;
    assert_eq!((done.status, &done.json()["status"]), (200, &json!("completed")), "{}", done.text());
    let file = done.json()["file"].clone();
    assert_eq!(
        (&file["object"], &file["bytes"], &file["filename"]),
        (&json!("file"), &json!(10), &json!("all.jsonl"))
    );
    let content = client.get(&format!("/v1/files/{}/content", file["id"].as_str().unwrap())).await;
    assert_eq!(content.body, b"helloworld");
    assert_eq!(complete(json!({"part_ids": ids})).await.refused(400).1, "upload_not_pending");
    assert_eq!(part(client, &upload, b"!").await.refused(400).1, "upload_not_pending");

    let upload = begin(client, "user_data", 5).await;
    part(client, &upload, b"hello").await;
    let cancelled = client.send("POST", &format!("/v1/uploads/{upload}/cancel"), &[], "").await;
    assert_eq!((cancelled.status, &cancelled.json()["status"]), (200, &json!("cancelled")));
    assert_eq!(part(client, &upload, b"hello").await.refused(400).1, "upload_not_pending");
    assert_eq!(part(client, "upload_0", b"hello").await.status, 404);
    // What has come is judged as a file that comes whole.
    let upload = begin(client, "batch", 5).await;
    let id = part(client, &upload, b"nope\n").await.json()["id"].clone();
    let refused = client.post(&format!("/v1/uploads/{upload}/complete"), &json!({"part_ids": [id]})).await;
    assert_eq!(refused.refused(400), ("file".into(), "invalid_file".into()));
    let folder = house.service.store().layout().uploads(&lyceum_types::ids::Project::default_project());
    let said = std::fs::read_to_string(folder.join(&upload).join("upload.json")).unwrap();
    assert!(!said.contains("\"file\":") && !said.contains("made_of"), "it becomes no file: {said}");
    let large = json!({"bytes": 9u64 << 30, "filename": "a", "mime_type": "a/b", "purpose": "evals"});
    assert_eq!(client.post("/v1/uploads", &large).await.refused(400).0, "bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_file_was_made_before_its_process_died_is_complete() {
    let house = House::new().await;
    let client = &house.client;
    let upload = begin(client, "user_data", 5).await;
    let id = part(client, &upload, b"hello").await.json()["id"].clone();
    let ids = json!({"part_ids": [id]});
    let complete = async || client.post(&format!("/v1/uploads/{upload}/complete"), &ids).await;
    let done = complete().await.json();
    // As its folder was between the file and the word that it is complete; the parts may be gone.
    let store = house.service.store();
    let folder = store.layout().uploads(&lyceum_types::ids::Project::default_project());
    let path = folder.join(&upload).join("upload.json");
    let said = std::fs::read_to_string(&path).unwrap();
    let before = said.replace("\"status\":\"completed\"", "\"status\":\"pending\"");
    assert_ne!(before, said);
    std::fs::write(&path, &before).unwrap();
    let again = complete().await;
    assert_eq!((again.status, again.json()), (200, done));
    assert_eq!(client.get("/v1/files").await.json()["data"].as_array().unwrap().len(), 1);
    // Who asks for other bytes is not told that these are theirs.
    for other in [json!({"part_ids": [id], "md5": "00"}), json!({"part_ids": [id, id]})] {
        std::fs::write(&path, &before).unwrap();
        let refused = client.post(&format!("/v1/uploads/{upload}/complete"), &other).await;
        assert_eq!(refused.refused(400).1, "upload_not_pending", "{other}");
    }
    std::fs::write(&path, &before).unwrap();
    let late = client.send("POST", &format!("/v1/uploads/{upload}/cancel"), &[], "").await;
    assert_eq!(late.refused(400).1, "upload_not_pending", "it has a file");
    std::fs::write(&path, &before).unwrap();
    assert_eq!(part(client, &upload, b"!").await.refused(400).1, "upload_not_pending");
    assert_eq!(complete().await.refused(400).1, "upload_not_pending", "it is over");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_judged_by_their_purpose_with_every_error_at_its_line() {
    let house = House::new().await;
    let client = &house.client;
    let problems = async |purpose: &str, name: &str, bytes: &[u8]| {
        let answer = bring(client, purpose, name, bytes).await;
        assert_eq!(answer.refused(400), ("file".into(), "invalid_file".into()));
        answer.json()["error"]["problems"].clone()
    };
    let chat = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    let pair = r#"{"prompt": "a", "completion": "b"}"#;
    assert_eq!(bring(client, "fine-tune", "a.jsonl", format!("{chat}\n").as_bytes()).await.status, 200);
    let text =
        format!("\u{feff}{chat}\n\n{{\"messages\": [\n{pair}\n{}\n", chat.replace("assistant", "robot"));
    let told = problems("fine-tune", "a.jsonl", text.as_bytes()).await;
    let errors = told["errors"].as_array().unwrap();
    let codes: Vec<(i64, &str)> =
        errors.iter().map(|e| (e["line"].as_i64().unwrap(), e["code"].as_str().unwrap())).collect();
    let expected = [(1, "byte_order_mark"), (2, "blank_line"), (3, "invalid_json"), (4, "mixed_formats")];
    assert_eq!(codes[..4], expected, "{told}");
    assert!(codes[4..].iter().all(|(line, _)| *line == 5) && codes.len() > 4);
    assert!(errors.iter().all(|e| e["hint"].as_str().is_some_and(|hint| !hint.is_empty())));
    assert!(errors[4]["pointer"].as_str().unwrap().starts_with("/messages"), "{told}");

    // The last of two would be learnt, and the first told as if it were there.
    let twice = format!("{chat}\n{}\n", chat.replace("{\"messages\"", "{\"messages\": [], \"messages\""));
    let told = problems("fine-tune", "a.jsonl", twice.as_bytes()).await;
    let one = &told["errors"][0];
    assert_eq!(told["counts"], json!({"duplicate_key": 1}), "{told}");
    assert_eq!((&one["line"], &one["pointer"]), (&json!(2), &json!("/messages")));
    assert!(one["hint"].as_str().unwrap().contains("keep one"), "{told}");

    for purpose in ["fine-tune", "batch"] {
        let told = problems(purpose, "a.jsonl", "nope\n".repeat(10_000).as_bytes()).await;
        assert_eq!(
            (told["errors"].as_array().unwrap().len(), &told["counts"]),
            (100, &json!({"invalid_json": 10_000}))
        );
        assert!(told["errors"][1]["message"].as_str().unwrap().contains("(byte 6 of the file)"), "{told}");
    }
    let png = b"\x89PNG\r\n\x1a\n....";
    assert_eq!(bring(client, "vision", "a.png", png).await.status, 200);
    assert_eq!(bring(client, "vision", "a.png", b"nope").await.refused(400).1, "invalid_image");
    assert_eq!(bring(client, "assistants", "a.txt", b"words").await.status, 200);
    assert_eq!(bring(client, "batch_output", "a.txt", b"words").await.refused(400).0, "purpose");
    assert_eq!(
        client.get("/v1/files").await.json()["data"].as_array().unwrap().len(),
        3,
        "what is wrong is not kept"
    );
}
