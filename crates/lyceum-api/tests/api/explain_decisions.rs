//! Why a language model answers a question with one label and not with another: the numbers are those of asking the
//! question about the text without each part.

use crate::house::House;
use crate::language::house;
use serde_json::{Value, json};

const SENTENCES: [&str; 3] = ["The train was late. ", "Nobody told us why. ", "It was cold"];
const LABELS: [&str; 3] = ["trains", "weather", "food"];

fn asked(text: &str, explain: Option<Value>) -> Value {
    let choices: Vec<Value> = LABELS.iter().map(|label| json!({ "value": label })).collect();
    let question = json!({"type": "choice", "instructions": "What is it about?", "choices": choices});
    let mut body = json!({"model": "tiny", "input": text, "questions": [question]});
    if let Some(explain) = explain {
        body["explain"] = explain;
    }
    body
}

async fn decide(house: &House, body: &Value) -> Value {
    let answer = house.client.post("/v1/decisions", body).await;
    assert_eq!(answer.status, 200, "{body}: {}", answer.text());
    answer.json()
}

/// The logarithm of a label's share.
fn log(decision: &Value, label: &str) -> f64 {
    let all = decision["answers"][0]["probabilities"].as_array().unwrap();
    all.iter().find(|p| p["value"] == label).unwrap()["probability"].as_f64().unwrap().ln()
}

fn values(explanation: &Value) -> Vec<f64> {
    explanation["attributions"].as_array().unwrap().iter().map(|a| a["value"].as_f64().unwrap()).collect()
}

