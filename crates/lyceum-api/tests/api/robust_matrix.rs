//! The whole matrix of robustness: every method on every family and kind of input answers with numbers, or with 400,
//! 422 or 501 and the reason.

use crate::house::{House, Kept, labels, text};
use crate::robustness::{finished, valid_logits};
use base64::Engine as _;
use lyceum_models::prepare::audio::LogMel;
use lyceum_models::prepare::series::{Fields, Series};
use lyceum_models::prepare::tabular::{CategoryMissing, Code, Column, Encoder, NumberMissing};
use lyceum_models::prepare::text::{Specials, Tokenizer};
use lyceum_models::prepare::vision::Pixels;
use lyceum_models::prepare::{InputPreparation, OutputPreparation, Preparation};
use lyceum_types::manifest::{FeatureSketch, SKETCH_QUANTILES};
use lyceum_types::spec::Unseen;
use serde_json::{Value, json};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Table,
    Image,
    Series,
    Sound,
    Text,
    Pair,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Answers {
    Labels,
    Numbers,
    Steps,
    Tokens,
}

struct Subject {
    name: String,
    kind: Kind,
    answers: Answers,
    family: &'static str,
}

const FAMILIES: [(&str, &str); 8] = [
    ("linear", "family = \"mlp\"\nhidden = []"),
    ("mlp", "family = \"mlp\"\nhidden = [4]"),
    ("cnn", "family = \"cnn\"\nconv = [{ channels = 2, kernel = 3, padding = 1 }]"),
    ("rnn", "family = \"rnn\"\nhead = \"last\"\nhidden_size = 3"),
    ("lstm", "family = \"lstm\"\nhead = \"last\"\nhidden_size = 3"),
    ("gru", "family = \"gru\"\nhead = \"last\"\nhidden_size = 3\nbidirectional = true"),
    (
        "encoder",
        "family = \"transformer\"\nvariant = \"encoder\"\nd_model = 4\nnhead = 2\nnum_layers = 1\n\
         dim_feedforward = 4\ncontext = 16",
    ),
    (
        "decoder",
        "family = \"transformer\"\nvariant = \"decoder\"\nd_model = 4\nnhead = 2\nnum_layers = 1\n\
         dim_feedforward = 4\ncontext = 16",
    ),
];

/// Each method of a run, a per-request promise, or drift.
fn methods() -> Vec<(&'static str, Value)> {
    let at = |kind: &str, norm: &str, eps: f64| json!({"type": kind, "norm": norm, "eps": eps});
    let with = |mut item: Value, extra: Value| {
        item.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        item
    };
    let few = json!({"steps": 2, "restarts": 1});
    vec![
        ("fgsm", at("fgsm", "linf", 0.1)),
        ("fgsm l2", at("fgsm", "l2", 0.1)),
        ("pgd", with(at("pgd", "linf", 0.1), few.clone())),
        ("pgd l2", with(at("pgd", "l2", 0.1), few.clone())),
        ("apgd-ce", with(at("apgd-ce", "linf", 0.1), few.clone())),
        ("apgd-t", with(at("apgd-t", "linf", 0.1), few.clone())),
        ("fab-t", with(at("fab-t", "linf", 0.1), few)),
        ("square", with(at("square", "linf", 0.1), json!({"queries": 2}))),
        ("square l2", with(at("square", "l2", 0.1), json!({"queries": 2}))),
        ("certificate", at("certificate", "linf", 0.01)),
        ("certificate l2", at("certificate", "l2", 0.01)),
        ("smoothing", json!({"type": "smoothing", "sigma": 0.1, "n": 20, "alpha": 0.05})),
        ("corruptions", json!({"type": "corruptions", "severities": [3]})),
        ("text", json!({"type": "text", "severities": [3]})),
        ("tabular", json!({"type": "tabular", "severities": [3]})),
        ("audio", json!({"type": "audio", "severities": [3]})),
        ("environments", json!({"type": "environments", "matrix": ["batch:1", "portable"]})),
        ("quantised", json!({"type": "environments", "matrix": ["q8_0"]})),
        ("calibration", json!({"type": "calibration"})),
    ]
}

