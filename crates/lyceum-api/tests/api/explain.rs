//! Why: the whole matrix of methods and models over HTTP, inline and alone, and that others are served meanwhile.

use crate::house::{House, Kept, labels, picture, table, text};
use lyceum_models::prepare::series::{Fields, Series};
use lyceum_models::prepare::tabular::{CategoryMissing, Code, Column, Encoder, NumberMissing};
use lyceum_models::prepare::vision::Pixels;
use lyceum_models::prepare::{InputPreparation, OutputPreparation, Preparation};
use lyceum_types::manifest::FeatureSketch;
use lyceum_types::spec::Unseen;
use serde_json::{Value, json};
use std::time::Duration;

const METHODS: [&str; 13] = [
    "saliency",
    "gradient_x_input",
    "smooth_grad",
    "integrated_gradients",
    "grad_cam",
    "conductance",
    "relevance",
    "feature_ablation",
    "occlusion",
    "shapley",
    "shapley_sampling",
    "kernel_shap",
    "linear_shap",
];

fn two() -> OutputPreparation {
    labels(&["no", "yes"])
}

/// A table with a number that may be missing and a category.
fn people(output: OutputPreparation) -> Preparation {
    let age = Code::Number { mean: 40.0, std: 10.0, missing: NumberMissing::Indicator(38.0) };
    let city = Code::Category {
        values: vec!["bonn".into(), "rom".into()],
        unseen: Unseen::Other,
        missing: CategoryMissing::Error,
    };
    let column = |name: &str, code| Column { name: name.into(), code };
    let encoder = Encoder { columns: vec![column("age", age), column("city", city)] };
    Preparation { input: InputPreparation::Tabular(encoder), output }
}

fn sketch(name: &str, quantiles: &[f64], counts: &[(&str, u64)]) -> FeatureSketch {
    FeatureSketch {
        name: name.into(),
        n: 20,
        n_missing: 0,
        mean: (!quantiles.is_empty()).then_some(45.0),
        std: None,
        min: None,
        max: None,
        quantiles: quantiles.to_vec(),
        counts: counts.iter().map(|(value, n)| ((*value).to_owned(), *n)).collect(),
    }
}

pub async fn house() -> House {
    let house = House::new().await;
    let numbers = OutputPreparation::Values { names: vec!["y".into()], mean: vec![10.0], std: vec![2.0] };
    let sketches = vec![
        sketch("age", &[18.0, 30.0, 45.0, 70.0, 400.0], &[]),
        sketch("city", &[], &[("bonn", 15), ("rom", 5)]),
    ];
    let mlp = "family = \"mlp\"\nhidden = [6]";
    let kept = Kept { features: sketches, ..Kept::default() };
    house.publish_with("people", "classification", mlp, people(two()), kept).await;
    house.publish("linear", "regression", "family = \"mlp\"\nhidden = []", table(numbers)).await;
    house.publish("picture", "classification", "family = \"mlp\"\nhidden = [4]", picture(two())).await;
    let pixels = Pixels { shape: [1, 6, 6], scale: 1.0, file_scale: 255.0, mean: vec![], std: vec![] };
    let preparation = Preparation { input: InputPreparation::Image(pixels), output: two() };
    let cnn = "family = \"cnn\"\nconv = [{ channels = 3, kernel = 3, padding = 1 }]\nglobal_pool = \"avg\"";
    house.publish("cnn", "classification", cnn, preparation).await;
    let lstm = "family = \"lstm\"\nhead = \"last\"\nhidden_size = 5\nembedding_dim = 3";
    house.publish("text", "classification", lstm, text(two())).await;
    let fields = Fields::Channels(vec!["a".into(), "b".into()]);
    let series = Series { steps: 4, fields, mean: vec![0.0, 1.0], std: vec![1.0, 2.0] };
    let preparation = Preparation { input: InputPreparation::Series(series), output: two() };
    house
        .publish(
            "series",
            "classification",
            "family = \"gru\"\nhead = \"last\"\nhidden_size = 4",
            preparation,
        )
        .await;
    house.publish_poet("poet").await;
    house
}