fn near(a: f64, b: f64, what: &str) {
    assert!((a - b).abs() < 1e-9, "{what}: {a} {b}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_is_worth_what_the_label_loses_without_it_and_a_contrast_what_it_loses_over_the_other() {
    let house = house().await;
    let text = SENTENCES.concat();
    let plain = decide(&house, &asked(&text, None)).await;
    let found = decide(&house, &asked(&text, Some(json!({"granularity": "sentence"})))).await;
    assert_eq!(found["answers"], plain["answers"], "an explained decision is the same decision");
    let label = plain["answers"][0]["choice"].as_str().unwrap().to_owned();
    let other = LABELS.into_iter().find(|other| *other != label).unwrap();
    let contrast =
        json!({"granularity": "sentence", "target": {"label": label, "not": other}, "max_passes": 100});
    let contrast = decide(&house, &asked(&text, Some(contrast))).await["explanation"].clone();
    let why = &found["explanation"];
    assert_eq!(
        (&why["method"], &why["target"]["label"], &why["output"]["quantity"]),
        (&json!("leave_one_out"), &json!(label), &json!("logprob")),
        "{why}"
    );
    assert_eq!(contrast["target"]["contrast"], other);
    near(why["output"]["value"].as_f64().unwrap(), log(&plain, &label), "the decision's own number");
    let margin = |decision: &Value| log(decision, &label) - log(decision, other);
    near(contrast["output"]["value"].as_f64().unwrap(), margin(&plain), "the contrast");
    let (values, contrasts) = (values(why), values(&contrast));
    for (i, sentence) in SENTENCES.iter().enumerate() {
        let without = decide(&house, &asked(&text.replacen(sentence, "", 1), None)).await;
        near(values[i], log(&plain, &label) - log(&without, &label), sentence);
        near(contrasts[i], margin(&plain) - margin(&without), sentence);
    }
    let empty = decide(&house, &asked("", None)).await;
    near(why["output"]["base_value"].as_f64().unwrap(), log(&empty, &label), "no text");
    assert!(values.iter().any(|value| value.abs() > 1e-6), "something matters: {values:?}");
    let spans: Vec<(u64, u64)> = why["attributions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| (a["char_start"].as_u64().unwrap(), a["char_end"].as_u64().unwrap()))
        .collect();
    assert_eq!(spans, [(0, 20), (20, 40), (40, 51)]);
    assert_eq!(why["usage"]["forward_passes"], 5 * 3, "whole, three parts, none: three labels each");
    assert_eq!(contrast["usage"]["forward_passes"], 5 * 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_explains_a_label_and_one_over_another() {
    let house = house().await;
    let text = SENTENCES.concat();
    for target in [json!(null), json!({"label": "food"}), json!({"label": "food", "not": "trains"})] {
        let with = |method: &str, more: Value| {
            let mut explain = json!({"method": method, "granularity": "sentence"});
            if !target.is_null() {
                explain["target"] = target.clone();
            }
            explain.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            asked(&text, Some(explain))
        };
        let of = async |method: &str, more: Value| {
            decide(&house, &with(method, more)).await["explanation"].clone()
        };
        let output = |why: &Value| why["output"]["value"].as_f64().unwrap();
        let left = of("leave_one_out", json!({})).await;
        let slopes = of("gradient_x_input", json!({})).await;
        let path = of("integrated_gradients", json!({"n_steps": 4})).await;
        for why in [&slopes, &path] {
            let off = (output(why) - output(&left)).abs();
            assert!(off < 1e-4, "{off} {target}: {why}");
            assert!(values(why).iter().any(|value| value.abs() > 1e-9), "{why}");
        }
        let base = path["output"]["base_value"].as_f64().unwrap();
        let gap = (output(&path) - base - values(&path).iter().sum::<f64>()).abs();
        near(gap, path["checks"]["completeness_gap"].as_f64().unwrap(), "the gap is told");
        let cited = of("contextcite", json!({"n_samples": 8})).await;
        assert_eq!(cited["output"]["quantity"], "log_odds");
        let is_contrast = target["not"].is_string();
        let odds = if is_contrast { output(&left) } else { output(&left) - (-output(&left).exp_m1()).ln() };
        near(output(&cited), odds, "log-odds");
        let relevance = of("relevance", json!({})).await;
        let sum =
            values(&relevance).iter().sum::<f64>() + relevance["output"]["base_value"].as_f64().unwrap();
        assert!((sum - output(&relevance)).abs() < 1e-4, "{relevance}");
        let logits = of("direct_logit_attribution", json!({})).await;
        assert!((values(&logits).iter().sum::<f64>() - output(&logits)).abs() < 1e-4, "{logits}");
        assert!((output(&logits) - output(&relevance)).abs() < 1e-4);
        // The probability moves as the logarithm does, times itself.
        if !is_contrast {
            let slopes_of_p = of("gradient_x_input", json!({"quantity": "probability"})).await;
            let p = output(&slopes_of_p);
            assert!((p.ln() - output(&left)).abs() < 1e-4, "{p}");
            for (of_p, of_log) in values(&slopes_of_p).iter().zip(values(&slopes)) {
                assert!((of_p - p * of_log).abs() < 1e-5, "{of_p} {of_log}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_several_questions_is_named_and_what_cannot_be_explained_is_refused_before_it_is_answered() {
    let house = house().await;
    let text = SENTENCES.concat();
    let predicate = json!({"type": "predicate", "instructions": "Is it about trains?"});
    let levels: Vec<Value> = ["bad", "fair", "good"].iter().map(|l| json!({ "label": l })).collect();
    let score = json!({"type": "score", "instructions": "How was it?", "levels": levels});
    let both = |explain: Value| json!({"model": "tiny", "input": text, "questions": [predicate, score], "explain": explain});
    let second = both(json!({"target": {"question": 1, "label": "good", "not": "bad"}}));
    let second = decide(&house, &second).await;
    let why = &second["explanation"];
    assert_eq!(
        (&why["target"]["question"], &why["target"]["label"], &why["target"]["contrast"]),
        (&json!(1), &json!("good"), &json!("bad"))
    );
    let shares = second["answers"][1]["probabilities"].as_array().unwrap();
    let log = |i: usize| shares[i]["probability"].as_f64().unwrap().ln();
    near(why["output"]["value"].as_f64().unwrap(), log(2) - log(0), "good over bad");
    let first = decide(&house, &both(json!({"target": {"question": 0}}))).await;
    let yes = first["answers"][0]["probability"].as_f64().unwrap().ln();
    near(first["explanation"]["output"]["value"].as_f64().unwrap(), yes, "what a predicate tells");
    assert_eq!(first["explanation"]["target"]["label"], "yes");
    for (explain, status, param) in [
        (json!({}), 400, "explain.target"),
        (json!({"target": {"question": 2}}), 400, "explain.target"),
        (json!({"target": {"question": 1, "label": "great"}}), 400, "target"),
        (json!({"target": {"question": 1, "label": "good", "not": "good"}}), 400, "target"),
        (json!({"target": {"question": 1, "text": "good"}}), 400, "target"),
        (json!({"target": {"question": 1}, "method": "saliency"}), 501, "method"),
        (json!({"target": {"question": 1}, "max_passes": 8}), 400, "max_passes"),
        (json!({"target": {"question": 1}, "evaluate": ["deletion_auc"]}), 501, "evaluate"),
    ] {
        let answer = house.client.post("/v1/decisions", &both(explain.clone())).await;
        assert_eq!(answer.status, status, "{explain}: {}", answer.text());
        assert_eq!(answer.json()["error"]["param"], param, "{explain}: {}", answer.text());
    }
    let nothing = json!({"model": "tiny", "input": "", "questions": [predicate], "explain": {}});
    assert_eq!(house.client.post("/v1/decisions", &nothing).await.refused(400).0, "input");
    let alone = json!({"model": "tiny", "prompt": "a", "completion": "b", "target": {"question": 0}});
    assert_eq!(house.client.post("/v1/explanations", &alone).await.refused(400).0, "target.question");
}

/// What is added to a model decides too, and is explained: both ways of asking give the same number.
#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_decides_by_its_own_weights() {
    let house = house().await;
    let adapter = crate::adapters::peft(&house, "bot", 3);
    crate::adapters::bring(&house, "bot", "tiny", adapter).await.unwrap();
    let text = SENTENCES.concat();
    let mut body = asked(&text, Some(json!({"granularity": "sentence", "target": {"label": "food"}})));
    let base = decide(&house, &body).await;
    body["model"] = "bot".into();
    let tuned = decide(&house, &body).await;
    assert!((log(&base, "food") - log(&tuned, "food")).abs() > 1e-6, "{base} {tuned}");
    for decision in [&base, &tuned] {
        let value = decision["explanation"]["output"]["value"].as_f64().unwrap();
        near(value, log(decision, "food"), "scored as decided");
    }
}
