//! `/v1/decisions` answered by the tiny language model: probabilities of its own, equal to those of the same tokens
//! asked for one by one.

use crate::house::House;
use crate::language::house;
use serde_json::{Value, json};

const TEXT: &str = "The train was an hour late, and nobody told us why. It was cold, and the coffee was too.";

fn question(kind: &str, instructions: &str, labels: &[&str]) -> Value {
    match kind {
        "predicate" => json!({"type": kind, "instructions": instructions}),
        "choice" => json!({"type": kind, "instructions": instructions,
            "choices": labels.iter().map(|l| json!({"value": l})).collect::<Vec<_>>()}),
        _ => json!({"type": kind, "instructions": instructions,
            "levels": labels.iter().map(|l| json!({"label": l})).collect::<Vec<_>>()}),
    }
}

async fn decide(house: &House, questions: &[Value]) -> Value {
    let body = json!({"model": "tiny", "input": TEXT, "questions": questions});
    let answer = house.client.post("/v1/decisions", &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn shares(answer: &Value) -> Vec<f64> {
    answer["probabilities"].as_array().unwrap().iter().map(|p| p["probability"].as_f64().unwrap()).collect()
}

async fn ids(house: &House, body: Value) -> Vec<u64> {
    let answer = house.client.post("/tokenize", &body).await.json();
    answer["tokens"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
}

/// The same probabilities by hand: the prompt and each label as one prompt, whose log-probabilities are added.
async fn by_hand(house: &House, instructions: &str, how: &str, labels: &[&str], end: &[u64]) -> Vec<f64> {
    let list: String = labels.iter().map(|label| format!("\n- {label}")).collect();
    let message = json!([{"role": "user", "content": format!("{TEXT}\n\n{instructions}\n\n{how}{list}")}]);
    let prompt =
        ids(house, json!({"model": "tiny", "messages": message, "add_generation_prompt": true})).await;
    let mut logs = Vec::new();
    for label in labels {
        let label = ids(house, json!({"model": "tiny", "prompt": label, "add_special_tokens": false})).await;
        let whole = [&prompt[..], &label[..], end].concat();
        let body = json!({"model": "tiny", "prompt": whole, "max_tokens": 1, "prompt_logprobs": 0, "temperature": 0});
        let answer = house.client.post("/v1/completions", &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let told = answer.json()["choices"][0]["prompt_logprobs"].as_array().unwrap().clone();
        let of = |i: usize| told[i][whole[i].to_string()]["logprob"].as_f64().unwrap();
        logs.push((prompt.len()..whole.len()).map(of).fold(0.0, |sum, log| sum + f64::from(log as f32)));
    }
    let highest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = logs.iter().map(|log| (log - highest).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / total).collect()
}

const ANY: &str = "Answer with exactly one of these, and nothing else:";
const LEVELS: &str =
    "Answer with exactly one of these levels, from the lowest to the highest, and nothing else:";

#[tokio::test(flavor = "multi_thread")]
async fn probabilities_are_those_of_the_labels_tokens_to_the_bit() {
    let house = house().await;
    let moods = ["the best", "good", "bad", "awful"];
    let levels = ["1", "2", "10"];
    let asked = [
        question("predicate", "Was the train on time?", &[]),
        question("choice", "How was it?", &moods),
        question("score", "How late was it?", &levels),
    ];
    let decision = decide(&house, &asked).await;
    let answers = decision["answers"].as_array().unwrap();
    let yes = by_hand(&house, "Was the train on time?", ANY, &["yes", "no"], &[]).await;
    assert_eq!(answers[0]["probability"].as_f64().unwrap().to_bits(), yes[0].to_bits());
    let found = shares(&answers[1]);
    assert_eq!(found, by_hand(&house, "How was it?", ANY, &moods, &[]).await);
    assert!((found.iter().sum::<f64>() - 1.0).abs() < 1e-12 && found.iter().all(|&p| p > 0.0));
    let best = (0..4).max_by(|&a, &b| found[a].total_cmp(&found[b])).unwrap();
    assert_eq!(
        (&answers[1]["choice"], answers[1]["confidence"].as_f64()),
        (&json!(moods[best]), Some(found[best]))
    );
    // `1` begins `10`, so every level is followed by the token that ends an answer: 257 of this vocabulary.
    let found = shares(&answers[2]);
    assert_eq!(found, by_hand(&house, "How late was it?", LEVELS, &levels, &[257]).await);
    let mean: f64 = found.iter().enumerate().map(|(value, p)| value as f64 * p).sum();
    assert_eq!(answers[2]["score"].as_f64(), Some(mean));
    assert_eq!(decision["model"], "tiny@1");
    let usage = &decision["usage"];
    assert!(usage["input_tokens"].as_u64().unwrap() > 3 * TEXT.len() as u64 / 2, "{usage}");
    assert_eq!(usage["output_tokens"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_is_the_same_alone_again_and_beside_others_and_its_text_is_read_once() {
    let house = house().await;
    let asked: Vec<Value> = (0..6)
        .map(|i| question("choice", &format!("Question {i}?"), &["red", "green", "blue"][..2 + i % 2]))
        .collect();
    let alone = decide(&house, &asked[..1]).await;
    assert_eq!(alone["usage"]["input_tokens_details"]["cached_tokens"], 0);
    let all = decide(&house, &asked).await;
    assert_eq!(all["answers"][0], alone["answers"][0]);
    assert!(
        all["usage"]["input_tokens_details"]["cached_tokens"].as_u64().unwrap() >= 6 * 64,
        "{}",
        all["usage"]
    );
    let chat = json!({"model": "tiny", "messages": [{"role": "user", "content": TEXT}], "max_tokens": 60});
    let (again, beside, _) = tokio::join!(
        decide(&house, &asked),
        decide(&house, &asked[3..]),
        house.client.post("/v1/chat/completions", &chat)
    );
    assert_eq!(again["answers"], all["answers"]);
    assert_eq!(beside["answers"].as_array().unwrap()[..], all["answers"].as_array().unwrap()[3..]);
    // A description is part of what the model reads.
    let mut told = asked[0].clone();
    told["choices"][0]["description"] = json!("like blood");
    assert_ne!(shares(&decide(&house, &[told]).await["answers"][0]), shares(&all["answers"][0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_language_model_cannot_answer_is_refused_by_name() {
    let house = house().await;
    let choice = |labels: &[&str]| question("choice", "which?", labels);
    let many: Vec<String> = (0..255).map(|i| format!("label {i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for (extra, status, param) in [
        (json!({"certify": {"sigma": 0.5}}), 422, "certify"),
        (json!({"ood": true}), 422, "ood"),
        (
            json!({"input": [{"role": "user", "content": [{"type": "input_json", "data": {"a": 1}}]}]}),
            422,
            "input",
        ),
        (json!({"input": [{"role": "system", "content": "a"}]}), 400, "input[0].role"),
        (json!({"input": "a".repeat(3000)}), 400, "input"),
        (json!({"questions": [choice(&["a", "a"])]}), 400, "questions[0].choices"),
        (json!({"questions": [choice(&["a", " b"])]}), 400, "questions[0].choices"),
        (json!({"questions": vec![choice(&many); 9]}), 400, "questions"),
        (json!({"questions": []}), 400, "questions"),
    ] {
        let mut body = json!({"model": "tiny", "input": TEXT, "questions": [choice(&["a", "b"])]});
        for (key, value) in extra.as_object().unwrap() {
            body[key] = value.clone();
        }
        let refused = house.client.post("/v1/decisions", &body).await;
        assert_eq!(refused.refused(status).0, param, "{extra}");
    }
}
