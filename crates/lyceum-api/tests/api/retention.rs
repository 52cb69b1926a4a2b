//! What a project or an organisation wants kept of what it asks: zero data retention, and nothing of it on the disk.

use crate::client::{ok, text_of};
use crate::files::bring;
use crate::house::{House, labels, text};
use crate::tenancy::{ALL, DEFAULT, account_key, admin, new_project};
use serde_json::json;
use std::path::Path;

/// Whether any file below `dir` holds `bytes`.
fn somewhere(dir: &Path, bytes: &[u8]) -> Option<std::path::PathBuf> {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let found = match path.is_dir() {
            true => somewhere(&path, bytes),
            false => std::fs::read(&path)
                .unwrap()
                .windows(bytes.len())
                .any(|window| window == bytes)
                .then_some(path),
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn zero_data_retention_refuses_by_name_what_would_be_kept() {
    let house = House::new().await;
    house.publish_poet("poet").await;
    house
        .publish(
            "words",
            "classification",
            "family = \"lstm\"\nhead = \"last\"\nhidden_size = 5\nembedding_dim = 3",
            text(labels(&["no", "yes"])),
        )
        .await;
    let admin = admin(&house).await;
    let retention = format!("{DEFAULT}/data_retention");
    assert_eq!(ok(&admin.get(&retention).await)["type"], "organization_default");
    assert_eq!(ok(&admin.get(&format!("{ALL}/data_retention")).await)["type"], "modified_abuse_monitoring");
    for kind in ["enhanced_zero_data_retention", "enhanced_modified_abuse_monitoring"] {
        assert_eq!(
            admin.post(&retention, &json!({"retention_type": kind})).await.refused(501).0,
            "retention_type"
        );
    }
    assert_eq!(
        admin.post(&format!("{ALL}/data_retention"), &json!({"retention_type": "none"})).await.status,
        400
    );
    // The other canary shows that the search would find one.
    let client = &house.client;
    bring(client, "rows.csv", b"a,b\nlooked_for_and_found,1\n").await;
    assert!(somewhere(house.dir.path(), b"looked_for_and_found").is_some());

    ok(&admin
        .post(&format!("{ALL}/data_retention"), &json!({"retention_type": "zero_data_retention"}))
        .await);
    let canary = "canary_abcdefgh";
    let zero = "zero_data_retention".to_owned();
    let refused = [
        ("/v1/responses", json!({"model": "poet", "input": canary, "store": true}), "store"),
        ("/v1/responses", json!({"model": "poet", "input": canary, "background": true}), "background"),
        ("/v1/explanations", json!({"model": "words", "input": canary, "background": true}), "background"),
        ("/v1/model_selections", json!({"task": "classification", "data": {"train": canary}}), "data"),
    ];
    for (path, body, param) in refused {
        assert_eq!(
            client.post(path, &body).await.refused(400),
            (param.to_owned(), zero.clone()),
            "{path} {body}"
        );
    }
    let form = crate::files::form(
        "b",
        &[("purpose", None, b"user_data"), ("file", Some("x.csv"), canary.as_bytes())],
    );
    let kind = [("content-type", "multipart/form-data; boundary=b")];
    assert_eq!(
        client.send("POST", "/v1/files", &kind, form).await.refused(400),
        ("file".into(), zero.clone())
    );
    let write = json!({"model": "poet", "prompt": "abc", "max_tokens": 3, "user": canary}).to_string();
    let once = client.send("POST", "/v1/completions", &[("idempotency-key", canary)], &write).await;
    assert_eq!(once.refused(400), ("Idempotency-Key".into(), zero));
    // What keeps nothing works, and its answer is not there to be asked for again.
    assert_eq!(client.send("POST", "/v1/completions", &[], &write).await.status, 200);
    let decide = json!({"model": "words", "input": canary, "questions": [{"type": "predicate", "instructions": "yes"}]});
    assert_eq!(client.post("/v1/decisions", &decide).await.status, 200);
    let explained = ok(&client.post("/v1/explanations", &json!({"model": "words", "input": canary})).await);
    let again = client.get(&format!("/v1/explanations/{}", text_of(&explained["id"]))).await;
    assert_eq!(again.refused(404).1, "not_found");
    house.service.store().close().await;
    assert_eq!(somewhere(house.dir.path(), canary.as_bytes()), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_projects_own_word_stands_above_the_organisations() {
    let house = House::new().await;
    let admin = admin(&house).await;
    let zero = json!({"retention_type": "zero_data_retention"});
    ok(&admin.post(&format!("{ALL}/data_retention"), &zero).await);
    ok(&admin.post(&format!("{DEFAULT}/data_retention"), &json!({"retention_type": "none"})).await);
    bring(&house.client, "rows.csv", b"a,b\n1,2\n").await;
    let other = account_key(&admin, &new_project(&admin, "other").await).await;
    let kind = [("content-type", "multipart/form-data; boundary=b")];
    let answer = other.send("POST", "/v1/files", &kind, crate::files::form("b", &[])).await;
    assert_eq!(answer.refused(400).1, "zero_data_retention");
}
