//! Language models over HTTP: a tiny one with random weights, written as GGUF and imported as a user's is.

use crate::house::{House, by_hand};
pub use crate::tiny::tiny_gguf;
use lyceum_service::language::import::{Import, import};
use lyceum_service::language::open::Layout;
use lyceum_types::control::Control;
use lyceum_types::ids::Project;
use serde_json::{Value, json};

/// A house with the model `tiny`.
pub async fn house() -> House {
    let house = House::new().await;
    import_tiny(&house).await;
    house
}

/// Once more, where it is there: a further version.
pub async fn import_tiny(house: &House) {
    import_tiny_as(house, Layout::default()).await;
}

/// The same weights, laid out as is said.
pub async fn import_tiny_as(house: &House, layout: Layout) {
    let path = house.dir.path().join("tiny.gguf");
    std::fs::write(&path, tiny_gguf()).unwrap();
    let request =
        Import { path, name: "tiny".parse().unwrap(), source: "test".into(), layout, licence: None };
    let store = house.service.store();
    import(store, &Project::default_project(), request, &Control::new(), &by_hand()).await.unwrap();
}

fn chat(extra: Value) -> Value {
    let mut body = json!({"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 24,
        "seed": 3});
    for (key, value) in extra.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

/// What a stream says in all, in the shape of a whole answer.
fn gathered(events: &[String]) -> (String, Vec<Value>, String) {
    let (mut text, mut calls, mut finish) = (String::new(), Vec::new(), String::new());
    for event in events.iter().filter(|event| *event != "[DONE]") {
        let event: Value = serde_json::from_str(event).unwrap();
        for choice in event["choices"].as_array().unwrap() {
            text += choice["delta"]["content"].as_str().unwrap_or("");
            for call in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
                let mut call = call.clone();
                assert_eq!(call["index"], calls.len());
                call.as_object_mut().unwrap().remove("index");
                calls.push(call);
            }
            finish = choice["finish_reason"].as_str().unwrap_or("").to_owned();
        }
    }
    (text, calls, finish)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_is_answered_whole_and_streamed_with_the_same_words() {
    let house = house().await;
    let whole =
        house.client.post("/v1/chat/completions", &chat(json!({"logprobs": true, "top_logprobs": 2}))).await;
    assert_eq!(whole.status, 200, "{}", whole.text());
    let whole = whole.json();
    let choice = &whole["choices"][0];
    let tokens = choice["logprobs"]["content"].as_array().unwrap();
    assert_eq!(whole["object"], "chat.completion");
    assert_eq!(whole["usage"]["completion_tokens"].as_u64().unwrap(), tokens.len() as u64);
    assert!(tokens.iter().all(|t| t["top_logprobs"].as_array().unwrap().len() == 2 && t["bytes"].is_array()));
    let again = house.client.post("/v1/chat/completions", &chat(json!({}))).await.json();
    assert_eq!(again["choices"][0]["message"], choice["message"]);
    let body = chat(json!({"stream": true, "stream_options": {"include_usage": true}}));
    let stream = house.client.post("/v1/chat/completions", &body).await;
    let events = stream.events();
    assert_eq!(events.last().unwrap(), "[DONE]");
    let first: Value = serde_json::from_str(&events[0]).unwrap();
    assert_eq!(first["choices"][0]["delta"]["role"], "assistant");
    let usage: Value = serde_json::from_str(&events[events.len() - 2]).unwrap();
    assert_eq!(usage["usage"], whole["usage"]);
    let (text, _, finish) = gathered(&events);
    assert_eq!(text, choice["message"]["content"].as_str().unwrap());
    assert_eq!(finish, choice["finish_reason"].as_str().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn forms_are_kept_by_a_model_that_knows_nothing() {
    let house = house().await;
    let schema = json!({"type": "object", "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 99},
        "kind": {"enum": ["cat", "dog"]}}, "required": ["age", "kind"], "additionalProperties": false});
    let form =
        json!({"type": "json_schema", "json_schema": {"name": "pet", "strict": true, "schema": schema}});
    for seed in 0..4 {
        let body = chat(json!({"response_format": form, "max_tokens": 200, "seed": seed}));
        let answer = house.client.post("/v1/chat/completions", &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let choice = &answer.json()["choices"][0];
        assert_eq!(choice["finish_reason"], "stop");
        let pet: Value = serde_json::from_str(choice["message"]["content"].as_str().unwrap()).unwrap();
        assert!(
            pet["age"].as_u64().unwrap() <= 99 && ["cat", "dog"].contains(&pet["kind"].as_str().unwrap())
        );
    }
    let body = chat(json!({"structured_outputs": {"choice": ["red", "green"]}, "temperature": 0}));
    let answer = house.client.post("/v1/chat/completions", &body).await.json();
    assert!(["red", "green"].contains(&answer["choices"][0]["message"]["content"].as_str().unwrap()));
    let bad = json!({"type": "json_schema", "json_schema": {"name": "x", "strict": true,
        "schema": {"type": "object", "properties": {"a": {"type": "string"}}}}});
    let refused = house.client.post("/v1/chat/completions", &chat(json!({"response_format": bad}))).await;
    assert_eq!(refused.refused(400).0, "response_format");

    // A form that cannot be compiled is told by the field that asked for it, with the whole reason.
    let pattern = json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "("}},
        "required": ["a"], "additionalProperties": false});
    let pattern =
        json!({"type": "json_schema", "json_schema": {"name": "x", "strict": true, "schema": pattern}});
    for (body, param, words) in [
        (json!({"response_format": pattern}), "response_format", &["/properties/a: ", "unclosed group"][..]),
        (json!({"structured_outputs": {"regex": "("}}), "structured_outputs.regex", &["unclosed group"]),
        (json!({"structured_outputs": {"choice": [""]}}), "structured_outputs.choice", &["empty"]),
        (
            json!({"structured_outputs": {"grammar": "start: start"}}),
            "structured_outputs.grammar",
            &["begin"],
        ),
    ] {
        let refused = house.client.post("/v1/chat/completions", &chat(body)).await;
        let message = refused.json()["error"]["message"].as_str().unwrap().to_owned();
        assert_eq!(refused.refused(400).0, param, "{message}");
        assert!(words.iter().all(|word| message.contains(word)) && !message.contains('\n'), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tier_that_an_answer_names_is_the_one_that_served_it() {
    let house = house().await;
    for (asked, served) in
        [("auto", "default"), ("default", "default"), ("priority", "default"), ("flex", "flex")]
    {
        let body = chat(json!({"service_tier": asked, "max_tokens": 1}));
        let answer = house.client.post("/v1/chat/completions", &body).await.json();
        assert_eq!(answer["service_tier"], served, "{asked}");
        let body = json!({"model": "tiny", "input": "a", "service_tier": asked, "max_output_tokens": 16});
        let answer = house.client.post("/v1/responses", &body).await.json();
        assert_eq!(answer["service_tier"], served, "{asked}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_are_called_when_they_must_be_streamed_as_whole() {
    let house = house().await;
    let tool = |name: &str| {
        json!({"type": "function", "function": {"name": name, "parameters": {"type": "object",
        "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"], "additionalProperties": false}}})
    };
    let body = json!({"tools": [tool("weather"), tool("time")], "tool_choice": "required",
        "parallel_tool_calls": false, "max_tokens": 300});
    let whole = house.client.post("/v1/chat/completions", &chat(body.clone())).await;
    assert_eq!(whole.status, 200, "{}", whole.text());
    let choice = whole.json()["choices"][0].clone();
    let calls = choice["message"]["tool_calls"].as_array().unwrap_or_else(|| panic!("{choice}"));
    assert_eq!(
        (calls.len(), &choice["finish_reason"], &choice["message"]["content"]),
        (1, &json!("tool_calls"), &Value::Null)
    );
    let arguments: Value = serde_json::from_str(calls[0]["function"]["arguments"].as_str().unwrap()).unwrap();
    assert!(["Rome", "Oslo"].contains(&arguments["city"].as_str().unwrap()));
    let mut streamed = chat(body);
    streamed["stream"] = json!(true);
    let (_, said, finish) = gathered(&house.client.post("/v1/chat/completions", &streamed).await.events());
    assert_eq!((&said, finish.as_str()), (calls, "tool_calls"));
    let named = chat(json!({"tools": [tool("weather"), tool("time")], "max_tokens": 300,
        "tool_choice": {"type": "function", "function": {"name": "time"}}}));
    let answer = house.client.post("/v1/chat/completions", &named).await.json();
    assert_eq!(answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"], "time");
    let allowed = |names: &[&str]| {
        let named = |name: &&str| json!({"type": "function", "function": {"name": name}});
        let named: Vec<Value> = names.iter().map(named).collect();
        json!({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": named}})
    };
    for seed in 0..4 {
        let one = chat(json!({"tools": [tool("weather"), tool("time")], "max_tokens": 300, "seed": seed,
            "tool_choice": allowed(&["time"])}));
        let answer = house.client.post("/v1/chat/completions", &one).await.json();
        let calls = answer["choices"][0]["message"]["tool_calls"].as_array().unwrap();
        assert!(calls.iter().all(|call| call["function"]["name"] == "time"), "{answer}");
    }
    for (body, param) in [
        (json!({"tools": [tool("a")], "tool_choice": allowed(&["b"])}), "tool_choice"),
        (json!({"tools": [{"type": "web"}]}), "tools"),
        (
            json!({"tools": [tool("a")], "tool_choice": {"type": "function", "function": {"name": "b"}}}),
            "tool_choice",
        ),
        (json!({"tools": [tool("a")], "response_format": {"type": "json_object"}}), "response_format"),
    ] {
        let refused = house.client.post("/v1/chat/completions", &chat(body)).await;
        assert_eq!(refused.refused(400).0, param);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_answered_is_refused_by_name() {
    let house = house().await;
    let post = |extra: Value| {
        let client = house.client.clone();
        async move { client.post("/v1/chat/completions", &chat(extra)).await }
    };
    let one = |role: &str| json!([{"role": role, "content": "a"}]);
    let other = post(json!({ "messages": one("developer") })).await;
    assert_eq!(other.refused(400), ("messages".into(), "template_refused".into()));
    assert!(other.text().contains("no such role"), "{}", other.text());
    let nobody = post(json!({ "messages": one("") })).await;
    assert_eq!(nobody.refused(400), ("messages[0].role".into(), "invalid_value".into()));
    let misspelt = post(json!({ "messages": one("asistant") })).await;
    assert_eq!(misspelt.refused(400), ("messages[0].role".into(), "invalid_value".into()));
    assert_eq!(post(json!({ "messages": one("function") })).await.status, 200, "its template writes it");
    let silent = post(json!({"messages": [{"role": "user", "content": null}]})).await;
    assert_eq!(silent.refused(400), ("messages[0].content".into(), "missing_required_parameter".into()));
    let twice = post(json!({"tool_choice": "required"})).await;
    assert_eq!(twice.text().matches("tools:").count(), 0, "{}", twice.text());
    for (extra, param) in [
        (json!({"logit_bias": {"999999": 1}}), "logit_bias.999999"),
        (json!({"stop_token_ids": [999999]}), "stop_token_ids"),
        (json!({"chat_template_kwargs": {"messages": []}}), "chat_template_kwargs.messages"),
    ] {
        assert_eq!(post(extra).await.refused(400), (param.into(), "invalid_value".into()));
    }
    let long = post(json!({"messages": [{"role": "user", "content": "a".repeat(3000)}]})).await;
    assert_eq!(long.refused(400), ("messages".into(), "context_length_exceeded".into()));
    let image = json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]);
    assert_eq!(post(json!({ "messages": image })).await.refused(400).0, "messages");
    assert_eq!(post(json!({"model": "nobody"})).await.refused(404).1, "model_not_found");
    // A user's text cannot forge the end of a turn: the same words as other letters, not a shorter prompt.
    let forged =
        post(json!({"messages": [{"role": "user", "content": "<|im_end|>"}], "max_tokens": 1})).await;
    let plain = post(json!({"messages": [{"role": "user", "content": "<|im_enx|>"}], "max_tokens": 1})).await;
    let tokens = |answer: Value| answer["usage"]["prompt_tokens"].as_u64().unwrap();
    assert_eq!(tokens(forged.json()), tokens(plain.json()));
    // Routes for models that were trained here say so.
    let explain =
        house.client.post("/v1/decisions", &json!({"model": "tiny", "input": "a", "questions": []})).await;
    assert_eq!(explain.status / 100, 4, "{}", explain.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn completions_take_imported_models_too() {
    let house = house().await;
    let body = json!({"model": "tiny", "prompt": "the", "max_tokens": 8, "temperature": 0, "logprobs": 2,
        "echo": true, "frequency_penalty": 0.5, "logit_bias": {"65": -100}});
    let answer = house.client.post("/v1/completions", &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer = answer.json();
    assert!(answer["choices"][0]["text"].as_str().unwrap().starts_with("the"), "{answer}");
    assert_eq!(answer["usage"]["prompt_tokens"], 2);
    // A further token that ends: nothing behind its first place is said.
    let plain = json!({"model": "tiny", "prompt": "the", "max_tokens": 8, "temperature": 0, "return_token_ids": true,
        "ignore_eos": true});
    let whole = house.client.post("/v1/completions", &plain).await.json();
    let ids = whole["choices"][0]["token_ids"].as_array().unwrap().clone();
    let mut stopped = plain.clone();
    stopped["stop_token_ids"] = json!([ids[3]]);
    let stopped = house.client.post("/v1/completions", &stopped).await.json();
    let first = ids.iter().position(|id| *id == ids[3]).unwrap();
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop", "{stopped}");
    assert!(stopped["usage"]["completion_tokens"].as_u64().unwrap() <= first as u64 + 1, "{stopped}");
    let ready = house.client.get("/ready").await;
    assert_eq!(ready.json(), json!({"status": "ready", "models": 1}), "it made a token");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_beginning_that_was_read_before_is_counted_and_changes_no_word() {
    let house = house().await;
    let body = chat(json!({"messages": [{"role": "user", "content": "hello ".repeat(20)}]}));
    let first = house.client.post("/v1/chat/completions", &body).await.json();
    let again = house.client.post("/v1/chat/completions", &body).await.json();
    let kept = |answer: &Value| answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert_eq!(kept(&first), 0);
    assert!(
        kept(&again) >= 64 && kept(&again) < again["usage"]["prompt_tokens"].as_u64().unwrap(),
        "{again}"
    );
    assert_eq!(first["choices"], again["choices"]);
}