/// The model, and what of it is explained.
fn subjects() -> Vec<(&'static str, Value)> {
    let pixels: Vec<f64> = (0..36).map(|i| (f64::from(i) * 0.7).sin()).collect();
    vec![
        ("people", json!({"features": {"age": 55, "city": "rom"}})),
        ("linear", json!({"features": [1.5, -2.0]})),
        ("picture", json!({"features": [0, 255, 128, 30]})),
        ("cnn", json!({"features": pixels})),
        ("text", json!({"input": "good wörk"})),
        ("series", json!({"features": {"a": [1, 2, 3, 4], "b": [2, 1, 0, 5]}})),
        ("poet", json!({"prompt": "abc de", "completion": "fg"})),
    ]
}

fn merged(mut one: Value, two: Value) -> Value {
    one.as_object_mut().unwrap().extend(two.as_object().unwrap().clone());
    one
}

fn sum(explanation: &Value) -> f64 {
    explanation["attributions"].as_array().unwrap().iter().map(|a| a["value"].as_f64().unwrap()).sum()
}

/// These models were made by no job, so that there are no checkpoints; and were not imported. All doors say so.
const OTHERS: [&str; 3] = ["tracin", "contextcite", "direct_logit_attribution"];

#[tokio::test(flavor = "multi_thread")]
async fn every_method_answers_every_model_with_numbers_or_the_reason() {
    let house = house().await;
    let (mut explained, mut refused) = (0, 0);
    for (model, subject) in subjects() {
        let listed = house.client.get(&format!("/v1/models/{model}/explanation_methods")).await.json();
        let methods = listed["data"].as_array().unwrap();
        assert_eq!(methods.len(), METHODS.len() + OTHERS.len());
        for other in OTHERS {
            let listed = methods.iter().find(|m| m["method"] == other).unwrap();
            let body = merged(subject.clone(), json!({"model": model, "method": other}));
            let answer = house.client.post("/v1/explanations", &body).await;
            assert_eq!((&listed["supported"], listed["reason"].is_string()), (&json!(false), true));
            assert_eq!(answer.refused(400), ("method".to_owned(), "unsupported_method".to_owned()));
            assert!(answer.text().contains(listed["reason"].as_str().unwrap()), "{}", answer.text());
        }
        for method in METHODS {
            let entry = listed["data"].as_array().unwrap().iter().find(|m| m["method"] == method).unwrap();
            for baseline in [None, Some("zeros"), Some("drop"), Some("mean")] {
                let mut body = merged(subject.clone(), json!({"model": model, "method": method}));
                if let Some(baseline) = baseline {
                    body["baseline"] = json!({"type": baseline});
                }
                if method == "conductance" {
                    let layer = match model {
                        "cnn" => "conv.0",
                        "text" | "series" => "rnn.0",
                        "poet" => "decoder.layers.0",
                        _ => "hidden.0",
                    };
                    body["layer"] = json!(layer);
                }
                if method == "occlusion" {
                    body["window"] = json!([1, 1]);
                }
                let answer = house.client.post("/v1/explanations", &body).await;
                if answer.status == 200 {
                    assert_eq!(entry["supported"], true, "{body}");
                    let e = answer.json();
                    assert_eq!((&e["object"], &e["method"]), (&json!("explanation"), &json!(method)));
                    let list = e["attributions"].as_array().unwrap();
                    assert!(!list.is_empty() && list.iter().all(|a| a["value"].is_f64()), "{e}");
                    if let Some(base) = e["output"]["base_value"].as_f64() {
                        let gap = (e["output"]["value"].as_f64().unwrap() - base - sum(&e)).abs();
                        assert!((gap - e["checks"]["completeness_gap"].as_f64().unwrap()).abs() < 1e-9);
                    }
                    explained += 1;
                } else {
                    assert!(matches!(answer.status, 400 | 422 | 501), "{body}: {}", answer.text());
                    let (param, code) = answer.refused(answer.status);
                    assert!(!param.is_empty() && !code.is_empty(), "{body}: {}", answer.text());
                    assert!(
                        entry["supported"] == false
                            || baseline.is_some()
                            || method == "kernel_shap"
                            || method == "shapley_sampling"
                            || method == "shapley",
                        "{method} is offered for {model}, but: {}",
                        answer.text()
                    );
                    refused += 1;
                }
            }
        }
    }
    assert!(explained > 150 && refused > 80, "{explained} explained, {refused} refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_explained_in_the_words_of_its_columns() {
    let house = house().await;
    let body = json!({"model": "people", "features": {"age": null, "city": "rom"},
        "evaluate": ["comprehensiveness", "deletion_auc"]});
    let answer = house.client.post("/v1/explanations", &body).await;
    let e = answer.json();
    assert_eq!((&e["method"], &e["exact"]), (&json!("shapley"), &json!(true)), "{e}");
    let list = e["attributions"].as_array().unwrap();
    assert_eq!(list.len(), 2, "an indicator and one-hot inputs belong to their columns");
    assert_eq!((&list[0]["feature"], &list[0]["x"]), (&json!("age"), &Value::Null));
    assert_eq!((&list[1]["feature"], &list[1]["x"]), (&json!("city"), &json!("rom")));
    assert_eq!(e["checks"]["complete"], true);
    assert!(e["checks"]["faithful"].is_boolean() && e["checks"]["controls"]["deletion_auc"]["mean"].is_f64());
    assert!(e["explained_model"].as_str().unwrap().starts_with("people@1@sha256:"));
    let again = house.client.get(&format!("/v1/explanations/{}", e["id"].as_str().unwrap())).await.json();
    assert_eq!(again, e);
    assert_eq!(house.client.get("/v1/explanations/expl_none").await.refused(404).1, "not_found");

    assert_eq!(e["baseline"]["type"], "mean", "the sketches of its training rows say what is usual");

    let other = if e["target"]["label"] == "yes" { "no" } else { "yes" };
    let body = json!({"model": "people", "features": {"age": 30, "city": "rom"}, "counterfactual": {}});
    let c = house.client.post("/v1/explanations", &body).await.json()["counterfactual"].clone();
    assert!(c["forward_passes"].as_u64().unwrap() > 0, "{c}");
    if c["found"] == true {
        let mut row = json!({"age": 30, "city": "rom"});
        for change in c["changes"].as_array().unwrap() {
            assert_eq!(row[change["feature"].as_str().unwrap()], change["from"]);
            row[change["feature"].as_str().unwrap()] = change["to"].clone();
        }
        let predict = json!({"instances": [row]});
        let answer = house.client.post("/v1/models/people:predict", &predict).await.json();
        assert_eq!(answer["predictions"][0]["label"], c["label"], "the change is true");
        let probability = &answer["predictions"][0]["probabilities"][c["label"].as_str().unwrap()];
        assert!((probability.as_f64().unwrap() - c["probability"].as_f64().unwrap()).abs() < 1e-9);
    }
    let wrong = json!({"model": "people", "features": {"age": 30, "city": "rom"}, "counterfactual": {"label": "maybe"}});
    assert_eq!(house.client.post("/v1/explanations", &wrong).await.refused(400).0, "counterfactual");
    let wrong = json!({"model": "text", "input": "good", "counterfactual": {"label": other}});
    assert_eq!(house.client.post("/v1/explanations", &wrong).await.refused(400).0, "counterfactual");

    let linear = json!({"model": "linear", "features": [1.5, -2.0],
        "baseline": {"type": "background", "rows": [[0, 0], [1, 1]]}});
    let e = house.client.post("/v1/explanations", &linear).await.json();
    assert_eq!((&e["method"], &e["target"]["output"]), (&json!("linear_shap"), &json!("y")));
    let predict = json!({"instances": [[1.5, -2.0]]});
    let predicted = house.client.post("/v1/models/linear:predict", &predict).await.json();
    let value = e["output"]["value"].as_f64().unwrap();
    assert!((value - predicted["predictions"][0].as_f64().unwrap()).abs() < 1e-5, "in the units of the data");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_is_explained_in_its_characters_and_a_picture_as_a_map() {
    let house = house().await;
    let ask = async |body: Value| house.client.post("/v1/explanations", &body).await.json();
    let e = ask(json!({"model": "text", "input": "good wörk"})).await;
    let spans = e["attributions"].as_array().unwrap();
    let ends: Vec<(u64, u64)> =
        spans.iter().map(|s| (s["char_start"].as_u64().unwrap(), s["char_end"].as_u64().unwrap())).collect();
    assert_eq!(ends, [(0, 5), (5, 9)]);
    let tokens = ask(json!({"model": "text", "input": "good wörk", "granularity": "token"})).await;
    assert_eq!(
        tokens["attributions"].as_array().unwrap().len(),
        9,
        "two bytes of one character are one part"
    );
    assert!((sum(&tokens) - sum(&e)).abs() < 1e-6, "coarser parts are sums of finer ones");

    let pixels: Vec<f64> = (0..36).map(|i| (f64::from(i) * 0.7).sin()).collect();
    let body = json!({"model": "cnn", "features": pixels, "granularity": "patch:3", "png": true,
        "method": "integrated_gradients"});
    let e = ask(body).await;
    assert_eq!(e["attributions"].as_array().unwrap().len(), 4);
    let map = e["heatmap"]["values"].as_array().unwrap();
    let whole: f64 = map.iter().map(|v| v.as_f64().unwrap()).sum();
    assert!(map.len() == 36 && (whole - sum(&e)).abs() < 1e-6);
    assert!(e["heatmap"]["png"].as_str().unwrap().starts_with("data:image/png;base64,iVBOR"));

    let attention =
        ask(json!({"model": "poet", "prompt": "abc", "completion": "de", "method": "attention_rollout"}))
            .await;
    assert_eq!((&attention["object"], &attention["heuristic"]), (&json!("attention"), &json!(true)));
    assert_eq!(attention["tokens"].as_array().unwrap().len(), 4, "the last token is answered, not read");
    for (param, value) in [
        ("baseline", json!({"type": "zeros"})),
        ("evaluate", json!(["comprehensiveness"])),
        ("granularity", json!("word")),
        ("quantity", json!("logit")),
    ] {
        let mut body =
            json!({"model": "poet", "prompt": "abc", "completion": "de", "method": "attention_weights"});
        body[param] = value;
        let answer = house.client.post("/v1/explanations", &body).await;
        assert_eq!(answer.refused(400), (param.into(), "unsupported_parameter".into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_says_why_from_one_pass_and_answers_the_same() {
    let house = house().await;
    let question = json!([{"type": "predicate", "instructions": "yes"}]);
    let plain = json!({"model": "text", "input": "good work", "questions": question});
    let without = house.client.post("/v1/decisions", &plain).await.json();
    assert!(without.get("explanation").is_none());
    let body = merged(plain, json!({"explain": {"method": "gradient_x_input"}}));
    let with = house.client.post("/v1/decisions", &body).await.json();
    assert_eq!(with["answers"], without["answers"]);
    let e = &with["explanation"];
    assert_eq!(e["usage"], json!({"forward_passes": 1, "backward_passes": 1}));
    let yes = without["answers"][0]["probability"].as_f64().unwrap();
    assert_eq!(e["target"]["label"], if yes > 0.5 { "yes" } else { "no" }, "what the model chose");
    let wrong = merged(body, json!({"explain": {"method": "saliency", "layer": "x"}}));
    assert_eq!(house.client.post("/v1/decisions", &wrong).await.refused(400).0, "explain.layer");

    let instances = json!([{"age": 1, "city": "bonn"}, {"age": 90, "city": "rom"}]);
    let body = json!({"instances": instances, "explain": {"target": {"label": "yes"}}});
    let predicted = house.client.post("/v1/models/people:predict", &body).await.json();
    let explained = house.client.post("/v1/models/people:explain", &body).await.json();
    assert_eq!(predicted["predictions"].as_array().unwrap().len(), 2);
    for i in 0..2 {
        let (one, two) = (&predicted["explanations"][i], &explained["explanations"][i]);
        assert_eq!((&one["attributions"], &one["target"]), (&two["attributions"], &two["target"]));
    }
    let bad = json!({"instances": [{"age": 1, "city": "bonn"}, {"age": "x", "city": "bonn"}]});
    assert_eq!(house.client.post("/v1/models/people:explain", &bad).await.refused(400).0, "instances[1].age");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_says_why_also_at_the_end_of_a_stream() {
    let house = house().await;
    let explain = json!({"method": "leave_one_out", "granularity": "word"});
    let mut body =
        json!({"model": "poet", "prompt": "abc de", "max_tokens": 5, "temperature": 0, "explain": explain});
    let whole = house.client.post("/v1/completions", &body).await.json();
    let e = &whole["explanation"];
    assert_eq!(
        (&e["output"]["quantity"], &e["baseline"]["type"]),
        (&json!("logprob"), &json!("drop")),
        "{e}"
    );
    assert_eq!(e["target"]["text"], whole["choices"][0]["text"]);
    assert_eq!(e["attributions"].as_array().unwrap().len(), 2);
    body["stream"] = json!(true);
    let mut events = house.client.post("/v1/completions", &body).await.events();
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    let last: Value = serde_json::from_str(&events.pop().unwrap()).unwrap();
    assert_eq!(last["explanation"]["attributions"], e["attributions"]);
    assert!(events.iter().all(|event| !event.contains("\"explanation\"")));
    let several = merged(body, json!({"n": 2}));
    assert_eq!(house.client.post("/v1/completions", &several).await.refused(400).0, "explain");

    // The log-probability of the completion is that of the completions' own report.
    let scoring =
        json!({"model": "poet", "prompt": "abc defg", "max_tokens": 0, "echo": true, "logprobs": 0});
    let scored = house.client.post("/v1/completions", &scoring).await.json();
    let list = scored["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap().clone();
    let want: f64 = list[6..].iter().map(|p| p.as_f64().unwrap()).sum();
    let body = json!({"model": "poet", "prompt": "abc de", "completion": "fg"});
    let e = house.client.post("/v1/explanations", &body).await.json();
    assert!((e["output"]["value"].as_f64().unwrap() - want).abs() < 1e-4, "{want} {}", e["output"]);
    let contrast = merged(body, json!({"target": {"text": "f", "not": "a"}}));
    let e = house.client.post("/v1/explanations", &contrast).await.json();
    assert_eq!((&e["target"]["char_end"], &e["target"]["contrast"]), (&json!(1), &json!("a")), "{e}");
}

#[tokio::test(flavor = "multi_thread")]
async fn others_are_served_between_the_passes_and_limits_are_kept() {
    let house = house().await;
    let long = json!({"model": "text", "input": "good work there", "method": "shapley_sampling",
        "granularity": "token", "n_permutations": 4300, "max_passes": 65536, "baseline": {"type": "zeros"}});
    let client = house.client.clone();
    let slow = tokio::spawn(async move { client.post("/v1/explanations", &long).await.status });
    tokio::time::sleep(Duration::from_millis(10)).await;
    let plain = json!({"model": "text", "input": "good", "questions": [{"type": "predicate", "instructions": "yes"}]});
    for _ in 0..20 {
        assert_eq!(house.client.post("/v1/decisions", &plain).await.status, 200);
    }
    assert!(!slow.is_finished(), "the explanation holds the device for one pass at a time");
    // A client that leaves stops the work: the service ends at once though thousands of passes were left.
    slow.abort();

    let body = json!({"model": "text", "input": "good work", "method": "integrated_gradients", "n_steps": 50,
        "max_passes": 20});
    let answer = house.client.post("/v1/explanations", &body).await;
    assert_eq!(answer.refused(400), ("max_passes".into(), "too_many_passes".into()));
    assert!(answer.text().contains("52"), "how many it would take: {}", answer.text());
    let body = json!({"model": "text", "input": "good work", "method": "shapley_sampling", "seed": 3});
    let one = house.client.post("/v1/explanations", &body).await.json();
    let two = house.client.post("/v1/explanations", &body).await.json();
    assert_eq!(one["attributions"], two["attributions"]);
    tokio::time::timeout(Duration::from_secs(20), house.stop()).await.unwrap().unwrap();
}
