//! The whole matrix of explanations over HTTP: method × model × stored form × route. Every cell is in the table below, either
//! with numbers that keep their rules or with a refusal that has its place and reason; a cell that comes out otherwise fails, and
//! so does `docs/explanations.md` where it says something else.

use crate::families::{FAMILIES, folder};
use crate::house::{House, by_hand};
use lyceum_kernels::stored::Stored;
use lyceum_service::language::import::{Import, import};
use lyceum_service::language::open::Layout;
use lyceum_types::control::Control;
use lyceum_types::ids::Project;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// Every name of a method on the wire.
const METHODS: [&str; 19] = [
    "leave_one_out",
    "contextcite",
    "gradient_x_input",
    "integrated_gradients",
    "relevance",
    "direct_logit_attribution",
    "feature_ablation",
    "saliency",
    "smooth_grad",
    "grad_cam",
    "conductance",
    "occlusion",
    "shapley",
    "shapley_sampling",
    "kernel_shap",
    "linear_shap",
    "tracin",
    "attention_weights",
    "attention_rollout",
];
const QUANTS: [(&str, Stored); 5] = [
    ("f32", Stored::F32),
    ("bf16", Stored::Bf16),
    ("q8_0", Stored::Q8_0),
    ("q4_0", Stored::Q4_0),
    ("q4_k", Stored::Q4K),
];
const ROUTES: [&str; 7] = [
    "explanations",
    "chat",
    "chat streamed",
    "completions",
    "completions streamed",
    "responses",
    "decisions",
];

/// What a cell must be.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cell {
    Works,
    Refused(u16),
}

/// The table: of language models that were imported, whatever their family, stored form and adapter.
fn expected(method: &str) -> Cell {
    match method {
        "leave_one_out"
        | "feature_ablation"
        | "contextcite"
        | "gradient_x_input"
        | "integrated_gradients"
        | "relevance"
        | "direct_logit_attribution" => Cell::Works,
        // Asked for alone, of models that a job here tuned.
        "tracin" => Cell::Refused(400),
        _ => Cell::Refused(501),
    }
}

fn options(method: &str) -> Value {
    let mut options = json!({"method": method, "granularity": "word"});
    match method {
        "integrated_gradients" => options["n_steps"] = 4.into(),
        "contextcite" => options["n_samples"] = 8.into(),
        "conductance" => options["layer"] = "layers.0".into(),
        _ => {}
    }
    options
}

/// A request of a route, and how its answer has the explanation.
fn body(model: &str, method: &str, route: &str) -> (&'static str, Value) {
    let messages = json!([{"role": "user", "content": "It is late."}]);
    let chat = json!({"model": model, "messages": messages, "max_tokens": 3, "temperature": 0, "ignore_eos": true,
        "logit_bias": {"257": -100}, "explain": options(method)});
    let completions = json!({"model": model, "prompt": "It is late.", "max_tokens": 3, "temperature": 0,
        "ignore_eos": true, "logit_bias": {"257": -100}, "explain": options(method)});
    let streamed = |mut body: Value| {
        body["stream"] = true.into();
        body
    };
    match route {
        "explanations" => {
            let mut body = options(method);
            body["model"] = model.into();
            body["messages"] = messages;
            body["completion"] = "No.".into();
            ("/v1/explanations", body)
        }
        "chat" => ("/v1/chat/completions", chat),
        "chat streamed" => ("/v1/chat/completions", streamed(chat)),
        "completions" => ("/v1/completions", completions),
        "completions streamed" => ("/v1/completions", streamed(completions)),
        "responses" => (
            "/v1/responses",
            json!({"model": model, "input": "It is late.", "max_output_tokens": 3, "temperature": 0, "store": false,
                "explain": options(method)}),
        ),
        _ => {
            let question = json!({"type": "choice", "instructions": "Is it?",
                "choices": [{"value": "a"}, {"value": "b"}]});
            (
                "/v1/decisions",
                json!({"model": model, "input": "It is late.", "questions": [question],
                "explain": options(method)}),
            )
        }
    }
}

/// One cell, asked and held to the table.
async fn check(house: &House, (model, method, route): (&str, &str, &str)) {
    let (path, asked) = body(model, method, route);
    let answer = house.client.post(path, &asked).await;
    let wanted = expected(method);
    let at = format!("{model} × {method} × {route}");
    if let Cell::Refused(status) = wanted {
        assert_eq!(answer.status, status, "{at}: {}", answer.text());
        let (param, code) = answer.refused(status);
        assert!(param.ends_with("method") && !code.is_empty(), "{at}: {}", answer.text());
        return;
    }
    assert_eq!(answer.status, 200, "{at}: {}", answer.text());
    let why = match route {
        "explanations" => answer.json(),
        "chat streamed" | "completions streamed" => {
            let events = answer.events();
            let last: Value = serde_json::from_str(&events[events.len() - 2]).unwrap();
            last["explanation"].clone()
        }
        _ => answer.json()["explanation"].clone(),
    };
    rules(&at, method, &why);
}

