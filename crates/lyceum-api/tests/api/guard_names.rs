//! Names that a model knows: on demand and in a project's policy. The tiny tagger of `fixtures/encoder`, whose findings
//! `transformers`' pipeline gave, takes most words for somebody.

use crate::client::ok;
use crate::guard::{POLICY, chat, house, said, set};
use crate::house::House;
use lyceum_types::ids::{KeyScope, Project};
use serde_json::{Value, json};

fn expected() -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/encoder/names.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn is_mark(c: char) -> bool {
    !c.is_alphanumeric()
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_those_of_transformers_pipeline_and_are_paid() {
    let house = House::new().await;
    house.import_encoder("bert_tokens").await;
    crate::ledger::priced(&house).await;
    let each = |row: Value| ["first", "simple"].map(|strategy| (strategy, row.clone()));
    for (strategy, row) in expected().into_iter().flat_map(each) {
        let text = row["text"].as_str().unwrap();
        let body = json!({"text": text, "ner_model": "bert_tokens", "score_threshold": 0.0,
            "aggregation_strategy": strategy});
        let found = ok(&house.client.post("/v1/pii/analyze", &body).await);
        let own: Vec<(&str, u64, u64)> = found
            .as_array()
            .unwrap()
            .iter()
            .map(|f| {
                (f["entity_type"].as_str().unwrap(), f["start"].as_u64().unwrap(), f["end"].as_u64().unwrap())
            })
            .collect();
        // A mark alone is nobody's name.
        let chars: Vec<char> = text.chars().collect();
        let theirs = row[strategy].as_array().unwrap().iter().filter(|group| {
            let at = |key: &str| group[key].as_u64().unwrap() as usize;
            !chars[at("start")..at("end")].iter().copied().all(is_mark)
        });
        let mut n = 0;
        for (group, own) in theirs.zip(&own) {
            let kind = if group["label"] == "PER" { "PERSON" } else { "LOCATION" };
            assert_eq!(
                (kind, group["start"].as_u64().unwrap(), group["end"].as_u64().unwrap()),
                *own,
                "{text}"
            );
            let score = found[n]["score"].as_f64().unwrap();
            assert!((score - group["score"].as_f64().unwrap()).abs() < 2e-3, "{text}: {found}");
            n += 1;
        }
        assert_eq!(n, own.len(), "{text}: {found}");
    }
    let rows = crate::ledger::rows(&house).await;
    let read: u64 = rows.values().map(|row| row.counts.input_tokens).sum();
    assert!(rows.len() == 2 * expected().len() && read > 80, "{read} tokens in {} rows", rows.len());
    let anonymous = json!({"text": "pia, a@b.de", "ner_model": "bert_tokens", "score_threshold": 0.2,
        "entities": ["PERSON", "LOCATION", "EMAIL_ADDRESS"]});
    let made = ok(&house.client.post("/v1/pii/anonymize", &anonymous).await);
    let text = made["text"].as_str().unwrap();
    assert!(text.ends_with("<EMAIL_ADDRESS>") && !text.contains("pia"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_masks_names_on_the_way_in_and_out_streamed_as_whole() {
    let house = house(json!({})).await;
    house.import_encoder("bert_tokens").await;
    let rule = |action: &str, types: Value| json!({"action": action, "types": types, "threshold": 0.2});
    set(&house, json!({"ner_model": "bert_tokens", "output": rule("redact", Value::Null)})).await;
    let body = chat("who?", "The cat eats fish. Is the cat a fish?");
    let (whole, streamed) = said(&house.client, &body).await;
    assert_eq!(whole, "<PERSON> <PERSON> <PERSON> <PERSON>. <PERSON> <PERSON> <LOCATION> <PERSON> <PERSON>?");
    assert_eq!(streamed, whole);
    set(&house, json!({"output": rule("mask", json!(["LOCATION"]))})).await;
    let (whole, streamed) = said(&house.client, &body).await;
    assert_eq!((whole.as_str(), &streamed), ("The cat eats fish. Is the <LOCATION_1> a fish?", &whole));
    set(&house, json!({"output": rule("off", Value::Null), "input": rule("mask", json!(["PERSON"]))})).await;
    let (whole, streamed) = said(&house.client, &chat("pia", "It is <PERSON_1>.")).await;
    assert_eq!((whole.as_str(), &streamed), ("It is pia.", &whole));
    set(&house, json!({"input": rule("redact", json!(["PERSON"]))})).await;
    let prompt = json!({"model": "tiny", "prompt": "pia", "max_tokens": 1, "echo": true});
    let echoed = ok(&house.client.post("/v1/completions", &prompt).await);
    assert!(echoed["choices"][0]["text"].as_str().unwrap().starts_with("<PERSON>"), "{echoed}");
    set(&house, json!({"input": rule("block", json!(["PERSON"]))})).await;
    let refused = house.client.post("/v1/completions", &prompt).await;
    assert_eq!(refused.refused(400).1, "guard_blocked");
    // Without its model no text passes.
    let names = "bert_tokens@1".parse().unwrap();
    let store = house.service.store();
    let version = lyceum_store::models::resolve(store, &Project::default_project(), &names).await.unwrap();
    house.service.forget(std::slice::from_ref(&version));
    std::fs::remove_file(version.dir.join("model.safetensors").path()).unwrap();
    assert_eq!(house.client.post("/v1/completions", &prompt).await.refused(503).1, "guard_failed");
    set(&house, json!({"input": {"action": "off"}, "ner_model": null})).await;
    ok(&house.client.post("/v1/completions", &prompt).await);
}

/// What a route makes of a text at temperature 0, whole or streamed, and how many tokens its model read.
async fn read(house: &House, path: &str, text: &str, stream: bool) -> (String, u64) {
    let mut body = match path {
        "/v1/completions" => json!({"prompt": text, "max_tokens": 12}),
        "/v1/chat/completions" => json!({"messages": [{"role": "user", "content": text}], "max_tokens": 12}),
        _ => json!({"input": text, "max_output_tokens": 12}),
    };
    (body["model"], body["temperature"]) = (json!("tiny"), json!(0));
    let mut events = Vec::new();
    if stream {
        body["stream"] = json!(true);
        if path != "/v1/responses" {
            body["stream_options"] = json!({"include_usage": true});
        }
        let answer = house.client.post(path, &body).await;
        let data = answer.text().lines().filter_map(|line| line.strip_prefix("data: "));
        events.extend(data.filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).unwrap()));
    } else {
        events.push(ok(&house.client.post(path, &body).await));
    }
    let (mut said, mut n_read) = (String::new(), 0);
    for event in &events {
        let choice = &event["choices"][0];
        let whole =
            [&choice["text"], &choice["message"]["content"], &event["output"][0]["content"][0]["text"]];
        let parts = whole.into_iter().chain([&choice["delta"]["content"], &event["delta"]]);
        said.extend(parts.filter_map(Value::as_str));
        let usage = if event["usage"].is_object() { &event["usage"] } else { &event["response"]["usage"] };
        n_read = usage["prompt_tokens"].as_u64().or(usage["input_tokens"].as_u64()).unwrap_or(n_read);
    }
    (said, n_read)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_reads_the_masked_names_on_every_route_streamed_or_not() {
    let off = json!({"input": {"action": "off"}});
    let house = house(json!({})).await;
    house.import_encoder("bert_tokens").await;
    let text = "Is the cat a fish?";
    for (action, by_hand) in [
        ("mask", "<PERSON_1> <PERSON_2> <LOCATION_1> <PERSON_3> <PERSON_4>?"),
        ("redact", "<PERSON> <PERSON> <LOCATION> <PERSON> <PERSON>?"),
    ] {
        let rule = json!({"action": action, "types": ["PERSON", "LOCATION"], "threshold": 0.2});
        for path in ["/v1/completions", "/v1/chat/completions", "/v1/responses"] {
            for stream in [false, true] {
                set(&house, off.clone()).await;
                let (_, open) = read(&house, path, text, stream).await;
                let expected = read(&house, path, by_hand, stream).await;
                set(&house, json!({"input": rule, "ner_model": "bert_tokens"})).await;
                let guarded = read(&house, path, text, stream).await;
                assert_eq!(guarded, expected, "{action} {path} {stream}");
                assert!(guarded.1 > open && !guarded.0.is_empty(), "{action} {path} {stream}: {guarded:?}");
            }
        }
    }
    // What counts the tokens of the text that came is refused.
    for asked in [json!({"logprobs": 1}), json!({"prompt_logprobs": 1})] {
        let mut body = json!({"model": "tiny", "prompt": text, "max_tokens": 1});
        body.as_object_mut().unwrap().extend(asked.as_object().unwrap().clone());
        assert_eq!(house.client.post("/v1/completions", &body).await.refused(400).1, "guard_unplaceable");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_without_a_model_that_knows_them_are_refused() {
    let house = House::new().await;
    house.import_encoder("bert").await;
    let body = json!({"text": "a", "entities": ["PERSON"]});
    assert_eq!(house.client.post("/v1/pii/analyze", &body).await.refused(501).0, "entities");
    let body = json!({"text": "a", "anonymizers": {"PERSON": {"type": "redact"}}});
    assert_eq!(house.client.post("/v1/pii/anonymize", &body).await.refused(501).0, "anonymizers");
    let body = json!({"text": "a", "ner_model": "bert", "aggregation_strategy": "max"});
    assert_eq!(house.client.post("/v1/pii/analyze", &body).await.refused(501).0, "aggregation_strategy");
    let body = json!({"text": "a", "ner_model": "bert"});
    assert_eq!(house.client.post("/v1/pii/analyze", &body).await.refused(400).1, "unsupported_model");
    let (_, admin) = house.admin("default", &[KeyScope::OrganizationWrite], None).await;
    for (policy, status) in [
        (json!({"input": {"action": "mask", "types": ["PERSON"]}}), 501),
        (json!({"input": {"action": "mask", "types": ["PERSON"]}, "ner_model": "bert"}), 400),
        (json!({"input": {"action": "mask"}, "ner_model": "nobody"}), 404),
        (json!({"input": {"action": "mask"}, "ner_model": "no model"}), 400),
    ] {
        assert_eq!(admin.post(POLICY, &policy).await.status, status, "{policy}");
    }
}
