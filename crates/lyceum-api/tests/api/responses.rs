//! `/v1/responses` over the tiny imported model: state, events, what is refused; and which models are in memory.

use crate::adapters::act;
use crate::client::Answer;
use crate::house::House;
use crate::language::house;
use lyceum_types::ids::{KeyScope, Project};
use lyceum_types::limits;
use serde_json::{Value, json};

fn ask(extra: Value) -> Value {
    let mut body = json!({"model": "tiny", "input": "hello", "max_output_tokens": 12, "seed": 3});
    for (key, value) in extra.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

async fn create(house: &House, extra: Value) -> Value {
    let answer = house.client.post("/v1/responses", &ask(extra)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// The typed events of a stream: each is named as its data says, and they are numbered without a gap.
pub(crate) fn typed(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let events = answer.text().split("\n\n").filter(|event| !event.is_empty() && !event.starts_with(':'));
    let events: Vec<Value> = events
        .map(|event| {
            let (name, data) = event.split_once('\n').unwrap();
            let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
            assert_eq!(name.strip_prefix("event: "), data["type"].as_str());
            data
        })
        .collect();
    assert!(events.iter().enumerate().all(|(i, event)| event["sequence_number"] == i));
    events
}

/// What was said, without the ids, which are others each time.
fn said(response: &Value) -> Vec<Value> {
    let mut output = response["output"].as_array().unwrap().clone();
    for item in &mut output {
        item.as_object_mut().unwrap().remove("id");
    }
    output
}

/// Tokens read and made; what was kept of an earlier request's beginning is another matter.
fn used(response: &Value) -> [&Value; 2] {
    [&response["usage"]["input_tokens"], &response["usage"]["output_tokens"]]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_the_same_whole_and_streamed_and_is_found_again() {
    let house = house().await;
    let extra = json!({"include": ["message.output_text.logprobs"], "top_logprobs": 2, "metadata": {"a": "b"},
        "instructions": "be brief", "user": "u", "temperature": 0.7});
    let whole = create(&house, extra.clone()).await;
    assert_eq!((&whole["object"], &whole["model"]), (&json!("response"), &json!("tiny@1")));
    assert_eq!(
        (&whole["status"], &whole["incomplete_details"]["reason"]),
        (&json!("incomplete"), &json!("max_output_tokens"))
    );
    assert_eq!(
        (&whole["metadata"]["a"], &whole["instructions"], &whole["store"]),
        (&json!("b"), &json!("be brief"), &json!(true))
    );
    assert_eq!((&whole["temperature"], &whole["top_p"]), (&json!(0.7), &json!(1.0)));
    let part = &whole["output"][0]["content"][0];
    let tokens = part["logprobs"].as_array().unwrap();
    assert_eq!((tokens.len(), whole["usage"]["output_tokens"].as_u64()), (12, Some(12)));
    assert_eq!(whole["usage"]["input_tokens_details"], json!({"cached_tokens": 0, "cache_write_tokens": 0}));
    assert!(tokens.iter().all(|token| token["top_logprobs"].as_array().unwrap().len() == 2));
    let mut streamed = ask(extra);
    streamed["stream"] = json!(true);
    let events = typed(&house.client.post("/v1/responses", &streamed).await);
    let text: String = events
        .iter()
        .filter_map(|event| match event["type"].as_str() {
            Some("response.output_text.delta") => event["delta"].as_str(),
            _ => None,
        })
        .collect();
    let last = events.last().unwrap();
    assert_eq!(
        (&events[0]["type"], &last["type"]),
        (&json!("response.created"), &json!("response.incomplete"))
    );
    assert_eq!(text, part["text"].as_str().unwrap());
    assert_eq!((said(&last["response"]), used(&last["response"])), (said(&whole), used(&whole)));
    for response in [&whole, &last["response"]] {
        let path = format!("/v1/responses/{}", response["id"].as_str().unwrap());
        assert_eq!(house.client.get(&path).await.json(), *response);
        assert_eq!(
            house.client.post(&format!("{path}/cancel"), &json!({})).await.refused(400).1,
            "not_cancellable"
        );
        assert_eq!(house.client.send("DELETE", &path, &[], "").await.json()["deleted"], true);
        assert_eq!(house.client.get(&path).await.refused(404).1, "not_found");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_goes_on_from_a_kept_answer_as_from_its_items() {
    let house = house().await;
    let first = create(&house, json!({"instructions": "of the first alone"})).await;
    let second =
        create(&house, json!({"previous_response_id": first["id"], "input": "and?", "temperature": 0})).await;
    // The same conversation, told by its items.
    let mut items = vec![json!({"role": "user", "content": "hello"})];
    items.extend(first["output"].as_array().unwrap().iter().cloned());
    items.push(json!({"role": "user", "content": [{"type": "input_text", "text": "and?"}]}));
    let told = create(&house, json!({"input": items, "temperature": 0, "store": false})).await;
    assert_eq!((said(&second), used(&second)), (said(&told), used(&told)));
    assert_eq!(second["previous_response_id"], first["id"]);
    let path = |response: &Value| format!("/v1/responses/{}", response["id"].as_str().unwrap());
    assert_eq!(house.client.get(&path(&told)).await.status, 404, "it was not to be kept");
    // What went on from an answer stays whole without it.
    house.client.send("DELETE", &path(&first), &[], "").await;
    let list = house.client.get(&format!("{}/input_items?order=asc&limit=2", path(&second))).await.json();
    assert_eq!(
        (list["data"][0]["content"][0]["text"].as_str(), list["has_more"].as_bool()),
        (Some("hello"), Some(true))
    );
    let newest = house.client.get(&format!("{}/input_items", path(&second))).await.json();
    assert_eq!(newest["data"][0]["content"][0]["text"], "and?");
    assert_eq!(newest["data"].as_array().unwrap().len(), 3);
    let gone = house.client.post("/v1/responses", &ask(json!({"previous_response_id": first["id"]}))).await;
    assert_eq!(gone.refused(400), ("previous_response_id".into(), "previous_response_not_found".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_are_called_and_forms_kept_streamed_as_whole() {
    let house = house().await;
    let tool = json!({"type": "function", "name": "weather", "parameters": {"type": "object",
        "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"], "additionalProperties": false}});
    let extra = json!({"tools": [tool], "tool_choice": "required", "parallel_tool_calls": false,
        "max_output_tokens": 300, "stream": true});
    let events = typed(&house.client.post("/v1/responses", &ask(extra)).await);
    let done = events.iter().find(|event| event["type"] == "response.function_call_arguments.done").unwrap();
    let arguments: Value = serde_json::from_str(done["arguments"].as_str().unwrap()).unwrap();
    assert!(["Rome", "Oslo"].contains(&arguments["city"].as_str().unwrap()));
    let last = &events.last().unwrap()["response"];
    let call =
        last["output"].as_array().unwrap().iter().find(|item| item["type"] == "function_call").unwrap();
    assert_eq!((&last["status"], &call["id"]), (&json!("completed"), &done["item_id"]));
    let output = json!([{"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"}]);
    create(&house, json!({"previous_response_id": last["id"], "input": output, "tools": [tool]})).await;
    let schema = json!({"type": "object", "properties": {"kind": {"enum": ["cat", "dog"]}}, "required": ["kind"],
        "additionalProperties": false});
    let format = json!({"type": "json_schema", "name": "pet", "strict": true, "schema": schema});
    let pet = create(&house, json!({"text": {"format": format}, "max_output_tokens": 200})).await;
    let text: Value = serde_json::from_str(pet["output"][0]["content"][0]["text"].as_str().unwrap()).unwrap();
    assert!(["cat", "dog"].contains(&text["kind"].as_str().unwrap()));
    assert_eq!(pet["text"]["format"]["name"], "pet");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_answered_is_refused_before_a_stream_begins() {
    let house = house().await;
    for (extra, status, param) in [
        (json!({"model": "nobody"}), 404, "model"),
        (json!({"input": "a".repeat(3000)}), 400, "input"),
        (json!({"reasoning": {"effort": "none"}}), 400, "reasoning.effort"),
        (
            json!({"text": {"format": {"type": "json_schema", "name": "x", "strict": true, "schema":
            {"type": "object", "properties": {"a": {"type": "string"}}}}}}),
            400,
            "text.format",
        ),
        (json!({"previous_response_id": "resp_1"}), 400, "previous_response_id"),
        (json!({"input": [{"type": "function_call_output", "call_id": "c", "output": "a"}]}), 400, "input"),
    ] {
        for stream in [false, true] {
            let mut body = ask(extra.clone());
            body["stream"] = json!(stream);
            let refused = house.client.post("/v1/responses", &body).await;
            assert_eq!(refused.refused(status).0, param);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn models_in_memory_are_listed_and_let_go() {
    let house = house().await;
    let residents = async || house.client.get("/v1/residents").await.json();
    assert_eq!(residents().await["data"], json!([]));
    create(&house, json!({})).await;
    let listed = residents().await;
    let tiny = &listed["data"][0];
    assert_eq!((&tiny["id"], &tiny["object"]), (&json!("tiny@1"), &json!("resident")));
    assert!(tiny["bytes"].as_u64().unwrap() > 1000 && tiny["idle_seconds"].as_f64().unwrap() < 60.0);
    let (_, metrics) = house.key(&[KeyScope::Metrics], None).await;
    let mut other = house.client.clone();
    other.key = Some(metrics);
    assert_eq!(other.get("/v1/residents").await.status, 403);
    let gone = house.client.send("DELETE", "/v1/residents/tiny", &[], "").await;
    assert_eq!(gone.json(), json!({"id": "tiny@1", "object": "resident", "unloaded": true}));
    assert_eq!(residents().await["data"], json!([]));
    assert_eq!(house.client.send("DELETE", "/v1/residents/tiny", &[], "").await.refused(404).1, "not_found");
    let (_, reader) = house.admin("default", &[KeyScope::OrganizationRead], None).await;
    let log = reader.get("/v1/organization/audit_logs?event_types[]=model.unloaded").await.json();
    let told = &log["data"][0]["model.unloaded"];
    assert_eq!((log["data"].as_array().unwrap().len(), &told["id"]), (1, &json!("tiny@1")), "{log}");
    create(&house, json!({})).await;
    // Another process deletes it: it can be let go by its id, and is gone before long in any case.
    let (store, project) = (house.service.store(), Project::default_project());
    lyceum_store::models::delete_all(store, &project, &"tiny".parse().unwrap(), &act()).await.unwrap();
    assert_eq!(house.client.send("DELETE", "/v1/residents/tiny@1", &[], "").await.json()["unloaded"], true);
    assert_eq!(residents().await["data"], json!([]));
}

/// An answer of the background, as its reply says it.
async fn queue(house: &House, extra: Value) -> Value {
    let mut body = json!({"background": true});
    for (key, value) in extra.as_object().unwrap() {
        body[key] = value.clone();
    }
    let queued = create(house, body).await;
    assert_eq!((&queued["status"], &queued["background"]), (&json!("queued"), &json!(true)), "{queued}");
    assert_eq!((&queued["output"], &queued["usage"]), (&json!([]), &Value::Null));
    queued
}

fn place(response: &Value) -> String {
    format!("/v1/responses/{}", response["id"].as_str().unwrap())
}

async fn until(house: &House, path: &str, wanted: impl Fn(&str) -> bool) -> Value {
    for _ in 0..4000 {
        let response = house.client.get(path).await.json();
        if wanted(response["status"].as_str().unwrap()) {
            return response;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("{path}: {}", house.client.get(path).await.text());
}

fn is_over(status: &str) -> bool {
    !matches!(status, "queued" | "in_progress")
}

/// So many digits that nobody waits for the answer to end.
fn endless() -> Value {
    let schema = json!({"type": "object", "properties": {"a": {"type": "array", "minItems": 400, "maxItems": 900,
        "items": {"type": "integer"}}}, "required": ["a"], "additionalProperties": false});
    json!({"text": {"format": {"type": "json_schema", "name": "a", "schema": schema}}, "max_output_tokens": 1900,
        "temperature": 0})
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_the_background_is_what_it_would_be_with_somebody_waiting() {
    let house = house().await;
    let extra = json!({"include": ["message.output_text.logprobs"], "instructions": "be brief"});
    let awaited = create(&house, extra.clone()).await;
    let path = place(&queue(&house, extra.clone()).await);
    let ended = until(&house, &path, is_over).await;
    assert_eq!((said(&ended), used(&ended)), (said(&awaited), used(&awaited)));
    assert_eq!(
        (&ended["status"], &ended["background"], &ended["id"]),
        (&awaited["status"], &json!(true), &json!(path.rsplit('/').next().unwrap()))
    );
    // It has ended: nothing is left to cancel, and a conversation goes on from it.
    assert_eq!(house.client.post(&format!("{path}/cancel"), &json!({})).await.json(), ended);
    let on = create(&house, json!({"previous_response_id": ended["id"], "background": true})).await;
    assert_eq!(until(&house, &place(&on), is_over).await["previous_response_id"], ended["id"]);
    // What is wrong with a request is told at once, and an answer that is not kept could not be fetched.
    for (extra, param) in [
        (json!({"store": false}), "background"),
        (json!({"input": "a".repeat(3000)}), "input"),
        (json!({"previous_response_id": "resp_1"}), "previous_response_id"),
    ] {
        let mut body = ask(extra);
        body["background"] = json!(true);
        assert_eq!(house.client.post("/v1/responses", &body).await.refused(400).0, param);
    }
    assert_eq!(house.client.get(&format!("{path}?stream=true")).await.refused(400).1, "not_a_stream");
    assert_eq!(house.client.get(&format!("{path}?starting_after=1")).await.refused(400).0, "starting_after");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_the_background_goes_on_without_its_reader_and_is_read_again() {
    let house = house().await;
    let mut body = ask(json!({"background": true, "stream": true}));
    let events = typed(&house.client.post("/v1/responses", &body).await);
    let names: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(names[..3], ["response.created", "response.queued", "response.in_progress"]);
    let last = &events.last().unwrap()["response"];
    let path = place(last);
    assert_eq!(house.client.get(&path).await.json(), *last);
    let again = |answer: Answer, from: usize| {
        let events: Vec<Value> = answer
            .text()
            .split("\n\n")
            .filter_map(|event| Some(serde_json::from_str(event.split_once("data: ")?.1).unwrap()))
            .collect();
        assert_eq!(events[0]["sequence_number"], from);
        events
    };
    assert_eq!(again(house.client.get(&format!("{path}?stream=true")).await, 0), events);
    let rest = again(house.client.get(&format!("{path}?stream=true&starting_after=4")).await, 5);
    assert_eq!(rest, events[5..]);
    // A reader leaves after the first events; another reads all of them to the end.
    for (key, value) in endless().as_object().unwrap() {
        body[key] = value.clone();
    }
    let begun = house.client.leave_after("/v1/responses", &body, "response.in_progress").await;
    let id = begun.split("\"id\":\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap().to_owned();
    let path = format!("/v1/responses/{id}");
    let events = again(house.client.get(&format!("{path}?stream=true&starting_after=1")).await, 2);
    let last = events.last().unwrap();
    assert_eq!(last["response"], house.client.get(&path).await.json());
    assert!(is_over(last["response"]["status"].as_str().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_the_background_are_cancelled_deleted_and_told_after_a_crash() {
    let house = house().await;
    // Nothing is made while this test looks on, however busy the machine is.
    let (release, held) = std::sync::mpsc::channel::<()>();
    house
        .service
        .engine()
        .with_device(move || {
            let _ = held.recv();
        })
        .unwrap();
    let mut paths = Vec::new();
    for _ in 0..limits::BACKGROUND_RESPONSES_AT_ONCE + 2 {
        paths.push(place(&queue(&house, endless()).await));
    }
    let begun = until(&house, &paths[0], |status| status == "in_progress").await;
    assert_eq!(begun["completed_at"], Value::Null);
    let last = paths.pop().unwrap();
    assert_eq!(house.client.get(&last).await.json()["status"], "queued", "there are so many places");
    for path in [&last, &paths[0]] {
        let cancelled = house.client.post(&format!("{path}/cancel"), &json!({})).await.json();
        assert_eq!(cancelled["status"], "cancelled", "{cancelled}");
        let again = house.client.post(&format!("{path}/cancel"), &json!({})).await.json();
        assert_eq!((&again, &house.client.get(path).await.json()), (&cancelled, &cancelled));
    }
    assert_eq!(house.client.send("DELETE", &paths[1], &[], "").await.json()["deleted"], true);
    assert_eq!(house.client.get(&paths[1]).await.status, 404);
    // What a process leaves that dies: a document that is not at its end, and no lock.
    let folder = house.dir.path().join("responses");
    let id = paths[2].rsplit('/').next().unwrap();
    let text = std::fs::read_to_string(folder.join(format!("{id}.json"))).unwrap();
    let dead = lyceum_service::responses::ResponseId::new();
    std::fs::write(folder.join(format!("{}.json", dead.as_str())), text.replace(id, dead.as_str())).unwrap();
    let told = house.client.get(&format!("/v1/responses/{}", dead.as_str())).await.json();
    assert_eq!(
        (&told["status"], &told["error"]["code"]),
        (&json!("failed"), &json!("server_error")),
        "{told}"
    );
    assert!(told["error"]["message"].as_str().unwrap().contains("ended before"));
    for path in &paths[2..] {
        house.client.post(&format!("{path}/cancel"), &json!({})).await;
    }
    drop(release);
    let engine = house.service.engine();
    for _ in 0..400 {
        if engine.load().kv_pages_used == 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(engine.load().kv_pages_used, 0, "what was cancelled holds nothing");
}