/// What every explanation keeps: numbers, something that counts, sums.
fn rules(at: &str, method: &str, why: &Value) {
    let parts: Vec<f64> = why["attributions"]
        .as_array()
        .unwrap_or_else(|| panic!("{at}: {why}"))
        .iter()
        .map(|part| part["value"].as_f64().unwrap())
        .collect();
    assert!(parts.iter().all(|value| value.is_finite()), "{at}: {why}");
    // A fit may find that nothing counts.
    let counts = method == "contextcite" || parts.iter().any(|value| *value != 0.0);
    assert!(!parts.is_empty() && counts, "{at}: {why}");
    let value = why["output"]["value"].as_f64().unwrap();
    let sum: f64 = parts.iter().sum();
    let base = why["output"]["base_value"].as_f64();
    let near = |a: f64, b: f64| (a - b).abs() < 1e-4 * a.abs().max(1.0);
    match method {
        "direct_logit_attribution" => assert!(near(value, sum), "{at}: {value} {sum}"),
        "relevance" => assert!(near(value, sum + base.unwrap()), "{at}: {value} {sum} {base:?}"),
        "integrated_gradients" => {
            let gap = why["checks"]["completeness_gap"].as_f64().unwrap();
            assert!(((value - sum - base.unwrap()).abs() - gap).abs() < 1e-9, "{at}: {gap}");
        }
        "leave_one_out" | "feature_ablation" => assert!(base.is_some() && value <= 0.0, "{at}: {value}"),
        _ => {}
    }
}

async fn bring(house: &House, dir: &Path, name: &str, quant: Stored) {
    let request = Import {
        path: dir.to_owned(),
        name: name.parse().unwrap(),
        source: "test".into(),
        layout: Layout { quant: Some(quant), context: None },
        licence: None,
    };
    import(house.service.store(), &Project::default_project(), request, &Control::new(), &by_hand())
        .await
        .unwrap();
}

/// Every family in f32 on every route with what works, and refusals of the rest; other stored forms at `/v1/explanations`.
#[tokio::test(flavor = "multi_thread")]
async fn every_method_of_every_family_and_stored_form_is_as_the_table_says() {
    let house = House::new().await;
    for family in FAMILIES {
        let dir = folder(house.dir.path(), family);
        for (quant, kind) in QUANTS {
            let model = format!("{family}-{}", quant.replace('_', "-"));
            bring(&house, &dir, &model, kind).await;
            for method in METHODS {
                check(&house, (&model, method, "explanations")).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_on_every_route_is_as_the_table_says() {
    let house = House::new().await;
    let mut models: Vec<String> = Vec::new();
    let dir = folder(house.dir.path(), "qwen3");
    for (quant, kind) in QUANTS {
        let model = format!("qwen3-{}", quant.replace('_', "-"));
        bring(&house, &dir, &model, kind).await;
        models.push(model);
    }
    crate::language::import_tiny(&house).await;
    let adapter = crate::adapters::peft(&house, "bot", 3);
    crate::adapters::bring(&house, "bot", "tiny", adapter).await.unwrap();
    models.push("bot".into());
    for model in &models {
        for method in METHODS {
            for route in ROUTES {
                check(&house, (model, method, route)).await;
            }
        }
    }
}

/// The table of the documentation is the one that the server tells of its own models, and of those that were imported.
#[tokio::test(flavor = "multi_thread")]
async fn the_documentation_has_the_table_that_the_server_tells() {
    let house = crate::explain::house().await;
    crate::language::import_tiny(&house).await;
    let adapter = crate::adapters::peft(&house, "bot", 3);
    crate::adapters::bring(&house, "bot", "tiny", adapter).await.unwrap();
    house.import_encoder("bert").await;
    let columns = [
        ("linear", "linear"),
        ("people", "mlp"),
        ("cnn", "cnn"),
        ("text", "texts (lstm)"),
        ("series", "series (gru)"),
        ("poet", "decoder"),
        ("tiny", "imported"),
        ("bot", "adapter"),
        ("bert", "encoder"),
    ];
    let mut told: BTreeMap<&str, BTreeMap<String, bool>> = BTreeMap::new();
    for (model, _) in columns {
        let path = format!("/v1/models/{model}/explanation_methods");
        let list = house.client.get(&path).await.json();
        let all = list["data"].as_array().unwrap_or_else(|| panic!("{list}"));
        let of = |m: &Value| (m["method"].as_str().unwrap().to_owned(), m["supported"] == true);
        assert!(all.iter().all(|m| m["supported"] == true || m["reason"].is_string()), "{list}");
        told.insert(model, all.iter().map(of).collect());
    }
    let mut table = String::from("| Method |");
    columns.iter().for_each(|(_, title)| write!(table, " {title} |").unwrap());
    table += "\n| --- |";
    columns.iter().for_each(|_| table += " --- |");
    for method in METHODS.iter().filter(|method| !method.starts_with("attention")) {
        write!(table, "\n| `{method}` |").unwrap();
        for (model, _) in columns {
            let works = told[model].get(*method).copied();
            // Leave one out is ablation with tokens left out; a list names it once.
            let other = if *method == "leave_one_out" { "feature_ablation" } else { "leave_one_out" };
            let is_one = ["leave_one_out", "feature_ablation"].contains(method);
            let works = works.or_else(|| told[model].get(other).copied().filter(|_| is_one));
            table += if works == Some(true) { " yes |" } else { " – |" };
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/explanations.md");
    let documented = std::fs::read_to_string(path).unwrap();
    assert!(
        documented.contains(&table),
        "docs/explanations.md has another table; this one is true:\n{table}"
    );
}
