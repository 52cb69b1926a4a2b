//! The whole matrix of explanations over HTTP: method × model × stored form × route. Every cell is in the table below, either
//! with numbers that keep their rules or with a refusal that has its place and reason; a cell that comes out otherwise fails, and
//! so does `docs/explanations.md` where it says something else.

use crate::families::{FAMILIES, folder};
use crate::forms::gguf_of;
use crate::house::{House, by_hand};
use lyceum_kernels::stored::Stored;
use lyceum_service::language::import::{Import, ImportError, Imported, import};
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
/// What weights can be made to be when they are brought; the other forms are those of files.
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
#[derive(Clone, Debug, PartialEq)]
enum Cell {
    Works,
    Refused { status: u16, code: &'static str, message: String },
}

/// The table: of language models that were imported, whatever their family, stored form and adapter.
fn expected(model: &str, method: &str, route: &str) -> Cell {
    match method {
        "leave_one_out"
        | "feature_ablation"
        | "contextcite"
        | "gradient_x_input"
        | "integrated_gradients"
        | "relevance"
        | "direct_logit_attribution" => Cell::Works,
        // Asked for alone, of models that a job here tuned.
        "tracin" => {
            let message = match route {
                "explanations" => format!(
                    "method: {model}@1 was not fine-tuned here: there is no job that kept checkpoints"
                ),
                _ => "explain.method: row influence is asked for alone, at POST /v1/explanations".into(),
            };
            Cell::Refused { status: 400, code: "unsupported_method", message }
        }
        _ => Cell::Refused {
            status: 501,
            code: "not_implemented",
            message: "method: language models that were imported are not explained by this method in this version: \
                see GET /v1/models/{model}/explanation_methods"
                .into(),
        },
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
    let at = format!("{model} × {method} × {route}");
    if let Cell::Refused { status, code, message } = expected(model, method, route) {
        assert_eq!(answer.status, status, "{at}: {}", answer.text());
        let param = message.split(':').next().unwrap().to_owned();
        assert_eq!(answer.refused(status), (param, code.to_owned()), "{at}");
        assert_eq!(answer.json()["error"]["message"], message.as_str(), "{at}");
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

async fn bring(
    house: &House,
    path: &Path,
    name: &str,
    quant: Option<Stored>,
) -> Result<Imported, ImportError> {
    let request = Import {
        path: path.to_owned(),
        name: name.parse().unwrap(),
        source: "test".into(),
        layout: Layout { quant, context: None },
        licence: None,
    };
    import(house.service.store(), &Project::default_project(), request, &Control::new(), &by_hand()).await
}

/// Every family in f32 on every route with what works, and refusals of the rest; other stored forms at `/v1/explanations`.
#[tokio::test(flavor = "multi_thread")]
async fn every_method_of_every_family_and_stored_form_is_as_the_table_says() {
    let house = House::new().await;
    for family in FAMILIES {
        let dir = folder(house.dir.path(), family);
        for (quant, kind) in QUANTS {
            let model = format!("{family}-{}", quant.replace('_', "-"));
            bring(&house, &dir, &model, Some(kind)).await.unwrap();
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
        bring(&house, &dir, &model, Some(kind)).await.unwrap();
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

/// Forms that weights only come in: a file of each family in each, held as it is.
#[tokio::test(flavor = "multi_thread")]
async fn every_method_of_every_form_that_a_file_may_have_is_as_the_table_says() {
    let house = House::new().await;
    for family in FAMILIES {
        let dir = folder(house.dir.path(), family);
        for kind in Stored::ALL.into_iter().filter(|kind| QUANTS.iter().all(|(_, made)| made != kind)) {
            let file = gguf_of(&dir, kind);
            held_as(&file, kind);
            let model = format!("{family}-{}", kind.name().replace('_', "-"));
            bring(&house, &file, &model, None).await.unwrap();
            for method in METHODS {
                check(&house, (&model, method, "explanations")).await;
            }
        }
    }
}

/// The matrices of a file are served in the form that they have there.
fn held_as(file: &Path, kind: Stored) {
    let opened = lyceum_service::language::open::gguf(file, Layout::default(), &Control::new()).unwrap();
    let params = &opened.model.params;
    let kinds: Vec<Stored> = params.ids().filter_map(|id| params.stored(id)).map(|w| w.kind()).collect();
    assert!(kinds.len() > 14 && kinds.iter().all(|found| *found == kind), "{}: {kinds:?}", file.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_of_an_adapter_over_every_form_is_as_the_table_says() {
    let house = House::new().await;
    let dir = folder(house.dir.path(), "qwen3");
    for kind in Stored::ALL {
        let [base, bot] = ["base", "bot"].map(|name| format!("{name}-{}", kind.name().replace('_', "-")));
        bring(&house, &gguf_of(&dir, kind), &base, None).await.unwrap();
        let adapter = crate::adapters::peft_of(&house, &bot, 3, [256, 128, 256]);
        crate::adapters::bring(&house, &bot, &base, adapter).await.unwrap();
        for method in METHODS {
            check(&house, (&bot, method, "explanations")).await;
        }
    }
}

/// Forms that nothing makes are refused where they are asked for, and where a file has another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_form_that_cannot_be_made_is_refused_by_name() {
    let house = House::new().await;
    let dir = folder(house.dir.path(), "llama");
    let file = gguf_of(&dir, Stored::Q4_1);
    for kind in Stored::ALL.into_iter().filter(|kind| QUANTS.iter().all(|(_, made)| made != kind)) {
        let body = json!({"name": "m", "files": [], "quant": kind.name()});
        let answer = house.client.post("/v1/models", &body).await;
        assert_eq!(answer.refused(400), ("quant".into(), "invalid_value".into()));
        let why = format!("quant: there are {}", QUANTS.map(|(name, _)| name).join(", "));
        assert_eq!(answer.json()["error"]["message"], why.as_str(), "{}", kind.name());
        // Whoever calls the library can ask for what HTTP and the command line do not offer.
        for path in [&dir, &file] {
            let (found, same) =
                (bring(&house, path, "m", Some(kind)).await, *path == file && kind == Stored::Q4_1);
            if same || kind == Stored::F16 {
                found.unwrap();
                continue;
            }
            let why = format!(
                "quantisation: quantise: no quantiser to {}; there are f32, f16, bf16, q8_0, q4_0, q4_k",
                kind.name()
            );
            assert_eq!(found.err().unwrap().to_string(), why);
        }
    }
}
