//! Why a model thinks what it thinks and calls what it calls: the tokens of that part of the answer, scored without each part of
//! the conversation; and conversations of several turns by message.

use crate::house::{House, by_hand};
use crate::language::house;
use crate::tiny::{TEMPLATE, tiny_gguf_with};
use lyceum_service::language::import::{Import, import};
use lyceum_service::language::open::Layout;
use lyceum_types::control::Control;
use lyceum_types::ids::Project;
use serde_json::{Value, json};

fn messages() -> Value {
    json!([{"role": "system", "content": "You are brief. The café is shut."},
        {"role": "user", "content": "Where is it? Tell me."}])
}

fn tool() -> Value {
    json!({"type": "function", "function": {"name": "weather", "parameters": {"type": "object",
        "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"], "additionalProperties": false}}})
}

fn with(mut body: Value, more: Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

async fn ask(house: &House, path: &str, body: &Value) -> Value {
    let answer = house.client.post(path, body).await;
    assert_eq!(answer.status, 200, "{body}: {}", answer.text());
    answer.json()
}

fn last(events: &[String]) -> Value {
    assert_eq!(events.last().unwrap(), "[DONE]");
    serde_json::from_str(&events[events.len() - 2]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_explained_by_its_own_tokens_inline_streamed_and_alone() {
    let house = house().await;
    let explain =
        |target: Value| json!({"explain": {"granularity": "sentence", "max_passes": 64, "target": target}});
    let chat = json!({"model": "tiny", "messages": messages(), "tools": [tool()], "tool_choice": "required",
        "parallel_tool_calls": false, "max_tokens": 300, "seed": 3});
    let body = with(chat.clone(), explain(json!({"part": "tool_call"})));
    let whole = ask(&house, "/v1/chat/completions", &body).await;
    let call = &whole["choices"][0]["message"]["tool_calls"][0]["function"];
    let why = &whole["explanation"];
    assert_eq!((&why["target"]["part"], &why["target"]["call"]), (&json!("tool_call"), &json!(0)), "{why}");
    let said = why["target"]["text"].as_str().unwrap();
    assert!(said.starts_with("<tool_call>") && said.contains("weather"), "{said}");
    let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
    let city = arguments["city"].as_str().unwrap();
    assert!(said.contains(city), "{said}");
    assert_eq!(why["attributions"].as_array().unwrap().len(), 4);

    // What is explained is the log-probability of the tokens that were said, however they spell the call.
    let told = with(chat.clone(), json!({"logprobs": true}));
    let told = ask(&house, "/v1/chat/completions", &told).await;
    let tokens = told["choices"][0]["logprobs"]["content"].as_array().unwrap();
    let bytes = |token: &Value| token["bytes"].as_array().map_or(0, Vec::len);
    let (mut end, mut sum) = (0, 0.0);
    for token in tokens.iter().take_while(|token| token["token"] != "<|im_end|>") {
        if end < said.len() {
            sum += token["logprob"].as_f64().unwrap();
        }
        end += bytes(token);
    }
    let value = why["output"]["value"].as_f64().unwrap();
    assert!((sum - value).abs() < 1e-3, "{sum} {value}: {told}");
    // Alone, the same words are written by the tokenizer.
    let alone = json!({"model": "tiny", "messages": messages(), "tools": [tool()], "completion": said,
        "granularity": "sentence", "max_passes": 64, "target": {"part": "tool_call"}});
    let alone = ask(&house, "/v1/explanations", &alone).await;
    assert_eq!((&alone["target"], alone["attributions"].as_array().unwrap().len()), (&why["target"], 4));
    let streamed = with(body, json!({"stream": true}));
    let events = house.client.post("/v1/chat/completions", &streamed).await.events();
    assert_eq!(last(&events)["explanation"]["attributions"], why["attributions"]);

    // Why this city and not the other, by scoring and by gradients, which agree in what they explain.
    let other = if city == "Rome" { "Oslo" } else { "Rome" };
    let mut values = Vec::new();
    for method in ["leave_one_out", "gradient_x_input", "relevance", "direct_logit_attribution"] {
        let target = json!({"part": "tool_call", "text": city, "not": other});
        let mut body = with(chat.clone(), explain(target));
        body["explain"]["method"] = method.into();
        let why = ask(&house, "/v1/chat/completions", &body).await["explanation"].clone();
        assert_eq!(
            (&why["target"]["text"], &why["target"]["contrast"]),
            (&json!(city), &json!(other)),
            "{why}"
        );
        values.push(why["output"]["value"].as_f64().unwrap());
    }
    assert!(values.iter().all(|value| (value - values[0]).abs() < 1e-4), "{values:?}");

    // Without the word that parts of it are there, an answer that only calls has nothing to explain, and says so.
    let plain = with(chat, json!({"explain": {"max_passes": 64}}));
    let plain = ask(&house, "/v1/chat/completions", &plain).await;
    assert_eq!(plain["explanation"]["status"], "failed");
    assert!(plain["explanation"]["error"]["message"].as_str().unwrap().contains("target.part"), "{plain}");
    assert_eq!(plain["choices"][0]["message"]["tool_calls"][0]["function"], *call);
    // And a response's call.
    let flat = json!({"type": "function", "name": "weather", "parameters": tool()["function"]["parameters"]});
    let response = json!({"model": "tiny", "instructions": "You are brief. The café is shut.",
        "input": "Where is it? Tell me.", "tools": [flat], "tool_choice": "required", "max_output_tokens": 300,
        "parallel_tool_calls": false, "explain": {"target": {"part": "tool_call"}, "max_passes": 64}});
    let response = ask(&house, "/v1/responses", &response).await;
    assert_eq!(response["explanation"]["target"]["part"], "tool_call", "{response}");
}

/// A model that thinks until its tokens are spent.
async fn thinker(house: &House) {
    let path = house.dir.path().join("thinker.gguf");
    let begins = "<|im_start|>assistant\n<think>\n{# </think> #}";
    let template = TEMPLATE.replace("<|im_start|>assistant\n", begins);
    std::fs::write(&path, tiny_gguf_with(&template)).unwrap();
    let request = Import {
        path,
        name: "thinker".parse().unwrap(),
        source: "test".into(),
        layout: Layout::default(),
        licence: None,
    };
    import(house.service.store(), &Project::default_project(), request, &Control::new(), &by_hand())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_model_thinks_is_explained_apart_from_what_it_answers() {
    let house = house().await;
    thinker(&house).await;
    let chat = json!({"model": "thinker", "messages": messages(), "max_tokens": 12, "temperature": 0,
        "ignore_eos": true});
    let explain = |target: Value| json!({"explain": {"granularity": "sentence", "target": target}});
    let body = with(chat.clone(), explain(json!({"part": "reasoning"})));
    let whole = ask(&house, "/v1/chat/completions", &body).await;
    let thought = whole["choices"][0]["message"]["reasoning_content"].as_str().unwrap();
    let why = &whole["explanation"];
    assert_eq!(
        (&why["target"]["part"], why["target"]["text"].as_str()),
        (&json!("reasoning"), Some(thought))
    );
    assert_eq!(why["attributions"].as_array().unwrap().len(), 4, "{why}");
    let none = ask(&house, "/v1/chat/completions", &with(chat, explain(json!(null)))).await;
    assert_eq!(none["explanation"]["status"], "failed", "it said nothing: {none}");

    // Given whole, each part is its own tokens' log-probability, and they add up.
    let answer = "I think so.\n</think>\n\nYes, it is.";
    let alone = |target: Value| {
        json!({"model": "thinker", "messages": messages(), "completion": answer, "target": target,
            "granularity": "message"})
    };
    let thought = ask(&house, "/v1/explanations", &alone(json!({"part": "reasoning"}))).await;
    let said = ask(&house, "/v1/explanations", &alone(json!({"part": "content"}))).await;
    assert_eq!(
        (&thought["target"]["text"], &said["target"]["text"]),
        (&json!("I think so."), &json!("Yes, it is."))
    );
    let piece = ask(&house, "/v1/explanations", &alone(json!({"part": "content", "text": "it is"}))).await;
    assert_eq!((&piece["target"]["char_start"], &piece["target"]["char_end"]), (&json!(5), &json!(10)));
    let before = ask(&house, "/v1/explanations", &alone(json!({"part": "content", "text": "Yes, "}))).await;
    let after = ask(&house, "/v1/explanations", &alone(json!({"part": "content", "text": "."}))).await;
    let value = |why: &Value| why["output"]["value"].as_f64().unwrap();
    let sum = value(&before) + value(&piece) + value(&after);
    assert!((sum - value(&said)).abs() < 1e-4, "{sum} {}", value(&said));
    for (target, param) in [
        (json!({"part": "tool_call"}), "target"),
        (json!({"part": "mood"}), "target.part"),
        (json!({"part": "content", "call": 1}), "target.call"),
        (json!({"part": "content", "text": "I think"}), "target"),
    ] {
        let refused = house.client.post("/v1/explanations", &alone(target.clone())).await;
        assert_eq!(refused.refused(400).0, param, "{target}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_of_several_turns_is_explained_by_message() {
    let house = house().await;
    let turns = json!([{"role": "system", "content": "You are brief."},
        {"role": "user", "content": "Anna lives in Rome. Ben lives in Oslo."},
        {"role": "assistant", "content": "I see."}, {"role": "user", "content": "Where does Ben live?"}]);
    let alone = |turns: &Value| json!({"model": "tiny", "messages": turns, "completion": "In Oslo.", "granularity": "message"});
    let why = ask(&house, "/v1/explanations", &alone(&turns)).await;
    let parts = why["attributions"].as_array().unwrap();
    let places: Vec<u64> = parts.iter().map(|part| part["message"].as_u64().unwrap()).collect();
    assert_eq!(places, [0, 1, 2, 3]);
    let value = |why: &Value| why["output"]["value"].as_f64().unwrap();
    for (i, part) in parts.iter().enumerate() {
        let mut without = turns.clone();
        without[i]["content"] = "".into();
        let without = ask(&house, "/v1/explanations", &alone(&without)).await;
        assert_eq!(part["value"].as_f64().unwrap(), value(&why) - value(&without), "message {i}");
    }
    let text = json!({"model": "tiny", "prompt": "a b", "completion": "c", "granularity": "message"});
    assert_eq!(house.client.post("/v1/explanations", &text).await.refused(400).0, "granularity");
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_are_those_of_the_named_messages_and_the_others_stay() {
    let house = house().await;
    let alone = |turns: Value| {
        json!({"model": "tiny", "messages": turns, "completion": "It is.", "granularity": "sentence",
            "max_passes": 64})
    };
    let value = |why: &Value| why["output"]["value"].as_f64().unwrap();
    let all = ask(&house, "/v1/explanations", &alone(messages())).await;
    let body = with(alone(messages()), json!({"sources": [0]}));
    let why = ask(&house, "/v1/explanations", &body).await;
    let parts = why["attributions"].as_array().unwrap();
    assert_eq!((parts.len(), &parts[..]), (2, &all["attributions"].as_array().unwrap()[..2]));
    assert_eq!(value(&why), value(&all));
    // Without all of them the other message is still there.
    let mut without = messages();
    without[0]["content"] = "".into();
    let without = ask(&house, "/v1/explanations", &alone(without)).await;
    assert_eq!(why["output"]["base_value"], without["output"]["value"]);
    // And gradients begin where these alone have no embedding.
    for method in ["integrated_gradients", "gradient_x_input", "contextcite"] {
        let found = ask(
            &house,
            "/v1/explanations",
            &with(body.clone(), json!({"method": method, "max_passes": 2048})),
        )
        .await;
        let places: Vec<&Value> =
            found["attributions"].as_array().unwrap().iter().map(|part| &part["message"]).collect();
        assert_eq!(places, [&json!(0), &json!(0)], "{method}");
    }
    let chat = json!({"model": "tiny", "messages": messages(), "max_tokens": 4, "seed": 3,
        "explain": {"granularity": "message", "sources": [1], "max_passes": 64}});
    let inline = ask(&house, "/v1/chat/completions", &chat).await;
    let parts = inline["explanation"]["attributions"].as_array().unwrap();
    assert_eq!((parts.len(), &parts[0]["message"]), (1, &json!(1)), "{inline}");
    let text = json!({"model": "tiny", "prompt": "a b", "completion": "c"});
    for (body, sources, code) in [
        (alone(messages()), json!([2]), "invalid_value"),
        (alone(messages()), json!([]), "invalid_value"),
        (text, json!([0]), "unsupported_parameter"),
    ] {
        let refused = house.client.post("/v1/explanations", &with(body, json!({"sources": sources}))).await;
        assert_eq!(refused.refused(400), ("sources".to_owned(), code.to_owned()), "{sources}");
    }
}