/// Whether a run of this method has numbers for the subject: written from the documentation, not from the code.
fn has_numbers(method: &str, s: &Subject) -> bool {
    let moves = !matches!(s.kind, Kind::Text | Kind::Pair);
    let chain = matches!(s.family, "linear" | "mlp" | "cnn");
    s.answers == Answers::Labels
        && match method {
            "quantised" => false,
            // The loss needs four classes; these have two.
            "apgd-t" => false,
            "square l2" => matches!(s.kind, Kind::Image | Kind::Sound),
            "certificate" => moves && chain,
            "certificate l2" => moves && s.family == "linear",
            "corruptions" => s.kind == Kind::Image,
            "text" => s.kind == Kind::Text,
            "tabular" => s.kind == Kind::Table,
            "audio" => s.kind == Kind::Sound,
            "calibration" => true,
            _ => moves,
        }
}

fn input(kind: Kind) -> InputPreparation {
    let column = |name: &str, code| Column { name: name.into(), code };
    match kind {
        Kind::Table => InputPreparation::Tabular(Encoder {
            columns: vec![
                column("age", Code::Number { mean: 0.5, std: 0.3, missing: NumberMissing::Indicator(0.5) }),
                column(
                    "city",
                    Code::Category {
                        values: vec!["bonn".into(), "rom".into()],
                        unseen: Unseen::Other,
                        missing: CategoryMissing::Error,
                    },
                ),
            ],
        }),
        Kind::Image => InputPreparation::Image(Pixels {
            shape: [1, 6, 6],
            scale: 1.0,
            file_scale: 255.0,
            mean: vec![],
            std: vec![],
        }),
        Kind::Series => InputPreparation::Series(Series {
            steps: 4,
            fields: Fields::Channels(vec!["a".into(), "b".into()]),
            mean: vec![0.0, 1.0],
            std: vec![1.0, 2.0],
        }),
        Kind::Sound => InputPreparation::Audio(LogMel::new(8000, 6, (8.0, 8.0), 0.064, false).unwrap()),
        Kind::Text => text(OutputPreparation::Tokens).input,
        Kind::Pair => InputPreparation::Pair {
            tokenizer: Tokenizer::chars(
                ["0123456789+"],
                Specials { bos: true, eos: true, ..Specials::default() },
            ),
            max_source: 8,
            max_target: 8,
        },
    }
}

fn output(answers: Answers) -> OutputPreparation {
    let names = vec!["no".to_owned(), "yes".to_owned()];
    match answers {
        Answers::Labels => labels(&["no", "yes"]),
        Answers::Numbers => {
            OutputPreparation::Values { names: vec!["y".into()], mean: vec![0.0], std: vec![1.0] }
        }
        Answers::Steps => OutputPreparation::StepLabels { names },
        Answers::Tokens => OutputPreparation::Tokens,
    }
}

