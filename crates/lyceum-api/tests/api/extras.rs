//! What other people's clients send beside the contracts' core: raw bytes behind the JSON of a tensor request
//! (tritonclient), and vLLM's extras on completions (Captum, evaluation harnesses).

use crate::client::Answer;
use crate::house::House;
use serde_json::{Value, json};

const HEADER: &str = "inference-header-content-length";

/// JSON with raw bytes behind it, as tritonclient sends it.
async fn infer(house: &House, json: &Value, raw: &[u8], more: &[(&str, &str)]) -> Answer {
    let json = json.to_string();
    let length = json.len().to_string();
    let mut headers = vec![(HEADER, length.as_str()), ("content-type", "application/octet-stream")];
    headers.extend(more);
    let body = [json.as_bytes(), raw].concat();
    house.client.send("POST", "/v2/models/flowers/infer", &headers, body).await
}

/// The JSON of an answer and the raw bytes behind it.
fn parted(answer: &Answer) -> (Value, &[u8]) {
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    let length: usize = answer.header(HEADER).unwrap().parse().unwrap();
    (serde_json::from_slice(&answer.body[..length]).unwrap(), &answer.body[length..])
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn tensors_travel_as_raw_bytes_both_ways() {
    let house = House::new().await;
    house.publish_table("flowers").await;
    assert_eq!(house.client.get("/v2").await.json()["extensions"], json!(["binary_tensor_data"]));
    let plain =
        json!({"inputs": [{"name": "input", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]}]});
    let plain = house.client.post("/v2/models/flowers/infer", &plain).await.json();
    let raw: Vec<u8> = [1f32, 2.0, 3.0, 4.0].into_iter().flat_map(f32::to_le_bytes).collect();
    let input =
        json!({"name": "input", "shape": [2, 2], "datatype": "FP32", "parameters": {"binary_data_size": 16}});

    // Raw bytes in, JSON out: nothing asks for more.
    let answer = infer(&house, &json!({"inputs": [input]}), &raw, &[]).await;
    assert_eq!((answer.header(HEADER), answer.json()), (None, plain.clone()));

    // All outputs raw, unless an output says otherwise.
    let body = json!({"inputs": [input], "parameters": {"binary_data_output": true}});
    let answer = infer(&house, &body, &raw, &[]).await;
    let (json, bytes) = parted(&answer);
    let wanted: Vec<f32> = serde_json::from_value(plain["outputs"][0]["data"].clone()).unwrap();
    let (probabilities, labels) = bytes.split_at(16);
    assert_eq!(f32s(probabilities), wanted);
    let texts: Vec<u8> = plain["outputs"][1]["data"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|label| {
            let text = label.as_str().unwrap();
            [&(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
        })
        .collect();
    assert_eq!(labels, texts);
    assert_eq!(json["outputs"][0]["parameters"], json!({"binary_data_size": 16}));
    assert_eq!(json["outputs"][1]["parameters"], json!({"binary_data_size": texts.len()}));
    assert!(json["outputs"][0]["data"].is_null());
    let outputs = json!([{"name": "probabilities", "parameters": {"binary_data": true}},
        {"name": "label", "parameters": {"binary_data": false}}]);
    let body = json!({"inputs": [input], "outputs": outputs, "id": "7"});
    let answer = infer(&house, &body, &raw, &[]).await;
    let (json, bytes) = parted(&answer);
    assert_eq!((&json["id"], &json["outputs"][1]["data"]), (&json!("7"), &plain["outputs"][1]["data"]));
    assert_eq!(f32s(bytes), wanted);

    // Kept under a key, it is given again with its header.
    let key = [("idempotency-key", "once")];
    let first = infer(&house, &body, &raw, &key).await;
    let again = infer(&house, &body, &raw, &key).await;
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!((again.header(HEADER), &again.body), (first.header(HEADER), &first.body));
    assert_eq!(first.body, answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_bytes_that_do_not_fit_are_refused_by_their_field() {
    let house = House::new().await;
    house.publish_table("flowers").await;
    let input = |size: u64| json!({"name": "input", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": size}});
    let nan: Vec<u8> = [1.0, f32::NAN].into_iter().flat_map(f32::to_le_bytes).collect();
    let size = "inputs[0].parameters.binary_data_size";
    let both = json!({"name": "input", "shape": [1, 2], "datatype": "FP32", "data": [1, 2],
        "parameters": {"binary_data_size": 8}});
    let neither = json!({"name": "input", "shape": [1, 2], "datatype": "FP32"});
    let length = "Inference-Header-Content-Length";
    for (input, raw, param) in [
        (input(4), &[0; 4][..], size),
        (input(8), &[0; 7], size),
        (input(u64::MAX), &[0; 8], size),
        (input(8), &[0; 9], length),
        (input(8), &nan, "inputs[0].data[1]"),
        (both, &[0; 8], size),
        (neither, &[], "inputs[0].data"),
    ] {
        let answer = infer(&house, &json!({"inputs": [input]}), raw, &[]).await;
        assert_eq!(answer.refused(400).0, param, "{input}");
    }
    // Bytes are spoken of, and none can be there.
    let body = json!({"inputs": [input(8)]});
    assert_eq!(house.client.post("/v2/models/flowers/infer", &body).await.refused(400).0, size);
    let packed = infer(&house, &body, &[0; 8], &[("content-encoding", "gzip")]).await;
    assert_eq!(packed.refused(415).0, "Content-Encoding");
    for value in ["x", "-1", "100000"] {
        let body = body.to_string();
        let answer = house.client.send("POST", "/v2/models/flowers/infer", &[(HEADER, value)], body).await;
        assert_eq!(answer.refused(400).0, length, "{value}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_are_scored_and_token_ids_given_as_vllm_does() {
    let house = House::new().await;
    house.publish_poet("poet").await;
    let ask = async |more: Value| {
        let mut body = json!({"model": "poet", "max_tokens": 4, "temperature": 0});
        more.as_object().unwrap().iter().for_each(|(key, value)| body[key] = value.clone());
        house.client.post("/v1/completions", &body).await
    };
    let echoed = ask(json!({"prompt": "abc", "echo": true, "logprobs": 3})).await.json();
    let answer = ask(json!({"prompt": "abc", "prompt_logprobs": 3, "return_token_ids": true})).await.json();
    let choice = &answer["choices"][0];
    // The same numbers as the echo's, apart from the text.
    let whole = echoed["choices"][0]["text"].as_str().unwrap();
    assert_eq!(whole, format!("abc{}", choice["text"].as_str().unwrap()));
    let scored = choice["prompt_logprobs"].as_array().unwrap();
    assert_eq!((scored.len(), &scored[0]), (3, &Value::Null));
    let ids = choice["prompt_token_ids"].as_array().unwrap();
    for (i, entry) in scored.iter().enumerate().skip(1) {
        let entries: Vec<(&String, &Value)> = entry.as_object().unwrap().iter().collect();
        // The prompt's own token stands first, whatever its rank.
        assert_eq!(*entries[0].0, ids[i].to_string());
        assert_eq!(entries[0].1["decoded_token"], echoed["choices"][0]["logprobs"]["tokens"][i]);
        assert_eq!(entries[0].1["logprob"], echoed["choices"][0]["logprobs"]["token_logprobs"][i]);
        assert!((3..=4).contains(&entries.len()), "{entry}");
        let mut by_rank: Vec<(u64, f64)> = entries
            .iter()
            .map(|(_, value)| (value["rank"].as_u64().unwrap(), value["logprob"].as_f64().unwrap()))
            .collect();
        by_rank.sort_by_key(|(rank, _)| *rank);
        assert_eq!(by_rank[..3].iter().map(|(rank, _)| *rank).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(by_rank.is_sorted_by(|a, b| a.1 >= b.1), "{entry}");
    }
    let made = choice["token_ids"].as_array().unwrap();
    assert_eq!(made.len() as u64, answer["usage"]["completion_tokens"].as_u64().unwrap());
    // The ids are a prompt again.
    let again = ask(json!({"prompt": ids, "return_token_ids": true})).await.json();
    assert_eq!(again["choices"][0]["token_ids"], choice["token_ids"]);
    assert!(again["choices"][0].get("prompt_logprobs").is_none());
    // Scoring only, a list of prompts, none but the prompt's own tokens.
    let answer =
        ask(json!({"prompt": [[0, 1], [2, 1, 0]], "max_tokens": 0, "prompt_logprobs": 0})).await.json();
    for (i, n) in [(0, 2), (1, 3)] {
        let scored = answer["choices"][i]["prompt_logprobs"].as_array().unwrap();
        assert_eq!(scored.len(), n);
        assert!(scored[1..].iter().all(|entry| entry.as_object().unwrap().len() == 1), "{answer}");
        assert_eq!(answer["choices"][i]["text"], "");
    }
    // In a stream the ids come with their pieces, those of the prompt with the first.
    let mut body =
        json!({"model": "poet", "max_tokens": 4, "temperature": 0, "prompt": "abc", "stream": true});
    body["return_token_ids"] = json!(true);
    let events = house.client.post("/v1/completions", &body).await.events();
    let events: Vec<Value> =
        events.iter().filter(|e| *e != "[DONE]").map(|e| serde_json::from_str(e).unwrap()).collect();
    assert_eq!(events[0]["choices"][0]["prompt_token_ids"], json!(ids));
    assert!(events[1..].iter().all(|event| event["choices"][0].get("prompt_token_ids").is_none()));
    let streamed: Vec<Value> =
        events.iter().flat_map(|e| e["choices"][0]["token_ids"].as_array().unwrap().clone()).collect();
    assert_eq!(&streamed, made);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_that_begins_a_document_is_never_said() {
    let house = House::new().await;
    // Nine characters, then the token that begins a document.
    house.publish_poet("poet").await;
    let body = json!({"model": "poet", "prompt": "a", "max_tokens": 20, "n": 64, "temperature": 2, "seed": 1,
        "logprobs": 5, "return_token_ids": true});
    let answer = house.client.post("/v1/completions", &body).await.json();
    let mut said = [0; 9];
    for choice in answer["choices"].as_array().unwrap() {
        for id in choice["token_ids"].as_array().unwrap() {
            said[id.as_u64().unwrap() as usize] += 1;
        }
        assert!(!choice["logprobs"].to_string().contains("<bos>"), "{choice}");
    }
    assert!(said.iter().all(|&n| n > 0), "{said:?}: the others all are");
    // Probabilities are those among what can be said: they sum to one.
    let body = json!({"model": "poet", "prompt": [9, 0, 9], "max_tokens": 0, "prompt_logprobs": 20});
    let answer = house.client.post("/v1/completions", &body).await.json();
    let scored = &answer["choices"][0]["prompt_logprobs"];
    let sum: f64 =
        scored[1].as_object().unwrap().values().map(|value| value["logprob"].as_f64().unwrap().exp()).sum();
    assert!((sum - 1.0).abs() < 1e-5, "{sum}");
    assert_eq!(scored[2]["9"]["logprob"], Value::Null, "it cannot be said where it stands in a prompt");
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_that_are_none_are_refused_where_they_stand() {
    let house = House::new().await;
    house.publish_table("flowers").await;
    for (path, body, param) in [
        ("/v1/models/flowers:predict", "{\"instances\":[[1,2],[NaN,2]]}", "instances[1][0]"),
        ("/v1/models/flowers:predict", "{\"instances\":[[1,1e999]]}", "instances[0][1]"),
        ("/v1/models/flowers:predict", "{\"instances\":[{\"a\":-Infinity,\"b\":1}]}", "instances[0].a"),
        (
            "/v2/models/flowers/infer",
            "{\"inputs\":[{\"name\":\"input\",\"shape\":[1,2],\"datatype\":\"FP32\",\"data\":[1,NaN]}]}",
            "inputs[0].data[1]",
        ),
        ("/v1/completions", "{\"model\":\"poet\",\"temperature\":NaN}", "temperature"),
    ] {
        let answer = house.client.send("POST", path, &[("content-type", "application/json")], body).await;
        assert_eq!(answer.refused(400), (param.into(), "invalid_json".into()), "{body}");
    }
}
