//! The contracts: OpenAI's models, completions and decisions, KServe v1, Open Inference Protocol v2.

use crate::house::{House, labels, picture, table, text};
use lyceum_models::prepare::OutputPreparation;
use lyceum_store::registry;
use lyceum_store::tenancy::audit;
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{KeyScope, Project};
use serde_json::{Value, json};

/// A picture of 2 by 2 grey pixels: 0, 255, 128, 64.
pub const PNG: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAAAAABX3VL4AAAADklEQVR4nGNg+M/Q4AAABUIBwHA2NtYAAAAASUVORK5CYII=";

#[tokio::test(flavor = "multi_thread")]
async fn models_are_listed_and_found_by_name_version_and_alias() {
    let house = House::new().await;
    house.publish_table("flowers").await;
    house.publish_table("flowers").await;
    house.publish_table("org/flowers").await;
    let alias = "stable".parse().unwrap();
    let name = "flowers".parse().unwrap();
    let act = registry::Act {
        actor: registry::Actor::User("test".into()),
        note: String::new(),
        now: Timestamp::now(),
    };
    let project = Project::default_project();
    registry::set_alias(house.service.store(), &project, (&name, &alias), (1, None), &act).await.unwrap();
    let list = house.client.get("/v1/models").await.json();
    let ids: Vec<&str> = list["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["flowers@1", "flowers@2", "flowers", "org/flowers@1", "org/flowers"]);
    assert_eq!((&list["object"], &list["data"][0]["object"]), (&json!("list"), &json!("model")));
    for (path, root) in [
        ("flowers", "flowers@2"),
        ("flowers@1", "flowers@1"),
        ("flowers@stable", "flowers@1"),
        ("flowers%40latest", "flowers@2"),
        ("org%2Fflowers", "org/flowers@1"),
    ] {
        let model = house.client.get(&format!("/v1/models/{path}")).await.json();
        assert_eq!(model["root"], root, "{path}");
        assert!(model["created"].is_i64() && model["owned_by"] == "default");
    }
    for path in ["nobody", "flowers@3", "flowers@x", "..%2F..%2Fetc", "%00"] {
        let answer = house.client.get(&format!("/v1/models/{path}")).await;
        assert_eq!(answer.refused(404), ("model".into(), "model_not_found".into()), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_has_openais_shape_and_repeats_with_its_seed() {
    let house = House::new().await;
    house.publish_poet("poet").await;
    let ask = async |extra: Value| {
        let mut body = json!({"model": "poet", "prompt": "abc", "max_tokens": 8, "seed": 5});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        house.client.post("/v1/completions", &body).await
    };
    let text = |answer: &Value, i: usize| answer["choices"][i]["text"].as_str().unwrap().to_owned();
    let alone = ask(json!({})).await.json();
    assert_eq!((&alone["object"], &alone["model"]), (&json!("text_completion"), &json!("poet@1")));
    assert!(alone["id"].as_str().unwrap().starts_with("cmpl-"));
    assert_eq!(alone["choices"][0]["finish_reason"], "length");
    assert_eq!(alone["choices"][0]["logprobs"], Value::Null);
    assert_eq!(
        alone["usage"],
        json!({"prompt_tokens": 3, "completion_tokens": 8, "total_tokens": 11, "prompt_tokens_details": {"cached_tokens": 0}})
    );

    assert_eq!(text(&ask(json!({})).await.json(), 0), text(&alone, 0), "the same seed");
    let other = ask(json!({"prompt": ["ab", "abc"], "n": 2})).await.json();
    assert_eq!(other["choices"].as_array().unwrap().len(), 4);
    assert_eq!(text(&other, 2), text(&alone, 0), "in a batch as alone");
    assert_eq!(other["usage"]["prompt_tokens"], 5);
    let ids = ask(json!({"prompt": [1, 2, 3]})).await.json();
    assert_eq!(text(&ids, 0), text(&alone, 0), "token ids are the text: ' ' is 0, 'a' is 1");
    let echo = ask(json!({"echo": true})).await.json();
    assert_eq!(text(&echo, 0), format!("abc{}", text(&alone, 0)));

    let stop = text(&alone, 0).chars().nth(4).unwrap().to_string();
    let stopped = ask(json!({ "stop": stop })).await.json();
    let expected = text(&alone, 0).split(&stop).next().unwrap().to_owned();
    assert_eq!((text(&stopped, 0), &stopped["choices"][0]["finish_reason"]), (expected, &json!("stop")));
    let beginning = house.client.post("/v1/completions", &json!({"model": "poet"})).await.json();
    assert_eq!(beginning["usage"]["completion_tokens"], 16);
}

#[tokio::test(flavor = "multi_thread")]
async fn log_probabilities_tell_of_each_token_of_prompt_and_completion() {
    let house = House::new().await;
    house.publish_poet("poet").await;
    let body = json!({"model": "poet", "prompt": "abc", "max_tokens": 4, "temperature": 0, "logprobs": 2, "echo": true});
    let answer = house.client.post("/v1/completions", &body).await.json();
    let logprobs = &answer["choices"][0]["logprobs"];
    let list = |name: &str| logprobs[name].as_array().unwrap().clone();
    let text = answer["choices"][0]["text"].as_str().unwrap();
    assert_eq!(list("tokens").iter().map(|t| t.as_str().unwrap()).collect::<String>(), text);
    assert_eq!(list("text_offset"), (0..7).map(Value::from).collect::<Vec<_>>());
    assert_eq!((&list("token_logprobs")[0], &list("top_logprobs")[0]), (&Value::Null, &Value::Null));
    for i in 1..7 {
        let own = list("token_logprobs")[i].as_f64().unwrap();
        let top = list("top_logprobs")[i].as_object().unwrap().clone();
        let best = top.values().map(|p| p.as_f64().unwrap()).fold(f64::NEG_INFINITY, f64::max);
        assert!(own <= 0.0 && (2..=3).contains(&top.len()));
        assert_eq!(top[list("tokens")[i].as_str().unwrap()].as_f64().unwrap(), own);
        assert!(i < 3 || best == own, "temperature 0 takes the most likely token");
    }
    // Scoring only, as evaluation harnesses do.
    let scoring = json!({"model": "poet", "prompt": "abc", "max_tokens": 0, "logprobs": 1, "echo": true});
    let scored = house.client.post("/v1/completions", &scoring).await.json();
    assert_eq!(scored["choices"][0]["text"], "abc");
    let (some, all) = (&scored["choices"][0]["logprobs"]["token_logprobs"], list("token_logprobs"));
    assert_eq!(some.as_array().unwrap()[..], all[..3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_the_whole_answer_in_pieces() {
    let house = House::new().await;
    house.publish_poet("poet").await;
    let mut body =
        json!({"model": "poet", "prompt": "abc", "max_tokens": 12, "seed": 9, "n": 2, "logprobs": 1});
    let whole = house.client.post("/v1/completions", &body).await.json();
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    let answer = house.client.post("/v1/completions", &body).await;
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    let mut events = answer.events();
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    let mut events: Vec<Value> = events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    let last = events.pop().unwrap();
    assert_eq!((&last["choices"], &last["usage"]), (&json!([]), &whole["usage"]));
    for index in 0..2usize {
        let of_choice: Vec<&Value> = events
            .iter()
            .map(|event| &event["choices"][0])
            .filter(|choice| choice["index"] == index)
            .collect();
        let text: String = of_choice.iter().map(|choice| choice["text"].as_str().unwrap()).collect();
        assert_eq!(text, whole["choices"][index]["text"].as_str().unwrap());
        let tokens: Vec<Value> =
            of_choice.iter().flat_map(|c| c["logprobs"]["tokens"].as_array().unwrap().clone()).collect();
        assert_eq!(Value::Array(tokens), whole["choices"][index]["logprobs"]["tokens"]);
        let finishes = of_choice.iter().filter(|choice| !choice["finish_reason"].is_null()).count();
        assert_eq!((finishes, &of_choice.last().unwrap()["finish_reason"]), (1, &json!("length")));
    }
    assert!(events.iter().all(|event| event["usage"].is_null() && event["id"] == last["id"]));
    body["stream_options"] = Value::Null;
    let plain = house.client.post("/v1/completions", &body).await.events();
    assert!(plain.iter().all(|event| !event.contains("\"usage\"")));
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_that_do_not_fit_are_refused_by_name() {
    let house = House::new().await;
    house.publish_poet("poet").await;
    house.publish_table("flowers").await;
    for (body, param, code) in [
        (json!({"model": "poet", "prompt": "a".repeat(24)}), "prompt", "context_length_exceeded"),
        (
            json!({"model": "poet", "prompt": "abc", "max_tokens": 22}),
            "max_tokens",
            "context_length_exceeded",
        ),
        (json!({"model": "poet", "prompt": "xyz"}), "prompt", "unknown_character"),
        (json!({"model": "poet", "prompt": ["a", "z"]}), "prompt[1]", "unknown_character"),
        (json!({"model": "poet", "prompt": [99]}), "prompt", "invalid_value"),
        (json!({"model": "flowers", "prompt": "a"}), "model", "unsupported_model"),
    ] {
        let answer = house.client.post("/v1/completions", &body).await;
        assert_eq!(answer.refused(400), (param.into(), code.into()), "{body}");
    }
    let nobody = house.client.post("/v1/completions", &json!({"model": "nobody", "prompt": "a"})).await;
    assert_eq!(nobody.refused(404), ("model".into(), "model_not_found".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_answer_about_texts_pictures_and_rows() {
    let house = House::new().await;
    house.publish_table("flowers").await;
    house
        .publish(
            "digit",
            "classification",
            "family = \"mlp\"\nhidden = [4]",
            picture(labels(&["0", "1", "2"])),
        )
        .await;
    let encoder = "family = \"transformer\"\nvariant = \"encoder\"\nd_model = 16\nnhead = 2\nnum_layers = 1\n\
         dim_feedforward = 16\ncontext = 16";
    house.publish("mood", "classification", encoder, text(labels(&["bad", "good"]))).await;
    let part = |part: Value| json!([{"role": "user", "content": [part]}]);
    let image = part(json!({"type": "input_image", "image_url": format!("data:image/png;base64,{PNG}")}));
    let row = part(json!({"type": "input_json", "data": {"a": 1.5, "b": -2}}));

    let choice = json!({"type": "choice", "name": "q", "instructions": "which",
        "choices": [{"value": "good"}, {"value": "bad", "description": "d"}]});
    let predicate = json!({"type": "predicate", "instructions": "good"});
    let body = json!({"model": "mood", "input": "fine day", "questions": [choice, predicate]});
    let answer = house.client.post("/v1/decisions", &body).await.json();
    assert_eq!(answer["model"], "mood@1");
    let [first, second] = &answer["answers"].as_array().unwrap()[..] else { panic!("{answer}") };
    assert_eq!((&first["type"], &first["name"]), (&json!("choice"), &json!("q")));
    assert_eq!(first["probabilities"][0]["value"], "good");
    assert_eq!((&second["type"], &second["name"]), (&json!("predicate"), &Value::Null));
    assert_eq!(second["probability"], first["probabilities"][0]["probability"]);
    let sum: f64 = (0..2).map(|i| first["probabilities"][i]["probability"].as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-12);
    assert_eq!((&answer["usage"]["input_tokens"], &answer["usage"]["total_tokens"]), (&json!(8), &json!(8)));

    let score = json!({"type": "score", "instructions": "how high", "levels": [{"label": "0"}, {"label": "1"}, {"label": "2"}]});
    let body = json!({"model": "digit", "input": image, "questions": [score]});
    let answer = house.client.post("/v1/decisions", &body).await.json();
    let answer = &answer["answers"][0];
    let mean: f64 =
        (0..3).map(|i| i as f64 * answer["probabilities"][i]["probability"].as_f64().unwrap()).sum();
    assert!((answer["score"].as_f64().unwrap() - mean).abs() < 1e-12, "{answer}");
    assert_eq!(
        (&answer["probabilities"][2]["value"], &answer["probabilities"][2]["label"]),
        (&json!(2), &json!("2"))
    );

    let body = json!({"model": "flowers", "input": row, "questions": [{"type": "predicate", "instructions": "is it?"}]});
    let decided = house.client.post("/v1/decisions", &body).await.json();
    let body = json!({"instances": [{"a": 1.5, "b": -2}]});
    let predicted = house.client.post("/v1/models/flowers:predict", &body).await.json();
    assert_eq!(decided["answers"][0]["probability"], predicted["predictions"][0]["probabilities"]["yes"]);

    let ask =
        |input: Value, question: Value| json!({"model": "flowers", "input": input, "questions": [question]});
    let is_it = json!({"type": "predicate", "instructions": "is it?"});
    let others =
        json!({"type": "choice", "instructions": "which", "choices": [{"value": "x"}, {"value": "y"}]});
    for (body, param, code) in [
        (
            ask(part(json!({"type": "input_json", "data": {"a": 1}})), is_it.clone()),
            "input.b",
            "missing_value",
        ),
        (ask(json!("text"), is_it.clone()), "input", "wrong_input"),
        (ask(row.clone(), others), "questions[0].choices", "labels_differ"),
        (
            json!({"model": "mood", "input": "x".repeat(17), "questions": [{"type": "predicate", "instructions": "good"}]}),
            "input",
            "context_length_exceeded",
        ),
    ] {
        let answer = house.client.post("/v1/decisions", &body).await;
        assert_eq!(answer.refused(400), (param.into(), code.into()), "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn predictions_are_labels_or_numbers_and_a_batch_is_as_each_alone() {
    let house = House::new().await;
    house.publish_table("flowers").await;
    let values = OutputPreparation::Values { names: vec!["y".into()], mean: vec![100.0], std: vec![0.5] };
    house.publish("price", "regression", "family = \"mlp\"\nhidden = [4]", table(values)).await;
    house
        .publish("digit", "classification", "family = \"mlp\"\nhidden = [4]", picture(labels(&["0", "1"])))
        .await;
    let predict = async |model: &str, instances: Value| {
        house.client.post(&format!("/v1/models/{model}:predict"), &json!({ "instances": instances })).await
    };
    let rows: Vec<Value> = (0..300).map(|i| json!([f64::from(i) / 7.0, -1.5])).collect();
    let together = predict("flowers", json!(rows)).await.json();
    for i in [0, 100, 299] {
        let alone = predict("flowers", json!([rows[i]])).await.json();
        assert_eq!(alone["predictions"][0], together["predictions"][i]);
    }
    let named = predict("flowers@1", json!([{"b": -1.5, "a": 0}])).await.json();
    assert_eq!(named["predictions"][0], together["predictions"][0]);
    assert!(["no", "yes"].contains(&named["predictions"][0]["label"].as_str().unwrap()));
    let number = predict("price", json!([[1, 2]])).await.json()["predictions"][0].as_f64().unwrap();
    assert!((90.0..110.0).contains(&number), "{number}: in the units of the data");
    let file = predict("digit", json!([{ "b64": PNG }])).await.json();
    assert_eq!(file, predict("digit", json!([[[[0, 255], [128, 64]]]])).await.json());

    for (model, instances, param, code) in [
        ("flowers", json!([[1, 2], [1]]), "instances[1]", "wrong_shape"),
        ("flowers", json!([[1, "x"]]), "instances[0].b", "not_a_number"),
        ("flowers", json!([{"a": 1, "b": 2, "c": 3}]), "instances[0].c", "unknown_field"),
        ("flowers", json!([{"a": 1, "b": null}]), "instances[0].b", "missing_value"),
        ("flowers", json!(["text"]), "instances[0]", "wrong_input"),
        ("digit", json!([[1, 2, 3]]), "instances[0]", "wrong_shape"),
        ("digit", json!([{"b64": "AAAA"}]), "instances[0]", "broken_image"),
    ] {
        let answer = predict(model, instances.clone()).await;
        assert_eq!(answer.refused(400), (param.into(), code.into()), "{model} {instances}");
    }
    assert_eq!(predict("nobody", json!([[1]])).await.refused(404).1, "model_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn tensors_give_what_predictions_give() {
    let house = House::new().await;
    house.publish_table("flowers").await;
    let metadata = house.client.get("/v2/models/flowers").await.json();
    assert_eq!(metadata["inputs"], json!([{"name": "input", "datatype": "FP32", "shape": [-1, 2]}]));
    assert_eq!(metadata["versions"], json!(["1"]));
    assert_eq!(
        metadata["outputs"][0],
        json!({"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]})
    );

    let input = json!({"name": "input", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]});
    let body = json!({"id": "7", "inputs": [input]});
    let answer = house.client.post("/v2/models/flowers/infer", &body).await.json();
    assert_eq!(
        (&answer["id"], &answer["model_name"], &answer["model_version"]),
        (&json!("7"), &json!("flowers"), &json!("1"))
    );
    assert_eq!(
        (&answer["outputs"][0]["shape"], &answer["outputs"][1]["shape"]),
        (&json!([2, 2]), &json!([2]))
    );
    let predicted =
        house.client.post("/v1/models/flowers:predict", &json!({"instances": [[1, 2], [3, 4]]})).await.json();
    for i in 0..2 {
        assert_eq!(answer["outputs"][1]["data"][i], predicted["predictions"][i]["label"]);
        let p = predicted["predictions"][i]["probabilities"]["yes"].as_f64().unwrap();
        assert!((answer["outputs"][0]["data"][2 * i + 1].as_f64().unwrap() - p).abs() < 1e-6);
    }
    let only =
        json!({"inputs": [input], "outputs": [{"name": "label", "parameters": {"binary_data": false}}]});
    let only = house.client.post("/v2/models/flowers/versions/1/infer", &only).await.json();
    assert_eq!(only["outputs"].as_array().unwrap().len(), 1);

    let with = |field: &str, value: Value| {
        let mut input = input.clone();
        input[field] = value;
        json!({"inputs": [input]})
    };
    for (body, param, code) in [
        (with("shape", json!([4, 1])), "inputs[0].shape", "wrong_shape"),
        (with("shape", json!([1, 4])), "inputs[0].shape", "wrong_shape"),
        (with("name", json!("x")), "inputs[0].name", "unknown_input"),
        (json!({"inputs": [input, input]}), "inputs", "invalid_value"),
        (json!({"inputs": [input], "outputs": [{"name": "x"}]}), "outputs[0].name", "unknown_output"),
        (
            json!({"inputs": [input], "parameters": {"priority": 1}}),
            "parameters.priority",
            "unsupported_parameter",
        ),
    ] {
        let answer = house.client.post("/v2/models/flowers/infer", &body).await;
        assert_eq!(answer.refused(400), (param.into(), code.into()), "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn privacy_is_accounted_for_calibrated_and_budgeted() {
    let house = House::new().await;
    house.publish_table("flowers").await;
    let setting = json!({"q": 0.01, "sigma": 1.0, "steps": 1000, "delta": 1e-5, "accountant": "rdp"});
    let cost = house.client.post("/v1/privacy/epsilon", &setting).await.json();
    assert!((cost["epsilon"].as_f64().unwrap() - 2.1014).abs() < 1e-3, "{cost}");
    assert_eq!((&cost["accountant"], &cost["adjacency"]), (&json!("rdp"), &json!("add_remove_one")));
    assert!(cost["order"].is_f64() && cost["conversion"].is_string());
    let none = json!({"q": 0.01, "sigma": 0.0, "steps": 1, "delta": 1e-5});
    assert_eq!(house.client.post("/v1/privacy/epsilon", &none).await.json()["epsilon"], Value::Null);
    let target = json!({"epsilon": 2.0, "q": 0.01, "steps": 1000, "delta": 1e-5});
    let sigma = house.client.post("/v1/privacy/sigma", &target).await.json()["sigma"].as_f64().unwrap();
    assert!((0.9..1.0).contains(&sigma), "{sigma}");
    let wrong = json!({"q": 1.5, "sigma": 1.0, "steps": 1, "delta": 1e-5});
    let refused = house.client.post("/v1/privacy/epsilon", &wrong).await.refused(400);
    assert_eq!(refused, ("q".into(), "invalid_value".into()));

    let sha = "ab".repeat(32);
    let budget = json!({"data_sha256": sha, "epsilon": 3.0, "delta": 1e-5});
    let set = house.client.post("/v1/privacy/budgets", &budget).await.json();
    assert_eq!((&set["epsilon"], &set["spent"]["epsilon"]), (&json!(3.0), &json!(0.0)));
    let list = house.client.get("/v1/privacy/budgets").await.json();
    assert_eq!((&list["object"], &list["data"][0]["data_sha256"]), (&json!("list"), &json!(sha)));
    let (_, reader) = house.admin("default", &[KeyScope::OrganizationRead], None).await;
    let log = reader.get("/v1/organization/audit_logs?event_types[]=privacy_budget.updated").await.json();
    let told = &log["data"][0]["privacy_budget.updated"];
    assert_eq!((&told["id"], told["epsilon"].as_f64()), (&json!(sha), Some(3.0)), "{log}");
    let chain = audit::verify(house.service.store(), "default", None).await.unwrap();
    assert!(chain.is_ok(), "numbers are read back as they were hashed: {chain:?}");
    let short = json!({"data_sha256": "ab", "epsilon": 3.0, "delta": 1e-5});
    let refused = house.client.post("/v1/privacy/budgets", &short).await.refused(400);
    assert_eq!(refused.0, "data_sha256");

    let privacy = house.client.get("/v1/models/flowers/privacy").await.json();
    assert_eq!((&privacy["model"], &privacy["guarantee"]), (&json!("flowers@1"), &Value::Null));
    assert!(privacy["statement"].as_str().unwrap().contains("without differential privacy"));
    house.client.get("/v1/models/nobody/privacy").await.refused(404);
}