/// A wav file of 512 samples: 16-bit, mono, 8 kHz.
fn wav(pitch: f64) -> String {
    let samples: Vec<u8> =
        (0..512).flat_map(|i| (((f64::from(i) * pitch).sin() * 9000.0) as i16).to_le_bytes()).collect();
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((36 + samples.len() as u32).to_le_bytes());
    bytes.extend(b"WAVEfmt ");
    bytes.extend(16u32.to_le_bytes());
    bytes.extend([1u16, 1].into_iter().flat_map(u16::to_le_bytes));
    bytes.extend([8000u32, 16_000].into_iter().flat_map(u32::to_le_bytes));
    bytes.extend([2u16, 16].into_iter().flat_map(u16::to_le_bytes));
    bytes.extend(b"data");
    bytes.extend((samples.len() as u32).to_le_bytes());
    bytes.extend(samples);
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn rows(kind: Kind) -> Value {
    match kind {
        Kind::Table => json!([{"age": 0.2, "city": "rom"}, {"age": null, "city": "bonn"}]),
        Kind::Image => {
            let row = |k: f64| (0..36).map(|i| (f64::from(i) * k).sin().abs()).collect::<Vec<_>>();
            json!([row(0.7), row(0.3)])
        }
        Kind::Series => {
            json!([{"a": [1, 2, 3, 4], "b": [2, 1, 0, 5]}, {"a": [0, 0, 1, 1], "b": [1, 1, 1, 0]}])
        }
        Kind::Sound => json!([{"b64": wav(0.3)}, {"b64": wav(0.9)}]),
        Kind::Text => json!(["good work", "some words"]),
        Kind::Pair => json!(["12+3", "4+5"]),
    }
}

/// Every family with every input and answer that a model of it can have.
async fn subjects(house: &House) -> Vec<Subject> {
    let sketch = |name: &str, quantiles: &[f64], counts: &[(&str, u64)]| FeatureSketch {
        name: name.into(),
        n: 20,
        n_missing: 1,
        mean: (!quantiles.is_empty()).then_some(0.5),
        std: (!quantiles.is_empty()).then_some(0.3),
        min: quantiles.first().copied(),
        max: quantiles.last().copied(),
        quantiles: quantiles.to_vec(),
        counts: counts.iter().map(|(value, n)| ((*value).to_owned(), *n)).collect(),
    };
    let mut all = Vec::new();
    for kind in [Kind::Table, Kind::Image, Kind::Series, Kind::Sound, Kind::Text] {
        for (family, model) in FAMILIES {
            for answers in [Answers::Labels, Answers::Numbers] {
                let fits = matches!(
                    (kind, family),
                    (Kind::Table, "linear" | "mlp")
                        | (Kind::Image | Kind::Sound, "linear" | "mlp" | "cnn")
                        | (Kind::Series, "linear" | "mlp" | "rnn" | "lstm" | "gru")
                        | (Kind::Text, "rnn" | "lstm" | "gru" | "encoder")
                );
                // One family is enough to see that numbers are refused.
                if !fits || (answers == Answers::Numbers && !matches!(family, "linear" | "lstm")) {
                    continue;
                }
                let embedded = matches!(family, "rnn" | "lstm" | "gru") && kind == Kind::Text;
                let model = format!("{model}{}", if embedded { "\nembedding_dim = 3" } else { "" });
                let name = format!("{kind:?}-{family}-{answers:?}").to_lowercase();
                let task = if answers == Answers::Labels { "classification" } else { "regression" };
                let features = match kind {
                    Kind::Table => vec![
                        sketch("age", &SKETCH_QUANTILES, &[]),
                        sketch("city", &[], &[("bonn", 15), ("rom", 5)]),
                    ],
                    _ => vec![],
                };
                let valid_logits = (answers == Answers::Labels).then(valid_logits);
                let preparation = Preparation { input: input(kind), output: output(answers) };
                house.publish_with(&name, task, &model, preparation, Kept { valid_logits, features }).await;
                all.push(Subject { name, kind, answers, family });
            }
        }
    }
    let steps = Preparation { input: input(Kind::Series), output: output(Answers::Steps) };
    let step = "family = \"gru\"\nhead = \"step\"\nhidden_size = 3";
    house.publish("steps", "classification", step, steps).await;
    all.push(Subject { name: "steps".into(), kind: Kind::Series, answers: Answers::Steps, family: "gru" });
    house.publish_poet("poet").await;
    all.push(Subject { name: "poet".into(), kind: Kind::Text, answers: Answers::Tokens, family: "decoder" });
    let next = "family = \"lstm\"\nhead = \"next\"\nhidden_size = 3\nembedding_dim = 3";
    house.publish("writer", "language_modeling", next, text(OutputPreparation::Tokens)).await;
    all.push(Subject { name: "writer".into(), kind: Kind::Text, answers: Answers::Tokens, family: "lstm" });
    let pair = "family = \"transformer\"\nvariant = \"encoder_decoder\"\nd_model = 4\nnhead = 2\nnum_layers = 1\n\
                dim_feedforward = 4\ncontext = 8";
    let preparation = Preparation { input: input(Kind::Pair), output: OutputPreparation::Tokens };
    house.publish("sums", "sequence_to_sequence", pair, preparation).await;
    all.push(Subject { name: "sums".into(), kind: Kind::Pair, answers: Answers::Tokens, family: "encoder" });
    all
}

/// A refusal has a status of the three, the place, a code and a reason.
fn refused(answer: &crate::client::Answer, what: &str) {
    assert!(matches!(answer.status, 400 | 422 | 501), "{what}: {}", answer.text());
    let (param, code) = answer.refused(answer.status);
    assert!(!param.is_empty() && !code.is_empty(), "{what}: {}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_run_of_every_method_on_every_model_has_numbers_or_the_reason() {
    let house = House::new().await;
    let (mut n_found, mut n_refused) = (0, 0);
    for subject in subjects(&house).await {
        let mut allowed = Vec::new();
        for (method, item) in methods() {
            let what = format!("{method} of {}", subject.name);
            let body = json!({"model": subject.name, "instances": rows(subject.kind), "labels": ["no", "yes"],
                "suite": [item.clone()]});
            let answer = house.client.post("/v1/robustness/runs", &body).await;
            assert_eq!(answer.status == 200, has_numbers(method, &subject), "{what}: {}", answer.text());
            if answer.status == 200 {
                let id = answer.json()["id"].as_str().unwrap().to_owned();
                // What was let in is carried out below, all in one run.
                house.client.post(&format!("/v1/robustness/runs/{id}/cancel"), &json!({})).await;
                allowed.push((method, item));
            } else {
                refused(&answer, &what);
                n_refused += 1;
            }
        }
        if allowed.is_empty() {
            continue;
        }
        let suite: Vec<&Value> = allowed.iter().map(|(_, item)| item).collect();
        let body = json!({"model": subject.name, "instances": rows(subject.kind), "labels": ["no", "yes"],
            "suite": suite});
        let run = finished(&house, &house.client.post("/v1/robustness/runs", &body).await.json()).await;
        assert_eq!(run["status"], "completed", "{}: {run}", subject.name);
        let results = run["results"].as_array().unwrap();
        // One number an item at least, and the clean accuracy before them.
        assert!(results.len() > allowed.len(), "{}: {run}", subject.name);
        for result in results {
            let value = result["value"].as_f64().unwrap();
            assert!(value.is_finite() && result["n"].as_u64().unwrap() > 0, "{result}");
            let share = result["metric"] != "temperature";
            assert!(!share || (0.0..=1.0).contains(&value), "{result}");
        }
        n_found += allowed.len();
    }
    assert!(n_found > 150 && n_refused > 200, "{n_found} have numbers, {n_refused} are refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_promise_of_every_model_is_kept_or_refused_with_the_reason() {
    let house = House::new().await;
    let promises = [
        ("certify", json!({"sigma": 0.1, "n": 20, "alpha": 0.05})),
        ("prediction_set", json!({"alpha": 0.2})),
        ("prediction_set", json!({"alpha": 0.2, "score": "aps"})),
        ("ood", json!(true)),
    ];
    for subject in subjects(&house).await {
        let classifies = subject.answers == Answers::Labels;
        let moves = !matches!(subject.kind, Kind::Text | Kind::Pair);
        for (field, asked) in &promises {
            let mut body = json!({"instances": rows(subject.kind)});
            body[field] = asked.clone();
            let answer = house.client.post(&format!("/v1/models/{}:predict", subject.name), &body).await;
            let expected = match *field {
                "certify" => classifies && moves,
                // A table's sketches say how strange a row is, whatever the model answers.
                "ood" => classifies || subject.kind == Kind::Table,
                _ => classifies,
            };
            let expected = expected && subject.answers != Answers::Tokens;
            let what = format!("{field} of {}: {}", subject.name, answer.text());
            assert_eq!(answer.status == 200, expected, "{what}");
            if expected {
                let found = match *field {
                    "certify" => "certificates",
                    "ood" => "ood",
                    _ => "prediction_sets",
                };
                assert_eq!(answer.json()[found].as_array().map(Vec::len), Some(2), "{what}");
            } else {
                refused(&answer, &what);
            }
        }
        let drift = house.client.get(&format!("/v1/models/{}/drift", subject.name)).await;
        match subject.kind {
            Kind::Table => assert!(drift.json()["features"].is_array(), "{}", drift.text()),
            _ => refused(&drift, &format!("drift of {}", subject.name)),
        }
    }
}
